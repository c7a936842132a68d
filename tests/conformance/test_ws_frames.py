"""Frames that RFC 6455 §5 allows arrive, whatever their length, mask and order, and however they are cut.

Rules of this file: everything is allowed here; test_ws_bad_frames.py has what is not. Where the websockets
package, which is the authority, takes more than the RFC has clients send, the test says so.
"""

from __future__ import annotations

import random
import struct

import pytest

from tests.helpers.http1 import until
from tests.helpers.ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WsClient,
    binary,
    close,
    echo,
    frame,
    handshake,
    ping,
    pong,
    text,
)
from tests.helpers.ws_peer import (
    EVERY_CHARACTER,
    MEBIBYTE,
    EachHeard,
    Sender,
    answer,
    byte_by_byte,
    connect,
    failed,
    fragments,
    in_two,
    large,
    pieces_of,
)

LENGTHS = [0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 124, 125, 126, 127, 128, 129, 1023, 1024]
LONG = [65534, 65535, 65536, 65537, MEBIBYTE + 3, 5 * MEBIBYTE]


# Lengths


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_every_short_length(serve, kind):
    server = serve(echo)
    ws = connect(server)
    for size in [*range(300), *LENGTHS]:
        if kind == "text":
            ws.send(text("x" * size))
            assert ws.read_text() == "x" * size
        else:
            data = bytes(number % 251 for number in range(size))
            ws.send(binary(data))
            assert ws.read_binary() == data
    ws.finish()


