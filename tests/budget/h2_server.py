"""The app of tests/budget/server.py over HTTP/2: python -m tests.budget.h2_server."""

from __future__ import annotations

import asyncio
from typing import Any

from shardserve._native import ProtocolFactory
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits
from tests.budget import serving
from tests.budget.server import app as answer


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["method"] == "POST":
        while (await receive())["more_body"]:
            pass
    await answer(scope, receive, send)


def make_factory(loop: asyncio.AbstractEventLoop) -> ProtocolFactory:
    """With what users get who set nothing but the protocol."""
    limits: dict[str, Any] = {**request_limits(Config("none:none")), "http2_cleartext": True}
    return serving.factory(app, loop, **limits)


if __name__ == "__main__":
    serving.main(make_factory)
