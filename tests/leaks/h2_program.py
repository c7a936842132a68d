"""One leak program of HTTP/2: a server and clients in one process, and what is left after many streams.

    python -m tests.leaks.h2_program SCENARIO STREAMS

As tests/leaks/program.py: growth of memory, descriptors and objects between the end of a warm-up and the end.
Streams share connections where they can; where they end theirs there are fewer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits
from tests.helpers.ws import BINARY, close, text
from tests.helpers.ws_peer import large
from tests.leaks import program, ws_program
from tests.leaks.program import left_by
from tests.native.h2_drive import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW,
    PREFACE,
    RST_STREAM,
    data,
    frame,
    goaway,
    head,
    opening,
    ping,
    pseudo,
    request,
    reset,
    settings,
    tunnel,
    upload,
    window,
)

LARGEST_WINDOW = (1 << 31) - 1
WIDE = (
    PREFACE + settings({INITIAL_WINDOW: LARGEST_WINDOW}) + frame(4, 1, 0) + window(0, LARGEST_WINDOW - 65_535)
)
FILE = __file__
STUCK = asyncio.Event()
"""What the apps of /stuck wait for, whatever their clients do."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    if scope["type"] == "websocket":
        await ws_program.app(scope, receive, send)
    elif path == "/file":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": FILE})
    elif path == "/trailers":
        await send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": [(b"x-t", b"v")]})
    elif path == "/both":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
            if not message["more_body"]:
                break
        await send({"type": "http.response.body"})
    elif path == "/stuck":
        await STUCK.wait()
    elif path == "/begun-boom":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise ValueError("boom")
    elif path == "/boom-behind":
        await program.reply(send)
        raise ValueError("boom")
    else:
        await program.app(scope, receive, send)


