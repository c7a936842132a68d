"""permessage-deflate (RFC 7692): what goes in comes out, no further than the limit, and nobody else's."""

from __future__ import annotations

import gc
import itertools
import os
import random
import sys
import zlib
from typing import Any

import pytest

from shardserve.ws.deflate import Agreement
from shardserve.ws.engine import CLOSED, FAILED, MESSAGE, NOTHING, PONG, Engine
from tests.helpers.ws import (
    BINARY,
    CONTINUATION,
    KEY,
    MASK,
    TEXT,
    binary,
    close,
    deflated,
    frame,
    inflated,
    ping,
    pong,
    text,
)

MAX = 10_000
RSV1 = 4


def agreed_by(engine: Engine, offer: bytes = b"permessage-deflate; client_max_window_bits") -> Agreement:
    headers = [
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", KEY),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-extensions", offer),
    ]
    agreement = engine.open("GET", headers)[3]
    assert agreement is not None
    return agreement


class Connection:
    """One WebSocket of an engine, with compression."""

    def __init__(self, engine: Engine | None = None, **options: Any) -> None:
        self.engine = engine or Engine(
            **({"max_size_bytes": MAX, "max_fragments": 100, "deflate": True} | options)
        )
        self.agreement = agreed_by(self.engine)
        self.peer: Any = None

    def hear(self, *frames: bytes) -> list[tuple[Any, ...]]:
        seen = []
        for each in frames:
            self.peer, *outcome = self.engine.receive(self.peer, self.agreement, each)
            seen.append(tuple(outcome))
        return seen

    def last(self, *frames: bytes) -> tuple[Any, ...]:
        return self.hear(*frames)[-1]


def squeezed(opcode: int, payload: bytes, *cuts: int) -> list[bytes]:
    """A compressed message in fragments: the bytes are cut where it says, in the compressed form."""
    data = deflated(payload)
    ends = [0, *cuts, len(data)]
    return [
        frame(
            opcode if number == 0 else CONTINUATION,
            data[start:end],
            fin=end == len(data) and number == len(cuts),
            rsv=RSV1 if number == 0 else 0,
        )
        for number, (start, end) in enumerate(itertools.pairwise(ends))
    ]


def read_sent(output: bytes) -> tuple[int, bool, bytes]:
    """Opcode, whether it is compressed, payload; the length is what RFC 6455 §5.2 says."""
    size = output[1]
    start = {126: 4, 127: 10}.get(size, 2)
    if start > 2:
        size = int.from_bytes(output[2:start])
    assert output[0] & 0x80
    assert size == len(output) - start
    return output[0] & 0x0F, bool(output[0] & 0x40), output[start:]


NOISE = random.Random(1).randbytes(5000)


# Received


@pytest.mark.parametrize("payload", [b"", b"a", b"abc" * 1000, NOISE, b"x" * MAX])
def test_a_whole_message(payload: bytes) -> None:
    one = Connection()
    assert one.last(*squeezed(BINARY, payload)) == (MESSAGE, payload, "", b"")
    assert one.peer is None


def test_a_message_that_is_text() -> None:
    assert Connection().last(*squeezed(TEXT, "ä€😀".encode() * 50)) == (MESSAGE, "ä€😀" * 50, "", b"")


