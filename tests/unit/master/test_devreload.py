"""The developer's loop, turn by turn, with played workers and a watcher that the test speaks for.

Real processes and files: tests/e2e/test_dev_reload.py.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardserve import control
from shardserve.config.addresses import TcpBind
from shardserve.config.model import Config
from shardserve.errors import ConfigError
from shardserve.master import devreload, nursery, supervisor
from shardserve.master.affinity import Cores
from shardserve.master.devreload import DevSupervisor, Watcher, order_for, settled
from shardserve.master.notify import Notifier
from shardserve.master.nursery import Nursery
from shardserve.master.outside import Outside
from shardserve.master.report import worker_statuses
from shardserve.master.signals import Signals
from shardserve.master.slots import State
from shardserve.master.spares import Spares
from shardserve.master.spawn import Worker
from shardserve.master.supervisor import Phase
from shardserve.net.listeners import Listeners
from shardserve.stats import Stage as StageOfWorker
from tests.helpers.master_process import until
from tests.unit.master.test_supervisor import Played

CONFIG = settled(Config(app="m:app", reload=True, control_socket="off"))


# The settings


def test_without_reload_nothing_is_different() -> None:
    config = Config(app="m:app")
    assert settled(config, terminal=True) is config


def test_a_developer_waits_for_nothing_and_debugs_as_long_as_needed() -> None:
    config = settled(Config(app="m:app", reload=True, timeout_graceful_shutdown_s=600.0))
    assert config.timeout_graceful_shutdown_s == devreload.GRACE_S
    assert (config.timeout_drain_idle_s, config.timeout_drain_streams_s) == (0.0, 0.0)
    assert (config.timeout_worker_healthcheck_s, config.timeout_worker_startup_s) == (0.0, 0.0)
    assert config.loop_lag_warn_s == 1.0
    assert settled(config, terminal=True).loop_lag_warn_s == 0.0
    assert settled(replace(config, timeout_graceful_shutdown_s=0.5)).timeout_graceful_shutdown_s == 0.5


def test_what_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARDSERVE_CONFIG", raising=False)
    (tmp_path / "templates").mkdir()
    here = str(tmp_path)
    config = Config(app="m:app", reload=True)
    assert order_for(config) == {
        "directory": here, "roots": [here], "files": [f"{here}/shardserve.toml"], "includes": [],
        "excludes": [], "delay_s": 0.25,
    }  # fmt: skip
    assert order_for(replace(config, app_dir="src"))["roots"] == [here, f"{here}/src"]
    assert order_for(replace(config, app_dir="."))["roots"] == [here]
    assert order_for(replace(config, app_dir="src", reload_dirs=("lib", "lib/")))["roots"] == [f"{here}/lib"]
    including = replace(config, reload_includes=("*.html", "templates"))
    assert order_for(including)["roots"] == [here, f"{here}/templates"]  # Uvicorn takes directories there
    found = order_for(replace(config, env_file=".env"), Path("/etc/app.toml"))["files"]
    assert found == ["/etc/app.toml", f"{here}/.env"]


# The loop


class FakeWatcher(Watcher):
    """Says what the test says."""

    def __init__(self) -> None:
        super().__init__({})
        self.changed: list[str] = []

    def turn(self, now: float) -> list[str]:
        found, self.changed = self.changed, []
        return found


class Stage:
    """A developer's supervisor with played workers and spares."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, signals: Signals, listeners: Listeners) -> None:
        self.played: list[Played] = []
        self.spares: list[Played] = []
        self.fresh_config: Callable[[], Config] = lambda: CONFIG
        monkeypatch.setattr(nursery, "start_worker", self._start)
        monkeypatch.setattr(nursery, "start_silently", self._start_silently)
        monkeypatch.setattr(supervisor.logs, "configure", lambda config: None)
        self.watcher = FakeWatcher()
        self.nursery = Nursery(listeners, Cores((0, 1)))
        self.supervisor = DevSupervisor(
            CONFIG, listeners, self.nursery, signals, Outside(CONFIG, notifier=Notifier(None)),
            watcher=self.watcher, reload_config=lambda: self.fresh_config(),
        )  # fmt: skip
        self.now = 0.0

    def _start(self, start: control.Start, now: float, **_: Any) -> Worker:
        self.played.append(Played(start))
        return self._worker(self.played[-1])

    def _start_silently(self, *, name: str, **_: Any) -> Worker:
        self.spares.append(Played(control.Start(int(name.split()[1]), 0, None, {})))
        return self._worker(self.spares[-1])

    @staticmethod
    def _worker(played: Played) -> Worker:
        return Worker(played, played.channel, played.page)

    def begin(self, workers: int) -> None:
        self.supervisor.wanted = workers
        self.supervisor._add_slots(self.now)

    def serving(self, workers: int) -> list[Played]:
        self.begin(workers)
        for one in self.played:
            one.is_ready()
        self.turn()
        assert self.supervisor.phase is Phase.SERVING
        return self.played[:]

    def turn(self, *changed: str, at: float | None = None) -> list[Played]:
        """One turn; returns the workers that it started anew."""
        before = len(self.played)
        self.now = self.now if at is None else at
        self.watcher.changed += changed
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
    made.nursery.spares.close()
    listeners.close()
    for worker in [*made.played, *made.spares]:
        worker.pipe.close()
        worker.channel.close()
        worker.page.close()


