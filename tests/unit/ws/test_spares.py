"""The library's objects are lent clean: no connection sees anything of another one.

``test_the_library_has_what_is_looked_at`` and its neighbours are here to fail when a new version of the
library changed what shardserve/ws/spares.py uses beyond the documentation.
"""

from __future__ import annotations

import gc
import itertools
import logging
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from shardserve.ws import spares
from shardserve.ws.deflate import Deflate, DeflateFactory
from shardserve.ws.engine import FAILED, MESSAGE, NOTHING, Engine
from shardserve.ws.spares import KEPT, Spares, is_clean, take_data
from tests.helpers.ws import (
    BINARY,
    CONTINUATION,
    TEXT,
    binary,
    close,
    deflated,
    frame,
    ping,
    pong,
    text,
)


def used(*frames: bytes, then: Callable[[Protocol], object] | None = None) -> Protocol:
    protocol = Spares(100).lend()
    for each in frames:
        protocol.receive_data(each)
    if then is not None:
        then(protocol)
    protocol.events_received()
    protocol.data_to_send()
    return protocol


# What the library has


def test_the_library_has_what_is_looked_at() -> None:
    protocol = Protocol(Side.SERVER, state=State.OPEN)
    assert protocol.state is State.OPEN
    assert protocol.reader.buffer == b""
    assert protocol.parser.gi_yieldfrom.__name__ == "at_eof"
    assert getattr(protocol, "current_size", getattr(protocol, "cur_size", "gone")) is None
    assert protocol.extensions == []
    assert is_clean(protocol)


def test_extensions_may_be_changed_between_frames() -> None:
    """And only there: what is lent with compression inflates, and is lent again without."""
    lender = Spares(100)
    compressed = frame(TEXT, deflated(b"hello"), rsv=4)
    _, extension = DeflateFactory().process_request_params([], [])
    first = lender.lend([Deflate(extension)])
    first.receive_data(compressed)
    (event,) = first.events_received()
    assert isinstance(event, Frame)
    assert bytes(event.data) == b"hello"
    lender.take_back(first)
    assert first.extensions == [], "what belongs to a message goes with it"
    second = lender.lend()
    assert second is first
    second.receive_data(compressed)
    assert second.state is State.CLOSING


def test_a_frame_gives_its_data_away_and_the_parser_has_none() -> None:
    protocol = used()
    protocol.receive_data(binary(b"x" * 100))
    (event,) = protocol.events_received()
    assert isinstance(event, Frame)
    data = take_data(event)
    del event
    gc.collect()
    assert data == b"x" * 100
    assert sys.getrefcount(data) == sys.getrefcount(bytes([0]) * 7)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("rsv", [0, 4])
def test_a_spare_keeps_nothing_of_a_large_message(opcode: int, rsv: int) -> None:
    size = 4 << 20
    engine = Engine(max_size_bytes=0, max_fragments=0, deflate=True)
    agreement = _agreed(engine)
    payload = b"x" * size
    whole = frame(opcode, deflated(payload) if rsv else payload, rsv=rsv)
    begun = frame(opcode, payload, fin=False)
    engine.receive(None, agreement, text("a"))
    tracemalloc.start()
    try:
        for _ in range(3):
            engine.receive(None, agreement, whole)
        peers = [engine.receive(None, agreement, begun)[0]]
        held = tracemalloc.get_traced_memory()[0]
        assert held < size * 1.2, "a message in progress is there once, and finished ones are not"
        peers.clear()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def _agreed(engine: Engine) -> Any:
    headers = [
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
    ]
    return engine.open("GET", headers)[3]


# Who comes back


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [binary(b"a")],
        [text("a"), ping(b"b"), pong()],
        [frame(TEXT, b"a", fin=False), ping(), frame(CONTINUATION, b"b")],
    ],
)
def test_one_that_is_clean_is_lent_again(frames: list[bytes]) -> None:
    lender = Spares(100)
    protocol = lender.lend()
    for each in frames:
        protocol.receive_data(each)
    protocol.events_received()
    protocol.data_to_send()
    assert is_clean(protocol)
    lender.take_back(protocol)
    assert lender.lend() is protocol
    assert lender.lend() is not protocol


DIRTY = {
    "a byte of a frame": used(b"\x81"),
    "a header": used(b"\x81\x85abcd"),
    "a frame and a byte": used(text("a") + b"\x81"),
    "a frame and a header": used(text("a") + b"\x81\x85abcd"),
    "a message in progress": used(frame(TEXT, b"a", fin=False)),
    "an empty message in progress": used(frame(TEXT, fin=False)),
    "a close frame": used(close(1000)),
    "a close frame without a code": used(close(None)),
    "an error": used(frame(TEXT, b"a", mask=None)),
    "too large": used(binary(b"x" * 101)),
    "closed by us": used(then=lambda one: one.send_close(1000)),
    "failed by us": used(then=lambda one: one.fail(1008)),
    "the end": used(then=lambda one: one.receive_eof()),
}


@pytest.mark.parametrize("what", DIRTY)
def test_one_that_is_not_is_dropped(what: str) -> None:
    lender = Spares(100)
    assert not is_clean(DIRTY[what])
    lender.take_back(DIRTY[what])
    assert lender.lend() is not DIRTY[what]


