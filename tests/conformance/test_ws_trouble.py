"""What goes wrong around a WebSocket: the engine, callables, an app that calls back, limits of HTTP."""

from __future__ import annotations

import pytest

from shardserve.config.model import Config
from shardserve.errors import ApplicationError, ClientDisconnected
from shardserve.worker.limits import request_limits
from tests.helpers.http1 import get, until
from tests.helpers.ws import Heard, Opened, WsClient, binary, close, echo, frame, handshake, ping, text

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}


class Failing:
    """The engine, but for one method, which raises or gives what it must not."""

    def __init__(self, method: str, wrong) -> None:
        self._engine = request_limits(Config("none:none"))["websocket"]
        self._method = method
        self._wrong = wrong

    def __getattr__(self, name):
        if name != self._method:
            return getattr(self._engine, name)

        def fails(*_):
            if isinstance(self._wrong, Exception):
                raise self._wrong
            return self._wrong

        return fails


WRONG = [LookupError("the engine's"), None, 5, (), (1, 2), ("101", [], [], None)]


class TestTheEngine:
    @pytest.mark.parametrize("wrong", [*WRONG, (101, [], None, None)])
    def test_a_handshake_that_it_cannot_judge(self, serve, unraisable, wrong):
        """500 without the app, and the error is told."""
        app = Heard()
        server = serve(app, websocket=Failing("open", wrong))
        with server.connect() as client:
            client.send(handshake())
            assert client.response().status == 500
        assert server.ask(get("/ok")).status == 200
        assert app.scopes == []
        assert unraisable
        server.rejects.clear()

    @pytest.mark.parametrize(
        "wrong", [*WRONG, (None, 1, 5, "", b""), (None, 9, None, "", b""), (None, 0, None, "", 5)]
    )
    def test_a_frame_that_it_cannot_judge(self, serve, unraisable, wrong):
        """1011; the app hears it."""
        app = Heard()
        server = serve(app, websocket=Failing("receive", wrong))
        with server.connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(text("a"), ping(b"x"))
            assert ws.read_close()[0] == 1011
            ws.assert_closed()
        assert app.data() == ["a"]
        assert app.end()["code"] == 1011
        assert unraisable
        server.rejects.clear()

    @pytest.mark.parametrize("wrong", [LookupError("the engine's"), None, 5, "text"])
    def test_a_close_that_it_cannot_write(self, serve, unraisable, wrong):
        """The connection ends all the same, with what we can say without it: nothing, or 1011."""
        server = serve(echo, websocket=Failing("close", wrong))
        with server.connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(text("a"))
            assert ws.read_text() == "a"
            server.call(server.factory.end_streams)
            client.half_close()
            assert client.rest() in (b"", b"\x88\x02\x03\xf3")
        until(lambda: server.factory.in_flight == 0)
        assert unraisable
        server.errors.clear()
        server.rejects.clear()

    def test_the_others_are_not_harmed(self, serve, unraisable):
        """One worker has one engine: what fails in it for one client is over with that client."""
        server = serve(echo, websocket=Failing("ping", LookupError("the engine's")), ws_ping_interval_ms=1)
        with server.connect() as client, server.connect() as other:
            ws = WsClient(client)
            ws.open()
            ws.send(text("a"))
            assert ws.read_text() == "a"
            assert other.ask(get("/ok")).status == 200
            until(lambda: server.call(server.factory.tick) or unraisable)
            assert other.ask(get("/ok")).status == 200
        server.errors.clear()
        server.rejects.clear()


@pytest.mark.parametrize("broken", ["errors", "rejects", "accesses"])
def test_a_callable_that_raises_breaks_nothing(serve, unraisable, broken):
    """access, on_reject and on_app_error: what they raise is told, and the client sees none of it."""

    class Broken(list):
        def append(self, _):
            raise LookupError("mine")

    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send(ACCEPT)
            raise ValueError("mine")
        await echo(scope, receive, send)

    server = serve(app)
    good = getattr(server, broken)
    setattr(server, broken, Broken())
    with server.connect() as client:
        assert client.ask(handshake(version=b"8")).status == 426
        ws = WsClient(client)
        ws.open()
        assert ws.read_close()[0] == 1011
        ws.send(close(1011))
        ws.assert_closed()
    until(lambda: server.factory.in_flight == 0)
    until(lambda: unraisable)
    assert all(isinstance(error, LookupError) for error in unraisable)
    setattr(server, broken, good)
    server.errors.clear()
    server.rejects.clear()


