"""ASGI over HTTP/2: the scope, bodies both ways, extensions, disconnects, failures and limits.

Rules of this file: what an app sees is compared with what it sees over HTTP/1.1, and what it may do wrong is
the table of test_app_mistakes.py. The client is h2, which has to accept all of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes

from shardserve.errors import ApplicationError, BodyLengthError, ClientDisconnected, MessageError
from tests.conformance.test_app_mistakes import BAD_BYTES, BEFORE_THE_WIRE
from tests.helpers.asgi import OFFERED, Everything, Recorder, body, echo, ok, read_body, reply, start
from tests.helpers.files import BLOB, PATHSEND, ZEROCOPYSEND, descriptors, file, kind, send_file
from tests.helpers.h2_judge import ACK, DATA, END_STREAM, PING, Stream
from tests.helpers.h2_peer import Client, Host, every_feeding, every_start, every_way, needs_nghttp2
from tests.helpers.h2_wire import Tls, frame, head, pseudo, whole
from tests.helpers.mistakes import BODY, START, mistaken
from tests.helpers.pauses import one_turn
from tests.native.drive import Driver, FakeTransport

pytestmark = needs_nghttp2
__all__ = ["file", "kind"]  # fixtures

STYLE = b"</style.css>; rel=preload; as=style"
HINT = "http.response.early_hint"
TRAILERS = "http.response.trailers"


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


# Extensions


@every_start
@every_feeding
async def test_early_hints(start, feeding):
    """RFC 8297: they leave before the response is known."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": HINT, "links": [STYLE, b"</b.js>; rel=preload"]})
        await go.wait()
        await send({"type": HINT, "links": [STYLE]})
        await reply(send)

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = client.request()
        await client.until(lambda: stream.interim)
        assert stream.interim == [(103, [(b"link", STYLE), (b"link", b"</b.js>; rel=preload")])]
        go.set()
        await client.done(stream)
        assert [status for status, _ in stream.interim] == [103, 103]
        assert (stream.status, stream.body) == (200, b"ok")


