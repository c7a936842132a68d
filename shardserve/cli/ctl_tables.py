"""A server's status as text for people.

Rules of this file: pure: a status in, text out. The numbers are the server's; only their units are
chosen here. Whatever came over the socket goes through ``printable`` before it reaches a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from ..commands import ServerStatus, WorkerStatus
from ..observe.logs import printable

_T = TypeVar("_T")

COLOURS = {
    "ready": "green", "serving": "green",
    "starting": "yellow", "reloading": "yellow", "draining": "yellow", "upgrading": "yellow",
    "stopping": "yellow", "backoff": "red", "dead": "red",
}  # fmt: skip
# A slot whose successor starts serves as well.
_SERVES = ("ready", "reloading")
_UNKNOWN = "-"

# Title of a column, and whether it is of words, which start at the left.
_COLUMNS = (
    ("slot", False), ("state", True), ("core", False), ("pid", False), ("gen", False), ("uptime", False),
    ("conns", False), ("in flight", False), ("served", False), ("req/s", False), ("lag", False),
    ("max lag", False), ("rss", False), ("restarts", True), ("note", True),
)  # fmt: skip
_STATE = 1  # the column that has colour


def status_text(status: ServerStatus, *, colours: bool) -> str:
    """Two lines about the server, what is wrong with its configuration, and its workers."""
    urls = printable(", ".join(status.urls)) or "no address"
    phase = _coloured(printable(status.phase), status.phase, colours)
    failed = f" ({status.reload_failures} failed)" if status.reload_failures else ""
    lines = [
        f"{printable(status.app)} on {urls}: {phase}, up {duration(status.uptime_s)}, "
        f"{many(status.requests, 'request')}",
        f"shardserve {printable(status.version)}, pid {status.pid}, generation {status.generation}, "
        f"{many(status.reloads, 'reload')}{failed}, {readiness(status)}",
    ]
    for problem in status.config_problems:
        text = "! " + printable_lines(problem)
        lines.append(click.style(text, fg="yellow") if colours else text)
    if status.workers_list:
        lines += ["", workers_text(status.workers_list, colours=colours)]
    return "\n".join(lines)


def readiness(status: ServerStatus) -> str:
    """``7 of 8 workers ready``: slots, whatever number of processes they have."""
    ready = len({one.slot for one in status.workers_list if one.state in _SERVES})
    return f"{ready} of {many(status.workers, 'worker')} ready"


def workers_text(workers: Sequence[WorkerStatus], *, colours: bool) -> str:
    """One line for each worker, under a line of titles. A column that nobody fills is left out."""
    rows = [_row(one) for one in sorted(workers, key=lambda one: one.slot)]
    kept = [
        index for index, (title, _) in enumerate(_COLUMNS) if title != "note" or any(r[index] for r in rows)
    ]
    titles = [title for title, _ in _COLUMNS]
    widths = [max(len(row[index]) for row in [titles, *rows]) for index in range(len(_COLUMNS))]
    lines = []
    for row in [titles, *rows]:
        cells = []
        for index in kept:
            left = _COLUMNS[index][1]
            cell = row[index].ljust(widths[index]) if left else row[index].rjust(widths[index])
            state = row is not titles and index == _STATE
            cells.append(_coloured(cell, row[index], colours) if state else cell)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(one: WorkerStatus) -> list[str]:
    return [
        str(one.slot),
        printable(one.state),
        known(one.core, str),
        known(one.pid, str),
        known(one.generation, str),
        known(one.uptime_s, duration),
        known(one.connections, grouped),
        known(one.in_flight, grouped),
        grouped(one.served),
        known(one.rps, rate),
        known(one.loop_lag_ms, milliseconds),
        known(one.loop_lag_max_ms, milliseconds),
        known(one.rss_bytes, size),
        _restarts(one.restarts),
        printable(one.note),
    ]


def known(value: _T | None, text: Callable[[_T], str]) -> str:
    """``text`` of it, or a dash for what is not known."""
    return _UNKNOWN if value is None else text(value)


def _restarts(causes: dict[str, int]) -> str:
    """``3 (crash 2, lifetime 1)``, the commonest first."""
    counted = sorted(((count, cause) for cause, count in causes.items() if count), reverse=True)
    if not counted:
        return "0"
    details = ", ".join(f"{printable(cause)} {count}" for count, cause in counted)
    return f"{sum(count for count, _ in counted)} ({details})"


def _coloured(text: str, state: str, colours: bool) -> str:
    colour = COLOURS.get(state)
    return click.style(text, fg=colour) if colours and colour else text


def printable_lines(text: str) -> str:
    """Text that may have several lines, a traceback for instance, each of them harmless."""
    return "\n".join(map(printable, text.splitlines()))


# Units


def duration(seconds: float) -> str:
    """``45 s``, ``12 min 3 s``, ``2 h 5 min``, ``3 d 4 h``: two units at most."""
    left = max(0, int(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        parts.append((count, unit))
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count or len(parts) == 1)


def milliseconds(ms: float) -> str:
    """``0.2 ms``, ``35 ms``, ``1.2 s``."""
    if ms >= 1000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"


def size(count: int) -> str:
    """``800 KiB``, ``45.2 MiB``, ``1.25 GiB``."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def rate(per_s: float) -> str:
    """``7.5``, ``1,520``."""
    return f"{per_s:.1f}" if per_s < 100 else f"{per_s:,.0f}"


def grouped(count: int) -> str:
    """``1,234,567``."""
    return f"{count:,}"


def many(count: int, what: str) -> str:
    """``1 worker``, ``1,200 workers``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
