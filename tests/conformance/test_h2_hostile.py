"""HTTP/2 clients that break a rule, or use one against us: what each costs itself, and nobody else.

Rules of this file: what is malformed never reaches an app, and ends its stream; what leaves nobody knowing
what comes next ends the connection, with the code of RFC 9113; either way the worker serves others, and the
log has one line at most, in clear text. tests/conformance/test_h2_floods.py is about doing it often,
test_h2_deadlines.py about taking long.
"""

from __future__ import annotations

import random

import pytest

from tests.helpers.h2_attacks import (
    ENDS,
    FRAME_BYTES,
    GET,
    HELLO,
    LARGEST_WINDOW,
    LAST_STREAM,
    LENGTH,
    MALFORMED,
    OPEN,
    PREFACE,
    SETTINGS_ACK,
    Code,
    Kind,
    Setting,
    block,
    data,
    field,
    frame,
    headers,
    long_block,
    ping,
    priority_update,
    request,
    rst_stream,
    settings,
    window_update,
)
from tests.helpers.h2_victim import PIECE, STREAMS, Busy, Victim
from tests.helpers.http1 import get
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws_peer import KIBIBYTE, MEBIBYTE, Peak

pytestmark = needs_nghttp2

WHOLE = 1 << 30
HIGH_BYTES = 64 * KIBIBYTE


# The end of the connection


