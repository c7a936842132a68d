"""A small WebSocket server, to be counted from outside: python -m tests.budget.ws_server."""

from __future__ import annotations

import asyncio
from typing import Any

from shardserve._native import ProtocolFactory
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits
from tests.budget import serving


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"], "text": message["text"]})


def make_factory(loop: asyncio.AbstractEventLoop) -> ProtocolFactory:
    """With what users get who set nothing."""
    return serving.factory(echo, loop, **request_limits(Config("none:none")))


if __name__ == "__main__":
    serving.main(make_factory)
