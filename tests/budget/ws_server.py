"""A small WebSocket server of its own process, to be counted from outside: python -m tests.budget.ws_server.

Prints its port, serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"], "text": message["text"]})


def make_factory(loop: asyncio.AbstractEventLoop) -> ProtocolFactory:
    """With what users get who set nothing."""
    return ProtocolFactory(
        echo,
        loop=loop,
        context=contextvars.copy_context(),
        state=None,
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
        **request_limits(Config("none:none")),
    )


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
    sys.exit(0)