def fails(worker: Played, text: str = "SyntaxError") -> None:
    worker.says(control.Failed("import", text))


def said(caplog: pytest.LogCaptureFixture) -> str:
    """What is shown at the usual level."""
    return "\n".join(one.getMessage() for one in caplog.records if one.levelno >= logging.INFO)


def drains(worker: Played) -> bool:
    return any(isinstance(message, control.Drain) for message in worker.heard())


def test_a_change_replaces_all_workers_at_once(stage: Stage) -> None:
    old = stage.serving(2)
    new = stage.turn("main.py")
    assert stage.states == [State.RELOADING] * 2
    assert not any(map(drains, old))  # they serve
    new[0].is_ready()
    stage.turn()
    assert [drains(one) for one in old] == [True, False]
    new[1].is_ready()
    stage.turn()
    assert stage.states == [State.READY] * 2
    assert drains(old[1])
    assert stage.supervisor.roller.reloads == 1


def test_a_change_during_a_reload_overtakes_it(stage: Stage) -> None:
    old = stage.serving(2)
    second = stage.turn("main.py")
    second[0].page["stage"] = StageOfWorker.IMPORTING
    third = stage.turn("main.py")
    assert len(third) == 2
    assert second[0].killed  # it cannot hear
    assert second[1].heard() == [control.Stop()]
    second[1].is_ready()  # too late
    stage.turn()
    assert not any(map(drains, old))
    for one in third:
        one.is_ready()
    stage.turn()
    assert all(map(drains, old))
    assert [slot.current is not None for slot in stage.supervisor.slots.values()] == [True, True]
    assert {slot.current.pid for slot in stage.supervisor.slots.values() if slot.current} == {
        one.pid for one in third
    }


def test_what_does_not_start_is_shown_once_and_not_tried_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.begin(2)
    for one in stage.played:
        fails(one)
        one.ends(3)
    stage.turn()
    assert stage.turn(at=1000.0) == []
    assert said(caplog).count("SyntaxError") == 1
    assert "connections wait until there is an app" in said(caplog)
    assert (stage.supervisor.phase, stage.states) == (Phase.STARTING, [State.BACKOFF] * 2)
    assert [one.note for one in worker_statuses(stage.supervisor, 0.0)] == ["waits for changes"] * 2
    assert stage.supervisor._deadlines(1000.0)[0] is None  # nothing to wake up for
    stage.turn("main.py")
    for spare in stage.spares[:2]:  # they were there for it
        [word] = spare.heard()
        assert isinstance(word, control.Start)
        spare.is_ready()
    stage.turn()
    assert stage.supervisor.phase is Phase.SERVING


