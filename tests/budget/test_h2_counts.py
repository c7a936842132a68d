"""What a stream costs in frames, tasks, blocks and system calls: counts, no clocks (hot-path.md).

Rules of this file: ``batch`` streams are asked for in one write of the client; there is one read and one
write of the server for all of them. Clients repeat their field blocks from the HPACK table, as real ones do.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import shardserve
from tests.budget.h2_server import app, make_factory
from tests.budget.test_counts import C_CALLS, connect, next_task_number
from tests.budget.test_syscalls import POLLS, READS, WRITES
from tests.budget.test_ws_counts import Records
from tests.native.drive import Driver, turns
from tests.native.h2_drive import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    Said,
    built,
    data,
    frame,
    open_wide,
    window,
)
from tests.native.isolated import survives

pytestmark = pytest.mark.skipif(not built, reason="built without nghttp2")

PACKAGE = str(Path(shardserve.__file__).parent)
ROOT = Path(__file__).resolve().parents[2]
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
    """Makes the reads of one connection."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.numbers: Iterator[int] = iter(range(3, LAST_STREAM, 2))

    def first(self) -> bytes:
        return open_wide() + one_stream(1, self.kind, first_block(self.kind))

    def batch(self, size: int) -> bytes:
        block = next_block(self.kind)
        return b"".join(one_stream(number, self.kind, block) for number in islice(self.numbers, size))


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
    for one in transport.records():
        said.feed(one)
    assert said.answers[1].status == 200
    assert said.answers[1].body == b"Hello, world!"
    return connection, transport, speaker


async def counts(kind: str, batch: int) -> dict[str, float]:
    """Python frames of ours, steps of the app, its C calls, and sends, for each stream."""
    reads, sends = 100, 0
    events = {"ours": 0, "app": 0, "c": 0}
    connection, transport, speaker = await opened(kind)

    def profile(seen: Any, event: str, argument: Any) -> None:
        if event == "call":
            events["ours"] += seen.f_code.co_filename.startswith(PACKAGE)
            events["app"] += seen.f_code is app.__code__
        elif event == "c_call" and seen.f_code is app.__code__:
            events["c"] += 1

    for number in range(reads + 20):
        if number == 20:
            sys.setprofile(profile)
            sends = 0
        connection.data_received(speaker.batch(batch))
        if kind == "/later":
            await turns(4)
        found = transport.records()
        assert ends(b"".join(found)) == batch
        sends += len(found)
    sys.setprofile(None)
    return {name: number / reads / batch for name, number in events.items()} | {"sends": sends / reads}


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
    loop, rest = asyncio.get_running_loop(), b""
    for _ in range(times):
        await loop.sock_sendall(sock, speaker.batch(batch))
        count = 0
        while count < batch:
            rest += await loop.sock_recv(sock, 65536)
            whole = whole_frames(rest)
            count += ends(rest[:whole])
            rest = rest[whole:]


def whole_frames(output: bytes) -> int:
    at = 0
    while len(output) - at >= 9 and len(output) - at >= 9 + int.from_bytes(output[at : at + 3], "big"):
        at += 9 + int.from_bytes(output[at : at + 3], "big")
    return at


async def shake(address: Any, kind: str) -> tuple[socket.socket, Speaker]:
    loop, speaker = asyncio.get_running_loop(), Speaker(kind)
    sock = await connect(address)
    await loop.sock_sendall(sock, speaker.first())
    output = b""
    while ends(output[: whole_frames(output)]) == 0:
        output += await loop.sock_recv(sock, 65536)
    assert output[3] == SETTINGS
    return sock, speaker


async def frames_on_uvloop(kind: str, batch: int) -> float:
    """The same through a real socket: everything that is called, but the client's own code."""
    loop, ours = asyncio.get_running_loop(), 0
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    sock, speaker = await shake(server.sockets[0].getsockname(), kind)
    await exchange(sock, speaker, batch, 20)

    def profile(seen: Any, event: str, argument: Any) -> None:
        nonlocal ours
        ours += event == "call" and seen.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(profile)
    await exchange(sock, speaker, batch, 100)
    sys.setprofile(None)
    sock.close()
    return ours


@BATCHES
@kinds
def test_no_frame_of_ours_on_uvloop(kind: str, batch: int) -> None:
    assert survives(frames_on_uvloop, kind, batch, uvloop=True) == 0


