"""What the fuzzer of HTTP/2 judges by (native/tests/fuzz_h2_*.py): it has to see each of these.
The bytes of a client are made by hand here, and those of a server, right and with one thing wrong.
"""

from __future__ import annotations

import importlib
import random
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("hpack")
NATIVE_TESTS = Path(__file__).resolve().parents[2] / "native" / "tests"

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END, ENDED_BLOCK, PADDED = 1, 4, 8
MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 3, 4, 5
ALLOWED = {MAX_STREAMS: 5, INITIAL_WINDOW: 100_000, MAX_FRAME: 16_384}
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")]
POST = [(b":method", b"POST"), *GET[1:]]
HEAD = [(b":method", b"HEAD"), *GET[1:]]
OK = [(b":status", b"200")]

Fields = list[tuple[bytes, bytes]]
Step = tuple[str, bytes]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(NATIVE_TESTS))
    return importlib.import_module


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def number(*values: int) -> bytes:
    return struct.pack(f"!{len(values)}I", *values)


def settings(pairs: dict[int, int] | None = None) -> bytes:
    return frame(SETTINGS, payload=b"".join(struct.pack("!HI", *pair) for pair in (pairs or {}).items()))


def block(fields: Fields) -> bytes:
    """Literals without indexing: both lengths below 127."""
    return b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)


def head(stream: int, fields: Fields, flags: int = 0) -> bytes:
    return frame(HEADERS, flags | ENDED_BLOCK, stream, block(fields))


def asks(*more: bytes, fields: Fields = GET, flags: int = END, begin: bytes = settings()) -> Step:
    return "client", PREFACE + begin + head(1, fields, flags) + b"".join(more)


def says(*frames: bytes) -> Step:
    return "server", settings(ALLOWED) + frame(SETTINGS, 1) + b"".join(frames)


def ok(stream: int = 1, *fields: tuple[bytes, bytes], flags: int = 0) -> bytes:
    return head(stream, [*OK, *fields], flags)


