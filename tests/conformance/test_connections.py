"""The life of a connection: keep-alive, pipelining, half-close, Upgrade, time-outs (RFC 9112 §9)."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from tests.helpers.asgi import Recorder, body, echo, ok, read_body, reply, start
from tests.helpers.http1 import chunked, get, post, until


async def path_echo(scope, receive, send) -> None:
    """Answers with path and body; /slow... waits, /turn... waits one turn of the loop."""
    data = await read_body(receive)
    if scope["path"].startswith("/slow"):
        await asyncio.sleep(0.03)
    if scope["path"].startswith("/turn"):
        await asyncio.sleep(0)
    await reply(send, scope["path"].encode() + data)


def test_keep_alive(serve):
    server = serve(path_echo)
    with server.connect() as client:
        for i in range(50):
            assert client.ask(get(b"/%d" % i)).body == b"/%d" % i
    until(lambda: server.factory.served == 50)


@pytest.mark.parametrize("field", [b"Connection: close", b"connection: Close", b"Connection: x, close , y"])
def test_the_client_says_close(serve, field):
    with serve(ok).connect() as client:
        response = client.ask(get("/", field))
        assert response.one(b"connection") == b"close"
        client.assert_closed()


def test_close_in_one_of_two_connection_fields(serve):
    with serve(ok).connect() as client:
        response = client.ask(get("/", b"Connection: keep-alive", b"Connection: close"))
        assert response.one(b"connection") == b"close"
        client.assert_closed()


def test_a_token_like_close_is_not_close(serve):
    with serve(ok).connect() as client:
        assert client.ask(get("/", b"Connection: closed, x-close")).one(b"connection") is None
        client.assert_open()


def test_the_app_says_close(serve):
    async def app(scope, receive, send):
        await reply(send, b"x", headers=[(b"Connection", b"Close"), (b"content-length", b"1")])

    with serve(app).connect() as client:
        assert client.ask(get()).one(b"connection") == b"close"
        client.assert_closed()


def test_connection_fields_of_the_app_do_not_reach_the_wire(serve):
    async def app(scope, receive, send):
        fields = [
            (b"connection", b"keep-alive, x-hop"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Transfer-Encoding", b"gzip, chunked"),
        ]
        await reply(send, b"x", headers=fields)

    with serve(app).connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert sorted(response.names) == [b"content-length", b"date", b"server"]
            assert response.body == b"x"


def test_connection_upgrade_of_the_app_reaches_the_wire(serve):
    """RFC 9110 §15.5.22: a 426 names what to upgrade to, and Upgrade comes with Connection: upgrade."""

    async def app(scope, receive, send):
        await reply(send, b"x", 426, headers=[(b"connection", b"Upgrade"), (b"upgrade", b"h2c")])

    with serve(app).connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert (response.one(b"connection"), response.one(b"upgrade")) == (b"upgrade", b"h2c")


@pytest.mark.parametrize(
    "kinds", [["slow", "fast"], ["turn", "fast", "slow"], ["fast", "slow", "turn", "fast"]]
)
def test_pipelined_requests_are_answered_in_order(serve, kinds):
    paths = [b"/%s%d" % (kind.encode(), i) for i, kind in enumerate(kinds)]
    with serve(path_echo).connect() as client:
        client.send(*[get(path) for path in paths])
        assert [response.body for response in client.responses(len(paths))] == paths
        client.assert_open()


def test_pipelined_requests_run_one_by_one(serve):
    running = []
    peak = []

    async def app(scope, receive, send):
        running.append(scope["path"])
        peak.append(len(running))
        await asyncio.sleep(0.001)
        running.pop()
        await reply(send)

    with serve(app).connect() as client:
        client.send(*[get() for _ in range(10)])
        client.responses(10)
    assert max(peak) == 1


@pytest.mark.parametrize("path", ["/fast", "/turn", "/slow"])
def test_two_hundred_pipelined_requests(serve, path):
    count = 200 if path != "/slow" else 20
    paths = [b"%s%d" % (path.encode(), i) for i in range(count)]
    with serve(path_echo).connect() as client:
        client.send(*[get(path) for path in paths])
        client.half_close()
        assert [response.body for response in client.responses(count)] == paths
        client.assert_closed()


def test_pipelined_behind_bodies(serve):
    """The answer to a body is not given before the next request is parsed, and never mixed up with it."""
    order = random.Random(3)
    requests, bodies = [], []
    for i in range(60):
        data = order.randbytes(order.choice([0, 1, 10, 5000, 20_000, 70_000]))
        requests.append(order.choice([post, chunked])(data) if data else get(b"/"))
        bodies.append(b"/" + data)
        if i % 7 == 0:
            requests[-1] = requests[-1].replace(b" / ", b" /turn ")
            bodies[-1] = b"/turn" + data
    with serve(path_echo).connect() as client:
        client.sock.setblocking(True)
        sender = threading.Thread(target=client.send, args=(b"".join(requests),))
        sender.start()
        for expected in bodies:
            assert client.response().body == expected
        sender.join()


def test_an_app_that_ignores_the_body_before_a_pipelined_request(serve):
    async def app(scope, receive, send):
        await reply(send, scope["path"].encode())

    smuggled = get("/smuggled") * 100
    with serve(app).connect() as client:
        client.send(post(smuggled, target=b"/a"), chunked(smuggled, smuggled, target=b"/b"), get("/c"))
        assert [response.body for response in client.responses(3)] == [b"/a", b"/b", b"/c"]
        client.assert_open()


def test_a_body_that_comes_after_its_response(serve):
    """It is read and dropped; the connection goes on."""
    server = serve(ok)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 100000", method=b"POST"))
        assert client.response().status == 200
        client.send_each([get("/smuggled").ljust(50_000, b"x"), b"y" * 50_000])
        client.assert_open()
        client.assert_open()
    until(lambda: server.factory.served == 3)


@pytest.mark.parametrize("path", ["/fast", "/turn", "/slow"])
def test_nothing_runs_behind_connection_close(serve, path):
    app = Recorder()

    async def waits(scope, receive, send):
        await asyncio.sleep({"/fast": 0, "/turn": 0, "/slow": 0.02}[scope["path"]])
        await app(scope, receive, send)

    server = serve(waits if path != "/fast" else app)
    with server.connect() as client:
        client.send(get(path, b"Connection: close"), get("/no"), b"garbage\r\n\r\n")
        assert client.response().status == 200
        client.assert_closed()
    assert [scope["path"] for scope in app.scopes] == [path]


def test_nothing_runs_behind_a_response_that_closes(serve):
    paths = []

    async def app(scope, receive, send):
        paths.append(scope["path"])
        await reply(send, b"", headers=[(b"connection", b"close")])

    with serve(app).connect() as client:
        client.send(get("/1"), get("/2"))
        client.response()
        client.assert_closed()
    assert paths == ["/1"]


def test_half_close_after_a_request(serve):
    with serve(path_echo).connect() as client:
        client.send(get("/slow"))
        client.half_close()
        response = client.response()
        assert response.body == b"/slow"
        assert response.one(b"connection") == b"close"
        client.assert_closed()


def test_half_close_is_a_disconnect_for_receive_but_send_works(serve):
    messages = []

    async def app(scope, receive, send):
        messages.append(await receive())
        messages.append(await receive())
        await start(send)
        for i in range(3):
            await body(send, b"%d" % i, more=True)
            await asyncio.sleep(0)
        await body(send)

    with serve(app).connect() as client:
        client.send(get())
        until(lambda: messages)
        client.half_close()
        assert client.response().body == b"012"
        client.assert_closed()
    assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]


def test_half_close_while_a_response_streams(serve):
    go = asyncio.Event()

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"one", more=True)
        await go.wait()
        await body(send, b"two")

    server = serve(app)
    with server.connect() as client:
        client.send(get())
        data = client.read_until(b"one")
        client.half_close()
        server.call(go.set)
        client.buffered = data
        assert client.response().body == b"onetwo"
        client.assert_closed()


def test_half_close_at_once_between_requests_and_before_any(serve):
    with serve(ok).connect() as client:
        client.half_close()
        client.assert_closed()
    with serve(ok).connect() as client:
        client.ask(get())
        client.half_close()
        client.assert_closed()


@pytest.mark.parametrize(
    "part", [b"G", b"GET / HTTP/1.1\r\nHost", get()[:-1], get("/", b"Content-Length: 5") + b"hel"]
)
def test_the_client_goes_in_the_middle_of_a_request(serve, part):
    server = serve(Recorder())
    with server.connect() as client:
        client.send(get())
        client.response()
        client.send(part)
        client.half_close()
        try:
            assert client.rest() in (b"",) or b"400" in client.buffered
        except ConnectionResetError:
            pass
    if part.endswith(b"hel"):
        assert isinstance(server.take_error().error, AssertionError)  # the app heard of it


def test_upgrade_is_ignored(serve):
    """RFC 9110 §7.8: a server MAY ignore a received Upgrade."""
    app = Recorder()
    with serve(app).connect() as client:
        upgrade = get("/up", b"Connection: Upgrade", b"Upgrade: h2c, IRC/6.9")
        client.send(upgrade, get("/next"), upgrade)
        assert [response.status for response in client.responses(3)] == [200] * 3
        client.assert_open()
    assert [scope["path"] for scope in app.scopes] == ["/up", "/next", "/up", "/ok"]
    assert (b"upgrade", b"h2c, IRC/6.9") in app.scopes[0]["headers"]


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_upgrade_with_a_body(serve, cut):
    """The body must not be taken for a request."""
    inner = get("/smuggled") + b"x" * cut
    fields = [b"Connection: upgrade", b"Upgrade: h2c"]
    app = Recorder()
    with serve(app).connect() as client:
        request = post(inner, *fields, target=b"/up")
        client.send(request + get("/next"))
        assert [response.status for response in client.responses(2)] == [200] * 2
        client.send_each([request[: -cut or None], request[len(request) - cut :] + get("/next")])
        assert [response.status for response in client.responses(2)] == [200] * 2
    assert [scope["path"] for scope in app.scopes] == ["/up", "/next"] * 2
    assert app.bodies == [inner, b""] * 2


def test_half_close_behind_many_requests(serve):
    """More than a slice of requests, then FIN: every one is answered, the last one with close."""
    with serve(ok).connect() as client:
        client.send(get() * 2000)
        client.half_close()
        responses = client.responses(2000)
        assert [response.status for response in responses] == [200] * 2000
        client.assert_closed()


def test_upgrade_with_a_large_body_nobody_reads(serve):
    with serve(ok).connect() as client:
        request = post(get("/smuggled") * 5000, b"Connection: upgrade", b"Upgrade: h2c")
        client.send(request, get("/next"))
        assert [response.status for response in client.responses(2)] == [200] * 2
        client.assert_open()


def test_upgrade_with_a_chunked_body(serve):
    """Java's HttpClient asks every plain-text server for h2c, with any body."""
    with serve(echo).connect() as client:
        fields = b"Host: test\r\nConnection: Upgrade\r\nUpgrade: h2c"
        request = chunked(b"hello").replace(b"Host: test", fields)
        response = client.ask(request)
        assert (response.status, response.body) == (200, b"hello")


