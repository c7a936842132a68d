"""Comparisons: what is a regression, what is shown and judges nothing, and how files are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perf import cli, compare, results
from perf.report_data import CPU, P99, RSS
from perf.results import Report
from perf.stats import bootstrap_pairs, bootstrap_ratio
from tests.helpers.perf_reports import report, sample, scenario

# The machine's mood: it falls on everybody who runs in the same round.
MOODS = [1.0, 1.9, 1.3, 2.4, 1.1, 1.7, 2.1]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["compare", *map(str, arguments)])


def stored(path: Path, **servers: list[float]) -> Path:
    results.save(report(scenario("plain", servers)), path)
    return path


def two_revisions(dearer: float) -> Report:
    """Of a change that makes a request ``dearer`` times as dear, measured on a machine of many moods."""
    return report(
        scenario(
            "plain",
            {
                "shardserve@main": [10.0 * mood for mood in MOODS],
                "shardserve": [10.0 * mood * (dearer + n / 500) for n, mood in enumerate(MOODS)],
                "uvicorn": [40.0 * mood for mood in MOODS],
            },
        )
    )


def test_a_regression_is_exit_code_1(tmp_path: Path) -> None:
    before = stored(tmp_path / "a.json", shardserve=[10.0, 10.1, 10.2])
    after = stored(tmp_path / "b.json", shardserve=[12.0, 12.1, 12.2])
    done = run(before, after)
    assert done.exit_code == 1, done.output
    assert "REGRESSION" in done.stdout
    done = run(after, before)
    assert done.exit_code == 0
    assert "cheaper" in done.stdout


@pytest.mark.parametrize(("limit", "code"), [("5", 1), ("19", 1), ("25", 0)])
def test_the_limit_is_in_percent(tmp_path: Path, limit: str, code: int) -> None:
    before = stored(tmp_path / "a.json", shardserve=[10.0, 10.0, 10.0])
    after = stored(tmp_path / "b.json", shardserve=[12.0, 12.0, 12.0])
    assert run(before, after, "--limit", limit).exit_code == code


def test_paired_rounds_see_what_the_machine_hides(tmp_path: Path) -> None:
    shown = two_revisions(1.2)
    (change,) = compare.pair_changes(shown, "shardserve@main", "shardserve")
    assert change.verdict == "REGRESSION"
    assert change.ratio == pytest.approx(1.206)
    assert 1.19 < change.low <= change.ratio <= change.high < 1.22
    # The same samples without their rounds tell nothing: the moods are wider than the change.
    values = [
        list(shown.scenarios[0].cpu_by_round(name).values()) for name in ("shardserve", "shardserve@main")
    ]
    low, high = bootstrap_ratio(*values)
    assert low < 1 < high
    results.save(shown, tmp_path / "r.json")
    assert run(tmp_path / "r.json", "--pair", "shardserve@main,shardserve").exit_code == 1
    assert run(tmp_path / "r.json", "--pair", "shardserve,shardserve@main").exit_code == 0


def test_a_pair_is_compared_in_the_rounds_that_both_took_part_in() -> None:
    shown = two_revisions(1.0)
    shown.scenarios[0].samples["shardserve"] = [sample(n, 99.0) for n in (90, 91, 92)]
    assert list(compare.pair_changes(shown, "shardserve@main", "shardserve")) == []


def test_several_files_to_a_side(tmp_path: Path) -> None:
    # By itself each file has too few rounds for a verdict.
    olds = [stored(tmp_path / f"old{n}.json", shardserve=[10.0, 10.1]) for n in range(2)]
    news = [stored(tmp_path / f"new{n}.json", shardserve=[12.0, 12.1]) for n in range(2)]
    assert "too few rounds" in run(olds[0], news[0]).stdout
    done = run(
        *(part for path in olds for part in ("--before", path)), *("--after", news[0], "--after", news[1])
    )
    assert done.exit_code == 1, done.output
    row = next(line for line in done.stdout.splitlines() if line.startswith("plain"))
    assert row.split()[-2:] == ["4", "REGRESSION"]


def test_relative_to_a_server_the_machine_cancels_out(tmp_path: Path) -> None:
    before = stored(tmp_path / "a.json", uvicorn=[40.0] * 3, shardserve=[10.0] * 3)
    after = stored(tmp_path / "b.json", uvicorn=[80.0] * 3, shardserve=[20.0] * 3)
    assert run(before, after).exit_code == 1
    done = run(before, after, "--relative-to", "uvicorn")
    assert done.exit_code == 0
    assert "same" in done.stdout


def test_only_the_servers_named_are_judged(tmp_path: Path) -> None:
    before = stored(tmp_path / "a.json", uvicorn=[40.0] * 3, shardserve=[10.0] * 3)
    after = stored(tmp_path / "b.json", uvicorn=[80.0] * 3, shardserve=[10.0] * 3)
    assert run(before, after).exit_code == 1
    done = run(before, after, "--servers", "shardserve")
    assert done.exit_code == 0
    assert "uvicorn" not in done.stdout


def test_latency_and_memory_are_shown_and_judge_nothing(tmp_path: Path) -> None:
    before, after = (report(scenario("plain", {"shardserve": [10.0] * 3})) for _ in range(2))
    worse = [sample(n, 10.0, p99_us=9000.0, rss_kib=80 * 1024, p50_us=520.0) for n in range(3)]
    after.scenarios[0].samples["shardserve"] = worse
    by_metric = {metric: next(compare.changes(before, after, metric=metric)) for metric in (CPU, P99, RSS)}
    assert [by_metric[metric].verdict for metric in (CPU, P99, RSS)] == ["same", "higher", "higher"]
    assert by_metric[RSS].ratio == 4.0
    results.save(before, tmp_path / "a.json")
    results.save(after, tmp_path / "b.json")
    done = run(tmp_path / "a.json", tmp_path / "b.json")
    assert done.exit_code == 0
    assert "Latency and memory, not judged: 2 of 4 changed by more than 10 %." in done.stdout
    assert [line.split()[2] for line in done.stdout.splitlines() if "higher" in line] == ["p99", "rss"]


def test_json_has_every_figure_and_the_verdicts(tmp_path: Path) -> None:
    before = stored(tmp_path / "a.json", shardserve=[10.0, 10.0, 10.0])
    after = stored(tmp_path / "b.json", shardserve=[12.0, 12.0, 12.0])
    done = run(before, after, "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["regressions"] == 1
    assert document["limit_percent"] == 10
    cpu = next(change for change in document["changes"] if change["metric"] == "cpu")
    assert cpu == {
        "scenario": "plain",
        "server": "shardserve",
        "metric": "cpu",
        "before": 10.0,
        "after": 12.0,
        "ratio": 1.2,
        "low": 1.2,
        "high": 1.2,
        "rounds": 3,
        "verdict": "REGRESSION",
    }
    assert {change["metric"] for change in document["changes"]} == {"cpu", "p50", "p99", "p99.9", "rss"}


def test_a_file_of_an_older_schema_is_compared_with_a_new_one(tmp_path: Path) -> None:
    new = stored(tmp_path / "new.json", shardserve=[12.0, 12.0, 12.0])
    fields = json.loads(stored(tmp_path / "old.json", shardserve=[10.0, 10.0, 10.0]).read_text())
    fields["schema"] = 1
    for rows in fields["scenarios"][0]["samples"].values():
        for row in rows:
            for later in ("p90_us", "p999_us", "late_us"):
                del row[later]
    for later in ("reason", "rate_per_s", "workers", "served_by"):
        del fields["scenarios"][0][later]
    (tmp_path / "old.json").write_text(json.dumps(fields))
    done = run(tmp_path / "old.json", new, "--json")
    assert done.exit_code == 1, done.output
    # What the old file does not have is not compared.
    assert "p99.9" not in {change["metric"] for change in json.loads(done.stdout)["changes"]}


def test_what_makes_runs_hard_to_compare_is_said_on_the_side(tmp_path: Path) -> None:
    before, after = (report(scenario("plain", {"shardserve": [10.0] * 3})) for _ in range(2))
    after = replace(after, host=after.host | {"cpu": "Another"})
    results.save(before, tmp_path / "a.json")
    results.save(after, tmp_path / "b.json")
    done = run(tmp_path / "a.json", tmp_path / "b.json")
    assert "host cpu differs: A processor → Another" in done.stderr
    assert "--relative-to" in done.stderr
    assert "Another" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{}"], "two files, or --before and --after"),
        (["--before", "{}"], "two files, or --before and --after"),
        (["{}", "{}", "{}"], "two files, or --before and --after"),
        (["{}", "{}", "--after", "{}"], "either bare or with --before and --after"),
        (["{}", "--pair", "shardserve"], "two different servers"),
        (["{}", "--pair", "shardserve,shardserve"], "two different servers"),
        (["{}", "--pair", "nonesuch,shardserve"], "nonesuch was not measured; there are: shardserve"),
        (["{}", "--pair", "a,b", "--relative-to", "c"], "--pair takes files alone"),
        (["{}", "{}", "--servers", "nonesuch"], "no server and scenario in common"),
        (["{}", "{}", "--limit", "-1"], "--limit"),
    ],
)
def test_wrong_flags_are_told_in_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    path = stored(tmp_path / "r.json", shardserve=[10.0, 10.0, 10.0])
    done = run(*(argument.format(path) for argument in arguments))
    assert done.exit_code == 2
    # click folds long messages; compare without the folding.
    assert complaint in " ".join(done.stderr.replace("│", "").split())


def test_the_paired_interval_is_that_of_the_median_of_the_ratios() -> None:
    assert bootstrap_pairs([2.0, 2.0, 2.0]) == (2.0, 2.0)
    low, high = bootstrap_pairs([1.0, 1.1, 1.2, 1.3, 5.0])
    assert 1.0 <= low < 1.2 < high <= 5.0
    assert bootstrap_pairs([1.0, 1.1, 1.2, 1.3, 5.0]) == (low, high)
