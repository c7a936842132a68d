"""HTTP/1.1 clients of tests/budget/server.py: they ask the same again and again."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from tests.budget.counting import Serve
from tests.native.drive import turns


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: budget\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n".encode()


def by_hand(connection: Any, transport: Any, path: str) -> Serve:
    """The requests of a connection that has no socket of a client (tests/native/drive.py)."""
    data = request(path)

    async def serve(count: int) -> None:
        for _ in range(count):
            connection.data_received(data)
            if path != "/":
                await turns(4)
            transport.theirs.recv(4096)

    return serve


async def ask(sock: socket.socket, data: bytes, count: int) -> None:
    """So many requests, one after the other, on a connection of the running loop."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.sock_sendall(sock, data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await loop.sock_recv(sock, 4096)


def ask_and_wait(sock: socket.socket, data: bytes, count: int) -> None:
    """The same on a connection that blocks, from outside the server's process."""
    for _ in range(count):
        sock.sendall(data)
        answer = b""
        while not answer.endswith(b"Hello, world!"):
            answer += sock.recv(4096)
