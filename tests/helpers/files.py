"""Files to send, apps that send them, and how many of their descriptors are open.

``file`` and ``kind`` are fixtures: a test file imports them by name.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.asgi import body, reply, start

MEBIBYTE = 1 << 20
BLOB = random.Random(6).randbytes(8 * MEBIBYTE)
PATHSEND = "http.response.pathsend"
ZEROCOPYSEND = "http.response.zerocopysend"


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """``file(size)``: a path to that much of BLOB."""

    def make(size: int = len(BLOB)) -> Path:
        path = tmp_path / f"file-{size}"
        path.write_bytes(BLOB[:size])
        return path

    return make


@pytest.fixture(params=["pathsend", "zerocopysend"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


async def send_file(send: Any, kind: str, path: Path, more: bool = False) -> None:
    """The whole of it, in either way."""
    if kind == "pathsend":
        await send({"type": PATHSEND, "path": str(path)})
        return
    with path.open("rb") as opened:
        await send({"type": ZEROCOPYSEND, "file": opened, "more_body": more})


def serving(kind: str, path: Path, headers: Any = (), status: int = 200, turn: Any = None) -> Any:
    """An app that answers with a file; /ok is served without one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/ok":
            await reply(send)
            return
        if turn is not None:
            await turn()
        await start(send, status, headers)
        await send_file(send, kind, path)

    return app


def pieces(path: Path, *messages: Any, headers: Any = (), pause: Any = None) -> Any:
    """An app that sends body messages (bytes) and parts of a file (dicts), the last one as the last."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 200, headers)
        with path.open("rb") as opened:
            for i, message in enumerate(messages):
                if pause is not None:
                    await pause()
                more = i < len(messages) - 1
                if isinstance(message, bytes):
                    await body(send, message, more)
                else:
                    await send({"type": ZEROCOPYSEND, "file": opened, "more_body": more, **message})

    return app


def descriptors(path: Path) -> int:
    """How many of this process's descriptors are of this file."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)") == str(path)
        except FileNotFoundError:
            continue
    return count
