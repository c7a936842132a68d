"""An app that reads its request to the end and answers with the status of the query, and with the body."""

from __future__ import annotations

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    head = [(b"content-length", str(len(body)).encode())]
    status = int(scope["query_string"])
    await send({"type": "http.response.start", "status": status, "headers": head if status != 204 else []})
    await send({"type": "http.response.body", "body": body})
