"""``shardserve top`` on a real terminal, of real servers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardserve.cli.top_terminal import ENTER, LEAVE
from tests.helpers.load import Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, ServerProcess, clean_environment
from tests.helpers.terminal import Terminal

TOP = [sys.executable, "-m", "shardserve", "top"]
TWO = ("--workers", "2", "--no-access-log")

Watch = Callable[..., Terminal]


def environment(runtime: Path, **extra: str) -> dict[str, str]:
    return clean_environment(**{"RUNTIME_DIRECTORY": str(runtime), "LANG": "C.UTF-8", **extra})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server"), "faulty:app", *TWO) as server:
        yield server


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """``watch(server, *flags)``: ``top`` on a terminal, once it shows the server's workers."""
    with ExitStack() as stack:

        def start(
            server: ServerProcess, *flags: str, env: dict[str, str] | None = None, **how: Any
        ) -> Terminal:
            which = () if {"--socket", "--pid"} & set(flags) else of(server)
            command = [*TOP, "--interval", "0.2", *which, *flags]
            terminal = Terminal(
                command, env=environment(server.runtime, **(env or {})), folder=tmp_path, **how
            )
            stack.enter_context(terminal)
            terminal.shows(r"^slot ")
            return terminal

        yield start


def of(server: ServerProcess) -> tuple[str, str]:
    """The flags that name it: others may run here as well."""
    [socket] = server.runtime.glob("*.sock")
    return "--socket", str(socket)


def rows(frame: list[str]) -> list[dict[str, str]]:
    """The table, by title."""
    at = next(number for number, line in enumerate(frame) if line.startswith("slot "))
    edges = [
        (found[0].strip(), found.start(), found.end())
        for found in re.finditer(r" *\S+(?: flight)?", frame[at])
    ]
    words = ("state", "trend", "note")  # which begin where their titles do
    table = []
    for line in frame[at + 1 : -1]:
        if line:
            row = {}
            for number, (title, start, end) in enumerate(edges):
                start += (
                    len(frame[at][start:end]) - len(frame[at][start:end].lstrip()) if title in words else 0
                )
                after = edges[number + 1][1] if number + 1 < len(edges) and title in words else end
                row[title] = line[start : after if title in words else end].strip()
            table.append(row)
    return table


def restored(terminal: Terminal) -> None:
    """As if nothing had been."""
    assert terminal.out.count(ENTER) == terminal.out.count(LEAVE) == 1
    assert terminal.out.endswith(LEAVE)
    assert terminal.modes() == terminal.modes_before


def run(server: ServerProcess, *flags: str) -> subprocess.CompletedProcess[str]:
    """``top`` in a pipe."""
    return subprocess.run(
        [*TOP, *of(server), *flags], env=environment(server.runtime), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False,
    )  # fmt: skip


def test_every_worker_and_what_it_does(serve: Serve, watch: Watch) -> None:
    server = serve("faulty:app", "--workers", "3", "--no-access-log")
    terminal = watch(server, columns=160)
    first = terminal.frame
    assert first[0].startswith(f"faulty:app on {server.url} ")
    assert first[0].endswith(f", pid {server.pid}")
    assert "3 of 3 workers ready" in first[1]
    assert {int(row["pid"]) for row in rows(first)} == server.pids()
    assert {row["state"] for row in rows(first)} == {"ready"}
    with Load.mixed(server.port, kept=8):
        busy = terminal.shown(
            lambda frame: all(float(row["req/s"].replace(",", "")) > 0 for row in rows(frame)),
            "a rate of every worker",
        )
        cores = {psutil.Process(int(row["pid"])).cpu_affinity()[0] for row in rows(busy)}  # type: ignore[index]
        assert {int(row["core"]) for row in rows(busy)} == cores
        terminal.shown(lambda frame: all("%" in row["cpu"] for row in rows(frame)), "CPU of every worker")
        terminal.shown(lambda frame: any(re.search("[▂-█]", row["trend"]) for row in rows(frame)), "a trend")
        terminal.shown(lambda frame: not frame[2].startswith("0.0 req/s"), "a rate of all")
    terminal.shown(lambda frame: frame[2].startswith("0.0 req/s"), "the end of the load")
    terminal.press("q")
    assert terminal.ended() == 0
    restored(terminal)


