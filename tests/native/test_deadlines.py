"""Evil callers around the deadlines: what fails, calls back or ends things while tick() is at work.

Rules of this file: deadlines are a millisecond, and ``late`` lets more than that go by; connections are
brought into each state in which a deadline runs (``STATES``), on one factory, so that what ends one can end
the others, too. Whatever happens, the counts are right in the end and nothing was reported twice.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import weakref
from typing import Any

import pytest

from tests.native.drive import Driver, FakeTransport, get, ok, post, statuses, turns
from tests.native.isolated import survives

SOON = {
    "first_byte_ms": 1, "head_ms": 1, "keep_alive_ms": 1, "body_window_ms": 1, "body_min_rate": 1_000_000,
    "write_stall_ms": 1,
}  # fmt: skip
PIECE = b"x" * 400_000  # more than a socket takes
STATES: dict[str, bytes] = {
    "silent": b"",
    "blank": b"\r\n\r\n",
    "line": b"GET / HT",
    "head": b"GET / HTTP/1.1\r\nHo",
    "idle": get(),
    "body": post(9, body=b"x"),
    "chunks": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
    "begun": post(9).replace(b"POST /", b"POST /begun"),
    "answered": post(9).replace(b"POST /", b"POST /answered"),
    "stalled": get("/stream"),
    "pipelined": get("/stream") + get() * 3,
    "unsent": get("/big"),
    "unsent and closing": get("/big").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "refused": b"nonsense\r\n\r\n",
    "refused and unsent": get("/big") + b"nonsense\r\n\r\n",
}


def late() -> None:
    """Every deadline is over."""
    time.sleep(0.02)


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    if path in ("/begun", "/stream", "/big", "/answered"):
        await send({"type": "http.response.start", "status": 200})
        more = path in ("/begun", "/stream")
        await send({"type": "http.response.body", "body": b"x" if more else PIECE, "more_body": more})
    while path == "/stream":
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await asyncio.sleep(0)  # for transports that never pause
    if path in ("/big", "/answered"):
        return
    message = await receive()
    while message["type"] == "http.request" and message["more_body"]:
        message = await receive()
    if path == "/":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"ok"})


class Stuck(FakeTransport):
    """What is handed to it stays there, and it says so to the connection. It keeps the beginning."""

    limit = 65536
    numbers = itertools.count(1)

    def __init__(self) -> None:
        super().__init__(extra={"peername": ("127.0.0.1", next(self.numbers))})
        self.size = 0

    def get_write_buffer_size(self) -> int:
        return self.size

    def writelines(self, parts: Any) -> None:
        parts = list(parts)
        self.size += sum(map(len, parts))
        super().writelines(parts if len(self.written) < 1_000_000 else [])
        if self.size > self.limit and self.connection is not None:
            self.connection.pause_writing()


class Evil(Stuck):
    """Does ``evil(transport)`` in one of its methods, up to three times, once it is armed."""

    def __init__(self, name: str, evil: Any) -> None:
        super().__init__()
        self.armed = 0
        original = getattr(self, name)

        def method(*args: Any) -> Any:
            if self.armed:
                self.armed -= 1
                evil(self)
            return original(*args)

        setattr(self, name, method)


class Scene:
    """A driver with a connection in each state."""

    def __init__(self, make: Any = Stuck, **options: Any) -> None:
        self.driver = Driver(app, **(SOON | options))
        self.transports: dict[str, Any] = {name: make() for name in STATES}

    async def set(self) -> None:
        for name, data in STATES.items():
            connection, _ = self.driver.connect(self.transports[name])
            if data:
                connection.data_received(data)
        await turns()

    def arm(self) -> None:
        for transport in self.transports.values():
            transport.armed = 3

    async def over(self, ticks: int = 4) -> list[int]:
        """Ticks, then the transports report the end; what is left."""
        for _ in range(ticks):
            late()
            self.driver.factory.tick()
            await turns()
        for transport in self.transports.values():
            if transport.connection is not None:
                transport.connection.connection_lost(None)
        await turns()
        gc.collect()  # those that nobody told of their end
        return [self.driver.factory.connections, self.driver.factory.in_flight]


# Each state ends as it should


async def ended() -> dict[str, Any]:
    scene = Scene()
    await scene.set()
    late()
    scene.driver.factory.tick()
    await turns()
    found: dict[str, Any] = {}
    reports: dict[int, list[int]] = {}
    for status, _, client in scene.driver.rejects:
        reports.setdefault(client[1], []).append(status)
    for name, transport in scene.transports.items():
        calls = [call for call in transport.calls if call in ("close", "abort", "write_eof")]
        told = reports.get(transport.extra["peername"][1], [])
        found[name] = [calls, statuses(transport.read() + transport.written), told]
    late()
    for _ in range(3):
        scene.driver.factory.tick()
    found["reported"] = len(scene.driver.rejects)
    found["left"] = await scene.over()
    return found


def test_each_state_ends_once_and_as_it_should() -> None:
    """What is asked of its transport, what its client gets, and what is reported."""
    found = survives(ended)
    closed, late_408 = [["close"], [], []], [["write_eof"], [408], [408]]
    assert found["silent"] == closed
    assert found["blank"] == closed
    assert found["idle"] == [["close"], [200], []]
    for name in ("line", "head", "body", "chunks"):
        assert found[name] == late_408, name
    assert found["refused"] == [["write_eof"], [400], [400]]
    assert found["begun"] == [["write_eof"], [200], [0]]
    for name in ("stalled", "pipelined", "unsent", "unsent and closing", "refused and unsent"):
        (*_, last), answers, told = found[name]
        assert [last, answers, told] == ["abort", [200], [0]], name
    assert found["reported"] == sum(len(found[name][2]) for name in STATES)
    assert found["left"] == [0, 0]


def test_a_connection_is_reported_once_at_most() -> None:
    found = survives(ended)
    assert {name: found[name][2] for name in STATES if len(found[name][2]) > 1} == {}


# Evil transports

METHODS = [
    "close",
    "abort",
    "write_eof",
    "can_write_eof",
    "get_write_buffer_size",
    "writelines",
    "pause_reading",
    "resume_reading",
]


def raises(transport: Any) -> None:
    raise OSError("evil transport")


def interrupts(transport: Any) -> None:
    raise KeyboardInterrupt


EVILS: dict[str, Any] = {
    "raise": raises,
    "interrupt": interrupts,
    "lost": lambda transport: transport.connection.connection_lost(None),
    "data": lambda transport: transport.connection.data_received(get() + post(5)),
    "end of data": lambda transport: transport.connection.data_received(b"\r\n\r\n12345678"),
    "eof": lambda transport: transport.connection.eof_received(),
    "pause": lambda transport: transport.connection.pause_writing(),
    "resume": lambda transport: transport.connection.resume_writing(),
    "collect": lambda transport: gc.collect(),
}
# What an evil method does to others is in here: the scene it is in.
scenes: list[Scene] = []


def others_lost(transport: Any) -> None:
    for other in scenes[0].transports.values():
        if other is not transport:
            other.connection.connection_lost(None)


def forgotten(transport: Any) -> None:
    """Nobody but the factory's lists knows the connections any more."""
    for other in scenes[0].transports.values():
        other.connection = None
    gc.collect()


