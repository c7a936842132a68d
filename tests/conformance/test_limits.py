"""Each limit, raw: exactly at it a request passes, one above it is refused, however its bytes were cut.

Rules of this file: limits are small, so that byte by byte is quick; behind each refused request stands
another one that nobody may ever see; a refusal is checked by ``rejected``, the same for all: a whole answer,
the end of the connection, one report. That a limit of 0 is none is at the end.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests.helpers.asgi import Everything, Recorder, body, ok, read_body, reply, start
from tests.helpers.http1 import Reject, chunked, get, post, until
from tests.helpers.refusals import cut_off, is_refusal, rejected, send_all
from tests.native.drive import Driver

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
EXPECT = b"Expect: 100-continue"


def whole(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def by_line(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


@pytest.fixture(params=[whole, by_line, byte_by_byte], ids=["whole", "by line", "byte by byte"])
def cut(request):
    return request.param


def passes(serve, cut, request: bytes, before: bytes = b"", **limits) -> dict:
    """The request is served, and so is the one behind it; its scope."""
    app = Recorder()
    server = serve(app, **limits)
    with server.connect() as client:
        client.send_each(cut(before + request + get("/next")))
        for _ in range(before.count(b" HTTP/1.1") + 2):
            assert client.response().status == 200
        client.assert_open()
    assert [scope["path"] for scope in app.scopes[-2:]] == ["/next", "/ok"]
    return app.scopes[-3]


def refused(serve, cut, request: bytes, status: int, before: bytes = b"", **limits) -> None:
    """The request gets this answer, and neither it nor what is behind it reaches the app."""
    app = Recorder()
    server = serve(app, **limits)
    with server.connect() as client:
        send_all(client, cut(before + request + get("/smuggled")))
        rejected(server, client, status, before.count(b" HTTP/1.1"))
    assert {scope["path"] for scope in app.scopes} <= {"/before"}
    assert len(app.scopes) == before.count(b" HTTP/1.1")


# What may stand before a request without counting for it.
BEFORE = {
    "nothing": b"",
    "empty lines": b"\r\n\r\n",
    "a request": get("/before"),
    "requests": get("/before") * 8,
    "a body": post(b"x" * 500, target=b"/before"),
    "chunks": chunked(b"x" * 500, target=b"/before"),
}


@pytest.fixture(params=BEFORE)
def before(request):
    return BEFORE[request.param]


# The request line


def with_line(length: int, *fields: bytes) -> bytes:
    """A request whose line has this many bytes."""
    return get(b"/" + b"a" * (length - len(b"GET / HTTP/1.1")), *fields)


def test_a_request_line_at_the_limit(serve, cut, before):
    scope = passes(serve, cut, with_line(100), before, limit_request_line=100)
    assert len(scope["path"]) == 100 - len("GET  HTTP/1.1")


def test_a_request_line_above_the_limit(serve, cut, before):
    refused(serve, cut, with_line(101), 414, before, limit_request_line=100)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /?" + b"q" * 100 + b" HTTP/1.1",
        b"GET http://test/" + b"a" * 90 + b" HTTP/1.1",
        b"GET " + b"/%41" * 30 + b" HTTP/1.1",
    ],
    ids=["query", "absolute form", "percent-encoded"],
)
def test_all_of_the_request_line_counts(serve, line):
    request = line + b"\r\nHost: test\r\n\r\n"
    passes(serve, whole, request, limit_request_line=len(line))
    refused(serve, whole, request, 414, limit_request_line=len(line) - 1)


@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
def test_a_request_line_without_an_end_is_refused(serve, piece):
    """It is not waited for: nobody could say how long."""
    server = serve(Recorder(), limit_request_line=100)
    with server.connect() as client:
        data = b"GET /" + b"a" * 97  # two more: its CRLF might have come
        send_all(client, [data[at : at + piece] for at in range(0, len(data), piece)])
        rejected(server, client, 414)


def test_a_long_head_behind_a_short_line_is_no_long_line(serve, cut):
    passes(serve, cut, with_line(50, b"X-Long: " + b"x" * 400), limit_request_line=100)


def test_the_default_sizes_pass(serve):
    """8 KiB of request line and 64 KiB of fields, both at once."""
    request = with_line(8 * KIBIBYTE, *[b"X-%03d: %s" % (i, b"x" * 600) for i in range(90)])
    limits = {"limit_request_line": 8192, "limit_request_head": 65536, "limit_request_fields": 100}
    passes(serve, whole, request, **limits, limit_request_field_size=65536)


# The head


def with_head(length: int, fields: int = 1, *, target: bytes = b"/", content: bytes = b"") -> bytes:
    """A request whose fields, with the empty line, have this many bytes."""
    lines = [b"Host: test", b"Content-Length: %d" % len(content)]
    lines += [b"X-%02d: " % i for i in range(fields)]
    lines[-1] += b"x" * (length - sum(len(line) + 2 for line in lines) - 2)
    return b"POST " + target + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + content


@pytest.mark.parametrize("fields", [1, 10])
def test_a_head_at_the_limit(serve, cut, before, fields):
    passes(serve, cut, with_head(300, fields), before, limit_request_head=300)


@pytest.mark.parametrize("fields", [1, 10])
def test_a_head_above_the_limit(serve, cut, before, fields):
    refused(serve, cut, with_head(301, fields), 431, before, limit_request_head=300)


def test_the_request_line_is_no_part_of_the_head(serve, cut):
    passes(serve, cut, with_head(300, target=b"/" + b"a" * 500), limit_request_head=300)


def test_the_body_is_no_part_of_the_head(serve, cut):
    passes(serve, cut, with_head(300, content=b"x" * 1000), limit_request_head=300)


def test_white_space_around_a_value_counts(serve, cut):
    padded = get("/", b"X-A:" + b" " * 200 + b"1" + b"\t" * 90)
    size = len(padded) - len(b"GET / HTTP/1.1\r\n")
    passes(serve, cut, padded, limit_request_head=size)
    refused(serve, cut, padded, 431, limit_request_head=size - 1)


ENDLESS = {
    "a value": b"X-A: " + b"x" * 70_000,
    "a name": b"x" * 70_000,
    "white space": b"X-A:" + b" " * 70_000,
    "fields": b"X-A: 1\r\n" * 9000,
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("piece", [700, 1 << 20])
def test_a_head_without_an_end_is_refused(serve, name, piece):
    server = serve(Recorder(), limit_request_head=1000)
    with server.connect() as client:
        data = b"GET / HTTP/1.1\r\nHost: test\r\n" + ENDLESS[name]
        send_all(client, [data[at : at + piece] for at in range(0, len(data), piece)])
        rejected(server, client, 431)


def test_trailers_are_no_part_of_the_head(serve, cut):
    request = chunked(b"x", trailers=b"X-A: " + b"a" * 400 + b"\r\n")
    passes(serve, cut, request, limit_request_head=300)


# One field


@pytest.mark.parametrize(("name", "value"), [(5, 91), (50, 46), (95, 1)])
def test_a_field_at_the_limit_and_above(serve, cut, name, value):
    """Name, value, and four bytes for what is around them."""
    limit = name + value + 4
    passes(serve, cut, get("/", b"x" * name + b": " + b"y" * value), limit_request_field_size=limit)
    for more in ((1, 0), (0, 1)):
        field = b"x" * (name + more[0]) + b": " + b"y" * (value + more[1])
        refused(serve, cut, get("/", field), 431, limit_request_field_size=limit)


def test_each_field_counts_by_itself(serve, cut):
    passes(
        serve, cut, get("/", *[b"X-%d: %s" % (i, b"y" * 80) for i in range(10)]), limit_request_field_size=87
    )


def test_the_last_of_the_fields_counts(serve, cut, before):
    fields = [*[b"X-%d: 1" % i for i in range(5)], b"X-Long: " + b"y" * 100]
    refused(serve, cut, get("/", *fields), 431, before, limit_request_field_size=109)
    passes(serve, cut, get("/", *fields), before, limit_request_field_size=110)


# Fields


def test_as_many_fields_as_the_limit(serve, cut, before):
    scope = passes(serve, cut, get("/", *[b"X-%d: 1" % i for i in range(9)]), before, limit_request_fields=10)
    assert len(scope["headers"]) == 10


def test_one_field_more(serve, cut, before):
    refused(serve, cut, get("/", *[b"X-%d: 1" % i for i in range(10)]), 431, before, limit_request_fields=10)


def test_empty_fields_count(serve, cut):
    refused(serve, cut, get("/", *[b"X:"] * 10), 431, limit_request_fields=10)


def test_fields_are_counted_anew_for_each_request(serve, cut):
    passes(serve, cut, get("/", b"X: 1"), get("/before", b"X: 1") * 20, limit_request_fields=2)


def test_trailers_are_not_counted_as_fields(serve, cut):
    trailers = b"".join(b"X-%d: 1\r\n" % i for i in range(20))
    passes(serve, cut, chunked(b"x", trailers=trailers), limit_request_fields=10)


# The body


def test_a_body_at_the_limit(serve, cut, before):
    passes(serve, cut, post(b"x" * 500), before, limit_request_body=500)


def test_a_body_above_the_limit_never_reaches_the_app(serve, cut, before):
    refused(serve, cut, post(b"x" * 501), 413, before, limit_request_body=500)


def test_it_is_refused_by_its_length_alone(serve, cut):
    """Nothing of it need be sent."""
    request = get("/", b"Content-Length: 501", method=b"POST")
    app = Recorder()
    server = serve(app, limit_request_body=500)
    with server.connect() as client:
        client.send_each(cut(request))
        rejected(server, client, 413)
    assert app.scopes == []


def test_a_huge_length(serve):
    request = get("/", b"Content-Length: 1000000000000000000", method=b"POST")
    server = serve(Recorder(), limit_request_body=500)
    with server.connect() as client:
        client.send(request)
        rejected(server, client, 413)


AT_500 = {"one": [500], "bytes": [1] * 500, "halves": [250, 250], "then one": [499, 1], "one, then": [1, 499]}


@pytest.mark.parametrize("sizes", AT_500.values(), ids=AT_500)
def test_chunks_at_the_limit(serve, cut, sizes):
    passes(serve, cut, chunked(*[b"x" * size for size in sizes]), limit_request_body=500)


@pytest.mark.parametrize("sizes", AT_500.values(), ids=AT_500)
def test_chunks_above_the_limit(serve, cut, sizes):
    """The app may have begun, but what it gets is no whole body, and no more than the limit."""
    messages = []

    async def app(scope, receive, send):
        assert scope["path"] == "/"
        messages.append(await receive())
        while messages[-1]["type"] == "http.request" and messages[-1]["more_body"]:
            messages.append(await receive())

    server = serve(app, limit_request_body=500)
    with server.connect() as client:
        send_all(client, cut(chunked(*[b"x" * size for size in sizes], b"x") + get("/smuggled")))
        rejected(server, client, 413)
    assert not any(message.get("more_body") is False for message in messages)
    assert sum(len(message.get("body", b"")) for message in messages) <= 500


def test_chunk_framing_does_not_count(serve, cut):
    request = get("/", b"Transfer-Encoding: chunked", method=b"POST")
    request += b"00000001;name=value\r\nx\r\n" * 20 + b"0;last\r\nX-Trailer: 1\r\n\r\n"
    passes(serve, cut, request, limit_request_body=20)


@pytest.mark.parametrize("field", [b"Connection: upgrade\r\nUpgrade: h2c", b"Upgrade: websocket"])
def test_an_ignored_upgrade_does_not_lift_it(serve, cut, field):
    passes(serve, cut, post(b"x" * 500, field), limit_request_body=500)
    refused(serve, cut, post(b"x" * 501, field), 413, limit_request_body=500)
    request = chunked(b"x" * 501).replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n\r\n", 1)
    server = serve(Everything(), limit_request_body=500)
    with server.connect() as client:
        send_all(client, cut(request + get("/smuggled")))
        rejected(server, client, 413)


def test_above_the_limit_no_100_is_sent(serve, cut):
    """RFC 9110 §10.1.1: a final status instead; the client keeps its body."""
    app = Recorder()
    server = serve(app, limit_request_body=500)
    with server.connect() as client:
        client.send_each(cut(get("/", EXPECT, b"Content-Length: 501", method=b"POST")))
        rejected(server, client, 413)  # looks at the informational ones, too
    assert app.scopes == []


def test_at_the_limit_a_100_is_sent(serve):
    server = serve(Recorder(), limit_request_body=5)
    with server.connect() as client:
        client.send(get("/", EXPECT, b"Content-Length: 5", method=b"POST"))
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert client.response().status == 200
        client.assert_open()


def test_an_app_that_reads_hears_of_it(serve):
    app = Everything()
    server = serve(app, limit_request_body=500)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\none\r\n")
        until(lambda: app.messages)
        client.send(b"1f2\r\n" + b"x" * 498 + b"\r\n0\r\n\r\n" + get("/smuggled"))
        rejected(server, client, 413)
        until(lambda: app.messages[-1]["type"] == "http.disconnect")
    assert app.messages[0] == {"type": "http.request", "body": b"one", "more_body": True}
    assert not any(message.get("more_body") is False for message in app.messages)


def test_an_app_that_looks_later_hears_of_it(serve):
    go = asyncio.Event()
    messages = []

    async def app(scope, receive, send):
        await go.wait()
        while not messages or messages[-1]["type"] != "http.disconnect":
            messages.append(await receive())

    server = serve(app, limit_request_body=500)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\none\r\n")
        until(lambda: server.factory.in_flight == 1)
        client.send(b"1f2\r\n" + b"x" * 498)
        rejected(server, client, 413)
        server.call(go.set)
        until(lambda: messages and messages[-1]["type"] == "http.disconnect")
    assert not any(message.get("more_body") is False for message in messages)


def test_a_response_that_was_only_started_gives_way(serve):
    """Its head is held back until the first body message, so the 413 can still be sent."""

    async def app(scope, receive, send):
        await start(send)
        await read_body(receive)

    server = serve(app, limit_request_body=500)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"1\r\nx\r\n")
        until(lambda: server.factory.in_flight)
        client.send(b"1f4\r\n" + b"x" * 500)
        rejected(server, client, 413)
    assert isinstance(server.take_error().error, AssertionError)  # read_body heard of it


def test_a_response_that_has_begun_is_cut(serve):
    """So that the client can tell a part from the whole; status 0: there was no answer."""

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"begun", more=True)
        await read_body(receive)

    server = serve(app, limit_request_body=500)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST"))
        client.read_until(b"begun")
        client.send(b"1f5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n" + get("/smuggled"))
        assert client.rest() == b""
    cut_off(server)
    assert isinstance(server.take_error().error, AssertionError)


def test_a_response_that_is_done_stays(serve):
    """The client has its answer; what it still sends is too much, and ends the connection."""
    server = serve(ok, limit_request_body=500)
    with server.connect() as client:
        client.send(get("/", b"Transfer-Encoding: chunked", method=b"POST"))
        assert client.response().status == 200
        send_all(client, [b"1f5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n" + get("/smuggled")])
        assert client.rest() == b""
    assert server.factory.served == 1
    assert [reject.status for reject in server.rejects] in ([], [0])
    server.rejects.clear()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_sends_it_all_the_same_reads_the_answer(serve, framing):
    """No reset destroys it (RFC 9112 §9.6)."""
    server = serve(Everything(), limit_request_body=MEBIBYTE)
    piece = b"x" * (1 << 16)
    if framing == "length":
        head, pieces = b"Content-Length: %d" % (10 * MEBIBYTE), [piece] * 160
    else:
        head, pieces = b"Transfer-Encoding: chunked", [b"10000\r\n" + piece + b"\r\n"] * 160
    with server.connect() as client:
        client.send(get("/", head, method=b"POST"))
        send_all(client, pieces)
        rejected(server, client, 413)


LARGE = {"line": with_line(70_000), "head": with_head(70_000), "fields": get("/", *[b"X: 1"] * 9000)}


@pytest.mark.parametrize("request_bytes", LARGE.values(), ids=LARGE)
def test_a_client_that_sends_a_large_head_reads_the_answer(serve, request_bytes):
    server = serve(Recorder(), limit_request_line=1000, limit_request_head=1000)
    with server.connect() as client:
        send_all(client, [request_bytes, b"x" * MEBIBYTE])
        response = client.response()
        is_refusal(response, 414 if len(request_bytes.partition(b"\r\n")[0]) > 1000 else 431)
        client.assert_closed()
    server.take_rejects()


def test_a_refusal_waits_for_the_answers_before_it(serve, cut):
    """In order, also when an app is still at work."""

    async def app(scope, receive, send):
        await asyncio.sleep(0.01)
        await reply(send, scope["path"].encode())

    server = serve(app, limit_request_line=100)
    with server.connect() as client:
        send_all(client, cut(get("/1") + get("/2") + with_line(101) + get("/3")))
        assert [response.body for response in client.responses(2)] == [b"/1", b"/2"]
        rejected(server, client, 414)
    assert server.factory.served == 2


# Requests on one connection


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_last_request_of_a_connection_is_told(serve, limit):
    app = Recorder()
    server = serve(app, limit_keep_alive_requests=limit)
    with server.connect() as client:
        for _ in range(limit - 1):
            assert client.ask(get()).one(b"connection") is None
        assert client.ask(get()).one(b"connection") == b"close"
        client.assert_closed()
    assert len(app.scopes) == limit


def test_what_is_pipelined_behind_it_is_not_executed(serve, cut):
    app = Recorder()
    server = serve(app, limit_keep_alive_requests=5)
    with server.connect() as client:
        send_all(client, cut(post(b"x" * 10) * 4 + get("/last") + get("/smuggled") * 3))
        responses = client.responses(5)
        assert [response.one(b"connection") for response in responses] == [None] * 4 + [b"close"]
        client.assert_closed()
    assert [scope["path"] for scope in app.scopes] == ["/"] * 4 + ["/last"]


def test_each_connection_has_its_own_count(serve):
    server = serve(ok, limit_keep_alive_requests=3)
    clients = [server.connect() for _ in range(3)]
    for number in range(3):
        for client in clients:
            assert client.ask(get()).closes == (number == 2)
    for client in clients:
        client.assert_closed()


def test_an_http_10_client_is_not_told_to_stay(serve):
    server = serve(ok, limit_keep_alive_requests=2)
    with server.connect() as client:
        asks_to_stay = get("/", b"Connection: keep-alive", version=b"1.0")
        client.send(asks_to_stay)
        assert client.response().one(b"connection") == b"keep-alive"
        client.send(asks_to_stay)
        assert client.response().one(b"connection") != b"keep-alive"
        client.assert_closed()


def test_the_last_request_has_its_body(serve):
    app = Recorder()
    server = serve(app, limit_keep_alive_requests=1)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 200000", method=b"POST"))
        until(lambda: server.factory.in_flight == 1)
        client.send(b"x" * 200_000)
        assert client.response().one(b"connection") == b"close"
        client.assert_closed()
    assert app.bodies == [b"x" * 200_000]


# Connections


def full(serve, app, limit: int):
    """A server with as many connections as it takes."""
    server = serve(app, limit_connections=limit)
    clients = [server.connect() for _ in range(limit)]
    for client in clients:
        assert client.ask(get()).status == 200
    return server, clients


def turned_away(server, client) -> None:
    response = client.response()
    is_refusal(response, 503)
    assert response.one(b"retry-after")
    client.assert_closed()
    address = client.sock.getsockname()
    client.close()
    assert server.take_rejects() == [Reject(503, response.body.decode(), address)]


def test_a_connection_beyond_the_limit_is_answered_at_once(serve):
    """It need not say anything."""
    server, clients = full(serve, ok, 3)
    turned_away(server, server.connect())
    for client in clients:
        client.assert_open()
    assert server.factory.served == 6


def test_what_it_asks_is_not_executed(serve):
    """Its request may be there already: that must not destroy the answer (RFC 9112 §9.6)."""
    app = Recorder()
    server, _ = full(serve, app, 2)
    for _ in range(30):
        client = server.connect()
        send_all(client, [get("/smuggled") + post(b"x" * 100_000)])
        turned_away(server, client)
    assert [scope["path"] for scope in app.scopes] == ["/"] * 2


def test_there_is_room_again_when_one_has_left(serve):
    server, clients = full(serve, ok, 3)
    turned_away(server, server.connect())
    clients[1].close()
    until(lambda: server.factory.connections == 2)
    with server.connect() as client:
        assert client.ask(get()).status == 200
        turned_away(server, server.connect())
    until(lambda: server.factory.connections == 2)
    with server.connect() as client:
        assert client.ask(get()).status == 200


def test_those_that_were_turned_away_do_not_count(serve):
    """They may stay a while to read the answer; else they could keep everybody out."""
    server, clients = full(serve, ok, 2)
    away = [server.connect() for _ in range(20)]
    for client in away:
        is_refusal(client.response(), 503)
    clients[0].close()

    def admitted() -> bool:
        with server.connect() as client:
            return client.ask(get()).status == 200

    until(admitted, "room for another one")  # nothing ticks here: they are still there
    server.take_rejects(len(server.rejects))


def test_silent_connections_count(serve):
    server = serve(ok, limit_connections=2)
    silent = [server.connect(), server.connect()]
    until(lambda: server.factory.connections == 2)
    turned_away(server, server.connect())
    assert [client.ask(get()).status for client in silent] == [200, 200]


def test_connections_are_refused_before_requests(serve):
    """limit_concurrency answers a request and leaves the connection, limit_connections does not."""
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await reply(send)

    server = serve(app, limit_connections=2, limit_concurrency=1)
    first, second = server.connect(), server.connect()
    first.send(get())
    until(lambda: server.factory.in_flight == 1)
    response = second.ask(get())
    assert (response.status, response.one(b"connection")) == (503, None)
    assert server.take_rejects()[0].status == 503
    turned_away(server, server.connect())
    server.call(gate.set)
    assert first.response().status == 200
    second.assert_open()


def test_many_beyond_the_limit(serve):
    """Those that are served are not disturbed, and none of the others is left behind."""
    server, clients = full(serve, ok, 2)
    for _ in range(20):
        turned_away(server, server.connect())
        assert clients[0].ask(get()).status == 200
    until(lambda: server.factory.connections == 2)


# Pipelined requests


class Gate:
    """An app that answers nothing before it is opened, and then its path."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.paths: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        await self.event.wait()
        self.paths.append(scope["path"])
        await read_body(receive)
        await reply(send, scope["path"].encode())


