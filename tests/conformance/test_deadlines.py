"""Each deadline, in process: who is cut, with what answer, and above all who is not.

Rules of this file: lengths are milliseconds, so that a test need not wait. Where somebody must be cut, the
server ticks by itself (``serve_ticking``) and the test waits. Where somebody must *not* be cut, the test
ticks, each time after the client has done its part: however busy the machine is, nobody is late then. No test
says how fast anything is.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.helpers.asgi import Everything, body, echo, ok, read_body, reply, start
from tests.helpers.http1 import PATIENCE_S, Client, Server, chunked, get, until
from tests.helpers.refusals import cut_off, is_refusal, rejected

SHORT_MS = 150
SHORT_S = SHORT_MS / 1000
LONG_MS = 60_000
TICK_S = 0.005
MEBIBYTE = 1 << 20
# So many windows or deadlines, for what must outlive them.
MANY = 5


@pytest.fixture
def serve_ticking(serve) -> Iterator[Callable[..., Server]]:
    """Servers whose deadlines are enforced all the time."""
    timers: list[tuple[Server, list[asyncio.TimerHandle]]] = []

    def start_ticking(app, **settings) -> Server:
        server = serve(app, **settings)
        timer: list[asyncio.TimerHandle] = []

        def turn() -> None:
            timer[:] = [server.loop.call_later(TICK_S, turn)]
            server.factory.tick()

        server.call(turn)
        timers.append((server, timer))
        return server

    yield start_ticking
    for server, timer in timers:
        server.call(lambda timer=timer: timer[0].cancel())


def tick(server: Server) -> None:
    server.call(server.factory.tick)


def settle(server: Server) -> None:
    """The loop has gone round, so what was sent before has been read."""
    for _ in range(3):
        server.call(lambda: None)


def ticks_for(server: Server, seconds: float) -> None:
    """Time goes by, and the deadlines are enforced throughout."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tick(server)
        time.sleep(TICK_S)


def drip(client: Client, pieces: Iterable[bytes], every_s: float = 0.01) -> bytes:
    """One piece after the other until the server ends the connection; what it said."""
    client.sock.settimeout(every_s)
    end = time.monotonic() + PATIENCE_S
    said = b""
    for piece in pieces:
        assert time.monotonic() < end, "the drips keep the connection"
        try:
            client.sock.send(piece)
            data = client.receive()
        except TimeoutError:
            continue
        except OSError:  # closed without an answer, and then a drip came
            return said
        if not data:
            return said
        said += data
    raise AssertionError("nothing to drip is left")


def dripped(server: Server, client: Client, pieces: Iterable[bytes], status: int, before: int = 0) -> None:
    """The drips end in this refusal."""
    client.buffered = drip(client, pieces)
    client.sock.settimeout(PATIENCE_S)
    for _ in range(before):
        assert client.response().status == 200
    response = client.response()
    is_refusal(response, status)
    assert client.buffered == b""
    (reject,) = server.take_rejects()
    assert (reject.status, reject.reason) == (status, response.body.decode())


# A connection that says nothing


def test_a_silent_connection_is_closed_without_an_answer(serve_ticking):
    """And without a word: nobody did anything wrong."""
    server = serve_ticking(ok, first_byte_ms=SHORT_MS)
    with server.connect() as client:
        client.assert_closed()
    assert server.rejects == []


def test_empty_lines_are_no_first_byte(serve_ticking):
    """RFC 9112 §2.2 lets a client send some; they are no request, and move no deadline."""
    server = serve_ticking(ok, first_byte_ms=SHORT_MS, head_ms=LONG_MS, keep_alive_ms=LONG_MS)
    with server.connect() as client:
        assert drip(client, itertools.repeat(b"\r\n")) == b""
    with server.connect() as client:
        assert drip(client, itertools.cycle([b"\r", b"\n"])) == b""
    assert server.rejects == []


def test_empty_lines_keep_no_idle_connection(serve_ticking):
    server = serve_ticking(ok, first_byte_ms=LONG_MS, head_ms=LONG_MS, keep_alive_ms=SHORT_MS)
    with server.connect() as client:
        client.ask(get())
        assert drip(client, itertools.repeat(b"\r\n")) == b""
    assert server.rejects == []