EVILS |= {
    "tick": lambda transport: scenes[0].driver.factory.tick(),
    "factory aborts": lambda transport: scenes[0].driver.factory.abort(),
    "factory drains": lambda transport: scenes[0].driver.factory.drain(lambda: None),
    "streams end": lambda transport: scenes[0].driver.factory.end_streams(),
    "others lost": others_lost,
    "forgotten": forgotten,
}


async def evil_transports(name: str, evil: str) -> list[int]:
    """The evil in tick(), and once more when it is already there at the beginning."""
    found = []
    for armed_early in (False, True):
        scene = Scene(lambda: Evil(name, EVILS[evil]))
        scenes[:] = [scene]
        if armed_early:
            scene.arm()
        try:
            await scene.set()
        except (OSError, KeyboardInterrupt, RuntimeError, AttributeError):
            assert armed_early  # it went off outside of what is tested here
        scene.arm()
        found += await scene.over()
        gc.collect()
    return found


@pytest.mark.parametrize("evil", EVILS)
@pytest.mark.parametrize("name", METHODS)
def test_evil_transports(name: str, evil: str) -> None:
    assert survives(evil_transports, name, evil) == [0] * 4


SIZES = [None, "1", -1, 1 << 40, 1 << 70, 1.5, True, "raise"]


