"""Flow control over HTTP/2 (RFC 9113 §5.2, §6.9), both ways, and what is held; priorities (RFC 9218).

Rules of this file: the judge counts every window to the byte, so that a test only says when something may
come, and how much. Towards us a window opens as the app takes bytes; from us an app's ``send()`` waits.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes

from tests.helpers.asgi import body, echo, read_body, reply, start
from tests.helpers.files import BLOB, file, kind, send_file
from tests.helpers.h2_judge import DATA, END_HEADERS, INITIAL_WINDOW_SIZE, PADDED, Stream
from tests.helpers.h2_peer import Client, Host, every_feeding, every_start
from tests.helpers.h2_wire import frame, head, pseudo
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2
__all__ = ["file", "kind"]  # fixtures

FIRST = 65535
STREAM_WINDOW = 262_144  # the defaults of the server
CONNECTION_WINDOW = 1_048_576
# What a stream may have waiting before send() waits, and one piece more.
HELD = 65536


class Uploads:
    """Takes ``receive()`` when it is told to. /ok is answered."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.whole: list[str] = []
        self._takes: dict[str, asyncio.Semaphore] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/ok":
            await reply(send)
            return
        self.taken[path] = 0
        while True:
            await self._take(path).acquire()
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            self.taken[path] += len(message["body"])
            if not message["more_body"]:
                break
        self.whole.append(path)
        await reply(send)

    def _take(self, path: str) -> asyncio.Semaphore:
        return self._takes.setdefault(path, asyncio.Semaphore(0))

    def take(self, path: str, times: int = 1) -> None:
        for _ in range(times):
            self._take(path).release()


