"""One leak program: a server and its client in one process, and what is left after many requests.

    python -m tests.leaks.program SCENARIO REQUESTS

Prints JSON: growth of the resident memory in bytes, of the open file descriptors and of the objects that the
collector tracks, each between the end of a warm-up of a quarter of REQUESTS and the end. Requests are
pipelined where they can be, so that the client costs little; where each costs a connection there are fewer.
A scenario whose requests are not answered as it says fails.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count as numbers
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory

STATUS = b"HTTP/1.1 "
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# Deadlines are enforced this often. The server does so once a second; here nobody wants to wait.
TICK_S = 0.005
PAUSE = b"<pause>"


async def reply(send: Any, body: bytes = b"ok") -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_all(receive: Any) -> int:
    length = 0
    while True:
        message = await receive()
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            return length


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    if path == "/later":
        await asyncio.sleep(0)
    elif path == "/boom":
        raise ValueError("boom")
    elif path == "/late-boom":
        await asyncio.sleep(0)
        raise ValueError("boom")
    elif path == "/bad":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a b", b"")]})
    elif path == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    elif path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"a" * 100, b"b" * 5000, b"", b"c"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body"})
        return
    elif path == "/big":
        await reply(send, BIG)
        return
    elif path == "/flood":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": BIG, "more_body": True})
    elif path == "/echo":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await read_all(receive)
        return
    elif path == "/task":
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda task: None)
        async with asyncio.timeout(60):
            await asyncio.create_task(asyncio.sleep(0))
    elif scope["method"] == "POST":
        await read_all(receive)
    await reply(send)


BIG = b"x" * 1_000_000


class Client:
    """Talks to the server from within the same loop."""

    def __init__(self, address: tuple[str, int], factory: ProtocolFactory) -> None:
        self.address = address
        self.factory = factory
        self.loop = asyncio.get_running_loop()

    async def connect(self, receive_buffer: int | None = None) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await self.loop.sock_connect(sock, self.address)
        return sock

    async def answers(self, sock: socket.socket, count: int, end: bytes = STATUS) -> None:
        """Reads until ``end`` came ``count`` times."""
        seen = 0
        tail = b""
        while seen < count:
            data = await self.loop.sock_recv(sock, 1 << 16)
            if not data:
                raise EOFError(seen)
            seen += (tail + data).count(end)
            tail = data[-(len(end) - 1) :]

    async def pipelined(self, request: bytes, count: int, batch: int, end: bytes = STATUS) -> None:
        sock = await self.connect()
        for _ in range(count // batch):
            await self.loop.sock_sendall(sock, request * batch)
            await self.answers(sock, batch, end)
        sock.close()

    async def new_connections(self, request: bytes, count: int) -> None:
        for _ in range(count):
            sock = await self.connect()
            await self.loop.sock_sendall(sock, request)
            await self.answers(sock, 1)
            sock.close()

    async def disconnects(self, request: bytes, count: int) -> None:
        for number in range(count):
            sock = await self.connect()
            await self.loop.sock_sendall(sock, request)
            if number % 3 == 0:
                await asyncio.sleep(0)
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    async def each_different(self, make: Callable[[int], bytes], count: int, batch: int) -> None:
        """Pipelined requests of which no two are alike: nothing of them may be kept for the next."""
        sock = await self.connect()
        number = numbers()
        for _ in range(count // batch):
            await self.loop.sock_sendall(sock, b"".join(make(next(number)) for _ in range(batch)))
            await self.answers(sock, batch, b"HTTP/1.1 200")
        sock.close()

    async def refusals(self, status: int, count: int, *requests: bytes, at_once: int = 1) -> None:
        """So many connections: each sends one of these, gets this status, and is closed by the server.

        ``at_once``: so many are open together, for what takes its time.
        """
        for number in range(count // at_once):
            socks = [await self.connect() for _ in range(at_once)]
            for sock in socks:
                await self.send(sock, requests[number % len(requests)])
            for sock in socks:
                answer = await self.rest(sock)
                assert answer.startswith(b"HTTP/1.1 %d " % status), answer
                assert answer.count(STATUS) == 1, answer
                sock.close()

    async def send(self, sock: socket.socket, request: bytes) -> None:
        """What is behind a PAUSE when the app has the request."""
        first, *others = request.split(PAUSE)
        await self.loop.sock_sendall(sock, first)
        for other in others:
            while not self.factory.in_flight:
                await asyncio.sleep(0)
            await self.loop.sock_sendall(sock, other)

    async def rest(self, sock: socket.socket) -> bytes:
        """All that comes up to the end of the connection."""
        parts = []
        while data := await self.loop.sock_recv(sock, 1 << 16):
            parts.append(data)
        return b"".join(parts)

    async def closed_in_time(self, request: bytes, count: int, answer: bytes, at_once: int) -> None:
        """Connections that the server closes of itself, with no more than the beginning of an answer."""
        for _ in range(count // at_once):
            socks = [await self.connect() for _ in range(at_once)]
            for sock in socks:
                await self.loop.sock_sendall(sock, request)
            for sock in socks:
                rest = await self.rest(sock)
                assert rest.startswith(answer), rest
                assert rest.count(STATUS) == answer.count(STATUS), rest
                assert not rest.endswith(b"0\r\n\r\n"), rest
                sock.close()

    async def stalls(self, request: bytes, count: int, at_once: int) -> None:
        """Connections that ask for much and read nothing, until they are cut."""
        for _ in range(count // at_once):
            socks = [await self.connect(receive_buffer=32768) for _ in range(at_once)]
            for sock in socks:
                await self.loop.sock_sendall(sock, request)
            while self.factory.connections:
                await asyncio.sleep(TICK_S)
            for sock in socks:
                with suppress(ConnectionResetError):
                    await self.rest(sock)  # what was in flight; the end of it is all that counts
                sock.close()

    async def batches(self, request: bytes, count: int, batch: int) -> None:
        """Connections that the server closes behind so many requests; one more is never answered."""
        for _ in range(count // batch):
            sock = await self.connect()
            await self.loop.sock_sendall(sock, request * (batch + 1))
            answer = await self.rest(sock)
            assert answer.count(b"HTTP/1.1 200") == batch, answer
            sock.close()

    async def crowd(self, count: int) -> None:
        """One connection is all that the server takes; the others are refused."""
        sock = await self.connect()
        await self.loop.sock_sendall(sock, get("/"))
        await self.answers(sock, 1)
        await self.refusals(503, count, get("/"))
        sock.close()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: leak\r\nUser-Agent: leak\r\nX-Odd-{len(path)}: 1\r\n\r\n".encode()


POST = b"POST /up HTTP/1.1\r\nHost: leak\r\nContent-Length: 40000\r\n\r\n" + b"u" * 40000
CHUNKED = (
    b"POST /up HTTP/1.1\r\nHost: leak\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"5\r\nhello\r\n" * 50
    + b"0\r\n\r\n"
)
CONTINUE = b"POST /up HTTP/1.1\r\nHost: leak\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"

CUSTOM = ("BREW", "PROPFIND", "get", "M-SEARCH")


def custom_method(number: int) -> bytes:
    return b"%b%d" % (CUSTOM[number % 4].encode(), number) + get("/").removeprefix(b"GET")


def other_host(number: int) -> bytes:
    return b"GET http://host-%d.test:%d/ HTTP/1.1\r\nHost: leak\r\n\r\n" % (number, number % 60000)


def underscores(number: int) -> bytes:
    fields = b"X_Odd_%d: 1\r\nX-Odd-%d: 2\r\nContent_Length: 3\r\nx_%d: 4\r\n" % ((number,) * 3)
    return b"GET / HTTP/1.1\r\nHost: leak\r\n" + fields + b"\r\n"


def head(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: leak", *fields, b"", b""])


def post(*fields: bytes, path: bytes = b"/up") -> bytes:
    return head(*fields, line=b"POST %b HTTP/1.1" % path)


CHUNKS = post(b"Transfer-Encoding: chunked")
BAD_LINES = (
    b"nonsense\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"G@T / HTTP/1.1\r\n",
)
BAD_HEADS = (
    head(b"Host: other"),
    head(b"A : b"),
    head(b"A: b\0c"),
    head(b"A: b", b" folded"),
    post(b"Content-Length: 5, 5"),
    post(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    post(b"Transfer-Encoding: chunked, gzip"),
    b"GET / HTTP/1.1\r\n\r\n",
)
BAD_CHUNKS = (
    b"5\r\nhello\r\nx\r\n",
    b"5\r\nhelloworld",
    b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    b"fffffffffffffffff\r\n",
)
BAD_BODIES = tuple(CHUNKS + chunk for chunk in BAD_CHUNKS)
BAD_LATER = tuple(CHUNKS + PAUSE + chunk for chunk in BAD_CHUNKS)
BIG_CHUNK = b"320\r\n%b\r\n" % (b"x" * 800)
TOO_MANY = [b"X-%d: 1" % number for number in range(20)]
BIG_HEADS = (head(*TOO_MANY), head(b"X: " + b"x" * 500), head(*[b"X: " + b"x" * 150] * 5))
UNKNOWN = (
    head(line=b"CONNECT leak:1 HTTP/1.1"),
    post(b"Transfer-Encoding: gzip, chunked"),
    head(line=b"A" * 40 + b" / HTTP/1.1"),
)
SLOW_HEADS = (b"GET / HT", b"GET / HTTP/1.1\r\nHost: l", get("/")[:-1])
SLOW_ECHO = post(b"Content-Length: 100", path=b"/echo") + b"abc"
SLOW_BODIES = (post(b"Content-Length: 100") + b"abc", CHUNKS + b"5\r\nhe")
LIMITS = {
    "limit_request_line": 200,
    "limit_request_fields": 16,
    "limit_request_field_size": 400,
    "limit_request_head": 600,
    "limit_request_body": 1000,
}


@dataclass(frozen=True)
class Scenario:
    run: Callable[[Client, int], Awaitable[None]]
    settings: dict[str, int | str] = field(default_factory=dict)
    serves: bool = True
    """Whether any of its requests gets an answer from the app."""


SCENARIOS = {
    "plain": Scenario(lambda client, count: client.pipelined(get("/"), count, 50)),
    "suspend": Scenario(lambda client, count: client.pipelined(get("/later"), count, 20)),
    "tasks": Scenario(lambda client, count: client.pipelined(get("/task"), count // 4, 20)),
    "errors": Scenario(lambda client, count: client.pipelined(get("/boom"), count // 2, 20)),
    "late errors": Scenario(lambda client, count: client.pipelined(get("/late-boom"), count // 2, 20)),
    "bad headers": Scenario(lambda client, count: client.pipelined(get("/bad"), count // 2, 20)),
    "streaming": Scenario(lambda client, count: client.pipelined(get("/stream"), count // 5, 10)),
    "big answers": Scenario(lambda client, count: client.pipelined(get("/big"), count // 100, 2, STATUS)),
    "uploads": Scenario(lambda client, count: client.pipelined(POST, count // 20, 5)),
    "chunked uploads": Scenario(lambda client, count: client.pipelined(CHUNKED, count // 5, 20)),
    "100-continue": Scenario(
        lambda client, count: client.pipelined(CONTINUE, count // 10, 1, b"HTTP/1.1 200")
    ),
    "new connections": Scenario(lambda client, count: client.new_connections(get("/"), count // 20)),
    "disconnects": Scenario(lambda client, count: client.disconnects(get("/wait"), count // 20)),
    "disconnected uploads": Scenario(lambda client, count: client.disconnects(POST[:20000], count // 20)),
    "disconnected streams": Scenario(
        lambda client, count: client.disconnects(get("/stream") + get("/big"), count // 20)
    ),
    # What is understood, and done natively
    "custom methods": Scenario(lambda client, count: client.each_different(custom_method, count, 50)),
    "absolute-form": Scenario(lambda client, count: client.each_different(other_host, count, 50)),
    "underscores": Scenario(lambda client, count: client.each_different(underscores, count, 50)),
    "requests per connection": Scenario(
        lambda client, count: client.batches(get("/"), count // 2, 10), {"limit_keep_alive_requests": 10}
    ),
    # What is refused
    "400 line": Scenario(lambda client, count: client.refusals(400, count // 20, *BAD_LINES), serves=False),
    "400 head": Scenario(lambda client, count: client.refusals(400, count // 20, *BAD_HEADS), serves=False),
    "400 body": Scenario(lambda client, count: client.refusals(400, count // 20, *BAD_BODIES), serves=False),
    "400 body later": Scenario(lambda client, count: client.refusals(400, count // 20, *BAD_LATER)),
    "400 underscore": Scenario(
        lambda client, count: client.refusals(400, count // 20, head(b"X_A: 1")),
        {"underscore_headers": "reject"},
        serves=False,
    ),
    "408 head": Scenario(
        lambda client, count: client.refusals(408, count // 20, *SLOW_HEADS, at_once=50),
        {"head_ms": 10},
        serves=False,
    ),
    "408 body": Scenario(
        lambda client, count: client.refusals(408, count // 20, *SLOW_BODIES, at_once=50),
        {"body_window_ms": 10, "body_min_rate": 1000},
    ),
    "413 length": Scenario(
        lambda client, count: client.refusals(413, count // 20, post(b"Content-Length: 1001") + b"x" * 1001),
        LIMITS,
        serves=False,
    ),
    "413 chunked": Scenario(
        lambda client, count: client.refusals(413, count // 20, CHUNKS + BIG_CHUNK * 2), LIMITS, serves=False
    ),
    "413 chunked later": Scenario(
        lambda client, count: client.refusals(413, count // 20, CHUNKS + PAUSE + BIG_CHUNK * 2), LIMITS
    ),
    "414": Scenario(
        lambda client, count: client.refusals(414, count // 20, get("/" + "x" * 200)), LIMITS, serves=False
    ),
    "417": Scenario(
        lambda client, count: client.refusals(417, count // 20, post(b"Expect: more")), serves=False
    ),
    "431": Scenario(
        lambda client, count: client.refusals(431, count // 20, *BIG_HEADS), LIMITS, serves=False
    ),
    "501": Scenario(lambda client, count: client.refusals(501, count // 20, *UNKNOWN), serves=False),
    "503 connections": Scenario(lambda client, count: client.crowd(count // 20), {"limit_connections": 1}),
    "505": Scenario(
        lambda client, count: client.refusals(505, count // 20, head(line=b"GET / HTTP/2.0")), serves=False
    ),
    # What is cut
    "silent connections": Scenario(
        lambda client, count: client.closed_in_time(b"", count // 20, b"", 50),
        {"first_byte_ms": 10},
        serves=False,
    ),
    "idle connections": Scenario(
        lambda client, count: client.closed_in_time(get("/"), count // 20, b"HTTP/1.1 200 OK", 50),
        {"keep_alive_ms": 10},
    ),
    "slow bodies of begun responses": Scenario(
        lambda client, count: client.closed_in_time(SLOW_ECHO, count // 20, b"HTTP/1.1 200 OK", 50),
        {"body_window_ms": 10, "body_min_rate": 1000},
    ),
    "stalled readers": Scenario(
        lambda client, count: client.stalls(get("/flood"), count // 200, 25), {"write_stall_ms": 10}
    ),
}


def measure() -> dict[str, int]:
    gc.collect()
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * PAGE_BYTES
    return {"rss": resident, "fds": len(os.listdir("/proc/self/fd")), "objects": len(gc.get_objects())}


async def tick(factory: ProtocolFactory) -> None:
    while True:
        factory.tick()
        await asyncio.sleep(TICK_S)


async def left_by(
    app: Any, run: Callable[[Any, int], Any], count: int, *, client: Any = None, **settings: Any
) -> dict[str, int]:
    """What is there after ``run(client, count)`` and was not there after a quarter of it, which warms up.
    ``client``: is made with the server's address and its factory; ``settings``: the factory's.
    """
    loop = asyncio.get_running_loop()
    given: dict[str, Any] = {
        "loop": loop, "context": contextvars.copy_context(), "state": {"a": 1}, "access": lambda *args: None,
        "on_app_error": lambda *args: None, "on_reject": lambda *args: None,
    }  # fmt: skip
    factory = ProtocolFactory(app, **(given | settings))
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=1000)
    one = (client or Client)(server.sockets[0].getsockname(), factory)
    ticking = loop.create_task(tick(factory))

    async def settle() -> dict[str, int]:
        while factory.connections or factory.in_flight:
            await asyncio.sleep(0.001)
        return measure()

    await run(one, count // 4)
    before = await settle()
    await run(one, count)
    after = await settle()
    ticking.cancel()
    server.close()
    factory.close()
    return {name: after[name] - before[name] for name in before} | {"served": factory.served}


async def main(scenario: Scenario, requests: int) -> dict[str, int]:
    return await left_by(app, scenario.run, requests, **scenario.settings)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(SCENARIOS[sys.argv[1]], int(sys.argv[2])))))
