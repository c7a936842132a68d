"""HTTP/2 clients on real sockets: fifty good ones, and those that carry out attacks.

Rules of this file: those of crowd.py; a bad client goes on until the server has ended its connection. Frames:
h2_attacks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import psutil

from tests.helpers.crowd import HOST, PATIENCE_S, Crowd, Held
from tests.helpers.h2_attacks import HELLO, SETTINGS_ACK, Answers, data, ping, request

READ_BYTES = 65536


class Peer:
    """One connection: what is said on it, and what is heard."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.answers = Answers()
        self.ended = False

    @classmethod
    async def connect(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection(HOST, port))

    def say(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    async def hear(self) -> None:
        """Some more of what it says, or the end."""
        try:
            said = await self._reader.read(READ_BYTES)
        except ConnectionError:  # an end like any other
            said = b""
        self.ended = not said
        self.answers.hear(said)

    async def answered(self, stream: int) -> tuple[int, bytes]:
        """Status and body of the whole answer on this stream."""
        while stream not in self.answers.ended:
            assert not self.ended, "the server ended the connection"
            assert stream not in self.answers.resets, f"reset with {self.answers.resets[stream]}"
            assert self.answers.goaways == [], self.answers.goaways
            await self.hear()
        return self.answers.statuses[stream], self.answers.begins[stream]

    async def heard_all(self) -> Answers:
        """All up to the end of the connection."""
        while not self.ended:
            await self.hear()
        self.writer.close()
        return self.answers

    async def floods(self, pieces: Iterable[bytes]) -> Answers:
        """It says all this as fast as it goes, and reads what comes, until it is sent away."""
        hears = asyncio.create_task(self.heard_all())
        with contextlib.suppress(ConnectionError):
            for batch in batched(pieces):
                if hears.done():
                    break
                self.writer.write(batch)
                await self.writer.drain()
                await asyncio.sleep(0)
        return await asyncio.wait_for(hears, PATIENCE_S)


def batched(pieces: Iterable[bytes], size: int = 16384) -> Iterator[bytes]:
    batch = bytearray()
    for piece in pieces:
        batch += piece
        if len(batch) >= size:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


def told(port: int, *pieces: bytes) -> Answers:
    """What a server answers to this, up to its end of the connection, or to our PING behind it."""

    async def play() -> Answers:
        peer = await Peer.connect(port)
        peer.say(HELLO, SETTINGS_ACK, *pieces, ping(b"lastword"))
        async with asyncio.timeout(PATIENCE_S):
            while not peer.ended and not peer.answers.pongs:
                await peer.hear()
        peer.writer.close()
        return peer.answers

    return asyncio.run(play())


# Good clients


class Good(Crowd):
    """Fifty connections."""

    KINDS: ClassVar = {"kept": 20, "many": 6, "fresh": 8, "uploads": 10, "http1": 6}

    async def _connect(self) -> Peer:
        peer = await Peer.connect(self._port)
        peer.say(HELLO, SETTINGS_ACK)
        return peer

    async def _kept(self) -> None:
        peer = await self._connect()
        for stream in itertools.count(1, 2):
            peer.say(request(stream))
            assert await peer.answered(stream) == (200, b"hello")
            self.done["kept"] += 1
            if not await self._pause():
                break
        peer.writer.close()

    async def _many(self) -> None:
        """Ten streams at a time."""
        peer = await self._connect()
        for first in itertools.count(1, 20):
            asked = range(first, first + 20, 2)
            peer.say(*map(request, asked))
            assert [await peer.answered(stream) for stream in asked] == [(200, b"hello")] * 10
            self.done["many"] += 1
            if not await self._pause():
                break
        peer.writer.close()

    async def _fresh(self) -> None:
        while await self._pause():
            peer = await self._connect()
            peer.say(request(1))
            assert await peer.answered(1) == (200, b"hello")
            self.done["fresh"] += 1
            peer.writer.close()

    async def _uploads(self) -> None:
        peer = await self._connect()
        for stream in itertools.count(1, 2):
            peer.say(request(stream, end=False, method=b"POST", path=b"/upload"))
            for _ in range(4):
                peer.say(data(stream, bytes(5000)))
                await asyncio.sleep(0.05)
            peer.say(data(stream, end=True))
            assert await peer.answered(stream) == (200, b"20000")
            self.done["uploads"] += 1
            if not await self._pause():
                break
        peer.writer.close()

    async def _http1(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        while await self._pause():
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert await reader.readexactly(5) == b"hello"
            self.done["http1"] += 1
        writer.close()


# Bad ones


class Bad:
    """Attacks; each returns what it was told by the end of its connection."""

    def __init__(self, port: int, worker: psutil.Process) -> None:
        self._port = port
        self._held = Held(worker)

    async def floods(self, pieces: Iterable[bytes]) -> Answers:
        peer = await Peer.connect(self._port)
        peer.say(HELLO, SETTINGS_ACK)
        return await peer.floods(pieces)

    async def reads_nothing(self, pieces: Iterable[bytes]) -> Answers:
        """It says all that is taken of it, and lets the answers lie, until it is cut."""
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.setblocking(False)
            await loop.sock_connect(sock, (HOST, self._port))
            with contextlib.suppress(ConnectionError):
                await loop.sock_sendall(sock, HELLO + SETTINGS_ACK)
                saying = asyncio.create_task(self._says(sock, pieces))
                await self._cut_off(sock.getsockname()[1])
                saying.cancel()
                await asyncio.wait({saying})
        return Answers()

    async def _says(self, sock: socket.socket, pieces: Iterable[bytes]) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            for batch in batched(pieces):
                await loop.sock_sendall(sock, batch)

    async def _cut_off(self, port: int) -> None:
        """Until the worker has the other end no more."""
        async with asyncio.timeout(PATIENCE_S):
            for there in (True, False):
                while (port in self._held.ports()) != there:
                    await asyncio.sleep(0.1)

    async def speaks(self, first: bytes, drips: Iterable[bytes] = ()) -> Answers:
        """It says this, then drip by drip, or nothing more; and reads."""
        peer = await Peer.connect(self._port)
        hears = asyncio.create_task(peer.heard_all())
        peer.say(first)
        for drip in drips:
            if (await asyncio.wait({hears}, timeout=0.1))[0]:
                break
            with contextlib.suppress(ConnectionError):
                peer.say(drip)
        return await asyncio.wait_for(hears, PATIENCE_S)

    async def then_leaves(self, first: bytes, is_enough: Callable[[Answers], Any]) -> Answers:
        """It says this, and goes once it has heard enough."""
        peer = await Peer.connect(self._port)
        peer.say(first)
        async with asyncio.timeout(PATIENCE_S):
            while not is_enough(peer.answers):
                assert not peer.ended
                await peer.hear()
        peer.writer.close()
        return peer.answers
