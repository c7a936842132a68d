"""What ``top`` looks like, at every size."""

from __future__ import annotations

import itertools

import pytest

from shardserve.cli.top_layout import View, frame, text, totals
from shardserve.cli.top_table import COLUMNS
from shardserve.cli.top_text import ASCII, UNICODE, Glyphs, Line, cells, plain
from shardserve.commands import ServerStatus
from tests.unit.cli.top_servers import EVIL, backoff, server, worker

STATUS = server(worker(0), worker(1, rps=20.0), backoff(2))
TRENDS = {(0, 4000): [0.0, 800.0, 1520.0], (1, 4001): [20.0, 20.0, 20.0]}
MANY = server(*(worker(slot) for slot in range(128)))


def shown(view: View, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[str]:
    return [plain(line) for line in frame(view, width, height, glyphs).lines]


def apart(left: str, right: str, width: int) -> str:
    """One at the left end of a line, one at the right."""
    return left + right.rjust(width - len(left))


def widest(lines: list[Line]) -> int:
    return max(sum(cells(text) for text, _ in line) for line in lines)


def test_a_wide_one() -> None:
    assert shown(View(STATUS, TRENDS), 160, 12) == [
        apart("main:app on http://127.0.0.1:8000", "shardserve 1.2.3, pid 3999", 160),
        "serving, up 2 h 5 min, 2 of 3 workers ready, generation 1, 2 reloads",
        "3,041 req/s   p50 0.42 ms   p99 12 ms   14 in flight   2,400 connections   4 websockets   "
        "1,234,567 requests   4 5xx   cpu 142 %   rss 90.4 MiB",
        "",
        "slot  core      pid  state       req/s  trend           p50      p99  in flight   conns    5xx"
        "      lag    cpu        rss  restarts  note",
        "   0     0     4000  ready       1,520         ▁▅█  0.42 ms   8.5 ms          7   1,200      1"
        "  0.25 ms   71 %   45.2 MiB         0",
        "   1     1     4001  ready        20.0         ▁▁▁  0.42 ms   8.5 ms          7   1,200      1"
        "  0.25 ms   71 %   45.2 MiB         0",
        "   2     -        -  backoff         -                    -        -          -       -      0"
        "        -      -          -         3  starts again in 3.2 s",
        "",
        "",
        "",
        apart("q quit  p pause  s sort  r reverse  h help", "by slot, lowest first", 160),
    ]  # fmt: skip


def test_a_usual_one() -> None:
    assert shown(View(STATUS, TRENDS), 80, 9)[4:] == [
        "slot  state       req/s      p50      p99  in flight   conns      lag    cpu",
        "   0  ready       1,520  0.42 ms   8.5 ms          7   1,200  0.25 ms   71 %",
        "   1  ready        20.0  0.42 ms   8.5 ms          7   1,200  0.25 ms   71 %",
        "   2  backoff         -        -        -          -       -        -      -",
        apart("q quit  p pause  s sort  r reverse  h help", "by slot, lowest first", 80),
    ]


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
@pytest.mark.parametrize("width", [1, 10, 20, *range(40, 201, 20)])
def test_no_line_is_too_wide_and_none_too_many(width: int, glyphs: Glyphs) -> None:
    wide = worker(3, note="日本語" * 20, state="re\u0301ady")
    view = View(
        server(*MANY.workers_list, wide, app="アプリ" * 9, config_problems=["x" * 300, "y\nz"]),
        problem="it is gone " * 20,
    )
    for view.help, height in itertools.product((False, True), (1, 2, 5, 10, 24, 60)):
        found = frame(view, width, height, glyphs)
        assert len(found.lines) == height
        assert widest(found.lines) <= width
        assert "".join(plain(line) for line in found.lines).isascii() or glyphs is UNICODE


def test_columns_go_in_a_fixed_order() -> None:
    """What is shown in so many cells is shown in more."""
    found = [set(frame(View(STATUS, TRENDS), width, 20, UNICODE).columns) for width in range(1, 201)]
    assert all(less <= more for less, more in itertools.pairwise(found))
    assert found[0] == {"slot", "req/s"}
    assert found[39] == {"slot", "req/s", "p99", "state", "cpu"}
    assert len(found[-1]) == len(COLUMNS)


def test_few_lines_are_for_rows_and_figures() -> None:
    assert shown(View(MANY), 80, 6) == [
        "3,041 req/s   p50 0.42 ms   p99 12 ms   896 in flight   153,600 connections",
        "slot  state       req/s      p50      p99  in flight   conns      lag    cpu",
        "   0  ready       1,520  0.42 ms   8.5 ms          7   1,200  0.25 ms   71 %",
        "   1  ready       1,520  0.42 ms   8.5 ms          7   1,200  0.25 ms   71 %",
        "   2  ready       1,520  0.42 ms   8.5 ms          7   1,200  0.25 ms   71 %",
        apart("q quit  h help", "by slot, lowest first · rows 1 to 3 of 128", 80),
    ]


@pytest.mark.parametrize(("asked", "first"), [(-5, 0), (0, 0), (7, 7), (126, 125), (10_000, 125)])
def test_scrolling_ends_at_the_ends(asked: int, first: int) -> None:
    found = frame(View(MANY, offset=asked), 80, 6, UNICODE)
    assert (found.offset, found.page) == (first, 3)
    assert [plain(line).split()[0] for line in found.lines[2:5]] == [str(first + n) for n in range(3)]
    assert f"rows {first + 1} to {first + 3} of 128" in plain(found.lines[5])


def test_what_is_wrong_is_said_above_everything() -> None:
    status = server(
        worker(0), config_problems=["port: 9000 waits for a restart\n  really"], reload_failures=1
    )
    lines = shown(View(status, problem="no news for 3 s"), 120, 12)
    assert lines[0] == "! no news for 3 s"
    assert "2 reloads (1 failed)" in lines[2]
    assert lines[5:7] == ["! port: 9000 waits for a restart", "!   really"]
    assert "slot" in lines[8]


def test_old_figures_look_old() -> None:
    def styles(view: View) -> set[str]:
        lines = frame(view, 80, 20, UNICODE).lines
        at = next(number for number, line in enumerate(lines) if plain(line).startswith("   0"))
        return {style for _, style in lines[at]}

    assert "green" in styles(View(STATUS))
    assert styles(View(STATUS, problem="no news")) == {"dim"}


def test_the_foot() -> None:
    assert shown(View(STATUS, paused=True, sort="p99"), 80, 20)[-1].endswith("paused · by p99, highest first")
    assert shown(View(STATUS, turned=True), 120, 20, ASCII)[-1].endswith("  by slot, highest first")
    assert "paused - by" in shown(View(STATUS, paused=True), 120, 20, ASCII)[-1]
    assert shown(View(STATUS, keys=False), 80, 20)[-1].startswith("Ctrl-C quits ")


def test_help() -> None:
    lines = shown(View(STATUS, help=True), 80, 30)
    assert any(line.startswith("q  ") and line.endswith("quit") for line in lines)
    assert not any(line.startswith("slot ") for line in lines)


def test_a_server_of_an_older_version_has_less_to_say() -> None:
    status = ServerStatus.from_json(
        {"version": "0", "pid": 1, "app": "a:b", "phase": "starting", "uptime_s": 0.1,
         "workers_list": [{"slot": 0, "state": "starting"}]}
    )  # fmt: skip
    assert shown(View(status), 200, 20)[:3] == [
        apart("a:b on no address", "shardserve 0, pid 1", 200),
        "starting, up 0 s, 0 of 0 workers ready, generation 0, 0 reloads",
        "0.0 req/s   0 in flight   0 connections   0 websockets   0 requests   0 5xx   rss 0 KiB",
    ]


def test_without_a_worker() -> None:
    lines = shown(View(server()), 80, 10)
    assert lines[5].startswith("slot ")
    assert lines[6:9] == ["", "", ""]


def test_totals_are_of_all_workers() -> None:
    assert totals(STATUS)[3:6] == ["14 in flight", "2,400 connections", "4 websockets"]
    assert totals(STATUS)[-2:] == ["cpu 142 %", "rss 90.4 MiB"]


def test_what_a_server_says_cannot_command_the_terminal() -> None:
    status = server(
        worker(0, state=EVIL, note=EVIL),
        app=EVIL,
        phase=EVIL,
        version=EVIL,
        urls=[EVIL],
        config_problems=[EVIL],
    )
    for found in ("\n".join(shown(View(status, problem=EVIL), 400, 20)), text(status, UNICODE)):
        assert all(line.isprintable() for line in found.split("\n"))
        assert "\\x1b]0;x\\x07\\x0arm\\x0d\\u202e" in found


def test_once_is_everything_without_an_end_of_its_width() -> None:
    note = "a long note " * 30
    lines = text(server(worker(0, note=note), worker(1)), UNICODE).splitlines()
    assert lines[0] == "main:app on http://127.0.0.1:8000, shardserve 1.2.3, pid 3999"
    assert lines[2].endswith("rss 90.4 MiB")
    assert lines[3] == ""
    assert lines[4].split() == [
        "slot", "core", "pid", "state", "req/s", "p50", "p99", "in", "flight", "conns", "5xx", "lag", "cpu",
        "rss", "restarts", "note",
    ]  # fmt: skip
    assert lines[5].endswith(f"  0  {note}".rstrip())
    assert not lines[6].endswith(" ")
