"""A client of WebSockets over HTTP/2 (RFC 8441), and of the requests beside them, over a blocking socket.

Rules of this file: the ``h2`` package makes and reads the frames of HTTP/2, and holds the server to RFC 9113;
``WsClient`` (ws.py) makes and reads those of a WebSocket, on an ``H2Stream`` that it takes for a connection.
Everything waits with a deadline. GOAWAY is kept from the package, which would take it for the end of every
stream. What comes is taken at once, unless a test holds a stream's window (``hold``).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings

from tests.helpers.http1 import PATIENCE_S, READ_BYTES, Response, Server, SocketClient
from tests.helpers.ws import Led, LedConnection, WsClient, data_of, text

PRIOR_KNOWLEDGE = {"http2_cleartext": True}

Fields = Sequence[tuple[bytes, bytes]]

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 1, 2, 7, 8
HEADER_BYTES = 9
GOAWAY = 7
VERSION = (b"sec-websocket-version", b"13")
DEFLATE = (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")


class StreamReset(ConnectionResetError):
    """The server sent RST_STREAM; ``errno`` is its error code."""


class Goaway(NamedTuple):
    last_stream: int
    code: int
    text: bytes


class H2Stream:
    """One stream: what ``http1.Client`` is for a connection, as far as ``WsClient`` asks for it."""

    def __init__(self, h2: H2, number: int) -> None:
        self.h2 = h2
        self.number = number
        self.sock = h2.sock
        self.head: list[tuple[bytes, bytes]] | None = None
        self.informational: list[int] = []
        self.buffered = b""  # what WsClient read and did not need
        self.data = bytearray()
        self.chunks: list[int] = []  # the sizes of its DATA frames
        self.ended = False
        self.reset: int | None = None
        self.held = False

    # What goes out

    def send(self, *data: bytes, end: bool = False) -> None:
        """As the windows allow it: waits for them."""
        rest = memoryview(b"".join(data))
        while rest or end:
            room = self.h2.room(self)
            if not room and rest:
                self.h2.pump()
                continue
            piece, rest = rest[:room], rest[room:]
            self.h2.core.send_data(self.number, bytes(piece), end_stream=end and not rest)
            end = end and bool(rest)
        self.h2.flush()

    def send_some(self, *data: bytes) -> bytes:
        """As far as the windows are open now: the rest."""
        rest = b"".join(data)
        while rest and (room := self.h2.room(self)):
            self.h2.core.send_data(self.number, rest[:room])
            rest = rest[room:]
        self.h2.flush()
        return rest

    def send_each(self, pieces: list[bytes]) -> None:
        """Each piece a DATA frame of its own, all of them in one segment."""
        for piece in pieces:
            self.h2.core.send_data(self.number, piece)
        self.h2.flush()

    def end(self) -> None:
        """END_STREAM, which is to this stream what a FIN is to a connection (RFC 8441 §5)."""
        self.send(end=True)

    half_close = end

    def cancel(self, code: int = CANCEL) -> None:
        """RST_STREAM."""
        with contextlib.suppress(StreamClosedError):
            self.h2.core.reset_stream(self.number, code)
        self.h2.flush()

    close = cancel

    # What comes

    def hold(self) -> None:
        """From now on this stream's window stays as it is, and the connection's opens as ever."""
        self.held = True

    def release(self, count: int) -> None:
        """The window of a held stream opens by so many bytes."""
        self.h2.core.increment_flow_control_window(count, self.number)
        self.h2.flush()

    def receive(self, size: int = READ_BYTES) -> bytes:
        """What is there, once there is something; b"" when the server ended the stream."""
        while not self.data:
            if self.ended:
                return b""
            if self.reset is not None:
                raise StreamReset(self.reset, "RST_STREAM")
            self.h2.pump()
        taken = bytes(self.data[:size])
        del self.data[:size]
        return taken

    def answered(self) -> Response:
        """The head of the answer, once it is there."""
        while self.head is None:
            if self.reset is not None:
                raise StreamReset(self.reset, "RST_STREAM")
            self.h2.pump()
        (name, status), *fields = self.head
        assert name == b":status"
        return Response(int(status), b"", fields, b"", self.informational)

    def response(self) -> Response:
        """The whole answer."""
        response = self.answered()
        response.body = self.rest()
        return response

    def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        parts = [self.buffered]
        self.buffered = b""
        while data := self.receive():
            parts.append(data)
        return b"".join(parts)

    def assert_closed(self) -> None:
        """The server ended the stream properly, and sent nothing more."""
        assert self.rest() == b""

    def was_reset(self) -> int:
        """The error code of the RST_STREAM, once it is there."""
        while self.reset is None:
            self.h2.pump()
        return self.reset


class H2(SocketClient):
    """One HTTP/2 connection, ready when the server's settings are there."""

    server: Server
    """Of ``h2_to``."""

    def __init__(self, sock: socket.socket, *, window: int | None = None, authority: bytes = b"test") -> None:
        """``window``: of each stream, in bytes; the RFC's if None."""
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.scheme = b"https" if isinstance(sock, ssl.SSLSocket) else b"http"
        self.authority = authority
        self.goaways: list[Goaway] = []
        self.pongs: list[bytes] = []
        self.over = False
        self._streams: dict[int, H2Stream] = {}
        self._unread = b""
        config = H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.core = H2Connection(config)
        values = {} if window is None else {SettingCodes.INITIAL_WINDOW_SIZE: window}
        self.core.local_settings = Settings(
            client=True, initial_values={SettingCodes.ENABLE_PUSH: 0, **values}
        )
        self.core.initiate_connection()
        self._ready = False
        self.flush()
        while not self._ready:
            self.pump()

    @classmethod
    def over_tls(cls, port: int, context: ssl.SSLContext, **how: Any) -> H2:
        """A connection to this port of 127.0.0.1 on which the server chose h2."""
        context.set_alpn_protocols(["h2"])
        sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        try:
            tls = context.wrap_socket(sock, server_hostname="localhost")
        except OSError:
            sock.close()
            raise
        assert tls.selected_alpn_protocol() == "h2"
        return cls(tls, **how)

    @classmethod
    def to_port(cls, port: int, **how: Any) -> H2:
        """With prior knowledge, to 127.0.0.1."""
        return cls(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S), **how)

    @property
    def takes_websockets(self) -> bool:
        """RFC 8441 §3."""
        return self.core.remote_settings.enable_connect_protocol == 1

    # Streams

    def request(
        self, path: bytes = b"/", *fields: tuple[bytes, bytes], method: bytes = b"GET", end: bool = True
    ) -> H2Stream:
        return self._begin(path, [(b":method", method)], fields, end)

    def ask(self, path: bytes = b"/ok") -> Response:
        """One request, and the whole answer, whatever window streams begin with."""
        stream = self.request(path)
        stream.release(1 << 20)
        return stream.response()

    def connect(
        self,
        path: bytes = b"/",
        *fields: tuple[bytes, bytes],
        protocol: bytes = b"websocket",
        version: bytes | None = b"13",
    ) -> H2Stream:
        """An extended CONNECT (RFC 8441 §4), not answered yet; None leaves the version out."""
        begin = [(b":method", b"CONNECT"), (b":protocol", protocol)]
        wanted = [] if version is None else [(VERSION[0], version)]
        return self._begin(path, begin, [*wanted, *fields], end=False)

    def open(self, path: bytes = b"/", *fields: tuple[bytes, bytes]) -> H2WebSocket:
        """A WebSocket, accepted."""
        ws = H2WebSocket(self.connect(path, *fields))
        ws.accepted()
        return ws

    def _begin(self, path: bytes, begin: Fields, fields: Fields, end: bool) -> H2Stream:
        where = [(b":scheme", self.scheme), (b":path", path), (b":authority", self.authority)]
        return self.say([*begin, *where, *fields], end=end)

    def say(self, fields: Fields, *, end: bool = False) -> H2Stream:
        """A new stream that begins with these, right or wrong."""
        number = self.core.get_next_available_stream_id()
        self.core.send_headers(number, fields, end_stream=end)
        stream = self._streams[number] = H2Stream(self, number)
        self.flush()
        return stream

    def room(self, stream: H2Stream) -> int:
        """How many bytes of it may go out now, in one DATA frame."""
        if stream.reset is not None:
            raise StreamReset(stream.reset, "RST_STREAM")
        window: int = self.core.local_flow_control_window(stream.number)
        return min(window, self.core.max_outbound_frame_size)

    # The wire

    def flush(self) -> None:
        if data := self.core.data_to_send():
            self.sock.sendall(data)

    def pump(self) -> None:
        """Reads once. Raises ConnectionResetError at the end of the connection."""
        self.flush()
        data = self.sock.recv(READ_BYTES)
        if not data:
            self.over = True
            raise ConnectionResetError("the server closed the connection")
        for event in self.core.receive_data(self._without_goaway(data)):
            self._take(event)
        self.flush()

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames, all but those."""
        kept = []
        self._unread += data
        while len(self._unread) >= HEADER_BYTES:
            size = HEADER_BYTES + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < size:
                break
            frame, self._unread = self._unread[:size], self._unread[size:]
            if frame[3] == GOAWAY:
                numbers = [int.from_bytes(frame[at : at + 4], "big") for at in (9, 13)]
                self.goaways.append(Goaway(numbers[0], numbers[1], frame[17:]))
            else:
                kept.append(frame)
        return b"".join(kept)

    def _take(self, event: events.Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, events.RemoteSettingsChanged):
            self._ready = True
        elif isinstance(event, events.PingAckReceived):
            self.pongs.append(event.ping_data)
        elif stream is None:
            return
        elif isinstance(event, events.InformationalResponseReceived):
            stream.informational.append(int(dict(event.headers)[b":status"]))
        elif isinstance(event, events.ResponseReceived):
            stream.head = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, events.DataReceived):
            self._data(stream, event)
        elif isinstance(event, events.StreamEnded):
            stream.ended = True
        elif isinstance(event, events.StreamReset):
            stream.reset = int(event.error_code or 0)

    def _data(self, stream: H2Stream, event: events.DataReceived) -> None:
        stream.data += event.data or b""
        stream.chunks.append(len(event.data or b""))
        size = event.flow_controlled_length or 0
        if not stream.held:
            self.core.acknowledge_received_data(size, stream.number)
        elif size:
            self.core.increment_flow_control_window(size)

    def settle(self) -> None:
        """The server has read and answered all that was sent before: a PING came back."""
        data = len(self.pongs).to_bytes(8, "big")
        self.core.ping(data)
        while data not in self.pongs:
            self.pump()

    def to_the_end(self) -> None:
        """Reads until the server closes the connection."""
        with contextlib.suppress(ConnectionResetError):
            while True:
                self.pump()

    def shut(self) -> None:
        """GOAWAY(NO_ERROR) of a client that is done, and the end."""
        self.core.close_connection()
        self.flush()
        self.close()


class H2WebSocket(WsClient):
    """A WebSocket on a stream."""

    client: H2Stream  # type: ignore[assignment]

    def __init__(self, stream: H2Stream) -> None:
        super().__init__(stream)  # type: ignore[arg-type]
        self.stream = stream

    def accepted(self) -> Response:
        """The answer, which must be a 200 with nothing of HTTP/1.1 in it (RFC 8441 §5)."""
        response = self.stream.answered()
        assert response.status == 200, response
        theirs = {b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-version"}
        assert not theirs & set(response.names), response
        assert response.one(b"content-length") is None, "RFC 9110 §9.3.6: not in a 2xx to CONNECT"
        assert response.one(b"transfer-encoding") is None
        assert not self.stream.ended
        return response

    def finish(self, code: int = 1000) -> None:
        """Close frames both ways, END_STREAM both ways."""
        super().finish(code)
        self.leave()

    def leave(self) -> None:
        """The end of our side, behind the server's, which may have said that it need not come."""
        with contextlib.suppress(StreamReset):
            self.stream.end()
        assert self.stream.reset in (None, NO_ERROR), self.stream.reset


