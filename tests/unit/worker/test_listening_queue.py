"""What waits in the accept queue when the server stops is accepted, not reset."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from shardserve.worker import listening as module
from shardserve.worker.listening import Listening


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


class Short(socket.socket):
    """A listening socket that has no descriptors to give, so many times."""

    times = 0

    def accept(self) -> Any:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def _scenario(
    clients: int, *, prepare: Callable[[Listening], None] = lambda listening: None, short: int = 0
) -> list[bytes]:
    listener = Short()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    listener.times = short
    address = listener.getsockname()
    listening = Listening(Greeter, backlog=64)
    await listening.accept_on(listener, slot=0)
    prepare(listening)
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
        except ConnectionError:
            return b"reset"


def _run(clients: int, **how: Any) -> list[bytes]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_scenario(clients, **how))


def test_queued_connections_are_accepted_at_a_stop() -> None:
    assert _run(20) == [b"hello"] * 20


def test_also_in_a_pause() -> None:
    assert _run(20, prepare=Listening.pause) == [b"hello"] * 20


def test_also_when_we_accept_ourselves() -> None:
    assert _run(20, prepare=lambda listening: listening.resume(careful=True)) == [b"hello"] * 20


def test_it_waits_for_descriptors_that_others_give_back() -> None:
    assert _run(5, prepare=Listening.pause, short=3) == [b"hello"] * 5


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_LAST_CALL_S", 0.05)
    assert _run(2, prepare=Listening.pause, short=1_000_000) == [b"reset"] * 2
    assert "Connections that wait to be accepted are reset by this stop: [Errno 24]" in caplog.text
