"""receive(): request bodies, and what comes after them."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.helpers.asgi import Everything, Recorder, echo, read_body, reply
from tests.helpers.http1 import chunked, get, post, until

MEBIBYTE = bytes(random.Random(1).randbytes(1 << 20))


def one_request(body: bytes) -> dict:
    return {"type": "http.request", "body": body, "more_body": False}


def receiver(count: int):
    """An app that calls receive() ``count`` times, then answers, and the messages it got."""
    messages = []

    async def app(scope, receive, send):
        for _ in range(count):
            messages.append(await receive())
        await reply(send)

    return app, messages


@pytest.mark.parametrize("request_bytes", [get(), get("/", b"Content-Length: 0", method=b"POST"), chunked()])
def test_an_empty_body_is_one_message(serve, request_bytes):
    app, messages = receiver(1)
    assert serve(app).ask(request_bytes).status == 200
    assert messages == [one_request(b"")]


def test_a_body_in_one_read_is_one_message(serve):
    app, messages = receiver(1)
    serve(app).ask(post(b"hello"))
    assert messages == [one_request(b"hello")]
    assert type(messages[0]["body"]) is bytes


def test_messages_are_the_apps_own(serve):
    """A message that an app changed must not come back to the next request."""
    messages = []

    async def app(scope, receive, send):
        message = await receive()
        messages.append(dict(message))
        message["body"] = b"changed"
        message["more_body"] = "changed"
        message["extra"] = 1
        await reply(send)

    with serve(app).connect() as client:
        for _ in range(3):
            client.ask(get())
    assert messages == [one_request(b"")] * 3


def test_more_body_until_the_last_piece(serve):
    messages = []

    async def app(scope, receive, send):
        while True:
            messages.append(await receive())
            if not messages[-1]["more_body"]:
                break
        await reply(send)

    server = serve(app)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 9", method=b"POST"))
        for i, piece in enumerate((b"one", b"two", b"six")):
            assert len(messages) == i
            client.send(piece)
            until(lambda i=i: len(messages) == i + 1)
        assert client.response().status == 200
    assert messages == [
        {"type": "http.request", "body": b"one", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": True},
        one_request(b"six"),
    ]


def test_chunked_body_with_extensions(serve):
    head = get("/", b"Transfer-Encoding: chunked", method=b"POST")
    body = b'5;a=b;c="d"\r\nhello\r\n6;x\r\n world\r\n000;last\r\n\r\n'
    assert serve(echo).ask(head + body).body == b"hello world"


def test_chunk_sizes_in_any_case_with_leading_zeros(serve):
    head = get("/", b"Transfer-Encoding: Chunked", method=b"POST")
    body = b"00A\r\n0123456789\r\n0b\r\n0123456789a\r\n0\r\n\r\n"
    assert serve(echo).ask(head + body).body == b"01234567890123456789a"


def test_trailers_are_dropped(serve):
    """RFC 9110 §6.5.1: never merged into the fields unless their definition allows it."""
    app = Recorder()
    server = serve(app)
    with server.connect() as client:
        request = chunked(b"body", trailers=b"X-Trailer: 1\r\nDigest: other\r\nX-Trailer: 2\r\n")
        assert client.ask(request).status == 200
        assert client.ask(get("/next")).status == 200
    assert app.bodies == [b"body", b""]
    assert app.scopes[0]["headers"] == [(b"host", b"test"), (b"transfer-encoding", b"chunked")]
    assert app.scopes[1]["headers"] == [(b"host", b"test")]


def test_chunked_body_in_many_reads(serve):
    request = chunked(*[b"piece %d " % i for i in range(50)])
    with serve(echo).connect() as client:
        client.send_each([request[i : i + 7] for i in range(0, len(request), 7)])
        assert client.response().body == b"".join(b"piece %d " % i for i in range(50))


@pytest.mark.parametrize(
    "make", [post, lambda body: chunked(*[body[i : i + 9999] for i in range(0, len(body), 9999)])]
)
def test_a_mebibyte_for_a_slow_reader(serve, make):
    sizes = []

    async def app(scope, receive, send):
        body = b""
        while True:
            await asyncio.sleep(0.001)
            message = await receive()
            sizes.append(len(message["body"]))
            body += message["body"]
            if not message["more_body"]:
                break
        await reply(send, body)

    with serve(app).connect() as client:
        for _ in range(2):
            response = client.ask(make(MEBIBYTE))
            assert response.body == MEBIBYTE
    assert sum(sizes) == 2 << 20
    assert max(sizes) < 1 << 19


def test_a_mebibyte_for_a_reader_that_starts_late(serve):
    async def app(scope, receive, send):
        await asyncio.sleep(0.05)
        await reply(send, await read_body(receive))

    with serve(app).connect() as client:
        client.send(post(MEBIBYTE), get("/next"))
        client.half_close()
        assert client.response().body == MEBIBYTE
        assert client.response().body == b""
        client.assert_closed()


def test_receive_after_the_body_waits_for_the_response_to_end(serve):
    messages = []

    async def app(scope, receive, send):
        await receive()
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await reply(send)
        messages.append(await waiting)
        messages.append(await receive())

    with serve(app).connect() as client:
        client.ask(post(b"x"))
        until(lambda: len(messages) == 2)
    assert messages == [{"type": "http.disconnect"}] * 2


def test_receive_after_the_body_waits_for_the_client_to_go(serve):
    app = Everything()
    with serve(app).connect() as client:
        client.send(post(b"x"))
        until(lambda: app.messages)
        client.close()
        until(lambda: len(app.messages) == 2)
    assert app.messages == [one_request(b"x"), {"type": "http.disconnect"}]


def test_the_whole_body_comes_before_the_disconnect(serve):
    """The client sent everything and went before the app looked."""
    messages = []
    go = asyncio.Event()

    async def app(scope, receive, send):
        await go.wait()
        while not messages or messages[-1]["type"] != "http.disconnect":
            messages.append(await receive())

    server = serve(app)
    client = server.connect()
    client.send(post(b"x" * 1000))
    until(lambda: server.factory.in_flight == 1)
    client.close()
    server.call(go.set)
    until(lambda: len(messages) == 2)
    assert messages == [one_request(b"x" * 1000), {"type": "http.disconnect"}]


def test_half_a_body_then_the_client_goes(serve):
    app = Everything()
    with serve(app).connect() as client:
        client.send(get("/", b"Content-Length: 10", method=b"POST") + b"half")
        until(lambda: app.messages)
        client.close()
        until(lambda: len(app.messages) == 2)
    assert app.messages == [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]


def test_receive_again_and_again_after_the_disconnect(serve):
    messages = []

    async def app(scope, receive, send):
        await reply(send)
        await receive()
        for _ in range(3):
            messages.append(await receive())

    serve(app).ask(get())
    until(lambda: len(messages) == 3)
    assert messages == [{"type": "http.disconnect"}] * 3


def test_two_tasks_wait_in_receive(serve):
    """One gets the body, the other the next thing: never both the same, never one lost."""
    messages = []

    async def app(scope, receive, send):
        async def one():
            messages.append(await receive())

        tasks = [asyncio.create_task(one()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await reply(send)
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    with serve(app).connect() as client:
        client.send(get("/", b"Content-Length: 5", method=b"POST"))
        client.send_each([b"hello"])
        client.response()
        until(lambda: len(messages) == 2)
    assert messages == [one_request(b"hello"), {"type": "http.disconnect"}]


def test_two_tasks_hear_of_one_disconnect(serve):
    messages = []

    async def app(scope, receive, send):
        await receive()
        messages.extend(await asyncio.gather(receive(), receive(), receive()))

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        until(lambda: server.factory.in_flight == 1)
    until(lambda: len(messages) == 3)
    assert messages == [{"type": "http.disconnect"}] * 3


def test_a_cancelled_receive_loses_nothing(serve):
    bodies = []

    async def app(scope, receive, send):
        timeouts = 0
        while True:
            try:
                message = await asyncio.wait_for(receive(), 0.002)
            except TimeoutError:
                timeouts += 1
                continue
            bodies.append(message["body"])
            if not message["more_body"]:
                break
        await reply(send, b"%d" % timeouts)

    pieces = [b"<%d>" % i for i in range(20)]
    with serve(app).connect() as client:
        client.send(get("/", b"Content-Length: %d" % len(b"".join(pieces)), method=b"POST"))
        for piece in pieces:
            client.send_each([piece])
            until(lambda piece=piece: piece in b"".join(bodies))
        assert client.response().status == 200
    assert b"".join(bodies) == b"".join(pieces)


def test_a_receive_cancelled_in_the_turn_its_message_comes_loses_nothing(serve):
    """Both the body and the cancellation wait for the same turn of the loop."""
    bodies = []

    async def app(scope, receive, send):
        more = True
        while more:
            task = asyncio.create_task(receive())
            await asyncio.sleep(0)
            task.cancel()
            try:
                message = await task
            except asyncio.CancelledError:
                continue
            bodies.append(message["body"])
            more = message["more_body"]
        await reply(send)

    with serve(app).connect() as client:
        client.send(get("/", b"Content-Length: 2000", method=b"POST"))
        client.send_each([b"%4d" % i for i in range(500)])
        # Whoever cancels every time gets a message only when it is there at once: send the rest at once.
        assert client.response().status == 200
    assert b"".join(bodies) == b"".join(b"%4d" % i for i in range(500))


def test_receive_and_send_can_be_tasks(serve):
    """They pass for coroutines: create_task, gather and wait_for take them."""

    async def app(scope, receive, send):
        message = await asyncio.create_task(receive())
        await asyncio.create_task(send({"type": "http.response.start", "status": 200, "headers": []}))
        one = {"type": "http.response.body", "body": b"1", "more_body": True}
        await asyncio.gather(send(one), asyncio.ensure_future(send(one)))
        await asyncio.wait_for(send(one), 1)
        assert asyncio.iscoroutine(receive())
        await asyncio.create_task(send({"type": "http.response.body", "body": message["body"]}))

    with serve(app).connect() as client:
        for _ in range(3):
            assert client.ask(post(b"x")).body == b"111x"


def test_receive_called_but_not_awaited(serve):
    """Nothing is taken by the call alone."""
    app_bodies = []

    async def app(scope, receive, send):
        unused = [receive() for _ in range(3)]
        app_bodies.append(await read_body(receive))
        unused[0].close()
        del unused
        await reply(send)

    with serve(app).connect() as client:
        client.ask(post(b"one"))
        client.ask(post(b"two"))
    assert app_bodies == [b"one", b"two"]


def test_an_awaitable_is_used_once(serve):
    seen = []

    async def app(scope, receive, send):
        waiting = receive()
        await waiting
        with pytest.raises(RuntimeError, match="already awaited"):
            await waiting
        seen.append(True)
        await reply(send)

    serve(app).ask(get())
    assert seen


def test_receive_takes_no_arguments(serve):
    seen = []

    async def app(scope, receive, send):
        with pytest.raises(TypeError):
            receive(1)
        with pytest.raises(TypeError):
            send()
        with pytest.raises(TypeError):
            send({}, {})
        seen.append(True)
        await reply(send)

    serve(app).ask(get())
    assert seen


def test_a_kept_receive_is_dead_after_its_request(serve):
    """It must not read the body of a later request on the same connection."""
    kept = []
    messages = []

    async def app(scope, receive, send):
        kept.append((receive, send))
        if scope["path"] == "/2":
            messages.append(await kept[0][0]())
            with pytest.raises(Exception, match=r"completed|over"):
                await kept[0][1]({"type": "http.response.start", "status": 500, "headers": []})
        await reply(send, await read_body(receive))

    with serve(app).connect() as client:
        assert client.ask(post(b"one", target=b"/1")).body == b"one"
        assert client.ask(post(b"two", target=b"/2")).body == b"two"
    assert messages == [{"type": "http.disconnect"}]
