"""A WebSocket whose client goes without a close frame (1006), in every state, and one that only half goes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shardserve.errors import ClientDisconnected
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


class TestTheClientGoes:
    """Without a close frame: 1006 (RFC 6455 §7.1.5), whatever the state."""

    def test_before_the_app_asks(self, serve, led, lose):
        server = serve(led)
        opened = Opened(server, led)
        lose(opened.client)
        opened.app.connect()
        assert opened.app.receive() == disconnect(1006)
        with pytest.raises(ClientDisconnected):
            opened.app.send(ACCEPT)
        opened.app.leave()  # which is no mistake: the fixture sees that nobody reports one
        gone(server)
        assert server.accesses == []

    def test_before_the_accept(self, serve, led, lose):
        """An app that waits for something else, with a receive() beside it, hears of it."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        waiting = opened.app.begin_receive()
        lose(opened.client)
        assert waiting.result(PATIENCE_S) == disconnect(1006)
        assert opened.app.receive() == disconnect(1006)
        with pytest.raises(ClientDisconnected):
            opened.app.send(ACCEPT)
        opened.app.leave()
        gone(server)
        assert server.accesses == []

    @pytest.mark.parametrize("message", [ACCEPT, CLOSE, START], ids=["accept", "close", "denial"])
    def test_after_a_reset_there_is_no_answer(self, serve, led, message):
        server = serve(led)
        opened = Opened(server, led)
        opened.client.reset()
        gone(server)
        with pytest.raises(ClientDisconnected):
            opened.app.send(message)
        opened.app.leave()

    def test_in_receive(self, serve, led, lose):
        server = serve(led)
        opened = Opened(server, led).accepted()
        waiting = opened.app.begin_receive()
        lose(opened.client)
        assert waiting.result(PATIENCE_S) == disconnect(1006)
        assert opened.app.receive() == disconnect(1006)
        opened.app.leave()
        gone(server)

    def test_while_the_app_does_something_else(self, serve, led, lose):
        server = serve(led)
        opened = Opened(server, led).accepted()
        lose(opened.client)
        gone(server)
        assert server.factory.in_flight == 1
        for message in (SEND, CLOSE):
            with pytest.raises(ClientDisconnected):
                opened.app.send(message)
        assert opened.app.receive() == disconnect(1006)
        opened.app.leave()
        until(lambda: server.factory.in_flight == 0)

    @pytest.mark.parametrize(
        "part",
        [
            text("x" * 1000)[:-1],
            text("x" * 1000)[:3],
            text("x")[:1],
            frame(1, b"part", fin=False),
            frame(1, b"a", fin=False) + frame(0, b"b")[:3],
            close(1000)[:-1],
            ping(b"x")[:-1],
        ],
        ids=["frame", "length", "byte", "message", "fragment", "close", "ping"],
    )
    def test_within_something(self, serve, part, lose):
        app = Heard()
        server = serve(app)
        client = server.connect()
        ws = WsClient(client)
        ws.open()
        ws.send(text("whole"))
        until(lambda: app.messages)
        ws.send(part)
        lose(client)
        assert app.data() == ["whole"]
        assert app.end() == disconnect(1006)
        gone(server)

    def test_within_a_denial(self, serve, led, lose):
        """As with any response: it is the next send(), or the one after it, that finds out."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        opened.app.send(START)
        opened.app.send(MORE)
        opened.client.read_until(b"half")
        lose(opened.client)

        async def step(receive, send):
            while True:
                await send(MORE)
                await asyncio.sleep(0.001)

        with pytest.raises(ClientDisconnected):
            opened.app.do(step)
        opened.app.leave()
        gone(server)

    def test_a_send_that_waits_ends(self, serve, lose):
        """Suspended for want of room when the client goes: it must not wait for ever."""

        async def app(scope, receive, send):
            await accept(receive, send)
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 65536})

        server = serve(app)
        client = server.connect(receive_buffer=8192)
        WsClient(client).open()
        client.read_until(b"x")
        lose(client)
        report = server.take_error()
        assert type(report.error) is ClientDisconnected
        assert (report.method, report.outcome) == ("WebSocket", "client gone")
        gone(server)

    def test_an_error_of_the_apps_own_after_it(self, serve, led, lose):
        server = serve(led)
        opened = Opened(server, led).accepted()
        waiting = opened.app.begin_receive()
        lose(opened.client)
        waiting.result(PATIENCE_S)
        opened.app.fail(LookupError("mine"))
        report = server.take_error()
        assert isinstance(report.error, LookupError)
        assert report.outcome == "client gone"

    def test_many_come_and_go(self, serve):
        """At every point; nothing is left, and the server still answers."""
        server = serve(echo)
        script = handshake() + text("a") + frame(1, b"b", fin=False) + ping() + frame(0, b"c") + close()
        for cut in range(1, len(script), 3):
            client = server.connect()
            client.send(script[:cut])
            if cut % 2:
                client.receive(1 + cut) if cut >= len(handshake()) else None
            client.reset() if cut % 4 < 2 else client.close()
        assert server.ask(get("/ok")).status == 200
        until(lambda: server.factory.in_flight == 0)
        gone(server)
        assert all(isinstance(report.error, ClientDisconnected) for report in server.errors)
        server.errors.clear()
        server.rejects.clear()  # of those that went within their request's head


class TestAHalfClosedPeer:
    """A client that ended its side will send no close frame: to wait for one is pointless."""

    def test_after_the_accept(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.ws.send(text("last words"))
        opened.client.half_close()
        assert data_of(opened.app.receive()) == "last words"
        assert opened.app.receive() == disconnect(1006)
        opened.client.rest()
        gone(server)

    def test_before_the_accept(self, serve, led):
        """No WebSocket can come of it any more, but an answer may (RFC 9112 §9.6)."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        waiting = opened.app.begin_receive()
        opened.client.half_close()
        assert waiting.result(PATIENCE_S) == disconnect(1006)
        with pytest.raises(ClientDisconnected):
            opened.app.send(ACCEPT)
        opened.app.close()
        assert opened.client.response().status == 403
        opened.client.assert_closed()
        gone(server)

    def test_a_refusal_still_reaches_it(self, serve, led):
        server = serve(led)
        assert server.raw(handshake(version=b"8")).startswith(b"HTTP/1.1 426 ")
        server.take_rejects()

    def test_in_the_closing_handshake(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.app.close(4000)
        assert opened.ws.read_close() == (4000, "")
        opened.client.half_close()
        opened.ws.assert_closed()
        gone(server)

    def test_behind_a_close_frame(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.ws.send(close(4001))
        opened.client.half_close()
        assert opened.ws.read_close() == (4001, "")
        opened.ws.assert_closed()
        assert opened.app.receive() == disconnect(4001)


class Flood:
    """A client that sends more than is read ahead, in a thread of its own, to an app that lags."""

    SIZE = 20_000
    COUNT = 400

    def __init__(self, server, led, *behind: bytes) -> None:
        self.opened = Opened(server, led).accepted()
        frames = [binary(b"%08d" % number * (self.SIZE // 8)) for number in range(self.COUNT)]
        self.thread = threading.Thread(target=self.opened.ws.send, args=[*frames, *behind])
        self.thread.start()
        self.opened.app.receive()  # so it has begun


class TestAnAppThatLags:
    """The socket is not read then; whatever ends the WebSocket, it ends."""

    def test_the_app_closes(self, serve, led):
        """The client's close frame stands behind what nobody will take."""
        flood = Flood(serve(led), led, close(4000))
        flood.opened.app.close(4000)
        flood.thread.join()
        assert flood.opened.ws.read_close() == (4000, "")
        flood.opened.ws.assert_closed()

    @pytest.mark.parametrize("fails", [True, False])
    def test_the_app_leaves(self, serve, led, fails):
        server = serve(led)
        flood = Flood(server, led, close(1000))
        if fails:
            flood.opened.app.fail(LookupError("mine"))
        else:
            flood.opened.app.leave()
        flood.thread.join()
        assert flood.opened.ws.read_close()[0] == (1011 if fails else 1000)
        flood.opened.ws.assert_closed()
        gone(server)
        if fails:
            server.take_error()

    def test_a_drain(self, serve, led):
        server = serve(led)
        flood = Flood(server, led, close(1012))
        assert server.call(server.factory.end_streams) == 1
        flood.thread.join()
        assert flood.opened.ws.read_close()[0] == 1012
        flood.opened.ws.assert_closed()

    def test_the_client_closes(self, serve, led):
        """Everything before it is delivered first."""
        flood = Flood(serve(led), led, close(4001))

        async def hears(receive, send):
            count = 1
            while (message := await receive())["type"] == "websocket.receive":
                assert message["bytes"] == b"%08d" % count * (Flood.SIZE // 8)
                count += 1
            return count, message

        assert flood.opened.app.do(hears) == (Flood.COUNT, disconnect(4001))
        flood.thread.join()
        assert flood.opened.ws.read_close() == (4001, "")
        flood.opened.ws.assert_closed()

    def test_the_client_half_closes(self, serve, led):
        flood = Flood(serve(led), led)

        async def hears(receive, send):
            count = 1
            while (message := await receive())["type"] == "websocket.receive":
                count += 1
                if count == Flood.COUNT:
                    flood.thread.join()
                    flood.opened.client.half_close()
            return count, message

        assert flood.opened.app.do(hears) == (Flood.COUNT, disconnect(1006))

    def test_the_client_is_reset(self, serve, led):
        """Nothing is awaited from it: the tick looks whether it is still there."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        for number in range(100):
            opened.ws.send(text(str(number)))
        opened.client.reset()
        until(lambda: server.call(server.factory.tick) or server.factory.connections == 0)

        async def hears(receive, send):
            heard = []
            while (message := await receive())["type"] == "websocket.receive":
                heard.append(message["text"])
            return heard, message

        heard, message = opened.app.do(hears)
        assert heard == [str(number) for number in range(len(heard))]
        assert message == disconnect(1006)
