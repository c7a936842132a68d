"""HTTP/2 clients of a native Connection in this process: no server, no socket in between, no waiting.

How to use it, in an ``async def`` test::

    @every_start                                    # ALPN, and prior knowledge
    @every_feeding                                  # whole, byte by byte, at random; every_way: some of each
    async def test_it(start, feeding):
        async with Host(app, limit_request_body=10) as host:
            client = host.connect(start, feeding)   # polite: the h2 package speaks
            stream = await client.ask("POST", "/x", (b"x-a", b"1"), body=b"12345678901")
            assert stream.status == 413
            raw = host.raw(start, feeding)          # says whatever the test says
            raw.send(raw.request(1), frame(DATA, END_STREAM, 1, b"late"))
            await raw.until(lambda: raw.goaway)
            host.take_rejects(1)

``Client`` (``host.connect``): h2 keeps the protocol, and is the oracle: it must accept every byte of the
server (a ProtocolError is a failed test). It acknowledges SETTINGS and PING by itself, gives the windows back
as data comes (``hand=True``: only with ``open``), and sends bodies as the server's windows allow. ``request``
opens a stream and returns it at once, ``ask`` waits for its end; both take any fields, also those that the
RFC forbids. ``write``, ``trailers``, ``reset`` go on with a stream. ``raw`` says bytes past h2, which does
not hear of them.

``Raw`` (``host.raw``): nothing is sent but what the test sends; at the start that is the preface, SETTINGS
and an ACK (``hello=b""``: not even that). ``frame`` (h2_wire.py) makes frames, ``block`` field blocks that
need no state.

Both: ``streams[id]`` (h2_judge.Stream) is what came on a stream; ``judge`` holds every frame of the server to
the RFC. ``until(probe)`` lets the loop go round until the probe is true, ``settle()`` until nothing moves any
more. ``goaway``, ``closed`` say how the connection ended. ``lose()`` is connection_lost, ``half_close()``
eof_received, ``hold()`` and ``release()`` a transport that takes no more.

Rules of this file: nothing sleeps but ``until``. What the server writes is read after each piece it is given.
A ``Host`` that goes asserts that nothing is left: connections, requests, tasks, and errors or rejects that
were not taken with ``take_errors``, ``take_rejects``.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import h2.connection
import h2.events
import h2.exceptions
from h2.config import H2Configuration
from h2.settings import SettingCodes, Settings

from shardserve import _native
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits
from tests.helpers.h2_judge import ACK, END_HEADERS, END_STREAM, GOAWAY, PING, PREFACE, Fields, Judge, Stream
from tests.helpers.h2_wire import Feeding, Tls, Transport, frame, head, number, pseudo, settings, whole
from tests.helpers.h2_wire import every_feeding as every_feeding
from tests.helpers.h2_wire import every_start as every_start
from tests.helpers.h2_wire import every_way as every_way
from tests.helpers.http1 import PATIENCE_S, App, Reported

# Clients


class Raw:
    """Says what the test says, and judges what comes back."""

    def __init__(
        self, host: Host, start: str, feeding: Feeding, hello: bytes | None, seed: int = 1, **extra: Any
    ) -> None:
        tls = {"ssl_object": Tls()} if start == "alpn" else {}
        self.host = host
        self.judge = Judge()
        self.transport = Transport({**tls, **extra}, sock=start == "prior")
        self.connection = self.transport.connection = host.factory()
        self._feeding, self._dice = feeding, random.Random(seed)
        self._unread: deque[bytes] = deque()
        self.connection.connection_made(self.transport)
        self.send(PREFACE + settings() + settings(flags=ACK) if hello is None else hello)

    @property
    def streams(self) -> dict[int, Stream]:
        return self.judge.streams

    @property
    def goaway(self) -> tuple[int, int] | None:
        """The last one's (last stream id, code)."""
        return self.judge.goaways[-1][:2] if self.judge.goaways else None

    @property
    def closed(self) -> bool:
        """The server has ended it: it is closed, or writes no more and waits for the client to close."""
        return self.transport.ended or " lingering" in repr(self.connection)

    def request(self, stream: int, *fields: tuple[bytes, bytes], path: str = "/", end: bool = True) -> bytes:
        """A GET, or a POST whose body is to come: one HEADERS frame."""
        given = [*pseudo("GET" if end else "POST", path), *fields]
        return head(stream, given, END_HEADERS | (END_STREAM if end else 0))

    def send(self, *data: bytes) -> None:
        """Cut as the feeding does it. All of it counts as sent, also where the server ends the connection."""
        joined = b"".join(data)
        self._unread.extend(self._feeding(joined, self._dice) if joined else ())
        self._feed()

    def _feed(self) -> None:
        while self._unread and self.transport.reading and not self.transport.closing:
            piece = self._unread.popleft()
            self.judge.sent(piece)
            self.connection.data_received(piece)
            self._hear()

    def _hear(self) -> None:
        """Takes what the server wrote. A transport that was closed ends behind its output."""
        if data := self.transport.take():
            self.judge.received(data)
            self.heard(data)
        if self.transport.ended and not self.transport.held and not self.transport.lost:
            self.judge.nothing_half()
            self.transport.end()

    def heard(self, data: bytes) -> None:
        """For subclasses."""

    def pump(self) -> None:
        """All that moves without the loop."""
        self._feed()
        self._hear()

    async def until(self, probe: Callable[[], Any], what: str = "") -> Any:
        """The first true answer; the loop goes round meanwhile. What takes long is looked at by ``tick``."""
        deadline = time.monotonic() + PATIENCE_S
        for turn in range(1 << 30):
            self.pump()
            if answer := probe():
                return answer
            assert time.monotonic() < deadline, f"waited in vain: {what or probe}; {self.judge.frames[-5:]}"
            await asyncio.sleep(0 if turn < 100 else 0.001)
            if turn >= 100:
                self.host.factory.tick()
        return None

    async def settle(self, turns: int = 15) -> None:
        """The loop goes round, and all that comes is taken."""
        for _ in range(turns):
            self.pump()
            await asyncio.sleep(0)
        self.pump()

    async def pong(self) -> None:
        """All that was sent before is dealt with, and the connection lives."""
        payload = self._dice.randbytes(8)
        self.send(frame(PING, 0, 0, payload))
        await self.until(lambda: payload in self.judge.pongs, "the answer to a PING")

    def hold(self) -> None:
        """Take nothing from now on."""
        self.transport.held = True

    def release(self) -> None:
        self.transport.held = False
        self.pump()

    def half_close(self) -> None:
        """The client's FIN."""
        self.pump()
        if not self.connection.eof_received():
            self.transport.close()
        self.pump()

    def lose(self, error: BaseException | None = None) -> None:
        """The connection is gone, with what was not taken."""
        self.transport.held = True
        self.transport.end(error)