@pytest.mark.parametrize("read_bytes", [1, WHOLE], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("name", ENDS)
async def test_a_mistake_of_the_connection_ends_it(name, read_bytes):
    piece, code = ENDS[name]
    async with Victim() as victim:
        await victim.hello()
        pieces = [piece] if read_bytes == WHOLE else [piece[at : at + 1] for at in range(len(piece))]
        await victim.feed(pieces, read_bytes=read_bytes, turning=1)
        await victim.say()
        # nghttp2 counts each read of a CONTINUATION's header, and allows eight.
        many = {Code.ENHANCE_YOUR_CALM} if read_bytes == 1 and name.startswith("6.10") else set()
        assert victim.answers.code in {code} | many
        assert victim.over
        assert victim.app.begun == (1 if piece.startswith(OPEN) else 0)
        assert len(victim.reports()) <= 1
        assert all(reason.isprintable() for _, reason in victim.reports())
        await victim.serves_others()


@pytest.mark.parametrize("name", ENDS)
async def test_nothing_behind_it_is_looked_at(name):
    async with Victim() as victim:
        await victim.hello()
        await victim.say(ENDS[name][0], request(101), ping())
        assert victim.over
        assert 101 not in victim.answers.statuses
        assert victim.app.begun <= 1


async def test_the_apps_of_a_connection_that_is_ended_hear_of_it():
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        await victim.say(*[request(stream, path=b"/listen") for stream in range(1, 21, 2)])
        assert app.running == 10
        await victim.say(ping(b"1234567"))
        assert app.messages == ["http.disconnect"] * 10
        assert app.running == 0


# The end of a stream


async def refused(victim: Victim, *pieces: bytes, allowed: tuple[int, ...] = ()) -> None:
    """The request on stream 1 reaches no app: it is malformed, or is answered with one of these statuses."""
    await victim.hello()
    await victim.say(*pieces)
    answers = victim.answers
    assert victim.app.begun == 0
    if answers.statuses.get(1) is None or answers.statuses[1] not in allowed:
        assert answers.statuses == {}
        assert answers.resets == {1: Code.PROTOCOL_ERROR}
    assert len(victim.reports()) <= 1
    assert all(reason.isprintable() for _, reason in victim.reports())
    await victim.lives(3)


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_ends_its_stream(name):
    """RFC 9113 §8.1.1; for line breaks, spaces and NUL in fields see CVE-2025-57804."""
    async with Victim() as victim:
        await refused(victim, headers(1, MALFORMED[name]))


@pytest.mark.parametrize("name", ["value: a field inside", "transfer-encoding", "path: space", "te"])
async def test_also_with_a_body_behind_it(name):
    """What comes for a stream that was reset is dropped (RFC 9113 §5.1)."""
    smuggled = data(1, b"GET /smuggled HTTP/1.1\r\n\r\n", end=True)
    async with Victim() as victim:
        await refused(victim, headers(1, MALFORMED[name], end=False), smuggled)
        await victim.say(data(1, b"x"), rst_stream(1), window_update(1, 1))
        await victim.lives(5)


ODD = {
    "user information": {"authority": b"user@x"},
    "user and password": {"authority": b"user:password@x"},
    "no authority": {"authority": None},
    "no port behind the colon": {"authority": b"x:y"},
    "fragment": {"path": b"/a#b"},
    "another scheme, and no path": {"scheme": b"gopher", "path": b"smuggled"},
    "another scheme, and a URI": {"scheme": b"gopher", "path": b"http://x/"},
    "CONNECT": {"method": b"CONNECT", "scheme": None, "path": None},
    "CONNECT to a port": {"method": b"CONNECT", "scheme": None, "path": None, "authority": b"x:25"},
    "an unknown protocol": {"method": b"CONNECT", "protocol": b"connect-udp"},
    "a protocol with a line break": {"method": b"CONNECT", "protocol": b"websocket\r\nx: 1"},
}


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_start_line_reaches_no_app(name):
    async with Victim() as victim:
        await refused(victim, request(1, **ODD[name]), allowed=(400, 501))


@pytest.mark.parametrize("host", [b"y", b"x:81", b"x, y", b"user@x", b""])
async def test_a_host_that_is_not_the_authority_is_refused(host):
    """Who routes by the one and who decides by the other would disagree (RFC 9113 §8.3.1)."""
    async with Victim() as victim:
        await refused(victim, request(1, (b"host", host)), allowed=(400,))


async def test_two_hosts_are_refused():
    async with Victim() as victim:
        await refused(victim, request(1, (b"host", b"x"), (b"host", b"y")), allowed=(400,))


async def test_the_scheme_is_the_transports():
    """Whatever the client calls it: an app that asks whether there was TLS must be able to believe it."""
    schemes = []

    async def app(scope, receive, send):
        schemes.append(scope["scheme"])
        await Busy().ok(receive, send)

    async with Victim(app) as victim:
        await victim.hello()
        await victim.say(request(1, scheme=b"https"), request(3, scheme=b"gopher"))
        assert set(schemes) <= {"http"}
        await victim.say(request(5))
        assert schemes[-1] == "http"


async def test_a_path_that_is_too_long_is_refused():
    async with Victim(limit_request_line=100) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/" + b"a" * 100))
        assert victim.answers.statuses == {1: 414}
        assert [status for status, _ in victim.reports()] == [414]
        await victim.lives(3)


# What it says, and what comes.
LIES = {
    "more than it says": (b"5", [b"helloworld"]),
    "more, in pieces": (b"5", [b"hello", b"w"]),
    "less than it says": (b"5", [b"hell"]),
    "none of it": (b"5", [b""]),
    "one where it says none": (b"0", [b"x"]),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", LIES)
async def test_a_body_that_is_not_as_long_as_it_says(name, at_once):
    """No app hears that it was whole (RFC 9113 §8.1.1)."""
    length, pieces = LIES[name]
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        said = [request(1, (LENGTH, length), end=False, method=b"POST", path=b"/upload")]
        said += [data(1, piece) for piece in pieces[:-1]] + [data(1, pieces[-1], end=True)]
        await victim.feed(said, read_bytes=WHOLE if at_once else 1)
        await victim.say()
        assert victim.answers.statuses == {}
        assert victim.answers.resets == {1: Code.PROTOCOL_ERROR}
        assert app.messages == ["http.disconnect"] * app.begun
        await victim.lives(3)


TRAILERS = {
    "a method": field(b":method", b"GET"),
    "a status": field(b":status", b"200"),
    "an upper-case name": field(b"X-A", b"1"),
    "a line break": field(b"x", b"1\r\ny: 2"),
    "transfer-encoding": field(b"transfer-encoding", b"chunked"),
}


@pytest.mark.parametrize("name", TRAILERS)
async def test_malformed_trailers_end_the_stream(name):
    """The app hears of a disconnect, and never that the body was whole."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/upload"), data(1, b"hello"))
        assert app.running == 1
        await victim.say(headers(1, TRAILERS[name]))
        assert victim.answers.resets == {1: Code.PROTOCOL_ERROR}
        assert app.messages == ["http.disconnect"]
        await victim.lives(3)


MADE_TO_RESET = {
    "window too large": (window_update(1, LARGEST_WINDOW), Code.FLOW_CONTROL_ERROR),
    "window by 0": (window_update(1, 0), Code.PROTOCOL_ERROR),
    "depends on itself": (frame(Kind.PRIORITY, 0, 1, (1).to_bytes(4, "big") + b"\0"), Code.PROTOCOL_ERROR),
    "priority of 4 bytes": (frame(Kind.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "headers without an end": (headers(1, field(b"x", b"y"), end=False), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", MADE_TO_RESET)
async def test_an_app_hears_when_its_client_makes_us_reset(name):
    """CVE-2025-8671: a stream that the server resets is gone like any other, and its app is told. Some of
    these are the end of the connection; a priority that is not looked at may be no mistake at all.
    """
    piece, code = MADE_TO_RESET[name]
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/listen"))
        assert app.running == 1
        await victim.say(piece)
        if victim.answers.resets or victim.answers.goaways:
            assert {*victim.answers.resets.values(), victim.answers.code} - {None} == {code}
            assert app.messages == ["http.disconnect"]
        else:
            assert piece[3] == Kind.PRIORITY
        if not victim.over:
            await victim.lives(3)


@pytest.mark.parametrize("piece", [data(1, b"x"), data(1, end=True), headers(1, field(b"x", b"y"))])
async def test_nothing_comes_behind_the_end_of_a_stream(piece):
    """STREAM_CLOSED, of the stream or of the connection (RFC 9113 §5.1)."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/listen"))
        assert app.running == 1
        await victim.say(piece)
        assert {*victim.answers.resets.values(), victim.answers.code} - {None} == {Code.STREAM_CLOSED}
        assert app.messages == ["http.disconnect"]


