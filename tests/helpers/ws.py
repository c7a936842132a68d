"""A WebSocket client that is not ours and is not clever, and apps that a test leads step by step.

Rules of this file: frames are written and read from RFC 6455 §5.2 alone, byte by byte, so that a test can
send what no library would; what the server sends is held to the RFC on the way (never masked, the shortest
length, whole control frames); "nothing came" is shown by a ping that is answered next, never by a sleep.

``Led`` is an app whose every step is taken when the test says so, in the app's own task. Its test ends each
of its connections (``leave``, ``fail``), or has ``leave_all`` do it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import h11

from tests.helpers.asgi import ok
from tests.helpers.http1 import PATIENCE_S, Client, Response, Server, get, until

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The pair of RFC 6455 §1.3."""
MASK = b"\x12\x34\x56\x78"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def handshake(
    target: str | bytes = "/", *fields: bytes, key: bytes | None = KEY, version: bytes | None = b"13"
) -> bytes:
    """An opening handshake (RFC 6455 §4.1); ``fields`` are whole field lines, None leaves one out."""
    lines = [b"Connection: Upgrade", b"Upgrade: websocket"]
    if key is not None:
        lines.append(b"Sec-WebSocket-Key: " + key)
    if version is not None:
        lines.append(b"Sec-WebSocket-Version: " + version)
    return get(target, *lines, *fields)


def masked(payload: bytes, mask: bytes) -> bytes:
    """RFC 6455 §5.3, one byte after the other."""
    return bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask), strict=False))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length_bytes: int | None = None,
) -> bytes:
    """A frame; ``length_bytes`` is the size of the extended length, 0, 2 or 8, None the shortest."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    masking = 0x80 if mask is not None else 0
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if length_bytes == 0:
        head += bytes([masking | size])
    elif length_bytes == 2:
        head += struct.pack("!BH", masking | 126, size)
    else:
        head += struct.pack("!BQ", masking | 127, size)
    return head + payload if mask is None else head + mask + masked(payload, mask)


def text(data: str) -> bytes:
    return frame(TEXT, data.encode())


def binary(data: bytes) -> bytes:
    return frame(BINARY, data)


def ping(data: bytes = b"") -> bytes:
    return frame(PING, data)


def pong(data: bytes = b"") -> bytes:
    return frame(PONG, data)


def close(code: int | None = 1000, reason: str = "") -> bytes:
    """A close frame; without a code it is empty."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def deflated(data: bytes, level: int = 6) -> bytes:
    """The payload of a compressed message (RFC 7692 §7.2.1), made without any context."""
    squeeze = zlib.compressobj(level, zlib.DEFLATED, -15)
    squeezed = squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    return squeezed.removesuffix(b"\x00\x00\xff\xff")


def inflated(payload: bytes, window_bits: int = 15) -> bytes:
    """What such a payload says (RFC 7692 §7.2.2), read without any context."""
    stretch = zlib.decompressobj(-window_bits)
    return stretch.decompress(payload + b"\x00\x00\xff\xff")


class Frame(NamedTuple):
    fin: bool
    rsv: int
    opcode: int
    payload: bytes