LENGTH = (b"content-length", b"2")
BODY = frame(DATA, END, 1, b"ok")
WINDOW = settings({INITIAL_WINDOW: 3})
LATE: Step = ("client", frame(RST_STREAM, 0, 1, number(8)))
RIGHT: dict[str, list[Step]] = {
    "nothing": [asks(), says()],
    "a response": [asks(), says(ok(1, LENGTH), BODY)],
    "one in pieces": [asks(), says(ok(), frame(DATA, 0, 1, b"o"), frame(DATA, END, 1))],
    "of two streams": [asks(head(3, GET, END)), says(ok(3), ok(1), BODY, frame(DATA, END, 3, b""))],
    "trailers": [asks(), says(ok(), frame(DATA, 0, 1, b"x"), head(1, [(b"a", b"b")], END))],
    "hints": [asks(), says(head(1, [(b":status", b"103")]), ok(), BODY)],
    "HEAD": [asks(fields=HEAD), says(ok(1, LENGTH, flags=END))],
    "204": [asks(), says(head(1, [(b":status", b"204")], END))],
    "a block in parts": [
        asks(),
        says(frame(HEADERS, 0, 1, block(OK)[:3]), frame(CONTINUATION, ENDED_BLOCK, 1, block(OK)[3:]), BODY),
    ],
    "the window, filled": [asks(begin=WINDOW), says(ok(), frame(DATA, 0, 1, b"abc"))],
    "the window, opened": [
        asks(frame(WINDOW_UPDATE, 0, 1, number(1)), begin=WINDOW),
        says(ok(), frame(DATA, 0, 1, b"abcd")),
    ],
    "a reset": [asks(), says(ok(), frame(RST_STREAM, 0, 1, number(2)))],
    "a reset behind the end": [asks(flags=0), says(ok(), BODY, frame(RST_STREAM, 0, 1, number(0)))],
    "a window given back": [
        asks(frame(DATA, 0, 1, b"abc"), flags=0),
        says(frame(WINDOW_UPDATE, 0, 1, number(3))),
    ],
    "pongs": [asks(frame(PING, 0, 0, b"12345678")), says(frame(PING, 1, 0, b"12345678"))],
    "a drain": [
        asks(),
        says(frame(GOAWAY, 0, 0, number(2**31 - 1, 0)), frame(GOAWAY, 0, 0, number(1, 0)), ok(), BODY),
    ],
    "the end": [asks(), says(ok(), BODY, frame(GOAWAY, 0, 0, number(1, 11) + b"too much"))],
    "HTTP/1.1": [("client", b"GET / HTTP/1.1\r\n\r\n"), ("server", b"HTTP/1.1 200 OK\r\n\r\n")],
}
WRONG: dict[str, list[Step]] = {
    "something before the preface": [("server", settings(ALLOWED))],
    "no SETTINGS first": [asks(), ("server", frame(PING, 0, 0, bytes(8)))],
    "other SETTINGS": [asks(), ("server", settings({**ALLOWED, MAX_STREAMS: 6}))],
    "SETTINGS twice": [asks(), says(settings(ALLOWED))],
    "an ACK of nothing": [asks(), says(frame(SETTINGS, 1))],
    "a response for nobody": [asks(), says(ok(3))],
    "a stream of the server's": [asks(), says(ok(2))],
    "on no stream": [asks(), says(ok(0))],
    "a reserved bit": [asks(), says(ok(1 | 1 << 31))],
    "two responses": [asks(), says(ok(), ok())],
    "a response behind the end": [asks(), says(ok(1, flags=END), ok(1, flags=END))],
    "DATA behind the end": [asks(), says(ok(), BODY, BODY)],
    "DATA behind a reset": [asks(), says(ok(), frame(RST_STREAM, 0, 1, number(2)), BODY)],
    "DATA before a head": [asks(), says(BODY)],
    "DATA behind a hint": [asks(), says(head(1, [(b":status", b"103")]), BODY)],
    "a hint that ends": [asks(), says(head(1, [(b":status", b"103")], END))],
    "101": [asks(), says(head(1, [(b":status", b"101")]))],
    "DATA of nothing": [asks(), says(ok(), frame(DATA, 0, 1))],
    "padding": [asks(), says(ok(), frame(DATA, PADDED, 1, b"\0ok"))],
    "a stream that its client has reset": [asks(), says(), LATE, ("server", ok())],
    "RST_STREAM answered": [asks(), says(ok()), LATE, ("server", frame(RST_STREAM, 0, 1, number(8)))],
    "RST_STREAM twice": [asks(), says(frame(RST_STREAM, 0, 1, number(8)) * 2)],
    "RST_STREAM of an idle stream": [asks(), says(frame(RST_STREAM, 0, 3, number(8)))],
    "RST_STREAM of what is over": [asks(), says(ok(), BODY, frame(RST_STREAM, 0, 1, number(2)))],
    "RST_STREAM for no reason": [asks(), says(frame(RST_STREAM, 0, 1, number(0)))],
    "refused although answered": [asks(), says(ok(), frame(RST_STREAM, 0, 1, number(7)))],
    "a code that is none": [asks(), says(frame(RST_STREAM, 0, 1, number(14)))],
    "more than the length": [asks(), says(ok(1, LENGTH), frame(DATA, 0, 1, b"okay"))],
    "less than the length": [asks(), says(ok(1, LENGTH), frame(DATA, END, 1, b"o"))],
    "a length and no body": [asks(), says(ok(1, LENGTH, flags=END))],
    "a length that is none": [asks(), says(ok(1, (b"content-length", b"+2")))],
    "two lengths": [asks(), says(ok(1, LENGTH, LENGTH))],
    "the body of HEAD": [asks(fields=HEAD), says(ok(1, LENGTH), BODY)],
    "the body of 304": [asks(), says(head(1, [(b":status", b"304")]), BODY)],
    "the length of 204": [asks(), says(head(1, [(b":status", b"204"), LENGTH], END))],
    "no status": [asks(), says(head(1, [(b"a", b"b")]))],
    "a status of two digits": [asks(), says(head(1, [(b":status", b"20")]))],
    "another pseudo-header field": [asks(), says(ok(1, (b":path", b"/")))],
    "a name in capitals": [asks(), says(ok(1, (b"Server", b"x")))],
    "no name": [asks(), says(ok(1, (b"", b"x")))],
    "CR in a value": [asks(), says(ok(1, (b"x", b"a\rb")))],
    "a space around a value": [asks(), says(ok(1, (b"x", b" a")))],
    "connection": [asks(), says(ok(1, (b"connection", b"close")))],
    "transfer-encoding": [asks(), says(ok(1, (b"transfer-encoding", b"chunked")))],
    "trailers without the end": [asks(), says(ok(), head(1, [(b"a", b"b")]))],
    "a status in trailers": [asks(), says(ok(), head(1, OK, END))],
    "HPACK of nothing": [asks(), says(frame(HEADERS, ENDED_BLOCK, 1, b"\xff\xff"))],
    "the table, too large": [
        asks(begin=settings({1: 0})),
        says(frame(HEADERS, ENDED_BLOCK, 1, b"\x3f\xe1\x1f" + block(OK))),
    ],
    "a block broken off": [asks(), says(frame(HEADERS, 0, 1, block(OK)[:3]), BODY)],
    "a CONTINUATION of nothing": [asks(), says(frame(CONTINUATION, 4, 1))],
    "beyond the window of the stream": [asks(begin=WINDOW), says(ok(), frame(DATA, 0, 1, b"abcd"))],
    "beyond the window of the connection": [
        asks(begin=settings({INITIAL_WINDOW: 1 << 20})),
        says(ok(), *[frame(DATA, 0, 1, bytes(16_384))] * 4),
    ],
    "a frame too large": [
        asks(begin=settings({INITIAL_WINDOW: 1 << 20})),
        says(ok(), frame(DATA, 0, 1, bytes(16_385))),
    ],
    "a window that nobody used": [asks(flags=0), says(frame(WINDOW_UPDATE, 0, 1, number(1)))],
    "a window of nothing": [asks(), says(frame(WINDOW_UPDATE, 0, 0, number(0)))],
    "a window too large": [asks(), says(frame(WINDOW_UPDATE, 0, 0, number(2**31 - 1)))],
    "a pong nobody asked for": [asks(), says(frame(PING, 1, 0, bytes(8)))],
    "pongs in another order": [
        asks(frame(PING, 0, 0, b"a" * 8), frame(PING, 0, 0, b"b" * 8)),
        says(frame(PING, 1, 0, b"b" * 8)),
    ],
    "a push": [asks(), says(frame(PUSH_PROMISE, 4, 1, number(2) + block(GET)))],
    "a priority": [asks(), says(frame(PRIORITY, 0, 1, bytes(5)))],
    "GOAWAY of an idle stream": [asks(), says(frame(GOAWAY, 0, 0, number(3, 0)))],
    "GOAWAY of what was answered": [asks(), says(ok(), frame(GOAWAY, 0, 0, number(0, 0)))],
    "GOAWAY that takes back in": [
        asks(),
        says(frame(GOAWAY, 0, 0, number(0, 0)) + frame(GOAWAY, 0, 0, number(1, 0))),
    ],
    "an answer beyond GOAWAY": [asks(), says(frame(GOAWAY, 0, 0, number(0, 0)), ok())],
    "a frame behind the end": [asks(), says(frame(GOAWAY, 0, 0, number(1, 1)), ok())],
}


