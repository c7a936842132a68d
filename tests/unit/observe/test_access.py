"""The access log: Uvicorn's lines, batches, and what a bad stdout may cost."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from shardserve.observe import access
from shardserve.observe.access import AccessLog

CLIENT = ("127.0.0.1", 50000)


@dataclass
class Turn:
    """A loop of which one turn is run by hand."""

    waiting: list[Callable[[], None]] = field(default_factory=list)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def run(self) -> None:
        callbacks, self.waiting = self.waiting, []
        for callback in callbacks:
            callback()


@dataclass
class Pipe:
    read_fd: int
    write_fd: int

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                part = os.read(self.read_fd, 1 << 20)
            except BlockingIOError:
                return data
            if not part:
                return data
            data += part


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    yield Pipe(read_fd, write_fd)
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def turn() -> Turn:
    return Turn()


@pytest.fixture
def writes(monkeypatch) -> list[int]:
    """The size of every os.write."""
    sizes: list[int] = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(access.os, "write", counted)
    return sizes


def uvicorns(colours: bool, *args: Any) -> str:
    """The oracle: Uvicorn's own formatter."""
    formatter_module = pytest.importorskip("uvicorn.logging")
    formatter = formatter_module.AccessFormatter(
        '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s', use_colors=colours
    )
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    return formatter.format(record)


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("status", [101, 200, 204, 304, 404, 418, 500, 299, 599, 799])
def test_lines_are_uvicorns(pipe, turn, colours, status):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd, colours=colours)
    log(CLIENT, "GET", b"/path?x=1", "1.1", status)
    log.flush()
    expected = uvicorns(colours, "127.0.0.1:50000", "GET", "/path?x=1", "1.1", status)
    assert pipe.read().decode() == expected + "\n"


def test_the_plain_line(pipe, turn):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    log(CLIENT, "GET", b"/path?x=1", "1.1", 200)
    log(None, "HEAD", b"/", "1.0", 404)
    turn.run()
    assert pipe.read() == (
        b'INFO:     127.0.0.1:50000 - "GET /path?x=1 HTTP/1.1" 200 OK\n'
        b'INFO:      - "HEAD / HTTP/1.0" 404 Not Found\n'
    )


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize(("status", "shown"), [(101, "[accepted]"), (403, "403"), (418, "418"), (500, "500")])
def test_lines_of_websockets_are_uvicorns(pipe, turn, colours, status, shown):
    """Which writes them with its other logger: neither bold nor coloured behind the level."""
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd, colours=colours)
    log(CLIENT, "WebSocket", b"/ws?x=1", "1.1", status)
    log.flush()
    formatter = pytest.importorskip("uvicorn.logging").DefaultFormatter(
        "%(levelprefix)s %(message)s", use_colors=colours
    )
    text = '%s - "WebSocket %s" ' + shown
    arguments = ("127.0.0.1:50000", "/ws?x=1")
    record = logging.LogRecord("uvicorn.error", logging.INFO, "", 0, text, arguments, None)
    assert pipe.read().decode() == formatter.format(record) + "\n"


def test_a_target_of_a_websocket_cannot_forge_anything_either(pipe, turn):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    log(None, "WebSocket", b'/" [accepted]\n', "1.1", 403)
    turn.run()
    assert pipe.read() == b'INFO:      - "WebSocket /\\x22\\x20[accepted]\\x0a" 403\n'


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/a\r\nINFO: forged", b"/a\\x0d\\x0aINFO:\\x20forged"),
        (b'/" 200 OK', b"/\\x22\\x20200\\x20OK"),
        (b"/\x1b[2J\x00\x7f", b"/\\x1b[2J\\x00\\x7f"),
        (b"/\xc3\xbc\\x0a", b"/\\xc3\\xbc\\x5cx0a"),
        (b"/%0d%0a~!*'();:@&=+$,?#[]", b"/%0d%0a~!*'();:@&=+$,?#[]"),
        (b"", b""),
    ],
)
def test_a_target_cannot_forge_anything(pipe, turn, target, shown):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    log(CLIENT, "GET", target, "1.1", 200)
    turn.run()
    assert pipe.read() == b'INFO:     127.0.0.1:50000 - "GET ' + shown + b' HTTP/1.1" 200 OK\n'


def test_an_address_from_a_proxy_cannot_either(pipe, turn):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    log(("1.2.3.4\nINFO: x", 0), "GET", b"/", "1.1", 200)
    turn.run()
    assert pipe.read().count(b"\n") == 1


def test_one_write_and_one_callback_a_turn(pipe, turn, writes):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    for _ in range(2):
        for _ in range(20):
            log(CLIENT, "GET", b"/", "1.1", 200)
        assert len(turn.waiting) == 1
        turn.run()
    assert len(writes) == 2
    log.flush()
    assert len(writes) == 2
    assert pipe.read().count(b"\n") == 40


