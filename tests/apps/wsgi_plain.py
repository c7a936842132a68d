"""WSGI apps without a framework, and one of ASGI 2: what frameworks hide from the server."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

NOTES = Path(os.environ.get("NOTES", "."))


def written(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written, ")
    write(b"then ")
    return [b"returned"]


def counted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """An upload, read in blocks; the answer begins with the first of them."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    digest, size = hashlib.sha256(), 0
    yield b"begun\n"
    while block := environ["wsgi.input"].read(1 << 20):
        digest.update(block)
        size += len(block)
    yield f"{size} {digest.hexdigest()}".encode()


def lines(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """What was sent, line by line, counted."""
    found = b"".join(b"%d " % len(line) for line in environ["wsgi.input"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [found]


def stubborn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Does not end by itself."""
    (NOTES / "began").touch()
    while True:
        time.sleep(0.05)


def endless(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    try:
        while True:
            yield bytes(65536)
    finally:
        (NOTES / "ended").touch()


def refuses(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("413 Content Too Large", [("Content-Type", "text/plain")])
    return [b"no"]


PATHS = {
    "/written": written, "/counted": counted, "/lines": lines, "/stubborn": stubborn, "/endless": endless,
    "/refuses": refuses,
}  # fmt: skip


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return PATHS[environ["PATH_INFO"]](environ, start_response)


# Complains, by an error, of whatever is not as PEP 3333 has it.
checked = validator(app)


def any_names(one: dict[str, Any], two: Callable[..., Any]) -> Iterable[bytes]:
    two("200 OK", [("Content-Type", "text/plain")])
    return [one["REQUEST_METHOD"].encode()]


class Asgi2:
    """An ASGI 2 app with a lifespan."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        if self.scope["type"] == "lifespan":
            await receive()
            (NOTES / "up").touch()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            (NOTES / "down").touch()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = f"ASGI {self.scope['asgi']['version']} {self.scope['path']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