@pytest.mark.parametrize("size", LONG)
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_long_lengths(serve, kind, size):
    ws = connect(serve(echo))
    data = random.Random(size).randbytes(size) if kind == "binary" else (b"wire speed " * size)[:size]
    with Sender(ws, large(TEXT if kind == "text" else BINARY, data)):
        received = ws.read_text().encode() if kind == "text" else ws.read_binary()
    assert received == data
    ws.finish()


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, MEBIBYTE])
def test_long_text_with_every_kind_of_character(serve, size):
    ws = connect(serve(echo))
    string = (EVERY_CHARACTER * (size // 16))[: size // 2]
    with Sender(ws, large(TEXT, string.encode())):
        assert ws.read_text() == string
    ws.finish()


LONGER_FORMS = [(0, 2), (0, 8), (5, 2), (5, 8), (125, 2), (125, 8), (126, 8), (65535, 8)]


@pytest.mark.parametrize(("size", "length_bytes"), LONGER_FORMS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_length_in_a_longer_form_is_taken(serve, size, length_bytes, opcode):
    """As websockets does; RFC 6455 §5.2 has senders use the shortest."""
    ws = connect(serve(echo))
    ws.send(frame(opcode, b"x" * size, length_bytes=length_bytes))
    found = ws.read_frame()
    assert (found.opcode, found.payload) == (opcode, b"x" * size)
    ws.finish()


@pytest.mark.parametrize("length_bytes", [2, 8])
def test_a_ping_with_a_length_in_a_longer_form_is_answered(serve, length_bytes):
    ws = connect(serve(echo))
    ws.send(frame(PING, b"x" * 125, length_bytes=length_bytes))
    assert ws.read_pong() == b"x" * 125
    ws.finish()


# Masks


def test_unmasking_against_a_reference(serve):
    """Every length to 200, at every offset that many frames in one packet bring about, under random keys."""
    dice = random.Random(6455)
    payloads = [dice.randbytes(size) for _ in range(5) for size in range(201)]
    frames = [frame(BINARY, payload, mask=dice.randbytes(4)) for payload in payloads]
    ws = connect(serve(echo))
    with Sender(ws, b"".join(frames)):
        for payload in payloads:
            assert ws.read_binary() == payload
    ws.finish()


@pytest.mark.parametrize("before", range(17))
def test_unmasking_at_every_offset(serve, before):
    """A short message in front moves the next one by one byte each."""
    dice = random.Random(before)
    payload, odd = dice.randbytes(4099), dice.randbytes(before)
    ws = connect(serve(echo))
    ws.send(frame(BINARY, odd, mask=dice.randbytes(4)) + frame(BINARY, payload, mask=dice.randbytes(4)))
    assert [ws.read_binary(), ws.read_binary()] == [odd, payload]
    ws.finish()


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\xff\0\xff", b"\x80\0\0\0"])
def test_masks_that_are_nothing_special(serve, mask):
    ws = connect(serve(echo))
    ws.send(*[frame(BINARY, bytes(range(size)), mask=mask) for size in range(70)])
    for size in range(70):
        assert ws.read_binary() == bytes(range(size))
    ws.send(frame(TEXT, EVERY_CHARACTER.encode(), mask=mask))
    assert ws.read_text() == EVERY_CHARACTER
    ws.send(frame(PING, b"?", mask=mask))
    assert ws.read_pong() == b"?"
    ws.finish()


# How it is cut

CONVERSATION = b"".join(
    [
        text("héllo"),
        binary(b""),
        ping(b"1"),
        frame(TEXT, b"\xe2\x82", fin=False),
        ping(b"2"),
        frame(CONTINUATION, b"\xac", fin=True),
        pong(b"?"),
        frame(BINARY, bytes(range(130))),
        close(4000, "bye"),
    ]
)
ANSWERS = [
    {"type": "websocket.receive", "text": "héllo", "bytes": None},
    {"type": "websocket.receive", "text": None, "bytes": b""},
    {"type": "websocket.receive", "text": "€", "bytes": None},
    {"type": "websocket.receive", "text": None, "bytes": bytes(range(130))},
    {"type": "websocket.disconnect", "code": 4000, "reason": "bye"},
]
ON_THE_WIRE = answer(PONG, b"1") + answer(PONG, b"2") + answer(CLOSE, struct.pack("!H", 4000) + b"bye")


def converses(serve, cuts: list[list[bytes]]) -> None:
    each = EachHeard()
    server = serve(each)
    for pieces in cuts:
        ws = connect(server)
        ws.send_each(pieces)
        assert ws.client.rest() == ON_THE_WIRE, pieces
        each.last.end()
        assert each.last.messages == ANSWERS, pieces
        ws.client.close()


def test_a_conversation_in_one_piece(serve):
    converses(serve, [[CONVERSATION]])


def test_a_conversation_cut_in_two_anywhere(serve):
    converses(serve, in_two(CONVERSATION))


def test_a_conversation_byte_by_byte(serve):
    converses(serve, [byte_by_byte(CONVERSATION)])


@pytest.mark.parametrize("size", [2, 3, 5, 7, 11])
def test_a_conversation_in_small_pieces(serve, size):
    converses(serve, [pieces_of(CONVERSATION, size)])


def test_many_frames_in_one_packet(serve):
    ws = connect(serve(echo))
    with Sender(ws, b"".join(text(str(number)) for number in range(20_000))):
        for number in range(20_000):
            assert ws.read_text() == str(number)
    ws.finish()


def test_what_is_sent_with_the_handshake_waits_for_the_accept(serve, heard):
    """A client should not (RFC 6455 §4.1), and nothing is lost when it does."""
    server = serve(heard)
    ws = WsClient(server.connect())
    ws.send(handshake() + CONVERSATION)
    ws.opened()
    assert ws.client.rest() == ON_THE_WIRE
    heard.end()
    assert heard.messages == ANSWERS


@pytest.mark.parametrize("size", [1000, 70_000, 3 * MEBIBYTE])
def test_a_frame_that_comes_in_many_reads(serve, size):
    ws = connect(serve(echo))
    data = random.Random(size).randbytes(size)
    whole = large(BINARY, data) + text("next")
    ws.send_each(pieces_of(whole, max(1, len(whole) // 150)))
    assert ws.read_binary() == data
    assert ws.read_text() == "next"
    ws.finish()


# Fragments, and what may come between them


@pytest.mark.parametrize("count", [2, 3, 10, 500])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_fragments_are_one_message(serve, heard, kind, count):
    server = serve(heard)
    ws = connect(server)
    whole = b"0123456789abcdef" * 64
    ws.send(*fragments(kind, pieces_of(whole, -(-len(whole) // count))))
    ws.finish()
    assert heard.data() == [whole.decode() if kind == TEXT else whole]


def test_empty_fragments_are_fine(serve, heard):
    ws = connect(serve(heard))
    ws.send(*fragments(TEXT, [b"", b"a", b"", b"", b"b", b""]), *fragments(BINARY, [b""] * 50))
    ws.finish()
    assert heard.data() == ["ab", b""]


def test_control_frames_between_fragments(serve, heard):
    ws = connect(serve(heard))
    pieces = fragments(TEXT, [b"%d," % number for number in range(20)])
    for number, piece in enumerate(pieces):
        ws.send(piece, ping(b"p%d" % number), pong(b"unasked"))
        assert ws.read_pong() == b"p%d" % number
    ws.finish()
    assert heard.data() == ["".join(f"{number}," for number in range(20))]


def test_messages_between_fragmented_ones(serve, heard):
    ws = connect(serve(heard))
    for _ in range(3):
        ws.send(
            text("whole"), *fragments(BINARY, [b"a", b"b"]), binary(b"whole"), *fragments(TEXT, [b"c"] * 3)
        )
    ws.finish()
    assert heard.data() == ["whole", b"ab", b"whole", "ccc"] * 3


def test_fragments_of_many_connections_do_not_mix(serve):
    """What is in progress belongs to its connection, however few protocols the server keeps."""
    server = serve(echo)
    clients = [connect(server) for _ in range(40)]
    for step in range(5):
        for number, ws in enumerate(clients):
            opcode = (TEXT if number % 2 else BINARY) if step == 0 else CONTINUATION
            ws.send(frame(opcode, b"<%d.%d>" % (number, step), fin=step == 4))
    for number, ws in enumerate(clients):
        whole = "".join(f"<{number}.{step}>" for step in range(5))
        assert (ws.read_text() if number % 2 else ws.read_binary().decode()) == whole
        ws.finish()


@pytest.mark.parametrize("how", ["close", "reset", "fail"])
def test_a_client_that_leaves_within_a_message_leaves_nothing_to_the_next(serve, how):
    each = EachHeard()
    server = serve(each)
    for number in range(60):
        ws = connect(server)
        ws.send(frame(TEXT, b"never ends", fin=False), ping())
        assert ws.read_pong() == b""
        if how == "fail":
            ws.send(text("no continuation"))
            failed(server, ws, 1002)
        elif how == "reset":
            ws.client.reset()
        else:
            ws.client.close()
        if number % 3 == 2:
            after = connect(server)
            after.send(*fragments(BINARY, [b"clean", b"."]))
            after.finish()
            assert each.last.data() == [b"clean."]
    until(lambda: server.factory.connections == 0)


# Ping and pong


def test_a_ping_is_answered_with_its_payload(serve):
    ws = connect(serve(echo))
    for size in range(126):
        data = bytes((size + at) % 256 for at in range(size))
        ws.send(ping(data))
        assert ws.read_pong() == data
    ws.finish()


def test_pings_are_answered_in_order_among_messages(serve, heard):
    ws = connect(serve(heard))
    ws.send(*[ping(b"%d" % number) + text(str(number)) for number in range(30)])
    assert [ws.read_pong() for _ in range(30)] == [b"%d" % number for number in range(30)]
    ws.finish()
    assert heard.data() == [str(number) for number in range(30)]


def test_pongs_that_nobody_asked_for_are_ignored(serve, heard):
    ws = connect(serve(heard))
    ws.send(*[pong(b"x" * size) for size in range(126)], text("still here"))
    ws.assert_no_frame()
    ws.finish()
    assert heard.data() == ["still here"]