class WsClient:
    """A WebSocket on a raw connection: it sends whatever it is given, and believes nothing it reads."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._pings = itertools.count()

    def open(self, target: str | bytes = "/", *fields: bytes, **options: Any) -> Response:
        """The handshake and its answer, which must be the 101 of our key."""
        self.client.send(handshake(target, *fields, **options))
        return self.opened(options.get("key", KEY))

    def opened(self, key: bytes = KEY) -> Response:
        """The answer to a handshake that was sent before, which must be a 101 (RFC 6455 §4.2.2)."""
        response = self.answer()
        assert (response.status, response.reason) == (101, b"Switching Protocols"), response
        assert response.one(b"upgrade").lower() == b"websocket"
        assert response.one(b"connection").lower() == b"upgrade"
        assert response.one(b"content-length") is None, "RFC 9110 §8.6: not in a 1xx"
        assert response.one(b"transfer-encoding") is None
        if key == KEY:
            assert response.one(b"sec-websocket-accept") == ACCEPT
        return response

    def answer(self) -> Response:
        """The answer to a handshake: a 101 or any other response, whole."""
        parser = h11.Connection(h11.CLIENT)
        fields = [("host", "test"), ("connection", "upgrade"), ("upgrade", "websocket")]
        parser.send(h11.Request(method="GET", target="/", headers=fields))
        parser.send(h11.EndOfMessage())
        raw = b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data, self.client.buffered = self.client.buffered or self.client.receive(), b""
                raw += data
                parser.receive_data(data)
            elif isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                self.client.buffered = bytes(parser.trailing_data[0])
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                return Response(101, bytes(event.reason), headers)
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("the connection ended before an answer")
            else:  # not a WebSocket: read again as an ordinary response
                self.client.buffered = raw + self.client.buffered
                return self.client.response()

    def send(self, *frames: bytes) -> None:
        self.client.send(*frames)

    def send_each(self, pieces: list[bytes]) -> None:
        self.client.send_each(pieces)

    def _take(self, count: int) -> bytes:
        while len(self.client.buffered) < count:
            data = self.client.receive()
            assert data, f"the connection ended within a frame, after {self.client.buffered!r}"
            self.client.buffered += data
        taken, self.client.buffered = self.client.buffered[:count], self.client.buffered[count:]
        return taken

    def read_frame(self) -> Frame:
        """The next frame, which must be as a server may send one (RFC 6455 §5.1, §5.2, §5.5)."""
        first, second = self._take(2)
        assert not second & 0x80, "a server must not mask"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
            assert size > 125, "not the shortest length"
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
            assert 65536 <= size < 1 << 63, "not the shortest length"
        found = Frame(bool(first & 0x80), first >> 4 & 7, first & 15, self._take(size))
        assert found.opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), found
        if found.opcode >= CLOSE:
            assert found.fin, found
            assert found.rsv == 0, found
            assert size <= 125, found
        return found

    def _read_whole(self, opcode: int) -> bytes:
        found = self.read_frame()
        assert found[:3] == (True, 0, opcode), found
        return found.payload

    def read_text(self) -> str:
        """The next frame, which must be a whole text message, not compressed."""
        return self._read_whole(TEXT).decode()

    def read_binary(self) -> bytes:
        return self._read_whole(BINARY)

    def read_pong(self) -> bytes:
        return self._read_whole(PONG)

    def read_close(self) -> tuple[int, str]:
        """Code and reason of the next frame, which must be a close; 1005 if it says none."""
        payload = self._read_whole(CLOSE)
        if not payload:
            return 1005, ""
        assert len(payload) != 1, "half a code"
        code = int.from_bytes(payload[:2], "big")
        assert 1000 <= code < 5000, code
        assert code not in (1004, 1005, 1006, 1015), "RFC 6455 §7.4.1: never on the wire"
        return code, payload[2:].decode()

    def assert_closed(self) -> None:
        """The server closed the connection, cleanly, and sent nothing more."""
        self.client.assert_closed()

    def assert_no_frame(self) -> None:
        """Nothing came since, and the server is still there: the answer to a ping is what comes next."""
        data = b"still there? %d" % next(self._pings)
        self.send(ping(data))
        found = self.read_frame()
        assert found == Frame(True, 0, PONG, data), found

    def finish(self, code: int = 1000) -> None:
        """Closes as a well-behaved client does: a close frame, its answer, the end."""
        self.send(close(code))
        assert self.read_close()[0] == code
        self.assert_closed()


async def accept(
    receive: Any, send: Any, *, subprotocol: str | None = None, headers: Any = None
) -> dict[str, Any]:
    """Takes the connect and accepts it; the connect."""
    connect: dict[str, Any] = await receive()
    assert connect == {"type": "websocket.connect"}, connect
    message: dict[str, Any] = {"type": "websocket.accept"}
    if subprotocol is not None:
        message["subprotocol"] = subprotocol
    if headers is not None:
        message["headers"] = headers
    await send(message)
    return connect


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Sends each message back until the client goes; "ok" to an HTTP request."""
    if scope["type"] != "websocket":
        await ok(scope, receive, send)
        return
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})


