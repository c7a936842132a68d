"""The access log and the ids where code runs that nobody called: the collector, and the ends of objects."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shardserve import _native
from tests.helpers.ws import handshake
from tests.native.drive import Driver, FakeTransport, get, ok, reply, statuses, turns
from tests.native.isolated import survives
from tests.native.observe_drive import Eyes, Log, Op, request
from tests.native.ws_drive import engine

TARGET: list[Op] = [("target", None)]
MANY_FIELDS: list[Op] = [("response_field", b"x-field-%d" % number) for number in range(30)]
"""Too many for a free list of the interpreter: the collector may run where they are kept."""


class Fuse:
    """Garbage whose end acts."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.itself = self

    def __del__(self) -> None:
        self.act()


# Inside a call


def shrink(fields: list[Any]) -> None:
    fields[:] = [5] * len(fields)


def empty(fields: list[Any]) -> None:
    fields.clear()


def unpair(fields: list[Any]) -> None:
    for pair in fields:
        if isinstance(pair, list):
            pair.clear()


def replace(fields: list[Any]) -> None:
    for number, pair in enumerate(fields):
        if isinstance(pair, list):
            pair[:] = [number, None]
        else:
            fields[number] = (number, None)


ACTS = {act.__name__: act for act in (shrink, empty, unpair, replace)}


async def collected_inside(what: str, threshold: int, socket: bool) -> Any:
    """The collector runs at any allocation of send(), and what it frees changes the app's own list."""
    act = ACTS[what]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fields: Any = [[b"x-field-%d" % number, b"value %d" % number] for number in range(40)]
        if socket:
            await receive()
            message = {"type": "websocket.accept", "headers": fields}
        else:
            message = {"type": "http.response.start", "status": 200, "headers": fields}
        Fuse(lambda: act(fields))
        gc.set_threshold(threshold, 1, 1)
        try:
            send(message)
        finally:
            gc.set_threshold(0)
            gc.collect()
        if not socket:
            await send({"type": "http.response.body", "body": b"x"})

    gc.disable()
    gc.collect()
    gc.enable()
    gc.set_threshold(0)
    eyes = Eyes(app, MANY_FIELDS, request_id_field=b"X-Request-ID", websocket=engine())
    for _ in range(5):
        await eyes.talk(handshake() if socket else get())
    gc.set_threshold(700, 10, 10)
    return [len(eyes.rows()), eyes.unraisable]


@pytest.mark.parametrize("socket", [False, True])
@pytest.mark.parametrize("threshold", [1, 2, 3, 5])
@pytest.mark.parametrize("what", ACTS)
def test_fields_that_change_while_they_are_kept(what: str, threshold: int, socket: bool) -> None:
    _, unraisable = survives(collected_inside, what, threshold, socket)
    assert unraisable == []


async def collected_in_a_head() -> Any:
    """The collector runs while ids are made and put into the request's fields."""
    count = 0

    def relist() -> None:
        nonlocal count
        count += 1
        for one in gc.get_objects():
            if type(one) is list and 0 < len(one) < 9 and type(one[0]) is tuple and one[0][:1] == (b"host",):
                one[:] = [5, (b"x-request-id",), (b"traceparent", 5)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send)

    eyes = Eyes(app, request_id_field=b"X-Request-ID", make_traceparent=True)
    connection, transport = eyes.connect()
    answered = 0
    for threshold in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20):
        Fuse(relist)
        gc.set_threshold(threshold, 1, 1)
        connection.data_received(request(b"GET", b"/", (b"X-Request-ID", b"a b"), (b"traceparent", b"x")))
        gc.set_threshold(700, 10, 10)
        answered += len(statuses(transport.read()))
    return [answered, count > 0]


def test_headers_that_change_while_ids_are_made() -> None:
    answered, acted = survives(collected_in_a_head)
    assert acted
    assert answered >= 1


# Halves


async def half_made(use: str) -> str:
    """The constructor of a log iterates what it is given, and somebody finds the log before it is one."""
    found: list[Any] = []

    def look() -> None:
        for one in gc.get_objects():
            if type(one) is _native.AccessLog and all(one is not other for other in found):
                found.append(one)

    class Items:
        def __init__(self, items: list[Any], last: bool) -> None:
            self.items, self.last = items, last

        def __iter__(self) -> Iterator[Any]:
            look()
            yield from self.items
            if self.last:
                raise KeyError("not made")

    try:
        _native.AccessLog(
            Items(TARGET, False),
            Items(TARGET, False),
            write=lambda data: None,
            schedule=lambda: None,
            exclude=Items([], True),
        )
    except KeyError:
        pass
    for log in found:
        if use == "flush":
            log.flush()
            assert log.lines == 0
        elif use == "collect":
            gc.get_referents(log)
            gc.collect()
        else:
            eyes = Eyes(ok, figures=True)
            driver = Driver(ok, access=log)
            connection, transport = driver.connect()
            connection.data_received(get())
            connection.connection_lost(None)
            transport.shut()
            del eyes
    return "alive"


