"""A small writer of SVG: shapes, text that is escaped, and how wide a text will be.

Rules of this file: it knows nothing of servers or figures. The same calls give the same bytes: numbers
are rounded to a tenth of a pixel, nothing is dated or random. A picture needs nothing but itself: no
fonts, images or scripts from elsewhere. Looks are classes (``STYLE``), so that a page which embeds
pictures can say once how they look, in light and in dark; a picture in a file of its own carries them,
and a background too, because the page around it may have either colour.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from html import escape as _escape

FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Helvetica,Arial,sans-serif"

# Looks, light then dark: class → (what it sets, the light value, the dark value).
_COLOURS: dict[str, tuple[str, str, str]] = {
    "bg": ("fill", "#ffffff", "#15191f"),
    "band": ("fill", "#f4f6f8", "#1c222a"),
    "ink": ("fill", "#1c2128", "#e6eaef"),
    "dim": ("fill", "#57606a", "#9aa4b0"),
    "grid": ("stroke", "#dde2e7", "#2b333d"),
    "axis": ("stroke", "#8b949e", "#6e7781"),
    "mark": ("stroke", "#1c2128", "#f0f3f6"),
    "win": ("fill", "#b7e3c4", "#1d5a35"),
    "win2": ("fill", "#dff3e5", "#1a3a28"),
    "level": ("fill", "#eceff2", "#2a313a"),
    "lose2": ("fill", "#fde5dc", "#47281f"),
    "lose": ("fill", "#f8c3af", "#7a3420"),
}
# Of the series: told apart by hue and lightness both, the first of them the loudest.
SERIES: tuple[tuple[str, str], ...] = (
    ("#c2410c", "#fb8a4c"),
    ("#1d5fbf", "#6ea8ff"),
    ("#6b7680", "#98a3ae"),
    ("#0f7b6c", "#3fc7b2"),
    ("#7c3aad", "#c18df0"),
    ("#9a7400", "#dcb43c"),
    ("#b0256b", "#f07fb5"),
    ("#3b7d1c", "#86cf5f"),
    ("#4f46b8", "#9d97f5"),
    ("#7a4a1f", "#c99a6b"),
    ("#00708f", "#4fc3e0"),
    ("#8f1d1d", "#f08a8a"),
)
_SHAPES = {
    "line": "fill:none;stroke-width:2",
    "thin": "fill:none;stroke-width:1",
    "grid": "stroke-width:1",
    "axis": "stroke-width:1",
    "dash": "stroke-dasharray:4 4",
    "dots": "fill:none;stroke-width:4;stroke-linecap:round;opacity:.5",
    "range": "stroke-width:2;opacity:.55",
    "mark": "stroke-width:2.5",
    "hollow": "fill:none;stroke-width:1.5",
    "b": "font-weight:600",
}
_CLASS = re.compile(r'^<\w+ class="([^"]*)"')
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold, not even escaped."""


def escape(text: str) -> str:
    """``text`` for an element or an attribute: markup escaped, characters that XML forbids replaced."""
    return _escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text), quote=True)


def number(value: float) -> str:
    """A coordinate to a tenth, without a needless zero: ``12.5``, ``12``."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def text_width(text: str, size: float) -> float:
    """About how wide a text of ``size`` pixels gets, in pixels: of the usual fonts the widest.

    Too wide an estimate costs a little room; too narrow a one lets texts run into each other.
    """
    return size * sum(map(_advance, text))


def _advance(character: str) -> float:
    if character in "ijlI.,:;'|! ·":
        return 0.34
    if character in 'frt()[]{}-/\\*"':
        return 0.45
    if character in "mwMW@%…—":
        return 1.0
    if ord(character) > 0x2E80:  # ideographs, full-width forms, emoji
        return 1.1
    return 0.76 if character.isupper() else 0.64


def fit(text: str, size: float, width: float) -> str:
    """``text``, cut with an ellipsis to fit into ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def style(scope: str = "", used: Collection[str] | None = None) -> str:
    """The looks of every picture as CSS: of all classes, or of those ``used``. ``scope`` is put before
    each selector (``figure ``)."""
    light, dark = [], []
    for name, what, bright, dusky in _colours():
        if used is None or name in used:
            light.append(f"{scope}.{name}{{{what}:{bright}}}")
            dark.append(f"{scope}.{name}{{{what}:{dusky}}}")
    fixed = [f"{scope}.{name}{{{looks}}}" for name, looks in _SHAPES.items() if used is None or name in used]
    font = f"{scope}text{{font-family:{FONT};font-variant-numeric:tabular-nums}}"
    dusk = f"@media screen and (prefers-color-scheme:dark){{{''.join(dark)}}}"
    return font + "".join(fixed + light) + dusk


