"""File responses of frameworks. Each app notes what it sent: one line of message types for each request.

The files are in the folder NOTES; so is ``sent``, the notes.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse as FastAPIFileResponse
from litestar import Litestar, get
from litestar.response import File
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

NOTES = Path(os.environ.get("NOTES", "."))


class Noted:
    """An app, and which messages it sends."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kinds: list[str] = []

        async def noting(message: Any) -> None:
            kinds.append(message["type"].removeprefix("http.response."))
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            with (NOTES / "sent").open("a") as file:
                file.write(" ".join(sorted(set(kinds))) + "\n")


# Starlette


async def download(request: Request) -> Response:
    return FileResponse(NOTES / request.path_params["name"])


async def attachment(request: Request) -> Response:
    return FileResponse(NOTES / request.path_params["name"], filename="fåil.bin", status_code=201)


async def once(request: Request) -> Response:
    """A file that is gone as soon as it was sent."""
    path = NOTES / "once"
    path.write_bytes((NOTES / "large.bin").read_bytes())
    return FileResponse(path, background=BackgroundTask(path.unlink))


ROUTES = [
    Route("/files/{name}", download),
    Route("/attachment/{name}", attachment),
    Route("/once", once),
    Mount("/mounted", StaticFiles(directory=NOTES, check_dir=False)),
]
starlette = Noted(Starlette(routes=ROUTES))


async def stamp(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["x-stamp"] = "middleware"
    return response


middleware = Noted(
    Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=stamp),
            Middleware(GZipMiddleware, minimum_size=10**9),
        ],
    )
)

# FastAPI

_fastapi = FastAPI()


@_fastapi.get("/files/{name}")
def fastapi_download(name: str) -> FastAPIFileResponse:
    return FastAPIFileResponse(NOTES / name)


fastapi = Noted(_fastapi)

# Litestar


@get("/files/{name:str}")
async def litestar_download(name: str) -> File:
    return File(path=NOTES / name, filename=name)


litestar = Noted(Litestar([litestar_download]))
