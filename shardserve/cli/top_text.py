"""Pieces of text with a style, measured in the cells of a terminal: what ``top``'s frames are made of.

Rules of this file: pure. A line is at most as wide as it is told to be, whatever is in it: a wide character
takes two cells, a combining one none. Whatever came over the socket goes through ``Glyphs.clean``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unicodedata import category, east_asian_width

import click

from ..observe.logs import printable

Piece = tuple[str, str]
"""Text, and its style: ``""`` or a key of STYLES."""
Line = list[Piece]

STYLES: Mapping[str, Mapping[str, object]] = {
    "title": {"bold": True},
    "dim": {"dim": True},
    "chosen": {"bold": True, "underline": True},
    "green": {"fg": "green"},
    "yellow": {"fg": "yellow"},
    "red": {"fg": "red"},
    "alarm": {"fg": "red", "bold": True},
}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What a terminal can show beyond ASCII, or what stands for it."""

    levels: str  # of a trend, the lowest first
    cut: str  # here text was cut off
    separator: str
    encoding: str

    def clean(self, text: str) -> str:
        """On one line, harmless to a terminal, of characters that it has."""
        return printable(text).encode(self.encoding, "replace").decode(self.encoding)

    def trend(self, values: Sequence[float], top: float, width: int) -> str:
        """The last ``width`` values as a line of bars, of which the highest stands for ``top``."""
        found = ""
        for value in values[-width:]:
            share = value / top if top > 0 else 0.0
            found += self.levels[min(len(self.levels) - 1, int(share * len(self.levels)))]
        return found.rjust(width)


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "…", "·", "utf-8")
ASCII = Glyphs(".:-=+*%#", ">", "-", "ascii")


def glyphs_for(environ: Mapping[str, str]) -> Glyphs:
    """Those of the locale, which is what a terminal understands (POSIX, "Internationalization Variables").

    CPython sets LC_CTYPE to C.UTF-8 itself where the locale is C (PEP 538): that says nothing.
    """
    words = [environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if words[1] in ("C.UTF-8", "C.utf8", "UTF-8"):
        words[1] = ""
    locale = next(filter(None, words), "").lower()
    return UNICODE if "utf-8" in locale or "utf8" in locale else ASCII


def cells(text: str) -> int:
    """How wide it is."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def _cells_of(char: str) -> int:
    if category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1


def cut(text: str, width: int, glyphs: Glyphs) -> str:
    """``text``, or as much of it as fits in ``width`` cells with the sign that there was more."""
    if cells(text) <= width:
        return text
    found, left = "", width - cells(glyphs.cut)
    for char in text:
        left -= _cells_of(char)
        if left < 0:
            break
        found += char
    return found + glyphs.cut if width > 0 else ""


def cut_line(line: Line, width: int, glyphs: Glyphs) -> Line:
    """The same for a line of several pieces."""
    found: Line = []
    for text, style in line:
        if width <= 0:
            break
        text = cut(text, width, glyphs)
        found.append((text, style))
        width -= cells(text)
    return found


def left(text: str, width: int) -> str:
    """Filled up to this width."""
    return text + " " * (width - cells(text))


def right(text: str, width: int) -> str:
    """Filled up to this width in front."""
    return " " * (width - cells(text)) + text


def wrapped(items: Sequence[str], width: int, gap: str = "   ") -> list[str]:
    """The items, with a gap between them, on as many lines as it takes."""
    lines: list[str] = []
    for item in items:
        if lines and cells(lines[-1]) + cells(gap) + cells(item) <= width:
            lines[-1] += gap + item
        else:
            lines.append(item)
    return lines


def plain(line: Line) -> str:
    """Without styles, and without spaces at its end."""
    return "".join(text for text, _ in line).rstrip()


def styled(line: Line) -> str:
    """With the sequences that a terminal understands."""
    return "".join(click.style(text, **STYLES[style]) if style else text for text, style in line)  # type: ignore[arg-type]
