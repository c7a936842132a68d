"""http.response.early_hint (ASGI extensions, "Early Hints"; RFC 8297): 103 before the response."""

from __future__ import annotations

import asyncio

import pytest

from shardserve.errors import HeaderError, MessageError
from tests.helpers.asgi import body, ok, reply, start
from tests.helpers.http1 import chunked, get, post, until

HINT = "http.response.early_hint"
STYLE = b"</style.css>; rel=preload; as=style"
SCRIPT = b"</app.js>; rel=preload; as=script"
ON_THE_WIRE = b"HTTP/1.1 103 Early Hints\r\nlink: " + STYLE + b"\r\nlink: " + SCRIPT + b"\r\n\r\n"


def hinting(*links: object, times: int = 1, pause=None):
    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        for _ in range(times):
            await send({"type": HINT, "links": list(links)})
            if pause is not None:
                await pause()
        await reply(send, b"hello")

    return app


def test_on_the_wire(serve):
    raw = serve(hinting(STYLE, SCRIPT)).raw(get())
    assert raw.startswith(ON_THE_WIRE + b"HTTP/1.1 200 OK\r\n")
    assert raw.endswith(b"\r\n\r\nhello")


def test_a_client_reads_it(serve, pause):
    with serve(hinting(STYLE, pause=pause)).connect() as client:
        for _ in range(3):
            response = client.ask(get())
            assert (response.status, response.informational, response.body) == (200, [103], b"hello")
        client.assert_open()


def test_as_often_as_it_likes(serve, pause):
    with serve(hinting(STYLE, times=5, pause=pause)).connect() as client:
        assert client.ask(get()).informational == [103] * 5
        client.assert_open()


def test_it_leaves_before_the_response_is_known(serve):
    """That is what it is for."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        await send({"type": HINT, "links": [STYLE]})
        await go.wait()
        await reply(send)

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 103 ")
        client.buffered = b""
        server.call(go.set)
        assert client.response().body == b"ok"


def test_also_behind_answers_that_are_gathered(serve):
    """Pipelined: what was answered before goes before it."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/hint":
            await send({"type": HINT, "links": [STYLE]})
            await go.wait()
        await reply(send, scope["path"].encode())

    server = serve(app)
    with server.connect() as client:
        client.send(get("/1"), get("/hint"), get("/2"))
        assert client.read_until(b"103 Early Hints").count(b"HTTP/1.1") == 2
        server.call(go.set)
        client.buffered = b""
        rest = client.read_until(b"/2")
        assert rest.count(b"HTTP/1.1 200 OK") == 2


def test_no_links(serve):
    with serve(hinting()).connect() as client:
        assert client.ask(get()).body == b"hello"
        client.assert_open()


def test_links_of_any_iterable(serve):
    async def app(scope, receive, send):
        await send({"type": HINT, "links": iter((STYLE, SCRIPT))})
        await reply(send)

    assert serve(app).raw(get()).startswith(ON_THE_WIRE)


@pytest.mark.parametrize(
    "request_", [get(version=b"1.0"), get("/", b"Connection: keep-alive", version=b"1.0")]
)
def test_not_for_http_10(serve, request_):
    """RFC 9110 §15.2: a server MUST NOT send a 1xx response to an HTTP/1.0 client."""
    response = serve(hinting(STYLE)).ask(request_)
    assert (response.informational, response.body) == ([], b"hello")


def test_the_scope_offers_them(serve):
    seen = []

    async def app(scope, receive, send):
        seen.append(HINT in scope["extensions"])
        await ok(scope, receive, send)

    server = serve(app)
    server.ask(get())
    server.ask(get(version=b"1.0"))
    assert seen == [True, False]


@pytest.mark.parametrize("method", [b"HEAD", b"POST", b"DELETE"])
def test_other_methods(serve, method):
    with serve(hinting(STYLE)).connect() as client:
        response = client.ask(get(method=method), method.decode())
        assert (response.status, response.informational) == (200, [103])
        client.assert_open()