async def odd_sizes(which: int) -> list[int]:
    size = SIZES[which]

    class Odd(Stuck):
        def get_write_buffer_size(self) -> Any:
            if size == "raise":
                raise OSError("evil transport")
            return size

    scene = Scene(Odd)
    await scene.set()
    return await scene.over()


@pytest.mark.parametrize("which", range(len(SIZES)), ids=[repr(size) for size in SIZES])
def test_a_buffer_size_that_is_none(which: int) -> None:
    assert survives(odd_sizes, which) == [0, 0]


async def growing(step: int) -> list[int]:
    """A buffer whose size jumps up and down, as if the client took things and gave them back."""

    class Jumping(Stuck):
        jump = 1

        def get_write_buffer_size(self) -> int:
            self.jump = -self.jump * step
            return max(1, self.size + self.jump)

    scene = Scene(Jumping)
    await scene.set()
    return await scene.over(20)


@pytest.mark.parametrize("step", [1, 2, 1000])
def test_a_buffer_that_jumps(step: int) -> None:
    assert survives(growing, step) == [0, 0]


# Evil callbacks

REPORTED = {
    "raise": raises,
    "interrupt": interrupts,
    "tick": EVILS["tick"],
    "factory aborts": EVILS["factory aborts"],
    "factory drains": EVILS["factory drains"],
    "streams end": EVILS["streams end"],
    "all lost": others_lost,
    "forgotten": forgotten,
    "all closed": lambda _: [other.close() for other in scenes[0].transports.values()],
    "all fed": lambda _: [
        other.connection.data_received(get() * 3 + post(9)) for other in scenes[0].transports.values()
    ],
    "all ended": lambda _: [other.connection.eof_received() for other in scenes[0].transports.values()],
    "all resumed": lambda _: [other.connection.resume_writing() for other in scenes[0].transports.values()],
    "another made": lambda _: scenes[0].driver.connect(FakeTransport()),
}


async def evil_report(what: str) -> list[Any]:
    told = []

    def report(*args: Any) -> None:
        told.append(args)
        if armed and len(told) < 50:
            REPORTED[what](None)

    armed: list[int] = []
    scene = Scene(on_reject=report)
    scenes[:] = [scene]
    await scene.set()
    armed.append(1)
    left = await scene.over()
    scene.driver.factory.abort()
    return [left if what != "another made" else [0, 0], bool(told)]


@pytest.mark.parametrize("what", REPORTED)
def test_evil_reports(what: str) -> None:
    assert survives(evil_report, what) == [[0, 0], True]


async def reports_of_reentered_ticks() -> list[int]:
    """Ticks inside of ticks: nobody is judged twice."""
    depth = 0
    told: list[int] = []

    def report(status: int, reason: str, client: Any) -> None:
        nonlocal depth
        told.append(status)
        depth += 1
        if depth < 100:
            driver.factory.tick()
        depth -= 1

    driver = Driver(app, **SOON, on_reject=report)
    held = [driver.connect() for _ in range(100)]
    for (connection, _), data in zip(held, (b"GET /", post(9)) * 50, strict=True):
        connection.data_received(data)
    late()
    driver.factory.tick()
    late()
    driver.factory.tick()
    return [len(told), set(told) == {408}]


