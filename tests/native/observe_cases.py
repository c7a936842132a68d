"""Every way that a request ends, and what the access log and the figures must say of it.

Rules of this file: a case is a coroutine function of an Eyes that brings connections about, and beside it the
lines (method, target, status, bytes of the request's body, bytes of the response's) and the figures that
follow from the contract.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.ws import close, handshake, text
from tests.native.drive import turns
from tests.native.observe_drive import Eyes, Op, request
from tests.native.ws_drive import engine

OPS: list[Op] = [("method", None), ("target", None), ("status", None), ("request_bytes", None)]
OPS += [("response_bytes", None)]
SMALL, LARGE = 1000, 4 << 20

Line = tuple[str, str, int, int, int]


def file_of(size: int) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the app has it)
    file.truncate(size)
    return file


def start(status: int = 200, *headers: tuple[bytes, bytes], **rest: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers, **rest}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def say(path: str, receive: Any, send: Any) -> None:
    if path == "/empty":
        await send(start())
        await send(body())
    elif path.startswith("/status/"):
        await send(start(int(path.removeprefix("/status/"))))
        await send(body(b"dropped?"))
    elif path == "/stream":
        await send(start())
        for part in (b"a" * 10, b"", b"b" * 5):
            await send(body(part, True))
            await asyncio.sleep(0)
        await send(body())
    elif path in ("/file", "/large"):
        await send(start())
        size = SMALL if path == "/file" else LARGE
        await send({"type": "http.response.zerocopysend", "file": file_of(size)})
    elif path == "/path":
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(SMALL)
            await send(start())
            await send({"type": "http.response.pathsend", "path": file.name})
    elif path == "/parts":
        await send(start())
        await send(body(b"ab", True))
        await send({"type": "http.response.zerocopysend", "file": file_of(7), "more_body": True})
        await send(body(b"c"))
    elif path == "/trailers":
        await send(start(trailers=True))
        await send(body(b"x"))
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1234567890")]})
    elif path == "/hints":
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send(start())
        await send(body(b"x"))
    elif path == "/boom":
        raise ValueError("boom")
    elif path == "/head-boom":
        await send(start(201))
        raise ValueError("boom")
    elif path == "/nothing":
        return
    elif path == "/cut":
        await send(start(200, (b"content-length", b"10")))
        await send(body(b"12345", True))
        raise ValueError("boom")
    elif path == "/cut-chunks":
        await send(start())
        await send(body(b"12345", True))
        raise ValueError("boom")
    elif path == "/after":
        await send(start())
        await send(body(b"ok"))
        raise ValueError("boom")
    elif path == "/wait":
        await until_gone(receive)
    elif path == "/begun":
        await send(start())
        await send(body(b"begun", True))
        await until_gone(receive)
    elif path == "/head-only":
        await send(start())
        await until_gone(receive)
    else:
        while (await receive()).get("more_body"):
            pass
        await send(start())
        await send(body(b"0123456789"))


async def socket(path: str, receive: Any, send: Any) -> None:
    await receive()
    if path == "/boom":
        raise ValueError("boom")
    if path == "/deny":
        await send({"type": "websocket.close"})
        return
    if path == "/answer":
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    await send({"type": "websocket.accept"})
    if path == "/late-boom":
        raise ValueError("boom")
    if path == "/close":
        await send({"type": "websocket.close"})
        return
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def app(scope: Any, receive: Any, send: Any) -> None:
    await (socket if scope["type"] == "websocket" else say)(scope["path"], receive, send)


Play = Callable[[Eyes], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    play: Play
    lines: list[Line]
    figures: dict[str, int] = field(default_factory=dict)
    """Besides ``accepted`` (1 unless it says so) and what each line brings."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Every counter that is not zero."""
        found: dict[str, int] = {"accepted": 1}
        methods = {"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"}
        for method, _, status, _, _ in self.lines:
            name = f"responses_{method if method in methods else 'other'}_{status // 100}xx"
            found[name] = found.get(name, 0) + 1
        found |= self.figures
        return {name: count for name, count in found.items() if count}