def _colours() -> Iterator[tuple[str, str, str, str]]:
    """Class, what it sets, and the light and the dark value."""
    for name, (what, bright, dusky) in _COLOURS.items():
        yield name, what, bright, dusky
    for index, (bright, dusky) in enumerate(SERIES):
        yield f"s{index}", "stroke", bright, dusky
        yield f"f{index}", "fill", bright, dusky


class Svg:
    """One picture, ``width`` × ``height`` pixels, with the title and description that a reader who does
    not see it is read. ``key`` makes its ids differ from those of other pictures in the same page."""

    def __init__(self, width: float, height: float, *, title: str, description: str, key: str) -> None:
        self.width, self.height = width, height
        self.title, self.description = title, description
        self._key = re.sub(r"[^A-Za-z0-9_-]+", "-", key) or "chart"
        self._parts: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, look: str, *, round_by: float = 0
    ) -> None:
        corner = f' rx="{number(round_by)}"' if round_by else ""
        self._parts.append(
            f'<rect class="{look}" x="{number(x)}" y="{number(y)}"'
            f' width="{number(max(width, 0))}" height="{number(max(height, 0))}"{corner}/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        """Straight; a path, because that is shorter than a line element."""
        self._parts.append(f'<path class="{look}" d="M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}"/>')

    def polyline(self, points: Iterable[tuple[float, float]], look: str) -> None:
        self._parts.append(
            f'<path class="{look}" d="M{"L".join(f"{number(x)} {number(y)}" for x, y in points)}"/>'
        )

    def dots(self, points: Sequence[tuple[float, float]], look: str) -> None:
        """A dot for each point, in one element: lines without length, whose round ends are the dots."""
        drawn = "".join(f"M{number(x)} {number(y)}h0" for x, y in points)
        if drawn:
            self._parts.append(f'<path class="dots {look}" d="{drawn}"/>')

    def shape(self, points: Iterable[tuple[float, float]], look: str) -> None:
        """A closed outline."""
        self._parts.append(
            f'<path class="{look}" d="M{"L".join(f"{number(x)} {number(y)}" for x, y in points)}Z"/>'
        )

    def circle(self, x: float, y: float, radius: float, look: str) -> None:
        self._parts.append(f'<circle class="{look}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        look: str = "ink",
        size: float = 12,
        anchor: str = "start",
        hint: str = "",
    ) -> None:
        """``y`` is the baseline. ``hint`` is what a pointer resting on it shows."""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        more = f"<title>{escape(hint)}</title>" if hint else ""
        self._parts.append(
            f'<text class="{look}" x="{number(x)}" y="{number(y)}" font-size="{number(size)}"{where}>'
            f"{more}{escape(text)}</text>"
        )

    def render(self, *, alone: bool = True) -> str:
        """The document. ``alone``: for a file of its own, with its looks; else for a page that has them."""
        key = self._key
        size = f'viewBox="0 0 {number(self.width)} {number(self.height)}"'
        size += f' width="{number(self.width)}" height="{number(self.height)}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
            f' aria-labelledby="{key}-title {key}-desc">'
            f'<title id="{key}-title">{escape(self.title)}</title>'
            f'<desc id="{key}-desc">{escape(self.description)}</desc>'
        )
        looks = f"<style>{style(used=self._used())}</style>" if alone else ""
        back = f'<rect class="bg" width="{number(self.width)}" height="{number(self.height)}" rx="6"/>'
        return "\n".join([head + looks + back, *self._parts, "</svg>"]) + "\n"

    def _used(self) -> set[str]:
        """The classes of this picture."""
        return {"bg"} | {
            name for part in self._parts for names in _CLASS.findall(part) for name in names.split()
        }
