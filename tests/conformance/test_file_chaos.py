"""Random responses of bodies and parts of files, pipelined, to any reader: every byte is in its place."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.helpers.asgi import body, start
from tests.helpers.files import BLOB, PATHSEND, ZEROCOPYSEND, descriptors, file
from tests.helpers.http1 import get, until

__all__ = ["file"]  # a fixture

SEEDS = int(os.environ.get("SHARDSERVE_CHAOS_SEEDS", "25"))
REQUESTS = 12
LENGTHS = [0, 1, 5, 2000, 2049, 32768, 32769, 70_000, 300_000, 2_000_000]


def plan(chance: random.Random) -> list[bytes | tuple[int, int] | None]:
    """What one response is made of: bytes, parts of the file, or (None) the whole of it by its path, last."""
    pieces: list[bytes | tuple[int, int] | None] = []
    for _ in range(chance.randint(0, 5)):
        length = chance.choice(LENGTHS)
        first = chance.randrange(len(BLOB) - length)
        pieces.append(BLOB[first : first + length] if chance.random() < 0.4 else (first, length))
    if chance.random() < 0.2:
        pieces.append(None)
    return pieces or [b""]


def whole(pieces: list[bytes | tuple[int, int] | None]) -> bytes:
    parts = []
    for piece in pieces:
        if piece is None:
            parts.append(BLOB)
        elif isinstance(piece, bytes):
            parts.append(piece)
        else:
            parts.append(BLOB[piece[0] : piece[0] + piece[1]])
    return b"".join(parts)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_byte_is_in_its_place(serve, file, seed):
    chance = random.Random(seed)
    plans = [plan(chance) for _ in range(REQUESTS)]
    lengths = [chance.random() < 0.5 for _ in plans]
    path = file()

    async def app(scope, receive, send):
        number = int(scope["path"][1:])
        pieces = plans[number]
        headers = [(b"content-length", b"%d" % len(whole(pieces)))] if lengths[number] else []
        await start(send, 200, headers)
        with path.open("rb") as opened:
            for i, piece in enumerate(pieces):
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.choice([0, 0.001]))
                more = i < len(pieces) - 1
                if piece is None:
                    await send({"type": PATHSEND, "path": str(path)})
                elif isinstance(piece, bytes):
                    await body(send, piece, more)
                else:
                    message = {"type": ZEROCOPYSEND, "file": opened, "offset": piece[0], "count": piece[1]}
                    await send({**message, "more_body": more})

    server = serve(app)
    with server.connect(receive_buffer=chance.choice([4096, 65536, None])) as client:
        methods = [chance.choice(["GET", "GET", "HEAD"]) for _ in plans]
        client.send(*(get(b"/%d" % i, method=method.encode()) for i, method in enumerate(methods)))
        for pieces, method in zip(plans, methods, strict=True):
            response = client.response(method)
            assert response.status == 200
            assert response.body == (whole(pieces) if method == "GET" else b"")
    until(lambda: server.factory.in_flight == 0)
    until(lambda: descriptors(path) == 0)
