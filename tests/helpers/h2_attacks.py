"""What hostile HTTP/2 clients say, as bytes; and what a server said to them.

Rules of this file: frames and header blocks are put together here from the RFCs (9113, 7541, 9218), byte by
byte, because a library would refuse to say most of it; so nothing here checks what it is given. Header blocks
use no dynamic table unless an attack is about it: each can be said anywhere, and any number of times. Tables
are by what becomes of the client: FLOODS are harmless once, BAD_BLOCKS and ENDS end the connection, MALFORMED
a stream, IGNORED nothing. tests/conformance/test_h2_attacks.py has nghttpd say that they are what they claim.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = (1 << 31) - 1
LAST_STREAM = (1 << 31) - 1
FRAME_BYTES = 16384


class Kind(IntEnum):
    """RFC 9113 §6, RFC 9218 §7."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    PRIORITY_UPDATE = 16


class Code(IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


ACK = END_STREAM = 1
END_HEADERS, PADDED, PRIORITIZED = 4, 8, 32

# Frames


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settings(*values: tuple[int, int]) -> bytes:
    payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values)
    return frame(Kind.SETTINGS, payload=payload)


def window_update(stream: int, by: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, stream=stream, payload=by.to_bytes(4, "big"))


def rst_stream(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, stream=stream, payload=code.to_bytes(4, "big"))


def data(stream: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None) -> bytes:
    if padding is not None:
        payload = bytes([padding]) + payload + bytes(padding)
    flags = (END_STREAM if end else 0) | (PADDED if padding is not None else 0)
    return frame(Kind.DATA, flags, stream, payload)


def priority(stream: int, depends_on: int = 0, weight: int = 15) -> bytes:
    return frame(Kind.PRIORITY, stream=stream, payload=depends_on.to_bytes(4, "big") + bytes([weight]))


def priority_update(stream: int, value: bytes = b"u=1, i") -> bytes:
    return frame(Kind.PRIORITY_UPDATE, payload=stream.to_bytes(4, "big") + value)


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(Kind.PING, ACK if ack else 0, payload=payload)


SETTINGS_ACK = frame(Kind.SETTINGS, ACK)
HELLO = PREFACE + settings()

# Header blocks (RFC 7541 §5 and §6)


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """In a prefix of ``bits`` bits, above which stands ``first``."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    found, value = [first | most], value - most
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def text(value: bytes) -> bytes:
    return integer(len(value), 7) + value


def field(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """Literal, no Huffman code. ``indexed``: into the dynamic table."""
    return (b"\x40" if indexed else b"\x00") + text(name) + text(value)


def indexed(number: int) -> bytes:
    return integer(number, 7, 0x80)


def table_size(size: int) -> bytes:
    return integer(size, 5, 0x20)


FIRST_DYNAMIC = 62
Fields = tuple[bytes, bytes]
START = {b":method": b"GET", b":scheme": b"http", b":authority": b"x", b":path": b"/"}


def block(*fields: Fields, **start: bytes | None) -> bytes:
    """Of a request: its start line, parts of which may be others (``path=b"/x"``) or none (None); fields."""
    changed = {b":" + name.encode(): value for name, value in start.items()}
    lines = [(name, value) for name, value in {**START, **changed}.items() if value is not None]
    return b"".join(field(name, value) for name, value in [*lines, *fields])


def headers(stream: int, content: bytes, *, end: bool = True, whole: bool = True) -> bytes:
    """A HEADERS frame. ``end``: no body follows. ``whole``: no CONTINUATION follows."""
    return frame(Kind.HEADERS, (END_STREAM if end else 0) | (END_HEADERS if whole else 0), stream, content)


def continuation(stream: int, content: bytes = b"", *, whole: bool = False) -> bytes:
    return frame(Kind.CONTINUATION, END_HEADERS if whole else 0, stream, content)


def request(stream: int, *fields: Fields, end: bool = True, **start: bytes | None) -> bytes:
    return headers(stream, block(*fields, **start), end=end)


def long_block(stream: int, content: bytes, *, end: bool = True, size: int = FRAME_BYTES) -> bytes:
    """As many frames as it takes."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    said = headers(stream, pieces[0], end=end, whole=len(pieces) == 1)
    for number, piece in enumerate(pieces[1:], 2):
        said += continuation(stream, piece, whole=number == len(pieces))
    return said