class Client(Raw):
    """A polite one: h2 speaks, and accepts all that the server says."""

    def __init__(self, host: Host, start: str, feeding: Feeding, *, hand: bool = False, **how: Any) -> None:
        self.hand = hand
        own: dict[int, int] = how.pop("settings", {})
        self.bodies: dict[int, tuple[bytearray, bool]] = {}
        """What waits for the server's windows, by stream, and whether it is the end."""
        self.events: list[h2.events.Event] = []
        self._reset: set[int] = set()
        self._unheard = self._unsent = b""
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        given = {SettingCodes(code): value for code, value in own.items()}
        if given:  # in force at once: it sends them in front of everything
            self.h2.local_settings = Settings(
                client=True, initial_values={**dict(self.h2.local_settings), **given}
            )
            self.h2.decoder.max_allowed_table_size = self.h2.local_settings.header_table_size
        self.scheme = b"https" if start == "alpn" else b"http"
        super().__init__(host, start, feeding, b"", **how)
        self.h2.initiate_connection()
        self.pump()

    def request(  # type: ignore[override]
        self,
        method: str = "GET",
        path: str | bytes = "/",
        *fields: tuple[bytes, bytes],
        body: bytes | None = None,
        end: bool = True,
        pseudo_fields: Fields | None = None,
    ) -> Stream:
        """Opens a stream. ``body``: sent as DATA; None: END_STREAM is on the HEADERS, if ``end``."""
        stream_id = self.h2.get_next_available_stream_id()
        given = pseudo(method, path, self.scheme) if pseudo_fields is None else pseudo_fields
        self.h2.send_headers(stream_id, [*given, *fields], end_stream=end and body is None)
        stream = self.streams.setdefault(stream_id, Stream(stream_id))
        stream.method = method.encode()
        if body is not None:
            self.write(stream, body, end=end)
        self.pump()
        return stream

    async def ask(self, *args: Any, **how: Any) -> Stream:
        """A request and its whole answer."""
        return await self.done(self.request(*args, **how))

    async def done(self, stream: Stream) -> Stream:
        await self.until(lambda: stream.over, f"the end of {stream}")
        return stream

    async def ok(self) -> None:
        """The connection still answers."""
        stream = await self.ask("GET", "/ok")
        assert (stream.status, stream.ended, self.goaway, self.closed) == (200, True, None, False)

    def write(self, stream: Stream, data: bytes = b"", end: bool = False) -> None:
        """Body bytes, as the server's windows allow."""
        waiting, _ = self.bodies.get(stream.id, (bytearray(), False))
        self.bodies[stream.id] = (waiting + data, end)
        self.pump()

    def trailers(self, stream: Stream, *fields: tuple[bytes, bytes]) -> None:
        self.h2.send_headers(stream.id, list(fields), end_stream=True)
        self.pump()

    def reset(self, stream: Stream, code: int = 8) -> None:
        self.bodies.pop(stream.id, None)
        self._reset.add(stream.id)
        self.h2.reset_stream(stream.id, code)
        self.pump()

    def open(self, size: int, stream: Stream | None = None) -> None:
        """WINDOW_UPDATE of the connection, or of a stream."""
        self.h2.increment_flow_control_window(size, stream.id if stream is not None else None)
        self.pump()

    def change(self, values: dict[int, int]) -> None:
        """SETTINGS."""
        self.h2.update_settings({SettingCodes(code): value for code, value in values.items()})
        self.pump()

    def go_away(self, code: int = 0) -> None:
        """GOAWAY, past h2: it would take nothing more, though what was begun goes on."""
        self.raw(frame(GOAWAY, 0, 0, number(0) + number(code)))

    def raw(self, *data: bytes) -> None:
        self.pump()
        self.send(*data)

    def pump(self) -> None:
        """Bodies as far as they may go, what h2 has to say, and what the server says to that."""
        super().pump()
        while True:
            self._send_bodies()
            data, self._unsent = self._unsent + self.h2.data_to_send(), b""
            if not data or self.transport.closing:
                return
            self.send(data)
            super().pump()

    def heard(self, data: bytes) -> None:
        """Frame by frame: behind GOAWAY h2 takes no other, but what was begun goes on (RFC 9113 §6.8)."""
        self._unheard += data
        while len(self._unheard) >= 9:
            length = 9 + int.from_bytes(self._unheard[:3], "big")
            if len(self._unheard) < length:
                return
            one, self._unheard = self._unheard[:length], self._unheard[length:]
            for event in self.h2.receive_data(one):
                self._event(event)
            self._unsent += self.h2.data_to_send()  # a GOAWAY would make h2 forget it

    def _event(self, event: h2.events.Event) -> None:
        self.events.append(event)
        if isinstance(event, h2.events.DataReceived) and not self.hand and event.flow_controlled_length:
            try:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            except h2.exceptions.StreamClosedError:
                pass
        elif isinstance(event, h2.events.StreamReset):
            self.bodies.pop(event.stream_id, None)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def _send_bodies(self) -> None:
        for stream_id, (waiting, end) in list(self.bodies.items()):
            try:
                room = min(self.h2.local_flow_control_window(stream_id), 1 << 24)
                while waiting and room > 0:
                    piece = bytes(waiting[: min(room, self.h2.max_outbound_frame_size)])
                    del waiting[: len(piece)]
                    room -= len(piece)
                    self.h2.send_data(stream_id, piece)
                if not waiting:
                    del self.bodies[stream_id]
                    if end:
                        self.h2.end_stream(stream_id)
            except h2.exceptions.StreamClosedError:
                self.bodies.pop(stream_id, None)

    def assert_agrees(self) -> None:
        """h2 has read the same responses as the judge."""
        bodies: dict[int, int] = {}
        for event in self.events:
            if isinstance(event, h2.events.ResponseReceived):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                stream = self.streams[event.stream_id]
                assert headers == [(b":status", b"%d" % (stream.status or 0)), *stream.fields]
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] = bodies.get(event.stream_id, 0) + len(event.data)
        seen = {id_: len(stream.data) for id_, stream in self.streams.items() if stream.pieces}
        for id_ in self._reset:  # what crossed its RST_STREAM is no event
            bodies.pop(id_, None)
            seen.pop(id_, None)
        assert bodies == seen


