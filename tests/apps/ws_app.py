"""A plain ASGI app for WebSocket clients: each path shows or does one thing.

What follows the ``?`` is its argument. ``NOTES`` is a folder in which app and test leave files for each
other. Over HTTP it tells the type of its scope.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

NOTES = Path(os.environ.get("NOTES", "."))


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await answer(send, 200, json.dumps({"type": "http", "pid": os.getpid()}).encode())
    else:
        await ROUTES[scope["path"]](scope, receive, send, scope["query_string"].decode())


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    scope["state"]["greeting"] = "from the lifespan"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Any, status: int, body: bytes, kind: str = "http") -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})


def note(name: str, **facts: Any) -> None:
    """Leave a file that is there as a whole or not at all."""
    path = NOTES / name
    path.with_suffix(".new").write_text(json.dumps(facts))
    os.replace(path.with_suffix(".new"), path)


async def accept(receive: Any, send: Any, **how: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", **how})


async def echo(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Every message goes back. ``?name``: how it ended is noted under this name."""
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("bytes") is not None:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        else:
            await send({"type": "websocket.send", "text": message["text"]})
    if text:
        note(text, code=message["code"], reason=message.get("reason"))


async def sizes(scope: Any, receive: Any, send: Any, text: str) -> None:
    """What came, as type and length."""
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        kind = "bytes" if message.get("bytes") is not None else "text"
        await send({"type": "websocket.send", "text": f"{kind} {len(message[kind])}"})


async def chat(scope: Any, receive: Any, send: Any, wanted: str) -> None:
    """Agrees to the subprotocol after the ``?`` and adds a header; tells what was offered."""
    await accept(receive, send, subprotocol=wanted or None, headers=[(b"x-room", b"blue")])
    await send({"type": "websocket.send", "text": json.dumps(scope["subprotocols"])})
    await receive()


async def close(scope: Any, receive: Any, send: Any, text: str) -> None:
    """``?code,reason``: closes so, after the first message."""
    code, _, reason = unquote(text).partition(",")
    await accept(receive, send)
    await receive()
    await send({"type": "websocket.close", "code": int(code), "reason": reason})


async def deny(scope: Any, receive: Any, send: Any, status: str) -> None:
    await receive()
    await answer(send, int(status), b"not you", "websocket.http")


async def reject(scope: Any, receive: Any, send: Any, text: str) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def fail_before(scope: Any, receive: Any, send: Any, text: str) -> None:
    raise LookupError("the failure before accept")


async def fail_after(scope: Any, receive: Any, send: Any, text: str) -> None:
    await accept(receive, send)
    await receive()
    raise LookupError("the failure after accept")


async def return_before(scope: Any, receive: Any, send: Any, text: str) -> None:
    await receive()


async def return_after(scope: Any, receive: Any, send: Any, text: str) -> None:
    await accept(receive, send)
    await receive()


async def tell(scope: Any, receive: Any, send: Any, text: str) -> None:
    """The scope, as JSON."""
    await accept(receive, send)
    state = {"greeting": scope["state"]["greeting"]}
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    raw = {name: scope[name].decode("latin-1") for name in ("raw_path", "query_string")}
    found = {**scope, "state": state, "headers": headers, **raw}
    await send({"type": "websocket.send", "text": json.dumps(found)})
    await receive()


async def who(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Which process serves this: once for each message."""
    await accept(receive, send)
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(os.getpid())})


async def push(scope: Any, receive: Any, send: Any, text: str) -> None:
    """``?count,size``: so many messages, which nobody asked for; then a proper close."""
    count, size = map(int, text.split(","))
    await accept(receive, send)
    for number in range(count):
        await send({"type": "websocket.send", "bytes": number.to_bytes(4, "big") + bytes(size - 4)})
    await send({"type": "websocket.close", "code": 1000, "reason": "all sent"})


async def lag(scope: Any, receive: Any, send: Any, text: str) -> None:
    """Reads nothing until the file ``go`` is there. Then it tells how many messages came before ``end``."""
    await accept(receive, send)
    while not (NOTES / "go").exists():
        await asyncio.sleep(0.01)
    count = 0
    while (message := await receive())["type"] == "websocket.receive" and message.get("text") != "end":
        count += 1
    await send({"type": "websocket.send", "text": str(count)})
    await receive()


async def impatient(scope: Any, receive: Any, send: Any, text: str) -> None:
    """An echo that gives up waiting again and again."""
    await accept(receive, send)
    while True:
        try:
            message = await asyncio.wait_for(receive(), 0.001)
        except TimeoutError:
            continue
        if message["type"] != "websocket.receive":
            return
        await send({"type": "websocket.send", "text": message["text"]})


async def crowd(scope: Any, receive: Any, send: Any, text: str) -> None:
    """``?tasks,messages,size``: each task sends its own, all at once."""
    tasks, messages, size = map(int, text.split(","))
    await accept(receive, send)

    async def one(task: int) -> None:
        for number in range(messages):
            await send({"type": "websocket.send", "text": f"{task} {number} ".ljust(size, "x")})

    await asyncio.gather(*[one(task) for task in range(tasks)])
    await send({"type": "websocket.close"})


async def nothing(scope: Any, receive: Any, send: Any, name: str) -> None:
    """Says nothing, hears nothing; notes how it ended."""
    await accept(receive, send)
    message = await receive()
    assert message["type"] == "websocket.disconnect", message
    note(name, code=message["code"], reason=message.get("reason"))


ROUTES = {
    "/echo": echo,
    "/sizes": sizes,
    "/chat": chat,
    "/close": close,
    "/deny": deny,
    "/reject": reject,
    "/fail-before": fail_before,
    "/fail-after": fail_after,
    "/return-before": return_before,
    "/return-after": return_after,
    "/tell": tell,
    "/who": who,
    "/push": push,
    "/lag": lag,
    "/impatient": impatient,
    "/crowd": crowd,
    "/nothing": nothing,
}
