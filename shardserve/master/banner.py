"""What the master says when it starts, and what it finds to warn of in this machine.

Rules of this file: text, and the facts that go into it. Package versions are read from metadata,
because the master must not import uvloop. Raising the descriptor limit is the one thing it does.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Sequence
from importlib import metadata

from .._version import __version__
from .affinity import Cores

# Fewer descriptors than this are soon used up by keep-alive connections (nginx's own docs start here).
LOW_DESCRIPTORS = 4096
# Some programs loop over all possible descriptors, and hard limits of 2**30 exist.
MOST_DESCRIPTORS = 1 << 20


def lines(urls: Sequence[str], workers: int, cores: Cores | None) -> list[str]:
    """The banner. ``cores`` is None when workers are not pinned."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("uvloop", "httptools"))
    return [
        f"shardserve {__version__} on {', '.join(urls)} (press Ctrl-C to stop)",
        f"{_placing(workers, cores)}; {versions}, Python {platform.python_version()}",
    ]


def spoken(urls: Sequence[str], *, tls: bool) -> list[str]:
    """The URLs as clients write them."""
    return [url.replace("http://", "https://", 1) if tls else url for url in urls]


def _placing(workers: int, cores: Cores | None) -> str:
    count = "1 worker" if workers == 1 else f"{workers} workers"
    if cores is None:
        return f"{count}, not pinned"
    used = list(dict.fromkeys(cores.of_slot(slot) for slot in range(workers)))
    return f"{count} on {'core' if len(used) == 1 else 'cores'} {', '.join(map(str, used))}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def crowding_warning(workers: int, cores: Cores) -> str | None:
    """What to say when workers must share cores."""
    if workers <= cores.workers:
        return None
    limit = f"{len(cores.order)} usable cores"
    if cores.quota is not None and cores.workers < len(cores.order):
        limit = f"a CPU quota of {cores.quota:g} cores"
    return f"{workers} workers share {limit}: more than {cores.workers} only take turns"


def raise_descriptor_limit() -> tuple[str | None, str | None]:
    """Raise the soft limit on open files towards the hard one. Returns a note and a warning, if any."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    note = None
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        note = f"raised the limit on open files from {soft} to {ceiling}"
        soft = ceiling
    if soft != resource.RLIM_INFINITY and soft < LOW_DESCRIPTORS:
        return note, f"only {soft} open files are allowed per process; raise the hard limit (LimitNOFILE=)"
    return note, None
