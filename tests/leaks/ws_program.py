"""One leak program of WebSockets: a server and clients in one process, and what is left after many messages.

    python -m tests.leaks.ws_program SCENARIO MESSAGES

As tests/leaks/program.py: growth of memory, descriptors and objects between the end of a warm-up and the end.
``MESSAGES`` are sent on few connections where they can be; where each costs a connection there are fewer.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits
from tests.helpers.ws import BINARY, CONTINUATION, TEXT, binary, close, frame, handshake, ping, text
from tests.helpers.ws_peer import fragments, header, large
from tests.leaks.program import TICK_S, left_by

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    await receive()
    if path == "/deny":
        await send({"type": "websocket.close"})
        return
    if path == "/answer":
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    await send({"type": "websocket.accept", "headers": [(b"x-leak", b"1")]})
    if path == "/boom":
        raise ValueError("boom")
    if path == "/flood":
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 100_000})
    while (message := await receive())["type"] == "websocket.receive":
        if path == "/later":
            await asyncio.sleep(0)
        if path != "/listen":
            await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})
        if path == "/close":
            await send({"type": "websocket.close", "code": 4000, "reason": "enough"})


def packed(data: bytes) -> bytes:
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -12)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


class Client:
    """Talks to the server from within the same loop."""

    def __init__(self, address: tuple[str, int], factory: ProtocolFactory) -> None:
        self.address = address
        self.factory = factory
        self.loop = asyncio.get_running_loop()

    async def connect(self, path: str, *offer: bytes, receive_buffer: int | None = None) -> socket.socket:
        """A connection whose handshake is sent; the answer to it is still to be read."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.address)
        await self.loop.sock_sendall(sock, handshake(path, *offer))
        return sock

    async def opened(self, path: str, *offer: bytes) -> socket.socket:
        sock = await self.connect(path, *offer)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self.loop.sock_recv(sock, 1)
        assert head.startswith(b"HTTP/1.1 101"), head
        return sock

    async def take(self, sock: socket.socket, size: int) -> None:
        """So many bytes."""
        while size:
            data = await self.loop.sock_recv(sock, min(size, 1 << 16))
            assert data
            size -= len(data)

    async def rest(self, sock: socket.socket) -> bytes:
        parts = []
        while data := await self.loop.sock_recv(sock, 1 << 16):
            parts.append(data)
        sock.close()
        return b"".join(parts)

    async def exchange(self, frames: bytes, size: int, count: int, path: str = "/", *offer: bytes) -> None:
        """The same frames again and again, which are answered with so many bytes."""
        sock = await self.opened(path, *offer)
        for _ in range(count):
            await self.loop.sock_sendall(sock, frames)
            await self.take(sock, size)
        await self.loop.sock_sendall(sock, close())
        assert (await self.rest(sock)).endswith(b"\x88\x02\x03\xe8")

    async def each(self, frames: bytes, last: bytes, count: int, path: str = "/", *offer: bytes) -> None:
        """So many connections, which the server ends with ``last``."""
        for _ in range(count):
            sock = await self.connect(path, *offer)
            await self.loop.sock_sendall(sock, frames)
            rest = await self.rest(sock)
            assert last in rest, rest

    async def leaving(self, frames: bytes, count: int, path: str = "/listen") -> None:
        """Clients that go without a word, every other one with a reset."""
        for number in range(count):
            sock = await self.connect(path, OFFER)
            await self.loop.sock_sendall(sock, frames)
            if number % 3 == 0:
                await asyncio.sleep(0)
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    async def silent(self, count: int, at_once: int = 50) -> None:
        """Clients that answer no ping, and are cut."""
        for _ in range(count // at_once):
            socks = [await self.opened("/listen") for _ in range(at_once)]
            while self.factory.connections:
                await asyncio.sleep(TICK_S)
            for sock in socks:
                sock.close()

    async def stalling(self, count: int, at_once: int = 25) -> None:
        """Clients that take nothing of much, and are cut."""
        for _ in range(count // at_once):
            socks = [await self.connect("/flood", receive_buffer=32768) for _ in range(at_once)]
            await asyncio.sleep(TICK_S)
            while self.factory.connections:
                await asyncio.sleep(TICK_S)
            for sock in socks:
                sock.close()

    async def told(self, count: int, at_once: int = 50) -> None:
        """Open ones that a drain ends. There is no way back from it, so it is the last thing."""
        for _ in range(count // at_once):
            socks = [await self.connect("/listen") for _ in range(at_once)]
            self.factory.end_streams()
            for sock in socks:
                data = b""
                while b"service restart" not in data:
                    data += await self.loop.sock_recv(sock, 1 << 16)
                await self.loop.sock_sendall(sock, close(1012))
                await self.rest(sock)


def answered_with(data: bytes) -> int:
    """How long it is compressed by the server."""
    squeeze = zlib.compressobj(wbits=-12, memLevel=5)
    return len(squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)) - 4


def closed(code: int) -> bytes:
    """What a close frame with this code and some reason begins with, behind its length."""
    return code.to_bytes(2, "big")


RANDOM = random.Random(1).randbytes(300_000)
SHORT = packed(b"x" * 900)
LONG = packed(RANDOM[:5000])
BAD = frame(TEXT, b"\xff")
BOMB = large(BINARY, packed(b"\0" * 3_000_000), rsv=4)
ENDLESS = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 20
HTTP = b"GET / HTTP/0.9\r\n\r\n"


@dataclass(frozen=True)
class Scenario:
    run: Callable[[Client, int], Awaitable[None]]
    settings: dict[str, Any] = field(default_factory=dict)
    native: dict[str, int] = field(default_factory=dict)


SCENARIOS = {
    # Messages
    "text": Scenario(lambda client, count: client.exchange(text("x" * 50) * 50, 52 * 50, count // 50)),
    "text that is not ASCII": Scenario(
        lambda client, count: client.exchange(text("é" * 50) * 50, 102 * 50, count // 50)
    ),
    "binary": Scenario(lambda client, count: client.exchange(binary(b"x" * 90) * 50, 92 * 50, count // 50)),
    "large": Scenario(
        lambda client, count: client.exchange(large(BINARY, RANDOM), len(RANDOM) + 10, count // 200)
    ),
    "suspending": Scenario(
        lambda client, count: client.exchange(text("x" * 50) * 100, 52 * 100, count // 100, "/later")
    ),
    "fragments": Scenario(
        lambda client, count: client.exchange(b"".join(fragments(TEXT, [b"ab"] * 10)), 22, count // 10)
    ),
    "pings": Scenario(lambda client, count: client.exchange(ping(b"x" * 30) * 20, 32 * 20, count // 20)),
    "compressed in": Scenario(
        lambda client, count: client.exchange(large(TEXT, SHORT, rsv=4), 904, count // 10, "/", OFFER)
    ),
    "compressed both ways": Scenario(
        lambda client, count: client.exchange(
            large(BINARY, LONG, rsv=4), 4 + answered_with(RANDOM[:5000]), count // 20, "/", OFFER
        )
    ),
    "compressed fragments": Scenario(
        lambda client, count: client.exchange(
            b"".join(fragments(TEXT, [SHORT[:4], SHORT[4:]], rsv=4)), 904, count // 20, "/", OFFER
        )
    ),
    # Connections
    "closed by the client": Scenario(
        lambda client, count: client.each(text("x") + close(4001), closed(4001), count // 20, "/", OFFER)
    ),
    "closed by the app": Scenario(
        lambda client, count: client.each(text("x"), closed(4000), count // 200, "/close", OFFER),
        native={"ws_close_ms": 10},
    ),
    "left by its app": Scenario(
        lambda client, count: client.each(close(), closed(1011), count // 20, "/boom")
    ),
    "denied": Scenario(lambda client, count: client.each(HTTP, b" 403 ", count // 20, "/deny")),
    "answered": Scenario(lambda client, count: client.each(HTTP, b" 404 ", count // 20, "/answer")),
    "refused": Scenario(
        lambda client, count: client.each(
            b"x\r\n\r\n", b" 400 ", count // 20, "/", b"Sec-WebSocket-Key: twice"
        )
    ),
    "gone": Scenario(lambda client, count: client.leaving(text("x") * 3, count // 20)),
    "gone within a message": Scenario(
        lambda client, count: client.leaving(frame(TEXT, SHORT[:5], fin=False, rsv=4), count // 20)
    ),
    "gone within a frame": Scenario(
        lambda client, count: client.leaving(header(BINARY, 100_000) + b"x" * 9000, count // 20)
    ),
    # Failures
    "no UTF-8": Scenario(lambda client, count: client.each(text("x") + BAD, closed(1007), count // 20)),
    "a bad frame": Scenario(lambda client, count: client.each(frame(3, b"x"), closed(1002), count // 20)),
    "garbage for deflate": Scenario(
        lambda client, count: client.each(
            frame(TEXT, b"\x07\0", fin=False, rsv=4), closed(1002), count // 20, "/", OFFER
        )
    ),
    "too large": Scenario(
        lambda client, count: client.each(header(BINARY, 1001), closed(1009), count // 20),
        {"ws_max_size_bytes": 1000},
    ),
    "a bomb": Scenario(
        lambda client, count: client.each(BOMB, closed(1009), count // 50, "/", OFFER),
        {"ws_max_size_bytes": 50_000},
    ),
    "too many fragments": Scenario(
        lambda client, count: client.each(ENDLESS, closed(1008), count // 20), {"ws_max_fragments": 20}
    ),
    # Ended by the server
    "silent": Scenario(
        lambda client, count: client.silent(count // 20),
        native={"ws_ping_interval_ms": 10, "ws_ping_timeout_ms": 10},
    ),
    "idle": Scenario(
        lambda client, count: client.each(b"", closed(1001), count // 400, "/listen"),
        native={"ws_idle_ms": 10, "ws_close_ms": 10},
    ),
    "stalled": Scenario(lambda client, count: client.stalling(count // 200), native={"write_stall_ms": 10}),
    "restarted": Scenario(lambda client, count: client.told(count // 20)),
}


async def main(scenario: Scenario, messages: int) -> dict[str, int]:
    settings: Any = request_limits(Config("none:none", **scenario.settings)) | scenario.native  # type: ignore[arg-type]
    return await left_by(app, scenario.run, messages, client=Client, **settings)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(SCENARIOS[sys.argv[1]], int(sys.argv[2])))))
