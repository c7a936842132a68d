"""Drives the extension without a server: a Connection over a fake transport and one end of a socketpair.

Rules of this file: the transport is a plain Python object, so a test can override any of its methods with
something evil; nothing here waits for time to pass, ``turns`` lets the loop go round.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Callable
from typing import Any

from shardserve._native import Connection, ProtocolFactory
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits


def get(path: str = "/", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def post(length: int, *fields: bytes, body: bytes = b"") -> bytes:
    """A POST that promises ``length`` bytes and brings ``body``."""
    lines = [b"POST / HTTP/1.1", b"Host: x", b"Content-Length: %d" % length, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def turns(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def reply(send: Any, body: bytes = b"ok", headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await reply(send)


class FakeTransport:
    """Records what is asked of it. What the connection writes to its socket is read from ``theirs``."""

    def __init__(self, *, extra: dict[str, Any] | None = None) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.calls: list[str] = []
        self.written = b""
        self.extra = {"peername": ("127.0.0.1", 4711), "sockname": ("127.0.0.1", 80), "socket": self.ours}
        self.extra.update(extra or {})
        self.connection: Connection | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.extra.get(name, default)

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        self.calls.append("write")
        self.written += bytes(data)

    def writelines(self, parts: Any) -> None:
        self.calls.append("writelines")
        self.written += b"".join(parts)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def pieces(self) -> list[bytes]:
        """What has reached the client by now, as its socket gives it."""
        found = []
        try:
            while data := self.theirs.recv(1 << 20):
                found.append(data)
        except BlockingIOError:
            pass
        return found

    def read(self) -> bytes:
        return b"".join(self.pieces())

    def shut(self) -> None:
        self.ours.close()
        self.theirs.close()


class Driver:
    """A factory on the running loop, and what it reported."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.errors: list[tuple[Any, ...]] = []
        self.rejects: list[tuple[Any, ...]] = []
        settings = {
            "loop": asyncio.get_running_loop(),
            "context": contextvars.copy_context(),
            "state": None,
            "on_app_error": lambda *args: self.errors.append(args),
            "on_reject": lambda *args: self.rejects.append(args),
            **request_limits(Config("none:none")),  # the defaults that users get
        }
        self.factory = ProtocolFactory(app, **(settings | options))

    def connect(self, transport: FakeTransport | None = None) -> tuple[Connection, FakeTransport]:
        transport = transport or FakeTransport()
        connection = self.factory()
        transport.connection = connection
        connection.connection_made(transport)
        return connection, transport

    def outcomes(self) -> list[str]:
        """What the app's failures were, in words."""
        return [f"{type(error).__name__}: {outcome}" for error, _, _, _, outcome, _ in self.errors]


class OneConnection:
    """What is done to one connection of ``driver``'s, and what everybody saw."""

    driver: Driver
    connection: Any
    transport: FakeTransport

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.unraisable: list[str] = []

    def note(self, call: Callable[[], Any]) -> None:
        """Calls it; what became of that."""
        try:
            call()
            self.seen.append("done")
        except Exception as error:
            self.seen.append(type(error).__name__)

    def lose(self, error: BaseException | None = None) -> None:
        """The connection is lost, if that was not said before."""
        if self.connection is not None and "lost" not in self.transport.calls:
            self.transport.calls.append("lost")
            self.connection.connection_lost(error)

    def drop(self) -> None:
        """It is lost, and nobody outside has it any more."""
        self.lose()
        self.connection = self.transport.connection = None


GONE = [0, 0]
"""The connections and requests that are left when everything is over."""


def statuses(output: bytes) -> list[int]:
    """The status of every response in ``output``, however their bodies end."""
    return [int(part[:3]) for part in output.split(b"HTTP/1.1 ")[1:]]