# The server


class Host(Reported):
    """The native request path around ``app`` on the running loop, and what it reported.

    ``settings`` are ProtocolFactory's, over the defaults that users get.
    """

    def __init__(self, app: App, **settings: Any) -> None:
        super().__init__()
        self.clients: list[Raw] = []
        self._loop = asyncio.get_running_loop()
        self.heed(self._loop)
        self._tasks = asyncio.all_tasks()
        given = {
            **request_limits(Config("none:none")),
            **self.callbacks(),
            "loop": self._loop,
            "context": contextvars.Context(),
            "state": None,
            "http2": True,
            "http2_cleartext": True,
        }
        self.factory = _native.ProtocolFactory(app, **(given | settings))

    def connect(self, start: str = "alpn", feeding: Feeding = whole, **how: Any) -> Client:
        """A polite client. ``settings={code: value}``: its own; ``hand=True``: opens no windows by itself;
        other names: what the transport's ``get_extra_info`` answers.
        """
        client = Client(self, start, feeding, **how)
        self.clients.append(client)
        return client

    def raw(
        self, start: str = "alpn", feeding: Feeding = whole, hello: bytes | None = None, **how: Any
    ) -> Raw:
        """A raw client. ``hello``: its first bytes; None: the preface, SETTINGS and an ACK."""
        raw = Raw(self, start, feeding, hello, **how)
        self.clients.append(raw)
        return raw

    def take_fault(self, status: int, code: str) -> str:
        """The one report of what a peer did wrong, behind its code. ``status`` 0: the connection has ended;
        -1: a stream was reset.
        """
        (reject,) = self.take_rejects(1)
        assert reject.status == status
        assert reject.reason.startswith(f"HTTP/2: {code}"), reject
        return reject.reason.removeprefix(f"HTTP/2: {code}").removeprefix(": ")

    def _busy(self) -> list[str]:
        counts = {"connections": self.factory.connections, "requests in flight": self.factory.in_flight}
        return [f"{count} {what}" for what, count in counts.items() if count]

    async def __aenter__(self) -> Host:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:  # one failure is enough
            self.factory.abort()
            for client in self.clients:
                client.lose()
            return
        for client in self.clients:
            client.pump()
            if isinstance(client, Client):
                client.assert_agrees()
            client.lose()
        deadline = time.monotonic() + 5
        while (left := self._busy()) and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        self.factory.close()
        for _ in range(20):  # the spare tasks go
            await asyncio.sleep(0)
        assert not left, left
        assert asyncio.all_tasks() == self._tasks
        self.assert_all_taken()
