"""Stand-ins for a worker's surroundings: the native factory, the master's end of the pipe, an app.

``FakeFactory`` has the methods of ``_native.ProtocolFactory`` and a protocol so small that a test
decides when a request ends: ``hello`` is answered at once, ``wait`` when the test says so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from shardserve import control
from shardserve.asgi.lifespan import Lifespan
from shardserve.observe.logs import RejectReporter
from shardserve.stats import Page
from shardserve.worker.channel import Channel
from shardserve.worker.server import Logs, Plan, Server

WAIT_S = 20.0


class FakeConnection(asyncio.Protocol):
    def __init__(self, factory: FakeFactory) -> None:
        self.factory = factory
        self.busy = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.factory.open.append(self)

    def data_received(self, data: bytes) -> None:
        self.busy = True
        if data == b"hello":
            self.finish()

    def finish(self) -> None:
        self.busy = False
        self.factory.served += 1
        self.transport.write(self.factory.name)
        if self.factory.on_empty is not None:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.factory.open.remove(self)
        self.factory.tell_if_empty()


class FakeFactory:
    def __init__(self, name: bytes = b"zero") -> None:
        self.name = name
        self.open: list[FakeConnection] = []
        self.served = 0
        self.ticks = 0
        self.states_counted = 0
        self.refused = 0
        self.streams_ended = 0
        self.on_empty: Callable[[], None] | None = None
        self.calls: list[str] = []

    def __call__(self) -> FakeConnection:
        return FakeConnection(self)

    def tick(self) -> None:
        self.ticks += 1

    def count_states(self) -> None:
        self.states_counted += 1

    def drain(self, on_empty: Callable[[], None], *, grace_ms: int = 0) -> None:
        self.calls.append(f"drain {grace_ms}")
        self.on_empty = on_empty
        loop = asyncio.get_running_loop()
        loop.call_later(grace_ms / 1000, self._close_idle)
        loop.call_soon(self.tell_if_empty)

    def _close_idle(self) -> None:
        for connection in self.open:
            if not connection.busy:
                connection.transport.close()

    def tell_if_empty(self) -> None:
        if self.on_empty is not None and not self.open:
            self.calls.append("empty")
            self.on_empty()

    def finish(self) -> None:
        for connection in self.open:
            if connection.busy:
                connection.finish()

    def end_streams(self) -> int:
        self.streams_ended += 1
        return 0

    def abort(self) -> int:
        self.calls.append("abort")
        for connection in self.open:
            connection.transport.abort()
        return self.in_flight

    def close(self) -> None:
        assert not self.open
        self.calls.append("close")

    @property
    def connections(self) -> int:
        return len(self.open)

    @property
    def in_flight(self) -> int:
        return sum(connection.busy for connection in self.open)


class Master:
    """The master's end of the pipe. Its methods that wait do it in a thread, with a limit."""

    def __init__(self) -> None:
        self.sock, self.worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(WAIT_S)

    def send(self, message: control.Message, *sockets: socket.socket) -> None:
        self.send_raw(control.encode(message), *[one.fileno() for one in sockets])

    def send_raw(self, data: bytes, *descriptors: int) -> None:
        socket.send_fds(self.sock, [data], list(descriptors))

    def receive_now(self) -> control.Message | None:
        data = self.sock.recv(control.MAX_DATAGRAM_BYTES)
        return control.decode(data) if data else None

    async def receive(self) -> control.Message | None:
        """The worker's next message; None when it closed its end."""
        return await asyncio.to_thread(self.receive_now)

    async def is_silent(self) -> bool:
        """Whether the worker has closed its end without another word."""
        return await self.receive() is None

    def close(self) -> None:
        self.sock.close()


class LifespanApp:
    """An app that only has a lifespan, and notes it in the factory's calls."""

    def __init__(
        self, factory: FakeFactory, *, startup: str = "complete", shutdown: str = "complete"
    ) -> None:
        self.factory = factory
        self.startup, self.shutdown = startup, shutdown

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for phase, todo in (("startup", self.startup), ("shutdown", self.shutdown)):
            await receive()
            if todo == "hang":
                self.factory.calls.append(f"{phase} hangs")
                await asyncio.Event().wait()
            self.factory.calls.append(phase)
            await send({"type": f"lifespan.{phase}.{todo}", "message": "because"})


class Rig:
    """A Server in this process, with everything around it faked. Use it inside uvloop.run()."""

    def __init__(
        self,
        *,
        listeners: list[socket.socket] | None = None,
        slot: int = 0,
        page: Page | None = None,
        **app: str,
    ) -> None:
        self.master = Master()
        self.factory = FakeFactory(b"slot%d" % slot)
        self.listeners = listeners if listeners is not None else [tcp_listener()]
        channel = Channel(self.master.worker_end)
        self.server = Server(
            Plan(
                slot=slot,
                listeners=[one.dup() for one in self.listeners],
                backlog=2048,
                own_drain=control.Drain(grace_s=0.0, deadline_s=WAIT_S),
                started_at=time.monotonic(),
                page=page,
            ),
            channel=channel,
            lifespan=Lifespan(LifespanApp(self.factory, **app), "auto"),
            make_factory=lambda state, admission: self.factory,
            logs=Logs(access=None, rejects=RejectReporter(logging.getLogger("test.rejects"))),
        )
        self.channel = channel
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> int:
        try:
            return await self.server.run()
        finally:
            self.channel.close()

    async def ready(self) -> control.Ready:
        message = await self.master.receive()
        assert isinstance(message, control.Ready), message
        return message

    async def code(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.running


async def until(condition: Callable[[], Any]) -> None:
    """Until ``condition``, looking at every turn of the loop."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0)


def tcp_listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(2048)
    return sock


class Caller:
    """A client connection to a FakeFactory."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, listener: socket.socket) -> Caller:
        if listener.family == socket.AF_UNIX:
            return cls(*await asyncio.open_unix_connection(listener.getsockname()))
        return cls(*await asyncio.open_connection(*listener.getsockname()[:2]))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> bytes:
        """What comes; b"" when the connection is closed, however."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read(100)
            except ConnectionError:
                return b""

    async def hello(self) -> bytes:
        self.send(b"hello")
        return await self.answer()