def test_a_full_batch_does_not_wait_for_the_turn(tmp_path, turn, writes):
    with open(tmp_path / "log", "wb") as file:
        log = AccessLog(schedule=turn.call_soon, fd=file.fileno())
        line = len('INFO:     127.0.0.1:50000 - "GET / HTTP/1.1" 200 OK\n')
        for _ in range(access.BATCH_BYTES // line + 1):
            log(CLIENT, "GET", b"/", "1.1", 200)
        assert len(writes) in (1, 2)
        assert sum(writes) >= access.BATCH_BYTES


def test_a_pipe_gets_whole_lines_in_atomic_pieces(pipe, turn, monkeypatch):
    pieces: list[bytes] = []
    monkeypatch.setattr(access.os, "write", lambda fd, data: pieces.append(data) or len(data))
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    for size in (10, 3000, 3000, 9000, 10, 10):
        log(CLIENT, "GET", b"/" * size, "1.1", 200)
    turn.run()
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= access.SHARED_WRITE_BYTES or piece.count(b"\n") == 1 for piece in pieces)
    assert b"".join(pieces).count(b"\n") == 6


def test_a_full_stdout_loses_lines_but_never_tears_one(pipe, turn):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    total, read = 6000, b""
    for number in range(total):
        log(CLIENT, "GET", b"/%d/" % number + b"x" * 37, "1.1", 200)
        if number % 100 == 99:
            turn.run()
        if number in (4000, 5000):
            read += pipe.read()
    log.flush()
    read += pipe.read()
    log.flush()
    read += pipe.read()
    lines = read.split(b"\n")
    assert lines.pop() == b""
    assert all(line.startswith(b"INFO:     127") and line.endswith(b"200 OK") for line in lines)
    assert log.dropped > 0
    assert len(lines) + log.dropped == total


def test_a_short_write_is_finished_before_the_next_line(turn, monkeypatch):
    written: list[bytes] = []
    room = [30]

    def narrow(fd: int, data: bytes) -> int:
        if not room[0]:
            raise BlockingIOError
        taken = data[: room[0]]
        room[0] -= len(taken)
        written.append(taken)
        return len(taken)

    monkeypatch.setattr(access.os, "write", narrow)
    log = AccessLog(schedule=turn.call_soon)
    for path in (b"/one", b"/lost"):
        log(CLIENT, "GET", path, "1.1", 200)
    turn.run()
    assert log.dropped == 1
    room[0] = 5
    log(CLIENT, "GET", b"/also-lost", "1.1", 200)
    turn.run()
    room[0] = 1000
    log(CLIENT, "GET", b"/two", "1.1", 200)
    turn.run()
    text = b"".join(written)
    assert text.count(b"\n") == 2
    assert b"/one HTTP/1.1" in text
    assert b"/two HTTP/1.1" in text
    assert log.dropped == 2


def test_the_end_of_a_torn_line_needs_no_new_line(turn, monkeypatch):
    written = bytearray()
    room = [10]

    def narrow(fd: int, data: bytes) -> int:
        if not room[0]:
            raise BlockingIOError
        taken = data[: room[0]]
        room[0] -= len(taken)
        written.extend(taken)
        return len(taken)

    monkeypatch.setattr(access.os, "write", narrow)
    log = AccessLog(schedule=turn.call_soon)
    log(CLIENT, "GET", b"/", "1.1", 200)
    turn.run()
    room[0] = 1000
    log.flush()
    assert written.endswith(b"200 OK\n")


def test_a_closed_reader_is_survived_and_counted(pipe, turn):
    log = AccessLog(schedule=turn.call_soon, fd=pipe.write_fd)
    os.close(pipe.read_fd)
    for _ in range(3):
        log(CLIENT, "GET", b"/", "1.1", 200)
        turn.run()
    assert log.dropped == 3


def test_a_full_disk_may_pass(turn, monkeypatch):
    problem: list[OSError] = [OSError(28, "No space left on device")]
    written: list[bytes] = []

    def disk(fd: int, data: bytes) -> int:
        if problem:
            raise problem.pop()
        written.append(data)
        return len(data)

    monkeypatch.setattr(access.os, "write", disk)
    log = AccessLog(schedule=turn.call_soon)
    for _ in range(2):
        log(CLIENT, "GET", b"/", "1.1", 200)
        turn.run()
    assert log.dropped == 1
    assert len(written) == 1


def test_a_closed_stdout_is_survived(turn):
    log = AccessLog(schedule=turn.call_soon, fd=-1)
    log(CLIENT, "GET", b"/", "1.1", 200)
    turn.run()
    assert log.dropped == 1
