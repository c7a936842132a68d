"""Drives HTTP/2 without a server, as drive.py does connections: frames in, frames out (RFC 9113).

Rules of this file: those of drive.py. Frames are made and read by hand, so that nothing between a test and
the wire corrects either side; field blocks are sent as literals without indexing (RFC 7541 §6.2.2), so any
bytes can be sent in any order. Only the server's HPACK is decoded by a library. ``Said`` holds the server to
the windows, to the size of frames and to one end of each stream.
"""

from __future__ import annotations

import asyncio
import gc
import struct
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import hpack

from tests.native.drive import Driver, FakeTransport, OneConnection, turns
from tests.native.ws_drive import Solid

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
PRIORITIZED = 32

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_LIST, _, _, ENABLE_CONNECT = (
    range(1, 10)
)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, _, STREAM_CLOSED, _, REFUSED_STREAM, CANCEL = (
    range(9)
)
ENHANCE_YOUR_CALM = 11

DEFAULT_WINDOW = 65535
LARGE_WINDOW = 1 << 24
FRAME_BYTES = 16384
"""The most that a server may put into one frame, as long as the client does not say otherwise."""

Fields = Iterable[tuple[bytes, bytes]]


# What the client says


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields: Fields) -> bytes:
    """A field block; none of it is compressed or indexed."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    head, length = b"\x7f", length - 127
    while length > 127:
        head += bytes([length % 128 | 128])
        length //= 128
    return head + bytes([length]) + text


def head(stream: int, fields: Fields, *, end: bool = True) -> bytes:
    """One HEADERS frame."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(fields))


def pseudo(path: str = "/", method: str = "GET") -> list[tuple[bytes, bytes]]:
    return [
        (b":method", method.encode()),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"x"),
    ]


def request(
    stream: int, path: str = "/", method: str = "GET", *fields: tuple[bytes, bytes], end: bool = True
) -> bytes:
    return head(stream, [*pseudo(path, method), *fields], end=end)


def upload(stream: int, path: str = "/up", *fields: tuple[bytes, bytes]) -> bytes:
    """A request whose body is still to come."""
    return request(stream, path, "POST", *fields, end=False)


def tunnel(stream: int, path: str = "/", *fields: tuple[bytes, bytes]) -> bytes:
    """The extended CONNECT of a WebSocket (RFC 8441 §5)."""
    given = [*pseudo(path, "CONNECT"), (b":protocol", b"websocket"), (b"sec-websocket-version", b"13")]
    return head(stream, [*given, *fields], end=False)


def data(stream: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def settings(values: dict[int, int] | None = None) -> bytes:
    payload = b"".join(struct.pack(">HI", name, value) for name, value in (values or {}).items())
    return frame(SETTINGS, 0, 0, payload)


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def ping(payload: bytes = b"pingping", *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last: int = 0, code: int = NO_ERROR, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text)


def open_wide() -> bytes:
    """The client's preface, its acknowledgement of the server's settings, and windows that nothing fills."""
    return (
        PREFACE
        + settings({INITIAL_WINDOW: LARGE_WINDOW, MAX_STREAMS: 0})
        + SETTINGS_ACK
        + window(0, LARGE_WINDOW)
    )


def opening() -> bytes:
    """The same with the windows that a protocol begins with."""
    return PREFACE + settings() + SETTINGS_ACK


# What the server says


@dataclass
class Answer:
    """What was said on one stream."""

    status: int | None = None
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    hints: list[int] = field(default_factory=list)
    """The statuses of interim responses."""
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[bytes, bytes]] | None = None
    ended: bool = False
    reset: int | None = None

    def brief(self) -> str:
        """In words: "200 ended", "200 reset 2", "reset 7", "200 open", "nothing"."""
        parts = [] if self.status is None else [str(self.status)]
        if self.ended:
            parts.append("ended")
        if self.reset is not None and not (self.ended and self.reset == NO_ERROR):
            parts.append(f"reset {self.reset}")
        if self.status is not None and not self.ended and self.reset is None:
            parts.append("open")
        return " ".join(parts) or "nothing"


