"""WebSocket over HTTP/2 (RFC 8441): the handshake, what the app sees of it, messages, and company.

Rules of this file: what HTTP/1.1 has too is compared with HTTP/1.1, on the same server. How a WebSocket ends
is in test_h2_websocket_ends.py, who has to wait for whom in test_h2_websocket_flow.py.
"""

from __future__ import annotations

import os
import random

import pytest

from shardserve.errors import HeaderError
from shardserve.stats import NATIVE_HISTOGRAMS, Page
from tests.helpers.h2_ws import (
    DEFLATE,
    NO_ERROR,
    PRIOR_KNOWLEDGE,
    PROTOCOL_ERROR,
    VERSION,
    H2Opened,
    H2WebSocket,
    h2_to,
    refused,
)
from tests.helpers.http1 import until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import (
    BINARY,
    TEXT,
    Heard,
    WsClient,
    data_of,
    disconnect,
    echo,
    frame,
    handshake,
    inflated,
    text,
)
from tests.helpers.ws_peer import byte_by_byte, fragments, in_two, large

pytestmark = needs_nghttp2
SERVED_WITH = PRIOR_KNOWLEDGE

MALFORMED = "HTTP/2: PROTOCOL_ERROR: the request is malformed"
PROTOCOLS = b"sec-websocket-protocol"
START = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]}
BODY = {"type": "websocket.http.response.body", "body": b"no"}


# The scope


SCOPES = {
    "plain": ([], {}),
    "fields": ([(b"x-one", b"1"), (b"x-two", b"caf\xc3\xa9"), (b"x-one", b"2")], {}),
    "subprotocols": ([(PROTOCOLS, b"b, a"), (PROTOCOLS, b"c")], {}),
    "extensions": ([DEFLATE], {}),
    "one cookie": ([(b"cookie", b"a=1; b=2")], {}),
    "state": ([], {"state": {"pool": 7}}),
    "root path": ([], {"root_path": "/röt"}),
    "behind TLS of another": ([], {"scheme": "https"}),
}


@pytest.mark.parametrize(("fields", "settings"), SCOPES.values(), ids=SCOPES)
def test_the_scope_is_that_of_http1(serve, heard, fields, settings):
    """But for the version, and for the fields that only HTTP/1.1 has."""
    server = serve(heard, **settings)
    old = WsClient(server.connect())
    old.open("/a%20b/%C3%A9?c=%20", *[name + b": " + value for name, value in fields])
    old.finish()
    h2 = h2_to(server)
    if settings.get("scheme"):
        h2.scheme = b"https"
    h2.open(b"/a%20b/%C3%A9?c=%20", *fields).finish()
    until(lambda: len(heard.scopes) == 2)
    first, second = heard.scopes
    gone = (b"connection", b"upgrade", b"sec-websocket-key")
    headers = [field for field in first["headers"] if field[0] not in gone]
    assert first["http_version"] == "1.1"
    assert second == {**first, "http_version": "2", "headers": headers, "client": h2.sock.getsockname()}
    assert headers[0] == (b"host", b"test")
    assert type(second["headers"]) is list
    assert "method" not in second


def test_cookies_are_one_field(serve, heard):
    """RFC 9113 §8.2.3."""
    h2 = h2_to(serve(heard))
    h2.open(b"/", (b"cookie", b"a=1"), (b"x-between", b"1"), (b"cookie", b"b=2")).finish()
    heard.end()
    cookies = [value for name, value in heard.scopes[0]["headers"] if name == b"cookie"]
    assert cookies == [b"a=1; b=2"]


def test_fields_of_another_handshake_say_nothing(serve, heard):
    """RFC 8441 §5: the key is not used."""
    ws = h2_to(serve(heard)).open(b"/", (b"sec-websocket-key", b"no key at all"))
    ws.finish()
    assert heard.end() == disconnect(1000)


# The accept


def test_the_answer_is_a_200_with_the_servers_fields(serve, led):
    server = serve(led, headers=[(b"X-Always", b"1")])
    opened = H2Opened(h2_to(server), led)
    opened.app.accept()
    response = opened.ws.accepted()
    assert sorted(response.names) == [b"date", b"server", b"x-always"]
    opened.ws.finish()


