"""One connection that is attacked: the native side over a fake transport, what it said, what its app did.

Rules of this file: bytes are handed over as reads of a known size, and between two of them the loop turns, so
that apps run as they would; as a real transport does, none is handed over while the connection wants none, or
once it has closed. ``Unread`` is the transport of a client that does not read. Nothing here looks at a clock
but ``leaked``, since a bucket leaks by the second.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from tests.helpers.asgi import body, read_body, reply, start
from tests.helpers.h2_attacks import HELLO, SETTINGS_ACK, Answers, Code, request, settings
from tests.native.drive import Driver, FakeTransport, turns
from tests.native.ws_drive import Solid

READ_BYTES = 16384
STREAMS = 128
PIECE = b"p" * 16384
# The buckets, as docs/operations.md tells of them.
RESETS, RESETS_PER_S = 200, 20
CONTROLS, CONTROLS_PER_S = 1000, 100


class Busy:
    """The app: what it does is a matter of the path; it counts who runs."""

    def __init__(self) -> None:
        self.begun = 0
        self.running = 0
        self.most = 0
        self.sent = 0
        self.messages: list[str] = []
        self.errors: list[str] = []
        self.fields: list[list[tuple[bytes, bytes]]] = []
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.fields.append(scope["headers"])
        try:
            await getattr(self, scope["path"].strip("/") or "ok")(receive, send)
        except OSError as error:
            self.errors.append(type(error).__name__)
        finally:
            self.running -= 1

    async def ok(self, receive: Any, send: Any) -> None:
        await reply(send)

    async def upload(self, receive: Any, send: Any) -> None:
        """How much came, unless its client goes before."""
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.messages.append(message["type"])
                return
            size, more = size + len(message["body"]), message["more_body"]
        await reply(send, b"%d" % size)

    async def hang(self, receive: Any, send: Any) -> None:
        """Until its client goes. It reads no more than it must."""
        await self.go.wait()
        message = await receive()
        while message["type"] != "http.disconnect":
            message = await receive()
        self.messages.append(message["type"])

    async def listen(self, receive: Any, send: Any) -> None:
        """Takes everything, until its client goes."""
        message = await receive()
        while message["type"] != "http.disconnect":
            message = await receive()
        self.messages.append(message["type"])

    async def deaf(self, receive: Any, send: Any) -> None:
        """Hears nothing."""
        await self.go.wait()

    async def endless(self, receive: Any, send: Any) -> None:
        await start(send)
        while True:
            await body(send, PIECE, more=True)
            self.sent += len(PIECE)

    async def begun_only(self, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"begun", more=True)
        self.messages.append((await read_body(receive)).decode())
        await body(send, b", done")


class Unread(FakeTransport):
    """Of a client that reads nothing: the kernel takes little, and the rest stays here."""

    high_bytes = 65536

    def __init__(self) -> None:
        super().__init__()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.held = 0

    def get_write_buffer_size(self) -> int:
        return self.held

    def _hold(self, size: int) -> None:
        below, self.held = self.held <= self.high_bytes, self.held + size
        if below and self.held > self.high_bytes:
            assert self.connection is not None
            self.connection.pause_writing()

    def write(self, data: Any) -> None:
        self.calls.append("write")
        self._hold(len(data))

    def writelines(self, parts: Any) -> None:
        self.calls.append("writelines")
        self._hold(sum(map(len, parts)))

    @property
    def unread(self) -> int:
        """All that the client has not taken."""
        return self.held + len(self.read())


class Victim:
    """``async with Victim(app, **settings) as victim``; ``victim.other()``: another one of its worker."""

    def __init__(
        self,
        app: Any = None,
        *,
        transport: FakeTransport | None = None,
        driver: Driver | None = None,
        **options: Any,
    ) -> None:
        self.app: Any = app or Busy()
        self.driver = driver or Driver(self.app, **{"http2_cleartext": True, **options})
        self._owns_driver = driver is None
        self.transport = transport or Solid()
        self.connection, _ = self.driver.connect(self.transport)
        self.answers = Answers()
        self.fed = 0
        self.began_s = time.monotonic()
        self._lost = False

    def other(self) -> Victim:
        return Victim(self.app, driver=self.driver)

    async def hello(self, *values: tuple[int, int]) -> None:
        """Both sides have said what they must, and the client has agreed to the server's settings."""
        first = HELLO[: -len(settings())] + settings(*values)
        await self.feed([first, SETTINGS_ACK])
        assert not self.over
        assert self.answers.settings

    @property
    def over(self) -> bool:
        """The server has said its last word."""
        return self.transport.is_closing() or "write_eof" in self.transport.calls

    @property
    def wants_nothing(self) -> bool:
        calls = [one for one in self.transport.calls if one.endswith("_reading")]
        return calls[-1:] == ["pause_reading"]

    def hear(self) -> Answers:
        if not isinstance(self.transport, Unread):
            self.answers.hear(self.transport.read())
        return self.answers

    async def feed(self, pieces: Iterable[bytes], *, read_bytes: int = READ_BYTES, turning: int = 3) -> None:
        """The pieces, joined to reads of at least so many bytes, as long as the connection takes them."""
        read, size = [], 0
        for piece in pieces:
            read.append(piece)
            size += len(piece)
            if size >= read_bytes:
                await self._read(b"".join(read), turning)
                read, size = [], 0
            if self.over or self.wants_nothing:
                return
        if read:
            await self._read(b"".join(read), turning)

    async def _read(self, data: bytes, turning: int) -> None:
        self.fed += len(data)
        self.connection.data_received(data)
        await turns(turning)
        self.hear()

    async def say(self, *pieces: bytes) -> Answers:
        """In one read, or nothing; all that was said until now."""
        await self.feed([b"".join(pieces)] if pieces else [])
        await turns()
        return self.hear()

    async def lives(self, stream: int) -> None:
        """The connection answers, on this stream."""
        await self.say(request(stream))
        assert self.answers.goaways == []
        assert not self.over
        assert self.answers.statuses.get(stream) == 200
        assert stream in self.answers.ended

    async def serves_others(self) -> None:
        async with self.other() as other:
            await other.hello()
            await other.lives(1)

    def leaked(self, per_s: int) -> int:
        """What may have leaked out of a bucket until now."""
        return int(per_s * (time.monotonic() - self.began_s)) + 1

    def reports(self) -> list[tuple[int, str]]:
        """Of requests that were refused, and of the connection's end."""
        return [(status, reason) for status, reason, _ in self.driver.rejects if status >= 0]

    def faults(self) -> list[str]:
        """Why streams were reset: a report each."""
        return [reason for status, reason, _ in self.driver.rejects if status == -1]

    def calmed(self) -> None:
        """It was sent away for what it did, and the log has one line about it."""
        assert self.answers.code == Code.ENHANCE_YOUR_CALM, self.answers.goaways
        assert self.over
        ((status, reason),) = self.reports()
        assert status == 0
        assert reason.startswith("HTTP/2: ENHANCE_YOUR_CALM: "), reason
        assert reason.isprintable()

    def lose(self) -> None:
        if not self._lost:
            self._lost = True
            self.connection.connection_lost(None)

    async def __aenter__(self) -> Victim:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing may be left of it."""
        self.lose()
        if isinstance(self.app, Busy):
            self.app.go.set()
        await turns()
        self.transport.shut()
        if kind is None and self._owns_driver:
            factory = self.driver.factory
            assert self.driver.errors == []
            assert (factory.connections, factory.in_flight) == (0, 0)
