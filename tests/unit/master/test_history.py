"""Five minutes of figures: one time axis for slots that come and go, and no more memory than that.

Only statuses as ``report.py`` makes them go in; the figures that it does not know yet are absent.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from shardserve.commands import ServerStatus, WorkerStatus
from shardserve.master.history import FIGURES, POINTS, History

NAMES = [one.name for one in FIGURES]


def worker(slot: int, **figures: Any) -> WorkerStatus:
    return WorkerStatus(slot=slot, state="ready", **figures)


def server(*workers: WorkerStatus, **figures: Any) -> ServerStatus:
    return ServerStatus("1", 7, "app", "serving", 1.0, workers_list=list(workers), **figures)


def slots_of(history: History, since: int | None = None) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = history.to_json(since)["slots"]
    return found


def test_nothing_yet() -> None:
    history = History()
    assert history.due(5.0)
    assert history.to_json() == {"interval_s": 1.0, "last": None, "slots": {}, "total": {}}
    assert history.to_json(since=3)["last"] is None


def test_every_figure_of_a_worker_is_a_point() -> None:
    history = History()
    one = worker(
        4, rps=10.04, p50_ms=0.51234, p99_ms=3.25, in_flight=2, connections=9, loop_lag_ms=0.125,
        cpu_percent=33.3, rss_bytes=123_456_789_012,
    )  # fmt: skip
    history.sample(server(one), 100.0)
    expected = {
        "rps": [10.0], "p50_ms": [0.512], "p99_ms": [3.25], "in_flight": [2], "connections": [9],
        "lag_ms": [0.125], "cpu_percent": [33.3], "rss_bytes": [123_456_789_012],
    }  # fmt: skip
    assert slots_of(history) == {"4": expected}
    assert list(slots_of(history)["4"]) == NAMES
    assert '"in_flight": [2]' in json.dumps(history.to_json())  # not 2.0


def test_a_point_a_second_the_oldest_first() -> None:
    history = History()
    for quarter in range(17):  # the master looks every quarter of a second
        now = 50 + quarter / 4
        assert history.due(now) == (quarter % 4 == 0)
        history.sample(server(worker(0, rps=float(quarter))), now)
    assert slots_of(history)["0"]["rps"] == [0, 4, 8, 12, 16]
    assert history.to_json()["last"] == 4


def test_a_late_look_does_not_move_the_axis() -> None:
    history = History()
    for now in (0.0, 1.9, 2.1, 3.0):
        history.sample(server(worker(0, rps=now)), now)
    assert slots_of(history)["0"]["rps"] == [0, 1.9, 2.1, 3.0]


@pytest.mark.parametrize("pause_s", [4, POINTS - 2, POINTS, 10 * POINTS + 7])
def test_seconds_that_were_slept_through_are_empty(pause_s: int) -> None:
    history = History()
    history.sample(server(worker(0, rps=1.0)), 0.0)
    history.sample(server(worker(0, rps=2.0)), float(pause_s))
    points = ([1.0] + [None] * (pause_s - 1) + [2.0])[-POINTS:]
    assert slots_of(history)["0"]["rps"] == points
    assert history.to_json()["total"]["rps"][-2:] == [None, 0.0]
    assert history.to_json()["last"] == pause_s


def test_only_the_last_five_minutes_stay() -> None:
    history = History()
    for now in range(POINTS + 50):
        history.sample(server(worker(0, in_flight=now)), float(now))
    assert slots_of(history)["0"]["in_flight"] == [*range(50, POINTS + 50)]
    assert history.to_json()["total"]["in_flight"] == [*range(50, POINTS + 50)]


def test_slots_share_the_axis_and_unknown_figures_are_none() -> None:
    history = History()
    history.sample(server(worker(0, rps=1.0)), 0.0)
    history.sample(server(worker(0, rps=2.0), worker(1, rps=5.0, p99_ms=None)), 1.0)
    history.sample(server(worker(1, rps=6.0)), 2.0)
    history.sample(server(worker(0, rps=None), worker(1, rps=7.0)), 3.0)
    slots = slots_of(history)
    assert slots["0"]["rps"] == [1, 2, None, None]
    assert slots["1"]["rps"] == [None, 5, 6, 7]
    assert slots["1"]["p99_ms"] == [None] * 4


def test_a_slot_is_forgotten_after_five_minutes_away() -> None:
    history = History()
    history.sample(server(worker(0, rps=1.0), worker(1, rps=9.0)), 0.0)
    for now in range(1, POINTS):
        history.sample(server(worker(0, rps=1.0)), float(now))
    assert slots_of(history)["1"]["rps"] == [9] + [None] * (POINTS - 1)
    history.sample(server(worker(0, rps=1.0)), float(POINTS))
    assert list(slots_of(history)) == ["0"]
    history.sample(server(worker(1, rps=3.0)), float(POINTS + 1))  # and may come again
    assert slots_of(history)["1"]["rps"] == [None] * (POINTS - 1) + [3]


def test_old_and_new_process_of_a_slot_are_one_line() -> None:
    history = History()
    old = worker(
        0, rps=10.0, p50_ms=2.0, p99_ms=9.0, in_flight=1, connections=5, rss_bytes=100, loop_lag_ms=1.0
    )
    new = worker(
        0, rps=30.5, p50_ms=None, p99_ms=4.0, in_flight=2, connections=7, rss_bytes=50, loop_lag_ms=3.0
    )
    history.sample(server(old, new), 0.0)
    found = {name: points[0] for name, points in slots_of(history)["0"].items()}
    assert found == {
        "rps": 40.5, "p50_ms": 2, "p99_ms": 9, "in_flight": 3, "connections": 12, "lag_ms": 3,
        "cpu_percent": None, "rss_bytes": 150,
    }  # fmt: skip


def test_the_total_has_the_servers_own_quantiles_and_the_sum_of_its_slots() -> None:
    history = History()
    workers = [
        worker(0, rps=1.0, p50_ms=1.0, p99_ms=2.0, in_flight=3, connections=10, rss_bytes=100),
        worker(1, rps=2.0, p50_ms=5.0, p99_ms=6.0, in_flight=4, connections=20, cpu_percent=40.0),
    ]
    history.sample(server(*workers, rps=3.5, p50_ms=4.0, p99_ms=5.5, errors_5xx=12), 0.0)
    found = {name: points[0] for name, points in history.to_json()["total"].items()}
    assert found == {
        "rps": 3.5, "p50_ms": 4, "p99_ms": 5.5, "in_flight": 7, "connections": 30, "lag_ms": None,
        "cpu_percent": 40, "rss_bytes": 100, "errors_5xx": 12,
    }  # fmt: skip


def test_since_gives_what_is_newer() -> None:
    history = History()
    for now in range(POINTS + 10):
        history.sample(server(worker(0, in_flight=now)), float(now))
    last = POINTS + 9

    def newer(since: int | None) -> list[int | None]:
        body = history.to_json(since)
        assert body["last"] == last
        assert {len(points) for points in body["total"].values()} == {len(body["slots"]["0"]["rps"])}
        points: list[int | None] = body["slots"]["0"]["in_flight"]
        return points

    assert newer(last) == []
    assert newer(last - 1) == [last]
    assert newer(last - 4) == [*range(last - 3, last + 1)]
    # Older than what is kept, and numbers that only another master can have given:
    everything = [*range(10, POINTS + 10)]
    assert newer(3) == newer(last + 1) == newer(-1) == newer(None) == everything
