"""What a frame means, and what may be sent: RFC 6455 §5 to §7 as the native side hears of it.

Rules of these tests: a frame is built byte by byte (tests/helpers/ws.py), and what is put out is read as
RFC 6455 §5.2 has it, not by the library.
"""

from __future__ import annotations

import itertools
import logging
import struct
import sys

import pytest

from shardserve.ws.engine import CLOSED, FAILED, MESSAGE, NOTHING, PONG, Engine, Message
from tests.helpers.ws import BINARY, CLOSE, CONTINUATION, PING, TEXT, binary, close, frame, ping, pong, text
from tests.helpers.ws import PONG as PONG_OPCODE

MAX = 1000
FRAGMENTS = 10


def engine(max_size: int = MAX, fragments: int = FRAGMENTS) -> Engine:
    return Engine(max_size_bytes=max_size, max_fragments=fragments, deflate=True)


def sent(opcode: int, payload: bytes) -> bytes:
    """A frame of a server: not masked."""
    return frame(opcode, payload, mask=None)


def judged(*frames: bytes, by: Engine | None = None) -> list[tuple[int, object, str, bytes]]:
    """What the frames of one connection mean, one after the other; after the end there must be none."""
    one = by or engine()
    peer: Message | None = None
    seen: list[tuple[int, object, str, bytes]] = []
    for each in frames:
        assert not seen or seen[-1][0] not in (CLOSED, FAILED), "it has ended"
        peer, *outcome = one.receive(peer, None, each)
        seen.append(tuple(outcome))
        if outcome[0] in (CLOSED, FAILED, MESSAGE):
            assert peer is None
    return seen


def failed(*frames: bytes, by: Engine | None = None) -> tuple[int, str]:
    """Code and reason with which the last of them fails the connection, as the close frame says them too."""
    event, code, reason, output = judged(*frames, by=by)[-1]
    assert event == FAILED
    assert isinstance(code, int)
    assert output == sent(CLOSE, struct.pack("!H", code) + reason.encode())
    return code, reason


# Whole messages


@pytest.mark.parametrize("payload", [b"", b"a", b"\xff\x00" * 60, b"x" * 126, b"x" * MAX])
@pytest.mark.parametrize("length_bytes", [2, 8])
def test_a_binary_message(payload: bytes, length_bytes: int) -> None:
    assert judged(binary(payload), frame(BINARY, payload, length_bytes=length_bytes)) == [
        (MESSAGE, payload, "", b""),
        (MESSAGE, payload, "", b""),
    ]


@pytest.mark.parametrize("said", ["", "a", "ä€😀", "\x00\ud7ff\ue000\U0010ffff"])
def test_a_text_message(said: str) -> None:
    (outcome,) = judged(text(said))
    assert outcome == (MESSAGE, said, "", b"")
    assert type(outcome[1]) is str


def test_a_binary_message_is_bytes() -> None:
    for frames in ([binary(b"ab")], [frame(BINARY, b"a", fin=False), frame(CONTINUATION, b"b")]):
        assert type(judged(*frames)[-1][1]) is bytes


BAD_UTF8 = [b"\xff", b"\x80", b"a\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80"]


@pytest.mark.parametrize("payload", [*BAD_UTF8, b"\xe2\x82", b"ok \xf0\x9f\x98"])
def test_text_that_is_not_utf8_is_a_1007(payload: bytes) -> None:
    code, reason = failed(frame(TEXT, payload))
    assert code == 1007
    assert "at position" in reason


# Fragments


def fragments(opcode: int, *parts: bytes) -> list[bytes]:
    last = len(parts) - 1
    return [
        frame(opcode if index == 0 else CONTINUATION, part, fin=index == last)
        for index, part in enumerate(parts)
    ]


@pytest.mark.parametrize("parts", [(b"ab", b"cd"), (b"", b"", b""), (b"", b"abcd"), (b"a", b"", b"b")])
def test_fragments_are_put_together(parts: tuple[bytes, ...]) -> None:
    whole = b"".join(parts)
    nothing = [(NOTHING, None, "", b"")] * (len(parts) - 1)
    assert judged(*fragments(BINARY, *parts)) == [*nothing, (MESSAGE, whole, "", b"")]
    assert judged(*fragments(TEXT, *parts)) == [*nothing, (MESSAGE, whole.decode(), "", b"")]


def test_a_character_may_be_cut_anywhere() -> None:
    said = "aä€😀"
    data = said.encode()
    for cuts in itertools.combinations(range(len(data) + 1), 3):
        ends = [0, *cuts, len(data)]
        parts = [data[start:end] for start, end in itertools.pairwise(ends)]
        assert judged(*fragments(TEXT, *parts))[-1] == (MESSAGE, said, "", b"")


