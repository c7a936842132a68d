"""HTTP/2 clients over blocking sockets, and a load of them that keeps account of every request.

Rules of this file: the ``h2`` package checks every frame, and raises for what RFC 9113 forbids a server. It
takes GOAWAY for the end of all streams, so GOAWAY is read here. A stream is over in one of three ways:
answered whole; ``Unprocessed``, as the server has proved (RFC 9113 §6.8 and §8.7: it is above the last stream
of GOAWAY, or REFUSED_STREAM), so that it is asked again elsewhere; or ``Lost``, which is an error. Nothing is
asked twice for any other reason.
"""

from __future__ import annotations

import itertools
import json
import random
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.helpers.load import Address
from tests.helpers.master_process import PATIENCE_S

PING, GOAWAY = 6, 7
ACK = 1
HEAD_BYTES = 9
ANY_STREAM = 2**31 - 1
Fields = Sequence[tuple[str, str]]


class Unprocessed(Exception):
    """The server has proved that no app has seen this request."""


class Lost(Exception):
    """A response that will not be whole, of a request that may have been processed."""


@dataclass
class Stream:
    """A request, and what has come of its response."""

    number: int
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    hints: list[dict[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    def json(self) -> dict[str, Any]:
        assert self.status == 200, f"{self.status} {bytes(self.body)!r}"
        found: dict[str, Any] = json.loads(self.body)
        return found


class H2Client:
    """One connection, with as many streams as one likes; one thread."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None = None,
        *,
        before: bytes = b"",
        answers_pings: bool = True,
    ) -> None:
        """``before``: bytes in front of the preface, or of the handshake. ``answers_pings``: if not, until
        ``answer_pings()``.
        """
        self.sock = _connected(address)
        self.sock.sendall(before)
        if context is not None:
            context.set_alpn_protocols(["h2"])
            secure = context.wrap_socket(self.sock, server_hostname="localhost", suppress_ragged_eofs=False)
            assert secure.selected_alpn_protocol() == "h2"
            self.sock = secure
        self.authority = "localhost" if isinstance(address, Path) else f"localhost:{address}"
        self.scheme = "http" if context is None else "https"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.streams: dict[int, Stream] = {}
        self.goaways: list[tuple[int, int]] = []  # last stream, error code
        self.pings = 0
        self.closed = False  # by the server, with a proper end
        self._answers_pings = answers_pings
        self._owed: list[bytes] = []
        self._raw = b""
        self._flush()

    # Out

    def open(self, path: str = "/", **how: Any) -> Stream:
        """``open_anyway``; Unprocessed if the server has told us to go."""
        self.take()
        if self.goaways or self.closed:
            raise Unprocessed("no new streams here")
        return self.open_anyway(path, **how)

    def open_anyway(
        self,
        path: str = "/",
        *,
        body: bytes | None = None,
        headers: Fields = (),
        end: bool = True,
        **pseudo: str,
    ) -> Stream:
        """A request, all of it if ``end``; also behind a GOAWAY, as one that was on its way.

        ``pseudo``: method, authority, scheme.
        """
        stream = Stream(self.h2.get_next_available_stream_id(), path)
        fields = [
            (":method", pseudo.get("method", "GET" if body is None else "POST")),
            (":scheme", pseudo.get("scheme", self.scheme)),
            (":authority", pseudo.get("authority", self.authority)),
            (":path", path),
            *headers,
        ]
        self.h2.send_headers(stream.number, fields, end_stream=end and not body)
        self.streams[stream.number] = stream
        self._flush()
        if body:
            self.send(stream, body, end=end)
        return stream

    def send(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """More of a request's body, as the windows allow; nothing, if the response is over before."""
        at = 0
        while at < len(data) or end:
            room = min(
                self.h2.local_flow_control_window(stream.number),
                self.h2.max_outbound_frame_size,
                len(data) - at,
            )
            if at == len(data) or room:
                at += room
                self.h2.send_data(stream.number, data[at - room : at], end_stream=end and at == len(data))
                self._flush()
                if at == len(data):
                    return
            else:
                self.step()
            if stream.over or self._is_refused(stream):
                return

    def reset(self, stream: Stream, code: int = h2.errors.ErrorCodes.CANCEL) -> None:
        self.h2.reset_stream(stream.number, code)
        stream.reset = int(code)
        self._flush()

    def widen(self, by: int, stream: Stream | None = None) -> None:
        """More room for what the server sends, of the connection or of one stream."""
        self.h2.increment_flow_control_window(by, stream and stream.number)
        self._flush()

    def answer_pings(self) -> None:
        """Those that it has not, and from now on."""
        self._answers_pings = True
        self._owed, owed = [], self._owed
        self._write(b"".join(owed))

    def _flush(self) -> None:
        self._write(self.h2.data_to_send())

    def _write(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has closed: what it said before is still to be read

    # In

    def take(self) -> None:
        """What has come already."""
        while not self.closed and self.has_input():
            self.step()

    def has_input(self, timeout_s: float = 0) -> bool:
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True
        return bool(select.select([self.sock], [], [], timeout_s)[0])

    def step(self) -> None:
        """Wait for bytes, once; or for the end."""
        assert not self.closed, "the server has closed"
        data = self.sock.recv(65536)
        self._raw += data
        self.closed = not data
        assert not (self.closed and self._raw), "it ended in the middle of a frame"
        while len(self._raw) >= HEAD_BYTES:
            size = HEAD_BYTES + int.from_bytes(self._raw[:3], "big")
            if len(self._raw) < size:
                break
            frame, self._raw = self._raw[:size], self._raw[size:]
            self._take_frame(frame)

    def _take_frame(self, frame: bytes) -> None:
        if frame[3] == GOAWAY:
            last, code = (int.from_bytes(frame[at : at + 4], "big") for at in (HEAD_BYTES, HEAD_BYTES + 4))
            assert not self.goaways or last <= self.goaways[-1][0], "RFC 9113 §6.8: it must not grow"
            self.goaways.append((last, code))
        elif frame[3] == PING and not frame[4] & ACK:
            self.pings += 1
            self._owed.append(frame[:4] + bytes([ACK]) + frame[5:])
            if self._answers_pings:
                self.answer_pings()
        else:
            for event in self.h2.receive_data(frame):
                self._take_event(event)
            self._flush()

    def _take_event(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.InformationalResponseReceived):
            stream.hints.append(dict(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            stream.headers = dict(event.headers)
            stream.status = int(stream.headers.pop(":status"))
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, stream.number)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code)

    # What a stream has come to

    def _is_refused(self, stream: Stream) -> bool:
        if stream.over:
            return stream.reset == h2.errors.ErrorCodes.REFUSED_STREAM
        return bool(self.goaways) and stream.number > self.goaways[-1][0]

    def is_done(self, stream: Stream) -> bool:
        return stream.over or self._is_refused(stream) or self.closed

    def until(self, probe: Callable[[], object], what: str = "") -> None:
        """Read until this is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not probe():
            if self.closed:
                raise Lost(f"the server has closed, before {what or probe}")
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain: {what or probe}"
            if self.has_input(0.05):
                self.step()

    def answer(self, stream: Stream) -> Stream:
        """Wait for the whole response."""
        if not self.is_done(stream):
            self.until(lambda: self.is_done(stream), f"the answer to {stream.path}")
        if self._is_refused(stream):
            raise Unprocessed(f"{stream.path} on stream {stream.number}, {self.goaways}")
        if not stream.ended:
            raise Lost(
                f"{stream.path} on stream {stream.number}: {stream}, {self.goaways}, closed {self.closed}"
            )
        return stream

    def ask(self, path: str = "/", **how: Any) -> Stream:
        return self.answer(self.open(path, **how))

    def to_the_end(self) -> None:
        """Read until the server closes."""
        if not self.closed:
            self.until(lambda: self.closed, "the server to close")

    def close(self) -> None:
        self.sock.close()


def _connected(address: Address) -> socket.socket:
    if isinstance(address, Path):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE_S)
        sock.connect(str(address))
        return sock
    sock = socket.create_connection(("127.0.0.1", address), timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Multiplexed:
    """For ``Load``: keeps so many requests in flight over one connection; a call waits for the next answer.

    Told to go away, it finishes there and goes on over a new connection. What was unprocessed it asks again.
    """

    def __init__(
        self,
        address: Address,
        *,
        streams: int = 8,
        path: str = "/",
        body: bytes | None = None,
        context: ssl.SSLContext | None = None,
        key: str = "pid",
    ) -> None:
        self._address, self._context = address, context
        self._streams, self._path, self._body = streams, path, body
        self._name = f"{random.getrandbits(48):x}"
        self._numbers = itertools.count()
        self._to_ask: list[str] = []
        self._asked: dict[int, str] = {}
        self._client: H2Client | None = None
        self.answered: list[str] = []  # the x-number of each
        self.connections = 0
        self.retried = 0
        self.by: Counter[Any] = Counter()
        self._key = key

    def __call__(self) -> dict[str, Any]:
        while True:
            client = self._client or self._connect()
            self._fill(client)
            for number in [one for one in self._asked if client.is_done(client.streams[one])]:
                if (found := self._finished(client, number)) is not None:
                    return found
            if client.goaways or client.closed:
                self._leave(client)
            else:
                client.step()

    def _connect(self) -> H2Client:
        self._client = H2Client(self._address, self._context)
        self.connections += 1
        return self._client

    def _fill(self, client: H2Client) -> None:
        while len(self._asked) < self._streams:
            name = self._to_ask.pop() if self._to_ask else f"{self._name}-{next(self._numbers)}"
            try:
                stream = client.open(self._path, body=self._body, headers=[("x-number", name)])
            except Unprocessed:
                self._to_ask.append(name)
                return
            self._asked[stream.number] = name

    def _finished(self, client: H2Client, number: int) -> dict[str, Any] | None:
        """Its answer; None: it is to be asked again. Raises Lost."""
        name, stream = self._asked.pop(number), client.streams.pop(number)
        try:
            found = client.answer(stream).json()
        except Unprocessed:
            self.retried += 1
            self._to_ask.append(name)
            return None
        if found.get("size", 0) != len(self._body or b""):
            raise Lost(f"{found} for a body of {len(self._body or b'')} bytes")
        self.answered.append(name)
        self.by[found[self._key]] += 1
        return found

    def _leave(self, client: H2Client) -> None:
        """Wait for what is in flight there, and close, as clients do that are told to go."""
        try:
            client.until(lambda: all(client.is_done(client.streams[one]) for one in self._asked), "the rest")
        finally:
            for number in list(self._asked):
                self._finished(client, number)
            client.close()
            self._client = None

    def finish(self) -> None:
        """Wait for what is in flight, and leave."""
        self._streams = 0
        if self._client is not None:
            self._leave(self._client)


def account(ledger: Path, clients: Sequence[Multiplexed]) -> None:
    """Every request that an app got was answered, once; and every answer is of one that an app got."""
    seen = Counter(ledger.read_text().split())
    answered = Counter(name for client in clients for name in client.answered)
    assert {name: times for name, times in answered.items() if times != 1} == {}
    assert {name: times for name, times in seen.items() if times != 1} == {}, (
        "asked again, but had been processed"
    )
    assert set(seen) == set(answered), (set(seen) ^ set(answered), len(answered))


@contextmanager
def connected(address: Address, context: ssl.SSLContext | None = None, **how: Any) -> Iterator[H2Client]:
    client = H2Client(address, context, **how)
    try:
        yield client
    finally:
        client.close()
