"""What a stream costs in frames, tasks, blocks and system calls: counts, no clocks (hot-path.md).

Rules of this file: ``batch`` streams are asked for in one write of the client; there is one read and one
write of the server for all of them. Clients repeat their field blocks from the HPACK table, as real ones do.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.budget.counting import (
    C_CALLS,
    WARM_UP,
    Records,
    as_shipped,
    blocks_left,
    connect,
    connect_to,
    frames,
    frames_of_ours,
    has_blocks,
    resident_bytes_each,
    tasks_made,
)
from tests.budget.h2_server import app, make_factory
from tests.budget.system_calls import FEW, MANY, assert_one_read_and_one_write, calls_each, has_strace
from tests.helpers.nghttp2 import needs_nghttp2
from tests.native.drive import Driver, turns
from tests.native.h2_drive import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    Said,
    data,
    frame,
    open_wide,
    window,
)
from tests.native.isolated import survives

pytestmark = needs_nghttp2

BATCHES = pytest.mark.parametrize("batch", [1, 16])
KINDS = ["/", "/later", "upload"]
kinds = pytest.mark.parametrize("kind", KINDS)
LAST_STREAM = (1 << 31) - 1
DRIVEN = {"http2_cleartext": True}


def literal(index: int, value: bytes) -> bytes:
    """A field with an indexed name that is added to the table (RFC 7541 §6.2.1)."""
    assert index < 63
    return bytes([0x40 | index, len(value)]) + value


def first_block(kind: str) -> bytes:
    """All of it goes into the dynamic table: the last one is entry 62, the first 65 or 66."""
    path = b"/" if kind == "upload" else kind.encode()
    method = b"\x83" if kind == "upload" else b"\x82"
    fields = [
        literal(1, b"budget"),
        literal(4, path),
        literal(58, b"test/1.0 (with a name of some length)"),
        literal(19, b"*/*"),
    ]
    return method + b"\x86" + b"".join(fields)


def next_block(kind: str) -> bytes:
    """The same out of the table (RFC 7541 §6.1): indexes only."""
    return (b"\x83" if kind == "upload" else b"\x82") + b"\x86\xc1\xc0\xbf\xbe"


def one_stream(number: int, kind: str, block: bytes) -> bytes:
    if kind == "upload":
        return frame(HEADERS, END_HEADERS, number, block) + data(number, b"u" * 500, end=True)
    return frame(HEADERS, END_HEADERS | END_STREAM, number, block)


class Speaker:
    """Makes the reads of one connection, and counts the streams that the answers end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.numbers: Iterator[int] = iter(range(3, LAST_STREAM, 2))
        self.rest = b""

    def first(self) -> bytes:
        return open_wide() + one_stream(1, self.kind, first_block(self.kind))

    def batch(self, size: int) -> bytes:
        block = next_block(self.kind)
        return b"".join(one_stream(number, self.kind, block) for number in islice(self.numbers, size))

    def ended(self, output: bytes) -> int:
        output = self.rest + output
        whole = whole_frames(output)
        self.rest = output[whole:]
        return ends(output[:whole])


def whole_frames(output: bytes) -> int:
    at = 0
    while len(output) - at >= 9 and len(output) - at >= 9 + int.from_bytes(output[at : at + 3], "big"):
        at += 9 + int.from_bytes(output[at : at + 3], "big")
    return at


def ends(output: bytes) -> int:
    """How many streams whole frames end."""
    count = at = 0
    while at < len(output):
        if output[at + 3] in (DATA, HEADERS):
            count += output[at + 4] & END_STREAM
        at += 9 + int.from_bytes(output[at : at + 3], "big")
    assert at == len(output), "half a frame"
    return count


async def opened(kind: str) -> tuple[Any, Records, Speaker]:
    driver = Driver(app, **DRIVEN)
    transport = Records()
    connection, _ = driver.connect(transport)
    speaker = Speaker(kind)
    connection.data_received(speaker.first())
    await turns(4)
    said = Said()
    said.allow(open_wide())
    for one in transport.pieces():
        said.feed(one)
    assert said.answers[1].status == 200
    assert said.answers[1].body == b"Hello, world!"
    return connection, transport, speaker


async def counts(kind: str, batch: int) -> dict[str, float]:
    """Python frames of ours, steps of the app, its C calls, and sends, for each stream."""
    reads = 100
    connection, transport, speaker = await opened(kind)

    async def serve(reads: int) -> int:
        sends = 0
        for _ in range(reads):
            connection.data_received(speaker.batch(batch))
            if kind == "/later":
                await turns(4)
            records = transport.pieces()
            assert ends(b"".join(records)) == batch
            sends += len(records)
        return sends

    await serve(WARM_UP)
    with frames(app=app) as found:
        sends = await serve(reads)
    return {name: found[name] / reads / batch for name in ("ours", "app", "c")} | {"sends": sends / reads}


@BATCHES
@kinds
def test_no_frame_of_ours_and_one_send_a_batch(kind: str, batch: int) -> None:
    found = survives(counts, kind, batch)
    assert found["ours"] == 0
    assert found["app"] == (2 if kind == "/later" else 1)
    assert found["c"] <= C_CALLS
    assert found["sends"] == 1


