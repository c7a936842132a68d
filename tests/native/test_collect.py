"""Garbage: what the collector sees, what it frees, and what dies without anyone closing it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from shardserve import _native
from tests.native.drive import Driver, FakeTransport, get, ok, post, reply, turns
from tests.native.isolated import AtExit, survives, survives_exit

HIDDEN = ["Cycle", "Send", "Receive", "Waiter", "Parked"]


def instances(name: str) -> list[Any]:
    return [
        item
        for item in gc.get_objects()
        if type(item).__name__ == name and "_native" in type(item).__module__
    ]


@pytest.mark.parametrize("name", [*HIDDEN, "Ready", "Connection"])
async def test_a_type_cannot_be_made_or_changed_or_inherited(name: str) -> None:
    kinds: dict[str, type] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kinds["Waiter"] = type(receive())
        kinds["Send"], kinds["Receive"] = type(send), type(receive)
        kinds["Ready"] = type(send({"type": "http.response.start", "status": 200}))
        kinds["Parked"] = type(asyncio.current_task().get_coro())
        kinds["Cycle"] = type(gc.get_referents(send)[1])
        send({"type": "http.response.body"})

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get())
    connection.connection_lost(None)
    kind = kinds.get(name, _native.Connection)
    assert kind.__name__ == name
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        object.__new__(kind)
    with pytest.raises(TypeError):
        kind.mark = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        type("Sub", (kind,), {})


def test_the_factory_type_is_immutable_and_final() -> None:
    with pytest.raises(TypeError):
        _native.ProtocolFactory.mark = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        type("Sub", (_native.ProtocolFactory,), {})


async def referents() -> Any:
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert message["more_body"]
        task = asyncio.create_task(receive())
        await gate.wait()
        task.cancel()

    driver = Driver(app, state={"a": 1}, access=lambda *args: None)
    connection, _ = driver.connect()
    connection.data_received(post(100, body=b"x" * 10))
    await turns()

    def kinds(item: Any) -> set[str]:
        return {type(part).__name__ for part in gc.get_referents(item)}

    found = {name: sorted(set().union(*map(kinds, instances(name)))) for name in HIDDEN}
    found["Connection"] = sorted(kinds(connection))
    found["ProtocolFactory"] = sorted(kinds(driver.factory))
    gate.set()
    connection.connection_lost(None)
    await turns()
    return found


def test_the_collector_sees_the_members() -> None:
    found = survives(referents)
    expected = {
        "Cycle": {
            "ProtocolFactory",
            "Connection",
            "Send",
            "Receive",
            "Waiter",
            "Parked",
            "list",
            "tuple",
            "type",
        },
        "Send": {"Cycle", "type"},
        "Receive": {"Cycle", "type"},
        "Waiter": {"Cycle", "FutureIter", "type"},
        "Parked": {"ProtocolFactory", "Task", "Cycle", "coroutine", "Context", "type"},
        "Connection": {
            "ProtocolFactory",
            "FakeTransport",
            "HttpRequestParser",
            "dict",
            "tuple",
            "Cycle",
            "type",
        },
        "ProtocolFactory": {"function", "Context", "dict", "Cycle", "module", "type"},
    }
    for name, wanted in expected.items():
        assert wanted - set(found[name]) == set(), (name, found[name])


async def test_the_collector_sees_the_spare_tasks() -> None:
    driver = Driver(ok)
    assert "Parked" in {type(part).__name__ for part in gc.get_referents(driver.factory)}
    driver.factory.close()


class Owner:
    """Something an app holds on to."""


async def cycle_through_app(kind: str) -> list[bool]:
    """App objects in reference cycles through ours die once nothing else holds them."""
    dead: list[Any] = []

    def build() -> None:
        owner: Any = Owner()
        dead.append(weakref.ref(owner))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            owner.mine = (scope, receive, send)
            if kind == "waiter":
                owner.waiter = receive()
            if kind == "suspended":
                owner.task = asyncio.current_task()
                await asyncio.get_running_loop().create_future()
            if kind == "later":
                await asyncio.sleep(0)
            await reply(send)

        owner.driver = Driver(app)
        owner.connection, _ = owner.driver.connect()
        dead.append(weakref.ref(owner.connection))
        owner.connection.data_received(get())
        if kind == "closed":
            owner.connection.connection_lost(None)
            owner.driver.factory.close()

    build()
    if kind != "suspended":
        await turns()
    for _ in range(4):
        gc.collect()
        await turns()
    return [ref() is None for ref in dead]


@pytest.mark.parametrize("kind", ["plain", "later", "waiter", "suspended", "closed"])
def test_cycles_through_the_app_are_collected(kind: str) -> None:
    assert survives(cycle_through_app, kind) == [True, True]


async def dropped_while_suspended(how: str) -> Any:
    """The factory goes without close() while requests wait; their ``finally`` still calls send()."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            if how == "receive":
                await receive()
                await receive()
            elif how == "thrown away":
                await asyncio.get_running_loop().create_future()
            else:
                await asyncio.sleep(3600)
        finally:
            try:
                send({"type": "http.response.start", "status": 200})
                send({"type": "http.response.body", "body": b"x"})
            except Exception as error:
                seen.append(type(error).__name__)

    def build() -> None:
        driver = Driver(app)
        for _ in range(5):
            connection, _ = driver.connect()
            connection.data_received(post(5) + get() if how == "receive" else get() + get())

    build()
    for _ in range(3):
        gc.collect()
        await turns()
    return "alive"


