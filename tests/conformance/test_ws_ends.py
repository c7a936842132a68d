"""How a WebSocket ends, and what each side hears of it: closed by either, or failed by the app."""

from __future__ import annotations

import asyncio

import pytest

from shardserve.errors import ClientDisconnected, MessageError
from tests.helpers.http1 import PATIENCE_S, get, until
from tests.helpers.ws import (
    Heard,
    Opened,
    WsClient,
    accept,
    binary,
    close,
    data_of,
    disconnect,
    echo,
    frame,
    gone,
    handshake,
    ping,
    text,
)

ACCEPT = {"type": "websocket.accept"}
SEND = {"type": "websocket.send", "text": "late"}
CLOSE = {"type": "websocket.close"}
START = {"type": "websocket.http.response.start", "status": 404, "headers": []}
MORE = {"type": "websocket.http.response.body", "body": b"half", "more_body": True}


def say(*messages):
    async def step(receive, send):
        for message in messages:
            await send(message)

    return step


class TestTheClientCloses:
    CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)

    @pytest.mark.parametrize("code", CODES)
    def test_with_a_code(self, serve, code):
        """RFC 6455 §5.5.1: the answer has the same code; §7.1.1: then the server closes the connection."""
        app = Heard()
        server = serve(app)
        with server.connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(close(code, "bye ☂"))
            assert ws.read_close()[0] == code
            ws.assert_closed()
            gone(server)
        assert app.end() == disconnect(code, "bye ☂")

    def test_without_a_code(self, serve):
        """RFC 6455 §7.1.5: that is 1005 for the app, and nothing on the wire."""
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(close(None))
            assert ws.read_close() == (1005, "")
            ws.assert_closed()
        assert app.end() == disconnect(1005)

    def test_with_the_longest_reason(self, serve):
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(close(1000, "é" * 61 + "!"))
            ws.read_close()
            ws.assert_closed()
        assert app.end() == disconnect(1000, "é" * 61 + "!")

    def test_what_came_before_is_delivered_before(self, serve, led):
        """Also if it is all there before the app asks."""
        opened = Opened(serve(led), led).accepted()
        opened.ws.send(text("a"), binary(b"b"), text("c"), close(4000))
        assert opened.ws.read_close()[0] == 4000
        opened.ws.assert_closed()
        assert [data_of(opened.app.receive()) for _ in range(3)] == ["a", b"b", "c"]
        assert opened.app.receive() == disconnect(4000)

    def test_what_comes_behind_is_not(self, serve):
        """RFC 6455 §5.5.1: after a close frame there is nothing."""
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(text("a"), close(1000), text("b"), close(4000), ping(b"x"))
            assert ws.read_close() == (1000, "")
            ws.assert_closed()
        assert app.data() == ["a"]
        assert app.end() == disconnect(1000)

    @pytest.mark.parametrize("message", [SEND, {"type": "websocket.send", "bytes": b"x" * 100_000}, CLOSE])
    def test_send_raises_then(self, serve, led, message):
        """An OSError: the app did nothing wrong. Nothing goes out behind the close frame."""
        opened = Opened(serve(led), led).accepted()
        opened.ws.send(close(1000))
        assert opened.app.receive() == disconnect(1000)
        for _ in range(3):
            with pytest.raises(ClientDisconnected) as raised:
                opened.app.send(message)
            assert isinstance(raised.value, OSError)
        assert opened.ws.read_close() == (1000, "")
        opened.ws.assert_closed()

    def test_the_app_need_not_listen(self, serve, led):
        """The close is answered although nobody asks for it."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.ws.send(close(1000))
        assert opened.ws.read_close() == (1000, "")
        opened.ws.assert_closed()
        gone(server)
        with pytest.raises(ClientDisconnected):
            opened.app.text("late")

    def test_in_the_middle_of_fragments(self, serve):
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(text("whole"), frame(1, b"part", fin=False), close(1001))
            assert ws.read_close()[0] == 1001
            ws.assert_closed()
        assert app.data() == ["whole"]
        assert app.end() == disconnect(1001)


class TestTheAppCloses:
    @pytest.mark.parametrize(
        ("message", "code", "reason"),
        [
            (CLOSE, 1000, ""),
            ({**CLOSE, "code": 1000, "reason": None}, 1000, ""),
            ({**CLOSE, "code": 1001}, 1001, ""),
            ({**CLOSE, "code": 1008, "reason": "policy"}, 1008, "policy"),
            ({**CLOSE, "reason": "just so"}, 1000, "just so"),
            ({**CLOSE, "code": 3000, "reason": "x" * 123}, 3000, "x" * 123),
            ({**CLOSE, "code": 4999, "reason": "é" * 61}, 4999, "é" * 61),
            ({**CLOSE, "code": 1012}, 1012, ""),
            ({**CLOSE, "code": 1014}, 1014, ""),
        ],
    )
    def test_the_closing_handshake(self, serve, led, message, code, reason):
        """Our close frame, the client's, the end of the connection, in this order (RFC 6455 §7.1.1)."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.app.text("last words")
        opened.app.send(message)
        assert opened.ws.read_text() == "last words"
        assert opened.ws.read_close() == (code, reason)
        assert server.factory.connections == 1
        opened.ws.send(close(code))
        opened.ws.assert_closed()
        gone(server)
        assert opened.app.receive() == disconnect(code, reason)

    def test_what_the_client_says_in_between_is_dropped(self, serve):
        """Its messages are not delivered, its pings not answered, until its close frame comes."""
        messages = []

        async def app(scope, receive, send):
            await accept(receive, send)
            await send({**CLOSE, "code": 4001})
            while not messages or messages[-1]["type"] != "websocket.disconnect":
                messages.append(await receive())

        server = serve(app)
        with server.connect() as client:
            ws = WsClient(client)
            ws.open()
            assert ws.read_close() == (4001, "")
            ws.send(text("a"), ping(b"x"), frame(1, b"b", fin=False), frame(0, b"c"), binary(b"d" * 70_000))
            ws.send(close(4001))
            ws.assert_closed()
        gone(server)
        until(lambda: messages)
        assert [message["type"] for message in messages] == ["websocket.disconnect"]

    def test_much_of_it(self, serve, led):
        """Whoever keeps sending is read, or neither side would ever come to the end."""
        opened = Opened(serve(led), led).accepted()
        opened.app.close(4002)
        for _ in range(100):
            opened.ws.send(binary(b"x" * 65536))
        assert opened.ws.read_close() == (4002, "")
        opened.ws.send(close(4002))
        opened.ws.assert_closed()

    @pytest.mark.parametrize("answer", [close(None), close(1000), close(4999, "other")])
    def test_any_close_frame_is_an_answer(self, serve, led, answer):
        opened = Opened(serve(led), led).accepted()
        opened.app.close(4003)
        assert opened.ws.read_close() == (4003, "")
        opened.ws.send(answer)
        opened.ws.assert_closed()

    def test_a_client_that_goes_instead_of_answering(self, serve, led, lose):
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.app.close(4004)
        assert opened.ws.read_close() == (4004, "")
        lose(opened.client)
        gone(server)
        assert opened.app.receive()["type"] == "websocket.disconnect"

    def test_a_client_that_never_answers(self, serve, led):
        """timeout-ws-close."""
        server = serve(led, ws_close_ms=20)
        opened = Opened(server, led).accepted()
        opened.app.close(4005)
        assert opened.ws.read_close() == (4005, "")
        opened.app.leave()
        until(lambda: server.call(server.factory.tick) or server.factory.connections == 0)
        opened.ws.assert_closed()

    def test_a_receive_that_waits_hears_it(self, serve, led):
        """In another task of the app, which must not wait for ever."""
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            waiting = asyncio.create_task(receive())
            await asyncio.sleep(0)
            await send({**CLOSE, "code": 4006, "reason": "mine"})
            return await asyncio.wait_for(waiting, 5)

        waiting = opened.app.begin(step)
        assert opened.ws.read_close() == (4006, "mine")
        opened.ws.send(close(4006))
        assert waiting.result(PATIENCE_S) == disconnect(4006, "mine")

    def test_a_send_behind_it_is_a_mistake(self, serve, led):
        opened = Opened(serve(led), led).accepted()
        opened.app.close()
        for message in (SEND, CLOSE, ACCEPT):
            with pytest.raises(MessageError):
                opened.app.send(message)
        opened.ws.read_close()
        opened.ws.send(close())
        opened.ws.assert_closed()
        with pytest.raises((MessageError, ClientDisconnected)):
            opened.app.send(SEND)

    def test_both_at_once(self, serve, led):
        """The client's is on its way when the app closes: one close frame each, whoever was first."""
        server = serve(led)
        for number in range(20):
            opened = Opened(server, led, number=number).accepted()
            closing = opened.app.begin(say(CLOSE))
            opened.ws.send(close(1000))
            assert opened.ws.read_close() == (1000, "")
            opened.ws.assert_closed()
            assert isinstance(closing.exception(5), (type(None), ClientDisconnected))
            opened.app.leave()


