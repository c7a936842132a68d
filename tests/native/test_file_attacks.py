"""Attacks on a file that is being sent, by whatever may call in meanwhile: the loop, the transport, the
worker's callbacks and the client. Evil files and paths are in test_files.py.

Each function runs in a process of its own, with the file's descriptor counted at the end.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from shardserve.errors import MessageError
from tests.native.drive import Driver, FakeTransport, get, statuses, turns
from tests.native.isolated import survives
from tests.native.test_files import (
    BODY,
    PATHSEND,
    START,
    ZEROCOPYSEND,
    Full,
    Transport,
    make_file,
    open_files,
)

SIZE = 4 << 20
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def lose(driver: Driver, connection: Any) -> None:
    if driver.factory.connections:
        connection.connection_lost(None)
    await turns()


# A file that can be opened, and not read


async def no_reading(flags: str, size: int) -> dict[str, Any]:
    path = make_file(size)
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fd = os.open(path, getattr(os, flags))
        try:
            await send(START)
            await send({"type": ZEROCOPYSEND, "file": fd})
        except OSError as error:
            seen.append(type(error).__name__)
            raise
        finally:
            os.close(fd)

    driver = Driver(app)
    connection, transport = driver.connect(Transport())
    connection.data_received(get())
    connection.data_received(get())
    await turns()
    result = {"statuses": statuses(transport.read()), "seen": seen, "open": open_files(path)}
    os.unlink(path)
    return result


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("flags", ["O_WRONLY", "O_PATH"])
def test_a_descriptor_that_is_not_for_reading(flags: str, size: int) -> None:
    """Nothing of the response is sent, so it can be a 500, and the connection goes on."""
    result = survives(no_reading, flags, size)
    assert result == {"statuses": [500, 500], "seen": ["OSError", "OSError"], "open": 0}


# What the client and the server do while a file waits for room


async def ended_with_a_file_waiting(what: str, plain: bool, resume: str) -> dict[str, Any]:
    """The client takes nothing; then ``what`` happens. ``resume``: who makes room in the middle of that."""
    path = make_file()
    sends: list[Any] = []
    resuming: list[bool] = []
    taken: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sends.append(send)
        try:
            await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
            await send({**BODY, "more_body": True})
            if what == "end_streams":
                await receive()
                await receive()
            with open(path, "rb") as file:
                send({"type": ZEROCOPYSEND, "file": file, "more_body": True})
            if what == "raise":
                await asyncio.sleep(0)
                raise ValueError
            if what not in {"return", "end_streams"}:
                await asyncio.sleep(3600)
        finally:
            sends.clear()

    def resumed(who: str) -> None:
        """The client takes all of it at once."""
        if resume != who or resuming:
            return
        resuming.append(True)
        for _ in range(500):
            taken.append(transport.read())
            connection.resume_writing()
        resuming.clear()

    class Resuming(Full):
        def abort(self) -> None:
            super().abort()
            resumed("transport")

        def close(self) -> None:
            super().close()
            resumed("transport")

        def write_eof(self) -> None:
            super().write_eof()
            resumed("transport")

        def get_write_buffer_size(self) -> int:
            resumed("sizes")
            return 1

    driver = Driver(
        app,
        on_reject=lambda *args: resumed("worker"),
        access=lambda *args: resumed("worker"),
        on_app_error=lambda *args: resumed("worker"),
        write_stall_ms=1,
        body_window_ms=1,
        body_min_rate=1000,
    )
    transport = Resuming()
    if not plain:
        transport.extra["socket"] = None
    connection, _ = driver.connect(transport)
    connection.data_received(CHUNKED + b"1\r\na\r\n" if what != "end_streams" else get())
    await turns()
    if what == "bad chunk":
        connection.data_received(b"zz\r\n")
    elif what == "tick":
        await asyncio.sleep(0.05)
        driver.factory.tick()
        await asyncio.sleep(0.05)
        driver.factory.tick()
    elif what == "eof":
        connection.eof_received()
    elif what in {"abort", "end_streams"}:
        getattr(driver.factory, what)()
    elif what == "drain":
        driver.factory.drain(lambda: None)
    elif what == "lost":
        connection.connection_lost(None)
    elif what == "send":
        for message in (START, BODY, {"type": PATHSEND, "path": path}, {"type": "http.response.trailers"}):
            with pytest.raises(MessageError):
                sends[0](message)
    await turns()
    if what in {"drain", "send"}:
        assert driver.factory.in_flight == 1
        driver.factory.abort()
    await turns()
    waiting = open_files(path)
    await lose(driver, connection)
    driver.factory.abort()  # an app that sleeps is none of a connection's business
    await turns()
    wire = b"".join(taken) + transport.read() + transport.written
    result = {
        "waiting": waiting,
        "open": open_files(path),
        "in_flight": driver.factory.in_flight,
        "ended": wire.endswith(b"0\r\n\r\n"),
        "closing": transport.is_closing() or "write_eof" in transport.calls,
        "nested": wire.count(b"nested"),
    }
    os.unlink(path)
    return result


ENDS = ["bad chunk", "tick", "eof", "abort", "drain", "lost", "raise", "return", "end_streams", "send"]


@pytest.mark.parametrize("resume", ["nobody", "transport", "worker", "sizes"])
@pytest.mark.parametrize("plain", [True, False], ids=["sendfile", "copied"])
@pytest.mark.parametrize("what", ENDS)
def test_an_end_with_a_file_waiting(what: str, plain: bool, resume: str) -> None:
    result = survives(ended_with_a_file_waiting, what, plain, resume)
    assert result["open"] == 0
    assert result["in_flight"] == 0
    assert not result["ended"]  # a part of a file is not passed off as the whole
    assert result["nested"] == 1
    if what != "lost":
        assert result["closing"]
        assert result["waiting"] == 0


# The order of bytes


async def overtaken(plain: bool, chunked: bool) -> dict[str, Any]:
    """The app sends a file while the transport is being given what stands before it."""
    path = make_file(100_000)
    wire: list[bytes] = []
    sends: list[Any] = []

    class Late(Transport):
        def writelines(self, parts: Any) -> None:
            given = b"".join(parts)
            wire.append(self.read())  # now there is room in the socket
            while sends:
                sends.pop()({"type": PATHSEND, "path": path})
            wire.append(self.read())
            wire.append(given)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0)
        length = b"%d" % (SIZE + 100_000)
        await send({**START, "headers": [] if chunked else [(b"content-length", length)]})
        sends.append(send)
        # More than the socket takes: the rest goes to the transport.
        await send({"type": "http.response.body", "body": b"b" * SIZE, "more_body": True})

    driver = Driver(app)
    transport = Late()
    if not plain:
        transport.extra["socket"] = None
    connection, _ = driver.connect(transport)
    connection.data_received(get())
    for _ in range(50):
        await turns(2)
        wire.append(transport.read())
    text = b"".join(wire)
    await lose(driver, connection)
    left = open_files(path)
    os.unlink(path)
    first_file, last_body = text.find(b"ffff"), text.rfind(b"bbbb")
    return {
        "body": text.count(b"b" * 1024),
        "file": text.count(b"f" * 1024),
        "in order": last_body < first_file,
        "ended": text.endswith(b"f\r\n0\r\n\r\n" if chunked else b"f"),
        "open": left,
    }


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "length"])
@pytest.mark.parametrize("plain", [True, False], ids=["sendfile", "copied"])
def test_a_file_never_overtakes_what_the_transport_is_given(plain: bool, chunked: bool) -> None:
    result = survives(overtaken, plain, chunked)
    assert result["body"] == SIZE // 1024
    assert result["file"] in range(90, 98)  # the pieces of which it is made need not be whole KiB
    assert result["in order"]
    assert result["ended"]
    assert result["open"] == 0


# The end of the file, and who calls in there


async def limits_that(what: str) -> dict[str, Any]:
    """The transport's limits are restored when the last of the file is taken."""
    path = make_file(1 << 20)
    again: list[bytes] = []

    class Limits(Full):
        depth = 0

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            super().set_write_buffer_limits(high, low)
            if high is not None or self.connection is None or Limits.depth > 3:
                return
            Limits.depth += 1
            if what == "resumes":
                self.connection.resume_writing()
            elif what == "loses the connection":
                self.connection.connection_lost(None)
            elif what == "aborts":
                driver.factory.abort()
            elif what == "asks":
                self.connection.data_received(get("/again"))
            elif what == "raises":
                raise KeyError("limits")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": PATHSEND, "path": path})

    def access(*args: Any) -> None:
        if again:
            connection.data_received(again.pop())

    driver = Driver(app, access=access)
    again.append(get("/next"))
    transport = Limits()
    connection, _ = driver.connect(transport)
    connection.data_received(get())
    output = b""
    for _ in range(300):
        output += transport.read() + transport.written
        transport.written = b""
        await turns(2)
        connection.resume_writing()
    result = {"statuses": statuses(output), "length": output.count(b"f"), "depth": Limits.depth}
    await lose(driver, connection)
    result |= {"open": open_files(path), "in_flight": driver.factory.in_flight}
    os.unlink(path)
    return result


