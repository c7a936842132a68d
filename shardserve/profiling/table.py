"""The shares of the layers as text, for a terminal or a file.

Rules of this file: pure; no colours. Every layer is a row, also where it has nothing: a table has the
same shape every time. Shares are of samples, and each column adds up to 100 % but for rounding.
"""

from __future__ import annotations

from .frames import Layer
from .stacks import Share, Shares

_MOST_PACKAGES = 12
_TITLES = ("", "own code", "on its behalf", "")


def table(found: Shares, *, waiting: bool = False) -> str:
    """``own code``: what was running. ``on its behalf``: with what the kernel and the interpreter did for
    it. ``waiting``: the samples are not of what ran, but of who waited.
    """
    total = max(found.samples, 1)
    rows: list[tuple[str, ...]] = [("", "waiting", "on its behalf", "") if waiting else _TITLES]
    for layer, share in found.layers.items():
        if layer is Layer.UNKNOWN and not (share.here or share.on_behalf):
            continue
        rows.append(_row(layer.value, share, total, layer.what))
        if layer is Layer.APP:
            rows += [_row(f"  {name}", one, total, "") for name, one in _largest(found)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _row(name: str, share: Share, total: int, note: str) -> tuple[str, str, str, str]:
    return name, f"{100 * share.here / total:.1f} %", f"{100 * share.on_behalf / total:.1f} %", note


def _largest(found: Shares) -> list[tuple[str, Share]]:
    """The packages, those beyond the most expensive ones as one."""
    packages = list(found.packages.items())
    if len(packages) <= _MOST_PACKAGES:
        return packages
    rest = [share for _, share in packages[_MOST_PACKAGES:]]
    others = Share(sum(one.here for one in rest), sum(one.on_behalf for one in rest))
    return [*packages[:_MOST_PACKAGES], (f"{len(rest)} others", others)]
