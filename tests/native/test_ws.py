"""Evil apps of a WebSocket: messages whose parts run code while they are read, and calls from anywhere.

Rules of this file: each attack runs in a process of its own (``survives``); what is checked is that the wire
is well-formed, that everybody hears of the end, and that nothing is left.
"""

from __future__ import annotations

import array
import asyncio
import collections
import gc
import sys
from typing import Any

import pytest

from tests.helpers.ws import frame
from tests.native.drive import GONE, turns
from tests.native.isolated import survives
from tests.native.ws_drive import OFFER, Scene

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


# Headers of the accept

NESTED = {
    "accept": lambda scene: scene.send(ACCEPT),
    "accept and send": lambda scene: (scene.send(ACCEPT), scene.send(HELLO)),
    "accept and close": lambda scene: (scene.send(ACCEPT), scene.send(CLOSE)),
    "deny": lambda scene: scene.send(CLOSE),
    "answer": lambda scene: (
        scene.send({"type": "websocket.http.response.start", "status": 404}),
        scene.send({"type": "websocket.http.response.body", "body": b"no"}),
    ),
    "lose": lambda scene: scene.lose(),
    "abort": lambda scene: scene.driver.factory.abort(),
    "raise": lambda scene: 1 / 0,
}


async def headers_that_act(what: str, suspend: bool) -> Any:
    async def evil(scene: Scene) -> None:
        if suspend:
            await asyncio.sleep(0)
        headers = fields(lambda: NESTED[what](scene))
        scene.note(lambda: scene.send({**ACCEPT, "headers": headers}))
        scene.note(lambda: scene.send(HELLO))

    scene = Scene(evil, accept=False)
    scene.open()
    return await scene.result()


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("what", NESTED)
def test_headers_that_do_it_first_win(what: str, suspend: bool) -> None:
    """There is one answer to a handshake, whoever sends it."""
    result = survives(headers_that_act, what, suspend)
    assert result["left"] == GONE
    wire = result["statuses"], result["frames"]
    if what == "accept":
        assert result["seen"] == ["MessageError", "done"]
        assert wire == ([101], ["text", "close 1000"])
    elif what == "accept and send":
        assert result["seen"] == ["MessageError", "done"]
        assert wire == ([101], ["text", "text", "close 1000"])
    elif what == "accept and close":
        assert result["seen"] == ["MessageError", "MessageError"]
        assert wire == ([101], ["close 4000"])
    elif what in ("deny", "answer"):
        assert result["seen"] == ["MessageError", "MessageError"]
        assert wire == ([403 if what == "deny" else 404], [])
    elif what == "raise":
        assert result["seen"] == ["ZeroDivisionError", "MessageError"]
        assert wire == ([500], [])
    else:
        assert set(result["seen"]) <= {"MessageError", "ClientDisconnected"}
        assert wire == ([], [])


async def a_list_that_changes() -> Any:
    async def evil(scene: Scene) -> None:
        headers: list[Any] = []

        class Name(bytes):
            def __repr__(self) -> str:
                headers.clear()
                gc.collect()
                return "evil"

        headers += [(b"x-a", b"1"), [Name(b"upgrade"), b"evil"], (b"x-b", b"2")] * 20
        scene.note(lambda: scene.send({**ACCEPT, "headers": headers}))
        scene.send(ACCEPT)

    scene = Scene(evil, accept=False)
    scene.open()
    return await scene.result()


def test_headers_that_change_while_they_are_refused() -> None:
    result = survives(a_list_that_changes)
    assert (result["seen"], result["statuses"]) == (["HeaderError"], [101])


# Messages of every kind


async def odd_messages() -> Any:
    class Dict(dict):
        def __getitem__(self, key: Any) -> Any:
            raise AssertionError("overridden")

        get = __contains__ = keys = __getitem__  # type: ignore[assignment]

    class Hostile(str):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        def __hash__(self) -> int:
            return str.__hash__(self)

        __ne__ = __eq__

    class Text(str):
        def encode(self, *_: Any) -> bytes:  # type: ignore[override]
            raise AssertionError("encoded")

        __str__ = encode  # type: ignore[assignment]

    async def evil(scene: Scene) -> None:
        mapping = collections.UserDict(HELLO)
        messages = [
            Dict(HELLO),
            {"type": Hostile("websocket.send"), "text": "x"},
            {**HELLO, "text": Text("é" * 3000)},
            {**HELLO, "text": Hostile("x")},
            {**HELLO, "bytes": None},
            {"type": "websocket.send", "bytes": b"x", "text": None},
            mapping,
            None,
            [],
            {"type": Hostile("nonsense")},
            {"type": b"websocket.send", "text": "x"},
            {"type": "websocket.send"},
            {"type": "websocket.send", "text": b"x"},
            {"type": "websocket.send", "bytes": "x"},
            {"type": "websocket.send", "text": "x", "bytes": b"x"},
            {"type": "websocket.send", "text": "\ud800"},
            {"type": "websocket.close", "code": "1000"},
            {"type": "websocket.close", "code": 1 << 80},
            {"type": "websocket.close", "code": -1},
            {"type": "websocket.close", "code": 1000, "reason": "\ud800"},
            {"type": "websocket.close", "code": 1000, "reason": b"x"},
        ]
        for message in messages:
            scene.note(lambda message=message: scene.send(message))

    scene = Scene(evil)
    scene.open()
    return await scene.result()


