"""What a WebSocket's client may take: size, fragments, and memory, whatever it floods us with.

Rules of this file: a limit of N lets N pass and refuses N + 1, as early as it can be known. Memory is that of
this process, so a bound on it is generous; what it has to tell apart is some MiB from a hundred.
"""

from __future__ import annotations

import itertools
import random
import zlib

import pytest

from tests.helpers.http1 import until
from tests.helpers.ws import (
    BINARY,
    CONTINUATION,
    TEXT,
    binary,
    deflated,
    echo,
    frame,
    inflated,
    ping,
    text,
)
from tests.helpers.ws_peer import (
    MEBIBYTE,
    Peak,
    Sender,
    Slow,
    blocked_by,
    connect,
    failed,
    fragments,
    header,
    large,
    limited,
    narrow,
    pieces_of,
)

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"
SIZES = [1, 2, 125, 126, 127, 1000, 65535, 65536, MEBIBYTE]
# What a flood may cost: buffers of both ends, in this one process, and what the allocator keeps.
FEW = 24 * MEBIBYTE


def squeezed(payload: bytes) -> bytes:
    """A whole compressed text message."""
    return large(TEXT, deflated(payload), rsv=4)


# The size of a message


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_a_message_as_large_as_allowed_arrives(serve, size, kind):
    ws = connect(serve(echo, **limited(ws_max_size_bytes=size)))
    data = b"x" * size
    for _ in range(2):
        with Sender(ws, large(kind, data)):
            assert ws.read_frame().payload == data
    ws.finish()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_one_byte_more_is_refused_by_its_header(serve, heard, size, kind):
    """The payload is not waited for."""
    server = serve(heard, **limited(ws_max_size_bytes=size))
    ws = connect(server)
    ws.send(large(kind, b"x" * size), header(kind, size + 1))
    failed(server, ws, 1009)
    assert len(heard.data()) == 1
    assert heard.end()["code"] == 1009


@pytest.mark.parametrize("parts", [[1000], [500, 500], [999, 1], [0, 1000, 0], [1] * 1000])
def test_fragments_that_add_up_to_the_limit_arrive(serve, heard, parts):
    ws = connect(serve(heard, **limited(ws_max_size_bytes=1000)))
    ws.send(*fragments(TEXT, [b"x" * part for part in parts]))
    ws.send(*fragments(BINARY, [b"y" * part for part in parts]))
    ws.finish()
    assert heard.data() == ["x" * 1000, b"y" * 1000]


@pytest.mark.parametrize("parts", [[1000, 1], [500, 501], [0, 1001], [999, 2], [1] * 1001])
def test_fragments_that_add_up_to_more_are_refused_by_the_last_header(serve, heard, parts):
    server = serve(heard, **limited(ws_max_size_bytes=1000))
    ws = connect(server)
    *before, last = parts
    ws.send(*[frame(CONTINUATION if at else TEXT, b"x" * part, fin=False) for at, part in enumerate(before)])
    ws.send(header(CONTINUATION, last))
    failed(server, ws, 1009)
    assert heard.data() == []


def test_what_is_left_of_the_limit_is_not_for_control_frames(serve, heard):
    ws = connect(serve(heard, **limited(ws_max_size_bytes=100)))
    ws.send(frame(TEXT, b"x" * 99, fin=False), ping(b"y" * 125), frame(CONTINUATION, b"x"))
    assert ws.read_pong() == b"y" * 125
    ws.finish()
    assert heard.data() == ["x" * 100]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [16 * MEBIBYTE + 1, 1 << 30, 1 << 40, (1 << 63) - 1])
def test_a_length_of_a_gibibyte_and_more(serve, heard, opcode, length):
    """CVE-2026-44545: with the limit that users have, nothing is kept for it."""
    server = serve(heard)
    ws = connect(server)
    with Peak() as peak:
        ws.send(header(opcode, length) + b"x" * 10_000)
        failed(server, ws, 1009)
    assert peak.bytes < FEW
    assert heard.data() == []


@pytest.mark.parametrize("length", [1 << 30, 1 << 45, (1 << 63) - 1])
def test_a_length_alone_takes_no_memory(serve, heard, length):
    """Without a limit, too, there is only room for what has come."""
    server = serve(heard, **limited(ws_max_size_bytes=0))
    ws = connect(server)
    with Peak() as peak:
        ws.send(header(BINARY, length) + b"x" * MEBIBYTE)
        ws.client.half_close()
        ws.assert_closed()
    assert peak.bytes < FEW
    assert heard.data() == []
    assert heard.end()["code"] == 1006


def test_no_limit(serve):
    data = random.Random(0).randbytes(20 * MEBIBYTE)
    ws = connect(serve(echo, **limited(ws_max_size_bytes=0)))
    with Sender(ws, large(BINARY, data)):
        assert ws.read_binary() == data
    with Sender(ws, b"".join(fragments(BINARY, pieces_of(data, MEBIBYTE)))):
        assert ws.read_binary() == data
    ws.finish()


