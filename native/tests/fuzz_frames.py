"""What a client of a WebSocket sends: the short forms in an input, made into handshakes and frames.

In an input that is played with WebSockets (fuzz_script.py) the byte 0xff begins a short form:

    ff f0-ff           a handshake of HANDSHAKES
    ff FIRST FORM ...  a frame: its first byte; the length of its payload (low half of FORM: one of SIZES) and
                       what is special about it (high half: one of FORMS); the payload, or a byte of it

Everything else is sent as it stands, so frames that no form makes are only longer to write.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

ESCAPE = 0xFF
FIRST_HANDSHAKE = 0xF0
MOST_BYTES = 200_000
"""Of what one input becomes."""
SIZES = (0, 1, 2, 3, 5, 8, 16, 17, 47, 60, 125, 126, 200, 300, 4096, 65_536)
WRITTEN = 60
"""A payload beyond this is one byte again and again."""
FLOOD = 70
BOMB_BYTES = 50_000
KEYS = (b"\0\0\0\0", b"\x37\xfa\x21\x3d", b"\xff\x80\x01\x7f")

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: upgrade\r\n"
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"


def handshake(*fields: bytes, line: bytes = b"GET /ws HTTP/1.1\r\n", upgrade: bytes = UPGRADE) -> bytes:
    return line + b"Host: h\r\n" + upgrade + b"".join(fields) + b"\r\n"


HANDSHAKES = (
    handshake(KEY, VERSION),
    handshake(KEY, VERSION, DEFLATE + b"; client_max_window_bits\r\n"),
    handshake(KEY, VERSION, DEFLATE + b"\r\n"),
    handshake(KEY, VERSION, b"Sec-WebSocket-Protocol: chat, superchat\r\n"),
    handshake(KEY, VERSION, DEFLATE + b"; server_max_window_bits=9; client_max_window_bits=9\r\n"),
    handshake(KEY, VERSION, DEFLATE + b"; server_max_window_bits=99, permessage-deflate\r\n"),
    handshake(KEY, VERSION, DEFLATE + b"; server_max_window_bits=8\r\n", b"Content-Length: 0\r\n"),
    # Not to be accepted
    handshake(KEY, b"Sec-WebSocket-Version: 8\r\n"),
    handshake(VERSION),
    handshake(KEY, KEY, VERSION),
    handshake(KEY, VERSION, line=b"POST /ws HTTP/1.1\r\n"),
    handshake(KEY, VERSION, b"Content-Length: 3\r\n") + b"abc",
    handshake(KEY, VERSION, b"Transfer-Encoding: chunked\r\n") + b"3\r\nabc\r\n0\r\n\r\n",
    # Ordinary requests
    handshake(KEY, VERSION, line=b"GET /ws HTTP/1.0\r\n"),
    handshake(KEY, VERSION, upgrade=b"Upgrade: websocket\r\n"),
    handshake(KEY, VERSION, upgrade=b"Upgrade: h2c\r\nConnection: upgrade\r\n"),
)


def mask(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    whole = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")


def deflated(payload: bytes) -> bytes:
    """RFC 7692 §7.2.1"""
    compressor = zlib.compressobj(wbits=-9)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def frame(first: int, payload: bytes, key: bytes = KEYS[1], length: bytes | None = None) -> bytes:
    """A client's frame. ``length``: its length as it is to stand there."""
    return bytes([first]) + masked(length or length_of(payload)) + key + mask(payload, key)


def masked(length: bytes) -> bytes:
    return bytes([length[0] | 0x80]) + length[1:]


def length_of(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([size])
    return struct.pack("!BH", 126, size) if size < 65_536 else struct.pack("!BQ", 127, size)


# What may be special about a frame


def form_deflated(first: int, payload: bytes) -> bytes:
    return frame(first, deflated(payload))


def form_bomb(first: int, payload: bytes) -> bytes:
    return frame(first, deflated(((payload[:WRITTEN] or b"\0") * BOMB_BYTES)[:BOMB_BYTES]))


def form_text(first: int, payload: bytes) -> bytes:
    """Text of two, three and four bytes a character, cut anywhere."""
    return frame(first, ("aé€\U0001f600".encode() * len(payload))[: len(payload)])


def form_unmasked(first: int, payload: bytes) -> bytes:
    return bytes([first]) + length_of(payload) + payload


def form_16(first: int, payload: bytes) -> bytes:
    return frame(first, payload, length=struct.pack("!BH", 126, len(payload) & 0xFFFF))


def form_64(first: int, payload: bytes) -> bytes:
    return frame(first, payload, length=struct.pack("!BQ", 127, len(payload)))


def form_longer(first: int, payload: bytes) -> bytes:
    """What follows belongs to it."""
    return frame(first, payload, length=length_of(payload + b"12345"))


def form_huge(first: int, payload: bytes) -> bytes:
    return frame(first, payload, length=struct.pack("!BQ", 127, (1 << 63) - 2 + len(payload)))


def form_flood(first: int, payload: bytes) -> bytes:
    return frame(first, payload[:16]) * FLOOD


def form_close(first: int, payload: bytes) -> bytes:
    """The first byte of the payload says which code."""
    codes = (1000, 1001, 1005, 1006, 1015, 999, 3000, 5000)
    code = codes[payload[0] % len(codes)] if payload else 1000
    return frame(first, struct.pack("!H", code) + payload[1:])


Form = Callable[[int, bytes], bytes]
FORMS: tuple[Form, ...] = (
    frame,
    lambda first, payload: frame(first, payload, KEYS[0]),
    lambda first, payload: frame(first, payload, KEYS[2]),
    form_deflated,
    form_text,
    form_close,
    form_flood,
    form_bomb,
    form_unmasked,
    form_16,
    form_64,
    form_longer,
    form_huge,
    frame,
    form_deflated,
    form_text,
)


def expanded(raw: bytes) -> bytes:
    """What ``raw`` stands for."""
    made = bytearray()
    for part in parts(raw):
        made += part
        if len(made) > MOST_BYTES:
            break
    return bytes(made[:MOST_BYTES])


def parts(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        begin = raw.find(ESCAPE, at)
        if begin < 0 or begin + 2 > len(raw):
            yield raw[at:]
            return
        yield raw[at:begin]
        first = raw[begin + 1]
        at = begin + 2
        if first >= FIRST_HANDSHAKE:
            yield HANDSHAKES[first - FIRST_HANDSHAKE]
            continue
        form = raw[at] if at < len(raw) else 0
        size = SIZES[form & 15]
        given = raw[at + 1 : at + 1 + (size if size <= WRITTEN else 1)]
        at += 1 + len(given)
        yield FORMS[form >> 4](first, given if size <= WRITTEN else (given or b"x") * size)
