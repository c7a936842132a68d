"""A plain ASGI app that tells what it was given, and waits when asked: for e2e tests of the server itself.

``NOTES`` is a folder in which app and test leave files for each other: "the request is here", "go on".
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import uuid
from pathlib import Path
from typing import Any

NOTES = Path(os.environ.get("NOTES", "."))

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
variable.set("set at import")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Lifespan, or a route."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        await ROUTES[scope["path"].removeprefix(scope["root_path"])](scope, receive, send)


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    scope["state"]["lifespan"] = "ran"
    (NOTES / f"up-{os.getpid()}").touch()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    (NOTES / f"down-{os.getpid()}").touch()
    await send({"type": "lifespan.shutdown.complete"})


async def show_scope(scope: Any, receive: Any, send: Any) -> None:
    """The scope as JSON."""
    known = ("client", "server", "path", "root_path", "method", "scheme", "http_version", "state")
    shown = {key: scope.get(key) for key in known}
    shown["state"] = {key: value for key, value in scope["state"].items() if key != "shardserve_shutdown"}
    shown["raw_path"] = scope["raw_path"].decode()
    shown["query_string"] = scope["query_string"].decode()
    shown["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    shown["pid"] = os.getpid()
    await answer(send, json.dumps(shown).encode())


async def context(scope: Any, receive: Any, send: Any) -> None:
    """What the variable was, and what it is from now on, in this request."""
    before = variable.get()
    variable.set("set by a request")
    await answer(send, before.encode())


async def status(scope: Any, receive: Any, send: Any) -> None:
    """An answer with the status of the query."""
    await answer(send, b"", status=int(scope["query_string"]))


async def wait(scope: Any, receive: Any, send: Any) -> None:
    """Leave a note that this request is here; answer when the file ``go`` is there."""
    (NOTES / f"here-{uuid.uuid4().hex}").touch()
    while not (NOTES / "go").exists():
        await asyncio.sleep(0.02)
    await answer(send, b"went on")


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """The first half of the body at once, the second when the file ``go`` is there."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first half, ", "more_body": True})
    while not (NOTES / "go").exists():
        await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b"second half"})


async def die(scope: Any, receive: Any, send: Any) -> None:
    """End the worker, as a crash in C would."""
    os._exit(7)


async def own_headers(scope: Any, receive: Any, send: Any) -> None:
    """An answer that has a Server and a Date header of its own."""
    headers = [(b"server", b"the app"), (b"date", b"long ago"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


ROUTES = {
    "/": show_scope,
    "/a b/é": show_scope,
    "/context": context,
    "/status": status,
    "/wait": wait,
    "/stream": stream,
    "/die": die,
    "/own-headers": own_headers,
}


def create() -> Any:
    """A factory of it."""
    return app


async def only_http(scope: Any, receive: Any, send: Any) -> None:
    """An app that does not know lifespan, and says so as many do."""
    if scope["type"] != "http":
        raise NotImplementedError(f"no {scope['type']} here")
    await app({**scope, "root_path": ""}, receive, send)


async def broken(scope: Any, receive: Any, send: Any) -> None:
    """An app whose startup fails by a bug."""
    await receive()
    raise RuntimeError("the bug in the startup")
