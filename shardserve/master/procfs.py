"""What the kernel knows of a worker: its memory, and what each of its threads did.

Rules of this file: it reads /proc under a root that a test can replace, and judges nothing. A process
or a thread may be gone at any moment, and a kernel or sandbox may lack a file: the answer is then None
or without that thread, never a failure.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BYTES_PER_PAGE = os.sysconf("SC_PAGE_SIZE")
_READ_BYTES = 4096  # none of these files is longer: a line of numbers, with a name of 15 bytes


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """One thread at one moment. Times and counts are since its start."""

    tid: int
    comm: str  # its name, of the kernel's 15 bytes
    state: str  # R runs or could, S sleeps, D sleeps in a device, T stopped, t traced, Z dead
    cpu_s: float
    run_delay_s: float = 0.0  # could run and had no CPU, up to when it last got one
    runs: int | None = None  # how often it got a CPU; None: this kernel does not count


def rss_bytes(pid: int, root: Path = PROC) -> int | None:
    """Resident memory, shared pages included."""
    try:
        return int(_read(root / str(pid) / "statm").split()[1]) * _BYTES_PER_PAGE
    except (OSError, ValueError, IndexError):
        return None


def cpu_s(pid: int, root: Path = PROC) -> float | None:
    """Time on a CPU since its start, user's and kernel's, of all its threads, those that are gone too."""
    try:
        return _stat(root / str(pid))[1]
    except (OSError, ValueError, IndexError):
        return None


def threads(pid: int, root: Path = PROC) -> list[ThreadTimes]:
    """Every thread of the process, the main thread (``tid == pid``) among them."""
    tasks = root / str(pid) / "task"
    try:
        tids = [int(name) for name in os.listdir(tasks) if name.isdecimal()]
    except OSError:
        return []
    found = (_thread(tasks / str(tid), tid) for tid in sorted(tids))
    return [one for one in found if one is not None]


def _thread(folder: Path, tid: int) -> ThreadTimes | None:
    try:
        comm, cpu, state = _stat(folder)
    except (OSError, ValueError, IndexError):
        return None
    try:
        _, delay_ns, runs = map(int, _read(folder / "schedstat").split())
    except (OSError, ValueError):
        return ThreadTimes(tid, comm, state, cpu)
    return ThreadTimes(tid, comm, state, cpu, delay_ns / 1e9, runs)


def _stat(folder: Path) -> tuple[str, float, str]:
    """Its name, its CPU time and its state. Raises OSError, ValueError, IndexError."""
    # "TID (COMM) STATE …": a name may hold spaces and parentheses, so the last one ends it.
    head, _, tail = _read(folder / "stat").rpartition(")")
    fields = tail.split()
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    comm = "".join(c if c.isprintable() else "?" for c in head.partition("(")[2])
    return comm, cpu, fields[0]


def _read(file: Path) -> str:
    # Not read_bytes(), which takes half as long again: this is done twice a second for every worker.
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _READ_BYTES).decode(errors="replace")
    finally:
        os.close(fd)