class Blobs:
    """Sends ``total`` bytes of BLOB in pieces, and counts what ``send()`` has taken."""

    def __init__(self, total: int, piece: int = 65536) -> None:
        self.total, self.piece = total, piece
        self.sent: dict[str, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/ok":
            await reply(send)
            return
        await start(send)
        self.sent[path] = 0
        while self.sent[path] < self.total:
            data = BLOB[self.sent[path] : min(self.sent[path] + self.piece, self.total)]
            self.sent[path] += len(data)
            await body(send, data, more=self.sent[path] < self.total)


# Towards us


@every_start
@every_feeding
async def test_an_app_that_does_not_read_stops_its_client(start, feeding):
    """At the stream's window; what it takes opens that again, and no more."""
    app = Uploads()
    async with Host(app) as host:
        client = host.connect(start, feeding)
        stream = client.request("POST", "/slow", body=BLOB[:1_000_000])
        await client.settle()
        assert client.judge.uploaded[stream.id] == STREAM_WINDOW
        assert stream.id not in client.judge.credit
        while "/slow" not in app.whole:
            app.take("/slow")
            await client.settle(4)
            sent = client.judge.uploaded[stream.id]
            assert client.judge.credit.get(stream.id, 0) <= app.taken.get("/slow", 0)
            assert sent <= STREAM_WINDOW + app.taken["/slow"]
        await client.done(stream)
        assert app.taken["/slow"] == 1_000_000
        assert client.judge.credit[0] <= CONNECTION_WINDOW - FIRST + 1_000_000
        await client.ok()


@every_start
async def test_uploads_share_the_connections_window(start):
    """Ten that nobody reads hold no more than it; each that is read then makes room for the others."""
    app = Uploads()
    async with Host(app) as host:
        client = host.connect(start)
        streams = [client.request("POST", f"/{at}", body=BLOB[:300_000]) for at in range(10)]
        await client.settle()
        assert client.judge.uploaded[0] == CONNECTION_WINDOW
        for at in range(10):
            app.take(f"/{at}", 100)
        for stream in streams:
            assert (await client.done(stream)).status == 200
        assert set(app.taken.values()) == {300_000}


@pytest.mark.parametrize("settings", [(65_535, 65_535), (100_000, 70_000), (2**31 - 1, 2**31 - 1)])
async def test_the_windows_are_those_of_the_settings(settings):
    stream_window, connection_window = settings
    app = Uploads()
    sizes = {
        "http2_initial_stream_window_size": stream_window,
        "http2_initial_connection_window_size": connection_window,
    }
    async with Host(app, **sizes) as host:
        client = host.connect()
        client.request("POST", "/slow", body=BLOB[:500_000])
        await client.settle()
        assert client.judge.uploaded[0] == min(stream_window, connection_window, 500_000)
        app.take("/slow", 1000)
        await client.until(lambda: app.whole)
        assert app.taken["/slow"] == 500_000


TOO_MUCH = {
    "of a stream": (65_535, 200_000, [1]),
    "of the connection": (200_000, 65_535, [1, 3]),
}


@every_start
@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_client_that_sends_more_than_it_may(name, start):
    """§6.9.1: FLOW_CONTROL_ERROR; of a stream, nghttp2 makes one of the connection (§5.4.1)."""
    stream_window, connection_window, streams = TOO_MUCH[name]
    app = Uploads()
    sizes = {
        "http2_initial_stream_window_size": stream_window,
        "http2_initial_connection_window_size": connection_window,
    }
    async with Host(app, **sizes) as host:
        raw = host.raw(start)
        raw.send(*[head(id_, pseudo("POST", f"/{id_}"), END_HEADERS) for id_ in streams])
        share = 65_535 // len(streams)
        left = dict.fromkeys(streams, share)
        left[1] += 65_535 - share * len(streams)
        for id_, size in left.items():
            for at in range(0, size, 16384):
                raw.send(frame(DATA, 0, id_, bytes(min(16384, size - at))))
        await raw.pong()  # all that it may
        raw.send(frame(DATA, 0, streams[-1], b"x"))
        await raw.until(lambda: raw.closed or raw.streams[streams[-1]].over)
        code = raw.goaway[1] if raw.goaway else raw.streams[streams[-1]].reset
        assert code == ErrorCodes.FLOW_CONTROL_ERROR
        host.take_fault(0 if raw.goaway else -1, "FLOW_CONTROL_ERROR")
        for id_ in streams:
            app.take(f"/{id_}", 10)
        await raw.settle()
        assert app.whole == []


async def fill(client: Client, path: str, end: bool = False) -> Stream:
    """An upload that has used up its stream's window."""
    stream = client.request("POST", path, body=bytes(STREAM_WINDOW), end=end)
    await client.settle(3)
    return stream


@every_start
@pytest.mark.parametrize("how", ["cancelled by the client", "answered without reading", "left by its app"])
async def test_what_nobody_reads_is_given_back(how, start):
    """§6.9: else the connection would come to a standstill after four of them."""
    leave = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/ok":
            await echo(scope, receive, send)
        elif how == "cancelled by the client":
            await leave.wait()
        elif how == "answered without reading":
            await reply(send)
        else:
            await leave.wait()
            raise LookupError("mine")

    async with Host(app, write_stall_ms=0) as host:
        client = host.connect(start)
        for at in range(6):
            stream = await fill(client, f"/{at}")
            if how == "cancelled by the client":
                client.reset(stream)
            elif how == "answered without reading":
                await client.until(lambda stream=stream: stream.reset is not None)
            leave.set()
            await client.until(lambda: host.factory.in_flight == 0)
            leave.clear()
            await client.settle(3)
        host.errors.clear()
        big = await client.ask("POST", "/ok", body=BLOB[:2_000_000])
        assert big.body == BLOB[:2_000_000]


@every_start
async def test_padding_is_given_back(start):
    """§6.1: it takes its place in the windows, and no app will ever take it."""
    async with Host(echo, http2_initial_connection_window_size=65_535) as host:
        raw = host.raw(start)
        raw.send(head(1, pseudo("POST"), END_HEADERS))
        for _ in range(20):
            for _ in range(50):
                raw.send(frame(DATA, PADDED, 1, b"\xff" + b"x" + bytes(255)))
            await raw.pong()
        raw.send(frame(DATA, 1, 1))
        await raw.until(lambda: raw.streams[1].ended)
        assert raw.streams[1].body == b"x" * 1000
        assert raw.judge.uploaded[0] == 1000 * 257
        assert raw.judge.credit[0] > 1000 * 257 - 65_535


# From us


@every_start
@every_feeding
async def test_a_window_of_nothing(start, feeding):
    """§6.9.2: the head comes, DATA as far as the window opens, and END_STREAM without any needs none."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"" if scope["path"] == "/empty" else BLOB[:100])

    async with Host(app) as host:
        client = host.connect(start, feeding, hand=True, settings={INITIAL_WINDOW_SIZE: 0})
        empty = await client.ask("GET", "/empty")
        assert (empty.status, empty.ended) == (200, True)
        head_only = await client.ask("HEAD")
        assert head_only.ended
        stream = client.request()
        await client.until(lambda: stream.status)
        await client.settle()
        assert (stream.body, stream.ended) == (b"", False)
        for at in (1, 2, 50, 99):
            client.open(at - len(stream.data), stream)
            await client.until(lambda at=at: len(stream.data) == at)
            await client.settle(2)
            assert (len(stream.data), stream.ended) == (at, False)
        client.open(1, stream)
        assert (await client.done(stream)).body == BLOB[:100]


@every_start
async def test_a_window_that_shrinks_below_what_is_used(start):
    """§6.9.2: it is negative then, and nothing comes before WINDOW_UPDATE has made it positive."""
    app = Blobs(200_000)
    async with Host(app) as host:
        client = host.connect(start, hand=True)
        client.open(1_000_000)
        stream = client.request("GET", "/big")
        await client.until(lambda: len(stream.data) == FIRST)
        client.change({INITIAL_WINDOW_SIZE: 1000})
        client.open(FIRST - 1000, stream)  # exactly 0
        await client.settle()
        assert len(stream.data) == FIRST
        client.open(7, stream)
        await client.until(lambda: len(stream.data) == FIRST + 7)
        other = client.request("GET", "/other")
        await client.until(lambda: len(other.data) == 1000)
        client.change({INITIAL_WINDOW_SIZE: 2000})
        await client.until(lambda: len(other.data) == 2000)
        await client.until(lambda: len(stream.data) == FIRST + 7 + 1000)
        client.change({INITIAL_WINDOW_SIZE: 300_000})
        for one in (stream, other):
            assert (await client.done(one)).body == BLOB[:200_000]


@every_start
async def test_settings_that_change_all_the_time(start):
    """The judge knows which window is in force: the one behind the last ACK."""
    app = Blobs(300_000, 5000)
    async with Host(app) as host:
        client = host.connect(start, hand=True)
        client.open(10_000_000)
        streams = [client.request("GET", f"/{at}") for at in range(5)]
        for size in (0, 70_000, 100, 65_535, 0, 1, 150_000, 30_000, 300_000):
            client.change({INITIAL_WINDOW_SIZE: size})
            await client.settle(4)
        for stream in streams:
            assert (await client.done(stream)).body == BLOB[:300_000]


@every_start
@pytest.mark.parametrize("piece", [100, 10_000, 65_536, 500_000])
async def test_send_waits_for_the_window(piece, start):
    """What it has taken beyond that is bounded."""
    app = Blobs(3_000_000 if piece > 100 else 300_000, piece)
    async with Host(app) as host:
        client = host.connect(start, hand=True)
        stream = client.request("GET", "/big")
        await client.until(lambda: len(stream.data) == FIRST)
        await client.settle()
        before = app.sent["/big"]
        assert before <= FIRST + HELD + piece
        await client.settle()
        assert app.sent["/big"] == before
        client.open(50_000)
        client.open(50_000, stream)
        await client.until(lambda: len(stream.data) == FIRST + 50_000)
        await client.settle()
        assert app.sent["/big"] <= FIRST + 50_000 + HELD + piece
        client.hand = False
        client.open(1_000_000)
        client.open(1_000_000, stream)
        assert (await client.done(stream)).body == BLOB[: app.total]


@every_start
async def test_a_hundred_streams_that_nobody_takes(start):
    """Each holds no more than its share; the connection is as well as ever."""
    app = Blobs(1_000_000)
    async with Host(app) as host:
        client = host.connect(start, hand=True, settings={INITIAL_WINDOW_SIZE: 10})
        streams = [client.request("GET", f"/{at}") for at in range(100)]
        await client.until(lambda: all(len(stream.data) == 10 for stream in streams))
        await client.settle()
        assert max(app.sent.values()) <= 2 * HELD
        small = client.request("GET", "/ok")
        assert (await client.done(small)).body == b"ok"
        for stream in streams:
            client.reset(stream)
        await client.until(lambda: host.factory.in_flight == 0)
        host.take_errors(100)


@every_start
async def test_one_that_stands_still_holds_up_nobody_else(start):
    app = Blobs(1_000_000)
    async with Host(app) as host:
        client = host.connect(start, hand=True)
        client.open(5_000_000)
        stuck = client.request("GET", "/stuck")
        await client.until(lambda: len(stuck.data) == FIRST)
        for at in range(3):
            other = client.request("GET", f"/{at}")
            client.open(1_000_000, other)
            assert (await client.done(other)).body == BLOB[:1_000_000]
        assert len(stuck.data) == FIRST
        client.open(1_000_000, stuck)
        assert (await client.done(stuck)).body == BLOB[:1_000_000]


@every_start
async def test_a_transport_that_takes_nothing(start):
    """Behind pause_writing() nothing is written (the transport asserts it), and send() waits."""
    app = Blobs(4_000_000)
    async with Host(app, write_stall_ms=0) as host:
        client = host.connect(start, settings={INITIAL_WINDOW_SIZE: 8_000_000})
        client.open(8_000_000)
        client.hold()
        stream = client.request("GET", "/big")
        await client.settle(30)
        held = app.sent["/big"]
        await client.settle(30)
        assert app.sent["/big"] == held < 2_000_000
        client.release()
        assert (await client.done(stream)).body == BLOB[:4_000_000]


@every_start
async def test_windows_that_open_while_the_transport_takes_nothing(start):
    app = Blobs(500_000)
    async with Host(app, write_stall_ms=0) as host:
        client = host.connect(start, settings={INITIAL_WINDOW_SIZE: 1_000_000})
        streams = [client.request("GET", f"/{at}") for at in range(4)]
        for _ in range(6):
            client.hold()
            client.open(200_000)
            await client.settle(5)
            client.release()
            await client.settle(2)
        client.open(2_000_000)
        for stream in streams:
            assert (await client.done(stream)).body == BLOB[:500_000]


@every_start
async def test_files_wait_for_windows(file, kind, start):
    path = file(400_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send_file(send, kind, path)

    async with Host(app) as host:
        client = host.connect(start, hand=True)
        client.open(1_000_000)
        stream = client.request()
        for size in (FIRST, FIRST + 1, FIRST + 100_000, 400_000):
            room = size - max(len(stream.data), FIRST)
            if room:
                client.open(room, stream)
            await client.until(lambda size=size: len(stream.data) == size)
            await client.settle(2)
            assert len(stream.data) == size
        assert (await client.done(stream)).body == BLOB[:400_000]


@every_start
async def test_both_ways_at_once(start):
    """An echo of 4 MB as it comes, through windows of 64 KiB."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await body(send, message["body"], more=more)

    small = {"http2_initial_stream_window_size": 65_535, "http2_initial_connection_window_size": 65_535}
    async with Host(app, **small) as host:
        client = host.connect(start)
        stream = await client.ask("POST", body=BLOB[:4_000_000])
        assert stream.body == BLOB[:4_000_000]


async def test_an_app_that_reads_a_body_beside_its_response_keeps_the_windows_apart():
    """The response waits, the upload goes on."""
    got: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        sending = asyncio.ensure_future(body(send, BLOB[:300_000], more=True))
        got.append(len(await read_body(receive)))
        await sending
        await body(send)

    async with Host(app) as host:
        client = host.connect(hand=True)
        stream = client.request("POST", body=BLOB[:1_000_000])
        await client.until(lambda: got == [1_000_000])
        assert len(stream.data) == FIRST
        client.open(300_000)
        client.open(300_000, stream)
        assert (await client.done(stream)).body == BLOB[:300_000]
