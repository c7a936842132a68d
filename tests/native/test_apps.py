"""Apps that are no coroutine functions, and apps that raise what no app should."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest

from tests.native.drive import Driver, get, reply, statuses, turns
from tests.native.isolated import survives


class Iterator:
    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if not self.steps:
            raise StopIteration
        step = self.steps.pop(0)
        return step() if callable(step) else step


class Frozen:
    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("frozen")


@types.coroutine
def generator_based(send: Any) -> Any:
    yield
    send({"type": "http.response.start", "status": 200})
    send({"type": "http.response.body"})


def plain_generator(send: Any) -> Any:
    yield
    send({"type": "http.response.start", "status": 200})
    send({"type": "http.response.body"})


async def awaitable_kind(kind: str) -> Any:
    """Apps that are no coroutine functions."""
    loop = asyncio.get_running_loop()

    def answer(send: Any) -> None:
        send({"type": "http.response.start", "status": 200})
        send({"type": "http.response.body"})

    def app(scope: Any, receive: Any, send: Any) -> Any:
        if kind == "future":
            future = loop.create_future()
            loop.call_soon(lambda: (answer(send), future.set_result(None)))
            return future
        if kind == "failed future":
            future = loop.create_future()
            future.set_exception(ValueError("x"))
            return future
        if kind == "task":
            return loop.create_task(reply(send))
        if kind == "iterator":
            return Iterator(None, None, lambda: answer(send))
        if kind == "done iterator":
            answer(send)
            return Iterator()
        if kind == "generator-based":
            return generator_based(send)
        if kind in ("yields int", "yields object", "yields frozen"):
            return Iterator({"yields int": 42, "yields object": object(), "yields frozen": Frozen()}[kind])
        if kind == "raising iterator":
            return Iterator(lambda: 1 / 0)
        if kind == "late raising iterator":
            return Iterator(None, lambda: 1 / 0)
        if kind == "await gives none":
            return type("Bad", (), {"__await__": lambda self: None})()
        if kind == "await raises":
            return type("Bad", (), {"__await__": lambda self: 1 / 0})()
        if kind == "plain generator":
            return plain_generator(send)
        return {"none": None, "int": 1, "generator": (number for number in [1]), "dict": {}}[kind]

    driver = Driver(app)
    connection, transport = driver.connect()
    for _ in range(2):
        connection.data_received(get())
        await turns()
    return [statuses(transport.read()), driver.factory.in_flight, len(driver.errors)]


GOOD = ["future", "task", "iterator", "done iterator", "generator-based"]
BAD = [
    "failed future",
    "yields int",
    "yields object",
    "yields frozen",
    "raising iterator",
    "late raising iterator",
]
BAD += ["await gives none", "await raises", "none", "int", "generator", "plain generator", "dict"]


@pytest.mark.parametrize("kind", GOOD)
def test_an_app_may_return_any_awaitable(kind: str) -> None:
    assert survives(awaitable_kind, kind) == [[200, 200], 0, 0]


@pytest.mark.parametrize("kind", BAD)
def test_an_app_that_returns_something_else(kind: str) -> None:
    assert survives(awaitable_kind, kind) == [[500, 500], 0, 2]


async def base_exception(name: str, suspend: bool) -> Any:
    error = {"GeneratorExit": GeneratorExit, "CancelledError": asyncio.CancelledError}.get(name)
    error = error or {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}.get(
        name, StopIteration
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if suspend:
            await asyncio.sleep(0)
        if scope["path"] == "/evil":
            raise error
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    for path in ("/", "/evil", "/"):
        connection.data_received(get(path))
        await turns()
    return [statuses(transport.read()), driver.factory.in_flight, len(driver.errors)]


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize(
    "name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError", "StopIteration"]
)
def test_an_app_that_raises_a_base_exception(name: str, suspend: bool) -> None:
    assert survives(base_exception, name, suspend) == [[200, 500, 200], 0, 1]
