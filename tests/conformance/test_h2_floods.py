"""HTTP/2 clients that send much of what costs them little: they are sent away before it costs us more.

Rules of this file: nothing says how fast anything is. What is counted is what a flood can cost: streams that
apps are run for, frames that are answered, bytes that are held; and what a bucket may have leaked in the time
that the test took is allowed for. Each flood has a counterpart that is no flood, and is served.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.helpers.h2_attacks import (
    BAD_BLOCKS,
    CONTINUATIONS,
    CONTROL,
    FIRST_DYNAMIC,
    FLOODS,
    FRAME_BYTES,
    GET,
    HELLO,
    IGNORED,
    LARGEST_WINDOW,
    OPEN,
    PREFACE,
    RESETS,
    STREAMS,
    Code,
    Kind,
    Setting,
    block,
    data,
    field,
    frame,
    headers,
    indexed,
    long_block,
    ping,
    priority_update,
    request,
    rst_stream,
    settings,
    table_size,
    window_update,
)
from tests.helpers.h2_victim import CONTROLS, CONTROLS_PER_S, READ_BYTES, RESETS_PER_S, Busy, Unread, Victim
from tests.helpers.h2_victim import RESETS as RESETS_ALLOWED
from tests.helpers.h2_victim import STREAMS as STREAMS_ALLOWED
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws_peer import MEBIBYTE, Peak

pytestmark = needs_nghttp2

EVERYTHING_AT_ONCE = 1 << 30
A_STREAM_EACH = 1
AS_THEY_COME = READ_BYTES
LARGER_THAN_A_TABLE_ENTRY = 4096 - 32


# Streams that are reset


@pytest.mark.parametrize("read_bytes", [A_STREAM_EACH, AS_THEY_COME, EVERYTHING_AT_ONCE])
@pytest.mark.parametrize("name", RESETS)
async def test_a_flood_of_resets_is_ended(name, read_bytes):
    """By the client's own RST_STREAM (CVE-2023-44487), or by mistakes that make the server send one
    (CVE-2025-8671). In whatever pieces it comes: so many, and not one more, are taken.
    """
    async with Victim() as victim:
        await victim.hello()
        await victim.feed(RESETS[name](), read_bytes=read_bytes)
        if read_bytes == A_STREAM_EACH or name.startswith("rapid"):
            victim.calmed()
            taken = (victim.answers.goaways[-1].last_stream + 1) // 2
            # In one read those that were reset count until it is worked off, and another one is a reset, too.
            assert taken >= (RESETS_ALLOWED if read_bytes == A_STREAM_EACH else STREAMS_ALLOWED)
        else:
            # Those of one read are open until it is worked off: too many of them are a mistake of their own.
            assert victim.answers.code in (Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR)
            taken = (victim.answers.goaways[-1].last_stream + 1) // 2
            assert taken >= STREAMS_ALLOWED
            assert len(victim.reports()) <= 1
        assert taken <= RESETS_ALLOWED + 1 + victim.leaked(RESETS_PER_S)
        assert len(victim.faults()) <= taken
        assert victim.app.begun <= taken
        assert victim.app.most <= STREAMS_ALLOWED
        assert victim.answers.frames[Kind.RST_STREAM] <= taken
        await victim.serves_others()


@pytest.mark.parametrize("path", [b"/deaf", b"/hang"])
async def test_apps_of_streams_that_were_reset_count_until_they_end(path):
    """However quickly a client asks and resets, no more of its apps run than it may have streams."""
    app = Busy()
    async with Victim(app, http2_max_concurrent_streams=8) as victim:
        await victim.hello()
        for stream in range(1, 121, 2):
            await victim.feed([request(stream, path=path)], turning=1)
            await victim.feed([rst_stream(stream)], turning=1)
        assert not victim.over
        assert app.most <= 8
        assert app.running == app.begun == 8
        app.go.set()
        await victim.say()
        await victim.lives(121)
        assert app.running == 0


async def test_a_stream_beyond_those_is_refused():
    """REFUSED_STREAM: the client may ask again (RFC 9113 §8.7)."""
    app = Busy()
    async with Victim(app, http2_max_concurrent_streams=8) as victim:
        await victim.hello()
        for stream in range(1, 17, 2):
            await victim.say(request(stream, path=b"/deaf"))
            await victim.say(rst_stream(stream))
        assert app.running == 8
        await victim.say(request(17))
        assert victim.answers.resets == {17: Code.REFUSED_STREAM}
        app.go.set()
        await victim.say()
        await victim.lives(19)
        assert victim.reports() == []


async def test_a_client_may_change_its_mind():
    """A browser that leaves a page resets all that it waits for. It may do that, though not all the time."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        first = 1
        for _ in range(2):
            asked = range(first, first + 2 * 90, 2)
            await victim.feed(request(stream, path=b"/listen") for stream in asked)
            await victim.feed(rst_stream(stream) for stream in asked)
            first = asked[-1] + 2
        assert app.messages == ["http.disconnect"] * 180
        await victim.lives(first)
        assert victim.reports() == []


