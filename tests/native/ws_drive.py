"""Drives WebSockets without a server, as drive.py does connections: frames in, frames out, engines that lie.

Rules of this file: those of drive.py. ``Solid`` is a transport whose client has no socket of its own, so that
all output goes through methods that a test can override.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from shardserve._native import Connection
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits
from tests.helpers.ws import CLOSE, PING, PONG, handshake
from tests.native.drive import Driver, FakeTransport, OneConnection, turns

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate"
NAMES = {0: "continuation", 1: "text", 2: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}


def engine(**settings: Any) -> Any:
    """A real one."""
    return request_limits(Config("none:none", **settings))["websocket"]


class Solid(FakeTransport):
    """Without a socket: everything is written through it."""

    def __init__(self) -> None:
        super().__init__(extra={"socket": None})

    def read(self) -> bytes:
        data, self.written = self.written, b""
        return data


def head_and_frames(output: bytes) -> tuple[list[int], list[str]]:
    """The status of every response, and the frames behind the 101: their kinds, closes with their codes."""
    statuses, rest = [], output
    while rest.startswith(b"HTTP/1.1 "):
        head, _, rest = rest.partition(b"\r\n\r\n")
        statuses.append(int(head[9:12]))
        if statuses[-1] == 101:
            return statuses, frames(rest)
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        rest = rest[int(length.partition(b":")[2]) :]
    assert rest == b"", rest
    return statuses, []


def frames(data: bytes) -> list[str]:
    """Whole frames of the server, nothing else."""
    found = []
    while data:
        size, at = data[1], 2
        if size > 125:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at], "big")
        payload, rest = data[at : at + size], data[at + size :]
        assert len(payload) == size, "half a frame"
        kind = NAMES[data[0] & 15]
        code = f" {int.from_bytes(payload[:2], 'big')}" if kind == "close" and payload else ""
        found.append(kind + code + (" packed" if data[0] & 0x40 else ""))
        data = rest
    return found


class Scene(OneConnection):
    """One WebSocket whose app is ``evil(scene)``, and what everybody saw."""

    def __init__(
        self,
        evil: Callable[[Any], Awaitable[Any]],
        *,
        transport: FakeTransport | None = None,
        accept: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.evil, self.accepts = evil, accept
        self.driver = Driver(self._app, **options)
        self.connection, self.transport = self.driver.connect(transport)
        self.receive: Any = None
        self.send: Any = None
        sys.unraisablehook = lambda args: self.unraisable.append(type(args.exc_value).__name__)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"http"})
            return
        self.receive, self.send = receive, send
        assert (await receive())["type"] == "websocket.connect"
        if self.accepts:
            await send({"type": "websocket.accept"})
        await self.evil(self)

    def feed(self, *data: bytes) -> None:
        self.connection.data_received(b"".join(data))

    def open(self, *fields: bytes) -> None:
        self.feed(handshake("/", *fields))

    async def result(self) -> dict[str, Any]:
        """Everything is over; what was seen of it."""
        await turns()
        before = list(self.transport.calls)
        self.lose()
        await turns()
        statuses, said = head_and_frames(self.transport.read())
        return {
            "statuses": statuses,
            "frames": said,
            "seen": self.seen,
            "outcomes": self.driver.outcomes(),
            "rejects": [status for status, _, _ in self.driver.rejects],
            "unraisable": self.unraisable,
            "left": [self.driver.factory.connections, self.driver.factory.in_flight],
            "ended": "close" in before or "abort" in before or "write_eof" in before,
            "aborted": "abort" in before,
        }


async def until_the_end(scene: Scene) -> None:
    """An app that only listens; what it heard."""
    while (message := await scene.receive())["type"] == "websocket.receive":
        scene.seen.append(str(message["text"] if message["text"] is not None else message["bytes"]))
    scene.seen.append(f"{message['type']} {message['code']}")


async def for_ever(scene: Scene) -> None:
    await asyncio.get_running_loop().create_future()


def connect(driver: Driver, *data: bytes) -> tuple[Connection, FakeTransport]:
    connection, transport = driver.connect()
    connection.data_received(b"".join(data))
    return connection, transport
