"""Tells what it was given over TLS; echoes WebSocket messages; sends something large; waits."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

LARGE = bytes(range(256)) * 8192
NOTES = Path(os.environ.get("NOTES", "."))


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
    elif scope["type"] == "websocket":
        await echo(scope, receive, send)
    elif scope["path"] == "/large":
        await answer(send, LARGE)
    elif scope["path"] == "/wait":
        (NOTES / "waiting").touch()
        while not (NOTES / "go").exists():
            await asyncio.sleep(0.01)
        await answer(send, tell(scope))
    else:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await answer(send, tell(scope, size))


def tell(scope: Any, size: int = 0) -> bytes:
    seen = {name: scope[name] for name in ("scheme", "client", "server", "http_version")}
    told = {**seen, "tls": scope["extensions"].get("tls"), "size": size, "pid": os.getpid()}
    return json.dumps(told).encode()


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": scope["scheme"]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
