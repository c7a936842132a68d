"""What two servers are compared by: it tells its scope, and answers in every legal way and some others."""

from __future__ import annotations

import json
from typing import Any


def plain(value: Any) -> Any:
    """A scope's value as JSON has it, with bytes told from text."""
    if isinstance(value, bytes):
        return f"bytes: {value.decode('latin-1')}"
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(plain, value)]
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


async def read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def start(send: Any, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})


async def body(send: Any, data: bytes, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def scope(scope: Any, receive: Any, send: Any) -> None:
    data = json.dumps(
        {**plain(scope), "body": (await read(receive)).decode("latin-1")}, sort_keys=True
    ).encode()
    await start(send, 200, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(data)))
    await body(send, data)


async def status(scope: Any, receive: Any, send: Any) -> None:
    """``/status?204``: with an empty body, and a length where there may be one."""
    number = int(scope["query_string"])
    await start(send, number, *([] if number in (204, 304) else [(b"content-length", b"0")]))
    await body(send, b"")


async def parts(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200, (b"content-type", b"text/plain"))
    for part in (b"one ", b"", b"two ", b"x" * 100_000):
        await body(send, part, more=True)
    await body(send, b"end")


async def length(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200, (b"content-length", b"11"), (b"Content-Type", b"text/plain"))
    await body(send, b"hello ", more=True)
    await body(send, b"world")


async def no_length(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200)
    await body(send, b"hello world")


async def cookies(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-length", b"0"))
    await body(send, b"")


async def own(scope: Any, receive: Any, send: Any) -> None:
    """Headers that the server has, too."""
    headers = [(b"date", b"never"), (b"server", b"mine"), (b"content-length", b"2")]
    await start(send, 200, *headers)
    await body(send, b"ok")


async def says_close(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200, (b"connection", b"close"), (b"content-length", b"2"))
    await body(send, b"ok")


async def unread(scope: Any, receive: Any, send: Any) -> None:
    """Answers a request whose body it does not look at."""
    await start(send, 200, (b"content-length", b"2"))
    await body(send, b"ok")


async def fail(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("the failure of the app")


async def fail_late(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200, (b"content-length", b"100"))
    await body(send, b"begun", more=True)
    raise LookupError("the failure in the middle")


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Returns without an answer."""


async def short(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200, (b"content-length", b"100"))
    await body(send, b"too short")


async def long(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 200, (b"content-length", b"2"))
    await body(send, b"too long")


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    scope["state"]["greeting"] = "hello"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


PATHS = {
    "/status": status, "/parts": parts, "/length": length, "/no-length": no_length, "/cookies": cookies,
    "/own": own, "/close": says_close, "/unread": unread, "/fail": fail, "/fail-late": fail_late,
    "/nothing": nothing, "/short": short, "/long": long,
}  # fmt: skip


async def app(scope_: Any, receive: Any, send: Any) -> None:
    if scope_["type"] == "lifespan":
        await lifespan(scope_, receive, send)
        return
    path = scope_["path"].removeprefix(scope_.get("root_path", ""))
    await PATHS.get(path, scope)(scope_, receive, send)


def create() -> Any:
    return app


async def refuses(scope_: Any, receive: Any, send: Any) -> None:
    """Knows no lifespan."""
    assert scope_["type"] == "http"
    await app(scope_, receive, send)


async def startup_fails(scope_: Any, receive: Any, send: Any) -> None:
    assert scope_["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


class Double:
    """ASGI 2."""

    def __init__(self, scope_: Any) -> None:
        self.scope = scope_

    async def __call__(self, receive: Any, send: Any) -> None:
        await app(self.scope, receive, send)