@every_way
@pytest.mark.parametrize("pieces", [[b"hello"], [b"he", b"llo"], [b""], [BLOB[:300_000]]], ids=len)
async def test_trailers(pieces, start, feeding):
    """Nobody has to say TE for them (RFC 9113 §8.1)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begin = {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")]}
        await send({**begin, "trailers": True})
        for at, piece in enumerate(pieces):
            await body(send, piece, more=at < len(pieces) - 1)
        await send({"type": TRAILERS, "headers": [(b"X-Sum", b"42")], "more_trailers": True})
        await send({"type": TRAILERS, "headers": [(b"grpc-status", b"0")]})

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = await client.ask()
        assert stream.body == b"".join(pieces)
        assert stream.trailers == [(b"x-sum", b"42"), (b"grpc-status", b"0")]


@pytest.mark.parametrize(
    "bad", [(b"content-length", b"1"), (b"x y", b"1"), (b"x-a", b"1\r\n"), (b":status", b"200")]
)
async def test_trailers_that_are_none(bad):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await body(send, b"x")
        await send({"type": TRAILERS, "headers": [bad]})

    async with Host(app) as host:
        client = host.connect()
        stream = client.request()
        await client.done(stream)
        assert (stream.trailers, stream.ended) == (None, False)
        assert stream.reset == ErrorCodes.INTERNAL_ERROR
        assert isinstance(host.take_error().error, ApplicationError)


@every_way
@pytest.mark.parametrize("size", [0, 1, 16384, 65535, 65536, 1_000_000])
async def test_files(size, file, kind, start, feeding):
    path = file(size)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send_file(send, kind, path)

    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = await client.ask()
        assert (stream.status, stream.body, stream.one(b"content-length")) == (200, BLOB[:size], b"%d" % size)
        head_only = await client.ask("HEAD")
        assert (head_only.status, head_only.body, head_only.ended) == (200, b"", True)
        await client.until(lambda: descriptors(path) == 0)


async def test_files_and_bodies_mixed(file):
    path = file(100_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"first", more=True)
        with path.open("rb") as opened:
            await send(
                {"type": ZEROCOPYSEND, "file": opened, "offset": 5, "count": 70_000, "more_body": True}
            )
        await body(send, b"last")

    async with Host(app) as host:
        stream = await host.connect().ask()
        assert stream.body == b"first" + BLOB[5:70_005] + b"last"
    assert descriptors(path) == 0


async def test_a_client_that_cancels_a_file(file):
    path = file()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": PATHSEND, "path": str(path)})

    async with Host(app) as host:
        client = host.connect(hand=True)
        stream = client.request()
        await client.until(lambda: stream.data)
        client.reset(stream)
        await client.until(lambda: host.factory.in_flight == 0)
        assert descriptors(path) == 0
        host.errors.clear()
        client.hand = False
        client.open(1 << 20)
        assert (await client.ask()).body == BLOB


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


# Apps that fail


async def gets_500(app: Any) -> BaseException:
    """The client gets one whole 500, and the connection lives."""
    async with Host(app) as host:
        client = host.connect()
        stream = await client.ask("GET", "/wrong?x=1")
        assert (stream.status, stream.body, stream.ended) == (500, b"Internal Server Error", True)
        assert stream.one(b"content-length") == b"21"
        await client.ok()
        report = host.take_error()
        assert (report.method, report.target, report.outcome) == ("GET", "/wrong?x=1", "500 sent")
        assert [access.status for access in host.accesses] == [500, 200]
        return report.error


async def is_cut(app: Any, data: bytes) -> BaseException:
    """The client gets what was sent, and can tell that it is not all: RST_STREAM(INTERNAL_ERROR)."""
    async with Host(app) as host:
        client = host.connect()
        stream = await client.ask("GET", "/wrong")
        assert (stream.status, stream.body, stream.ended) == (200, data, False)
        assert stream.reset == ErrorCodes.INTERNAL_ERROR
        await client.ok()
        report = host.take_error()
        assert report.outcome == "connection closed early"
        return report.error


@pytest.mark.parametrize("name", BEFORE_THE_WIRE)
async def test_a_mistake_before_anything_is_on_the_wire(name):
    messages, kind_of_error, words = BEFORE_THE_WIRE[name]
    error = await gets_500(mistaken(*messages))
    assert type(error) is kind_of_error
    assert all(word in str(error) for word in words)


@pytest.mark.parametrize("bad", BAD_BYTES)
@pytest.mark.parametrize("place", ["name", "value"])
async def test_nothing_is_injected_through_a_header(bad, place):
    field = (b"x-a" + bad, b"1") if place == "name" else (b"x-a", b"1" + bad + b"2")
    error = await gets_500(mistaken({**START, "headers": [field]}))
    assert isinstance(error, ApplicationError)


@pytest.mark.parametrize("name", [b":status", b":path", b":authority", b":", b""])
async def test_a_pseudo_header_field_is_no_field(name):
    assert isinstance(await gets_500(mistaken({**START, "headers": [(name, b"200")]})), ApplicationError)


@pytest.mark.parametrize("messages", [[], [START]], ids=["before the start", "behind the start"])
@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), None], ids=repr)
async def test_an_app_that_fails(messages, error, turn):
    """Or that returns without having done its work."""
    found = await gets_500(failing(messages, error, turn))
    assert type(found) is (MessageError if error is None else type(error))


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), None], ids=repr)
async def test_an_app_that_fails_behind_a_part_of_the_body(error, pause):
    app = failing([START, {**BODY, "more_body": True}], error, pause)
    found = await is_cut(app, b"x")
    assert type(found) is (MessageError if error is None else type(error))


def failing(messages: list[Any], error: BaseException | None, pause: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/ok":
            await reply(send)
            return
        for message in messages:
            await send(message)
        await pause()
        if error is not None:
            raise error

    return app


async def test_a_body_shorter_than_its_length():
    begin = {**START, "headers": [(b"content-length", b"5")]}
    app = mistaken(begin, {**BODY, "body": b"four", "more_body": True}, {**BODY, "body": b""}, turn=one_turn)
    assert type(await is_cut(app, b"four")) is BodyLengthError


async def test_an_error_behind_the_whole_response_is_only_logged():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send)
        raise ValueError("late")

    async with Host(app) as host:
        stream = await host.connect().ask()
        assert (stream.status, stream.body, stream.ended, stream.reset) == (200, b"ok", True, None)
        assert host.take_error().outcome == "response already sent"


async def test_an_app_that_answers_twice():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send)
        with pytest.raises(MessageError):
            await send(START)

    async with Host(app) as host:
        assert (await host.connect().ask()).body == b"ok"


# Limits: each answer is a response on its stream, and the connection lives


async def limited(status: int, settings: dict[str, Any], *args: Any, **how: Any) -> None:
    app = Recorder()
    async with Host(app, **settings) as host:
        client = host.connect()
        stream = await client.ask(*args, **how)
        assert (stream.status, stream.ended) == (status, True)
        await client.ok()
        assert [scope["path"] for scope in app.scopes] == ["/ok"]
        assert [reject.status for reject in host.take_rejects()] == [status]
        assert [access.status for access in host.accesses] == [200]  # as over HTTP/1.1


LIMITS: dict[str, Any] = {
    "the path": (414, {"limit_request_line": 40}, ("GET", "/" + "x" * 60), {}),
    "the number of fields": (
        431, {"limit_request_fields": 5}, ("GET", "/", *[(b"x-a", b"1")] * 6), {},
    ),
    "one field": (431, {"limit_request_field_size": 100}, ("GET", "/", (b"x-a", b"1" * 100)), {}),
    "all fields": (
        431, {"http2_max_header_list_size": 1000}, ("GET", "/", *[(b"x-a", b"1" * 50)] * 12), {},
    ),
    "a body that says its length": (
        413, {"limit_request_body": 10}, ("POST", "/", (b"content-length", b"11")), {"body": b"x" * 11},
    ),
    "an expectation": (417, {}, ("GET", "/", (b"expect", b"miracles")), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
async def test_beyond_a_limit(name):
    status, settings, args, how = LIMITS[name]
    await limited(status, settings, *args, **how)


EXACT: dict[str, Any] = {
    "the path": ({"limit_request_line": 61}, ("GET", "/" + "x" * 60), {}),
    "the number of fields": ({"limit_request_fields": 6}, ("GET", "/", *[(b"x-a", b"1")] * 5), {}),
    "a body": ({"limit_request_body": 10}, ("POST", "/"), {"body": b"x" * 10}),
    "all fields": (
        # RFC 9113 §10.5.1: name, value and 32 of each, pseudo-header fields too
        {"http2_max_header_list_size": 42 + 44 + 38 + 46 + 35}, ("GET", "/", (b"x-a", b"")), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
async def test_at_a_limit(name):
    settings, args, how = EXACT[name]
    async with Host(Recorder(), **settings) as host:
        assert (await host.connect().ask(*args, **how)).status == 200


@every_start
async def test_a_body_that_grows_beyond_its_limit(start):
    """The app that reads it hears of a disconnect; the client gets 413, and is told to stop."""
    app = Everything()
    async with Host(app, limit_request_body=1000) as host:
        client = host.connect(start)
        stream = client.request("POST", body=bytes(900), end=False)
        await client.until(lambda: app.messages)
        client.write(stream, bytes(101))
        await client.until(lambda: stream.reset is not None)
        assert (stream.status, stream.ended, stream.reset) == (413, True, ErrorCodes.NO_ERROR)
        await client.until(lambda: host.factory.in_flight == 0)
        assert app.messages[-1] == GONE
        assert sum(len(message.get("body", b"")) for message in app.messages) <= 1000
        await client.pong()
        assert [reject.status for reject in host.take_rejects()] == [413]


async def test_more_than_may_run_at_once():
    """503 with Retry-After in the app's place; over HTTP/2, too, N admits N."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send)

    async with Host(app, limit_concurrency=3) as host:
        client = host.connect()
        streams = [client.request() for _ in range(3)]
        beyond = await client.ask("POST", body=b"x")
        assert (beyond.status, beyond.one(b"retry-after")) == (503, b"1")
        go.set()
        for stream in streams:
            assert (await client.done(stream)).status == 200
        assert [reject.status for reject in host.take_rejects()] == [503]
        assert (await client.ask()).status == 200


