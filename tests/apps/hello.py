"""The app of the worker tests: each path shows or does one thing."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import time
from typing import Any

at_import: contextvars.ContextVar[str] = contextvars.ContextVar("at_import", default="unset")
at_import.set("set at import")

EXIT_NOTE = os.environ.get("HELLO_EXIT_NOTE")
if EXIT_NOTE:

    @atexit.register
    def note_exit() -> None:
        with open(str(EXIT_NOTE), "w") as file:
            file.write("atexit ran")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    path = scope["path"]
    body = b"hello"
    if path == "/error":
        raise LookupError("the app's own error")
    if path == "/wait":
        await file_exists(scope["query_string"].decode())
    elif path == "/context":
        body = at_import.get().encode()
    elif path == "/state":
        body = repr(scope["state"]).encode()
    elif path == "/stuck-thread":
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
    elif path == "/leftover-task":
        scope["state"]["tasks"].append(asyncio.ensure_future(asyncio.Event().wait()))
    await answer(send, body)


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    scope["state"]["tasks"] = []
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("the app shuts down")
    await send({"type": "lifespan.shutdown.complete"})


async def file_exists(path: str) -> None:
    while not os.path.exists(path):
        await asyncio.sleep(0.01)


def create() -> Any:
    """A factory of it."""
    return app
