"""end_streams(): responses without an end are told that their client is gone, and nobody else is."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.asgi import Everything, body, read_body, reply, start
from tests.helpers.http1 import chunked, get, post, until

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
NDJSON = [(b"content-type", b"application/x-ndjson")]
GONE = {"type": "http.disconnect"}


class Stream:
    """Begins a response without a length, hears of the end of it, says so, and completes it."""

    def __init__(self, headers=EVENTS, *, completes: bool = True) -> None:
        self.headers = headers
        self.completes = completes
        self.messages = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["path"] == "/ok":
            await reply(send)
            return
        self.messages.append(await receive())
        await start(send, headers=self.headers)
        await body(send, b"hello", more=True)
        self.messages.append(await receive())
        await body(send, b" good", more=True)
        await asyncio.sleep(0.01)
        await body(send, b"bye", more=True)
        if self.completes:
            await body(send)


def end_streams(server) -> int:
    return server.call(server.factory.end_streams)


def begin(server, request: bytes = get(), mark: bytes = b"hello"):
    """A connection whose response has begun."""
    client = server.connect()
    client.send(request)
    client.buffered = client.read_until(mark)
    return client


def settled(server) -> None:
    """What the loop had to do is done: the app has asked for its next message."""
    for _ in range(5):
        server.call(lambda: None)


def test_without_any(serve):
    server = serve(Stream())
    assert end_streams(server) == 0
    assert server.ask(get("/ok")).status == 200


def test_a_stream_is_told_and_its_send_works_on(serve):
    app = Stream()
    server = serve(app)
    with begin(server) as client:
        settled(server)
        assert end_streams(server) == 1
        assert client.response().body == b"hello goodbye"
        client.assert_open()
    assert app.messages[1:] == [GONE]
    assert [access.status for access in server.accesses] == [200, 200]


def test_each_is_told_once(serve):
    server = serve(Stream())
    clients = [begin(server) for _ in range(5)]
    settled(server)
    assert end_streams(server) == 5
    assert end_streams(server) == 0
    for client in clients:
        assert client.response().body == b"hello goodbye"
    assert end_streams(server) == 0


def test_it_stays_told(serve):
    """However often the app asks, also when it cancelled the receive() that was told."""
    messages = []
    go = asyncio.Event()

    async def app(scope, receive, send):
        await read_body(receive)
        await start(send, headers=EVENTS)
        await body(send, b"hello", more=True)
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await go.wait()
        for _ in range(3):
            messages.append(await receive())
        await body(send, b".")

    server = serve(app)
    with begin(server) as client:
        settled(server)
        assert end_streams(server) == 1
        server.call(go.set)
        assert client.response().body == b"hello."
    assert messages == [GONE] * 3


def test_one_that_polls_is_told(serve):
    """Starlette's request.is_disconnected() begins a receive() and cancels it."""

    async def app(scope, receive, send):
        await read_body(receive)
        await start(send, headers=EVENTS)
        await body(send, b"hello", more=True)
        while True:
            try:
                assert await asyncio.wait_for(receive(), 0.001) == GONE
            except TimeoutError:
                continue
            break
        await body(send, b"!")

    server = serve(app)
    with begin(server) as client:
        assert end_streams(server) == 1
        assert client.response().body == b"hello!"


def test_http_10_until_close(serve):
    app = Stream()
    server = serve(app)
    with begin(server, get(version=b"1.0")) as client:
        settled(server)
        assert end_streams(server) == 1
        assert client.response().body == b"hello goodbye"
        client.assert_closed()
    assert app.messages[1:] == [GONE]


def test_head(serve):
    """Its response was complete for the client from the start; for the app it is a stream."""
    app = Stream()
    server = serve(app)
    with server.connect() as client:
        client.send(get(method=b"HEAD"))
        assert client.response("HEAD").status == 200
        settled(server)
        assert end_streams(server) == 1
        client.assert_open()
    assert app.messages[1:] == [GONE]


