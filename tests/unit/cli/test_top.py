"""``shardserve top``: its command line, what keys and news do, and the thread that asks."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shardserve import commands
from shardserve.cli.top import Watch
from shardserve.cli.top_feed import Feed, Seen
from shardserve.cli.top_table import TREND
from shardserve.cli.top_text import UNICODE
from shardserve.commands import ServerStatus
from shardserve.master.control_socket import Request
from tests.helpers.control_server import ControlServer
from tests.helpers.master_process import until
from tests.unit.cli.top_servers import backoff, server, worker

STATUS = server(worker(0), worker(1, rps=20.0), backoff(2))

Serve = Callable[..., ControlServer]


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which servers are looked for."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(commands, "_OF_ROOT", folder)
    monkeypatch.setattr(commands, "_of_user", lambda uid: tmp_path / "nowhere")
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "SHARDSERVE_CONTROL_SOCKET"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def serve(run_dir: Path) -> Iterator[Serve]:
    """``serve(status, pid=5)``."""
    with ExitStack() as running:

        def start(status: ServerStatus = STATUS, pid: int = 3999) -> ControlServer:
            def answer(request: Request) -> None:
                request.reply(status.to_json())

            return running.enter_context(ControlServer(run_dir / commands.socket_name(pid), answer))

        yield start


# The command line


def test_once(shardserve, serve: Serve) -> None:
    asked = serve().requests
    result = shardserve("top", "--once", env={"LANG": "C.UTF-8"})
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "main:app on http://127.0.0.1:8000, shardserve 1.2.3, pid 3999"
    assert [line.split()[0] for line in lines[4:]] == ["slot", "0", "1", "2"]
    assert "\x1b" not in result.stdout
    assert [request.command for request in asked] == [commands.Status()]


def test_json(shardserve, serve: Serve) -> None:
    serve()
    result = shardserve("top", "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert ServerStatus.from_json(json.loads(result.stdout)) == STATUS


def test_only_ascii_where_the_locale_has_no_more(shardserve, serve: Serve) -> None:
    serve(dataclasses.replace(STATUS, app="mäin:äpp"))
    utf_8 = {"LANG": "en_GB.UTF-8", "LC_ALL": "", "LC_CTYPE": ""}
    assert shardserve("top", "--once", env=utf_8).stdout.startswith("mäin:äpp on ")
    found = shardserve("top", "--once", env={**utf_8, "LANG": "C"}).stdout
    assert found.startswith("m?in:?pp on ")
    assert found.isascii()


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "stdout is no terminal: print one table with --once, or one line of JSON with --json"),
        (["--interval", "0"], "0.0 is not in the range"),
        (["--once", "--pid", "1", "--socket", "x"], "give --socket or --pid, not both"),
    ],
)
def test_a_wrong_command_line(shardserve, run_dir: Path, args: list[str], why: str) -> None:
    result = shardserve("top", *args)
    assert result.exit_code == 2
    assert why in result.stderr


@pytest.mark.parametrize("how", ["--once", "--json"])
def test_no_server(shardserve, run_dir: Path, how: str) -> None:
    result = shardserve("top", how)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no running server was found" in result.stderr


def test_a_server_that_makes_no_sense(shardserve, run_dir: Path) -> None:
    with ControlServer(run_dir / commands.socket_name(1), lambda request: request.reply({"pid": "x"})):
        result = shardserve("top", "--once")
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        "the reply makes no sense: status: pid cannot be 'x'; is the server another version?" in result.stderr
    )


def test_a_server_that_refuses(shardserve, run_dir: Path) -> None:
    with ControlServer(run_dir / commands.socket_name(1), lambda request: request.fail("not\x1b now")):
        result = shardserve("top", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: not\\x1b now\n"


# Keys


@pytest.fixture
def watch() -> Watch:
    watch = Watch(
        Seen(server(*(worker(slot, rps=slot * 10.0) for slot in range(30)))), UNICODE, colours=False
    )
    watch.lines(200, 15)
    return watch


def slots(watch: Watch) -> list[int]:
    """The rows on the screen."""
    lines = watch.lines(200, 15)
    return [int(line.split()[0]) for line in lines if line[:4].strip().isdecimal()]


def test_scrolling(watch: Watch) -> None:
    page = len(slots(watch))
    assert slots(watch) == list(range(page))
    for key, first in (
        ("down", 1), ("j", 2), ("up", 1), ("k", 0), ("up", 0), ("page down", page), ("page down", 2 * page),
        ("page up", page), ("end", 30 - page), ("down", 30 - page), ("home", 0), ("G", 30 - page), ("g", 0),
    ):  # fmt: skip
        watch.pressed(key)
        assert slots(watch)[0] == first, key


def test_sorting(watch: Watch) -> None:
    watch.pressed("5")
    assert watch.view.sort == "req/s"
    assert slots(watch)[:2] == [29, 28]
    watch.pressed("r")
    assert slots(watch)[:2] == [0, 1]
    watch.pressed("s")
    assert (watch.view.sort, watch.view.turned) == ("p50", False)
    watch.pressed("S")
    assert watch.view.sort == "req/s"
    for _ in range(9):
        watch.pressed("s")
    assert watch.view.sort == "restarts"
    watch.pressed("s")
    assert watch.view.sort == "slot"
    watch.pressed("S")
    assert watch.view.sort == "restarts"


def test_sorting_is_by_what_is_on_the_screen(watch: Watch) -> None:
    watch.lines(20, 15)
    watch.pressed("2")
    assert watch.view.sort == "req/s"
    watch.pressed("9")  # there is none
    assert watch.view.sort == "req/s"
    watch.view.sort = "rss"  # it was sorted by that when there was room
    watch.pressed("s")
    assert watch.view.sort == "slot"


def test_paused_is_as_it_was(watch: Watch) -> None:
    before = watch.lines(200, 15)
    watch.pressed("p")
    watch.news(Seen(STATUS))
    assert watch.lines(200, 15)[:-1] == before[:-1]
    watch.pressed(" ")
    watch.news(Seen(STATUS))
    assert slots(watch) == [0, 1, 2]


def test_keys_without_a_meaning(watch: Watch) -> None:
    before = watch.lines(200, 15)
    for key in ("x", "\x00", "0", "\xff", "[", "\r", "\n"):
        watch.pressed(key)
    assert watch.lines(200, 15) == before


def test_trends_are_of_processes(watch: Watch) -> None:
    """A successor begins anew; one that is not looked at again has no further bar."""
    for rate in range(1, TREND + 5):
        watch.news(Seen(server(worker(0, rps=float(rate)))))
    last = watch.seen
    assert watch.view.trends == {(0, 4000): [float(rate) for rate in range(5, TREND + 5)]}
    watch.news(Seen(last.status, "no news"))
    assert watch.view.problem == "no news"
    assert len(watch.view.trends[0, 4000]) == TREND
    assert watch.view.trends[0, 4000][-1] == TREND + 4.0
    watch.news(Seen(server(worker(0, pid=77, rps=3.0))))
    assert watch.view.trends == {(0, 77): [3.0]}


# The thread that asks


@pytest.fixture
def feed_of() -> Iterator[Callable[..., Feed]]:
    """``feed_of(path, socket, pid, seen)``, which asks all the time."""
    with ExitStack() as stack:

        def start(path: Path, *, pid: int | None = None, socket: str | None = None, seen: Seen) -> Feed:
            feed = Feed(str(path), socket, pid, seen, 0.01, threading.Event().set)
            stack.callback(feed.stop)
            feed.start()
            return feed

        yield start


def test_news_come_and_stay_away(run_dir: Path, serve: Serve, feed_of: Callable[..., Feed]) -> None:
    before = server()
    first = serve()
    feed = feed_of(first.path, seen=Seen(before))
    until(lambda: feed.seen.status == STATUS, "a newer status")
    assert feed.seen.problem == ""
    first.end()
    until(lambda: feed.seen.problem, "a problem")
    assert feed.seen.status == STATUS
    assert feed.seen.problem == "no news for 0 s, trying again: no running server was found"
    another = dataclasses.replace(STATUS, pid=5, app="other:app")
    serve(another, 5)
    until(lambda: feed.seen == Seen(another), "the one that is started next")


def test_the_successor_of_one_that_was_named_has_its_address(
    run_dir: Path, serve: Serve, feed_of: Callable[..., Feed]
) -> None:
    serve(dataclasses.replace(STATUS, pid=6, urls=["http://127.0.0.1:9999"]), 6)
    feed = feed_of(run_dir / "gone", pid=3999, seen=Seen(STATUS))
    until(lambda: feed.seen.problem, "a problem")
    assert feed.seen.problem.endswith("no server with pid 3999 was found")
    heir = dataclasses.replace(STATUS, pid=7)
    serve(heir, 7)
    until(lambda: feed.seen == Seen(heir), "its heir")


def test_a_socket_that_was_named_is_the_only_one(
    run_dir: Path, serve: Serve, feed_of: Callable[..., Feed]
) -> None:
    serve()
    path = run_dir / "mine.sock"
    feed = feed_of(path, socket=str(path), seen=Seen(STATUS))
    until(lambda: feed.seen.problem, "a problem")
    assert f"there is no control socket {path}" in feed.seen.problem
