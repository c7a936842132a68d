"""WebSocket as RFC 6455 and RFC 7692 tell it, slowly: what a client said, and a reader of what it got."""

from __future__ import annotations

import codecs
import struct
import zlib
from typing import Any, NamedTuple

from fuzz_frames import mask
from fuzz_responses import must

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
TAIL = b"\0\0\xff\xff"
NO_CODE = 1005
SENDABLE = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


class Rules(NamedTuple):
    """What one WebSocket goes by."""

    max_size: int  # 0: none
    max_fragments: int
    window_bits: int  # of what the client compresses; 0: nothing was agreed


class Failure(Exception):
    """The connection has to be failed with one of these codes."""

    def __init__(self, *codes: int) -> None:
        self.codes = set(codes)


class Unsure(Exception):
    """Either way is right from here on."""


class Said:
    """What a client said: its messages and pings, and how it ended.

    ``ending``: None while it is open; ("close", code, reason); ("fail", codes); ("unsure",).
    """

    def __init__(self, data: bytes, rules: Rules) -> None:
        self.data, self.rules, self.at = data, rules, 0
        self.messages: list[str | bytes] = []
        self.pings: list[bytes] = []
        self.ending: tuple[Any, ...] | None = None
        self.opcode = 0  # of the message in progress; 0: none is
        self.payload = bytearray()
        self.fragments = 0
        self.inflate: Any = None
        self.utf8: Any = None
        try:
            while self.ending is None and self.frame():
                pass
        except Failure as failure:
            self.ending = "fail", failure.codes
        except Unsure:
            self.ending = ("unsure",)

    def __repr__(self) -> str:
        return f"<Said {self.messages!r:.300} {self.pings!r:.100} {self.ending}>"

    def frame(self) -> bool:
        """The next one. False: it has not all come."""
        head = self.data[self.at : self.at + 2]
        if len(head) < 2:
            return False
        at, length, is_masked = self.at + 2, head[1] & 127, bool(head[1] & 128)
        more = {126: 2, 127: 8}.get(length, 0)
        header_bytes = 2 + more + 4 * is_masked
        if len(self.data) < self.at + header_bytes:
            return False
        if more:
            length = int.from_bytes(self.data[at : at + more], "big")
        opcode = head[0] & 15
        self.judge_header(head, opcode, is_masked, length)
        begin = self.at + header_bytes
        if len(self.data) < begin + length:
            return False
        key = self.data[begin - 4 : begin]
        payload = mask(self.data[begin : begin + length], key)
        self.at = begin + length
        if opcode & 8:
            self.control(head[0], opcode, payload)
        else:
            self.part(head[0], opcode, payload)
        return True

    def judge_header(self, head: bytes, opcode: int, is_masked: bool, length: int) -> None:
        codes = self.wrong_bits(head[0], opcode)
        hopeless = not is_masked or opcode not in (0, 1, 2, 8, 9, 10) or length >> 63 == 1
        if opcode & 8:
            hopeless = hopeless or length > 125
        elif self.rules.max_size:
            before = len(self.payload) if opcode == CONTINUATION else 0
            if length > self.rules.max_size:
                raise Failure(1009, 1002)
            if length > self.rules.max_size - before:
                if self.inflate is not None:
                    raise Unsure  # it may become shorter
                raise Failure(1009, *codes)
        if hopeless:
            raise Failure(1002)

    def wrong_bits(self, first: int, opcode: int) -> set[int]:
        rsv = first >> 4 & 7
        compressed = rsv == 4 and self.rules.window_bits and opcode in (TEXT, BINARY)
        in_order = opcode & 8 or (opcode == CONTINUATION) == (self.opcode != 0)
        whole = not opcode & 8 or first & 128
        return set() if (rsv == 0 or compressed) and in_order and whole else {1002}

    def control(self, first: int, opcode: int, payload: bytes) -> None:
        if self.wrong_bits(first, opcode):
            raise Failure(1002)
        if opcode == PING:
            self.pings.append(payload)
        elif opcode == CLOSE:
            self.ending = "close", *read_close(payload)

    def part(self, first: int, opcode: int, payload: bytes) -> None:
        """A message, or one of its fragments."""
        codes = self.wrong_bits(first, opcode)
        if opcode != CONTINUATION and not codes:
            self.opcode, self.fragments = opcode, 0
            self.payload.clear()
            self.inflate = zlib.decompressobj(-self.rules.window_bits) if first & 64 else None
            self.utf8 = codecs.getincrementaldecoder("utf-8")() if opcode == TEXT else None
        if codes:
            # Of several faults any may be told.
            raise Failure(1002, 1009) if self.opcode or first & 64 else Failure(1002)
        last = bool(first & 128)
        plain = payload if self.inflate is None else self.inflated(payload, last, codes)
        self.payload += plain
        self.fragments += 1
        if 0 < self.rules.max_size < len(self.payload):
            codes.add(1009)
        if not (last and self.fragments == 1) and 0 < self.rules.max_fragments < self.fragments:
            codes.add(1008)
        try:
            if self.utf8 is not None:
                self.utf8.decode(plain, last)
        except UnicodeDecodeError:
            codes.add(1007)
        if codes:
            raise Failure(*codes)
        if last:
            whole = bytes(self.payload)
            self.messages.append(whole.decode() if self.opcode == TEXT else whole)
            self.opcode = 0
            self.payload.clear()
            self.inflate = None

    def inflated(self, payload: bytes, last: bool, codes: set[int]) -> bytes:
        room = self.rules.max_size - len(self.payload) + 1 if self.rules.max_size else 0
        try:
            plain = bytes(self.inflate.decompress(payload + TAIL * last, room))
        except zlib.error:
            codes |= {1002, 1007, 1009}
            raise Failure(*codes) from None
        if self.inflate.unconsumed_tail and room and len(plain) >= room:
            raise Failure(1009)
        if self.inflate.unconsumed_tail:
            raise Unsure
        return plain