def test_the_first_byte_ends_the_wait_for_it(serve):
    server = serve(ok, first_byte_ms=SHORT_MS, head_ms=LONG_MS)
    with server.connect() as client:
        client.send(b"G")
        settle(server)
        ticks_for(server, MANY * SHORT_S)
        client.send(get()[1:])
        assert client.response().status == 200


def test_an_idle_connection_waits_for_its_own_time(serve):
    """The time for the first byte is that of new connections."""
    server = serve(ok, first_byte_ms=SHORT_MS, keep_alive_ms=LONG_MS)
    with server.connect() as client:
        client.ask(get())
        ticks_for(server, MANY * SHORT_S)
        client.assert_open()


def test_a_connection_that_is_still_being_answered_is_not_idle(serve):
    """Its response is complete, but it takes the client longer than that to take it."""
    size = 8 * MEBIBYTE

    async def app(scope, receive, send):
        await reply(send, b"x" * size)

    server = serve(app, keep_alive_ms=SHORT_MS)
    with server.connect(receive_buffer=65536) as client:
        client.send(get())
        for _ in range(MANY):
            client.buffered += client.receive()
            ticks_for(server, SHORT_S)
        assert len(client.response().body) == size
        assert len(client.ask(get("/next")).body) == size


# The head of a request

