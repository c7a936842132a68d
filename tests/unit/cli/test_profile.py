"""The command line of ``shardserve profile``: what it takes, and what it refuses before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shardserve.cli import main
from shardserve.cli import profile as command
from shardserve.profiling.session import Options


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options that would be carried out."""
    found: list[Options] = []
    monkeypatch.setattr(command, "report", lambda options: found.append(options) or 0)
    return found


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ["profile", *words])


def test_the_server_s_options_are_passed_on_in_order(seen: list[Options]) -> None:
    done = invoke(
        "--workers", "2", "main:app", "--path", "/a", "--no-access-log", "--header", "A:b", "--path", "/b"
    )
    assert done.exit_code == 0, done.output
    (options,) = seen
    assert options.arguments == ("--workers", "2", "main:app", "--no-access-log", "--header", "A:b")
    assert options.plan is not None
    assert options.plan.paths == ("/a", "/b")


def test_defaults(seen: list[Options]) -> None:
    invoke("main:app")
    assert seen == [Options(arguments=("main:app",))]
    assert seen[0].folded == Path("profile.folded")


def test_a_request_with_a_body_is_a_post(seen: list[Options], tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"\x00\xff")
    invoke("main:app", "--body", f"@{path}", "--request-header", "Content-Type: text/plain")
    plan: Any = seen[0].plan
    assert (plan.method, plan.body, plan.headers) == ("POST", b"\x00\xff", (("Content-Type", "text/plain"),))


def test_a_running_server_and_no_load(seen: list[Options]) -> None:
    invoke("--pid", "12")
    invoke("main:app", "--no-load")
    assert [(one.pid, one.plan) for one in seen] == [(12, None), (None, None)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("main:app", "--pid", "12"), "no APP"),
        (("main:app", "--request-header", "nothing"), "NAME:VALUE"),
        (("main:app", "--path", "/a b"), "encode it"),
        (("main:app", "--method", "GET\r\n"), "encode it"),
        (("main:app", "--body", "@/no/such/file"), "No such file"),
        (("main:app", "--output", "x.folded"), "name it .svg"),
        (("main:app", "--rate", "0"), "--rate"),
    ],
)
def test_what_is_refused(seen: list[Options], words: tuple[str, ...], said: str) -> None:
    done = invoke(*words)
    assert done.exit_code == 2
    assert said in done.output
    assert seen == []


def test_a_folder_that_is_not_there_is_told_before_the_run(tmp_path: Path) -> None:
    done = invoke("main:app", "--output", str(tmp_path / "none" / "x.svg"))
    assert done.exit_code == 1
    assert "there is no folder" in done.output
    assert "looking for" not in done.output
