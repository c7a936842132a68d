"""What a keep-alive request costs in frames, tasks, blocks and memory: counts, no clocks (hot-path.md)."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop

import shardserve
from tests.budget.server import make_factory
from tests.native.drive import Driver, turns
from tests.native.isolated import survives

PACKAGE = str(Path(shardserve.__file__).parent)
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
C_CALLS = 4
"""Calls of C functions that the interpreter itself makes for one request: the app's own, in its frames."""
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/later":
        await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"ok"})


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: budget\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n".encode()


async def ask(sock: socket.socket, data: bytes, count: int) -> None:
    """So many requests, one after the other, on a connection of the running loop."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.sock_sendall(sock, data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await loop.sock_recv(sock, 4096)


async def connect(address: Any) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    return sock


async def frames(path: str) -> dict[str, float]:
    count = 200
    events: dict[str, int] = {"ours": 0, "app": 0, "c": 0}
    driver = Driver(app)
    connection, _ = driver.connect()

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            events["ours"] += frame.f_code.co_filename.startswith(PACKAGE)
            events["app"] += frame.f_code is app.__code__
        elif event == "c_call" and frame.f_code is app.__code__:
            events["c"] += 1

    data = request(path)
    for number in range(count + 20):
        if number == 20:
            sys.setprofile(profile)
        connection.data_received(data)
        if path != "/":
            await turns(4)
    sys.setprofile(None)
    return {name: number / count for name, number in events.items()}


@pytest.mark.parametrize("path", ["/", "/later"])
def test_no_python_frame_of_ours(path: str) -> None:
    per_request = survives(frames, path)
    assert per_request["ours"] == 0
    assert per_request["app"] == (1 if path == "/" else 2)
    assert per_request["c"] <= C_CALLS


async def frames_on_uvloop(path: str) -> float:
    """The same through a real socket: everything that is called, but the client's own code."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    sock = await connect(server.sockets[0].getsockname())
    await ask(sock, request(path), 20)
    ours = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal ours
        ours += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(profile)
    await ask(sock, request(path), 200)
    sys.setprofile(None)
    sock.close()
    return ours / 200


@pytest.mark.parametrize("path", ["/", "/later"])
def test_no_python_frame_of_ours_on_uvloop(path: str) -> None:
    assert survives(frames_on_uvloop, path, uvloop=True) == 0


def next_task_number() -> int:
    """asyncio numbers its tasks as it makes them."""

    async def nothing() -> None:
        pass

    task = asyncio.get_running_loop().create_task(nothing())
    return int(task.get_name().removeprefix("Task-"))


async def tasks(path: str) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    sock = await connect(server.sockets[0].getsockname())
    await ask(sock, request(path), 20)
    before = next_task_number()
    await ask(sock, request(path), 500)
    made = next_task_number() - before - 1
    sock.close()
    return made


@pytest.mark.parametrize("uvloop", [True, False])
@pytest.mark.parametrize("path", ["/", "/later"])
def test_no_task_is_made(path: str, uvloop: bool) -> None:
    assert survives(tasks, path, uvloop=uvloop) == 0


async def tasks_at_once() -> int:
    """Twenty requests that wait at the same time, again and again."""
    gate = asyncio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await app(scope, receive, send)

    driver = Driver(waiting)
    connections = [driver.connect() for _ in range(20)]
    before = 0
    for number in range(30):
        if number == 5:
            before = next_task_number()
        gate.clear()
        for connection, transport in connections:
            transport.read()
            connection.data_received(request("/"))
        gate.set()
        await turns(6)
    return next_task_number() - before - 1


def test_no_task_is_made_for_many_at_once() -> None:
    assert survives(tasks_at_once) == 0


async def blocks(path: str) -> int:
    driver = Driver(app)
    connection, transport = driver.connect()
    data = request(path)

    async def serve(count: int) -> None:
        for _ in range(count):
            connection.data_received(data)
            if path != "/":
                await turns(4)
            transport.theirs.recv(4096)

    await serve(100)
    gc.collect()
    gc.disable()
    await serve(200)  # the collector has emptied the interpreter's free lists
    found = []
    for _ in range(3):  # the interpreter allocates some for itself, once in a while
        before = sys.getallocatedblocks()
        await serve(1000)
        found.append(sys.getallocatedblocks() - before)
    return min(found)


@pytest.mark.skipif(os.environ.get("PYTHONMALLOC") == "malloc", reason="blocks are pymalloc's")
@pytest.mark.parametrize("path", ["/", "/later"])
def test_no_block_outlives_its_request(path: str) -> None:
    assert abs(survives(blocks, path)) < 20  # of 1000 requests, without the collector


async def idle_memory(ours: bool) -> float:
    """Resident bytes per connection that has had one answer and waits for the next request."""
    count = 1000
    loop = asyncio.get_running_loop()

    class Trivial(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    factory = make_factory(loop) if ours else Trivial
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=4096)
    address = server.sockets[0].getsockname()
    held = []

    async def open_some(number: int) -> None:
        for _ in range(number):
            sock = await connect(address)
            await ask(sock, request("/"), 1)
            held.append(sock)

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES

    await open_some(200)
    before = resident()
    await open_some(count)
    after = resident()
    for sock in held:
        sock.close()
    return (after - before) / count


@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped")
def test_memory_of_an_idle_connection() -> None:
    ours = survives(idle_memory, True, uvloop=True)
    trivial = survives(idle_memory, False, uvloop=True)
    assert ours - trivial <= 4096, (ours, trivial)


def test_uvloop_is_what_we_count_on() -> None:
    assert uvloop.__version__