@pytest.mark.parametrize("how", ["receive", "thrown away", "timer"])
def test_a_factory_that_is_dropped_while_requests_wait(how: str) -> None:
    assert survives(dropped_while_suspended, how) == "alive"


def loop_closed_under_it(uvloop: bool) -> str:
    """The loop closes with everything still open, and the rest is collected afterwards."""
    import uvloop as uvloop_module

    loop: Any = uvloop_module.new_event_loop() if uvloop else asyncio.new_event_loop()
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await loop.create_future()
        finally:
            send({"type": "http.response.start", "status": 200})
            send({"type": "http.response.body"})

    async def main() -> None:
        driver = Driver(app)
        connection, transport = driver.connect()
        connection.data_received(get() + get())
        await turns()
        kept.extend([driver, connection, transport])

    loop.run_until_complete(main())
    loop.close()
    driver, connection, transport = kept
    connection.data_received(get())
    connection.eof_received()
    connection.connection_lost(None)
    driver.factory.abort()
    driver.factory.tick()
    driver.factory.close()
    del driver, connection, transport
    kept.clear()
    gc.collect()
    return "alive"


@pytest.mark.parametrize("uvloop", [False, True])
def test_the_loop_is_closed_before_anything_else(uvloop: bool) -> None:
    assert survives(loop_closed_under_it, uvloop) == "alive"


async def many_waiting_in_queue() -> str:
    """A long queue of parsed requests is freed without deep recursion, by loss and by collection."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    for lost in (True, False):
        driver = Driver(app)
        connection, _ = driver.connect()
        connection.data_received(post(1))
        connection.data_received(b"a" + b"GET / HTTP/1.1\r\n\r\n" * 14_000)
        if lost:
            connection.connection_lost(None)
        del connection, driver
        gc.collect()
    return "alive"


def test_a_long_queue_is_freed() -> None:
    assert survives(many_waiting_in_queue) == "alive"


async def garbage_per_request(path: str) -> int:
    """Objects that 300 requests leave for the collector, which is switched off."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/later":
            await asyncio.sleep(0)
        elif scope["path"] == "/task":
            await asyncio.create_task(receive())
        elif scope["path"] == "/boom":
            try:
                raise ValueError
            except ValueError:
                await reply(send)
            return
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()

    async def requests(count: int) -> None:
        for _ in range(count):
            connection.data_received(get(path))
            await turns(6)
            transport.read()

    await requests(50)
    gc.collect()
    gc.disable()
    before = len(gc.get_objects())
    await requests(300)
    return len(gc.get_objects()) - before


@pytest.mark.parametrize("path", ["/", "/later", "/task", "/boom"])
def test_a_request_leaves_nothing_for_the_collector(path: str) -> None:
    assert survives(garbage_per_request, path) < 30


def used_at_exit() -> str:
    """send and the factory outlive the module at interpreter shutdown."""
    import builtins

    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            builtins.kept = AtExit(  # type: ignore[attr-defined]
                lambda: send({"type": "http.response.body"}),
                receive,
                lambda: connection.data_received(get()),
            )
            await reply(send)

        driver = Driver(app)
        connection, _ = driver.connect()
        connection.data_received(get())
        builtins.driver = driver  # type: ignore[attr-defined]

    asyncio.run(main())
    return "alive"


def test_used_while_the_interpreter_ends() -> None:
    assert survives_exit(used_at_exit) == "alive"


async def weak_reference_callback() -> str:
    """A weak reference's callback walks the factory while a connection dies."""
    driver = Driver(ok)
    refs: list[Any] = []
    for _ in range(3):
        connection, transport = driver.connect(FakeTransport())
        refs.append(weakref.ref(connection, lambda ref: (driver.factory.tick(), driver.factory.abort())))
        del connection
        transport.connection = None
        del transport
    gc.collect()
    return "alive"


def test_a_weak_reference_that_calls_back() -> None:
    assert survives(weak_reference_callback) == "alive"
