"""What a slot is in and what happens to it: one table, and the data it moves.

Rules of this file: pure. No process is started, no byte sent, no clock read: ``now`` is an argument
(monotonic seconds), and ``step`` answers with the effects that the supervisor carries out. A pair of
state and event that is not in TABLE is a bug in the supervisor, not a case to handle.

A slot is a place for one serving worker: a number, a core, its own listeners. It outlives its
processes. It has at most one process that *starts*, at most one that *serves* (``current``), and any
number that are *leaving*: told to drain or stop, no longer of interest, only waited for.

    EMPTY ──START──▶ STARTING ──READY──▶ READY ──RELOAD──▶ RELOADING ──READY──▶ READY (old one drains)
                      │    ▲              │                  │
              START_LOST  DUE  SERVER_LOST, LEAVES       START_LOST ──▶ READY (old one goes on)
                      ▼    │              │
                     BACKOFF ◀────────────┘         any ──RETIRE──▶ DRAINING ──GONE──▶ DEAD
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, auto

# A worker that was READY this long was not in a crash loop. (runit and systemd restart after a second
# flat; supervisord's startsecs is 1 s. Longer, because a first request can be the poison.)
HEALTHY_S = 10.0
# Delays between starts of one slot: 0, then 0.1 s doubling up to 30 s.
BACKOFF_FIRST_S = 0.1
BACKOFF_CAP_S = 30.0
# What is left of a process after its deadline is killed this much later: a worker cuts its requests at the
# deadline, and then its app has 5 s for lifespan shutdown, and 1 s to end its tasks.
KILL_AFTER_S = 8.0
# From STOP to KILL.
STOP_KILL_S = 1.0
# From ABRT, which has the process dump its stack, to KILL.
ABORT_KILL_S = 2.0


class State(IntEnum):
    EMPTY = auto()  # made, nothing has run yet
    STARTING = auto()  # a process starts, none serves
    READY = auto()  # a process serves
    RELOADING = auto()  # a process serves, its successor starts
    BACKOFF = auto()  # nothing runs; DUE at ``retry_at``
    DRAINING = auto()  # not wanted any more; the last processes are leaving
    DEAD = auto()  # not wanted, nothing runs


class Event(IntEnum):
    START = auto()  # the slot is wanted
    READY = auto()  # the starting process says READY
    START_LOST = auto()  # the starting process is gone
    SERVER_LOST = auto()  # the serving process is gone
    LEAVES = auto()  # the serving process says that it drains, for a reason of its own
    RELOAD = auto()  # serve with a fresh process
    DUE = auto()  # the back-off is over
    RETIRE = auto()  # the slot is not wanted any more, or the server stops
    GONE = auto()  # the last leaving process is gone


class Action(IntEnum):
    # Carried out by the supervisor:
    SPAWN = auto()  # start a process; it becomes ``starting``
    DRAIN = auto()  # ``current`` becomes leaving and is told to finish its work
    STOP = auto()  # ``starting`` becomes leaving and is told to stop; it has no work
    PART = auto()  # ``current`` becomes leaving; it knows already
    # Carried out here:
    PROMOTE = auto()  # ``starting`` becomes ``current``
    SCHEDULE = auto()  # set ``retry_at``


_S, _E, _A = State, Event, Action

TABLE: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (_S.EMPTY, _E.START): (_S.STARTING, (_A.SPAWN,)),
    (_S.EMPTY, _E.RETIRE): (_S.DRAINING, ()),
    #
    (_S.STARTING, _E.READY): (_S.READY, (_A.PROMOTE,)),
    (_S.STARTING, _E.START_LOST): (_S.BACKOFF, (_A.SCHEDULE,)),
    (_S.STARTING, _E.RELOAD): (_S.STARTING, (_A.STOP, _A.SPAWN)),  # it may have the old code
    (_S.STARTING, _E.RETIRE): (_S.DRAINING, (_A.STOP,)),
    #
    (_S.READY, _E.SERVER_LOST): (_S.BACKOFF, (_A.SCHEDULE,)),
    (_S.READY, _E.LEAVES): (_S.BACKOFF, (_A.PART, _A.SCHEDULE)),
    (_S.READY, _E.RELOAD): (_S.RELOADING, (_A.SPAWN,)),
    (_S.READY, _E.RETIRE): (_S.DRAINING, (_A.DRAIN,)),
    #
    (_S.RELOADING, _E.READY): (_S.READY, (_A.DRAIN, _A.PROMOTE)),
    (_S.RELOADING, _E.START_LOST): (_S.READY, ()),  # the old one keeps serving
    (_S.RELOADING, _E.SERVER_LOST): (_S.STARTING, ()),
    (_S.RELOADING, _E.LEAVES): (_S.STARTING, (_A.PART,)),
    (_S.RELOADING, _E.RELOAD): (_S.RELOADING, (_A.STOP, _A.SPAWN)),  # --reload: the code has changed again
    (_S.RELOADING, _E.RETIRE): (_S.DRAINING, (_A.STOP, _A.DRAIN)),
    #
    (_S.BACKOFF, _E.DUE): (_S.STARTING, (_A.SPAWN,)),
    (_S.BACKOFF, _E.RELOAD): (_S.STARTING, (_A.SPAWN,)),  # the new code may be the cure
    (_S.BACKOFF, _E.RETIRE): (_S.DRAINING, ()),
    #
    (_S.DRAINING, _E.START): (_S.STARTING, (_A.SPAWN,)),  # wanted again; the leaving ones go on leaving
    (_S.DRAINING, _E.GONE): (_S.DEAD, ()),
    #
    (_S.DEAD, _E.START): (_S.STARTING, (_A.SPAWN,)),
}


@dataclass(slots=True, eq=False)
class Process:
    """One worker process, from its start to its reaping."""

    pid: int | None  # None: forked by a template, and has not said HELLO yet
    slot: int
    generation: int
    started_at: float
    ready_at: float | None = None
    kill_at: float | None = None  # KILL when it is still there
    killed: str = ""  # by us, and why
    cause: str = ""  # why another one takes over from it, if that is known before its end

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})" if self.pid else f"worker {self.slot}"

    def kill_by(self, at: float) -> None:
        """Set the time of its KILL; an earlier one stands."""
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)


@dataclass(slots=True, eq=False)
class Slot:
    """One place for a worker. ``state`` is written by ``step`` only."""

    number: int
    state: State = State.EMPTY
    starting: Process | None = None
    current: Process | None = None
    leaving: list[Process] = field(default_factory=list)
    losses: int = 0  # processes lost in a row, none of them healthy
    retry_at: float | None = None
    restarts: Counter[str] = field(default_factory=Counter)  # by cause
    recycle_after: float = 0.0  # a replacement did not start: not again before
    carrier: Process | None = None  # the neighbour's process that has our listeners

    @property
    def wanted(self) -> bool:
        """Whether this slot counts as one of the server's workers."""
        return self.state not in (State.DRAINING, State.DEAD)

    def processes(self) -> list[Process]:
        return [p for p in (self.starting, self.current, *self.leaving) if p is not None]


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing for the supervisor to do. ``process``: whom it concerns; None for SPAWN."""

    action: Action
    process: Process | None = None


def step(slot: Slot, event: Event, now: float) -> list[Effect]:
    """Move the slot along the table. What needs the outside world comes back, in order."""
    slot.state, actions = TABLE[slot.state, event]
    effects: list[Effect] = []
    for action in actions:
        match action:
            case Action.SPAWN:
                slot.retry_at = None
                effects.append(Effect(action))
            case Action.DRAIN | Action.PART:
                effects.append(Effect(action, _leave(slot, slot.current)))
                slot.current = None
            case Action.STOP:
                effects.append(Effect(action, _leave(slot, slot.starting)))
                slot.starting = None
            case Action.PROMOTE:
                slot.current, slot.starting = slot.starting, None
                assert slot.current is not None
                slot.current.ready_at = now
            case Action.SCHEDULE:
                slot.retry_at = now + backoff_s(slot.losses)
                slot.losses += 1
    return effects


def _leave(slot: Slot, process: Process | None) -> Process:
    assert process is not None
    slot.leaving.append(process)
    return process


def bury(slot: Slot, process: Process, now: float) -> Event | None:
    """Take a reaped process out of its slot. Returns the event that this is, if it is one."""
    if process is slot.starting:
        slot.starting = None
        return Event.START_LOST
    if process is slot.current:
        slot.current = None
        forgive(slot, process, now)
        return Event.SERVER_LOST
    slot.leaving.remove(process)
    return None


def forgive(slot: Slot, process: Process, now: float) -> None:
    """A process that served long enough makes its slot's earlier losses forgotten."""
    if process.ready_at is not None and now - process.ready_at >= HEALTHY_S:
        slot.losses = 0


