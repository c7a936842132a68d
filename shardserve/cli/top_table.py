"""The workers of ``top`` as a table: which columns there are, which fit, in what order the rows come.

Rules of this file: pure. A column of numbers is one entry of COLUMNS. Where there is no room columns go in
a fixed order, ``DROPPED``. What is not known is sorted behind everything else, whichever way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..commands import WorkerStatus
from .ctl_tables import COLOURS, grouped, known, rate, size
from .top_text import Glyphs, Line, cells, cut, left, right

TREND = 10  # bars
_GAP = "  "
# A note that has less room than this is of no use.
_NOTE = 12
# Of a core, and of a loop: more is worth a look.
_BUSY_PERCENT, _LATE_MS = 90.0, 100.0

Value = float | str | None
Key = tuple[int, int | None]
"""Slot and pid: which process a row is of."""


def latency(ms: float) -> str:
    """``0.05 ms``, ``1.2 ms``, ``35 ms``, ``1.2 s``."""
    if ms >= 1000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.2f} ms" if ms < 1 else f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"


def percent(value: float) -> str:
    """``87 %``."""
    return f"{value:.0f} %"


@dataclass(frozen=True, slots=True)
class Column:
    """What a worker can be sorted by. ``width`` is the least: columns stand still while numbers change."""

    title: str
    value: Callable[[WorkerStatus], Value]
    text: Callable[[WorkerStatus], str]
    width: int = 0
    highest_first: bool = True
    style: Callable[[WorkerStatus], str] = lambda one: ""


COLUMNS = (
    Column("slot", lambda one: one.slot, lambda one: str(one.slot), highest_first=False),
    Column("core", lambda one: one.core, lambda one: known(one.core, str), highest_first=False),
    Column("pid", lambda one: one.pid, lambda one: known(one.pid, str), 7, highest_first=False),
    Column("state", lambda one: one.state, lambda one: one.state, 8, highest_first=False,
           style=lambda one: COLOURS.get(one.state, "")),
    Column("req/s", lambda one: one.rps, lambda one: known(one.rps, rate), 7),
    Column("p50", lambda one: one.p50_ms, lambda one: known(one.p50_ms, latency), 7),
    Column("p99", lambda one: one.p99_ms, lambda one: known(one.p99_ms, latency), 7),
    Column("in flight", lambda one: one.in_flight, lambda one: known(one.in_flight, grouped)),
    Column("conns", lambda one: one.connections, lambda one: known(one.connections, grouped), 6),
    Column("5xx", lambda one: one.errors_5xx, lambda one: grouped(one.errors_5xx), 5),
    Column("lag", lambda one: one.loop_lag_ms, lambda one: known(one.loop_lag_ms, latency), 7,
           style=lambda one: "yellow" if (one.loop_lag_ms or 0) >= _LATE_MS else ""),
    Column("cpu", lambda one: one.cpu_percent, lambda one: known(one.cpu_percent, percent), 5,
           style=lambda one: "yellow" if (one.cpu_percent or 0) >= _BUSY_PERCENT else ""),
    Column("rss", lambda one: one.rss_bytes, lambda one: known(one.rss_bytes, size), 9),
    Column("restarts", lambda one: _restarts(one), lambda one: grouped(_restarts(one))),
)  # fmt: skip
BY_TITLE = {one.title: one for one in COLUMNS}
_ORDER = (
    "slot", "core", "pid", "state", "req/s", "trend", "p50", "p99", "in flight", "conns", "5xx", "lag", "cpu",
    "rss", "restarts", "note",
)  # fmt: skip
_WORDS = ("state", "trend", "note")  # at the left of their columns
# What goes first where there is no room.
DROPPED = (
    "note", "core", "restarts", "5xx", "trend", "pid", "rss", "p50", "conns", "lag", "in flight", "cpu",
    "state", "p99",
)  # fmt: skip


def _restarts(one: WorkerStatus) -> int:
    return sum(one.restarts.values())


# Order


def in_order(workers: Sequence[WorkerStatus], by: str, *, turned: bool = False) -> list[WorkerStatus]:
    """By this column in its own direction, or ``turned`` the other way. What is alike is by slot and pid."""
    column = BY_TITLE[by]
    found = sorted(workers, key=lambda one: (one.slot, one.pid or 0))
    sortable = [one for one in found if column.value(one) is not None]
    # Sorting is stable, in reverse too.
    sortable.sort(key=lambda one: _comparable(column.value(one)), reverse=column.highest_first != turned)
    return sortable + [one for one in found if column.value(one) is None]


def _comparable(value: Value) -> tuple[float, str]:
    return (0.0, value) if isinstance(value, str) else (value or 0.0, "")


def direction(by: str, *, turned: bool) -> str:
    """That order in words."""
    return "highest first" if BY_TITLE[by].highest_first != turned else "lowest first"


# The table


@dataclass(frozen=True, slots=True)
class Table:
    """``columns``: the titles that are shown and can be sorted by."""

    title: Line
    rows: list[Line]
    columns: list[str]


def table(
    workers: Sequence[WorkerStatus],
    width: int | None,
    glyphs: Glyphs,
    *,
    trends: Mapping[Key, Sequence[float]] | None = None,
    sorted_by: str = "",
) -> Table:
    """One row for each worker, in the order given. ``width`` None: as wide as it takes. ``trends`` None: no
    such column. A note takes what is left, and is cut off there.
    """
    rows = [_texts(one, glyphs) for one in workers]
    if trends is not None:
        top = max((value for values in trends.values() for value in values), default=0.0)
        for one, row in zip(workers, rows, strict=True):
            row["trend"] = glyphs.trend(trends.get((one.slot, one.pid), ()), top, TREND)
    titles = [title for title in _ORDER if title != "trend" or trends is not None]
    widths = {title: max(map(cells, [title, *(row[title] for row in rows)])) for title in titles}
    for column in COLUMNS:
        widths[column.title] = max(column.width, widths[column.title])
    shown = _that_fit(widths, width, any(row["note"] for row in rows))
    if width is not None and "note" in shown:
        widths["note"] = _NOTE + width - _total(widths, shown)
    return Table(
        _line(
            {title: (title, "chosen" if title == sorted_by else "title") for title in shown}, widths, glyphs
        ),
        [
            _line({title: (row[title], _style(title, one)) for title in shown}, widths, glyphs)
            for one, row in zip(workers, rows, strict=True)
        ],
        [title for title in shown if title in BY_TITLE],
    )


def _texts(one: WorkerStatus, glyphs: Glyphs) -> dict[str, str]:
    """Every cell of a row but the trend, by title."""
    return {column.title: glyphs.clean(column.text(one)) for column in COLUMNS} | {
        "note": glyphs.clean(one.note)
    }


def _that_fit(widths: Mapping[str, int], width: int | None, notes: bool) -> list[str]:
    shown = [title for title in widths if title != "note" or notes]
    if width is not None:
        for title in DROPPED:
            if _total(widths, shown) <= width:
                break
            if title in shown:
                shown.remove(title)
    return shown


def _total(widths: Mapping[str, int], shown: Sequence[str]) -> int:
    """The width of a row, with as much of a note as there should be at least."""
    return sum(_NOTE if title == "note" else widths[title] for title in shown) + len(_GAP) * (len(shown) - 1)


def _style(title: str, one: WorkerStatus) -> str:
    return BY_TITLE[title].style(one) if title in BY_TITLE else ""


def _line(row: Mapping[str, tuple[str, str]], widths: Mapping[str, int], glyphs: Glyphs) -> Line:
    line: Line = []
    for title, (text, style) in row.items():
        if line:
            line.append((_GAP, ""))
        text = cut(text, widths[title], glyphs)
        line.append(((left if title in _WORDS else right)(text, widths[title]), style))
    return line