def test_ticks_inside_of_ticks() -> None:
    assert survives(reports_of_reentered_ticks) == [100, True]


# Unread bytes


async def unread(state: str, *, paused: bool = False) -> list[Any]:
    """Ticks until the connection ends, while there is something in its socket that nobody reads."""
    driver = Driver(app, **SOON)
    connection, transport = driver.connect(Stuck())
    if STATES[state]:
        connection.data_received(STATES[state])
    await turns()
    if paused:
        connection.data_received(get() * 5000)
        assert transport.calls[-1] == "pause_reading"
    transport.theirs.send(b"x")
    ticks = 0
    while not {"close", "abort", "write_eof"} & set(transport.calls):
        late()
        driver.factory.tick()
        ticks += 1
        assert ticks < 100
    return [ticks, statuses(transport.read())]


@pytest.mark.parametrize(
    ("state", "said"), [("silent", []), ("line", [408]), ("head", [408]), ("idle", [200])]
)
def test_unread_bytes_give_time_until_the_next_tick(state: str, said: list[int]) -> None:
    assert survives(unread, state) == [2, said]


def test_unread_bytes_give_time_to_a_body() -> None:
    assert survives(unread, "body") == [2, [408]]


async def unread_of_a_stalled() -> list[Any]:
    return (await unread("stalled", paused=True))[:1]


def test_unread_bytes_do_not_save_a_client_that_takes_nothing() -> None:
    """Nobody will read them: reading is paused."""
    assert survives(unread_of_a_stalled)[0] < 10


async def nobody_to_look(extra: dict[str, Any]) -> list[Any]:
    """A transport without a socket: the deadline alone decides."""
    driver = Driver(app, **SOON)
    connection, transport = driver.connect(FakeTransport(extra=extra))
    connection.data_received(b"GET / HT")
    transport.theirs.send(b"x")
    late()
    driver.factory.tick()
    return [statuses(transport.written)]


@pytest.mark.parametrize(("extra", "found"), [({"socket": None}, [408]), ({"ssl_object": 1}, [])])
def test_without_a_socket_nobody_looks(extra: dict[str, Any], found: list[int]) -> None:
    """Below TLS there is one, and what waits there is given one more tick."""
    assert survives(nobody_to_look, extra) == [found]


async def read_in_time() -> list[Any]:
    """What was in the socket is read between the ticks: an innocent client."""
    driver = Driver(app, **SOON)
    connection, transport = driver.connect()
    connection.data_received(get()[:10])
    transport.theirs.send(get()[10:])
    late()
    driver.factory.tick()
    assert transport.calls == []
    connection.data_received(transport.ours.recv(1000))
    await turns()
    return [statuses(transport.read()), driver.rejects]


def test_what_is_read_between_the_ticks_is_in_time() -> None:
    assert survives(read_in_time) == [[200], []]


# What is held behind a request


