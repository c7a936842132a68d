"""Requests that never reach the app, or break off: what the client gets, and that nothing is smuggled."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.asgi import Everything, Recorder, body, ok, read_body, reply, start
from tests.helpers.http1 import chunked, get, post, until


@pytest.fixture
def app():
    return Recorder()


def refused(serve, app, request: bytes, *statuses: int) -> None:
    """The request gets one of these answers, the connection ends, and the app saw nothing."""
    server = serve(app)
    with server.connect() as client:
        client.send(request + get("/smuggled"))
        response = client.response()
        assert response.status in statuses
        assert response.one(b"connection") == b"close"
        assert response.one(b"content-length") == b"%d" % len(response.body)
        assert response.one(b"date")
        client.assert_closed()
        address = client.sock.getsockname()
    (reject,) = server.take_rejects()
    assert reject.status == response.status
    assert reject.reason == response.body.decode() != ""
    assert reject.client == address
    assert app.scopes == []


GARBAGE = {
    "no request line": b"garbage\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200,
    "NUL": b"\0\0\0\0\r\n\r\n",
    "response": b"HTTP/1.1 200 OK\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /\r\nHost: x\r\n\r\n",
    "space in target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "control character in target": b"GET /a\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "relative target": b"GET a HTTP/1.1\r\nHost: x\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "space in name": b"GET / HTTP/1.1\r\nX A: x\r\n\r\n",
    "folded value": b"GET / HTTP/1.1\r\nX-A: a\r\n b\r\nHost: x\r\n\r\n",
    "folded first line": b"GET / HTTP/1.1\r\n X-A: a\r\nHost: x\r\n\r\n",
    "NUL in value": b"GET / HTTP/1.1\r\nX-A: a\0b\r\n\r\n",
    "CR in value": b"GET / HTTP/1.1\r\nX-A: a\rb\r\n\r\n",
    "CR before colon": b"GET / HTTP/1.1\r\nX\rA: b\r\n\r\n",
    "DEL in name": b"GET / HTTP/1.1\r\nX\x7f: b\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare LF after a value": b"GET / HTTP/1.1\r\nHost: x\nX-A: 1\r\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    "HTTP in lower case": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "another protocol": b"GET / ICE/1.0\r\nHost: x\r\n\r\n",
    "version with more digits": b"GET / HTTP/1.10\r\nHost: x\r\n\r\n",
    "authority without scheme": b"GET example.com:80 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_a_400(serve, app, name):
    refused(serve, app, GARBAGE[name], 400)


@pytest.mark.parametrize("version", [b"2.0", b"0.9", b"1.2", b"3.0", b"0.0"])
def test_other_versions(serve, app, version):
    refused(serve, app, get(version=version), 505)


def test_http_2_preface(serve, app):
    refused(serve, app, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)


def test_http_09(serve, app):
    refused(serve, app, b"GET /\r\n", 400)


def test_connect_is_not_implemented(serve, app):
    refused(serve, app, get(b"example.com:443", method=b"CONNECT"), 501)


BAD_FRAMING = {
    "length and chunked": [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    "chunked and length": [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    "two lengths": [b"Content-Length: 5", b"Content-Length: 6"],
    "list of lengths": [b"Content-Length: 5, 6"],
    "negative length": [b"Content-Length: -5"],
    "signed length": [b"Content-Length: +5"],
    "hex length": [b"Content-Length: 0x5"],
    "length with text": [b"Content-Length: 5a"],
    "length with space": [b"Content-Length: 5 5"],
    "empty length": [b"Content-Length:"],
    "fraction": [b"Content-Length: 5.0"],
    "huge length": [b"Content-Length: 99999999999999999999999"],
    "length over 2^63": [b"Content-Length: 9223372036854775808"],
    "unknown coding": [b"Transfer-Encoding: gzip"],
    "chunked not last": [b"Transfer-Encoding: chunked, gzip"],
    "chunked twice": [b"Transfer-Encoding: chunked, chunked"],
    "chunked twice in two fields": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "identity": [b"Transfer-Encoding: identity"],
    "quoted": [b'Transfer-Encoding: "chunked"'],
    "vertical tab": [b"Transfer-Encoding: \x0bchunked"],
    "prefix": [b"Transfer-Encoding: xchunked"],
    "empty coding": [b"Transfer-Encoding:"],
    "chunked then other field": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
}


@pytest.mark.parametrize("name", BAD_FRAMING)
def test_ambiguous_framing_is_refused(serve, app, name):
    """RFC 9112 §6.3 and §11.2: where two parsers may differ, nobody gets a request."""
    refused(serve, app, get("/", *BAD_FRAMING[name], method=b"POST") + b"0\r\n\r\n", 400, 501)


def test_transfer_encoding_in_http_10(serve, app):
    """RFC 9112 §6.1: faulty framing."""
    server = serve(app)
    request = chunked(b"body").replace(b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive")
    with server.connect() as client:
        client.send(request + get("/smuggled"))
        assert client.response().status == 400
        client.assert_closed()
    server.take_rejects()
    assert app.scopes == []


@pytest.mark.parametrize("count", [0, 2])
def test_a_request_has_one_host(serve, app, count):
    """RFC 9112 §3.2: MUST respond 400 to an HTTP/1.1 request that lacks a Host, or has more than one."""
    refused(serve, app, b"GET / HTTP/1.1\r\n" + b"Host: a\r\n" * count + b"\r\n", 400)


def test_http_10_needs_no_host(serve, app):
    assert serve(app).ask(b"GET / HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "trailer", [b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"]
)
def test_framing_in_a_trailer_frames_nothing(serve, app, trailer):
    """Refused or dropped, but what follows stays what it is."""
    server = serve(app)
    with server.connect() as client:
        client.send(chunked(b"body", trailers=trailer) + get("/next"))
        client.half_close()
        data = client.rest()
    assert data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    assert {scope["path"] for scope in app.scopes} <= {"/", "/next"}
    server.rejects.clear()
    server.errors.clear()


BIG = 70 << 10


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/", b"X-Big: " + b"x" * BIG),
        get("/", *[b"X-%d: %s" % (i, b"x" * 65) for i in range(1000)]),
        get(b"/" + b"x" * BIG),
        get("/", b"X-Big: " + b"x" * BIG)[:-4],
        b"GET /" + b"x" * BIG,
        get("/", b"x" * BIG),
    ],
    ids=["value", "many fields", "target", "value without end", "target without end", "name"],
)
@pytest.mark.parametrize("piece", [1 << 20, 1000])
def test_a_head_of_70_kib_is_refused(serve, app, request_bytes, piece):
    server = serve(app)
    with server.connect() as client:
        for at in range(0, len(request_bytes), piece):
            try:
                client.send(request_bytes[at : at + piece])
            except OSError:
                break
        assert client.response().status in (400, 414, 431)
        client.assert_closed()
    server.take_rejects()
    assert app.scopes == []


@pytest.mark.parametrize("before", [b"", get("/before"), post(b"x" * 60_000, target=b"/before")])
def test_a_head_of_40_kib_is_accepted(serve, app, before):
    server = serve(app)
    with server.connect() as client:
        client.send(before + get("/big", b"X-Big: " + b"x" * (40 << 10)))
        if before:
            assert client.response().status == 200
        assert client.response().status == 200
    assert app.scopes[-1]["path"] == "/big"


def refused_midway(serve, beginning: bytes) -> None:
    """After 8 MiB of one and the same line the client has its refusal."""
    server = serve(Everything())
    with server.connect() as client:
        client.send(beginning)
        try:
            for _ in range(128):
                client.send(b"x" * (1 << 16))
        except OSError:
            pass
        client.sock.settimeout(1)
        assert client.response().status in (400, 431)
    server.take_rejects()


def test_endless_trailers_are_refused(serve):
    """A trailer is held until it is complete: it must not grow without bound."""
    refused_midway(serve, chunked(b"body")[:-2] + b"X-Trailer: ")


def test_an_endless_chunk_extension_is_refused(serve):
    """RFC 9112 §7.1.1: a recipient ought to limit the total length of chunk extensions."""
    refused_midway(serve, get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"4;x=")


BROKEN_CHUNKS = {
    "size": b"zz\r\nhello\r\n",
    "size too large": b"fffffffffffffffff\r\nhello\r\n",
    "no CRLF behind the data": b"5\r\nhelloX\r\n",
    "negative size": b"-1\r\nhello\r\n",
    "empty size": b"\r\nhello\r\n",
    "bare LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "hex prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "CR in the extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "LF in the extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_a_broken_chunk_is_a_disconnect_for_the_app(serve, name):
    app = Everything()
    server = serve(app)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\none\r\n")
        until(lambda: app.messages)
        client.send(BROKEN_CHUNKS[name] + get("/smuggled"))
        assert client.response().status == 400
        client.assert_closed()
        until(lambda: app.messages[-1]["type"] == "http.disconnect")
    assert app.messages[0] == {"type": "http.request", "body": b"one", "more_body": True}
    assert b"smuggled" not in b"".join(message.get("body", b"") for message in app.messages)
    assert not any(message.get("more_body") is False for message in app.messages)
    server.take_rejects()


def test_a_broken_chunk_before_the_app_looks(serve):
    """The app starts to read when all is over: it must not take the torn body for a whole one."""
    go = asyncio.Event()
    messages = []

    async def app(scope, receive, send):
        await go.wait()
        while not messages or messages[-1]["type"] != "http.disconnect":
            messages.append(await receive())

    server = serve(app)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\none\r\n")
        until(lambda: server.factory.in_flight == 1)
        client.send(b"zz\r\n")
        assert client.response().status == 400
        client.assert_closed()
        server.call(go.set)
        until(lambda: messages and messages[-1]["type"] == "http.disconnect")
    assert not any(message.get("more_body") is False for message in messages)
    server.take_rejects()


def test_a_broken_chunk_while_the_response_streams(serve):
    """It is too late for a 400: the response is cut so that the client can tell."""

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"begun", more=True)
        await read_body(receive)

    server = serve(app)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST"))
        client.read_until(b"begun")
        client.send(b"zz\r\n")
        assert client.rest() == b""
    assert [one.status for one in server.take_rejects()] == [0]
    assert isinstance(server.take_error().error, AssertionError)


def test_a_broken_chunk_after_the_response_started_but_nothing_sent(serve):
    async def app(scope, receive, send):
        await start(send)
        await read_body(receive)

    server = serve(app)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"1\r\nx\r\n")
        until(lambda: server.factory.in_flight)
        client.send(b"zz\r\n")
        assert client.response().status == 400
        client.assert_closed()
    server.take_rejects()
    server.take_error()


def test_a_broken_chunk_after_the_response_is_done(serve):
    server = serve(ok)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST"))
        assert client.response().status == 200
        client.send(b"zz\r\n" + get("/smuggled"))
        assert client.rest().count(b"HTTP/1.1 ") <= 1
    assert server.factory.served == 1
    server.rejects.clear()


@pytest.mark.parametrize("slow", [False, True])
def test_garbage_behind_good_requests_is_refused_after_their_answers(serve, slow):
    async def app(scope, receive, send):
        if slow:
            await asyncio.sleep(0.01)
        await reply(send)

    server = serve(app)
    with server.connect() as client:
        client.send(get("/1") + get("/2") + b"garbage\r\n\r\n" + get("/3"))
        assert [response.status for response in client.responses(3)] == [200, 200, 400]
        client.assert_closed()
    server.take_rejects()
    assert server.factory.served == 2


@pytest.mark.parametrize("size", [10 << 20, 100 << 20])
@pytest.mark.parametrize("close", [False, True])
def test_an_upload_answered_early_is_read_by_its_client(serve, size, close):
    """The response must not be destroyed by a reset (RFC 9112 §9.6)."""

    async def app(scope, receive, send):
        headers = [(b"content-length", b"2")] + [(b"connection", b"close")] * close
        await reply(send, b"no", 413, headers)

    server = serve(app)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: %d" % size, method=b"POST"))
        piece = b"x" * (1 << 16)
        for _ in range(160):
            try:
                client.send(piece)
            except OSError:
                break  # allowed: the server need not take it all
        response = client.response()
        assert (response.status, response.body) == (413, b"no")


def test_an_early_answer_after_half_of_the_upload(serve):
    async def app(scope, receive, send):
        got = 0
        while got < 1 << 20:
            got += len((await receive())["body"])
        await reply(send, b"no", 413)

    with serve(app).connect() as client:
        client.send(get("/", b"Content-Length: %d" % (50 << 20), method=b"POST"))
        piece = b"x" * (1 << 16)
        try:
            for _ in range(100):
                client.send(piece)
        except OSError:
            pass
        assert client.response().status == 413
