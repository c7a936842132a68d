"""Good clients by the hundred, bad ones of every kind, and the app that they talk to.

Rules of this file: those of crowd.py; a bad client goes on being bad until the server has ended its
connection, and tells what it heard by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil

from tests.helpers.crowd import HOST, PATIENCE_S, Crowd, Held

LARGE_BYTES = 32 << 20
# What a client leaves to the kernel to take for it.
SMALL_BUFFER = 8192


# The app


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Lifespan, or a route; an unknown one is an exception in the first step."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    await ROUTES[scope["path"]](scope, receive, send)


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"hello")


async def upload(scope: Any, receive: Any, send: Any) -> None:
    """The size of the body, unless its client goes."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await answer(send, b"%d" % size)


async def large(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, bytes(LARGE_BYTES))


async def events(scope: Any, receive: Any, send: Any) -> None:
    """Until the client goes, or a shutdown begins."""
    await receive()
    gone = asyncio.ensure_future(receive())
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while not gone.done():
        await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        await asyncio.wait({gone}, timeout=0.05)
    await send({"type": "http.response.body"})


async def block(scope: Any, receive: Any, send: Any) -> None:
    """The event loop stands still for as long as the query says, from when the file ``blocked`` is there."""
    (Path(os.environ["NOTES"]) / "blocked").touch()
    time.sleep(float(scope["query_string"]))
    await answer(send, b"done")


ROUTES = {
    "/": hello, "/upload": upload, "/large": large, "/events": events, "/block": block,
}  # fmt: skip


# What they say


