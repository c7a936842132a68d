"""A plain ASGI app behind a proxy: it tells what it was given, over HTTP and WebSocket.

The path ``/fail`` fails, ``/link`` answers with the URL of itself as a framework makes it.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import HTTPConnection


def told(scope: Any) -> str:
    """The scope as JSON, as far as a proxy can change it."""
    shown = {key: scope[key] for key in ("type", "client", "server", "scheme", "root_path", "path")}
    shown["raw_path"] = scope["raw_path"].decode("latin-1")
    shown["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    return json.dumps(shown)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": told(scope)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text")})
        return
    assert scope["type"] == "http", "no lifespan here"
    route = scope["path"].removeprefix(scope["root_path"])
    assert route != "/fail", "told to fail"
    text = str(HTTPConnection(scope).url) if route == "/link" else told(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
