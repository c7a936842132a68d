"""Evil files, and evil transports below a file that is being sent.

Each function runs in a process of its own and says what the client and we saw, and how many descriptors of
the file are left open: never one, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import Any

import pytest

from tests.native.drive import Driver, FakeTransport, get, reply, statuses, turns
from tests.native.isolated import survives, survives_exit

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"nested"}
PATHSEND = "http.response.pathsend"
ZEROCOPYSEND = "http.response.zerocopysend"
SIZE = 4 << 20


def make_file(size: int = SIZE) -> str:
    """A file that is gone by its name when the process ends; its content is one letter."""
    fd, path = tempfile.mkstemp()
    os.write(fd, b"f" * size)
    os.close(fd)
    return path


def open_files(path: str) -> int:
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)") == path
        except OSError:
            continue
    return count


class Transport(FakeTransport):
    """One that has limits."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.calls.append(f"limits {high}")


class Full(Transport):
    """One that pauses whoever writes, as at a limit of 0."""

    def writelines(self, parts: Any) -> None:
        super().writelines(parts)
        if self.connection is not None:
            self.connection.pause_writing()


async def serve(evil: Any, *, suspend: bool = False, size: int = 100_000) -> dict[str, Any]:
    """Runs ``evil(send, path, connection)`` as the app between two plain requests."""
    seen: list[str] = []
    path = make_file(size)
    holder: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/evil":
            await reply(send, b"y" * 100)
            return
        if suspend:
            await asyncio.sleep(0)
        try:
            await evil(send, path, holder[0])
        except Exception as error:
            seen.append(type(error).__name__)

    driver = Driver(app)
    connection, transport = driver.connect(Transport())
    holder.append(connection)
    connection.data_received(get("/1") + get("/evil") + get("/2"))
    output = b""
    for _ in range(10):
        await turns()
        output += transport.read()
    result = {
        "statuses": statuses(output),
        "nested": output.count(b"nested"),
        "seen": seen,
        "outcomes": driver.outcomes(),
        "in_flight": driver.factory.in_flight,
        "open": open_files(path),
    }
    os.unlink(path)
    return result


# Files that run code


async def fileno_that_sends(what: str, suspend: bool) -> Any:
    async def evil(send: Any, path: str, connection: Any) -> None:
        opened = open(path, "rb")  # noqa: SIM115 (evil)

        class File:
            def fileno(self) -> int:
                if what == "sends":
                    send(BODY)
                elif what == "sends a file":
                    send({"type": PATHSEND, "path": path})
                elif what == "loses the connection":
                    connection.connection_lost(None)
                elif what == "clears the message":
                    message.clear()
                elif what == "closes the file":
                    fd = opened.fileno()
                    opened.close()
                    return fd
                elif what == "raises":
                    raise KeyError("fileno")
                return opened.fileno()

        message = {"type": ZEROCOPYSEND, "file": File(), "offset": 0}
        await send(START)
        try:
            await send(message)
        finally:
            opened.close()

    return await serve(evil, suspend=suspend)


FILENO = {
    "sends": ([200, 200, 200], ["MessageError"]),
    "sends a file": ([200, 200, 200], ["MessageError"]),
    "loses the connection": (None, ["ClientDisconnected"]),
    "clears the message": ([200, 200, 200], []),
    "closes the file": ([200, 500, 200], ["OSError"]),
    "raises": ([200, 500, 200], ["KeyError"]),
}


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("what", FILENO)
def test_a_fileno_that(what: str, suspend: bool) -> None:
    expected, seen = FILENO[what]
    result = survives(fileno_that_sends, what, suspend)
    assert expected is None or result["statuses"] == expected
    assert result["seen"] == seen
    assert result["nested"] == (what == "sends")
    assert result["in_flight"] == 0
    assert result["open"] == 0


