"""permessage-deflate, RFC 7692: what comes compressed is inflated, what is long enough goes compressed.

Rules of this file: the other end is zlib alone, which keeps no context from one message to the next, as was
agreed; what is agreed for which offer is in test_ws_negotiation.py.
"""

from __future__ import annotations

import asyncio
import random
import zlib

import pytest

from tests.helpers.http1 import until
from tests.helpers.ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Led,
    WsClient,
    binary,
    echo,
    frame,
    handshake,
    inflated,
    ping,
    text,
)
from tests.helpers.ws_peer import (
    EVERY_CHARACTER,
    EachHeard,
    Sender,
    byte_by_byte,
    connect,
    failed,
    fragments,
    large,
    limited,
    pieces_of,
)

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
# Shorter messages are not worth it.
LEAST = 1024
# What the server compresses with: the other end may inflate with no more.
WINDOW_BITS = 12


def deflated(data: bytes, level: int = 6) -> bytes:
    """The payload of a compressed message, within the window that was agreed."""
    squeeze = zlib.compressobj(level, zlib.DEFLATED, -WINDOW_BITS)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def packed(payload: str | bytes, level: int = 6) -> bytes:
    """A whole compressed message."""
    opcode, raw = (TEXT, payload.encode()) if isinstance(payload, str) else (BINARY, payload)
    return large(opcode, deflated(raw, level), rsv=4)


def read_packed(ws) -> bytes:
    """The next message, which must be one compressed frame."""
    found = ws.read_frame()
    assert (found.fin, found.rsv) == (True, 4), found
    return inflated(found.payload, WINDOW_BITS)


# Received


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 1000, 65535, 65536, 1_000_000])
def test_a_compressed_message_is_inflated(serve, heard, size, level):
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    ws = connect(serve(heard), OFFER)
    ws.send(packed(data, level), packed("x" * size, level))
    ws.finish()
    assert heard.data() == [data, "x" * size]


