"""The access log: when lines leave, what becomes of those that cannot, and Uvicorn's lines."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from shardserve import _native
from shardserve.config.access_format import Process, compiled
from shardserve.config.model import Config
from shardserve.observe.access import PAUSE_S, TELL_S, AccessLog
from shardserve.worker.limits import request_limits


class Timer:
    def cancel(self) -> None:
        raise AssertionError("nothing is cancelled")


class Loop:
    """An event loop whose time is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        return self.call_later(0.0, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.waiting.append((self.now + delay_s, callback))
        return Timer()

    def run_until(self, now: float) -> None:
        """Whatever is due by then, in its order."""
        while due := sorted((at, index) for index, (at, _) in enumerate(self.waiting) if at <= now):
            at, index = due[0]
            self.now = max(self.now, at)
            self.waiting.pop(index)[1]()
        self.now = now


class Sink:
    name = "a sink"

    def __init__(self, loop: Loop) -> None:
        self.lost = 0
        self.writes: list[tuple[float, bytes]] = []
        self.calls: list[str] = []
        self.error: OSError | None = None
        self._loop = loop

    def write(self, lines: bytes) -> None:
        self.writes.append((round(self._loop.now - 1000, 6), lines))

    def flush(self) -> None:
        self.calls.append("flush")

    def reopen(self) -> None:
        self.calls.append("reopen")
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.calls.append("close")


class Lines:
    """What the native side does with lines, without making any."""

    def __init__(self, write: Callable[[bytes], None], schedule: Callable[[], None]) -> None:
        self.write, self.schedule = write, schedule
        self.buffer = b""

    def add(self, line: bytes) -> None:
        first = not self.buffer
        self.buffer += line
        if first:
            self.schedule()

    def flush(self) -> None:
        if self.buffer:
            lines, self.buffer = self.buffer, b""
            self.write(lines)


class Log:
    def __init__(self) -> None:
        self.loop = Loop()
        self.sink = Sink(self.loop)
        self.access = AccessLog(Lines, self.sink, loop=self.loop)  # type: ignore[arg-type]
        self.lines: Lines = self.access.lines


def test_the_first_line_leaves_at_the_end_of_the_turn() -> None:
    log = Log()
    log.lines.add(b"one\n")
    log.lines.add(b"two\n")
    assert log.sink.writes == []
    log.loop.run_until(1000)
    assert log.sink.writes == [(0, b"one\ntwo\n")]


def test_lines_of_a_busy_server_leave_together() -> None:
    log = Log()
    for number in range(1000):  # one each millisecond
        log.loop.run_until(1000 + number / 1000)
        log.lines.add(b"%d\n" % number)
    log.loop.run_until(1002)
    moments = [at for at, _ in log.sink.writes]
    assert moments[0] == 0
    assert len(moments) == 11
    assert all(later - before >= PAUSE_S - 1e-6 for before, later in pairwise(moments))
    assert b"".join(lines for _, lines in log.sink.writes) == b"".join(b"%d\n" % n for n in range(1000))


def test_after_a_pause_a_line_is_there_at_once_again() -> None:
    log = Log()
    for moment in (0, 0.05, 0.25, 0.26):
        log.loop.run_until(1000 + moment)
        log.lines.add(b"%.2f\n" % moment)
    log.loop.run_until(1001)
    assert log.sink.writes == [(0, b"0.00\n"), (0.1, b"0.05\n"), (0.25, b"0.25\n"), (0.35, b"0.26\n")]


def test_a_flush_leaves_no_second_timer() -> None:
    """The buffer may be emptied while its timer runs, and filled again."""
    log = Log()
    log.lines.add(b"one\n")
    log.access.flush()
    log.lines.add(b"two\n")
    assert len(log.loop.waiting) == 1
    log.loop.run_until(1000)
    assert log.sink.writes == [(0, b"one\n"), (0, b"two\n")]


def test_the_last_lines_leave_at_the_end() -> None:
    log = Log()
    log.lines.add(b"one\n")
    log.loop.run_until(1000)
    log.lines.add(b"two\n")
    log.access.close()
    assert [lines for _, lines in log.sink.writes] == [b"one\n", b"two\n"]
    assert log.sink.calls[-1] == "close"


def test_what_was_gathered_belongs_into_the_old_file() -> None:
    log = Log()
    log.lines.add(b"one\n")
    log.sink.write = lambda lines: log.sink.calls.append(lines.decode())  # type: ignore[method-assign]
    log.lines.write = log.sink.write
    log.access.reopen()
    assert [one for one in log.sink.calls if one != "flush"] == ["one\n", "reopen"]


def test_a_file_that_cannot_be_opened_again_is_told(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    log.sink.error = PermissionError(13, "Permission denied")
    log.access.reopen()
    [record] = caplog.records
    expected = "The access log cannot open a sink again: Permission denied. It goes on where it was."
    assert record.getMessage() == expected
    assert record.levelno == logging.ERROR


def test_lost_lines_are_told_of_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    for second in range(int(TELL_S) + 2):
        log.loop.now = 1000.0 + second
        log.sink.lost += 1
        log.access.flush()
    log.access.close()
    assert [record.getMessage() for record in caplog.records] == [
        "1 access log line was lost: a sink was full or closed.",
        "60 access log lines were lost: a sink was full or closed.",
        "1 access log line was lost: a sink was full or closed.",
    ]
    log.access.close()
    assert len(caplog.records) == 3


# With the native side and a real loop


class Kept:
    name = "a list"

    def __init__(self) -> None:
        self.lost = 0
        self.written = b""
        self.writes = 0

    def write(self, lines: bytes) -> None:
        self.written += lines
        self.writes += 1

    def flush(self) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept" if scope["path"] == "/ws" else "websocket.close"})
        return
    status = scope["path"].rpartition("/")[2]
    await send({"type": "http.response.start", "status": int(status) if status.isdigit() else 200})
    await send({"type": "http.response.body", "body": b"" if status in ("204", "304") else b"body"})


class Failures(list[tuple[Any, ...]]):
    def __call__(self, *what: Any) -> None:
        self.append(what)


class Wire(asyncio.Transport):
    """A client's connection whose answers nobody reads."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8000)})

    def write(self, data: Any) -> None: ...
    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


async def written(text: str, requests: bytes, *, colours: bool = False, **options: Any) -> Kept:
    """What the log of these pipelined requests is, in this format."""
    loop, sink, failures = asyncio.get_running_loop(), Kept(), Failures()
    form = compiled(text, Process(pid=71, slot=3), colours=colours)

    def make(write: Callable[[bytes], None], schedule: Callable[[], None]) -> _native.AccessLog:
        programs = (form.program, form.websocket_program)
        return _native.AccessLog(*programs, write=write, schedule=schedule, json=form.json, **options)

    access = AccessLog(make, sink, loop=loop)
    factory = _native.ProtocolFactory(
        app,
        loop=loop,
        context=None,
        state=None,
        on_app_error=failures,
        on_reject=failures,
        access=access.lines,
        websocket=request_limits(Config("a:b"))["websocket"],
    )
    connection = factory()
    connection.connection_made(Wire())
    connection.data_received(requests)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    access.close()
    assert failures == []
    return sink


def get(*targets: bytes) -> bytes:
    return b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n" % target for target in targets)


def uvicorns(colours: bool, *args: Any) -> str:
    """The oracle: Uvicorn's own formatter."""
    formatter_module = pytest.importorskip("uvicorn.logging")
    formatter = formatter_module.AccessFormatter(
        '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s', use_colors=colours
    )
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    text: str = formatter.format(record)
    return text


@pytest.mark.parametrize("colours", [False, True])
async def test_lines_are_uvicorns(colours: bool) -> None:
    statuses = [200, 204, 304, 404, 418, 500, 299, 599, 799]
    sink = await written("uvicorn", get(*(b"/a%%20b?x=/%d" % status for status in statuses)), colours=colours)
    client = "127.0.0.1:50000"
    assert sink.written.decode().splitlines() == [
        uvicorns(colours, client, "GET", f"/a%20b?x=/{status}", "1.1", 200) for status in statuses
    ]
    sink = await written("uvicorn", get(*(b"/%d" % status for status in statuses)), colours=colours)
    assert sink.written.decode().splitlines() == [
        uvicorns(colours, client, "GET", f"/{status}", "1.1", status) for status in statuses
    ]


def handshake(target: bytes) -> bytes:
    fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    return b"GET %b HTTP/1.1\r\nHost: a\r\n%b%b\r\n" % (target, fields, key)


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize(("target", "shown"), [("/ws?x=1", "[accepted]"), ("/denied?x=1", "403")])
async def test_lines_of_websockets_are_uvicorns(colours: bool, target: str, shown: str) -> None:
    """Which writes them with its other logger: neither bold nor coloured behind the level."""
    sink = await written("uvicorn", handshake(target.encode()), colours=colours)
    formatter = pytest.importorskip("uvicorn.logging").DefaultFormatter(
        "%(levelprefix)s %(message)s", use_colors=colours
    )
    text = f'%s - "WebSocket %s" {shown}'
    arguments = ("127.0.0.1:50000", target)
    record = logging.LogRecord("uvicorn.error", logging.INFO, "", 0, text, arguments, None)
    assert sink.written.decode() == formatter.format(record) + "\n"


async def test_a_target_of_a_websocket_cannot_forge_anything_either() -> None:
    sink = await written("uvicorn", handshake(b'/"\\x20[accepted]'))
    assert sink.written == b'INFO:     127.0.0.1:50000 - "WebSocket /\\x22\\x5cx20[accepted]" 403\n'


async def test_one_write_for_the_requests_of_a_turn() -> None:
    sink = await written("uvicorn", get(*[b"/"] * 50))
    assert sink.written.count(b"\n") == 50
    assert sink.writes == 1


async def test_common_and_combined() -> None:
    common = (await written("common", get(b"/x"))).written.decode()
    date, zone = r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d", r"[+-]\d{4}"
    line = rf'127\.0\.0\.1 - - \[{date} {zone}\] "GET /x HTTP/1\.1" 200 4'
    assert_matches(line + "\n", common)
    combined = (await written("combined", get(b"/x"))).written.decode()
    assert_matches(line + ' "-" "b"\n', combined)


def assert_matches(pattern: str, text: str) -> None:
    assert re.fullmatch(pattern, text), text


async def test_excluded_paths_have_no_line() -> None:
    targets = (b"/health", b"/health/deep?x", b"/a/health", b"/healt")
    sink = await written("%(U)s", get(*targets), exclude=[b"/health*"])
    assert sink.written == b"/a/health\n/healt\n"


async def test_of_a_sample_of_nothing_errors_are_left() -> None:
    sink = await written("%(s)s", get(b"/200", b"/404", b"/500", b"/599"), sample=0.0)
    assert sink.written == b"500\n599\n"
