"""An HTTP/2 connection that keeps to the rules: its preface, its SETTINGS, what a client may do, HPACK.

Rules of this file: RFC 9113, and RFC 7541 in the last part. What a client may not do is in test_h2_frames.py.
The server's frames are held to the RFC by h2_judge.py and by h2, so a test need not look at them.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import hpack
import pytest
from h2.errors import ErrorCodes

from tests.helpers.asgi import Recorder, echo, ok, reply
from tests.helpers.h2_judge import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    NO_RFC7540_PRIORITIES,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    RST_STREAM,
    WINDOW_UPDATE,
    Fields,
)
from tests.helpers.h2_peer import Host, every_feeding, every_start
from tests.helpers.h2_wire import (
    at_random,
    block,
    by_eights,
    byte_by_byte,
    frame,
    head,
    number,
    pseudo,
    settings,
    whole,
)
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2

NEXT = 101


class App:
    """Answers at once, behind the body, or waits for a disconnect."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        while scope["path"] in ("/stay", "/body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if scope["path"] == "/body" and not message["more_body"]:
                break
        await reply(send)


def post(stream: int) -> bytes:
    return head(stream, pseudo("POST", "/stay"), END_HEADERS)


# The preface (§3.4)


@every_feeding
@pytest.mark.parametrize(
    "hello",
    [
        PREFACE[:-1] + b"X" + settings(),
        b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\x16\x03\x01" + bytes(40),
        settings() + head(1, pseudo()),
    ],
    ids=["its last byte", "HTTP/1.1", "TLS", "none"],
)
async def test_a_preface_that_is_none(hello, feeding):
    """Behind ALPN nothing else is spoken: GOAWAY, and the end."""
    app = App()
    async with Host(app) as host:
        raw = host.raw("alpn", feeding, hello)
        await raw.until(lambda: raw.closed)
        assert raw.goaway == (0, ErrorCodes.PROTOCOL_ERROR)
        assert app.paths == []
        assert host.take_rejects()[0].reason.startswith("HTTP/2: PROTOCOL_ERROR: ")


@every_start
@every_feeding
@pytest.mark.parametrize(
    "first",
    [
        frame(PING, 0, 0, bytes(8)),
        settings(flags=ACK),
        head(1, pseudo()),
        frame(0xFB),
        frame(WINDOW_UPDATE, 0, 0, number(1)),
    ],
    ids=["PING", "an ACK", "HEADERS", "an unknown frame", "WINDOW_UPDATE"],
)
async def test_the_first_frame_is_settings(first, start, feeding):
    app = App()
    async with Host(app) as host:
        raw = host.raw(start, feeding, PREFACE + first + settings() + head(NEXT, pseudo()))
        await raw.until(lambda: raw.closed)
        assert raw.goaway == (0, ErrorCodes.PROTOCOL_ERROR)
        assert app.paths == []
        assert host.take_fault(0, "PROTOCOL_ERROR") == "SETTINGS expected"


@pytest.mark.parametrize("length", range(len(PREFACE)))
async def test_a_client_that_goes_within_the_preface(length):
    """It has asked for nothing, and gets no answer but the server's own SETTINGS."""
    for start in ("alpn", "prior"):
        async with Host(App()) as host:
            raw = host.raw(start, whole, PREFACE[:length])
            raw.half_close()
            await raw.settle()
            assert raw.transport.ended


@every_feeding
@pytest.mark.parametrize("method", [b"GET", b"P", b"PRI", b"PRIX", b"PROPFIND"])
async def test_http_1_on_a_connection_that_may_be_http_2(method, feeding):
    """Without TLS a request of HTTP/1.1 is one, also if its method begins like the preface."""
    heard: list[bytes] = []
    async with Host(ok) as host:
        raw = host.raw("prior", feeding, b"")
        raw.judge.received = heard.append  # it knows no HTTP/1.1
        raw.send(method + b" /x HTTP/1.1\r\nHost: test\r\n\r\n")
        await raw.until(lambda: heard)
        assert b"".join(heard).startswith(b"HTTP/1.1 200")


# What the server says of itself


