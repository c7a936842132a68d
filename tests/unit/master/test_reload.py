"""How a reload begins, with a valid configuration or not at all; who hears of its end."""

from __future__ import annotations

import pytest

from shardserve.config.model import Config
from shardserve.errors import ConfigError
from shardserve.master.reload import RECYCLE_RETRY_S, ReloadConfig, Roller, Rolling
from shardserve.master.slots import Process, Slot

RUNNING = Config(app="m:app", workers=2)


def begin(reload_config: ReloadConfig | None) -> tuple[Roller, Rolling]:
    roller = Roller(reload_config)
    roller.ask()
    return roller, roller.begin_reload(RUNNING, {1, 0}, 0.0)


def test_without_a_reader_only_the_code_is_new() -> None:
    roller, found = begin(None)
    assert (found.config, found.generation, list(found.queue), found.failure) == (RUNNING, 1, [0, 1], "")
    assert not roller.asked


def test_what_may_change_does_and_what_needs_a_restart_is_named(caplog: pytest.LogCaptureFixture) -> None:
    roller, found = begin(lambda: Config(app="m:other", workers=3, port=9000))
    assert (found.config.app, found.config.workers, found.config.port) == ("m:other", 2, 8000)
    assert "needs a restart: port, workers" in caplog.text
    assert "port, workers" in roller.problem


def test_a_wrong_configuration_is_no_reload(caplog: pytest.LogCaptureFixture) -> None:
    def wrong() -> Config:
        raise ConfigError("port: 70000 is too large")

    roller, found = begin(wrong)
    assert (list(found.queue), found.failure) == ([], "port: 70000 is too large")
    assert "the old configuration stays: port: 70000 is too large" in caplog.text
    roller.end(1.0)
    assert (roller.reloads, roller.failures, roller.problem) == (0, 1, "port: 70000 is too large")
    assert (roller.took_s, roller.reloaded_at) == (1.0, None)


def test_a_reader_that_breaks_does_not_break_the_master(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Config:
        raise OSError("disk on fire")

    _, found = begin(broken)
    assert "disk on fire" in found.failure
    assert "disk on fire" in caplog.text


def test_so_many_at_a_time() -> None:
    rolling = Rolling(RUNNING, 1, Rolling.queue_of(range(5)), parallel=2)
    assert rolling.take() == [0, 1]
    assert rolling.take() == []
    rolling.active.discard(1)
    assert rolling.take() == [2]
    assert rolling.active == {0, 2}


def test_those_who_ask_hear_of_their_own_reload() -> None:
    roller = Roller(None)
    first: list[tuple[str, str]] = []
    second: list[tuple[str, str]] = []
    roller.ask(lambda kind, text: first.append((kind, text)))
    rolling = roller.begin_reload(RUNNING, [0], 7.0)
    roller.ask(lambda kind, text: second.append((kind, text)))  # while it is on its way
    rolling.take()
    roller.replaced(Slot(0), Process(7, 0, 1, started_at=0.0))
    roller.end(9.5)
    assert roller.took_s == 2.5
    assert roller.reloaded_at is not None
    assert first == [("progress", "worker 0 (pid 7) is ready"), ("done", "1 replaced")]
    assert second == []
    assert roller.asked
    roller.begin_reload(RUNNING, [0], 0.0)
    roller.cancel("the server stops")
    assert second == [("failed", "the server stops")]
    assert len(first) == 2


def test_a_replacement_that_does_not_start_is_not_tried_again_at_once() -> None:
    roller, slot = Roller(None), Slot(3)
    rolling = roller.begin_recycling(slot, RUNNING, 0, "lifetime")
    rolling.take()
    roller.abandon(slot, "no database", now=100.0)
    assert slot.recycle_after == 100.0 + RECYCLE_RETRY_S
    roller.end(1.0)
    assert (roller.rolling, roller.failures, roller.reloads, roller.took_s) == (None, 0, 0, None)