def read(load: Callable[[str], ModuleType], steps: list[Step], *, cut: int = 0) -> Any:
    talk = load("fuzz_h2_reader").Conversation(ALLOWED, cleartext=True)
    for side, data in steps:
        for at in range(0, len(data), cut or len(data)):
            getattr(talk, side)(data[at : at + (cut or len(data))])
        if side == "client":
            talk.seen()
    return talk


@pytest.mark.parametrize("name", RIGHT)
def test_it_takes_what_is_right(load: Callable[[str], ModuleType], name: str) -> None:
    assert read(load, RIGHT[name]).whole
    assert read(load, RIGHT[name], cut=1).whole


@pytest.mark.parametrize("name", WRONG)
def test_it_sees_what_is_wrong(load: Callable[[str], ModuleType], name: str) -> None:
    with pytest.raises(load("fuzz_responses").Broken):
        read(load, WRONG[name])


# What a client said: what ends the connection, and what is a request.

PINGED = frame(PING, 0, 0, bytes(8))
FAULTS = {
    "no SETTINGS": PREFACE + PINGED,
    "no stream": PREFACE + settings() + head(0, GET, END),
    "a stream of the server's": PREFACE + settings() + head(2, GET, END),
    "an older stream": PREFACE + settings() + head(3, GET, END) + head(1, GET, END),
    "DATA of an idle stream": PREFACE + settings() + frame(DATA, 0, 1, b"x"),
    "DATA behind the end": asks(frame(DATA, 0, 1, b"x"))[1],
    "HEADERS behind the end": asks(head(1, GET, END))[1],
    "padding": asks(frame(DATA, PADDED, 1, b"\2x"), flags=0)[1],
    "a frame too large": asks(frame(DATA, 0, 1, bytes(16_385)), flags=0)[1],
    "the header of one": asks(frame(DATA, 0, 1, bytes(16_385))[:9], flags=0)[1],
    "a block broken off": asks(frame(HEADERS, END, 3, block(GET)), PINGED)[1],
    "a CONTINUATION of nothing": asks(frame(CONTINUATION, ENDED_BLOCK, 1))[1],
    "HPACK": asks(frame(HEADERS, END | ENDED_BLOCK, 3, b"\xff\xff"))[1],
    "a setting": asks(settings({INITIAL_WINDOW: 1 << 31}))[1],
    "half a setting": asks(frame(SETTINGS, 0, 0, b"abc"))[1],
    "an ACK of nothing": asks(frame(SETTINGS, 1))[1],
    "a PING too short": asks(frame(PING, 0, 0, b"x"))[1],
    "a window of nothing": asks(frame(WINDOW_UPDATE, 0, 0, number(0)))[1],
    "a window too large": asks(frame(WINDOW_UPDATE, 0, 0, number(2**31 - 1)))[1],
    "more than the windows": asks(*[frame(DATA, 0, 1, bytes(16_384))] * 4, flags=0)[1],
    "a push": asks(frame(PUSH_PROMISE, 4, 1, number(2)))[1],
    "a flood": asks(*[PINGED] * 1000)[1],
    "too many streams": PREFACE + settings() + b"".join(head(2 * one + 1, GET, END) for one in range(6)),
}
WRONG_REQUESTS: dict[str, Fields] = {
    "no method": GET[1:],
    "no scheme": [GET[0], *GET[2:]],
    "no path": GET[:3],
    "an empty path": [*GET[:3], (b":path", b"")],
    "two methods": [GET[0], *GET],
    "a pseudo-header field behind another": [*GET[:3], (b"a", b"b"), GET[3]],
    "an unknown one": [*GET, (b":x", b"y")],
    "a status": [*GET, (b":status", b"200")],
    "a protocol without CONNECT": [*GET, (b":protocol", b"websocket")],
    "capitals": [*GET, (b"X", b"y")],
    "a line feed": [*GET, (b"x", b"a\nb")],
    "a space in front": [*GET, (b"x", b" a")],
    "connection": [*GET, (b"connection", b"close")],
    "te": [*GET, (b"te", b"gzip")],
    "two lengths": [*GET, (b"content-length", b"1"), (b"content-length", b"2")],
    "a length that is none": [*GET, (b"content-length", b"-1")],
    "a length that lies": [*GET, (b"content-length", b"1")],
}