@every_start
@every_feeding
async def test_the_servers_settings(start, feeding):
    """§3.4: they come first, and are what was configured; the window by WINDOW_UPDATE (§6.9.2)."""
    own = {
        "http2_max_concurrent_streams": 7,
        "http2_initial_stream_window_size": 70_000,
        "http2_initial_connection_window_size": 100_000,
        "http2_max_frame_size": 20_000,
        "http2_max_header_list_size": 5000,
        "http2_header_table_size": 100,
    }
    async with Host(ok, **own) as host:
        client = host.connect(start, feeding)
        await client.ok()
        assert len(client.judge.settings) == 1
        said = client.judge.settings[0]
        assert said.pop(ENABLE_CONNECT_PROTOCOL, 1) == 1
        assert said == {
            MAX_CONCURRENT_STREAMS: 7, INITIAL_WINDOW_SIZE: 70_000, MAX_FRAME_SIZE: 20_000,
            MAX_HEADER_LIST_SIZE: 5000, HEADER_TABLE_SIZE: 100, NO_RFC7540_PRIORITIES: 1,
        }  # fmt: skip
        assert client.judge.credit == {0: 100_000 - 65_535}


async def test_with_alpn_the_server_speaks_first():
    async with Host(ok) as host:
        raw = host.raw("alpn", whole, b"")
        raw.pump()
        assert [type(one).__name__ for one in raw.judge.frames] == ["SettingsFrame", "WindowUpdateFrame"]


@pytest.mark.parametrize("length", range(1, len(PREFACE)))
async def test_with_prior_knowledge_it_waits_for_the_preface(length):
    """It might still be HTTP/1.1."""
    async with Host(ok) as host:
        raw = host.raw("prior", whole, PREFACE[:length])
        await raw.settle(3)
        assert raw.judge.frames == []
        raw.send(PREFACE[length:] + settings() + head(1, pseudo()))
        await raw.until(lambda: raw.streams[1].ended)


@every_start
@every_feeding
async def test_each_settings_has_one_ack(start, feeding):
    """§6.5.3: in order, none for an ACK."""
    async with Host(ok) as host:
        raw = host.raw(start, feeding)
        await raw.pong()
        for count in range(2, 6):
            raw.send(settings({INITIAL_WINDOW_SIZE: 65535 + count}))
            await raw.pong()
            assert raw.judge.acks == count


@every_start
@every_feeding
async def test_each_ping_is_answered_with_its_payload(start, feeding):
    """§6.7: the judge compares."""
    async with Host(App()) as host:
        raw = host.raw(start, feeding)
        raw.send(*[frame(PING, 0, 0, number(i) * 2) for i in range(50)])
        await raw.until(lambda: len(raw.judge.pongs) == 50)
        raw.send(post(1), frame(PING, 0, 0, b"in a req"))
        await raw.until(lambda: len(raw.judge.pongs) == 51)


# What a client may do


@every_start
@every_feeding
async def test_padding(start, feeding):
    """§6.1, §6.2: it is no part of anything, but it takes its place in the windows."""
    async with Host(echo) as host:
        raw = host.raw(start, feeding)
        given = b"\x05" + bytes(4) + b"\xff" + block(pseudo("POST", "/")) + bytes(5)
        raw.send(frame(HEADERS, END_HEADERS | PADDED | PRIORITIZED, 1, given))
        raw.send(frame(DATA, PADDED, 1, b"\x00ab"), frame(DATA, PADDED, 1, b"\xffcd" + bytes(255)))
        raw.send(frame(DATA, PADDED, 1, b"\x03" + bytes(3)), frame(DATA, PADDED | END_STREAM, 1, b"\x01e\0"))
        await raw.until(lambda: raw.streams[1].ended)
        assert raw.streams[1].body == b"abcde"


