"""Facts about the machine and the tree that a result means nothing without.

Rules of this file: read only, from /proc, /sys and git; a fact that cannot be read is left out rather
than guessed. No host names, user names or paths: result files are published.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from pathlib import Path
from typing import Any

from perf.peer_env import ROOT

_SYSCTLS = (
    "net/core/somaxconn",
    "net/core/busy_poll",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/tcp_tw_reuse",
    "kernel/sched_autogroup_enabled",
    "kernel/numa_balancing",
)


def facts() -> dict[str, Any]:
    """What to store with a result."""
    found: dict[str, Any] = {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "cpus_online": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "libc": " ".join(platform.libc_ver()),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "commit": commit(),
        "sysctl": {name.replace("/", "."): value for name in _SYSCTLS if (value := _sysctl(name))},
    }
    governor = _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    return found | ({"governor": governor} if governor else {})


def cpu_model(cpuinfo: str) -> str:
    """The model name in the text of /proc/cpuinfo; it has none on some architectures."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def commit() -> str:
    """The commit measured, with ``+dirty`` when the tree differs from it."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    return head + ("+dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


def share_a_core(first: int, second: int) -> bool:
    """Whether two CPUs are threads of one physical core, and so slow each other down."""
    siblings = _read(Path(f"/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list"))
    return second in _cpu_list(siblings)


def _cpu_list(text: str) -> set[int]:
    """``0-1,4`` as numbers."""
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        cpus.update(range(int(low), int(high or low) + 1))
    return cpus


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _sysctl(name: str) -> str:
    return _read(Path("/proc/sys") / name)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
