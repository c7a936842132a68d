"""Which cores there are for us, how many workers that makes, and which worker gets which core.

Rules of this file: it reads /proc and /sys under roots that a test can replace, and pins through
psutil. A file that is missing or odd means "no limit known", never a failure. No policy on spawning.

- Usable cores are those the scheduler lets us run on (cpuset, taskset), not those of the machine.
- A cgroup CPU quota caps the number of workers: ``ceil(quota)``. More workers than that are only
  throttled by turns.
- Order: one thread of each physical core first, the SMT siblings after them, since two workers on
  one physical core share its execution units.
- With fewer workers than cores we do not start at core 0: every other server on this machine that
  pins does that, in each container that has a quota but no cpuset of its own. The start is a hash
  of ``seed`` (host name and addresses), the same at each start of the same service. A run of n
  neighbours in the order is on n different physical cores, wherever it starts.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

log = logging.getLogger("shardserve.master")


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel's files are; tests point these at a tree of their own."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


@dataclass(frozen=True, slots=True)
class Cores:
    """The usable cores in the order in which slots get them, and the CPU quota in cores, if any."""

    order: tuple[int, ...]
    quota: float | None = None

    @property
    def workers(self) -> int:
        """The default number of workers."""
        if self.quota is None:
            return len(self.order)
        return max(1, min(len(self.order), math.ceil(self.quota)))

    def of_slot(self, slot: int) -> int:
        """The slot's core. More slots than cores wrap round."""
        return self.order[slot % len(self.order)]

    def spread(self, workers: int, seed: str) -> Cores:
        """The same cores, turned so that ``workers`` fewer than cores do not all start at the first."""
        if workers >= len(self.order):
            return self
        start = zlib.crc32(seed.encode()) % len(self.order)
        return Cores(self.order[start:] + self.order[:start], self.quota)


def usable(allowed: list[int] | None = None, roots: Roots | None = None) -> Cores:
    """The cores this process may use. ``allowed``: its affinity, asked of the kernel when None."""
    roots = roots or Roots()
    if allowed is None:
        allowed = psutil.Process().cpu_affinity()
    return Cores(_smt_order(sorted(allowed), roots), _quota(roots))


def pin(pid: int, core: int) -> None:
    """Bind the process to one core. A process that is gone is left to its reaper; refusal is logged."""
    try:
        psutil.Process(pid).cpu_affinity([core])
    except psutil.NoSuchProcess:
        return
    except (psutil.Error, OSError, ValueError) as error:
        log.warning("worker pid %d runs unpinned: core %d is refused: %s", pid, core, error)


def _smt_order(allowed: list[int], roots: Roots) -> tuple[int, ...]:
    """First threads of each physical core, then second threads, and so on; by number within each."""
    nth_of_core: dict[frozenset[int], int] = {}
    ranked: list[tuple[int, int]] = []
    for core in allowed:
        file = roots.sys / f"devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        siblings = _parse_list(_read(file)) or frozenset({core})
        nth = nth_of_core.get(siblings, 0)
        nth_of_core[siblings] = nth + 1
        ranked.append((nth, core))
    return tuple(core for _, core in sorted(ranked))


def _parse_list(text: str) -> frozenset[int]:
    """The kernel's list format: ``0,4`` or ``0-1``."""
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return frozenset()
    return frozenset(cores)


def _quota(roots: Roots) -> float | None:
    """The tightest CPU quota on the way up from our cgroup, in cores; of v2 and v1 alike."""
    found: list[float] = []
    for line in _read(roots.proc / "self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # v2: "0::/path"; beside v1 it is mounted at unified/
            for mount in ("fs/cgroup", "fs/cgroup/unified"):
                found += (q for d in _upwards(roots.sys / mount, path) if (q := _quota_v2(d)) is not None)
        elif "cpu" in controllers.split(","):
            for mount in (f"fs/cgroup/{controllers}", "fs/cgroup/cpu"):
                found += (q for d in _upwards(roots.sys / mount, path) if (q := _quota_v1(d)) is not None)
    return min(found, default=None)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The cgroup's folder and its parents up to the mount.

    In a container the path can be the host's, absent below this mount, or start with ``..`` (the
    process is outside its cgroup namespace): the parents that do exist still hold our limits.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _quota_v2(folder: Path) -> float | None:
    """``cpu.max`` is "quota period" or "max period"."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(folder: Path) -> float | None:
    """``cpu.cfs_quota_us`` is -1 for no limit."""
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        quota_us, period_us = int(quota), int(period)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
