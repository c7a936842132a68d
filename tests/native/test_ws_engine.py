"""An engine of a WebSocket that raises, lies or calls back: the connection ends, and nothing else happens.

Rules of this file: those of test_ws.py. Every method of the engine is one that C calls; whatever it does, the
app hears of an end, the fault is written as unraisable, and the next connection is served.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from tests.helpers.ws import BINARY, TEXT, close, frame, handshake, ping, text
from tests.native.drive import GONE, FakeTransport, turns
from tests.native.isolated import survives
from tests.native.ws_drive import OFFER, Scene, Solid, engine, for_ever, head_and_frames, until_the_end

LONG = {"type": "websocket.send", "text": "x" * 5000}


class Lying:
    """A real engine, but for one method, which does ``act(real, *arguments)``."""

    def __init__(self, method: str, act: Any) -> None:
        self._real, self._method, self._act = engine(), method, act

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._method:
            return real
        return lambda *arguments: self._act(real, *arguments)


class Loud(Exception):
    pass


def loud(*_: Any) -> Any:
    raise Loud


class OddInt(int):
    def __index__(self) -> int:
        raise Loud


class OddBytes(bytes):
    pass


class OddText(str):
    pass


RECEIVE: dict[str, Any] = {
    "raises": loud,
    "raises SystemExit": lambda *_: (_ for _ in ()).throw(SystemExit(1)),
    "None": lambda *_: None,
    "a number": lambda *_: 5,
    "an empty tuple": lambda *_: (),
    "a list": lambda *_: [None, 0, None, "", b""],
    "four parts": lambda *_: (None, 0, None, ""),
    "six parts": lambda *_: (None, 0, None, "", b"", b""),
    "no event": lambda *_: (None, None, None, "", b""),
    "an event of text": lambda *_: (None, "1", "x", "", b""),
    "event 5": lambda *_: (None, 5, None, "", b""),
    "event -1": lambda *_: (None, -1, None, "", b""),
    "a huge event": lambda *_: (None, 1 << 70, None, "", b""),
    "an event that raises": lambda *_: (None, OddInt(1 << 40), None, "", b""),
    "a message of None": lambda *_: (None, 1, None, "", b""),
    "a message that is a number": lambda *_: (None, 1, 5, "", b""),
    "a message of odd bytes": lambda *_: (None, 1, OddBytes(b"x"), "", b""),
    "a message of odd text": lambda *_: (None, 1, OddText("x"), "", b""),
    "a bytearray": lambda *_: (None, 1, bytearray(b"x"), "", b""),
    "a close without a code": lambda *_: (None, 3, None, "", b""),
    "a close with text": lambda *_: (None, 3, "1000", "", b""),
    "a close with a huge code": lambda *_: (None, 3, 1 << 70, "", b""),
    "a failure without a code": lambda *_: (None, 4, None, "", b""),
    "a reason of bytes": lambda *_: (None, 4, 1002, b"x", b""),
    "a reason of None": lambda *_: (None, 3, 1000, None, b""),
    "output of text": lambda *_: (None, 0, None, "", "x"),
    "output of None": lambda *_: (None, 0, None, "", None),
    "a bytearray of output": lambda *_: (None, 0, None, "", bytearray(b"x")),
}


async def receive_that_lies(what: str, opcode: int) -> Any:
    scene = Scene(until_the_end, websocket=Lying("receive", RECEIVE[what]))
    scene.open()
    scene.feed(text("before"), frame(opcode, b"x", fin=opcode > 7), text("behind"))
    return await scene.result()


@pytest.mark.parametrize("opcode", [TEXT, 9])
@pytest.mark.parametrize("what", RECEIVE)
def test_what_it_says_of_a_frame_makes_no_sense(what: str, opcode: int) -> None:
    result = survives(receive_that_lies, what, opcode)
    assert result["seen"] == ["before", "websocket.disconnect 1011"]
    assert (result["statuses"], result["frames"]) == ([101], ["close 1011"])
    assert result["unraisable"]
    assert result["rejects"] == [1011]
    assert result["left"] == GONE


OPEN: dict[str, Any] = {
    "raises": loud,
    "None": lambda *_: None,
    "an empty tuple": lambda *_: (),
    "a list": lambda *_: [101, [], [], None],
    "three parts": lambda *_: (101, [], []),
    "five parts": lambda *_: (101, [], [], None, None),
    "a status of text": lambda *_: ("101", [], [], None),
    "no status": lambda *_: (None, [], [], None),
    "a huge status": lambda *_: (1 << 70, [], [], None),
    "a refusal without text": lambda *_: (400, [], None, None),
    "a refusal with a str": lambda *_: (400, [], "no", None),
    "a refusal with a list": lambda *_: (400, [], [], None),
    "a refusal whose fields are None": lambda *_: (400, None, b"no", None),
    "a refusal whose fields are numbers": lambda *_: (400, [1, 2], b"no", None),
    "a refusal with a bad field": lambda *_: (400, [(b"a b", b"c\n")], b"no", None),
    "a refusal of status 99": lambda *_: (99, [], b"no", None),
    "a refusal of status 1000": lambda *_: (1000, [], b"no", None),
    "a refusal of status -1": lambda *_: (-1, [], b"no", None),
}


async def open_that_lies(what: str) -> Any:
    scene = Scene(for_ever, websocket=Lying("open", OPEN[what]))
    scene.open()
    await turns()
    scene.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await turns()
    output = scene.transport.read()
    scene.lose()
    await turns()
    answers = output.count(b"HTTP/1.1 ")
    return [output[:12].decode(), answers, scene.unraisable != [], scene.driver.factory.in_flight]


@pytest.mark.parametrize("what", OPEN)
def test_what_it_says_of_a_handshake_makes_no_sense(what: str) -> None:
    """The app never hears of it; the client gets a 500."""
    line, answers, unraisable, in_flight = survives(open_that_lies, what)
    assert line == "HTTP/1.1 500"
    assert answers <= 2
    assert unraisable
    assert in_flight == 0


ACCEPTED: dict[str, Any] = {
    "fields of None": lambda *_: (101, None, [], None),
    "fields of numbers": lambda *_: (101, [1, 2], [], None),
    "a bad field": lambda *_: (101, [(b"a b", b"c\n")], [], None),
    "no list of subprotocols": lambda *_: (101, [], 5, None),
    "odd extensions": lambda *_: (101, [], [], 5),
}


async def accepted_that_lies(what: str) -> Any:
    async def evil(scene: Scene) -> None:
        scene.note(lambda: scene.send({"type": "websocket.accept"}))
        scene.note(lambda: scene.send(LONG))

    scene = Scene(evil, accept=False, websocket=Lying("open", ACCEPTED[what]))
    scene.open()
    scene.feed(text("x"))
    await turns()
    output = scene.transport.read()
    scene.lose()
    await turns()
    factory = scene.driver.factory
    return [output[:12].decode(), scene.seen, factory.connections, factory.in_flight]


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_it_accepts_makes_no_sense(what: str) -> None:
    line, seen, connections, in_flight = survives(accepted_that_lies, what)
    assert line in ("HTTP/1.1 101", "HTTP/1.1 500")
    assert line != "HTTP/1.1 101" or seen[0] == "done"
    assert (connections, in_flight) == (0, 0)


OUTPUT: dict[str, Any] = {
    "raises": loud,
    "None": lambda *_: None,
    "text": lambda *_: "x",
    "a bytearray": lambda *_: bytearray(b"x"),
    "odd bytes": lambda *_: OddBytes(b"\x81\x00"),
    "a tuple": lambda *_: (b"x",),
}


async def output_that_lies(method: str, what: str) -> Any:
    async def evil(scene: Scene) -> None:
        if method == "close":
            scene.note(lambda: scene.send({"type": "websocket.close"}))
        elif method == "send":
            scene.note(lambda: scene.send(LONG))
        await until_the_end(scene)

    limits = {"ws_ping_interval_ms": 1, "ws_ping_timeout_ms": 60_000} if method == "ping" else {}
    scene = Scene(evil, websocket=Lying(method, OUTPUT[what]), **limits)
    scene.open(OFFER)
    await turns()
    for _ in range(3):
        time.sleep(0.003)
        scene.driver.factory.tick()
        await turns()
    return await scene.result()


@pytest.mark.parametrize("what", OUTPUT)
@pytest.mark.parametrize("method", ["send", "close", "ping"])
def test_what_it_gives_to_send_makes_no_sense(method: str, what: str) -> None:
    """Where the app asked for it, it is told; where nobody did, it is unraisable. Nothing wrong is sent."""
    result = survives(output_that_lies, method, what)
    assert result["statuses"] == [101]
    assert set(result["frames"]) <= {"close 1011"}
    assert result["left"] == GONE
    assert result["seen"][-1].startswith("websocket.disconnect")
    if method == "ping":
        assert result["unraisable"]
        assert result["seen"] == ["websocket.disconnect 1011"]
        assert result["ended"]
    else:
        assert result["seen"][0] != "done" or result["unraisable"]


async def close_that_lies_for_us(what: str, why: str) -> Any:
    """Where the server itself wants to close."""

    async def evil(scene: Scene) -> None:
        if why == "returns":
            return
        if why == "raises":
            raise LookupError
        await until_the_end(scene)

    limits = {"ws_idle_ms": 1} if why == "idle" else {}
    scene = Scene(evil, websocket=Lying("close", OUTPUT[what]), **limits)
    scene.open()
    await turns()
    if why == "restart":
        scene.driver.factory.end_streams()
    for _ in range(12):
        time.sleep(0.003)
        scene.driver.factory.tick()
        await turns()
    return await scene.result()


@pytest.mark.parametrize("what", OUTPUT)
@pytest.mark.parametrize("why", ["returns", "raises", "restart", "idle"])
def test_a_close_of_ours_that_makes_no_sense(what: str, why: str) -> None:
    result = survives(close_that_lies_for_us, what, why)
    assert set(result["frames"]) <= {"close 1011"}
    assert result["unraisable"]
    assert result["ended"]
    assert result["left"] == GONE


# Engines that call back

ACTS: dict[str, Any] = {
    "lose": lambda scene: scene.lose(),
    "drop": lambda scene: scene.drop(),
    "feed": lambda scene: scene.feed(text("nested"), ping()),
    "feed close": lambda scene: scene.feed(close(4005)),
    "eof": lambda scene: scene.connection.eof_received(),
    "send": lambda scene: scene.send({"type": "websocket.send", "text": "nested"}),
    "send long": lambda scene: scene.send(LONG),
    "close": lambda scene: scene.send({"type": "websocket.close", "code": 4006}),
    "receive": lambda scene: scene.receive(),
    "abort": lambda scene: scene.driver.factory.abort(),
    "restart": lambda scene: scene.driver.factory.end_streams(),
    "tick": lambda scene: scene.driver.factory.tick(),
    "collect": lambda scene: gc.collect(),
}


async def engine_that_acts(method: str, what: str, solid: bool) -> Any:
    scenes: list[Scene] = []
    armed = [True]

    def act(real: Any, *arguments: Any) -> Any:
        if armed[0] and scenes and scenes[0].send is not None:
            armed[0] = False
            ACTS[what](scenes[0])
            armed[0] = method != "close"
        return real(*arguments)

    async def evil(scene: Scene) -> None:
        await asyncio.sleep(0)
        scene.note(lambda: scene.send(LONG))
        if method == "close":
            scene.note(lambda: scene.send({"type": "websocket.close"}))
        await until_the_end(scene)

    transport: FakeTransport | None = Solid() if solid else None
    scenes.append(Scene(evil, transport=transport, websocket=Lying(method, act), ws_ping_interval_ms=1))
    scene = scenes[0]
    scene.open(OFFER)
    await turns()
    time.sleep(0.003)
    scene.driver.factory.tick()
    if scene.connection is not None:
        scene.note(lambda: scene.feed(text("a"), ping(b"1"), frame(BINARY, b"b", fin=False), frame(0, b"c")))
    await turns()
    return await scene.result()


@pytest.mark.parametrize("solid", [False, True])
@pytest.mark.parametrize("what", ACTS)
@pytest.mark.parametrize("method", ["receive", "send", "close", "ping"])
def test_an_engine_that_acts(method: str, what: str, solid: bool) -> None:
    result = survives(engine_that_acts, method, what, solid)
    assert result["left"] == GONE
    assert sum(one.startswith("close") for one in result["frames"]) <= 1
    if any(one.startswith("close") for one in result["frames"]):
        assert result["frames"][-1].startswith("close"), result["frames"]
    assert any(one.startswith("websocket.disconnect") for one in result["seen"]) or result["outcomes"]


async def open_that_acts(what: str) -> Any:
    """It has no channels yet: what is left is the connection."""
    scenes: list[Scene] = []

    def act(real: Any, *arguments: Any) -> Any:
        {"lose": scenes[0].lose, "drop": scenes[0].drop, "abort": scenes[0].driver.factory.abort,
         "feed": lambda: scenes[0].feed(text("early")), "eof": lambda: scenes[0].connection.eof_received(),
         "open": lambda: scenes[0].open(), "collect": gc.collect}[what]()  # fmt: skip
        return real(*arguments)

    scenes.append(Scene(until_the_end, websocket=Lying("open", act)))
    scene = scenes[0]
    scene.open()
    return await scene.result()


@pytest.mark.parametrize("what", ["lose", "drop", "abort", "feed", "eof", "collect"])
def test_an_engine_that_acts_in_a_handshake(what: str) -> None:
    result = survives(open_that_acts, what)
    assert result["left"] == GONE
    if what == "feed":
        assert result["seen"] == ["early", "websocket.disconnect 1006"]


async def peers_that_act(what: str) -> Any:
    """What the engine keeps between fragments is only kept; it may do anything when it dies."""
    scenes: list[Scene] = []
    died: list[str] = []

    class Peer:
        def __del__(self) -> None:
            died.append("died")
            try:
                ACTS[what](scenes[0])
            except Exception as error:
                died.append(type(error).__name__)

    def act(real: Any, peer: Any, extensions: Any, data: bytes) -> Any:
        if data[0] & 15 == 2:
            return Peer(), 0, None, "", b""
        if data[0] & 15 == 0:
            return None, 1, "whole", "", b""
        return real(None, extensions, data)

    scenes.append(Scene(until_the_end, websocket=Lying("receive", act)))
    scene = scenes[0]
    scene.open()
    for _ in range(3):
        if scene.connection is not None:
            scene.note(lambda: scene.feed(frame(BINARY, b"a", fin=False), frame(BINARY, b"b", fin=False)))
        if scene.connection is not None:
            scene.note(lambda: scene.feed(frame(0, b"c"), frame(BINARY, b"a", fin=False)))
    result = await scene.result()
    scene.driver.factory.close()
    return [result["left"], len(died)]


@pytest.mark.parametrize("what", ACTS)
def test_what_it_keeps_between_fragments_acts_when_it_dies(what: str) -> None:
    left, died = survives(peers_that_act, what)
    assert left == GONE
    assert died


async def next_one_is_served() -> Any:
    """After every kind of lie the same engine serves the next connection."""
    wrong = iter([*RECEIVE.values(), None])

    def act(real: Any, *arguments: Any) -> Any:
        lie = next(wrong, None)
        return real(*arguments) if lie is None else lie(*arguments)

    scene = Scene(until_the_end, websocket=Lying("receive", act))
    for _ in RECEIVE:
        scene.connection, scene.transport = scene.driver.connect()
        scene.open()
        scene.feed(ping())
        await turns()
        scene.connection.connection_lost(None)
    scene.seen.clear()
    scene.connection, scene.transport = scene.driver.connect()
    scene.feed(handshake(), ping(b"x"), text("good"))
    await turns()
    said = head_and_frames(scene.transport.read())
    scene.connection.connection_lost(None)
    return [said, scene.seen[0], len(scene.unraisable)]


def test_the_next_connection_is_served() -> None:
    said, seen, unraisable = survives(next_one_is_served)
    assert said == [[101], ["pong"]]
    assert seen == "good"
    assert unraisable == len(RECEIVE)