def taken(client, pieces) -> tuple[int, bytes]:
    """Sends until server and kernel take no more: the number of the last piece, and what is left of it."""
    client.sock.settimeout(1)
    for number, piece in enumerate(pieces):
        sent = 0
        while sent < len(piece):
            try:
                sent += client.sock.send(piece[sent:])
            except TimeoutError:
                client.sock.settimeout(10)
                return number, piece[sent:]
    raise AssertionError("everything was taken")


def blocked(serve, limit: int):
    """A client that has pipelined requests until it had to wait: server, app, client, the number of the last
    one that it began to send, and what is left of it.
    """
    app = Gate()
    server = serve(app, limit_pipelined=limit)
    server._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIBIBYTE)  # the connections inherit it
    client = server.connect()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIBIBYTE)
    client.send(get("/first"))
    until(lambda: server.factory.in_flight == 1)
    pieces = (get(b"/%06d" % number, b"X-Pad: " + b"x" * 900) for number in range(10_000))
    number, rest = taken(client, pieces)
    return server, app, client, number, rest


@pytest.mark.parametrize("limit", [1, 64 * KIBIBYTE, MEBIBYTE])
def test_a_client_that_pipelines_has_to_wait_and_loses_nothing(serve, limit):
    server, app, client, number, rest = blocked(serve, limit)
    assert app.paths == []
    server.call(app.event.set)
    client.send(rest + get("/last"))
    bodies = [response.body for response in client.responses(number + 3)]
    assert bodies == [b"/first", *[b"/%06d" % i for i in range(number + 1)], b"/last"]
    client.assert_open()