def test_a_message_that_never_ends(serve, heard):
    server = serve(heard, **limited(ws_max_size_bytes=MEBIBYTE))
    ws = connect(server)
    flood = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * 8192, fin=False) * 5000
    with Peak() as peak:
        with Sender(ws, flood):
            code, _ = ws.read_close()
            assert code == 1009
            ws.assert_closed()
        ws.client.close()
    assert peak.bytes < FEW
    assert [reject.status for reject in server.take_rejects()] == [1009]
    assert heard.data() == []


def test_an_oversized_frame_is_refused_though_it_comes_whole(serve, heard):
    """And the close frame arrives, whatever still comes."""
    server = serve(heard, **limited(ws_max_size_bytes=1000))
    ws = connect(server)
    with Sender(ws, large(BINARY, b"x" * (8 * MEBIBYTE))):
        code, _ = ws.read_close()
        assert code == 1009
        ws.assert_closed()
    ws.client.close()
    assert [reject.status for reject in server.take_rejects()] == [1009]


# The number of fragments


@pytest.mark.parametrize("limit", [1, 2, 10, 1000])
def test_as_many_fragments_as_allowed(serve, heard, limit):
    ws = connect(serve(heard, **limited(ws_max_fragments=limit)))
    for _ in range(2):
        ws.send(*fragments(TEXT, [b"x"] * limit))
        ws.send(*fragments(BINARY, [b""] * limit))
    ws.finish()
    assert heard.data() == ["x" * limit, b""] * 2


@pytest.mark.parametrize("limit", [1, 2, 10, 1000])
@pytest.mark.parametrize("piece", [b"", b"x"])
@pytest.mark.parametrize("fin", [False, True])
def test_one_fragment_more(serve, heard, limit, piece, fin):
    server = serve(heard, **limited(ws_max_fragments=limit))
    ws = connect(server)
    ws.send(*[frame(CONTINUATION if at else TEXT, piece, fin=False) for at in range(limit)])
    ws.assert_no_frame()
    ws.send(frame(CONTINUATION, piece, fin=fin))
    failed(server, ws, 1008)
    assert heard.data() == []
    assert heard.end()["code"] == 1008


@pytest.mark.parametrize("piece", [b"", b"x"])
def test_a_flood_of_tiny_fragments(serve, heard, piece):
    """131,000 of them, with the limits that users have (CVE-2026-48779 and its kin)."""
    server = serve(heard)
    ws = connect(server)
    flood = frame(TEXT, piece, fin=False) + frame(CONTINUATION, piece, fin=False) * 131_000
    with Peak() as peak:
        with Sender(ws, flood):
            code, _ = ws.read_close()
            assert code == 1008
            ws.assert_closed()
        ws.client.close()
    assert peak.bytes < FEW
    assert [reject.status for reject in server.take_rejects()] == [1008]
    assert heard.data() == []


# Floods of what is allowed


def test_pings_whose_answers_nobody_reads(serve, heard):
    """The client has to wait; and once it reads, every one of them is answered, in order."""
    ws = narrow(serve(heard))
    numbers = itertools.count()

    def some() -> bytes:
        return b"".join(ping(b"%0125d" % next(numbers)) for _ in range(100))

    with Peak() as peak:
        rest = blocked_by(ws, iter(some, None), most=2 * MEBIBYTE)
    assert peak.bytes < FEW
    with Sender(ws, rest + text("done")):
        for number in range(next(numbers)):
            assert ws.read_pong() == b"%0125d" % number
    ws.finish()
    assert heard.data() == ["done"]


def test_pings_that_are_read_are_answered_for_ever(serve, heard):
    ws = connect(serve(heard))
    with Sender(ws, b"".join(ping(b"%d" % number) for number in range(50_000))):
        for number in range(50_000):
            assert ws.read_pong() == b"%d" % number
    ws.finish()


@pytest.mark.parametrize("message", [text(""), binary(b""), text("x"), binary(b"x" * 125)])
def test_messages_that_nobody_takes(serve, message):
    """The client has to wait, and none is lost."""
    app = Slow()
    server = serve(app)
    ws = narrow(server)
    pieces = 0

    def some() -> bytes:
        nonlocal pieces
        pieces += 1
        return message * 1000

    with Peak() as peak:
        rest = blocked_by(ws, iter(some, None), most=2 * MEBIBYTE)
    assert peak.bytes < FEW
    app.take(server)
    with Sender(ws, rest):
        until(lambda: len(app.messages) == pieces * 1000, "all messages", timeout_s=60)
    assert len(set(app.messages)) == 1
    ws.finish()


