"""Agreed in the handshake: subprotocols, permessage-deflate (RFC 7692 §7.1), and headers of the app."""

from __future__ import annotations

import pytest

from shardserve.errors import ApplicationError, HeaderError, MessageError
from tests.helpers.http1 import get
from tests.helpers.ws import Heard, WsClient, deflated, echo, frame, handshake, inflated, text

ACCEPT = {"type": "websocket.accept"}


def offer(*values: bytes) -> list[bytes]:
    return [b"Sec-WebSocket-Extensions: " + value for value in values]


class TestSubprotocols:
    @pytest.mark.parametrize(
        ("lines", "offered"),
        [
            ([], []),
            ([b"chat"], ["chat"]),
            ([b"chat, superchat"], ["chat", "superchat"]),
            ([b"chat,superchat ,\t v2.x"], ["chat", "superchat", "v2.x"]),
            ([b"chat", b"superchat"], ["chat", "superchat"]),
            ([b"b, a", b"c"], ["b", "a", "c"]),
            ([b"Chat, CHAT"], ["Chat", "CHAT"]),
            ([b"graphql-transport-ws, graphql-ws"], ["graphql-transport-ws", "graphql-ws"]),
            ([b"base64url.bearer.authorization.k8s.io.abc"], ["base64url.bearer.authorization.k8s.io.abc"]),
        ],
    )
    def test_the_app_sees_what_is_offered(self, serve, lines, offered):
        """In the client's order, which is one of preference (RFC 6455 §4.1), from all fields."""
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            response = ws.open("/", *(b"Sec-WebSocket-Protocol: " + line for line in lines))
            assert response.one(b"sec-websocket-protocol") is None
            ws.finish()
        (scope,) = app.scopes
        assert scope["subprotocols"] == offered
        assert type(scope["subprotocols"]) is list
        assert all(type(one) is str for one in scope["subprotocols"])
        sent = [(b"sec-websocket-protocol", line) for line in lines]
        assert [one for one in scope["headers"] if one[0] == b"sec-websocket-protocol"] == sent

    def test_the_client_is_told_which_was_accepted(self, serve, led):
        with serve(led).connect() as client:
            client.send(handshake("/", b"Sec-WebSocket-Protocol: chat, superchat"))
            led.connection().accept(subprotocol="superchat")
            response = WsClient(client).opened()
            assert response.one(b"sec-websocket-protocol") == b"superchat"

    def test_one_that_was_not_offered_is_the_apps_business(self, serve, led):
        with serve(led).connect() as client:
            client.send(handshake())
            led.connection().accept(subprotocol="mine")
            assert WsClient(client).opened().one(b"sec-websocket-protocol") == b"mine"

    def test_none(self, serve, led):
        with serve(led).connect() as client:
            client.send(handshake("/", b"Sec-WebSocket-Protocol: chat"))
            led.connection().accept(subprotocol=None, headers=[])
            assert WsClient(client).opened().one(b"sec-websocket-protocol") is None

    @pytest.mark.parametrize(
        "wrong", [b"chat", 5, ["chat"], "a b", "a,b", "é", "a\r\nX-Evil: 1", "a\0", 'a"', "a\n", " a", "a:"]
    )
    def test_one_that_is_no_token(self, serve, led, wrong):
        """Nothing is sent, and the app may still accept."""
        with serve(led).connect() as client:
            client.send(handshake())
            app = led.connection()
            app.connect()
            with pytest.raises(ApplicationError, match="subprotocol"):
                app.send({**ACCEPT, "subprotocol": wrong})
            app.send(ACCEPT)
            response = WsClient(client).opened()
            assert response.one(b"sec-websocket-protocol") is None
            assert response.one(b"x-evil") is None


BAD = {
    "a value with a line": ((b"x-a", b"1\r\nx-evil: 1"), HeaderError),
    "a value with a feed": ((b"x-a", b"1\n"), HeaderError),
    "a value with a nul": ((b"x-a", b"\0"), HeaderError),
    "a name with a line": ((b"x-a\r\nx-evil", b"1"), HeaderError),
    "a name with a colon": ((b"x-a:", b"1"), HeaderError),
    "a name with a space": ((b"x a", b"1"), HeaderError),
    "no name": ((b"", b"1"), HeaderError),
    "a name in text": (("x-a", b"1"), MessageError),
    "a value in text": ((b"x-a", "1"), MessageError),
    "a number": ((b"x-a", 1), MessageError),
    "a triple": ((b"x-a", b"1", b"2"), MessageError),
    "no pair": (b"ab", MessageError),
    "None": (None, MessageError),
    "an empty pair": ((), MessageError),
}


