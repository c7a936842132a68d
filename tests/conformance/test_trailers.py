"""http.response.trailers (ASGI extensions, "HTTP Trailers"; RFC 9110 §6.5, RFC 9112 §7.1.2).

Fields behind a chunked body. They are sent to a client that says ``TE: trailers``; to others, and where there
is no place for them, the response is what it would have been without.
"""

from __future__ import annotations

from pathlib import Path

import h11
import pytest

from shardserve.errors import ApplicationError, HeaderError, MessageError
from tests.helpers.asgi import body, ok
from tests.helpers.http1 import Client, get, until
from tests.helpers.mistakes import gets_500

TRAILERS = "http.response.trailers"
START = {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": True}
SUM = (b"x-sum", b"42")
TE = b"TE: trailers"


def trailing(*messages, data=(b"he", b"llo"), begin=START, pause=None):
    """An app that sends these trailers messages behind a body; /ok has none."""

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await send(begin)
        for i, piece in enumerate(data):
            if pause is not None:
                await pause()
            await body(send, piece, i < len(data) - 1)
        for message in messages:
            if pause is not None:
                await pause()
            await send({"type": TRAILERS, **message})

    return app


def ask(client: Client, request: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], h11.Response]:
    """Body, trailers and head of one response, as h11 reads them."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "test")]))
    parser.send(h11.EndOfMessage())
    client.send(request)
    data, head = b"", None
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(client.receive())
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            data += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            assert parser.trailing_data[0] == b""
            return data, list(event.headers), head
        else:
            raise EOFError(event)


def test_trailers_behind_a_stream(serve, pause):
    with serve(trailing({"headers": [SUM, (b"x-b", b"2")]}, pause=pause)).connect() as client:
        for _ in range(3):
            data, trailers, head = ask(client, get("/", TE))
            assert (data, trailers) == (b"hello", [SUM, (b"x-b", b"2")])
            assert (b"trailer", b"x-sum") in head.headers
            client.assert_open()


def test_a_single_body_is_chunked_for_them(serve, pause):
    """They have no other place."""
    with serve(trailing({"headers": [SUM]}, data=(b"hello",), pause=pause)).connect() as client:
        data, trailers, head = ask(client, get("/", TE))
        assert (data, trailers) == (b"hello", [SUM])
        assert (b"transfer-encoding", b"chunked") in head.headers
        client.assert_open()


def test_behind_an_empty_body(serve):
    with serve(trailing({"headers": [SUM]}, data=(b"",))).connect() as client:
        assert ask(client, get("/", TE))[:2] == (b"", [SUM])
        client.assert_open()


def test_on_the_wire(serve):
    """RFC 9112 §7.1: last-chunk, trailer-section, CRLF; nothing between them."""
    raw = serve(trailing({"headers": [SUM, (b"X-Case", b"")]})).raw(get("/", TE))
    assert raw.endswith(b"\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 42\r\nX-Case: \r\n\r\n")


def test_no_trailers_after_all(serve, pause):
    for message in ({"headers": []}, {}):
        raw = serve(trailing(message, pause=pause)).raw(get("/", TE))
        assert raw.endswith(b"llo\r\n0\r\n\r\n")


def test_in_several_messages(serve, pause):
    messages = [
        {"headers": [SUM], "more_trailers": True},
        {"headers": [], "more_trailers": True},
        {"headers": iter([(b"x-b", b"2")]), "more_trailers": False},
    ]
    with serve(trailing(*messages, pause=pause)).connect() as client:
        assert ask(client, get("/", TE))[1] == [SUM, (b"x-b", b"2")]
        client.assert_open()


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_behind_a_file(serve, tmp_path, kind, size):
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await send(START)
        with path.open("rb") as opened:
            await send({"type": f"http.response.{kind}", "path": str(path), "file": opened})
        await send({"type": TRAILERS, "headers": [SUM]})

    with serve(app).connect() as client:
        assert ask(client, get("/", TE))[:2] == (b"x" * size, [SUM])
        client.assert_open()


@pytest.mark.parametrize(
    "te",
    [
        b"TE: trailers",
        b"te: Trailers",
        b"TE: gzip;q=0.5, trailers",
        b"TE: gzip\r\nTE: trailers",
        b"TE:trailers\t",
    ],
)
def test_who_takes_trailers(serve, te):
    """RFC 9110 §10.1.4."""
    with serve(trailing({"headers": [SUM]})).connect() as client:
        assert ask(client, get("/", te))[1] == [SUM]


@pytest.mark.parametrize(
    "field", [b"X-A: b", b"TE:", b"TE: gzip", b"TE: xtrailers", b"TE: trailersx", b"X-TE: trailers"]
)
def test_who_does_not(serve, field, pause):
    """ASGI: only to a client that sent ``TE: trailers``. The app need not know."""
    with serve(trailing({"headers": [SUM]}, pause=pause)).connect() as client:
        for _ in range(2):
            data, trailers, _ = ask(client, get("/", field))
            assert (data, trailers) == (b"hello", [])
            client.assert_open()


NO_PLACE = {
    "HTTP/1.0": (START, get("/", TE, version=b"1.0")),
    "a length": ({**START, "headers": [(b"content-length", b"5")]}, get("/", TE)),
    "HEAD": (START, get("/", TE, method=b"HEAD")),
    "204": ({**START, "status": 204}, get("/", TE)),
    "304": ({**START, "status": 304}, get("/", TE)),
}


@pytest.mark.parametrize("name", NO_PLACE)
def test_where_there_is_no_place_for_them(serve, name, pause):
    """RFC 9110 §6.5.1: dropped, and the app may send them all the same."""
    begin, request = NO_PLACE[name]
    messages = [{"headers": [SUM], "more_trailers": True}, {"headers": [SUM]}]
    server = serve(trailing(*messages, begin=begin, pause=pause))
    raw = server.raw(request)
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head or name == "HEAD"
    assert rest == (b"hello" if name in ("HTTP/1.0", "a length") else b"")


def test_the_scope_offers_them(serve):
    seen = []

    async def app(scope, receive, send):
        seen.append(TRAILERS in scope["extensions"])
        await ok(scope, receive, send)

    server = serve(app)
    server.ask(get())
    server.ask(get(version=b"1.0"))
    assert seen == [True, False]


# Mistakes


FORBIDDEN = [
    b"transfer-encoding", b"Content-Length", b"host", b"trailer", b"content-type", b"Content-Encoding",
    b"content-range", b"authorization", b"set-cookie", b"connection", b"TE",
]  # fmt: skip
BAD = [(b"a b", b""), (b"", b"x"), (b"x-a", b"1\r\nx-b: 2"), (b"x-a", b"\0"), (b"x:", b"1"), (b"x-a", b"\n")]


@pytest.mark.parametrize("field", [*((name, b"1") for name in FORBIDDEN), *BAD])
def test_what_is_no_trailer(serve, field):
    """RFC 9110 §6.5.1. It is refused as a whole, leaves no trace, and the app may send a better one."""
    errors = []

    async def app(scope, receive, send):
        await send(START)
        await body(send, b"hello")
        try:
            await send({"type": TRAILERS, "headers": [(b"x-good", b"1"), field]})
        except HeaderError as error:
            errors.append(str(error))
        await send({"type": TRAILERS, "headers": [SUM]})

    with serve(app).connect() as client:
        assert ask(client, get("/", TE))[:2] == (b"hello", [SUM])
    assert len(errors) == 1


@pytest.mark.parametrize(
    "headers", [None, 5, b"ab", [(b"a",)], [("a", b"b")], [(b"a", "b")], [b"ab"], {b"ab": b""}]
)
def test_what_are_no_headers(serve, headers):
    errors = []

    async def app(scope, receive, send):
        await send(START)
        await body(send, b"hello")
        try:
            await send({"type": TRAILERS, "headers": headers})
        except MessageError as error:
            errors.append(str(error))
        await send({"type": TRAILERS, "headers": [SUM]})

    with serve(app).connect() as client:
        assert ask(client, get("/", TE))[:2] == (b"hello", [SUM])
    assert len(errors) == 1


def test_out_of_order(serve):
    """Each refused message leaves no trace."""
    errors = []

    async def app(scope, receive, send):
        async def wrong(**message):
            try:
                await send(message)
            except MessageError as error:
                errors.append(str(error))

        await wrong(type=TRAILERS, headers=[SUM])
        await send(START)
        await wrong(type=TRAILERS, headers=[SUM])
        await body(send, b"he", more=True)
        await wrong(type=TRAILERS, headers=[SUM])
        await body(send, b"llo")
        await wrong(type="http.response.body", body=b"more")
        await wrong(**START)
        await send({"type": TRAILERS, "headers": [SUM]})
        await wrong(type=TRAILERS, headers=[SUM])
        await wrong(type="http.response.body", body=b"more")

    with serve(app).connect() as client:
        assert ask(client, get("/", TE))[:2] == (b"hello", [SUM])
    assert len(errors) == 7


def test_unannounced(serve):
    """Without "trailers" in the start the last body is the end."""
    errors = []

    async def app(scope, receive, send):
        await send({**START, "trailers": False})
        await body(send, b"hello")
        try:
            await send({"type": TRAILERS, "headers": [SUM]})
        except MessageError as error:
            errors.append(str(error))

    with serve(app).connect() as client:
        assert ask(client, get("/", TE))[:2] == (b"hello", [])
        assert ask(client, get("/", TE))[:2] == (b"hello", [])
    assert len(errors) == 2


def test_unannounced_before_anything_is_on_the_wire(serve):
    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
        else:
            await send({**START, "trailers": False})
            await send({"type": TRAILERS, "headers": [SUM]})

    assert type(gets_500(serve(app))) is MessageError


@pytest.mark.parametrize("messages", [[], [{"headers": [SUM], "more_trailers": True}]])
def test_an_app_that_does_not_end_them(serve, messages):
    """The client must not take that for the whole."""
    server = serve(trailing(*messages))
    raw = server.raw(get("/", TE))
    assert b"llo" in raw
    assert not raw.endswith(b"\r\n\r\n")
    report = server.take_error()
    assert isinstance(report.error, ApplicationError)
    assert "trailers" in str(report.error)
    assert report.outcome == "connection closed early"


def test_an_app_that_does_not_end_what_is_dropped(serve):
    """Who gets no trailers has the whole response: the app's mistake costs that client nothing."""
    server = serve(trailing())
    with server.connect() as client:
        assert ask(client, get())[:2] == (b"hello", [])
        client.assert_open()
    server.errors.clear()


def test_a_client_that_goes_before_them(serve):
    gone = []

    async def app(scope, receive, send):
        await receive()
        await send(START)
        await body(send, b"hello")
        assert (await receive())["type"] == "http.disconnect"
        gone.append(1)
        await send({"type": TRAILERS, "headers": [SUM]})

    server = serve(app)
    with server.connect() as client:
        client.send(get("/", TE))
        client.read_until(b"llo")
        client.reset()
    until(lambda: gone)
    assert isinstance(server.take_error().error, OSError)


def test_one_access_line(serve, tmp_path: Path):
    server = serve(trailing({"headers": [SUM], "more_trailers": True}, {"headers": [SUM]}))
    with server.connect() as client:
        ask(client, get("/", TE))
        ask(client, get())
    until(lambda: server.factory.in_flight == 0)
    assert [access.status for access in server.accesses] == [200, 200]
