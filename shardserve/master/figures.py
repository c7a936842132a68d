"""The figures of the whole server as the metrics have them: one Snapshot, put together.

Rules of this file: it reads the supervisor and changes nothing, as ``report.py`` does for ctl. Units become
base units here. What is added up over workers, with those that are gone, is the crew's (``Crew.counted``).
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .. import stats
from .._version import __version__
from . import procfs, report

if TYPE_CHECKING:
    from ..observe.metrics import Distribution, Snapshot, WorkerFigures
    from .crew import Member
    from .slots import Slot
    from .supervisor import Supervisor

_STATES = ("ready", "reloading", "starting", "draining", "backoff")
_CONNECTIONS = tuple(name for name in stats.NATIVE if name.startswith("connections_"))
_RESPONSES = {
    (method, kind): f"responses_{method}_{kind}" for method in stats.METHODS for kind in stats.CLASSES
}
_REASONS = (*stats.REFUSALS.values(), "other")
_US = 1e6


def snapshot(supervisor: Supervisor, now: float) -> Snapshot:
    """Everything, as of now. Call it when metrics are on: it imports them."""
    from ..observe.metrics import Snapshot

    counted = supervisor.crew.counted()
    roller = supervisor.roller
    states = Counter(dict.fromkeys(_STATES, 0))
    states.update(one.state for one in report.worker_statuses(supervisor, now))
    pid = os.getpid()
    return Snapshot(
        version=__version__,
        python=platform.python_version(),
        started_at=supervisor.began_at,
        workers_wanted=supervisor.wanted,
        workers_by_state=states,
        workers=[_worker(supervisor, slot) for _, slot in sorted(supervisor.slots.items())],
        master_rss_bytes=procfs.rss_bytes(pid),
        master_cpu_s=time.process_time(),
        reloads=roller.reloads,
        reload_failures=roller.failures,
        last_reload_s=roller.took_s,
        last_reload_at=roller.reloaded_at,
        config_stale=bool(roller.problem),
        responses={labels: counted[figure] for labels, figure in _RESPONSES.items()},
        refusals={reason: counted[f"refused_{reason}"] for reason in _REASONS},
        counts=counted,
        duration_s=_distribution(counted, stats.DURATION, _US),
        first_byte_s=_distribution(counted, stats.FIRST_BYTE, _US),
        request_body_bytes=_distribution(counted, stats.REQUEST_SIZE),
        response_body_bytes=_distribution(counted, stats.RESPONSE_SIZE),
        loop_lag_s=_distribution(counted, stats.LOOP_LAG, _US),
        gc_pause_s=_distribution(counted, stats.GC_PAUSES, _US),
    )


def _distribution(counted: Mapping[str, int], histogram: stats.Histogram, unit: float = 1.0) -> Distribution:
    """``unit``: how many of the histogram's are one of ours."""
    from ..observe.metrics import Distribution

    total, *buckets = (counted[figure] for figure in histogram.figures)
    return Distribution([bound / unit for bound in histogram.bounds], buckets, total / unit)


def _worker(supervisor: Supervisor, slot: Slot) -> WorkerFigures:
    """One slot. While one worker replaces another it has two processes, and both have connections."""
    from ..observe.metrics import WorkerFigures

    crew = supervisor.crew
    members = [crew[process] for process in slot.processes() if process in crew]
    serving = crew[slot.current] if slot.current is not None and slot.current in crew else None
    rss_bytes = [procfs.rss_bytes(one.process.pid) or 0 for one in members if one.process.pid is not None]
    return WorkerFigures(
        slot=slot.number,
        here=slot.wanted or bool(members),
        up=serving is not None if slot.wanted else None,
        started_at=None if serving is None else serving.began_at,
        connections={name.removeprefix("connections_"): _sum(members, name) for name in _CONNECTIONS},
        in_flight=_sum(members, "in_flight"),
        loop_lag_s=_worst(members, "lag_us") / _US,
        loop_lag_max_s=_worst(members, "lag_max_us") / _US,
        gc_pause_max_s=_worst(members, "gc_pause_max_us") / _US,
        rss_bytes=sum(rss_bytes) or None,
        cpu_s=crew.cpu_s(slot.number),
        restarts=slot.restarts,
    )


def _sum(members: list[Member], figure: str) -> int:
    return sum(member.worker.page[figure] for member in members)


def _worst(members: list[Member], figure: str) -> int:
    return max((member.worker.page[figure] for member in members), default=0)
