"""``shardserve config check`` and ``config show``."""

from __future__ import annotations

from pathlib import Path

from shardserve.config.model import SETTINGS


def rows(output: str) -> dict[str, list[str]]:
    split = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines()]
    return {row[0]: row[1:] for row in split}


def test_show_says_where_each_value_came_from(shardserve):
    Path("shardserve.toml").write_text("\nbacklog = 5\nport = 1\n")
    result = shardserve("config", "show", "a:b", "--port", "9", env={"SHARDSERVE_LOG_LEVEL": "debug"})
    assert result.exit_code == 0, result.output
    table = rows(result.stdout)
    assert set(table) == {"setting"} | {one.key for one in SETTINGS}
    assert table["app"] == ["a:b", "argument APP"]
    assert table["port"] == ["9", "flag --port"]
    assert table["log-level"] == ["debug", "env SHARDSERVE_LOG_LEVEL"]
    assert table["backlog"] == ["5", f"{Path.cwd()}/shardserve.toml:2"]
    assert table["timeout-keep-alive"] == ["75 s", "default"]


def test_show_takes_a_file_and_needs_no_app(shardserve):
    Path("other.toml").write_text("workers = 3")
    result = shardserve("config", "show", "--config", "other.toml")
    assert result.exit_code == 0, result.output
    assert rows(result.stdout)["workers"] == ["3", f"{Path.cwd()}/other.toml:1"]


def test_check_of_a_good_file(shardserve):
    Path("good.toml").write_text("workers = 3")
    result = shardserve("config", "check", "--config", "good.toml")
    assert (result.exit_code, result.stdout) == (0, f"{Path.cwd()}/good.toml: no mistakes\n")


def test_check_without_a_file(shardserve):
    result = shardserve("config", "check")
    assert result.exit_code == 0
    assert result.stdout == "no configuration file; the environment: no mistakes\n"


def test_check_reports_every_mistake(shardserve):
    Path("shardserve.toml").write_text("prot = 1\nworkers = 0")
    result = shardserve("config", "check", env={"SHARDSERVE_PORT": "x"})
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Error: the configuration has 3 mistakes:",
        f"  {Path.cwd()}/shardserve.toml:1: unknown setting prot; did you mean port?",
        f"  {Path.cwd()}/shardserve.toml:2: workers: 0 is not an integer from 1 to 1024",
        '  env SHARDSERVE_PORT: port: "x" is not an integer from 0 to 65535',
    ]


def test_show_refuses_mistakes(shardserve):
    result = shardserve("config", "show", "--port", "x")
    assert result.exit_code == 2
    assert 'flag --port: port: "x" is not an integer' in result.stderr
