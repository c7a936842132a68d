"""The engine against the library as it is meant to be used: one protocol for a whole connection.

Random sequences of frames, right and wrong, go to both. Events, codes, reasons and every byte that is put out
must be the same, up to the end of the connection. Where the engine differs on purpose, ``Kept`` says so in
three places, each marked "on purpose"; those have tests of their own.
"""

from __future__ import annotations

import codecs
import itertools
import struct
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from shardserve.ws.deflate import Deflate, DeflateFactory
from shardserve.ws.engine import CLOSED, FAILED, MESSAGE, NOTHING, PONG, Engine
from tests.helpers.ws import BINARY as BINARY_OPCODE
from tests.helpers.ws import CLOSE, CONTINUATION, KEY, PING, TEXT, deflated, frame
from tests.helpers.ws import PONG as PONG_OPCODE

FIELDS = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", KEY.decode()),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
]
MAX_FRAGMENTS = 6
Outcome = tuple[int, object, str, bytes]


class Kept:
    """One ``ServerProtocol`` for the whole connection, and the little that the library leaves to its user."""

    def __init__(self, max_size: int, *, compressed: bool) -> None:
        self._protocol = ServerProtocol(
            extensions=[DeflateFactory()] if compressed else [], max_size=max_size or None
        )
        lines = ["GET / HTTP/1.1", *(f"{name}: {value}" for name, value in FIELDS), "", ""]
        self._protocol.receive_data("\r\n".join(lines).encode())
        (request,) = self._protocol.events_received()
        assert isinstance(request, Request)
        self._protocol.send_response(self._protocol.accept(request))
        self._protocol.data_to_send()
        # On purpose: with the limit that is exact (test_deflate.py), but one object for all messages.
        self._protocol.extensions = [Deflate(each) for each in self._protocol.extensions]
        self._alone = ServerProtocol(state=State.OPEN, max_size=None)
        self._parts: list[bytes] = []
        self._opcode: Opcode | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def hear(self, data: bytes) -> Outcome:
        protocol = self._protocol
        if data[0] & 8:
            # On purpose: no message in progress and no limit is looked at (test_engine.py).
            protocol = self._alone
        protocol.receive_data(data)
        outcome = self._told(protocol)
        output = b"".join(protocol.data_to_send())
        if outcome is not None:
            return (*outcome, output)
        close = protocol.close_sent
        assert close is not None
        return FAILED, close.code, close.reason, output

    def _told(self, protocol: ServerProtocol) -> tuple[int, object, str] | None:
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.CLOSE:
                close = Close.parse(bytes(event.data))
                return CLOSED, close.code, close.reason
            if event.opcode in (Opcode.PING, Opcode.PONG):
                return PONG if event.opcode is Opcode.PONG else NOTHING, None, ""
            return self._part(protocol, event)
        return None

    def _part(self, protocol: ServerProtocol, event: Frame) -> tuple[int, object, str] | None:
        if self._opcode is None:
            self._opcode = event.opcode
        self._parts.append(bytes(event.data))
        if len(self._parts) > MAX_FRAGMENTS:
            protocol.fail(CloseCode.POLICY_VIOLATION, f"message has more than {MAX_FRAGMENTS} fragments")
            return None
        try:
            text = self._utf8.decode(self._parts[-1], event.fin) if self._opcode is Opcode.TEXT else ""
        except UnicodeDecodeError as error:
            whole = event.fin and len(self._parts) == 1
            position = f" at position {error.start}" if whole else ""
            protocol.fail(CloseCode.INVALID_DATA, error.reason + position)
            return None
        if not event.fin:
            return NOTHING, None, ""
        data = b"".join(self._parts)
        payload: Any = data.decode() if self._opcode is Opcode.TEXT else data
        assert text in (payload, "") or len(self._parts) > 1
        self._parts, self._opcode = [], None
        return MESSAGE, payload, ""


@dataclass
class Connection:
    """A connection of the engine."""

    engine: Engine
    compressed: bool
    peer: Any = None
    agreement: Any = field(init=False)

    def __post_init__(self) -> None:
        fields = [(name.lower().encode(), value.encode()) for name, value in FIELDS]
        self.agreement = self.engine.open("GET", fields)[3] if self.compressed else None

    def hear(self, data: bytes) -> Outcome:
        self.peer, event, payload, reason, output = self.engine.receive(self.peer, self.agreement, data)
        return event, payload, reason, output


# Frames

# No surrogate of UTF-16 is cut after its second byte: the engine fails it one byte before Python does (on
# purpose: test_engine.py).
GOOD = st.text(max_size=30).map(str.encode)
PAYLOADS = st.one_of(
    GOOD,
    st.binary(max_size=40).map(lambda data: data.replace(b"\xed", b"\xee")),
    st.sampled_from([b"", b"x" * 60, "ä€😀".encode(), b"\xff", b"\xe2\x82"]),
)
COMPRESSED = st.one_of(
    PAYLOADS.map(deflated),
    st.integers(1, 200).map(lambda size: deflated(b"y" * size)),
    PAYLOADS.map(lambda data: deflated(data)[:3]),
    PAYLOADS.map(lambda data: deflated(data)[3:]),
)
CLOSES = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: struct.pack("!H", code) + reason,
        st.sampled_from([1000, 1001, 1005, 1006, 1015, 3000, 4999, 5000, 0]),
        PAYLOADS,
    ),
    st.just(b"\x03"),
)
DATA = st.sampled_from([TEXT, BINARY_OPCODE])


