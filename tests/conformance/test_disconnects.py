"""The client goes while the app is at work (ASGI HTTP spec, "Disconnect")."""

from __future__ import annotations

import asyncio
import gc

import pytest

from shardserve.errors import ClientDisconnected
from tests.helpers.asgi import body, reply, start
from tests.helpers.http1 import get, post, until

PIECE = b"x" * 65536


@pytest.fixture(params=["close", "reset"])
def leave(request):
    """How the client goes: a FIN (with both directions closed) or a reset."""
    return lambda client: getattr(client, request.param)()


def gone(server) -> None:
    until(lambda: server.factory.connections == 0, "the connection to be lost")


def test_receive_says_so(serve, leave):
    messages = []

    async def app(scope, receive, send):
        while not messages or messages[-1]["type"] != "http.disconnect":
            messages.append(await receive())

    server = serve(app)
    client = server.connect()
    client.send(get())
    until(lambda: messages)
    leave(client)
    until(lambda: server.factory.in_flight == 0)
    assert messages[-1] == {"type": "http.disconnect"}
    gone(server)


def test_send_raises(serve):
    """An OSError, from the first send() after the loss on, before and after the start."""
    seen = []

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        for message in (
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": b"x"},
        ):
            with pytest.raises(ClientDisconnected) as raised:
                await send(message)
            seen.append(raised.value)

    server = serve(app)
    client = server.connect()
    client.send(get())
    until(lambda: server.factory.in_flight == 1)
    client.reset()
    until(lambda: len(seen) == 2)
    assert all(isinstance(error, OSError) for error in seen)
    assert "disconnected" in str(seen[0])


def test_send_raises_in_the_middle_of_a_stream(serve, leave):
    async def app(scope, receive, send):
        await start(send)
        while True:
            await body(send, b"piece", more=True)
            await asyncio.sleep(0.001)

    server = serve(app)
    client = server.connect()
    client.send(get())
    client.read_until(b"piece")
    leave(client)
    report = server.take_error()
    assert type(report.error) is ClientDisconnected
    assert report.outcome == "client gone"
    gone(server)


def test_a_send_that_waits_ends(serve, leave):
    """Suspended for want of room when the client goes: it must not wait for ever."""

    async def app(scope, receive, send):
        await start(send)
        while True:
            await body(send, PIECE, more=True)

    server = serve(app)
    client = server.connect(receive_buffer=8192)
    client.send(get())
    client.read_until(b"x")
    leave(client)
    report = server.take_error()
    assert type(report.error) is ClientDisconnected
    assert report.outcome == "client gone"
    gone(server)


def test_an_app_that_ignores_it_finishes(serve):
    go = asyncio.Event()
    finished = []

    async def app(scope, receive, send):
        await go.wait()
        await asyncio.sleep(0.001)
        finished.append(True)

    server = serve(app)
    client = server.connect()
    client.send(get())
    until(lambda: server.factory.in_flight == 1)
    client.reset()
    gone(server)
    assert server.factory.in_flight == 1
    server.call(go.set)
    until(lambda: finished and server.factory.in_flight == 0)


def test_an_error_of_its_own_after_the_disconnect(serve):
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        raise LookupError("mine")

    server = serve(app)
    client = server.connect()
    client.send(get("/x"))
    until(lambda: server.factory.in_flight == 1)
    client.reset()
    report = server.take_error()
    assert isinstance(report.error, LookupError)
    assert (report.target, report.outcome) == ("/x", "client gone")