async def exchange(sock: socket.socket, speaker: Speaker, batch: int, times: int) -> None:
    """On a connection of the running loop."""
    loop = asyncio.get_running_loop()
    for _ in range(times):
        await loop.sock_sendall(sock, speaker.batch(batch))
        count = 0
        while count < batch:
            count += speaker.ended(await loop.sock_recv(sock, 65536))


async def shake(sock: socket.socket, kind: str) -> Speaker:
    loop, speaker = asyncio.get_running_loop(), Speaker(kind)
    await loop.sock_sendall(sock, speaker.first())
    output = b""
    while ends(output[: whole_frames(output)]) == 0:
        output += await loop.sock_recv(sock, 65536)
    assert output[3] == SETTINGS
    return speaker


async def frames_on_uvloop(kind: str, batch: int) -> int:
    """The same through a real socket: everything that is called, but the client's own code."""
    with await connect_to(make_factory) as sock:
        speaker = await shake(sock, kind)
        return await frames_of_ours(lambda times: exchange(sock, speaker, batch, times), 100)


@BATCHES
@kinds
def test_no_frame_of_ours_on_uvloop(kind: str, batch: int) -> None:
    assert survives(frames_on_uvloop, kind, batch, uvloop=True) == 0


async def tasks(kind: str, batch: int) -> int:
    with await connect_to(make_factory) as sock:
        speaker = await shake(sock, kind)
        return await tasks_made(lambda times: exchange(sock, speaker, batch, times), 200)


@pytest.mark.parametrize("uvloop", [True, False])
@BATCHES
@kinds
def test_no_task_is_made(kind: str, batch: int, uvloop: bool) -> None:
    assert survives(tasks, kind, batch, uvloop=uvloop) == 0


async def blocks(kind: str, batch: int) -> int:
    """What 1600 streams leave behind."""
    connection, transport, speaker = await opened(kind)

    async def serve(streams: int) -> None:
        for _ in range(streams // batch):
            connection.data_received(speaker.batch(batch))
            if kind == "/later":
                await turns(4)
            transport.theirs.recv(1 << 20)
            connection.data_received(window(0, 13 * batch))

    return await blocks_left(serve, 1600)


@has_blocks
@BATCHES
@kinds
def test_no_block_outlives_its_stream(kind: str, batch: int) -> None:
    assert abs(survives(blocks, kind, batch)) < 20  # of 1600 streams


async def blocks_at_once(streams: int) -> float:
    """What each of so many streams holds while its app waits."""
    gate = asyncio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await app(scope, receive, send)

    driver = Driver(waiting, **DRIVEN)
    connection, transport = driver.connect()
    speaker = Speaker("/")
    connection.data_received(speaker.first())
    for _ in range(3):  # what is kept for reuse is kept
        connection.data_received(speaker.batch(streams))
        gate.set()
        await turns(6)
        gate.clear()
        transport.read()
    gc.collect()
    gc.disable()
    before = sys.getallocatedblocks()
    connection.data_received(speaker.batch(streams))
    await turns(2)
    found = sys.getallocatedblocks() - before
    gate.set()
    await turns(6)
    connection.connection_lost(None)
    return found / streams


BLOCKS = 60
"""Scope, fields, the app's coroutine and frame, its context, the future it waits for: some 40; the rest is
room for what else a Python version makes."""


@has_blocks
def test_the_blocks_of_a_stream_are_bounded() -> None:
    assert survives(blocks_at_once, 100) < BLOCKS


async def idle_memory() -> float:
    """Of a connection that has had one answer and has no stream."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0, backlog=4096)
    address = server.sockets[0].getsockname()

    async def open_one() -> socket.socket:
        sock = await connect(address)
        await shake(sock, "/")
        return sock

    return await resident_bytes_each(open_one, 500)


@as_shipped
def test_memory_of_an_idle_connection() -> None:
    """Two HPACK tables of 4 KiB and nghttp2's session are the most of it; the client's end counts, too."""
    assert survives(idle_memory, uvloop=True) < 64 << 10


# System calls, counted by strace


@has_strace
@as_shipped
@pytest.mark.parametrize(("kind", "batch"), [("/", 1), ("/", 16), ("/later", 16), ("upload", 16)])
def test_one_read_and_one_write_a_batch(tmp_path: Path, kind: str, batch: int) -> None:
    def use(sock: socket.socket, times: int) -> None:
        speaker = Speaker(kind)

        def until_ended(count: int) -> None:
            while count > 0:
                count -= speaker.ended(sock.recv(65536))

        sock.sendall(speaker.first())
        until_ended(1)
        for _ in range(times):
            sock.sendall(speaker.batch(batch))
            until_ended(batch)

    each = calls_each(tmp_path, ["tests.budget.h2_server"], use, FEW // batch, MANY // batch)
    assert_one_read_and_one_write(each, polls=2.1 if kind == "/later" else 1.1, others=0.05)
