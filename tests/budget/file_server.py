"""A server of files, to be counted from outside: python -m tests.budget.file_server DIR.

/static is --static's app; /path and /file send the same files by message.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from shardserve._native import ProtocolFactory
from shardserve.asgi.static import Static
from shardserve.asgi.static_files import Folder
from tests.budget import serving

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


def make_factory(loop: asyncio.AbstractEventLoop) -> ProtocolFactory:
    return serving.factory(app, loop, static=[(b"/static", Static(b"/static", Folder(DIR), 60))])


if __name__ == "__main__":
    serving.main(make_factory)