def test_messages_of_every_kind() -> None:
    result = survives(odd_messages)
    assert result["seen"] == ["done"] * 6 + ["MessageError"] * 15
    assert result["frames"] == ["text"] * 5 + ["binary", "close 1000"]
    assert result["left"] == GONE


async def bytes_of_every_kind(packed: bool) -> Any:
    class Bytes(bytes):
        def __bytes__(self) -> bytes:
            raise AssertionError("converted")

        __iter__ = __len__ = __bytes__  # type: ignore[assignment]

    async def evil(scene: Scene) -> None:
        wide = memoryview(bytes(6000))
        released = memoryview(b"x")
        released.release()
        good: list[Any] = [
            Bytes(b"x" * 5),
            bytearray(b"x"),
            memoryview(b"x" * 3000),
            wide[::2],
            array.array("i", [1] * 900),
        ]
        bad: list[Any] = [released, 5, [1, 2], object(), Ellipsis]
        for data in [*good, *bad]:
            scene.note(lambda data=data: scene.send({"type": "websocket.send", "bytes": data}))

    scene = Scene(evil)
    scene.open(*([OFFER] if packed else []))
    return await scene.result()


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_of_every_kind(packed: bool) -> None:
    result = survives(bytes_of_every_kind, packed)
    assert result["seen"][:5] == ["done"] * 5
    assert "done" not in result["seen"][5:]
    long = "binary packed" if packed else "binary"
    assert result["frames"] == ["binary"] * 2 + [long] * 3 + ["close 1000"]


async def buffer_that_acts(what: str) -> Any:
    async def evil(scene: Scene) -> None:
        acts = {"close": lambda: scene.send(CLOSE), "send": lambda: scene.send(HELLO), "lose": scene.lose}

        class Buffer:
            def __buffer__(self, flags: int) -> memoryview:
                acts[what]()
                return memoryview(b"outer")

        scene.note(lambda: scene.send({"type": "websocket.send", "bytes": Buffer()}))

    scene = Scene(evil)
    scene.open()
    return await scene.result()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is Python 3.12's")
@pytest.mark.parametrize("what", ["close", "send", "lose"])
def test_a_buffer_that_acts_is_first(what: str) -> None:
    result = survives(buffer_that_acts, what)
    assert result["left"] == GONE
    if what == "send":
        assert result["frames"] == ["text", "binary", "close 1000"]
    elif what == "close":
        assert (result["seen"], result["frames"]) == (["MessageError"], ["close 4000"])
    else:
        assert result["seen"] == ["ClientDisconnected"]


class EmptyingKey:
    """Looks like ``key`` until it is compared with it. Then the message loses everything, and what it had is
    written over.
    """

    def __init__(self, key: str, message: dict[Any, Any], size: int) -> None:
        self._key, self._message, self._size = key, message, size
        self._filled: list[bytes] = []

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        self._message.clear()
        self._filled += [bytes([65]) * self._size for _ in range(50)]
        return False


async def keys_that_empty_the_message(kind: str, first: str, key: str) -> Any:
    """While ``key`` is looked up, what was found under ``first`` loses its last reference."""

    async def evil(scene: Scene) -> None:
        for size in (10, 40, 600, 5000):
            message: dict[Any, Any] = {"type": f"websocket.{kind}"}
            values: dict[str, Any] = {
                "bytes": bytes(bytearray(size)),
                "text": "é" * size,
                "code": int("4000"),
                "subprotocol": "x" * size,
                "headers": [(b"x-a", b"x" * size)],
            }
            message[first] = values.pop(first)
            values.clear()
            message[EmptyingKey(key, message, size)] = 1
            scene.note(lambda message=message: scene.send(message))

    scene = Scene(evil, accept=kind != "accept")
    scene.open()
    return await scene.result()


