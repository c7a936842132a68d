"""Each deadline over HTTP/2: which stream, or which connection, is ended, and above all which is not.

Rules of this file: lengths are milliseconds; ``late`` lets one go by before anybody looks, so that no test
asks how fast anything is; who must outlive several of them does its part before each look. Deadlines of a
stream end that stream, and another one on the same connection is answered behind it.
"""

from __future__ import annotations

import time

import pytest

from tests.helpers.h2_attacks import GET as FIELDS
from tests.helpers.h2_attacks import (
    HELLO,
    LARGEST_WINDOW,
    PREFACE,
    SETTINGS_ACK,
    Code,
    Kind,
    Setting,
    continuation,
    data,
    field,
    headers,
    request,
    rst_stream,
    settings,
    window_update,
)
from tests.helpers.h2_time import (
    MANY,
    SHORT_MS,
    SHORT_S,
    SLOWEST,
    STALL,
    UPLOAD,
    aborted,
    late,
    look,
    victim_with,
)
from tests.helpers.h2_victim import Busy, Unread
from tests.helpers.nghttp2 import needs_nghttp2
from tests.native.drive import FakeTransport, get

pytestmark = needs_nghttp2


# The beginning of a connection


async def test_a_silent_connection_is_closed_without_an_answer():
    async with victim_with(first_byte_ms=SHORT_MS) as victim:
        await late(victim)
        assert victim.over
        assert victim.answers.bytes == 0
        assert victim.reports() == []


@pytest.mark.parametrize("part", [PREFACE[:3], PREFACE[:-1], PREFACE, HELLO[:-1]])
async def test_a_beginning_that_does_not_go_on(part):
    async with victim_with(head_ms=SHORT_MS) as victim:
        victim.connection.data_received(part)
        await late(victim)
        assert victim.over
        assert len(victim.reports()) <= 1


async def test_a_preface_that_comes_byte_by_byte():
    """Its time is absolute: no byte renews it."""
    async with victim_with(head_ms=SHORT_MS) as victim:
        for byte in HELLO[:-1]:
            if victim.over:
                break
            victim.connection.data_received(bytes([byte]))
            time.sleep(SHORT_S / 4)
            victim.driver.factory.tick()
        assert victim.over
        assert len(victim.reports()) <= 1


async def test_a_preface_in_time_may_come_byte_by_byte():
    async with victim_with(head_ms=SHORT_MS) as victim:
        for byte in HELLO:
            victim.connection.data_received(bytes([byte]))
        await late(victim)
        await victim.lives(1)


# The head of a request


async def test_a_head_without_an_end():
    """It holds the whole connection, on which no other frame may come meanwhile (RFC 9113 §4.3)."""
    app = Busy()
    async with victim_with(app, head_ms=SHORT_MS) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/listen"), headers(3, FIELDS, whole=False))
        assert app.running == 1
        await late(victim)
        assert victim.over
        assert victim.answers.goaways
        assert app.messages == ["http.disconnect"]
        assert app.begun == 1
        assert len(victim.reports()) == 1


async def test_a_head_that_drips():
    async with victim_with(head_ms=SHORT_MS) as victim:
        await victim.hello()
        drips = [headers(1, FIELDS, whole=False), *[continuation(1, field(b"x", b"y"))] * 6]
        for drip in [bytes([byte]) for one in drips for byte in one]:
            if victim.over:
                break
            await victim.feed([drip])
            time.sleep(SHORT_S / 4)
            await look(victim)
        assert victim.over
        assert victim.app.begun == 0
        assert len(victim.reports()) == 1


async def test_a_frame_without_an_end():
    """The beginning of any frame is no request, but nothing else can come before its end."""
    async with victim_with(head_ms=SHORT_MS, keep_alive_ms=SHORT_MS) as victim:
        await victim.hello()
        await victim.feed([request(1)[:-1]])
        await late(victim)
        assert victim.over
        assert victim.app.begun == 0


