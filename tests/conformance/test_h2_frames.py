"""What a client may not do with frames (RFC 9113 §3-§6, RFC 7541, RFC 9218), one row a rule.

Rules of this file: a row is where stream 1 stands, what the client says then, and what has to come of it;
behind that, in the same bytes, stands a request (``NEXT``). It is answered where the connection lives, and
nobody ever sees it where it does not. Where nghttp2 makes a connection error of a stream error, §5.4.1 lets
it, and the row says "stream". What it lets pass although the RFC says MUST is in ``LAXER``, each with why
that harms nobody.
"""

from __future__ import annotations

from typing import Any

import pytest
from h2.errors import ErrorCodes

from tests.helpers.asgi import ok, reply
from tests.helpers.h2_judge import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
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
    PRIORITIZED,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from tests.helpers.h2_peer import Host, Raw, every_start, every_way
from tests.helpers.h2_wire import block, by_eights, byte_by_byte, frame, head, number, pseudo, settings, whole
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2

NEXT = 101
MANY = b"x" * 16385
GET = block(pseudo())
POST = block(pseudo("POST", "/echo"))
UNKNOWN = 0xFB
SELF = number(1) + b"\x10"  # "depends on stream 1"


class App:
    """Answers at once, when the body is there, when it is told to, or without reading."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        if scope["path"] == "/echo":
            while (message := await receive())["type"] == "http.request" and message["more_body"]:
                pass
            if message["type"] == "http.request":
                await reply(send, b"heard")
        elif scope["path"] == "/stay":
            while (await receive())["type"] != "http.disconnect":
                pass
        else:
            await ok(scope, receive, send)


def post(stream: int) -> bytes:
    return head(stream, pseudo("POST", "/echo"), END_HEADERS)


# Where stream 1 stands (RFC 9113 §5.1): what brings it there.
STATES = {
    "idle": b"",
    "open": post(1),
    "half-closed": head(1, pseudo("GET", "/stay")),
    "closed": head(1, pseudo("GET", "/ok")),
    "reset by the client": post(1) + frame(RST_STREAM, 0, 1, number(8)),
    "reset by the server": post(1) + frame(WINDOW_UPDATE, 0, 1, number(LARGEST_WINDOW)),
}


async def bring(raw: Raw, state: str) -> None:
    raw.send(STATES[state])
    if state == "closed":
        await raw.until(lambda: raw.streams[1].ended)
    elif state == "reset by the server":
        await raw.until(lambda: raw.streams[1].reset == ErrorCodes.FLOW_CONTROL_ERROR)
        raw.host.take_fault(-1, "FLOW_CONTROL_ERROR")
    await raw.settle(3)


def code(value: int) -> str:
    return ErrorCodes(value).name


CONNECTION = {
    "§4.2 DATA that is too long": ("open", frame(DATA, 0, 1, MANY), "FRAME_SIZE_ERROR"),
    "§4.2 HEADERS that are too long": ("idle", frame(HEADERS, 5, 1, MANY), "FRAME_SIZE_ERROR"),
    "§4.2 SETTINGS that are too long": ("idle", frame(SETTINGS, 0, 0, bytes(16386)), "FRAME_SIZE_ERROR"),
    "§4.2 an unknown frame that is too long": ("idle", frame(UNKNOWN, 0, 0, MANY), "FRAME_SIZE_ERROR"),
    # §5.1 idle
    "§5.1 DATA on an idle stream": ("idle", frame(DATA, 0, 1, b"x"), "PROTOCOL_ERROR"),
    "§5.1 RST_STREAM on an idle stream": ("idle", frame(RST_STREAM, 0, 1, number(8)), "PROTOCOL_ERROR"),
    "§5.1 WINDOW_UPDATE on an idle stream": ("idle", frame(WINDOW_UPDATE, 0, 1, number(1)), "PROTOCOL_ERROR"),
    "§5.1 DATA behind END_STREAM (stream)": ("half-closed", frame(DATA, 0, 1, b"x"), "STREAM_CLOSED"),
    "§5.1 empty DATA behind END_STREAM (stream)": ("half-closed", frame(DATA, 1, 1), "STREAM_CLOSED"),
    "§5.1 HEADERS behind END_STREAM (stream)": ("half-closed", frame(HEADERS, 5, 1, GET), "STREAM_CLOSED"),
    # §5.1.1
    "§5.1.1 an even stream id": ("open", frame(HEADERS, 5, 2, GET), "PROTOCOL_ERROR"),
    "§5.1.1 HEADERS on stream 0": ("idle", frame(HEADERS, 5, 0, GET), "PROTOCOL_ERROR"),
    # §5.5
    "§5.5 an unknown frame in a field block": (
        "idle",
        frame(HEADERS, 1, 1, GET) + frame(UNKNOWN, 0, 1) + frame(CONTINUATION, 4, 1),
        "PROTOCOL_ERROR",
    ),
    # §6.1
    "§6.1 DATA on stream 0": ("open", frame(DATA, 0, 0, b"x"), "PROTOCOL_ERROR"),
    "§6.1 as much padding as payload": ("open", frame(DATA, PADDED, 1, b"\x05abcd"), "PROTOCOL_ERROR"),
    # §4.2 has another code for these two; the end is the same
    "§6.1 padding without its length": ("open", frame(DATA, PADDED, 1), "PROTOCOL_ERROR"),
    # §6.2
    "§6.2 more padding than field block": (
        "idle", frame(HEADERS, 5 | PADDED, 1, bytes([len(GET) + 1]) + GET), "PROTOCOL_ERROR",
    ),
    "§6.2 HEADERS with padding without its length": ("idle", frame(HEADERS, 5 | PADDED, 1), "PROTOCOL_ERROR"),
    "§6.2 HEADERS too short for a priority": (
        "idle", frame(HEADERS, 5 | PRIORITIZED, 1, b"\0\0\0\0"), "FRAME_SIZE_ERROR",
    ),
    # §6.3
    "§6.3 PRIORITY of four bytes": ("open", frame(PRIORITY, 0, 1, bytes(4)), "FRAME_SIZE_ERROR"),
    "§6.3 PRIORITY of six bytes": ("open", frame(PRIORITY, 0, 1, bytes(6)), "FRAME_SIZE_ERROR"),
    # §6.4
    "§6.4 RST_STREAM on stream 0": ("open", frame(RST_STREAM, 0, 0, number(8)), "PROTOCOL_ERROR"),
    "§6.4 RST_STREAM of three bytes": ("open", frame(RST_STREAM, 0, 1, bytes(3)), "FRAME_SIZE_ERROR"),
    "§6.4 RST_STREAM of five bytes": ("open", frame(RST_STREAM, 0, 1, bytes(5)), "FRAME_SIZE_ERROR"),
    # §6.5
    "§6.5 SETTINGS on a stream": ("open", frame(SETTINGS, 0, 1), "PROTOCOL_ERROR"),
    "§6.5 SETTINGS on a stream, cut short": ("open", frame(SETTINGS, 0, 1, bytes(6)), "PROTOCOL_ERROR"),
    "§6.5 an ACK with a payload": ("idle", frame(SETTINGS, ACK, 0, bytes(6)), "FRAME_SIZE_ERROR"),
    "§6.5 SETTINGS of five bytes": ("idle", frame(SETTINGS, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
    "§6.5 SETTINGS of seven bytes": ("idle", frame(SETTINGS, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    "§6.5.2 ENABLE_PUSH 2": ("idle", settings({ENABLE_PUSH: 2}), "PROTOCOL_ERROR"),
    "§6.5.2 INITIAL_WINDOW_SIZE 2³¹": (
        "idle", settings({INITIAL_WINDOW_SIZE: 1 << 31}), "FLOW_CONTROL_ERROR",
    ),
    "§6.5.2 MAX_FRAME_SIZE 16383": ("idle", settings({MAX_FRAME_SIZE: 16383}), "PROTOCOL_ERROR"),
    "§6.5.2 MAX_FRAME_SIZE 2²⁴": ("idle", settings({MAX_FRAME_SIZE: 1 << 24}), "PROTOCOL_ERROR"),
    "RFC 8441 §3 ENABLE_CONNECT_PROTOCOL 2": (
        "idle", settings({ENABLE_CONNECT_PROTOCOL: 2}), "PROTOCOL_ERROR",
    ),
    "RFC 9218 §2.1 NO_RFC7540_PRIORITIES 2": (
        "idle", settings({NO_RFC7540_PRIORITIES: 2}), "PROTOCOL_ERROR",
    ),
    "RFC 9218 §2.1 NO_RFC7540_PRIORITIES that changes": (
        "idle", settings({NO_RFC7540_PRIORITIES: 1}), "PROTOCOL_ERROR",
    ),
    # nothing in the RFC; an ACK of nothing is a client that has lost count
    "§6.5.3 an ACK too many": ("idle", settings(flags=ACK), "PROTOCOL_ERROR"),
    # §6.6, §8.4
    "§8.4 PUSH_PROMISE of a client": (
        "open", frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + GET), "PROTOCOL_ERROR",
    ),
    "§6.6 PUSH_PROMISE on stream 0": (
        "idle", frame(PUSH_PROMISE, END_HEADERS, 0, number(2) + GET), "PROTOCOL_ERROR",
    ),
    # §6.7
    "§6.7 PING on a stream": ("open", frame(PING, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    "§6.7 PING of seven bytes": ("idle", frame(PING, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    "§6.7 PING of nine bytes": ("idle", frame(PING, 0, 0, bytes(9)), "FRAME_SIZE_ERROR"),
    # §6.8
    "§6.8 GOAWAY on a stream": ("open", frame(GOAWAY, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    "§6.8 GOAWAY of seven bytes": ("idle", frame(GOAWAY, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    # §6.9
    "§6.9 WINDOW_UPDATE of the connection by 0": (
        "idle", frame(WINDOW_UPDATE, 0, 0, bytes(4)), "PROTOCOL_ERROR",
    ),
    "§6.9 WINDOW_UPDATE of a stream by 0 (stream)": (
        "open", frame(WINDOW_UPDATE, 0, 1, bytes(4)), "PROTOCOL_ERROR",
    ),
    "§6.9 WINDOW_UPDATE of three bytes": ("open", frame(WINDOW_UPDATE, 0, 1, bytes(3)), "FRAME_SIZE_ERROR"),
    "§6.9 WINDOW_UPDATE of five bytes": ("idle", frame(WINDOW_UPDATE, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
    "§6.9.1 a connection window past 2³¹-1": (
        "idle", frame(WINDOW_UPDATE, 0, 0, number(LARGEST_WINDOW)), "FLOW_CONTROL_ERROR",
    ),
    # §6.10
    "§6.10 a CONTINUATION of nothing": ("idle", frame(CONTINUATION, 4, 1, GET), "PROTOCOL_ERROR"),
    "§6.10 a CONTINUATION behind END_HEADERS": (
        "open", frame(CONTINUATION, 4, 1, GET), "PROTOCOL_ERROR",
    ),
    "§6.10 a CONTINUATION on stream 0": (
        "idle", frame(HEADERS, 1, 1, GET) + frame(CONTINUATION, 4, 0), "PROTOCOL_ERROR",
    ),
    "§6.10 a CONTINUATION of another stream": (
        "idle", frame(HEADERS, 1, 1, GET) + frame(CONTINUATION, 4, 3), "PROTOCOL_ERROR",
    ),
    "§6.10 a CONTINUATION behind DATA": (
        "open", frame(DATA, 0, 1, b"x") + frame(CONTINUATION, 4, 1, GET), "PROTOCOL_ERROR",
    ),
    **{
        f"§6.10 {name} in a field block": (
            "idle", frame(HEADERS, 1, 1, GET) + one + frame(CONTINUATION, 4, 1), "PROTOCOL_ERROR",
        )
        for name, one in {
            "DATA": frame(DATA, 0, 1, b"x"),
            "HEADERS": frame(HEADERS, 5, 3, GET),
            "HEADERS of the same stream": frame(HEADERS, 5, 1, GET),
            "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
            "RST_STREAM": frame(RST_STREAM, 0, 1, number(8)),
            "SETTINGS": settings(),
            "PING": frame(PING, 0, 0, bytes(8)),
            "GOAWAY": frame(GOAWAY, 0, 0, bytes(8)),
            "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 0, number(1)),
            "PRIORITY_UPDATE": frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=1"),
        }.items()
    },
    # RFC 9218
    "RFC 9218 §7.1 PRIORITY_UPDATE on a stream": (
        "open", frame(PRIORITY_UPDATE, 0, 1, number(1) + b"u=1"), "PROTOCOL_ERROR",
    ),
    "RFC 9218 §7.1 PRIORITY_UPDATE of three bytes": (
        "idle", frame(PRIORITY_UPDATE, 0, 0, bytes(3)), "FRAME_SIZE_ERROR",
    ),
    "RFC 9218 §7.1 PRIORITY_UPDATE of a push stream": (
        "idle", frame(PRIORITY_UPDATE, 0, 0, number(2) + b"u=1"), "PROTOCOL_ERROR",
    ),
    # RFC 7541: a field block that cannot be read is the end (RFC 9113 §4.3)
    **{
        f"RFC 7541 {what}": ("idle", frame(HEADERS, 5, 1, GET + bad), "COMPRESSION_ERROR")
        for what, bad in {
            "§2.3.3 an index beyond the tables": b"\xff\xff\x03",
            "§2.3.3 the first dynamic index of an empty table": b"\xbe",
            "§6.1 index 0": b"\x80",
            "§5.1 an integer without an end": b"\xff" + b"\xff" * 12,
            "§5.2 a string beyond the block": b"\x00\x05ab",
            "§5.2 a literal cut short": b"\x00\x01a",
            "§5.2 Huffman padding of eight bits": b"\x00\x01a\x82\x1f\xff",
            "§5.2 Huffman padding of zeros": b"\x00\x01a\x81\x18",
            "§5.2 Huffman's EOS": b"\x00\x01a\x84\xff\xff\xff\xff",
            "§4.2 a table size update behind a field": b"\x20",
        }.items()
    },
    "RFC 7541 §6.3 a table larger than agreed": (
        "idle", frame(HEADERS, 5, 1, b"\x3f\xe2\x1f" + GET), "COMPRESSION_ERROR",
    ),
    "RFC 9113 §4.3 a bad field block in trailers": (
        "open", frame(HEADERS, 5, 1, b"\x80"), "COMPRESSION_ERROR",
    ),
    "RFC 9113 §4.3 a bad field block on a stream that the client reset": (
        "reset by the client", frame(HEADERS, 5, 3, b"\x80"), "COMPRESSION_ERROR",
    ),
}  # fmt: skip

STREAM = {
    "§8.1 trailers without END_STREAM": (
        "open", frame(HEADERS, END_HEADERS, 1, block([(b"x-a", b"1")])), "PROTOCOL_ERROR",
    ),
    "§6.9.1 a stream window past 2³¹-1": (
        "open", frame(WINDOW_UPDATE, 0, 1, number(LARGEST_WINDOW)), "FLOW_CONTROL_ERROR",
    ),
    "§6.9.1 the same of a stream that is half-closed": (
        "half-closed", frame(WINDOW_UPDATE, 0, 1, number(LARGEST_WINDOW)), "FLOW_CONTROL_ERROR",
    ),
}  # fmt: skip

IGNORED = {
    "§4.1 an unknown frame of the connection": ("idle", frame(UNKNOWN, 0xFF, 0, b"what?")),
    "§4.1 an unknown frame of an idle stream": ("idle", frame(UNKNOWN, 0xFF, 7, b"what?")),
    "§4.1 an unknown frame of an open stream": ("open", frame(UNKNOWN, 0xFF, 1, b"what?")),
    "§4.1 an unknown frame of a closed stream": ("closed", frame(UNKNOWN, 0xFF, 1, b"what?")),
    "§4.1 an unknown frame of full length": ("idle", frame(UNKNOWN, 0, 0, bytes(16384))),
    "§4.1 flags without a meaning": ("idle", frame(PING, 0xFE, 0, bytes(8))),
    "§4.1 the reserved bit": ("open", frame(DATA, 0, 1 | 1 << 31, b"x")),
    "§4.1 the reserved bit of a PING": ("idle", frame(PING, 0, 1 << 31, bytes(8))),
    "§4.1 the reserved bit of an increment": ("open", frame(WINDOW_UPDATE, 0, 1, number(1 | 1 << 31))),
    "§5.1 WINDOW_UPDATE of a stream that is half-closed": (
        "half-closed", frame(WINDOW_UPDATE, 0, 1, number(9)),
    ),
    # §5.1: an endpoint "can perform this minimal processing for all streams that are in the closed state"
    "§5.1 HEADERS of a closed stream": ("closed", frame(HEADERS, 5, 1, GET)),
    "§5.1 DATA of a closed stream": ("closed", frame(DATA, 0, 1, b"x")),
    "§5.1 DATA behind the client's RST_STREAM": ("reset by the client", frame(DATA, 1, 1, b"x")),
    "§5.1 HEADERS behind the client's RST_STREAM": ("reset by the client", frame(HEADERS, 5, 1, GET)),
    "§5.1 HEADERS behind the server's RST_STREAM": ("reset by the server", frame(HEADERS, 5, 1, GET)),
    "§5.1 WINDOW_UPDATE of a closed stream": ("closed", frame(WINDOW_UPDATE, 0, 1, number(9))),
    "§5.1 RST_STREAM of a closed stream": ("closed", frame(RST_STREAM, 0, 1, number(8))),
    "§5.1 DATA behind the server's RST_STREAM": ("reset by the server", frame(DATA, 0, 1, b"x" * 99)),
    "§5.1 the last DATA behind the server's RST_STREAM": ("reset by the server", frame(DATA, 1, 1, b"x")),
    "§5.1 WINDOW_UPDATE behind the server's RST_STREAM": (
        "reset by the server", frame(WINDOW_UPDATE, 0, 1, number(9)),
    ),
    "§5.1 RST_STREAM behind the server's": ("reset by the server", frame(RST_STREAM, 0, 1, number(8))),
    "§5.1 WINDOW_UPDATE behind the client's RST_STREAM": (
        "reset by the client", frame(WINDOW_UPDATE, 0, 1, number(9)),
    ),
    "§5.1 RST_STREAM, twice": ("reset by the client", frame(RST_STREAM, 0, 1, number(8))),
    # §5.3, §6.3: RFC 7540's priorities are deprecated, and SETTINGS said that they mean nothing
    "§6.3 PRIORITY of an idle stream": ("idle", frame(PRIORITY, 0, 7, bytes(4) + b"\xff")),
    "§6.3 PRIORITY of an open stream": ("open", frame(PRIORITY, 0, 1, number(99) + b"\x00")),
    "§6.3 PRIORITY of a closed stream": ("closed", frame(PRIORITY, 0, 1, number(3) + b"\x07")),
    # §5.3.1 of RFC 7540, which RFC 9113 has not
    "§6.3 PRIORITY that depends on itself": ("open", frame(PRIORITY, 0, 1, SELF)),
    "§6.5.2 settings that nobody knows": ("idle", settings({0x77: 1, 0xFFFF: 2**32 - 1})),
    "§6.5.2 the largest values": (
        "idle",
        settings({HEADER_TABLE_SIZE: 2**32 - 1, ENABLE_PUSH: 1, MAX_CONCURRENT_STREAMS: 2**32 - 1,
                  INITIAL_WINDOW_SIZE: LARGEST_WINDOW, MAX_FRAME_SIZE: 2**24 - 1,
                  MAX_HEADER_LIST_SIZE: 2**32 - 1}),
    ),
    "§6.5.2 the smallest values": (
        "idle",
        settings({HEADER_TABLE_SIZE: 0, ENABLE_PUSH: 0, MAX_CONCURRENT_STREAMS: 0, MAX_FRAME_SIZE: 16384}),
    ),
    "§6.5.3 the last of a name counts": (
        "idle", settings([(INITIAL_WINDOW_SIZE, 0), (INITIAL_WINDOW_SIZE, 65535)]),
    ),
    "§6.7 an answer to no PING": ("idle", frame(PING, ACK, 0, b"whatever")),
    # RFC 9218 §7.1: hints
    "RFC 9218 §7.1 PRIORITY_UPDATE of an idle stream": (
        "idle", frame(PRIORITY_UPDATE, 0, 0, number(7) + b"u=0"),
    ),
    "RFC 9218 §7.1 PRIORITY_UPDATE of an open stream": (
        "open", frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=7, i"),
    ),
    "RFC 9218 §7.1 PRIORITY_UPDATE of a closed stream": (
        "closed", frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=7, i"),
    ),
    "RFC 9218 §4 a priority that is none": ("open", frame(PRIORITY_UPDATE, 0, 0, number(1) + b"\xff;;=?(")),
}  # fmt: skip


# State, what is said, the code of RST_STREAM on stream 1 if there is one; why it may stay so.
LAXER = {
    # §4.2 wants FRAME_SIZE_ERROR. The field block as a whole has its limits.
    "§4.2 a CONTINUATION that is too long": (
        "idle",
        frame(HEADERS, 1, 1, GET) + frame(CONTINUATION, 4, 1, block([(b"a", b"x" * 8200)] * 2)),
        None,
    ),
    # §5.1.1 wants PROTOCOL_ERROR. Such a stream counts as closed, and its frames are dropped.
    "§5.1.1 a stream id that was passed over": (
        "idle", head(5, pseudo()) + frame(HEADERS, 5, 3, block(pseudo("GET", "/smuggled"))), None,
    ),
    # §6.3 wants PROTOCOL_ERROR. PRIORITY means nothing here (RFC 9218 §2.1), and is counted.
    "§6.3 PRIORITY on stream 0": ("idle", frame(PRIORITY, 0, 0, bytes(5)), None),
    # §6.9.2 wants the end of the connection. The streams whose windows would overflow are ended.
    "§6.9.2 SETTINGS that make a window pass 2³¹-1": (
        "half-closed",
        frame(WINDOW_UPDATE, 0, 1, number(LARGEST_WINDOW - 65535)) + settings({INITIAL_WINDOW_SIZE: 65536}),
        "FLOW_CONTROL_ERROR",
    ),
    # RFC 9218 §7.1 wants PROTOCOL_ERROR. It is dropped.
    "RFC 9218 §7.1 PRIORITY_UPDATE of stream 0": (
        "idle", frame(PRIORITY_UPDATE, 0, 0, number(0) + b"u=1"), None,
    ),
}  # fmt: skip


def awaits_continuation(data: bytes) -> bool:
    return data[3:5] == bytes([HEADERS, END_STREAM])


@every_way
@pytest.mark.parametrize("rule", CONNECTION)
async def test_a_connection_error(rule, start, feeding):
    """GOAWAY with the code and the last stream that counts, and the end; nothing behind it is seen."""
    state, bad, expected = CONNECTION[rule]
    # nghttp2 counts each read of what should be a CONTINUATION's header: test_a_continuation_that_dribbles
    feeding = by_eights if feeding is byte_by_byte and awaits_continuation(bad) else feeding
    app = App()
    async with Host(app) as host:
        raw = host.raw(start, feeding)
        await bring(raw, state)
        begun = [stream.id for stream in raw.streams.values()]
        raw.send(bad, head(NEXT, pseudo("GET", "/smuggled")))
        await raw.until(lambda: raw.closed, "the end of the connection")
        assert [code(one) for _, one, _ in raw.judge.goaways] == [expected]
        assert max(begun, default=0) <= raw.goaway[0] < NEXT
        assert NEXT not in raw.streams or raw.streams[NEXT].status is None
        assert "/smuggled" not in app.paths
        host.take_fault(0, expected)  # why, in the log


async def lives(raw: Raw, app: App) -> None:
    """What stood behind the frame in question is answered, and so is what comes now."""
    raw.send(head(NEXT, pseudo("GET", "/next")))
    await raw.until(lambda: raw.streams[NEXT].ended, "the answer to what came behind")
    assert raw.streams[NEXT].status == 200
    await raw.pong()
    assert (raw.goaway, raw.closed) == (None, False)
    assert "/smuggled" not in app.paths


@every_way
@pytest.mark.parametrize("rule", STREAM)
async def test_a_stream_error(rule, start, feeding):
    """RST_STREAM with the code; its app hears of a disconnect, other streams of nothing."""
    state, bad, expected = STREAM[rule]
    app = App()
    async with Host(app) as host:
        raw = host.raw(start, feeding)
        await bring(raw, state)
        raw.send(head(3, pseudo("GET", "/stay")), bad)
        await raw.until(lambda: raw.streams[1].over)
        assert (raw.streams[1].status, code(raw.streams[1].reset)) == (None, expected)
        await raw.until(lambda: host.factory.in_flight == 1, "the app to hear of it")
        await lives(raw, app)
        assert not raw.streams[3].over
        host.take_fault(-1, expected)


@every_way
@pytest.mark.parametrize("rule", IGNORED)
async def test_what_means_nothing(rule, start, feeding):
    """The connection and the stream go on as if it had not been said."""
    state, odd = IGNORED[rule]
    app = App()
    async with Host(app) as host:
        raw = host.raw(start, feeding)
        await bring(raw, state)
        before = {id_: stream.reset for id_, stream in raw.streams.items()}
        raw.send(odd)
        await lives(raw, app)
        assert {id_: raw.streams[id_].reset for id_ in before} == before
        if state == "open":
            raw.send(frame(DATA, END_STREAM, 1, b"x"))
            await raw.until(lambda: raw.streams[1].ended)
            assert raw.streams[1].body == b"heard"


@every_start
@pytest.mark.parametrize("rule", LAXER)
async def test_what_nghttp2_lets_pass(rule, start):
    """A change of these is one of docs/deviations.md."""
    state, odd, expected = LAXER[rule]
    app = App()
    async with Host(app) as host:
        raw = host.raw(start, whole)
        await bring(raw, state)
        raw.send(odd)
        await lives(raw, app)
        reset = raw.streams[1].reset if 1 in raw.streams else None
        assert (None if reset is None else code(reset)) == expected
        assert expected is None or host.take_fault(-1, expected)
