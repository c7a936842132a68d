"""What an echoed WebSocket message costs in frames, tasks, blocks and system calls: counts, no clocks.

Rules of this file: ``depth`` messages come in one read; each count is per message. The budgets are exact:
a message that takes the lane costs no Python frame of ours, and a read costs one send, however many messages
it brought. What is counted is the steady state: the first messages of a connection are not.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.budget.counting import (
    WARM_UP,
    Records,
    as_shipped,
    blocks_left,
    connect,
    connect_to,
    frames,
    frames_of_ours,
    has_blocks,
    next_task_number,
)
from tests.budget.system_calls import FEW, MANY, assert_one_read_and_one_write, calls_each, has_strace
from tests.budget.ws_server import echo, make_factory
from tests.helpers.ws import BINARY, TEXT, frame, handshake
from tests.native.drive import Driver, turns
from tests.native.isolated import survives

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


async def opened(*fields: bytes) -> tuple[Driver, Any, Records]:
    """A WebSocket of the echo app, agreed on."""
    driver = Driver(echo)
    transport = Records()
    connection, _ = driver.connect(transport)
    connection.data_received(handshake("/", *fields))
    await turns(4)
    [head] = transport.pieces()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert (b"permessage-deflate" in head) == bool(fields)
    return driver, connection, transport


async def counts(kind: str, depth: int, *fields: str) -> dict[str, float]:
    """Python frames of ours, steps of the app, and sends."""
    reads, sends = 100, 0
    _, connection, transport = await opened(*[field.encode() for field in fields])
    data, expected = frame(*MESSAGES[kind]) * depth, back(*MESSAGES[kind]) * depth

    async def serve(reads: int) -> int:
        sends = 0
        for _ in range(reads):
            connection.data_received(data)
            await turns(3)
            found = transport.pieces()
            assert b"".join(found) == expected
            sends += len(found)
        return sends

    await serve(WARM_UP)
    with frames(steps=echo) as found:
        sends = await serve(reads)
    events = {"ours": found["ours"], "steps": found["steps"], "sends": sends}
    return {name: number / reads / depth for name, number in events.items()}


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


async def frames_on_uvloop(depth: int) -> int:
    """The same through a real socket: everything that is called, but the client's own code."""
    with await connect_to(make_factory) as sock:
        await shake(sock)
        return await frames_of_ours(lambda times: exchange(sock, depth, times), 200)


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

    return await blocks_left(serve, 2000)


@has_blocks
@DEPTHS
@KINDS
def test_no_block_outlives_its_message(kind: str, depth: int) -> None:
    assert abs(survives(blocks, kind, depth)) < 20  # of 2000 messages


# System calls, counted by strace


@has_strace
@as_shipped
@DEPTHS
def test_two_system_calls_a_read(tmp_path: Path, depth: int) -> None:
    data, expected = frame(*MESSAGES["binary"]) * depth, back(*MESSAGES["binary"]) * depth

    def use(sock: socket.socket, times: int) -> None:
        sock.sendall(handshake())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += sock.recv(4096)
        for _ in range(times):
            sock.sendall(data)
            answer = b""
            while len(answer) < len(expected):
                answer += sock.recv(65536)
            assert answer == expected

    each = calls_each(tmp_path, ["tests.budget.ws_server"], use, FEW // depth, MANY // depth)
    assert_one_read_and_one_write(each, polls=1.1, others=0.05)
