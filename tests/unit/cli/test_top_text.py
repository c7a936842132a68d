"""Text in the cells of a terminal."""

from __future__ import annotations

import pytest

from shardserve.cli.top_text import (
    ASCII,
    STYLES,
    UNICODE,
    Glyphs,
    cells,
    cut,
    cut_line,
    glyphs_for,
    left,
    plain,
    right,
    styled,
    wrapped,
)


@pytest.mark.parametrize(
    ("environ", "glyphs"),
    [
        ({}, ASCII),
        ({"LANG": "C"}, ASCII),
        ({"LANG": "de_DE.ISO-8859-1"}, ASCII),
        ({"LANG": "en_GB.UTF-8"}, UNICODE),
        ({"LANG": "C.UTF-8"}, UNICODE),
        ({"LANG": "C", "LC_CTYPE": "en_US.utf8"}, UNICODE),
        ({"LC_ALL": "C", "LANG": "en_GB.UTF-8"}, ASCII),
        ({"LC_ALL": "en_GB.UTF-8", "LANG": "C"}, UNICODE),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, ASCII),  # as CPython leaves it where the locale is C
        ({"LC_ALL": "", "LANG": "en_GB.UTF-8"}, UNICODE),
    ],
)
def test_the_locale_says_what_the_terminal_has(environ: dict[str, str], glyphs: Glyphs) -> None:
    assert glyphs_for(environ) is glyphs


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("…▁█", 3), ("日本", 4), ("e\u0301", 1), ("ａ", 2)]
)
def test_cells(text: str, width: int) -> None:
    assert cells(text) == width


@pytest.mark.parametrize(
    ("text", "width", "found"),
    [
        ("abc", 3, "abc"), ("abcd", 3, "ab…"), ("abcd", 1, "…"), ("abcd", 0, ""), ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"), ("日本語", 4, "日…"), ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
    ],
)  # fmt: skip
def test_cut(text: str, width: int, found: str) -> None:
    assert cut(text, width, UNICODE) == found


def test_a_line_is_cut_where_its_pieces_end() -> None:
    line = [("abc", "green"), ("def", ""), ("ghi", "red")]
    assert cut_line(line, 9, UNICODE) == line
    assert cut_line(line, 5, UNICODE) == [("abc", "green"), ("d…", "")]
    assert cut_line(line, 3, UNICODE) == [("abc", "green")]


def test_filled_up_to_a_width() -> None:
    assert (left("日", 4), right("日", 4), left("abc", 2)) == ("日  ", "  日", "abc")


def test_wrapped() -> None:
    assert wrapped(["aa", "bb", "cc"], 12) == ["aa   bb   cc"]
    assert wrapped(["aa", "bb", "cc"], 11) == ["aa   bb", "cc"]
    assert wrapped(["aaaa", "bb"], 3) == ["aaaa", "bb"]


def test_clean() -> None:
    assert UNICODE.clean("a\x1b[31mé\n\u202e") == "a\\x1b[31mé\\x0a\\u202e"
    assert ASCII.clean("é日") == "??"


def test_trend() -> None:
    assert UNICODE.trend([0, 1, 4, 8], 8, 6) == "  ▁▂▅█"
    assert UNICODE.trend([9, 9, 1, 2], 8, 2) == "▂▃"
    assert ASCII.trend([0, 8], 8, 2) == ".#"
    assert UNICODE.trend([0, 0], 0, 2) == "▁▁"
    assert UNICODE.trend([], 8, 3) == "   "


def test_styles() -> None:
    line = [("a", "green"), ("b  ", ""), ("c ", "chosen")]
    assert plain(line) == "ab  c"
    assert styled(line) == "\x1b[32ma\x1b[0mb  \x1b[1m\x1b[4mc \x1b[0m"
    for style in STYLES:
        assert styled([("x", style)]) != "x"
