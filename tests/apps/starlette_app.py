"""A Starlette app that uses what people use of Starlette."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route

NOTES = Path(os.environ.get("NOTES", "."))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"greeting": "from the lifespan", "seen": []}
    (NOTES / f"down-{os.getpid()}").touch()


async def item(request: Request) -> Response:
    return JSONResponse(
        {
            "id": request.path_params["id"],
            "query": request.query_params.multi_items(),
            "path": request.url.path,
        }
    )


async def echo_json(request: Request) -> Response:
    return JSONResponse({"got": await request.json()}, status_code=201)


async def form(request: Request) -> Response:
    """An urlencoded form, parsed by hand: python-multipart is not a dependency of the tests."""
    return JSONResponse(parse_qsl((await request.body()).decode(), keep_blank_values=True))


async def upload(request: Request) -> Response:
    """What came, without keeping it."""
    digest, size, parts = hashlib.sha256(), 0, 0
    async for part in request.stream():
        digest.update(part)
        size, parts = size + len(part), parts + 1
    found = {"sha256": digest.hexdigest(), "size": size, "parts": parts}
    return JSONResponse(found | {"type": request.headers.get("content-type")})


async def stream_async(request: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        for number in range(100):
            yield f"line {number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain")


async def stream_sync(request: Request) -> Response:
    def parts() -> Iterator[bytes]:
        for number in range(100):
            yield b"%d " % number * 1000

    return StreamingResponse(parts())


async def file(request: Request) -> Response:
    return FileResponse(NOTES / request.path_params["name"], filename="download.bin")


async def events(request: Request) -> Response:
    """Server-sent events, without an end."""

    async def ticks() -> AsyncIterator[str]:
        name = request.query_params["name"]
        try:
            number = 0
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await asyncio.sleep(0.02)
        finally:
            (NOTES / f"ended-{name}").touch()

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def background(request: Request) -> Response:
    """The answer first; then a task that waits for the file ``go``."""

    async def later() -> None:
        while not (NOTES / "go").exists():
            await asyncio.sleep(0.02)
        (NOTES / "background-done").touch()

    return PlainTextResponse("answered", background=BackgroundTask(later))


async def state(request: Request) -> Response:
    request.state.seen.append(1)  # shared by all requests of this worker
    request.state.greeting_changed = True  # this request's only
    return JSONResponse({"greeting": request.state.greeting, "seen": len(request.state.seen)})


async def state_keys(request: Request) -> Response:
    return JSONResponse(sorted(request.scope["state"]))


async def fail(request: Request) -> Response:
    raise LookupError("the failure of the app")


async def fail_late(request: Request) -> Response:
    """Fails in the middle of a body."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise LookupError("the failure in the middle")

    return StreamingResponse(parts())


async def teapot(request: Request) -> Response:
    raise HTTPException(418, "short and stout")


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("item", id=7))


async def cookies(request: Request) -> Response:
    response = JSONResponse(request.cookies)
    response.set_cookie("one", "1", path="/")
    response.set_cookie("two", "2 and more", httponly=True)
    return response


async def where(request: Request) -> Response:
    found = {"path": request.scope["path"], "root_path": request.scope["root_path"]}
    return JSONResponse(found | {"item": str(request.url_for("item", id=7))})


async def where_mounted(request: Request) -> Response:
    scope = request.scope
    return JSONResponse({"path": scope["path"], "root_path": scope["root_path"], "url": str(request.url)})


def blocking(request: Request) -> Response:
    """A sync endpoint, which Starlette runs in a thread."""
    time.sleep(0.01)
    return PlainTextResponse("from a thread")


class Stamp(BaseHTTPMiddleware):
    """Adds a header; the best known middleware, and the one with the most trouble."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-stamp"] = request.method
        return response


shared_routes = [
    Route("/stream/async", stream_async),
    Route("/stream/sync", stream_sync),
    Route("/events", events),
    Route("/upload", upload, methods=["POST", "PUT"]),
    Route("/file/{name}", file),
    Route("/fail", fail),
    Route("/where", where_mounted),
]

app = Starlette(
    lifespan=lifespan,
    routes=[
        *shared_routes[:-1],
        Route("/items/{id:int}", item, name="item"),
        Route("/json", echo_json, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/background", background),
        Route("/state", state),
        Route("/state-keys", state_keys),
        Route("/fail-late", fail_late),
        Route("/teapot", teapot),
        Route("/redirect", redirect),
        Route("/cookies", cookies),
        Route("/where", where),
        Route("/blocking", blocking),
        Mount("/sub", app=Starlette(routes=shared_routes)),
        Mount("/stamped", app=Starlette(routes=shared_routes, middleware=[Middleware(Stamp)])),
    ],
)