class TestTheAppFails:
    @pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, GeneratorExit, BaseException])
    def test_before_the_accept(self, serve, turn, kind):
        async def app(scope, receive, send):
            if scope["type"] != "websocket":
                await echo(scope, receive, send)
                return
            await receive()
            await turn()
            raise kind

        server = serve(app)
        with server.connect() as client:
            client.send(handshake("/wrong?x=1"), get("/ok"))
            response = client.response()
            assert (response.status, response.body) == (500, b"Internal Server Error")
            assert client.response().body == b"ok"
            address = client.sock.getsockname()
        report = server.take_error()
        assert isinstance(report.error, kind)
        assert (report.method, report.target, report.client) == ("WebSocket", "/wrong?x=1", address)
        assert report.outcome == "500 sent"
        assert [(one.method, one.status) for one in server.accesses] == [("WebSocket", 500), ("GET", 200)]

    def test_without_an_answer(self, serve, turn):
        async def app(scope, receive, send):
            await turn()

        server = serve(app)
        assert server.ask(handshake()).status == 500
        report = server.take_error()
        assert type(report.error) is MessageError
        assert (report.method, report.outcome) == ("WebSocket", "500 sent")

    @pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, GeneratorExit, BaseException])
    def test_after_the_accept(self, serve, turn, kind):
        """RFC 6455 §7.4.1: 1011. What was sent before comes before."""

        async def app(scope, receive, send):
            await accept(receive, send)
            await send({"type": "websocket.send", "text": "last words"})
            await turn()
            raise kind

        server = serve(app)
        with server.connect() as client:
            ws = WsClient(client)
            ws.open("/wrong")
            assert ws.read_text() == "last words"
            assert ws.read_close()[0] == 1011
            ws.send(close(1011))
            ws.assert_closed()
        report = server.take_error()
        assert isinstance(report.error, kind)
        assert (report.method, report.target, report.outcome) == ("WebSocket", "/wrong", "closed with 1011")
        assert [one.status for one in server.accesses] == [101]

    def test_nothing_of_the_error_reaches_the_client(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.app.fail(ValueError("the password is 1234"))
        code, reason = opened.ws.read_close()
        assert code == 1011
        assert "password" not in reason
        assert "ValueError" not in reason
        server.take_error()

    def test_returning_is_a_close(self, serve, turn):
        async def app(scope, receive, send):
            await accept(receive, send)
            await turn()

        server = serve(app)
        with server.connect() as client:
            ws = WsClient(client)
            ws.open()
            assert ws.read_close() == (1000, "")
            ws.send(close(1000))
            ws.assert_closed()
        gone(server)

    def test_messages_that_it_left_unread(self, serve, led):
        opened = Opened(serve(led), led).accepted()
        opened.ws.send(*[text("unread")] * 10)
        opened.ws.assert_no_frame()
        opened.app.leave()
        assert opened.ws.read_close() == (1000, "")
        opened.ws.send(text("more"), close(1000))
        opened.ws.assert_closed()

    @pytest.mark.parametrize("closed_by", ["the app", "the client"])
    def test_after_the_close(self, serve, led, closed_by):
        """It is reported, and changes nothing."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        if closed_by == "the app":
            opened.app.close(4000)
        opened.ws.send(close(4000))
        assert opened.ws.read_close() == (4000, "")
        opened.ws.assert_closed()
        gone(server)
        opened.app.fail(LookupError("mine"))
        report = server.take_error()
        assert isinstance(report.error, LookupError)
        assert report.method == "WebSocket"
        assert "1011" not in report.outcome
        assert "500" not in report.outcome

    def test_in_a_denial_that_nobody_has_seen(self, serve, led):
        """As with HTTP: the response that was begun is forgotten."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        opened.app.send({**START, "headers": [(b"x-forgotten", b"1")]})
        opened.app.fail(ValueError("mine"))
        response = opened.client.response()
        assert response.status == 500
        assert response.one(b"x-forgotten") is None
        assert opened.client.ask(get("/ok")).status == 200
        assert server.take_error().outcome == "500 sent"

    @pytest.mark.parametrize("fails", [True, False])
    def test_in_the_middle_of_a_denial(self, serve, led, fails):
        """The client sees that it is torn."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        opened.app.send(START)
        opened.app.send(MORE)
        if fails:
            opened.app.fail(ValueError("mine"))
        else:
            opened.app.leave()
        rest = opened.client.rest()
        assert b"half" in rest
        assert not rest.endswith(b"0\r\n\r\n")
        assert server.take_error().outcome == "connection closed early"