def asks(*targets: str, method: bytes = b"GET", version: bytes = b"1.1", data: bytes | None = None) -> Play:
    """One connection, one request after the other."""

    async def play(eyes: Eyes) -> None:
        pieces = [request(method, target.encode(), body=data, version=version) for target in targets]
        await eyes.talk(*pieces)

    return play


def sends(*pieces: bytes) -> Play:
    """One connection, these reads."""
    return lambda eyes: eyes.talk(*pieces)


def leaves(target: str, *, error: bool = False, read: bool = True) -> Play:
    """The client goes while the app still waits."""

    async def play(eyes: Eyes) -> None:
        connection, transport = eyes.connect()
        connection.data_received(request(b"GET", target.encode()))
        await turns()
        if read:
            transport.read()
        connection.connection_lost(ConnectionResetError() if error else None)
        await turns()

    return play


async def half_closed(eyes: Eyes) -> None:
    """The client has sent all it has to say, and still reads."""
    connection, _ = eyes.connect()
    connection.data_received(request(b"GET", b"/begun"))
    await turns()
    connection.eof_received()
    await turns()
    connection.connection_lost(None)
    await turns()


async def large_file(eyes: Eyes) -> None:
    """All of it arrives, in many parts."""
    connection, transport = eyes.connect()
    connection.data_received(request(b"GET", b"/large"))
    got = 0
    for _ in range(20_000):
        await asyncio.sleep(0)
        got += len(transport.read())
        if got > LARGE:
            break
        if transport.written:  # what did not fit went to the transport
            got += len(transport.written)
            transport.written = b""
            connection.resume_writing()
    await turns()
    connection.connection_lost(None)
    await turns()


async def refused(eyes: Eyes) -> None:
    """A second request while one is in flight, with limit_concurrency 1."""
    connection, transport = eyes.connect()
    connection.data_received(request(b"GET", b"/wait"))
    await turns()
    await eyes.talk(request(b"GET", b"/second"))
    connection.connection_lost(None)
    await turns()
    transport.read()


async def conversation(eyes: Eyes) -> None:
    await eyes.talk(handshake("/echo?a"), text("one") + text("two"), close(1000))


async def upload(eyes: Eyes) -> None:
    """A body in two reads, and a second request behind it."""
    data = request(b"POST", b"/read", body=b"x" * 100)
    await eyes.talk(data[:-60], data[-60:], request(b"GET", b"/read"))


async def upload_left(eyes: Eyes) -> None:
    """The client goes in the middle of its body: the app has not answered."""
    await eyes.talk(request(b"POST", b"/read", body=b"x" * 100)[:-60])


CHUNKS = request(b"POST", b"/read", (b"Transfer-Encoding", b"chunked"))
CHUNKS += b"3\r\nabc\r\n2;e=1\r\nde\r\n0\r\n\r\n"
WEBSOCKET = {"websocket": engine()}
TEN: Line = ("GET", "/read", 200, 0, 10)


def one(target: str, status: int, size: int, method: str = "GET", taken: int = 0) -> list[Line]:
    return [(method, target, status, taken, size)]