def test_an_app_that_answers_a_client_that_went(serve):
    """As most apps do: they never ask, and find out by send()."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        await go.wait()
        await reply(send, b"late")

    server = serve(app)
    client = server.connect()
    client.send(get())
    until(lambda: server.factory.in_flight == 1)
    client.reset()
    gone(server)
    server.call(go.set)
    report = server.take_error()
    assert type(report.error) is ClientDisconnected
    assert report.outcome == "client gone"
    assert server.accesses == []


def test_requests_behind_it_never_run(serve):
    paths = []
    go = asyncio.Event()

    async def app(scope, receive, send):
        paths.append(scope["path"])
        await go.wait()

    server = serve(app)
    client = server.connect()
    client.send(get("/1"), get("/2"), get("/3"))
    until(lambda: paths)
    client.reset()
    gone(server)
    server.call(go.set)
    until(lambda: server.factory.in_flight == 0)
    assert paths == ["/1"]


def test_the_client_goes_in_its_upload(serve, leave):
    messages = []

    async def app(scope, receive, send):
        while not messages or messages[-1]["type"] != "http.disconnect":
            messages.append(await receive())

    server = serve(app)
    client = server.connect()
    client.send(post(b"x" * 1000)[:-500])
    until(lambda: messages)
    leave(client)
    until(lambda: server.factory.in_flight == 0)
    assert messages[-1] == {"type": "http.disconnect"}
    assert all(message.get("more_body", True) for message in messages)


def test_what_the_app_kept_is_dead_but_harmless(serve):
    """send, receive and their awaitables outlive request, connection and a collection."""
    kept = []

    async def app(scope, receive, send):
        kept.append((scope, receive, send, receive()))
        await asyncio.sleep(0)
        kept.append((receive(), send))
        raise LookupError("mine")

    server = serve(app)
    for _ in range(20):
        client = server.connect()
        client.send(get())
        client.reset()
    until(lambda: server.factory.in_flight == 0)
    gone(server)
    gc.collect()

    async def use():
        for one in kept:
            for thing in one:
                if callable(thing):
                    arguments = [] if "Receive" in type(thing).__name__ else [{"type": "http.response.body"}]
                    try:
                        await thing(*arguments)
                    except (RuntimeError, OSError):
                        pass
                elif hasattr(thing, "__await__"):
                    try:
                        await thing
                    except RuntimeError:
                        pass

    server.run(use())
    server.errors.clear()


def test_clients_that_come_and_go(serve):
    """At every point of a response; nothing is left, and the server still answers."""

    async def app(scope, receive, send):
        await asyncio.sleep(0)
        await start(send)
        for _ in range(3):
            await body(send, b"x" * 10_000, more=True)
            await asyncio.sleep(0)
        await body(send)

    server = serve(app)
    for i in range(150):
        client = server.connect()
        client.send(get(), get())
        if i % 3:
            client.receive(1 + i * 200)
        client.reset() if i % 2 else client.close()
    assert server.ask(get()).status == 200
    until(lambda: server.factory.in_flight == 0)
    gone(server)
    assert all(isinstance(report.error, ClientDisconnected) for report in server.errors)
    server.errors.clear()


@pytest.mark.parametrize(
    "behind",
    [get("/next"), get("/next") * 100, post(b"x" * 200_000)[:150_000]],
    ids=["a request", "many requests", "half an upload"],
)
def test_a_client_that_pipelined_and_went(serve, leave, behind):
    """What waits behind a request must not hide from its app that the client is gone."""
    messages = []

    async def app(scope, receive, send):
        messages.append(await receive())
        messages.append(await receive())

    server = serve(app)
    client = server.connect()
    client.send(get())
    until(lambda: messages)
    client.send(behind)
    leave(client)
    # Past a bound reading is paused, and only the tick looks whether the client is still there.
    until(lambda: server.call(server.factory.tick) or len(messages) > 1, "http.disconnect", 5)
    assert messages[1] == {"type": "http.disconnect"}
    until(lambda: server.factory.in_flight == 0)


@pytest.mark.parametrize("begun", ["nothing", "start", "body"])
def test_a_task_in_receive_hears_that_its_app_failed(serve, begun):
    """The request is over: who still waits for its messages gets a disconnect, and does not wait for ever."""
    messages = []

    async def app(scope, receive, send):
        async def listen():
            messages.append(await receive())

        await receive()
        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        if begun != "nothing":
            await start(send)
        if begun == "body":
            await body(send, b"x", more=True)
        assert not task.done()
        raise LookupError("mine")

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        assert client.receive().startswith(b"HTTP/1.1 200" if begun == "body" else b"HTTP/1.1 500")
        until(lambda: messages, "http.disconnect", 1)
    assert messages == [{"type": "http.disconnect"}]
    server.take_error()
