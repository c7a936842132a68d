"""Evil transports, and Connection's methods called at times and with arguments that no loop would choose."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from tests.native.drive import Driver, FakeTransport, get, ok, post, reply, statuses, turns
from tests.native.isolated import survives


async def parser_callback(name: str, which: int, made: bool) -> str:
    arguments = [(), (b"x",), (b"x", b"y"), ("x",), ("x", "y"), (1,), (None, None)]
    driver = Driver(ok)
    connection, _ = driver.connect()
    if not made:
        connection = driver.factory()
    for _ in range(2):
        try:
            getattr(connection, name)(*arguments[which])
        except (TypeError, RuntimeError, ValueError):
            pass
    connection.connection_lost(None)
    return "alive"


CALLBACKS = [
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
]


async def every_parser_callback(name: str) -> str:
    for which in range(7):
        for made in (True, False):
            await parser_callback(name, which, made)
    return "alive"


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_parser_callback_called_by_hand(name: str) -> None:
    assert survives(every_parser_callback, name) == "alive"


async def begun_twice() -> str:
    driver = Driver(ok)
    connection, _ = driver.connect()
    try:
        connection.on_message_begin()
        connection.on_headers_complete()
    except (RuntimeError, TypeError, ValueError):
        pass
    connection.connection_lost(None)
    return "alive"


def test_headers_complete_without_a_target() -> None:
    assert survives(begun_twice) == "alive"


async def odd_times() -> Any:
    driver = Driver(ok)
    fresh = driver.factory()
    fresh.data_received(get())
    fresh.pause_writing()
    fresh.resume_writing()
    fresh.eof_received()
    fresh.connection_lost(None)
    fresh.connection_lost(ValueError())
    connection, transport = driver.connect()
    connection.resume_writing()
    connection.pause_writing()
    connection.data_received(get())
    assert transport.read() == b""  # send() waits
    connection.resume_writing()
    await turns()
    answered = statuses(transport.read())
    connection.connection_lost(None)
    connection.connection_lost(None)
    connection.data_received(get())
    connection.eof_received()
    connection.resume_writing()
    for bad in (None, "x", bytearray(b"x"), memoryview(b"x")):
        with pytest.raises(TypeError):
            connection.data_received(bad)
    assert driver.factory.connections == 0
    driver.factory.close()
    with pytest.raises(RuntimeError):
        driver.factory().connection_made(FakeTransport())
    return answered


def test_protocol_methods_at_odd_times() -> None:
    assert survives(odd_times) == [200]


async def made_twice() -> Any:
    driver = Driver(ok)
    connection, _ = driver.connect()
    with pytest.raises(RuntimeError):
        connection.connection_made(FakeTransport())
    connection.connection_lost(None)
    try:
        connection.connection_made(FakeTransport())
        connection.data_received(get())
        connection.connection_lost(None)
    except RuntimeError:
        pass
    return driver.factory.connections


def test_connection_made_twice() -> None:
    assert survives(made_twice) == 0


class Raising(FakeTransport):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, self._raise)

    def _raise(self, *args: Any) -> Any:
        raise OSError("evil transport")


ENDINGS = [
    "close",
    "abort",
    "write_eof",
    "writelines",
    "get_write_buffer_size",
    "pause_reading",
    "resume_reading",
]


async def raising_transport(name: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            await asyncio.sleep(0)
        await reply(send, b"x" * 3_000_000 if scope["path"] == "/big" else b"x")

    driver = Driver(app)
    for request in (
        get("/big") + get("/big"),
        get("/wait") * 3,
        post(9) + get(),
        b"nonsense\r\n\r\n",
        get() * 2000,
    ):
        connection, _ = driver.connect(Raising(name))
        connection.data_received(request)
        connection.pause_writing()
        await turns()
        connection.eof_received()
        connection.resume_writing()
        await turns()
        driver.factory.tick()
        connection.connection_lost(None)
        await turns()
    connection, _ = driver.connect(Raising(name))
    driver.factory.abort()
    connection.connection_lost(None)
    return [driver.factory.connections, driver.factory.in_flight]


@pytest.mark.parametrize("name", ENDINGS)
def test_a_transport_that_raises(name: str) -> None:
    assert survives(raising_transport, name) == [0, 0]


async def bad_extra_info() -> list[str]:
    seen: list[str] = []
    driver = Driver(ok)
    for extra in ({"socket": object()}, {"socket": None}, {"peername": 5, "sockname": object()}):
        try:
            connection, _ = driver.connect(FakeTransport(extra=extra))
            connection.data_received(get())
            connection.connection_lost(None)
            seen.append("made")
        except Exception as error:
            seen.append(type(error).__name__)
    try:
        driver.connect(Raising("get_extra_info"))
    except Exception as error:
        seen.append(type(error).__name__)
    return [*seen, str(driver.factory.connections)]


def test_get_extra_info_that_lies() -> None:
    assert survives(bad_extra_info) == ["AttributeError", "made", "made", "OSError", "0"]


async def without_a_socket(extra: dict[str, Any]) -> Any:
    """A transport that has no plain socket below it gets the response by writelines, never by the fd."""
    driver = Driver(ok)
    connection, transport = driver.connect(FakeTransport(extra=extra))
    connection.data_received(get())
    connection.data_received(get())
    return [statuses(transport.written), statuses(transport.read())]


@pytest.mark.parametrize("extra", [{"socket": None}, {"sslcontext": 1, "ssl_object": 1}])
def test_only_a_plain_socket_is_written_to(extra: dict[str, Any]) -> None:
    assert survives(without_a_socket, extra) == [[200, 200], []]


class Reentrant(FakeTransport):
    """Calls ``evil(connection)`` once, from within one of its methods, ``after`` that many calls."""

    def __init__(self, name: str, evil: Any, after: int = 0) -> None:
        super().__init__()
        self.left = after
        self.evil = evil
        original = getattr(self, name)

        def method(*args: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                self.evil(self.connection)
            return self.after(name, original(*args))

        setattr(self, name, method)

    def after(self, name: str, result: Any) -> Any:
        return 5 if name == "get_write_buffer_size" else result


EVILS = {
    "lost": lambda connection: connection.connection_lost(None),
    "data": lambda connection: connection.data_received(get()),
    "eof": lambda connection: connection.eof_received(),
    "collect": lambda connection: gc.collect(),
}


async def reentrant_transport(name: str, evil: str, after: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            await asyncio.sleep(0)
        await reply(send, b"x" * 3_000_000)

    driver = Driver(app)
    for request in (get("/big"), get("/wait") * 3, post(9), b"nonsense\r\n\r\n"):
        transport = Reentrant(name, EVILS[evil], after)
        try:
            connection, _ = driver.connect(transport)
        except (RuntimeError, OSError):
            continue
        connection.data_received(request)
        connection.data_received(get())
        await turns()
        connection.eof_received()
        connection.connection_lost(None)
        await turns()
    return [driver.factory.connections, driver.factory.in_flight]


@pytest.mark.parametrize("evil", list(EVILS))
@pytest.mark.parametrize("name", [*ENDINGS, "get_extra_info"])
def test_a_transport_that_calls_back(name: str, evil: str) -> None:
    for after in (0, 1) if name == "get_extra_info" else (0,):
        assert survives(reentrant_transport, name, evil, after) == [0, 0]


async def lost_in_abort(other: bool) -> Any:
    """A transport whose abort() calls connection_lost() at once, of its own connection or of the next."""
    made: list[Any] = []

    class Abrupt(FakeTransport):
        def abort(self) -> None:
            for connection in made if other else [self.connection]:
                connection.connection_lost(None)

        close = abort

    driver = Driver(ok)
    made.extend(driver.connect(Abrupt())[0] for _ in range(3))
    driver.factory.abort()
    made[:] = [driver.connect(Abrupt())[0] for _ in range(3)]
    for connection in made:
        connection.data_received(get())
    done = asyncio.Event()
    driver.factory.drain(done.set)
    await asyncio.wait_for(done.wait(), 2)
    return driver.factory.connections


@pytest.mark.parametrize("other", [False, True])
def test_connection_lost_within_abort(other: bool) -> None:
    assert survives(lost_in_abort, other, patience_s=4) == 0


async def data_inside_the_app(path: str) -> Any:
    """data_received() from within an app: its bytes come behind those that are being parsed."""
    order: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        order.append(scope["path"])
        if scope["path"] == "/evil":
            connection.data_received(get("/last"))
        if scope["path"] == "/wait":
            await asyncio.sleep(0)
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(get("/evil") + get(path) + get("/2") * 1000)
    await turns(1100 * 3 if path == "/wait" else 20)
    return [order[-1], len(statuses(transport.read()))]


@pytest.mark.parametrize("path", ["/2", "/wait"])
def test_data_received_inside_an_app(path: str) -> None:
    assert survives(data_inside_the_app, path) == ["/last", 1003]


async def lost_inside_the_app(what: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if what == "lost":
            connection.connection_lost(None)
        elif what == "eof":
            connection.eof_received()
        elif what == "abort":
            driver.factory.abort()
        elif what == "tick":
            driver.factory.tick()
        elif what == "drain":
            driver.factory.drain(lambda: None)
        elif what == "close":
            with pytest.raises(RuntimeError):
                driver.factory.close()
        try:
            await reply(send)
        except OSError:
            pass

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get() + get())
    await turns()
    connection.connection_lost(None)
    await turns()
    return [driver.factory.in_flight, driver.factory.connections]


@pytest.mark.parametrize("what", ["lost", "eof", "abort", "tick", "drain", "close"])
def test_the_connection_ends_inside_the_app(what: str) -> None:
    assert survives(lost_inside_the_app, what) == [0, 0]


async def eof_while_held() -> Any:
    """EOF comes while half a head waits behind a suspended request."""
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            await gate.wait()
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(get("/wait") + get("/2") * 700)
    connection.eof_received()
    gate.set()
    await turns()
    return [len(statuses(transport.read())) > 1, driver.factory.in_flight]


def test_eof_while_a_head_is_held_back() -> None:
    assert survives(eof_while_held) == [True, 0]


async def lost_in_collection(number: int) -> str:
    """Python 3.11 collects inside allocations: the connection is lost in the middle of the parser."""
    driver = Driver(ok)
    connection, _ = driver.connect()
    count = 0

    def collect(phase: str, info: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            connection.connection_lost(None)

    gc.callbacks.append(collect)
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        connection.data_received(post(10, b"A: b", b"C: d", body=b"0123456789") + get("/1") + get("/2"))
    finally:
        gc.callbacks.clear()
        gc.set_threshold(*threshold)
    return "alive"


@pytest.mark.parametrize("number", range(1, 16, 2))
def test_connection_lost_inside_the_parser(number: int) -> None:
    assert survives(lost_in_collection, number) == "alive"


async def send_in_collection(number: int) -> Any:
    """A collection in the middle of handing output to the transport runs send()."""
    sends: list[Any] = []
    accepted: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9000000")]}
        )
        sends.append(send)
        for part in range(12):
            await asyncio.sleep(0)
            data = bytes([65 + part]) * 500_000
            accepted.append(data)
            await send({"type": "http.response.body", "body": data, "more_body": True})

    class Ordered(FakeTransport):
        def writelines(self, parts: Any) -> None:
            self.written += self.read() + b"".join(parts)

    def collect(phase: str, info: Any) -> None:
        nonlocal number
        number -= 1
        if phase == "start" and sends and number % 7 == 0:
            data = b"z" * 3000
            accepted.append(data)
            try:
                sends[0]({"type": "http.response.body", "body": data, "more_body": True})
            except Exception:
                accepted.pop()

    driver = Driver(app)
    connection, transport = driver.connect(Ordered())
    connection.data_received(get())
    threshold = gc.get_threshold()
    gc.callbacks.append(collect)
    gc.set_threshold(1)
    await turns(40)
    gc.callbacks.clear()
    gc.set_threshold(*threshold)
    body = (transport.written + transport.read()).partition(b"\r\n\r\n")[2]
    sent = b"".join(accepted)
    return [len(body) == len(sent), body.count(b"z") == sent.count(b"z"), set(body) == set(sent)]


@pytest.mark.parametrize("number", range(7))
def test_send_inside_the_handing_over(number: int) -> None:
    assert survives(send_in_collection, number) == [True, True, True]


async def lost_output() -> Any:
    """The transport refuses output once: the stream has a hole, so nothing may follow it."""

    class Once(FakeTransport):
        def writelines(self, parts: Any) -> None:
            if "refused" not in self.calls:
                self.calls.append("refused")
                raise OSError("evil transport")
            super().writelines(parts)

    driver = Driver(ok)
    connection, transport = driver.connect(Once(extra={"socket": None}))
    connection.data_received(get())
    connection.data_received(get())
    return ["abort" in transport.calls, statuses(transport.written)]


def test_output_that_the_transport_refuses_ends_the_connection() -> None:
    assert survives(lost_output) == [True, []]
