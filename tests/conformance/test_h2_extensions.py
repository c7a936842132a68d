"""The extensions of ASGI over HTTP/2: early hints, trailers, files."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes

from shardserve.errors import ApplicationError
from tests.helpers.asgi import body, reply, start
from tests.helpers.files import BLOB, PATHSEND, ZEROCOPYSEND, descriptors, file, kind, send_file
from tests.helpers.h2_peer import Host, every_feeding, every_start, every_way
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2
__all__ = ["file", "kind"]  # fixtures

STYLE = b"</style.css>; rel=preload; as=style"
HINT = "http.response.early_hint"
TRAILERS = "http.response.trailers"


@every_start
@every_feeding
async def test_early_hints(start, feeding):
    """RFC 8297: they leave before the response is known."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": HINT, "links": [STYLE, b"</b.js>; rel=preload"]})
        await go.wait()
        await send({"type": HINT, "links": [STYLE]})
        await reply(send)

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = client.request()
        await client.until(lambda: stream.interim)
        assert stream.interim == [(103, [(b"link", STYLE), (b"link", b"</b.js>; rel=preload")])]
        go.set()
        await client.done(stream)
        assert [status for status, _ in stream.interim] == [103, 103]
        assert (stream.status, stream.body) == (200, b"ok")


@every_way
@pytest.mark.parametrize("pieces", [[b"hello"], [b"he", b"llo"], [b""], [BLOB[:300_000]]], ids=len)
async def test_trailers(pieces, start, feeding):
    """Nobody has to say TE for them (RFC 9113 §8.1)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begin = {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")]}
        await send({**begin, "trailers": True})
        for at, piece in enumerate(pieces):
            await body(send, piece, more=at < len(pieces) - 1)
        await send({"type": TRAILERS, "headers": [(b"X-Sum", b"42")], "more_trailers": True})
        await send({"type": TRAILERS, "headers": [(b"grpc-status", b"0")]})

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = await client.ask()
        assert stream.body == b"".join(pieces)
        assert stream.trailers == [(b"x-sum", b"42"), (b"grpc-status", b"0")]


@pytest.mark.parametrize(
    "bad", [(b"content-length", b"1"), (b"x y", b"1"), (b"x-a", b"1\r\n"), (b":status", b"200")]
)
async def test_trailers_that_are_none(bad):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await body(send, b"x")
        await send({"type": TRAILERS, "headers": [bad]})

    async with Host(app) as host:
        client = host.connect()
        stream = client.request()
        await client.done(stream)
        assert (stream.trailers, stream.ended) == (None, False)
        assert stream.reset == ErrorCodes.INTERNAL_ERROR
        assert isinstance(host.take_error().error, ApplicationError)


@every_way
@pytest.mark.parametrize("size", [0, 1, 16384, 65535, 65536, 1_000_000])
async def test_files(size, file, kind, start, feeding):
    path = file(size)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send_file(send, kind, path)

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = await client.ask()
        assert (stream.status, stream.body, stream.one(b"content-length")) == (200, BLOB[:size], b"%d" % size)
        head_only = await client.ask("HEAD")
        assert (head_only.status, head_only.body, head_only.ended) == (200, b"", True)
        await client.until(lambda: descriptors(path) == 0)


async def test_files_and_bodies_mixed(file):
    path = file(100_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"first", more=True)
        with path.open("rb") as opened:
            await send(
                {"type": ZEROCOPYSEND, "file": opened, "offset": 5, "count": 70_000, "more_body": True}
            )
        await body(send, b"last")

    async with Host(app) as host:
        stream = await host.connect().ask()
        assert stream.body == b"first" + BLOB[5:70_005] + b"last"
    assert descriptors(path) == 0


async def test_a_client_that_cancels_a_file(file):
    path = file()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": PATHSEND, "path": str(path)})

    async with Host(app) as host:
        client = host.connect(hand=True)
        stream = client.request()
        await client.until(lambda: stream.data)
        client.reset(stream)
        await client.until(lambda: host.factory.in_flight == 0)
        assert descriptors(path) == 0
        host.errors.clear()
        client.hand = False
        client.open(1 << 20)
        assert (await client.ask()).body == BLOB
