"""drain(): what is in flight finishes, everything else ends. abort(): everything ends now."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.helpers.asgi import body, ok, read_body, reply, start
from tests.helpers.http1 import Drained, get, post, until


class Gated:
    """Answers when the gate opens; /fast at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.paths: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        self.paths.append(scope["path"])
        data = await read_body(receive)
        if scope["path"] != "/fast":
            await self.gate.wait()
        await reply(send, scope["path"].encode() + data)


def test_without_connections(serve):
    Drained(serve(ok)).wait()


def test_only_connections_that_have_been_idle_for_a_while_are_closed_at_once(serve):
    """On one that has just been answered a request may be on its way: its client cannot know yet."""
    server = serve(ok)
    old = [server.connect() for _ in range(5)]
    for client in old:
        client.ask(get())
    time.sleep(0.7)  # the time itself is what is tested: longer than the half second that is spared
    with server.connect() as late, server.connect() as silent:
        late.ask(get())
        silent.ask(get())
        drained = Drained(server)
        for client in old:
            client.assert_closed()
        assert drained.calls == []
        response = late.ask(get())
        assert response.status == 200
        assert response.one(b"connection") == b"close"
        late.assert_closed()
        silent.assert_closed()
        drained.wait()


def test_what_is_in_flight_finishes(serve):
    app = Gated()
    server = serve(app)
    with server.connect() as client, server.connect() as idle:
        client.send(get("/slow"))
        until(lambda: app.paths)
        idle.ask(get("/fast"))
        drained = Drained(server)
        idle.assert_closed()
        assert server.factory.in_flight == 1
        assert drained.calls == []
        server.call(app.gate.set)
        response = client.response()
        assert response.body == b"/slow"
        assert response.one(b"connection") == b"close"
        client.assert_closed()
        drained.wait()


def test_a_response_that_streams_finishes(serve):
    """Its head went out before: it closes without a Connection: close."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"one", more=True)
        await go.wait()
        await body(send, b"two")

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        client.buffered = client.read_until(b"one")
        drained = Drained(server)
        server.call(go.set)
        assert client.response().body == b"onetwo"
        client.sock.settimeout(2)
        client.assert_closed()
        drained.wait()


@pytest.mark.parametrize("unread", [b"", b"half"])
def test_a_response_that_streams_past_the_grace_finishes(serve, unread):
    """It ends when the idle connections are closed already: nobody else will close its connection."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await reply(send)
            return
        await start(send)
        await body(send, b"one", more=True)
        await go.wait()
        await body(send, b"two")

    server = serve(app)
    with server.connect() as client, server.connect() as idle:
        idle.ask(get("/ok"))
        client.send(get("/", b"Content-Length: %d" % (2 * len(unread)), method=b"POST"), unread)
        client.buffered = client.read_until(b"one")
        drained = Drained(server, grace_ms=50)
        idle.assert_closed()
        server.call(go.set)
        assert client.response().body == b"onetwo"
        client.send(unread)
        client.sock.settimeout(2)
        client.assert_closed()
        drained.wait()


def test_an_upload_in_flight_finishes(serve):
    app = Gated()
    server = serve(app)
    with server.connect() as client:
        request = post(b"0123456789", target=b"/fast")
        client.send(request[:-5])
        until(lambda: app.paths)
        drained = Drained(server)
        client.send(request[-5:])
        response = client.response()
        assert response.body == b"/fast0123456789"
        assert response.one(b"connection") == b"close"
        drained.wait()


def test_a_head_that_is_on_its_way_is_served(serve):
    server = serve(ok)
    with server.connect() as client:
        client.ask(get())
        request = get()
        client.send(request[:10])
        time.sleep(0.02)  # the server reads it, which nothing shows
        drained = Drained(server, grace_ms=2000)
        client.send(request[10:])
        assert client.response().one(b"connection") == b"close"
        client.assert_closed()
        drained.wait()


def test_work_after_the_response_is_waited_for(serve):
    go = asyncio.Event()

    async def app(scope, receive, send):
        await reply(send)
        await go.wait()

    server = serve(app)
    with server.connect() as client:
        client.ask(get())
        drained = Drained(server)
        client.assert_closed()
        until(lambda: server.factory.connections == 0)
        server.call(lambda: None)
        assert drained.calls == []
        server.call(go.set)
        drained.wait()


def test_grace_lets_one_more_request_through(serve):
    server = serve(ok)
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.ask(get())
    drained = Drained(server, grace_ms=300)
    response = clients[0].ask(get())
    assert response.one(b"connection") == b"close"
    clients[0].assert_closed()
    assert drained.calls == []
    clients[1].assert_closed()
    clients[2].assert_closed()
    assert time.monotonic() - drained.began > 0.2
    drained.wait()


def test_a_fresh_connection_may_bring_its_first_request(serve):
    """Accepted but not heard of when the drain began: its client must not be turned away."""
    server = serve(ok)
    with server.connect() as client:
        until(lambda: server.factory.connections == 1)
        drained = Drained(server)
        response = client.ask(get())
        assert (response.status, response.one(b"connection")) == (200, b"close")
        client.assert_closed()
        drained.wait()


