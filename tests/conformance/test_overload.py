"""limit_concurrency: what is too much gets a 503 and costs nothing else."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.asgi import ok, read_body, reply
from tests.helpers.http1 import Access, chunked, get, post, until

EXPECT = b"Expect: 100-continue"
LIMIT_BYTES = 1 << 20
REASON = "too many requests in flight (limit-concurrency)"


class Gated:
    """/slow answers when the gate opens, everything else at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.calls: list[tuple[str, str]] = []

    async def __call__(self, scope, receive, send) -> None:
        self.calls.append((scope["method"], scope["path"]))
        data = await read_body(receive)
        if scope["path"] == "/slow":
            await self.gate.wait()
        await reply(send, scope["path"].encode() + data)


class Full:
    """A server whose limit is reached: by one slow request, until ``free``."""

    def __init__(self, serve, **settings) -> None:
        self.app = Gated()
        self.server = serve(self.app, limit_concurrency=1, **settings)
        self.slow = self.server.connect()
        self.slow.send(get("/slow"))
        until(lambda: self.server.factory.in_flight == 1)
        self.app.calls.clear()

    def connect(self):
        return self.server.connect()

    def free(self) -> None:
        self.server.call(self.app.gate.set)
        assert self.slow.response().body == b"/slow"

    def refused(self, count: int = 1) -> None:
        """So many were refused, each was told of, and the app saw none."""
        factory = self.server.factory
        until(lambda: factory.refused == count, f"refused: {factory.refused}, wanted: {count}")
        for reject in self.server.take_rejects(count):
            assert (reject.status, reject.reason) == (503, REASON)
            assert reject.client[0] == "127.0.0.1"
        assert self.app.calls == []


@pytest.fixture
def full(serve):
    full = Full(serve, headers=[(b"X-Node", b"7")])
    yield full
    full.server.call(full.app.gate.set)


def assert_refusal(response, connection: bytes | None = None) -> None:
    assert (response.status, response.reason) == (503, b"Service Unavailable")
    assert response.one(b"retry-after") == b"1"
    assert response.one(b"content-type").startswith(b"text/plain")
    assert response.one(b"content-length") == b"19"
    assert response.body == b"Service Unavailable"
    assert response.one(b"connection") == connection
    assert response.informational == []


@pytest.mark.parametrize("limit", [1, 3])
def test_n_admits_n(serve, limit):
    app = Gated()
    server = serve(app, limit_concurrency=limit)
    clients = [server.connect() for _ in range(limit)]
    for number, client in enumerate(clients, 1):
        client.send(get("/slow"))
        until(lambda number=number: server.factory.in_flight == number)
    with server.connect() as one_more:
        assert_refusal(one_more.ask(get("/more")))
        assert (server.factory.refused, server.factory.served, server.factory.in_flight) == (1, 0, limit)
        server.call(app.gate.set)
        for client in clients:
            assert client.response().status == 200
        assert one_more.ask(get("/more")).status == 200
    assert [path for _, path in app.calls] == ["/slow"] * limit + ["/more"]
    until(lambda: server.factory.served == limit + 1)
    assert server.factory.refused == 1
    server.take_rejects(1)


@pytest.mark.parametrize("settings", [{}, {"limit_concurrency": 0}])
def test_no_limit(serve, settings):
    app = Gated()
    server = serve(app, **settings)
    clients = [server.connect() for _ in range(20)]
    for client in clients:
        client.send(get("/slow"))
    until(lambda: server.factory.in_flight == 20)
    server.call(app.gate.set)
    assert [client.response().status for client in clients] == [200] * 20
    assert server.factory.refused == 0


def test_idle_connections_do_not_count(serve):
    server = serve(ok, limit_concurrency=1)
    clients = [server.connect() for _ in range(5)]
    for _ in range(2):
        for client in clients:
            assert client.ask(get()).status == 200
    assert (server.factory.connections, server.factory.refused) == (5, 0)


