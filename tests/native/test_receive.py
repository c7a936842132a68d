"""Evil callers of receive(), and the awaitables in the hands of people."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest

from tests.native.drive import Driver, get, post, reply, turns
from tests.native.isolated import survives


async def in_app(evil: Any, request: bytes, *later: bytes) -> Any:
    """Runs ``evil(receive, send)`` as the app, feeds ``later`` turn by turn; returns what it returned."""
    results: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        results.append(await evil(receive, send))
        await reply(send)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(request)
    for data in later:
        await turns()
        connection.data_received(data)
    await turns()
    assert not driver.errors, driver.errors
    assert driver.factory.in_flight == 0
    connection.connection_lost(None)
    return results[0]


async def test_awaited_twice_it_raises() -> None:
    async def evil(receive: Any, send: Any) -> list[str]:
        awaitable = receive()
        message = await awaitable
        with pytest.raises(RuntimeError, match="already awaited"):
            await awaitable
        with pytest.raises(RuntimeError):
            awaitable.send(None)
        return [message["type"]]

    assert await in_app(evil, get()) == ["http.request"]


async def test_awaited_by_two_tasks_loses_nothing() -> None:
    async def evil(receive: Any, send: Any) -> Any:
        awaitable = receive()

        async def wait() -> Any:
            return await awaitable

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        results = await asyncio.gather(first, second, return_exceptions=True)
        messages = [result for result in results if isinstance(result, dict)]
        return messages or [await receive()]

    messages = await in_app(evil, post(4), b"body")
    assert [message["body"] for message in messages] == [b"body"]


async def test_it_passes_as_a_coroutine() -> None:
    async def evil(receive: Any, send: Any) -> None:
        awaitable = receive()
        assert isinstance(awaitable, Awaitable)
        assert isinstance(awaitable, Coroutine)
        assert asyncio.iscoroutine(awaitable)
        assert (await asyncio.create_task(awaitable))["type"] == "http.request"
        sent = send({"type": "http.response.start", "status": 200})
        assert asyncio.iscoroutine(sent)
        assert await asyncio.wait_for(sent, 1) is None
        assert await asyncio.gather(sent, sent) == [None, None]
        await send({"type": "http.response.body"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await evil(receive, send)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get())
    await turns()
    assert not driver.errors
    assert driver.factory.in_flight == 0
    connection.connection_lost(None)


async def test_by_hand() -> None:
    async def evil(receive: Any, send: Any) -> Any:
        awaitable = receive()
        assert iter(awaitable) is awaitable
        assert awaitable.__await__() is awaitable
        future = awaitable.send(None)
        assert asyncio.isfuture(future)
        with pytest.raises(KeyError):
            awaitable.throw(KeyError("x"))
        with pytest.raises(RuntimeError):
            next(awaitable)
        other = receive()
        other.close()
        other.close()
        with pytest.raises(TypeError):
            receive().throw()
        for bad in (42, None, int):
            with pytest.raises((TypeError, SystemError)):
                receive().throw(bad)
        with pytest.raises(ValueError, match="7"):
            receive().throw(ValueError, ValueError(7), None)
        return await receive()

    message = await in_app(evil, post(4), b"body")
    assert message["body"] == b"body"


async def ready_by_hand() -> list[str]:
    seen: list[str] = []

    async def evil(receive: Any, send: Any) -> None:
        ready = send({"type": "http.response.start", "status": 200})
        assert next(iter(ready), "stop") == "stop"
        for step in (lambda: ready.send(None), lambda: next(ready), lambda: ready.send(5)):
            try:
                step()
            except StopIteration as stop:
                seen.append(repr(stop.value))
        for args in ((KeyError,), (KeyError("x"),), (KeyError, KeyError("x"), None), (42,), ()):
            try:
                ready.throw(*args)
            except BaseException as error:
                seen.append(type(error).__name__)
        ready.close()
        await send({"type": "http.response.body"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await evil(receive, send)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get())
    return seen


def test_the_ready_awaitable_by_hand() -> None:
    seen = survives_quietly(ready_by_hand)
    assert seen[:6] == ["None", "None", "None", "KeyError", "KeyError", "KeyError"]
    assert seen[6] in ("SystemError", "TypeError")
    assert seen[7] == "TypeError"


def survives_quietly(function: Any) -> Any:
    """As ``survives``, for what may name a SystemError in its result."""
    try:
        return survives(function)
    except AssertionError as error:
        text = str(error)
        if "RESULT" in text and "Fatal" not in text and "Sanitizer" not in text:
            return json.loads(text.split("RESULT ", 1)[1].splitlines()[0])
        raise


async def kept_receive(suspend: bool) -> Any:
    kept: list[Any] = []
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if suspend:
            await asyncio.sleep(0)
        if kept:
            seen.append((await kept[0]())["type"])
        kept.append(receive)
        kept.append(receive())
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    for _ in range(3):
        connection.data_received(post(3, body=b"abc"))
        await turns()
    connection.connection_lost(None)
    del connection, driver
    gc.collect()
    for item in kept:
        awaitable = item() if callable(item) else item
        try:
            awaitable.send(None)
        except StopIteration as stop:
            seen.append(stop.value["type"])
        except RuntimeError:
            seen.append("RuntimeError")
    return [len(seen), transport.read().count(b"HTTP/1.1 200"), "http.request" in seen[1:2]]


@pytest.mark.parametrize("suspend", [False, True])
def test_an_old_receive_never_reads_another_request(suspend: bool) -> None:
    length, answered, crossed = survives(kept_receive, suspend)
    assert length == 8
    assert answered == 3
    assert not crossed


async def body_in_collection() -> Any:
    """Python 3.11 collects inside allocations: receive() runs in the middle of feeding the body."""
    kept: list[Any] = []
    parts: list[bytes] = []
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(receive)
        await gate.wait()
        await reply(send)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(post(1000))

    def collect(phase: str, info: Any) -> None:
        if phase == "start" and kept:
            try:
                kept[0]().send(None)
            except StopIteration as stop:
                parts.append(stop.value["body"])

    gc.callbacks.append(collect)
    threshold = gc.get_threshold()
    for number in range(100):
        gc.set_threshold(1)
        connection.data_received(b"%010d" % number)
        if number % 3 == 0:
            gc.set_threshold(*threshold)
            try:
                kept[0]().send(None)
            except StopIteration as stop:
                parts.append(stop.value["body"])
    gc.callbacks.clear()
    gc.set_threshold(*threshold)
    gate.set()
    await turns()
    return b"".join(parts).decode()


def test_receive_inside_a_collection_loses_nothing() -> None:
    text = survives(body_in_collection)
    assert text == "".join(f"{number:010}" for number in range(100))


async def cancelled_polls() -> int:
    """Polling receive() with a timeout, as is_disconnected() does, must not gather futures."""
    counts: list[int] = []

    async def evil(receive: Any, send: Any) -> None:
        async def wait() -> Any:
            return await receive()

        await receive()
        for _ in range(2):
            for _ in range(500):
                task = asyncio.create_task(wait())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            del task
            gc.collect()
            counts.append(len(gc.get_objects()))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await evil(receive, send)
        await reply(send)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get())
    while driver.factory.in_flight:
        await asyncio.sleep(0)
    return counts[1] - counts[0]


def test_polling_receive_gathers_nothing() -> None:
    assert survives(cancelled_polls) < 50


async def gone_at_continue(in_task: bool) -> Any:
    """The client is gone when 100 Continue is written: receive() must say so, not wait for ever."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def wait() -> Any:
            return await receive()

        await asyncio.sleep(0)
        message = await (asyncio.create_task(wait()) if in_task else wait())
        seen.append(message["type"])

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(post(5, b"Expect: 100-continue"))
    transport.theirs.close()
    await turns()
    connection.connection_lost(None)
    await turns()
    return [seen, driver.factory.in_flight]