# Streams


async def test_more_streams_than_it_may_have_before_it_knows():
    """It has not acknowledged our SETTINGS: the surplus is refused, and may be asked for again."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.feed([HELLO])
        await victim.say(*[request(stream, path=b"/hang") for stream in range(1, 2 * STREAMS + 101, 2)])
        assert app.most == STREAMS
        surplus = range(2 * STREAMS + 1, 2 * STREAMS + 101, 2)
        assert victim.answers.resets == dict.fromkeys(surplus, Code.REFUSED_STREAM)
        assert not victim.over


async def test_more_streams_than_it_may_have_although_it_knows():
    """PROTOCOL_ERROR or REFUSED_STREAM (RFC 9113 §5.1.2); not one app more."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        assert victim.answers.settings[Setting.MAX_CONCURRENT_STREAMS] == STREAMS
        await victim.say(*[request(stream, path=b"/hang") for stream in range(1, 2 * STREAMS + 101, 2)])
        assert app.most <= STREAMS
        if victim.over:
            assert victim.answers.code == Code.PROTOCOL_ERROR
        else:
            assert set(victim.answers.resets.values()) <= {Code.PROTOCOL_ERROR, Code.REFUSED_STREAM}
            assert len(victim.answers.resets) == 50


async def test_the_last_stream_is_served():
    """And none behind it: there is no higher number (RFC 9113 §5.1.1)."""
    async with Victim() as victim:
        await victim.hello()
        await victim.say(request(1), request(LAST_STREAM - 2), request(LAST_STREAM))
        assert victim.answers.statuses == dict.fromkeys((1, LAST_STREAM - 2, LAST_STREAM), 200)
        await victim.say(request(3), request(1))
        assert victim.app.begun == 3
        assert victim.answers.code in (None, Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)


async def test_a_stream_that_was_passed_over_is_closed():
    async with Victim() as victim:
        await victim.hello()
        await victim.say(request(9), request(5), request(9), request(3))
        assert victim.app.begun <= 1
        assert set(victim.answers.statuses) <= {9}


async def test_a_client_that_says_goodbye_gets_what_it_asked_for():
    """And may say so any number of times, whatever it gives as its reason."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/hang"))
        goodbye = bytes(4) + bytes(4) + b"\x1b[31m\r\nWARNING: forged"
        await victim.say(frame(Kind.GOAWAY, payload=goodbye) * 10)
        assert app.running == 1
        app.go.set()
        await victim.say(rst_stream(1))
        assert app.messages == ["http.disconnect"]
        assert all(reason.isprintable() for _, reason in victim.reports())


# Windows that are kept shut


async def test_nothing_is_held_for_shut_windows():
    """128 streams that nobody lets us send on: each app waits at 64 KiB, not at the end of its response."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 0))
        with Peak() as peak:
            await victim.feed(request(stream, path=b"/endless") for stream in range(1, 2 * STREAMS, 2))
            await victim.say()
        assert app.running == STREAMS
        assert set(victim.answers.statuses.values()) == {200}
        assert sum(victim.answers.data.values()) == 0
        assert app.sent <= STREAMS * (HIGH_BYTES + len(PIECE))
        assert peak.bytes < STREAMS * (HIGH_BYTES + len(PIECE)) + 8 * MEBIBYTE
        await victim.serves_others()


async def test_a_window_that_shuts_behind_the_head():
    """It may be below zero then (RFC 9113 §6.9.2); what is sent once it opens is exactly as much."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 100))
        await victim.say(request(1, path=b"/endless"))
        assert victim.answers.data == {1: 100}
        await victim.say(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
        await victim.say(window_update(1, 100))
        assert victim.answers.data == {1: 100}
        await victim.say(window_update(1, 7))
        assert victim.answers.data == {1: 107}
        assert app.sent <= HIGH_BYTES + len(PIECE)
        await victim.say(rst_stream(1))
        assert app.errors


async def test_a_window_that_opens_by_the_byte():
    """A byte for each, and the app is not woken for it."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 0))
        await victim.say(request(1, path=b"/endless"))
        sent = app.sent
        for count in range(1, 301):
            await victim.feed([window_update(1, 1)])
            assert victim.answers.data == {1: count}
        assert app.sent == sent
        await victim.say(rst_stream(1))


