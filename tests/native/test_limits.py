"""Evil callers around the limits: on_crowded, the refusals of limit_concurrency, and end_streams()."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from tests.native.drive import Driver, FakeTransport, get, ok, post, reply, statuses, turns
from tests.native.isolated import survives

EVENTS = [(b"content-type", b"text/event-stream")]


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Waits for good."""
    await asyncio.get_running_loop().create_future()


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """An event stream that waits for its end, and returns."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


# on_crowded


def numbered(driver: Driver, transport: FakeTransport | None = None) -> int:
    """Makes a connection; the number of its descriptor."""
    _, transport = driver.connect(transport)
    return transport.ours.fileno()


async def test_called_at_the_limit_and_above() -> None:
    calls: list[int] = []
    spare = FakeTransport()
    driver = Driver(ok, max_fd=spare.ours.fileno(), on_crowded=lambda: calls.append(1))
    numbered(driver, spare)
    assert len(calls) == 1
    for number in range(2, 5):
        numbered(driver)
        assert len(calls) == number


async def test_not_called_below_it() -> None:
    calls: list[int] = []
    driver = Driver(ok, max_fd=4096, on_crowded=lambda: calls.append(1))
    for _ in range(5):
        numbered(driver)
    assert calls == []


@pytest.mark.parametrize(("extra", "number"), [({"socket": None}, 0), ({"ssl_object": object()}, 1)])
async def test_a_descriptor_below_tls_counts(extra: dict[str, Any], number: int) -> None:
    calls: list[int] = []
    driver = Driver(ok, max_fd=1, on_crowded=lambda: calls.append(1))
    driver.connect(FakeTransport(extra=extra))
    assert calls == [1] * number


@pytest.mark.parametrize("options", [{"max_fd": 0}, {"max_fd": -1}, {}])
async def test_without_a_limit_it_is_not_called(options: dict[str, Any]) -> None:
    calls: list[int] = []
    driver = Driver(ok, on_crowded=lambda: calls.append(1), **options)
    numbered(driver)
    assert calls == []


async def test_a_limit_without_a_callback() -> None:
    for nobody in ({}, {"on_crowded": None}):
        driver = Driver(ok, max_fd=1, **nobody)
        connection, transport = driver.connect()
        connection.data_received(get())
        assert statuses(transport.read()) == [200]


async def test_the_connection_is_served() -> None:
    driver = Driver(ok, max_fd=1, on_crowded=lambda: None)
    connection, transport = driver.connect()
    connection.data_received(get() + get())
    assert statuses(transport.read()) == [200, 200]


async def crowded_raises(error: str) -> Any:
    import sys

    seen: list[Any] = []
    kinds = {"plain": ValueError("no"), "interrupt": KeyboardInterrupt(), "exit": SystemExit(3)}

    def crowded() -> None:
        raise kinds[error]

    sys.unraisablehook = lambda args: seen.append(type(args.exc_value).__name__)
    driver = Driver(ok, max_fd=1, on_crowded=crowded)
    connection, transport = driver.connect()
    connection.data_received(get())
    return [seen, statuses(transport.read()), driver.factory.connections]


@pytest.mark.parametrize("error", ["plain", "interrupt", "exit"])
def test_its_error_is_unraisable(error: str) -> None:
    names = {"plain": "ValueError", "interrupt": "KeyboardInterrupt", "exit": "SystemExit"}
    assert survives(crowded_raises, error) == [[names[error]], [200], 1]


async def crowded_is_evil(what: str) -> str:
    """on_crowded ends what is being made."""
    kept: list[Any] = []
    depth = 0

    def crowded() -> None:
        nonlocal depth
        depth += 1
        driver, transport = kept[-1]
        if what == "close":
            transport.close()
            transport.connection.connection_lost(None)
        elif what == "abort":
            driver.factory.abort()
            transport.connection.connection_lost(None)
        elif what == "drain":
            driver.factory.drain(lambda: None)
        elif what == "drop":
            kept.clear()
            transport.connection = None
            gc.collect()
        elif what == "feed":
            transport.connection.data_received(get() + post(10, body=b"x"))
            transport.connection.eof_received()
        elif what == "made again":
            with pytest.raises(RuntimeError):
                transport.connection.connection_made(transport)
        elif what == "recurse" and depth < 20:
            more = FakeTransport()
            kept.append((driver, more))
            driver.connect(more)
        driver.factory.tick()
        driver.factory.end_streams()

    for _ in range(3):
        kept.clear()
        driver = Driver(ok, max_fd=1, on_crowded=crowded)
        transport = FakeTransport()
        kept.append((driver, transport))
        try:
            connection, _ = driver.connect(transport)
        except RuntimeError:
            continue
        del driver
        connection.data_received(get())
        await turns()
        connection.connection_lost(None)
    assert depth
    return "alive"


@pytest.mark.parametrize("what", ["close", "abort", "drain", "drop", "feed", "made again", "recurse"])
def test_on_crowded_that_ends_what_is_being_made(what: str) -> None:
    assert survives(crowded_is_evil, what) == "alive"


class Owner:
    """Something a callback holds on to."""


async def crowded_in_a_cycle() -> list[bool]:
    """on_crowded holds the factory, which holds on_crowded."""

    def build() -> Any:
        owner: Any = Owner()
        owner.driver = Driver(ok, max_fd=1, on_crowded=lambda: owner)
        owner.connection, _ = owner.driver.connect()
        assert any(getattr(part, "__closure__", None) for part in gc.get_referents(owner.driver.factory))
        return weakref.ref(owner)

    ref = build()
    for _ in range(4):
        await turns()
        gc.collect()
    return [ref() is None]


def test_the_collector_sees_on_crowded() -> None:
    assert survives(crowded_in_a_cycle) == [True]


# limit_concurrency


async def full(**options: Any) -> Driver:
    """A driver whose one request is taken."""
    driver = Driver(slow, limit_concurrency=1, **options)
    connection, _ = driver.connect()
    connection.data_received(get())
    assert driver.factory.in_flight == 1
    return driver


async def refusal_is_evil(where: str, what: str) -> Any:
    """The callables that are told of a refusal end what it belongs to, or feed it more."""
    told = 0
    state: dict[str, Any] = {}

    def evil(*args: Any) -> None:
        nonlocal told
        told += 1
        if told > 3 or "connection" not in state:
            return
        if what == "lose":
            state["connection"].connection_lost(None)
        elif what == "abort":
            state["driver"].factory.abort()
        elif what == "feed":
            state["connection"].data_received(get() * 3 + post(3))
        elif what == "end":
            state["connection"].eof_received()
        elif what == "drain":
            state["driver"].factory.drain(lambda: None) if told == 1 else None
        elif what == "raise":
            raise KeyboardInterrupt
        elif what == "drop":
            state.clear()
            gc.collect()

    driver = await full(**{where: evil})
    connection, transport = driver.connect()
    state.update(driver=driver, connection=connection)
    factory = driver.factory
    del driver
    connection.data_received(get() + post(3) + b"abc" + get(method="HEAD") + post(9, body=b"x"))
    await turns()
    found = statuses(transport.read())
    transport.connection = None
    del connection
    await turns()
    assert told
    factory.abort()
    await turns()
    return found[:1]


@pytest.mark.parametrize("what", ["lose", "abort", "feed", "end", "drain", "raise", "drop"])
@pytest.mark.parametrize("where", ["on_reject", "access"])
def test_callbacks_of_a_refusal(where: str, what: str) -> None:
    found = survives(refusal_is_evil, where, what)
    assert found == ([] if what in ("lose", "abort", "end") else [503])


async def never_reads() -> Any:
    """A client that sends requests and reads no answers gets no more than the transport has room for."""

    class Slow(FakeTransport):
        room = 65536

        def get_write_buffer_size(self) -> int:
            return len(self.written)

        def writelines(self, parts: Any) -> None:
            super().writelines(parts)
            if len(self.written) > self.room:
                self.connection.pause_writing()

    driver = await full()
    connection, transport = driver.connect(Slow(extra={"socket": None}))
    assert isinstance(transport, Slow)
    sent = 0
    while "pause_reading" not in transport.calls:
        connection.data_received(get() * 500)
        sent += 500
        assert sent < 100_000
    held = len(transport.written)
    answered = 0
    for _ in range(10_000):
        answered += len(statuses(transport.written))
        transport.written = b""
        connection.resume_writing()
        await turns(3)
        if answered + len(statuses(transport.written)) == sent:
            break
    return [held < 300_000, answered + len(statuses(transport.written)) == sent]


def test_a_client_that_reads_no_answer_fills_no_memory() -> None:
    assert survives(never_reads) == [True, True]


async def what_was_held_back() -> list[int]:
    """It is served if there is room by then."""
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        await reply(send)

    driver = Driver(app, limit_concurrency=1)
    first, _ = driver.connect()
    first.data_received(get("/slow"))
    connection, transport = driver.connect()
    connection.pause_writing()
    connection.data_received(get())
    assert transport.read() == b""
    gate.set()
    await turns()
    connection.resume_writing()
    await turns()
    connection.connection_lost(None)
    return statuses(transport.read())


def test_what_was_held_back_is_served_if_there_is_room() -> None:
    assert survives(what_was_held_back) == [200]


async def refused_leaves_nothing() -> int:
    """Objects that 300 refusals leave behind."""
    driver = await full()
    connection, transport = driver.connect()

    def refuse(count: int) -> None:
        for _ in range(count):
            connection.data_received(get() + post(3) + b"abc")
            driver.rejects.clear()
            transport.read()

    refuse(50)
    gc.collect()
    gc.disable()
    before = len(gc.get_objects())
    refuse(300)
    return len(gc.get_objects()) - before


def test_a_refusal_leaves_nothing_for_the_collector() -> None:
    assert survives(refused_leaves_nothing) < 10


@pytest.mark.parametrize("limit", [-1, -(1 << 62)])
async def test_a_negative_limit_is_none(limit: int) -> None:
    driver = Driver(ok, limit_concurrency=limit)
    connection, transport = driver.connect()
    connection.data_received(get())
    assert statuses(transport.read()) == [200]


@pytest.mark.parametrize("options", [{"limit_concurrency": 1 << 70}, {"max_fd": 1 << 40}, {"max_fd": "1"}])
async def test_a_limit_that_is_no_number_of_ours(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        Driver(ok, **options)


# end_streams


async def ended_from_inside(turn: bool) -> Any:
    """An app calls end_streams() for itself and others, in its first step or later."""
    counts: list[int] = []
    messages: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if scope["path"] == "/caller":
            if turn:
                await asyncio.sleep(0)
            counts.append(driver.factory.end_streams())
            counts.append(driver.factory.end_streams())
        messages.append((await receive())["type"])
        await send({"type": "http.response.body"})

    driver = Driver(app)
    pairs = [driver.connect() for _ in range(3)]
    for (connection, _), path in zip(pairs, ["/", "/", "/caller"], strict=True):
        connection.data_received(get(path))
    await turns()
    assert driver.factory.in_flight == 0
    assert all(transport.read().endswith(b"0\r\n\r\n") for _, transport in pairs)
    return [counts, messages]


@pytest.mark.parametrize("turn", [False, True])
def test_end_streams_called_by_an_app(turn: bool) -> None:
    assert survives(ended_from_inside, turn) == [[3, 0], ["http.disconnect"] * 3]


async def ended_by_futures() -> Any:
    """A loop whose futures run code when they are resolved: others go while they are being told."""
    loop = asyncio.get_running_loop()
    real = loop.create_future
    counts: list[int] = []

    class Evil(asyncio.Future):
        def set_result(self, result: Any) -> None:
            super().set_result(result)
            if driver.factory.in_flight < 6 or not armed:
                return
            counts.append(driver.factory.end_streams())
            for connection, _ in pairs[1:3]:
                connection.connection_lost(None)
            gc.collect()

    armed: list[int] = []
    driver = Driver(stream)
    pairs = [driver.connect() for _ in range(6)]
    loop.create_future = lambda: Evil(loop=loop)  # type: ignore[method-assign]
    for connection, _ in pairs:
        connection.data_received(get())
    await turns()
    loop.create_future = real  # type: ignore[method-assign]
    armed.append(1)
    counts.append(driver.factory.end_streams())
    await turns()
    assert driver.factory.in_flight == 0
    return sum(counts)


def test_a_future_that_ends_others_while_they_are_told() -> None:
    told = survives(ended_by_futures)
    assert 4 <= told <= 6


async def told_and_lost(order: str) -> Any:
    """The client goes as its request is told, or the server cuts it."""
    driver = Driver(stream)
    connection, transport = driver.connect()
    connection.data_received(get())
    await turns()
    if order == "lost first":
        connection.connection_lost(None)
        told = driver.factory.end_streams()
    elif order == "told first":
        told = driver.factory.end_streams()
        connection.connection_lost(None)
    else:
        told = driver.factory.end_streams()
        driver.factory.abort()
        connection.connection_lost(None)
    await turns()
    assert driver.factory.in_flight == 0
    transport.shut()
    driver.factory.close()
    return [told, driver.outcomes() if order != "aborted" else []]


@pytest.mark.parametrize(("order", "told"), [("lost first", 0), ("told first", 1), ("aborted", 1)])
def test_told_and_lost(order: str, told: int) -> None:
    assert survives(told_and_lost, order) == [told, []]


async def told_without_a_future() -> Any:
    """receive() by hand: never stepped, stepped and closed, kept for later."""
    found: list[Any] = []
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        unstepped, closed, cancelled = receive(), receive(), asyncio.ensure_future(receive())
        closed.send(None)
        closed.close()
        await asyncio.sleep(0)
        cancelled.cancel()
        await gate.wait()
        found.append((await unstepped)["type"])
        found.append((await receive())["type"])
        found.append(cancelled.cancelled())

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(get())
    await turns()
    found.append(driver.factory.end_streams())
    gate.set()
    await turns()
    found.append(transport.read().endswith(b"0\r\n\r\n"))
    connection.connection_lost(None)
    return [found, driver.outcomes()]


def test_told_whatever_became_of_the_receives() -> None:
    assert survives(told_without_a_future) == [[1, "http.disconnect", "http.disconnect", True, True], []]


async def proper_end_is_evil(what: str) -> str:
    """The access log's callable, called for the end that we wrote ourselves, ends the rest."""
    state: dict[str, Any] = {}

    def access(*args: Any) -> None:
        if what == "lose":
            state["connection"].connection_lost(None)
        elif what == "abort":
            state["driver"].factory.abort()
        elif what == "feed":
            state["connection"].data_received(get())
        elif what == "raise":
            raise KeyboardInterrupt

    driver = Driver(stream, access=access)
    connection, _ = driver.connect()
    state.update(driver=driver, connection=connection)
    connection.data_received(get() + get())
    await turns()
    driver.factory.end_streams()
    await turns()
    driver.factory.abort()
    await turns()
    assert driver.factory.in_flight == 0
    return "alive"


@pytest.mark.parametrize("what", ["lose", "abort", "feed", "raise"])
def test_callbacks_of_a_proper_end(what: str) -> None:
    assert survives(proper_end_is_evil, what) == "alive"


async def test_end_streams_of_a_closed_factory() -> None:
    driver = Driver(ok)
    driver.factory.close()
    assert driver.factory.end_streams() == 0
    with pytest.raises(TypeError):
        driver.factory.end_streams(1)  # type: ignore[call-arg]
