"""What is printed, and what is stored, from made-up samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from perf import compare, results, tables
from perf.peer_env import ROOT
from perf.progress import Progress, duration
from perf.results import Report, Sample, ScenarioResult


def sample(number: int, cpu_us: float, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "round": number,
        "cpu_ns": round(cpu_us * 1000 * 10_000),
        "wall_ns": 1_000_000_000,
        "requests": 10_000,
        "duration_us": 1_000_000,
        "response_bytes": 1,
        "rss_kib": 2048,
        "p50_us": 500.0,
        "p90_us": 900.0,
        "p99_us": 2500.0,
        "p999_us": 8000.0,
        "max_us": 9000.0,
        "errors": {},
    }
    return Sample(**(fields | changes))


def report(**servers: list[float]) -> Report:
    result = ScenarioResult("plain")
    for name, costs in servers.items():
        result.samples[name] = [sample(number, cost) for number, cost in enumerate(costs)]
    host = {"cpu": "c", "cpus_allowed": 2, "kernel": "6", "python": "3.11", "wrk": "4", "commit": "abc"}
    settings = {"rounds": 3, "seconds": 1.0, "connections": 64, "server_cores": [0], "load_cores": [1]}
    versions = {name: {"version": "1"} for name in servers}
    return Report("now", host, settings, versions, [result])


def test_a_sample_knows_its_figures() -> None:
    one = sample(0, 20.0)
    assert (one.cpu_us, one.per_second, one.busy) == (20.0, 10_000.0, 0.2)


def test_table_has_ratio_to_the_baseline_pair_by_pair_and_of_minima() -> None:
    text = tables.render(report(uvicorn=[20.0, 40.0, 22.0], shardserve=[10.0, 20.0, 10.0]))
    lines = text.splitlines()
    ours = next(line for line in lines if line.startswith("shardserve"))
    assert "10.00–10.00–20.00" in ours
    assert "2.00  2.00–2.20" in ours
    assert [line.split()[0] for line in lines if "MiB" in line] == ["shardserve", "uvicorn"], "cheapest first"


def test_without_the_baseline_there_is_no_ratio() -> None:
    row = next(line for line in tables.render(report(floor=[5.0])).splitlines() if "MiB" in line)
    assert row.split()[-3:] == ["–", "–", "–"]


def test_messages_are_counted_as_messages() -> None:
    shown = report(uvicorn=[20.0])
    shown.scenarios.append(ScenarioResult("ws-echo-64", dict(shown.scenarios[0].samples)))
    shown.host["ws_load"] = "cc 1"
    text = tables.render(shown)
    assert "CPU µs/req" in text
    assert "CPU µs/msg" in text
    assert "msg/s" in text
    assert "wrk (4), ws_load (cc 1) on CPU 1" in text


def test_errors_skips_and_restless_servers_are_shown() -> None:
    shown = report(uvicorn=[20.0])
    result = shown.scenarios[0]
    result.samples["uvicorn"] = [sample(0, 20.0, errors={"timeout": 3}), sample(1, 20.0, p50_us=None)]
    result.skipped["granian"] = "package granian is not installed"
    result.idle = {"uvicorn": 0.001, "spinner": 1.0}
    text = tables.render(shown)
    assert "3 timeout" in text
    assert "skipped granian: package granian is not installed" in text
    assert "spinner uses 100% of its core when idle" in text
    assert "uvicorn uses" not in text


def test_a_scenario_nobody_ran_and_who_served_a_file_are_told() -> None:
    shown = report(uvicorn=[20.0])
    shown.scenarios[0].served_by = {"uvicorn": "Starlette's StaticFiles", "absent": "the server"}
    shown.scenarios.append(ScenarioResult("tls", reason="openssl is not on PATH"))
    text = tables.render(shown)
    assert "served by: uvicorn: Starlette's StaticFiles\n" in text
    assert "skipped: openssl is not on PATH" in text
    assert "8.0 ms" in text


def test_an_interrupted_run_with_nothing_measured_still_prints() -> None:
    empty = report()
    empty.interrupted = True
    assert "Interrupted" in tables.render(empty)


def test_results_survive_the_file(tmp_path: Path) -> None:
    before = report(uvicorn=[20.0, 21.0], floor=[5.0])
    before.scenarios[0].skipped["x"] = "y"
    results.save(before, tmp_path / "r.json")
    assert results.load(tmp_path / "r.json") == before


def test_files_of_schema_1_are_read_and_what_they_lack_is_none() -> None:
    files = sorted((ROOT / "perf" / "results").glob("baseline-*.json"))
    old = [path for path in files if '"schema": 1' in path.read_text()]
    assert len(old) >= 3
    for path in old:
        read = results.load(path)
        samples = [one for result in read.scenarios for rows in result.samples.values() for one in rows]
        assert samples
        assert {(one.p90_us, one.p999_us, one.late_us) for one in samples} == {(None, None, None)}
        assert (read.settings["server_cores"], read.settings["load_cores"]) == ([0], [1])
        assert {(one.reason, one.rate_per_s, one.workers) for one in read.scenarios} == {(None, None, 1)}
        assert "MiB" in tables.render(read)


def test_a_result_knows_its_scenario_whatever_its_name_adds() -> None:
    names = ["plain", "ws-echo-64", "plain@2000", "plain×4", "plain@0.5×2"]
    assert [ScenarioResult(name).scenario for name in names] == ["plain", "ws-echo-64"] + 3 * ["plain"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1, "scenarios": [{}]}'])
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(results.ResultError, match=r"r\.json"):
        results.load(path)


def test_compare_calls_a_regression_only_with_size_and_certainty() -> None:
    before = report(sure=[10.0, 10.1, 10.2], noisy=[10.0, 14.0, 9.0], small=[10.0, 10.0, 10.0], few=[10.0])
    after = report(sure=[12.0, 12.1, 12.2], noisy=[9.5, 13.0, 15.0], small=[10.5, 10.5, 10.6], few=[20.0])
    verdicts = {change.server: change.verdict for change in compare.changes(before, after)}
    assert verdicts == {"sure": "REGRESSION", "noisy": "same", "small": "dearer", "few": "too few rounds"}
    assert "REGRESSION" in compare.render(list(compare.changes(before, after)))


def test_compare_relative_to_the_baseline_cancels_the_machine() -> None:
    before = report(uvicorn=[20.0, 20.0, 20.0], shardserve=[10.0, 10.0, 10.0])
    after = report(uvicorn=[40.0, 42.0, 44.0], shardserve=[20.0, 21.0, 22.0])
    (change,) = compare.changes(before, after, "uvicorn")
    assert (change.server, change.ratio, change.verdict) == ("shardserve", 1.0, "same")


def test_compare_names_what_differs_between_the_machines() -> None:
    before, after = report(), report()
    after.host["cpu"] = "other"
    assert compare.differences(before, after) == ["host cpu differs: c → other"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_off_a_terminal_has_no_escapes_and_no_steps() -> None:
    stream = io.StringIO()
    progress = Progress(2, stream)
    progress.step("one")
    progress.note("said")
    progress.close()
    assert stream.getvalue() == "said\n"


@pytest.mark.parametrize(("no_colour", "dim"), [("", True), ("1", False)])
def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, no_colour: str, dim: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    stream = Terminal()
    progress = Progress(4, stream)
    progress.step("one")
    progress.step("two")
    assert "[1/4] two · about" in stream.getvalue()
    assert ("\x1b[2m" in stream.getvalue()) is dim


def test_duration() -> None:
    assert (duration(59), duration(75)) == ("59 s", "1 min 15 s")