def test_pongs_and_empty_fragments_take_nothing(serve, heard):
    ws = connect(serve(heard, **limited(ws_max_fragments=100_000)))
    with Peak() as peak:
        ws.send(frame(TEXT, b"a", fin=False))
        ws.send(frame(0xA, b"x") * 100_000)
        ws.send(frame(CONTINUATION, b"", fin=False) * 99_000)
        ws.assert_no_frame()
    assert peak.bytes < FEW
    ws.send(frame(CONTINUATION, b"b"))
    ws.finish()
    assert heard.data() == ["ab"]


# Compressed


def test_a_bomb_is_not_inflated(serve, heard):
    """Its 100 KB would be 100 MB; the limit is the one that users have (CVE-2018-1000518)."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    squeeze = b"".join(bomb.compress(b"\0" * MEBIBYTE) for _ in range(100)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    server = serve(heard)
    ws = connect(server, DEFLATE)
    with Peak() as peak:
        ws.send(large(BINARY, squeeze.removesuffix(b"\0\0\xff\xff"), rsv=4))
        failed(server, ws, 1009)
    assert peak.bytes < 3 * 16 * MEBIBYTE
    assert heard.data() == []
    assert heard.end()["code"] == 1009


def test_a_small_bomb_is_not_inflated(serve, heard):
    """10 KB that would be 10 MB, where 100 KB are allowed."""
    server = serve(heard, **limited(ws_max_size_bytes=100_000))
    ws = connect(server, DEFLATE)
    with Peak() as peak:
        for _ in range(20):
            ws.send(squeezed(b"x" * (10 * MEBIBYTE)))
            code, _ = ws.read_close()
            assert code == 1009
            ws.assert_closed()
            ws.client.close()
            ws = connect(server, DEFLATE)
    assert peak.bytes < FEW
    assert [reject.status for reject in server.take_rejects(20)] == [1009] * 20
    ws.finish()


@pytest.mark.parametrize("size", [1, 2, 257, 258, 259, 1000, 1023, 1024, 2044, 65536, 100_000])
@pytest.mark.parametrize("kind", ["zeros", "random"])
def test_what_is_inflated_counts_to_the_byte(serve, size, kind):
    server = serve(echo, **limited(ws_max_size_bytes=size))
    data = random.Random(size).randbytes(size + 1) if kind == "random" else b"\0" * (size + 1)
    ws = connect(server, DEFLATE)
    # What cannot be compressed grows a little, and the frame is what the limit looks at first.
    fits = len(deflated(data[:size])) <= size
    if fits:
        ws.send(large(BINARY, deflated(data[:size]), rsv=4))
        found = ws.read_frame()
        assert (inflated(found.payload, 12) if found.rsv else found.payload) == data[:size]
    ws.send(large(BINARY, deflated(data), rsv=4))
    failed(server, ws, 1009)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 400])
def test_compressed_fragments_add_up(serve, heard, count):
    """However the compressed bytes are divided: the limit is on what comes out of them."""
    server = serve(heard, **limited(ws_max_size_bytes=100_000))
    for size, code in ((100_000, None), (100_001, 1009), (5 * MEBIBYTE, 1009)):
        data = (b"%06d." * (size // 7 + 1) % tuple(range(size // 7 + 1)))[:size]
        raw = deflated(data)
        ws = connect(server, DEFLATE)
        if len(raw) > 100_000:  # the fragments alone are too much
            raw = deflated(b"\0" * size)
        ws.send(*fragments(BINARY, pieces_of(raw, -(-len(raw) // count)), rsv=4))
        if code is None:
            ws.assert_no_frame()
            assert heard.messages.pop()["bytes"] == data
            ws.finish()
            heard.messages.clear()
        else:
            failed(server, ws, code)
            assert heard.data() == []
            heard.messages.clear()


def test_nothing_more_is_inflated_where_nothing_is_left(serve, heard):
    """A limit that earlier fragments used up is 0 bytes, not none."""
    server = serve(heard, **limited(ws_max_size_bytes=1000))
    raw = deflated(b"\0" * 1000)
    more = deflated(b"\0" * MEBIBYTE)
    for last in (b"", more[:1], more):
        ws = connect(server, DEFLATE)
        flushed = raw + b"\0\0\xff\xff"  # so that all 1000 are there
        ws.send(frame(BINARY, flushed, fin=False, rsv=4), frame(CONTINUATION, last))
        if last:
            failed(server, ws, 1009)
            assert heard.data() == []
        else:
            ws.finish()
            assert heard.data() == [b"\0" * 1000]
        heard.messages.clear()


def test_the_bomb_of_one_connection_is_not_that_of_the_next(serve):
    """The zlib object that choked on one message is not used for another."""
    server = serve(echo, **limited(ws_max_size_bytes=10_000))
    good = connect(server, DEFLATE)
    for _ in range(10):
        bad = connect(server, DEFLATE)
        bad.send(squeezed(b"x" * 100_000))
        failed(server, bad, 1009)
        good.send(squeezed(b"short"))
        assert good.read_text() == "short"
    good.finish()
