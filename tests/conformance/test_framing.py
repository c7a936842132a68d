"""Response heads and framing on the wire (RFC 9112 §6, RFC 9110 §6.4)."""

from __future__ import annotations

import asyncio
import email.utils
import random
import re
import time

import pytest

from tests.helpers.asgi import body, reply, start
from tests.helpers.http1 import Client, get, until

BLOB = random.Random(2).randbytes(5 << 20)


def answers(*bodies, status: int = 200, headers=(), suspend: bool = False):
    """An app that sends these bodies, the last one with more_body false."""

    async def app(scope, receive, send):
        await start(send, status, list(headers))
        for i, data in enumerate(bodies):
            if suspend:
                await asyncio.sleep(0)
            await body(send, data, more=i < len(bodies) - 1)

    return app


@pytest.fixture(params=[False, True], ids=["at once", "suspending"])
def suspend(request) -> bool:
    return request.param


def test_content_length_given(serve, suspend):
    server = serve(answers(b"he", b"llo", headers=[(b"content-length", b"5")], suspend=suspend))
    with server.connect() as client:
        response = client.ask(get())
        assert response.body == b"hello"
        assert response.one(b"content-length") == b"5"
        assert response.one(b"transfer-encoding") is None
        assert client.ask(get()).body == b"hello"


def test_a_single_body_gets_a_content_length(serve, suspend):
    response = serve(answers(b"hello", suspend=suspend)).ask(get())
    assert response.one(b"content-length") == b"5"
    assert response.one(b"transfer-encoding") is None
    assert response.body == b"hello"


def test_no_body_key_is_an_empty_body(serve):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    response = serve(app).ask(get())
    assert response.one(b"content-length") == b"0"
    assert response.body == b""


def test_a_stream_is_chunked(serve, suspend):
    server = serve(answers(b"he", b"llo", suspend=suspend))
    with server.connect() as client:
        for _ in range(3):
            response = client.ask(get())
            assert response.one(b"transfer-encoding") == b"chunked"
            assert response.one(b"content-length") is None
            assert response.body == b"hello"


def test_empty_pieces_do_not_end_a_chunked_body(serve, suspend):
    server = serve(answers(b"", b"a", b"", b"", b"b", b"", suspend=suspend))
    with server.connect() as client:
        for _ in range(2):
            assert client.ask(get()).body == b"ab"
    raw = server.raw(get())
    assert raw.count(b"0\r\n\r\n") == 1
    assert raw.endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


def test_an_empty_stream(serve, suspend):
    response = serve(answers(b"", b"", suspend=suspend)).ask(get())
    assert response.body == b""


def test_http_10_closes_after_a_stream(serve, suspend):
    with serve(answers(b"he", b"llo", suspend=suspend)).connect() as client:
        response = client.ask(get(version=b"1.0"))
        assert response.body == b"hello"
        assert response.one(b"transfer-encoding") is None
        assert response.one(b"content-length") is None
        assert response.one(b"connection") == b"close"


def test_http_10_closes_without_keep_alive(serve):
    with serve(answers(b"x", headers=[(b"content-length", b"1")])).connect() as client:
        response = client.ask(get(version=b"1.0"))
        assert response.one(b"connection") == b"close"
        client.assert_closed()


def test_http_10_keep_alive_is_confirmed(serve):
    with serve(answers(b"x", headers=[(b"content-length", b"1")])).connect() as client:
        for _ in range(3):
            response = client.ask(get("/", b"Connection: Keep-Alive", version=b"1.0"))
            assert response.one(b"connection") == b"keep-alive"
        assert client.ask(get()).one(b"connection") is None


def test_http_10_keep_alive_ends_with_a_stream(serve):
    with serve(answers(b"a", b"b")).connect() as client:
        response = client.ask(get("/", b"Connection: keep-alive", version=b"1.0"))
        assert response.one(b"connection") == b"close"
        assert response.body == b"ab"


def test_http_10_and_a_single_body_stays(serve):
    with serve(answers(b"ab")).connect() as client:
        response = client.ask(get("/", b"Connection: keep-alive", version=b"1.0"))
        assert response.one(b"content-length") == b"2"
        assert response.one(b"connection") == b"keep-alive"
        assert client.ask(get()).body == b"ab"


def test_head_keeps_the_apps_content_length(serve, suspend):
    server = serve(answers(b"hello", headers=[(b"content-length", b"5")], suspend=suspend))
    with server.connect() as client:
        for _ in range(2):
            response = client.ask(get(method=b"HEAD"), "HEAD")
            assert response.one(b"content-length") == b"5"
            assert response.body == b""
        assert client.ask(get()).body == b"hello"