class TestAnAppThatCallsBack:
    """Into the WebSocket, from within something that the server asks of it."""

    @pytest.mark.parametrize(
        "inner", [ACCEPT, CLOSE, {"type": "websocket.http.response.start", "status": 404}]
    )
    @pytest.mark.parametrize("outer", ["websocket.accept", "websocket.http.response.start"])
    def test_within_its_headers(self, serve, led, inner, outer):
        """Exactly one of the two is the answer."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()

        async def step(receive, send):
            def fields():
                yield (b"x-a", b"1")
                send(inner)
                yield (b"x-b", b"2")

            with pytest.raises((ApplicationError, ClientDisconnected)):
                await send({"type": outer, "status": 404, "headers": fields()})
            if inner["type"].endswith("start"):
                await send({"type": "websocket.http.response.body", "body": b"no"})

        opened.app.do(step)
        response = opened.ws.answer()
        expected = {"websocket.accept": 101, "websocket.close": 403}.get(inner["type"], 404)
        assert response.status == expected
        assert not {b"x-a", b"x-b"} & set(response.names)
        if expected == 101:
            opened.ws.assert_no_frame()
        else:
            assert opened.client.ask(get("/ok")).status == 200

    def test_headers_that_raise(self, serve, led):
        opened = Opened(serve(led), led)
        opened.app.connect()

        def fields():
            yield (b"x-a", b"1")
            raise LookupError("mine")

        with pytest.raises(LookupError):
            opened.app.send({**ACCEPT, "headers": fields()})
        opened.app.send(ACCEPT)
        assert opened.ws.opened().one(b"x-a") is None

    def test_headers_that_leave_with_a_disconnect(self, serve, led):
        """abort() while they are read: nothing goes to a connection that is gone."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()

        async def step(receive, send):
            def fields():
                server.factory.abort()
                yield (b"x-a", b"1")

            await send({**ACCEPT, "headers": fields()})

        stepping = opened.app.begin(step)
        assert stepping.exception(5) is not None
        until(lambda: server.factory.connections == server.factory.in_flight == 0)
        server.errors.clear()

    def test_within_a_finalizer(self, serve, led):
        """What the server lets go of may run the app: here it closes."""
        opened = Opened(serve(led), led).accepted()
        seen = []

        async def step(receive, send):
            class Evil(str):
                def __del__(self):
                    try:
                        send({**CLOSE, "code": 4000})
                    except (ApplicationError, OSError) as error:
                        seen.append(error)

            await send({"type": "websocket.send", "text": Evil("abc")})

        opened.app.do(step)
        assert opened.ws.read_text() == "abc"
        assert opened.ws.read_close() == (4000, "")
        assert seen == []

    @pytest.mark.parametrize("what", ["end_streams", "tick"])
    def test_into_the_factory(self, serve, led, what):
        """From within its own step: the close frame comes behind what was sent, and once."""
        server = serve(led)
        opened = Opened(server, led).accepted()

        async def step(receive, send):
            await send({"type": "websocket.send", "text": "a"})
            getattr(server.factory, what)()
            try:
                await send({"type": "websocket.send", "text": "b"})
            except ClientDisconnected:
                return "told"

        told = opened.app.do(step)
        assert opened.ws.read_text() == "a"
        if what == "end_streams":
            assert told == "told"
            assert opened.ws.read_close()[0] == 1012
        else:
            assert opened.ws.read_text() == "b"


class TestLimitsOfHttp:
    """A handshake is a request; what comes after it is none."""

    def test_the_last_request_of_a_connection(self, serve, led):
        """limit_keep_alive_requests: the WebSocket lives, a denial closes."""
        server = serve(led, limit_keep_alive_requests=1)
        opened = Opened(server, led).accepted()
        opened.ws.assert_no_frame()
        opened.ws.finish()
        denied = Opened(server, led, number=1)
        denied.app.connect()
        denied.app.close()
        assert denied.client.response().closes
        denied.client.assert_closed()

    def test_a_client_that_would_close(self, serve, led):
        """Connection: close, upgrade: the same."""
        server = serve(led)
        request = handshake().replace(b"Connection: Upgrade", b"Connection: close, Upgrade")
        with server.connect() as client:
            client.send(request, text("behind"))
            app = led.connection()
            app.accept()
            ws = WsClient(client)
            ws.opened()
            assert app.receive()["text"] == "behind"
            ws.finish()
        with server.connect() as client:
            client.send(request)
            app = led.connection(1)
            app.connect()
            app.close()
            assert client.response().closes
            client.assert_closed()

    def test_frames_are_not_heads_or_bodies(self, serve):
        app = Heard()
        limits = {
            "limit_request_line": 200,
            "limit_request_head": 400,
            "limit_request_field_size": 100,
            "limit_request_fields": 10,
            "limit_request_body": 10,
            "limit_pipelined": 100,
        }
        with serve(app, **limits).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(binary(b"x" * 200_000), frame(1, b"y" * 5000, fin=False), frame(0, b"y" * 5000))
            ws.finish()
        assert app.data() == [b"x" * 200_000, "y" * 10_000]

    @pytest.mark.parametrize(
        ("field", "status"),
        [(b"X-Long: " + b"x" * 100_000, 431), (b"Bad Name: x", 400), (b"Content-Length: x", 400)],
    )
    def test_a_handshake_that_is_no_request(self, serve, field, status):
        server = serve(echo)
        with server.connect() as client:
            client.send(handshake("/", field))
            assert client.response().status == status
            client.assert_closed()
        assert server.take_rejects()[0].status == status

    def test_limit_connections(self, serve, led):
        server = serve(led, limit_connections=1)
        opened = Opened(server, led).accepted()
        with server.connect() as client:
            assert client.response().status == 503
        server.take_rejects()
        opened.ws.assert_no_frame()