class Link:
    """One connection of a client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.rest = b""
        self.ended = 0
        """Streams that the server ended, with how many bytes, and those that it reset, by code."""
        self.size = 0
        self.resets: list[int] = []
        self.code: int | None = None
        """Of its GOAWAY."""

    async def say(self, *frames: bytes) -> None:
        await self.loop.sock_sendall(self.sock, b"".join(frames))

    async def hear(self) -> bool:
        """Reads once; False at the end of the connection."""
        try:
            got = await self.loop.sock_recv(self.sock, 1 << 18)
        except ConnectionResetError:
            return False
        text, at = self.rest + got, 0
        while len(text) - at >= 9:
            length, kind, flags = int.from_bytes(text[at : at + 3], "big"), text[at + 3], text[at + 4]
            if len(text) - at < 9 + length:
                break
            if kind == DATA:
                self.size += length
            if kind in (DATA, HEADERS):
                self.ended += flags & END_STREAM
            elif kind == RST_STREAM:
                self.resets.append(text[at + 12])
            elif kind == GOAWAY:
                self.code = text[at + 16]
            at += 9 + length
        self.rest = text[at:]
        return bool(got)

    async def until_ended(self, count: int) -> None:
        while self.ended < count:
            if not await self.hear():
                raise EOFError(self.ended, self.resets, self.code)

    async def until_reset(self, count: int) -> None:
        while len(self.resets) < count:
            if not await self.hear():
                raise EOFError(self.ended, self.resets, self.code)

    async def until_closed(self) -> None:
        while await self.hear():
            pass
        self.sock.close()


Make = Callable[[int], bytes]


def numbers() -> Iterator[int]:
    """The streams of a client (RFC 9113 §5.1.1)."""
    return iter(range(1, LARGEST_WINDOW, 2))


class Client:
    """Talks to the server from within the same loop."""

    def __init__(self, address: tuple[str, int], factory: ProtocolFactory) -> None:
        self.address = address
        self.factory = factory
        self.loop = asyncio.get_running_loop()

    async def connect(self, *frames: bytes, preface: bytes = WIDE, receive_buffer: int | None = None) -> Link:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.address)
        link = Link(sock)
        await link.say(preface, *frames)
        return link

    async def streams(
        self, make: Make, count: int, batch: int, at_least: int = 0, *, ends: bool = False
    ) -> None:
        """So many on one connection, each of which the server ends, with so many bytes in all bodies.

        ``ends``: the client ends its side when it has heard the end of the server's.
        """
        link, number = await self.connect(), numbers()
        for done in range(batch, count + 1, batch):
            some = list(islice(number, batch))
            await link.say(*map(make, some))
            await link.until_ended(done)
            if ends:
                await link.say(*(data(one, b"", end=True) for one in some))
        assert link.size >= at_least
        assert all(code == 0 for code in link.resets), link.resets
        link.sock.close()

    async def reset_by_us(self, make: Make, count: int, code: int, batch: int = 20, limit: int = 100) -> None:
        """So many, on connections of a few each, that the server resets with ``code``."""
        for _ in range(count // limit):
            link, number = await self.connect(), numbers()
            for done in range(batch, limit + 1, batch):
                await link.say(*(make(one) for one in islice(number, batch)))
                await link.until_reset(done)
            assert set(link.resets) == {code}, link.resets
            assert link.code is None
            link.sock.close()

    async def reset_by_them(self, make: Make, count: int, wait: bool, limit: int = 100) -> None:
        """So many that the client takes back, a few on each connection: with more it is sent away."""
        for _ in range(count // limit):
            link, number = await self.connect(), numbers()
            for one in islice(number, limit):
                await link.say(make(one), *([] if wait else [reset(one)]))
                if wait:
                    await asyncio.sleep(0)
                    await link.say(reset(one))
            await link.say(request(next(number)))
            await link.until_ended(1)
            link.sock.close()

    async def refused(self, count: int, limit: int) -> None:
        """Streams while as many apps as may be run for streams that their client has taken back."""
        for _ in range(count // 50):
            link, number = await self.connect(), numbers()
            STUCK.clear()
            stuck = list(islice(number, limit))
            await link.say(*(request(one, "/stuck") for one in stuck))
            while self.factory.in_flight < limit:
                await asyncio.sleep(0)
            await link.say(*map(reset, stuck))
            for done in range(10, 51, 10):
                await link.say(*(request(one, "/") for one in islice(number, 10)))
                await link.until_reset(done)
            assert set(link.resets) == {7}, link.resets
            link.sock.close()
            STUCK.set()
            while self.factory.in_flight:
                await asyncio.sleep(0)

    async def connections(self, count: int, *frames: bytes, ended: int = 1) -> None:
        for _ in range(count):
            link = await self.connect(*frames)
            await link.until_ended(ended)
            link.sock.close()

    async def leaving(self, count: int, *frames: bytes) -> None:
        """Clients that go without a word, every other one with a reset of the connection."""
        for number in range(count):
            link = await self.connect(*frames)
            if number % 3 == 0:
                await asyncio.sleep(0)
            if number % 2:
                link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.sock.close()

    async def ended_by_us(
        self, count: int, codes: set[Any], *frames: bytes, at_once: int = 1, **how: Any
    ) -> None:
        """Connections that the server ends, with one of these codes in a GOAWAY; None is no GOAWAY."""
        for _ in range(count // at_once):
            links = [await self.connect(*frames, **how) for _ in range(at_once)]
            for link in links:
                await link.until_closed()
                assert link.code in codes, link.code

    async def stalls(self, count: int, at_once: int = 25) -> None:
        """Streams whose client opens no window: they are cut, and their connection lives."""
        for _ in range(count // at_once):
            link, number = await self.connect(preface=opening()), numbers()
            await link.say(*(request(one, "/flood") for one in islice(number, at_once)))
            await link.until_reset(at_once)
            assert set(link.resets) == {8}, link.resets
            link.sock.close()

    async def messages(self, frames: bytes, size: int, count: int) -> None:
        """WebSocket messages in one stream, which come back."""
        link = await self.connect(tunnel(1))
        for done in range(1, count + 1):
            await link.say(*(data(1, frames[at : at + 16_384]) for at in range(0, len(frames), 16_384)))
            while link.size < done * size:
                assert await link.hear()
        await link.say(data(1, close(), end=True))
        await link.until_ended(1)
        link.sock.close()


def odd(number: int) -> bytes:
    """No two are alike: what HPACK keeps of them does not grow."""
    return request(number, f"/{number}", "GET", (b"x-odd-%d" % number, b"v%d" % number), (b"accept", b"*/*"))


def posted(number: int) -> bytes:
    return upload(number) + data(number, b"u" * 16_000) * 3 + data(number, b"v", end=True)


def both(number: int) -> bytes:
    return upload(number, "/both") + data(number, b"u" * 4000) * 3 + data(number, b"", end=True)


def continued(number: int) -> bytes:
    return upload(number, "/up", (b"expect", b"100-continue")) + data(number, b"body", end=True)


def malformed(number: int) -> bytes:
    bad = [(b"Upper", b"x"), (b"connection", b"close"), (b"x", b"a\r\nb"), (b":path", b"/"), (b"te", b"gzip")]
    return head(number, [*pseudo(), bad[number // 2 % len(bad)]])


def answered_4xx(number: int) -> bytes:
    made = [
        request(number, "/", "GET", (b"host", b"another")),
        request(number, "/" + "x" * 300),
        request(number, "/", "GET", (b"x", b"y" * 500)),
        request(number, "/", "GET", *((b"x-%d" % one, b"v") for one in range(20))),
        request(number, "/", "POST", (b"content-length", b"5000"), end=False)
        + data(number, b"x" * 5000, end=True),
        upload(number) + data(number, b"x" * 3000, end=True),
        request(number, "/", "POST", (b"expect", b"more")),
        head(number, [(b":method", b"CONNECT"), (b":authority", b"x:1")]),
    ]
    return made[number // 2 % len(made)]


def websocket(number: int, path: str = "/") -> bytes:
    return tunnel(number, path) + data(number, text("x" * 50) * 3) + data(number, close(), end=True)


FLOODS = [ping() * 3000, settings() * 3000, window(0, 1) * 3000]
BROKEN = [frame(0, 0, 0, b"x"), frame(1, 5, 3, b"\xff\xff\xff"), window(0, 0), settings({4: 1 << 31})]
LIMITS = {
    "limit_request_line": 200,
    "limit_request_fields": 16,
    "limit_request_field_size": 400,
    "limit_request_body": 1000,
}
LARGE = large(BINARY, b"x" * 100_000)


@dataclass(frozen=True)
class Scenario:
    run: Callable[[Client, int], Awaitable[None]]
    native: dict[str, int] = field(default_factory=dict)


async def each(many: list[bytes], count: int, run: Callable[[bytes], Awaitable[None]]) -> None:
    for number in range(count):
        await run(many[number % len(many)])


def get(path: str) -> Make:
    return lambda number: request(number, path)


SCENARIOS = {
    # Answered
    "plain": Scenario(lambda client, count: client.streams(get("/"), count, 50)),
    "each different": Scenario(lambda client, count: client.streams(odd, count, 50)),
    "suspend": Scenario(lambda client, count: client.streams(get("/later"), count // 2, 20)),
    "tasks": Scenario(lambda client, count: client.streams(get("/task"), count // 4, 20)),
    "errors": Scenario(lambda client, count: client.streams(get("/boom"), count // 4, 20)),
    "errors behind the answer": Scenario(
        lambda client, count: client.streams(get("/boom-behind"), count // 4, 20)
    ),
    "bad headers": Scenario(lambda client, count: client.streams(get("/bad"), count // 4, 20)),
    "streaming": Scenario(lambda client, count: client.streams(get("/stream"), count // 5, 10)),
    "big answers": Scenario(
        lambda client, count: client.streams(get("/big"), count // 100, 2, count // 100 * 1_000_000)
    ),
    "files": Scenario(
        lambda client, count: client.streams(get("/file"), count // 10, 10, count // 10 * 5000)
    ),
    "trailers and hints": Scenario(lambda client, count: client.streams(get("/trailers"), count // 4, 20)),
    "uploads": Scenario(lambda client, count: client.streams(posted, count // 20, 5)),
    "both ways": Scenario(lambda client, count: client.streams(both, count // 20, 5, count // 20 * 12_000)),
    "100-continue": Scenario(lambda client, count: client.streams(continued, count // 5, 10)),
    "answered before the body": Scenario(
        lambda client, count: client.streams(
            lambda number: upload(number, "/trailers"), count // 4, 20, ends=True
        )
    ),
    "4xx": Scenario(lambda client, count: client.streams(answered_4xx, count // 8, 16), LIMITS),
    # Reset
    "errors behind the head": Scenario(
        lambda client, count: client.reset_by_us(get("/begun-boom"), count // 20, 2)
    ),
    "malformed": Scenario(lambda client, count: client.reset_by_us(malformed, count // 10, 1)),
    "taken back at once": Scenario(
        lambda client, count: client.reset_by_them(get("/wait"), count // 8, False)
    ),
    "taken back": Scenario(lambda client, count: client.reset_by_them(get("/flood"), count // 20, True)),
    "uploads taken back": Scenario(
        lambda client, count: client.reset_by_them(
            lambda number: upload(number) + data(number, b"x" * 5000), count // 20, True
        )
    ),
    "refused streams": Scenario(
        lambda client, count: client.refused(count // 8, 10), {"http2_max_concurrent_streams": 10}
    ),
    "stalled streams": Scenario(lambda client, count: client.stalls(count // 80), {"write_stall_ms": 10}),
    # Connections
    "new connections": Scenario(lambda client, count: client.connections(count // 20, request(1))),
    "leaving": Scenario(
        lambda client, count: client.leaving(count // 20, request(1, "/wait"), tunnel(3, "/listen"))
    ),
    "leaving in the middle": Scenario(
        lambda client, count: client.leaving(
            count // 20, request(1, "/flood"), upload(3), data(3, b"x" * 9000), request(5)[:20]
        )
    ),
    "goodbye": Scenario(
        lambda client, count: client.ended_by_us(count // 20, {0, None}, request(1), goaway(0), at_once=10)
    ),
    "so many requests": Scenario(
        lambda client, count: client.ended_by_us(
            count // 40, {0}, *(request(number) for number in range(1, 21, 2)), at_once=10
        ),
        {"limit_keep_alive_requests": 10},
    ),
    "idle": Scenario(
        lambda client, count: client.ended_by_us(count // 40, {0}, request(1), at_once=25),
        {"keep_alive_ms": 10},
    ),
    "silent": Scenario(
        lambda client, count: client.ended_by_us(
            count // 40, {None}, request(1, "/wait"), at_once=25, preface=opening()
        ),
        {"http2_ping_interval_ms": 10, "http2_ping_timeout_ms": 10},
    ),
    "floods": Scenario(
        lambda client, count: each(
            FLOODS,
            count // 100,
            lambda flood: client.ended_by_us(1, {11}, request(1, "/wait"), flood, preface=opening()),
        )
    ),
    "broken": Scenario(
        lambda client, count: each(
            BROKEN, count // 40, lambda bad: client.ended_by_us(1, {1, 3, 9}, request(1, "/wait"), bad)
        )
    ),
    # WebSockets
    "websockets": Scenario(lambda client, count: client.streams(websocket, count // 20, 10)),
    "websockets denied": Scenario(
        lambda client, count: client.streams(
            lambda number: tunnel(number, "/deny"), count // 20, 10, ends=True
        )
    ),
    "websockets answered": Scenario(
        lambda client, count: client.streams(
            lambda number: tunnel(number, "/answer"), count // 20, 10, ends=True
        )
    ),
    "websockets closed": Scenario(
        lambda client, count: client.streams(lambda number: websocket(number, "/close"), count // 20, 10)
    ),
    "websockets taken back": Scenario(
        lambda client, count: client.reset_by_them(lambda number: tunnel(number, "/flood"), count // 40, True)
    ),
    "messages": Scenario(lambda client, count: client.messages(text("x" * 50) * 50, 52 * 50, count // 50)),
    "large messages": Scenario(lambda client, count: client.messages(LARGE, 100_010, count // 100)),
}


async def main(scenario: Scenario, count: int) -> dict[str, int]:
    settings: dict[str, Any] = {**request_limits(Config("none:none")), "head_ms": 0, "http2_cleartext": True}
    return await left_by(app, scenario.run, count, client=Client, **{**settings, **scenario.native})


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(SCENARIOS[sys.argv[1]], int(sys.argv[2])))))
