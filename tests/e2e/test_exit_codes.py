"""A server that cannot start says why, once, in words; ends with the promised code; leaves no process."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

import shardserve
from tests.helpers.server import Ended, Serve

TWO = ("--workers", "2")


def refused(folder: Path, app: str | None, *flags: str, code: int) -> Ended:
    """Start it: it must end with this code, one complaint and nothing left."""
    ended = Ended(folder, app, *flags)
    assert ended.code == code, ended.text
    assert ended.left == []
    assert len(re.findall(r"^(?:CRITICAL|Error):", ended.text, re.MULTILINE)) == 1, ended.text
    assert "ready:" not in ended.text
    return ended


# 3: the app did not start


@pytest.mark.parametrize(
    ("app", "text"),
    [
        ("nowhere:app", 'module "nowhere" of "nowhere:app" was not found in '),
        ("nowhere.deep:app", 'module "nowhere" of "nowhere.deep:app" was not found in '),
        ("prob:app", 'near it: "probe"'),
        ("probe:ap", 'module "probe" has no attribute "ap" (from "probe:ap"); near it: "app"'),
        ("probe:NOTES", "which cannot be called"),
        ("operator:add", "takes two arguments, like a WSGI app"),
        ("refuses:app", "the app refused to start (lifespan.startup.failed): the database is away"),
    ],
)
def test_an_app_that_is_not_there(tmp_path: Path, app: str, text: str) -> None:
    ended = refused(tmp_path, app, *TWO, code=3)
    assert ended.text.count(text) == 1, ended.text
    assert ended.tracebacks == 0


@pytest.mark.parametrize(
    ("app", "flags", "text"),
    [
        ("missing_dependency:app", (), "No module named 'not_installed_anywhere'"),
        ("probe:broken", ("--lifespan", "on"), "RuntimeError: the bug in the startup"),
        ("broken_code:app", (), "SyntaxError: "),
        ("raises:app", (), "ZeroDivisionError: division by zero"),
        ("raises:make", ("--factory",), "ZeroDivisionError: division by zero"),
    ],
)
def test_an_app_with_a_bug_shows_one_traceback(
    tmp_path: Path, app: str, flags: tuple[str, ...], text: str
) -> None:
    (tmp_path / "broken_code.py").write_text("def app(:\n")
    (tmp_path / "raises.py").write_text("def make():\n    1 / 0\nif __name__ == 'raises':\n    1 / 0\n")
    found_in = {} if app.startswith(("missing", "probe")) else {"app_dir": tmp_path}
    ended = Ended(tmp_path, app, *TWO, *flags, **found_in)
    assert ended.code == 3, ended.text
    assert ended.left == []
    assert ended.text.count(text) == 1, ended.text
    assert ended.tracebacks <= 1
    assert str(Path(shardserve.__file__).parent) not in ended.text  # the app's frames only
    assert len(re.findall(r"^CRITICAL:", ended.text, re.MULTILINE)) == 1


def test_a_worker_that_dies_at_import(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("import os\nos._exit(9)\n")
    ended = Ended(tmp_path, "dies:app", *TWO, app_dir=tmp_path)
    assert (ended.code, ended.left, ended.tracebacks) == (3, [], 0)
    assert ended.text.count("exit code 9") == 1


def test_one_worker_that_fails_ends_those_that_started(tmp_path: Path) -> None:
    """The app starts once and never again: as when a port or a lock of its own is taken."""
    (tmp_path / "once.py").write_text(
        "import pathlib\n"
        "pathlib.Path('lock').touch(exist_ok=False)\n"
        "async def app(scope, receive, send): ...\n"
    )
    ended = Ended(tmp_path, "once:app", *TWO, app_dir=tmp_path)
    assert (ended.code, ended.left) == (3, [])
    assert ended.text.count("FileExistsError") == 1
    assert ended.tracebacks == 1


# 2: the command line or the configuration


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--prot", "1"), "No such option"),
        (("--workers", "many"), "flag --workers: workers: "),
        (("--workers", "0"), "flag --workers: workers: "),
        (("--lifespan", "maybe"), "flag --lifespan: lifespan: "),
        (("--header", "no colon"), "flag --header: headers: "),
        (("--header", "Content-Length: 3"), "frames the message"),
        (("--config", "nowhere.toml"), "there is no such file"),
        (("--log-level",), "requires an argument"),
    ],
)
def test_a_bad_flag(tmp_path: Path, flags: tuple[str, ...], text: str) -> None:
    ended = Ended(tmp_path, "probe:app", *flags, choose_port=False, app_dir=None)
    assert (ended.code, ended.left, ended.tracebacks) == (2, [], 0), ended.text
    assert text in ended.text


@pytest.mark.parametrize(
    ("app", "text"),
    [(None, "there is no APP to serve"), ("probe", 'for example "probe:app"'), ("probe.py:app", "is a file")],
)
def test_a_bad_app_string(tmp_path: Path, app: str | None, text: str) -> None:
    ended = Ended(tmp_path, app)
    assert (ended.code, ended.left, ended.tracebacks) == (2, [], 0), ended.text
    assert text in ended.text


def test_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "shardserve.toml").write_text("workers = 2\nworkers = 3\n")
    ended = refused(tmp_path, "probe:app", code=2)
    assert "shardserve.toml:2: workers is set twice; it is also on line 1" in ended.text
    assert ended.tracebacks == 0


# 1: the address


@pytest.mark.parametrize("reuseport", [False, True])
def test_a_port_in_use(tmp_path: Path, reuseport: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=reuseport) as mine:
        port = mine.getsockname()[1]
        ended = refused(tmp_path, "probe:app", *TWO, "--port", str(port), code=1)
    assert f"127.0.0.1:{port}: the address is in use by pid {os.getpid()} (" in ended.text
    assert ended.tracebacks == 0


def test_a_second_server_on_the_same_port(serve: Serve, tmp_path: Path) -> None:
    server = serve("probe:app", *TWO)
    ended = refused(tmp_path, "probe:app", *TWO, "--port", str(server.port), code=1)
    # Not one of the workers, which have the same sockets: they come and go.
    assert f"in use by pid {server.pid} (" in ended.text


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--host", "192.0.2.1"), "no interface of this host has that address"),
        (("--host", "a..b"), "does not resolve"),
        (("--uds", "/nowhere/s.sock"), "No such file or directory"),
    ],
)
def test_an_address_that_cannot_be_had(tmp_path: Path, flags: tuple[str, ...], text: str) -> None:
    ended = refused(tmp_path, "probe:app", *flags, code=1)
    assert text in ended.text
    assert ended.tracebacks == 0


# 0: help and version are no failures


@pytest.mark.parametrize(("flag", "text"), [("--help", "--workers INTEGER"), ("--version", "shardserve 0.")])
def test_questions_are_answered(tmp_path: Path, flag: str, text: str) -> None:
    ended = Ended(tmp_path, None, flag, choose_port=False, app_dir=None)
    assert (ended.code, ended.text) == (0, "")
    assert text in ended.out