class H2Opened:
    """A WebSocket of which an app that is led has connection ``number``. Not accepted yet."""

    def __init__(
        self, h2: H2, led: Led, *fields: tuple[bytes, bytes], number: int = 0, path: bytes = b"/"
    ) -> None:
        self.h2 = h2
        self.stream = h2.connect(path, *fields)
        self.app: LedConnection = led.connection(number)
        self.ws = H2WebSocket(self.stream)

    def accepted(self, **message: Any) -> H2Opened:
        self.app.accept(**message)
        self.ws.accepted()
        return self

    def assert_lives(self) -> None:
        """Messages arrive, both ways."""
        self.ws.send(text("here?"))
        assert data_of(self.app.receive()) == "here?"
        self.app.text("here")
        assert self.ws.read_text() == "here"


def h2_to(server: Server, **how: Any) -> H2:
    """A connection with prior knowledge, which the server sees go before it stops."""
    h2 = H2(server.connect().sock, **how)
    h2.server = server
    return h2


def refused(server: Server, stream: H2Stream, status: int) -> Response:
    """The answer to a handshake that the server refuses, with one report. The connection lives."""
    response = stream.response()
    assert response.status == status, response
    assert response.one(b"upgrade") is None, "RFC 9113 §8.6"
    (reject,) = server.take_rejects()
    assert (reject.status, reject.client) == (status, stream.sock.getsockname())
    assert reject.reason
    assert "\n" not in reject.reason
    assert stream.h2.ask().status == 200
    assert stream.reset in (None, NO_ERROR)
    return response
