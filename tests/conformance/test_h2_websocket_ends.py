"""How a WebSocket over HTTP/2 ends: its stream does, and the connection goes on (RFC 8441 §5).

Rules of this file: whatever ends a WebSocket, what is beside it on the connection is asked afterwards. What
the server ends by itself is in test_h2_websocket_drain.py.
"""

from __future__ import annotations

import asyncio

import pytest

from shardserve.errors import ClientDisconnected
from tests.helpers.h2_ws import NO_ERROR, PRIOR_KNOWLEDGE, VERSION, H2Opened, H2Stream, StreamReset, h2_to
from tests.helpers.http1 import PATIENCE_S, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import (
    BINARY,
    PING,
    TEXT,
    binary,
    close,
    data_of,
    disconnect,
    echo,
    frame,
    gone,
    ping,
    text,
)
from tests.helpers.ws_peer import header, limited
from tests.helpers.ws_time import CLOSING

pytestmark = needs_nghttp2
SERVED_WITH = PRIOR_KNOWLEDGE

SEND = {"type": "websocket.send", "text": "late"}
CLOSE = {"type": "websocket.close"}


@pytest.fixture
def opened(serve, led):
    """A WebSocket that is open, and another one beside it, which must live on."""
    h2 = h2_to(serve(led))
    found = H2Opened(h2, led).accepted()
    other = H2Opened(h2, led, number=1).accepted()
    yield found
    other.assert_lives()
    assert h2.ask().status == 200
    assert h2.goaways == []


def over(stream: H2Stream) -> None:
    """The server is done with the stream, and no error of HTTP/2 was the reason."""
    stream.assert_closed()
    stream.h2.settle()
    assert stream.reset in (None, NO_ERROR)


class TestTheClientCloses:
    @pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
    def test_with_a_code(self, opened, code):
        """Its frame is answered, then the stream ends; the app hears it."""
        opened.ws.send(close(code, "bye ☂"))
        assert opened.ws.read_close()[0] == code
        over(opened.stream)
        opened.ws.leave()
        assert opened.app.receive() == disconnect(code, "bye ☂")

    def test_with_the_end_of_the_stream_behind_it(self, opened):
        """RFC 8441 §5: END_STREAM is a FIN, and no hurry."""
        opened.stream.send(text("a"), close(4000), end=True)
        assert opened.ws.read_close()[0] == 4000
        over(opened.stream)
        assert data_of(opened.app.receive()) == "a"
        assert opened.app.receive() == disconnect(4000)
        for _ in range(2):
            with pytest.raises(ClientDisconnected):
                opened.app.send(SEND)

    def test_what_comes_behind_it_is_dropped(self, opened):
        opened.ws.send(text("a"), close(1000), text("b"), close(4000), ping(b"x"))
        assert opened.ws.read_close() == (1000, "")
        over(opened.stream)
        assert data_of(opened.app.receive()) == "a"
        assert opened.app.receive() == disconnect(1000)


class TestTheAppCloses:
    def test_the_closing_handshake(self, opened):
        """Our close frame, the client's, the end of the stream, in this order."""
        opened.app.text("last words")
        opened.app.close(4001, "mine")
        assert opened.ws.read_text() == "last words"
        assert opened.ws.read_close() == (4001, "mine")
        opened.h2.settle()
        assert not opened.stream.ended
        opened.ws.send(text("dropped"), close(4001))
        over(opened.stream)
        opened.ws.leave()
        assert opened.app.receive() == disconnect(4001, "mine")

    def test_by_returning(self, opened):
        opened.app.leave()
        assert opened.ws.read_close() == (1000, "")
        opened.ws.send(close(1000))
        over(opened.stream)

    @pytest.mark.parametrize("how", ["end", "cancel"])
    def test_a_client_that_goes_instead_of_answering(self, opened, how):
        opened.app.close(4004)
        assert opened.ws.read_close() == (4004, "")
        getattr(opened.stream, how)()
        assert opened.app.receive()["type"] == "websocket.disconnect"
        if how == "end":
            over(opened.stream)

    def test_much_that_the_client_still_says(self, opened):
        """It is read, and its window opens, or neither side would ever come to the end."""
        opened.app.close(4002)
        for _ in range(40):
            opened.ws.send(binary(b"x" * 65536))
        assert opened.ws.read_close() == (4002, "")
        opened.ws.send(close(4002))
        over(opened.stream)

    def test_a_client_that_never_answers(self, serve_ticking, led):
        """timeout-ws-close ends the stream, not the connection."""
        h2 = h2_to(serve_ticking(led, **CLOSING))
        found, other = (H2Opened(h2, led, number=number).accepted() for number in range(2))
        found.app.close(4005)
        assert found.ws.read_close() == (4005, "")
        wait_for_the_end(found.stream)
        other.ws.assert_no_frame()
        assert found.app.receive() == disconnect(4005)

    def test_both_at_once(self, serve, led):
        """One close frame each, whoever was first."""
        h2 = h2_to(serve(led))
        for number in range(20):
            found = H2Opened(h2, led, number=number).accepted()

            async def step(receive, send):
                await send(CLOSE)

            closing = found.app.begin(step)
            found.ws.send(close(1000))
            assert found.ws.read_close() == (1000, "")
            over(found.stream)
            assert isinstance(closing.exception(PATIENCE_S), (type(None), ClientDisconnected))


