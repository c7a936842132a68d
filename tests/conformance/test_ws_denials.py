"""A handshake that the app does not accept: 403, or an HTTP response of its own, and HTTP goes on."""

from __future__ import annotations

import pytest

from shardserve.errors import BodyLengthError, HeaderError, MessageError
from tests.helpers.http1 import get, until
from tests.helpers.ws import Opened, handshake, text

START = {"type": "websocket.http.response.start", "status": 404, "headers": []}
BODY = {"type": "websocket.http.response.body", "body": b"no"}


class TestDenials:
    def test_a_close_is_a_403(self, serve, led):
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        opened.app.close(4000, "not for you")
        response = opened.client.response()
        assert (response.status, response.reason) == (403, b"Forbidden")
        assert response.one(b"content-length") == b"%d" % len(response.body)
        assert b"not for you" not in response.body
        assert not response.closes
        assert opened.client.ask(get("/ok")).status == 200
        assert opened.app.receive()["type"] == "websocket.disconnect"

    @pytest.mark.parametrize("pieces", [[b""], [b"no"], [b"a", b"b"], [b"", b"", b"c"], [b"x" * 100_000] * 3])
    def test_a_response_of_its_own(self, serve, led, pieces):
        opened = Opened(serve(led), led)
        opened.app.connect()
        fields = [(b"X-Why", b"because"), (b"content-type", b"text/x")]
        opened.app.send({**START, "status": 401, "headers": fields})
        for number, piece in enumerate(pieces):
            opened.app.begin(saying({**BODY, "body": piece, "more_body": number < len(pieces) - 1}))
        response = opened.client.response()
        assert (response.status, response.body) == (401, b"".join(pieces))
        assert (response.one(b"x-why"), response.one(b"content-type")) == (b"because", b"text/x")
        assert response.one(b"date")
        assert opened.client.ask(get("/ok")).status == 200

    @pytest.mark.parametrize("status", [200, 204, 302, 304, 429, 500, 503])
    def test_any_status(self, serve, led, status):
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        opened.app.send({**START, "status": status})
        opened.app.send({**BODY, "body": b""})
        assert opened.client.response().status == status
        assert opened.client.ask(get("/ok")).status == 200
        until(lambda: len(server.accesses) == 2)
        assert [(one.method, one.status) for one in server.accesses] == [("WebSocket", status), ("GET", 200)]

    def test_a_denial_without_headers_and_body(self, serve, led):
        """Both keys may be left out (ASGI spec)."""
        opened = Opened(serve(led), led)
        opened.app.connect()
        opened.app.send({"type": START["type"], "status": 410})
        opened.app.send({"type": BODY["type"]})
        response = opened.client.response()
        assert (response.status, response.body) == (410, b"")

    def test_the_client_may_ask_again(self, serve, led):
        """The connection is HTTP's: the next handshake on it may be accepted."""
        server = serve(led)
        opened = Opened(server, led)
        opened.app.connect()
        opened.app.close()
        assert opened.client.response().status == 403
        opened.client.send(handshake())
        led.connection(1).accept()
        opened.ws.opened()
        opened.ws.assert_no_frame()
        until(lambda: server.factory.in_flight == 2)  # the first app has not returned

    def test_frames_behind_the_handshake_are_no_http(self, serve, led):
        server = serve(led)
        with server.connect() as client:
            client.send(handshake(), text("hello"))
            app = led.connection()
            app.connect()
            app.close()
            assert [one.status for one in client.responses(2)] == [403, 400]
            client.assert_closed()
        assert server.take_rejects()[0].status == 400

    def test_requests_behind_it_are_served(self, serve, led):
        with serve(led).connect() as client:
            client.send(handshake(), get("/1"), get("/2"))
            app = led.connection()
            app.connect()
            app.send(START)
            app.send(BODY)
            assert [one.status for one in client.responses(3)] == [404, 200, 200]

    def test_after_it_the_app_hears_a_disconnect(self, serve, led):
        opened = Opened(serve(led), led)
        opened.app.connect()
        opened.app.send(START)
        opened.app.send(BODY)
        for _ in range(2):
            assert opened.app.receive()["type"] == "websocket.disconnect"


def saying(message: dict):
    async def step(receive, send):
        await send(message)

    return step


REFUSED_DENIALS = {
    "no status": ({"type": START["type"], "headers": []}, MessageError),
    "status in text": ({**START, "status": "404"}, MessageError),
    "status None": ({**START, "status": None}, MessageError),
    "status 99": ({**START, "status": 99}, HeaderError),
    "status 101": ({**START, "status": 101}, HeaderError),
    "status 1000": ({**START, "status": 1000}, HeaderError),
    "headers a number": ({**START, "headers": 5}, MessageError),
    "a name in text": ({**START, "headers": [("a", b"b")]}, MessageError),
    "a line in a value": ({**START, "headers": [(b"a", b"b\r\nx-evil: 1")]}, HeaderError),
    "a line in a name": ({**START, "headers": [(b"a\r\nx-evil", b"b")]}, HeaderError),
    "two lengths": (
        {**START, "headers": [(b"content-length", b"1"), (b"content-length", b"2")]},
        HeaderError,
    ),
}


@pytest.mark.parametrize(("message", "kind"), REFUSED_DENIALS.values(), ids=REFUSED_DENIALS)
def test_a_mistake_in_a_denial(serve, led, message, kind):
    opened = Opened(serve(led), led)
    opened.app.connect()
    with pytest.raises(kind):
        opened.app.send(message)
    opened.app.send(START)
    for body in ("text", 5, None):
        with pytest.raises(MessageError):
            opened.app.send({**BODY, "body": body})
    opened.app.send(BODY)
    response = opened.client.response()
    assert (response.status, response.body) == (404, b"no")
    assert response.one(b"x-evil") is None
    assert opened.client.ask(get("/ok")).status == 200


@pytest.mark.parametrize("body", [b"", b"four", b"toolong"])
def test_a_denial_of_the_wrong_length(serve, led, body):
    opened = Opened(serve(led), led)
    opened.app.connect()
    opened.app.send({**START, "headers": [(b"content-length", b"5")]})
    with pytest.raises(BodyLengthError):
        opened.app.send({**BODY, "body": body})
    opened.app.send({**BODY, "body": b"right"})
    assert opened.client.response().body == b"right"
