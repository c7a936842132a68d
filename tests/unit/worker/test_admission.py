"""No client is reset because descriptors run out: accepting stops before, and goes on after.

The ones with clients run ``crowded.py``, a process of its own, since the limit is the process's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from shardserve.worker import admission
from shardserve.worker.admission import Admission, FileTable, descriptor_limit, has_room, lowest_free
from shardserve.worker.listening import Listening, Mode

ROOT = Path(__file__).parents[3]
PATIENCE_S = 20.0
LIMIT = 128
ADVICE = "trying again every 100 ms; raise the hard limit (LimitNOFILE=, ulimit -Hn)."


class Crowded:
    """The program, and its clients."""

    def __init__(self, folder: Path, *, limit: int = LIMIT) -> None:
        tcp = socket.create_server(("127.0.0.1", 0), backlog=1024)
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(folder / "sock"))
        unix.listen(1024)
        self.listeners = [tcp, unix]
        descriptors = [one.fileno() for one in self.listeners]
        self._log = folder / "log"
        self.callers: list[socket.socket] = []
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.worker.crowded", str(limit), *map(str, descriptors)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=descriptors,
            )
        self.tell("status")

    def tell(self, command: str) -> dict[str, Any]:
        """Do this; the figures after it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.log()
        found: dict[str, Any] = json.loads(line)
        return found

    def becomes(self, condition: Callable[[dict[str, Any]], Any], command: str = "status") -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not condition(figures := self.tell(command)):
            assert time.monotonic() < deadline, (figures, self.log())
            time.sleep(0.005)
        return figures

    def call(self, count: int, data: bytes, *, listener: int | None = None) -> None:
        """So many clients, in turn on the one and on the other address, or all on this one."""
        for number in range(count):
            target = self.listeners[number % 2 if listener is None else listener]
            caller = socket.socket(target.family)
            self.callers.append(caller)
            caller.settimeout(PATIENCE_S)
            caller.connect(target.getsockname())
            caller.send(data)

    def answers(self, meanwhile: Callable[[], Any] = lambda: None) -> list[bytes]:
        """What each client got until its connection was closed. ``meanwhile`` is called again and again."""
        got: dict[socket.socket, bytes] = dict.fromkeys(self.callers, b"")
        deadline = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            for caller in self.callers:
                selector.register(caller, selectors.EVENT_READ)
            while selector.get_map():
                assert time.monotonic() < deadline, self.log()
                for key, _ in selector.select(0.01):
                    data = _read(key.fileobj)
                    got[key.fileobj] += data  # type: ignore[index]
                    if data in (b"", b"reset"):
                        selector.unregister(key.fileobj)
                meanwhile()
        for caller in self.callers:
            caller.close()
        self.callers.clear()
        return list(got.values())

    def log(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin
            self.process.stdin.close()
            try:
                self.process.wait(PATIENCE_S)
            finally:
                self.process.kill()
        for one in [*self.listeners, *self.callers]:
            one.close()
        if self.process.stdout:
            self.process.stdout.close()


def _read(caller: Any) -> bytes:
    try:
        data: bytes = caller.recv(100)
        return data
    except ConnectionError:
        return b"reset"


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Crowded]:
    one = Crowded(tmp_path)
    yield one
    one.end()
    assert one.process.returncode == 0, one.log()


# With clients


def test_a_burst_of_clients_beyond_the_limit_is_answered(crowded: Crowded) -> None:
    crowded.call(500, b"hold")
    crowded.becomes(lambda figures: figures["paused"])

    def release_when_full() -> None:
        figures = crowded.tell("status")
        if figures["paused"] or figures["accepted"] == 500:
            crowded.tell("release")

    assert crowded.answers(release_when_full) == [b"answer"] * 500
    figures = crowded.becomes(lambda figures: not figures["paused"] and figures["open"] == 0)
    assert figures["errors"] == 0
    log = crowded.log()
    stops = re.findall(
        r"WARNING Not accepting new connections: (\d+) of 128 descriptors are in use; (.+)", log
    )
    assert len(stops) == figures["pauses"] >= 4
    # The reserve is an eighth, and nothing of it was taken for a connection beyond the one that told.
    assert all(112 <= int(count) <= 114 and advice == ADVICE for count, advice in stops)
    assert len(re.findall(r"INFO Accepting new connections again after \d+\.\d s\.", log)) == len(stops)