@pytest.mark.parametrize("behind", [1, 3, 2000])
def test_pipelined_requests_behind_the_running_one(serve, behind):
    """What has been read is answered, the last of it with close."""
    app = Gated()
    server = serve(app)
    with server.connect() as client:
        client.send(get("/1") + get("/2") * behind)
        until(lambda: app.paths)
        drained = Drained(server)
        server.call(app.gate.set)
        said = [client.response().one(b"connection") for _ in range(1 + behind)]
        assert said == [None] * behind + [b"close"]
        client.assert_closed()
        drained.wait()
    assert app.paths == ["/1"] + ["/2"] * behind


def test_what_is_pipelined_after_the_drain_began_is_not_taken(serve):
    """The last response says close: what came behind it is for the client to repeat (RFC 9112 §9.3.2)."""
    app = Gated()
    server = serve(app)
    with server.connect() as client:
        client.send(get("/1"), get("/2"))
        until(lambda: app.paths)
        drained = Drained(server)
        server.call(app.gate.set)
        client.send(get("/3") * 50)
        responses = client.responses(2)
        assert b"close" in [response.one(b"connection") for response in responses] or client.response()
        drained.wait()
    assert app.paths[:2] == ["/1", "/2"]


@pytest.mark.parametrize("part", [get("/2")[:12], post(b"x" * 100, target=b"/2")[:-50]])
def test_a_part_of_a_request_behind_the_running_one(serve, part):
    """A drain does not wait for ever for the rest of it."""
    app = Gated()
    server = serve(app)
    with server.connect() as client:
        client.send(get("/1") + part)
        until(lambda: app.paths)
        drained = Drained(server)
        server.call(app.gate.set)
        assert client.response().status == 200
        client.close()
        drained.wait()
    server.errors.clear()  # the second one's client is gone


def test_twice_is_an_error(serve):
    server = serve(ok)
    drained = Drained(server)
    with pytest.raises(RuntimeError, match="already draining"):
        server.call(lambda: server.factory.drain(lambda: None))
    drained.wait()


def test_abort_cuts_and_cancels(serve):
    cancelled = []
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["path"])
        if scope["path"] == "/stream":
            await start(send)
            await body(send, b"begun", more=True)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    server = serve(app)
    clients = [server.connect() for _ in range(3)]
    clients[0].send(get("/wait"))
    clients[1].send(get("/stream"))
    clients[1].read_until(b"begun")
    until(lambda: len(seen) == 2 and server.factory.connections == 3)
    assert server.call(server.factory.abort) == 2
    for client in clients:
        try:
            assert client.rest() == b""
        except ConnectionResetError:
            pass
    until(lambda: server.factory.connections == 0)
    until(lambda: server.factory.in_flight == 0)
    assert sorted(cancelled) == ["/stream", "/wait"]
    for report in server.take_errors(2):
        assert isinstance(report.error, asyncio.CancelledError)
        assert report.outcome == "cut by the server"
    assert [access.target for access in server.accesses] == [b"/stream"]  # what has a head has a line


def test_abort_of_an_app_that_will_not_be_cancelled(serve):
    stubborn = []
    go = asyncio.Event()

    async def app(scope, receive, send):
        while not stubborn:
            try:
                await go.wait()
            except asyncio.CancelledError:
                stubborn.append(1)
        with pytest.raises(OSError):
            await start(send)

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        until(lambda: server.factory.in_flight == 1)
        assert server.call(server.factory.abort) == 1
        until(lambda: stubborn)
    until(lambda: server.factory.in_flight == 0)


def test_abort_without_anything(serve):
    server = serve(ok)
    assert server.call(server.factory.abort) == 0
    assert server.ask(get()).status == 200


def test_abort_during_a_drain_ends_it(serve):
    app = Gated()
    server = serve(app)
    with server.connect() as client:
        client.send(get("/slow"))
        until(lambda: app.paths)
        drained = Drained(server)
        assert server.call(server.factory.abort) == 1
        drained.wait()
    server.take_error()


def test_close_refuses_while_connections_are_open(serve):
    server = serve(ok)
    with server.connect() as client:
        client.ask(get())
        with pytest.raises(RuntimeError, match="1 open connection"):
            server.call(server.factory.close)
        assert client.ask(get()).status == 200


def test_counters(serve):
    app = Gated()
    server = serve(app)
    assert (server.factory.connections, server.factory.in_flight, server.factory.served) == (0, 0, 0)
    with server.connect() as client:
        client.ask(get("/fast"))
        client.send(get("/slow"))
        until(lambda: server.factory.in_flight == 1)
        assert (server.factory.connections, server.factory.served) == (1, 1)
        server.call(app.gate.set)
        client.response()
        until(lambda: server.factory.served == 2)
        assert (server.factory.connections, server.factory.in_flight) == (1, 0)
    until(lambda: server.factory.connections == 0)