async def test_the_window_of_the_connection_is_shared():
    """64 KiB for all streams together, until it is opened."""
    async with Victim() as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
        await victim.say(*[request(stream, path=b"/endless") for stream in range(1, 21, 2)])
        assert sum(victim.answers.data.values()) == 65535
        await victim.say(window_update(0, 1000))
        assert sum(victim.answers.data.values()) == 66535


async def test_windows_that_overflow_by_settings():
    """FLOW_CONTROL_ERROR (RFC 9113 §6.9.2), of the connection or of each stream."""
    app = Busy()
    async with Victim(app) as victim:
        await victim.hello()
        await victim.say(OPEN, window_update(1, LARGEST_WINDOW - 65535))
        await victim.say(settings((Setting.INITIAL_WINDOW_SIZE, 65536)))
        assert {*victim.answers.resets.values(), victim.answers.code} - {None} == {Code.FLOW_CONTROL_ERROR}
        app.go.set()
        await victim.say()
        assert app.messages == ["http.disconnect"]


async def test_priorities_of_streams_that_are_gone_are_forgotten():
    async with Victim() as victim:
        await victim.hello()
        for stream in range(1, 401, 2):
            await victim.feed([request(stream), priority_update(stream), priority_update(stream + 1000)])
        await victim.lives(401)


# What is no HTTP/2 at all


async def test_a_client_of_http1_beside_them():
    """Without the preface it is HTTP/1.1, however HTTP/2 it looks behind its first line."""
    async with Victim() as victim:
        victim.connection.data_received(get())
        assert victim.transport.read().startswith(b"HTTP/1.1 200 ")
        victim.connection.data_received(HELLO + request(1))
        assert victim.transport.read().startswith(b"HTTP/1.1 ")
        assert victim.app.begun == 1
        assert len(victim.reports()) == 1


async def test_an_upgrade_to_http2_is_ignored():
    """h2c by Upgrade (which RFC 9113 §3.1 gave up) lets a client smuggle past whoever does not know it."""
    async with Victim() as victim:
        upgrade = (
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABk",
        )
        victim.connection.data_received(get("/", *upgrade))
        assert victim.transport.read().startswith(b"HTTP/1.1 200 ")
        assert victim.app.begun == 1


async def test_the_preface_where_http2_is_not_spoken():
    async with Victim(http2_cleartext=False) as victim:
        victim.connection.data_received(HELLO + SETTINGS_ACK + request(1))
        said = victim.transport.read()
        assert said.startswith(b"HTTP/1.1 ")
        assert victim.app.begun == 0
        assert len(victim.reports()) == 1


UPLOAD = request(3, end=False, method=b"POST", path=b"/upload")
SENTENCES = [
    HELLO + SETTINGS_ACK + request(1) + UPLOAD + data(3, b"hello", end=True),
    HELLO + long_block(1, block((b"x-a", b"y" * 300)), size=50) + ping() + rst_stream(1),
    HELLO + settings((Setting.INITIAL_WINDOW_SIZE, 9)) + request(1, path=b"/endless") + window_update(1, 50),
    PREFACE + settings((Setting.HEADER_TABLE_SIZE, 0)) + headers(1, GET) + priority_update(1) + OPEN,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
async def test_sentences_with_wrong_bytes_end_or_are_answered(seed):
    """The same in every run. What is found is for the fuzzers; that this file can be trusted is seen here."""
    chance = random.Random(seed)
    said = bytearray(chance.choice(SENTENCES))
    for _ in range(chance.randint(1, 4)):
        said[chance.randrange(len(PREFACE), len(said))] = chance.randrange(256)
    async with Victim() as victim:
        victim.app.go.set()
        cut = chance.randrange(len(PREFACE), len(said))
        await victim.feed([bytes(said[:cut]), bytes(said[cut:])], read_bytes=1)
        await victim.say()
        assert victim.answers.code is None or victim.over
        assert len(victim.reports()) <= 4
        assert all(reason.isprintable() for _, reason in victim.reports())
        await victim.serves_others()
        victim.driver.errors.clear()


async def test_frames_of_the_largest_size_are_taken():
    """And one byte more is not (ENDS has that)."""
    async with Victim() as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/upload"))
        await victim.say(data(1, b"x" * FRAME_BYTES), data(1, end=True))
        assert victim.answers.begins[1] == b"16384"
