"""What ``top`` shows: a server's status as a frame of a width and a height, or as a text for scripts.

Rules of this file: pure; the clock and the terminal are arguments. A frame has at most as many lines as it
is told, none wider than it is told: what matters least goes first. The table is ``top_table.py``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..commands import ServerStatus
from .ctl_tables import COLOURS, duration, grouped, many, rate, readiness, size
from .top_table import Key, direction, in_order, latency, percent, table
from .top_text import Glyphs, Line, cells, cut_line, plain, wrapped

# As many rows should be seen before the lines around them are given up.
_ROWS = 3
_PROBLEM_LINES = 3
# The more the better.
_KEYS = ("q quit  p pause  s sort  r reverse  h help", "q quit  h help")
HELP = (
    ("q", "quit"),
    ("p, space", "pause, go on"),
    ("s, S", "sort by the next column, the one before"),
    ("1 to 9", "sort by that column of those on the screen"),
    ("r", "the other way round"),
    ("up, down, k, j", "scroll by a line"),
    ("PgUp, PgDn", "by a screen"),
    ("Home, End, g, G", "to the first row, the last"),
    ("h, ?", "this help"),
    ("", ""),
    ("req/s, trend", "requests a second, and over the last looks; bars of all rows on one scale"),
    ("p50, p99", "half, 99 of 100 of the last 5 seconds' requests took at most so long"),
    ("in flight", "requests given to the app and not finished; conns: open connections"),
    ("5xx", "answers with such a status since the process began; above: since the server began"),
    ("lag", "how late the event loop last was"),
    ("cpu", "of one core; rss: resident memory"),
)


@dataclass(slots=True)
class View:
    """All that a frame shows."""

    status: ServerStatus
    trends: Mapping[Key, Sequence[float]] = field(default_factory=dict)
    problem: str = ""  # why there is no newer status
    sort: str = "slot"
    turned: bool = False
    offset: int = 0  # the row at the top
    paused: bool = False
    help: bool = False
    keys: bool = True  # somebody can press some


@dataclass(frozen=True, slots=True)
class Frame:
    """``columns`` can be sorted by; ``page`` is how many rows fit, ``offset`` the number of the first."""

    lines: list[Line]
    columns: list[str]
    page: int
    offset: int


def frame(view: View, width: int, height: int, glyphs: Glyphs) -> Frame:
    """The whole screen."""
    status = view.status
    workers = in_order(status.workers_list, view.sort, turned=view.turned)
    body = table(workers, width, glyphs, trends=view.trends, sorted_by=view.sort)
    head = _head(view, width, glyphs)
    # The line of titles, and the one at the foot.
    while head and height - len(head) - 2 < min(_ROWS, len(workers)):
        head.remove(max(reversed(head), key=lambda one: one[0]))
    page = max(0, height - len(head) - 2)
    offset = max(0, min(view.offset, len(workers) - page))
    lines = [line for _, line in head]
    if view.help:
        lines += _help(glyphs)[: max(0, height - len(head) - 1)]
    else:
        lines += [body.title, *body.rows[offset : offset + page]]
    if view.problem:
        lines[len(head) :] = [[(plain(line), "dim")] for line in lines[len(head) :]]
    lines += [[]] * (height - 1 - len(lines))
    lines = [*lines[: height - 1], _foot(view, page, offset, width, glyphs)]
    return Frame([cut_line(line, width, glyphs) for line in lines], body.columns, page, offset)


def text(status: ServerStatus, glyphs: Glyphs) -> str:
    """The same once, without an end of its width, for scripts."""
    lines = [f"{_name(status, glyphs)}, {_version(status, glyphs)}", _about(status, glyphs)]
    lines.append("   ".join(totals(status)))
    lines += [line for problem in status.config_problems for line in _problem(problem, glyphs)]
    body = table(in_order(status.workers_list, "slot"), None, glyphs)
    if body.rows:
        lines += ["", plain(body.title), *map(plain, body.rows)]
    return "\n".join(lines)


# Above the table


def _head(view: View, width: int, glyphs: Glyphs) -> list[tuple[int, Line]]:
    """Its lines, each with its rank: the highest goes first."""
    status = view.status
    name, version = _name(status, glyphs), _version(status, glyphs)
    gap = width - cells(name) - cells(version)
    head: list[tuple[int, Line]] = []
    if view.problem:
        lines = wrapped(f"! {glyphs.clean(view.problem)}".split(" "), width, " ")
        head += [(0, [(line, "alarm")]) for line in lines[:_PROBLEM_LINES]]
    head.append((3, [(name, "title"), *([(" " * gap + version, "dim")] if gap >= 2 else [])]))
    phase = glyphs.clean(status.phase)
    rest = _about(status, glyphs).removeprefix(phase)
    head.append((2, [(phase, COLOURS.get(status.phase, "")), (rest, "")]))
    head += [(1, [(line, "")]) for line in wrapped(totals(status), width)]
    problems = [line for problem in status.config_problems for line in _problem(problem, glyphs)]
    head += [(4, [(line, "yellow")]) for line in problems[:_PROBLEM_LINES]]
    head.append((5, []))
    return head


def _name(status: ServerStatus, glyphs: Glyphs) -> str:
    urls = glyphs.clean(", ".join(status.urls)) or "no address"
    return f"{glyphs.clean(status.app)} on {urls}"


def _version(status: ServerStatus, glyphs: Glyphs) -> str:
    return f"shardserve {glyphs.clean(status.version)}, pid {status.pid}"


def _about(status: ServerStatus, glyphs: Glyphs) -> str:
    failed = f" ({status.reload_failures} failed)" if status.reload_failures else ""
    return (
        f"{glyphs.clean(status.phase)}, up {duration(status.uptime_s)}, {readiness(status)}, "
        f"generation {status.generation}, {many(status.reloads, 'reload')}{failed}"
    )


def totals(status: ServerStatus) -> list[str]:
    """What all workers do together. What nobody knows is left out."""
    workers = status.workers_list
    cpu = [one.cpu_percent for one in workers if one.cpu_percent is not None]
    found = [f"{rate(status.rps)} req/s"]
    if status.p50_ms is not None and status.p99_ms is not None:
        found += [f"p50 {latency(status.p50_ms)}", f"p99 {latency(status.p99_ms)}"]
    found += [
        f"{grouped(sum(one.in_flight or 0 for one in workers))} in flight",
        many(sum(one.connections or 0 for one in workers), "connection"),
        many(sum(one.websockets or 0 for one in workers), "websocket"),
        many(status.requests, "request"),
        f"{grouped(status.errors_5xx)} 5xx",
        *([f"cpu {percent(sum(cpu))}"] if cpu else []),
        f"rss {size(sum(one.rss_bytes or 0 for one in workers))}",
    ]
    return found


def _problem(problem: str, glyphs: Glyphs) -> list[str]:
    return ["! " + glyphs.clean(line) for line in problem.splitlines() if line.strip()]


# Below it


def _foot(view: View, page: int, offset: int, width: int, glyphs: Glyphs) -> Line:
    rows = len(view.status.workers_list)
    sorting = f"by {view.sort}, {direction(view.sort, turned=view.turned)}"
    more = f"rows {offset + 1} to {min(rows, offset + page)} of {rows}" if rows > page > 0 else ""
    state = f" {glyphs.separator} ".join(filter(None, ["paused" if view.paused else "", sorting, more]))
    for keys in _KEYS if view.keys else ("Ctrl-C quits",):
        gap = width - cells(keys) - cells(state)
        if gap >= 2:
            return [(keys, "dim"), (" " * gap, ""), (state, "dim")]
    return [(state, "dim")]


def _help(glyphs: Glyphs) -> list[Line]:
    widest = max(cells(key) for key, _ in HELP)
    return [[(f"{key:{widest}}  ", "title"), (meaning, "")] for key, meaning in HELP]