PARTS = {
    "one byte": b"G",
    "half a line": b"GET /path",
    "a line": b"GET / HTTP/1.1\r\n",
    "a line and a CR": b"GET / HTTP/1.1\r",
    "a field": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "half a field": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ",
    "all but a byte": get()[:-1],
    "empty lines and a part": b"\r\n\r\nGET / HTTP/1.1\r\n",
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("before", [0, 1])
def test_a_head_that_does_not_go_on(serve_ticking, part, before):
    server = serve_ticking(ok, head_ms=SHORT_MS, first_byte_ms=LONG_MS, keep_alive_ms=LONG_MS)
    with server.connect() as client:
        for _ in range(before):
            assert client.ask(get()).status == 200
        client.send(PARTS[part])
        rejected(server, client, 408)


DRIPS = {
    "fields": lambda: itertools.chain([b"GET / HTTP/1.1\r\n"], itertools.repeat(b"X-A: 1\r\n")),
    "a value": lambda: itertools.chain([b"GET / HTTP/1.1\r\nX-A: "], itertools.repeat(b"x")),
    "a name": lambda: itertools.chain([b"GET / HTTP/1.1\r\nX"], itertools.repeat(b"x")),
    "a target": lambda: itertools.chain([b"GET /"], itertools.repeat(b"x")),
    "behind empty lines": lambda: itertools.chain([b"\r\n"] * 3, [b"GET /"], itertools.repeat(b"x")),
}


@pytest.mark.parametrize("name", DRIPS)
@pytest.mark.parametrize("before", [b"", get()], ids=["first", "second"])
def test_a_head_that_drips(serve_ticking, name, before):
    """Its time is absolute: no byte renews it."""
    server = serve_ticking(ok, head_ms=SHORT_MS, first_byte_ms=LONG_MS, keep_alive_ms=LONG_MS)
    with server.connect() as client:
        dripped(server, client, itertools.chain([before], DRIPS[name]()), 408, before=bool(before))
    assert server.factory.served == bool(before)


def test_its_time_begins_with_its_first_byte(serve):
    """Not with the connection, nor with the empty lines before it."""
    server = serve(ok, head_ms=SHORT_MS, first_byte_ms=LONG_MS, keep_alive_ms=LONG_MS)
    with server.connect() as client:
        client.send(b"\r\n")
        ticks_for(server, 2 * SHORT_S)
        client.assert_open()
        client.send(b"\r\n")
        ticks_for(server, 2 * SHORT_S)
        client.assert_open()


def test_its_time_ends_with_the_head(serve_ticking):
    """A request that is answered slowly, or a body that takes its time, are no slow heads."""

    async def app(scope, receive, send):
        await asyncio.sleep(MANY * SHORT_S)
        await reply(send, await read_body(receive))

    server = serve_ticking(app, head_ms=SHORT_MS, body_window_ms=LONG_MS, body_min_rate=1)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 2", method=b"POST") + b"x")
        time.sleep(2 * SHORT_S)
        client.send(b"y")
        assert client.response().body == b"xy"


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost"])
def test_a_part_behind_a_request_that_takes_long(serve_ticking, part):
    """The request before it is answered, whole; then comes the refusal."""

    async def app(scope, receive, send):
        await start(send)
        for number in range(MANY):
            await asyncio.sleep(SHORT_S)
            await body(send, b"%d" % number, more=True)
        await body(send)

    server = serve_ticking(app, head_ms=SHORT_MS, keep_alive_ms=LONG_MS)
    with server.connect() as client:
        client.send(get() + part)
        assert client.response().body == b"01234"
        rejected(server, client, 408)


def test_nothing_behind_a_late_head_is_executed(serve):
    server = serve(ok, head_ms=SHORT_MS)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        until(lambda: server.factory.connections == 1)
        until(lambda: tick(server) or server.rejects)
        client.send(b"Host: x\r\n\r\n" + get("/smuggled"))
        rejected(server, client, 408)
    assert server.factory.served == 0


# The body of a request

BODIES = {
    "nothing": get("/", b"Content-Length: 9", method=b"POST"),
    "a part": get("/", b"Content-Length: 9", method=b"POST") + b"1234",
    "no chunk": get("/", b"Transfer-Encoding: chunked", method=b"POST"),
    "a chunk": get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"4\r\n1234\r\n",
    "half a chunk": get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"4\r\n12",
    "half a size": get("/", b"Transfer-Encoding: chunked", method=b"POST") + b"4",
    "no last line": chunked(b"1234")[:-2],
    "half a trailer": chunked(b"1234", trailers=b"X-A: 1\r\n")[:-5],
    "behind an upgrade": get("/", b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 9") + b"1",
    "HTTP/1.0": get("/", b"Content-Length: 9", method=b"POST", version=b"1.0") + b"1",
}
# Each window has to bring 150 bytes.
SLOWEST = {"body_window_ms": SHORT_MS, "body_min_rate": 1000}
NO_OTHER = {"first_byte_ms": LONG_MS, "head_ms": LONG_MS, "keep_alive_ms": LONG_MS}


@pytest.mark.parametrize("part", BODIES)
def test_a_body_that_does_not_go_on(serve_ticking, part):
    """The client gets a 408, the app http.disconnect and never an end of the body."""
    app = Everything()
    server = serve_ticking(app, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(BODIES[part])
        rejected(server, client, 408)
        until(lambda: app.messages and app.messages[-1]["type"] == "http.disconnect")
    assert not any(message.get("more_body") is False for message in app.messages)


@pytest.mark.parametrize("part", ["a part", "a chunk"])
def test_an_app_that_is_busy_hears_of_it_later(serve_ticking, part):
    """What it has not read is little: reading goes on, and so does the clock."""
    go = asyncio.Event()
    messages = []

    async def app(scope, receive, send):
        await go.wait()
        while not messages or messages[-1]["type"] != "http.disconnect":
            messages.append(await receive())

    server = serve_ticking(app, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(BODIES[part])
        rejected(server, client, 408)
        server.call(go.set)
        until(lambda: messages and messages[-1]["type"] == "http.disconnect")
    assert not any(message.get("more_body") is False for message in messages)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_drips(serve_ticking, framing):
    app = Everything()
    server = serve_ticking(app, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        if framing == "length":
            pieces = [get("/", b"Content-Length: 100000", method=b"POST")], itertools.repeat(b"x")
        else:
            head = get("/", b"Transfer-Encoding: chunked", method=b"POST")
            pieces = [head], itertools.repeat(b"1\r\nx\r\n")
        dripped(server, client, itertools.chain(*pieces), 408)
    until(lambda: app.messages[-1]["type"] == "http.disconnect")


def test_a_body_that_comes_fast_enough(serve):
    """Through many windows: each is judged by itself."""
    received = []

    async def app(scope, receive, send):
        more = True
        while more:
            message = await receive()
            received.append(len(message["body"]))
            more = message["more_body"]
        await reply(send, b"%d" % sum(received))

    server = serve(app, body_window_ms=50, body_min_rate=1000, **NO_OTHER)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 100000", method=b"POST"))
        for number in range(1, 101):
            client.send(b"x" * 1000)
            until(lambda number=number: sum(received) == number * 1000)
            time.sleep(TICK_S)
            tick(server)
        assert client.response().body == b"100000"
        client.assert_open()


def test_a_good_beginning_does_not_count_for_ever(serve_ticking):
    server = serve_ticking(Everything(), **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 1000000", method=b"POST") + b"x" * 500_000)
        rejected(server, client, 408)


def test_a_body_is_not_waited_for_while_the_app_does_not_read(serve):
    """Reading is paused then: it is not the client that is slow."""
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await reply(send, b"%d" % len(await read_body(receive)))

    server = serve(app, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        size = 16 * MEBIBYTE
        request = get("/", b"Content-Length: %d" % size, method=b"POST") + b"x" * size
        thread = threading.Thread(target=client.send, args=[request])
        thread.start()
        ticks_for(server, MANY * SHORT_S)
        server.call(gate.set)
        assert client.response().body == b"%d" % size
        thread.join()
        client.assert_open()


def test_its_time_begins_anew_when_the_app_reads_on(serve):
    """And then a client that has stopped is too slow."""
    gate = asyncio.Event()
    app = Everything()

    async def late(scope, receive, send):
        await gate.wait()
        await app(scope, receive, send)

    server = serve(late, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 1000000", method=b"POST") + b"x" * 200_000)
        settle(server)
        ticks_for(server, MANY * SHORT_S)
        server.call(gate.set)
        until(lambda: tick(server) or server.rejects)
        rejected(server, client, 408)
        until(lambda: app.messages[-1]["type"] == "http.disconnect")
    assert sum(len(message.get("body", b"")) for message in app.messages) == 200_000


def test_no_time_runs_before_100_continue_is_sent(serve):
    """The client waits for us. Once it has been told to go on it is its turn."""
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await reply(send, await read_body(receive))

    server = serve(app, **SLOWEST, **NO_OTHER)
    expects = b"Expect: 100-continue"
    with server.connect() as client, server.connect() as stops:
        for one in (client, stops):
            one.send(get("/", expects, b"Content-Length: 5", method=b"POST"))
        until(lambda: server.factory.in_flight == 2)
        ticks_for(server, MANY * SHORT_S)
        server.call(gate.set)
        for one in (client, stops):
            assert one.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert client.response().body == b"hello"
        until(lambda: tick(server) or server.rejects)
        rejected(server, stops, 408)
        assert isinstance(server.take_error().error, AssertionError)  # read_body heard of it


def test_a_response_that_has_begun_is_cut(serve_ticking):
    """It is too late for a 408; the client can tell that this is not all."""

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"begun", more=True)
        await read_body(receive)

    server = serve_ticking(app, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 100", method=b"POST"))
        client.read_until(b"begun")
        assert client.rest() == b""
    cut_off(server)
    assert isinstance(server.take_error().error, AssertionError)


def test_a_response_that_was_only_started_gives_way(serve_ticking):
    async def app(scope, receive, send):
        await start(send)
        await read_body(receive)

    server = serve_ticking(app, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 100", method=b"POST"))
        rejected(server, client, 408)
    assert isinstance(server.take_error().error, AssertionError)


def test_a_body_that_nobody_wants_does_not_hold_the_connection(serve_ticking):
    """The answer is there already, and the rest of the body never comes."""
    server = serve_ticking(ok, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(get("/", b"Content-Length: 1000", method=b"POST") + b"x")
        assert client.response().status == 200
        client.assert_closed()
    assert [reject.status for reject in server.rejects] in ([], [0])
    server.rejects.clear()


def test_nothing_behind_a_late_body_is_executed(serve):
    app = Everything()
    server = serve(app, **SLOWEST, **NO_OTHER)
    with server.connect() as client:
        client.send(BODIES["a part"])
        until(lambda: server.factory.in_flight == 1)
        until(lambda: tick(server) or server.rejects)
        client.send(b"56789" + get("/smuggled"))
        rejected(server, client, 408)
        until(lambda: app.messages[-1]["type"] == "http.disconnect")
    assert not any(message.get("more_body") is False for message in app.messages)


def test_a_slow_upload_does_not_hold_up_a_drain(serve_ticking):
    app = Everything()
    server = serve_ticking(app, **SLOWEST, **NO_OTHER)
    empty = threading.Event()
    with server.connect() as client:
        client.send(BODIES["a part"])
        until(lambda: server.factory.in_flight == 1)
        server.call(lambda: server.factory.drain(empty.set))
        rejected(server, client, 408)
        assert empty.wait(PATIENCE_S)


# A client that does not read

PIECE = bytes(range(256)) * 256  # 64 KiB


async def endless(scope, receive, send):
    await start(send)
    while True:
        await body(send, PIECE, more=True)


def large(headers=(), size: int = 32 * MEBIBYTE):
    """An app that is done at once and leaves much to send."""

    async def app(scope, receive, send):
        await start(send, 200, [(b"content-length", b"%d" % size), *headers])
        await body(send, PIECE * (size // len(PIECE)))

    return app


def test_a_stream_that_nobody_reads_is_cut(serve_ticking):
    """The app hears of it: its send() raises."""
    server = serve_ticking(endless, write_stall_ms=SHORT_MS)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        report = server.take_error()
        assert isinstance(report.error, OSError)
        assert report.outcome == "client gone"
        until(lambda: server.factory.connections == 0)
    cut_off(server)


def test_an_app_that_only_listens_hears_of_it(serve_ticking):
    messages = []

    async def app(scope, receive, send):
        await receive()
        await large()(scope, receive, lambda message: send({**message, "more_body": True}))
        messages.append(await receive())

    server = serve_ticking(app, write_stall_ms=SHORT_MS)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: messages)
        until(lambda: server.factory.connections == 0)
    assert messages == [{"type": "http.disconnect"}]
    cut_off(server)
    server.errors.clear()


ENDED = {
    "kept alive": (large(), get()),
    "the app closes": (large([(b"connection", b"close")]), get()),
    "the client closes": (large(), get("/", b"Connection: close")),
    "HTTP/1.0": (large(), get(version=b"1.0")),
    "pipelined": (large(size=MEBIBYTE), get() * 100),
    "half-closed": (large(), get()),
}


@pytest.mark.parametrize("name", ENDED)
def test_a_response_that_is_complete_and_nobody_takes(serve_ticking, name):
    """Its app is done and the connection may be closing: what is unsent still has its time."""
    app, request = ENDED[name]
    server = serve_ticking(app, write_stall_ms=SHORT_MS, keep_alive_ms=LONG_MS)
    with server.connect(receive_buffer=8192) as client:
        client.send(request)
        if name == "half-closed":
            client.half_close()
        until(lambda: server.factory.connections == 1)
        until(lambda: server.factory.connections == 0, "the connection to be cut")
    cut_off(server)


def test_small_answers_that_nobody_takes(serve_ticking):
    """A client that pipelines and never reads: it is cut, and what it asks is not worked off first."""
    server = serve_ticking(ok, write_stall_ms=SHORT_MS, keep_alive_ms=LONG_MS)
    with server.connect(receive_buffer=8192) as client:
        client.sock.settimeout(1)
        requests = get() * 500_000
        with pytest.raises(OSError):
            client.send(requests)
        until(lambda: server.factory.connections == 0)
    assert server.factory.served < 500_000
    cut_off(server)


def taking_slowly(client: Client) -> None:
    """What is there, and at least a byte of it."""
    assert client.receive(16384)


@pytest.mark.parametrize("app", [endless, large()], ids=["stream", "one body"])
def test_a_client_that_takes_little_is_not_cut(serve, app):
    """A byte at the right time is progress, though the kernel has room for megabytes yet to be taken."""
    server = serve(app, write_stall_ms=SHORT_MS, keep_alive_ms=LONG_MS)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        end = time.monotonic() + 2 * MANY * SHORT_S
        while time.monotonic() < end:
            taking_slowly(client)
            time.sleep(TICK_S)
            tick(server)
            assert server.rejects == []
        assert server.factory.connections == 1
        client.reset()
    until(lambda: server.factory.connections == 0)
    server.errors.clear()


def test_who_stops_later_is_cut_later(serve):
    server = serve(endless, write_stall_ms=SHORT_MS)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        end = time.monotonic() + MANY * SHORT_S
        while time.monotonic() < end:
            taking_slowly(client)
            tick(server)
        until(lambda: tick(server) or server.rejects)
        until(lambda: server.factory.connections == 0)
    cut_off(server)
    assert isinstance(server.take_error().error, OSError)


def test_an_app_that_sends_nothing_is_not_stalled(serve_ticking):
    """Nothing waits for the client."""

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"begun", more=True)
        await asyncio.sleep(MANY * SHORT_S)
        await body(send, b", done")

    server = serve_ticking(app, write_stall_ms=SHORT_MS)
    with server.connect() as client:
        assert client.ask(get()).body == b"begun, done"
        client.assert_open()


# A loop that was blocked


def blocked(server: Server, meanwhile: Callable[[], object], for_s: float = 2 * SHORT_S) -> None:
    """The loop stands still while this happens and then for so long. Deadlines come next, bytes later."""
    held, go, over = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        held.set()
        assert go.wait(PATIENCE_S)
        time.sleep(for_s)
        server.factory.tick()
        over.set()

    server.loop.call_soon_threadsafe(block)
    assert held.wait(PATIENCE_S)
    meanwhile()
    go.set()
    assert over.wait(PATIENCE_S)


ALL_SHORT = {
    "first_byte_ms": SHORT_MS, "head_ms": SHORT_MS, "keep_alive_ms": SHORT_MS, "write_stall_ms": SHORT_MS,
    **SLOWEST,
}  # fmt: skip
INNOCENT = {
    "first byte": (b"", get()),
    "head": (get()[:20], get()[20:]),
    "body": (get("/", b"Content-Length: 5", method=b"POST") + b"he", b"llo"),
    "chunks": (chunked(b"hello")[:-6], chunked(b"hello")[-6:]),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_what_came_while_the_loop_was_blocked_is_not_late(serve, name):
    """It waits in the socket, where nobody has looked yet."""
    before, meanwhile = INNOCENT[name]
    server = serve(echo, **ALL_SHORT)
    with server.connect() as client:
        until(lambda: server.factory.connections == 1)
        client.send(before)
        settle(server)
        blocked(server, lambda: client.send(meanwhile))
        assert client.response().status == 200


def test_the_next_request_of_an_idle_connection_is_not_late(serve):
    server = serve(echo, **ALL_SHORT)
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(get()).status == 200
            blocked(server, lambda: client.send(get("/next")))
            assert client.response().status == 200


class Counted:
    """An endless stream that knows how many pieces it sent."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, scope, receive, send) -> None:
        await start(send)
        while True:
            await body(send, PIECE, more=True)
            self.sent += 1

    def stuck(self) -> None:
        """Wait until its send() waits for the client."""
        seen = -1
        while seen != self.sent:
            seen = self.sent
            time.sleep(0.05)


def takes_all_there_is(client: Client) -> None:
    client.sock.settimeout(0.1)
    try:
        while client.receive(MEBIBYTE):
            pass
    except TimeoutError:
        pass
    client.sock.settimeout(PATIENCE_S)


def test_a_client_that_read_meanwhile_is_not_stalled(serve):
    """The transport could not see it; the kernel can."""
    app = Counted()
    server = serve(app, **ALL_SHORT)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: app.sent)
        for _ in range(3):
            app.stuck()
            blocked(server, lambda: takes_all_there_is(client))
            assert server.rejects == []
            assert client.receive()
        client.reset()
    server.take_error()


def test_the_time_that_is_given_ends(serve):
    """Bytes in the socket are no ticket: they are read, and if they do not suffice it is over."""
    server = serve(ok, **ALL_SHORT)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        settle(server)
        blocked(server, lambda: client.send(b"Host: x\r\n"))
        until(lambda: tick(server) or server.rejects)
        rejected(server, client, 408)


# Many at once


def test_each_is_judged_by_its_own_time(serve):
    """Those that are due stand between others that are not."""
    app = Everything()

    async def by_path(scope, receive, send):
        await (app if scope["method"] == "POST" else ok)(scope, receive, send)

    server = serve(by_path, head_ms=SHORT_MS, first_byte_ms=SHORT_MS, keep_alive_ms=LONG_MS, **SLOWEST)
    idle, heads, bodies, silent = [], [], [], []
    for _ in range(10):
        for group in (idle, heads, bodies, silent):
            group.append(server.connect())
        assert idle[-1].ask(get()).status == 200
        heads[-1].send(b"GET / HTTP/1.1\r\n")
        bodies[-1].send(BODIES["a part"])
    until(lambda: server.factory.in_flight == 10)
    until(lambda: tick(server) or len(server.rejects) == 20)
    for client in heads + bodies:
        is_refusal(client.response(), 408)
        client.close()
    for client in silent:
        client.assert_closed()
    until(lambda: server.factory.connections == 10)
    for client in idle:
        client.assert_open()
    server.take_rejects(20)


def test_nobody_is_cut_before_the_time(serve):
    long = dict.fromkeys(ALL_SHORT, LONG_MS) | {"body_min_rate": 1}

    async def app(scope, receive, send):
        await (endless if scope["path"] == "/endless" else echo)(scope, receive, send)

    server = serve(app, **long)
    silent, idle, head, upload, reader = [server.connect(receive_buffer=8192) for _ in range(5)]
    assert idle.ask(get()).status == 200
    head.send(get()[:20])
    upload.send(BODIES["a part"])
    reader.send(get("/endless"))
    until(lambda: server.factory.in_flight == 2)
    ticks_for(server, MANY * SHORT_S)
    assert server.factory.connections == 5
    assert server.rejects == []
    head.send(get()[20:])
    upload.send(b"56789")
    assert [client.response().status for client in (head, upload)] == [200, 200]
    silent.assert_open()
    idle.assert_open()
    reader.reset()
    server.take_error()


@pytest.mark.parametrize("never", [0, -1])
def test_a_deadline_of_0_is_none(serve, never):
    """Each of them; keep_alive_ms, which had its meaning before, is long here."""

    async def app(scope, receive, send):
        await (endless if scope["path"] == "/endless" else echo)(scope, receive, send)

    names = ("first_byte_ms", "head_ms", "body_window_ms", "write_stall_ms")
    server = serve(app, **dict.fromkeys(names, never), body_min_rate=1_000_000, keep_alive_ms=LONG_MS)
    silent, head, upload, reader = [server.connect(receive_buffer=8192) for _ in range(4)]
    head.send(get()[:20])
    upload.send(BODIES["a part"])
    reader.send(get("/endless"))
    until(lambda: server.factory.in_flight == 2)
    ticks_for(server, MANY * SHORT_S)
    head.send(get()[20:])
    upload.send(b"56789")
    assert [client.response().status for client in (head, upload)] == [200, 200]
    silent.assert_open()
    reader.reset()
    server.take_error()


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_of_0_is_none(serve, rate):
    server = serve(echo, body_window_ms=10, body_min_rate=rate, **NO_OTHER)
    with server.connect() as client:
        client.send(BODIES["a part"])
        until(lambda: server.factory.in_flight == 1)
        ticks_for(server, MANY * SHORT_S)
        client.send(b"56789")
        assert client.response().body == b"123456789"


def test_a_connection_without_an_address(serve_ticking, tmp_path):
    """A Unix socket: the report says that nobody knows who it was."""
    server = serve_ticking(ok, head_ms=SHORT_MS, where="unix", path=tmp_path / "socket")
    with server.connect() as client:
        client.send(b"GET /")
        is_refusal(client.response(), 408)
        client.assert_closed()
    assert client.sock.family == socket.AF_UNIX
    (reject,) = server.take_rejects()
    assert (reject.status, reject.client) == (408, None)