def test_an_upgrade_field_alone_upgrades_nothing(serve):
    with serve(echo).connect() as client:
        assert client.ask(post(b"hello", b"Upgrade: h2c")).body == b"hello"
        client.assert_open()


def tick(server) -> None:
    server.loop.call_soon_threadsafe(server.factory.tick)


def closed_by_ticks(server, client) -> float:
    """Ticks until the connection is closed; how long that took."""
    began = time.monotonic()
    until(lambda: tick(server) or server.factory.connections == 0, "the idle connection to close")
    client.assert_closed()
    return time.monotonic() - began


@pytest.mark.parametrize("requests", [0, 1])
def test_idle_connections_are_closed(serve, requests):
    server = serve(ok, **{"keep_alive_ms" if requests else "first_byte_ms": 200})
    with server.connect() as client:
        for _ in range(requests):
            client.ask(get())
        until(lambda: server.factory.connections == 1)
        assert 0.1 < closed_by_ticks(server, client) < 2


def test_a_request_renews_the_keep_alive_time(serve):
    server = serve(ok, keep_alive_ms=200)
    with server.connect() as client:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            client.ask(get())
            server.call(server.factory.tick)
        assert server.factory.connections == 1


def test_a_running_request_is_not_idle(serve):
    async def app(scope, receive, send):
        await asyncio.sleep(0.3)
        await reply(send)

    server = serve(app, keep_alive_ms=50)
    with server.connect() as client:
        client.send(get())
        end = time.monotonic() + 0.25
        while time.monotonic() < end:
            server.call(server.factory.tick)
        assert client.response().status == 200
        closed_by_ticks(server, client)


def test_a_head_that_never_ends_is_timed_out(serve):
    """Slowloris: a byte now and then keeps nothing alive."""
    server = serve(ok, head_ms=200)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        while not server.rejects:
            tick(server)
            client.send_each([b"x"])
        assert client.response().status == 408
    server.take_rejects()