def in_pieces(count: int, fields: Fields) -> list[bytes]:
    """A request on stream 1: HEADERS, and so many CONTINUATIONs; with three, one is empty."""
    text = block([*pseudo("GET", "/cut"), *fields])
    edges = [len(text) * i // count for i in range(count + 1)]
    cut = [text[a:b] for a, b in itertools.pairwise(edges)]
    cut[1:1] = [b""] if count == 3 else []
    kinds = [(HEADERS, END_STREAM)] + [(CONTINUATION, 0)] * (len(cut) - 1)
    kinds[-1] = (kinds[-1][0], kinds[-1][1] | END_HEADERS)
    return [frame(kind, flags, 1, piece) for (kind, flags), piece in zip(kinds, cut, strict=True)]


@every_start
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("feeding", [whole, by_eights, at_random])
async def test_a_field_block_in_pieces(count, start, feeding):
    """§4.3, §6.10: wherever it is cut, also into nothing."""
    app = Recorder()
    fields = [(b"x-%d" % i, b"v" * i) for i in range(30)]
    async with Host(app) as host:
        raw = host.raw(start, feeding)
        raw.send(*in_pieces(count, fields))
        await raw.until(lambda: raw.streams[1].ended)
        assert app.scopes[0]["path"] == "/cut"
        assert app.scopes[0]["headers"] == [(b"host", b"test"), *fields]


@every_start
async def test_a_continuation_that_dribbles(start):
    """nghttp2 allows eight in a block, and counts each read that the nine header bytes take for one."""
    async with Host(ok) as host:
        raw = host.raw(start, byte_by_byte)
        raw.send(*in_pieces(2, []))
        await raw.until(lambda: raw.closed)
        assert raw.goaway[1] == ErrorCodes.ENHANCE_YOUR_CALM
        assert host.take_rejects()[0].reason.startswith("HTTP/2: ENHANCE_YOUR_CALM: ")


@every_start
@every_feeding
async def test_stream_ids_may_leap(start, feeding):
    """§5.1.1: up to 2³¹-1, behind which no stream can be begun."""
    async with Host(App()) as host:
        raw = host.raw(start, feeding)
        for stream in (1, 3, 77, 2**30 + 1, LARGEST_WINDOW):
            raw.send(head(stream, pseudo()))
            await raw.until(lambda stream=stream: raw.streams[stream].ended)
            assert raw.streams[stream].status == 200
        await raw.pong()


@every_start
@every_feeding
async def test_no_more_streams_than_agreed(start, feeding):
    """§5.1.2: REFUSED_STREAM for a client that has not read the server's SETTINGS yet, so that it asks again
    (§8.7). One that ends makes room.
    """
    app = App()
    async with Host(app, http2_max_concurrent_streams=3) as host:
        raw = host.raw(start, feeding, PREFACE + settings())
        raw.send(*[head(id_, pseudo("GET", "/stay")) for id_ in (1, 3, 5)])
        await raw.pong()
        raw.send(head(7, pseudo("GET", "/refused")), post(9))
        await raw.until(lambda: raw.streams[9].over)
        assert [raw.streams[id_].reset for id_ in (7, 9)] == [ErrorCodes.REFUSED_STREAM] * 2
        assert app.paths == ["/stay"] * 3
        raw.send(frame(RST_STREAM, 0, 3, number(8)))
        await raw.until(lambda: host.factory.in_flight == 2)
        raw.send(head(11, pseudo("GET", "/next")))
        await raw.until(lambda: raw.streams[11].ended)
        assert (app.paths[-1], host.factory.in_flight, raw.goaway) == ("/next", 2, None)


@every_start
@every_feeding
async def test_who_has_agreed_and_opens_more_is_sent_away(start, feeding):
    """§5.1.2: a stream error, of which nghttp2 makes one of the connection (§5.4.1)."""
    app = App()
    async with Host(app, http2_max_concurrent_streams=3) as host:
        raw = host.raw(start, feeding)
        raw.send(*[head(id_, pseudo("GET", "/stay")) for id_ in (1, 3, 5, 7)])
        await raw.until(lambda: raw.closed)
        assert raw.goaway == (5, ErrorCodes.PROTOCOL_ERROR)
        assert app.paths == ["/stay"] * 3
        await raw.until(lambda: host.factory.in_flight == 0, "the apps to hear of it")
        assert host.take_fault(0, "PROTOCOL_ERROR").endswith("max concurrent streams exceeded")


@every_start
@pytest.mark.parametrize(("length", "goaway"), [(20_000, None), (20_001, (1, ErrorCodes.FRAME_SIZE_ERROR))])
async def test_the_frame_size_is_that_of_the_setting(length, goaway, start):
    """§4.2"""
    async with Host(App(), http2_max_frame_size=20_000) as host:
        raw = host.raw(start, whole)
        raw.send(head(1, pseudo("POST", "/body"), END_HEADERS), frame(DATA, END_STREAM, 1, bytes(length)))
        await raw.until(lambda: raw.closed or raw.streams[1].ended)
        assert raw.goaway == goaway
        assert goaway is None or host.take_fault(0, "FRAME_SIZE_ERROR") == "too large frame size"


@every_start
@every_feeding
async def test_the_clients_goaway(start, feeding):
    """§6.8: what it began is answered; then the connection is closed."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send)

    async with Host(app) as host:
        raw = host.raw(start, feeding)
        raw.send(
            head(1, pseudo()), head(3, pseudo()), frame(GOAWAY, 0, 0, number(0) + number(0) + b"good bye")
        )
        await raw.settle()
        assert not raw.closed
        go.set()
        await raw.until(lambda: raw.streams[1].ended and raw.streams[3].ended)
        assert (raw.streams[1].body, raw.streams[3].body) == (b"ok", b"ok")
        await raw.until(lambda: raw.closed, "the end behind the last answer")


# HPACK (RFC 7541)


@every_start
@every_feeding
async def test_the_tables_stay_in_step(start, feeding):
    """§4.3: also the blocks of streams that are refused or over are decoded, so the next one means the same.

    One encoder makes them all.
    """
    seen: list[list[bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append([name for name, _ in scope["headers"][1:]])
        while scope["path"] == "/stay" and (await receive())["type"] != "http.disconnect":
            pass
        if scope["path"] != "/stay":
            await reply(send)

    encoder = hpack.Encoder()

    def headers(stream: int, path: str, *names: bytes) -> bytes:
        fields = [*pseudo("GET", path), *[(name, name * 2) for name in names]]
        return frame(HEADERS, END_STREAM | END_HEADERS, stream, encoder.encode(fields))

    async with Host(app, http2_max_concurrent_streams=1) as host:
        raw = host.raw(start, feeding, PREFACE + settings())
        raw.send(headers(1, "/stay", b"x-a"), headers(3, "/refused", b"x-b"))
        await raw.until(lambda: raw.streams[3].reset == ErrorCodes.REFUSED_STREAM)
        raw.send(frame(RST_STREAM, 0, 1, number(8)), headers(1, "/late", b"x-c"))
        await raw.until(lambda: host.factory.in_flight == 0)
        raw.send(headers(5, "/all", b"x-a", b"x-b", b"x-c"))
        await raw.until(lambda: raw.streams[5].ended)
        assert seen == [[b"x-a"], [b"x-a", b"x-b", b"x-c"]]


@every_start
@every_feeding
@pytest.mark.parametrize("size", [0, 100, 4096, 65536])
async def test_the_clients_table_size(size, start, feeding):
    """§4.2: the server's encoder keeps to what the client can hold; hpack would not read anything else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"ok", headers=[(b"x-%d" % i, b"v" * 20) for i in range(20)])

    async with Host(app) as host:
        client = host.connect(start, feeding, settings={HEADER_TABLE_SIZE: size})
        for _ in range(4):
            stream = await client.ask()
            assert stream.all(b"x-19") == [b"v" * 20]


@every_start
async def test_a_table_that_shrinks_on_the_way(start):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"ok", headers=[(b"x-%d" % i, b"v" * 20) for i in range(20)])

    async with Host(app) as host:
        client = host.connect(start)
        for size in (4096, 60, 0, 1000, 4096):
            client.change({HEADER_TABLE_SIZE: size})
            for _ in range(2):
                assert (await client.ask()).all(b"x-19") == [b"v" * 20]


@every_start
@every_feeding
async def test_fields_in_every_representation(start, feeding):
    """RFC 7541 §6, Appendix C: indexed, with and without indexing, never indexed, Huffman or not."""
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await reply(send)

    first = (  # C.4.1: GET http / www.example.com, Huffman-encoded, indexed
        bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")
        + b"\x40\x0acustom-key\x0dcustom-header"  # C.2.1
        + b"\x00\x01a\x011" + b"\x10\x01b\x012"  # C.2.2, C.2.3
    )  # fmt: skip
    second = bytes.fromhex("828684bfbe") + bytes.fromhex("5886a8eb10649cbf")  # C.4.2
    async with Host(app) as host:
        raw = host.raw(start, feeding)
        raw.send(frame(HEADERS, 5, 1, first), frame(HEADERS, 5, 3, b"\x3f\xe1\x1f" + second))
        await raw.until(lambda: raw.streams[3].ended)
        host_field = (b"host", b"www.example.com")
        custom = (b"custom-key", b"custom-header")
        assert seen == [
            [host_field, custom, (b"a", b"1"), (b"b", b"2")],
            [host_field, custom, (b"cache-control", b"no-cache")],
        ]