class Heard:
    """Accepts, and keeps every message that receive() gives, up to the disconnect."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await ok(scope, receive, send)
            return
        self.scopes.append(scope)
        await accept(receive, send)
        while True:
            self.messages.append(await receive())
            if self.messages[-1]["type"] == "websocket.disconnect":
                return

    def end(self) -> dict[str, Any]:
        """The disconnect, once it is there."""
        until(lambda: self.messages and self.messages[-1]["type"] == "websocket.disconnect", "disconnect")
        return self.messages[-1]

    def data(self) -> list[Any]:
        """What the client said, once it is over."""
        self.end()
        return [data_of(message) for message in self.messages[:-1]]


def data_of(message: dict[str, Any]) -> Any:
    """The text or bytes of a websocket.receive, which has exactly one of them (ASGI WebSocket spec)."""
    assert set(message) == {"type", "text", "bytes"}, message
    assert message["type"] == "websocket.receive", message
    assert (message["text"] is None) != (message["bytes"] is None), message
    if message["text"] is None:
        assert type(message["bytes"]) is bytes
        return message["bytes"]
    assert type(message["text"]) is str
    return message["text"]


def disconnect(code: int, reason: str = "") -> dict[str, Any]:
    """What the app hears at the end."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def gone(server: Any) -> None:
    """Waits until the server has lost its connections."""
    until(lambda: server.factory.connections == 0, "the connection to be lost")


Step = Callable[[Any, Any], Awaitable[Any]]


class LedConnection:
    """One connection of a ``Led`` app. Each method is a step of the app, taken in its own task."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.over = False
        self.task = asyncio.current_task()
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[tuple[Step | BaseException | None, Any]] = asyncio.Queue()

    async def run(self) -> None:
        try:
            while True:
                step, result = await self._steps.get()
                if step is None:
                    result.set_result(None)
                    return
                if isinstance(step, BaseException):
                    result.set_result(None)
                    raise step
                try:
                    result.set_result(await step(self._receive, self._send))
                except BaseException as error:
                    result.set_exception(error)
                    if isinstance(error, asyncio.CancelledError):
                        raise
        finally:
            self.over = True
            while not self._steps.empty():  # cancelled before it could take them
                self._steps.get_nowait()[1].set_exception(asyncio.CancelledError())

    def begin(self, step: Step | BaseException | None) -> concurrent.futures.Future[Any]:
        """Has the app take this step; its result comes. Several are taken one after the other."""
        result: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._steps.put_nowait, (step, result))
        return result

    def do(self, step: Step) -> Any:
        """``await step(receive, send)`` in the app; its result, or what it raised."""
        return self.begin(step).result(PATIENCE_S)

    def receive(self) -> dict[str, Any]:
        async def step(receive: Any, send: Any) -> Any:
            return await receive()

        message: dict[str, Any] = self.do(step)
        return message

    def begin_receive(self) -> concurrent.futures.Future[Any]:
        async def step(receive: Any, send: Any) -> Any:
            return await receive()

        return self.begin(step)

    def send(self, message: Any) -> None:
        async def step(receive: Any, send: Any) -> None:
            await send(message)

        self.do(step)

    def connect(self) -> None:
        assert self.receive() == {"type": "websocket.connect"}

    def accept(self, **message: Any) -> None:
        """Takes the connect, accepts."""
        self.connect()
        self.send({"type": "websocket.accept", **message})

    def text(self, data: str) -> None:
        self.send({"type": "websocket.send", "text": data})

    def binary(self, data: bytes) -> None:
        self.send({"type": "websocket.send", "bytes": data})

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        message: dict[str, Any] = {"type": "websocket.close"}
        if code is not None:
            message["code"] = code
        if reason is not None:
            message["reason"] = reason
        self.send(message)

    def leave(self) -> None:
        """The app returns."""
        self.begin(None).result(PATIENCE_S)

    def fail(self, error: BaseException) -> None:
        """The app raises this."""
        self.begin(error).result(PATIENCE_S)


class Led:
    """An app that a test leads: each WebSocket is a ``LedConnection``. "ok" to an HTTP request."""

    def __init__(self) -> None:
        self.connections: list[LedConnection] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await ok(scope, receive, send)
            return
        connection = LedConnection(scope, receive, send)
        self.connections.append(connection)
        await connection.run()

    def connection(self, index: int = 0) -> LedConnection:
        """The connection with this number, once it is there."""
        until(lambda: len(self.connections) > index, f"WebSocket {index} to reach the app")
        return self.connections[index]

    def leave_all(self) -> None:
        for connection in self.connections:
            if not connection.over:
                connection.leave()


class Opened:
    """A client whose handshake an app that is led has: connection ``number`` of it. Not accepted yet."""

    def __init__(self, server: Server, led: Led, *fields: bytes, number: int = 0, target: str = "/") -> None:
        self.server = server
        self.client = server.connect()
        self.client.send(handshake(target, *fields))
        self.app = led.connection(number)
        self.ws = WsClient(self.client)

    def accepted(self) -> Opened:
        self.app.accept()
        self.ws.opened()
        return self
