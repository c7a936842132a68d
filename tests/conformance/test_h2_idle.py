"""HTTP/2 connections on which nothing happens: they are told to go, or asked by PING whether they live.

Rules of this file: those of test_h2_deadlines.py.
"""

from __future__ import annotations

import time

import pytest

from tests.helpers.h2_attacks import Code, Kind, data, ping, request, rst_stream, settings, window_update
from tests.helpers.h2_time import MANY, PINGS, SHORT_MS, SHORT_S, UPLOAD, aborted, late, look, victim_with
from tests.helpers.h2_victim import Busy
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2


# A connection without streams


async def test_an_idle_connection_is_told_to_go():
    """GOAWAY, so that a request that is on its way is known to be lost (RFC 9113 §6.8). Nobody did wrong."""
    async with victim_with(keep_alive_ms=SHORT_MS) as victim:
        await victim.hello()
        await victim.lives(1)
        await late(victim)
        assert victim.over
        assert victim.answers.goaways[-1].code == Code.NO_ERROR
        assert victim.answers.goaways[-1].last_stream == 1
        assert victim.reports() == []


async def test_one_that_never_asked_is_idle_too():
    async with victim_with(keep_alive_ms=SHORT_MS, first_byte_ms=SHORT_MS) as victim:
        await victim.hello()
        await late(victim)
        assert victim.over
        assert victim.answers.code == Code.NO_ERROR
        assert victim.reports() == []


@pytest.mark.parametrize("piece", [ping(), settings(), window_update(0, 1), ping(ack=True)])
async def test_frames_of_the_connection_keep_no_idle_one(piece):
    """As empty lines do not over HTTP/1.1: who keeps it must ask for something."""
    async with victim_with(keep_alive_ms=SHORT_MS) as victim:
        await victim.hello()
        await victim.lives(1)
        for _ in range(4 * MANY):
            if victim.over:
                break
            await victim.feed([piece])
            time.sleep(SHORT_S / 2)
            await look(victim)
        assert victim.over
        assert victim.answers.code == Code.NO_ERROR
        assert victim.reports() == []


async def test_a_connection_with_a_stream_is_not_idle():
    async with victim_with(keep_alive_ms=SHORT_MS, first_byte_ms=SHORT_MS) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/listen"))
        for _ in range(MANY):
            await late(victim)
        assert not victim.over
        assert victim.answers.goaways == []
        await victim.say(rst_stream(1))
        await late(victim)
        assert victim.over
        assert victim.answers.code == Code.NO_ERROR
        assert victim.reports() == []


# PING


async def test_a_client_that_answers_no_ping_is_gone():
    """It was asked because nothing came while it waits for an answer. The apps hear of it."""
    app = Busy()
    async with victim_with(app, **PINGS) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/listen"))
        await late(victim)
        assert len(victim.answers.pings) == 1
        assert not victim.over
        await late(victim)
        assert aborted(victim)
        victim.lose()
        await victim.say()
        assert app.messages == ["http.disconnect"]
        ((status, reason),) = victim.reports()
        assert status == 0
        assert reason.startswith("HTTP/2: ")
        assert "ping" in reason.lower()


async def test_a_client_that_answers_pings_stays():
    async with victim_with(**PINGS) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/listen"))
        for count in range(1, MANY + 1):
            await late(victim)
            assert len(victim.answers.pings) == count
            await victim.say(ping(victim.answers.pings[-1], ack=True))
        assert not victim.over
        assert victim.reports() == []
        await victim.say(rst_stream(1))


async def test_whoever_sends_is_not_asked():
    async with victim_with(**PINGS) as victim:
        await victim.hello()
        await victim.say(UPLOAD)
        for _ in range(MANY):
            time.sleep(1.2 * SHORT_S)
            await victim.feed([data(1, b"x")])
            await look(victim)
        assert victim.answers.pings == []
        await victim.say(data(1, end=True))
        assert victim.answers.statuses == {1: 200}


async def test_nobody_is_asked_without_a_stream():
    """An idle connection has the keep-alive timeout."""
    async with victim_with(**PINGS) as victim:
        await victim.hello()
        await victim.lives(1)
        for _ in range(MANY):
            await late(victim)
        assert victim.answers.pings == []
        await victim.lives(3)


async def test_a_wrong_answer_to_a_ping_is_a_sign_of_life():
    """Or it is none: then it ends as one that does not answer. It is never reported as anything else."""
    async with victim_with(**PINGS) as victim:
        await victim.hello()
        await victim.say(request(1, path=b"/listen"))
        await late(victim)
        await victim.say(ping(b"notthat!", ack=True))
        await late(victim)
        assert [status for status, _ in victim.reports()] in ([], [0])
        assert Kind.GOAWAY not in victim.answers.frames
        await victim.say(rst_stream(1))
