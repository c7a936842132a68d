"""The loop, turn by turn, with a clock of its own and workers that are only played.

What needs real processes is in tests/faults/test_master_*.py.
"""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from shardserve import control
from shardserve.config.addresses import TcpBind
from shardserve.config.model import Config
from shardserve.master import nursery, orders, slots, supervisor
from shardserve.master.affinity import Cores
from shardserve.master.channel import Channel
from shardserve.master.crew import STUCK_KILL_S
from shardserve.master.notify import Notifier
from shardserve.master.nursery import Nursery
from shardserve.master.outside import Outside
from shardserve.master.serve import serve
from shardserve.master.signals import Signals
from shardserve.master.slots import State
from shardserve.master.spawn import Worker
from shardserve.master.supervisor import Phase, Supervisor
from shardserve.net.listeners import Listeners
from shardserve.stats import Page
from shardserve.stats import Stage as StageOfWorker

CONFIG = Config(app="m:app", timeout_graceful_shutdown_s=30.0, timeout_drain_idle_s=5.0, control_socket="off")
DRAIN = control.Drain(5.0, 30.0, 5.0)
LAST_DRAIN = control.Drain(0.0, 30.0, 5.0)


class Played:
    """A worker process that does what the test says. It is its own Popen."""

    pids = itertools.count(1000)

    def __init__(self, start: control.Start) -> None:
        self.start = start
        self.pid = next(self.pids)
        self.returncode: int | None = None
        self.killed = False
        ours, self.pipe = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pipe.setblocking(False)
        self.channel = Channel(ours, f"worker {start.slot}")
        self.page = Page.create("played")
        self.page["stage"] = StageOfWorker.LIFESPAN
        self.signals: list[int] = []

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.killed = True
        self.ends(-signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def says(self, message: control.Message) -> None:
        self.pipe.send(control.encode(message))

    def is_ready(self) -> None:
        self.says(control.Ready(self.pid, 1))

    def ends(self, returncode: int) -> None:
        self.returncode = returncode
        self.pipe.close()

    def heard(self) -> list[control.Message]:
        found = []
        try:
            while data := self.pipe.recv(200_000):
                found.append(control.decode(data))
        except BlockingIOError:
            pass
        return found


class Stage:
    """A supervisor with played workers. ``turn(at)`` moves the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, signals: Signals, listeners: Listeners) -> None:
        self.played: list[Played] = []
        self.spawn_error: OSError | None = None
        self.fresh_config: Callable[[], Config] = lambda: CONFIG
        monkeypatch.setattr(nursery, "start_worker", self._start)
        monkeypatch.setattr(supervisor.logs, "configure", lambda config: None)
        self.supervisor = Supervisor(
            CONFIG,
            listeners,
            Nursery(listeners, Cores((0, 1))),
            signals,
            Outside(CONFIG, notifier=Notifier(None)),
            reload_config=lambda: self.fresh_config(),
        )
        self.now = 0.0
        self.listeners = listeners

    def _start(self, start: control.Start, now: float, **_: Any) -> Worker:
        if self.spawn_error is not None:
            raise self.spawn_error
        self.played.append(Played(start))
        return Worker(self.played[-1], self.played[-1].channel, self.played[-1].page)

    def begin(self, workers: int) -> list[Played]:
        """All of them started and ready."""
        self.supervisor.wanted = workers
        self.supervisor._add_slots(self.now)
        for worker in self.played:
            worker.is_ready()
        self.turn()
        assert self.supervisor.phase is Phase.SERVING
        return self.played[:]

    def turn(self, at: float | None = None, *numbers: signal.Signals) -> list[Played]:
        """One turn; returns the workers that it started."""
        before = len(self.played)
        self.now = self.now if at is None else at
        for number in numbers:
            orders.note(self.supervisor, number)
        self.supervisor.turn(self.now)
        return self.played[before:]

    @property
    def states(self) -> list[State]:
        return [slot.state for _, slot in sorted(self.supervisor.slots.items())]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    listeners = Listeners([TcpBind("127.0.0.1", 0)], slots=2, backlog=10)
    with Signals() as signals:
        made = Stage(monkeypatch, signals, listeners)
        yield made
    listeners.close()
    for worker in made.played:
        worker.pipe.close()
        worker.channel.close()
        worker.page.close()


def kinds(messages: list[control.Message]) -> list[str]:
    return [message.type for message in messages]


# Starting


def test_start_names_the_slot_its_core_and_its_sockets(stage: Stage) -> None:
    one, two = stage.begin(2)
    assert (one.start.slot, one.start.core, one.start.generation) == (0, 0, 0)
    assert (two.start.slot, two.start.core) == (1, 1)
    assert len(one.start.listeners) == 1
    assert one.start.listeners[0].url == two.start.listeners[0].url
    assert one.start.listeners[0].fd != two.start.listeners[0].fd
    assert one.start.config["app"] == "m:app"


def test_a_failed_first_start_stops_the_rest_and_says_why_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.supervisor.wanted = 3
    stage.supervisor._add_slots(0.0)
    one, two, three = stage.played
    one.is_ready()
    for worker in (two, three):
        worker.says(control.Failed("lifespan", "no database"))
        worker.ends(3)
    stage.turn()
    assert kinds(one.heard()) == ["DRAIN"]
    one.ends(0)
    stage.turn()
    assert stage.supervisor._finished()
    assert stage.supervisor._exit_code == 3
    assert caplog.text.count("no database") == 1


def test_a_machine_without_room_for_a_process_is_a_failed_start(stage: Stage) -> None:
    stage.spawn_error = OSError("Cannot allocate memory")
    stage.supervisor.wanted = 2
    stage.supervisor._add_slots(0.0)
    stage.turn()
    assert stage.supervisor._finished()
    assert stage.supervisor._exit_code == 3


# Losing workers


def test_a_crash_is_answered_in_the_same_turn(stage: Stage) -> None:
    one, _ = stage.begin(2)
    one.ends(-signal.SIGSEGV)
    (successor,) = stage.turn(20.0)
    assert successor.start.slot == 0
    assert [entry.fd for entry in successor.start.listeners] == [entry.fd for entry in one.start.listeners]
    assert stage.states == [State.STARTING, State.READY]


def test_no_room_for_a_successor_backs_off(stage: Stage) -> None:
    one, _ = stage.begin(2)
    one.ends(1)
    stage.spawn_error = OSError("Cannot allocate memory")
    stage.turn(20.0)
    assert stage.states == [State.BACKOFF, State.READY]
    stage.spawn_error = None
    assert stage.turn(20.05) == []
    assert len(stage.turn(20.11)) == 1


def test_ready_and_dead_in_one_turn_is_a_loss_of_service(stage: Stage) -> None:
    one, _ = stage.begin(2)
    one.ends(1)
    (successor,) = stage.turn(1.0)
    successor.is_ready()
    successor.ends(1)
    assert stage.turn(1.0) == []
    assert stage.supervisor.slots[0].losses == 2


def test_a_worker_that_closes_its_pipe_and_lives_is_killed(stage: Stage) -> None:
    one, _ = stage.begin(2)
    one.pipe.close()
    stage.turn(1.0)
    assert not one.killed
    stage.turn(1.0 + slots.KILL_AFTER_S)
    assert one.killed


def test_a_worker_that_does_not_read_is_killed_in_the_end(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = stage.begin(2)
    while not one.channel.wants_to_send:
        one.channel.send(control.Failed("x", "y" * 8000), 1.0)
    assert "unresponsive" in caplog.text
    stage.turn(STUCK_KILL_S)
    assert not one.killed
    stage.turn(1.0 + STUCK_KILL_S)
    assert one.killed
    assert not two.killed


def test_a_lost_slot_is_carried_once_and_given_back(stage: Stage) -> None:
    one, two = stage.begin(2)
    two.ends(1)
    (worker,) = stage.turn(1.0)
    assert one.heard() == [control.Adopt(1, [two.start.listeners[0].url])]
    worker.ends(1)
    stage.turn(1.0)
    (worker,) = stage.turn(1.2)
    assert one.heard() == []
    worker.is_ready()
    stage.turn()
    assert one.heard() == [control.Release(1)]


def test_nothing_is_lent_while_all_start_together(stage: Stage) -> None:
    stage.supervisor.wanted = 2
    stage.supervisor._add_slots(0.0)
    one, two = stage.played
    one.is_ready()
    stage.turn(1.0)
    assert one.heard() == []
    two.is_ready()
    stage.turn(2.0)
    assert one.heard() == two.heard() == []


# Stopping


def test_the_first_signal_drains_and_the_second_stops(stage: Stage) -> None:
    one, two = stage.begin(2)
    stage.turn(1.0, signal.SIGTERM)
    assert one.heard() == two.heard() == [LAST_DRAIN]
    stage.turn(2.0, signal.SIGINT)
    assert one.heard() == two.heard() == [control.Stop()]
    two.ends(0)
    stage.turn(2.9)
    assert not one.killed
    stage.turn(3.0)
    assert one.killed
    stage.turn(3.0)
    assert stage.supervisor._finished()
    assert stage.supervisor._exit_code == 0


def test_the_masters_listeners_are_closed_before_anybody_drains(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker could close its own first, and who connects then waits in vain and is reset."""
    stage.begin(2)
    open_then: list[list[str]] = []
    monkeypatch.setattr(Channel, "send", lambda *_, **__: open_then.append(stage.listeners.urls))
    stage.turn(None, signal.SIGTERM)
    assert open_then == [[], []]


def test_quit_is_both_at_once(stage: Stage) -> None:
    (one,) = stage.begin(1)
    stage.turn(1.0, signal.SIGQUIT)
    assert kinds(one.heard()) == ["DRAIN", "STOP"]


def test_who_ignores_drain_is_killed_after_the_deadline(stage: Stage) -> None:
    (one,) = stage.begin(1)
    stage.turn(1.0, signal.SIGTERM)
    stage.turn(1.0 + 30.0 + slots.KILL_AFTER_S - 0.1)
    assert not one.killed
    stage.turn(1.0 + 30.0 + slots.KILL_AFTER_S)
    assert one.killed


def test_one_that_imports_is_killed_at_once(stage: Stage) -> None:
    """It cannot hear, and holds the listeners open for nobody."""
    (one,) = stage.begin(1)
    (new,) = stage.turn(1.0, signal.SIGHUP)
    new.page["stage"] = StageOfWorker.IMPORTING
    stage.turn(2.0, signal.SIGTERM)
    assert new.killed
    assert kinds(one.heard()) == ["DRAIN"]


def test_a_death_while_stopping_is_not_replaced(stage: Stage) -> None:
    one, two = stage.begin(2)
    stage.turn(1.0, signal.SIGTERM)
    one.ends(1)
    two.ends(0)
    assert stage.turn(2.0) == []
    assert stage.supervisor._finished()


def test_a_stop_shortens_the_drain_of_a_reload(stage: Stage) -> None:
    (one,) = stage.begin(1)
    (new,) = stage.turn(1.0, signal.SIGHUP)
    new.is_ready()
    stage.turn(2.0)
    assert one.heard() == [DRAIN]
    stage.turn(3.0, signal.SIGTERM)
    assert one.heard() == [LAST_DRAIN]
    stage.turn(2.0 + 30.0 + slots.KILL_AFTER_S)  # its own deadline was the earlier one
    assert one.killed
    assert not new.killed


def test_stop_comes_before_reload(stage: Stage) -> None:
    stage.begin(1)
    assert stage.turn(1.0, signal.SIGHUP, signal.SIGTTIN, signal.SIGTERM) == []


# Reloading


def test_one_slot_at_a_time_and_the_drain_is_not_waited_for(stage: Stage) -> None:
    one, two = stage.begin(2)
    (new_one,) = stage.turn(1.0, signal.SIGHUP)
    assert (new_one.start.slot, new_one.start.generation) == (0, 1)
    assert one.heard() == []
    new_one.is_ready()
    (new_two,) = stage.turn(2.0)
    assert kinds(one.heard()) == ["DRAIN"]
    assert new_two.start.slot == 1
    assert two.heard() == []
    new_two.is_ready()
    assert stage.turn(3.0) == []
    assert kinds(two.heard()) == ["DRAIN"]
    assert stage.states == [State.READY, State.READY]


def test_a_second_hup_starts_over_after_the_present_slot(stage: Stage) -> None:
    stage.begin(2)
    (first,) = stage.turn(1.0, signal.SIGHUP)
    assert stage.turn(2.0, signal.SIGHUP) == []
    first.is_ready()
    (again,) = stage.turn(3.0)
    assert (again.start.slot, again.start.generation) == (0, 2)
    again.is_ready()
    (last,) = stage.turn(4.0)
    assert (last.start.slot, last.start.generation) == (1, 2)


def test_a_failed_reload_is_abandoned_and_respawns_have_the_old_config(stage: Stage) -> None:
    one, two = stage.begin(2)
    stage.fresh_config = lambda: replace(CONFIG, app="m:broken")
    (new,) = stage.turn(1.0, signal.SIGHUP)
    assert new.start.config["app"] == "m:broken"
    new.says(control.Failed("import", "no"))
    assert stage.turn(2.0) == []
    assert stage.states == [State.READY, State.READY]
    assert one.heard() == two.heard() == []
    new.ends(3)
    one.ends(1)
    (successor,) = stage.turn(20.0)
    assert (successor.start.config["app"], successor.start.generation) == ("m:app", 0)


def test_a_config_that_a_worker_was_ready_with_is_what_respawns_get(stage: Stage) -> None:
    _, two = stage.begin(2)
    stage.fresh_config = lambda: replace(CONFIG, app="m:better", affinity=False)
    (new,) = stage.turn(1.0, signal.SIGHUP)
    new.is_ready()
    (second,) = stage.turn(2.0)
    second.ends(3)
    two.ends(1)
    found = stage.turn(20.0)
    assert [worker.start.config["app"] for worker in found] == ["m:better"]
    assert found[0].start.core is None


def test_hup_while_starting_waits_for_the_start(stage: Stage) -> None:
    stage.supervisor.wanted = 1
    stage.supervisor._add_slots(0.0)
    assert stage.turn(1.0, signal.SIGHUP) == []
    stage.played[0].is_ready()
    (new,) = stage.turn(2.0)
    assert new.start.generation == 1


# Scaling


def test_one_more_and_one_less(stage: Stage) -> None:
    one, two = stage.begin(2)
    (third,) = stage.turn(1.0, signal.SIGTTIN)
    assert (third.start.slot, third.start.core) == (2, 0)
    assert kinds(one.heard()) == ["ADOPT"]  # until it is ready
    stage.turn(2.0, signal.SIGTTOU, signal.SIGTTOU)
    assert kinds(third.heard()) == ["STOP"]
    assert kinds(two.heard()) == ["DRAIN"]
    assert one.heard() == [control.Adopt(1, [two.start.listeners[0].url])]
    stage.turn(3.0, signal.SIGTTOU)
    assert one.heard() == []


def test_a_removed_slot_comes_back_with_its_sockets(stage: Stage) -> None:
    _, two = stage.begin(2)
    stage.turn(1.0, signal.SIGTTOU)
    two.ends(0)
    stage.turn(2.0)
    assert stage.states == [State.READY, State.DEAD]
    (again,) = stage.turn(3.0, signal.SIGTTIN)
    assert again.start.slot == 1
    assert again.start.listeners == two.start.listeners


def test_scaling_waits_for_a_reload(stage: Stage) -> None:
    stage.begin(1)
    (new,) = stage.turn(1.0, signal.SIGHUP, signal.SIGTTIN)
    assert new.start.generation == 1
    new.is_ready()
    (more,) = stage.turn(2.0)
    assert (more.start.slot, more.start.generation) == (1, 1)


# The door


def test_an_address_that_cannot_be_had_is_exit_1(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve(Config(app="m:app", port=taken.getsockname()[1])) == 1
    told = capfd.readouterr().err
    assert "the address is in use by pid" in told
    assert "Traceback" not in told


def test_the_master_imports_no_event_loop() -> None:
    program = """
import sys
import shardserve.master.serve, shardserve.observe.logs
print(sorted({"asyncio", "uvloop", "httptools", "shardserve._native"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
