"""ASGI over HTTP/2: the scope, bodies both ways, 100 Continue, disconnects.

Rules of this file: what an app sees is compared with what it sees over HTTP/1.1. The client is h2, which has
to accept all of it. The rest of ASGI: test_h2_extensions.py, test_h2_failures.py, test_h2_limits.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shardserve.errors import ClientDisconnected
from tests.helpers.asgi import OFFERED, Everything, Recorder, body, echo, ok, read_body, reply, start
from tests.helpers.files import BLOB
from tests.helpers.h2_judge import DATA, END_STREAM, Stream
from tests.helpers.h2_peer import Client, Host, every_feeding, every_start, every_way
from tests.helpers.h2_wire import Tls, frame, head, pseudo, whole
from tests.helpers.mistakes import BODY, START
from tests.helpers.nghttp2 import needs_nghttp2
from tests.native.drive import Driver, FakeTransport

pytestmark = needs_nghttp2


# The scope


async def over_http1(app: Recorder, request: bytes, tls: bool, **settings: Any) -> dict[str, Any]:
    """The scope of the same request over HTTP/1.1."""
    driver = Driver(app, **settings)
    extra = {"ssl_object": Tls(None)} if tls else {}
    transport = FakeTransport(extra={"socket": None, **extra})
    connection, _ = driver.connect(transport)
    connection.data_received(request)
    for _ in range(20):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    transport.shut()
    driver.factory.close()
    return app.scopes[-1]


TARGETS = [
    b"/", b"/a/b?c=d", b"/?", b"/a%20b", b"/%C3%A9?%C3%A9=%20", b"/%ff%41", b"/a%2Fb", b"/%zz%4", b"/%00x",
    b"//x//y", b"/../x/./y", b"/a?b?c", b"/a;p=1,2?x", b"/a@b", b"/" + b"x" * 8000,
]  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a state": {"state": {"a": 1}},
    "a root path": {"root_path": "/röt"},
    "a scheme": {"scheme": "https"},
    "debug": {"on_debug": lambda info: None},
    "tls": {"tls_info": lambda tls: {"tls_version": tls.version()}},
}


@every_way
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:20])
async def test_the_target(target, start, feeding):
    await same_scope(target, start, feeding)


@every_start
@pytest.mark.parametrize("name", SETTINGS)
async def test_the_scope(name, start):
    await same_scope(b"/a/b?c=d", start, whole, **SETTINGS[name])


async def same_scope(target: bytes, start: str, feeding: Any, **settings: Any) -> None:
    app = Recorder()
    async with Host(app, **settings) as host:
        client = host.connect(start, feeding)
        stream = await client.ask("POST", target, (b"x-a", b"1"), (b"content-length", b"2"), body=b"hi")
        assert stream.status == 200
    request = b"POST " + target + b" HTTP/1.1\r\nHost: test\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nhi"
    expected = await over_http1(app, request, start == "alpn", **settings)
    assert app.scopes[0] == expected | {"http_version": "2"}
    assert list(app.scopes[0]) == list(expected)
    assert app.scopes[0]["extensions"].keys() >= OFFERED.keys()
    for key, value in expected.items():
        assert type(app.scopes[0][key]) is type(value)


async def test_what_an_app_does_to_its_scope_stays_its_own():
    shared: list[int] = []
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append({**scope, "headers": list(scope["headers"]), "extensions": dict(scope["extensions"])})
        seen[-1]["state"] = dict(scope["state"])
        scope["headers"].append((b"x-mine", b"1"))
        scope["extensions"]["x.mine"] = {}
        scope["state"]["new"] = 1
        scope["path"] = "/changed"
        scope["state"]["shared"].append(1)
        await reply(send)

    async with Host(app, state={"shared": shared}) as host:
        client = host.connect()
        for _ in range(3):
            await client.ask()
    assert seen[0] == seen[1] == seen[2]
    assert shared == [1, 1, 1]


async def test_the_access_callable():
    async with Host(ok) as host:
        client = host.connect()
        await client.ask("GET", b"/a%20b?c=%20")
        await client.ask("HEAD")
        assert host.accesses == [
            (("127.0.0.1", 4711), "GET", b"/a%20b?c=%20", "2", 200),
            (("127.0.0.1", 4711), "HEAD", b"/", "2", 200),
        ]


# Request bodies

SIZES = [0, 1, 100, 16383, 16384, 16385, 65535, 65536, 300_000, 2_000_000]


@every_way
@pytest.mark.parametrize("size", SIZES)
async def test_a_body_of_each_size(size, start, feeding):
    """There and back: beyond each window, too."""
    async with Host(echo) as host:
        client = host.connect(start, feeding)
        stream = await client.ask("POST", body=BLOB[:size])
        assert (stream.status, stream.body) == (200, BLOB[:size])


@every_start
@every_feeding
async def test_a_body_as_it_comes(start, feeding):
    """Each piece can be had before the next one is sent; empty DATA are no message."""
    messages: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not messages or messages[-1]["more_body"]:
            messages.append(await receive())
        await reply(send)

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = client.request("POST", end=False)
        for at in range(1, 5):
            client.write(stream, b"%d" % at)
            await client.until(lambda at=at: b"".join(one["body"] for one in messages)[-1:] == b"%d" % at)
            client.raw(frame(DATA, 0, stream.id))
            await client.settle(2)
            assert all(message["more_body"] for message in messages)
        client.write(stream, b"", end=True)
        await client.done(stream)
    assert b"".join(message["body"] for message in messages) == b"1234"
    assert [message["more_body"] for message in messages][-1] is False
    assert {tuple(sorted(message)) for message in messages} == {("body", "more_body", "type")}


async def test_an_app_that_reads_nothing_is_answered_nevertheless():
    """And its client is told to send no more (§8.1): RST_STREAM(NO_ERROR) behind the whole response."""
    async with Host(ok) as host:
        client = host.connect()
        stream = client.request("POST", body=BLOB[:1000], end=False)
        await client.until(lambda: stream.reset is not None)
        assert (stream.status, stream.body, stream.ended, stream.reset) == (200, b"ok", True, 0)
        for _ in range(30):  # far more than the window holds: it is given back
            client.raw(frame(DATA, 0, stream.id, bytes(16384)))
            await client.pong()
        await client.ok()
        assert client.judge.credit[0] >= 30 * 16384


# Response bodies


@every_start
@every_feeding
async def test_a_response_as_it_is_sent(start, feeding):
    step = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for at in range(5):
            await body(send, b"%d" % at, more=True)
            await step.wait()
            step.clear()
        await body(send)

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = client.request()
        for at in range(5):
            await client.until(lambda at=at: stream.body == b"01234"[: at + 1])
            assert not stream.ended
            step.set()
        await client.done(stream)


async def test_a_head_waits_for_the_first_body_message():
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await go.wait()
        await body(send, b"x")

    async with Host(app) as host:
        client = host.connect()
        stream = client.request()
        await client.settle()
        assert stream.status is None
        go.set()
        await client.done(stream)


@pytest.mark.parametrize("start", ["alpn"])
async def test_requests_of_one_read_run_in_order_and_leave_in_one_write(start):
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await reply(send, scope["path"].encode())

    async with Host(app) as host:
        raw = host.raw(start)
        before = raw.transport.writes
        raw.send(*[head(2 * at + 1, pseudo("GET", f"/{at}")) for at in range(50)])
        assert seen == [f"/{at}" for at in range(50)]
        assert raw.transport.writes == before + 1
        assert all(raw.streams[2 * at + 1].body == b"/%d" % at for at in range(50))


async def test_many_streams_at_once():
    """All wait, then all are answered, the last one first."""
    gates: list[asyncio.Event] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        await reply(send, scope["path"].encode() * 100)

    async with Host(app) as host:
        client = host.connect()
        streams = [client.request("GET", f"/{at}") for at in range(128)]
        await client.until(lambda: len(gates) == 128)
        assert host.factory.in_flight == 128
        for at in reversed(range(128)):
            gates[at].set()
            await client.done(streams[at])
            assert streams[at].body == b"/%d" % at * 100
        assert host.factory.in_flight == 0


# Expect: 100-continue (RFC 9110 §10.1.1)

EXPECT = (b"expect", b"100-continue")


@every_start
@every_feeding
async def test_100_continue(start, feeding):
    """When the app first asks for the body, once."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = client.request("POST", "/", EXPECT, end=False)
        await client.settle()
        assert stream.interim == []
        go.set()
        await client.until(lambda: stream.interim)
        assert stream.interim == [(100, [])]
        client.write(stream, b"he")
        await client.settle()
        client.write(stream, b"llo", end=True)
        await client.done(stream)
        assert (stream.body, len(stream.interim)) == (b"hello", 1)


