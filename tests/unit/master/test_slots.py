"""The table, walked with a clock of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from shardserve.master import slots
from shardserve.master.slots import Action, Event, Process, Slot, State

PIDS = itertools.count(100)


def spawned(slot: Slot, now: float = 0.0) -> Process:
    """What the supervisor does at SPAWN."""
    slot.starting = Process(next(PIDS), slot.number, 0, started_at=now)
    return slot.starting


def ready_slot(number: int = 0, now: float = 0.0) -> Slot:
    slot = Slot(number)
    slots.step(slot, Event.START, now)
    spawned(slot, now)
    slots.step(slot, Event.READY, now)
    return slot


def actions(effects: Iterable[slots.Effect]) -> list[Action]:
    return [effect.action for effect in effects]


def lose_current(slot: Slot, now: float) -> None:
    assert slot.current is not None
    event = slots.bury(slot, slot.current, now)
    assert event is Event.SERVER_LOST
    slots.step(slot, event, now)


# The table as a whole


def test_every_state_can_be_reached_and_left() -> None:
    reached = {state for state, _ in slots.TABLE.values()}
    assert reached == set(State) - {State.EMPTY}
    assert {state for state, _ in slots.TABLE} == set(State)


@pytest.mark.parametrize("state", set(State) - {State.DRAINING, State.DEAD})
def test_every_wanted_state_can_be_retired(state: State) -> None:
    assert slots.TABLE[state, Event.RETIRE][0] is State.DRAINING


def test_spawn_comes_last() -> None:
    # It can fail, which is an event of its own: nothing of the same row may come after it.
    for _, row in slots.TABLE.values():
        assert Action.SPAWN not in row[:-1]


def test_what_is_not_in_the_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        slots.step(Slot(0), Event.READY, 0.0)


# One life


def test_from_start_to_ready() -> None:
    slot = Slot(0)
    assert actions(slots.step(slot, Event.START, 1.0)) == [Action.SPAWN]
    process = spawned(slot, 1.0)
    assert slot.state is State.STARTING
    assert slots.step(slot, Event.READY, 3.0) == []
    assert (slot.state, slot.current, slot.starting) == (State.READY, process, None)
    assert process.ready_at == 3.0


def test_a_lost_server_is_replaced_at_once() -> None:
    slot = ready_slot(now=0.0)
    lose_current(slot, 100.0)
    assert (slot.state, slot.retry_at, slot.current) == (State.BACKOFF, 100.0, None)
    event = slots.due(slot, 100.0)
    assert event is Event.DUE
    assert actions(slots.step(slot, event, 100.0)) == [Action.SPAWN]
    assert slot.state is State.STARTING
    assert slot.retry_at is None


def test_a_crash_loop_backs_off_to_the_cap() -> None:
    slot, now, delays = Slot(0), 0.0, []
    slots.step(slot, Event.START, now)
    for _ in range(13):
        process = spawned(slot, now)
        slots.step(slot, Event.READY, now)
        now += 1.0  # ready for a second: not healthy
        assert slots.bury(slot, process, now) is Event.SERVER_LOST
        slots.step(slot, Event.SERVER_LOST, now)
        assert slot.retry_at is not None
        delays.append(round(slot.retry_at - now, 3))
        assert slots.due(slot, now) is (Event.DUE if delays[-1] == 0 else None)
        now = slot.retry_at
        slots.step(slot, Event.DUE, now)
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_a_healthy_life_ends_the_loop() -> None:
    slot = ready_slot()
    slot.losses = 7
    lose_current(slot, slots.HEALTHY_S)
    assert slot.retry_at == slots.HEALTHY_S
    assert slot.losses == 1


def test_a_lost_start_backs_off_too() -> None:
    slot = Slot(0)
    slots.step(slot, Event.START, 0.0)
    for delay in (0.0, 0.1, 0.2):
        process = spawned(slot)
        assert slots.bury(slot, process, 0.0) is Event.START_LOST
        slots.step(slot, Event.START_LOST, 0.0)
        assert slot.retry_at == pytest.approx(delay)
        slots.step(slot, Event.DUE, 0.0)


def test_a_failed_process_is_only_waited_for() -> None:
    slot = Slot(0)
    slots.step(slot, Event.START, 0.0)
    process = spawned(slot)
    slots.dismiss(slot)
    slots.step(slot, Event.START_LOST, 0.0)
    assert slot.leaving == [process]
    assert slots.bury(slot, process, 1.0) is None
    assert slot.processes() == []


# Reload


def test_the_old_one_drains_when_the_new_one_is_ready() -> None:
    slot = ready_slot()
    old = slot.current
    assert actions(slots.step(slot, Event.RELOAD, 5.0)) == [Action.SPAWN]
    new = spawned(slot)
    assert (slot.state, slot.current) == (State.RELOADING, old)
    assert slots.step(slot, Event.READY, 6.0) == [slots.Effect(Action.DRAIN, old)]
    assert (slot.state, slot.current, slot.leaving) == (State.READY, new, [old])
    assert old is not None
    assert slots.bury(slot, old, 7.0) is None
    assert slot.leaving == []


def test_the_old_one_goes_on_when_the_new_one_fails() -> None:
    slot = ready_slot()
    old = slot.current
    slots.step(slot, Event.RELOAD, 5.0)
    event = slots.bury(slot, spawned(slot), 6.0)
    assert event is Event.START_LOST
    assert slots.step(slot, event, 6.0) == []
    assert (slot.state, slot.current, slot.retry_at) == (State.READY, old, None)


def test_the_new_one_is_waited_for_when_the_old_one_dies() -> None:
    slot = ready_slot()
    slots.step(slot, Event.RELOAD, 5.0)
    new = spawned(slot)
    lose_current(slot, 6.0)
    assert (slot.state, slot.starting) == (State.STARTING, new)


def test_a_start_with_the_old_code_is_replaced() -> None:
    slot = Slot(0)
    slots.step(slot, Event.START, 0.0)
    old = spawned(slot)
    effects = slots.step(slot, Event.RELOAD, 1.0)
    assert effects == [slots.Effect(Action.STOP, old), slots.Effect(Action.SPAWN)]
    assert slot.leaving == [old]


def test_a_reload_does_not_wait_for_the_back_off() -> None:
    slot = ready_slot()
    lose_current(slot, 1.0)
    assert actions(slots.step(slot, Event.RELOAD, 1.0)) == [Action.SPAWN]


# The end


def test_retiring_drains_what_serves_and_stops_what_starts() -> None:
    slot = ready_slot()
    old = slot.current
    slots.step(slot, Event.RELOAD, 5.0)
    new = spawned(slot)
    effects = slots.step(slot, Event.RETIRE, 6.0)
    assert effects == [slots.Effect(Action.STOP, new), slots.Effect(Action.DRAIN, old)]
    assert not slot.wanted
    assert slots.due(slot, 7.0) is None
    for process in list(slot.leaving):
        slots.bury(slot, process, 7.0)
    assert slots.due(slot, 7.0) is Event.GONE
    slots.step(slot, Event.GONE, 7.0)
    assert slot.state is State.DEAD


@pytest.mark.parametrize("gone", [True, False])
def test_a_retired_slot_can_be_wanted_again(gone: bool) -> None:
    slot = ready_slot()
    slots.step(slot, Event.RETIRE, 1.0)
    (old,) = slot.leaving
    if gone:
        slots.bury(slot, old, 2.0)
        slots.step(slot, Event.GONE, 2.0)
    assert actions(slots.step(slot, Event.START, 3.0)) == [Action.SPAWN]
    spawned(slot)
    slots.step(slot, Event.READY, 4.0)
    assert slot.state is State.READY
    assert slots.due(slot, 5.0) is None


def test_an_earlier_deadline_stands() -> None:
    process = Process(1, 0, 0, started_at=0.0)
    process.kill_by(32.0)
    process.kill_by(5.0)
    process.kill_by(40.0)
    assert process.kill_at == 5.0


def test_the_loop_wakes_for_the_next_deadline() -> None:
    one, two = ready_slot(0), ready_slot(1)
    assert slots.next_deadline([one, two]) is None
    lose_current(one, 1.0)
    one.losses, one.retry_at = 3, 9.0
    assert slots.next_deadline([one, two]) == 9.0
    slots.step(two, Event.RETIRE, 1.0)
    two.leaving[0].kill_by(4.0)
    assert slots.next_deadline([one, two]) == 4.0


# Listeners of slots where nobody serves


def table(*made: Slot) -> dict[int, Slot]:
    return {slot.number: slot for slot in made}


def test_a_removed_slot_is_carried_by_the_next_one() -> None:
    one, two, three = (ready_slot(n) for n in range(3))
    slots.step(two, Event.RETIRE, 1.0)
    assert list(slots.lendings(table(one, two, three))) == [(two, three.current)]
    assert list(slots.lendings(table(one, two, three))) == []  # once is enough


def test_the_last_slot_is_carried_by_the_first() -> None:
    one, two = ready_slot(0), ready_slot(1)
    slots.step(two, Event.RETIRE, 1.0)
    assert list(slots.lendings(table(one, two))) == [(two, one.current)]


def test_a_carrier_that_goes_is_replaced() -> None:
    one, two = ready_slot(0), ready_slot(1)
    slots.step(two, Event.RETIRE, 1.0)
    list(slots.lendings(table(one, two)))
    slots.step(one, Event.RELOAD, 2.0)
    new = spawned(one)
    assert list(slots.lendings(table(one, two))) == []
    slots.step(one, Event.READY, 3.0)
    assert list(slots.lendings(table(one, two))) == [(two, new)]


def test_a_slot_is_carried_while_its_worker_starts_again() -> None:
    one, two = ready_slot(0), ready_slot(1)
    lose_current(two, 100.0)
    slots.step(two, Event.DUE, 100.0)
    assert list(slots.lendings(table(one, two))) == [(two, one.current)]


def test_a_slot_is_not_carried_during_a_reload() -> None:
    one, two = ready_slot(0), ready_slot(1)
    slots.step(two, Event.RELOAD, 1.0)
    assert list(slots.lendings(table(one, two))) == []


def test_it_is_given_back_when_the_slot_serves_again() -> None:
    one, two = ready_slot(0), ready_slot(1)
    lose_current(two, 1.0)
    list(slots.lendings(table(one, two)))
    slots.step(two, Event.DUE, 2.0)
    spawned(two)
    assert list(slots.returns(table(one, two))) == []  # it still starts
    slots.step(two, Event.READY, 3.0)
    assert list(slots.returns(table(one, two))) == [(two, one.current)]
    assert list(slots.returns(table(one, two))) == []


def test_with_nobody_to_carry_the_queue_waits() -> None:
    one = ready_slot(0)
    lose_current(one, 1.0)
    assert list(slots.lendings(table(one))) == []
    assert one.carrier is None