def test_it_goes_back_to_the_fast_way(crowded: Crowded) -> None:
    assert crowded.tell("check")["mode"] == "fast"
    crowded.call(75, b"hold")
    crowded.becomes(lambda figures: figures["open"] == 75)
    assert crowded.tell("check")["mode"] == "careful"
    crowded.tell("release")
    assert crowded.answers() == [b"answer"] * 75
    crowded.becomes(lambda figures: figures["open"] == 0)
    figures = crowded.tell("check")
    assert (figures["mode"], figures["pauses"], figures["errors"]) == ("fast", 0, 0)
    crowded.call(2, b"hello")
    assert crowded.answers() == [b"answer"] * 2


@pytest.mark.parametrize("listener", [0, 1], ids=["tcp", "unix"])
def test_an_app_that_takes_all_descriptors_while_we_are_careful(crowded: Crowded, listener: int) -> None:
    """accept() itself says EMFILE; whoever waits is served once there are descriptors."""
    crowded.call(75, b"hold")
    crowded.becomes(lambda figures: figures["mode"] == "careful" and figures["open"] == 75)
    eaten = crowded.tell("eat")
    assert eaten["eaten"] > 10
    assert not eaten["paused"]
    crowded.call(20, b"hello", listener=listener)
    assert crowded.becomes(lambda figures: figures["paused"])["pauses"] == 1
    assert "128 of 128 descriptors are in use" in crowded.log()
    crowded.tell("give")
    crowded.becomes(lambda figures: not figures["paused"])
    crowded.becomes(lambda figures: figures["open"] == 0, "release")
    assert crowded.answers() == [b"answer"] * 95


def test_an_app_that_takes_all_descriptors_between_two_connections(crowded: Crowded) -> None:
    """The look once a second sees it before a connection does."""
    assert crowded.tell("eat 5")["mode"] == "fast"
    assert crowded.tell("check")["mode"] == "paused"
    crowded.call(50, b"hello")
    # Descriptors that come back do not come back for us while the app's reserve is not whole.
    assert crowded.tell("status")["open"] == 0
    crowded.tell("give")
    assert crowded.answers() == [b"answer"] * 50
    assert crowded.tell("check")["pauses"] == 1


def test_an_app_that_has_nearly_all_descriptors_from_the_start_is_served(tmp_path: Path) -> None:
    crowded = Crowded(tmp_path, limit=24)
    try:
        crowded.call(30, b"hello")
        assert crowded.answers() == [b"answer"] * 30
    finally:
        crowded.end()


# Without


def file_nr(path: Path, used: int, limit: int) -> Path:
    path.write_text(f"{used}\t0\t{limit}\n")
    return path