NO_CONTINUE: dict[str, dict[str, Any]] = {"the body is there": {"body": b"hello"}, "there is none": {}}


@pytest.mark.parametrize("name", NO_CONTINUE)
async def test_no_100_where(name):
    async with Host(echo) as host:
        client = host.connect()
        stream = await client.ask("POST", "/", EXPECT, **NO_CONTINUE[name])
        assert (stream.status, stream.interim) == (200, [])


async def test_no_100_for_an_app_that_does_not_read():
    async with Host(ok) as host:
        client = host.connect()
        stream = client.request("POST", "/", EXPECT, end=False)
        await client.done(stream)
        assert (stream.status, stream.interim) == (200, [])


# Disconnects

GONE = {"type": "http.disconnect"}


def cancel(client: Client, stream: Stream) -> None:
    client.reset(stream)


def lose(client: Client, stream: Stream) -> None:
    client.lose()


def lose_with_an_error(client: Client, stream: Stream) -> None:
    client.lose(ConnectionResetError())


def half_close(client: Client, stream: Stream) -> None:
    client.half_close()


def go_away_and_lose(client: Client, stream: Stream) -> None:
    client.go_away()
    client.lose()


LEAVE = [cancel, lose, lose_with_an_error, half_close, go_away_and_lose]
every_leave = pytest.mark.parametrize("leave", LEAVE, ids=lambda leave: leave.__name__)