def dismiss(slot: Slot) -> None:
    """The starting process said that it FAILED: it is as good as gone, and is only waited for."""
    _leave(slot, slot.starting)
    slot.starting = None


def backoff_s(losses: int) -> float:
    """How long a slot waits that lost ``losses`` processes in a row before this one."""
    if losses == 0:
        return 0.0
    return float(min(BACKOFF_FIRST_S * 2 ** min(losses - 1, 16), BACKOFF_CAP_S))


def due(slot: Slot, now: float) -> Event | None:
    """The event that time, or the last reaping, has brought about."""
    if slot.state is State.BACKOFF and slot.retry_at is not None and slot.retry_at <= now:
        return Event.DUE
    if slot.state is State.DRAINING and not slot.leaving:
        return Event.GONE
    return None


def next_deadline(slots: Iterable[Slot]) -> float | None:
    """When the loop must wake up by itself."""
    times: list[float] = []
    for slot in slots:
        if slot.retry_at is not None:
            times.append(slot.retry_at)
        times += (p.kill_at for p in slot.processes() if p.kill_at is not None)
    return min(times, default=None)


def lendings(slots: dict[int, Slot]) -> Iterator[tuple[Slot, Process]]:
    """Slots where nobody serves and the neighbour's process that should accept for them; records it.

    A process that is no slot's ``current`` carries nothing: it is dead, or it drains.
    """
    serving = {s.number: s.current for s in slots.values() if s.current is not None}
    if not serving:
        return
    for slot in slots.values():
        if slot.current is None and slot.carrier not in serving.values():
            nearest = min(serving, key=lambda number: (number <= slot.number, number))
            slot.carrier = serving[nearest]
            yield slot, serving[nearest]


def returns(slots: dict[int, Slot]) -> Iterator[tuple[Slot, Process]]:
    """Slots that serve again and the process that carried for them; forgets it."""
    for slot in slots.values():
        if slot.current is not None and slot.carrier is not None:
            carrier, slot.carrier = slot.carrier, None
            yield slot, carrier