class TestHeadersOfTheApp:
    FIELDS = (
        (b"x-a", b"1"),
        (b"X-Mixed", b"2"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"y", b""),
    )

    def test_they_are_sent_in_order(self, serve, led):
        with serve(led).connect() as client:
            client.send(handshake())
            led.connection().accept(headers=list(self.FIELDS))
            headers = WsClient(client).opened().headers
            assert [one for one in headers if one[0] in (b"x-a", b"x-mixed", b"set-cookie", b"y")] == [
                (name.lower(), value) for name, value in self.FIELDS
            ]

    def test_on_the_wire_they_are_as_those_of_a_response(self, serve, led):
        """Byte for byte what a denial with the same fields has."""
        lines = []
        server = serve(led)
        for number, kind in enumerate(["websocket.accept", "websocket.http.response.start"]):
            with server.connect() as client:
                client.send(handshake())
                app = led.connection(number)
                app.connect()
                app.send({"type": kind, "status": 200, "headers": list(self.FIELDS)})
                if number:
                    app.send({"type": "websocket.http.response.body"})
                head = client.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[0]
                mine = (b"x-a", b"x-mixed", b"set-cookie", b"y:")
                lines.append([line for line in head.split(b"\r\n") if line.lower().startswith(mine)])
        assert lines[0] == lines[1]
        assert len(lines[0]) == len(self.FIELDS)

    @pytest.mark.parametrize("kind", [tuple, iter, lambda pairs: [list(pair) for pair in pairs]])
    def test_any_iterable_of_pairs(self, serve, led, kind):
        with serve(led).connect() as client:
            client.send(handshake())
            app = led.connection()
            app.accept(headers=kind([(b"x-a", b"1"), (b"x-b", b"2")]))
            response = WsClient(client).opened()
            assert (response.one(b"x-a"), response.one(b"x-b")) == (b"1", b"2")

    OURS = (
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"connection",
        b"upgrade",
    )

    @pytest.mark.parametrize(
        "name", [*OURS, b"Sec-WebSocket-Accept", b"CONNECTION", b"Sec-Websocket-Protocol"]
    )
    def test_what_is_not_the_apps_to_say(self, serve, led, name):
        with serve(led).connect() as client:
            client.send(handshake())
            app = led.connection()
            app.connect()
            with pytest.raises(HeaderError) as raised:
                app.send({**ACCEPT, "headers": [(b"x-a", b"1"), (name, b"x")]})
            assert name.decode().lower() in str(raised.value).lower()
            app.send(ACCEPT)
            response = WsClient(client).opened()
            assert response.one(b"x-a") is None

    @pytest.mark.parametrize(("field", "kind"), BAD.values(), ids=BAD)
    def test_what_must_not_go_on_the_wire(self, serve, led, field, kind):
        with serve(led).connect() as client:
            client.send(handshake())
            app = led.connection()
            app.connect()
            with pytest.raises(kind):
                app.send({**ACCEPT, "headers": [(b"x-good", b"1"), field]})
            app.send(ACCEPT)
            response = WsClient(client).opened()
            assert not {b"x-good", b"x-evil", b"x-a"} & set(response.names)

    @pytest.mark.parametrize("headers", [5, object(), {b"a": b"b"}])
    def test_what_is_no_list_of_pairs(self, serve, led, headers):
        with serve(led).connect() as client:
            client.send(handshake())
            app = led.connection()
            app.connect()
            with pytest.raises(MessageError):
                app.send({**ACCEPT, "headers": headers})
            app.send(ACCEPT)
            WsClient(client).opened()

    def test_headers_that_accept_while_they_are_read(self, serve, led):
        with serve(led).connect() as client:
            client.send(handshake())
            app = led.connection()
            app.connect()

            async def evil(receive, send):
                def fields():
                    yield (b"x-a", b"1")
                    send(ACCEPT)
                    yield (b"x-b", b"2")

                with pytest.raises(MessageError):
                    await send({**ACCEPT, "headers": fields()})

            app.do(evil)
            ws = WsClient(client)
            assert not {b"x-a", b"x-b"} & set(ws.opened().names)
            ws.assert_no_frame()


