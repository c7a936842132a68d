"""Garbage of WebSockets: what the collector sees, what it frees, and what dies without anyone closing it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from shardserve import _native
from tests.helpers.ws import BINARY, CLOSE, TEXT, close, frame, handshake, ping, text
from tests.native.drive import Driver, FakeTransport, turns
from tests.native.isolated import AtExit, survives, survives_exit
from tests.native.test_collect import Owner, instances
from tests.native.ws_drive import OFFER, connect, engine

ACCEPT = {"type": "websocket.accept"}
LONG = {"type": "websocket.send", "text": "x" * 5000}


async def wait_for_ever(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(ACCEPT)
    await asyncio.get_running_loop().create_future()


async def test_the_type_cannot_be_made_or_changed_or_inherited() -> None:
    driver = Driver(wait_for_ever)
    connection, _ = connect(driver, handshake())
    (kind,) = {type(one) for one in gc.get_referents(connection) if type(one).__name__ == "WebSocket"}
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        object.__new__(kind)
    with pytest.raises(TypeError):
        kind.mark = 1
    with pytest.raises(TypeError):
        type("Sub", (kind,), {})
    connection.connection_lost(None)
    await turns()
    driver.factory.abort()
    assert not hasattr(_native, "WebSocket")


class Peer:
    """What an engine keeps between fragments."""


class Agreed:
    """What an engine calls an extension."""


class Keeping:
    """An engine whose objects can be found."""

    def __init__(self) -> None:
        self._real = engine()

    def open(self, method: Any, headers: Any) -> Any:
        status, fields, offered, _ = self._real.open(method, headers)
        return status, fields, offered, Agreed()

    def receive(self, peer: Any, extensions: Any, data: bytes) -> Any:
        assert type(extensions) is Agreed
        return Peer(), 0, None, "", b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def referents() -> Any:
    async def opening(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (opening if scope["path"] == "/opening" else wait_for_ever)(scope, receive, send)

    driver = Driver(app, websocket=Keeping())
    waiting, _ = connect(driver, handshake("/opening"))
    connection, _ = connect(driver, handshake(), text("queued"), frame(BINARY, b"x", fin=False), b"\x81")
    await turns()

    def kinds(item: Any) -> list[str]:
        return sorted({type(part).__name__ for part in gc.get_referents(item)})

    found = {"Connection": kinds(connection), "ProtocolFactory": kinds(driver.factory)}
    found["WebSocket"] = sorted({name for one in instances("WebSocket") for name in kinds(one)})
    found["Cycle"] = sorted({name for one in instances("Cycle") for name in kinds(one)})
    for one in (connection, waiting):
        one.connection_lost(None)
    driver.factory.abort()
    await turns()
    return found


def test_the_collector_sees_the_members() -> None:
    found = survives(referents)
    assert {"ProtocolFactory", "list", "Agreed", "Peer", "type"} <= set(found["WebSocket"]), found
    assert {"WebSocket", "Cycle"} <= set(found["Connection"]), found
    assert "WebSocket" in found["Cycle"], found
    assert "Keeping" in found["ProtocolFactory"], found


STATES: dict[str, list[bytes]] = {
    "opening": [],
    "open": [],
    "within a message": [frame(TEXT, b"x", fin=False)],
    "within a frame": [text("half")[:5]],
    "with a queue": [text(str(number)) for number in range(20)],
    "with much unparsed": [text("x" * 1000)] * 200,
    "receiving": [],
    "closing": [],
    "closed": [close()],
    "failed": [frame(3, b"x")],
    "lost": [],
    "denied": [],
}


async def cycle_through_app(state: str) -> list[bool]:
    """App objects in reference cycles through ours die once nothing else holds them."""
    dead: list[Any] = []

    def build() -> None:
        owner: Any = Owner()
        dead.append(weakref.ref(owner))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            owner.mine = (scope, receive, send)
            await receive()
            if state == "denied":
                await send({"type": "websocket.close"})
                return
            if state == "opening":
                owner.waiter = receive()
                return
            await send(ACCEPT)
            await send(LONG)
            if state == "receiving":
                owner.task = asyncio.current_task()
                while (await receive())["type"] != "websocket.disconnect":
                    pass
            elif state == "closing":
                await send({"type": "websocket.close"})
            owner.waiter = receive()
            await asyncio.get_running_loop().create_future()

        owner.driver = Driver(app)
        owner.connection, _ = connect(owner.driver, handshake("/", OFFER), *STATES[state])
        dead.append(weakref.ref(owner.connection))
        if state == "lost":
            owner.connection.connection_lost(None)

    build()
    if state in ("opening", "denied"):
        await turns()
    for _ in range(4):
        gc.collect()
        await turns()
    return [ref() is None for ref in dead]


@pytest.mark.parametrize("state", STATES)
def test_cycles_through_the_app_are_collected(state: str) -> None:
    assert survives(cycle_through_app, state) == [True, True]


async def dropped_while_open(state: str) -> Any:
    """The factory goes without close() while WebSockets are open; their ``finally`` still calls send()."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            if state != "opening":
                await send(ACCEPT)
            while (await receive())["type"] == "websocket.receive":
                pass
            await asyncio.get_running_loop().create_future()
        finally:
            for message in (ACCEPT, LONG, {"type": "websocket.close"}):
                try:
                    send(message)
                except Exception as error:
                    seen.append(type(error).__name__)

    def build() -> None:
        driver = Driver(app)
        for _ in range(5):
            connect(driver, handshake("/", OFFER), *STATES[state])

    build()
    for _ in range(3):
        gc.collect()
        await turns()
    return "alive"


