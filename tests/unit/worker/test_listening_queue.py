"""What waits in the accept queue when the server stops is accepted, not reset."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvloop

from shardserve.worker.listening import Listening


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


async def _scenario(clients: int) -> list[bytes]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    address = listener.getsockname()
    listening = Listening(Greeter, backlog=64)
    await listening.accept_on(listener, slot=0)
    # Connected, but the loop has not had a turn to accept them.
    waiting = [socket.create_connection(address) for _ in range(clients)]
    accepted = await listening.accept_queued()
    listening.close_all()
    assert accepted <= clients
    answers = []
    for sock in waiting:
        sock.setblocking(False)
        answers.append(await asyncio.wait_for(_read(sock), 5))
        sock.close()
    return answers


async def _read(sock: socket.socket) -> bytes:
    while True:
        try:
            return sock.recv(100)
        except BlockingIOError:
            await asyncio.sleep(0.01)


def test_queued_connections_are_accepted_at_a_stop() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(_scenario(20)) == [b"hello"] * 20