async def test_resets_of_what_is_answered_are_no_flood():
    """They crossed the answer on its way (RFC 9113 §5.1, "closed")."""
    async with Victim() as victim:
        await victim.hello()
        count = RESETS_ALLOWED * 2
        for stream in range(1, 2 * count, 2):
            await victim.feed([request(stream)], turning=1)
            await victim.feed([rst_stream(stream)], turning=1)
        assert set(victim.answers.statuses.values()) == {200}
        assert len(victim.answers.ended) == count
        await victim.lives(2 * count + 1)
        assert victim.reports() == []


# Frames of the connection


@pytest.mark.parametrize("name", CONTROL)
async def test_a_flood_of_control_frames_is_ended(name):
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        pieces = list(CONTROL[name]())
        size = len(pieces[-1])
        await victim.feed(pieces, read_bytes=10 * size)
        victim.calmed()
        frames = victim.fed // size
        assert CONTROLS <= frames <= CONTROLS + 50 + victim.leaked(CONTROLS_PER_S)
        assert victim.answers.bytes <= 64 * frames
        assert app.begun <= 1
        await victim.serves_others()


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_in_one_read_is_not_worked_off(name):
    """What comes behind the frame that was one too many is not looked at."""
    async with Victim() as victim:
        await victim.hello()
        await victim.feed(FLOODS[name](), read_bytes=EVERYTHING_AT_ONCE)
        assert victim.over
        assert victim.answers.code in (Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR)
        answered = sum(victim.answers.frames.values())
        assert answered <= CONTROLS + 50 + victim.leaked(CONTROLS_PER_S)


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_one_who_does_not_read_is_ended(name):
    """Whatever was to be said to it: little of it is held."""
    async with Victim(transport=Unread()) as victim:
        victim.connection.data_received(HELLO)
        await victim.feed(FLOODS[name]())
        assert victim.over or victim.wants_nothing
        assert victim.transport.unread < 128 << 10
        assert len(victim.reports()) <= 1


async def test_requests_of_one_who_does_not_read():
    """They are answered when it reads. Until then there are as many as it may have streams."""
    app = Busy()
    async with Victim(app, transport=Unread()) as victim:
        victim.connection.data_received(HELLO)
        with Peak() as peak:
            await victim.feed(request(stream) for stream in range(1, 200_001, 2))
        assert victim.transport.unread < 256 << 10
        assert peak.bytes < 8 * MEBIBYTE
        # So many answers before the transport had had enough, and those of the read in which it had.
        assert (
            app.begun <= (Unread.high_bytes + 16384) // 20 + READ_BYTES // len(request(1)) + STREAMS_ALLOWED
        )


COURTEOUS = {
    "pings": [ping()] * 900,
    "settings": [settings((Setting.INITIAL_WINDOW_SIZE, 65535))] * 900,
    "priorities": [priority_update(1)] * 900,
    "window updates": [window_update(0, 10)] * 900,
}


