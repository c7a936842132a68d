"""The last five minutes of every slot and of the whole server: what the status page draws its charts from.

Rules of this file: pure; ``now`` is an argument, the figures are a ServerStatus's. One point a second on
one time axis for all: a slot that came later, was away, or has nothing to say has None there. A slot is
forgotten once it has been away for the whole of it. What is kept is bounded by the number of slots: 8
bytes for a figure and point, 19 KB for a slot.

Points are numbered from 0, the master's first. Whoever has those up to number N asks for what came
``since`` N: with 128 slots the whole history is 1.7 MB of JSON, a second of it 15 KB.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import nan
from typing import Any, Final

from ..commands import ServerStatus, WorkerStatus

POINTS: Final = 300
EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a chart. A slot has two processes while one replaces the other: ``together`` makes one
    figure of both.
    """

    name: str
    field: str  # of a WorkerStatus
    together: Callable[[Iterable[float]], float]
    digits: int  # after the point


FIGURES: Final = (
    Figure("rps", "rps", sum, 1),
    Figure("p50_ms", "p50_ms", max, 3),
    Figure("p99_ms", "p99_ms", max, 3),
    Figure("in_flight", "in_flight", sum, 0),
    Figure("connections", "connections", sum, 0),
    Figure("lag_ms", "loop_lag_ms", max, 3),
    Figure("cpu_percent", "cpu_percent", sum, 1),
    Figure("rss_bytes", "rss_bytes", sum, 0),
)
# Of the server only: answers with a status of 500 and above, since its start.
ERRORS: Final = Figure("errors_5xx", "errors_5xx", sum, 0)
# Of the server these are not its slots' figures put together.
_OWN: Final = {"rps", "p50_ms", "p99_ms", "errors_5xx"}

Row = dict[str, float]


class _Ring:
    """The points of one slot, or of the server: NaN is None."""

    def __init__(self, figures: tuple[Figure, ...]) -> None:
        self._figures = figures
        self._points = {one.name: array("d", (nan,)) * POINTS for one in figures}
        self.seen = 0  # the number of its last point

    def put(self, number: int, row: Row) -> None:
        for one in self._figures:
            self._points[one.name][number % POINTS] = round(row.get(one.name, nan), one.digits)

    def last(self, number: int, count: int) -> dict[str, list[float | None]]:
        """The ``count`` points up to this number, the oldest first."""
        end = number % POINTS + 1
        found = {}
        for one in self._figures:
            points = self._points[one.name]
            part = points[end - count : end] if count <= end else points[end - count :] + points[:end]
            # A comparison, not isnan(): this is done for 300,000 points where there are 128 slots.
            if one.digits:
                found[one.name] = [None if value != value else value for value in part]
            else:
                found[one.name] = [None if value != value else int(value) for value in part]
        return found


class History:
    """``if history.due(now): history.sample(status, now)`` in every turn; ``to_json`` when asked."""

    def __init__(self) -> None:
        self.last: int | None = None  # the number of the newest point
        self._next_at = 0.0
        self._slots: dict[int, _Ring] = {}
        self._total = _Ring((*FIGURES, ERRORS))

    def due(self, now: float) -> bool:
        """Whether a second is over."""
        return self.last is None or now >= self._next_at

    def sample(self, status: ServerStatus, now: float) -> None:
        """The next point, if one is due. The seconds that were slept through have nothing in them."""
        if not self.due(now):
            return
        if self.last is None:
            self.last, self._next_at = 0, now + EVERY_S
        else:
            missed = int((now - self._next_at) / EVERY_S)
            after = self.last + 1 + missed
            for number in range(max(self.last + 1, after - POINTS), after):
                self._put(number, {}, {})
            self.last += missed + 1
            self._next_at += (missed + 1) * EVERY_S
        rows = _rows(status.workers_list)
        self._put(self.last, rows, _total(status, rows))

    def _put(self, number: int, rows: dict[int, Row], total: Row) -> None:
        for slot, row in rows.items():
            ring = self._slots.setdefault(slot, _Ring(FIGURES))
            ring.seen = number
            ring.put(number, row)
        for slot in self._slots.keys() - rows.keys():
            if number - self._slots[slot].seen >= POINTS:
                del self._slots[slot]
            else:
                self._slots[slot].put(number, {})
        self._total.put(number, total)

    def to_json(self, since: int | None = None) -> dict[str, Any]:
        """``{"interval_s", "last": the number of the newest point, "slots": {"0": {"rps": [...], ...}},
        "total": {"rps": [...], ..., "errors_5xx": [...]}}``: as many points as there are, the oldest first.

        ``since``: only the points after this number; a number that is not known yet is another master's, and
        gets them all.
        """
        if self.last is None:
            return {"interval_s": EVERY_S, "last": None, "slots": {}, "total": {}}
        count = min(POINTS, self.last + 1)
        if since is not None and 0 <= since <= self.last:
            count = min(count, self.last - since)
        return {
            "interval_s": EVERY_S,
            "last": self.last,
            "slots": {str(slot): ring.last(self.last, count) for slot, ring in sorted(self._slots.items())},
            "total": self._total.last(self.last, count),
        }


def _rows(workers: Iterable[WorkerStatus]) -> dict[int, Row]:
    """The figures of every slot, those of its processes put together."""
    found: dict[int, dict[str, list[float]]] = {}
    for worker in workers:
        figures = found.setdefault(worker.slot, {})
        for one in FIGURES:
            value = getattr(worker, one.field)
            if value is not None:
                figures.setdefault(one.name, []).append(value)
    return {
        slot: {one.name: one.together(figures[one.name]) for one in FIGURES if one.name in figures}
        for slot, figures in found.items()
    }


def _total(status: ServerStatus, rows: dict[int, Row]) -> Row:
    found = {}
    for one in (*FIGURES, ERRORS):
        if one.name in _OWN:
            value = getattr(status, one.field)
            values = [] if value is None else [value]
        else:
            values = [row[one.name] for row in rows.values() if one.name in row]
        if values:
            found[one.name] = one.together(values)
    return found