HELLO = {
    "RFC 7692 §7.2.3.1, one block": [b"\xf2\x48\xcd\xc9\xc9\x07\x00"],
    "RFC 7692 §7.2.3.1, two fragments": [b"\xf2\x48\xcd", b"\xc9\xc9\x07\x00"],
    "RFC 7692 §7.2.3.3, no compression": [b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"],
    "RFC 7692 §7.2.3.4, a last block": [b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"],
    "RFC 7692 §7.2.3.5, two blocks": [b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"],
    "each byte a fragment": byte_by_byte(b"\xf2\x48\xcd\xc9\xc9\x07\x00"),
    "with empty fragments": [b"", b"\xf2\x48\xcd", b"", b"", b"\xc9\xc9\x07\x00", b""],
    "all in the first": [b"\xf2\x48\xcd\xc9\xc9\x07\x00", b""],
}


@pytest.mark.parametrize("name", HELLO)
def test_the_examples_of_the_rfc(serve, heard, name):
    ws = connect(serve(heard), OFFER)
    for _ in range(3):
        ws.send(*fragments(TEXT, HELLO[name], rsv=4))
    ws.finish()
    assert heard.data() == ["Hello"] * 3


def test_an_empty_message(serve, heard):
    """RFC 7692 §7.2.3.6: one byte, 0x00."""
    ws = connect(serve(heard), OFFER)
    ws.send(frame(TEXT, b"\0", rsv=4), frame(BINARY, b"\0", rsv=4), *fragments(TEXT, [b"", b"\0"], rsv=4))
    ws.finish()
    assert heard.data() == ["", b"", ""]


def test_it_is_the_message_that_is_compressed_or_not(serve, heard):
    """RFC 7692 §6: each for itself."""
    ws = connect(serve(heard), OFFER)
    for _ in range(3):
        ws.send(text("plain"), packed("packed"), binary(b"plain"), packed(b"packed"))
        ws.send(*fragments(TEXT, [b"pl", b"ain"]), *fragments(TEXT, pieces_of(deflated(b"packed"), 3), rsv=4))
    ws.finish()
    assert heard.data() == ["plain", "packed", b"plain", b"packed", "plain", "packed"] * 3


@pytest.mark.parametrize("at", range(1, len(deflated(EVERY_CHARACTER.encode()))))
def test_text_in_compressed_fragments(serve, heard, at):
    raw = deflated(EVERY_CHARACTER.encode())
    ws = connect(serve(heard), OFFER)
    ws.send(*fragments(TEXT, [raw[:at], raw[at:]], rsv=4))
    ws.finish()
    assert heard.data() == [EVERY_CHARACTER]


def test_control_frames_between_compressed_fragments(serve, heard):
    """They are never compressed (RFC 7692 §6)."""
    ws = connect(serve(heard), OFFER)
    data = "".join(str(number) for number in range(2000))
    for number, piece in enumerate(fragments(TEXT, pieces_of(deflated(data.encode()), 100), rsv=4)):
        ws.send(ping(b"%d" % number), piece)
        assert ws.read_pong() == b"%d" % number
    ws.finish()
    assert heard.data() == [data]


def test_a_compressed_conversation_byte_by_byte(serve, heard):
    ws = connect(serve(heard), OFFER)
    frames = (
        packed("héllo") + text("plain") + b"".join(fragments(TEXT, pieces_of(deflated(b"x" * 9), 2), rsv=4))
    )
    ws.send_each(byte_by_byte(frames))
    ws.finish()
    assert heard.data() == ["héllo", "plain", "x" * 9]


# Sent


@pytest.mark.parametrize("size", [LEAST, LEAST + 1, 5000, 65536, 1_000_000])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_a_long_message_is_sent_compressed(serve, size, kind):
    """In one frame, complete in itself, within the window that was agreed."""
    ws = connect(serve(echo), OFFER)
    data = (b"abcdefgh" * size)[:size]
    for _ in range(3):
        ws.send(packed(data.decode() if kind == "text" else data))
        found = ws.read_frame()
        assert (found.fin, found.rsv, found.opcode) == (True, 4, TEXT if kind == "text" else BINARY)
        assert len(found.payload) < size
        assert inflated(found.payload, WINDOW_BITS) == data
    ws.finish()


def test_what_does_not_compress_arrives_too(serve):
    data = random.Random(7692).randbytes(300_000)
    ws = connect(serve(echo), OFFER)
    with Sender(ws, packed(data)):
        assert read_packed(ws) == data
    ws.finish()


@pytest.mark.parametrize("size", [0, 1, 125, 126, LEAST - 1])
def test_a_short_message_is_sent_as_it_is(serve, size):
    ws = connect(serve(echo), OFFER)
    ws.send(packed("x" * size))
    assert ws.read_text() == "x" * size
    ws.send(packed(b"x" * size))
    assert ws.read_binary() == b"x" * size
    ws.finish()


def test_bytes_count_and_not_characters(serve):
    ws = connect(serve(echo), OFFER)
    short, long = "€" * 341, "€" * 342  # 1023 and 1026 bytes
    ws.send(packed(short), packed(long))
    assert ws.read_text() == short
    assert read_packed(ws).decode() == long
    ws.finish()


def test_no_message_needs_another_one(serve):
    """No context takeover: the same message is the same bytes, whatever was before it."""
    ws = connect(serve(echo), OFFER)
    first, other = "".join(map(str, range(1000))), "".join(map(str, range(999, 0, -1)))
    payloads = []
    for message in (first, other, first, first):
        ws.send(packed(message))
        payloads.append(ws.read_frame().payload)
    assert payloads[0] == payloads[2] == payloads[3] != payloads[1]
    ws.finish()


@pytest.mark.parametrize("bits", [9, 10, 11, 12])
def test_a_client_with_a_small_window(serve, bits):
    """Whose server_max_window_bits is obeyed: it can inflate with no more."""
    ws = connect(
        serve(echo), b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=%d" % bits
    )
    dice = random.Random(bits)
    block = dice.randbytes(700)  # again after 1400 bytes: beyond a window of 512 or 1024
    data = block + dice.randbytes(700) + block * 3
    ws.send(large(BINARY, data))
    found = ws.read_frame()
    assert found.rsv == 4
    assert inflated(found.payload, bits) == data
    ws.finish()


def test_a_message_in_fragments_does_not_hold_up_what_is_sent(serve):
    app = Led()
    server = serve(app)
    ws = connect_led(server, app)
    connection = app.connection()
    raw = deflated(b"the client's " * 500)
    first, *rest = fragments(TEXT, pieces_of(raw, 20), rsv=4)
    ws.send(first)
    for number, piece in enumerate(rest):
        message = f"the server's {number} " * 500
        connection.text(message)
        assert read_packed(ws).decode() == message
        connection.binary(b"short")
        assert ws.read_binary() == b"short"
        ws.send(piece)
    assert connection.receive()["text"] == "the client's " * 500
    connection.leave()
    ws.read_close()
    ws.client.close()


def connect_led(server, app):
    """The test accepts for the app."""
    ws = WsClient(server.connect())
    ws.send(handshake("/", OFFER))
    app.connection().accept()
    ws.opened()
    return ws


# Many connections, few objects of zlib


def test_messages_in_progress_do_not_mix(serve):
    """40 clients, each within a message of its own, each fragment in turn."""
    server = serve(echo)
    clients = [connect(server, OFFER) for _ in range(40)]
    data = [b"%d " % number * 800 for number in range(40)]
    pieces = [fragments(BINARY, pieces_of(deflated(one), 5), rsv=4) for one in data]
    for step in range(max(map(len, pieces))):
        for ws, mine in zip(clients, pieces, strict=True):
            if step < len(mine):
                ws.send(mine[step])
    for ws, one in zip(clients, data, strict=True):
        assert read_packed(ws) == one
        ws.finish()


@pytest.mark.parametrize("how", ["close", "reset", "garbage"])
def test_a_client_that_leaves_within_a_message_leaves_nothing_behind(serve, how):
    each = EachHeard()
    server = serve(each)
    first = fragments(BINARY, pieces_of(deflated(b"half of it " * 100), 30), rsv=4)[0]
    for _ in range(30):
        ws = connect(server, OFFER)
        ws.send(first)
        ws.assert_no_frame()
        if how == "garbage":
            ws.send(frame(CONTINUATION, b"\xff" * 20))
            failed(server, ws, 1002)
        elif how == "reset":
            ws.client.reset()
        else:
            ws.client.close()
        after = connect(server, OFFER)
        after.send(packed("whole"), *fragments(TEXT, pieces_of(deflated(b"in parts" * 9), 4), rsv=4))
        after.finish()
        assert each.last.data() == ["whole", "in parts" * 9]
    until(lambda: server.factory.connections == 0)


# What is not allowed

BAD = {
    "RSV1 on a continuation": (frame(TEXT, b"\xf2\x48", fin=False, rsv=4) + frame(0, b"\0", rsv=4), 1002),
    "RSV1 on a continuation of a plain one": (frame(TEXT, b"a", fin=False) + frame(0, b"b", rsv=4), 1002),
    "RSV1 on a ping": (frame(PING, b"x", rsv=4), 1002),
    "RSV1 on a pong": (frame(PONG, b"", rsv=4), 1002),
    "RSV1 on a close": (frame(CLOSE, b"\x03\xe8", rsv=4), 1002),
    "RSV2": (frame(TEXT, b"x", rsv=2), 1002),
    "RSV3": (frame(TEXT, b"x", rsv=1), 1002),
    "RSV1 and RSV2": (frame(TEXT, deflated(b"x"), rsv=6), 1002),
    "all of them": (frame(BINARY, deflated(b"x"), rsv=7), 1002),
    "garbage": (frame(TEXT, b"\xff\xff\xff\xff", rsv=4), 1002),
    "a block of no type": (frame(BINARY, b"\x07\0\0", rsv=4), 1002),
    "a distance beyond the start": (frame(BINARY, b"\x02\x02\x04\0", rsv=4), 1002),
    "a length that does not match": (frame(BINARY, b"\0\x05\0\xfa\xfeHello\0", rsv=4), 1002),
    "garbage in the second fragment": (
        frame(BINARY, b"\xf2\x48\x05\0\0\0\xff\xff", fin=False, rsv=4) + frame(0, b"\x07\0"),
        1002,
    ),
    "no UTF-8 inside": (frame(TEXT, deflated(b"abc\xff"), rsv=4), 1007),
    "half a character inside": (frame(TEXT, deflated("€".encode()[:2]), rsv=4), 1007),
    "no UTF-8 inside fragments": (
        b"".join(fragments(TEXT, pieces_of(deflated(b"abc\xed\xa0\x80"), 2), rsv=4)),
        1007,
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("how", ["whole", "byte by byte"])
def test_what_is_not_allowed_ends_it(serve, heard, name, how):
    bad, code = BAD[name]
    server = serve(heard)
    ws = connect(server, OFFER)
    if how == "whole":
        ws.send(packed("before") + bad + packed("behind"))
    else:
        ws.send(packed("before"))
        ws.send_each(byte_by_byte(bad))
    failed(server, ws, code)
    assert heard.data() == ["before"]
    assert heard.end()["code"] == code


def test_garbage_of_one_connection_hurts_no_other(serve):
    """The zlib object that failed on it is not used for another."""
    dice = random.Random(13)
    server = serve(echo)
    good = connect(server, OFFER)
    for number in range(30):
        bad = connect(server, OFFER)
        bad.send(frame(BINARY, b"\x07" + dice.randbytes(dice.randint(0, 100)), rsv=4))
        failed(server, bad, 1002)
        good.send(packed(f"{number}" * 2000))
        assert read_packed(good).decode() == f"{number}" * 2000
    good.finish()


# Without it


@pytest.mark.parametrize("how", ["not offered", "switched off"])
def test_where_it_is_not_agreed_nothing_is_compressed(serve, how):
    server = serve(echo, **(limited(ws_per_message_deflate=False) if how == "switched off" else {}))
    ws = connect(server, *([OFFER] if how == "switched off" else []))
    ws.send(text("x" * 5000))
    assert ws.read_text() == "x" * 5000
    ws.send(packed("x"))
    failed(server, ws, 1002)


def test_switched_off_the_answer_names_no_extension(serve, heard):
    ws = WsClient(serve(heard, **limited(ws_per_message_deflate=False)).connect())
    assert ws.open("/", OFFER).one(b"sec-websocket-extensions") is None
    ws.finish()


def test_the_app_need_not_wait_for_long_messages(serve):
    """Both directions at once, compressed, with every length that is near the least."""
    sizes = [*range(LEAST - 3, LEAST + 4), 3000, 10_000]

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        for size in sizes:
            await asyncio.sleep(0)
            await send({"type": "websocket.send", "text": "y" * size})
            assert (await receive())["text"] == "x" * size
        await send({"type": "websocket.close"})

    ws = connect(serve(app), OFFER)
    for size in sizes:
        ws.send(packed("x" * size))
    for size in sizes:
        assert (read_packed(ws).decode() if size >= LEAST else ws.read_text()) == "y" * size
    assert ws.read_close()[0] == 1000
    ws.client.close()