@pytest.mark.parametrize("state", STATES)
def test_a_factory_that_is_dropped_while_websockets_are_open(state: str) -> None:
    assert survives(dropped_while_open, state) == "alive"


def loop_closed_under_it(uvloop: bool) -> str:
    """The loop closes with everything still open, and the rest is collected afterwards."""
    import uvloop as uvloop_module

    loop: Any = uvloop_module.new_event_loop() if uvloop else asyncio.new_event_loop()
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        try:
            await loop.create_future()
        finally:
            send(LONG)

    async def main() -> None:
        driver = Driver(app)
        connection, transport = connect(driver, handshake("/", OFFER), text("a") * 100)
        await turns()
        kept.extend([driver, connection, transport])

    loop.run_until_complete(main())
    loop.close()
    driver, connection, transport = kept
    connection.data_received(text("b") + ping() + frame(BINARY, b"", fin=False))
    driver.factory.end_streams()
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


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/denied":
        await send({"type": "websocket.close"})
        return
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})
        if scope["path"] == "/closes":
            await send({"type": "websocket.close"})


async def objects(step: Any, *, collect: bool) -> int:
    """By how many objects there are more after many steps; without ``collect`` the collector is off."""
    for _ in range(50):
        await step()
    gc.collect()
    gc.disable()
    before = len(gc.get_objects())
    for _ in range(300):
        await step()
    if collect:
        gc.collect()
    return len(gc.get_objects()) - before


MESSAGES: dict[str, bytes] = {
    "short": text("x"),
    "long": text("x" * 3000),
    "fragments": frame(TEXT, b"x", fin=False) + frame(0, b"y"),
    "compressed": frame(TEXT, b"\x4a\x04\0", rsv=4),
    "pings": ping(),
}


async def garbage_of_messages(kind: str) -> int:
    driver = Driver(echo)
    connection, transport = connect(driver, handshake("/", OFFER))

    async def step() -> None:
        connection.data_received(MESSAGES[kind])
        await turns(3)
        transport.read()

    return await objects(step, collect=False)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_leaves_nothing_for_the_collector(kind: str) -> None:
    assert survives(garbage_of_messages, kind) < 30


CONNECTIONS: dict[str, tuple[str, bytes]] = {
    "closed by the client": ("/", text("x") + close()),
    "closed by the app": ("/closes", text("x") + close()),
    "failed": ("/", frame(3, b"x")),
    "denied": ("/denied", b""),
    "lost": ("/", frame(TEXT, b"x", fin=False)),
}


async def garbage_of_connections(kind: str) -> int:
    driver = Driver(echo)
    path, data = CONNECTIONS[kind]

    async def step() -> None:
        connection, transport = connect(driver, handshake(path, OFFER), data)
        await turns(4)
        connection.connection_lost(None)
        await turns(4)
        transport.connection = None
        transport.shut()
        driver.errors.clear()
        driver.rejects.clear()

    return await objects(step, collect=True)


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_a_connection_leaves_nothing_behind_the_collector(kind: str) -> None:
    """The library's handshake leaves cycles of its own, which are all that it has to find."""
    assert survives(garbage_of_connections, kind) < 30


def used_at_exit() -> str:
    """send and receive outlive the module at interpreter shutdown."""
    import builtins

    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(ACCEPT)
            builtins.kept = AtExit(  # type: ignore[attr-defined]
                lambda: send(LONG),
                lambda: send({"type": "websocket.close"}),
                receive,
                lambda: connection.data_received(text("x") + ping() + close()),
            )
            await asyncio.sleep(0)

        driver = Driver(app)
        connection, _ = driver.connect()
        connection.data_received(handshake("/", OFFER))
        builtins.driver = driver  # type: ignore[attr-defined]

    asyncio.run(main())
    return "alive"


def test_used_while_the_interpreter_ends() -> None:
    assert survives_exit(used_at_exit) == "alive"


async def weak_reference_callback() -> str:
    """A weak reference's callback walks the factory while a WebSocket's connection dies."""
    driver = Driver(wait_for_ever)
    refs: list[Any] = []
    act = driver.factory

    def called(_: Any) -> None:
        act.tick()
        act.end_streams()
        act.abort()

    for _ in range(3):
        connection, transport = driver.connect(FakeTransport())
        connection.data_received(handshake() + frame(TEXT, b"x", fin=False))
        refs.append(weakref.ref(connection, called))
        connection.connection_lost(None)
        del connection
        transport.connection = None
        del transport
        await turns()
    gc.collect()
    return "alive"


def test_a_weak_reference_that_calls_back() -> None:
    assert survives(weak_reference_callback) == "alive"


async def close_frames_of_a_thousand() -> int:
    """Each of many open WebSockets ends with the factory's drain; what they said of it."""
    driver = Driver(wait_for_ever)
    opened = [connect(driver, handshake()) for _ in range(300)]
    await turns()
    told = driver.factory.end_streams()
    for connection, transport in opened:
        head, _, rest = transport.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert rest[:1] == bytes([0x80 | CLOSE])
        connection.connection_lost(None)
    driver.factory.abort()
    await turns()
    return told


def test_all_are_told_of_a_drain() -> None:
    assert survives(close_frames_of_a_thousand) == 300
