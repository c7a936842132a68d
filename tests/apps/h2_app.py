"""The app of the HTTP/2 tests: it tells what it was given, and each path does one thing that a stream can do.

``NOTES`` is a folder in which app and test leave files for each other. With ``LEDGER`` set, that file gets
the ``x-number`` of every request that reaches the app: to compare with what the clients got.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

NOTES = Path(os.environ.get("NOTES", "."))
LEDGER = (
    os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    if "LEDGER" in os.environ
    else None
)
STYLE = b"</style.css>; rel=preload; as=style"
RESOURCES = 30


def pattern(size: int) -> bytes:
    """``size`` bytes in which no two places look alike to a reader that is off by a frame."""
    return b"".join(number.to_bytes(4, "big") for number in range(-(-size // 4)))[:size]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
        return
    if LEDGER is not None:
        number = dict(scope["headers"]).get(b"x-number")
        if number is not None:
            os.write(LEDGER, number + b"\n")
    route = ROUTES[scope["path"].removeprefix(scope["root_path"])]
    await route(scope, receive, send, scope["query_string"].decode())


# What the routes share


async def start(send: Any, *fields: tuple[bytes, bytes], status: int = 200, trailers: bool = False) -> None:
    message = {"type": "http.response.start", "status": status, "headers": list(fields)}
    await send(message | ({"trailers": True} if trailers else {}))


async def body(send: Any, data: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def note_when_gone(receive: Any, name: str) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    (NOTES / f"gone-{name}").touch()


def told(scope: Any, digest: str, size: int) -> bytes:
    names = ("http_version", "method", "scheme", "path", "root_path", "client", "server")
    found = {name: scope[name] for name in names}
    found["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    found |= {"raw_path": scope["raw_path"].decode(), "query": scope["query_string"].decode()}
    found |= {"extensions": sorted(scope["extensions"]), "pid": os.getpid()}
    return json.dumps(found | {"size": size, "sha256": digest}).encode()


# The routes; ``text`` is the query


async def tell(scope: Any, receive: Any, send: Any, text: str) -> None:
    """The scope, and what the request's body was, as JSON."""
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await start(send, (b"content-type", b"application/json"))
    await body(send, told(scope, digest.hexdigest(), size))


async def echo(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Each part of the request's body as it comes, in a response that begins before there is any."""
    await start(send)
    await body(send, more=True)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await body(send, message["body"], more=more)


async def large(scope: Any, receive: Any, send: Any, size: str) -> None:
    """``pattern(size)``, in parts of an odd length."""
    data = memoryview(pattern(int(size)))
    await start(send, (b"content-length", size.encode()))
    for at in range(0, len(data), 49_999):
        await body(send, bytes(data[at : at + 49_999]), more=True)
    await body(send)


async def status(scope: Any, receive: Any, send: Any, code: str) -> None:
    await start(send, status=int(code))
    await body(send)


async def hints(scope: Any, receive: Any, send: Any, text: str) -> None:
    """103, and trailers behind the body."""
    await send({"type": "http.response.early_hint", "links": [STYLE]})
    await start(send, (b"trailer", b"x-sum"), trailers=True)
    await body(send, b"between hint and trailer")
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"24")]})


async def hold(scope: Any, receive: Any, send: Any, name: str) -> None:
    """Answer when the file ``go`` is there."""
    (NOTES / f"here-{name}").touch()
    while not (NOTES / "go").exists():
        await asyncio.sleep(0.01)
    await start(send)
    await body(send, b"went on")


async def halves(scope: Any, receive: Any, send: Any, name: str) -> None:
    """The first half at once, the second when the file ``go`` is there, unless the client leaves before."""
    gone = asyncio.ensure_future(note_when_gone(receive, name))
    await start(send)
    await body(send, b"first half, ", more=True)
    while not (NOTES / "go").exists() and not gone.done():
        await asyncio.sleep(0.01)
    if not gone.done():
        gone.cancel()
        await body(send, b"second half")


async def never(scope: Any, receive: Any, send: Any, name: str) -> None:
    """No answer; a note when the client has left."""
    (NOTES / f"here-{name}").touch()
    await note_when_gone(receive, name)


async def stubborn(scope: Any, receive: Any, send: Any, text: str) -> None:
    """More and more, whatever anybody says."""
    await start(send)
    while True:
        await body(send, b"more\n", more=True)
        await asyncio.sleep(0.05)


async def events(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Server-sent events without an end, until the client is said to be gone; then a last one."""
    await receive()
    gone = asyncio.ensure_future(receive())
    await start(send, (b"content-type", b"text/event-stream"))
    number = 0
    while not gone.done():
        await body(send, b"data: %d\n\n" % number, more=True)
        number += 1
        await asyncio.wait({gone}, timeout=0.02)
    (NOTES / f"gone-{text}").touch()
    await body(send, b"data: bye\n\n")


async def file(scope: Any, receive: Any, send: Any, name: str) -> None:
    path = NOTES / name
    await start(send, (b"content-length", str(path.stat().st_size).encode()))
    await send({"type": "http.response.pathsend", "path": str(path)})


async def early(scope: Any, receive: Any, send: Any, text: str) -> None:
    """An answer to a request whose body nobody reads."""
    await start(send, status=403)
    await body(send, b"not that")


async def breaks(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Fails in the middle of its response, when the file ``go`` is there."""
    await start(send)
    await body(send, b"the beginning", more=True)
    while not (NOTES / "go").exists():
        await asyncio.sleep(0.01)
    raise LookupError("the failure in the middle")


async def page(scope: Any, receive: Any, send: Any, text: str) -> None:
    """For browsers: with many small things to load."""
    images = "".join(f'<img src="/dot.svg?{number}">' for number in range(RESOURCES))
    await start(send, (b"content-type", b"text/html; charset=utf-8"))
    await body(send, f"<!doctype html><title>HTTP/2</title><link rel=icon href=data:>{images}".encode())


async def dot(scope: Any, receive: Any, send: Any, text: str) -> None:
    await start(send, (b"content-type", b"image/svg+xml"))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><title>{text}</title></svg>'
    await body(send, svg.encode())


ROUTES = {
    "/": tell, "/a b/é": tell, "/echo": echo, "/large": large, "/status": status, "/hints": hints,
    "/hold": hold, "/halves": halves, "/never": never, "/stubborn": stubborn, "/events": events,
    "/file": file, "/early": early, "/breaks": breaks, "/page": page, "/dot.svg": dot,
}  # fmt: skip