def test_the_connection_is_kept_and_served_later(full):
    with full.connect() as client:
        for _ in range(3):
            assert_refusal(client.ask(get("/a")))
        full.refused(3)
        full.free()
        assert client.ask(get("/b")).body == b"/b"
    assert full.app.calls == [("GET", "/b")]


def test_the_access_log_has_it(full):
    with full.connect() as client:
        client.ask(get("/a?b"))
        address = client.sock.getsockname()
        until(lambda: full.server.accesses)
        assert full.server.accesses == [Access(address, "GET", b"/a?b", "1.1", 503)]
    full.refused()


def test_the_configured_headers_are_on_it(full):
    with full.connect() as client:
        response = client.ask(get())
    assert response.one(b"x-node") == b"7"
    assert response.one(b"server") == b"shardserve"
    assert response.one(b"date")
    full.refused()


def test_head(full):
    with full.connect() as client:
        for _ in range(2):
            response = client.ask(get(method=b"HEAD"), "HEAD")
            assert (response.status, response.one(b"content-length"), response.body) == (503, b"19", b"")
            assert response.one(b"retry-after") == b"1"
        assert_refusal(client.ask(get()))
    full.refused(3)


@pytest.mark.parametrize("request_bytes", [post(b"hello"), chunked(b"hel", b"lo")])
def test_a_body_that_came_along(full, request_bytes):
    with full.connect() as client:
        assert_refusal(client.ask(request_bytes))
        full.refused()
        full.free()
        client.assert_open()


@pytest.mark.parametrize("make", [lambda body: post(body), lambda body: chunked(body, body)])
def test_a_body_that_comes_later(full, make):
    """The answer does not wait for it; it is read and dropped, and is no request."""
    request = make(get("/smuggled") * 20)
    with full.connect() as client:
        client.send(request[:200])
        assert_refusal(client.response())
        full.free()
        client.send(request[200:])
        client.assert_open()
    full.app.calls.remove(("GET", "/ok"))
    full.refused()


def test_a_body_too_long_to_be_dropped(full):
    """The same as for an app that answers without reading: the connection ends."""
    with full.connect() as client:
        client.send(get("/", b"Content-Length: %d" % (4 * LIMIT_BYTES), method=b"POST"))
        assert_refusal(client.response())
        try:
            for _ in range(64):
                client.send(b"x" * 65536)
            assert client.rest() == b""
        except OSError:
            pass  # the server closed before the end of it
    until(lambda: full.server.factory.connections == 1)
    full.refused()


def test_an_upload_that_was_admitted_goes_on(serve):
    """The limit is for requests that begin."""
    app = Gated()
    server = serve(app, limit_concurrency=1)
    request = chunked(b"hel", b"lo")
    with server.connect() as client, server.connect() as other:
        client.send(request[:-12])
        until(lambda: server.factory.in_flight == 1)
        assert_refusal(other.ask(get("/other")))
        client.send(request[-12:])
        assert client.response().body == b"/hello"
    server.take_rejects(1)


def test_pipelined_requests_are_refused_one_by_one(full):
    with full.connect() as client:
        client.send(get("/1") + post(b"body") + get("/3", method=b"HEAD") + chunked(b"x") + get("/5"))
        for method in ("GET", "GET", "HEAD", "GET", "GET"):
            response = client.response(method)
            assert (response.status, response.one(b"connection")) == (503, None)
        full.refused(5)
        full.free()
        client.assert_open()


def test_thousands_of_pipelined_requests(full):
    with full.connect() as client:
        client.send(get() * 3000)
        for _ in range(3000):
            assert client.response().status == 503
    full.refused(3000)


def test_what_waits_behind_a_request_of_its_own_connection_is_not_refused(serve):
    """Its turn comes when that one is done."""
    app = Gated()
    server = serve(app, limit_concurrency=1)
    with server.connect() as client:
        client.send(get("/slow") + get("/b") + post(b"c"))
        until(lambda: app.calls)
        server.call(app.gate.set)
        assert [response.status for response in client.responses(3)] == [200] * 3
    assert server.factory.refused == 0