@every_start
@every_leave
@pytest.mark.parametrize("sent", ["all", "a part"])
async def test_receive_says_so(sent, leave, start):
    app = Everything()
    async with Host(app) as host:
        client = host.connect(start)
        stream = client.request("POST", "/", body=b"hello", end=sent == "all")
        await client.until(lambda: app.messages)
        leave(client, stream)
        await client.until(lambda: host.factory.in_flight == 0)
        assert app.messages[-1] == GONE
        assert app.messages.count(GONE) == 1


@every_start
@every_leave
async def test_send_raises(leave, start):
    """An OSError, before and after the start."""
    seen: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        for message in (START, BODY):
            with pytest.raises(ClientDisconnected) as raised:
                await send(message)
            seen.append(raised.value)

    async with Host(app) as host:
        client = host.connect(start)
        stream = client.request()
        await client.settle()
        leave(client, stream)
        await client.until(lambda: len(seen) == 2)
        assert all(isinstance(error, OSError) for error in seen)


@every_start
@every_leave
async def test_a_send_that_waits_ends(leave, start):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        while True:
            await body(send, bytes(65536), more=True)

    async with Host(app) as host:
        client = host.connect(start, hand=True)
        stream = client.request()
        await client.until(lambda: len(stream.data) == 65535)
        await client.settle()
        leave(client, stream)
        await client.until(lambda: host.factory.in_flight == 0)
        report = host.take_error()
        assert (type(report.error), report.outcome) == (ClientDisconnected, "client gone")


async def test_other_streams_hear_nothing_of_a_reset():
    app = Everything()
    async with Host(app) as host:
        client = host.connect()
        streams = [client.request("POST", body=b"x") for _ in range(10)]
        await client.until(lambda: len(app.messages) == 10)
        for stream in streams[::2]:
            client.reset(stream)
        await client.until(lambda: host.factory.in_flight == 5)
        await client.settle()
        assert app.messages.count(GONE) == 5


async def test_a_goaway_alone_is_no_disconnect():
    """RFC 9113 §6.8: what was begun goes on."""
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        await reply(send, b"%d" % len(messages[0]["body"]))

    async with Host(app) as host:
        raw = host.raw()
        raw.send(raw.request(1, end=False), frame(7, 0, 0, bytes(8)))
        await raw.settle()
        assert messages == []
        raw.send(frame(DATA, END_STREAM, 1, b"hello"))
        await raw.until(lambda: raw.streams[1].ended)
        assert raw.streams[1].body == b"5"


async def test_an_upload_that_is_reset_is_no_whole_body():
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append(await read_body(receive))

    async with Host(app) as host:
        client = host.connect()
        stream = client.request("POST", body=b"hello", end=False)
        await client.settle()
        client.reset(stream)
        await client.until(lambda: host.factory.in_flight == 0)
        assert bodies == []
        assert host.take_error().outcome == "client gone"


async def test_receive_behind_the_response():
    """As over HTTP/1.1: the exchange is over."""
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await reply(send)
        heard.append(await receive())
        heard.append(await receive())

    async with Host(app) as host:
        client = host.connect()
        stream = await client.ask("POST", body=b"x")
        assert stream.status == 200
        await client.until(lambda: len(heard) == 2)
        assert heard == [GONE, GONE]
