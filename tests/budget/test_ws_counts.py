"""What an echoed WebSocket message costs in frames, tasks, blocks and system calls: counts, no clocks.

Rules of this file: ``depth`` messages come in one read; each count is per message. The budgets are exact:
a message that takes the lane costs no Python frame of ours, and a read costs one send, however many messages
it brought. What is counted is the steady state: the first messages of a connection are not.
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
from pathlib import Path
from typing import Any

import pytest

import shardserve
from tests.budget.test_counts import connect, next_task_number
from tests.budget.test_syscalls import POLLS, READS, WRITES
from tests.budget.ws_server import echo, make_factory
from tests.helpers.ws import BINARY, TEXT, frame, handshake
from tests.native.drive import Driver, FakeTransport, turns
from tests.native.isolated import survives

PACKAGE = str(Path(shardserve.__file__).parent)
ROOT = Path(__file__).resolve().parents[2]
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
DEPTHS = pytest.mark.parametrize("depth", [1, 16])

MESSAGES = {
    "empty": (TEXT, b""),
    "text": (TEXT, b"x" * 64),
    "not ASCII": (TEXT, "ü→😀".encode() * 7),
    "binary": (BINARY, bytes(range(64))),
    "126": (BINARY, bytes(126)),
    "2 KiB": (BINARY, bytes(2048)),
}
"""Small enough that sixteen of them wait in the queue."""
KINDS = pytest.mark.parametrize("kind", MESSAGES)


def back(opcode: int, payload: bytes) -> bytes:
    """What comes back: the same frame, not masked."""
    return frame(opcode, payload, mask=None)


class Records(FakeTransport):
    """Each send of the server is one record for the client, so that they can be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.shut()
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.ours, self.theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            end.setblocking(False)
        self.extra["socket"] = self.ours

    def records(self) -> list[bytes]:
        found = []
        try:
            while data := self.theirs.recv(1 << 20):
                found.append(data)
        except BlockingIOError:
            pass
        return found


async def opened(*fields: bytes) -> tuple[Driver, Any, Records]:
    """A WebSocket of the echo app, agreed on."""
    driver = Driver(echo)
    transport = Records()
    connection, _ = driver.connect(transport)
    connection.data_received(handshake("/", *fields))
    await turns(4)
    [head] = transport.records()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert (b"permessage-deflate" in head) == bool(fields)
    return driver, connection, transport


async def counts(kind: str, depth: int, *fields: str) -> dict[str, float]:
    """Python frames of ours, steps of the app, and sends."""
    reads, events, sends = 100, {"ours": 0, "steps": 0}, 0
    _, connection, transport = await opened(*[field.encode() for field in fields])
    data, expected = frame(*MESSAGES[kind]) * depth, back(*MESSAGES[kind]) * depth

    def profile(seen: Any, event: str, argument: Any) -> None:
        if event == "call":
            events["ours"] += seen.f_code.co_filename.startswith(PACKAGE)
            events["steps"] += seen.f_code is echo.__code__

    for number in range(reads + 20):
        if number == 20:
            sys.setprofile(profile)
            sends = 0
        connection.data_received(data)
        await turns(3)
        found = transport.records()
        assert b"".join(found) == expected
        sends += len(found)
    sys.setprofile(None)
    per_message = {name: number / reads / depth for name, number in events.items()}
    return per_message | {"sends": sends / reads / depth}


@DEPTHS
@KINDS
def test_no_frame_of_ours_one_step_and_one_send_a_read(kind: str, depth: int) -> None:
    found = survives(counts, kind, depth)
    assert found == {"ours": 0, "steps": 1 / depth, "sends": 1 / depth}


@DEPTHS
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_nor_where_compression_was_agreed_and_a_message_is_small(kind: str, depth: int) -> None:
    found = survives(counts, kind, depth, DEFLATE.decode())
    assert found == {"ours": 0, "steps": 1 / depth, "sends": 1 / depth}


async def frames_on_uvloop(depth: int) -> float:
    """The same through a real socket: everything that is called, but the client's own code."""
    loop, ours = asyncio.get_running_loop(), 0
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    sock = await connect(server.sockets[0].getsockname())
    await shake(sock)
    await exchange(sock, depth, 20)

    def profile(seen: Any, event: str, argument: Any) -> None:
        nonlocal ours
        ours += event == "call" and seen.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(profile)
    await exchange(sock, depth, 200)
    sys.setprofile(None)
    sock.close()
    return ours / 200