class Said:
    """Reads what the server says, frame by frame, and holds it to RFC 9113."""

    def __init__(self) -> None:
        self.answers: dict[int, Answer] = {}
        self.settings: list[dict[int, int]] = []
        self.settings_acked = 0
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.goaways: list[tuple[int, int, bytes]] = []
        self.updates: dict[int, int] = {}
        """By stream: how much the client may send beyond the initial window."""
        self.kinds: list[int] = []
        self.rest = b""
        self._hpack = hpack.Decoder()
        self._initial_window = DEFAULT_WINDOW
        self._allowed: dict[int, int] = {}
        """By stream, 0 the connection: what the client's WINDOW_UPDATEs allow beyond the initial window."""
        self._used: dict[int, int] = {}
        self._open_block: tuple[int, int, bytes] | None = None

    def allow(self, sent: bytes) -> None:
        """The client has sent this; of whole, right frames it is known what they allow."""
        sent = sent.removeprefix(PREFACE)
        while len(sent) >= 9:
            length, kind, flags, stream = int.from_bytes(sent[:3], "big"), sent[3], sent[4], sent[5:9]
            payload, number = sent[9 : 9 + length], int.from_bytes(stream, "big")
            if kind == WINDOW_UPDATE and len(payload) == 4:
                self._allowed[number] = self._allowed.get(number, 0) + int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags & ACK:
                for at in range(0, len(payload) - 5, 6):
                    name, value = struct.unpack_from(">HI", payload, at)
                    if name == INITIAL_WINDOW:
                        # A server that has not read them yet may use the larger of the two.
                        self._initial_window = max(value, self._initial_window)
                    elif name == HEADER_TABLE_SIZE:
                        self._hpack.max_allowed_table_size = max(value, 4096)
            sent = sent[9 + length :]

    def feed(self, output: bytes) -> None:
        self.rest += output
        while len(self.rest) >= 9:
            length, kind, flags = int.from_bytes(self.rest[:3], "big"), self.rest[3], self.rest[4]
            stream = int.from_bytes(self.rest[5:9], "big")
            assert length <= FRAME_BYTES, "a frame longer than the client allows"
            if len(self.rest) < 9 + length:
                return
            payload, self.rest = self.rest[9 : 9 + length], self.rest[9 + length :]
            self.kinds.append(kind)
            self._frame(kind, flags, stream, payload)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._open_block is None or kind == CONTINUATION, "a frame within a field block"
        if kind == HEADERS:
            assert not flags & (PADDED | PRIORITIZED)
            self._field_block(stream, flags, payload, bool(flags & END_HEADERS))
        elif kind == CONTINUATION:
            assert self._open_block is not None
            began, first_flags, so_far = self._open_block
            assert began == stream
            self._field_block(stream, first_flags, so_far + payload, bool(flags & END_HEADERS))
        elif kind == DATA:
            assert not flags & PADDED
            self._data(stream, payload, bool(flags & END_STREAM))
        elif kind == RST_STREAM:
            answer = self.answers.setdefault(stream, Answer())
            assert answer.reset is None, "a stream is reset twice"
            (answer.reset,) = struct.unpack(">I", payload)
        elif kind == SETTINGS:
            if flags & ACK:
                self.settings_acked += 1
            else:
                self.settings.append(dict(struct.iter_unpack(">HI", payload)))
        elif kind == PING:
            assert len(payload) == 8
            (self.pongs if flags & ACK else self.pings).append(payload)
        elif kind == GOAWAY:
            last, code = struct.unpack_from(">II", payload)
            assert not self.goaways or last <= self.goaways[-1][0], (
                "a GOAWAY takes back what one before it said"
            )
            self.goaways.append((last, code, payload[8:]))
        elif kind == WINDOW_UPDATE:
            (size,) = struct.unpack(">I", payload)
            assert size > 0
            self.updates[stream] = self.updates.get(stream, 0) + size
        else:
            raise AssertionError(f"a frame that a server does not send: {kind}")

    def _open_answer(self, stream: int) -> Answer:
        answer = self.answers.setdefault(stream, Answer())
        assert not answer.ended, "a frame behind the end of a stream"
        assert answer.reset is None, "a frame behind the reset of a stream"
        return answer

    def _field_block(self, stream: int, flags: int, text: bytes, complete: bool) -> None:
        if not complete:
            self._open_block = (stream, flags, text)
            return
        self._open_block = None
        fields = [(bytes(name), bytes(value)) for name, value in self._hpack.decode(text, raw=True)]
        answer = self._open_answer(stream)
        names = [name for name, _ in fields]
        assert all(name == name.lower() for name in names)
        ended = bool(flags & END_STREAM)
        if answer.status is not None:
            assert ended, "trailers that do not end the stream"
            assert not any(name.startswith(b":") for name in names)
            answer.trailers = fields
        else:
            assert names.count(b":status") == 1
            assert names[0] == b":status"
            status = int(fields[0][1])
            if status < 200:
                assert not ended
                answer.hints.append(status)
                return
            answer.status, answer.fields = status, fields[1:]
        answer.ended = ended

    def _data(self, stream: int, payload: bytes, ended: bool) -> None:
        answer = self._open_answer(stream)
        assert answer.status is not None, "DATA before a final response"
        for number in (0, stream):
            self._used[number] = self._used.get(number, 0) + len(payload)
            initial = self._initial_window if number else DEFAULT_WINDOW
            assert self._used[number] <= initial + self._allowed.get(number, 0), (
                f"the window of {number} is passed"
            )
        answer.body += payload
        answer.ended = ended


# Scenes