def read_close(payload: bytes) -> tuple[int, str]:
    if not payload:
        return NO_CODE, ""
    if len(payload) == 1:
        raise Failure(1002)
    (code,) = struct.unpack("!H", payload[:2])
    codes = set() if code in SENDABLE else {1002}
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        raise Failure(1002, 1007) from None
    if codes:
        raise Failure(1002)
    return code, reason


class Heard(NamedTuple):
    """What a client got after the 101."""

    messages: list[str | bytes]
    pongs: list[bytes]
    close: tuple[int, str] | None
    whole: bool  # nothing of a frame is missing


def read_output(data: bytes, window_bits: int) -> Heard:
    """A strict reader. Raises Broken; a part of a frame may only be at the end."""
    messages: list[str | bytes] = []
    pongs: list[bytes] = []
    close = None
    at = 0
    while at < len(data):
        must(close is None, "bytes behind a close frame", data[at : at + 40])
        first, length, begin = read_header(data, at, window_bits)
        if begin == 0 or begin + length > len(data):
            return Heard(messages, pongs, close, False)
        payload = data[begin : begin + length]
        at = begin + length
        opcode = first & 15
        if opcode == CLOSE:
            must(length != 1, "half a code")
            code = struct.unpack("!H", payload[:2])[0] if payload else NO_CODE
            must(not payload or code in SENDABLE, "a code that may not be sent", code)
            close = code, payload[2:].decode()
        elif opcode == PONG:
            pongs.append(payload)
        elif opcode != PING:
            messages.append(read_message(first, payload, window_bits))
    return Heard(messages, pongs, close, True)


def read_header(data: bytes, at: int, window_bits: int) -> tuple[int, int, int]:
    """The first byte, the length of the payload, and where that begins; 0: the header is not whole."""
    if len(data) < at + 2:
        return 0, 0, 0
    first, length = data[at], data[at + 1]
    opcode = first & 15
    must(opcode in (TEXT, BINARY, CLOSE, PING, PONG), "opcode", first)
    must(first & 128, "a fragment", first)
    must(not first & 48 and (not first & 64 or (window_bits and opcode < 8)), "reserved bits", first)
    must(not length & 128, "a masked frame")
    must(opcode < 8 or length <= 125, "a long control frame", length)
    more = {126: 2, 127: 8}.get(length, 0)
    begin = at + 2 + more
    if len(data) < begin:
        return 0, 0, 0
    if more:
        length = int.from_bytes(data[at + 2 : begin], "big")
        must(
            length > (125 if more == 2 else 65_535) and length < 1 << 63, "a longer form than needed", length
        )
    return first, length, begin


def read_message(first: int, payload: bytes, window_bits: int) -> str | bytes:
    if first & 64:
        inflate = zlib.decompressobj(-window_bits)
        payload = inflate.decompress(payload + TAIL)
        must(not inflate.unconsumed_tail and not inflate.unused_data, "something behind the message")
    return payload.decode() if first & 15 == TEXT else payload
