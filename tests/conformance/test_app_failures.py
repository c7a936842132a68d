"""Apps that raise or give up: what the client gets at each point of a response, and what is logged.

Every test parses the exact bytes as one response (or as one that is visibly torn), with a client that
comes back on the same connection where it lives on.
"""

from __future__ import annotations

import asyncio
import sys

import h11
import pytest

from shardserve.errors import MessageError
from tests.helpers.asgi import body, ok, reply, start
from tests.helpers.http1 import get
from tests.helpers.mistakes import BODY, START, gets_500, mistaken


def test_an_exception_before_the_start(serve, turn):
    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await turn()
        raise ValueError("mine")

    error = gets_500(serve(app))
    assert isinstance(error, ValueError)
    assert error.__traceback__ is not None


def test_an_exception_after_the_start(serve, turn):
    """Nothing is on the wire yet, so the started response is forgotten, fields and all."""

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await start(send, 201, [(b"x-secret", b"1"), (b"content-length", b"7"), (b"connection", b"close")])
        await turn()
        raise ValueError("mine")

    server = serve(app)
    assert isinstance(gets_500(server), ValueError)


def test_the_forgotten_head_leaves_no_field(serve):
    async def app(scope, receive, send):
        await start(send, 201, [(b"x-secret", b"1"), (b"date", b"never"), (b"server", b"mine")])
        raise ValueError("mine")

    server = serve(app)
    response = server.ask(get())
    assert sorted(response.names) == [b"content-length", b"content-type", b"date", b"server"]
    assert response.one(b"server") == b"shardserve"
    server.take_error()


def test_an_exception_in_calling_the_app(serve):
    """An app that is no coroutine function at all."""

    def app(scope, receive, send):
        raise ValueError("mine")

    server = serve(app)
    assert server.ask(get()).status == 500
    assert isinstance(server.take_error().error, ValueError)


@pytest.mark.parametrize("returned", [None, 1, "text"])
def test_an_app_that_returns_no_awaitable(serve, returned):
    server = serve(lambda scope, receive, send: returned)
    assert server.ask(get()).status == 500
    error = server.take_error().error
    assert isinstance(error, MessageError)
    assert "awaitable" in str(error)
    assert type(returned).__name__ in str(error)


def test_an_app_may_return_any_awaitable(serve):
    class Awaitable:
        def __init__(self, *args):
            self.args = args

        def __await__(self):
            return ok(*self.args).__await__()

    assert serve(Awaitable).ask(get()).body == b"ok"


@pytest.mark.parametrize(
    "kind", [KeyError, asyncio.CancelledError, StopAsyncIteration, GeneratorExit, BaseException]
)
def test_any_kind_of_exception(serve, turn, kind):
    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await turn()
        raise kind

    assert isinstance(gets_500(serve(app)), kind)


def test_an_exception_after_the_body_began_chunked(serve, turn):
    async def app(scope, receive, send):
        await start(send)
        await body(send, b"begun", more=True)
        await turn()
        raise ValueError("mine")

    server = serve(app)
    with server.connect() as client:
        client.send(get(), get("/next"))
        with pytest.raises(h11.RemoteProtocolError, match="without sending complete message body"):
            client.response()
    report = server.take_error()
    assert report.outcome == "connection closed early"
    assert server.factory.served == 1


def test_an_exception_after_the_body_began_with_a_length(serve, turn):
    async def app(scope, receive, send):
        await start(send, 200, [(b"content-length", b"10")])
        await body(send, b"begun", more=True)
        await turn()
        raise ValueError("mine")

    server = serve(app)
    with server.connect() as client:
        client.send(get(), get("/next"))
        with pytest.raises(h11.RemoteProtocolError, match="without sending complete message body"):
            client.response()
    assert server.take_error().outcome == "connection closed early"


def test_an_exception_after_the_body_began_until_close(serve, turn):
    """HTTP/1.0: the end of the connection is the end of the body, so only a reset can tell."""

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"begun", more=True)
        await turn()
        raise ValueError("mine")

    server = serve(app)
    with server.connect() as client:
        client.send(get(version=b"1.0"))
        with pytest.raises(ConnectionResetError):
            client.rest()
    assert server.take_error().outcome == "connection closed early"


def test_an_exception_after_the_response(serve, turn):
    async def app(scope, receive, send):
        await reply(send)
        await turn()
        raise ValueError("mine")

    server = serve(app)
    with server.connect() as client:
        assert client.ask(get()).body == b"ok"
        assert client.ask(get()).body == b"ok"
    assert [report.outcome for report in server.take_errors(2)] == ["response already sent"] * 2


def test_an_exception_in_a_pipeline_touches_only_its_own_response(serve, turn):
    async def app(scope, receive, send):
        await turn()
        if scope["path"] == "/bad":
            await start(send, 200, [(b"content-length", b"100")])
            raise ValueError("mine")
        await reply(send, scope["path"].encode())

    server = serve(app)
    with server.connect() as client:
        client.send(get("/1"), get("/bad"), get("/2"), get("/bad"), get("/3"))
        responses = client.responses(5)
    assert [response.status for response in responses] == [200, 500, 200, 500, 200]
    assert [responses[i].body for i in (0, 2, 4)] == [b"/1", b"/2", b"/3"]
    server.take_errors(2)


def test_a_head_that_waits_does_not_hold_back_the_response_before_it(serve):
    """The first answer leaves; the second head stays, and is replaced when its app fails."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/1":
            await reply(send, b"one")
            return
        await start(send, 201, [(b"x-forgotten", b"1")])
        await go.wait()
        raise ValueError("mine")

    server = serve(app)
    with server.connect() as client:
        client.send(get("/1"), get("/2"))
        assert client.response().body == b"one"
        assert client.buffered == b""
        server.call(go.set)
        response = client.response()
        assert response.status == 500
        assert response.one(b"x-forgotten") is None
    server.take_error()


def test_no_response(serve, turn):
    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await turn()

    error = gets_500(serve(app))
    assert isinstance(error, MessageError)
    assert "without sending a response" in str(error)


def test_only_a_start(serve, turn):
    error = gets_500(serve(mistaken(START, turn=turn)))
    assert isinstance(error, MessageError)
    assert "more_body" in str(error) or "completing" in str(error)


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"5")]])
def test_no_end_of_the_body(serve, turn, fields):
    app = mistaken({**START, "headers": fields}, {**BODY, "more_body": True}, turn=turn)
    server = serve(app)
    with server.connect() as client:
        client.send(get())
        with pytest.raises(h11.RemoteProtocolError):
            client.response()
    report = server.take_error()
    assert isinstance(report.error, MessageError)
    assert "more_body" in str(report.error)
    assert report.outcome == "connection closed early"


def test_an_error_in_the_error_callable_breaks_nothing(serve):
    """on_app_error itself fails: the client still gets its 500. (sys.unraisablehook hears of it.)"""
    heard = []
    hook = sys.unraisablehook
    sys.unraisablehook = heard.append
    try:
        server = serve(mistaken(BODY))

        class Broken(list):
            def append(self, item):
                raise LookupError("mine")

        good, server.errors = server.errors, Broken()
        with server.connect() as client:
            assert client.ask(get()).status == 500
            client.assert_open()
        server.errors = good
    finally:
        sys.unraisablehook = hook
    assert [type(one.exc_value) for one in heard] == [LookupError]
