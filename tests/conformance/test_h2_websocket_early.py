"""Before a WebSocket over HTTP/2 is accepted, and where it never is: malformed requests, and early DATA.

Rules of this file: a client need not wait for the answer before it sends. What it says early is kept as
far as its windows let it, and is no body of a request.
"""

from __future__ import annotations

import pytest

from tests.helpers.h2_ws import (
    NO_ERROR,
    PRIOR_KNOWLEDGE,
    PROTOCOL_ERROR,
    VERSION,
    H2Opened,
    H2Stream,
    H2WebSocket,
    StreamReset,
    h2_to,
)
from tests.helpers.http1 import until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import binary, data_of, disconnect, text
from tests.helpers.ws_peer import KIBIBYTE, MEBIBYTE, limited

pytestmark = needs_nghttp2
SERVED_WITH = PRIOR_KNOWLEDGE

WINDOW = 65_535


def small(**settings):
    """With these settings, and small windows."""
    windows = {"stream": WINDOW, "connection": 4 * WINDOW}
    return limited(**settings) | {f"http2_initial_{of}_window_size": size for of, size in windows.items()}


# Malformed (RFC 8441 §4, RFC 9113 §8.1.1)

GOOD = {
    b":method": b"CONNECT",
    b":protocol": b"websocket",
    b":scheme": b"http",
    b":path": b"/",
    b":authority": b"test",
}
MALFORMED = {
    "another method": [*(GOOD | {b":method": b"GET"}).items(), VERSION],
    "a small method": [*(GOOD | {b":method": b"connect"}).items(), VERSION],
    "no scheme": [*((name, value) for name, value in GOOD.items() if name != b":scheme"), VERSION],
    "no path": [*((name, value) for name, value in GOOD.items() if name != b":path"), VERSION],
    "an empty path": [*(GOOD | {b":path": b""}).items(), VERSION],
    "two protocols": [*GOOD.items(), (b":protocol", b"websocket"), VERSION],
    "the protocol behind the fields": [
        *((name, value) for name, value in GOOD.items() if name != b":protocol"),
        VERSION,
        (b":protocol", b"websocket"),
    ],
    "an upgrade": [*GOOD.items(), VERSION, (b"upgrade", b"websocket")],
    "a connection": [*GOOD.items(), VERSION, (b"connection", b"Upgrade")],
    "a transfer coding": [*GOOD.items(), VERSION, (b"transfer-encoding", b"chunked")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request(serve, heard, fields):
    """The stream is reset, the app never runs, the connection lives."""
    server = serve(heard)
    h2 = h2_to(server)
    assert h2.say(fields).was_reset() == PROTOCOL_ERROR
    assert heard.scopes == []
    h2.open().finish()
    server.rejects.clear()


@pytest.mark.parametrize("authority", [None, b"", b"a b", b"a/b"])
def test_no_authority_that_is_one(serve, heard, authority):
    """As without a Host over HTTP/1.1."""
    server = serve(heard)
    h2 = h2_to(server)
    fields = {name: value for name, value in GOOD.items() if name != b":authority"}
    if authority is not None:
        fields[b":authority"] = authority
    stream = h2.say([*fields.items(), VERSION])
    try:
        assert stream.response().status == 400
    except StreamReset:
        assert stream.reset == PROTOCOL_ERROR
    assert heard.scopes == []
    h2.open().finish()
    server.rejects.clear()


# DATA before the answer


def blocked(stream: H2Stream, data: bytes) -> int:
    """How much of ``data`` the window lets go until it stays shut."""
    rest = data
    while rest := stream.send_some(rest):
        for _ in range(3):
            stream.h2.settle()
            stream.h2.server.call(lambda: None)
        if not stream.h2.room(stream):
            return len(data) - len(rest)
    raise AssertionError(f"all {len(data)} bytes were taken")


def test_frames_right_behind_the_handshake_are_kept(serve, led):
    h2 = h2_to(serve(led))
    stream = h2.connect()
    stream.send_each([text("a"), binary(b"b")])
    h2.settle()
    app = led.connection()
    app.accept()
    assert [data_of(app.receive()) for _ in range(2)] == ["a", b"b"]
    ws = H2WebSocket(stream)
    ws.accepted()
    ws.finish()


def test_much_of_it_has_to_wait(serve, led):
    """Until the app says what becomes of it: then all of it comes, in order."""
    server = serve(led, **small())
    h2 = h2_to(server)
    found, other = (H2Opened(h2, led, number=number) for number in range(2))
    other.accepted()
    data = b"".join(binary(number.to_bytes(4, "big") * 250) for number in range(1000))
    sent = blocked(found.stream, data)
    assert sent <= WINDOW + 64 * KIBIBYTE
    other.ws.send(binary(b"x" * 20_000))
    assert data_of(other.app.receive()) == b"x" * 20_000
    found.accepted()

    async def step(receive, send):
        return [data_of(await receive()) for _ in range(1000)]

    taking = found.app.begin(step)
    found.stream.send(data[sent:])
    assert taking.result(10) == [number.to_bytes(4, "big") * 250 for number in range(1000)]
    found.ws.finish()


def test_it_is_no_body_of_a_request(serve, led):
    """Neither its limit nor its deadlines are for it: 413 and 408 are for bodies."""
    limits = {"limit_request_body": 10, "body_window_ms": 1, "body_min_rate": 1_000_000}
    server = serve(led, **(small() | limits))
    found = H2Opened(h2_to(server), led)
    found.ws.send(binary(b"x" * 1000), b"\x81")
    found.h2.settle()
    for _ in range(20):
        server.call(server.factory.tick)
        found.h2.settle()
    found.accepted()
    found.ws.send(text("y")[1:])
    assert data_of(found.app.receive()) == b"x" * 1000
    assert data_of(found.app.receive()) == "y"
    found.ws.finish()


@pytest.mark.parametrize("how", ["close", "own"])
def test_to_a_denial_it_is_dropped(serve, led, how):
    """The connection's window does not shrink, however much is said to whom nobody listens."""
    server = serve(led, **small())
    h2 = h2_to(server)
    for number in range(10):
        found = H2Opened(h2, led, number=number)
        found.stream.send_some(binary(b"x" * 60_000))
        h2.settle()
        found.app.connect()
        if how == "close":
            found.app.close()
        else:
            found.app.send({"type": "websocket.http.response.start", "status": 403, "headers": []})
            found.app.send({"type": "websocket.http.response.body", "body": b"no"})
        assert found.stream.response().status == 403
        found.app.leave()
        h2.settle()
        assert found.stream.reset in (None, NO_ERROR)
    last = H2Opened(h2, led, number=10).accepted()
    last.ws.send(binary(b"y" * MEBIBYTE))
    assert data_of(last.app.receive()) == b"y" * MEBIBYTE
    last.ws.finish()


def test_a_client_that_goes_before_the_answer(serve, led):
    """What it said goes with it: there is nobody left to whom it could be answered."""
    h2 = h2_to(serve(led))
    found = H2Opened(h2, led)
    found.ws.send(text("early"))
    found.stream.cancel()
    h2.settle()
    found.app.connect()
    assert found.app.receive() == disconnect(1006)
    found.app.leave()


# Limits of the connection


def test_the_last_request_of_a_connection_may_be_one(serve_ticking, led):
    """limit-keep-alive-requests: GOAWAY names it, and it lives as long as it likes."""
    server = serve_ticking(led, **limited(limit_keep_alive_requests=3))
    h2 = h2_to(server)
    assert [h2.ask().status for _ in range(2)] == [200, 200]
    found = H2Opened(h2, led).accepted()
    while not h2.goaways or h2.goaways[-1].last_stream != found.stream.number:
        h2.pump()
    found.assert_lives()
    found.ws.finish()
    assert found.app.receive() == disconnect(1000)
    h2.to_the_end()
    h2.close()
    until(lambda: server.factory.connections == 0)
