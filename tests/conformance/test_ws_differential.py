"""Random conversations against the websockets package: the same messages, the same answers, the same end.

The reference is one ``ServerProtocol`` that lives as long as the connection, as the package means it to be
used. The server lends such objects for a frame at a time, and does the common frames itself; nobody can tell.

Rules of this file: a conversation is bytes from a seed, valid frames mostly, some of them spoilt. Where the
server differs on purpose, ``Reference`` says so, and differs in the same way.
"""

from __future__ import annotations

import codecs
import contextlib
import random
import struct
from dataclasses import dataclass, field, replace

import pytest
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from tests.helpers.http1 import Server
from tests.helpers.ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WsClient,
    close,
    data_of,
    deflated,
    frame,
    handshake,
)
from tests.helpers.ws_peer import EachHeard, limited, pieces_of

SEEDS = range(24)
PER_SEED = 40
MAX_BYTES = 400
MAX_FRAGMENTS = 6
CHARACTERS = "az\x00\x7f\x80é߿ࠀ€￿\ud7ff\ue000𐀀😀"


def offer(deflate: bool) -> list[bytes]:
    return [b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"] * deflate


@dataclass
class Outcome:
    """What the app was given, the pongs, the code that the app was told, and that of the close frame."""

    messages: list[str | bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    end: int = 1006
    close: int | None = None


class Reference:
    """The package, and around it what it leaves to its user: putting fragments together, checking text.

    Three things are as the server has them. A close frame within a message is a close (the package calls it
    a protocol error; RFC 6455 §5.4 allows it). What a message leaves of the size limit is not for control
    frames. More fragments than the limit end it with 1008 (the package has no such limit).
    """

    def __init__(self, *, deflate: bool) -> None:
        factory = ServerPerMessageDeflateFactory(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=12,
            client_max_window_bits=12,
            compress_settings={"memLevel": 5},
        )
        self.protocol = ServerProtocol(extensions=[factory] if deflate else [], max_size=MAX_BYTES)
        self.protocol.receive_data(handshake("/", *offer(deflate)))
        (request,) = self.protocol.events_received()
        assert isinstance(request, Request)
        self.protocol.send_response(self.protocol.accept(request))
        self.protocol.data_to_send()
        self.outcome = Outcome()
        self._deflate = deflate
        self._kind: Opcode | None = None
        self._data = bytearray()
        self._fragments = 0

    def hear(self, raw: bytes) -> list[Outcome]:
        """What may come of it. Byte by byte, so that nothing behind a failure is seen."""
        start = 0  # of the frame
        for at, byte in enumerate(raw):
            self.protocol.max_message_size = None if byte & 8 else MAX_BYTES  # read where a frame begins
            self.protocol.receive_data(bytes([byte]))
            for event in self.protocol.events_received():
                self._event(event)
                start = at + 1
            self._answers()
            if self.protocol.state is not State.OPEN:
                break
        return [self.outcome, *self._or(raw[start:])]

    def _or(self, last: bytes) -> list[Outcome]:
        """The server looks at a header when it is whole, and then does not wait for what cannot be right; of
        a compressed message it does not know how much it was so far. The package begins earlier with some of
        it, and later with other: that shows where the client ends within a frame.
        """
        masked = len(last) > 1 and last[1] & 0x80
        short = last[1] & 0x7F if len(last) > 1 else 0
        longer = {126: 2, 127: 8}.get(short, 0)
        header = 2 + longer + (4 if masked else 0)
        size = int.from_bytes(last[2 : 2 + longer], "big") if longer else short
        if self.protocol.state is State.OPEN:
            if len(last) >= header and ((last[0] & 8 and (longer or not last[0] & 0x80)) or last[0] & 0x70):
                return [replace(self.outcome, end=1002, close=1002)]
        elif len(last) < header or (
            self._deflate and self.outcome.close == 1009 and len(last) < header + size
        ):
            return [replace(self.outcome, end=1006, close=None)]
        return []

    def _event(self, event) -> None:
        if event.opcode is Opcode.CLOSE:
            self.outcome.end = Close.parse(bytes(event.data)).code
        elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._piece(event)

    def _piece(self, event: Frame) -> None:
        if event.opcode is not Opcode.CONT:
            self._kind, self._fragments = event.opcode, 0
            self._data.clear()
        self._fragments += 1
        self._data += event.data
        if self._fragments > MAX_FRAGMENTS:
            self.protocol.fail(1008)
            return
        payload: str | bytes = bytes(self._data)
        if self._kind is Opcode.TEXT:
            try:
                payload = codecs.getincrementaldecoder("utf-8")().decode(payload, event.fin)
            except UnicodeDecodeError:
                self.protocol.fail(1007)
                return
        if event.fin:
            self.outcome.messages.append(payload)

    def _answers(self) -> None:
        for output in self.protocol.data_to_send():
            if output[:1] == bytes([0x80 | PONG]):
                self.outcome.pongs.append(output[2:])
            elif output[:1] == bytes([0x80 | CLOSE]):
                self.outcome.close = int.from_bytes(output[2:4], "big") or 1005
                received = self.protocol.close_rcvd
                if received is not None:  # also where the package calls it an error
                    self.outcome.close = self.outcome.end = received.code
                else:
                    self.outcome.end = self.outcome.close


# Conversations


SIZES = [0, 1, 5, 20, 125, 126, 127, 200, MAX_BYTES, MAX_BYTES + 1]


def payload_of(dice: random.Random, kind: int) -> bytes:
    size = dice.choice([*SIZES, *[dice.randrange(50)] * 10])
    if kind == BINARY:
        return dice.randbytes(size)
    raw = "".join(dice.choices(CHARACTERS, k=size)).encode()[:size]
    if dice.random() < 0.9:
        raw = raw.decode(errors="ignore").encode()
    return raw


def a_message(dice: random.Random, *, deflate: bool) -> list[bytes]:
    kind = dice.choice([TEXT, BINARY])
    payload, rsv = payload_of(dice, kind), 0
    if deflate and dice.random() < 0.5:
        if len(payload) >= MAX_BYTES:  # to the byte, the package's own limit is not right here
            payload *= 10
        payload, rsv = deflated(payload, dice.choice([0, 1, 6, 9])), 4
    if dice.random() < 0.5:
        pieces = [payload]
    else:
        pieces = pieces_of(payload, dice.randint(1, max(1, len(payload))))
        pieces[dice.randrange(len(pieces)) : 0] = [b""] * dice.choice([0, 0, 1])
        if dice.random() < 0.9 and len(pieces) > MAX_FRAGMENTS:
            pieces[MAX_FRAGMENTS - 1 :] = [b"".join(pieces[MAX_FRAGMENTS - 1 :])]
    last = len(pieces) - 1
    frames = [
        frame(
            kind if at == 0 else CONTINUATION,
            piece,
            fin=at == last,
            rsv=rsv if at == 0 else 0,
            mask=dice.randbytes(4),
        )
        for at, piece in enumerate(pieces)
    ]
    return [part for each in frames for part in (*a_control(dice, 0.15), each)]


def a_control(dice: random.Random, chance: float = 1.0) -> list[bytes]:
    if dice.random() >= chance:
        return []
    kind = dice.choice([PING, PING, PONG])
    return [frame(kind, dice.randbytes(dice.choice([0, 1, 20, 125])), mask=dice.randbytes(4))]


def a_close(dice: random.Random) -> bytes:
    code = dice.choice([1000, 1001, 1003, 1011, 3000, 4999, 1005, 1006, 1015, 999, 0, 5000, 2999, None])
    if code is None or dice.random() < 0.8:
        return close(code, dice.choice(["", "bye", "größer"]) if code is not None else "")
    return frame(CLOSE, struct.pack("!H", code) + dice.randbytes(dice.randint(0, 125)))


def spoilt(dice: random.Random, raw: bytes) -> bytes:
    """One frame with something wrong, perhaps."""
    data = bytearray(raw)
    how = dice.randrange(5)
    if how == 0:  # a bit of its header
        data[dice.randrange(min(2, len(data)))] ^= 1 << dice.randrange(8)
    elif how == 1:  # any byte
        data[dice.randrange(len(data))] = dice.randrange(256)
    elif how == 2:  # cut short
        del data[dice.randrange(len(data)) :]
    elif how == 3:  # something in front
        data[:0] = dice.randbytes(dice.randint(1, 4))
    else:  # RSV1
        data[0] ^= 0x40
    return bytes(data)


def a_conversation(dice: random.Random, *, deflate: bool) -> bytes:
    frames: list[bytes] = []
    for _ in range(dice.randint(1, 12)):
        frames += a_message(dice, deflate=deflate) if dice.random() < 0.7 else a_control(dice)
    if dice.random() < 0.6:
        at = dice.randrange(len(frames))
        frames[at] = spoilt(dice, frames[at])
    if dice.random() < 0.1 and len(frames) > 1:  # one is missing
        del frames[dice.randrange(len(frames))]
    if dice.random() < 0.5:
        frames.append(a_close(dice))
        frames += a_message(dice, deflate=deflate)
    return b"".join(frames)


def cuts(dice: random.Random, raw: bytes) -> list[bytes]:
    if dice.random() < 0.4:
        return [raw]
    edges = sorted(dice.choices(range(len(raw) + 1), k=dice.randint(1, 8)))
    return [raw[a:b] for a, b in zip([0, *edges], [*edges, len(raw)], strict=True) if a != b]


# The server


def heard_from(server: Server, each: EachHeard, pieces: list[bytes], *, deflate: bool) -> Outcome:
    """The same conversation with the server, which then sees the client's side of the connection end."""
    ws = WsClient(server.connect())
    ws.open("/", *offer(deflate))
    outcome = Outcome()
    with contextlib.suppress(OSError):  # the server has closed meanwhile
        ws.send_each(pieces)
        ws.client.half_close()
    while True:
        if not ws.client.buffered:
            try:
                ws.client.buffered = ws.client.receive()
            except ConnectionResetError:
                assert outcome.close is not None, "a reset destroyed the end"
            if not ws.client.buffered:
                break
        found = ws.read_frame()
        assert outcome.close is None, "something behind a close frame"
        if found.opcode == PONG:
            outcome.pongs.append(found.payload)
        else:
            assert found.opcode == CLOSE, found
            outcome.close = int.from_bytes(found.payload[:2], "big") or 1005
    ws.client.close()
    heard = each.last
    outcome.end = heard.end()["code"]
    outcome.messages = [data_of(message) for message in heard.messages[:-1]]
    return outcome


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_library_hears_the_same(serve, seed, deflate):
    dice = random.Random(f"{seed} {deflate}")
    each = EachHeard()
    server = serve(each, **limited(ws_max_size_bytes=MAX_BYTES, ws_max_fragments=MAX_FRAGMENTS))
    for _ in range(PER_SEED):
        raw = a_conversation(dice, deflate=deflate)
        pieces = cuts(dice, raw)
        expected = Reference(deflate=deflate).hear(raw)
        assert heard_from(server, each, pieces, deflate=deflate) in expected, pieces
    server.rejects.clear()


def test_conversations_are_of_every_kind():
    """The seeds above lead to every end, and to messages before it: else they would show little."""
    ends: dict[int, int] = {}
    messages = 0
    for seed in SEEDS:
        for deflate in (False, True):
            dice = random.Random(f"{seed} {deflate}")
            for _ in range(PER_SEED):
                raw = a_conversation(dice, deflate=deflate)
                cuts(dice, raw)
                outcome = Reference(deflate=deflate).hear(raw)[0]
                ends[outcome.end] = ends.get(outcome.end, 0) + 1
                messages += len(outcome.messages)
    assert min(ends.get(code, 0) for code in (1000, 1002, 1005, 1006, 1007, 1008, 1009)) >= 5, ends
    assert messages > 2000