def of(opcodes: Any, payloads: Any, fin: Any = None, rsv: Any = None, **more: Any) -> Any:
    fins, rsvs = fin if fin is not None else st.just(True), rsv if rsv is not None else st.just(0)
    return st.builds(frame, opcodes, payloads, fin=fins, rsv=rsvs, **more)


CONTROL = of(st.sampled_from([PING, PONG_OPCODE]), PAYLOADS)
RIGHT = st.one_of(
    of(DATA, PAYLOADS),
    of(DATA, COMPRESSED, rsv=st.just(4)),
    of(DATA, PAYLOADS, fin=st.just(False)),
    of(DATA, COMPRESSED, fin=st.just(False), rsv=st.just(4)),
    of(st.just(CONTINUATION), st.one_of(PAYLOADS, COMPRESSED), fin=st.booleans()),
    of(st.just(CONTINUATION), COMPRESSED, fin=st.booleans()),
    CONTROL,
)
WRONG = st.one_of(
    of(st.just(CLOSE), CLOSES),
    of(st.integers(0, 15), PAYLOADS, fin=st.booleans(), rsv=st.integers(0, 7)),
    of(st.integers(0, 15), PAYLOADS, mask=st.none()),
    of(DATA, st.integers(100, 400).map(bytes), length_bytes=st.sampled_from([2, 8])),
)


@st.composite
def messages(draw: st.DrawFn, compressed: bool) -> list[bytes]:
    """One message in up to 5 fragments, with control frames between; sometimes its end is missing."""
    data = draw(PAYLOADS if draw(st.integers(0, 15)) == 9 else GOOD)
    if compressed:
        data = draw(COMPRESSED) if draw(st.integers(0, 15)) == 9 else deflated(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    parts = [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]
    frames = []
    for number, part in enumerate(parts):
        opcode = CONTINUATION if number else draw(DATA)
        rsv = 4 if compressed and not number else 0
        frames.append(frame(opcode, part, fin=number == len(cuts), rsv=rsv))
        frames += draw(st.lists(CONTROL, max_size=2))
    return frames[:-1] if draw(st.integers(0, 30)) == 9 else frames


@st.composite
def clients(draw: st.DrawFn) -> tuple[list[bytes], bool]:
    """What one client sends, for the most part right, and whether compression was agreed."""
    compressed = draw(st.booleans())
    frames = []
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.integers(0, 15)) == 9:
            frames.append(draw(st.one_of(RIGHT, WRONG)))
        else:
            frames += draw(messages(compressed=compressed and draw(st.booleans())))
    if draw(st.booleans()):
        frames.append(frame(CLOSE, draw(CLOSES)))
    return frames, compressed


CLIENTS = clients()


def compared(engine: Engine, frames: list[bytes], max_size: int, *, compressed: bool) -> list[int]:
    """The events of one connection, which are the same on both sides."""
    ours = Connection(engine, compressed)
    theirs = Kept(max_size, compressed=compressed)
    events = []
    for each in frames:
        outcome = ours.hear(each)
        assert outcome == theirs.hear(each)
        events.append(outcome[0])
        if outcome[0] in (CLOSED, FAILED):
            assert ours.peer is None
            break
    return events


@given(client=CLIENTS, max_size=st.sampled_from([0, 64, 100, 300]))
@settings(deadline=None, max_examples=300)
@example(client=([frame(TEXT, b"a"), frame(CLOSE, b"")], False), max_size=0)
def test_one_connection(client: tuple[list[bytes], bool], max_size: int) -> None:
    engine = Engine(max_size_bytes=max_size, max_fragments=MAX_FRAGMENTS, deflate=True)
    compared(engine, client[0], max_size, compressed=client[1])


ONE_FOR_ALL = Engine(max_size_bytes=100, max_fragments=MAX_FRAGMENTS, deflate=True)


@given(client=CLIENTS)
@settings(deadline=None, max_examples=150)
def test_one_engine_for_all_connections(client: tuple[list[bytes], bool]) -> None:
    """With the spares that earlier examples left behind."""
    compared(ONE_FOR_ALL, client[0], 100, compressed=client[1])


@given(everybody=st.lists(CLIENTS, min_size=2, max_size=5), chance=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=80)
def test_many_connections_at_the_same_time(everybody: list[tuple[list[bytes], bool]], chance: Any) -> None:
    """Frame by frame in any order, each hears what it would hear alone."""
    sides = [
        (Connection(ONE_FOR_ALL, compressed), Kept(100, compressed=compressed), list(frames))
        for frames, compressed in everybody
    ]
    while sides:
        side = chance.choice(sides)
        ours, theirs, frames = side
        outcome = None
        if frames:
            each = frames.pop(0)
            outcome = ours.hear(each)
            assert outcome == theirs.hear(each)
        if outcome is None or outcome[0] in (CLOSED, FAILED):
            sides.remove(side)


def test_the_frames_are_worth_it() -> None:
    """Every event is seen, and most connections do not end at once."""
    engine = Engine(max_size_bytes=300, max_fragments=MAX_FRAGMENTS, deflate=True)
    seen: list[list[int]] = []

    @given(client=CLIENTS)
    @settings(deadline=None, max_examples=200, database=None, derandomize=True)
    def collect(client: tuple[list[bytes], bool]) -> None:
        seen.append(compared(engine, client[0], 300, compressed=client[1]))

    collect()
    assert {event for events in seen for event in events} == {NOTHING, MESSAGE, PONG, CLOSED, FAILED}
    assert sum(len(events) >= 3 for events in seen) > 100
    assert sum(events.count(MESSAGE) for events in seen) > 200
