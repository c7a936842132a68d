"""An app in which anything can go wrong when asked for: the fault tests' victim."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
import time
from typing import Any

HOARD: list[bytearray] = []

time.sleep(float(os.environ.get("IMPORT_S", "0")))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Lifespan, or a route; what follows the ``?`` is its argument."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    route = ROUTES[scope["path"]]
    await route(scope, receive, send, scope["query_string"].decode())


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    hang = os.environ.get("STARTUP_HANGS")
    if hang and not os.path.exists(hang):
        time.sleep(1000)
    await asyncio.sleep(float(os.environ.get("STARTUP_S", "0")))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Any, **facts: Any) -> None:
    body = json.dumps({"pid": os.getpid(), **facts}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def who(scope: Any, receive: Any, send: Any, text: str) -> None:
    await answer(send, client=scope["client"], cores=sorted(os.sched_getaffinity(0)))


async def upload(scope: Any, receive: Any, send: Any, text: str) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await answer(send, size=size)


async def wait(scope: Any, receive: Any, send: Any, seconds: str) -> None:
    await asyncio.sleep(float(seconds))
    await answer(send)


async def hold(scope: Any, receive: Any, send: Any, path: str) -> None:
    """Until the file is there."""
    while not os.path.exists(path):
        await asyncio.sleep(0.02)
    await answer(send)


async def block(scope: Any, receive: Any, send: Any, seconds: str) -> None:
    """A blocking call on the event loop."""
    time.sleep(float(seconds))
    await answer(send)


async def spin(scope: Any, receive: Any, send: Any, seconds: str) -> None:
    """An endless computation on the event loop."""
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        pass
    await answer(send)


async def hog(scope: Any, receive: Any, send: Any, text: str) -> None:
    """A thread that keeps the GIL: one C call that does not give it up."""
    threading.Thread(target=lambda: sum(range(int(text))), name="hog", daemon=True).start()
    await answer(send)


async def segfault(scope: Any, receive: Any, send: Any, text: str) -> None:
    ctypes.string_at(0)


async def leave(scope: Any, receive: Any, send: Any, code: str) -> None:
    os._exit(int(code))


async def terminate(scope: Any, receive: Any, send: Any, text: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    await answer(send)


async def grow(scope: Any, receive: Any, send: Any, mib: str) -> None:
    HOARD.append(bytearray(os.urandom(1024)) * (1024 * int(mib)))
    await answer(send)


async def stream(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Events without an end, until the client is said to be gone."""
    await receive()
    gone = asyncio.ensure_future(receive())
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/event-stream")]})  # fmt: skip
    number = 0
    while not gone.done():
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        number += 1
        await asyncio.wait({gone}, timeout=0.05)
    assert gone.result() == {"type": "http.disconnect"}
    await send({"type": "http.response.body", "body": b"data: bye\n\n"})


async def stubborn(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Events without an end, whatever anybody says."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"more\n", "more_body": True})
        await asyncio.sleep(0.05)


async def foretold(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Waits for the server's shutdown to begin."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"waiting\n", "more_body": True})
    await scope["state"]["shardserve_shutdown"].wait()
    await send({"type": "http.response.body", "body": b"shutting down\n"})


ROUTES = {
    "/": who, "/upload": upload, "/wait": wait, "/hold": hold, "/block": block, "/spin": spin, "/hog": hog,
    "/segfault": segfault, "/leave": leave, "/terminate": terminate, "/grow": grow, "/stream": stream,
    "/stubborn": stubborn, "/foretold": foretold,
}  # fmt: skip

if "IMPORTS" in os.environ:
    with open(os.environ["IMPORTS"], "a") as notes:
        print(os.getpid(), file=notes)

if os.environ.get("BROKEN_IF") and os.path.exists(os.environ["BROKEN_IF"]):
    sys.exit("told to be broken")