CASES: dict[str, Case] = {
    "a body": Case(asks("/read"), [TEN]),
    "no body": Case(asks("/empty"), one("/empty", 200, 0)),
    "HEAD": Case(asks("/read", method=b"HEAD"), one("/read", 200, 0, "HEAD")),
    "HEAD of a file": Case(asks("/file", method=b"HEAD"), one("/file", 200, 0, "HEAD")),
    "204": Case(asks("/status/204"), one("/status/204", 204, 0)),
    "205": Case(asks("/status/205"), one("/status/205", 205, 0)),
    "304": Case(asks("/status/304"), one("/status/304", 304, 0)),
    "404": Case(asks("/status/404"), one("/status/404", 404, 8)),
    "599": Case(asks("/status/599"), one("/status/599", 599, 8)),
    "a stream": Case(asks("/stream"), one("/stream", 200, 15)),
    "a stream to HTTP/1.0": Case(asks("/stream", version=b"1.0"), one("/stream", 200, 15)),
    "HTTP/1.0": Case(asks("/read", version=b"1.0"), [TEN]),
    "a file": Case(asks("/file"), one("/file", 200, SMALL)),
    "a path": Case(asks("/path"), one("/path", 200, SMALL)),
    "a large file": Case(large_file, one("/large", 200, LARGE)),
    "parts of a file": Case(asks("/parts"), one("/parts", 200, 10)),
    "trailers nobody takes": Case(asks("/trailers"), one("/trailers", 200, 1)),
    "trailers": Case(sends(request(b"GET", b"/trailers", (b"TE", b"trailers"))), one("/trailers", 200, 1)),
    "early hints": Case(asks("/hints"), one("/hints", 200, 1)),
    "100-continue": Case(
        sends(request(b"POST", b"/read", (b"Expect", b"100-continue"), body=b"abc")),
        one("/read", 200, 10, "POST", 3),
    ),
    "pipelined": Case(sends(request(b"GET", b"/read") * 3), [TEN] * 3, {"reused": 2}),
    "pipelined, one suspends": Case(
        sends(request(b"GET", b"/stream") + request(b"GET", b"/read")),
        [*one("/stream", 200, 15), TEN],
        {"reused": 1},
    ),
    "an upload": Case(upload, [("POST", "/read", 200, 100, 10), TEN], {"reused": 1}),
    "chunks": Case(sends(CHUNKS), one("/read", 200, 10, "POST", 5)),
    "a method of its own": Case(asks("/read", method=b"BREW"), one("/read", 200, 10, "BREW")),
    "an app that fails": Case(asks("/boom"), one("/boom", 500, 21), {"app_errors": 1}),
    "an app that fails behind its head": Case(
        asks("/head-boom"), one("/head-boom", 500, 21), {"app_errors": 1}
    ),
    "a HEAD that fails": Case(asks("/boom", method=b"HEAD"), one("/boom", 500, 0, "HEAD"), {"app_errors": 1}),
    "an app that fails behind its response": Case(asks("/after"), one("/after", 200, 2), {"app_errors": 1}),
    "a length that is cut": Case(asks("/cut"), one("/cut", 200, 5), {"app_errors": 1}),
    "chunks that are cut": Case(asks("/cut-chunks"), one("/cut-chunks", 200, 5), {"app_errors": 1}),
    "gone before the head": Case(leaves("/wait"), [], {"abandoned": 1}),
    "gone behind a head that was not sent": Case(leaves("/head-only"), [], {"abandoned": 1}),
    "gone behind the head": Case(leaves("/begun"), one("/begun", 200, 5), {"abandoned": 1}),
    "reset behind the head": Case(leaves("/begun", error=True), one("/begun", 200, 5), {"abandoned": 1}),
    "half-closed behind the head": Case(half_closed, one("/begun", 200, 5)),
    "gone in its upload": Case(upload_left, [], {"abandoned": 1}),
    "too many in flight": Case(
        refused, one("/second", 503, 19), {"accepted": 2, "abandoned": 1}, {"limit_concurrency": 1}
    ),
    "a WebSocket": Case(
        conversation,
        [("GET", "/echo?a", 101, 0, 0)],
        {"websockets_accepted": 1, "ws_messages_received": 2, "ws_messages_sent": 2},
        WEBSOCKET,
    ),
    "a WebSocket that is denied": Case(sends(handshake("/deny")), one("/deny", 403, 0), {}, WEBSOCKET),
    "a WebSocket that is answered": Case(sends(handshake("/answer")), one("/answer", 404, 2), {}, WEBSOCKET),
    "a WebSocket whose app fails": Case(
        sends(handshake("/boom")), one("/boom", 500, 21), {"app_errors": 1}, WEBSOCKET
    ),
    "a WebSocket whose app fails later": Case(
        sends(handshake("/late-boom")),
        one("/late-boom", 101, 0),
        {"app_errors": 1, "websockets_accepted": 1},
        WEBSOCKET,
    ),
    "a WebSocket behind a request": Case(
        sends(request(b"GET", b"/read"), handshake("/close")),
        [TEN, *one("/close", 101, 0)],
        {"reused": 1, "websockets_accepted": 1},
        WEBSOCKET,
    ),
    "silence": Case(sends(), []),
    "half a request": Case(sends(b"GET / HTTP/1.1\r\nHo"), []),
}