def test_the_systems_table_of_open_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Less than a tenth is left: careful. Less than a hundredth: paused, until there is more."""
    table = file_nr(tmp_path / "file-nr", 1000, 100_000)

    async def scenario() -> None:
        one = Admission(file_nr=table)
        listening = Listening(asyncio.Protocol, backlog=10)
        one.guard(listening)
        assert listening.mode is Mode.FAST
        file_nr(table, 90_001, 100_000)
        one.check()
        assert listening.mode is Mode.CAREFUL
        file_nr(table, 99_001, 100_000)
        one.check()
        assert listening.mode is Mode.PAUSED
        file_nr(table, 98_000, 100_000)
        async with asyncio.timeout(PATIENCE_S):
            while one.paused:
                one.check()  # the second is over: nothing to decide in a pause
                await asyncio.sleep(0.01)
        assert listening.mode is Mode.CAREFUL
        assert one.pauses == 1
        one.close()

    with caplog.at_level(logging.INFO, "shardserve.worker"):
        uvloop.run(scenario())
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "Not accepting new connections: the system's table of open files is nearly full",
        caplog.records[1].getMessage(),
    ]
    assert "raise fs.file-max (sysctl)." in caplog.text
    assert "Accepting new connections again after 0." in caplog.text


@pytest.mark.parametrize("text", ["", "words", "1 2", "9 0 9223372036854775807", None])
def test_a_table_that_says_nothing_holds_nobody_back(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "file-nr"
    if text is not None:
        path.write_text(text)
    before = lowest_free(descriptor_limit())
    table = FileTable(path)
    assert not table.is_full()
    assert not table.is_nearly_full()
    table.close()
    table.close()
    assert lowest_free(descriptor_limit()) == before


def test_a_table_without_limit_costs_no_descriptor(tmp_path: Path) -> None:
    before = lowest_free(descriptor_limit())
    FileTable(file_nr(tmp_path / "file-nr", 2**62, 2**63 - 1))
    assert lowest_free(descriptor_limit()) == before


def test_other_failures_of_accept_pause_too(caplog: pytest.LogCaptureFixture) -> None:
    """One that comes again at once must not spin the loop, and is not told each tenth of a second."""

    async def scenario() -> int:
        one = Admission()
        listening = Listening(asyncio.Protocol, backlog=10)
        one.guard(listening)
        for wanted in range(1, 4):
            listening._on_failure(OSError(105, "No buffer space available"))
            listening._on_failure(
                OSError(105, "No buffer space available")
            )  # a second listener, the same turn
            assert listening.mode is Mode.PAUSED
            assert one.pauses == wanted
            async with asyncio.timeout(PATIENCE_S):
                while one.paused:
                    await asyncio.sleep(0.01)
        one._quiet_until = 0.0
        listening._on_failure(OSError(23, "Too many open files in system"))
        one.close()
        assert not one.paused
        listening._on_failure(OSError(24, "Too many open files"))
        return one.pauses

    with caplog.at_level(logging.INFO, "shardserve.worker"):
        assert uvloop.run(scenario()) == 4
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert told[0] == (
        "Not accepting new connections: accept() says No buffer space available; trying again every 100 ms; "
        "see what this host is short of."
    )
    assert told[2] == (
        "Not accepting new connections: the system has no more open files to give; "
        "trying again every 100 ms; raise fs.file-max (sysctl) (2 short pauses were not logged)."
    )


def test_has_room_counts_what_is_free_below_a_number() -> None:
    start = lowest_free(descriptor_limit())
    taken = [os.dup(0) for _ in range(10)]
    try:
        below = max(taken) + 6
        assert has_room(5, below=below)
        os.close(taken.pop(3))  # a gap
        assert has_room(6, below=below)
        assert not has_room(500, below=below)
    finally:
        for fd in taken:
            os.close(fd)
    assert lowest_free(descriptor_limit()) == start


def test_nobody_is_told_before_there_is_something_to_guard() -> None:
    one = Admission()
    one.on_crowded()
    one.check()
    assert (one.pauses, one.paused) == (0, False)
    one.close()


def test_a_raised_limit_makes_the_old_number_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native side goes on telling of the number it was given."""

    async def scenario() -> None:
        one = Admission()
        listening = Listening(asyncio.Protocol, backlog=10)
        one.guard(listening)
        one.on_crowded()
        assert listening.mode is Mode.FAST
        monkeypatch.setattr(admission, "has_room", lambda count, below: False)
        one.on_crowded()
        assert listening.mode is Mode.CAREFUL
        one.close()

    uvloop.run(scenario())
