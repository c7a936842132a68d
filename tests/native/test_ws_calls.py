"""Evil surroundings of a WebSocket: a transport, a client and an app that call back from anywhere.

Rules of this file: those of test_ws.py.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from tests.helpers.ws import TEXT, binary, close, frame, ping, text
from tests.native.drive import GONE, get, turns
from tests.native.isolated import survives
from tests.native.ws_drive import OFFER, Scene, Solid, for_ever, until_the_end

ACCEPT = {"type": "websocket.accept"}
HELLO = {"type": "websocket.send", "text": "hello"}
CLOSE = {"type": "websocket.close", "code": 4000}


def fields(act: Any) -> Any:
    """Headers that do something when they are read."""

    class Headers:
        def __iter__(self) -> Any:
            act()
            yield (b"x-a", b"b")

    return Headers()


# Calls from anywhere


async def fed_by_its_own_app() -> Any:
    """The app plays its own client, from within receive() and send()."""

    async def evil(scene: Scene) -> None:
        for number in range(200):
            scene.feed(text(str(number)))
            if number % 3 == 0:
                scene.feed(ping(b"x") + text("also"))
                assert (await scene.receive())["text"] == str(number)
                assert (await scene.receive())["text"] == "also"
            else:
                assert (await scene.receive())["text"] == str(number)
            scene.send(HELLO)
        scene.feed(close(4001))
        assert (await scene.receive())["code"] == 4001

    scene = Scene(evil)
    scene.open()
    await turns(2000)
    return await scene.result()


def test_an_app_that_feeds_its_own_connection() -> None:
    result = survives(fed_by_its_own_app)
    assert result["outcomes"] == []
    assert result["frames"].count("text") == 200
    assert result["frames"].count("pong") == 67
    assert result["left"] == GONE


class Acting(Solid):
    """Does something, once, when it is written to behind the handshake."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act, self.armed = act, False

    def _acts(self) -> None:
        if self.armed:
            self.armed = False
            self.act()

    def write(self, data: Any) -> None:
        self._acts()
        super().write(data)

    def writelines(self, parts: Any) -> None:
        self._acts()
        super().writelines(parts)


ACTS: dict[str, Any] = {
    "lose": lambda scene: scene.lose(),
    "lose with an error": lambda scene: scene.lose(ConnectionResetError()),
    "drop": lambda scene: scene.drop(),
    "feed": lambda scene: scene.feed(text("fed"), ping(b"fed")),
    "feed close": lambda scene: scene.feed(close(4002)),
    "feed garbage": lambda scene: scene.feed(frame(3, b"x")),
    "eof": lambda scene: scene.connection.eof_received(),
    "send": lambda scene: scene.send(HELLO),
    "close": lambda scene: scene.send(CLOSE),
    "receive": lambda scene: scene.receive(),
    "abort": lambda scene: scene.driver.factory.abort(),
    "restart": lambda scene: scene.driver.factory.end_streams(),
    "tick": lambda scene: scene.driver.factory.tick(),
    "pause": lambda scene: (scene.connection.pause_writing(), scene.connection.resume_writing()),
    "raise": lambda scene: 1 / 0,
    "collect": lambda scene: gc.collect(),
}
SAID: dict[str, Any] = {
    "short": HELLO,
    "long": {"type": "websocket.send", "bytes": b"x" * 200_000},
    "packed": {"type": "websocket.send", "text": "x" * 200_000},
    "close": CLOSE,
}


async def acting_transport(what: str, said: str, suspend: bool) -> Any:
    async def evil(scene: Scene) -> None:
        if suspend:
            await asyncio.sleep(0)
        scene.transport.armed = True  # type: ignore[attr-defined]
        scene.note(lambda: scene.send(SAID[said]))
        scene.note(lambda: scene.send(HELLO))
        await asyncio.sleep(0)
        scene.note(lambda: scene.send(HELLO))
        await until_the_end(scene)

    found: list[Scene] = []
    transport = Acting(lambda: ACTS[what](found[0]))
    found.append(Scene(evil, transport=transport))
    found[0].open(*([OFFER] if said == "packed" else []))
    await turns()
    return await found[0].result()


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("what", ACTS)
def test_a_transport_that_acts_when_it_is_written_to(what: str, said: str, suspend: bool) -> None:
    result = survives(acting_transport, what, said, suspend)
    assert result["left"] == GONE
    # If the app did not suspend, and the act raised, the 101 is in what could not be written.
    assert result["statuses"] == [101] or (result["aborted"] and not suspend and result["statuses"] == [])
    assert sum(one.startswith("close") for one in result["frames"]) <= 1
    assert any(one.startswith("websocket.disconnect") for one in result["seen"]) or result["outcomes"]


async def acting_pong(what: str) -> Any:
    """The same while the answer to a ping, or the reply to a close, is written."""

    found: list[Scene] = []
    transport = Acting(lambda: ACTS[what](found[0]))
    scene = Scene(until_the_end, transport=transport)
    found.append(scene)
    scene.open()
    await turns()
    transport.armed = True
    scene.note(lambda: scene.feed(text("a"), ping(b"x"), text("b"), close(4003)))
    await turns()
    return await scene.result()


@pytest.mark.parametrize("what", ACTS)
def test_a_transport_that_acts_when_a_ping_is_answered(what: str) -> None:
    result = survives(acting_pong, what)
    assert result["left"] == GONE
    assert sum(one.startswith("close") for one in result["frames"]) <= 1
    assert any(one.startswith("websocket.disconnect") for one in result["seen"]) or result["outcomes"]