class TestAppsThatLeave:
    """Told that nobody listens, an app may return without the last body message."""

    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    def test_an_event_stream_gets_its_proper_end(self, serve, version):
        server = serve(Stream(completes=False))
        with begin(server, get(version=version)) as client:
            settled(server)
            assert end_streams(server) == 1
            assert client.response().body == b"hello goodbye"
            if version == b"1.1":
                client.assert_open()
            else:
                client.assert_closed()
        until(lambda: server.accesses)
        assert server.accesses[0].status == 200

    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    @pytest.mark.parametrize("headers", [[], NDJSON, [(b"content-type", b"text/event-streams")]])
    def test_anything_else_is_cut_so_that_the_client_can_tell(self, serve, headers, version):
        """Half a download must not look like a whole one."""
        server = serve(Stream(headers, completes=False))
        with begin(server, get(version=version)) as client:
            settled(server)
            assert end_streams(server) == 1
            with pytest.raises(Exception, match=r"without sending complete|reset by peer|peer closed"):
                client.response()
        until(lambda: server.factory.in_flight == 0)

    def test_one_that_fails_is_cut(self, serve):
        async def app(scope, receive, send):
            await read_body(receive)
            await start(send, headers=EVENTS)
            await body(send, b"hello", more=True)
            assert await receive() == GONE
            raise ValueError("no")

        server = serve(app)
        with begin(server) as client:
            settled(server)
            assert end_streams(server) == 1
            assert not client.rest().endswith(b"0\r\n\r\n")
        assert server.take_error().outcome == "connection closed early"

    def test_one_that_did_not_ask_is_at_fault(self, serve):
        go = asyncio.Event()

        async def app(scope, receive, send):
            await read_body(receive)
            await start(send, headers=EVENTS)
            await body(send, b"hello", more=True)
            await go.wait()

        server = serve(app)
        with begin(server) as client:
            assert end_streams(server) == 1
            server.call(go.set)
            assert not client.rest().endswith(b"0\r\n\r\n")
        assert "without completing" in str(server.take_error().error)


class TestWhoIsNotTold:
    def waits(self, serve, before):
        """An app that did ``before(send)`` waits in receive() through an end_streams(); then it completes."""
        go = asyncio.Event()
        state = []

        async def app(scope, receive, send):
            await read_body(receive)
            await before(send)
            waiting = asyncio.ensure_future(receive())
            state.append("waits")
            await go.wait()
            state.append("told" if waiting.done() else "not told")
            waiting.cancel()
            if before is nothing:
                await start(send)
            await body(send, b"12345")

        server = serve(app)
        with server.connect() as client:
            client.send(get())
            until(lambda: state)
            settled(server)
            told = end_streams(server)
            settled(server)
            server.call(go.set)
            response = client.response()
        assert (told, state) == (0, ["waits", "not told"])
        return response

    def test_a_response_that_has_not_started(self, serve):
        """Frameworks cancel the view of a client that is gone."""
        assert self.waits(serve, nothing).body == b"12345"

    def test_a_response_with_a_length(self, serve):
        async def before(send):
            await start(send, headers=[(b"content-length", b"10"), *EVENTS])
            await body(send, b"12345", more=True)

        assert self.waits(serve, before).body == b"1234512345"

    def test_a_response_whose_framing_is_open(self, serve):
        """Its first body message may be its last: an ordinary response, between its two messages."""

        async def before(send):
            await start(send)

        assert self.waits(serve, before).one(b"content-length") == b"5"

    def test_a_response_that_is_complete(self, serve):
        """That receive() says so anyway; it is not told again."""
        go = asyncio.Event()

        async def app(scope, receive, send):
            await reply(send)
            await go.wait()

        server = serve(app)
        with server.connect() as client:
            client.ask(get())
            assert end_streams(server) == 0
            server.call(go.set)

    def test_a_client_that_has_gone_already(self, serve):
        go = asyncio.Event()
        app = Everything()

        async def stream(scope, receive, send):
            await start(send)
            await body(send, b"hello", more=True)
            await app(scope, receive, send)
            await go.wait()

        server = serve(stream)
        begin(server).close()
        until(lambda: app.messages and app.messages[-1] == GONE)
        assert end_streams(server) == 0
        server.call(go.set)


async def nothing(send) -> None:
    """No response has started."""