@pytest.mark.parametrize("limit", [1, 100, 65536, 1 << 20])
async def test_reading_pauses_above_limit_pipelined_and_not_before(limit: int) -> None:
    gate = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await ok(scope, receive, send)

    driver = Driver(waits, limit_pipelined=limit)
    connection, transport = driver.connect()
    request = get("/" + "a" * 8000)  # few, so that the socket takes the answers
    requests = request * (limit // len(request) + 2)
    connection.data_received(get())
    connection.data_received(requests[:limit])
    assert transport.calls == []
    connection.data_received(requests[limit : limit + 1])
    assert transport.calls == ["pause_reading"]
    connection.data_received(requests[limit + 1 :])
    gate.set()
    await turns()
    assert statuses(transport.read()) == [200] * (limit // len(request) + 3)
    assert transport.calls == ["pause_reading", "resume_reading"]
    connection.connection_lost(None)


@pytest.mark.parametrize("limit", [0, -1])
async def test_limit_pipelined_of_0_never_pauses(limit: int) -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    driver = Driver(waits, limit_pipelined=limit)
    connection, transport = driver.connect()
    for _ in range(20):
        connection.data_received(get() * 10_000)
    assert transport.calls == []
    connection.connection_lost(None)


# limit_connections, and transports that end what they turn away


async def turned_away(name: str, evil: str) -> list[Any]:
    driver = Driver(app, limit_connections=1)
    first, _ = driver.connect()
    for armed in (0, 3):
        transport = Evil(name, EVILS[evil])
        transport.armed = armed
        scenes[:] = [Scene()]
        try:
            connection, _ = driver.connect(transport)
            connection.data_received(get())
        except (OSError, KeyboardInterrupt, RuntimeError, AttributeError):
            assert armed
        late()
        driver.factory.tick()
        if transport.connection is not None:
            transport.connection.connection_lost(None)
        await turns()
    first.connection_lost(None)
    return [driver.factory.connections, driver.factory.in_flight, driver.factory.served]


@pytest.mark.parametrize("evil", ["raise", "interrupt", "lost", "data", "eof", "collect", "resume"])
@pytest.mark.parametrize("name", [*METHODS, "get_extra_info"])
def test_evil_transports_that_are_turned_away(name: str, evil: str) -> None:
    assert survives(turned_away, name, evil) == [0, 0, 0]


async def turned_away_again() -> list[Any]:
    """on_reject of one that is turned away makes the next, which is turned away, too."""

    def report(status: int, reason: str, client: Any) -> None:
        told.append(status)
        if len(told) < 50:
            made.append(driver.connect())

    told: list[int] = []
    made: list[Any] = []
    driver = Driver(app, limit_connections=2, on_reject=report)
    for _ in range(3):
        made.append(driver.connect())
    found = [statuses(transport.read()) for _, transport in made]
    for connection, _ in made:
        connection.connection_lost(None)
    return [len(told), sorted(map(len, found)), driver.factory.connections]


def test_one_turned_away_inside_the_report_of_another() -> None:
    assert survives(turned_away_again) == [50, [0] * 2 + [1] * 50, 0]


# Garbage


class Owner:
    """Something that is in a cycle with all of it."""


async def collected() -> list[bool]:
    """Connections in every state, and nobody holds them: they are found, though they stand in lists."""

    async def build() -> Any:
        owner: Any = Owner()
        owner.scene = Scene(on_reject=lambda *args: owner)
        await owner.scene.set()
        return weakref.ref(owner)

    ref = await build()
    for _ in range(4):
        await turns()
        gc.collect()
    return [ref() is None]


def test_the_collector_finds_connections_in_every_state() -> None:
    assert survives(collected) == [True]


async def forgotten_one_by_one() -> list[int]:
    """The factory lives on, and what it does not hold is gone from its lists."""
    found = []
    for name in STATES:
        scene = Scene()
        await scene.set()
        scene.transports.pop(name)
        gc.collect()
        late()
        scene.driver.factory.tick()
        await turns()
        found += await scene.over()
        scene.driver.factory.abort()
        await turns()
    return found


def test_a_connection_that_is_collected_is_in_no_list() -> None:
    found = survives(forgotten_one_by_one)
    # Some states keep their connection alive: it is in flight, and its app's task waits for it.
    assert max(found) <= 1
    assert found[:4] == [0] * 4


async def nothing_is_left() -> list[int]:
    """Objects that 20 scenes leave behind."""

    async def play() -> None:
        scene = Scene()
        await scene.set()
        assert await scene.over() == [0, 0]
        for transport in scene.transports.values():
            transport.connection = None
            transport.shut()

    for _ in range(5):
        await play()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        await play()
    gc.collect()
    return [len(gc.get_objects()) - before]


def test_deadlines_leave_nothing_behind() -> None:
    (left,) = survives(nothing_is_left)
    assert left < 50
