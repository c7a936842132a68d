"""Where the lines of the access log go, and in which format, by the settings."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardserve import _native
from shardserve.config.access_format import Process, compiled
from shardserve.config.model import Config
from shardserve.errors import ConfigError
from shardserve.observe import logs, names
from shardserve.observe.access import AccessLog
from shardserve.observe.formatters import become
from shardserve.observe.line_file import LineFile
from shardserve.observe.syslog import Syslog
from shardserve.worker.access_log import access_log


class Lines:
    """What ``_native.AccessLog`` was given."""

    def __init__(self, program: Any, websocket_program: Any, **options: Any) -> None:
        self.program, self.websocket_program, self.options = program, websocket_program, options

    def flush(self) -> None: ...


@pytest.fixture(autouse=True)
def no_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_native, "AccessLog", Lines)
    yield
    names.reset()
    names.watch(watching=False)
    become(None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def made(**settings: Any) -> AccessLog:
    config = Config("a:b", **settings)
    logs.configure(config, slot=4, stream=io.StringIO())
    access = access_log(config, asyncio.get_running_loop())
    assert access is not None
    return access


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "uvicorn"),
        ({"log_format": "json"}, "json"),
        ({"access_log_format": "json"}, "json"),
        ({"log_format": "json", "access_log_format": "Combined"}, "combined"),
        ({"access_log_format": "%({worker}x)s %(p)s"}, "%({worker}x)s %(p)s"),
    ],
)
async def test_formats(settings: dict[str, Any], text: str) -> None:
    access = await made(**settings)
    wanted = compiled(text, Process(pid=os.getpid(), slot=4))
    assert (access.lines.program, access.lines.websocket_program) == (
        wanted.program,
        wanted.websocket_program,
    )
    assert access.lines.options["json"] is wanted.json


async def test_a_fork_is_a_worker_of_its_own() -> None:
    await made()
    become(7)
    config = Config("a:b", access_log_format="%({worker}x)s")
    access = access_log(config, asyncio.get_running_loop())
    assert access is not None
    assert access.lines.program == (("literal", b"7"),)


async def test_globs_are_bytes_of_the_wire() -> None:
    access = await made(access_log_exclude=("/health*", "/\xe4"), access_log_sample=0.25)
    assert access.lines.options["exclude"] == (b"/health*", b"/\xc3\xa4")
    assert access.lines.options["sample"] == 0.25


async def test_stdout_is_where_lines_go() -> None:
    for target in (None, "-"):
        access = await made(access_log_file=target)
        assert isinstance(access.sink, LineFile)
        assert access.sink.name == "stdout"


async def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    access = await made(access_log_file=str(path))
    assert access.sink.name == str(path)
    access.lines.options["write"](b"a line\n")
    assert path.read_bytes() == b"a line\n"


async def test_a_file_that_cannot_be_had(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "access.log"
    with pytest.raises(ConfigError) as raised:
        await made(access_log_file=str(path))
    assert str(raised.value) == f"access-log-file {path}: No such file or directory"


async def test_syslog(tmp_path: Path) -> None:
    access = await made(access_log_file=f"syslog:{tmp_path}/log")
    assert isinstance(access.sink, Syslog)
    assert access.sink.name == f"syslog at {tmp_path}/log"
    access.close()


@pytest.mark.parametrize(
    ("to_a_file", "use_colors", "coloured"),
    [
        (False, None, True),
        (False, False, False),
        (False, True, True),
        (True, None, False),
        (True, True, False),
    ],
)
async def test_colours_are_for_a_terminal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    to_a_file: bool,
    use_colors: bool | None,
    coloured: bool,
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    target = str(tmp_path / "log") if to_a_file else None
    access = await made(use_colors=use_colors, access_log_file=target)
    assert (("status_text", b"colours") in access.lines.program) is coloured


@pytest.mark.parametrize(
    "settings", [{"access_log": False}, {"log_level": "warning"}, {"log_config": {"version": 1}}]
)
async def test_who_has_none(settings: dict[str, Any], tmp_path: Path) -> None:
    """Its file is not even made."""
    config = Config("a:b", access_log_file=str(tmp_path / "log"), **settings)
    logs.configure(config, stream=io.StringIO())
    assert access_log(config, asyncio.get_running_loop()) is None
    assert not (tmp_path / "log").exists()