@pytest.mark.parametrize("name", COURTEOUS)
async def test_what_is_no_flood_yet(name):
    async with Victim() as victim:
        await victim.hello()
        await victim.feed(COURTEOUS[name])
        await victim.lives(1)
        assert victim.reports() == []


async def test_window_updates_of_much_are_no_flood():
    """A client that downloads gives back what it has read: that is no trifle."""
    async with Victim() as victim:
        await victim.hello()
        await victim.feed([request(1, path=b"/endless")])
        wanted = 0
        for _ in range(CONTROLS * 2):
            wanted += 16384
            while victim.answers.data[1] < wanted:
                await victim.say()
            await victim.feed([window_update(0, 16384), window_update(1, 16384)])
            assert not victim.over
        assert victim.reports() == []
        await victim.say(rst_stream(1))


async def test_one_frame_of_many_settings_is_ended():
    """Each changes the window of each stream: 2,700 in a frame, for the price of one."""
    async with Victim() as victim:
        await victim.hello()
        await victim.feed([request(stream, path=b"/deaf") for stream in range(1, 201, 2)])
        many = [(Setting.INITIAL_WINDOW_SIZE, number % 2) for number in range(FRAME_BYTES // 6)]
        await victim.say(settings(*many))
        assert victim.answers.code in (Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR)
        assert victim.over
        await victim.serves_others()


@pytest.mark.parametrize("name", IGNORED)
async def test_frames_that_mean_nothing_cost_nothing(name):
    """They are never answered, and nothing is kept of them. RFC 7540's priorities are among them."""
    async with Victim() as victim:
        await victim.hello()
        await victim.feed(itertools.islice(IGNORED[name](), 1))
        heard = victim.answers.bytes
        with Peak() as peak:
            await victim.feed(itertools.islice(IGNORED[name](), 1, None))
        assert peak.bytes < 2 * MEBIBYTE
        assert victim.answers.bytes == heard
        await victim.lives(99_999)
        assert victim.reports() == []


async def test_acknowledgements_of_nothing():
    """Of a SETTINGS that was not sent: the end. Of a PING that was not sent: ignored, up to a flood."""
    async with Victim() as victim:
        await victim.hello()
        await victim.feed([ping(ack=True)] * 500)
        await victim.lives(1)
        await victim.say(frame(Kind.SETTINGS, 1))
        assert victim.answers.code == Code.PROTOCOL_ERROR
        assert victim.over


# Header blocks


@pytest.mark.parametrize("read_bytes", [AS_THEY_COME, EVERYTHING_AT_ONCE])
@pytest.mark.parametrize("name", CONTINUATIONS)
async def test_a_flood_of_continuations_is_ended(name, read_bytes):
    """VU#421644: HEADERS without END_HEADERS, and no end of what continues them."""
    async with Victim() as victim:
        await victim.hello()
        with Peak() as peak:
            await victim.feed(CONTINUATIONS[name](), read_bytes=read_bytes)
        assert victim.over
        assert victim.answers.code not in (None, Code.NO_ERROR)
        assert read_bytes > READ_BYTES or victim.fed <= 16 * (READ_BYTES + FRAME_BYTES)
        assert peak.bytes < 6 * MEBIBYTE
        assert victim.app.begun == 0
        assert len(victim.reports()) == 1 or victim.answers.code == Code.COMPRESSION_ERROR
        await victim.serves_others()


async def test_a_header_block_may_be_continued():
    """A few times, as long fields need it."""
    async with Victim() as victim:
        await victim.hello()
        await victim.say(long_block(1, block((b"x-a", b"y" * 40_000))))
        assert victim.answers.statuses == {1: 200}
        await victim.say(long_block(3, block((b"x-a", b"y" * 600)), size=100))
        assert victim.answers.statuses == {1: 200, 3: 200}


@pytest.mark.parametrize("name", BAD_BLOCKS)
async def test_a_header_block_that_cannot_be_decoded_ends_the_connection(name):
    """COMPRESSION_ERROR (RFC 9113 §4.3): nobody could read what comes behind it."""
    piece = BAD_BLOCKS[name]
    async with Victim() as victim:
        await victim.hello()
        with Peak() as peak:
            await victim.say(headers(1, piece + GET if name.startswith("table") else GET + piece))
        assert victim.answers.code == Code.COMPRESSION_ERROR
        assert victim.over
        assert victim.app.begun == 0
        assert peak.bytes < 4 * MEBIBYTE
        assert len(victim.reports()) <= 1
        await victim.serves_others()


def bomb(stream: int, name: bytes, count: int) -> bytes:
    """A field that nearly fills the dynamic table, and a byte for each time that it is said again."""
    value = b"v" * (LARGER_THAN_A_TABLE_ENTRY - len(name))
    return long_block(stream, GET + field(name, value, indexed=True) + indexed(FIRST_DYNAMIC) * count)


@pytest.mark.parametrize("name", [b"x", b"cookie", b"content-length", b"host", b"te"])
async def test_a_bomb_is_not_unpacked(name):
    """12,000 bytes that say 48 MB. Nothing is gathered beyond what a header list may be."""
    async with Victim() as victim:
        await victim.hello()
        with Peak() as peak:
            for stream in range(1, 21, 2):
                await victim.say(bomb(stream, name, 12_000))
        assert victim.app.begun == 0
        assert peak.bytes < 4 * MEBIBYTE
        refused = victim.answers.statuses or victim.answers.resets
        assert len(refused) == 10
        assert set(refused.values()) <= {431, 400, Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM}
        await victim.lives(21)


async def test_a_bomb_in_trailers_is_not_unpacked():
    value = b"v" * (LARGER_THAN_A_TABLE_ENTRY - 1)
    async with Victim() as victim:
        await victim.hello()
        with Peak() as peak:
            for stream in range(1, 21, 2):
                trailers = field(b"x", value, indexed=True) + indexed(FIRST_DYNAMIC) * 12_000
                await victim.say(
                    request(stream, end=False, method=b"POST", path=b"/upload") + long_block(stream, trailers)
                )
        assert peak.bytes < 4 * MEBIBYTE
        await victim.lives(21)


async def test_what_fits_the_header_list_may_be_repeated():
    """The same means, within the limit: 14 fields of 4 KB for the price of one."""
    async with Victim() as victim:
        await victim.hello()
        await victim.say(bomb(1, b"x", 13))
        assert victim.answers.statuses == {1: 200}
        assert sum(len(value) for _, value in victim.app.fields[0]) > 50_000


LISTS = {
    "one field": block((b"x", b"y" * 65_500)),
    "fields": block(*[(b"x-%d" % number, b"y" * 4000) for number in range(17)]),
    "many": block(*[(b"x", b"y")] * 101),
    "tiny": GET + field(b"x", b"") * 3000,
    "cookies": block(*[(b"cookie", b"a=1")] * 3000),
}


@pytest.mark.parametrize("name", LISTS)
async def test_a_header_list_that_is_too_large_is_refused(name):
    """431 in the app's place; the connection and its table live."""
    async with Victim() as victim:
        await victim.hello()
        await victim.say(long_block(1, LISTS[name]))
        assert victim.answers.statuses == {1: 431}
        assert victim.app.begun == 0
        ((status, _),) = victim.reports()
        assert status == 431
        await victim.lives(3)


async def test_changes_of_the_header_table_in_a_block():
    """RFC 7541 §4.2 needs two of them at most. Any number is only bytes."""
    async with Victim() as victim:
        await victim.hello()
        await victim.say(headers(1, table_size(0) + table_size(4096) + GET))
        assert victim.answers.statuses == {1: 200}
        with Peak() as peak:
            await victim.say(headers(3, (table_size(0) + table_size(4096)) * 3000 + GET))
        assert peak.bytes < MEBIBYTE
        if not victim.over:
            await victim.lives(5)


async def test_our_header_table_follows_the_client():
    """What it says of its own is obeyed each time: an oracle reads all the answers (RFC 7541 §4.2)."""
    async with Victim() as victim:
        await victim.hello()
        for number, size in enumerate([0, 4096, 0, 1 << 31, 100, (1 << 32) - 1, 0, 65536] * 8):
            await victim.say(settings((Setting.HEADER_TABLE_SIZE, size)), request(2 * number + 1))
        assert list(victim.answers.statuses.values()) == [200] * 64
        assert not victim.over


# Bodies


@pytest.mark.parametrize("padding", [None, 0])
async def test_a_body_in_small_pieces_costs_no_more_than_its_windows(padding):
    """Two bytes are 11 on their way, and would be 50 as an object of their own: they are not kept as one."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        open_streams = range(1, 9, 2)
        await victim.say(*[request(one, end=False, method=b"POST", path=b"/hang") for one in open_streams])
        assert app.running == 4
        drop = {one: data(one, b"xy", padding=padding) for one in open_streams}
        each = 131_072 if padding is None else 87_381  # as many as the windows allow
        with Peak() as peak:
            await victim.feed(drop[one] * 1000 for one in open_streams for _ in range(each // 1000))
        assert victim.over or peak.bytes < 12 * MEBIBYTE
        assert peak.bytes < 32 * MEBIBYTE


async def test_more_body_than_a_window_holds():
    """FLOW_CONTROL_ERROR, of the stream or of the connection (RFC 9113 §6.9.1); what came is not kept."""
    async with Victim(http2_initial_stream_window_size=65535) as victim:
        await victim.hello()
        await victim.feed(
            [request(1, end=False, method=b"POST", path=b"/hang"), *[data(1, b"x" * FRAME_BYTES)] * 5]
        )
        codes = {*victim.answers.resets.values(), victim.answers.code}
        assert Code.FLOW_CONTROL_ERROR in codes
        await victim.serves_others()


async def test_an_upload_is_taken_whole():
    """In DATA frames of every size, many of them small."""

    def pieces() -> Iterator[bytes]:
        for size in [1] * 1000 + [100] * 1000 + [10_000] * 10:
            yield data(1, b"x" * size)

    async with Victim() as victim:
        await victim.hello()
        await victim.feed([OPEN, *pieces(), data(1, end=True)])
        assert victim.answers.statuses == {1: 200}
        assert victim.answers.begins[1] == b"201000"
        assert victim.reports() == []


# Beginnings


async def test_nothing_is_held_of_a_preface_without_an_end():
    """It is not the preface once one byte of it is another."""
    async with Victim() as victim:
        await victim.feed([PREFACE[:-1]])
        assert not victim.over
        await victim.feed([b"x"])
        await victim.say(settings(), request(1))
        assert victim.app.begun == 0
        assert victim.over


@pytest.mark.parametrize("first", [request(1), ping(), window_update(0, LARGEST_WINDOW - 65535), OPEN])
async def test_the_first_frame_has_to_be_settings(first):
    """RFC 9113 §3.4."""
    async with Victim() as victim:
        await victim.say(PREFACE + first)
        assert victim.answers.code == Code.PROTOCOL_ERROR
        assert victim.over
        assert victim.app.begun == 0


async def test_a_flood_counts_for_its_connection():
    """Others of the same worker have buckets of their own."""
    async with Victim() as victim:
        await victim.hello()
        async with victim.other() as other:
            await other.hello()
            await other.feed([ping()] * 600)
            await victim.feed([ping()] * 600)
            await other.lives(1)
            await victim.lives(1)
    assert victim.reports() == []


async def test_many_streams_are_no_flood():
    """Streams that are answered cost what requests cost: 10,000 on one connection are served."""
    async with Victim() as victim:
        await victim.hello()
        await victim.feed((headers(stream, GET) for stream in range(1, 2 * STREAMS, 2)), read_bytes=4096)
        assert victim.answers.statuses == dict.fromkeys(range(1, 2 * STREAMS, 2), 200)
        assert victim.reports() == []
