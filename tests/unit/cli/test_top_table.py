"""The order of ``top``'s rows, and what is in their cells."""

from __future__ import annotations

import pytest

from shardserve.cli.top_table import COLUMNS, DROPPED, in_order, latency, percent, table
from shardserve.cli.top_text import UNICODE, plain
from shardserve.commands import WorkerStatus
from tests.unit.cli.top_servers import backoff, worker

A = worker(0, rps=5.0, p99_ms=900.0, state="ready", restarts={"crash": 2, "lifetime": 2})
B = worker(1, rps=7.0, p99_ms=None, state="draining")
C = worker(2, rps=7.0, p99_ms=10.0, state="starting")
D = backoff(3)


@pytest.mark.parametrize(
    ("by", "order", "turned_order"),
    [
        ("slot", [0, 1, 2, 3], [3, 2, 1, 0]),
        ("req/s", [1, 2, 0, 3], [0, 1, 2, 3]),  # 1 and 2 are alike
        ("p99", [0, 2, 1, 3], [2, 0, 1, 3]),
        ("state", [3, 1, 0, 2], [2, 0, 1, 3]),
        ("restarts", [0, 3, 1, 2], [1, 2, 3, 0]),
        ("pid", [0, 1, 2, 3], [2, 1, 0, 3]),
    ],
)
def test_order(by: str, order: list[int], turned_order: list[int]) -> None:
    """What is not known is behind everything else, either way."""
    rows = [C, D, A, B]
    assert [one.slot for one in in_order(rows, by)] == order
    assert [one.slot for one in in_order(rows, by, turned=True)] == turned_order


@pytest.mark.parametrize("by", [one.title for one in COLUMNS])
def test_every_column_can_be_sorted_by(by: str) -> None:
    unknown = WorkerStatus(9, "backoff")
    assert len(in_order([A, unknown, B, C, D], by)) == 5


def test_the_two_processes_of_a_slot() -> None:
    old, new = worker(0, pid=10, state="reloading"), worker(0, pid=11, state="starting")
    assert in_order([new, old], "slot") == [old, new]


def test_bars_of_all_rows_are_on_one_scale() -> None:
    found = table([A, B], None, UNICODE, trends={(0, 4000): [100.0, 50.0], (1, 4001): [0.0, 12.0]})
    at = plain(found.title).index("trend")
    assert [plain(row)[at : at + 10] for row in found.rows] == ["        █▅", "        ▁▁"]


def test_what_is_worth_a_look_has_a_colour() -> None:
    found = table([worker(0, cpu_percent=97.0, loop_lag_ms=300.0), worker(1)], None, UNICODE, sorted_by="cpu")
    assert [text.strip() for text, style in found.rows[0] if style == "yellow"] == ["300 ms", "97 %"]
    assert [style for _, style in found.rows[1] if style] == ["green"]
    assert [text.strip() for text, style in found.title if style == "chosen"] == ["cpu"]


def test_a_note_is_cut_off_where_the_line_ends() -> None:
    note = "a note that is long " * 5
    full = len(plain(table([worker(0)], None, UNICODE).title))
    found = table([worker(0, note=note)], full + 22, UNICODE)
    assert plain(found.rows[0]).endswith("  a note that is long…")
    assert "note" not in plain(table([worker(0, note=note)], full + 10, UNICODE).title)


def test_everything_but_slot_and_rate_can_go() -> None:
    assert set(DROPPED) == {one.title for one in COLUMNS} - {"slot", "req/s"} | {"trend", "note"}


def test_units() -> None:
    assert [latency(ms) for ms in (0.0, 0.052, 0.994, 1.25, 9.94, 35.4, 999.4, 1250)] == [
        "0.00 ms", "0.05 ms", "0.99 ms", "1.2 ms", "9.9 ms", "35 ms", "999 ms", "1.2 s",
    ]  # fmt: skip
    assert percent(87.4) == "87 %"
