"""Text is UTF-8 (RFC 6455 §5.6, §8.1): Python's decoder says what is, on every path."""

from __future__ import annotations

import random

import pytest

from tests.helpers.ws import (
    TEXT,
    Heard,
    binary,
    echo,
    frame,
    text,
)
from tests.helpers.ws_peer import (
    EVERY_CHARACTER,
    byte_by_byte,
    connect,
    failed,
    fragments,
    in_two,
    pieces_of,
)

# Text is UTF-8


@pytest.mark.parametrize("at", range(1, len(EVERY_CHARACTER.encode())))
def test_a_character_may_be_cut_by_a_fragment(serve, heard, at):
    """RFC 6455 §5.6: the whole message is text, its fragments need not be."""
    raw = EVERY_CHARACTER.encode()
    ws = connect(serve(heard))
    ws.send(*fragments(TEXT, [raw[:at], raw[at:]]))
    ws.send(*fragments(TEXT, [raw[:at], b"", raw[at:]]))
    ws.finish()
    assert heard.data() == [EVERY_CHARACTER] * 2


def test_a_character_may_be_cut_by_a_read(serve):
    ws = connect(serve(echo))
    whole = text(EVERY_CHARACTER)
    for pieces in [*in_two(whole), byte_by_byte(whole)]:
        ws.send_each(pieces)
        assert ws.read_text() == EVERY_CHARACTER
    ws.send_each(
        [one for piece in fragments(TEXT, byte_by_byte(EVERY_CHARACTER.encode())) for one in [piece]]
    )
    assert ws.read_text() == EVERY_CHARACTER
    ws.finish()


NOT_UTF_8 = {
    "a continuation alone": b"\x80",
    "two": b"a\xbf\xbfb",
    "cut after one of two": b"\xc3",
    "cut after one of three": b"a\xe2",
    "cut after two of three": b"\xe2\x82",
    "cut after three of four": b"\xf0\x9f\x98",
    "no continuation": b"\xc3a",
    "no third": b"\xe2\x82a",
    "overlong of two": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "overlong of two, last": b"\xc1\xbf",
    "overlong of three": b"\xe0\x80\xaf",
    "overlong of three, last": b"\xe0\x9f\xbf",
    "overlong of four": b"\xf0\x80\x80\xaf",
    "overlong of four, last": b"\xf0\x8f\xbf\xbf",
    "first surrogate": b"\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff",
    "behind good ones": EVERY_CHARACTER.encode() + b"\xff",
    "within good ones": b"x" * 1000 + b"\xc0" + b"x" * 1000,
}


@pytest.mark.parametrize("name", NOT_UTF_8)
@pytest.mark.parametrize("how", ["whole", "in reads", "last fragment", "cut"])
def test_what_is_not_utf_8_ends_it(serve, heard, name, how):
    raw = NOT_UTF_8[name]
    server = serve(heard)
    ws = connect(server)
    ws.send(text("before"))
    if how == "whole":
        ws.send(frame(TEXT, raw), text("behind"))
    elif how == "in reads":
        ws.send_each(pieces_of(frame(TEXT, raw), 7))
        ws.send(text("behind"))
    elif how == "last fragment":
        ws.send(*fragments(TEXT, [b"good", b"", raw]), text("behind"))
    else:
        half = len(raw) // 2
        ws.send(*fragments(TEXT, [raw[:half], raw[half:]]), text("behind"))
    failed(server, ws, 1007)
    assert heard.data() == ["before"]
    assert heard.end()["code"] == 1007


@pytest.mark.parametrize("size", [1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 200])
def test_one_bad_byte_anywhere(serve, size):
    """Whatever number of bytes is looked at together."""
    server = serve(Heard())
    for at in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
        raw = bytearray(b"a" * size)
        raw[at] = 0xFF
        ws = connect(server)
        ws.send(frame(TEXT, bytes(raw)))
        failed(server, ws, 1007)


def test_random_bytes_are_text_exactly_when_python_says_so(serve):
    """A few bytes of the kind that UTF-8 is made of, so that many are nearly right."""
    dice = random.Random(3629)
    kinds = b"az\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc2\xc3\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"
    server = serve(echo)
    ws = connect(server)
    outcomes = set()
    for _ in range(600):
        raw = bytes(dice.choices(kinds, k=dice.randint(1, 6)))
        if dice.random() < 0.5:
            raw = b"." * dice.randint(0, 40) + raw
        ws.send(frame(TEXT, raw, mask=dice.randbytes(4)))
        try:
            expected = raw.decode()
        except UnicodeDecodeError:
            failed(server, ws, 1007)
            ws = connect(server)
            outcomes.add(False)
        else:
            assert ws.read_text() == expected
            outcomes.add(True)
    assert outcomes == {True, False}
    ws.finish()


def test_binary_messages_may_be_anything(serve):
    ws = connect(serve(echo))
    for raw in NOT_UTF_8.values():
        ws.send(binary(raw))
        assert ws.read_binary() == raw
    ws.finish()