def test_the_limit_is_what_is_held(serve):
    """What the kernel holds is the same: the difference is ours."""
    counts = []
    for limit in (64 * KIBIBYTE, 4 * MEBIBYTE):
        server, app, client, number, _ = blocked(serve, limit)
        client.reset()
        server.call(app.event.set)
        counts.append(number)
    few, many = counts
    size = len(get(b"/000000", b"X-Pad: " + b"x" * 900))
    assert 3.5 * MEBIBYTE < (many - few) * size < 4.5 * MEBIBYTE


def test_a_body_behind_a_running_request_waits_too(serve):
    """Bytes count, whatever they are to become."""
    app = Gate()
    server = serve(app, limit_pipelined=10 * KIBIBYTE)
    server._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIBIBYTE)
    client = server.connect()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIBIBYTE)
    client.send(get("/first") + get("/second", b"Content-Length: %d" % (4 * MEBIBYTE), method=b"POST"))
    until(lambda: server.factory.in_flight == 1)
    number, rest = taken(client, [b"x" * KIBIBYTE] * 4096)
    assert number < 1024
    server.call(app.event.set)
    assert client.response().body == b"/first"
    send_all(client, [rest + b"x" * KIBIBYTE * (4095 - number) + get("/last")])
    assert [response.body for response in client.responses(2)] == [b"/second", b"/last"]


