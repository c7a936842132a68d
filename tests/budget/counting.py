"""Counters of what the server costs: Python frames, sends, tasks, memory blocks, resident bytes.

Rules of this file: no clock is read, and what is counted is the steady state: each counter lets WARM_UP or
more pass first, in which connections open, free lists fill and pages are touched.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shardserve
from tests.budget.serving import MakeFactory
from tests.native.drive import FakeTransport

PACKAGE = str(Path(shardserve.__file__).parent)
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
C_CALLS = 4
"""Calls of C functions that the interpreter itself makes for one request: the app's own, in its frames."""
WARM_UP = 20

as_shipped = pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped")
has_blocks = pytest.mark.skipif(os.environ.get("PYTHONMALLOC") == "malloc", reason="blocks are pymalloc's")

Serve = Callable[[int], Awaitable[None]]
"""Has so many of what is counted (requests, reads, messages) served."""


@contextmanager
def frames(**functions: Any) -> Iterator[Counter[str]]:
    """How many Python frames begin in the block: "ours", and those of some functions, by the names given.

    "c" are the calls of C functions that those functions make.
    """
    found: Counter[str] = Counter()
    names = {function.__code__: name for name, function in functions.items()}

    def profile(frame: Any, event: str, argument: Any) -> None:
        name = names.get(frame.f_code)
        if event == "call":
            found["ours"] += frame.f_code.co_filename.startswith(PACKAGE)
            if name is not None:
                found[name] += 1
        elif event == "c_call" and name is not None:
            found["c"] += 1

    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)


async def frames_of_ours(serve: Serve, count: int) -> int:
    await serve(WARM_UP)
    with frames() as found:
        await serve(count)
    return found["ours"]


def next_task_number() -> int:
    """asyncio numbers its tasks as it makes them."""

    async def nothing() -> None:
        pass

    task = asyncio.get_running_loop().create_task(nothing())
    return int(task.get_name().removeprefix("Task-"))


async def tasks_made(serve: Serve, count: int) -> int:
    await serve(WARM_UP)
    before = next_task_number()
    await serve(count)
    return next_task_number() - before - 1


async def blocks_left(serve: Serve, count: int) -> int:
    """What so many leave behind, without the collector."""
    await serve(count // 5)
    gc.collect()
    gc.disable()
    await serve(count // 5)  # the collector has emptied the interpreter's free lists
    found = []
    for _ in range(3):  # the interpreter allocates some for itself, once in a while
        before = sys.getallocatedblocks()
        await serve(count)
        found.append(sys.getallocatedblocks() - before)
    return min(found)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def resident_bytes_each(open_one: Callable[[], Awaitable[socket.socket]], count: int) -> float:
    """By how much each of so many open connections makes this process larger, the client's end included."""
    held = [await open_one() for _ in range(count // 5)]
    before = _resident()
    held += [await open_one() for _ in range(count)]
    after = _resident()
    for sock in held:
        sock.close()
    return (after - before) / count


async def connect(address: Any) -> socket.socket:
    """A connection for sock_sendall() and sock_recv() of the running loop."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    return sock


async def connect_to(make_factory: MakeFactory) -> socket.socket:
    """A connection to a server of its own on the running loop."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    return await connect(server.sockets[0].getsockname())


class Records(FakeTransport):
    """Each send of the server is one record for the client, of its ``pieces()``: they can be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.shut()
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.ours, self.theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            end.setblocking(False)
        self.extra["socket"] = self.ours
