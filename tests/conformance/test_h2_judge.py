"""The judge of the HTTP/2 tests: what a server may not say, it does not let pass.

Rules of this file: each row is right up to its last frame, which breaks one rule of RFC 9113. A judge that
lets everything pass would make every other test of HTTP/2 pass.
"""

from __future__ import annotations

import pytest

from tests.helpers.h2_judge import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    WINDOW_UPDATE,
    Judge,
)
from tests.helpers.h2_wire import block, frame, head, number, pseudo, settings

OK = [(b":status", b"200")]
END = END_STREAM | END_HEADERS
LIVE = head(1, OK, END_HEADERS)
OVER = head(1, OK)


def data(size: int, stream: int = 1, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, bytes(size))


BAD = {
    "a frame that is too long": (LIVE, data(16385)),
    "the reserved bit": (LIVE, data(1, 1 | 1 << 31)),
    "a flag without a meaning": (b"", frame(PING, 0x80, 0, bytes(8))),
    "an ACK of nothing": (settings(flags=ACK), settings(flags=ACK)),
    "ENABLE_PUSH": (b"", settings({2: 1})),
    "a PING that nobody sent, answered": (b"", frame(PING, ACK, 0, bytes(8))),
    "a last stream id that grows": (
        frame(GOAWAY, 0, 0, number(0) * 2),
        frame(GOAWAY, 0, 0, number(1) + number(0)),
    ),
    "a last stream id that was never begun": (b"", frame(GOAWAY, 0, 0, number(9) + number(0))),
    "WINDOW_UPDATE by 0": (b"", frame(WINDOW_UPDATE, 0, 0, number(0))),
    "WINDOW_UPDATE of an idle stream": (b"", frame(WINDOW_UPDATE, 0, 5, number(1))),
    "a window past 2³¹-1": (b"", frame(WINDOW_UPDATE, 0, 0, number(2**31 - 1)) * 2),
    "RST_STREAM of an idle stream": (b"", frame(RST_STREAM, 0, 5, number(0))),
    "RST_STREAM, twice": (frame(RST_STREAM, 0, 1, number(0)), frame(RST_STREAM, 0, 1, number(0))),
    "HEADERS on an idle stream": (b"", head(5, OK)),
    "HEADERS behind END_STREAM": (OVER, head(1, [(b"a", b"b")])),
    "DATA behind END_STREAM": (OVER, data(1)),
    "DATA behind RST_STREAM": (LIVE + frame(RST_STREAM, 0, 1, number(0)), data(1)),
    "DATA before a response": (b"", data(1)),
    "DATA behind an interim response": (head(1, [(b":status", b"103")], END_HEADERS), data(1)),
    "DATA beyond the stream's window": (LIVE + data(16384) * 3 + data(16383), data(1)),
    "DATA beyond the connection's window": (
        LIVE + head(3, OK, END_HEADERS) + data(16384) * 3,
        data(16384, 3),
    ),
    "DATA beyond what SETTINGS left": (settings(flags=ACK) + LIVE + data(10), settings(flags=ACK) + data(1)),
    "padding beyond the window": (
        LIVE + data(16384) * 3 + data(16380),
        frame(DATA, PADDED, 1, b"\3a" + bytes(3)),
    ),
    "a frame in a field block": (frame(HEADERS, END_STREAM, 1, block(OK)), frame(PING, 0, 0, bytes(8))),
    "a CONTINUATION of another stream": (frame(HEADERS, END_STREAM, 1, block(OK)), frame(CONTINUATION, 4, 3)),
    "a CONTINUATION of nothing": (LIVE, frame(CONTINUATION, 4, 1)),
    "a field block that cannot be read": (b"", frame(HEADERS, END, 1, b"\xff\xff\xff\x7f")),
    "no :status": (b"", head(1, [(b"a", b"b")])),
    "two :status": (b"", head(1, OK * 2)),
    "a pseudo-header field of requests": (b"", head(1, [*OK, (b":path", b"/")])),
    ":status behind a field": (b"", head(1, [(b"a", b"b"), *OK])),
    "a name in upper case": (b"", head(1, [*OK, (b"A", b"b")])),
    "a line feed": (b"", head(1, [*OK, (b"a", b"b\nc")])),
    "a space before a value": (b"", head(1, [*OK, (b"a", b" b")])),
    "connection": (b"", head(1, [*OK, (b"connection", b"close")])),
    "transfer-encoding": (b"", head(1, [*OK, (b"transfer-encoding", b"chunked")])),
    "101": (b"", head(1, [(b":status", b"101")], END_HEADERS)),
    "an interim response with END_STREAM": (b"", head(1, [(b":status", b"103")])),
    "trailers without END_STREAM": (LIVE, head(1, [(b"a", b"b")], END_HEADERS)),
    "a pseudo-header field in trailers": (LIVE, head(1, OK)),
    "a body shorter than its length": (
        head(1, [*OK, (b"content-length", b"3")], END_HEADERS),
        data(2, flags=END_STREAM),
    ),
    "a body longer than its length": (
        head(1, [*OK, (b"content-length", b"1")], END_HEADERS),
        data(2, flags=END_STREAM),
    ),
    "a body for a 304": (head(1, [(b":status", b"304")], END_HEADERS), data(1, flags=END_STREAM)),
    "PRIORITY": (b"", frame(PRIORITY, 0, 1, bytes(5))),
    "PUSH_PROMISE": (b"", frame(PUSH_PROMISE, 4, 1, number(2) + block(pseudo()))),
    "a frame of an extension": (b"", frame(0xFB, 0, 0, b"x")),
}


@pytest.mark.parametrize("rule", BAD)
def test_what_a_server_may_not_say(rule):
    right, wrong = BAD[rule]
    judge = Judge()
    judge.sent(PREFACE + settings() + head(1, pseudo()) + head(3, pseudo()))
    judge.sent(settings({INITIAL_WINDOW_SIZE: 10}) if "SETTINGS left" in rule else b"")
    judge.received(settings() + right)
    with pytest.raises(Exception):  # noqa: B017 (hpack and hyperframe have their own)
        judge.received(wrong)


@pytest.mark.parametrize("first", [frame(PING, 0, 0, bytes(8)), settings(flags=ACK)])
def test_the_first_frame(first):
    judge = Judge()
    judge.sent(PREFACE + settings())
    with pytest.raises(AssertionError):
        judge.received(first)


def test_a_half_frame():
    judge = Judge()
    judge.received(settings() + frame(PING, 0, 0, bytes(8))[:-1])
    with pytest.raises(AssertionError):
        judge.nothing_half()
