"""The app of tests/budget/server.py over HTTP/2, of its own process: python -m tests.budget.h2_server.

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
from tests.budget.server import app as answer


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["method"] == "POST":
        while (await receive())["more_body"]:
            pass
    await answer(scope, receive, send)


def make_factory(loop: asyncio.AbstractEventLoop) -> ProtocolFactory:
    """With what users get who set nothing but the protocol."""
    limits: dict[str, Any] = {**request_limits(Config("none:none")), "http2_cleartext": True}
    return ProtocolFactory(
        app,
        loop=loop,
        context=contextvars.copy_context(),
        state=None,
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
        **limits,
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