def test_the_loop_turns_between_pipelined_requests(serve):
    """Requests that are answered at once: thousands of them fit into one read, and others want their turn."""
    turn = 0
    served_in: dict[int, int] = {}

    async def app(scope, receive, send):
        served_in[turn] = served_in.get(turn, 0) + 1
        await reply(send, b"")

    server = serve(app)

    def turns() -> None:
        nonlocal turn
        turn += 1
        if turn > 0:
            server.loop.call_soon(turns)

    def stop() -> None:
        nonlocal turn
        turn = -1_000_000

    server.call(turns)
    with server.connect() as client:
        sender = threading.Thread(target=client.send, args=[get() * 20_000])
        sender.start()
        assert [response.status for response in client.responses(20_000)] == [200] * 20_000
        sender.join()
    server.call(stop)
    assert sum(served_in.values()) == 20_000
    assert max(served_in.values()) <= 1000


# None


@pytest.mark.parametrize("none", [0, -1])
def test_a_limit_of_0_is_none(serve, none):
    names = ["line", "head", "field_size", "fields", "body"]
    limits = {f"limit_request_{name}": none for name in names}
    limits |= {"limit_pipelined": none, "limit_keep_alive_requests": none, "limit_connections": none}
    app = Recorder()
    server = serve(app, **limits)
    with server.connect() as client:
        long = with_line(60_000, b"X-Long: " + b"x" * MEBIBYTE, *[b"X-%d: 1" % i for i in range(3000)])
        assert client.ask(long).status == 200
        assert client.ask(post(b"x" * (2 * MEBIBYTE))).status == 200
        assert client.ask(chunked(*[b"x" * (1 << 16)] * 32)).status == 200
        client.send(get() * 500)
        assert [response.closes for response in client.responses(500)] == [False] * 500
        others = [server.connect() for _ in range(50)]
        assert [other.ask(get()).status for other in others] == [200] * 50
    assert len(app.scopes[0]["headers"]) == 3002
    assert app.bodies[1:3] == [b"x" * (2 * MEBIBYTE)] * 2


def test_no_limit_on_what_is_pipelined(serve):
    app = Gate()
    server = serve(app, limit_pipelined=0)
    with server.connect() as client:
        client.send(get("/first"))
        until(lambda: server.factory.in_flight == 1)
        client.send(get("/next", b"X-Pad: " + b"x" * 60_000) * 300)  # 18 MB: more than any kernel's buffers
        server.call(app.event.set)
        assert [response.status for response in client.responses(301)] == [200] * 301


@pytest.mark.parametrize("wrong", ["1", 1.5, None, b"1"])
@pytest.mark.parametrize("name", ["limit_request_line", "limit_request_body", "limit_connections"])
async def test_a_limit_is_a_whole_number(name, wrong):
    with pytest.raises(TypeError):
        Driver(ok, **{name: wrong})