@pytest.mark.parametrize("what", ["resumes", "loses the connection", "aborts", "asks", "raises", "nothing"])
def test_limits_that(what: str) -> None:
    result = survives(limits_that, what)
    assert result["open"] == 0
    assert result["in_flight"] == 0
    assert result["depth"] >= 1
    if what in {"resumes", "nothing", "raises"}:
        assert result["statuses"] == [200, 200]
    if what == "asks":
        assert result["statuses"][:2] == [200, 200]


# A loop that takes no callbacks any more


async def no_more_turns(where: str) -> dict[str, Any]:
    path = make_file(16 << 20)
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon
    nested: list[Any] = []

    def refuse(callback: Any, *args: Any, **kwargs: Any) -> Any:
        if "file" in getattr(callback, "__name__", ""):
            raise RuntimeError("Event loop is closed")
        return call_soon(callback, *args, **kwargs)

    class Nested(FakeTransport):
        def writelines(self, parts: Any) -> None:
            while nested:
                nested.pop()({"type": PATHSEND, "path": path})
            super().writelines(parts)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await send(START)
        if where == "flush":
            nested.append(send)
            # So much is not held back until the step of the app is over.
            await send({"type": "http.response.body", "body": b"b" * SIZE, "more_body": True})
        else:
            await send({"type": PATHSEND, "path": path})

    driver = Driver(app)
    transport = Nested(extra={"socket": None})
    connection, _ = driver.connect(transport)
    loop.call_soon = refuse
    connection.data_received(get())
    await turns()
    loop.call_soon = call_soon
    aborted = "abort" in transport.calls
    await lose(driver, connection)
    result = {"aborted": aborted, "open": open_files(path), "in_flight": driver.factory.in_flight}
    os.unlink(path)
    return result


@pytest.mark.parametrize("where", ["turn", "flush"])
def test_a_loop_that_takes_no_callback_ends_the_connection(where: str) -> None:
    assert survives(no_more_turns, where) == {"aborted": True, "open": 0, "in_flight": 0}
