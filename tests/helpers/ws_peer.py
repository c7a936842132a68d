"""What the tests of limits, floods and failures need beside ``ws.py``: large frames, and who may not win.

Rules of this file: frames are built as ``ws.py`` builds them, only faster or not to the end; nothing here
knows how the server does it. ``Peak`` measures this process, which holds both ends: its bounds are generous.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from shardserve.config.model import Config
from shardserve.worker.limits import request_limits
from tests.helpers.asgi import ok
from tests.helpers.http1 import Server, until
from tests.helpers.ws import BINARY, MASK, TEXT, Heard, WsClient, accept, data_of

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
# Of each length in UTF-8 the first and the last, and what is next to the surrogates.
EVERY_CHARACTER = "a\x00\x7f\x80é߿ࠀ€￿\ud7ff\ue000𐀀😀\U0010ffff"


def limited(**settings: Any) -> dict[str, Any]:
    """What ``serve()`` takes for a server with these settings, by the names that users give them."""
    return dict(request_limits(Config("none:none", **settings)))


def connect(server: Server, *fields: bytes, receive_buffer: int | None = None) -> WsClient:
    """A WebSocket that is open."""
    ws = WsClient(server.connect(receive_buffer))
    ws.open("/", *fields)
    return ws


def narrow(server: Server, *fields: bytes) -> WsClient:
    """A WebSocket for which the kernel keeps little, so that whoever does not read is felt soon."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        server._sock.setsockopt(socket.SOL_SOCKET, option, 16 * KIBIBYTE)  # its connections inherit it
    ws = WsClient(server.connect(16 * KIBIBYTE))
    ws.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIBIBYTE)
    ws.open("/", *fields)
    return ws


# Frames


def header(
    opcode: int,
    length: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes = MASK,
    length_bytes: int | None = None,
) -> bytes:
    """The header of a client's frame with so many bytes, none of which it brings."""
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    first = fin << 7 | rsv << 4 | opcode
    if length_bytes == 0:
        return bytes([first, 0x80 | length]) + mask
    if length_bytes == 2:
        return struct.pack("!BBH", first, 0x80 | 126, length) + mask
    return struct.pack("!BBQ", first, 0x80 | 127, length) + mask


def large(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, mask: bytes = MASK) -> bytes:
    """``ws.frame`` for many bytes: masked as one long number."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return header(opcode, size, fin=fin, rsv=rsv, mask=mask) + masked


def answer(opcode: int, payload: bytes = b"") -> bytes:
    """A whole frame as the server sends it: not masked, the shortest length."""
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


def said(payload: str | bytes) -> bytes:
    """A message of the server's, not compressed."""
    return answer(TEXT, payload.encode()) if isinstance(payload, str) else answer(BINARY, payload)


# The end of a WebSocket that broke a rule


def failed(server: Server, ws: WsClient, code: int, reason: str | None = None) -> str:
    """The server fails it: a close frame with this code, the end of the connection, one report."""
    found, why = ws.read_close()
    assert found == code, (found, why)
    assert reason is None or why == reason
    ws.assert_closed()
    reported(server, ws, code)
    return why


def reported(server: Server, ws: WsClient, code: int) -> None:
    """One report of a WebSocket that was failed with this code."""
    address = ws.client.sock.getsockname()
    ws.client.close()
    (reject,) = server.take_rejects()
    assert (reject.status, reject.client) == (code, address), reject
    assert reject.reason


# Apps


class EachHeard:
    """A ``Heard`` of its own for every WebSocket."""

    def __init__(self) -> None:
        self.all: list[Heard] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        heard = Heard()
        self.all.append(heard)
        await heard(scope, receive, send)

    @property
    def last(self) -> Heard:
        return self.all[-1]


class Slow:
    """Accepts, and takes messages only as far as the test lets it: ``take(count)``, or all of them."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.end: tuple[int, str] | None = None
        self.accepted = 0
        self._may = 0
        self._more = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await ok(scope, receive, send)
            return
        await accept(receive, send)
        self.accepted += 1
        while True:
            while self._may <= len(self.messages):
                self._more.clear()
                await self._more.wait()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.end = message["code"], message["reason"]
                return
            self.messages.append(data_of(message))

    def take(self, server: Server, count: int = 1 << 60) -> None:
        """It may take so many more; without a number, all."""

        def let() -> None:
            self._may = len(self.messages) + count
            self._more.set()

        server.call(let)

    def ended(self) -> tuple[int, str]:
        until(lambda: self.end is not None, "the app to hear of the end")
        assert self.end is not None
        return self.end


# Floods


def blocked_by(ws: WsClient, pieces: Iterator[bytes], most: int, quiet_s: float = 0.5) -> bytes:
    """Sends one piece after the other until nobody takes any more, which must be before ``most`` bytes: the
    rest of the piece that was not taken whole.
    """
    sock = ws.client.sock
    patience = sock.gettimeout()
    sock.settimeout(quiet_s)
    taken = 0
    try:
        for piece in pieces:
            sent = 0
            while sent < len(piece):
                try:
                    sent += sock.send(memoryview(piece)[sent:])
                except TimeoutError:
                    return piece[sent:]
            taken += len(piece)
            assert taken < most, f"{taken} bytes were taken"
    finally:
        sock.settimeout(patience)
    raise AssertionError("nothing is left to send")


class Sender:
    """Sends in a thread of its own, so that the test can read meanwhile. Whoever does not take it all is no
    error: ``with Sender(ws, data): …``.
    """

    def __init__(self, ws: WsClient, data: bytes) -> None:
        self._ws, self._data = ws, data
        self._thread = threading.Thread(target=self._send, name="sender")

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            self._ws.send(self._data)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._ws.client.close()
        self._thread.join()


class Peak:
    """``with Peak() as peak``: by how much the resident memory of this process grew at most.

    0 under the sanitizers, which keep freed memory.
    """

    bytes = 0

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what it is now
        self._before = _resident("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "SHARDSERVE_SANITIZED" not in os.environ:
            self.bytes = _resident("VmHWM") - self._before


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


# Ways to cut what is sent


def in_two(data: bytes) -> list[list[bytes]]:
    """Every way to send it in two pieces."""
    return [[data[:at], data[at:]] for at in range(1, len(data))]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def fragments(opcode: int, pieces: list[bytes], rsv: int = 0) -> list[bytes]:
    """One message, each piece a frame of its own."""
    last = len(pieces) - 1
    return [
        large(opcode if at == 0 else 0, piece, fin=at == last, rsv=rsv if at == 0 else 0)
        for at, piece in enumerate(pieces)
    ]


def pieces_of(data: bytes, size: int) -> list[bytes]:
    """In pieces of this size; at least one."""
    return [data[at : at + size] for at in itertools.chain([0], range(size, len(data), size))]