def test_a_message_of_several_blocks_and_one_that_says_it_is_the_last() -> None:
    """RFC 7692 §7.2.3.1 to §7.2.3.5, the examples of the RFC as bytes."""
    for data in (
        b"\xf2\x48\xcd\xc9\xc9\x07\x00",
        b"\x00\x05\x00\xfa\xffHello\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    ):
        assert Connection().last(frame(TEXT, data, rsv=RSV1))[:2] == (MESSAGE, "Hello")


def test_messages_are_compressed_or_not_each_as_it_likes() -> None:
    one = Connection()
    frames = [text("a"), *squeezed(TEXT, b"b" * 100), binary(b"c"), *squeezed(BINARY, b"d"), text("e")]
    assert [each[1] for each in one.hear(*frames)] == ["a", "b" * 100, b"c", b"d", "e"]


def test_no_context_is_taken_over() -> None:
    """The second of two equal messages is not read with what the first one left behind."""
    context = zlib.compressobj(wbits=-12)
    first, second = (
        context.compress(b"hello hello hello") + context.flush(zlib.Z_SYNC_FLUSH) for _ in range(2)
    )
    one = Connection()
    frames = [frame(TEXT, data[:-4], rsv=RSV1) for data in (first, second)]
    assert one.last(frames[0])[:2] == (MESSAGE, "hello hello hello")
    assert one.last(frames[1])[:3] == (FAILED, 1002, "decompression failed")


@pytest.mark.parametrize("cuts", [(0,), (5,), (1, 2, 3), (0, 0, 10, 10)])
@pytest.mark.parametrize("between", [[], [ping(b"p")], [pong(b"x" * 125)], [ping(), pong()]])
def test_fragments_with_control_frames_between(cuts: tuple[int, ...], between: list[bytes]) -> None:
    said = "ä€😀 " * 40
    frames = squeezed(TEXT, said.encode(), *cuts)
    one = Connection()
    for _ in range(2):
        seen = one.hear(*[each for fragment in frames[:-1] for each in (fragment, *between)], frames[-1])
        assert {each[0] for each in seen[:-1]} <= {NOTHING, PONG}
        assert seen[-1] == (MESSAGE, said, "", b"")


def test_a_compressed_message_ends_with_an_empty_fragment() -> None:
    """As browsers and others do who learn of the end when everything has been sent."""
    size = len(deflated(b"x" * 5000))
    assert Connection().last(*squeezed(BINARY, b"x" * 5000, size))[:2] == (MESSAGE, b"x" * 5000)


def test_text_is_checked_as_it_is_inflated() -> None:
    flushing = zlib.compressobj(wbits=-12)
    part = flushing.compress(b"abc\xff") + flushing.flush(zlib.Z_SYNC_FLUSH)
    assert Connection().last(frame(TEXT, part, fin=False, rsv=RSV1))[:2] == (FAILED, 1007)
    assert Connection().last(*squeezed(TEXT, b"abc\xff"))[:2] == (FAILED, 1007)


def test_a_message_in_between_is_judged_and_a_close_frame_is_answered() -> None:
    begun = squeezed(TEXT, b"x" * 500, 3)[0]
    for second in (text("a"), *squeezed(TEXT, b"a")):
        assert Connection().hear(begun, second)[1][:3] == (FAILED, 1002, "expected a continuation frame")
    assert Connection().hear(begun, close(1001))[1][:2] == (CLOSED, 1001)


@pytest.mark.parametrize(
    "wrong",
    [
        frame(TEXT, b"\xff\xff\xff", rsv=RSV1),
        frame(TEXT, b"a", rsv=RSV1 | 2),
        frame(TEXT, b"a", rsv=1),
        frame(CONTINUATION, b"a", rsv=RSV1),
        frame(0x9, b"a", rsv=RSV1),
    ],
    ids=["no deflate", "RSV2", "RSV3", "continuation", "ping"],
)
def test_what_is_wrong_with_a_compressed_frame_is_a_1002(wrong: bytes) -> None:
    one = Connection()
    assert one.last(wrong)[:2] == (FAILED, 1002)
    # Whatever it left behind is not there for the next one.
    assert Connection(one.engine).last(*squeezed(TEXT, b"next"))[:2] == (MESSAGE, "next")


def test_compression_that_was_not_agreed_is_a_1002() -> None:
    engine = Connection().engine
    assert engine.receive(None, None, squeezed(TEXT, b"a")[0])[1:4] == (
        FAILED,
        1002,
        "reserved bits must be 0",
    )


# The limit is on what comes out


@pytest.mark.parametrize("payload", [b"x" * MAX, b"xy" * (MAX // 2 - 1), NOISE + b"x" * (MAX - 5000)])
def test_up_to_the_limit(payload: bytes) -> None:
    """What is on the wire counts too, but only what of it is in one frame: a fragment must be no larger
    than what is left."""
    data = deflated(payload)
    assert Connection().last(*squeezed(BINARY, payload))[:2] == (MESSAGE, payload)
    for cut in (0, 1, len(data) // 2, len(data) - 1, len(data)):
        left = MAX - len(zlib.decompressobj(-15).decompress(data[:cut]))
        outcome = Connection().last(*squeezed(BINARY, payload, cut))[:2]
        assert outcome == ((MESSAGE, payload) if len(data) - cut <= left else (FAILED, 1009))


@pytest.mark.parametrize("size", [MAX + 1, MAX + 258, 10 * MAX])
def test_beyond_the_limit(size: int) -> None:
    payload = b"x" * size
    for cut in range(len(deflated(payload)) + 1):
        one = Connection()
        seen = [each for each in one.hear(*squeezed(BINARY, payload, cut)) if each[0] == FAILED]
        assert seen[0][1] == 1009
        assert f"exceeds limit of {MAX} bytes" in seen[0][2]


def matches(number: int) -> bytes:
    """One x and so many times the longest match (RFC 1951 §3.2.5, §3.2.6), without an end of the block."""
    bits = "010" + f"{0x30 + ord('x'):08b}" + ("11000101" + "00000") * number
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))


@pytest.mark.parametrize("number", [2, 3, 7, 8, 2000])
@pytest.mark.parametrize("beyond", [0, 1, 100, 257, 258])
def test_what_zlib_holds_back_at_the_limit_counts(number: int, beyond: int) -> None:
    """All that came is read then, and there is more to be made of it."""
    size = 1 + 258 * number
    payload = b"x" * size
    expected = (FAILED, 1009) if beyond else (MESSAGE, payload)
    data = matches(number)
    assert zlib.decompressobj(-15).decompress(data) == payload
    frames = [frame(BINARY, data, fin=False, rsv=RSV1), frame(CONTINUATION)]
    for many in (frames, [frame(BINARY, data, rsv=RSV1)]):
        one, ends = Connection(max_size_bytes=size - beyond), []
        for each in many:
            if not ends:
                ends = [outcome[:2] for outcome in one.hear(each) if outcome[0] != NOTHING]
        assert ends == [expected]


def test_fragments_are_added_up_inflated() -> None:
    flushing = zlib.compressobj(wbits=-12)
    parts = [flushing.compress(b"x" * 3000) + flushing.flush(zlib.Z_SYNC_FLUSH) for _ in range(4)]
    frames = [
        frame(BINARY if number == 0 else CONTINUATION, part, fin=False, rsv=0 if number else RSV1)
        for number, part in enumerate(parts)
    ]
    one = Connection()
    assert [each[0] for each in one.hear(*frames)] == [NOTHING] * 3 + [FAILED]
    assert one.peer is None


def test_nothing_is_inflated_once_the_limit_is_reached() -> None:
    """What is left is 0 bytes then, which means "no limit" to zlib."""
    flushing = zlib.compressobj(wbits=-12)
    full = flushing.compress(b"x" * MAX) + flushing.flush(zlib.Z_SYNC_FLUSH)
    first = frame(BINARY, full, fin=False, rsv=RSV1)
    more = deflated(b"y" * 1_000_000)
    assert Connection().last(first, frame(CONTINUATION, more))[:2] == (FAILED, 1009)
    assert Connection().last(first, frame(CONTINUATION, b""))[:2] == (MESSAGE, b"x" * MAX)


def test_a_bomb_is_not_inflated() -> None:
    """100 MiB in 100 KiB, of which no more than the limit is made."""
    bomb = frame(BINARY, deflated(bytes(100 << 20), 9), rsv=RSV1, mask=MASK)
    one = Connection(max_size_bytes=1 << 20)
    largest = _largest_bytes_made(one, bomb)
    assert one.last(bomb)[:2] == (FAILED, 1009)
    assert largest <= (1 << 20) + 1


def _largest_bytes_made(one: Connection, whole: bytes) -> int:
    """What zlib makes of it, as the library asks it to."""
    sizes = [0]
    real = zlib.decompressobj

    class Watched:
        def __init__(self, **options: Any) -> None:
            self._real = real(**options)

        def decompress(self, data: bytes, max_length: int = 0) -> bytes:
            made = self._real.decompress(data, max_length)
            sizes.append(len(made))
            return made

        @property
        def unconsumed_tail(self) -> bytes:
            return self._real.unconsumed_tail

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zlib, "decompressobj", Watched)
        one.last(whole)
    assert len(sizes) > 1
    return max(sizes)


def test_without_a_limit_anything_is_inflated() -> None:
    payload = bytes(3 << 20)
    assert Connection(max_size_bytes=0).last(*squeezed(BINARY, payload, 100))[:2] == (MESSAGE, payload)


# Sent


@pytest.mark.parametrize("data", ["", "a", "ä€😀" * 1000, b"", b"\xff" * 5000, NOISE])
def test_what_is_sent_can_be_read_by_itself(data: str | bytes) -> None:
    one = Connection()
    for _ in range(2):
        opcode, compressed, payload = read_sent(one.engine.send(one.agreement, data))
        assert compressed
        assert opcode == (TEXT if isinstance(data, str) else BINARY)
        assert inflated(payload, 12) == (data.encode() if isinstance(data, str) else data)


def test_the_window_is_no_larger_than_was_agreed() -> None:
    engine = Connection().engine
    agreement = agreed_by(engine, b"permessage-deflate; server_max_window_bits=9")
    far = os.urandom(600)
    payload = read_sent(engine.send(agreement, far + far))[2]
    assert len(payload) > 1200, "a window of 512 bytes cannot see the first half from the second"
    assert inflated(payload, 9) == far + far


def test_a_message_is_sent_in_the_middle_of_one_that_comes_in() -> None:
    one = Connection()
    said = bytes(range(256)) * 20
    frames = squeezed(BINARY, said, 20, 40, 60)
    for each in frames[:-1]:
        assert one.last(each)[0] == NOTHING
        assert inflated(read_sent(one.engine.send(one.agreement, "out" * 500))[2]) == b"out" * 500
    assert one.last(frames[-1])[:2] == (MESSAGE, said)


# One engine, many connections


def test_fragmented_messages_of_many_connections_do_not_meet() -> None:
    engine = Connection().engine
    chance = random.Random(2)
    everybody = [Connection(engine) for _ in range(30)]
    assert len({id(one.agreement) for one in everybody}) == 1
    said = [chance.randbytes(40) * chance.randrange(1, 100) for _ in everybody]
    waiting = [
        squeezed(BINARY, data, *sorted(chance.choices(range(len(deflated(data))), k=6))) for data in said
    ]
    heard: dict[int, bytes] = {}
    while any(waiting):
        number = chance.choice([number for number, frames in enumerate(waiting) if frames])
        one = everybody[number]
        outcome = one.last(waiting[number].pop(0))
        if outcome[0] == MESSAGE:
            heard[number] = outcome[1]
        stranger = Connection(engine)
        what = chance.randrange(4)
        if what == 0:
            assert stranger.last(*squeezed(TEXT, b"whole"))[:2] == (MESSAGE, "whole")
        elif what == 1:
            assert stranger.last(frame(TEXT, b"\xff\xff", rsv=RSV1))[:2] == (FAILED, 1002)
        elif what == 2:
            assert stranger.last(*squeezed(BINARY, b"x" * (MAX + 1)))[:2] == (FAILED, 1009)
        else:
            assert inflated(read_sent(engine.send(stranger.agreement, b"sent"))[2]) == b"sent"
    assert heard == dict(enumerate(said))


def test_nothing_of_zlib_is_kept_between_messages() -> None:
    """Not after whole messages, fragments, failures or sends: no object of zlib's can be reached."""
    engine = Connection().engine

    def busy() -> None:
        one = Connection(engine)
        one.hear(*squeezed(TEXT, b"a" * 3000), *squeezed(TEXT, b"b" * 3000, 3, 5))
        engine.send(one.agreement, "c" * 3000)
        Connection(engine).hear(frame(TEXT, b"\xff\xff", rsv=RSV1))
        Connection(engine).hear(*squeezed(BINARY, b"x" * (MAX * 2)))
        Connection(engine).hear(squeezed(BINARY, b"x" * 500, 4)[0])

    busy()
    seen, waiting = {id(engine)}, [engine]
    kinds = {type(zlib.compressobj()), type(zlib.decompressobj())}
    while waiting:
        for held in gc.get_referents(waiting.pop()):
            if id(held) not in seen and type(held) is not type(sys) and not isinstance(held, type):
                seen.add(id(held))
                waiting.append(held)
                assert type(held) not in kinds
    assert len(seen) > 50
