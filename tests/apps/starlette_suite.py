"""A Starlette app with one route for each thing that Starlette's documentation promises.

``create()`` makes it, of the files in the folder $NOTES.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import UploadFile
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.websockets import WebSocket, WebSocketDisconnect

ends: dict[str, asyncio.Event] = {}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    app.state.started = True
    yield {"greeting": "from the lifespan", "log": []}


# Requests


async def whole(request: Request) -> Response:
    """What a request has."""
    return JSONResponse(
        {
            "method": request.method,
            "url": str(request.url),
            "parts": [request.url.scheme, request.url.netloc, request.url.path, request.url.query],
            "base_url": str(request.base_url),
            "query": request.query_params.multi_items(),
            "headers": [one for one in request.headers.items() if one[0].startswith("x-")],
            "values": request.headers.getlist("x-twice"),
            "cookies": request.cookies,
            "params": {name: str(value) for name, value in request.path_params.items()},
            "body": (await request.body()).decode("latin-1"),
        }
    )


async def echo_json(request: Request) -> Response:
    return JSONResponse(await request.json(), status_code=201, headers={"x-made": "yes"})


async def form(request: Request) -> Response:
    found: list[Any] = []
    async with request.form() as sent:
        for name, value in sent.multi_items():
            if isinstance(value, UploadFile):
                data = await value.read()
                found.append(
                    [name, value.filename, value.content_type, value.size, data.decode("latin-1")[:20]]
                )
            else:
                found.append([name, value])
    return JSONResponse(found)


async def streamed(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
    return PlainTextResponse(str(size))


async def disconnected(request: Request) -> Response:
    await request.body()  # first: is_disconnected() would take it for itself
    return JSONResponse([await request.is_disconnected(), await request.is_disconnected()])


# Responses


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        for number in range(10):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain", headers={"x-stream": "async"})


async def stream_sync(request: Request) -> Response:
    def parts() -> Iterator[bytes]:
        for number in range(10):
            yield b"%d" % number * 10_000

    return StreamingResponse(parts(), status_code=206)


async def events(request: Request) -> Response:
    """Server-sent events that end."""

    async def ticks() -> AsyncIterator[str]:
        for number in range(5):
            yield f"id: {number}\nevent: tick\ndata: {number}\n\n"

    return StreamingResponse(ticks(), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def file(request: Request) -> Response:
    path = request.app.state.folder / request.path_params["name"]
    return FileResponse(path, filename="ünï.bin", headers={"x-file": "1"})


async def cookies(request: Request) -> Response:
    response = JSONResponse(request.cookies)
    response.set_cookie("one", "1", path="/", max_age=60, samesite="strict")
    response.set_cookie("two", "two words", httponly=True)
    response.delete_cookie("three")
    return response


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("item", id=7), status_code=303)


async def raw(request: Request) -> Response:
    response = Response(b"\x00\xff", media_type="application/octet-stream")
    response.raw_headers.append((b"x-raw", b"a, b"))
    response.raw_headers.append((b"x-raw", b"c"))
    return response


async def nothing(request: Request) -> Response:
    return Response(status_code=int(request.path_params["status"]))


async def background(request: Request) -> Response:
    log = request.state.log
    ended = ends.setdefault("background", asyncio.Event())

    async def later(word: str) -> None:
        await asyncio.sleep(0)
        log.append(word)

    def in_a_thread(word: str) -> None:
        log.append(word)

    tasks = BackgroundTasks()
    tasks.add_task(later, "first")
    tasks.add_task(in_a_thread, word="second")
    tasks.add_task(ended.set)
    return PlainTextResponse("answered", background=tasks)


async def after_background(request: Request) -> Response:
    await asyncio.wait_for(ends.setdefault("background", asyncio.Event()).wait(), 20)
    found = list(request.state.log)
    request.state.log.clear()
    ends.clear()
    return JSONResponse(found)


async def state(request: Request) -> Response:
    return JSONResponse([request.state.greeting, request.app.state.started])


def blocking(request: Request) -> Response:
    return PlainTextResponse("from a thread")


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("get")

    def post(self, request: Request) -> Response:
        return PlainTextResponse("post", background=BackgroundTask(lambda: None))


class HexConvertor(Convertor[int]):
    regex = "[0-9a-f]+"

    def convert(self, value: str) -> int:
        return int(value, 16)

    def to_string(self, value: int) -> str:
        return f"{value:x}"


register_url_convertor("hex", HexConvertor())


# Errors


async def teapot(request: Request) -> Response:
    raise HTTPException(418, "short and stout", headers={"x-pot": "1"})


class Ours(Exception):
    """One with a handler."""


async def raises(request: Request) -> Response:
    raise Ours("of ours")


async def fails(request: Request) -> Response:
    raise LookupError("the failure of the app")


async def on_ours(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=409)


async def on_404(request: Request, error: Exception) -> Response:
    return HTMLResponse("<h1>not here</h1>", status_code=404)


async def on_500(request: Request, error: Exception) -> Response:
    return PlainTextResponse("sorry", status_code=500)


# Middleware


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        if "x-stop" in request.headers:
            return PlainTextResponse("stopped", status_code=403)
        body = await request.body()
        response: Response = await call_next(request)
        response.headers["x-stamp"] = f"{request.method} {len(body)}"
        return response


async def session(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    if "clear" in request.query_params:
        request.session.clear()
    return JSONResponse(request.session)


async def long_text(request: Request) -> Response:
    return PlainTextResponse("the same words again and again\n" * 100)


async def short_text(request: Request) -> Response:
    return PlainTextResponse("short")


# WebSockets


async def echo(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="chat" if "chat" in websocket["subprotocols"] else None)
    try:
        async for text in websocket.iter_text():
            await websocket.send_text(f"{websocket.query_params.get('name', '')}: {text}")
    except WebSocketDisconnect:
        pass


class Counting(WebSocketEndpoint):
    encoding = "json"

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"x-room", b"7")])

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_json({"got": data, "id": websocket.path_params["id"]})
        if data == "close":
            await websocket.close(4001, "as you wish")


async def binary(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        await websocket.send_bytes((message.get("bytes") or b"none")[::-1])


async def closes(websocket: WebSocket) -> None:
    await websocket.close(1008)


async def denies(websocket: WebSocket) -> None:
    await websocket.send_denial_response(
        JSONResponse({"no": "entry"}, status_code=403, headers={"x-no": "1"})
    )


def create() -> Starlette:
    folder = Path(os.environ["NOTES"])
    templates = Jinja2Templates(directory=folder / "templates")

    async def page(request: Request) -> Response:
        return templates.TemplateResponse(request, "page.html", {"name": request.path_params["name"]})

    inner = [Route("/whole", whole, name="inner"), Route("/text", long_text), Route("/short", short_text)]
    wrapped = [
        *inner,
        Route("/events", events),
        Route("/stream", stream),
        Route("/form", form, methods=["POST"]),
    ]
    wrapped += [Route("/file/{name}", file), Route("/raises", raises)]
    any_method = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    routes = [
        Route("/whole", whole, methods=any_method),
        Route("/items/{id:int}", whole, name="item"),
        Route("/float/{x:float}/{rest:path}", whole),
        Route("/hex/{x:hex}", whole),
        Route("/uuid/{x:uuid}", whole),
        Route("/json", echo_json, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/streamed", streamed, methods=["POST"]),
        Route("/disconnected", disconnected, methods=["POST"]),
        Route("/stream", stream),
        Route("/stream/sync", stream_sync),
        Route("/events", events),
        Route("/file/{name}", file),
        Route("/cookies", cookies),
        Route("/redirect", redirect),
        Route("/raw", raw),
        Route("/nothing/{status:int}", nothing),
        Route("/background", background),
        Route("/after-background", after_background),
        Route("/state", state),
        Route("/blocking", blocking),
        Route("/endpoint", Endpoint),
        Route("/page/{name}", page, name="page"),
        Route("/teapot", teapot),
        Route("/raises", raises),
        Route("/fails", fails),
        Route("/slash/", short_text),
        Mount("/mount/{user}/deep", app=Router(inner)),
        Mount("/mount", routes=inner, name="mount"),
        Mount("/static", app=StaticFiles(directory=folder / "static", html=True), name="static"),
        Mount("/gzip", routes=wrapped, middleware=[Middleware(GZipMiddleware, minimum_size=100)]),
        Mount("/stamp", routes=wrapped, middleware=[Middleware(Stamp)]),
        Mount(
            "/session",
            routes=[Route("/", session)],
            middleware=[Middleware(SessionMiddleware, secret_key="not a secret")],
        ),
        Mount(
            "/cors",
            routes=inner,
            middleware=[
                Middleware(
                    CORSMiddleware,
                    allow_origins=["https://example.org"],
                    allow_methods=["GET", "PUT"],
                    allow_credentials=True,
                    expose_headers=["x-one"],
                )
            ],
        ),
        Mount(
            "/trusted",
            routes=inner,
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["example.org", "*.example.com"])],
        ),
        Host("api.example.org", app=Router([Route("/host", short_text)])),
        WebSocketRoute("/ws/echo", echo),
        WebSocketRoute("/ws/count/{id:int}", Counting),
        WebSocketRoute("/ws/binary", binary),
        WebSocketRoute("/ws/closes", closes),
        WebSocketRoute("/ws/denies", denies),
    ]
    handlers: Any = {Ours: on_ours, 404: on_404, 500: on_500}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.state.folder = folder
    return app