async def odd_fileno(what: str) -> Any:
    async def evil(send: Any, path: str, connection: Any) -> None:
        class File:
            def fileno(self) -> Any:
                return {"text": "5", "minus": -1, "huge": 1 << 40, "free": 987654, "none": None}[what]

        await send(START)
        await send({"type": ZEROCOPYSEND, "file": File()})

    return await serve(evil)


@pytest.mark.parametrize("what", ["text", "minus", "huge", "free", "none"])
def test_a_fileno_that_is_none(what: str) -> None:
    result = survives(odd_fileno, what)
    assert result["statuses"] == [200, 500, 200]
    assert len(result["seen"]) == 1
    assert result["seen"][0] in {"MessageError", "ValueError", "OverflowError", "OSError", "TypeError"}


async def evil_path(what: str, suspend: bool) -> Any:
    async def evil(send: Any, path: str, connection: Any) -> None:
        class Path:
            def __fspath__(self) -> Any:
                if what == "sends":
                    send(BODY)
                elif what == "loses the connection":
                    connection.connection_lost(None)
                elif what == "clears the message":
                    message.clear()
                elif what == "raises":
                    raise KeyError("path")
                elif what == "is a number":
                    return 5
                return path

        message = {"type": PATHSEND, "path": Path()}
        await send(START)
        await send(message)

    return await serve(evil, suspend=suspend)


PATHS = {
    "sends": ([200, 200, 200], ["MessageError"]),
    "loses the connection": (None, ["ClientDisconnected"]),
    "clears the message": ([200, 200, 200], []),
    "raises": ([200, 500, 200], ["KeyError"]),
    "is a number": ([200, 500, 200], ["MessageError"]),
}


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("what", PATHS)
def test_a_path_that(what: str, suspend: bool) -> None:
    expected, seen = PATHS[what]
    result = survives(evil_path, what, suspend)
    assert expected is None or result["statuses"] == expected
    assert result["seen"] == seen
    assert result["nested"] == (what == "sends")
    assert result["open"] == 0


async def more_body_that_sends() -> Any:
    async def evil(send: Any, path: str, connection: Any) -> None:
        class More:
            def __bool__(self) -> bool:
                send(BODY)
                return True

        await send(START)
        with open(path, "rb") as opened:
            await send({"type": ZEROCOPYSEND, "file": opened, "more_body": More()})

    return await serve(evil)


def test_a_more_body_that_sends_wins() -> None:
    result = survives(more_body_that_sends)
    assert result["statuses"] == [200, 200, 200]
    assert result["nested"] == 1
    assert result["seen"] == ["MessageError"]
    assert result["open"] == 0


async def odd_numbers() -> Any:
    outcomes = []

    async def evil(send: Any, path: str, connection: Any) -> None:
        class Int(int):
            def __index__(self) -> int:
                send(BODY)
                return 0

            __int__ = __index__

        with open(path, "rb") as opened:
            await send(START)
            for offset in (True, Int(3), (1 << 63) - 1, (1 << 62)):
                await send(
                    {"type": ZEROCOPYSEND, "file": opened, "offset": offset, "more_body": True, "count": 1}
                )
                outcomes.append(1)
            await send({"type": "http.response.body"})

    return {**await serve(evil), "outcomes sent": len(outcomes)}


def test_numbers_that_are_odd() -> None:
    result = survives(odd_numbers)
    assert result["statuses"] == [200, 200, 200]
    assert result["outcomes sent"] == 4
    assert result["nested"] == 0


# Transports that run code