def test_head_without_a_body_keeps_a_content_length_too(serve):
    """As an app that leaves the body out for HEAD sends it."""
    server = serve(answers(b"", headers=[(b"content-length", b"5")]))
    with server.connect() as client:
        assert client.ask(get(method=b"HEAD"), "HEAD").one(b"content-length") == b"5"
        assert client.ask(get(method=b"HEAD"), "HEAD").status == 200


@pytest.mark.parametrize("bodies", [(b"hello",), (b"he", b"llo"), (b"",), (b"x" * 100_000, b"y" * 100_000)])
def test_head_never_has_a_body(serve, bodies, suspend):
    with serve(answers(*bodies, suspend=suspend)).connect() as client:
        client.send(get(method=b"HEAD"), get("/2", method=b"HEAD"), get("/3"))
        assert client.response("HEAD").status == 200
        assert client.response("HEAD").status == 200
        assert client.response().body == b"".join(bodies)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("bodies", [(b"",), (b"no",), (b"no", b"no", b"no")])
def test_no_body_with_204_and_304(serve, status, bodies):
    with serve(answers(*bodies, status=status)).connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert (response.status, response.body) == (status, b"")
            assert response.one(b"transfer-encoding") is None
            assert response.one(b"content-length") is None


def test_content_length_with_204_and_304(serve):
    """RFC 9110 §8.6: MUST NOT in a 204; in a 304 it tells what a 200 would have."""
    length = [(b"content-length", b"5")]
    with serve(answers(b"", status=204, headers=length)).connect() as client:
        assert client.ask(get()).one(b"content-length") is None
        assert client.ask(get()).status == 204
    with serve(answers(b"", status=304, headers=length)).connect() as client:
        assert client.ask(get()).one(b"content-length") == b"5"
        assert client.ask(get()).status == 304


def test_date_and_server(serve):
    response = serve(answers(b"x")).ask(get())
    assert response.one(b"server") == b"shardserve"
    date = response.one(b"date")
    assert re.fullmatch(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)
    age_s = time.time() - email.utils.parsedate_to_datetime(date.decode()).timestamp()
    assert -1 <= age_s < 3


def test_the_date_goes_on_without_ticks(serve):
    with serve(answers(b"x")).connect() as client:
        first = client.ask(get()).one(b"date")
        until(lambda: client.ask(get()).one(b"date") != first, "the next second", 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"sErVeR", b"mine"), (b"date", b""), (b"server", b"")],
)
def test_the_apps_own_date_and_server_win(serve, name, value):
    response = serve(answers(b"x", headers=[(name, value)])).ask(get())
    assert response.one(name.lower()) == value
    assert sorted(response.names) == [b"content-length", b"date", b"server"]


def test_date_and_server_can_be_left_out(serve):
    response = serve(answers(b"x"), server_header=False, date_header=False).ask(get())
    assert response.names == [b"content-length"]
    response = serve(answers(b"x"), date_header=False).ask(get())
    assert response.names == [b"server", b"content-length"]


def test_extra_headers(serve):
    extra = [(b"X-Frame-Options", b"DENY"), (b"x-two", b""), (b"x-two", b"2")]
    server = serve(answers(b"x", headers=[(b"x-app", b"1")]), headers=extra)
    response = server.ask(get())
    assert [field for field in response.headers if field[0].startswith(b"x-")] == [
        (b"x-app", b"1"),
        (b"x-frame-options", b"DENY"),
        (b"x-two", b""),
        (b"x-two", b"2"),
    ]
    assert b"\r\nX-Frame-Options: DENY\r\n" in server.raw(get())


def test_extra_headers_with_an_embedded_nul_or_percent(serve):
    """They are data, not a format or a C string."""
    response = serve(answers(b"x"), headers=[(b"x-percent", b"%s%d%%n")]).ask(get())
    assert response.one(b"x-percent") == b"%s%d%%n"


def test_the_apps_headers_keep_order_case_and_duplicates(serve):
    fields = [
        (b"X-B", b"1"),
        (b"set-cookie", b"a=1"),
        (b"x-a", b"2"),
        (b"Set-Cookie", b"b=2"),
        (b"x-b", b" 3 "),
    ]
    raw = serve(answers(b"", headers=fields), server_header=False, date_header=False).raw(get())
    assert raw.startswith(
        b"HTTP/1.1 200 OK\r\nX-B: 1\r\nset-cookie: a=1\r\nx-a: 2\r\nSet-Cookie: b=2\r\nx-b:  3 \r\n"
    )