def test_bad_text_fails_at_the_first_fragment_that_cannot_be_right() -> None:
    """Each two bytes that can be the beginning of a character, and each that cannot."""
    characters = [chr(code) for code in range(0x80, 0x110000, 0x20) if not 0xD800 <= code < 0xE000]
    characters += [chr(code) for code in range(0x80, 0x800)]
    hopeful = {character.encode()[:2] for character in characters}
    one = engine()
    for lead, second in itertools.product(range(0x80, 0x100), range(0x100)):
        begun = frame(TEXT, bytes([lead]), fin=False)
        peer, event, code, _, _ = one.receive(None, None, begun)
        if event == NOTHING:
            peer, event, code, _, _ = one.receive(peer, None, frame(CONTINUATION, bytes([second]), fin=False))
        expected = NOTHING if bytes([lead, second]) in hopeful else FAILED
        assert event == expected, f"{lead:02x} {second:02x}"
        assert (code, peer) == (1007, None) if event == FAILED else peer is not None


@pytest.mark.parametrize("bad", BAD_UTF8)
def test_bad_text_fails_wherever_it_is_cut(bad: bytes) -> None:
    for cut in range(len(bad) + 1):
        one, peer, ends = engine(), None, []
        for each in fragments(TEXT, "ä".encode(), bad[:cut], bad[cut:]):
            if not ends:
                peer, event, code, _, _ = one.receive(peer, None, each)
                ends = [(event, code)] if event != NOTHING else []
        assert ends == [(FAILED, 1007)]


def test_a_character_that_is_cut_off_by_the_end_of_the_message_is_a_1007() -> None:
    assert failed(*fragments(TEXT, b"\xe2", b"\x82"))[0] == 1007


def test_binary_fragments_may_be_anything() -> None:
    assert judged(*fragments(BINARY, b"\xff", b"\xfe"))[-1] == (MESSAGE, b"\xff\xfe", "", b"")


def test_a_fragment_of_nothing_is_a_1002() -> None:
    for fin in (True, False):
        assert failed(frame(CONTINUATION, b"a", fin=fin)) == (1002, "unexpected continuation frame")
        assert failed(text("a"), frame(CONTINUATION, b"a", fin=fin))[0] == 1002


def test_a_message_within_a_message_is_a_1002() -> None:
    begun = frame(TEXT, b"a", fin=False)
    for second in (text("b"), binary(b"b"), begun, frame(BINARY, fin=False)):
        assert failed(begun, second) == (1002, "expected a continuation frame")


def test_after_a_fragmented_message_the_next_one_is_whole_or_fragmented() -> None:
    frames = [*fragments(TEXT, b"a", b"b"), text("c"), *fragments(BINARY, b"d", b"e"), binary(b"f")]
    assert [each[1] for each in judged(*frames) if each[0] == MESSAGE] == ["ab", "c", b"de", b"f"]


# Limits


def test_a_message_of_exactly_the_largest_size() -> None:
    assert judged(binary(b"x" * MAX))[0][:2] == (MESSAGE, b"x" * MAX)
    assert judged(*fragments(BINARY, b"x" * (MAX - 1), b"x", b""))[-1][:2] == (MESSAGE, b"x" * MAX)


def test_a_larger_message_is_a_1009() -> None:
    assert failed(binary(b"x" * (MAX + 1)))[0] == 1009
    assert failed(*fragments(BINARY, b"x" * MAX, b"x"))[0] == 1009
    assert failed(frame(TEXT, b"x" * 600, fin=False), frame(CONTINUATION, b"x" * 401, fin=False))[0] == 1009


def test_the_size_is_counted_anew_for_each_message() -> None:
    frames = [*fragments(BINARY, b"x" * 600, b"x" * 400), binary(b"x" * MAX)] * 2
    assert [each[0] for each in judged(*frames)] == [NOTHING, MESSAGE, MESSAGE] * 2


def test_without_a_limit_any_size_is_taken() -> None:
    payload = b"x" * (3 << 20)
    assert judged(frame(BINARY, payload), by=engine(0))[0][:2] == (MESSAGE, payload)


def test_fragments_are_counted() -> None:
    parts = [b"x"] * FRAGMENTS
    assert judged(*fragments(BINARY, *parts))[-1][:2] == (MESSAGE, b"x" * FRAGMENTS)
    code, reason = failed(*fragments(BINARY, *parts, b"x"))
    assert (code, reason) == (1008, f"message has more than {FRAGMENTS} fragments")
    endless = [frame(BINARY, fin=False), *[frame(CONTINUATION, fin=False)] * FRAGMENTS]
    assert failed(*endless)[0] == 1008


