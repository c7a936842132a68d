"""A server of files, of its own process, to be counted from outside: python -m tests.budget.file_server DIR.

/static is --static's app; /path and /file send the same files by message. Prints its port, serves until its
standard input ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory
from shardserve.asgi.static import Static
from shardserve.asgi.static_files import Folder

DIR = sys.argv[1]
START = {"type": "http.response.start", "status": 200, "headers": []}


async def app(scope: Any, receive: Any, send: Any) -> None:
    kind, _, name = scope["path"].strip("/").partition("/")
    await send(START)
    if kind == "path":
        await send({"type": "http.response.pathsend", "path": os.path.join(DIR, name)})
    else:
        await send({"type": "http.response.zerocopysend", "file": OPENED[name], "offset": 0})


OPENED = {name: os.open(os.path.join(DIR, name), os.O_RDONLY) for name in os.listdir(DIR)}


async def main() -> None:
    loop = asyncio.get_running_loop()
    factory = ProtocolFactory(
        app,
        loop=loop,
        context=contextvars.copy_context(),
        state=None,
        static=[(b"/static", Static(b"/static", Folder(DIR), 60))],
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
    )
    server = await loop.create_server(factory, "127.0.0.1", 0)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