async def test_the_time_of_a_head_ends_with_it():
    """A request that is answered slowly, or whose body takes its time, is no slow head."""
    app = Busy()
    async with victim_with(app, head_ms=SHORT_MS) as victim:
        await victim.hello()
        await victim.say(UPLOAD, request(3, path=b"/listen"))
        for _ in range(MANY):
            await late(victim)
        assert not victim.over
        await victim.say(data(1, b"hello", end=True), rst_stream(3))
        assert victim.answers.begins == {1: b"5"}
        assert victim.reports() == []


# The body of a request


@pytest.mark.parametrize("came", [b"", b"x"])
async def test_a_body_that_does_not_go_on(came):
    """408 for the stream, http.disconnect for its app; the connection goes on."""
    app = Busy()
    async with victim_with(app, **SLOWEST) as victim:
        await victim.hello()
        await victim.say(UPLOAD, data(1, came) if came else b"")
        await late(victim)
        assert victim.answers.statuses == {1: 408}
        assert victim.answers.ended == {1}
        assert app.messages == ["http.disconnect"]
        assert [status for status, _ in victim.reports()] == [408]
        assert victim.answers.resets in ({}, {1: Code.NO_ERROR})
        await victim.say(data(1, b"late", end=True))
        await victim.lives(3)


async def test_a_body_that_drips():
    app = Busy()
    async with victim_with(app, **SLOWEST) as victim:
        await victim.hello()
        await victim.say(UPLOAD)
        for _ in range(10 * MANY):
            await victim.feed([data(1, b"x")])
            time.sleep(SHORT_S / 2)
            await look(victim)
            if victim.answers.statuses:
                break
        assert victim.answers.statuses == {1: 408}
        assert app.messages == ["http.disconnect"]
        assert [status for status, _ in victim.reports()] == [408]


async def test_padding_is_no_body():
    """It fills frames and windows, and brings nothing."""
    async with victim_with(**SLOWEST) as victim:
        await victim.hello()
        await victim.say(UPLOAD)
        for _ in range(10 * MANY):
            await victim.feed([data(1, b"", padding=255)])
            time.sleep(SHORT_S / 2)
            await look(victim)
            if victim.answers.statuses:
                break
        assert victim.answers.statuses == {1: 408}
        assert [status for status, _ in victim.reports()] == [408]


async def test_a_body_that_is_fast_enough():
    async with victim_with(**SLOWEST) as victim:
        await victim.hello()
        await victim.say(UPLOAD)
        for _ in range(MANY):
            time.sleep(1.2 * SHORT_S)
            await victim.feed([data(1, b"x" * 1000)])
            await look(victim)
        await victim.say(data(1, b"", end=True))
        assert victim.answers.begins == {1: b"%d" % (1000 * MANY)}
        assert victim.reports() == []


async def test_each_body_has_its_own_time():
    """One that comes saves none that does not."""
    app = Busy()
    async with victim_with(app, **SLOWEST) as victim:
        await victim.hello()
        await victim.say(UPLOAD, request(3, end=False, method=b"POST", path=b"/upload"))
        for _ in range(MANY):
            time.sleep(1.2 * SHORT_S)
            await victim.feed([data(1, b"x" * 1000)])
            await look(victim)
        assert victim.answers.statuses == {3: 408}
        await victim.say(data(1, b"", end=True))
        assert victim.answers.statuses == {1: 200, 3: 408}
        assert len(victim.reports()) == 1


async def test_a_body_that_the_app_does_not_take_is_not_late():
    """No clock runs against a client that waits for us: its windows are shut."""
    app = Busy()
    window = 65535
    async with victim_with(app, http2_initial_stream_window_size=window, **SLOWEST) as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/deaf"))
        await victim.feed(data(1, b"x" * 13107) for _ in range(5))
        for _ in range(MANY):
            await late(victim)
        assert not victim.over
        assert victim.reports() == []
        assert victim.answers.statuses == {}


