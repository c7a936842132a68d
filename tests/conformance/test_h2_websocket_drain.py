"""WebSockets over HTTP/2 and the clock, the drain, and the limits: each concerns a stream, or all of them.

Rules of this file: who must be cut is cut by a server that ticks by itself; no test says how fast.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.h2_ws import CANCEL, H2, NO_ERROR, PRIOR_KNOWLEDGE, H2Opened, H2Stream, H2WebSocket, h2_to
from tests.helpers.http1 import PATIENCE_S, Drained, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import PING, Heard, close, data_of, disconnect, ping, pong, text
from tests.helpers.ws_time import IDLE, NEVER, PINGS, SHORT_MS, TIMED_OUT

pytestmark = needs_nghttp2
SERVED_WITH = PRIOR_KNOWLEDGE

LAST_STREAM = (1 << 31) - 1


def over(stream: H2Stream) -> None:
    """The server is done with the stream, and no error of HTTP/2 was the reason."""
    stream.assert_closed()
    stream.h2.settle()
    assert stream.reset in (None, NO_ERROR)


# Deadlines


def answering_pings(ws: H2WebSocket, count: int) -> None:
    for _ in range(count):
        found = ws.read_frame()
        assert found.opcode == PING
        ws.send(pong(found.payload))


def test_a_client_that_does_not_answer_pings(serve_ticking, led):
    """Its WebSocket is cut, and the one beside it, which does, stays."""
    server = serve_ticking(led, **{**PINGS, "ws_ping_timeout_ms": 5 * SHORT_MS})
    h2 = h2_to(server)
    mute, good = (H2Opened(h2, led, number=number).accepted() for number in range(2))
    waiting = mute.app.begin_receive()
    until(lambda: answering_pings(good.ws, 1) or waiting.done())
    message = waiting.result(PATIENCE_S)
    assert (message["code"], message["reason"]) == (1011, TIMED_OUT)
    (reject,) = server.take_rejects()
    assert reject.status == 1011
    assert TIMED_OUT in reject.reason
    while not mute.stream.ended and mute.stream.reset is None:
        answering_pings(good.ws, 1)
    answering_pings(good.ws, 1)
    assert h2.goaways == []


def test_an_idle_one_is_closed(serve_ticking, led):
    server = serve_ticking(led, **IDLE)
    h2 = h2_to(server)
    found = H2Opened(h2, led).accepted()
    assert found.ws.read_close()[0] == 1001
    found.ws.send(close(1001))
    over(found.stream)
    assert found.app.receive()["code"] == 1001
    assert h2.ask().status == 200
    server.rejects.clear()


def test_a_connection_with_an_open_one_is_not_idle(serve, led):
    """No deadline of HTTP is one of a WebSocket."""
    deadlines = {
        "keep_alive_ms": 1,
        "head_ms": 1,
        "body_window_ms": 1,
        "body_min_rate": 1_000_000,
        "first_byte_ms": 1,
    }
    server = serve(led, **NEVER, **deadlines)
    h2 = h2_to(server)
    found = H2Opened(h2, led).accepted()
    with server.connect() as idle:
        until(lambda: server.factory.connections == 2)
        until(lambda: server.call(server.factory.tick) or server.factory.connections == 1)
        idle.rest()
    for byte in text("slowly"):
        found.stream.send(bytes([byte]))
        server.call(server.factory.tick)
    assert data_of(found.app.receive()) == "slowly"
    found.ws.finish()
    server.rejects.clear()


# The server goes


class TestDrain:
    def test_every_one_is_told_to_come_back(self, serve_ticking):
        """1012, and when the last of them is over, GOAWAY, which names it, and the end of the connection."""
        app = Heard()
        server = serve_ticking(app)
        h2 = h2_to(server)
        sockets = [h2.open() for _ in range(10)]
        drained = Drained(server, grace_ms=60_000)
        sockets[0].send(ping(b"still?"))
        assert sockets[0].read_pong() == b"still?"
        assert drained.calls == []
        assert server.call(server.factory.end_streams) == 10
        for ws in sockets:
            assert ws.read_close()[0] == 1012
            ws.send(close(1012))
        for ws in sockets:
            ws.assert_closed()
            ws.leave()
        h2.to_the_end()
        assert {one.code for one in h2.goaways} == {NO_ERROR}
        assert h2.goaways[-1].last_stream == sockets[-1].stream.number
        h2.close()
        drained.wait()
        assert [message["code"] for message in app.messages] == [1012] * 10

    def test_one_that_is_accepted_later(self, serve, led):
        server = serve(led)
        found = H2Opened(h2_to(server), led)
        found.app.connect()
        assert server.call(server.factory.end_streams) == 0
        found.app.send({"type": "websocket.accept"})
        found.ws.accepted()
        assert found.ws.read_close()[0] == 1012
        assert found.app.receive()["code"] == 1012
        found.ws.send(close(1012))
        over(found.stream)

    def test_it_lives_on_behind_the_goaway(self, serve_ticking, led):
        """RFC 9113 §6.8: the client is told to begin nothing new, and what is open may finish."""
        server = serve_ticking(led)
        h2 = h2_to(server)
        found = H2Opened(h2, led).accepted()
        drained = Drained(server)
        while not h2.goaways or h2.goaways[-1].last_stream == LAST_STREAM:
            h2.pump()
        assert h2.goaways[-1] == (found.stream.number, NO_ERROR, b"")
        found.assert_lives()
        assert drained.calls == []
        found.ws.finish(4000)
        h2.to_the_end()
        assert found.app.receive() == disconnect(4000)
        h2.close()
        found.app.leave()
        drained.wait()

    def test_abort(self, serve, led):
        server = serve(led)
        h2 = h2_to(server)
        apps = [H2Opened(h2, led, number=number).accepted().app for number in range(3)]
        waiting = [app.begin_receive() for app in apps]
        assert server.call(server.factory.abort) == 3
        h2.to_the_end()
        for one in waiting:
            with pytest.raises(asyncio.CancelledError):
                one.result(PATIENCE_S)
        until(lambda: server.factory.connections == server.factory.in_flight == 0)
        assert {one.outcome for one in server.take_errors(3)} == {"cut by the server"}


def test_an_open_one_counts_as_a_request_in_flight(serve, led):
    """limit-concurrency: the next one gets 503, on the same connection too."""
    server = serve(led, limit_concurrency=1)
    h2 = h2_to(server)
    found = H2Opened(h2, led).accepted()
    for stream in (h2.request(b"/ok"), h2.connect(b"/second")):
        response = stream.response()
        assert (response.status, response.one(b"retry-after")) == (503, b"1")
    server.take_rejects(2)
    found.ws.finish()
    found.app.leave()
    until(lambda: server.factory.in_flight == 0)
    assert h2.ask().status == 200


def test_streams_that_the_client_cancels_are_forgotten(serve, led):
    """A server that kept them would be full after max-concurrent-streams of them."""
    server = serve(led, http2_max_concurrent_streams=4)
    h2: H2 = h2_to(server)
    for number in range(20):
        found = H2Opened(h2, led, number=number).accepted()
        found.stream.cancel(CANCEL)
        assert found.app.receive() == disconnect(1006)
        found.app.leave()
    until(lambda: server.factory.in_flight == 0)
    assert h2.ask().status == 200