async def test_a_connections_last_request():
    """limit_keep_alive_requests: GOAWAY, and what was begun is answered."""
    async with Host(ok, limit_keep_alive_requests=3) as host:
        client = host.connect()
        for _ in range(3):
            assert (await client.ask()).status == 200
        await client.until(lambda: client.closed, "the end behind the last answer")
        assert client.goaway == (5, ErrorCodes.NO_ERROR)


async def test_a_drain_lets_every_stream_finish():
    """§6.8: what is open, and what crosses it, is answered; with the last of them comes the GOAWAY."""
    go = asyncio.Event()
    emptied: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send)

    async with Host(app) as host:
        client = host.connect()
        first = client.request()
        await client.settle()
        host.factory.drain(lambda: emptied.append(True), grace_ms=5000)
        crossing = client.request()  # it has not heard yet
        await client.settle()
        go.set()
        for stream in (first, crossing):
            assert (await client.done(stream)).status == 200
        await client.until(lambda: client.closed)
        client.half_close()
        await client.until(lambda: emptied)
        assert client.goaway == (crossing.id, ErrorCodes.NO_ERROR)


async def test_a_drain_of_a_connection_that_is_idle():
    """§6.8: one GOAWAY, which names the last stream, and the end; what crosses it is not looked at."""
    emptied: list[bool] = []
    app = Recorder()
    async with Host(app) as host:
        raw = host.raw()
        raw.send(head(1, pseudo()))
        await raw.until(lambda: raw.streams[1].ended)
        host.factory.drain(lambda: emptied.append(True), grace_ms=5000)
        raw.send(head(3, pseudo("GET", "/late")))
        await raw.until(lambda: raw.closed)
        assert raw.judge.goaways == [(1, ErrorCodes.NO_ERROR, b"")]
        assert [scope["path"] for scope in app.scopes] == ["/"]
        raw.half_close()
        await raw.until(lambda: emptied)


