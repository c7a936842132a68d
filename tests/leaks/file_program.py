"""One leak program of files and the other extensions: as tests/leaks/program.py, whose clients it uses.

python -m tests.leaks.file_program SCENARIO REQUESTS
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

import uvloop

from shardserve.asgi.static import Static
from shardserve.asgi.static_files import Folder
from tests.leaks.program import STATUS, Client, Scenario, get, head, left_by

FOLDER = tempfile.TemporaryDirectory()
SIZES = {"empty": 0, "small": 1000, "large": 200_000, "huge": 16 << 20}
START = {"type": "http.response.start", "status": 200, "headers": []}


def path_of(name: str) -> str:
    return os.path.join(FOLDER.name, name)


def make_files() -> None:
    for name, size in SIZES.items():
        with open(path_of(name), "wb") as file:
            file.write(b"f" * size)


async def app(scope: Any, receive: Any, send: Any) -> None:
    kind, _, name = scope["path"].strip("/").partition("/")
    if kind == "path":
        await send(START)
        await send({"type": "http.response.pathsend", "path": path_of(name)})
    elif kind == "file":
        await send(START)
        with open(path_of(name), "rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file})
    elif kind == "parts":
        await send(START)
        with open(path_of(name), "rb") as file:
            for count in (10, 100_000, 5):
                message = {"type": "http.response.zerocopysend", "file": file, "count": count}
                await send({**message, "more_body": True})
                await send({"type": "http.response.body", "body": b"between", "more_body": True})
        await send({"type": "http.response.body"})
    elif kind == "trailers":
        await send({**START, "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"%d" % len(name))]})
    elif kind == "hints":
        await send({"type": "http.response.early_hint", "links": [b"</%b>" % name.encode()]})
        await send(START)
        await send({"type": "http.response.body", "body": b"x"})
    elif kind == "debug":
        await send({"type": "http.response.debug", "info": {"name": [name]}})
        await send(START)
        await send({"type": "http.response.body", "body": b"x"})


TE = head(b"TE: trailers", line=b"GET /trailers/a HTTP/1.1")
RANGES = head(b"Range: bytes=0-99,1000-60000,-5", line=b"GET /static/large HTTP/1.1")
RANGE = head(b"Range: bytes=5-", line=b"GET /static/large HTTP/1.1")
CONDITION = head(b"If-None-Match: *", line=b"GET /static/large HTTP/1.1")
# Missing, a folder, no regular file, a bad message: nothing of it is on the wire, so each is a 500.
FAILING = b"".join(get(path) for path in ("/path/none", "/path/", "/file/none"))
FILES = (
    get("/path/large") + get("/file/large") + get("/parts/large") + get("/path/small") + get("/path/empty")
)

SCENARIOS = {
    "small files": Scenario(lambda client, count: client.pipelined(get("/path/small"), count, 50)),
    "large files": Scenario(lambda client, count: client.pipelined(get("/file/large"), count // 20, 5)),
    "huge files": Scenario(lambda client, count: client.pipelined(get("/path/huge"), count // 2000, 1)),
    "all kinds": Scenario(lambda client, count: client.pipelined(FILES, count // 50, 1)),
    "HEAD": Scenario(
        lambda client, count: client.pipelined(get("/file/large").replace(b"GET", b"HEAD"), count // 2, 20)
    ),
    "failures": Scenario(lambda client, count: client.pipelined(FAILING, count // 5, 5)),
    "disconnects": Scenario(lambda client, count: client.disconnects(get("/path/huge"), count // 40)),
    "disconnects in parts": Scenario(
        lambda client, count: client.disconnects(get("/parts/huge"), count // 40)
    ),
    "stalled readers": Scenario(
        lambda client, count: client.stalls(get("/path/huge"), count // 400, 25), {"write_stall_ms": 10}
    ),
    "trailers": Scenario(lambda client, count: client.pipelined(TE, count, 20)),
    "early hints": Scenario(
        lambda client, count: client.pipelined(get("/hints/a"), count, 20, b"HTTP/1.1 200")
    ),
    "debug": Scenario(lambda client, count: client.pipelined(get("/debug/a"), count, 20)),
    "static": Scenario(lambda client, count: client.pipelined(get("/static/small"), count, 20)),
    "static, large": Scenario(lambda client, count: client.pipelined(get("/static/large"), count // 20, 5)),
    "static, not there": Scenario(lambda client, count: client.pipelined(get("/static/none"), count, 20)),
    "static, not changed": Scenario(lambda client, count: client.pipelined(CONDITION, count, 20)),
    "static, ranges": Scenario(
        lambda client, count: client.pipelined(RANGE + RANGES, count // 20, 2, STATUS)
    ),
    "static, disconnects": Scenario(
        lambda client, count: client.disconnects(get("/static/huge"), count // 40)
    ),
}  # fmt: skip


async def main(scenario: Scenario, requests: int) -> dict[str, int]:
    make_files()
    static = [(b"/static", Static(b"/static", Folder(FOLDER.name), 0))]
    return await left_by(
        app,
        scenario.run,
        requests,
        client=Client,
        static=static,
        on_debug=lambda info: None,
        **scenario.settings,
    )


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(SCENARIOS[sys.argv[1]], int(sys.argv[2])))))
    FOLDER.cleanup()