def parameters(response) -> dict[str, str | None] | None:
    """Those of the permessage-deflate that the 101 agrees to; None if there is none."""
    value = response.one(b"sec-websocket-extensions")
    if value is None:
        return None
    name, *members = [member.strip() for member in value.decode().split(";")]
    assert name == "permessage-deflate"
    assert "," not in value.decode()
    pairs = [member.partition("=") for member in members]
    found = {key: number or None for key, _, number in pairs}
    assert len(found) == len(pairs), "RFC 7692 §7.1: each at most once"
    return found


def opened_with(server, *values: bytes):
    """The parameters agreed on for this offer; a compressed message is understood if there are any."""
    with server.connect() as client:
        ws = WsClient(client)
        agreed = parameters(ws.open("/", *offer(*values)))
        said = "over and over " * 5
        if agreed is not None:
            ws.send(frame(1, deflated(said.encode()), rsv=4))
        else:
            ws.send(text(said))
        assert ws.read_text() == said
        ws.finish()
    return agreed


class TestDeflate:
    def test_without_an_offer_there_is_none(self, serve):
        assert opened_with(serve(echo)) is None

    OFFERS = (
        b"permessage-deflate",
        b"permessage-deflate; client_max_window_bits",
        b"permessage-deflate; client_max_window_bits=15",
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        b"permessage-deflate; server_max_window_bits=15",
        b"permessage-deflate;server_max_window_bits=10 ;\tclient_max_window_bits=10",
        b'permessage-deflate; server_max_window_bits="10"',
        b"x-unknown, permessage-deflate",
        b"permessage-deflate; unknown_parameter, permessage-deflate",
        b"permessage-deflate, permessage-deflate; server_no_context_takeover",
    )

    @pytest.mark.parametrize("value", OFFERS)
    def test_an_offer_that_is_taken(self, serve, value):
        """RFC 7692 §7.1.1, §7.1.2: no window larger than offered, and none that was not."""
        agreed = opened_with(serve(echo), value)
        assert agreed is not None
        assert agreed.keys() >= {"server_no_context_takeover", "client_no_context_takeover"}
        assert agreed["server_no_context_takeover"] is None
        assert agreed["client_no_context_takeover"] is None
        limit = 10 if b"10" in value else 12
        assert int(agreed["server_max_window_bits"]) <= limit
        if b"client_max_window_bits" in value:
            assert 8 <= int(agreed["client_max_window_bits"]) <= limit
        else:
            assert "client_max_window_bits" not in agreed

    BOGUS = (
        b"x-unknown",
        b"permessage-deflate; unknown_parameter",
        b"permessage-deflate; server_max_window_bits=7",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; client_max_window_bits=99",
        b"permessage-deflate; server_no_context_takeover=1",
        b"permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        b"x-webkit-deflate-frame",
    )

    @pytest.mark.parametrize("value", BOGUS)
    def test_an_offer_that_is_not(self, serve, value):
        """RFC 7692 §7: an offer that is not understood is declined, and the handshake succeeds."""
        assert opened_with(serve(echo), value) is None

    def test_offers_in_several_fields(self, serve):
        assert opened_with(serve(echo), b"x-unknown", b"permessage-deflate") is not None

    @pytest.mark.parametrize("value", [b"permessage-deflate; =", b";", b"a b", b'a; b="', b"a; b=\xe9"])
    def test_an_offer_that_is_no_list(self, serve, value):
        """RFC 6455 §9.1: a field that is not as the grammar has it fails the handshake. HTTP goes on."""
        server = serve(echo)
        with server.connect() as client:
            client.send(handshake("/", *offer(value)))
            assert client.response().status == 400
            assert client.ask(get("/ok")).status == 200
        assert server.take_rejects()[0].status == 400

    def test_long_messages_are_compressed_for_who_asked(self, serve, led):
        said = "over and over " * 1000
        server = serve(led)
        for number, fields in enumerate([offer(b"permessage-deflate"), []]):
            with server.connect() as client:
                client.send(handshake("/", *fields))
                app = led.connection(number)
                app.accept()
                app.text(said)
                ws = WsClient(client)
                ws.opened()
                found = ws.read_frame()
                if fields:
                    assert found[:3] == (True, 4, 1)
                    assert len(found.payload) < 1000
                    assert inflated(found.payload, 12) == said.encode()
                else:
                    assert found == (True, 0, 1, said.encode())
                app.leave()