def test_control_frames_and_other_messages_are_no_fragments() -> None:
    busy = [each for part in fragments(BINARY, *[b"x"] * FRAGMENTS) for each in (part, ping(), pong())]
    assert [each[0] for each in judged(*busy, *busy)].count(MESSAGE) == 2


def test_without_a_limit_there_may_be_any_number_of_fragments() -> None:
    assert judged(*fragments(BINARY, *[b""] * 3000), by=engine(fragments=0))[-1][:2] == (MESSAGE, b"")


def test_many_fragments_take_no_more_memory_than_their_bytes() -> None:
    one, peer = engine(0, 0), None
    for index in range(20_000):
        peer = one.receive(peer, None, frame(CONTINUATION if index else TEXT, b"x", fin=False))[0]
    assert peer is not None
    assert sys.getsizeof(peer.data) < 40_000


# Control frames


@pytest.mark.parametrize("payload", [b"", b"a", b"\xff" * 125])
def test_a_ping_is_answered_with_its_payload(payload: bytes) -> None:
    assert judged(ping(payload)) == [(NOTHING, None, "", sent(PONG_OPCODE, payload))]


def test_a_pong_is_told_and_not_answered() -> None:
    assert judged(pong(b"x")) == [(PONG, None, "", b"")]


@pytest.mark.parametrize("size", [1, 100])
def test_control_frames_are_no_part_of_a_message_and_its_size(size: int) -> None:
    whole = b"x" * size
    frames = [ping(b"p" * 125), frame(BINARY, whole, fin=False), ping(b"p" * 125), pong(b"p" * 125)]
    frames += [frame(CONTINUATION, b"", fin=False), ping(b"p" * 125), frame(CONTINUATION)]
    events = [each[:2] for each in judged(*frames, by=engine(size))]
    assert events == [(NOTHING, None)] * 3 + [(PONG, None)] + [(NOTHING, None)] * 2 + [(MESSAGE, whole)]


def test_a_message_in_progress_survives_any_control_frame() -> None:
    one = engine()
    begun = one.receive(None, None, frame(TEXT, b"a", fin=False))[0]
    assert one.receive(begun, None, ping(b"?"))[0] is begun
    assert one.receive(begun, None, pong())[0] is begun
    assert one.receive(begun, None, frame(CONTINUATION, b"b"))[:3] == (None, MESSAGE, "ab")


# Close frames


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_a_close_frame_is_told_and_echoed(code: int) -> None:
    for reason in ("", "because", "ä" * 61):
        assert judged(close(code, reason)) == [
            (CLOSED, code, reason, sent(CLOSE, struct.pack("!H", code) + reason.encode()))
        ]


def test_a_close_frame_without_a_code_is_a_1005_that_is_never_sent() -> None:
    assert judged(close(None)) == [(CLOSED, 1005, "", sent(CLOSE, b""))]


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_code_that_may_not_be_sent_is_a_1002(code: int) -> None:
    assert failed(close(code)) == (1002, "invalid status code")


def test_a_close_frame_of_one_byte_is_a_1002() -> None:
    assert failed(frame(CLOSE, b"\x03")) == (1002, "close frame too short")


@pytest.mark.parametrize("reason", BAD_UTF8)
def test_a_reason_that_is_no_text_is_a_1007(reason: bytes) -> None:
    assert failed(frame(CLOSE, b"\x03\xe8" + reason))[0] == 1007


def test_a_close_frame_may_come_in_the_middle_of_a_message() -> None:
    """RFC 6455 §5.4 and §5.5.1; Autobahn 7.1.5."""
    assert judged(frame(TEXT, b"a", fin=False), close(1000, "bye"))[1] == (
        CLOSED,
        1000,
        "bye",
        sent(CLOSE, b"\x03\xe8bye"),
    )


# Frames that cannot be right, whole and as the header alone

