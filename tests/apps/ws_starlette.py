"""A Starlette app with what people do with its WebSockets: routes, endpoints, denials, rooms, middleware."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

NOTES = Path(os.environ.get("NOTES", "."))


def note(name: str, **facts: Any) -> None:
    """Leave a file that is there as a whole or not at all."""
    path = NOTES / name
    path.with_suffix(".new").write_text(json.dumps(facts))
    os.replace(path.with_suffix(".new"), path)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"room": set(), "greeting": "from the lifespan"}


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect as gone:
        note(socket.query_params["name"], code=gone.code, reason=gone.reason)


async def iterate(socket: WebSocket) -> None:
    """``iter_bytes`` ends by itself when the client goes."""
    await socket.accept()
    async for data in socket.iter_bytes():
        await socket.send_bytes(data[::-1])
    note(socket.query_params["name"], state=socket.client_state.name)


async def as_json(socket: WebSocket) -> None:
    await socket.accept()
    mode = socket.query_params.get("mode", "text")
    with suppress(WebSocketDisconnect):
        while True:
            await socket.send_json({"got": await socket.receive_json(mode=mode)}, mode=mode)


async def facts(socket: WebSocket) -> None:
    await socket.accept(subprotocol="json", headers=[(b"x-from", b"starlette")])
    await socket.send_json(
        {
            "id": socket.path_params["id"],
            "query": socket.query_params.multi_items(),
            "cookies": socket.cookies,
            "url": str(socket.url),
            "greeting": socket.state.greeting,
            "subprotocols": socket["subprotocols"],
        }
    )
    await socket.close(4001, "that is all")


async def deny(socket: WebSocket) -> None:
    """Starlette has it as a response of its own, which needs the extension."""
    response = JSONResponse({"error": "no token"}, 401, {"www-authenticate": "Bearer"})
    await socket.send_denial_response(response)


async def reject(socket: WebSocket) -> None:
    await socket.close(4003, "never seen")


async def fail(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive()
    raise LookupError("the failure of the app")


async def broadcast(socket: WebSocket) -> None:
    """What one says, all in the room hear, the one who said it too."""
    room: set[WebSocket] = socket.state.room
    await socket.accept()
    room.add(socket)
    try:
        async for text in socket.iter_text():
            await asyncio.gather(*[one.send_text(text) for one in room], return_exceptions=True)
    finally:
        room.discard(socket)


async def members(request: Request) -> Response:
    return JSONResponse(len(request.state.room))


async def ticker(socket: WebSocket) -> None:
    """Sends in a task of its own while it listens; ends when it is told to."""
    await socket.accept()

    async def tick() -> None:
        number = 0
        while True:
            await socket.send_text(f"tick {number}")
            number += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    try:
        assert await socket.receive_text() == "enough"
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])
    await socket.send_text(f"cancelled {ticking.cancelled()}")
    await socket.close()


class Upper(WebSocketEndpoint):
    """An endpoint class, with its three hooks."""

    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("welcome")

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data.upper())

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        note(websocket.query_params["name"], code=close_code)


class Stamp(BaseHTTPMiddleware):
    """Has no part in WebSockets, and must not be in their way."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-stamp"] = request.method
        return response


async def plain(request: Request) -> Response:
    return PlainTextResponse("plain")


routes = [
    Route("/plain", plain),
    WebSocketRoute("/echo", echo),
    WebSocketRoute("/iterate", iterate),
    WebSocketRoute("/json", as_json),
    WebSocketRoute("/facts/{id:int}", facts),
    WebSocketRoute("/deny", deny),
    WebSocketRoute("/reject", reject),
    WebSocketRoute("/fail", fail),
    WebSocketRoute("/ticker", ticker),
    WebSocketRoute("/upper", Upper),
]

app = Starlette(
    lifespan=lifespan,
    routes=[
        *routes,
        Route("/members", members),
        WebSocketRoute("/broadcast", broadcast),
        Mount("/stamped", app=Starlette(routes=routes, middleware=[Middleware(Stamp)])),
    ],
)
