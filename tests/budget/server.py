"""A small server, to be counted from outside: python -m tests.budget.server."""

from __future__ import annotations

import asyncio
from typing import Any

from shardserve._native import ProtocolFactory
from tests.budget import serving

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/later":
        await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


def make_factory(loop: asyncio.AbstractEventLoop) -> ProtocolFactory:
    return serving.factory(app, loop)


if __name__ == "__main__":
    serving.main(make_factory)
