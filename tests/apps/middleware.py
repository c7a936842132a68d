"""A slow view behind Starlette's BaseHTTPMiddleware, which drops its view when it hears of a disconnect."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import faulty
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

NOTES = Path(os.environ["NOTES"])


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-stamp"] = "there"
        return response


async def slow(request: Request) -> Response:
    (NOTES / "here").touch()
    while not (NOTES / "go").exists():
        await asyncio.sleep(0.02)
    return PlainTextResponse("at last")


starlette = Starlette(routes=[Route("/slow", slow)], middleware=[Middleware(Stamp)])


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/stream is faulty.py's: it tells when the streams are ended."""
    one = faulty.app if scope.get("path") == "/stream" else starlette
    await one(scope, receive, send)
