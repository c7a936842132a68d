"""What the server programs of this folder have in common.

Rules of this file: a program is a module with ``make_factory(loop)``, which tests also use without a process,
and ``main(make_factory)`` at its end. It prints its port and serves until its standard input ends, which is
how it is counted from outside.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory

MakeFactory = Callable[[asyncio.AbstractEventLoop], ProtocolFactory]


def factory(app: Any, loop: asyncio.AbstractEventLoop, **options: Any) -> ProtocolFactory:
    """The server of an app of which nothing is reported."""
    return ProtocolFactory(
        app,
        loop=loop,
        context=contextvars.copy_context(),
        state=None,
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
        **options,
    )


async def serve(make_factory: MakeFactory) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


def main(make_factory: MakeFactory) -> None:
    uvloop.run(serve(make_factory))
