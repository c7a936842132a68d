"""A master that only writes down how it was called, and loggers that no test leaves changed for the next."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from shardserve.config.model import Config
from shardserve.errors import StartupError
from shardserve.integrations import keywords
from shardserve.observe import names


@dataclass
class FakeMaster:
    calls: list[Config] = field(default_factory=list)
    exit_code: int = 0
    error: StartupError | None = None

    def serve(self, config: Config) -> int:
        self.calls.append(config)
        if self.error is not None:
            raise self.error
        return self.exit_code


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> FakeMaster:
    fake = FakeMaster()
    module = ModuleType("shardserve.master.serve")
    module.serve = fake.serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shardserve.master.serve", module)
    return fake


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SHARDSERVE_", "UVICORN_")) or name in ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(keywords, "_told", set())


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (*names.OUR_LOGGERS, *names.THEIR_LOGGERS)]
    before = [(one, list(one.handlers), one.level, one.propagate, one.disabled) for one in loggers]
    yield
    names.watch(watching=False)
    for one, handlers, level, propagate, disabled in before:
        one.handlers[:], one.propagate, one.disabled = handlers, propagate, disabled
        one.setLevel(level)
