"""Limits of requests over HTTP/2, each of which answers on its stream, and drains."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes

from tests.helpers.asgi import Everything, Recorder, ok, reply
from tests.helpers.h2_judge import ACK, DATA, END_STREAM, PING
from tests.helpers.h2_peer import Host, every_start
from tests.helpers.h2_wire import frame, head, pseudo
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2

GONE = {"type": "http.disconnect"}


async def limited(status: int, settings: dict[str, Any], *args: Any, **how: Any) -> None:
    app = Recorder()
    async with Host(app, **settings) as host:
        client = host.connect()
        stream = await client.ask(*args, **how)
        assert (stream.status, stream.ended) == (status, True)
        await client.ok()
        assert [scope["path"] for scope in app.scopes] == ["/ok"]
        assert [reject.status for reject in host.take_rejects()] == [status]
        assert [access.status for access in host.accesses] == [200]  # as over HTTP/1.1


LIMITS: dict[str, Any] = {
    "the path": (414, {"limit_request_line": 40}, ("GET", "/" + "x" * 60), {}),
    "the number of fields": (
        431, {"limit_request_fields": 5}, ("GET", "/", *[(b"x-a", b"1")] * 6), {},
    ),
    "one field": (431, {"limit_request_field_size": 100}, ("GET", "/", (b"x-a", b"1" * 100)), {}),
    "all fields": (
        431, {"http2_max_header_list_size": 1000}, ("GET", "/", *[(b"x-a", b"1" * 50)] * 12), {},
    ),
    "a body that says its length": (
        413, {"limit_request_body": 10}, ("POST", "/", (b"content-length", b"11")), {"body": b"x" * 11},
    ),
    "an expectation": (417, {}, ("GET", "/", (b"expect", b"miracles")), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
async def test_beyond_a_limit(name):
    status, settings, args, how = LIMITS[name]
    await limited(status, settings, *args, **how)


EXACT: dict[str, Any] = {
    "the path": ({"limit_request_line": 61}, ("GET", "/" + "x" * 60), {}),
    "the number of fields": ({"limit_request_fields": 6}, ("GET", "/", *[(b"x-a", b"1")] * 5), {}),
    "a body": ({"limit_request_body": 10}, ("POST", "/"), {"body": b"x" * 10}),
    "all fields": (
        # RFC 9113 §10.5.1: name, value and 32 of each, pseudo-header fields too
        {"http2_max_header_list_size": 42 + 44 + 38 + 46 + 35}, ("GET", "/", (b"x-a", b"")), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
async def test_at_a_limit(name):
    settings, args, how = EXACT[name]
    async with Host(Recorder(), **settings) as host:
        assert (await host.connect().ask(*args, **how)).status == 200


@every_start
async def test_a_body_that_grows_beyond_its_limit(start):
    """The app that reads it hears of a disconnect; the client gets 413, and is told to stop."""
    app = Everything()
    async with Host(app, limit_request_body=1000) as host:
        client = host.connect(start)
        stream = client.request("POST", body=bytes(900), end=False)
        await client.until(lambda: app.messages)
        client.write(stream, bytes(101))
        await client.until(lambda: stream.reset is not None)
        assert (stream.status, stream.ended, stream.reset) == (413, True, ErrorCodes.NO_ERROR)
        await client.until(lambda: host.factory.in_flight == 0)
        assert app.messages[-1] == GONE
        assert sum(len(message.get("body", b"")) for message in app.messages) <= 1000
        await client.pong()
        assert [reject.status for reject in host.take_rejects()] == [413]


async def test_more_than_may_run_at_once():
    """503 with Retry-After in the app's place; over HTTP/2, too, N admits N."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send)

    async with Host(app, limit_concurrency=3) as host:
        client = host.connect()
        streams = [client.request() for _ in range(3)]
        beyond = await client.ask("POST", body=b"x")
        assert (beyond.status, beyond.one(b"retry-after")) == (503, b"1")
        go.set()
        for stream in streams:
            assert (await client.done(stream)).status == 200
        assert [reject.status for reject in host.take_rejects()] == [503]
        assert (await client.ask()).status == 200


async def test_a_connections_last_request():
    """limit_keep_alive_requests: GOAWAY, and what was begun is answered."""
    async with Host(ok, limit_keep_alive_requests=3) as host:
        client = host.connect()
        for _ in range(3):
            assert (await client.ask()).status == 200
        await client.until(lambda: client.closed, "the end behind the last answer")
        assert client.goaway == (5, ErrorCodes.NO_ERROR)


async def test_a_drain_lets_every_stream_finish():
    """§6.8: what is open, and what crosses it, is answered; with the last of them comes the GOAWAY."""
    go = asyncio.Event()
    emptied: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send)

    async with Host(app) as host:
        client = host.connect()
        first = client.request()
        await client.settle()
        host.factory.drain(lambda: emptied.append(True), grace_ms=5000)
        crossing = client.request()  # it has not heard yet
        await client.settle()
        go.set()
        for stream in (first, crossing):
            assert (await client.done(stream)).status == 200
        await client.until(lambda: client.closed)
        client.half_close()
        await client.until(lambda: emptied)
        assert client.goaway == (crossing.id, ErrorCodes.NO_ERROR)


async def test_a_drain_of_a_connection_that_is_idle():
    """§6.8: one GOAWAY, which names the last stream, and the end; what crosses it is not looked at."""
    emptied: list[bool] = []
    app = Recorder()
    async with Host(app) as host:
        raw = host.raw()
        raw.send(head(1, pseudo()))
        await raw.until(lambda: raw.streams[1].ended)
        host.factory.drain(lambda: emptied.append(True), grace_ms=5000)
        raw.send(head(3, pseudo("GET", "/late")))
        await raw.until(lambda: raw.closed)
        assert raw.judge.goaways == [(1, ErrorCodes.NO_ERROR, b"")]
        assert [scope["path"] for scope in app.scopes] == ["/"]
        raw.half_close()
        await raw.until(lambda: emptied)


async def test_a_drain_whose_grace_is_over():
    """§6.8: where streams are still open, a notice that allows every one, and a PING; at its answer the
    GOAWAY that names the last. What came before that is answered.
    """
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send)

    async with Host(app) as host:
        raw = host.raw()
        raw.send(head(1, pseudo()))
        await raw.settle()
        host.factory.drain(lambda: None, grace_ms=0)
        await raw.until(lambda: raw.judge.pings)
        assert raw.goaway == (2**31 - 1, ErrorCodes.NO_ERROR)
        raw.send(head(3, pseudo()), frame(PING, ACK, 0, raw.judge.pings[0]))
        await raw.until(lambda: raw.goaway == (3, ErrorCodes.NO_ERROR))
        raw.send(head(5, pseudo()))
        go.set()
        await raw.until(lambda: raw.closed)
        assert [raw.streams[id_].status for id_ in (1, 3, 5)] == [200, 200, None]


async def test_streams_behind_the_last_goaway_are_not_looked_at():
    """§6.8: the client knows that it may ask again elsewhere."""
    app = Recorder()
    async with Host(app) as host:
        raw = host.raw()
        raw.send(raw.request(1, end=False))
        await raw.settle()
        host.factory.drain(lambda: None, grace_ms=0)
        await raw.settle()
        raw.send(frame(DATA, END_STREAM, 1, b"x"))
        await raw.until(lambda: raw.goaway == (1, ErrorCodes.NO_ERROR))
        if not raw.closed:
            raw.send(head(3, pseudo("GET", "/late")))
        await raw.until(lambda: raw.closed)
        assert [scope["path"] for scope in app.scopes] == ["/"]