async def shake(sock: socket.socket) -> None:
    loop, answer = asyncio.get_running_loop(), b""
    await loop.sock_sendall(sock, handshake())
    while b"\r\n\r\n" not in answer:
        answer += await loop.sock_recv(sock, 4096)


async def exchange(sock: socket.socket, depth: int, times: int) -> None:
    loop = asyncio.get_running_loop()
    data, expected = frame(*MESSAGES["text"]) * depth, back(*MESSAGES["text"]) * depth
    for _ in range(times):
        await loop.sock_sendall(sock, data)
        answer = b""
        while len(answer) < len(expected):
            answer += await loop.sock_recv(sock, 65536)
        assert answer == expected


@DEPTHS
def test_no_frame_of_ours_on_uvloop(depth: int) -> None:
    assert survives(frames_on_uvloop, depth, uvloop=True) == 0


async def tasks(depth: int) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    socks = [await connect(address) for _ in range(6)]
    await shake(socks[0])
    await exchange(socks[0], depth, 20)  # asyncio accepts each in a task of its own: that is over
    socks[0].close()
    await turns(10)
    before = next_task_number()
    for sock in socks[1:]:  # the app of a WebSocket, too, runs in a spare task
        await shake(sock)
        await exchange(sock, depth, 100)
        sock.close()
        await turns(10)
    return next_task_number() - before - 1


@pytest.mark.parametrize("uvloop", [True, False])
@DEPTHS
def test_no_task_is_made(depth: int, uvloop: bool) -> None:
    assert survives(tasks, depth, uvloop=uvloop) == 0


async def blocks(kind: str, depth: int) -> int:
    """What 2000 messages leave behind."""
    _, connection, transport = await opened()
    data = frame(*MESSAGES[kind]) * depth

    async def serve(messages: int) -> None:
        for _ in range(messages // depth):
            connection.data_received(data)
            await turns(3)
            transport.theirs.recv(1 << 20)

    await serve(400)
    gc.collect()
    gc.disable()
    await serve(400)  # the collector has emptied the interpreter's free lists
    found = []
    for _ in range(3):  # the interpreter allocates some for itself, once in a while
        before = sys.getallocatedblocks()
        await serve(2000)
        found.append(sys.getallocatedblocks() - before)
    return min(found)


@pytest.mark.skipif(os.environ.get("PYTHONMALLOC") == "malloc", reason="blocks are pymalloc's")
@DEPTHS
@KINDS
def test_no_block_outlives_its_message(kind: str, depth: int) -> None:
    assert abs(survives(blocks, kind, depth)) < 20  # of 2000 messages, without the collector


# System calls, counted by strace

FEW = 512
MANY = int(os.environ.get("SHARDSERVE_BUDGET_REQUESTS", "4096")) // 16 * 16


def count_calls(tmp_path: Path, depth: int, messages: int) -> dict[str, int]:
    """The server's system calls over its whole life, in which it echoes so many messages."""
    counted = tmp_path / f"strace-{messages}"
    command = ["strace", "-f", "-c", "-o", str(counted), sys.executable, "-m", "tests.budget.ws_server"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    port = server.stdout.readline().strip()
    if not port:
        pytest.skip(f"strace cannot trace here: {server.stderr.read()[-300:]}")
    data, expected = frame(*MESSAGES["binary"]) * depth, back(*MESSAGES["binary"]) * depth
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        sock.sendall(handshake())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += sock.recv(4096)
        for _ in range(messages // depth):
            sock.sendall(data)
            answer = b""
            while len(answer) < len(expected):
                answer += sock.recv(65536)
            assert answer == expected
    server.stdin.close()
    server.wait(20)
    server.stdout.close()
    server.stderr.close()
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counted.read_text(), re.M)
    return {name: int(number) for number, name in rows if name != "total"}


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped")
@DEPTHS
def test_two_system_calls_a_read(tmp_path: Path, depth: int) -> None:
    few = count_calls(tmp_path, depth, FEW)
    many = count_calls(tmp_path, depth, FEW + MANY)
    per_read = {name: (many[name] - few.get(name, 0)) / (MANY / depth) for name in many}
    shown = {name: round(number, 3) for name, number in per_read.items() if abs(number) > 0.01}

    def total(names: set[str]) -> float:
        return sum(per_read.get(name, 0.0) for name in names)

    assert total(READS) == pytest.approx(1, abs=0.02), shown
    assert total(WRITES) == pytest.approx(1, abs=0.02), shown
    assert total(POLLS) < 1.1, shown
    rest = sum(number for name, number in per_read.items() if name not in READS | WRITES | POLLS)
    assert rest < 0.05, shown
