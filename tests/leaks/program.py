"""One leak program: a server and its client in one process, and what is left after many requests.

    python -m tests.leaks.program SCENARIO REQUESTS

Prints JSON: growth of the resident memory in bytes, of the open file descriptors and of the objects that the
collector tracks, each between the end of a warm-up of a quarter of REQUESTS and the end. Requests are
pipelined, so that the client costs little.
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
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory

STATUS = b"HTTP/1.1 "
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


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

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.loop = asyncio.get_running_loop()

    async def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.address)
        return sock

    async def answers(self, sock: socket.socket, count: int, end: bytes = STATUS) -> None:
        """Reads until ``end`` came ``count`` times."""
        seen = 0
        tail = b""
        while seen < count:
            data = await self.loop.sock_recv(sock, 1 << 18)
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


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: leak\r\nUser-Agent: leak\r\nX-Odd-{len(path)}: 1\r\n\r\n".encode()


POST = b"POST /up HTTP/1.1\r\nHost: leak\r\nContent-Length: 40000\r\n\r\n" + b"u" * 40000
CHUNKED = (
    b"POST /up HTTP/1.1\r\nHost: leak\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"5\r\nhello\r\n" * 50
    + b"0\r\n\r\n"
)
CONTINUE = b"POST /up HTTP/1.1\r\nHost: leak\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"

Scenario = Callable[[Client, int], Awaitable[None]]

SCENARIOS: dict[str, Scenario] = {
    "plain": lambda client, count: client.pipelined(get("/"), count, 50),
    "suspend": lambda client, count: client.pipelined(get("/later"), count, 20),
    "tasks": lambda client, count: client.pipelined(get("/task"), count // 4, 20),
    "errors": lambda client, count: client.pipelined(get("/boom"), count // 2, 20),
    "late errors": lambda client, count: client.pipelined(get("/late-boom"), count // 2, 20),
    "bad headers": lambda client, count: client.pipelined(get("/bad"), count // 2, 20),
    "streaming": lambda client, count: client.pipelined(get("/stream"), count // 5, 10),
    "big answers": lambda client, count: client.pipelined(get("/big"), count // 100, 2, STATUS),
    "uploads": lambda client, count: client.pipelined(POST, count // 20, 5),
    "chunked uploads": lambda client, count: client.pipelined(CHUNKED, count // 5, 20),
    "100-continue": lambda client, count: client.pipelined(CONTINUE, count // 10, 1, b"HTTP/1.1 200"),
    "new connections": lambda client, count: client.new_connections(get("/"), count // 20),
    "rejects": lambda client, count: client.new_connections(b"nonsense\r\n\r\n", count // 20),
    "disconnects": lambda client, count: client.disconnects(get("/wait"), count // 20),
    "disconnected uploads": lambda client, count: client.disconnects(POST[:20000], count // 20),
    "disconnected streams": lambda client, count: client.disconnects(
        get("/stream") + get("/big"), count // 20
    ),
}


def measure() -> dict[str, int]:
    gc.collect()
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * PAGE_BYTES
    return {"rss": resident, "fds": len(os.listdir("/proc/self/fd")), "objects": len(gc.get_objects())}


async def main(scenario: Scenario, requests: int) -> dict[str, int]:
    loop = asyncio.get_running_loop()
    factory = ProtocolFactory(
        app,
        loop=loop,
        context=contextvars.copy_context(),
        state={"a": 1},
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
        access=lambda *args: None,
    )
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=1000)
    client = Client(server.sockets[0].getsockname())

    async def settle() -> dict[str, int]:
        while factory.connections or factory.in_flight:
            factory.tick()
            await asyncio.sleep(0.001)
        return measure()

    await scenario(client, requests // 4)
    before = await settle()
    await scenario(client, requests)
    after = await settle()
    server.close()
    factory.close()
    return {name: after[name] - before[name] for name in before} | {"served": factory.served}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(SCENARIOS[sys.argv[1]], int(sys.argv[2])))))