async def old_channels(suspend: bool) -> Any:
    """send and receive of a WebSocket that is over, while others run, also in its place in memory."""
    kept: list[Any] = []

    async def evil(scene: Scene) -> None:
        kept.append((scene.send, scene.receive))
        if suspend:
            await asyncio.sleep(0)

    scene = Scene(evil)
    for _ in range(5):
        scene.connection, scene.transport = scene.driver.connect()
        scene.open()
        await turns()
        scene.feed(close())
        scene.lose()
        for send, receive in kept:
            for message in (HELLO, CLOSE, ACCEPT):
                scene.note(lambda send=send, message=message: send(message))
            try:
                receive().send(None)
            except StopIteration as stop:
                scene.seen.append(stop.value["type"])
    http, transport = scene.driver.connect()
    http.data_received(get())
    for send, _ in kept:
        scene.note(lambda send=send: send(HELLO))
    http.connection_lost(None)
    del scene.connection
    gc.collect()
    return [sorted(set(scene.seen)), transport.read().count(b"http"), scene.driver.factory.in_flight]


@pytest.mark.parametrize("suspend", [False, True])
def test_old_channels_reach_nobody(suspend: bool) -> None:
    seen, answered, in_flight = survives(old_channels, suspend)
    assert set(seen) <= {"MessageError", "ClientDisconnected", "websocket.disconnect"}
    assert (answered, in_flight) == (1, 0)


async def many_receivers() -> Any:
    """Each message goes to one of them, none is lost, and the end to all."""

    async def evil(scene: Scene) -> None:
        async def listen() -> list[str]:
            heard = []
            while (message := await scene.receive())["type"] == "websocket.receive":
                heard.append(message["text"])
            return heard

        heard = await asyncio.gather(*[listen() for _ in range(7)])
        scene.seen = sorted(one for each in heard for one in each)

    scene = Scene(evil)
    scene.open()
    await turns()
    for number in range(100):
        scene.feed(text(f"{number:02}"))
        if number % 10 == 0:
            await turns(3)
    scene.feed(close())
    await turns(200)
    return await scene.result()


def test_many_receivers() -> None:
    result = survives(many_receivers)
    assert result["seen"] == [f"{number:02}" for number in range(100)]
    assert result["left"] == GONE


async def cancelled_receivers() -> Any:
    """A receive() that is cancelled when its message is there already loses nothing."""

    async def evil(scene: Scene) -> None:
        for number in range(50):
            task = asyncio.ensure_future(scene.receive())
            await asyncio.sleep(0)
            scene.feed(text(str(number)))
            task.cancel()
            try:
                scene.seen.append((await task)["text"])
            except asyncio.CancelledError:
                scene.seen.append((await scene.receive())["text"])

    scene = Scene(evil)
    scene.open()
    await turns(400)
    return await scene.result()


def test_a_cancelled_receive_loses_nothing() -> None:
    assert survives(cancelled_receivers)["seen"] == [str(number) for number in range(50)]


# How much is parsed ahead


async def parsed_ahead(size: int, queue: int) -> Any:
    """How many messages came before the socket was left alone, and after how many it was read again."""
    scene = Scene(for_ever, ws_max_queue=queue)
    scene.open()
    await turns()
    fed = 0
    while "pause_reading" not in scene.transport.calls and fed < 3000:
        scene.feed(binary(b"x" * size))
        fed += 1
    scene.feed(binary(b"last"))
    taken = 0
    while "resume_reading" not in scene.transport.calls:
        await scene.receive()
        taken += 1
        await turns(3)
    while (await scene.receive())["bytes"] != b"last":
        taken += 1
    scene.lose()
    return [fed, taken]


@pytest.mark.parametrize("queue", [1, 2, 5, 32])
@pytest.mark.parametrize("size", [0, 10, 1000])
def test_the_queue_is_as_long_as_it_is_set(size: int, queue: int) -> None:
    fed, taken = survives(parsed_ahead, size, queue)
    assert fed == queue + 1  # the last one is there, but not parsed
    assert taken == fed


@pytest.mark.parametrize(("size", "most"), [(16_384, 5), (65_536, 2), (1_000_000, 2)])
def test_long_messages_are_few(size: int, most: int) -> None:
    """64 KiB of them, at least one."""
    fed, taken = survives(parsed_ahead, size, 1000)
    assert fed == most
    assert taken == fed


async def fragments_by_the_byte() -> Any:
    """Every frame of a long conversation, a byte at a time, under a receiver that lags."""

    async def evil(scene: Scene) -> None:
        while True:
            await asyncio.sleep(0)
            message = await scene.receive()
            if message["type"] == "websocket.disconnect":
                return
            scene.seen.append(message["text"])

    scene = Scene(evil, ws_max_queue=2)
    scene.open()
    message = frame(TEXT, b"<", fin=False) + frame(0, b">")
    data = b"".join(text(str(number)) + ping() + message for number in range(60))
    for byte in data + close():
        scene.feed(bytes([byte]))
    await turns(2000)
    return await scene.result()


def test_byte_by_byte_under_a_receiver_that_lags() -> None:
    result = survives(fragments_by_the_byte)
    assert result["seen"] == [one for number in range(60) for one in (str(number), "<>")]
    assert result["frames"] == ["pong"] * 60 + ["close 1000"]
    assert result["left"] == GONE
