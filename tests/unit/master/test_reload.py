"""How a reload begins: with a valid configuration or not at all."""

from __future__ import annotations

import pytest

from shardserve.config.model import Config
from shardserve.errors import ConfigError
from shardserve.master import reload
from shardserve.master.reload import ReloadConfig

RUNNING = Config(app="m:app", workers=2)


def begin(reload_config: ReloadConfig | None) -> reload.Reload | None:
    return reload.begin(RUNNING, reload_config, generation=4, slots={1, 0})


def test_without_a_reader_only_the_code_is_new() -> None:
    found = begin(None)
    assert found is not None
    assert (found.config, found.generation, list(found.queue), found.slot) == (RUNNING, 4, [0, 1], None)


def test_what_may_change_does_and_what_needs_a_restart_is_named(caplog: pytest.LogCaptureFixture) -> None:
    found = begin(lambda: Config(app="m:other", workers=3, port=9000))
    assert found is not None
    assert (found.config.app, found.config.workers, found.config.port) == ("m:other", 2, 8000)
    assert "needs a restart: port, workers" in caplog.text


def test_a_wrong_configuration_is_no_reload(caplog: pytest.LogCaptureFixture) -> None:
    def wrong() -> Config:
        raise ConfigError("port: 70000 is too large")

    assert begin(wrong) is None
    assert "the old configuration stays: port: 70000 is too large" in caplog.text


def test_a_reader_that_breaks_does_not_break_the_master(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Config:
        raise OSError("disk on fire")

    assert begin(broken) is None
    assert "disk on fire" in caplog.text