async def test_the_time_of_a_body_begins_when_its_windows_open():
    """However long the app took to make room, the client has its time from then on."""
    app = Busy()
    async with victim_with(app, http2_initial_stream_window_size=65535, **SLOWEST) as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/hang"))
        await victim.feed(data(1, b"x" * 13107) for _ in range(5))
        await late(victim)
        time.sleep(1.2 * SHORT_S)
        app.go.set()
        await victim.say()
        await look(victim)
        assert victim.answers.frames[Kind.WINDOW_UPDATE] >= 2
        assert victim.reports() == []
        await late(victim)
        assert victim.answers.statuses == {1: 408}
        assert app.messages == ["http.disconnect"]
        assert len(victim.reports()) == 1


async def test_an_app_that_computes_makes_no_body_late():
    """The body is all there."""
    app = Busy()
    async with victim_with(app, **SLOWEST) as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/deaf"), data(1, b"x", end=True))
        for _ in range(MANY):
            await late(victim)
        assert victim.reports() == []
        assert victim.answers.resets == {}


async def test_a_response_that_has_begun_may_wait_for_its_body():
    """Streams in both directions, as gRPC has them, are silent for as long as both like."""
    app = Busy()
    async with victim_with(app, **SLOWEST) as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/begun_only"))
        for _ in range(MANY):
            await late(victim)
        await victim.say(data(1, b"late", end=True))
        assert app.messages == ["late"]
        assert victim.answers.begins == {1: b"begun, done"}
        assert victim.reports() == []


# A client that takes nothing


async def test_a_stream_whose_window_stays_shut_is_reset():
    """CANCEL; its app hears of it; the log has a line; the connection goes on."""
    app = Busy()
    async with victim_with(app, **STALL) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 0))
        await victim.say(request(1, path=b"/endless"))
        assert app.running == 1
        await late(victim)
        assert victim.answers.resets == {1: Code.CANCEL}
        assert app.running == 0
        assert app.errors
        (reason,) = victim.faults()
        assert "timeout-write-stall" in reason
        await victim.say(settings((Setting.INITIAL_WINDOW_SIZE, 65535)))
        await victim.lives(3)


async def test_every_stream_whose_window_stays_shut_is_reset():
    """128 of them, the attack on memory: after the deadline nothing of it is left."""
    app = Busy()
    async with victim_with(app, **STALL) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 0))
        asked = range(1, 256, 2)
        await victim.feed(request(stream, path=b"/endless") for stream in asked)
        assert app.running == 128
        await late(victim)
        assert victim.answers.resets == dict.fromkeys(asked, Code.CANCEL)
        assert app.running == 0
        assert len(victim.faults()) == 128
        assert all("timeout-write-stall" in reason for reason in victim.faults())
        await victim.say(settings((Setting.INITIAL_WINDOW_SIZE, 65535)))
        await victim.lives(257)


async def test_a_window_that_shuts_behind_the_head_is_no_other():
    app = Busy()
    async with victim_with(app, **STALL) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 1))
        await victim.say(request(1, path=b"/endless"))
        assert victim.answers.data == {1: 1}
        await late(victim)
        assert victim.answers.resets == {1: Code.CANCEL}
        assert len(victim.faults()) == 1


async def test_the_window_of_the_connection_stays_shut():
    """All streams that wait for it stall together."""
    app = Busy()
    async with victim_with(app, **STALL) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
        await victim.say(request(1, path=b"/endless"), request(3, path=b"/endless"))
        await late(victim)
        assert victim.answers.resets == {1: Code.CANCEL, 3: Code.CANCEL}
        await victim.say(window_update(0, 65535))
        await victim.lives(5)


async def test_a_complete_response_that_nobody_takes_is_reset():
    """Its app is done: what is unsent still has its time."""
    async with victim_with(**STALL) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 0))
        await victim.say(request(1))
        assert victim.answers.statuses == {1: 200}
        assert victim.answers.ended == set()
        await late(victim)
        assert victim.answers.resets == {1: Code.CANCEL}
        assert len(victim.faults()) == 1