def test_a_failed_reload_leaves_the_old_ones_and_the_next_failure_is_shown(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    old = stage.serving(2)
    for number in (1, 2):
        new = stage.turn("main.py") or stage.spares[-2:]
        for one in new:
            one.heard()
            fails(one, f"mistake {number}")
            one.ends(3)
        stage.turn()
        assert stage.states == [State.READY] * 2
        assert said(caplog).count(f"mistake {number}") == 1
    assert "the old code serves on" in said(caplog)
    assert not any(map(drains, old))
    assert stage.supervisor.roller.failures == 2
    assert stage.supervisor.roller.rolling is None


def test_a_worker_that_ends_is_started_again_but_not_into_the_same_failure(stage: Stage) -> None:
    [worker] = stage.serving(1)
    worker.ends(1)
    [again] = stage.turn()
    fails(again)
    again.ends(3)
    stage.turn()
    assert stage.states == [State.BACKOFF]
    assert stage.turn(at=1000.0) == []


def test_settings_that_cannot_be_read_change_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Config:
        raise ConfigError("line 1")

    [old] = stage.serving(1)
    stage.fresh_config = broken
    assert stage.turn("shardserve.toml") == []
    assert "not reloading, the old configuration stays: line 1" in caplog.text
    assert (stage.states, drains(old)) == ([State.READY], False)
    stage.fresh_config = lambda: CONFIG
    assert len(stage.turn("shardserve.toml")) == 1


def test_changes_while_it_stops_are_of_no_interest(stage: Stage) -> None:
    stage.serving(1)
    stage.supervisor.ask_stop()
    stage.turn()
    assert stage.turn("main.py") == []


# Spares


def test_a_spare_is_started_after_its_worker_and_becomes_the_next_one(stage: Stage) -> None:
    stage.serving(1)
    stage.turn(at=devreload.SPARE_AFTER_S / 2)
    assert stage.spares == []
    stage.turn(at=devreload.SPARE_AFTER_S)
    stage.turn(at=devreload.SPARE_AFTER_S * 2)
    [spare] = stage.spares
    assert spare.heard() == []
    assert stage.turn("main.py") == []  # none but the spare
    [word] = spare.heard()
    assert isinstance(word, control.Start)
    assert (word.slot, word.page_fd) == (0, spare.page.fd)
    spare.is_ready()
    stage.turn()
    assert stage.states == [State.READY]


def test_spares_go_with_their_slots_and_at_the_stop(stage: Stage) -> None:
    stage.serving(2)
    stage.turn(at=1.0)
    first, second = stage.spares
    stage.supervisor.wanted = 1
    stage.turn()
    stage.turn()
    assert (first.killed, second.killed) == (False, True)
    stage.supervisor.ask_stop()
    stage.turn()
    assert first.killed


def test_a_spare_that_died_is_not_used_and_one_that_cannot_start_is_no_error() -> None:
    made: list[Played] = []

    def make(slot: int, sockets: Any, core: int | None) -> Worker:
        if len(made) == 1:
            raise OSError("no memory")
        made.append(Played(control.Start(slot, 0, core, {})))
        return Worker(made[0], made[0].channel, made[0].page)

    spares = Spares(make)
    spares.keep(0, [], None)
    spares.keep(0, [], None)
    made[0].ends(1)
    spares.keep(0, [], None)  # not again and again, should it never live
    assert len(made) == 1
    start = control.Start(0, 1, None, {})
    assert spares.take(start, 0.0) is None
    spares.keep(0, [], None)
    assert spares.take(start, 0.0) is None


# The watcher's process


def program(text: str) -> tuple[str, ...]:
    return (
        sys.executable,
        "-c",
        f"import json, os, socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\n{text}",
    )


@pytest.fixture
def watching() -> Iterator[Callable[..., Watcher]]:
    made: list[Watcher] = []

    def start(text: str) -> Watcher:
        made.append(Watcher({"roots": ["/w"]}, command=program(text)))
        made[-1].start(0.0)
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_what_the_watcher_says(watching: Callable[..., Watcher], caplog: pytest.LogCaptureFixture) -> None:
    watcher = watching(
        "order = json.loads(s.recv(9999))\n"
        "for kind, text in ('watching', str(order)), ('problem', 'a limit'), ('changed', 'a\\nb.py'):\n"
        "    s.send(json.dumps({'kind': kind, 'text': text}).encode())\n"
        "s.recv(1)"
    )
    changed: list[str] = []
    with caplog.at_level(logging.INFO):
        until(lambda: changed.extend(watcher.turn(0.0)) or changed, "the change")
    assert changed == ["a\\x0ab.py"]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "--reload: watching {'roots': ['/w']}"),
        ("WARNING", "--reload: a limit"),
    ]
    assert len(watcher.watched()) == 1
    watcher.close()
    assert watcher.watched() == []


def test_a_watcher_that_ends_is_started_again_a_moment_later(
    watching: Callable[..., Watcher], caplog: pytest.LogCaptureFixture
) -> None:
    watcher = watching("sys.exit(7)")
    until(lambda: watcher.turn(5.0) or watcher.retry_at, "its end to be seen")
    assert "the watcher ended (exit code 7)" in caplog.text
    assert (watcher.retry_at, watcher.watched()) == (5.0 + devreload.WATCHER_RETRY_S, [])
    watcher.turn(5.5)
    assert watcher.watched() == []
    watcher.turn(6.0)
    assert (watcher.retry_at, len(watcher.watched())) == (None, 1)


def test_a_watcher_that_cannot_be_started_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher({}, command=("/nowhere/python",))
    watcher.start(1.0)
    assert "cannot start the watcher" in caplog.text
    assert (watcher.retry_at, watcher.watched()) == (1.0 + devreload.WATCHER_RETRY_S, [])
    watcher.close()
    assert watcher.retry_at is None


# The terminal


def test_only_one_worker_in_the_foreground_gets_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devreload.os, "isatty", lambda fd: True)
    monkeypatch.setattr(devreload.os, "tcgetpgrp", lambda fd: os.getpgrp())
    assert devreload.has_terminal(1)
    assert not devreload.has_terminal(2)
    monkeypatch.setattr(devreload.os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)
    assert not devreload.has_terminal(1)  # a job in the background
    monkeypatch.setattr(devreload.os, "isatty", lambda fd: False)
    assert not devreload.has_terminal(1)