EMPTIED = [
    ("send", "bytes", "text"),
    ("send", "text", "bytes"),
    ("send", "bytes", "bytes"),
    ("close", "code", "reason"),
    ("accept", "subprotocol", "headers"),
    ("accept", "headers", "subprotocol"),
]


@pytest.mark.parametrize(("kind", "first", "key"), EMPTIED)
def test_a_key_that_empties_the_message(kind: str, first: str, key: str) -> None:
    result = survives(keys_that_empty_the_message, kind, first, key)
    assert set(result["seen"]) <= {"done", "MessageError"}
    assert result["left"] == GONE


class ActingKey:
    """Looks like ``key`` until it is compared with it; then it acts."""

    def __init__(self, key: str, act: Any) -> None:
        self._key, self._act = key, act

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        self._act()
        return False


MEANWHILE: dict[str, Any] = {
    "lose": lambda scene: scene.lose(),
    "abort": lambda scene: scene.driver.factory.abort(),
    "close": lambda scene: scene.send(CLOSE),
    "send": lambda scene: scene.send(HELLO),
    "restart": lambda scene: scene.driver.factory.end_streams(),
    "fail": lambda scene: scene.feed(frame(3, b"x")),
}
LOOKED_UP = [
    ("send", "text", "bytes"),
    ("send", "bytes", "text"),
    ("close", "code", "reason"),
    ("close", "reason", "code"),
]


async def keys_that_act(what: str, kind: str, first: str, key: str) -> Any:
    async def evil(scene: Scene) -> None:
        values = {"text": "outer", "bytes": b"outer", "code": 4444, "reason": "outer"}
        acted: list[int] = []

        def act() -> None:
            if not acted:
                acted.append(1)
                MEANWHILE[what](scene)

        message = {"type": f"websocket.{kind}", ActingKey(key, act): 1, first: values[first]}
        scene.note(lambda: scene.send(message))

    scene = Scene(evil)
    scene.open()
    await turns()
    return await scene.result()


@pytest.mark.parametrize(("kind", "first", "key"), LOOKED_UP)
@pytest.mark.parametrize("what", MEANWHILE)
def test_a_key_that_acts_is_first(what: str, kind: str, first: str, key: str) -> None:
    """What may be said is decided when it is said."""
    result = survives(keys_that_act, what, kind, first, key)
    assert result["left"] == GONE
    ends = [one for one in result["frames"] if one.startswith("close")]
    assert len(ends) <= 1
    assert not ends or result["frames"][-1] == ends[0]
    if what == "send":
        assert result["seen"] == ["done"]
        assert result["frames"][0] == "text"
    elif what in ("lose", "abort", "close", "restart"):
        assert result["seen"][0] in ("ClientDisconnected", "MessageError")


async def types_that_change() -> Any:
    async def evil(scene: Scene) -> None:
        message: dict[Any, Any] = {}

        class Type(str):
            def __repr__(self) -> str:
                message.clear()
                gc.collect()
                scene.send(HELLO)
                return "evil"

        message["type"] = Type("nonsense")
        scene.note(lambda: scene.send(message))

    scene = Scene(evil)
    scene.open()
    return await scene.result()


def test_a_type_whose_repr_drops_it() -> None:
    result = survives(types_that_change)
    assert (result["seen"], result["frames"]) == (["MessageError"], ["text", "close 1000"])


async def del_that_sends(where: str) -> Any:
    async def evil(scene: Scene) -> None:
        class Dying:
            def __del__(self) -> None:
                scene.note(lambda: scene.send({**HELLO, "text": "last words"}))

        class DyingBytes(bytes, Dying):
            pass

        class DyingText(str, Dying):
            pass

        if where == "key":
            scene.send({**HELLO, "more": Dying()})
        elif where == "bytes":
            scene.send({"type": "websocket.send", "bytes": DyingBytes(b"x" * 100_000)})
        elif where == "text":
            scene.send({"type": "websocket.send", "text": DyingText("x" * 100_000)})
        elif where == "reason":
            scene.send({"type": "websocket.close", "reason": DyingText("x")})
        else:
            scene.kept = Dying()  # type: ignore[attr-defined]
            scene.note(lambda: scene.send({"type": "websocket.send", "bytes": 5}))
            del scene.kept  # type: ignore[attr-defined]

    scene = Scene(evil)
    scene.open()
    return await scene.result()


@pytest.mark.parametrize("where", ["key", "bytes", "text", "reason", "error"])
def test_an_object_that_sends_when_it_dies(where: str) -> None:
    result = survives(del_that_sends, where)
    assert result["left"] == GONE
    assert result["seen"]
    assert result["frames"].count("text") <= 2
    assert result["frames"][-1] in ("close 1000",)