def test_an_answer_of_http1_has_the_same_fields(serve, led):
    """But for those that RFC 8441 §5 leaves out."""
    server = serve(led)
    fields = [(b"X-Mixed", b"1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"y", b"")]
    old = WsClient(server.connect())
    lines = [b"Sec-WebSocket-Protocol: a, b", DEFLATE[0] + b": " + DEFLATE[1]]
    old.client.send(handshake("/", *lines))
    led.connection().accept(subprotocol="b", headers=fields)
    first = old.opened()
    opened = H2Opened(h2_to(server), led, (PROTOCOLS, b"a, b"), DEFLATE, number=1)
    opened.app.accept(subprotocol="b", headers=fields)
    second = opened.ws.accepted()
    gone = (b"connection", b"upgrade", b"sec-websocket-accept", b"date")
    kept = [sorted(field for field in one.headers if field[0] not in gone) for one in (first, second)]
    assert kept[0] == kept[1]
    assert second.one(PROTOCOLS) == b"b"
    assert second.one(b"date") is not None
    assert second.all(b"set-cookie") == [b"a=1", b"b=2"]


@pytest.mark.parametrize("name", [b"connection", b"Upgrade", b"sec-websocket-accept", b"transfer-encoding"])
def test_a_header_that_is_not_the_apps(serve, led, name):
    """Nothing is sent, and the app may still accept."""
    opened = H2Opened(h2_to(serve(led)), led)
    opened.app.connect()
    with pytest.raises(HeaderError):
        opened.app.send({"type": "websocket.accept", "headers": [(name, b"x")]})
    opened.app.send({"type": "websocket.accept"})
    opened.ws.accepted()
    opened.ws.finish()


def test_deflate(serve):
    """Agreed as over HTTP/1.1; what comes compressed is inflated, what is long goes compressed."""
    ws = H2WebSocket(h2_to(serve(echo)).connect(b"/", DEFLATE))
    answer = ws.accepted().one(DEFLATE[0])
    assert answer == (
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover;"
        b" server_max_window_bits=12; client_max_window_bits=12"
    )
    ws.send(*fragments(TEXT, [b"\xf2\x48\xcd", b"\xc9\xc9\x07\x00"], rsv=4))  # RFC 7692 §7.2.3.1
    assert ws.read_text() == "Hello"
    ws.send(text("again and again " * 1000))
    found = ws.read_frame()
    assert (found.rsv, inflated(found.payload, 12)) == (4, b"again and again " * 1000)
    ws.finish()


# Refused by the server


@pytest.mark.parametrize("version", [b"8", b"", b"13, 8"])
def test_another_version(serve, heard, version):
    """RFC 6455 §4.4 says 426, which HTTP/2 cannot (RFC 9113 §8.6): it is a 400."""
    server = serve(heard)
    response = refused(server, h2_to(server).connect(version=version), 400)
    assert response.one(VERSION[0]) == b"13"
    assert response.one(b"content-type") == b"text/plain; charset=utf-8"
    assert response.one(b"content-length") == b"%d" % len(response.body)
    assert response.body == b"WebSocket handshake refused: Sec-WebSocket-Version has to be 13.\n"
    assert heard.scopes == []


def test_no_version(serve, heard):
    server = serve(heard)
    response = refused(server, h2_to(server).connect(version=None), 400)
    assert response.one(VERSION[0]) == b"13"
    assert b"has to be there once" in response.body
    assert heard.scopes == []


@pytest.mark.parametrize(
    "field",
    [(PROTOCOLS, b"a b"), (DEFLATE[0], b"a=b"), (b"content-length", b"5")],
    ids=lambda field: field[0],
)
def test_a_field_that_is_wrong(serve, heard, field):
    server = serve(heard)
    refused(server, h2_to(server).connect(b"/", field), 400)
    assert heard.scopes == []


@pytest.mark.parametrize("protocol", [b"connect-udp", b"websockets", b"WebSocket2", b"webtransport"])
def test_another_protocol(serve, heard, protocol):
    """RFC 8441 §4 leaves the code to us; RFC 9220 §3 and RFC 9110 §15.6.2 say 501."""
    server = serve(heard)
    refused(server, h2_to(server).connect(protocol=protocol), 501)
    assert heard.scopes == []


def test_without_an_engine(serve, heard):
    """RFC 8441 §3: it was not offered, so :protocol is a pseudo-header field that has no meaning, and the
    request malformed (RFC 9113 §8.3). The connection lives.
    """
    server = serve(heard, websocket=None)
    h2 = h2_to(server)
    assert not h2.takes_websockets
    assert h2.connect().was_reset() == PROTOCOL_ERROR
    assert h2.ask().status == 200
    assert heard.scopes == []
    assert server.take_rejects()[0].reason == MALFORMED


def test_it_is_offered_where_there_is_one(serve):
    """RFC 8441 §3."""
    assert h2_to(serve(echo)).takes_websockets


def test_a_get_that_says_upgrade_is_none(serve, heard):
    """RFC 9113 §8.2.2: connection-specific fields are malformed."""
    server = serve(heard)
    h2 = h2_to(server)
    fields = [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), VERSION]
    stream = h2.request(b"/", *fields)
    assert stream.was_reset() == PROTOCOL_ERROR
    assert heard.scopes == []
    assert h2.ask().status == 200
    assert server.take_rejects()[0].reason == MALFORMED


def test_many_refusals_on_one_connection(serve, heard):
    """Then a good one, which is accepted."""
    server = serve(heard)
    h2 = h2_to(server)
    streams = [h2.connect(version=b"8") for _ in range(20)]
    assert [stream.response().status for stream in streams] == [400] * 20
    h2.open().finish()
    server.take_rejects(20)
    assert len(heard.scopes) == 1


# Refused by the app


def test_a_close_is_a_403(serve, led):
    server = serve(led)
    opened = H2Opened(h2_to(server), led)
    opened.app.connect()
    opened.app.close(4000, "not for you")
    response = opened.stream.response()
    assert (response.status, response.body) == (403, b"")
    assert opened.app.receive()["type"] == "websocket.disconnect"
    opened.app.leave()
    assert opened.h2.ask().status == 200
    assert opened.stream.reset in (None, NO_ERROR)


@pytest.mark.parametrize("pieces", [[b""], [b"no"], [b"a", b"b"], [b"x" * 100_000] * 3])
def test_a_response_of_its_own(serve, led, pieces):
    opened = H2Opened(h2_to(serve(led)), led)
    opened.app.connect()
    opened.app.send(START)

    async def step(receive, send):
        for number, piece in enumerate(pieces):
            await send({**BODY, "body": piece, "more_body": number < len(pieces) - 1})

    sending = opened.app.begin(step)
    response = opened.stream.response()
    assert (response.status, response.body) == (401, b"".join(pieces))
    assert response.one(b"x-why") == b"because"
    assert sending.result(5) is None
    opened.app.leave()
    assert opened.h2.ask().status == 200


def test_an_app_that_fails_in_a_response_that_nobody_has_seen(serve, led):
    """What was begun is forgotten."""
    server = serve(led)
    opened = H2Opened(h2_to(server), led)
    opened.app.connect()
    opened.app.send(START)
    opened.app.fail(ValueError("mine"))
    response = opened.stream.response()
    assert (response.status, response.one(b"x-why")) == (500, None)
    assert server.take_error().outcome == "500 sent"
    assert opened.h2.ask().status == 200


# Messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
def test_echo(serve, size):
    ws = h2_to(serve(echo)).open()
    data = random.Random(size).randbytes(size)
    ws.send(large(BINARY, data), large(TEXT, data.hex().encode()))
    assert ws.read_binary() == data
    assert ws.read_text() == data.hex()
    ws.finish()


WHOLE = (
    text("ü→😀")
    + frame(BINARY, b"a", fin=False)
    + frame(0, b"", fin=False)
    + frame(9, b"?")
    + frame(0, b"b")
    + text("")
)
SAID = ["ü→😀", b"ab", ""]


@pytest.mark.parametrize("kind", ["plain", "compressed"])
def test_every_cut_into_data_frames(serve, kind):
    """Frames of WebSocket and frames of HTTP/2 know nothing of each other."""
    heard = Each()
    h2 = h2_to(serve(heard))
    whole = WHOLE
    if kind == "compressed":
        whole += b"".join(fragments(TEXT, [b"\xf2\x48\xcd", b"\xc9\xc9\x07\x00"], rsv=4))
    said = SAID + (["Hello"] if kind == "compressed" else [])
    cuts = [*in_two(whole), byte_by_byte(whole), [b"", *byte_by_byte(whole)[:5], b"", whole[5:], b""]]
    for pieces in cuts:
        ws = h2.open(b"/", *([DEFLATE] if kind == "compressed" else []))
        ws.stream.send_each(pieces)
        assert ws.read_pong() == b"?"
        ws.finish()
        assert heard.taken() == said, pieces


class Each:
    """One WebSocket after the other, each ``taken`` when it is over."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    async def __call__(self, scope, receive, send):
        self.heard.append(Heard())
        await self.heard[-1](scope, receive, send)

    def taken(self):
        return self.heard.pop().data()


def test_padding_is_no_data(serve):
    """RFC 9113 §6.1."""
    ws = h2_to(serve(echo)).open()
    for pad, piece in zip([0, 255, 1], [b"\x81", text("padded")[1:5], text("padded")[5:]], strict=True):
        ws.stream.h2.core.send_data(ws.stream.number, piece, pad_length=pad)
    ws.stream.h2.flush()
    assert ws.read_text() == "padded"
    ws.finish()


def test_sends_of_one_turn_are_in_order(serve, led):
    opened = H2Opened(h2_to(serve(led)), led).accepted()

    async def step(receive, send):
        for number in range(1000):
            await send({"type": "websocket.send", "text": str(number)})

    opened.app.begin(step)
    assert [opened.ws.read_text() for _ in range(1000)] == [str(number) for number in range(1000)]
    opened.ws.finish()


# Company


def test_many_of_them_and_requests_on_one_connection(serve):
    """Each has its own messages, in its own order, whatever comes in between."""
    server = serve(echo)
    h2 = h2_to(server)
    sockets = [h2.open() for _ in range(50)]
    for round_ in range(3):
        halves = [text(f"{at} in round {round_}") for at in range(50)]
        for ws, whole in zip(sockets, halves, strict=True):
            ws.send(whole[:5])
        requests = [h2.request(b"/ok") for _ in range(10)]
        for ws, whole in zip(reversed(sockets), reversed(halves), strict=True):
            ws.send(whole[5:])
        assert [ws.read_text() for ws in sockets] == [f"{at} in round {round_}" for at in range(50)]
        assert [one.response().body for one in requests] == [b"ok"] * 10
    assert server.factory.connections == 1
    for ws in sockets:
        ws.finish()
    until(lambda: server.factory.in_flight == 0)
    assert h2.ask().body == b"ok"


def test_http1_on_the_same_port(serve):
    server = serve(echo)
    old, new = WsClient(server.connect()), h2_to(server).open()
    old.open()
    for ws in (old, new):
        ws.send(text("both"))
    assert [ws.read_text() for ws in (old, new)] == ["both"] * 2
    old.finish()
    new.finish()


# What is told of it


def test_the_access_log(serve):
    """At the answer, with what the client got: 200."""
    server = serve(echo)
    h2 = h2_to(server)
    ws = h2.open(b"/%61?b=%20")
    until(lambda: server.accesses)
    address = h2.sock.getsockname()
    ws.finish()
    assert h2.ask(b"/ok").status == 200
    until(lambda: len(server.accesses) == 2)
    assert server.accesses == [
        (address, "WebSocket", b"/%61?b=%20", "2", 200),
        (address, "GET", b"/ok", "2", 200),
    ]


def test_the_access_log_of_refusals(serve, led):
    server = serve(led)
    h2 = h2_to(server)
    refused(server, h2.connect(b"/x?y", version=b"8"), 400)
    opened = H2Opened(h2, led, path=b"/z")
    opened.app.connect()
    opened.app.close()
    assert opened.stream.response().status == 403
    until(lambda: len(server.accesses) == 3)
    assert [(one.method, one.target, one.http_version, one.status) for one in server.accesses] == [
        ("WebSocket", b"/x?y", "2", 400),
        ("GET", b"/ok", "2", 200),
        ("WebSocket", b"/z", "2", 403),
    ]


def test_the_figures(serve, led):
    page = Page.create("h2-ws")
    duration, _, _, size = NATIVE_HISTOGRAMS
    bounds = {"duration_bounds_us": duration.bounds, "size_bounds_bytes": size.bounds}
    server = serve(led, figures=page.native, **bounds)
    h2 = h2_to(server)
    all_opened = [H2Opened(h2, led, number=number).accepted() for number in range(2)]
    for opened in all_opened:
        opened.ws.send(text("one"), text("two"))
        assert [data_of(opened.app.receive()) for _ in range(2)] == ["one", "two"]
        opened.app.text("three")
        assert opened.ws.read_text() == "three"
    counted = {
        "accepted": 1,
        "reused": 1,
        "websockets_accepted": 2,
        "ws_messages_received": 4,
        "ws_messages_sent": 2,
    }
    assert {name: page[name] for name in counted} == counted
    for opened in all_opened:
        opened.app.leave()
    led.leave_all()
    server.stop()
    os.close(page.fd)
