"""What the bytes of an input become: the frames of a client, one operation after the other.

An operation is a byte, its low five bits one of OPERATIONS, its high three a variant, and what that one
reads behind it. A missing byte is 0. A stream is named by four bits (``Client.named``): mostly the newest.
Nothing is too wrong to be said; what is right comes about by itself, so that an input gets somewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import fuzz_frames
from fuzz_h2_fields import FIELDS, REQUESTS, WEBSOCKETS, filled
from fuzz_h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_BYTES,
    END_HEADERS,
    END_STREAM,
    FORMS,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MOST_STREAM,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Field,
    Table,
    frame,
    integer,
    plain,
    settings,
)

MOST_BYTES = 120_000
"""Of what one input becomes."""
MOST_OPENED = 400
"""Streams, likewise: more than a server allows at once, and more than it lets be reset."""
PATTERN = bytes(range(251)) * 1200
"""Bodies are cut from it, so that bytes in a wrong order are seen."""
DATA_LENGTHS = (0, 1, 5, 10, 16, 33, 100, 101, 1000, 4096, 16_384, 16_385, 20_000, 40_000, 65_535, 70_000)
TIMES = (2, 3, 5, 10, 30, 70, 130, 260, 450, 1100, 2300, 1)
SPLITS = (1, 2, 7, 30, 200)
INCREMENTS = (1, 100, 16_384, 65_535, 1 << 20, (1 << 31) - 1, 0, 1 << 31)
CODES = (0, 8, 1, 2, 3, 5, 7, 11, 99, 0xFFFFFFFF)
SETTING_VALUES = (
    0,
    1,
    100,
    4096,
    16_384,
    65_535,
    65_536,
    1 << 20,
    (1 << 24) - 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
PRIORITY_VALUES = (b"u=3", b"u=0, i", b"i", b"", b"u=9", b"(", b"\xff" * 40)
PREAMBLES: tuple[bytes, ...] = (
    PREFACE + settings(),
    PREFACE + settings((INITIAL_WINDOW, 0)),
    PREFACE + settings((INITIAL_WINDOW, 10), (1, 0)),
    PREFACE
    + settings((INITIAL_WINDOW, 1 << 20), (MAX_FRAME, 1 << 20))
    + frame(WINDOW_UPDATE, 0, 0, b"\0\x10\0\0"),
    PREFACE + settings((2, 0), (3, 100), (INITIAL_WINDOW, 65_535), (MAX_FRAME, 16_384), (6, 200), (9, 1)),
    PREFACE + settings((1, 65_536)),
    # Not what a client says
    PREFACE,
    b"",
    PREFACE[:-1] + b"\0",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    PREFACE + frame(PING, 0, 0, b"12345678"),
    PREFACE + frame(SETTINGS, ACK),
    PREFACE[:20],
    b"PRI * HTTP/2.0\r\nHost: h\r\n\r\n",
)


class Client:
    """Says what ``data`` asks for. ``said``: all of it; ``breaks``: where another frame may come in."""

    def __init__(self, data: bytes, preamble: int) -> None:
        self.data, self.at = data, 0
        self.table = Table()
        self.opened: list[int] = []
        self.next = 1
        self.sent: dict[int, int] = {}  # of each body
        self.open_block = False
        self.depth = 0
        self.said = bytearray(PREAMBLES[preamble % len(PREAMBLES)])
        self.breaks = {len(self.said)}
        while self.at < len(data) and not self.full:
            self.say(self.operation())

    @property
    def full(self) -> bool:
        return len(self.said) >= MOST_BYTES or len(self.opened) >= MOST_OPENED

    def say(self, made: bytes) -> None:
        self.said += made
        if not self.open_block:
            self.breaks.add(len(self.said))

    # What an operation reads

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def operation(self) -> bytes:
        first = self.byte()
        return OPERATIONS[(first & 31) % len(OPERATIONS)](self, first >> 5)

    def named(self, byte: int) -> int:
        """A stream by the low half of ``byte``."""
        number = byte & 15
        if number < 8:
            return self.opened[-1 - number % len(self.opened)] if self.opened else 1
        first = self.opened[0] if self.opened else 1
        return (first, 0, 2, self.next, self.next + 2, MOST_STREAM, 1, MOST_STREAM + 1 + self.next)[
            number - 8
        ]

    def new(self) -> int:
        """The next stream of ours."""
        stream = self.next
        self.next = min(self.next + 2, MOST_STREAM)
        self.opened.append(stream)
        return stream

    # What it makes

    def block(self, fields: list[Field], stream: int, form: int) -> bytes:
        write = FORMS[form % len(FORMS)]
        return b"".join(write(self.table, *filled(field, stream)) for field in fields)

    def head(self, stream: int, block: bytes, flags: int, variant: int) -> bytes:
        """``variant``: 0 in one frame; 1 padded; 2 with a priority; 3 cut into CONTINUATIONs; 4 all of it."""
        front, behind, split = b"", b"", 0
        if variant in (1, 4):
            flags |= PADDED
            front, behind = b"\5", bytes(5)
        if variant in (2, 4):
            flags |= PRIORITIZED
            front += struct.pack("!IB", (stream ^ 2) & MOST_STREAM, 15)
        if variant >= 3:
            split = SPLITS[len(block) % len(SPLITS)]
        if not split and len(block) <= DEFAULT_FRAME_BYTES - 20:
            return frame(HEADERS, flags | END_HEADERS, stream, front + block + behind)
        split = max(split or 16_000, len(block) // 6 + 1)
        made = frame(HEADERS, flags, stream, front + block[:split] + behind)
        parts = [block[at : at + split] for at in range(split, len(block), split)] or [b""]
        for number, part in enumerate(parts):
            made += frame(CONTINUATION, END_HEADERS if number == len(parts) - 1 else 0, stream, part)
        return made

    def body(self, stream: int, length: int) -> bytes:
        at = self.sent.get(stream, 0)
        self.sent[stream] = at + length
        return PATTERN[at % 251 : at % 251 + length]

    def data_frames(self, stream: int, payload: bytes, *, end: bool, cut: int = DEFAULT_FRAME_BYTES) -> bytes:
        made = b""
        cut = max(cut, len(payload) // 100 + 1)
        while len(payload) > cut:
            made += frame(DATA, 0, stream, payload[:cut])
            payload = payload[cut:]
        return made + frame(DATA, END_STREAM if end else 0, stream, payload)


# ---- operations ----


def op_request(client: Client, variant: int) -> bytes:
    """It is over with its head, unless it may have a body."""
    which = client.byte()
    fields = REQUESTS[which % len(REQUESTS)]
    stream = client.new()
    has_body = fields[0][1] in (b"POST", b"PUT") or any(name == b"expect" for name, _ in fields)
    flags = END_STREAM if variant < 5 and not has_body else 0
    return client.head(stream, client.block(fields, stream, which >> 5 if variant else 0), flags, variant % 5)


def op_exchange(client: Client, variant: int) -> bytes:
    """A request with all of its body."""
    which = client.byte()
    length = DATA_LENGTHS[which & 15]
    fields = REQUESTS[1]
    if variant & 1:
        fields = [*fields, (b"content-length", b"%d" % (length + (variant == 7)))]
    stream = client.new()
    made = client.head(stream, client.block(fields, stream, 0), 0, which >> 4 & 3)
    if variant & 4 and length:
        return made + client.data_frames(stream, client.body(stream, length), end=True, cut=variant * 3)
    made += client.data_frames(stream, client.body(stream, length), end=not variant & 2)
    if variant & 2:
        made += client.head(stream, client.block([(b"x-trailer", b"%s")], stream, 0), END_STREAM, 0)
    return made


def op_data(client: Client, variant: int) -> bytes:
    byte = client.byte()
    stream, length = client.named(byte), DATA_LENGTHS[byte >> 4]
    payload = client.body(stream, length)
    if variant & 4:
        return frame(DATA, variant & END_STREAM, stream, payload[:16_400])
    if variant & 2:
        padding = client.byte()
        return frame(
            DATA, PADDED | variant & 1, stream, bytes([padding]) + payload[:16_000] + bytes(padding & ~1)
        )
    return client.data_frames(stream, payload, end=bool(variant & 1))


def op_fields(client: Client, variant: int) -> bytes:
    """A field block made of any FIELDS, on any stream."""
    byte = client.byte()
    stream = client.new() if not byte & 15 else client.named(byte - 1)
    block = b""
    if variant & 4:
        block = client.block(REQUESTS[0], stream, 0)
    for _ in range(byte >> 4):
        field = FIELDS[client.byte() % len(FIELDS)]
        block += client.block([field], stream, client.byte())
    return client.head(stream, block, END_STREAM if variant & 1 else 0, 3 if variant & 2 else 0)


def op_open_block(client: Client, variant: int) -> bytes:
    """HEADERS without END_HEADERS, of a request."""
    stream = client.new() if variant & 1 else client.named(client.byte())
    client.open_block = True
    return frame(HEADERS, END_STREAM, stream, client.block(REQUESTS[0][variant & 2 :], stream, variant))


def op_continuation(client: Client, variant: int) -> bytes:
    byte = client.byte()
    stream = client.named(byte)
    client.open_block = client.open_block and not variant & 1
    fields = [FIELDS[client.byte() % len(FIELDS)] for _ in range(byte >> 5)]
    block = client.block(fields, stream, variant)
    return frame(CONTINUATION, END_HEADERS if variant & 1 else 0, stream, block)


def op_reset(client: Client, variant: int) -> bytes:
    code = CODES[variant]
    return frame(RST_STREAM, 0, client.named(client.byte()), struct.pack("!I", code))


def op_settings(client: Client, variant: int) -> bytes:
    """ACK; or so many settings."""
    if variant == 0:
        return frame(SETTINGS, ACK)
    pairs = []
    for _ in range(variant - 1):
        byte = client.byte()
        pairs.append((byte & 15, SETTING_VALUES[(byte >> 4) % len(SETTING_VALUES)]))
    return settings(*pairs)


def op_window(client: Client, variant: int) -> bytes:
    byte = client.byte()
    increment = INCREMENTS[byte >> 4 & 7]
    stream = 0 if variant & 1 else client.named(byte)
    made = frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))
    return made + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", increment)) if variant & 2 else made


def op_ping(client: Client, variant: int) -> bytes:
    return frame(PING, variant & ACK, 0, client.take(variant >> 1).ljust(8, b"p"))


def op_goaway(client: Client, variant: int) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack("!II", client.named(client.byte()) & MOST_STREAM, CODES[variant]))


def op_priority(client: Client, variant: int) -> bytes:
    byte = client.byte()
    depends = client.named(byte >> 4) if variant & 1 else 0
    return frame(
        PRIORITY,
        0,
        client.named(byte),
        struct.pack("!IB", depends & MOST_STREAM | (variant >> 1 & 1) << 31, 9),
    )


def op_priority_update(client: Client, variant: int) -> bytes:
    stream = client.named(client.byte())
    value = PRIORITY_VALUES[variant % len(PRIORITY_VALUES)]
    return frame(PRIORITY_UPDATE, 0, 0, struct.pack("!I", stream & MOST_STREAM) + value)


def op_unknown(client: Client, variant: int) -> bytes:
    byte = client.byte()
    return frame(10 + variant * 31, byte, client.named(byte), bytes(byte))


def op_raw(client: Client, variant: int) -> bytes:
    """As it stands."""
    return client.take(1 + variant * 4)


def op_push(client: Client, variant: int) -> bytes:
    return frame(PUSH_PROMISE, END_HEADERS, client.named(client.byte()), struct.pack("!I", 2 * variant))


def op_websocket(client: Client, variant: int) -> bytes:
    stream = client.new()
    fields = WEBSOCKETS[client.byte() % len(WEBSOCKETS)] if variant & 1 else WEBSOCKETS[variant >> 1 & 1]
    return client.head(stream, client.block(fields, stream, 0), END_STREAM if variant == 7 else 0, 0)


def op_message(client: Client, variant: int) -> bytes:
    """A frame of WebSocket (fuzz_frames.py): a stream, its first byte, its form, its payload."""
    stream = client.named(client.byte())
    first, form = client.byte(), client.byte()
    size = fuzz_frames.SIZES[form & 15]
    given = client.take(size if size <= fuzz_frames.WRITTEN else 1)
    payload = given if size <= fuzz_frames.WRITTEN else (given or b"x") * size
    made = fuzz_frames.FORMS[form >> 4](first, payload)
    cut = 3 if variant & 2 else DEFAULT_FRAME_BYTES
    return client.data_frames(stream, made, end=bool(variant & 1), cut=cut)


def op_again(client: Client, variant: int) -> bytes:
    """The next operation, many times."""
    times = TIMES[client.byte() % len(TIMES)]
    at, begin = client.at, len(client.said)
    if client.depth > 1:
        return client.operation() if client.at < len(client.data) else b""
    client.depth += 1
    for _ in range(times):
        client.at = at
        client.say(client.operation() if at < len(client.data) else b"")
        if client.full or len(client.said) == begin:
            break
    client.depth -= 1
    return b""


def op_rapid_reset(client: Client, variant: int) -> bytes:
    made = op_request(client, 0)
    return made + frame(RST_STREAM, 0, client.opened[-1], struct.pack("!I", CODES[variant]))


def op_mutated(client: Client, variant: int) -> bytes:
    """The next operation, with a byte of its frame header changed, or its end lost."""
    byte = client.byte()
    if client.at >= len(client.data) or client.depth > 2:
        return b""
    client.depth += 1
    made = bytearray(client.operation())
    client.depth -= 1
    if variant == 7:
        return bytes(made[:-1])
    if variant == 6:
        return bytes(made) * 2
    place = (2, 2, 3, 4, 5, 8)[variant]
    if len(made) > place:
        made[place] = (made[place] + (1, 255, byte, byte | 1, 128, byte)[variant]) & 255
    return bytes(made)


def op_hpack(client: Client, variant: int) -> bytes:
    """A field block as it stands in the input."""
    stream = client.new()
    front = client.block(REQUESTS[0], stream, 0) if variant & 1 else b""
    return client.head(stream, front + client.take(variant + 1), END_STREAM, 0)


def op_bomb(client: Client, variant: int) -> bytes:
    """A long field, and many that only name it."""
    stream = client.new()
    block = client.block(REQUESTS[0], stream, 0)
    block += FORMS[4](client.table, b"b", b"B" * (1000 * variant))
    return client.head(stream, block + integer(62, 7, 128) * TIMES[client.byte() % len(TIMES)], END_STREAM, 0)


def op_table_size(client: Client, variant: int) -> bytes:
    """A request that first says how large the table is from now on."""
    stream = client.new()
    size = (0, 50, 200, 4096, 4097, 65_536, 0, 1)[variant]
    client.table.maxsize = min(size, 4096)
    block = integer(size, 5, 32) + client.block(REQUESTS[client.byte() % 4], stream, 0)
    return client.head(stream, block, END_STREAM, 0)


def op_trailers(client: Client, variant: int) -> bytes:
    byte = client.byte()
    stream = client.named(byte)
    fields = [FIELDS[byte >> 4]] if variant & 4 else [(b"x-trailer", b"%s")]
    return client.head(
        stream, client.block(fields, stream, 0), END_STREAM if not variant & 1 else 0, variant & 2
    )


def op_nothing(client: Client, variant: int) -> bytes:
    """Frames that carry nothing, so many of them."""
    byte = client.byte()
    stream = client.named(byte)
    kind = (DATA, DATA, CONTINUATION, WINDOW_UPDATE, PING, SETTINGS, PRIORITY, 0x77)[variant]
    payload = {PING: bytes(8), WINDOW_UPDATE: b"\0\0\0\1", PRIORITY: b"\0\0\0\0\1"}.get(kind, b"")
    on = 0 if kind in (PING, SETTINGS) else stream
    return frame(kind, 0, on, payload) * TIMES[(byte >> 4) % len(TIMES)]


def op_slow_fields(client: Client, variant: int) -> bytes:
    """A request of many small fields, none of them in the table."""
    stream = client.new()
    block = client.block(REQUESTS[0], stream, 0)
    count = TIMES[client.byte() % len(TIMES)]
    block += b"".join(plain(client.table, b"f%d" % number, b"v" * variant) for number in range(count))
    return client.head(stream, block, END_STREAM, 0)


Operation = Callable[[Client, int], bytes]
OPERATIONS: tuple[Operation, ...] = (
    op_request,
    op_exchange,
    op_data,
    op_fields,
    op_open_block,
    op_continuation,
    op_reset,
    op_settings,
    op_window,
    op_ping,
    op_goaway,
    op_priority,
    op_priority_update,
    op_unknown,
    op_raw,
    op_push,
    op_websocket,
    op_message,
    op_again,
    op_rapid_reset,
    op_mutated,
    op_hpack,
    op_bomb,
    op_table_size,
    op_trailers,
    op_nothing,
    op_slow_fields,
    op_request,
    op_exchange,
    op_data,
    op_window,
    op_message,
)