async def evil_transport(method: str, what: str, plain: bool) -> Any:
    """A file of several MiB to a client that reads all the time, over a transport with one evil method."""
    path = make_file()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await send(START)
            with open(path, "rb") as opened:
                await send({"type": ZEROCOPYSEND, "file": opened, "more_body": True})
            await send({"type": "http.response.body"})
        except Exception as error:
            seen.append(type(error).__name__)

    driver = Driver(app)
    transport = Full()
    if not plain:
        transport.extra["socket"] = None
    times = [0]
    original = getattr(transport, method)

    def act() -> None:
        connection = transport.connection
        assert connection is not None
        if what == "loses the connection":
            connection.connection_lost(ConnectionResetError())
        elif what == "resumes":
            connection.resume_writing()
        elif what == "pauses":
            connection.pause_writing()
            asyncio.get_running_loop().call_soon(connection.resume_writing)
        elif what == "aborts":
            driver.factory.abort()
        elif what == "asks":
            connection.data_received(get("/again"))
        elif what == "raises":
            raise KeyError(method)

    def evil(*args: Any, **kwargs: Any) -> Any:
        times[0] += 1
        if times[0] == 1:
            act()
        return original(*args, **kwargs)

    setattr(transport, method, evil)
    connection, _ = driver.connect(transport)
    connection.data_received(get("/"))
    for _ in range(200):
        transport.read()
        await turns(2)
        if not driver.factory.in_flight:
            break
        connection.resume_writing()
    if driver.factory.connections:
        connection.connection_lost(None)
    await turns()
    left = {"open": open_files(path), "in_flight": driver.factory.in_flight}
    os.unlink(path)
    return left


WHAT = ["loses the connection", "resumes", "pauses", "aborts", "asks", "raises", "nothing"]


@pytest.mark.parametrize("plain", [True, False], ids=["sendfile", "copied"])
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("method", ["writelines", "get_write_buffer_size", "set_write_buffer_limits"])
def test_a_transport_that(method: str, what: str, plain: bool) -> None:
    result = survives(evil_transport, method, what, plain)
    assert result["open"] == 0
    assert result["in_flight"] == 0


# Ends in the middle


async def stuck(close: bool) -> Any:
    """A file of which the client takes nothing; what holds it is let go in one way or another."""
    path = make_file()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with open(path, "rb") as opened:
            await send({"type": ZEROCOPYSEND, "file": opened})

    driver = Driver(app)
    connection, _ = driver.connect(Full())
    connection.data_received(get("/"))
    await turns()
    during = open_files(path)
    if close:
        connection.connection_lost(None)
        await turns()
    after = open_files(path)
    os.unlink(path)
    return [during, after]


def test_a_connection_that_is_lost_lets_go_of_its_file() -> None:
    during, after = survives(stuck, True)
    assert during >= 1
    assert after == 0


async def end_with_a_file_in_the_air() -> list[int]:
    return await stuck(False)


def test_a_process_may_end_with_a_file_in_the_air() -> None:
    assert survives_exit(end_with_a_file_in_the_air)[0] >= 1


async def resumed_after_the_end(calls: list[str]) -> int:
    """The loop and the transport still call what they were told to call."""
    path = make_file()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        send({"type": PATHSEND, "path": path})

    driver = Driver(app)
    connection, transport = driver.connect(Full())
    connection.data_received(get("/"))
    for call in calls:
        if call == "lost":
            connection.connection_lost(None)
        elif call == "read":
            transport.read()
        elif call == "turn":
            await turns(2)
        else:
            getattr(connection, call)()
    await turns()
    if driver.factory.connections:
        connection.connection_lost(None)
    await turns()
    left = open_files(path)
    os.unlink(path)
    return left


@pytest.mark.parametrize(
    "calls",
    [
        ["lost", "resume_writing"],
        ["resume_writing", "resume_writing", "lost"],
        ["pause_writing", "read", "turn", "lost", "resume_writing"],
        ["pause_writing", "resume_writing", "read", "turn", "read", "turn"],
        ["eof_received", "read", "turn", "read", "turn", "lost"],
        ["read", "lost", "turn", "resume_writing"],
    ],
    ids=" ".join,
)
def test_calls_in_any_order(calls: list[str]) -> None:
    assert survives(resumed_after_the_end, calls) == 0