async def test_a_drain_whose_grace_is_over():
    """§6.8: where streams are still open, a notice that allows every one, and a PING; at its answer the
    GOAWAY that names the last. What came before that is answered.
    """
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send)

    async with Host(app) as host:
        raw = host.raw()
        raw.send(head(1, pseudo()))
        await raw.settle()
        host.factory.drain(lambda: None, grace_ms=0)
        await raw.until(lambda: raw.judge.pings)
        assert raw.goaway == (2**31 - 1, ErrorCodes.NO_ERROR)
        raw.send(head(3, pseudo()), frame(PING, ACK, 0, raw.judge.pings[0]))
        await raw.until(lambda: raw.goaway == (3, ErrorCodes.NO_ERROR))
        raw.send(head(5, pseudo()))
        go.set()
        await raw.until(lambda: raw.closed)
        assert [raw.streams[id_].status for id_ in (1, 3, 5)] == [200, 200, None]


async def test_streams_behind_the_last_goaway_are_not_looked_at():
    """§6.8: the client knows that it may ask again elsewhere."""
    app = Recorder()
    async with Host(app) as host:
        raw = host.raw()
        raw.send(raw.request(1, end=False))
        await raw.settle()
        host.factory.drain(lambda: None, grace_ms=0)
        await raw.settle()
        raw.send(frame(DATA, END_STREAM, 1, b"x"))
        await raw.until(lambda: raw.goaway == (1, ErrorCodes.NO_ERROR))
        if not raw.closed:
            raw.send(head(3, pseudo("GET", "/late")))
        await raw.until(lambda: raw.closed)
        assert [scope["path"] for scope in app.scopes] == ["/"]
