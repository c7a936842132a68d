"""A master that only writes down how it was called, and a command line without surroundings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from shardserve.cli import main
from shardserve.config.model import Config
from shardserve.errors import StartupError


@dataclass
class FakeMaster:
    calls: list[tuple[Config, Callable[[], Config] | None]] = field(default_factory=list)
    exit_code: int = 0
    error: StartupError | None = None

    def serve(
        self,
        config: Config,
        reload_config: Callable[[], Config] | None = None,
        *,
        settings_file: Path | None = None,
    ) -> int:
        self.calls.append((config, reload_config))
        if self.error is not None:
            raise self.error
        return self.exit_code

    @property
    def config(self) -> Config:
        [(config, _)] = self.calls
        return config


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> FakeMaster:
    fake = FakeMaster()
    module = ModuleType("shardserve.master.serve")
    module.serve = fake.serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shardserve.master.serve", module)
    return fake


@pytest.fixture
def shardserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run the command in an empty directory, in an environment without what would configure it."""
    for name in list(os.environ):
        others = ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "PORT", "NO_COLOR")
        if name.startswith(("SHARDSERVE_", "UVICORN_")) or name in others:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def invoke(*args: str, env: dict[str, str] | None = None) -> Result:
        result = CliRunner().invoke(main, args, env=env, prog_name="shardserve")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
