"""A strict reader of what a server of HTTP/2 writes, beside what its client said (fuzz_h2_said.py).

``Conversation.client`` and ``.server`` take the bytes of both sides in the order in which they were said, so
every frame is judged by what was known when it was written: Broken is raised at the first that may not be. At
rest there is more to ask, which fuzz_h2_input.py does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from fuzz_h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW_BYTES,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MOST_STREAM,
    MOST_WINDOW_BYTES,
    NO_ERROR,
    PING,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Cutter,
    Field,
    Frame,
)
from fuzz_h2_frames import frame as written
from fuzz_h2_judge import CONNECTION_FIELDS, RIGHT, TOKEN, VALUE
from fuzz_h2_said import Asked, Said
from fuzz_responses import must
from hpack import Decoder
from hpack.exceptions import HPACKError

STATUS = re.compile(rb"[1-9][0-9]{2}")
DIGITS = re.compile(rb"[0-9]{1,19}")
ONCE = (b"date", b"server", b"content-length", b"n", b"x-request-id")
HEADER_FLAGS = END_STREAM | END_HEADERS
POLITE_BYTES = 8192
"""A polite client does not let a window become smaller."""


class Answer:
    """What the server said on one stream."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.hints: list[tuple[int, list[Field]]] = []  # 1xx
        self.status = 0
        self.fields: list[Field] = []
        self.body = bytearray()
        self.flow_bytes = 0
        self.trailers: list[Field] | None = None
        self.ended = False
        self.reset: int | None = None  # the code of RST_STREAM

    def __repr__(self) -> str:
        return (
            f"<Answer {self.stream} {self.status} {self.fields!r:.200} {len(self.body)} bytes, "
            f"{self.trailers} {'ended' if self.ended else ''} reset {self.reset}>"
        )

    def of(self, name: bytes) -> bytes | None:
        return next((value for one, value in self.fields if one == name), None)

    @property
    def length(self) -> int | None:
        value = self.of(b"content-length")
        return None if value is None else int(value)

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class Conversation:
    """``allowed``: the settings that the server has to send, by number."""

    def __init__(self, allowed: dict[int, int], *, cleartext: bool) -> None:
        self.said = Said(allowed, cleartext=cleartext)
        self.allowed = allowed
        self.cutter = Cutter()
        self.decoder = Decoder(1 << 24)
        self.answers: dict[int, Answer] = {}
        self.frames = 0
        self.block: tuple[int, int, bytearray] | None = None
        self.flow_bytes = 0
        self.last_streams: list[int] = []  # of each GOAWAY
        self.goaway: int | None = None  # the last one's code
        self.debug = b""
        self.pings: list[bytes] = []  # the server's own
        self.ponged = 0
        self.behind = False  # the server may not have read all that its client has said

    # What both say

    def client(self, data: bytes) -> None:
        self.said.feed(data)

    def seen(self) -> None:
        """The server has read all of it, and done what there was to do."""
        self.said.seen()

    def server(self, data: bytes) -> None:
        if self.said.speaks is False and self.said.cleartext:
            return  # HTTP/1.1, which others read
        if self.said.cleartext and not self.said.speaks:
            must(data.startswith(b"HTTP/1.1 "), "output before the preface", data)
            self.said.speaks = False
            return
        for frame in self.cutter.feed(data):
            self.read(frame)
        must(self.cutter.promised <= self.frame_bytes(), "a frame too large", self.cutter.promised)

    def frame_bytes(self) -> int:
        return max(self.said.of_settings(MAX_FRAME))

    @property
    def whole(self) -> bool:
        """Nothing is cut off in the middle."""
        return not self.cutter.rest and self.block is None

    def read(self, frame: Frame) -> None:
        self.frames += 1
        must(frame.stream <= MOST_STREAM, "a reserved bit", frame)
        must(len(frame.payload) <= self.frame_bytes(), "a frame too large", frame.kind, len(frame.payload))
        must(
            self.frames > 1 or (frame.kind == SETTINGS and not frame.flags & ACK), "no SETTINGS first", frame
        )
        must(self.goaway in (None, NO_ERROR), "a frame behind the end", frame)
        if self.block is not None:
            must(
                frame.kind == CONTINUATION and frame.stream == self.block[0],
                "a field block broken off",
                frame,
            )
        must(frame.kind in READERS, "a frame that no server sends here", frame)
        READERS[frame.kind](self, frame)

    def asked(self, frame: Frame) -> Asked:
        """The stream, which the client has opened and not given up."""
        asked = self.said.asked.get(frame.stream)
        must(frame.stream % 2 == 1 and asked is not None, "a stream nobody opened", frame)
        assert asked is not None
        return asked

    def answer(self, frame: Frame) -> Answer:
        """Where the server may still say something."""
        asked = self.asked(frame)
        must(not asked.gone, "a stream that its client has reset", frame)
        answer = self.answers.setdefault(frame.stream, Answer(frame.stream))
        must(not answer.ended, "behind END_STREAM", frame, answer)
        must(answer.reset is None, "behind RST_STREAM", frame, answer)
        must(
            not self.last_streams or frame.stream <= self.last_streams[-1],
            "beyond GOAWAY",
            frame,
            self.last_streams,
        )
        return answer

    # Frames

    def read_settings(self, frame: Frame) -> None:
        must(frame.stream == 0, "SETTINGS on a stream", frame)
        if frame.flags:
            must(frame.flags == ACK and not frame.payload, "SETTINGS", frame)
            must(self.said.acknowledged(), "an ACK of nothing")
            self.decoder.max_allowed_table_size = self.said.settings[HEADER_TABLE_SIZE]
            return
        must(self.frames == 1, "SETTINGS twice", frame)
        must(len(frame.payload) % 6 == 0, "SETTINGS", frame)
        pairs = list(struct.iter_unpack("!HI", frame.payload))
        must(len(dict(pairs)) == len(pairs), "a setting twice", pairs)
        must(dict(pairs) == self.allowed, "settings", dict(pairs), self.allowed)
        self.said.greeted = True

    def read_headers(self, frame: Frame) -> None:
        must(not frame.flags & ~HEADER_FLAGS, "flags of HEADERS", frame)
        self.answer(frame)
        self.block = (frame.stream, frame.flags, bytearray(frame.payload))
        if frame.flags & END_HEADERS:
            self.end_block()

    def read_continuation(self, frame: Frame) -> None:
        must(self.block is not None and not frame.flags & ~END_HEADERS, "a CONTINUATION of nothing", frame)
        assert self.block is not None
        self.block[2].extend(frame.payload)
        if frame.flags & END_HEADERS:
            self.end_block()

    def end_block(self) -> None:
        assert self.block is not None
        stream, flags, data = self.block
        self.block = None
        try:
            fields = [
                (bytes(name), bytes(value)) for name, value in self.decoder.decode(bytes(data), raw=True)
            ]
        except (HPACKError, IndexError) as error:
            must(False, "HPACK", repr(error), bytes(data))
        answer = self.answers[stream]
        end = bool(flags & END_STREAM)
        check_fields(fields)
        if answer.status:
            must(answer.trailers is None and end, "a second head", fields, answer)
            must(
                all(not name.startswith(b":") for name, _ in fields),
                "pseudo-header fields in trailers",
                fields,
            )
            must(b"content-length" not in dict(fields), "framing in trailers", fields)
            answer.trailers = fields
        else:
            self.read_head(answer, fields, end)
        if end:
            self.end_answer(answer)

    def read_head(self, answer: Answer, fields: list[Field], end: bool) -> None:
        names = [name for name, _ in fields]
        must(names[:1] == [b":status"] and STATUS.fullmatch(fields[0][1]), "no status", fields)
        must(all(not name.startswith(b":") for name in names[1:]), "pseudo-header fields", fields)
        must(all(names.count(name) <= 1 for name in ONCE), "twice", fields)
        status = int(fields[0][1])
        must(status != 101, "101")
        if status < 200:
            must(not end, "the end with an interim response", fields)
            must(b"content-length" not in names, "a body of an interim response", fields)
            answer.hints.append((status, fields[1:]))
            return
        answer.status, answer.fields = status, fields[1:]
        value = answer.of(b"content-length")
        must(value is None or DIGITS.fullmatch(value), "length", fields)
        must(value is None or status != 204, "the length of no body", fields)

    def bodiless(self, answer: Answer) -> bool:
        block = self.said.asked[answer.stream].head
        return answer.status in (204, 304) or block.of(b":method")[:1] == [b"HEAD"]

    def tunnels(self, answer: Answer) -> bool:
        block = self.said.asked[answer.stream].head
        return answer.status // 100 == 2 and block.of(b":method")[:1] == [b"CONNECT"]

    def read_data(self, frame: Frame) -> None:
        must(not frame.flags & ~END_STREAM, "flags of DATA", frame.flags)
        answer, asked = self.answer(frame), self.asked(frame)
        must(answer.status, "DATA before a head", answer)
        length = len(frame.payload)
        must(not length or not self.bodiless(answer), "a body where none may be", answer)
        must(length or frame.flags & END_STREAM, "DATA of nothing", answer)
        answer.body += frame.payload
        answer.flow_bytes += length
        self.flow_bytes += length
        must(
            self.flow_bytes <= self.said.window_bytes,
            "beyond the window of the connection",
            frame.stream,
            length,
        )
        window_bytes = max(self.said.of_settings(INITIAL_WINDOW)) + asked.window_bytes
        # A client that makes its windows smaller may have had more than they are.
        must(
            not length or answer.flow_bytes <= window_bytes,
            "beyond the window of the stream",
            answer,
            window_bytes,
        )
        promised = answer.length
        must(promised is None or len(answer.body) <= promised, "more than promised", answer)
        if frame.flags & END_STREAM:
            self.end_answer(answer)

    def end_answer(self, answer: Answer) -> None:
        must(answer.status, "the end before a head", answer)
        promised = answer.length
        whole = promised is None or len(answer.body) == promised or self.bodiless(answer)
        must(whole, "less than promised", answer)
        answer.ended = True
        asked = self.said.asked[answer.stream]
        if asked.ended:
            self.said.close(asked)

    def read_reset(self, frame: Frame) -> None:
        must(len(frame.payload) == 4 and not frame.flags, "RST_STREAM", frame)
        code = int.from_bytes(frame.payload, "big")
        must(code <= 13, "a code that is none", code)
        must(
            0 < frame.stream <= self.said.last_begun and frame.stream % 2,
            "RST_STREAM of an idle stream",
            frame,
        )
        answer = self.answers.setdefault(frame.stream, Answer(frame.stream))
        must(answer.reset is None, "RST_STREAM twice", frame)
        asked = self.said.asked.get(frame.stream)
        if asked is not None:
            over = answer.ended and asked.ended and not self.behind
            # What ended it may have been wrong itself, so that it did not end it.
            wrong = code == PROTOCOL_ERROR and asked.judge() != RIGHT
            wrong = wrong or code == STREAM_CLOSED or self.said.fault is not None
            must(not over or wrong, "RST_STREAM of a stream that is over", frame, answer)
            must(not asked.gone, "RST_STREAM of a stream that its client has reset", frame)
            must(code != REFUSED_STREAM or not answer.status, "refused although answered", answer)
            self.said.close(asked)
        must(code != NO_ERROR or answer.ended, "RST_STREAM without an error and without an end", answer)
        answer.reset = code

    def read_ping(self, frame: Frame) -> None:
        must(frame.stream == 0 and len(frame.payload) == 8 and not frame.flags & ~ACK, "PING", frame)
        if not frame.flags:
            self.pings.append(frame.payload)
            return
        must(self.said.pings[:1] == [frame.payload], "a pong nobody asked for", frame, self.said.pings)
        del self.said.pings[0]

    def read_goaway(self, frame: Frame) -> None:
        must(frame.stream == 0 and not frame.flags and len(frame.payload) >= 8, "GOAWAY", frame)
        last, code = struct.unpack_from("!II", frame.payload)
        self.debug = frame.payload[8:]
        must(code <= 13, "a code that is none", code)
        must(self.debug.isascii() and self.debug.decode().isprintable(), "debug data", self.debug)
        must(
            not self.last_streams or last <= self.last_streams[-1],
            "GOAWAY takes streams back in",
            self.last_streams,
        )
        must(last == MOST_STREAM or last == 0 or last % 2 == 1, "GOAWAY of a stream of ours", last)
        must(
            last == MOST_STREAM or last <= self.said.last_begun,
            "GOAWAY of an idle stream",
            last,
            self.said.last,
        )
        answered = max((one.stream for one in self.answers.values() if one.status), default=0)
        must(last >= answered, "GOAWAY of a stream that was answered", last, answered)
        self.last_streams.append(last)
        self.goaway = code

    def read_window_update(self, frame: Frame) -> None:
        must(len(frame.payload) == 4 and not frame.flags, "WINDOW_UPDATE", frame)
        increment = int.from_bytes(frame.payload, "big")
        must(0 < increment <= MOST_WINDOW_BYTES, "an increment", increment)
        if frame.stream == 0:
            self.said.given_bytes += increment
            window_bytes = DEFAULT_WINDOW_BYTES + self.said.given_bytes - self.said.flow_bytes
            must(window_bytes <= MOST_WINDOW_BYTES, "a window too large", window_bytes)
            return
        asked = self.asked(frame)
        answer = self.answers.get(frame.stream)
        must(answer is None or answer.reset is None, "a window of a stream that was reset", frame)
        must(not asked.gone, "a window of a stream that its client has reset", frame)
        asked.given_bytes += increment
        # Only what has come is given back.
        must(asked.given_bytes <= self.said.begun(asked)[1], "more than has come is given back", frame, asked)

    # What a polite client answers

    def replies(self) -> bytes:
        """ACKs, PONGs and windows, so that nothing waits for the client. Each once."""
        if not self.said.greeted or self.goaway not in (None, NO_ERROR):
            return b""
        made = b"" if self.said.acks else written(SETTINGS, ACK)
        for opaque in self.pings[self.ponged :]:
            made += written(PING, ACK, 0, opaque)
        self.ponged = len(self.pings)
        if self.said.window_bytes - self.flow_bytes < POLITE_BYTES:
            made += written(WINDOW_UPDATE, 0, 0, struct.pack("!I", POLITE_BYTES * 8))
        for answer in self.answers.values():
            asked = self.said.asked.get(answer.stream)
            if asked is None or asked.reset or answer.over or self.stream_room(answer) >= POLITE_BYTES:
                continue
            made += written(WINDOW_UPDATE, 0, answer.stream, struct.pack("!I", POLITE_BYTES * 4))
        return made

    # At rest

    def room(self, answer: Answer) -> int:
        """How much DATA the client's windows still allow."""
        return min(self.stream_room(answer), self.said.window_bytes - self.flow_bytes)

    def stream_room(self, answer: Answer) -> int:
        window_bytes = (
            min(self.said.of_settings(INITIAL_WINDOW)) + self.said.asked[answer.stream].window_bytes
        )
        return window_bytes - answer.flow_bytes


def check_fields(fields: list[Field]) -> None:
    for name, value in fields:
        must(TOKEN.fullmatch(name.removeprefix(b":")), "the name of a field", name)
        must(VALUE.fullmatch(value), "the value of a field", name, value)
        must(
            name not in CONNECTION_FIELDS and name not in (b"te", b"host"), "a field of the connection", name
        )


READERS: dict[int, Callable[[Conversation, Frame], None]] = {
    DATA: Conversation.read_data,
    HEADERS: Conversation.read_headers,
    RST_STREAM: Conversation.read_reset,
    SETTINGS: Conversation.read_settings,
    PING: Conversation.read_ping,
    GOAWAY: Conversation.read_goaway,
    WINDOW_UPDATE: Conversation.read_window_update,
    CONTINUATION: Conversation.read_continuation,
}
