"""HTTP/2 frames and field blocks, as a fuzzed client writes them (RFC 9113, RFC 7541), and cut from a stream.

Nothing here judges: what is written may be as wrong as anybody likes, so a frame is only a header and bytes,
and a field is written in any of FORMS. ``Table`` is what the client thinks that the server's decoder knows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9
DEFAULT_WINDOW_BYTES = 65_535
DEFAULT_FRAME_BYTES = 16_384
MOST_WINDOW_BYTES = (1 << 31) - 1
MOST_STREAM = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
PRIORITY_UPDATE = 16
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
PRIORITIZED = 32

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_LIST = range(1, 7)
ENABLE_CONNECT, NO_PRIORITIES = 8, 9

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)

Field = tuple[bytes, bytes]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int  # with the reserved bit
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(struct.pack("!HI", *pair) for pair in pairs))


class Cutter:
    """Cuts frames from bytes, however those come."""

    def __init__(self) -> None:
        self.rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self.rest += data
        while len(self.rest) >= FRAME_HEADER_BYTES:
            length = int.from_bytes(self.rest[:3], "big")
            if len(self.rest) < FRAME_HEADER_BYTES + length:
                return
            kind, flags, stream = struct.unpack_from("!BBI", self.rest, 3)
            payload = bytes(self.rest[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + length])
            del self.rest[: FRAME_HEADER_BYTES + length]
            yield Frame(kind, flags, stream, payload)

    @property
    def promised(self) -> int:
        """The length of the frame that has begun."""
        return int.from_bytes(self.rest[:3], "big") if len(self.rest) >= 3 else 0


# ---- field blocks ----

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541 §5.1. ``first``: the bits in front of it."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    made = bytearray([first | most])
    value -= most
    while value >= 128:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def long_integer(value: int, bits: int, first: int = 0) -> bytes:
    """With a byte that says nothing behind it, if that can be."""
    made = integer(value, bits, first)
    return made[:-1] + bytes([made[-1] | 128, 0]) if len(made) > 1 else made


def text(value: bytes) -> bytes:
    return integer(len(value), 7) + value


def huffman(value: bytes) -> bytes:
    made = HUFFMAN.encode(value) if value else b""
    return integer(len(made), 7, 128) + made


class Table(HeaderTable):
    """The dynamic table on the other side, if nothing went wrong there."""

    def place(self, name: bytes, value: bytes) -> tuple[int, bool]:
        """The index of the field (True), of its name (False), or 0."""
        found = self.search(name, value)
        return (0, False) if found is None else (found[0], found[2] is not None)


def indexed(table: Table, name: bytes, value: bytes) -> bytes:
    """As short as it can be."""
    index, whole = table.place(name, value)
    if whole:
        return integer(index, 7, 128)
    table.add(name, value)
    return integer(index, 6, 64) + (b"" if index else huffman(name)) + huffman(value)


def plain(table: Table, name: bytes, value: bytes) -> bytes:
    return b"\0" + text(name) + text(value)


def never(table: Table, name: bytes, value: bytes) -> bytes:
    index, _ = table.place(name, value)
    return integer(index, 4, 16) + (b"" if index else text(name)) + huffman(value)


def added(table: Table, name: bytes, value: bytes) -> bytes:
    table.add(name, value)
    return b"\x40" + text(name) + text(value)


def long_winded(table: Table, name: bytes, value: bytes) -> bytes:
    return b"\0" + long_integer(len(name), 7) + name + long_integer(len(value), 7) + value


def not_huffman(table: Table, name: bytes, value: bytes) -> bytes:
    """It says that it is."""
    return b"\0" + text(name) + integer(len(value), 7, 128) + value


def beyond_the_table(table: Table, name: bytes, value: bytes) -> bytes:
    return integer(62 + len(table.dynamic_entries) + len(value), 7, 128)


def resized(table: Table, name: bytes, value: bytes) -> bytes:
    """A new size of the table before the field: right only at the beginning of a block."""
    size = (0, 100, 4096, 4097)[len(value) % 4]
    if size <= 4096:
        table.maxsize = size
    return integer(size, 5, 32) + indexed(table, name, value)


Form = Callable[[Table, bytes, bytes], bytes]
FORMS: tuple[Form, ...] = (
    indexed,
    indexed,
    plain,
    never,
    added,
    indexed,
    plain,
    indexed,
    added,
    long_winded,
    indexed,
    resized,
    plain,
    never,
    not_huffman,
    beyond_the_table,
)
