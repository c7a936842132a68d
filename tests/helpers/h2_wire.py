"""Frames by hand, ways to cut them, and a transport without a network: what h2_peer.py is made of."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import hpack
import pytest

from tests.helpers.h2_judge import END_HEADERS, END_STREAM, HEADERS, SETTINGS, Fields

# How a client begins: what ALPN chose, or the preface on a connection without TLS.
STARTS = ["alpn", "prior"]
every_start = pytest.mark.parametrize("start", STARTS)


def whole(data: bytes, dice: random.Random) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes, dice: random.Random) -> list[bytes]:
    """The first 4 KiB; the rest at once."""
    return [data[at : at + 1] for at in range(min(len(data), 4096))] + ([data[4096:]] if data[4096:] else [])


def by_eights(data: bytes, dice: random.Random) -> list[bytes]:
    """The header of each frame comes in two reads, or in three."""
    return [data[at : at + 8] for at in range(0, len(data), 8)]


def at_random(data: bytes, dice: random.Random) -> list[bytes]:
    """Cut anywhere, in up to eight."""
    edges = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randint(0, 7)))
    pieces = [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


Feeding = Callable[[bytes, random.Random], list[bytes]]
FEEDINGS: dict[str, Feeding] = {"whole": whole, "byte by byte": byte_by_byte, "at random": at_random}
every_feeding = pytest.mark.parametrize("feeding", FEEDINGS.values(), ids=FEEDINGS)
# Both, for long tables: each start and each feeding, though not each with each.
every_way = pytest.mark.parametrize(
    ("start", "feeding"),
    [("alpn", whole), ("prior", byte_by_byte), ("alpn", at_random)],
    ids=["alpn, whole", "prior, byte by byte", "alpn, at random"],
)


# Frames


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None
) -> bytes:
    """Any frame; ``length``: what its header says, if that is not the truth."""
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(values: dict[int, int] | list[tuple[int, int]] | None = None, flags: int = 0) -> bytes:
    pairs = values.items() if isinstance(values, dict) else values or ()
    return frame(SETTINGS, flags, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def block(fields: Fields) -> bytes:
    """A field block of literals that are never indexed (RFC 7541 §6.2.3): it means the same anywhere."""
    never = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in fields]
    return bytes(hpack.Encoder().encode(never, huffman=False))


def pseudo(method: str = "GET", path: str | bytes = "/", scheme: bytes = b"http") -> Fields:
    path = path.encode() if isinstance(path, str) else path
    return [(b":method", method.encode()), (b":scheme", scheme), (b":path", path), (b":authority", b"test")]


def head(stream: int, fields: Fields, flags: int = END_STREAM | END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, block(fields))


# The transport


class Tls:
    """What a client has agreed with ssl."""

    def __init__(self, protocol: str | None = "h2") -> None:
        self.protocol = protocol

    def selected_alpn_protocol(self) -> str | None:
        return self.protocol

    def version(self) -> str:
        return "TLSv1.3"


class Transport:
    """asyncio's, as far as a Connection can tell. ``sock``: the output may go straight into a socket."""

    limit_bytes = 65536

    def __init__(self, extra: dict[str, Any], *, sock: bool) -> None:
        self.connection: Any = None
        self.reading = True
        self.held = False
        """Nothing is taken from it: what is written piles up, until it says pause_writing."""
        self.paused = False
        self.ended = False
        """write_eof(), close() or abort() was called."""
        self.closing = False
        self.lost = False
        self.writes = 0
        self._pending: list[bytes] = []
        self._ours, self._theirs = socket.socketpair() if sock else (None, None)
        for end in (self._ours, self._theirs):
            if end is not None:
                end.setblocking(False)
        self.extra = {"peername": ("127.0.0.1", 4711), "sockname": ("127.0.0.1", 80), "socket": self._ours}
        self.extra.update(extra)

    # What asyncio promises

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.extra.get(name, default)

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._pending))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limit_bytes = high if high is not None else self.limit_bytes
        self._maybe_pause()

    def _maybe_pause(self) -> None:
        if not self.paused and self.get_write_buffer_size() > self.limit_bytes:
            self.paused = True
            self.connection.pause_writing()

    def write(self, data: Any) -> None:
        assert not self.paused, "written to a transport that said pause_writing()"
        assert not self.ended, "written to a transport that is closed"
        self.writes += 1
        self._pending.append(bytes(data))
        if self.held:
            self._maybe_pause()

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def can_write_eof(self) -> bool:
        return self._ours is not None

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.ended = self.closing = True

    def abort(self) -> None:
        self._pending.clear()
        self.held = False
        self.close()

    def is_closing(self) -> bool:
        return self.closing

    # What the test does with it

    def take(self) -> bytes:
        """What has reached the client by now."""
        if self.held or self.lost:
            return b""
        parts = []
        try:
            while self._theirs is not None and (data := self._theirs.recv(1 << 20)):
                parts.append(data)
        except BlockingIOError:
            pass
        parts += self._pending
        self._pending.clear()
        if self.paused:
            self.paused = False
            self.connection.resume_writing()
        return b"".join(parts)

    def end(self, error: BaseException | None = None) -> None:
        """connection_lost(), once."""
        if not self.lost:
            self.lost = self.closing = self.ended = True
            self.connection.connection_lost(error)
            for end in (self._ours, self._theirs):
                if end is not None:
                    end.close()
