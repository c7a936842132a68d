"""The other deadlines of a WebSocket: an idle end, the answer to our close, and none of HTTP's.

Rules of this file: those of test_deadlines.py. Lengths are milliseconds. Where somebody must be cut, the
server ticks by itself and the test waits; where somebody must not be, the test ticks, each time after the
client has done its part. No test says how fast anything is.
"""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from tests.helpers.http1 import Server, until
from tests.helpers.ws import (
    BINARY,
    CLOSE,
    PING,
    Led,
    WsClient,
    close,
    handshake,
    ping,
    pong,
    text,
)
from tests.helpers.ws_peer import (
    byte_by_byte,
    connect,
    fragments,
    header,
    narrow,
)
from tests.helpers.ws_time import (
    CLOSING,
    IDLE,
    LONG_MS,
    MANY,
    NEVER,
    PINGS,
    SHORT_MS,
    SHORT_S,
    TICK_S,
    late,
    settle,
    tick,
    ticks_for,
)


def opened(server: Server, led: Led) -> WsClient:
    ws = WsClient(server.connect())
    ws.send(handshake())
    led.connection().accept()
    ws.opened()
    return ws


# Idle


def test_an_idle_websocket_is_closed(serve_ticking, heard):
    server = serve_ticking(heard, **IDLE)
    ws = connect(server)
    assert ws.read_close()[0] == 1001
    ws.send(close(1001))
    ws.assert_closed()
    assert heard.end()["code"] == 1001
    server.rejects.clear()


@pytest.mark.parametrize("sign", ["ping", "pong", "half"])
def test_what_is_no_message_does_not_count(serve_ticking, heard, sign):
    server = serve_ticking(heard, **IDLE)
    ws = connect(server)
    stop = threading.Event()
    half = byte_by_byte(header(BINARY, 100_000) + b"x" * 100_000)
    data = {"ping": [ping()], "pong": [pong()], "half": half}

    def signs() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                for piece in data[sign]:
                    ws.send(piece)
                    if stop.wait(TICK_S):
                        return

    thread = threading.Thread(target=signs)
    thread.start()
    try:
        while (found := ws.read_frame()).opcode != CLOSE:
            pass
    finally:
        stop.set()
        thread.join()
    assert found.payload[:2] == (1001).to_bytes(2, "big")
    assert heard.end()["code"] == 1001
    ws.client.close()
    server.rejects.clear()


def test_pings_of_ours_and_their_answers_do_not_count(serve_ticking, heard):
    server = serve_ticking(heard, **{**IDLE, "ws_ping_interval_ms": 20, "ws_ping_timeout_ms": LONG_MS})
    ws = connect(server)
    while (found := ws.read_frame()).opcode == PING:
        ws.send(pong(found.payload))
    assert (found.opcode, found.payload[:2]) == (CLOSE, (1001).to_bytes(2, "big"))
    assert heard.end()["code"] == 1001
    ws.client.close()
    server.rejects.clear()


def test_messages_of_the_client_count(serve, heard):
    server = serve(heard, **IDLE)
    ws = connect(server)
    for number in range(MANY):
        time.sleep(1.2 * SHORT_S)
        ws.send(text(str(number)))
        until(lambda number=number: len(heard.messages) == number + 1)
        tick(server)
    ws.finish()
    assert heard.data() == [str(number) for number in range(MANY)]


def test_messages_of_the_app_count(serve, led):
    server = serve(led, **IDLE)
    ws = opened(server, led)
    for number in range(MANY):
        time.sleep(1.2 * SHORT_S)
        led.connection().text(str(number))
        tick(server)
        assert ws.read_text() == str(number)
    ws.finish()


def test_fragments_count_when_their_message_is_whole(serve, heard):
    """Or each of them: the message is not idle either way."""
    server = serve(heard, **IDLE)
    ws = connect(server)
    for number in range(MANY):
        time.sleep(1.2 * SHORT_S)
        ws.send(*fragments(BINARY, [b"a", b"b"]))
        until(lambda number=number: len(heard.messages) == number + 1)
        tick(server)
    ws.finish()


def test_without_a_limit_nobody_is_idle(serve, heard):
    server = serve(heard, **NEVER)
    ws = connect(server)
    for _ in range(MANY):
        late(server)
    ws.assert_no_frame()
    ws.finish()


# The answer to our close


def closed_by_the_app(scope_end: list[dict]):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        scope_end.append(await receive())

    return app


def test_a_client_that_does_not_answer_a_close_is_closed(serve_ticking):
    ends: list[dict] = []
    server = serve_ticking(closed_by_the_app(ends), **CLOSING)
    ws = connect(server)
    assert ws.read_close() == (4000, "enough")
    ws.assert_closed()
    until(lambda: ends)
    assert ends[0]["type"] == "websocket.disconnect"
    ws.client.close()
    server.rejects.clear()


@pytest.mark.parametrize("data", [text("more"), ping(), pong(), text("half")[:-1]])
def test_a_client_that_goes_on_instead_is_closed_too(serve_ticking, data):
    """Its messages are dropped, its pings not answered, and none of it gains time."""
    ends: list[dict] = []
    server = serve_ticking(closed_by_the_app(ends), **CLOSING)
    ws = connect(server)
    assert ws.read_close() == (4000, "enough")
    stop = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(TICK_S):
                ws.send(data)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        with contextlib.suppress(ConnectionResetError):
            assert ws.client.rest() == b""
    finally:
        stop.set()
        thread.join()
    until(lambda: ends)
    ws.client.close()
    server.rejects.clear()


def test_a_client_that_answers_late_but_in_time(serve):
    ends: list[dict] = []
    server = serve(closed_by_the_app(ends), **{**NEVER, "ws_close_ms": LONG_MS})
    ws = connect(server)
    assert ws.read_close() == (4000, "enough")
    for _ in range(MANY):
        late(server)
    ws.send(text("dropped"), ping(b"not answered"), close(4000))
    ws.assert_closed()
    until(lambda: ends)
    assert ends[0]["type"] == "websocket.disconnect"


def test_after_our_close_no_ping_is_sent_and_nobody_is_idle(serve):
    ends: list[dict] = []
    server = serve(closed_by_the_app(ends), **{**PINGS, "ws_idle_ms": SHORT_MS})
    ws = connect(server)
    assert ws.read_close() == (4000, "enough")
    for _ in range(MANY):
        late(server)
    ws.send(close(4000))
    ws.assert_closed()
    until(lambda: ends)


# Those of HTTP


def test_the_deadlines_of_http_are_none_of_a_websocket(serve, heard):
    """It may be as silent as it likes, also within a frame."""
    http = {"first_byte_ms": 1, "keep_alive_ms": 1, "head_ms": 1, "body_window_ms": 1, "body_min_rate": 1000}
    server = serve(heard, **NEVER, **http)
    with server.connect() as client:
        ws = WsClient(client)
        ws.open()
        for data in (b"", text("half")[:3], text("half")[3:]):
            ws.send(data)
            settle(server)
            ticks_for(server, 0.05)
        ws.finish()
    assert heard.data() == ["half"]


def test_a_client_that_takes_nothing_is_cut_as_in_http(serve_ticking):
    """``write_stall_ms`` is for every byte that we send."""
    ends = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 65536})
        finally:
            ends.append(await receive())

    server = serve_ticking(app, **NEVER, write_stall_ms=SHORT_MS)
    ws = narrow(server)
    until(lambda: ends)
    assert (ends[0]["type"], ends[0]["code"]) == ("websocket.disconnect", 1006)
    ws.client.close()
    server.take_rejects()
    assert isinstance(server.take_error().error, OSError)
