"""Pieces of ASGI apps that the tests are made of."""

from __future__ import annotations

from typing import Any

Headers = list[tuple[bytes, bytes]]

# scope["extensions"] of HTTP/1.1, and of HTTP/1.0, which has neither trailers nor interim responses.
FILES: dict[str, Any] = {"http.response.pathsend": {}, "http.response.zerocopysend": {}}
OFFERED = {**FILES, "http.response.trailers": {}, "http.response.early_hint": {}}


async def read_body(receive: Any) -> bytes:
    """The whole request body. A disconnect in it is an error."""
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def start(send: Any, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def body(send: Any, data: Any = b"", more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def reply(send: Any, data: bytes = b"ok", status: int = 200, headers: Headers | None = None) -> None:
    """A whole response, with its content-length unless ``headers`` are given."""
    if headers is None:
        headers = [(b"content-length", b"%d" % len(data))]
    await start(send, status, headers)
    await body(send, data)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await reply(send)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the request body."""
    await reply(send, await read_body(receive))


class Recorder:
    """Keeps the scope and the body of every request; answers with the number of the request."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.bodies.append(await read_body(receive))
        await reply(send, b"%d" % len(self.bodies))


class Everything:
    """Keeps every message that receive() gives, up to the disconnect, after having answered nothing."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            self.messages.append(message)
            if message["type"] == "http.disconnect":
                return