async def tasks(kind: str, batch: int) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    sock, speaker = await shake(server.sockets[0].getsockname(), kind)
    await exchange(sock, speaker, batch, 20)
    before = next_task_number()
    await exchange(sock, speaker, batch, 200)
    made = next_task_number() - before - 1
    sock.close()
    return made


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

    await serve(320)
    gc.collect()
    gc.disable()
    await serve(320)  # the collector has emptied the interpreter's free lists
    found = []
    for _ in range(3):  # the interpreter allocates some for itself, once in a while
        before = sys.getallocatedblocks()
        await serve(1600)
        found.append(sys.getallocatedblocks() - before)
    return min(found)


@pytest.mark.skipif(os.environ.get("PYTHONMALLOC") == "malloc", reason="blocks are pymalloc's")
@BATCHES
@kinds
def test_no_block_outlives_its_stream(kind: str, batch: int) -> None:
    assert abs(survives(blocks, kind, batch)) < 20  # of 1600 streams, without the collector


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


@pytest.mark.skipif(os.environ.get("PYTHONMALLOC") == "malloc", reason="blocks are pymalloc's")
def test_the_blocks_of_a_stream_are_bounded() -> None:
    assert survives(blocks_at_once, 100) < BLOCKS


async def idle_memory() -> float:
    """Resident bytes per connection that has had one answer and has no stream."""
    loop, count = asyncio.get_running_loop(), 500
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0, backlog=4096)
    address, held = server.sockets[0].getsockname(), []

    async def open_some(number: int) -> None:
        for _ in range(number):
            held.append(await shake(address, "/"))

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    await open_some(100)
    before = resident()
    await open_some(count)
    after = resident()
    for sock, _ in held:
        sock.close()
    return (after - before) / count


@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped")
def test_memory_of_an_idle_connection() -> None:
    """Two HPACK tables of 4 KiB and nghttp2's session are the most of it; the client's end counts, too."""
    assert survives(idle_memory, uvloop=True) < 64 << 10


# System calls, counted by strace

FEW = 512
MANY = int(os.environ.get("SHARDSERVE_BUDGET_REQUESTS", "4096")) // 16 * 16


def count_calls(tmp_path: Path, kind: str, batch: int, streams: int) -> dict[str, int]:
    """The server's system calls over its whole life, in which it answers so many streams."""
    counted = tmp_path / f"strace-{streams}"
    command = ["strace", "-f", "-c", "-o", str(counted), sys.executable, "-m", "tests.budget.h2_server"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    port = server.stdout.readline().strip()
    if not port:
        pytest.skip(f"strace cannot trace here: {server.stderr.read()[-300:]}")
    speaker = Speaker(kind)
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        rest = b""

        def until_ended(count: int) -> None:
            nonlocal rest
            while count > 0:
                rest += sock.recv(65536)
                whole = whole_frames(rest)
                count -= ends(rest[:whole])
                rest = rest[whole:]

        sock.sendall(speaker.first())
        until_ended(1)
        for _ in range(streams // batch):
            sock.sendall(speaker.batch(batch))
            until_ended(batch)
    server.stdin.close()
    server.wait(20)
    server.stdout.close()
    server.stderr.close()
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counted.read_text(), re.M)
    return {name: int(number) for number, name in rows if name != "total"}


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped")
@pytest.mark.parametrize(("kind", "batch"), [("/", 1), ("/", 16), ("/later", 16), ("upload", 16)])
def test_one_read_and_one_write_a_batch(tmp_path: Path, kind: str, batch: int) -> None:
    few = count_calls(tmp_path, kind, batch, FEW)
    many = count_calls(tmp_path, kind, batch, FEW + MANY)
    per_batch = {name: (many[name] - few.get(name, 0)) / (MANY / batch) for name in many}
    shown = {name: round(number, 3) for name, number in per_batch.items() if abs(number) > 0.01}

    def total(names: set[str]) -> float:
        return sum(per_batch.get(name, 0.0) for name in names)

    assert total(READS) == pytest.approx(1, abs=0.02), shown
    assert total(WRITES) == pytest.approx(1, abs=0.02), shown
    assert total(POLLS) < (2.1 if kind == "/later" else 1.1), shown
    rest = sum(number for name, number in per_batch.items() if name not in READS | WRITES | POLLS)
    assert rest < 0.05, shown