def test_the_exact_bytes_of_a_plain_response(serve):
    app = answers(b"hello", headers=[(b"content-type", b"text/plain")])
    server = serve(app, server_header=False, date_header=False)
    with server.connect() as client:
        client.send(get())
        assert client.read_until(b"hello") == (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
        )


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (201, b"HTTP/1.1 201 Created\r\n"),
        (299, b"HTTP/1.1 299 \r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (413, b"HTTP/1.1 413 Content Too Large\r\n"),
        (599, b"HTTP/1.1 599 \r\n"),
        (999, b"HTTP/1.1 999 \r\n"),
    ],
)
def test_status_line(serve, status, line):
    assert serve(answers(b"x", status=status)).raw(get()).startswith(line)


def test_status_as_an_enum(serve):
    import http

    assert serve(answers(b"x", status=http.HTTPStatus.IM_A_TEAPOT)).ask(get()).status == 418


@pytest.mark.parametrize("headers", [(), [], {b"x-a": b"1"}.items(), [[b"x-a", b"1"]], ((b"x-a", b"1"),)])
def test_headers_may_be_any_iterable_of_pairs(serve, headers):
    async def app(scope, receive, send):
        await start(send, 200, headers)
        await body(send, b"x")

    assert serve(app).ask(get()).one(b"x-a") == (b"1" if headers else None)


def test_headers_may_be_a_generator(serve):
    async def app(scope, receive, send):
        await start(send, 200, ((b"x-%d" % i, b"1") for i in range(3)))
        await body(send, b"x")

    assert serve(app).ask(get()).names[:3] == [b"x-0", b"x-1", b"x-2"]


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: memoryview(data + data)[: len(data)]])
@pytest.mark.parametrize("size", [0, 1, 5000, 200_000])
def test_other_bytes_like_bodies(serve, kind, size):
    data = BLOB[:size]
    server = serve(answers(kind(data), kind(data)))
    assert server.ask(get()).body == data + data


def test_a_bytearray_changed_after_send(serve):
    """send() returned: the bytes are the server's."""

    async def app(scope, receive, send):
        buffer = bytearray(b"a" * 50_000)
        await start(send)
        for letter in b"bcd":
            await body(send, buffer, more=True)
            buffer[:] = bytes([letter]) * 50_000
        await body(send, buffer)

    assert serve(app).ask(get()).body == b"".join(letter * 50_000 for letter in (b"a", b"b", b"c", b"d"))


@pytest.mark.parametrize("size", [2047, 2048, 2049, 65_535, 100 << 10, 5 << 20])
@pytest.mark.parametrize("given", [True, False])
def test_large_bodies_arrive_intact(serve, size, given):
    headers = [(b"content-length", b"%d" % size)] if given else []
    with serve(answers(BLOB[:size], headers=headers)).connect() as client:
        for _ in range(2):
            assert client.ask(get()).body == BLOB[:size]


@pytest.mark.parametrize(
    "sizes", [[3000] * 100, [1] * 3000, [100 << 10] * 20, [1, 70_000, 1, 3000, 2048, 2049] * 20]
)
def test_many_pieces_arrive_intact(serve, sizes, suspend):
    pieces, at = [], 0
    for size in sizes:
        pieces.append(BLOB[at : at + size])
        at += size
    with serve(answers(*pieces, suspend=suspend)).connect() as client:
        client.send(get(), get())
        for response in client.responses(2):
            assert response.body == BLOB[:at]


def test_large_bodies_pipelined(serve):
    """More segments than one writev takes, and more bytes than the socket."""

    async def app(scope, receive, send):
        at = int(scope["path"][1:])
        await reply(send, BLOB[at : at + 40_000])

    server = serve(app)
    client: Client = server.connect()
    client.send(*[get(b"/%d" % i) for i in range(100)])
    for i, response in enumerate(client.responses(100)):
        assert response.body == BLOB[i : i + 40_000]


def test_a_long_head(serve):
    headers = [(b"x-%d" % i, b"v" * 1000) for i in range(90)]
    with serve(answers(b"x", headers=headers)).connect() as client:
        for _ in range(2):
            assert [field for field in client.ask(get()).headers if field[0].startswith(b"x-")] == headers


def test_the_head_goes_with_the_first_body(serve):
    """Not before: until then the app may still fail and a 500 be sent."""
    go = asyncio.Event()
    started = []

    async def app(scope, receive, send):
        await start(send)
        started.append(True)
        await go.wait()
        await body(send, b"x")

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        until(lambda: started)
        client.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.receive()
        client.sock.settimeout(5)
        server.call(go.set)
        assert client.response().body == b"x"


def test_a_piece_leaves_before_the_next_is_made(serve):
    go = [asyncio.Event() for _ in range(3)]

    async def app(scope, receive, send):
        await start(send)
        for i in range(3):
            await body(send, b"piece %d" % i, more=True)
            await go[i].wait()
        await body(send)

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        for i in range(3):
            client.read_until(b"piece %d" % i)
            server.call(go[i].set)
        assert client.read_until(b"0\r\n\r\n")