# What the server said


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(said: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames, and what is left."""
    found, at = [], 0
    while len(said) - at >= 9:
        end = at + 9 + int.from_bytes(said[at : at + 3], "big")
        if end > len(said):
            break
        stream = int.from_bytes(said[at + 5 : at + 9], "big") & LAST_STREAM
        found.append(Frame(said[at + 3], said[at + 4], stream, said[at + 9 : end]))
        at = end
    return found, said[at:]


class GoAway(NamedTuple):
    last_stream: int
    code: int
    text: str


class Answers:
    """Everything that a server said, stream by stream; ``hear`` takes what has come."""

    def __init__(self) -> None:
        self.bytes = 0
        self.frames: Counter[int] = Counter()
        self.settings: dict[int, int] = {}
        self.fields: dict[int, list[dict[bytes, bytes]]] = defaultdict(list)
        self.data: Counter[int] = Counter()
        self.begins: dict[int, bytes] = defaultdict(bytes)
        """The first bytes of each body."""
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaways: list[GoAway] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self._rest = b""
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 1 << 32
        self._block = b""

    def hear(self, said: bytes) -> list[Frame]:
        """The frames that are whole with this."""
        self.bytes += len(said)
        found, self._rest = frames(self._rest + said)
        for one in found:
            self._note(one)
        return found

    def _note(self, one: Frame) -> None:
        kind, flags, stream, payload = one
        self.frames[kind] += 1
        if kind in (Kind.HEADERS, Kind.CONTINUATION):
            self._block += payload
            if flags & END_HEADERS:
                decoded = self._decoder.decode(self._block, raw=True)
                self.fields[stream].append({bytes(name): bytes(value) for name, value in decoded})
                self._block = b""
        elif kind == Kind.DATA:
            self.data[stream] += len(payload)
            self.begins[stream] = (self.begins[stream] + payload[:100])[:100]
        elif kind == Kind.RST_STREAM:
            assert stream not in self.resets, "reset twice"
            self.resets[stream] = int.from_bytes(payload, "big")
        elif kind == Kind.SETTINGS and not flags & ACK:
            pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
            self.settings.update((int.from_bytes(p[:2], "big"), int.from_bytes(p[2:], "big")) for p in pairs)
        elif kind == Kind.PING:
            (self.pongs if flags & ACK else self.pings).append(payload)
        elif kind == Kind.GOAWAY:
            last, code = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
            self.goaways.append(GoAway(last & LAST_STREAM, code, payload[8:].decode()))
        if kind in (Kind.HEADERS, Kind.DATA) and flags & END_STREAM:
            self.ended.add(stream)

    @property
    def statuses(self) -> dict[int, int]:
        """Of each stream the last one."""
        last = {stream: each[-1].get(b":status") for stream, each in self.fields.items()}
        return {stream: int(status) for stream, status in last.items() if status is not None}

    @property
    def code(self) -> int | None:
        """Of the last GOAWAY."""
        return self.goaways[-1].code if self.goaways else None


# Floods

STREAMS = 10_000
CONTROL_FRAMES = 20_000


def streams(one: Callable[[int], bytes], count: int = STREAMS) -> Iterator[bytes]:
    """The same for so many streams."""
    return (one(stream) for stream in range(1, 2 * count, 2))


def again(piece: bytes, first: bytes = b"", count: int = CONTROL_FRAMES) -> Iterator[bytes]:
    return itertools.chain([first] if first else [], itertools.repeat(piece, count))


def in_turn(*pieces: bytes, first: bytes = b"", count: int = CONTROL_FRAMES) -> Iterator[bytes]:
    turns = itertools.islice(itertools.cycle(pieces), count)
    return itertools.chain([first] if first else [], turns)


GET = block()
LENGTH = b"content-length"
# An upload of which nothing has come: whatever is said of its stream finds it open.
OPEN = request(1, end=False, method=b"POST", path=b"/upload")

# Streams that the client opens and resets, or that it makes the server reset (CVE-2023-44487, CVE-2025-8671).
RESETS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid reset": lambda: streams(lambda one: headers(one, GET) + rst_stream(one)),
    "rapid reset of uploads": lambda: streams(lambda one: headers(one, GET, end=False) + rst_stream(one)),
    "rapid reset, unknown code": lambda: streams(lambda one: headers(one, GET) + rst_stream(one, 0xBAD)),
    "window of a stream too large": lambda: streams(
        lambda one: headers(one, GET, end=False) + window_update(one, LARGEST_WINDOW)
    ),
    "more body than its length": lambda: streams(
        lambda one: request(one, (LENGTH, b"0"), end=False, method=b"POST") + data(one, b"x")
    ),
    "less body than its length": lambda: streams(
        lambda one: request(one, (LENGTH, b"9"), end=False, method=b"POST") + data(one, b"x", end=True)
    ),
    "trailers without an end": lambda: streams(
        lambda one: headers(one, GET, end=False) + headers(one, field(b"a", b"b"), end=False)
    ),
    "trailers with a method": lambda: streams(
        lambda one: headers(one, GET, end=False) + headers(one, field(b":method", b"GET"))
    ),
    "no path": lambda: streams(lambda one: request(one, path=None)),
    "an upper-case name": lambda: streams(lambda one: request(one, (b"X-A", b"1"))),
    "a line break": lambda: streams(lambda one: request(one, (b"x-a", b"1\r\nx-b: 2"))),
}  # fmt: skip

# Frames that cost the client little and the server an answer, or some work.
CONTROL: dict[str, Callable[[], Iterator[bytes]]] = {
    "ping": lambda: again(ping()),
    "settings, none": lambda: again(settings()),
    "settings, windows": lambda: in_turn(
        settings((Setting.INITIAL_WINDOW_SIZE, 1)), settings((Setting.INITIAL_WINDOW_SIZE, 0)), first=OPEN
    ),
    "settings, header table": lambda: in_turn(
        settings((Setting.HEADER_TABLE_SIZE, 0)), settings((Setting.HEADER_TABLE_SIZE, 4096))
    ),
    "settings, unknown": lambda: again(settings((0xBAD, 1))),
    "priority update": lambda: again(priority_update(1), OPEN),
    "priority update of no stream yet": lambda: streams(lambda one: priority_update(one), CONTROL_FRAMES),
    "empty data": lambda: again(data(1), OPEN),
    "padding": lambda: again(data(1, padding=0), OPEN),
    "window update of the connection": lambda: again(window_update(0, 1)),
    "window update of a stream": lambda: again(window_update(1, 1), OPEN),
}  # fmt: skip

FLOODS = {**RESETS, **CONTROL}

# Frames that mean nothing to who says NO_RFC7540_PRIORITIES (RFC 9218 §2.1), or to anybody (RFC 9113 §5.5).
IGNORED: dict[str, Callable[[], Iterator[bytes]]] = {
    "priority of no stream yet": lambda: streams(lambda one: priority(one), CONTROL_FRAMES),
    "priority of one stream": lambda: again(priority(1), OPEN),
    "priority of the connection": lambda: again(priority(0)),
    "dependent on itself": lambda: again(priority(1, depends_on=1), OPEN),
    "unknown": lambda: again(frame(0xBE, 0xFF, 0, b"x" * 100)),
}

# A header block without an end.
CONTINUATIONS: dict[str, Callable[[], Iterator[bytes]]] = {
    "fields": lambda: itertools.chain(
        [headers(1, GET, whole=False)],
        itertools.repeat(continuation(1, field(b"x-a", b"y" * 4000) * 4), 64),
    ),
    "empty": lambda: again(continuation(1), headers(1, GET, whole=False)),
    "a byte each": lambda: again(continuation(1, b"\x82"), headers(1, GET, whole=False)),
    "one field without an end": lambda: itertools.chain(
        [headers(1, GET + b"\x00" + text(b"x-a") + integer(1 << 20, 7), whole=False)],
        itertools.repeat(continuation(1, b"y" * FRAME_BYTES), 64),
    ),
}

# Header blocks that RFC 7541 does not allow: always the end of the connection (RFC 9113 §4.3).
BAD_BLOCKS = {
    "index 0": indexed(0),
    "index beyond the table": indexed(FIRST_DYNAMIC),
    "name beyond the table": integer(FIRST_DYNAMIC, 6, 0x40) + text(b"x"),
    "number without an end": b"\xff" + b"\xff" * 20 + b"\x00",
    "number beyond 32 bits": integer(1 << 40, 7, 0x80),
    "length beyond the block": b"\x00" + integer(1000, 7) + b"x",
    "huge length": b"\x00" + text(b"x-a") + integer(1 << 31, 7) + b"x",
    "cut in a field": field(b"x-a", b"y")[:-1],
    "table larger than agreed": table_size(4097),
    "table of 4 GiB": table_size((1 << 32) - 1),
    "table size behind a field": GET + table_size(0),
    "Huffman: end of string": b"\x00" + text(b"x-a") + b"\x84" + b"\xff\xff\xff\xff",
    "Huffman: a byte of padding": b"\x00" + text(b"x-a") + b"\x82" + b"\x1f\xff",
    "Huffman: padding of zeros": b"\x00" + text(b"x-a") + b"\x81" + b"\x18",
}

# The end of the connection, with this code: by the section of RFC 9113.
ENDS: dict[str, tuple[bytes, Code]] = {
    "4.2: a frame too large": (frame(Kind.DATA, 0, 1, bytes(FRAME_BYTES + 1)), Code.FRAME_SIZE_ERROR),
    "5.1: data of no stream yet": (data(1, b"x"), Code.PROTOCOL_ERROR),
    "5.1: window update of no stream yet": (window_update(1, 1), Code.PROTOCOL_ERROR),
    "5.1.1: an even stream": (headers(2, GET), Code.PROTOCOL_ERROR),
    "6.1: data of the connection": (data(0, b"x"), Code.PROTOCOL_ERROR),
    "6.1: more padding than data": (OPEN + frame(Kind.DATA, PADDED, 1, b"\x05abcd"), Code.PROTOCOL_ERROR),
    "6.2: headers of the connection": (headers(0, GET), Code.PROTOCOL_ERROR),
    "6.3: priority of 4 bytes": (frame(Kind.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "6.4: reset of no stream yet": (rst_stream(1), Code.PROTOCOL_ERROR),
    "6.4: reset of the connection": (rst_stream(0), Code.PROTOCOL_ERROR),
    "6.4: reset of 3 bytes": (OPEN + frame(Kind.RST_STREAM, 0, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "6.5: settings of a stream": (frame(Kind.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "6.5: settings of 5 bytes": (frame(Kind.SETTINGS, payload=bytes(5)), Code.FRAME_SIZE_ERROR),
    "6.5: ack of 6 bytes": (frame(Kind.SETTINGS, ACK, payload=bytes(6)), Code.FRAME_SIZE_ERROR),
    "6.5.2: push is 2": (settings((Setting.ENABLE_PUSH, 2)), Code.PROTOCOL_ERROR),
    "6.5.2: windows of 2 GiB": (settings((Setting.INITIAL_WINDOW_SIZE, 1 << 31)), Code.FLOW_CONTROL_ERROR),
    "6.5.2: frames of a byte": (settings((Setting.MAX_FRAME_SIZE, 1)), Code.PROTOCOL_ERROR),
    "6.7: ping of 7 bytes": (ping(b"1234567"), Code.FRAME_SIZE_ERROR),
    "6.7: ping of a stream": (frame(Kind.PING, 0, 1, b"12345678"), Code.PROTOCOL_ERROR),
    "6.8: goaway of a stream": (frame(Kind.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "6.9: window update by 0": (window_update(0, 0), Code.PROTOCOL_ERROR),
    "6.9: window update of 3 bytes": (frame(Kind.WINDOW_UPDATE, payload=b"\0\0\1"), Code.FRAME_SIZE_ERROR),
    "6.9.1: window of 2 GiB": (window_update(0, LARGEST_WINDOW), Code.FLOW_CONTROL_ERROR),
    "6.10: continuation of nothing": (continuation(1, GET, whole=True), Code.PROTOCOL_ERROR),
    "6.10: continuation of another": (
        headers(1, GET, whole=False) + continuation(3, whole=True),
        Code.PROTOCOL_ERROR,
    ),
    "6.10: ping inside of headers": (headers(1, GET, whole=False) + ping(), Code.PROTOCOL_ERROR),
    "8.4: a push": (
        OPEN + frame(Kind.PUSH_PROMISE, END_HEADERS, 1, (2).to_bytes(4, "big") + GET),
        Code.PROTOCOL_ERROR,
    ),
}

# Requests that are malformed (RFC 9113 §8.1.1): the end of their stream, and no app ever sees them.
BAD_FIELDS: dict[str, Fields] = {
    "name: none": (b"", b"1"),
    "name: upper case": (b"X-A", b"1"),
    "name: space": (b"x a", b"1"),
    "name: colon": (b"x:a", b"1"),
    "name: colon first": (b":x", b"1"),
    "name: NUL": (b"x\0", b"1"),
    "name: CR": (b"x\r", b"1"),
    "name: LF": (b"x\n", b"1"),
    "name: a field inside": (b"x: 1\r\ny", b"1"),
    "name: DEL": (b"x\x7f", b"1"),
    "name: not ASCII": (b"x\xc3\xa9", b"1"),
    "name: parenthesis": (b"x(", b"1"),
    "value: CR": (b"x", b"1\r2"),
    "value: LF": (b"x", b"1\n2"),
    "value: NUL": (b"x", b"1\x002"),
    "value: a field inside": (b"x", b"1\r\ny: 2"),
    "value: a request inside": (b"x", b"1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"),
    "value: control": (b"x", b"1\x012"),
    "value: space first": (b"x", b" 1"),
    "value: space last": (b"x", b"1 "),
    "value: tab last": (b"x", b"1\t"),
    "connection": (b"connection", b"keep-alive"),
    "keep-alive": (b"keep-alive", b"timeout=5"),
    "proxy-connection": (b"proxy-connection", b"keep-alive"),
    "upgrade": (b"upgrade", b"websocket"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "te": (b"te", b"gzip"),
    "a second method": (b":method", b"GET"),
    "a status": (b":status", b"200"),
    "length: no number": (LENGTH, b"x"),
    "length: none": (LENGTH, b""),
    "length: negative": (LENGTH, b"-1"),
    "length: plus": (LENGTH, b"+0"),
    "length: hexadecimal": (LENGTH, b"0x0"),
    "length: a list": (LENGTH, b"0, 0"),
    "length: 2 to the 64": (LENGTH, b"18446744073709551616"),
    "length: of a body that is not there": (LENGTH, b"1"),
}
BAD_STARTS: dict[str, dict[str, bytes | None]] = {
    "method: none": {"method": None},
    "method: empty": {"method": b""},
    "method: space": {"method": b"GET /smuggled"},
    "method: line break": {"method": b"GET\r\nx: 1"},
    "method: parenthesis": {"method": b"G(T"},
    "scheme: none": {"scheme": None},
    "scheme: empty": {"scheme": b""},
    "scheme: digit first": {"scheme": b"1http"},
    "scheme: space": {"scheme": b"ht tp"},
    "scheme: NUL": {"scheme": b"http\0"},
    "path: none": {"path": None},
    "path: empty": {"path": b""},
    "path: space": {"path": b"/a b"},
    "path: a request inside": {"path": b"/ HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled"},
    "path: NUL": {"path": b"/\0"},
    "path: DEL": {"path": b"/\x7f"},
    "path: no slash": {"path": b"a"},
    "path: asterisk": {"path": b"*"},
    "path: a whole URI": {"path": b"http://x/"},
    "authority: line break": {"authority": b"x\r\ny: 1"},
    "authority: path": {"authority": b"x/y"},
    "authority: space": {"authority": b"x y"},
    "a protocol without CONNECT": {"protocol": b"websocket"},
    "CONNECT with a path": {"method": b"CONNECT"},
}
MALFORMED: dict[str, bytes] = {
    **{name: block(one) for name, one in BAD_FIELDS.items()},
    **{name: block(**start) for name, start in BAD_STARTS.items()},
    "two lengths": block((LENGTH, b"0"), (LENGTH, b"1")),
    "a path behind a field": block((b"x", b"1"), path=None) + field(b":path", b"/"),
}
