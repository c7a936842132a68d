"""Scaling: which cores do what, and the arithmetic of speed-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from perf import scale
from perf.results import Report, Sample, ScenarioResult
from perf.rounds import Settings


@pytest.mark.parametrize(
    ("cores", "workers", "numbers", "load"),
    [
        (2, None, (1,), (1,)),
        (3, None, (1,), (1, 2)),
        (4, None, (1, 2), (2, 3)),
        (12, None, (1, 2, 4, 6), (6, 7, 8, 9, 10, 11)),
        (4, [3, 1, 3], (1, 3), (3,)),
    ],
)
def test_the_servers_cores_and_the_loads_are_disjoint(
    cores: int, workers: list[int] | None, numbers: Sequence[int], load: Sequence[int]
) -> None:
    plan = scale.plan(range(cores), workers, overlap=False)
    assert (plan.workers, plan.load_cores, plan.overlap) == (numbers, load, False)
    assert plan.cores == tuple(range(max(numbers)))
    assert not set(plan.cores) & set(plan.load_cores)


def test_every_number_of_workers_has_the_same_load_and_cores_of_its_own() -> None:
    plan = scale.plan([0, 2, 4, 6, 8, 10], None, overlap=False)
    settings = plan.settings(Settings(server_cores=(), load_cores=(), rounds=3))
    assert [one.workers for one in settings] == [1, 2, 3]
    assert [one.server_cores for one in settings] == [(0,), (0, 2), (0, 2, 4)]
    assert {one.load_cores for one in settings} == {(6, 8, 10)}
    assert {one.rounds for one in settings} == {3}


def test_sharing_cores_must_be_asked_for() -> None:
    with pytest.raises(scale.PlanError, match=r"2 workers and the load want 3 cores.*--overlap"):
        scale.plan([0, 1], [1, 2], overlap=False)
    plan = scale.plan([0, 1], [1, 2], overlap=True)
    assert (plan.cores, plan.load_cores, plan.overlap) == ((0, 1), (0, 1), True)
    assert scale.plan([0, 1], None, overlap=True).workers == (1, 2)
    apart = scale.plan(range(4), [1, 2], overlap=True)
    assert (apart.load_cores, apart.overlap) == ((2, 3), False), "not shared where it need not be"


@pytest.mark.parametrize(("cores", "workers"), [([0], None), ([0, 1], [3]), ([0, 1], [2])])
def test_too_few_cores_are_told(cores: list[int], workers: list[int] | None) -> None:
    with pytest.raises(scale.PlanError):
        scale.plan(cores, workers, overlap=False)


def result(workers: int, **per_second: list[int]) -> ScenarioResult:
    samples = {name: [_sample(n, value) for n, value in enumerate(rows)] for name, rows in per_second.items()}
    return ScenarioResult(f"plain×{workers}", samples, workers=workers)


def _sample(number: int, per_second: int) -> Sample:
    fields: dict[str, Any] = dict.fromkeys(("p50_us", "p99_us", "max_us"))
    return Sample(
        round=number,
        cpu_ns=per_second * 20_000,
        wall_ns=1_000_000_000,
        requests=per_second,
        duration_us=1_000_000,
        response_bytes=1,
        errors={},
        rss_kib=1,
        **fields,
    )


def test_speed_up_is_of_medians_over_one_worker() -> None:
    results = [result(1, a=[1000, 900, 5000]), result(2, a=[1800, 1, 1900]), result(4, b=[7])]
    assert scale.speed_ups(results, "a") == {1: 1.0, 2: 1.8}
    assert scale.speed_ups(results, "b") == {4: 4.0}, "the fewest workers measured stand for their number"
    assert scale.speed_ups(results, "c") == {}


def test_the_table_says_speed_up_efficiency_and_what_was_shared() -> None:
    results = [result(1, a=[1000]), result(2, a=[1500])]
    results[1].skipped["floor"] = "it has one process only"
    settings = {"server_cores": [0, 1], "load_cores": [0, 1], "rounds": 1, "seconds": 1.0, "connections": 64}
    report = Report("now", {}, settings | {"overlap": True}, {}, results)
    lines = scale.render(report).splitlines()
    row = next(line.split() for line in lines if line.startswith("a ") and " 2 " in line)
    assert row == ["a", "2", "1,500", "20.00", "2%", "1.50", "75%"]
    assert "  skipped floor: it has one process only" in lines
    assert lines[-1] == f"WARNING: {scale.OVERLAP_WARNING}"
    report.settings["overlap"] = False
    assert "WARNING" not in scale.render(report)