def test_work_after_the_response_counts(serve):
    go = asyncio.Event()

    async def app(scope, receive, send):
        await reply(send)
        await go.wait()

    server = serve(app, limit_concurrency=1)
    with server.connect() as client:
        assert client.ask(get()).status == 200
        assert_refusal(client.ask(get()))
        server.call(go.set)
        until(lambda: server.factory.in_flight == 0)
        assert client.ask(get()).status == 200
    server.take_rejects(1)


def test_http_10_ends_the_connection(full):
    with full.connect() as client:
        assert_refusal(client.ask(get(version=b"1.0")), b"close")
        client.assert_closed()
    full.refused()


def test_http_10_with_keep_alive(full):
    """RFC 9112 §C.2.2: such a client must be told that the connection stays."""
    with full.connect() as client:
        for _ in range(2):
            client.send(get("/", b"Connection: keep-alive", version=b"1.0"))
            assert_refusal(client.response(), b"keep-alive")
    full.refused(2)


def test_connection_close(full):
    with full.connect() as client:
        client.send(get("/", b"Connection: close") + get("/never"))
        assert_refusal(client.response(), b"close")
        client.assert_closed()
    full.refused()


@pytest.mark.parametrize("sends_it", [True, False])
@pytest.mark.parametrize("framing", [b"Content-Length: 35", b"Transfer-Encoding: chunked"])
def test_a_client_that_waits_for_100_gets_the_503_at_once(full, framing, sends_it):
    """It may send the body or not: nobody can tell, so the connection ends."""
    with full.connect() as client:
        client.send(get("/", EXPECT, framing, method=b"POST"))
        assert_refusal(client.response(), b"close")
        if sends_it:
            client.send(get("/smuggled"))
        client.assert_closed()
    full.refused()


def test_a_client_that_did_not_wait_for_100(full):
    """Its body is here: there is no doubt about the connection."""
    with full.connect() as client:
        client.send(get("/", EXPECT, b"Content-Length: 5", method=b"POST") + b"hello")
        assert_refusal(client.response())
        assert_refusal(client.ask(get()))
    full.refused(2)


def test_half_closed(full):
    """The last answer to a client that has said its last word."""
    output = full.server.raw(get("/a") + get("/b"))
    assert output.count(b"HTTP/1.1 503 ") == output.count(b"\r\n\r\nService Unavailable") == 2
    full.refused(2)


class TestWhileDraining:
    def test_a_request_in_the_grace(self, full):
        done = []
        with full.connect() as client:
            client.ask(get())
            full.server.call(lambda: full.server.factory.drain(lambda: done.append(1), grace_ms=5000))
            assert_refusal(client.ask(get()), b"close")
            client.assert_closed()
        full.refused(2)
        assert done == []
        full.free()
        until(lambda: done)

    def test_what_is_pipelined(self, serve):
        """All of what has been read is answered, the last of it with close."""
        full = Full(serve)
        done = []
        with full.connect() as client:
            client.ask(get())
            full.server.call(lambda: full.server.factory.drain(lambda: done.append(1), grace_ms=5000))
            client.send(get() * 5)
            responses = [client.response() for _ in range(5)]
            assert [response.one(b"connection") for response in responses] == [None] * 4 + [b"close"]
            assert {response.status for response in responses} == {503}
            client.assert_closed()
        full.refused(6)
        full.free()
        until(lambda: done)

    def test_an_upload(self, full):
        done = []
        with full.connect() as client:
            client.ask(get())
            full.server.call(lambda: full.server.factory.drain(lambda: done.append(1), grace_ms=5000))
            request = chunked(b"x" * 1000)
            client.send(request[:500])
            assert_refusal(client.response(), b"close")
            client.send(request[500:])
            client.assert_closed()
        full.refused(2)
        full.free()
        until(lambda: done)