@pytest.mark.parametrize("in_task", [False, True])
def test_a_client_that_is_gone_at_100_continue(in_task: bool) -> None:
    assert survives(gone_at_continue, in_task) == [["http.disconnect"], 0]


async def two_receivers() -> Any:
    async def evil(receive: Any, send: Any) -> Any:
        async def wait() -> Any:
            return await receive()

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        first.cancel()
        return (await second)["body"].decode()

    return await in_app(evil, post(4), b"bo", b"dy")


def test_one_of_two_receivers_is_cancelled() -> None:
    assert survives(two_receivers) in ("bo", "body")


async def wrong_future_loop() -> Any:
    """A loop whose create_future gives something that cannot be awaited."""

    class Loop:
        def __init__(self, loop: Any) -> None:
            self.loop = loop
            self.evil = False

        def create_future(self) -> Any:
            return object() if self.evil else self.loop.create_future()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.loop, name)

    seen: list[str] = []
    loop = Loop(asyncio.get_running_loop())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loop.evil = True
        try:
            await receive()
        except BaseException as error:
            seen.append(type(error).__name__)
        loop.evil = False
        await reply(send)

    try:
        driver = Driver(app, loop=loop)
    except TypeError:
        return ["TypeError"]  # asyncio.Task wants a real loop: nothing can go wrong here
    connection, _ = driver.connect()
    connection.data_received(post(5))
    return seen


def test_a_loop_whose_futures_cannot_be_awaited() -> None:
    assert survives(wrong_future_loop) == ["TypeError"]
