"""Frames that are not allowed end the WebSocket, RFC 6455 §5 and §7; and the ends that are.

Rules of this file: a failure is one close frame with the right code, one report, and no message to the app
that came behind it. The codes are those of the websockets package, which is the authority.
"""

from __future__ import annotations

import random

import pytest

from tests.helpers.http1 import until
from tests.helpers.ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    echo,
    frame,
    ping,
    text,
)
from tests.helpers.ws_peer import (
    MEBIBYTE,
    Sender,
    byte_by_byte,
    connect,
    failed,
    fragments,
    header,
    large,
    limited,
)

# What is not allowed

FAILURES = {
    **{f"opcode {opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"RSV {rsv} on text": (frame(TEXT, b"x", rsv=rsv), 1002) for rsv in range(1, 8)},
    **{f"RSV {rsv} on binary": (frame(BINARY, b"x", rsv=rsv), 1002) for rsv in (1, 2, 4, 7)},
    **{f"RSV {rsv} on ping": (frame(PING, b"x", rsv=rsv), 1002) for rsv in (1, 2, 4, 7)},
    **{f"RSV {rsv} on pong": (frame(PONG, b"x", rsv=rsv), 1002) for rsv in (1, 2, 4, 7)},
    "RSV 1 on close": (frame(CLOSE, b"", rsv=1), 1002),
    "RSV 4 on a continuation": (frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", rsv=4), 1002),
    "text, not masked": (frame(TEXT, b"x", mask=None), 1002),
    "binary, not masked": (frame(BINARY, b"x" * 70_000, mask=None), 1002),
    "empty, not masked": (frame(TEXT, b"", mask=None), 1002),
    "ping, not masked": (frame(PING, b"x", mask=None), 1002),
    "close, not masked": (frame(CLOSE, b"\x03\xe8", mask=None), 1002),
    "a ping in fragments": (frame(PING, b"x", fin=False), 1002),
    "a pong in fragments": (frame(PONG, b"x", fin=False), 1002),
    "a close in fragments": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a ping of 126": (frame(PING, b"x" * 126), 1002),
    "a pong of 126": (frame(PONG, b"x" * 126), 1002),
    "a ping of 65536": (frame(PING, b"x" * 65536), 1002),
    "a close of 126": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "an open continuation of nothing": (frame(CONTINUATION, b"x", fin=False), 1002),
    "a continuation after the end": (b"".join(fragments(TEXT, [b"", b""])) + frame(CONTINUATION), 1002),
    "text within a message": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "binary within a message": (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"), 1002),
    "a message within a message": (frame(BINARY, b"a", fin=False) + frame(BINARY, b"b", fin=False), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a reason that is cut": (frame(CLOSE, b"\x03\xe8\xe2\x82"), 1007),
}
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 9999, 65535]
FAILURES |= {f"close code {code}": (close(code), 1002) for code in BAD_CODES}
# An app may be sent this message: none of what came before is one.
NO_MESSAGE = {"a continuation after the end"}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_not_allowed_ends_it(serve, heard, name):
    """What came before has arrived, what comes behind does not."""
    bad, code = FAILURES[name]
    server = serve(heard)
    ws = connect(server)
    ws.send(text("before") + bad + text("behind") + ping(b"behind"))
    reason = failed(server, ws, code)
    assert heard.data() == ["before"] + [""] * (name in NO_MESSAGE)
    assert (heard.end()["code"], heard.end()["reason"]) == (code, reason)


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_not_allowed_byte_by_byte(serve, heard, name):
    bad, code = FAILURES[name]
    server = serve(heard)
    ws = connect(server)
    ws.send(bad[:-1] if len(bad) > 1000 else b"")
    ws.send_each([bad[-1:]] if len(bad) > 1000 else byte_by_byte(bad))
    failed(server, ws, code)
    assert heard.end()["code"] == code


HEADERS = {
    "an unknown opcode": (header(3, 100), 1002),
    "an unknown control opcode": (header(11, 0), 1002),
    "not masked": (frame(TEXT, b"x" * 5, mask=None)[:2], 1002),
    "not masked, long": (frame(BINARY, b"x" * 300, mask=None)[:4], 1002),
    "a long ping": (header(PING, 126), 1002),
    "a very long close": (header(CLOSE, 65536), 1002),
}


@pytest.mark.parametrize("name", HEADERS)
def test_what_the_header_tells_is_not_waited_for(serve, heard, name):
    """The payload never comes."""
    bad, code = HEADERS[name]
    server = serve(heard)
    ws = connect(server)
    ws.send(bad)
    failed(server, ws, code)
    assert heard.data() == []


@pytest.mark.parametrize("limit", [0, 16 * MEBIBYTE])
@pytest.mark.parametrize("length", [1 << 63, (1 << 63) + 5, (1 << 64) - 1])
def test_a_length_with_the_top_bit_set(serve, heard, limit, length):
    """RFC 6455 §5.2: there is none. Without a limit, too, it is neither waited for nor kept room for."""
    server = serve(heard, **limited(ws_max_size_bytes=limit))
    ws = connect(server)
    ws.send(header(BINARY, length) + b"x" * 1000)
    code, _ = ws.read_close()
    assert code in (1002, 1009)
    ws.assert_closed()
    assert [reject.status for reject in server.take_rejects()] == [code]
    assert heard.data() == []


@pytest.mark.parametrize("name", ["RSV 1 on text", "text, not masked", "opcode 3", "close code 999"])
@pytest.mark.parametrize("more", [100_000, 20 * MEBIBYTE])
def test_the_close_frame_arrives_though_the_client_goes_on_sending(serve, heard, name, more):
    """No reset destroys it: what still comes is read and dropped (RFC 6455 §7.1.1)."""
    bad, code = FAILURES[name]
    server = serve(heard)
    ws = connect(server)
    ws.send(bad)
    with Sender(ws, text("behind") * (more // 12)):
        failed_code, _ = ws.read_close()
        assert failed_code == code
        ws.assert_closed()
    ws.client.close()
    assert [reject.status for reject in server.take_rejects()] == [code]
    assert heard.data() == []


def test_what_was_sent_before_a_failure_arrives_before_it(serve):
    """Also if it is much, and the client reads late."""
    data = random.Random(1).randbytes(3 * MEBIBYTE)
    server = serve(echo)
    ws = connect(server, receive_buffer=65536)
    ws.send(large(BINARY, data))
    until(lambda: server.factory.in_flight == 1)
    first = ws.client.receive(1000)  # the app has sent it
    ws.send(frame(3, b"bad"))
    ws.client.buffered = first
    assert ws.read_binary() == data
    failed(server, ws, 1002)


def test_the_app_is_told_even_if_it_waits_already(serve, heard):
    server = serve(heard)
    ws = connect(server)
    ws.assert_no_frame()  # it is in receive()
    ws.send(frame(TEXT, b"\xff"))
    failed(server, ws, 1007)
    assert heard.end()["code"] == 1007


# Close frames

GOOD_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]


@pytest.mark.parametrize("code", GOOD_CODES)
@pytest.mark.parametrize("reason", ["", "why not", "größer €😀", "x" * 123])
def test_a_close_is_answered_and_told(serve, heard, code, reason):
    server = serve(heard)
    ws = connect(server)
    ws.send(text("last"), close(code, reason))
    assert ws.read_close() == (code, reason)
    ws.assert_closed()
    assert heard.data() == ["last"]
    assert heard.end() == {"type": "websocket.disconnect", "code": code, "reason": reason}


def test_a_close_without_a_code(serve, heard):
    """It is answered in kind; the app hears 1005, which is never on the wire (RFC 6455 §7.1.5)."""
    ws = connect(serve(heard))
    ws.send(close(None))
    assert ws.read_frame() == Frame(True, 0, CLOSE, b"")
    ws.assert_closed()
    assert heard.end() == {"type": "websocket.disconnect", "code": 1005, "reason": ""}


def test_nothing_behind_a_close_is_heard(serve, heard):
    ws = connect(serve(heard))
    ws.send(close(1000, "done") + text("behind") + ping(b"behind") + close(1001) + frame(3, b"x"))
    assert ws.read_close() == (1000, "done")
    ws.assert_closed()
    assert heard.data() == []
    assert heard.end()["code"] == 1000


def test_a_close_within_a_message_is_a_close(serve, heard):
    """RFC 6455 §5.4: a control frame may come there, too; the message never ends."""
    ws = connect(serve(heard))
    ws.send(frame(TEXT, b"never", fin=False) + close(4001, "enough"))
    assert ws.read_close() == (4001, "enough")
    ws.assert_closed()
    assert heard.data() == []
    assert heard.end() == {"type": "websocket.disconnect", "code": 4001, "reason": "enough"}


PARTS = [b"", b"\x81", b"\x81\x85\0\0", text("half")[:-1], frame(TEXT, b"a", fin=False)]
NAMES = ["nothing", "a byte", "a part of a header", "a part of a frame", "a part of a message"]


@pytest.mark.parametrize("part", PARTS, ids=NAMES)
@pytest.mark.parametrize("how", ["close", "half close", "reset"])
def test_a_connection_that_ends_without_a_close(serve, heard, part, how):
    """The app hears 1006 behind what came whole."""
    server = serve(heard)
    ws = connect(server)
    ws.send(text("whole"))
    until(lambda: heard.messages)
    ws.send(part)
    if how == "reset":
        ws.client.reset()
    elif how == "half close":
        ws.client.half_close()
        ws.assert_closed()
    else:
        ws.client.close()
    assert heard.data() == ["whole"]
    assert heard.end()["code"] == 1006