class Plain(FakeTransport):
    """With a socket; what does not fit into it comes behind what did."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = b""

    def write(self, data: Any) -> None:
        self.calls.append("write")
        self.taken += super().read() + bytes(data)

    def writelines(self, parts: Any) -> None:
        self.calls.append("writelines")
        self.taken += super().read() + b"".join(parts)

    def read(self) -> bytes:
        data, self.taken = self.taken + super().read(), b""
        return data


class Tls(Solid):
    """With TLS, as far as anybody can see: ALPN chose a protocol, and there is no plain socket."""

    def __init__(self, ssl_object: Any = None) -> None:
        super().__init__()
        self.extra["ssl_object"] = ssl_object or SslObject()
        self.extra["sslcontext"] = object()


class SslObject:
    def __init__(self, protocol: Any = "h2") -> None:
        self.protocol = protocol

    def selected_alpn_protocol(self) -> Any:
        return self.protocol

    def version(self) -> str:
        return "TLSv1.3"


App = Callable[["Scene", Any, Any, Any], Awaitable[Any]]


class Scene(OneConnection):
    """One connection, what its app does on each path, and what everybody saw.

    ``apps``: by path, an async function of (scene, scope, receive, send). Other paths are answered with 200.
    """

    def __init__(
        self, apps: dict[str, App] | None = None, *, transport: FakeTransport | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.apps = {**APPS, **(apps or {})}
        self.said = Said()
        self.kept: list[Any] = []
        """Whatever a test wants to be alive."""
        given = {"http2": True, "http2_cleartext": True, **options}
        self.driver = Driver(self._app, **given)
        self.transport = Solid() if transport is None else transport
        self.connection = self.driver.factory()
        self.transport.connection = self.connection
        unraisable = self.unraisable  # the hook shall not keep the scene
        sys.unraisablehook = lambda args: unraisable.append(repr(args.exc_value))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.apps.get(scope["path"], answer_ok)(self, scope, receive, send)

    def make(self) -> None:
        self.connection.connection_made(self.transport)
        if "lost" in self.transport.calls:  # it was not made then, so nobody was told
            self.transport.calls.remove("lost")

    def open(self, *frames: bytes) -> None:
        """The connection is made, prefaces are exchanged, windows are wide; and then these come at once."""
        self.make()
        self.feed(open_wide(), *frames)

    def feed(self, *frames: bytes) -> None:
        """Whole frames, in one read."""
        for one in frames:
            self.said.allow(one)
        if self.connection is not None:
            self.connection.data_received(b"".join(frames))

    def hear(self) -> Said:
        """All that the server said until now."""
        self.said.feed(self.transport.read())
        return self.said

    def brief(self) -> dict[str, str]:
        """By stream: what was said on it, in words."""
        return {str(stream): answer.brief() for stream, answer in sorted(self.hear().answers.items())}

    async def end(self) -> list[int]:
        """Everything is over: the connections and requests that are left."""
        await turns()
        self.lose()
        await turns()
        self.driver.factory.abort()
        await turns()
        if self.connection is None:
            gc.collect()  # one of HTTP/1.1, which it is until its preface, is in a cycle with its parser
        return [self.driver.factory.connections, self.driver.factory.in_flight]

    async def result(self) -> dict[str, Any]:
        """Everything is over; what was seen of it."""
        await turns()
        before = list(self.transport.calls)
        left = await self.end()
        said = self.hear()
        return {
            "answers": self.brief(),
            "goaways": [[last, code] for last, code, _ in said.goaways],
            "seen": self.seen,
            "outcomes": self.driver.outcomes(),
            "rejects": [[status, reason] for status, reason, _ in self.driver.rejects],
            "unraisable": self.unraisable,
            "left": left,
            "closed": "close" in before or "abort" in before or "write_eof" in before,
            "aborted": "abort" in before,
        }


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY = {"type": "http.response.body", "body": b"body"}
MORE = {"type": "http.response.body", "body": b"more", "more_body": True}
BIG_BYTES = 200_000


async def answer_ok(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


async def answer_big(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"b" * BIG_BYTES})


async def answer_later(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await send(START)
    await send({**BODY, "more_body": True})
    await asyncio.sleep(0)
    await send(BODY)


async def answer_length(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    """How long the request's body was; nothing if the client goes in the middle of it."""
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
        if not message["more_body"]:
            break
    await send(START)
    await send({"type": "http.response.body", "body": b"%d" % length})


async def wait(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    """Begins, and goes on until the client is gone."""
    await send(START)
    await send(MORE)
    while (await receive())["type"] != "http.disconnect":
        pass


async def silent(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    """Says nothing until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def fail(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("evil app")


async def fail_late(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(MORE)
    raise ValueError("evil app")


APPS: dict[str, App] = {
    "/ok": answer_ok,
    "/big": answer_big,
    "/later": answer_later,
    "/up": answer_length,
    "/wait": wait,
    "/silent": silent,
    "/fail": fail,
    "/fail-late": fail_late,
}