def wait_for_the_end(stream: H2Stream) -> None:
    """END_STREAM or RST_STREAM, without a frame before it."""
    while not stream.ended and stream.reset is None:
        stream.h2.pump()
    assert (stream.buffered, stream.data) == (b"", b"")


def end(stream: H2Stream) -> None:
    stream.end()


def cancel(stream: H2Stream) -> None:
    stream.cancel()


def trailers(stream: H2Stream) -> None:
    """RFC 9113 §8.1: the end in its other form."""
    stream.h2.core.send_headers(stream.number, [(b"x-last", b"1")], end_stream=True)
    stream.h2.flush()


GOING = pytest.mark.parametrize("go", [end, cancel, trailers])


class TestTheClientGoes:
    """Without a close frame: 1006 (RFC 6455 §7.1.5)."""

    @GOING
    def test_in_receive(self, opened, go):
        waiting = opened.app.begin_receive()
        go(opened.stream)
        assert waiting.result(PATIENCE_S) == disconnect(1006)
        assert opened.app.receive() == disconnect(1006)
        for message in (SEND, CLOSE):
            with pytest.raises(ClientDisconnected):
                opened.app.send(message)
        if go is not cancel:
            wait_for_the_end(opened.stream)

    @GOING
    def test_within_a_frame(self, opened, go):
        opened.ws.send(text("whole"), text("not whole")[:7])
        go(opened.stream)
        assert data_of(opened.app.receive()) == "whole"
        assert opened.app.receive() == disconnect(1006)

    @GOING
    def test_before_the_accept(self, serve, led, go):
        server = serve(led)
        h2 = h2_to(server)
        found = H2Opened(h2, led)
        go(found.stream)
        found.app.connect()
        assert found.app.receive() == disconnect(1006)
        with pytest.raises(ClientDisconnected):
            found.app.send({"type": "websocket.accept"})
        found.app.leave()  # which is no mistake: the fixture sees that nobody reports one
        assert h2.ask().status == 200
        until(lambda: server.factory.in_flight == 0)

    def test_with_the_handshake_itself(self, serve, led):
        """END_STREAM on the HEADERS: there was never anything to come."""
        server = serve(led)
        h2 = h2_to(server)
        where = {b":scheme": b"http", b":path": b"/", b":authority": b"test"}
        begin = {b":method": b"CONNECT", b":protocol": b"websocket"}
        h2.say([*begin.items(), *where.items(), VERSION], end=True)
        app = led.connection()
        app.connect()
        assert app.receive() == disconnect(1006)
        app.leave()
        assert h2.ask().status == 200

    def test_a_reset_right_behind_the_handshake(self, serve, led):
        """The app may see it or not; the connection lives, nothing is left."""
        server = serve(led)
        h2 = h2_to(server)
        for _ in range(20):
            h2.connect().cancel()
        assert h2.ask().status == 200
        for connection in led.connections:
            connection.connect()
            assert connection.receive() == disconnect(1006)
            connection.leave()
        until(lambda: server.factory.in_flight == 0)

    def test_with_the_connection(self, serve, led, lose):
        """Every WebSocket on it hears of it."""
        server = serve(led)
        h2 = h2_to(server)
        all_of_it = [H2Opened(h2, led, number=number).accepted() for number in range(5)]
        waiting = [one.app.begin_receive() for one in all_of_it[:3]]
        lose(h2)
        assert [one.result(PATIENCE_S) for one in waiting] == [disconnect(1006)] * 3
        for one in all_of_it:
            assert one.app.receive() == disconnect(1006)
            with pytest.raises(ClientDisconnected):
                one.app.send(SEND)
            one.app.leave()
        gone(server)

    def test_not_with_a_goaway(self, serve, led):
        """RFC 9113 §6.8: the client wants no more streams from us, and what is open goes on."""
        h2 = h2_to(serve(led))
        found = H2Opened(h2, led).accepted()
        h2.sock.sendall(bytes(2) + b"\x08\x07" + bytes(13))  # GOAWAY(0, NO_ERROR)
        found.assert_lives()
        found.ws.finish()
        assert found.app.receive() == disconnect(1000)
        h2.to_the_end()


