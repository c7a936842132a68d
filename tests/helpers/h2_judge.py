"""Reads what an HTTP/2 server sends, frame by frame, and holds it to RFC 9113.

Rules of this file: it sees both directions, in the order in which the server did; hyperframe and hpack read
the server's, and whatever the RFC forbids a server is an AssertionError that names the section. Of the
client's bytes it takes only what the server may do because of them (streams, windows, settings): a client may
break any rule here, that is what tests are for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import hpack
from hyperframe import frame as frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
PRIORITY_UPDATE = 0x10
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
MAX_HEADER_LIST_SIZE, ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES = 6, 8, 9

FIRST_WINDOW = 65535
LARGEST_WINDOW = 2**31 - 1
ALLOWED_FLAGS = {DATA: 0x9, HEADERS: 0x2D, SETTINGS: 0x1, PING: 0x1, CONTINUATION: 0x4}
CONNECTION_FIELDS = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}

Fields = list[tuple[bytes, bytes]]


@dataclass
class Stream:
    """What the server said on one stream."""

    id: int
    method: bytes = b""
    """What was asked, where the client told (``Client.request``); b"": nobody knows."""
    interim: list[tuple[int, Fields]] = field(default_factory=list)
    """1xx responses."""
    status: int | None = None
    fields: Fields = field(default_factory=list)
    """Of the response, without ``:status``."""
    data: bytearray = field(default_factory=bytearray)
    pieces: list[int] = field(default_factory=list)
    """The length of each DATA frame."""
    trailers: Fields | None = None
    ended: bool = False
    """END_STREAM has come."""
    reset: int | None = None
    """The code of the server's RST_STREAM."""

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self.ended or self.reset is not None

    @property
    def body(self) -> bytes:
        return bytes(self.data)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    def one(self, name: bytes) -> bytes | None:
        """The value of a field that must be there at most once."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


class Judge:
    """Both directions of one connection. ``sent`` what the client sends as the server gets it, ``received``
    what the server sends.
    """

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.frames: list[frames.Frame] = []
        """The server's, in order."""
        self.settings: list[dict[int, int]] = []
        """The server's SETTINGS."""
        self.acks = 0
        self.pings: list[bytes] = []
        """The server's."""
        self.pongs: list[bytes] = []
        """Its answers to the client's."""
        self.goaways: list[tuple[int, int, bytes]] = []
        """(last stream id, code, debug data)"""
        self.credit: dict[int, int] = {}
        """The server's WINDOW_UPDATEs, by stream (0: the connection), added up."""
        self.windows: dict[int, int] = {0: FIRST_WINDOW}
        """How much DATA the server may still send."""
        self.uploaded: dict[int, int] = {}
        """The client's DATA, with its padding, by stream; 0: all."""
        self.highest = 0
        """The highest stream that the client opened."""
        self.max_frame_size = 16384
        self._initial_window = FIRST_WINDOW
        self._unacked: list[dict[int, int]] = []
        self._unanswered: list[bytes] = []
        self._theirs = b""
        self._ours = b""
        self._block: tuple[int, int, bytes] | None = None
        self._decoder = hpack.Decoder(max_header_list_size=1 << 24)

    # What the client sends

    def sent(self, data: bytes) -> None:
        """The server is given this now."""
        self._ours += data
        if self._ours.startswith(PREFACE):
            self._ours = self._ours[len(PREFACE) :]
        elif PREFACE.startswith(self._ours):
            return
        while len(self._ours) >= 9:
            length = int.from_bytes(self._ours[:3], "big")
            if self._ours[3] == HEADERS:  # its nine bytes are enough to begin a stream
                self._begin(int.from_bytes(self._ours[5:9], "big") & LARGEST_WINDOW)
            if len(self._ours) < 9 + length:
                return
            head, payload, self._ours = self._ours[:9], self._ours[9 : 9 + length], self._ours[9 + length :]
            self._allow(head[3], head[4], int.from_bytes(head[5:9], "big") & LARGEST_WINDOW, payload)

    def _begin(self, stream: int) -> None:
        if stream not in self.windows:
            self.windows[stream] = self._initial_window
            self.highest = max(self.highest, stream)
            self.streams.setdefault(stream, Stream(stream))

    def _allow(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            for number in (0, stream):
                self.uploaded[number] = self.uploaded.get(number, 0) + len(payload)
        elif kind == WINDOW_UPDATE and len(payload) == 4 and stream in self.windows:
            self.windows[stream] += int.from_bytes(payload, "big") & LARGEST_WINDOW
        elif kind == SETTINGS and not flags & ACK and len(payload) % 6 == 0:
            self._unacked.append(dict(struct.iter_unpack(">HI", payload)))
        elif kind == PING and not flags & ACK:
            self._unanswered.append(payload)

    # What the server sends

    def received(self, data: bytes) -> None:
        self._theirs += data
        while len(self._theirs) >= 9:
            header = self._theirs[:9]
            length = int.from_bytes(header[:3], "big")
            assert length <= self.max_frame_size, f"§4.2: a frame of {length} bytes"
            if len(self._theirs) < 9 + length:
                return
            payload, self._theirs = self._theirs[9 : 9 + length], self._theirs[9 + length :]
            one, _ = frames.Frame.parse_frame_header(memoryview(header))
            one.parse_body(memoryview(payload))
            self._judge(one, header[3], header[4], header[5] >> 7)

    def nothing_half(self) -> None:
        """The server has closed: what it sent are whole frames, and whole field blocks."""
        assert self._theirs == b"", "a frame that is not complete"
        assert self._block is None, "§4.3: a field block that is not complete"

    def _judge(self, one: frames.Frame, kind: int, flags: int, reserved: int) -> None:
        assert reserved == 0, "§4.1: the reserved bit is set"
        assert flags & ~ALLOWED_FLAGS.get(kind, 0) == 0, f"§4.1: flags without a meaning: {one}"
        if not self.frames:
            assert kind == SETTINGS, f"§3.4: the first frame is not SETTINGS: {one}"
            assert not flags & ACK, "§3.4: the first frame is an ACK"
        if self._block is not None:
            assert kind == CONTINUATION, f"§6.10: {one} in a field block"
            assert one.stream_id == self._block[0], f"§6.10: {one} in the field block of another stream"
        self.frames.append(one)
        getattr(self, "_" + type(one).__name__)(one)

    # One for each type. Their names are hyperframe's.

    def _SettingsFrame(self, one: frames.SettingsFrame) -> None:  # noqa: N802
        if "ACK" not in one.flags:
            assert one.settings.get(ENABLE_PUSH, 0) == 0, "§6.5.2: a server pushes to nobody but a client"
            self.settings.append(dict(one.settings))
            return
        assert self._unacked, "§6.5: an ACK of nothing"
        self.acks += 1
        new = self._unacked.pop(0)
        self.max_frame_size = new.get(MAX_FRAME_SIZE, self.max_frame_size)
        self._decoder.max_allowed_table_size = new.get(
            HEADER_TABLE_SIZE, self._decoder.max_allowed_table_size
        )
        change = new.get(INITIAL_WINDOW_SIZE, self._initial_window) - self._initial_window
        self._initial_window += change
        for stream in self.windows:  # §6.9.2; a window may become negative
            self.windows[stream] += change if stream else 0

    def _PingFrame(self, one: frames.PingFrame) -> None:  # noqa: N802
        if "ACK" in one.flags:
            assert self._unanswered, "§6.7: a PING that nobody sent is answered"
            assert one.opaque_data == self._unanswered.pop(0), "§6.7: another PING's payload"
        (self.pongs if "ACK" in one.flags else self.pings).append(one.opaque_data)

    def _GoAwayFrame(self, one: frames.GoAwayFrame) -> None:  # noqa: N802
        before = self.goaways[-1][0] if self.goaways else LARGEST_WINDOW
        assert one.last_stream_id <= before, "§6.8: the last stream id has grown"
        assert one.last_stream_id <= self.highest or one.last_stream_id == LARGEST_WINDOW, one
        self.goaways.append((one.last_stream_id, one.error_code, one.additional_data))

    def _WindowUpdateFrame(self, one: frames.WindowUpdateFrame) -> None:  # noqa: N802
        assert one.window_increment > 0, "§6.9: an increment of 0"
        if one.stream_id:
            self._known(one)
        self.credit[one.stream_id] = self.credit.get(one.stream_id, 0) + one.window_increment
        assert self.credit[one.stream_id] - self.uploaded.get(one.stream_id, 0) <= LARGEST_WINDOW, "§6.9.1"

    def _RstStreamFrame(self, one: frames.RstStreamFrame) -> None:  # noqa: N802
        stream = self._known(one)
        assert stream.reset is None, f"§5.4.2: stream {stream.id} is reset twice"
        stream.reset = one.error_code

    def _HeadersFrame(self, one: frames.HeadersFrame) -> None:  # noqa: N802
        self._open(one)
        self._block = (one.stream_id, "END_STREAM" in one.flags, b"")
        self._ContinuationFrame(one)

    def _ContinuationFrame(self, one: frames.Frame) -> None:  # noqa: N802
        assert self._block is not None, f"§6.10: {one} continues nothing"
        number, ends, so_far = self._block
        self._block = (number, ends, so_far + one.data)
        if "END_HEADERS" in one.flags:
            fields = [
                (bytes(name), bytes(value)) for name, value in self._decoder.decode(self._block[2], raw=True)
            ]
            self._block = None
            self._field_section(self.streams[number], fields, bool(ends))

    def _DataFrame(self, one: frames.DataFrame) -> None:  # noqa: N802
        stream = self._open(one)
        assert stream.status is not None, "§8.1: DATA before a response"
        size = one.flow_controlled_length
        for number in (0, stream.id):
            self.windows[number] -= size
            assert size == 0 or self.windows[number] >= 0, f"§6.9: {one} passes the window of stream {number}"
        stream.data += one.data
        stream.pieces.append(len(one.data))
        if "END_STREAM" in one.flags:
            self._end(stream)

    def _PriorityFrame(self, one: frames.Frame) -> None:  # noqa: N802
        raise AssertionError("a server has no use for PRIORITY")

    def _PushPromiseFrame(self, one: frames.Frame) -> None:  # noqa: N802
        raise AssertionError("nobody asked for a push")

    def _ExtensionFrame(self, one: frames.Frame) -> None:  # noqa: N802
        raise AssertionError(f"an extension that was not agreed: {one}")

    _AltSvcFrame = _ExtensionFrame

    # Streams

    def _known(self, one: frames.Frame) -> Stream:
        assert one.stream_id in self.streams, f"§5.1: {one} on an idle stream"
        return self.streams[one.stream_id]

    def _open(self, one: frames.Frame) -> Stream:
        stream = self._known(one)
        assert not stream.ended, f"§5.1: {one} behind END_STREAM"
        assert stream.reset is None, f"§5.1: {one} behind RST_STREAM"
        return stream

    def _field_section(self, stream: Stream, fields: Fields, ends: bool) -> None:
        names = [name for name, _ in fields]
        for name, value in fields:
            assert name == name.lower(), f"§8.2.1: {name!r}"
            assert not set(value) & {0, 10, 13}, f"§8.2.1: {value!r}"
            assert value == value.strip(b" \t"), f"§8.2.1: {value!r}"
            assert name not in CONNECTION_FIELDS, f"§8.2.2: {name!r}"
        pseudo = [name for name in names if name.startswith(b":")]
        if stream.status is not None:
            assert not pseudo, f"§8.1: pseudo-header fields in trailers: {pseudo}"
            assert ends, "§8.1: trailers without END_STREAM"
            stream.trailers = fields
            self._end(stream)
            return
        assert pseudo == names[:1] == [b":status"], f"§8.3.2: {names}"
        status = int(fields[0][1])
        if status < 200:
            assert status != 101, "§8.6: 101"
            assert not ends, "§8.1: an interim response with END_STREAM"
            stream.interim.append((status, fields[1:]))
            return
        stream.status, stream.fields = status, fields[1:]
        if ends:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        stream.ended = True
        length = stream.one(b"content-length")
        if stream.method == b"HEAD" or stream.status in (204, 304):
            assert not stream.data, f"§8.1.1: a body for {stream.method!r}, {stream.status}"
        elif length is not None and (stream.method or stream.data):
            assert len(stream.data) == int(length), f"§8.1.1: {len(stream.data)} bytes of {length!r}"
