"""WebSockets when the server goes, is full, or counts: drain (1012), abort, limits and deadlines of HTTP."""

from __future__ import annotations

import asyncio

import pytest

from shardserve.errors import ClientDisconnected
from tests.helpers.asgi import reply
from tests.helpers.http1 import PATIENCE_S, Access, Drained, get, until
from tests.helpers.ws import Heard, Opened, WsClient, close, data_of, echo, handshake, text

ACCEPT = {"type": "websocket.accept"}


def end_streams(server) -> int:
    return server.call(server.factory.end_streams)


class TestEndStreams:
    def test_the_client_is_told_to_come_back(self, serve, led):
        """1012; the app hears it as the end, with the same code."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        waiting = opened.app.begin_receive()
        opened.ws.assert_no_frame()
        assert end_streams(server) == 1
        assert opened.ws.read_close()[0] == 1012
        opened.ws.send(close(1012))
        opened.ws.assert_closed()
        message = waiting.result(PATIENCE_S)
        assert (message["type"], message["code"]) == ("websocket.disconnect", 1012)
        assert opened.app.receive() == message

    def test_every_one_once(self, serve):
        app = Heard()
        server = serve(app)
        clients = [WsClient(server.connect()) for _ in range(10)]
        for ws in clients:
            ws.open()
        assert end_streams(server) == 10
        assert end_streams(server) == 0
        for ws in clients:
            assert ws.read_close()[0] == 1012
            ws.send(close(1012))
            ws.assert_closed()
        until(lambda: len(app.messages) == 10)
        assert [message["code"] for message in app.messages] == [1012] * 10
        assert end_streams(server) == 0

    def test_messages_that_came_before_come_first(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.ws.send(text("a"), text("b"))
        opened.ws.assert_no_frame()
        assert end_streams(server) == 1
        assert [data_of(opened.app.receive()) for _ in range(2)] == ["a", "b"]
        assert opened.app.receive()["code"] == 1012

    @pytest.mark.parametrize(
        "message", [{"type": "websocket.send", "text": "x"}, {"type": "websocket.close"}]
    )
    def test_send_raises_then(self, serve, led, message):
        """As if the client had gone: the app did nothing wrong. Nothing goes out behind the close frame."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        assert end_streams(server) == 1
        for _ in range(2):
            with pytest.raises(ClientDisconnected):
                opened.app.send(message)
        assert opened.ws.read_close()[0] == 1012
        opened.ws.send(close(1012))
        opened.ws.assert_closed()

    def test_an_app_that_fails_then(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        assert end_streams(server) == 1
        opened.app.fail(LookupError("mine"))
        assert opened.ws.read_close()[0] == 1012
        opened.ws.send(close(1012))
        opened.ws.assert_closed()
        assert isinstance(server.take_error().error, LookupError)

    def test_one_that_is_accepted_later(self, serve, led):
        """At once, by itself, and not counted."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        assert end_streams(server) == 0
        opened.app.send(ACCEPT)
        opened.ws.opened()
        assert opened.ws.read_close()[0] == 1012
        assert opened.app.receive()["code"] == 1012
        opened.ws.send(close(1012))
        opened.ws.assert_closed()
        assert end_streams(server) == 0

    def test_one_that_is_denied_later(self, serve, led):
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        assert end_streams(server) == 0
        opened.app.close()
        assert opened.client.response().status == 403

    @pytest.mark.parametrize("by", ["app", "client"])
    def test_one_that_is_ending_already(self, serve, led, by):
        server = serve(led)
        opened = Opened(server, led).accepted()
        if by == "app":
            opened.app.close(4000)
            assert opened.ws.read_close() == (4000, "")
        else:
            opened.ws.finish(4000)
        assert end_streams(server) == 0
        if by == "app":
            opened.ws.send(close(4000))
            opened.ws.assert_closed()

    def test_a_denial_without_an_end(self, serve, led):
        """It is a response like any other, to which its app listens."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        opened.app.send({"type": "websocket.http.response.start", "status": 200})
        opened.app.send({"type": "websocket.http.response.body", "body": b"half", "more_body": True})
        opened.client.read_until(b"half")
        server.call(server.factory.end_streams)
        opened.app.send({"type": "websocket.http.response.body", "body": b"whole"})
        assert opened.client.read_until(b"0\r\n\r\n").endswith(b"5\r\nwhole\r\n0\r\n\r\n")


class TestDrain:
    def test_an_open_one_lives_on_until_it_is_told(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        drained = Drained(server)
        opened.ws.send(text("still?"))
        assert data_of(opened.app.receive()) == "still?"
        opened.app.text("yes")
        assert opened.ws.read_text() == "yes"
        assert server.factory.in_flight == 1
        assert drained.calls == []
        assert end_streams(server) == 1
        assert opened.ws.read_close()[0] == 1012
        opened.ws.send(close(1012))
        opened.ws.assert_closed()
        until(lambda: server.factory.connections == 0)
        server.call(lambda: None)
        assert drained.calls == []  # the app has not returned
        opened.app.leave()
        drained.wait()

    def test_a_client_that_does_not_answer_is_not_waited_for_for_ever(self, serve, led):
        server = serve(led, ws_close_ms=20)
        opened = Opened(server, led).accepted()
        drained = Drained(server)
        assert end_streams(server) == 1
        opened.app.leave()
        assert opened.ws.read_close()[0] == 1012
        until(lambda: server.call(server.factory.tick) or drained.calls)
        opened.ws.assert_closed()
        drained.wait()

    def test_one_that_ends_by_itself(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        drained = Drained(server)
        opened.ws.finish()
        opened.app.leave()
        drained.wait()

    def test_a_denial_in_a_drain_closes_its_connection(self, serve, led):
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        drained = Drained(server)
        opened.app.close()
        response = opened.client.response()
        assert (response.status, response.one(b"connection")) == (403, b"close")
        opened.client.assert_closed()
        opened.app.leave()
        drained.wait()

    def test_a_refusal_in_a_drain_closes_its_connection(self, serve, led):
        server = serve(led)
        with server.connect() as client:
            until(lambda: server.factory.connections == 1)
            drained = Drained(server, grace_ms=2000)
            client.send(handshake(version=b"8"))
            response = client.response()
            assert response.status == 426
            assert response.closes
            client.assert_closed()
            drained.wait()
        server.take_rejects()

    def test_a_handshake_that_comes_in_a_drain(self, serve, led):
        """On a connection that was there: it is served like any request that comes in the grace."""
        server = serve(led)
        with server.connect() as client:
            assert client.ask(get("/ok")).status == 200
            drained = Drained(server, grace_ms=2000)
            client.send(handshake())
            app = led.connection()
            app.accept()
            ws = WsClient(client)
            assert ws.opened().one(b"connection").lower() == b"upgrade"
            ws.send(text("x"))
            assert data_of(app.receive()) == "x"
            assert end_streams(server) == 1
            assert ws.read_close()[0] == 1012
            ws.send(close(1012))
            ws.assert_closed()
            app.leave()
            drained.wait()

    def test_an_open_one_is_not_idle(self, serve, led):
        """The end of the grace is not its end."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        with server.connect() as idle:
            assert idle.ask(get("/ok")).status == 200
            drained = Drained(server, grace_ms=20)
            idle.assert_closed()
        opened.ws.assert_no_frame()
        opened.ws.finish()
        opened.app.leave()
        drained.wait()


class TestAbort:
    def test_it_cuts_and_cancels(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        waiting = opened.app.begin_receive()
        opened.ws.assert_no_frame()
        assert server.call(server.factory.abort) == 1
        try:
            assert opened.client.rest() == b""
        except ConnectionResetError:
            pass
        with pytest.raises(asyncio.CancelledError):
            waiting.result(PATIENCE_S)
        until(lambda: server.factory.connections == server.factory.in_flight == 0)
        report = server.take_error()
        assert isinstance(report.error, asyncio.CancelledError)
        assert (report.method, report.outcome) == ("WebSocket", "cut by the server")

    @pytest.mark.parametrize("state", ["opening", "closing", "denying"])
    def test_in_every_state(self, serve, led, state):
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        if state == "closing":
            opened.app.send(ACCEPT)
            opened.app.close()
        elif state == "denying":
            opened.app.send({"type": "websocket.http.response.start", "status": 404})
        assert server.call(server.factory.abort) == 1
        until(lambda: server.factory.connections == server.factory.in_flight == 0)
        assert server.take_error().outcome == "cut by the server"

    def test_in_a_drain(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        drained = Drained(server)
        assert end_streams(server) == 1
        assert opened.ws.read_close()[0] == 1012
        assert server.call(server.factory.abort) == 1
        drained.wait()
        server.take_error()

    def test_close_refuses_while_one_is_open(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        with pytest.raises(RuntimeError, match="1 open connection"):
            server.call(server.factory.close)
        opened.ws.assert_no_frame()


class TestLimitConcurrency:
    def test_an_open_one_counts(self, serve, led):
        """The next request, whatever it is, gets 503, until the WebSocket is over."""
        server = serve(led, limit_concurrency=1)
        opened = Opened(server, led).accepted()
        with server.connect() as client:
            for request in (get("/ok"), handshake()):
                response = client.ask(request)
                assert (response.status, response.one(b"retry-after")) == (503, b"1")
            server.take_rejects(2)
            opened.ws.finish()
            opened.app.leave()
            until(lambda: server.factory.in_flight == 0)
            assert client.ask(get("/ok")).status == 200
            client.send(handshake())
            led.connection(1).accept()
            WsClient(client).opened()
        assert server.factory.refused == 2

    def test_a_handshake_beyond_it(self, serve):
        """503 in the app's place; the connection is kept, and a later handshake on it is accepted."""
        go = asyncio.Event()

        async def app(scope, receive, send):
            if scope["type"] == "websocket":
                await echo(scope, receive, send)
                return
            await go.wait()
            await reply(send)

        server = serve(app, limit_concurrency=1)
        with server.connect() as slow, server.connect() as client:
            slow.send(get())
            until(lambda: server.factory.in_flight == 1)
            assert client.ask(handshake()).status == 503
            assert server.take_rejects()[0].status == 503
            server.call(go.set)
            assert slow.response().status == 200
            until(lambda: server.factory.in_flight == 0)
            ws = WsClient(client)
            ws.open()
            ws.finish()


def test_counters(serve, led):
    server = serve(led)
    factory = server.factory
    opened = Opened(server, led).accepted()
    assert (factory.connections, factory.in_flight, factory.served) == (1, 1, 0)
    opened.ws.finish()
    until(lambda: factory.connections == 0)
    assert (factory.in_flight, factory.served) == (1, 0)
    opened.app.leave()
    until(lambda: factory.served == 1)
    assert (factory.in_flight, factory.refused) == (0, 0)


SHORT = {"first_byte_ms": 1, "head_ms": 1, "keep_alive_ms": 1, "body_window_ms": 1, "body_min_rate": 1000}


class TestDeadlinesOfHttp:
    """They are for requests: none of them ends a WebSocket, however short it is."""

    def test_an_open_one(self, serve, led):
        server = serve(led, **SHORT)
        opened = Opened(server, led).accepted()
        for _ in range(3):
            self.closes_an_idle_one(server)
        opened.ws.assert_no_frame()

    def test_one_that_waits_for_its_accept(self, serve, led):
        server = serve(led, **SHORT)
        opened = Opened(server, led)
        opened.app.connect()
        for _ in range(3):
            self.closes_an_idle_one(server)
        opened.app.send(ACCEPT)
        opened.ws.opened()
        opened.ws.assert_no_frame()

    def closes_an_idle_one(self, server) -> None:
        """So every deadline is over that began with it, or before."""
        with server.connect() as idle:
            until(lambda: server.factory.connections == 2)
            until(lambda: server.call(server.factory.tick) or server.factory.connections == 1)
            idle.assert_closed()


def test_a_frame_that_comes_slowly_is_no_slow_request(serve):
    app = Heard()
    server = serve(app, head_ms=1, body_window_ms=1, body_min_rate=1_000_000)
    with server.connect() as client:
        ws = WsClient(client)
        ws.open()
        whole = text("slowly")
        for i in range(len(whole)):
            ws.send(whole[i : i + 1])
            server.call(server.factory.tick)
        ws.finish()
    assert app.data() == ["slowly"]


def test_the_access_log_of_an_overload(serve, led):
    server = serve(led, limit_concurrency=1)
    opened = Opened(server, led).accepted()
    with server.connect() as client:
        assert client.ask(handshake("/x")).status == 503
        address = client.sock.getsockname()
    server.take_rejects()
    until(lambda: len(server.accesses) == 2)
    mine, theirs = server.accesses
    assert type(theirs) is Access
    assert (mine.status, theirs.client, theirs.target, theirs.status) == (101, address, b"/x", 503)
    opened.ws.assert_no_frame()