def said(load: Callable[[str], ModuleType], data: bytes) -> Any:
    talk = load("fuzz_h2_reader").Conversation(ALLOWED, cleartext=True)
    talk.client(data)
    return talk.said


@pytest.mark.parametrize("name", FAULTS)
def test_it_knows_what_ends_a_connection(load: Callable[[str], ModuleType], name: str) -> None:
    assert said(load, FAULTS[name]).fault is not None


def test_it_finds_nothing_wrong_with_what_is_right(load: Callable[[str], ModuleType]) -> None:
    parts = [
        frame(DATA, PADDED, 1, b"\2abc\0\0"),
        frame(DATA, END, 1, b"d"),
        head(3, GET, END),
        frame(RST_STREAM, 0, 3, number(8)),
        PINGED,
        settings({INITIAL_WINDOW: 10}),
        frame(WINDOW_UPDATE, 0, 0, number(5)),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(99, 0, 0, b"unknown"),
    ]
    data = asks(*parts, fields=[*POST, (b"content-length", b"4")], flags=0)[1]
    heard = said(load, data)
    assert heard.fault is None
    assert (bytes(heard.asked[1].body), heard.asked[1].flow_bytes, heard.asked[1].judge()) == (
        b"abcd",
        7,
        "right",
    )
    assert heard.asked[3].reset
    assert heard.window_bytes == 65_540
    assert heard.of_settings(INITIAL_WINDOW) == [65_535, 10]


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_it_knows_what_is_no_request(load: Callable[[str], ModuleType], name: str) -> None:
    heard = said(load, asks(fields=WRONG_REQUESTS[name])[1])
    assert heard.fault is None
    assert heard.asked[1].judge() == "wrong"


# What an input becomes


def test_every_input_becomes_frames(load: Callable[[str], ModuleType]) -> None:
    """Whatever it says, and every operation at its end, with nothing behind it."""
    client = load("fuzz_h2_client")
    dice = random.Random(8)
    inputs = [bytes([first]) for first in range(256)] + [dice.randbytes(40) for _ in range(40)]
    for data in inputs:
        made = client.Client(data, dice.randrange(16))
        assert max(made.breaks) <= len(made.said)
    assert len({bytes(client.Client(data, 0).said) for data in inputs}) > 150


def test_what_is_right_comes_about_by_itself(load: Callable[[str], ModuleType]) -> None:
    client = load("fuzz_h2_client")
    seeds = load("fuzz_h2_seeds")
    talk = load("fuzz_h2_reader").Conversation({**ALLOWED, MAX_STREAMS: 100}, cleartext=True)
    talk.client(bytes(client.Client(seeds.GET * 3 + seeds.CONVERSATIONS["websocket"], 0).said))
    assert talk.said.fault is None
    assert [asked.judge() for asked in talk.said.asked.values()] == ["right"] * 3 + ["either"]
    reference = load("fuzz_reference")
    heard = reference.Said(bytes(talk.said.asked[7].body), reference.Rules(0, 0, 0))
    assert heard.messages == ["hello!!!", b"ab"]
