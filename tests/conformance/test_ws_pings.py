"""Pings that must be answered (RFC 6455 §5.5.2): who is asked, who is cut, and above all who is not.

Rules of this file: those of test_deadlines.py. Lengths are milliseconds. Where somebody must be cut, the
server ticks by itself and the test waits; where somebody must not be, the test ticks, each time after the
client has done its part. No test says how fast anything is.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from tests.helpers.http1 import Server, until
from tests.helpers.ws import (
    BINARY,
    CLOSE,
    PING,
    Frame,
    Heard,
    WsClient,
    close,
    echo,
    handshake,
    ping,
    pong,
    text,
)
from tests.helpers.ws_peer import (
    KIBIBYTE,
    EachHeard,
    Sender,
    Slow,
    blocked_by,
    connect,
    header,
    narrow,
)
from tests.helpers.ws_time import (
    LONG_MS,
    MANY,
    NEVER,
    PINGS,
    PINGS_ONLY,
    SHORT_MS,
    SHORT_S,
    TICK_S,
    TIMED_OUT,
    late,
    settle,
    tick,
    ticks_for,
)


def frames_to_the_end(ws: WsClient) -> list[Frame]:
    """Whole frames up to the end of the connection, however it ends."""
    found = []
    with contextlib.suppress(OSError, AssertionError):
        while True:
            found.append(ws.read_frame())
    assert ws.client.buffered == b"", "the connection ended within a frame"
    return found


def cut(server: Server, ws: WsClient, heard: Heard) -> None:
    """Nobody answered a ping: it is cut; app and log are told, and the client if it still reads."""
    found = frames_to_the_end(ws)
    ws.client.close()
    assert {frame.opcode for frame in found} <= {PING, CLOSE}, found
    said = [frame for frame in found if frame.opcode == CLOSE]
    assert said in ([], [Frame(True, 0, CLOSE, (1011).to_bytes(2, "big") + TIMED_OUT.encode())])
    assert heard.end()["code"] == 1011
    (reject,) = server.take_rejects()
    assert reject.status == 1011
    assert TIMED_OUT in reject.reason


# Pings


def test_pings_are_sent_and_their_answers_heard(serve_ticking, heard):
    ws = connect(serve_ticking(heard, **{**PINGS, "ws_ping_timeout_ms": LONG_MS}))
    for _ in range(MANY):
        found = ws.read_frame()
        assert found.opcode == PING
        ws.send(pong(found.payload))
    ws.finish()
    assert heard.data() == []


def test_no_ping_is_sent_before_its_time(serve, heard):
    server = serve(heard, **{**PINGS, "ws_ping_interval_ms": LONG_MS})
    ws = connect(server)
    ticks_for(server, MANY * SHORT_S)
    ws.assert_no_frame()
    ws.finish()


def test_a_client_that_answers_stays(serve, heard):
    server = serve(heard, **PINGS)
    ws = connect(server)
    for _ in range(MANY):
        late(server)  # the answer to the one before is there, and another ping is sent
        found = ws.read_frame()
        assert found.opcode == PING
        ws.send(pong(found.payload))
        settle(server)
    ws.send(text("still here"))
    until(lambda: heard.messages)
    ws.client.close()
    assert heard.data() == ["still here"]


def test_a_client_that_does_not_answer_is_cut(serve_ticking, heard):
    server = serve_ticking(heard, **PINGS)
    ws = connect(server)
    assert ws.read_frame().opcode == PING
    cut(server, ws, heard)


def test_a_client_that_reads_nothing_is_cut(serve_ticking, heard):
    server = serve_ticking(heard, **PINGS)
    ws = connect(server)
    heard.end()
    until(lambda: server.factory.in_flight == 0)
    cut(server, ws, heard)


def test_a_client_that_reads_nothing_of_much_is_cut(serve_ticking):
    """The ping cannot even be sent: what is before it stays in the way."""
    ends = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 65536})
        finally:
            ends.append(await receive())

    server = serve_ticking(app, **PINGS)
    ws = narrow(server)
    until(lambda: ends)
    assert (ends[0]["type"], ends[0]["code"]) == ("websocket.disconnect", 1011)
    ws.client.close()
    assert [reject.status for reject in server.take_rejects()] == [1011]
    assert isinstance(server.take_error().error, OSError)


SIGNS = {
    "an answer": [pong(b"")] * 4,
    "another pong": [pong(b"something else")] * 4,
    "a ping": [ping(b"me too")] * 4,
    "a message": [text("hello")] * 4,
    "a byte of a frame": [bytes([byte]) for byte in header(BINARY, 100_000)],
    "a byte of a payload": [header(BINARY, 100_000) + b"x", *[b"x"] * 9],
}


@pytest.mark.parametrize("sign", SIGNS)
def test_whatever_comes_is_a_sign_of_life(serve, heard, sign):
    server = serve(heard, **PINGS)
    ws = connect(server)
    for data in SIGNS[sign]:
        late(server)  # a ping is sent
        ws.send(data)
        settle(server)
    late(server)
    assert server.rejects == []
    assert server.factory.connections == 1
    ws.client.close()
    assert heard.end()["code"] == 1006


def test_silence_behind_signs_of_life_is_silence(serve_ticking, heard):
    server = serve_ticking(heard, **PINGS)
    ws = connect(server)
    for _ in range(MANY):
        found = ws.read_frame()
        assert found.opcode == PING
        ws.send(pong(found.payload))
    cut(server, ws, heard)


def test_half_a_frame_keeps_nobody_alive(serve_ticking, heard):
    server = serve_ticking(heard, **PINGS)
    ws = connect(server)
    ws.send(text("half of it")[:-3])
    cut(server, ws, heard)


def test_a_connection_that_is_not_read_is_not_judged(serve):
    """The app lags: the answers may be there, behind what it has not taken."""
    app = Slow()
    server = serve(app, **PINGS)
    ws = narrow(server)
    rest = blocked_by(ws, iter(lambda: text("x" * 1000), None), most=4096 * KIBIBYTE, quiet_s=0.2)
    ticks_for(server, MANY * SHORT_S)
    assert server.rejects == []
    assert server.factory.connections == 1
    app.take(server)
    with Sender(ws, rest + text("last")):
        until(lambda: app.messages and app.messages[-1] == "last")
    # Read again, it is not blamed for the time before.
    tick(server)
    assert server.rejects == []
    ws.send(close())
    found = frames_to_the_end(ws)
    assert {frame.opcode for frame in found} <= {PING, CLOSE}
    assert found[-1].opcode == CLOSE
    assert app.ended() == (1000, "")


def test_a_client_that_is_gone_while_it_was_not_read_is_cut_later(serve_ticking):
    """When the app has taken everything, silence counts again."""
    app = Slow()
    server = serve_ticking(app, **PINGS)
    ws = narrow(server)
    rest = blocked_by(ws, iter(lambda: text("x" * 1000), None), most=4096 * KIBIBYTE, quiet_s=0.2)
    app.take(server)
    with Sender(ws, rest):
        assert app.ended()[0] == 1011
    ws.client.close()
    assert [reject.status for reject in server.take_rejects()] == [1011]


def test_an_app_that_is_slow_to_accept_is_no_silence(serve, led):
    """Before the accept there is no WebSocket to ping."""
    server = serve(led, **PINGS)
    ws = WsClient(server.connect())
    ws.send(handshake())
    led.connection().connect()
    for _ in range(MANY):
        late(server)
    led.connection().send({"type": "websocket.accept"})
    ws.opened()
    tick(server)
    ws.send(text("x"))
    assert led.connection().receive()["text"] == "x"
    ws.client.close()
    assert led.connection().receive()["code"] == 1006


def test_without_an_interval_nobody_is_asked_or_judged(serve, heard):
    server = serve(heard, **{**PINGS, "ws_ping_interval_ms": 0})
    ws = connect(server)
    for _ in range(MANY):
        late(server)
    ws.assert_no_frame()
    ws.finish()


def test_without_a_timeout_pings_go_on_and_nobody_is_cut(serve, heard):
    server = serve(heard, **PINGS_ONLY)
    ws = connect(server)
    for _ in range(MANY):
        late(server)
    assert [ws.read_frame().opcode for _ in range(2)] == [PING, PING]
    assert server.rejects == []
    ws.send(text("still here"))
    until(lambda: heard.messages)
    ws.client.close()
    assert heard.data() == ["still here"]


def test_a_ping_does_not_cut_a_message_in_two(serve_ticking):
    """Frames of the app and of the server come one after the other, however many there are of each."""
    count = 400

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(count):
            await send({"type": "websocket.send", "bytes": b"%06d" % number * 5000})
            await asyncio.sleep(0.001)
        await send({"type": "websocket.close"})

    server = serve_ticking(app, **{**NEVER, "ws_ping_interval_ms": 3})
    ws = connect(server)
    numbers, pings = [], 0
    while (found := ws.read_frame()).opcode != CLOSE:
        if found.opcode == PING:
            pings += 1
        else:
            assert found.payload == found.payload[:6] * 5000
            numbers.append(int(found.payload[:6]))
    assert numbers == list(range(count))
    assert pings
    ws.client.close()


def test_many_with_deadlines(serve_ticking):
    """Some answer, some do not: each is judged by itself."""
    each = EachHeard()
    server = serve_ticking(each, **{**PINGS, "ws_ping_timeout_ms": 10 * SHORT_MS})
    good = [connect(server) for _ in range(10)]
    bad = [connect(server) for _ in range(10)]
    alive = True

    def answer_pings() -> None:
        while alive:
            for ws in good:
                if ws.read_frame().opcode == PING:
                    ws.send(pong())

    thread = threading.Thread(target=answer_pings)
    thread.start()
    try:
        until(lambda: sum(bool(one.messages) for one in each.all) == 10)
        assert [reject.status for reject in server.take_rejects(10)] == [1011] * 10
    finally:
        alive = False
        thread.join()
    assert server.factory.connections == 10
    for ws in bad:
        ws.client.close()
    for ws in good:
        ws.client.close()
    until(lambda: server.factory.connections == 0)


def test_an_echo_with_every_deadline_at_once(serve_ticking):
    others = {"ws_ping_timeout_ms": LONG_MS, "ws_idle_ms": LONG_MS, "ws_close_ms": LONG_MS}
    ws = connect(serve_ticking(echo, **{**PINGS, **others}))
    pings = 0
    for number in range(100):
        ws.send(text(str(number)))
        while (found := ws.read_frame()).opcode == PING:
            ws.send(pong(found.payload))
            pings += 1
        assert found.payload == str(number).encode()
        time.sleep(TICK_S)
    assert pings
    ws.send(close())
    while (found := ws.read_frame()).opcode == PING:
        pass
    assert found == Frame(True, 0, CLOSE, b"\x03\xe8")
    ws.assert_closed()