def test_a_few_are_kept_and_no_more() -> None:
    lender = Spares(100)
    many = [lender.lend() for _ in range(KEPT * 3)]
    for protocol in many:
        lender.take_back(protocol)
    again = [lender.lend() for _ in many]
    assert sum(protocol in many for protocol in again) == KEPT


def test_each_lender_has_its_own_limit() -> None:
    for limit, expected in ((10, State.CLOSING), (11, State.OPEN), (None, State.OPEN)):
        protocol = Spares(limit).lend()
        protocol.receive_data(binary(b"x" * 11))
        assert protocol.state is expected


# A library that cannot be looked at


@pytest.mark.parametrize("gone", ["reader", "parser", "current_size"])
def test_with_a_library_that_cannot_be_looked_at_each_frame_gets_a_new_one(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lacking:
        """A protocol whose attribute has another name."""

        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(self)
            self._real = Protocol(*args, **options)

        def __getattr__(self, name: str) -> Any:
            if name in (gone, "cur_size" if gone == "current_size" else gone):
                raise AttributeError(name)
            return getattr(self._real, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_real":
                object.__setattr__(self, name, value)
            else:
                setattr(self._real, name, value)

    made: list[Lacking] = []
    monkeypatch.setattr(spares, "Protocol", Lacking)
    engine = Engine(max_size_bytes=100, max_fragments=10, deflate=True)
    before = len(made)
    for _ in range(3):
        assert engine.receive(None, None, text("a"))[:3] == (None, MESSAGE, "a")
        assert engine.receive(None, None, ping())[1] == NOTHING
        peer = engine.receive(None, None, frame(BINARY, b"a", fin=False))[0]
        assert engine.receive(peer, None, frame(CONTINUATION, b"b"))[:3] == (None, MESSAGE, b"ab")
        assert engine.receive(None, _agreed(engine), frame(TEXT, deflated(b"c"), rsv=4))[2] == "c"
        assert engine.close(1000, "") == b"\x88\x02\x03\xe8"
    assert len(made) == before + 3 * 5


def test_spares_are_used_where_it_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def making(*args: Any, **options: Any) -> Protocol:
        made.append(1)
        return Protocol(*args, **options)

    monkeypatch.setattr(spares, "Protocol", making)
    engine = Engine(max_size_bytes=100, max_fragments=10, deflate=True)
    for _ in range(100):
        engine.receive(None, None, text("a"))
        engine.receive(None, None, ping())
        engine.send(None, b"x")
        peer = engine.receive(None, None, frame(BINARY, b"a", fin=False))[0]
        engine.receive(peer, None, frame(CONTINUATION, b"b"))
    assert len(made) == 2


# Through the engine

THINGS = {
    "text": [text("a")],
    "binary": [binary(b"b")],
    "ping": [ping(b"c")],
    "fragments": [frame(TEXT, b"d", fin=False), frame(CONTINUATION, b"e")],
    "compressed": [frame(TEXT, deflated(b"f"), rsv=4)],
    "bad text": [frame(TEXT, b"\xff")],
    "bad text in fragments": [frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"\xff")],
    "not masked": [frame(BINARY, b"g", mask=None)],
    "no deflate": [frame(BINARY, b"\xff\xff", rsv=4)],
    "too large": [binary(b"x" * 101)],
    "too large by its header": [b"\x82\xfe\x01\x00"],
    "a bomb": [frame(BINARY, deflated(b"x" * 1000), rsv=4)],
    "begun": [frame(TEXT, b"h", fin=False)],
    "begun compressed": [frame(TEXT, deflated(b"hhhhhhh")[:2], rsv=4, fin=False)],
    "continuation": [frame(CONTINUATION, b"i")],
    "close": [close(1000, "j")],
    "bad close": [close(1005)],
    "a header": [b"\x89\xfe\x00\x80"],
}


def alone(what: str) -> list[tuple[object, ...]]:
    return outcomes(Engine(max_size_bytes=100, max_fragments=10, deflate=True), what)


def outcomes(engine: Engine, what: str) -> list[tuple[object, ...]]:
    """What one connection hears of these frames."""
    agreement, peer, seen = _agreed(engine), None, []
    for each in THINGS[what]:
        peer, *outcome = engine.receive(peer, agreement, each)
        seen.append((peer is None, *outcome))
    return seen


ALONE = {what: alone(what) for what in THINGS}


@pytest.mark.parametrize("first", THINGS)
def test_what_one_connection_did_is_not_seen_by_the_next(first: str) -> None:
    """Each after each: everything means what it means to a new engine."""
    assert (ALONE[first][-1][1] == FAILED) == (first not in (
        "text", "binary", "ping", "fragments", "compressed", "begun", "begun compressed", "close"
    ))  # fmt: skip
    engine = Engine(max_size_bytes=100, max_fragments=10, deflate=True)
    for second, third in itertools.product(THINGS, repeat=2):
        assert outcomes(engine, first) == ALONE[first]
        assert outcomes(engine, second) == ALONE[second]
        assert outcomes(engine, third) == ALONE[third]


# Logs


def test_what_clients_do_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for what in THINGS:
            alone(what)
    assert [record.getMessage() for record in caplog.records] == []


def test_opcodes_are_what_the_rfc_says() -> None:
    assert [int(each) for each in Opcode] == [0, 1, 2, 8, 9, 10]