@pytest.mark.parametrize("use", ["flush", "collect", "serve"])
def test_a_log_that_is_not_made_yet(use: str) -> None:
    assert survives(half_made, use) == "alive"


async def half_made_factory() -> str:
    """Arguments of a factory that run code while it is made."""
    log = Log(TARGET)

    class Truth:
        def __bool__(self) -> bool:
            for one in gc.get_objects():
                if type(one) is _native.ProtocolFactory and one not in before:
                    gc.get_referents(one)
                    gc.collect()
            return True

    before = [one for one in gc.get_objects() if type(one) is _native.ProtocolFactory]
    try:
        Driver(ok, access=log.native, make_traceparent=Truth(), headers=5)
    except TypeError:
        pass
    return "alive"


def test_a_factory_that_is_not_made_yet() -> None:
    assert survives(half_made_factory) == "alive"


# While lines are handed on


async def dies_inside(what: str) -> str:
    """write() and schedule() end the last reference to everything, the log too."""
    box: dict[str, Any] = {}

    def act(*args: Any) -> None:
        box.clear()
        gc.collect()

    kinds = {"write": {"write": act}, "schedule": {"schedule": act}}
    options = {"write": lambda data: None, "schedule": lambda: None, **kinds[what]}
    box["log"] = _native.AccessLog(TARGET, TARGET, buffer_bytes=8 if what == "write" else 4096, **options)
    box["driver"] = Driver(ok, access=box["log"])
    connection, transport = box["driver"].connect()
    del box["log"]
    connection.data_received(get("/a/long/path") * 5)
    connection.connection_lost(None)
    del connection
    transport.connection = None
    transport.shut()
    await turns()
    return "alive"


@pytest.mark.parametrize("what", ["write", "schedule"])
def test_a_callable_that_ends_its_log(what: str) -> None:
    assert survives(dies_inside, what) == "alive"


async def flush_that_ends_it() -> list[int]:
    """The only reference to a log is the one that flush() is called through."""
    box: list[Any] = []
    sizes: list[int] = []

    def write(data: bytes) -> None:
        sizes.append(len(data))
        box.clear()
        gc.collect()

    box.append(_native.AccessLog(TARGET, TARGET, write=write, schedule=lambda: None))
    driver = Driver(ok, access=box[0])
    connection, transport = driver.connect()
    connection.data_received(get() * 4)
    connection.connection_lost(None)
    transport.shut()
    driver.factory.close()
    del driver, connection, transport
    await turns()
    box[0].flush()
    return sizes


def test_flush_of_a_log_that_ends_in_it() -> None:
    assert survives(flush_that_ends_it) == [8]


async def ends_in_its_line(how: str) -> Any:
    """The line of a broken-off response is written while its connection lets go of it."""
    box: dict[str, Any] = {}
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        box["send"] = send
        await asyncio.get_running_loop().create_future()

    def write(data: bytes) -> None:
        seen.append(data.decode().strip())
        connection, transport = box["connection"], box["transport"]
        if how == "sends":
            try:
                box["send"]({"type": "http.response.body", "body": b"y"})
            except Exception as error:
                seen.append(type(error).__name__)
        elif how == "loses":
            connection.connection_lost(None)
        elif how == "feeds":
            connection.data_received(get("/fed"))
        elif how == "aborts":
            box["driver"].factory.abort()
        elif how == "ends input":
            connection.eof_received()
        elif how == "lets go":
            transport.connection = None
            box.clear()
            gc.collect()
        elif how == "counts":
            box["driver"].factory.count_states()
            box["driver"].factory.tick()

    log = _native.AccessLog(TARGET, TARGET, write=write, schedule=lambda: None, buffer_bytes=1)
    driver = box["driver"] = Driver(app, access=log)
    connection, transport = driver.connect(FakeTransport())
    box.update(connection=connection, transport=transport)
    connection.data_received(get("/mine"))
    await turns()
    connection.connection_lost(None)
    await turns()
    return [seen, driver.factory.connections]


@pytest.mark.parametrize("how", ["sends", "loses", "feeds", "aborts", "ends input", "lets go", "counts"])
def test_a_broken_off_line_whose_write(how: str) -> None:
    seen, left = survives(ends_in_its_line, how)
    assert seen[0] == "/mine"
    assert seen.count("/mine") == 1, "a line twice"
    assert "/fed" not in seen
    assert left == 0