def get(path: str = "/", *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def post(length: int, *fields: str) -> bytes:
    """The head of an upload."""
    lines = ["POST /upload HTTP/1.1", "Host: x", f"Content-Length: {length}", *fields, "", ""]
    return "\r\n".join(lines).encode()


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The body of a 200 that has its length."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    found = re.search(rb"content-length: (\d+)", head)
    assert found, head
    return await reader.readexactly(int(found[1]))


# Good clients


class Good(Crowd):
    """A hundred."""

    KINDS: ClassVar = {
        "kept": 40, "fresh": 20, "uploads": 20, "slow uploads": 14, "slow reads": 2, "events": 4,
    }  # fmt: skip

    def _connect(self) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return asyncio.open_connection(HOST, self._port)

    async def _kept(self) -> None:
        reader, writer = await self._connect()
        while await self._pause():
            writer.write(get())
            assert await read_answer(reader) == b"hello"
            self.done["kept"] += 1
        writer.close()

    async def _fresh(self) -> None:
        while await self._pause():
            reader, writer = await self._connect()
            writer.write(get("/", "Connection: close"))
            assert await read_answer(reader) == b"hello"
            assert await reader.read() == b""
            writer.close()
            self.done["fresh"] += 1

    async def _uploads(self) -> None:
        reader, writer = await self._connect()
        while await self._pause():
            writer.write(post(20_000) + bytes(20_000))
            assert await read_answer(reader) == b"20000"
            self.done["uploads"] += 1
        writer.close()

    async def _slow_uploads(self) -> None:
        """Slow, but faster than it must be: 20 pieces of 1000 bytes, five a second."""
        reader, writer = await self._connect()
        while await self._pause():
            writer.write(post(20_000))
            for _ in range(20):
                await asyncio.sleep(0.2)
                writer.write(bytes(1000))
            assert await read_answer(reader) == b"20000"
            self.done["slow uploads"] += 1
        writer.close()

    async def _slow_reads(self) -> None:
        """It takes some of its download all the time, little by little, and does not wait for the end."""
        loop = asyncio.get_running_loop()
        with open_socket(self._port) as sock:
            await loop.sock_sendall(sock, get("/large"))
            while await self._pause():
                assert await loop.sock_recv(sock, SMALL_BUFFER), "the download was cut"
                self.done["slow reads"] += 1

    async def _events(self) -> None:
        reader, writer = await self._connect()
        writer.write(get("/events"))
        while not self._over.is_set():
            await reader.readuntil(b"data: tick\n\n")
            self.done["events"] += 1
        writer.close()


# Bad ones


def open_socket(port: int) -> socket.socket:
    """A socket that is read only when somebody reads it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.connect((HOST, port))
    sock.setblocking(False)
    return sock


class Bad:
    """Clients that misuse their connection until the server ends it. Each returns what it was told."""

    def __init__(self, port: int, worker: psutil.Process) -> None:
        self.port = port
        self._held = Held(worker)

    async def speaks(self, first: bytes, drips: Iterable[bytes] = (), *, half_closes: bool = False) -> bytes:
        """It says this, then drip by drip, or nothing more; and reads."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        hears = asyncio.create_task(self._hears(reader))
        writer.write(first)
        if half_closes:
            writer.write_eof()
        for drip in drips:
            if (await asyncio.wait({hears}, timeout=0.1))[0]:
                break
            writer.write(drip)
        said = await asyncio.wait_for(hears, PATIENCE_S)
        writer.close()
        return said

    async def _hears(self, reader: asyncio.StreamReader) -> bytes:
        said = b""
        with contextlib.suppress(ConnectionError):  # an end like any other
            while data := await reader.read(65536):
                said += data
        return said

    async def asks(self, *requests: bytes, takes: int = 0) -> bytes:
        """It asks and asks, and takes so many bytes of the answers every now and then."""
        loop = asyncio.get_running_loop()
        said = b""
        with open_socket(self.port) as sock:
            asking = asyncio.create_task(loop.sock_sendall(sock, b"".join(requests)))
            for _ in self._until_ended(sock):
                await asyncio.sleep(0.1)
                if takes:
                    with contextlib.suppress(OSError):
                        said += sock.recv(takes)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await asking
            with contextlib.suppress(OSError):
                said += sock.recv(SMALL_BUFFER)  # what was there before
        return said

    def _until_ended(self, sock: socket.socket) -> Iterator[None]:
        """Until the worker, which may still have to accept it, has the other end no more."""
        port, was_there = sock.getsockname()[1], False
        for _ in range(round(PATIENCE_S / 0.1)):
            yield
            is_there = port in self._held.ports()
            if was_there and not is_there:
                return
            was_there = is_there
        raise AssertionError("the server keeps the connection")


def drops(piece: bytes) -> Iterator[bytes]:
    return itertools.repeat(piece)


PROBES: dict[str, Callable[[Bad], Awaitable[bytes]]] = {
    "silent": lambda bad: bad.speaks(b""),
    "empty lines": lambda bad: bad.speaks(b"", drops(b"\r\n")),
    "half empty lines": lambda bad: bad.speaks(b"", itertools.cycle([b"\r", b"\n"])),
    "head, then silent": lambda bad: bad.speaks(b"GET / HTTP/1.1\r\nHost: x\r\n"),
    "head that drips": lambda bad: bad.speaks(b"GET / HTTP/1.1\r\nX-A: ", drops(b"x")),
    "line that drips": lambda bad: bad.speaks(b"GET /", drops(b"x")),
    "body stalled": lambda bad: bad.speaks(post(1000) + b"x" * 100),
    "body that drips": lambda bad: bad.speaks(post(100_000), drops(b"x")),
    "idle": lambda bad: bad.speaks(get()),
    "idle, with empty lines": lambda bad: bad.speaks(get(), drops(b"\r\n")),
    "half-closed head": lambda bad: bad.speaks(b"GET / HTTP/1.1\r\nHost", half_closes=True),
    "half-closed body": lambda bad: bad.speaks(post(1000) + b"x", half_closes=True),
    "refused, and goes on": lambda bad: bad.speaks(b"nonsense\r\n\r\n", drops(b"x")),
    "reads nothing": lambda bad: bad.asks(get("/large")),
    "reads by the byte": lambda bad: bad.asks(get("/large"), takes=1),
    "pipelines, reads nothing": lambda bad: bad.asks(get() * 100_000),
    "closes, reads nothing": lambda bad: bad.asks(get("/large", "Connection: close")),
}
