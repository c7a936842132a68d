"""The micro benchmarks do what they say, pyperf can run them, and its absence is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from perf import cli, micro
from perf.peer_env import ROOT
from perf.profile import NAMES, plan_of, server_arguments
from perf.scenarios import BY_NAME


@pytest.mark.parametrize("leaf", micro.LEAVES, ids=lambda leaf: leaf.name)
def test_each_is_answered_rightly_and_takes_time(leaf: micro.Leaf) -> None:
    assert micro.seconds_for(20, leaf) > 0


def test_a_wrong_answer_is_not_timed() -> None:
    with pytest.raises(micro.WrongAnswerError, match=r"plain: answered b'HTTP/1\.1 200 OK"):
        micro.seconds_for(1, replace(micro.BY_NAME["plain"], ends=b"Goodbye"))


def test_pyperf_keeps_the_values(tmp_path: Path) -> None:
    """One process, and as few values as pyperf allows."""
    path = tmp_path / "micro.json"
    argv = [
        sys.executable,
        "-m",
        "perf.micro",
        "--leaves",
        "plain,ws-echo-64",
        "--inherit-environ",
        "PYTHONPATH",
    ]
    argv += ["--processes", "1", "--values", "1", "--warmups", "0", "--loops", "64", "--output", str(path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())["benchmarks"]
    assert [one["metadata"]["name"] for one in found] == ["plain", "ws-echo-64"]
    assert found[0]["metadata"]["what"] == micro.BY_NAME["plain"].what
    assert all(run["values"][0] > 0 for one in found for run in one["runs"])


def test_a_missing_pyperf_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "find_spec", lambda name: None)
    done = CliRunner().invoke(cli.main, ["micro", "plain"])
    assert done.exit_code == 1
    assert done.output == f"Error: {micro.MISSING}\n"


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.main, ["micro", "plain", "plane"])
    assert done.exit_code == 2
    assert "unknown: plane; known: plain, browser" in done.output
    there = tmp_path / "there.json"
    there.touch()
    assert "exists" in CliRunner().invoke(cli.main, ["micro", "--json", str(there)]).output


def test_a_scenario_as_a_profile() -> None:
    from contextlib import ExitStack

    row = BY_NAME["post-1k"]
    plan = plan_of(row, 8)
    assert (plan.method, plan.paths, plan.body, plan.connections) == ("POST", (row.path,), row.body, 8)
    with ExitStack() as stack:
        assert server_arguments(row, stack, access_log=False)[0] == row.app
    assert "ws-echo-64" not in NAMES, "no HTTP load can make it"
    assert CliRunner().invoke(cli.main, ["profile", "--scenario", "ws-echo-64"]).exit_code == 2