def test_what_is_in_flight(server: ServerProcess, watch: Watch, notes: Path) -> None:
    terminal = watch(server)
    go = notes / "go"
    with Load(lambda: fresh(server.port, f"/hold?{go}")):
        try:
            terminal.shown(
                lambda frame: sum(int(row["in flight"]) for row in rows(frame)) == 1, "one in flight"
            )
        finally:
            go.touch()


def test_a_change_of_size(server: ServerProcess, watch: Watch) -> None:
    terminal = watch(server, columns=160, lines=30)
    assert "trend" in rows(terminal.frame)[0]
    terminal.resize(60, 12)
    small = terminal.shown(lambda frame: len(frame) == 12, "12 lines")
    assert max(map(len, small)) <= 60
    assert "trend" not in rows(small)[0]
    assert len(rows(small)) == 2
    terminal.resize(160, 40)
    assert "trend" in rows(terminal.shown(lambda frame: len(frame) == 40, "40 lines"))[0]


def test_keys(server: ServerProcess, watch: Watch) -> None:
    terminal = watch(server)
    terminal.press("r")
    turned = terminal.shows("by slot, highest first")
    assert [row["slot"] for row in rows(turned)] == ["1", "0"]
    terminal.press("s")
    terminal.shows("by core, lowest first|by pid, lowest first")
    terminal.press("p")
    terminal.shows("paused")
    terminal.press("?")
    terminal.shows("this help")
    terminal.press("hp\x1b")  # an Escape alone is nothing, and swallows nothing
    terminal.shown(lambda frame: "paused" not in frame[-1] and "slot" in frame[4], "the table again")
    terminal.press("q")
    assert terminal.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_it_leaves_the_terminal_as_it_was(
    server: ServerProcess, watch: Watch, number: signal.Signals
) -> None:
    terminal = watch(server)
    assert terminal.modes() != terminal.modes_before
    if number is signal.SIGINT:
        terminal.press("\x03")
    else:
        terminal.send(number)
    assert terminal.ended() == 0
    restored(terminal)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_suspended_and_continued_by_a_shell(server: ServerProcess, tmp_path: Path) -> None:
    env = environment(server.runtime, PS1="prompt> ")
    with Terminal(["/bin/bash", "--norc", "--noprofile", "-i"], env=env, folder=tmp_path) as terminal:
        terminal.saw("prompt> ")
        terminal.press(f"{' '.join([*TOP, *of(server)])} --interval 0.2\n")
        terminal.shows("^slot ")
        terminal.press("\x1a")
        terminal.saw(r"Stopped")
        assert terminal.out.rindex(LEAVE) < terminal.out.rindex("Stopped")
        since = len(terminal.out)
        terminal.press("fg\n")
        terminal.saw(re.escape(ENTER), since=since)
        terminal.saw(r"\x1b\[H(?!\x1b\[2J)", since=terminal.out.rindex(ENTER))
        terminal.press("q")
        terminal.saw(r"prompt> ", since=terminal.out.rindex(ENTER))
        terminal.press("echo code $?\nexit\n")
        terminal.saw("code 0")
        assert terminal.ended() == 0
        assert terminal.out.count(ENTER) == terminal.out.count(LEAVE) == 2


def test_no_colours(server: ServerProcess, watch: Watch) -> None:
    assert "\x1b[32m" in watch(server).saw("ready")  # green
    terminal = watch(server, env={"NO_COLOR": "1"})
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.out)


