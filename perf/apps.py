"""The ASGI apps the servers run, one callable per scenario.

Rules of this file: standard library only, because every peer's interpreter imports it; one callable
per scenario, so that no app pays for a path dispatch it does not need; nothing is computed per
request that a real handler would compute once. An app says ``content-type`` and ``content-length``
itself, as frameworks do, and handles lifespan, as frameworks do.
"""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

# Spelled out rather than imported from shardserve.types: a peer's interpreter has no shardserve.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PLAIN_BODY = b"Hello, world!"
BODY_10K = b"0123456789abcdef" * 640
BODY_100K = b"0123456789abcdef" * 6400
STREAM_CHUNK = b"x" * 1024
STREAM_CHUNKS = 10
PLAIN_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
BINARY = (b"content-type", b"application/octet-stream")
BODY_10K_HEADERS = [BINARY, (b"content-length", b"%d" % len(BODY_10K))]
BODY_100K_HEADERS = [BINARY, (b"content-length", b"%d" % len(BODY_100K))]
JSON_DOCUMENT = {"message": "Hello, world!", "items": [1, 2, 3], "ok": True}


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Say yes to startup and to shutdown; some peers log a traceback for an app that refuses."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def plain(scope: Message, receive: Receive, send: Send) -> None:
    """Thirteen bytes and two headers: what remains is the server."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": PLAIN_HEADERS})
    await send({"type": "http.response.body", "body": PLAIN_BODY})


async def json(scope: Message, receive: Receive, send: Send) -> None:
    """A small document, encoded for every request."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    body = json_module.dumps(JSON_DOCUMENT).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(scope: Message, receive: Receive, send: Send) -> None:
    """Read the whole request body and answer with its length."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"%d" % length
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def body_10k(scope: Message, receive: Receive, send: Send) -> None:
    """One 10 KiB body, referenced rather than built: less than one frame of HTTP/2 may hold."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": BODY_10K_HEADERS})
    await send({"type": "http.response.body", "body": BODY_10K})


async def body_100k(scope: Message, receive: Receive, send: Send) -> None:
    """One 100 KiB body, referenced rather than built."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": BODY_100K_HEADERS})
    await send({"type": "http.response.body", "body": BODY_100K})


async def stream(scope: Message, receive: Receive, send: Send) -> None:
    """Ten chunks of 1 KiB without a content-length: the server frames them."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [BINARY]})
    for _ in range(STREAM_CHUNKS):
        await send({"type": "http.response.body", "body": STREAM_CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def ws_echo(scope: Message, receive: Receive, send: Send) -> None:
    """Every WebSocket message back as it came, until the client is gone."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        data = message.get("bytes")
        if data is None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": data})


async def suspend(scope: Message, receive: Receive, send: Send) -> None:
    """As plain, after giving the event loop one turn: what awaiting a database does to the server."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": PLAIN_HEADERS})
    await send({"type": "http.response.body", "body": PLAIN_BODY})
