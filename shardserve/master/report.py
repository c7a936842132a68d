"""What the server says of itself: the figures of ``ctl status``, ``top`` and the status page, put together.

Rules of this file: it reads the supervisor and changes nothing. The shape is ``commands.py``'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._version import __version__
from ..commands import ServerStatus, WorkerStatus
from ..stats import METHODS, Page
from . import banner, vitals
from .crew import Crew, Member
from .slots import Process, Slot, State

if TYPE_CHECKING:
    from .supervisor import Supervisor

_ERRORS = tuple(f"responses_{method}_5xx" for method in METHODS)


def server_status(supervisor: Supervisor, now: float) -> ServerStatus:
    """Everything."""
    crew = supervisor.crew
    durations = vitals.together(member.vitals.durations() for member in crew)
    return ServerStatus(
        version=__version__,
        pid=os.getpid(),
        app=supervisor.config.app,
        phase=_phase(supervisor),
        uptime_s=round(now - supervisor.started_at, 3),
        urls=banner.spoken(supervisor.urls, tls=bool(supervisor.config.ssl_certfile)),
        generation=supervisor.generation,
        workers=supervisor.wanted,
        reloads=supervisor.roller.reloads,
        reload_failures=supervisor.roller.failures,
        requests=_all_time(crew, "served"),
        errors_5xx=sum(_all_time(crew, figure) for figure in _ERRORS),
        rps=round(sum(member.vitals.rps for member in crew), 1),
        p50_ms=_quantile_ms(durations, 0.5),
        p99_ms=_quantile_ms(durations, 0.99),
        config_problems=[supervisor.roller.problem] if supervisor.roller.problem else [],
        workers_list=worker_statuses(supervisor, now),
    )


def worker_statuses(supervisor: Supervisor, now: float) -> list[WorkerStatus]:
    """One entry for each process, and one for each slot that should have one and has none."""
    found = []
    for _, slot in sorted(supervisor.slots.items()):
        members = [supervisor.crew[process] for process in slot.processes() if process in supervisor.crew]
        found += [_worker(supervisor, slot, member, now) for member in members]
        if slot.wanted and slot.current is None and slot.starting is None:
            retry_s = None if slot.retry_at is None else max(0.0, slot.retry_at - now)
            note = "waits for changes" if retry_s is None else f"starts again in {retry_s:.1f} s"
            found.append(
                WorkerStatus(slot.number, _name(slot.state), restarts=dict(slot.restarts), note=note)
            )
    return found


def _worker(supervisor: Supervisor, slot: Slot, member: Member, now: float) -> WorkerStatus:
    process, page, seen = member.process, member.worker.page, member.vitals
    durations = seen.durations()
    return WorkerStatus(
        slot=slot.number,
        state=_state(slot, process),
        core=supervisor.core_of(slot.number),
        pid=process.pid,
        generation=process.generation,
        uptime_s=round(now - process.started_at, 3),
        restarts=dict(slot.restarts),
        connections=page["connections"],
        connections_idle=page["connections_idle"],
        websockets=page["connections_websocket"],
        in_flight=page["in_flight"],
        served=page["served"],
        errors_5xx=_errors_5xx(page),
        rps=round(seen.rps, 1),
        p50_ms=_quantile_ms(durations, 0.5),
        p99_ms=_quantile_ms(durations, 0.99),
        loop_lag_ms=page["lag_us"] / 1000,
        loop_lag_max_ms=page["lag_max_us"] / 1000,
        cpu_percent=None if seen.cpu_percent is None else round(seen.cpu_percent, 1),
        rss_bytes=seen.rss_bytes or None,
        note=_note(member),
    )


def _all_time(crew: Crew, figure: str) -> int:
    """By the workers there are, and those that are gone."""
    return crew.counted_before(figure) + sum(member.worker.page[figure] for member in crew)


def _errors_5xx(page: Page) -> int:
    return sum(page[figure] for figure in _ERRORS)


def _quantile_ms(durations: Sequence[int], share: float) -> float | None:
    found_ms = vitals.quantile_ms(durations, share)
    return None if found_ms is None else round(found_ms, 3)


def _state(slot: Slot, process: Process) -> str:
    if process is slot.current:
        return "reloading" if slot.state is State.RELOADING else "ready"
    return "starting" if process is slot.starting else "draining"


def _note(member: Member) -> str:
    notes = []
    if member.process.killed:
        notes.append(member.process.killed)
    if refused := member.worker.page["refused"]:
        notes.append(f"{refused} refused")
    if pauses := member.worker.page["accept_pauses"]:
        notes.append(f"{pauses} accept pauses")
    return ", ".join(notes)


def _phase(supervisor: Supervisor) -> str:
    if supervisor.phase.name != "SERVING":
        return "starting" if supervisor.phase.name == "STARTING" else "stopping"
    if supervisor.upgrading:
        return "upgrading"
    rolling = supervisor.roller.rolling
    return "reloading" if rolling is not None and rolling.is_reload else "serving"


def _name(state: State) -> str:
    return state.name.lower()
