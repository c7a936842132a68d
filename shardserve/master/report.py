"""What the server says of itself: the figures of ``ctl status``, put together.

Rules of this file: it reads the supervisor and changes nothing. The shape is ``commands.py``'s.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._version import __version__
from ..commands import ServerStatus, WorkerStatus
from . import banner
from .crew import Member
from .slots import Process, Slot, State

if TYPE_CHECKING:
    from .supervisor import Supervisor


def server_status(supervisor: Supervisor, now: float) -> ServerStatus:
    """Everything."""
    crew = supervisor.crew
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
        requests=crew.served_before + sum(member.worker.page["served"] for member in crew),
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
    process, page, vitals = member.process, member.worker.page, member.vitals
    return WorkerStatus(
        slot=slot.number,
        state=_state(slot, process),
        core=supervisor.core_of(slot.number),
        pid=process.pid,
        generation=process.generation,
        uptime_s=round(now - process.started_at, 3),
        restarts=dict(slot.restarts),
        connections=page["connections"],
        in_flight=page["in_flight"],
        served=page["served"],
        rps=round(vitals.rps, 1),
        loop_lag_ms=page["lag_us"] / 1000,
        loop_lag_max_ms=page["lag_max_us"] / 1000,
        rss_bytes=vitals.rss_bytes or None,
        note=_note(member),
    )


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
