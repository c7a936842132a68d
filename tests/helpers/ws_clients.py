"""The ``websockets`` package's clients against a real server, and Uvicorn beside it as an oracle.

Rules of this file: a client uses no proxy of this machine; nothing waits without a bound, and a wait that is
over is an error with words. What a connection ended with is an ``Ending``, whoever ended it.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame
from websockets.protocol import State
from websockets.sync.client import connect as sync_connect
from websockets.uri import parse_uri

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import APPS, ServerProcess, clean_environment

T = TypeVar("T")


class Ending(NamedTuple):
    """What the client saw at the end: 1006 if there was no close frame."""

    code: int
    reason: str


@dataclass
class Peer:
    """Where clients connect to, and the folder in which its app leaves notes."""

    port: int
    notes: Path

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def open(self, path: str = "/echo", **how: Any) -> connect:
        """``async with peer.open("/echo") as client:``"""
        defaults = {
            "proxy": None, "open_timeout": PATIENCE_S, "close_timeout": PATIENCE_S, "max_size": None,
            "ping_interval": None,
        }  # fmt: skip
        return connect(self.url(path), **(defaults | how))

    def open_sync(self, path: str = "/echo", **how: Any) -> Any:
        """``with peer.open_sync("/echo") as client:``"""
        defaults = {"proxy": None, "open_timeout": PATIENCE_S, "max_size": None, "ping_interval": None}
        return sync_connect(self.url(path), **(defaults | how))

    def noted(self, name: str) -> dict[str, Any]:
        """Wait for this note of the app."""
        path = self.notes / name
        until(path.exists, f"the note {name}")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def peer_of(server: ServerProcess, notes: Path) -> Peer:
    return Peer(server.port, notes)


async def soon(awaitable: Any) -> Any:
    """The result, or an error when it takes longer than anything here should."""
    return await asyncio.wait_for(awaitable, PATIENCE_S)


async def eventually(probe: Callable[[], T], what: str) -> T:
    """``until`` for coroutines."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if answer := probe():
            return answer
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain: {what}"
        await asyncio.sleep(0.01)


async def ask(client: ClientConnection, message: Any) -> Any:
    await client.send(message)
    return await soon(client.recv())


async def rest(client: ClientConnection) -> list[Any]:
    """Every message until the end."""
    found = []
    try:
        while True:
            found.append(await soon(client.recv()))
    except ConnectionClosed:
        return found


async def ending(client: ClientConnection) -> Ending:
    """How it ends; what comes before is dropped."""
    await rest(client)
    await soon(client.wait_closed())
    return Ending(client.close_code or 1006, client.close_reason or "")


async def too_much(peer: Peer, path: str, message: Any, **how: Any) -> Ending:
    """How a connection ends that sends this. It may be told while it still sends."""
    client = await peer.open(path, **how)  # and no "async with": its close() stumbles over asyncio here
    with suppress(ConnectionClosed):
        await client.send(message)
    return await ending(client)


@contextmanager
def uvicorn(folder: Path, app: str, notes: Path, *flags: str) -> Iterator[Peer]:
    """A real Uvicorn with this app."""
    command = [sys.executable, "-m", "uvicorn", app, "--port", "0", "--app-dir", str(APPS), *flags]
    log = folder / "uvicorn.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=folder, env=clean_environment(NOTES=str(notes))
        )
    try:
        found = until(lambda: re.search(r"running on http://127.0.0.1:(\d+)", log.read_text()), "uvicorn")
        yield Peer(int(found[1]), notes)
        process.terminate()
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


class Mute:
    """A client that reads and says nothing: it answers neither a ping nor a close."""

    def __init__(self, peer: Peer, path: str) -> None:
        self._protocol = ClientProtocol(parse_uri(peer.url(path)), max_size=None)
        self._sock = socket.create_connection(("127.0.0.1", peer.port), timeout=PATIENCE_S)
        self._protocol.send_request(self._protocol.connect())
        self._sock.sendall(b"".join(self._protocol.data_to_send()))
        self.frames: list[Frame] = []
        while self._protocol.state is not State.OPEN:
            assert self.read(), "the connection ended in the handshake"

    def send(self, text: str) -> None:
        """One message, and nothing else that the library would like to send."""
        self._protocol.data_to_send()
        self._protocol.send_text(text.encode())
        self._sock.sendall(b"".join(self._protocol.data_to_send()))

    def read(self) -> bool:
        """Wait for something; whether there was something before the end."""
        return self._take(self._sock.recv(65536))

    def _take(self, data: bytes) -> bool:
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self.frames += [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        return bool(data)

    def ended(self) -> Ending:
        """Read until the server closes the connection."""
        while self.read():
            pass
        last = self._protocol.close_rcvd
        return Ending(last.code, last.reason) if last else Ending(1006, "")

    def open(self) -> bool:
        """Whether the server has not closed the connection, as far as one can see now."""
        self._sock.setblocking(False)
        try:
            while self._take(self._sock.recv(65536)):
                pass
            return False
        except BlockingIOError:
            return True
        finally:
            self._sock.settimeout(PATIENCE_S)

    def __enter__(self) -> Mute:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def unread_bytes(client_port: int) -> int:
    """How many bytes the server has not read from this client: the kernel's own count."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) == client_port:
            return int(fields[4].rpartition(":")[2], 16)
    raise AssertionError(f"no connection of port {client_port}")
