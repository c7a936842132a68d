"""Requests of every kind over HTTP/2, the apps that ``Scene`` does not have, and bodies to tell apart."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.helpers.ws import text
from tests.native.h2_drive import (
    BODY,
    INITIAL_WINDOW,
    START,
    data,
    head,
    ping,
    pseudo,
    request,
    reset,
    settings,
    tunnel,
    upload,
    window,
)

LONG_FILE = asyncio.base_events.__file__  # more than a frame


def pattern(stream: int, length: int) -> bytes:
    """A body that no other stream has, and no part of which is another part of it."""
    text = b"".join(b"%d:%d " % (stream, at) for at in range(length // 8 + 1))
    return text[:length]


REQUESTS: dict[str, list[bytes]] = {
    "plain": [request(1, "/ok")],
    "fields": [request(1, "/ok", "GET", *((b"x-%d" % number, b"v" * 40) for number in range(20)))],
    "cookies": [request(1, "/ok", "GET", (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"accept", b"x"))],
    "upload": [upload(1), data(1, b"x" * 3000), data(1, b"y" * 10, end=True)],
    "later": [request(1, "/later"), request(3, "/big"), request(5, "/fail")],
    "many": [request(number, "/ok") for number in range(1, 20, 2)],
    "big": [request(1, "/big")],
    "refused": [
        request(1, "/", "GET", (b"host", b"another")),
        head(3, [*pseudo(), (b"expect", b"x")], end=False),
    ],
    "reset": [upload(1, "/silent"), data(1, b"abc"), reset(1), request(3, "/ok")],
    "trailers": [request(1, "/trailers")],
    "file": [request(1, "/file")],
    "hints": [request(1, "/hints")],
    "websocket": [tunnel(1, "/ws"), data(1, text("hello")), data(1, b"", end=True)],
    "control": [ping(), settings({1: 0}), settings({INITIAL_WINDOW: 70_000}), window(0, 5)],
}


async def with_trailers(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "trailers": True})
    await send(BODY)
    await send({"type": "http.response.trailers", "headers": [(b"x-t", b"v")]})


async def with_file(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": []})
    await send({"type": "http.response.pathsend", "path": LONG_FILE})


async def with_hints(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    await send(START)
    await send(BODY)


async def echo(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


MORE_APPS = {"/trailers": with_trailers, "/file": with_file, "/hints": with_hints, "/ws": echo}
