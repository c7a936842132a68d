"""What a client of HTTP/2 said, read slowly (RFC 9113, RFC 7541): settings, streams, requests and windows.

``Said.feed`` takes its bytes as they go to the server. What is certainly right and what is certainly wrong is
told apart from what may be judged either way: ``fault`` is of the connection, ``Asked.fault`` of one stream.
From a fault on nothing is sure, but what was said is read on as if nobody had minded, so that no app may ever
see what stands nowhere here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from fuzz_h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW_BYTES,
    ENABLE_CONNECT,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_STREAMS,
    MOST_STREAM,
    MOST_WINDOW_BYTES,
    NO_PRIORITIES,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Cutter,
    Field,
    Frame,
)
from fuzz_h2_judge import EITHER, RIGHT, WRONG, Block, judge_head, judge_trailers
from hpack import Decoder
from hpack.exceptions import HPACKError

MOST_LIST_BYTES = 1 << 26
MOST_CONTROLS, MOST_RESETS = 900, 180
"""Below the capacity of the server's buckets."""


class Asked:
    """One stream, as its client used it."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.blocks: list[Block] = []
        self.body = bytearray()
        self.flow_bytes = 0  # of DATA, with padding
        self.window_bytes = 0  # WINDOW_UPDATE
        self.given_bytes = 0  # the server's WINDOW_UPDATE
        self.closed = False  # by the server: nothing more comes
        self.ended = False
        self.reset = False
        self.gone = False  # and the server has seen that
        self.fault: str | None = None
        self.verdict: str | None = None  # of its head

    def __repr__(self) -> str:
        heads = [block.fields for block in self.blocks]
        state = " ".join(name for name in ("ended", "reset", "gone") if getattr(self, name))
        return f"<Asked {self.stream} {heads!r:.300} {len(self.body)} bytes {state} {self.fault}>"

    @property
    def head(self) -> Block:
        return self.blocks[0]

    def judge_head(self) -> str:
        if self.verdict is None:
            self.verdict = judge_head(self.head)
        return self.verdict

    def judge(self) -> str:
        """Whether it is a request that an app is to see, as far as it has come."""
        if self.fault is not None:
            return EITHER
        verdict = self.judge_head()
        lengths = self.head.of(b"content-length")
        if verdict != WRONG and lengths and lengths[0].isdigit():
            length = int(lengths[0])
            if len(self.body) > length or (self.ended and len(self.body) != length):
                return WRONG
        return verdict if self.goes_on_right else EITHER

    @property
    def goes_on_right(self) -> bool:
        """Whether nothing behind its head is wrong."""
        return self.fault is None and all(judge_trailers(block) == RIGHT for block in self.blocks[1:])


class Said:
    """``allowed``: what the server's SETTINGS say, by number. ``cleartext``: it may as well be HTTP/1.1."""

    def __init__(self, allowed: dict[int, int], *, cleartext: bool) -> None:
        self.allowed, self.cleartext = allowed, cleartext
        self.greeted = False  # the server's SETTINGS have come
        self.front = bytearray()  # the preface, or what is none
        self.speaks: bool | None = None  # HTTP/2; None: nobody knows yet
        self.cutter = Cutter()
        self.decoder = Decoder(MOST_LIST_BYTES)
        self.decodes = True
        self.asked: dict[int, Asked] = {}
        self.open_streams = 0
        self.last = 0
        self.frames = 0
        self.blocks = 0
        self.block: list[Any] | None = None  # [stream, flags, bytes] between HEADERS and END_HEADERS
        self.settings = {
            HEADER_TABLE_SIZE: 4096,
            INITIAL_WINDOW: DEFAULT_WINDOW_BYTES,
            MAX_FRAME: DEFAULT_FRAME_BYTES,
        }
        self.pending: list[dict[int, int]] = []  # not acknowledged
        self.window_bytes = DEFAULT_WINDOW_BYTES  # of the connection, with every update
        self.flow_bytes = 0
        self.given_bytes = 0  # the server's WINDOW_UPDATE
        self.pings: list[bytes] = []  # not answered
        self.acks = 0
        self.leaves = False  # GOAWAY
        self.controls = 0  # frames that a flood is made of
        self.resets = 0
        self.fault: str | None = None

    # The connection

    def wrong(self, why: str) -> None:
        """The connection ends here, or it does not."""
        self.fault = self.fault or why

    def allows(self, key: int, default: int) -> int:
        """A setting of the server's, as far as the client has acknowledged it."""
        return self.allowed.get(key, default) if self.acks else default

    def frame_bytes(self) -> int:
        return self.allows(MAX_FRAME, DEFAULT_FRAME_BYTES)

    def feed(self, data: bytes) -> None:
        if self.speaks is None:
            self.front += data
            begun = bytes(self.front[: len(PREFACE)])
            if not PREFACE.startswith(begun):
                self.speaks = not self.cleartext
                self.wrong("no preface")
                return
            if len(begun) < len(PREFACE):
                return
            self.speaks = True
            data = bytes(self.front[len(PREFACE) :])
        if not self.speaks or self.fault == "no preface":
            return
        for frame in self.cutter.feed(data):
            self.read(frame)
        if self.cutter.promised > self.frame_bytes():
            self.wrong("a frame too large")

    def read(self, frame: Frame) -> None:
        self.frames += 1
        if len(frame.payload) > self.frame_bytes():
            self.wrong("a frame too large")
        if self.frames == 1 and (frame.kind != SETTINGS or frame.flags & ACK):
            self.wrong("no SETTINGS first")
        if frame.stream > MOST_STREAM:
            self.wrong("a reserved bit")  # which means nothing, but not to everybody
        if self.block is not None and (frame.kind != CONTINUATION or frame.stream != self.block[0]):
            self.wrong("a field block broken off")
            self.block = None
        if self.controls > MOST_CONTROLS or self.resets > MOST_RESETS:
            self.wrong("a flood")
        frame = frame._replace(stream=frame.stream & MOST_STREAM)
        reader = READERS.get(frame.kind)
        if reader is None:
            self.controls += 1
            if frame.kind <= 0x0C:
                self.wrong("a frame that extensions know")
            return
        reader(self, frame)

    def stream_of(self, frame: Frame) -> Asked | None:
        """None: the stream was never opened."""
        if frame.stream == 0:
            self.wrong("on no stream")
        asked = self.asked.get(frame.stream)
        if asked is None and (frame.stream > self.last or frame.stream % 2 == 0):
            self.wrong("on an idle stream")
        return asked

    def payload_of(self, frame: Frame) -> bytes:
        """Without padding and priority."""
        payload = frame.payload
        padding = 0
        if frame.flags & PADDED:
            padding = payload[0] if payload else 0
            if padding >= len(payload):
                self.wrong("padding")
                padding = 0
            payload = payload[1:]
        if frame.kind == HEADERS and frame.flags & PRIORITIZED:
            if len(payload) - padding < 5:
                self.wrong("a priority cut off")
            elif int.from_bytes(payload[:4], "big") & MOST_STREAM == frame.stream:
                self.wrong("a stream that depends on itself")
            payload = payload[5:]
        return payload[: len(payload) - padding]

    def read_data(self, frame: Frame) -> None:
        asked = self.stream_of(frame)
        payload = self.payload_of(frame)
        if not payload:
            self.controls += 1
        if asked is None:
            return
        if asked.ended or asked.reset:
            asked.fault = asked.fault or "DATA behind the end"
            self.wrong("DATA behind the end")
        asked.flow_bytes += len(frame.payload)
        self.flow_bytes += len(frame.payload)
        window_bytes = self.allows(INITIAL_WINDOW, DEFAULT_WINDOW_BYTES) + asked.given_bytes
        if asked.flow_bytes > window_bytes or self.flow_bytes > DEFAULT_WINDOW_BYTES + self.given_bytes:
            self.wrong("more than the windows")
        asked.body += payload
        asked.ended |= bool(frame.flags & END_STREAM)

    def read_headers(self, frame: Frame) -> None:
        asked = self.asked.get(frame.stream)
        if asked is None:
            if frame.stream == 0 or frame.stream % 2 == 0 or frame.stream <= self.last:
                self.wrong("no stream of the client's")
            self.last = max(self.last, frame.stream)
            if self.open_streams >= self.allowed.get(MAX_STREAMS, MOST_STREAM):
                self.wrong("too many streams")
        elif asked.ended or asked.reset:
            asked.fault = asked.fault or "HEADERS behind the end"
            self.wrong("HEADERS behind the end")
        payload = self.payload_of(frame)
        self.block = [frame.stream, frame.flags, bytearray(payload)]
        if frame.flags & END_HEADERS:
            self.end_block()

    def read_continuation(self, frame: Frame) -> None:
        if self.block is None:
            self.wrong("a CONTINUATION of nothing")
            return
        if not frame.payload:
            self.controls += 1
        self.block[2] += frame.payload
        self.block.append(None)
        if len(self.block) > 3 + 7:
            self.wrong("many CONTINUATIONs")
        if frame.flags & END_HEADERS:
            self.end_block()

    def end_block(self) -> None:
        assert self.block is not None
        stream, flags, data = self.block[:3]
        self.block = None
        self.blocks += 1
        fields = self.decoded(bytes(data))
        if stream not in self.asked:
            self.open_streams += 1
        asked = self.asked.setdefault(stream, Asked(stream))
        if fields is None:
            fields, asked.fault = [], "HPACK"
        if asked.blocks and not flags & END_STREAM:
            asked.fault = asked.fault or "a second head"
        asked.blocks.append(Block(fields, bool(flags & END_STREAM), self.blocks))
        asked.ended |= bool(flags & END_STREAM)
        if asked.judge_head() != RIGHT or len(asked.blocks) > 1:
            self.resets += 1

    def decoded(self, data: bytes) -> list[Field] | None:
        if not self.decodes:
            return None
        try:
            return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(data, raw=True)]
        except (HPACKError, IndexError, ValueError):
            self.wrong("HPACK")
            self.decodes = False
            return None

    def read_reset(self, frame: Frame) -> None:
        asked = self.stream_of(frame)
        if len(frame.payload) != 4:
            self.wrong("length of RST_STREAM")
            return
        self.resets += 1
        if asked is not None:
            asked.reset = True

    def read_settings(self, frame: Frame) -> None:
        self.controls += 1
        if frame.stream or len(frame.payload) % 6 or (frame.flags & ACK and frame.payload):
            self.wrong("SETTINGS")
        elif frame.flags & ACK:
            self.acks += 1
            if self.acks > 1 or not self.greeted:
                self.wrong("an ACK of nothing")
            self.decoder.max_allowed_table_size = self.allowed.get(HEADER_TABLE_SIZE, 4096)
        else:
            pairs = [(int(key), int(value)) for key, value in struct.iter_unpack("!HI", frame.payload)]
            if any(not setting_is_right(*pair, first=self.frames == 1) for pair in pairs):
                self.wrong("a setting")
            self.pending.append(dict(pairs))
            self.check_windows()

    def check_windows(self) -> None:
        most = max(self.of_settings(INITIAL_WINDOW))
        for asked in self.asked.values():
            if most + asked.window_bytes > MOST_WINDOW_BYTES:
                self.wrong("a window too large")  # unless enough was sent

    def of_settings(self, key: int) -> list[int]:
        """The values that the server may go by."""
        return [self.settings[key], *(settings[key] for settings in self.pending if key in settings)]

    def read_ping(self, frame: Frame) -> None:
        self.controls += 1
        if frame.stream or len(frame.payload) != 8:
            self.wrong("PING")
        elif not frame.flags & ACK:
            self.pings.append(frame.payload)

    def read_goaway(self, frame: Frame) -> None:
        self.leaves = True
        if frame.stream or len(frame.payload) < 8:
            self.wrong("GOAWAY")
        elif int.from_bytes(frame.payload[:4], "big") & MOST_STREAM:
            self.wrong("a GOAWAY that names a stream of the server")

    def read_window_update(self, frame: Frame) -> None:
        self.controls += 1
        increment = int.from_bytes(frame.payload[:4], "big") & MOST_WINDOW_BYTES
        if len(frame.payload) != 4:
            self.wrong("length of WINDOW_UPDATE")
            return
        if frame.stream == 0:
            self.window_bytes += increment
            if increment == 0 or self.window_bytes > MOST_WINDOW_BYTES:
                self.wrong("the window of the connection")
            return
        asked = self.stream_of(frame)
        if asked is None:
            return
        asked.window_bytes += increment
        if increment == 0 or asked.window_bytes + max(self.of_settings(INITIAL_WINDOW)) > MOST_WINDOW_BYTES:
            asked.fault = asked.fault or "the window of a stream"
            self.wrong("the window of a stream")

    def read_priority(self, frame: Frame) -> None:
        self.controls += 1
        if frame.stream == 0 or len(frame.payload) != 5:
            self.wrong("PRIORITY")
        elif int.from_bytes(frame.payload[:4], "big") & MOST_STREAM == frame.stream:
            self.wrong("a stream that depends on itself")

    def read_priority_update(self, frame: Frame) -> None:
        self.controls += 1
        prioritized = int.from_bytes(frame.payload[:4], "big") & MOST_STREAM
        if frame.stream or len(frame.payload) < 4 or prioritized % 2 == 0:
            self.wrong("PRIORITY_UPDATE")
        elif prioritized > self.last:
            self.wrong("PRIORITY_UPDATE of an idle stream")  # which counts as a stream to some

    def read_push(self, frame: Frame) -> None:
        self.wrong("PUSH_PROMISE")

    # What the server has seen

    def begun(self, asked: Asked) -> tuple[bytes, int]:
        """The body as far as it has come, also of half a frame, and how much of the window it took."""
        rest = self.cutter.rest
        if (
            len(rest) < FRAME_HEADER_BYTES
            or rest[3] != DATA
            or int.from_bytes(rest[5:9], "big") != asked.stream
        ):
            return bytes(asked.body), asked.flow_bytes
        payload = bytes(rest[FRAME_HEADER_BYTES:])
        padding = payload[0] if payload and rest[4] & PADDED else 0
        body = payload[bool(rest[4] & PADDED) : self.cutter.promised - padding]
        return bytes(asked.body) + body, asked.flow_bytes + len(payload)

    @property
    def last_begun(self) -> int:
        """The last stream of which anything has come: a head may be judged before it has."""
        rest = self.cutter.rest
        if len(rest) < FRAME_HEADER_BYTES or rest[3] != HEADERS:
            return self.last
        return max(self.last, int.from_bytes(rest[5:9], "big") & MOST_STREAM)

    def acknowledged(self) -> bool:
        """The server's ACK: from now on it goes by those settings. False: there is nothing to acknowledge."""
        if not self.pending:
            return False
        self.settings |= {key: value for key, value in self.pending.pop(0).items() if key in self.settings}
        return True

    def close(self, asked: Asked) -> None:
        """The server says no more."""
        self.open_streams -= not asked.closed
        asked.closed = True

    def seen(self) -> None:
        """The server has read all of it."""
        for asked in self.asked.values():
            asked.gone = asked.gone or asked.reset


def setting_is_right(key: int, value: int, *, first: bool) -> bool:
    if key in (ENABLE_CONNECT, NO_PRIORITIES):
        return value <= 1 and first  # neither may be taken back
    if key == ENABLE_PUSH:
        return value <= 1
    if key == INITIAL_WINDOW:
        return value <= MOST_WINDOW_BYTES
    return key != MAX_FRAME or 16_384 <= value < 1 << 24


READERS: dict[int, Callable[[Said, Frame], None]] = {
    DATA: Said.read_data,
    HEADERS: Said.read_headers,
    PRIORITY: Said.read_priority,
    RST_STREAM: Said.read_reset,
    SETTINGS: Said.read_settings,
    PUSH_PROMISE: Said.read_push,
    PING: Said.read_ping,
    GOAWAY: Said.read_goaway,
    WINDOW_UPDATE: Said.read_window_update,
    CONTINUATION: Said.read_continuation,
    PRIORITY_UPDATE: Said.read_priority_update,
}
