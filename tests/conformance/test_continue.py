"""Expect: 100-continue (RFC 9110 §10.1.1)."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.asgi import body, echo, ok, read_body, reply, start
from tests.helpers.http1 import get, until

EXPECT = b"Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def expecting(length: int, *fields: bytes, **how) -> bytes:
    return get("/", EXPECT, b"Content-Length: %d" % length, *fields, method=b"POST", **how)


def nothing_comes(client, for_s: float = 0.05) -> None:
    client.sock.settimeout(for_s)
    with pytest.raises(TimeoutError):
        client.receive()
    client.sock.settimeout(10)


@pytest.mark.parametrize("field", [b"Expect: 100-continue", b"EXPECT: 100-Continue", b"expect:100-CONTINUE"])
def test_sent_when_the_app_receives(serve, field):
    with serve(echo).connect() as client:
        client.send(get("/", field, b"Content-Length: 5", method=b"POST"))
        assert client.read_until(b"\r\n\r\n") == CONTINUE
        client.send(b"hello")
        assert client.response().body == b"hello"
        client.assert_open()


def test_chunked(serve):
    with serve(echo).connect() as client:
        client.send(get("/", EXPECT, b"Transfer-Encoding: chunked", method=b"POST"))
        assert client.read_until(b"\r\n\r\n") == CONTINUE
        client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert client.response().body == b"hello"
        client.assert_open()


def test_not_before_the_app_receives(serve):
    go = asyncio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/":
            await go.wait()
        await reply(send, await read_body(receive))

    server = serve(app)
    with server.connect() as client:
        client.send(expecting(5))
        until(lambda: server.factory.in_flight == 1)
        nothing_comes(client)
        server.call(go.set)
        assert client.read_until(b"\r\n\r\n") == CONTINUE
        client.send(b"hello")
        assert client.response().body == b"hello"
        client.assert_open()


def test_sent_once(serve):
    """However many wait, and however often."""
    first = []

    async def app(scope, receive, send):
        tasks = [asyncio.create_task(receive()) for _ in range(3)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        first.append(done.pop().result()["body"])
        await reply(send, first[0] + await read_body(receive))

    with serve(app).connect() as client:
        client.send(expecting(6))
        client.read_until(CONTINUE)
        client.send(b"one")
        until(lambda: first)
        client.send(b"two")
        response = client.response()
        assert (response.informational, response.body) == ([], b"onetwo")


def test_not_sent_when_the_app_answers_at_once(serve):
    """The client may send the body or not: nobody can tell, so the connection ends."""

    async def app(scope, receive, send):
        await reply(send, b"no", 417)

    with serve(app).connect() as client:
        response = client.ask(expecting(5))
        assert (response.status, response.informational) == (417, [])
        assert response.one(b"connection") == b"close"


def test_a_body_after_the_refusal_is_no_request(serve):
    requests = []

    async def app(scope, receive, send):
        requests.append(scope["path"])
        await reply(send, b"no", 413)

    inner = get("/smuggled")
    with serve(app).connect() as client:
        client.send(expecting(len(inner)))
        assert client.response().status == 413
        client.send(inner)
        client.assert_closed()
    assert requests == ["/"]


def test_not_sent_after_the_response_began(serve):
    async def app(scope, receive, send):
        await start(send)
        await body(send, b"early ", more=True)
        await body(send, await read_body(receive))

    with serve(app).connect() as client:
        client.send(expecting(5))
        client.read_until(b"early ")
        client.send(b"hello")
        tail = client.rest()
        assert b"hello" in tail
        assert CONTINUE not in tail


def test_the_app_fails_before_it_receives(serve):
    async def app(scope, receive, send):
        raise ValueError("no")

    server = serve(app)
    with server.connect() as client:
        response = client.ask(expecting(5))
        assert (response.status, response.informational) == (500, [])
        assert response.one(b"connection") == b"close"
    server.take_error()


def test_not_for_http_10(serve):
    with serve(echo).connect() as client:
        client.send(expecting(5, version=b"1.0"))
        nothing_comes(client)
        client.send(b"hello")
        response = client.response()
        assert (response.informational, response.body) == ([], b"hello")


def test_the_client_does_not_wait(serve):
    """RFC 9110 §10.1.1: a client need not wait; the 100 may be left out then, the order must be right."""
    with serve(echo).connect() as client:
        client.send(expecting(5) + b"hello" + get("/next"))
        response = client.response()
        assert response.body == b"hello"
        assert client.response().status == 200


def test_no_body_no_continue(serve):
    with serve(ok).connect() as client:
        response = client.ask(expecting(0))
        assert response.informational == []
        client.assert_open()


@pytest.mark.parametrize("value", [b"", b"100", b"100-continued", b"x-other"])
def test_another_expectation_is_417(serve, value):
    """RFC 9110 §10.1.1: one that cannot be met may be refused, and nobody can meet these."""
    server = serve(echo)
    with server.connect() as client:
        client.send(get("/", b"Expect: " + value, b"Content-Length: 5", method=b"POST"))
        response = client.response()
        assert (response.status, response.one(b"connection")) == (417, b"close")
        client.assert_closed()
    assert [one.status for one in server.take_rejects()] == [417]


def test_behind_another_request(serve):
    """The 100 belongs to its own request: it comes after the response before it."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/slow":
            await go.wait()
        await reply(send, await read_body(receive))

    server = serve(app)
    with server.connect() as client:
        client.send(get("/slow"), expecting(5))
        nothing_comes(client)
        server.call(go.set)
        assert client.response().informational == []
        if CONTINUE not in client.buffered:
            client.buffered = client.read_until(CONTINUE)
        assert client.buffered == CONTINUE
        client.send(b"hello")
        response = client.response()
        assert (response.informational, response.body) == ([100], b"hello")
