"""A small server of its own process, to be counted from outside: python -m tests.budget.server.

Prints its port, serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/later":
        await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


def make_factory(loop: asyncio.AbstractEventLoop) -> ProtocolFactory:
    return ProtocolFactory(
        app,
        loop=loop,
        context=contextvars.copy_context(),
        state=None,
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
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
