"""A flame graph: an SVG in one file, that any browser shows and that needs nothing from anywhere.

Rules of this file: pure, and the same stacks give the same bytes. Whatever was in a stack may be
hostile (a function's name is what its author liked): text is escaped, and what XML 1.0 cannot hold
is replaced. The root is at the top. Without scripts (an image in a document) it can still be read:
every frame has its name cut to fit, and all of it as a tooltip. With them it fills the width of its
window, and is searched and zoomed with mouse and keyboard: flamegraph_style.py.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr as _quoted

from .flamegraph_style import SCRIPT, STYLE
from .stacks import Node, Shares, Stacks, shares, tree

WIDTH = 1200
ROW = 18
HEAD = 116
FOOT = 14
SIDE = 12
# Of monospaced text of 12 px. A browser may have a wider font: better a letter less than one cut in half.
LETTER = 7.3
# Narrower frames are left out: 0.05 % is 0.6 px, and what nobody can hit.
NARROWEST = 0.0005
TINTS = 4
# All of Unicode that XML 1.0 §2.2 has no character for, and what changes the direction of text.
_NOT_XML = re.compile(
    "[^\t\n\r\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True, slots=True)
class Box:
    """One rectangle."""

    node: Node
    depth: int
    start: int
    """Samples to the left of it."""


def svg(stacks: Stacks, *, title: str, subtitle: str = "") -> str:
    """The document. ``title`` is its heading, ``subtitle`` the line below: how it was made."""
    root = tree(stacks, "all")
    boxes = list(_boxes(root))
    total = max(root.samples, 1)
    height = HEAD + ROW * (max(box.depth for box in boxes) + 1) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" data-total="{total}" aria-label={attribute(title)}>',
        f"<title>{text(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="100%" height="{height}"/>',
        f'<text class="title" x="{SIDE}" y="28">{text(title)}</text>',
        f'<text class="subtitle" x="{SIDE}" y="46">{text(subtitle)}</text>',
        *_legend(shares(stacks)),
        f'<text id="details" class="details" x="{SIDE}" y="{HEAD - 12}">',
        f"{_count(root.samples)}; the root is at the top</text>",
        f'<svg id="frames" x="{SIDE}" y="{HEAD}" width="{WIDTH - 2 * SIDE}" height="{height - HEAD}">',
        *(_frame(box, total) for box in boxes),
        "</svg>",
        f"<script>{SCRIPT}</script>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _boxes(root: Node) -> Iterator[Box]:
    """The root first, then depth first; siblings from left to right."""
    waiting = [Box(root, 0, 0)]
    least = root.samples * NARROWEST
    while waiting:
        box = waiting.pop()
        yield box
        start = box.start
        below = []
        for child in box.node.ordered():
            if child.samples >= least:
                below.append(Box(child, box.depth + 1, start))
            start += child.samples
        waiting += reversed(below)


def _frame(box: Box, total: int) -> str:
    frame, samples = box.node.frame, box.node.samples
    left, width = box.start / total, samples / total
    shown = fitted(frame.name, width * (WIDTH - 2 * SIDE))
    layer = "root" if box.depth == 0 else frame.layer.value
    where = f"{frame.text} · {layer}" if box.depth else "all"
    if frame.package:
        where += f" · {frame.package}"
    tooltip = f"{where} · {_count(samples)}, {100 * width:.2f} %"
    y = box.depth * ROW
    return (
        f'<g class="frame {layer} tint{tint(frame.text)}" data-at="{box.start} {samples} {box.depth}" '
        f"data-name={attribute(frame.name)}>"
        f"<title>{text(tooltip)}</title>"
        f'<rect x="{100 * left:.4f}%" y="{y}" width="{100 * width:.4f}%" height="{ROW - 1}" rx="2"/>'
        f'<text x="{100 * left:.4f}%" dx="4" y="{y + 12.5}">{text(shown)}</text></g>'
    )


def _legend(found: Shares) -> Iterator[str]:
    """A swatch for each layer that is there, with its share."""
    x = SIDE
    total = max(found.samples, 1)
    for layer, share in found.layers.items():
        if not share.here and not share.on_behalf:
            continue
        label = f"{layer.value} {100 * share.here / total:.1f} %"
        behalf = f"{100 * share.on_behalf / total:.1f} % with what the kernel and the interpreter did for it"
        note = f"{layer.value}: {layer.what}. {100 * share.here / total:.1f} % of the samples; {behalf}"
        yield (
            f'<g class="key {layer.value}" data-layer="{layer.value}"><title>{text(note)}</title>'
            f'<rect x="{x}" y="60" width="12" height="12" rx="2"/>'
            f'<text x="{x + 17}" y="70.5">{text(label)}</text></g>'
        )
        x += 17 + round(len(label) * LETTER) + 20


def fitted(name: str, width_px: float) -> str:
    """As much of a name as has room, or nothing."""
    room = int((width_px - 6) / LETTER)
    if len(name) <= room:
        return name
    return f"{name[: room - 1]}…" if room >= 3 else ""


def tint(name: str) -> int:
    """One of the tints of a layer's colour: always the same for a name, so that it is found again."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % TINTS


def text(value: str) -> str:
    """Character data of XML."""
    return _clean(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def attribute(value: str) -> str:
    """A quoted attribute of XML."""
    return _quoted(_clean(value))


def _clean(value: str) -> str:
    return _NOT_XML.sub("�", value)


def _count(samples: int) -> str:
    return "1 sample" if samples == 1 else f"{samples:,} samples".replace(",", "\u202f")