def test_an_event_stream_before_its_first_event_is_told(serve):
    """Its head is still held back. The client gets it, not a broken connection."""

    async def app(scope, receive, send):
        await read_body(receive)
        await start(send, headers=EVENTS)
        assert await receive() == GONE

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        until(lambda: server.factory.in_flight == 1)
        settled(server)
        assert end_streams(server) == 1
        response = client.response()
        assert (response.status, response.body) == (200, b"")
        assert response.one(b"content-type") == EVENTS[0][1]


class TestUnreadBodies:
    """The body comes first: an upload that is being answered as it comes loses nothing."""

    @pytest.mark.parametrize("whole", [post(b"0123456789"), chunked(b"01234", b"56789")])
    @pytest.mark.parametrize("there", ["all", "half", "none"])
    def test_they_are_read_first(self, serve, whole, there):
        messages = []
        go = asyncio.Event()

        async def app(scope, receive, send):
            await start(send, headers=EVENTS)
            await body(send, b"hello", more=True)
            await go.wait()
            while not messages or messages[-1] != GONE:
                messages.append(await receive())
            await body(send, b".")

        server = serve(app)
        head = whole.index(b"\r\n\r\n") + 4
        cut = {"all": len(whole), "half": len(whole) - 9, "none": head}[there]
        with begin(server, whole[:cut]) as client:
            assert end_streams(server) == 0
            server.call(go.set)
            if there != "all":
                settled(server)
                assert GONE not in messages
            client.send(whole[cut:])
            assert client.response().body == b"hello."
        assert b"".join(message["body"] for message in messages[:-1]) == b"0123456789"
        assert messages[-1] == GONE

    def test_a_body_that_was_never_asked_for(self, serve):
        """The first receive() is the request, empty as it is."""
        messages = []
        go = asyncio.Event()

        async def app(scope, receive, send):
            await start(send, headers=EVENTS)
            await body(send, b"hello", more=True)
            await go.wait()
            messages.extend([await receive(), await receive()])
            await body(send)

        server = serve(app)
        with begin(server) as client:
            assert end_streams(server) == 0
            server.call(go.set)
            assert client.response().body == b"hello"
        assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]


class TestAfterTheCall:
    """Who comes to qualify later is told then."""

    def test_a_stream_that_begins_later(self, serve):
        app = Stream()
        server = serve(app)
        assert end_streams(server) == 0
        with server.connect() as client:
            assert client.ask(get()).body == b"hello goodbye"
            client.assert_open()
        assert app.messages[1:] == [GONE]

    @pytest.mark.parametrize("headers", [EVENTS, NDJSON])
    def test_one_that_waits_already_when_its_response_begins(self, serve, headers):
        """Its receive() began before there was anything to tell."""
        go = asyncio.Event()
        told = []

        async def app(scope, receive, send):
            await read_body(receive)
            waiting = asyncio.ensure_future(receive())
            await go.wait()
            assert not waiting.done()
            await start(send, headers=headers)
            await body(send, b"hello", more=True)
            told.append(await waiting)
            await body(send, b".")

        server = serve(app)
        with server.connect() as client:
            client.send(get())
            until(lambda: server.factory.in_flight == 1)
            settled(server)
            assert end_streams(server) == 0
            server.call(go.set)
            assert client.response().body == b"hello."
        assert told == [GONE]

    def test_an_event_stream_that_waits_already_when_it_starts(self, serve):
        async def app(scope, receive, send):
            await read_body(receive)
            waiting = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            await start(send, headers=EVENTS)
            assert await waiting == GONE

        server = serve(app)
        end_streams(server)
        assert server.ask(get()).status == 200

    def test_ordinary_requests_are_served(self, serve):
        async def app(scope, receive, send):
            await reply(send, await read_body(receive))

        server = serve(app)
        end_streams(server)
        with server.connect() as client:
            for _ in range(3):
                assert client.ask(post(b"abc")).body == b"abc"


def test_with_a_drain(serve):
    """What it is for: the drain ends by itself."""
    done = []
    server = serve(Stream(completes=False))
    with begin(server) as client, server.connect() as idle:
        idle.ask(get("/ok"))
        server.call(lambda: server.factory.drain(lambda: done.append(1)))
        idle.assert_closed()
        assert done == []
        assert end_streams(server) == 1
        assert client.response().body == b"hello goodbye"
        client.sock.settimeout(2)
        client.assert_closed()
        until(lambda: done)
