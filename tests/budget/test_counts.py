"""What a keep-alive request costs in frames, tasks, blocks and memory: counts, no clocks (hot-path.md)."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvloop

from tests.budget.asking import ask, by_hand, request
from tests.budget.counting import (
    C_CALLS,
    WARM_UP,
    as_shipped,
    blocks_left,
    connect,
    connect_to,
    frames,
    frames_of_ours,
    has_blocks,
    next_task_number,
    resident_bytes_each,
    tasks_made,
)
from tests.budget.server import app, make_factory
from tests.native.drive import Driver, turns
from tests.native.isolated import survives

PATHS = pytest.mark.parametrize("path", ["/", "/later"])


async def frames_without_a_socket(path: str) -> dict[str, float]:
    count = 200
    serve = by_hand(*Driver(app).connect(), path)
    await serve(WARM_UP)
    with frames(app=app) as found:
        await serve(count)
    return {name: found[name] / count for name in ("ours", "app", "c")}


@PATHS
def test_no_python_frame_of_ours(path: str) -> None:
    per_request = survives(frames_without_a_socket, path)
    assert per_request["ours"] == 0
    assert per_request["app"] == (1 if path == "/" else 2)
    assert per_request["c"] <= C_CALLS


async def frames_on_uvloop(path: str) -> int:
    """The same through a real socket: everything that is called, but the client's own code."""
    with await connect_to(make_factory) as sock:
        return await frames_of_ours(lambda count: ask(sock, request(path), count), 200)


@PATHS
def test_no_python_frame_of_ours_on_uvloop(path: str) -> None:
    assert survives(frames_on_uvloop, path, uvloop=True) == 0


async def tasks(path: str) -> int:
    with await connect_to(make_factory) as sock:
        return await tasks_made(lambda count: ask(sock, request(path), count), 500)


@pytest.mark.parametrize("uvloop", [True, False])
@PATHS
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
    return await blocks_left(by_hand(*Driver(app).connect(), path), 1000)


@has_blocks
@PATHS
def test_no_block_outlives_its_request(path: str) -> None:
    assert abs(survives(blocks, path)) < 20  # of 1000 requests


async def idle_memory(ours: bool) -> float:
    """Of a connection that has had one answer and waits for the next request."""
    loop = asyncio.get_running_loop()

    class Trivial(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    factory = make_factory(loop) if ours else Trivial
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=4096)
    address = server.sockets[0].getsockname()

    async def open_one() -> socket.socket:
        sock = await connect(address)
        await ask(sock, request("/"), 1)
        return sock

    return await resident_bytes_each(open_one, 1000)


@as_shipped
def test_memory_of_an_idle_connection() -> None:
    ours = survives(idle_memory, True, uvloop=True)
    trivial = survives(idle_memory, False, uvloop=True)
    assert ours - trivial <= 4096, (ours, trivial)


def test_uvloop_is_what_we_count_on() -> None:
    assert uvloop.__version__