async def test_a_client_that_takes_little_is_not_cut():
    async with victim_with(**STALL) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 0))
        await victim.say(request(1, path=b"/endless"))
        for count in range(1, 2 * MANY + 1):
            time.sleep(0.6 * SHORT_S)
            await victim.feed([window_update(1, 1)])
            await look(victim)
            assert victim.answers.data == {1: count}
        assert victim.answers.resets == {}
        assert victim.reports() == []
        await victim.say(rst_stream(1))


async def test_a_response_that_has_nothing_to_send_is_not_stalled():
    """An event stream between two events."""
    app = Busy()
    async with victim_with(app, **STALL) as victim:
        await victim.hello()
        await victim.say(request(1, end=False, method=b"POST", path=b"/begun_only"))
        for _ in range(MANY):
            await late(victim)
        assert victim.answers.begins == {1: b"begun"}
        assert victim.answers.resets == {}
        await victim.say(data(1, end=True))
        assert victim.answers.begins == {1: b"begun, done"}
        assert victim.reports() == []


async def test_a_client_that_does_not_read_is_cut():
    """The windows are open, but the transport is full: it is the connection that stalls."""
    app = Busy()
    async with victim_with(app, transport=Unread(), **STALL) as victim:
        hello = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW)) + SETTINGS_ACK
        victim.connection.data_received(hello + window_update(0, LARGEST_WINDOW - 65535))
        await victim.say(request(1, path=b"/endless"), request(3, path=b"/endless"))
        assert app.running == 2
        assert victim.transport.unread < 1 << 20
        for _ in range(2 * MANY):
            await late(victim)
        assert aborted(victim)
        victim.lose()
        await victim.say()
        assert app.running == 0
        assert 1 <= len(victim.reports()) <= 2
        assert all(status == 0 for status, _ in victim.reports())


# A deadline of 0, and a loop that was blocked


@pytest.mark.parametrize("never", [0, -1])
async def test_a_deadline_of_0_is_none(never):
    """Each of them; keep_alive_ms, which has another meaning, is long here."""
    names = ("first_byte_ms", "head_ms", "body_window_ms", "write_stall_ms")
    none = dict.fromkeys((*names, "http2_ping_interval_ms", "http2_ping_timeout_ms"), never)
    app = Busy()
    async with victim_with(app, **none) as victim:
        await victim.hello((Setting.INITIAL_WINDOW_SIZE, 0))
        await victim.say(UPLOAD, request(3, path=b"/endless"), headers(5, FIELDS, whole=False))
        for _ in range(MANY):
            await late(victim)
        assert not victim.over
        assert victim.answers.pings == []
        assert victim.reports() == []
        await victim.say(continuation(5, whole=True), data(1, b"x", end=True), window_update(1, 9))
        assert victim.answers.begins[1] == b"1"
        await victim.say(rst_stream(3), rst_stream(5))


async def test_what_waits_in_the_socket_is_not_late():
    """The loop was blocked: bytes that came in time are read before anybody is judged, once."""
    async with victim_with(transport=FakeTransport(), head_ms=SHORT_MS) as victim:
        await victim.hello()
        await victim.feed([headers(1, FIELDS, whole=False)])
        victim.transport.theirs.send(continuation(1, whole=True))
        time.sleep(1.2 * SHORT_S)
        await look(victim)
        assert not victim.over
        await victim.feed([victim.transport.ours.recv(100)])
        assert victim.answers.statuses == {1: 200}
        assert victim.reports() == []


async def test_http1_beside_it_has_its_own_deadlines():
    """On the same worker, on a connection without the preface."""
    async with victim_with(keep_alive_ms=SHORT_MS) as victim:
        victim.connection.data_received(get())
        assert victim.transport.read().startswith(b"HTTP/1.1 200 ")
        time.sleep(1.2 * SHORT_S)
        victim.driver.factory.tick()
        assert victim.over
        assert victim.reports() == []
