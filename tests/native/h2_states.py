"""States that a connection of HTTP/2 may be in: some frames, and an app on ``/evil`` (or a WebSocket)."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.helpers.ws import close, text
from tests.native.h2_drive import (
    BODY,
    MORE,
    START,
    Scene,
    data,
    head,
    opening,
    pseudo,
    request,
    reset,
    tunnel,
    upload,
)
from tests.native.h2_requests import LONG_FILE
from tests.native.test_collect import Owner

ACCEPT = {"type": "websocket.accept"}
LONG = {"type": "websocket.send", "text": "x" * 5000}
BIG = {"type": "http.response.body", "body": b"x" * 300_000}


async def never(*_: Any) -> None:
    await asyncio.get_running_loop().create_future()


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


async def headed(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": [(b"x-a", b"b" * 100)]})
    await never()


async def begun(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(MORE)
    await never()


async def congested(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({**BIG, "more_body": True})
    await send({**BIG, "more_body": True})


async def twice_congested(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    first = asyncio.ensure_future(send({**BIG, "more_body": True}))
    second = asyncio.ensure_future(receive())
    await asyncio.gather(first, second)
    await never()


async def with_trailers(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "trailers": True})
    await send(BIG)
    await send({"type": "http.response.trailers", "headers": [(b"x-t", b"v")]})


async def with_file(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": []})
    with open(LONG_FILE, "rb") as file:
        for _ in range(9):
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 0, "more_body": True})
    await never()


async def receiving(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    await never()


async def receiving_in_task(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.create_task(receive())
    await asyncio.create_task(receive())


async def not_receiving(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await never()


async def failing(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError((scope, receive, send))


async def open_websocket(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(ACCEPT)
    await send(LONG)
    await never()


async def full_websocket(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(ACCEPT)
    for _ in range(100):
        await send(LONG)
    await never()


async def listening(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(ACCEPT)
    while (await receive())["type"] != "websocket.disconnect":
        pass
    await never()


async def closing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(ACCEPT)
    await send({"type": "websocket.close"})
    await never()


async def denying(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"})
    await never()


GET = [request(1, "/evil")]
UPLOAD = [upload(1, "/evil"), data(1, b"x" * 100)]
OPEN = [tunnel(1, "/evil")]

STATES: dict[str, tuple[Any, list[bytes]]] = {
    "answered": (plain, GET),
    "many answered": (plain, [request(number, "/evil") for number in range(1, 81, 2)]),
    "running": (never, GET),
    "many running": (never, [request(number, "/evil") for number in range(1, 81, 2)]),
    "headed": (headed, GET),
    "begun": (begun, GET),
    "congested": (congested, GET),
    "many congested": (congested, [request(number, "/evil") for number in range(1, 21, 2)]),
    "congested in a task": (twice_congested, GET),
    "trailers to come": (with_trailers, GET),
    "a file to send": (with_file, GET),
    "receiving": (receiving, UPLOAD),
    "receiving in a task": (receiving_in_task, UPLOAD),
    "body not taken": (not_receiving, [*UPLOAD, *(data(1, b"x" * 10_000) for _ in range(6))]),
    "failed": (failing, GET),
    "reset": (receiving, [*UPLOAD, reset(1)]),
    "reset while congested": (congested, [*GET, request(3, "/evil"), reset(1)]),
    "refused": (
        plain,
        [request(1, "/", "GET", (b"host", b"another")), head(3, [*pseudo(), (b"expect", b"x")], end=False)],
    ),
    "malformed": (plain, [head(1, [*pseudo(), (b"Upper", b"x")]), head(3, [*pseudo(), (b"te", b"x")])]),
    "a head cut off": (plain, [request(1, "/evil")[:30]]),
    "a body cut off": (receiving, [*UPLOAD, data(1, b"x" * 50)[:20]]),
    "ended by an error": (begun, [*GET, b"\0\0\x01\0\0\0\0\0\0x"]),
    "websocket opening": (never, OPEN),
    "websocket": (open_websocket, OPEN),
    "websocket with a queue": (
        open_websocket,
        [*OPEN, *(data(1, text(str(number))) for number in range(40))],
    ),
    "websocket in a frame": (open_websocket, [*OPEN, data(1, text("half")[:5])]),
    "websocket listening": (listening, [*OPEN, data(1, text("x"))]),
    "websocket congested": (full_websocket, OPEN),
    "websocket closing": (closing, OPEN),
    "websocket closed": (open_websocket, [*OPEN, data(1, close(), end=True)]),
    "websocket reset": (listening, [*OPEN, reset(1)]),
    "websocket ended without a close": (listening, [*OPEN, data(1, b"", end=True)]),
    "websocket denied": (denying, OPEN),
    "websockets": (listening, [tunnel(number, "/evil") for number in range(1, 41, 2)]),
}


class App:
    """The app of a state; it keeps what it is given, and is kept by it."""

    def __init__(self, state: str, owner: Any = None) -> None:
        self.run, self.frames = STATES[state]
        self.owner = Owner() if owner is None else owner
        self.owner.mine = []

    async def __call__(self, scene: Any, scope: Any, receive: Any, send: Any) -> None:
        self.owner.mine.append((scope, receive, send, scene))
        await self.run(scope, receive, send)


def enter(state: str, owner: Any = None, **options: Any) -> Scene:
    """A scene in this state, with the windows that a protocol begins with."""
    app = App(state, owner)
    scene = Scene({"/evil": app}, **options)
    scene.make()
    scene.feed(opening(), *app.frames)
    return scene