@pytest.mark.parametrize("request_", [post(b"x" * 100_000), chunked(b"abc", b"def")])
def test_with_a_request_body(serve, request_):
    with serve(hinting(STYLE)).connect() as client:
        assert client.ask(request_).informational == [103]
        client.assert_open()


def test_with_a_client_that_waits_for_100(serve):
    async def app(scope, receive, send):
        await send({"type": HINT, "links": [STYLE]})
        message = await receive()
        await reply(send, message["body"])

    with serve(app).connect() as client:
        client.send(get("/", b"Expect: 100-continue", b"Content-Length: 4", method=b"POST"))
        seen = client.read_until(b"100 Continue\r\n\r\n")
        assert seen.index(b"103 ") < seen.index(b"100 ")
        client.buffered = b""
        client.send(b"body")
        assert client.response().body == b"body"


def test_an_app_that_fails_behind_a_hint(serve):
    """A hint is no response: the client gets its 500."""

    async def app(scope, receive, send):
        await send({"type": HINT, "links": [STYLE]})
        raise ValueError("behind a hint")

    server = serve(app)
    response = server.ask(get())
    assert (response.status, response.informational) == (500, [103])
    assert server.take_error().outcome == "500 sent"


def test_one_access_line(serve):
    server = serve(hinting(STYLE, times=3))
    server.ask(get())
    until(lambda: server.accesses)
    assert [access.status for access in server.accesses] == [200]


# Behind the start: what ASGI allows, and HTTP/1.1 has no place for


def test_behind_the_start_it_is_sent_or_dropped(serve, pause):
    """ASGI lets an app send hints there, and a server ignore them: no error, and no garbage."""

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await start(send)
        await send({"type": HINT, "links": [STYLE]})
        await pause()
        await body(send, b"he", more=True)
        await send({"type": HINT, "links": [STYLE]})
        await body(send, b"llo")

    with serve(app).connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert (response.status, response.body) == (200, b"hello")
            assert response.informational in ([], [103])
        client.assert_open()


def test_behind_the_response(serve):
    errors = []

    async def app(scope, receive, send):
        await reply(send)
        try:
            await send({"type": HINT, "links": [STYLE]})
        except MessageError as error:
            errors.append(str(error))

    with serve(app).connect() as client:
        assert client.ask(get()).body == b"ok"
        client.assert_open()
    assert len(errors) == 2


# Mistakes


@pytest.mark.parametrize("links", [None, 5, [STYLE.decode()], [STYLE, None], [5], "</a>", [[STYLE]]])
def test_what_are_no_links(serve, links):
    errors = []

    async def app(scope, receive, send):
        try:
            await send({"type": HINT, "links": links})
        except MessageError as error:
            errors.append(str(error))
        await send({"type": HINT, "links": [SCRIPT]})
        await reply(send)

    raw = serve(app).raw(get())
    assert len(errors) == 1
    assert "link" in errors[0]
    assert raw.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: " + SCRIPT + b"\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"\x7f", b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"\x1b"])
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_nothing_is_injected_through_a_link(serve, bad, place):
    link = {"start": bad + STYLE, "middle": b"</a" + bad + b">", "end": STYLE + bad}[place]
    errors = []

    async def app(scope, receive, send):
        try:
            await send({"type": HINT, "links": [SCRIPT, link]})
        except HeaderError as error:
            errors.append(error)
        await reply(send)

    raw = serve(app).raw(get())
    assert len(errors) == 1
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw.count(b"HTTP/1.1") == 1


def test_a_client_that_is_gone(serve):
    errors = []

    async def app(scope, receive, send):
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        try:
            await send({"type": HINT, "links": [STYLE]})
        except OSError as error:
            errors.append(error)

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        until(lambda: server.factory.in_flight)
        client.reset()
    until(lambda: errors)
    until(lambda: server.factory.in_flight == 0)
    server.errors.clear()