def test_a_terminal_that_has_only_ascii(server: ServerProcess, watch: Watch) -> None:
    terminal = watch(server, env={"LANG": "C", "LC_ALL": "C"}, columns=160)
    with Load.mixed(server.port):
        terminal.shown(
            lambda frame: any(re.search(r"[+*%#]", row["trend"]) for row in rows(frame)), "a trend"
        )
    assert terminal.out.isascii()


# Servers that go, and come again


@pytest.fixture
def socket() -> Iterator[str]:
    """A path for a control socket, short enough for one."""
    with tempfile.TemporaryDirectory(prefix="ss-") as folder:
        yield f"{folder}/control.sock"


def test_a_server_that_is_started_again(serve: Serve, watch: Watch, socket: str) -> None:
    first = serve("faulty:app", *TWO, "--control-socket", socket)
    terminal = watch(first, "--socket", socket)
    first.stop()
    gone = "! no news for .* trying again: there is no control socket"
    frame = terminal.shown(lambda frame: re.search(gone, " ".join(frame)), "why")
    assert len(rows(frame)) == 2, "what was known last is still there"
    second = serve("faulty:app", *TWO, "--control-socket", socket)
    frame = terminal.shows(f", pid {second.pid}$")
    assert not frame[0].startswith("!")
    terminal.shown(lambda frame: {int(row["pid"]) for row in rows(frame)} == second.pids(), "the new workers")
    terminal.press("q")
    assert terminal.ended() == 0


def test_an_upgrade_is_followed(serve: Serve, watch: Watch) -> None:
    """The new master has another pid, and so another socket."""
    server = serve("faulty:app", *TWO)
    terminal = watch(server, "--pid", str(server.pid))
    heir = server.upgraded()
    frame = terminal.shows(f", pid {heir}$")
    assert "2 of 2 workers ready" in "\n".join(terminal.shows("2 of 2 workers ready"))
    assert not frame[0].startswith("!")


def test_a_server_that_does_not_answer_holds_no_key_up(serve: Serve, watch: Watch) -> None:
    server = serve("faulty:app", *TWO)
    terminal = watch(server)
    server.send(signal.SIGSTOP)
    try:
        terminal.press("r")
        terminal.shows("by slot, highest first")
        terminal.shown(lambda frame: re.search("! no news for .* does not answer", " ".join(frame)), "why")
        terminal.press("q")
        assert terminal.ended() == 0
    finally:
        server.send(signal.SIGCONT)
    restored(terminal)


def test_no_server(tmp_path: Path) -> None:
    with Terminal([*TOP, "--socket", "gone.sock"], env=environment(tmp_path), folder=tmp_path) as terminal:
        assert terminal.ended() == 1
        assert "there is no control socket gone.sock: the server does not run" in terminal.out
        assert "\x1b" not in terminal.out
        assert terminal.modes() == terminal.modes_before


# Without a terminal


def test_once(server: ServerProcess) -> None:
    done = run(server, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"faulty:app on {server.url}, shardserve ")
    assert "2 of 2 workers ready" in lines[1]
    assert {int(row["pid"]) for row in rows([*lines, ""])} == server.pids()
    assert "\x1b" not in done.stdout


def test_json(server: ServerProcess) -> None:
    done = run(server, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    status = json.loads(done.stdout)
    assert status["pid"] == server.pid
    assert {one["pid"] for one in status["workers_list"]} == server.pids()


def test_the_quantiles_are_those_of_the_requests(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "1", "--no-access-log")
    fresh(server.port, "/wait?0.2")

    def quantiles() -> tuple[float | None, float | None]:
        status = json.loads(run(server, "--json").stdout)
        return status["p50_ms"], status["workers_list"][0]["p99_ms"]

    with Load(lambda: fresh(server.port, "/wait?0.2")):
        until(lambda: None not in quantiles(), "quantiles")
        assert min(quantiles()) >= 150  # type: ignore[type-var]