class TestTheAppFails:
    def test_before_the_accept(self, serve, turn):
        async def app(scope, receive, send):
            if scope["type"] != "websocket":
                await echo(scope, receive, send)
                return
            await receive()
            await turn()
            raise ValueError("the password is 1234")

        server = serve(app)
        h2 = h2_to(server)
        response = h2.connect(b"/wrong?x=1").response()
        assert (response.status, response.body) == (500, b"Internal Server Error")
        report = server.take_error()
        assert (report.method, report.target, report.client) == (
            "WebSocket",
            "/wrong?x=1",
            h2.sock.getsockname(),
        )
        assert (type(report.error), report.outcome) == (ValueError, "500 sent")
        assert h2.ask().status == 200
        assert [(one.method, one.status) for one in server.accesses] == [("WebSocket", 500), ("GET", 200)]

    def test_without_an_answer(self, serve, turn):
        async def app(scope, receive, send):
            await turn()

        server = serve(app)
        assert h2_to(server).connect().response().status == 500
        assert server.take_error().outcome == "500 sent"

    @pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, BaseException])
    def test_after_the_accept(self, opened, kind):
        opened.app.text("last words")
        opened.app.fail(kind("the password is 1234"))
        assert opened.ws.read_text() == "last words"
        code, reason = opened.ws.read_close()
        assert code == 1011
        assert "password" not in reason
        opened.ws.send(close(1011))
        over(opened.stream)
        report = opened.h2.server.take_error()
        assert isinstance(report.error, kind)
        assert (report.method, report.target, report.outcome) == ("WebSocket", "/", "closed with 1011")

    def test_in_the_middle_of_a_denial(self, serve, led):
        """The client sees that it is torn (RFC 9113 §8.1): no END_STREAM."""
        server = serve(led)
        found = H2Opened(h2_to(server), led)
        found.app.connect()
        found.app.send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        found.app.send({"type": "websocket.http.response.body", "body": b"half", "more_body": True})
        found.app.fail(ValueError("mine"))
        assert found.stream.receive() == b"half"
        with pytest.raises(StreamReset):
            found.stream.receive()
        assert isinstance(server.take_error().error, ValueError)
        assert found.h2.ask().status == 200


WRONG = {
    "not masked": (frame(TEXT, b"x", mask=None), 1002),
    "a reserved bit": (frame(TEXT, b"x", rsv=4), 1002),
    "an opcode that is none": (frame(3, b"x"), 1002),
    "a continuation of nothing": (frame(0, b"x"), 1002),
    "a ping in fragments": (frame(PING, b"x", fin=False), 1002),
    "text that is none": (frame(TEXT, b"\xff"), 1007),
    "too large, by its header": (header(BINARY, 1001), 1009),
    "too many fragments": (frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 10, 1008),
}


@pytest.mark.parametrize(("data", "code"), WRONG.values(), ids=WRONG)
def test_a_frame_that_breaks_a_rule(serve, led, data, code):
    """The WebSocket is failed as over HTTP/1.1, with one report; the stream ends, the connection does not."""
    server = serve(led, **limited(ws_max_size_bytes=1000, ws_max_fragments=10))
    h2 = h2_to(server)
    found, other = (H2Opened(h2, led, number=number).accepted() for number in range(2))
    found.ws.send(text("good"), data, text("more"))
    assert found.ws.read_close()[0] == code
    over(found.stream)
    assert data_of(found.app.receive()) == "good"
    assert found.app.receive()["code"] == code
    (reject,) = server.take_rejects()
    assert (reject.status, reject.client) == (code, h2.sock.getsockname())
    other.ws.assert_no_frame()
    assert h2.ask().status == 200


def test_a_message_as_large_as_allowed(serve):
    ws = h2_to(serve(echo, **limited(ws_max_size_bytes=100_000))).open()
    ws.send(binary(b"x" * 100_000))
    assert ws.read_binary() == b"x" * 100_000
    ws.finish()