WRONG = [
    (frame(TEXT, b"ab", mask=None), 1002, "incorrect masking"),
    (frame(PING, b"ab", mask=None), 1002, "incorrect masking"),
    *((frame(opcode, b"ab"), 1002, "invalid opcode") for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)),
    *((frame(opcode, b"x" * 126), 1002, "control frame too long") for opcode in (CLOSE, PING, PONG_OPCODE)),
    *((frame(op, b"ab", fin=False), 1002, "fragmented control frame") for op in (CLOSE, PING, PONG_OPCODE)),
    *((frame(TEXT, b"ab", rsv=rsv), 1002, "reserved bits must be 0") for rsv in range(1, 8)),
    *((frame(PING, b"ab", rsv=rsv), 1002, "reserved bits must be 0") for rsv in range(1, 8)),
    (frame(BINARY, b"x" * (MAX + 1)), 1009, f"frame with {MAX + 1} bytes"),
    (frame(BINARY, b"x" * (MAX + 1), length_bytes=8), 1009, f"frame with {MAX + 1} bytes"),
]


def header_of(whole: bytes, *, with_mask: bool) -> bytes:
    size = {126: 4, 127: 10}.get(whole[1] & 0x7F, 2)
    return whole[: size + 4 * (with_mask and whole[1] >> 7)]


@pytest.mark.parametrize(("wrong", "code", "reason"), WRONG)
def test_a_frame_that_cannot_be_right(wrong: bytes, code: int, reason: str) -> None:
    begun = frame(BINARY, b"", fin=False)
    for before in ((), (text("before"),), (begun,)):
        seen = failed(*before, wrong)
        if before == (begun,) and wrong[0] & 0x0F < 8 and seen[1] == "expected a continuation frame":
            continue  # There was more than one thing wrong.
        assert seen[0] == code
        assert seen[1].startswith(reason)


@pytest.mark.parametrize(("wrong", "code", "reason"), WRONG)
@pytest.mark.parametrize("with_mask", [True, False])
def test_its_header_is_enough(wrong: bytes, code: int, reason: str, with_mask: bool) -> None:
    seen = failed(header_of(wrong, with_mask=with_mask))
    assert seen[0] == code
    assert seen[1].startswith(reason)


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 40])
def test_a_length_beyond_all_bounds(length: int) -> None:
    header = struct.pack("!BBQ", 0x80 | BINARY, 0x80 | 127, length)
    assert failed(header)[0] == 1009
    assert failed(header, by=engine(0)) == (1002, "incomplete frame")
    assert failed(frame(BINARY, b"abc", fin=False), b"\x80" + header[1:])[0] == 1009


@pytest.mark.parametrize(
    "frames", [[b"\x81"], [b"\x82\x85"], [frame(TEXT, b"a", fin=False), b"\x80\x82abcd"]]
)
def test_a_frame_is_never_waited_for(frames: list[bytes]) -> None:
    assert failed(*frames) == (1002, "incomplete frame")


def test_a_large_frame_that_is_refused_by_its_header_is_not_kept() -> None:
    one = engine(1 << 30)
    header = struct.pack("!BBQ", 0x80 | BINARY, 0x80 | 127, (1 << 30) + 1) + b"mask"
    assert one.receive(None, None, header)[:3] == (None, FAILED, 1009)


# Sending


def test_a_message_that_is_not_compressed() -> None:
    one = engine()
    assert one.send(None, "ä" * 100) == sent(TEXT, "ä".encode() * 100)
    assert one.send(None, b"\xff" * 70_000) == sent(BINARY, b"\xff" * 70_000)


def test_text_that_is_none_is_an_error_of_the_app() -> None:
    with pytest.raises(UnicodeEncodeError):
        engine().send(None, "\ud800")


def test_a_ping() -> None:
    assert engine().ping() == sent(PING, b"")


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1009, 1011, 1012, 1014, 3000, 4999])
@pytest.mark.parametrize("reason", ["", "going", "x" * 123, "ä" * 61 + "x"])
def test_a_close_frame(code: int, reason: str) -> None:
    assert engine().close(code, reason) == sent(CLOSE, struct.pack("!H", code) + reason.encode())


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 70_000])
def test_a_code_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match=rf"^{code} cannot be the code .* 3000 to 4999"):
        engine().close(code, "")


def test_a_reason_that_is_too_long() -> None:
    with pytest.raises(ValueError, match=r"124 bytes of UTF-8; a close frame has room for 123"):
        engine().close(1000, "ä" * 62)


def test_a_reason_that_is_no_text() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed") as caught:
        engine().close(1000, "\udcff")
    assert type(caught.value) is ValueError


def test_an_error_in_the_library_is_a_1011_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("websockets.protocol.Protocol.recv_frame", broken)
    # Its own handler: another test may have set up the logs, which then do not reach the root logger.
    log = logging.getLogger("shardserve.ws")
    monkeypatch.setattr(log, "disabled", False)
    log.addHandler(caplog.handler)
    try:
        assert failed(text("a")) == (1011, "")
    finally:
        log.removeHandler(caplog.handler)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
