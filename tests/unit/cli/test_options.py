"""The generated options and their help."""

from __future__ import annotations

import re

import click
import pytest
from click.shell_completion import ShellComplete

from shardserve.cli import main
from shardserve.cli.run import run
from shardserve.config.model import SETTINGS


@pytest.mark.parametrize(
    "args", [["--help"], ["run", "--help"], ["a:b", "--help"], ["config", "show", "--help"]]
)
def test_help_lists_every_setting_in_80_columns(shardserve, args):
    result = shardserve(*args)
    assert result.exit_code == 0
    words = result.stdout.split()
    sentences = " ".join(words)
    for one in SETTINGS:
        assert one.flag in words
        assert one.negative_flag is None or one.negative_flag in words
        assert one.help in sentences
        assert f"{one.group}:" in words
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_help_says_the_defaults(shardserve):
    sentences = " ".join(shardserve("--help").stdout.split())
    for default in ("127.0.0.1", "8000", "75 s", "one per usable core", "666", "true", "info"):
        assert f"[default: {default}]" in sentences


def test_help_columns_line_up(shardserve):
    lines = shardserve("run", "--help").stdout.splitlines()
    # Flags that fit before the column: "  --port INTEGER                Listen on ..."
    starts = {found.end() for line in lines if (found := re.match(r"  --\S+( [^\s/]\S*)? {2,}", line))}
    assert len(starts) == 1


def test_there_is_one_option_for_each_setting_and_no_other():
    names = [param.name for param in run.params]
    assert names == [one.attribute for one in SETTINGS] + ["config_file", "version"]


def test_choices_are_completed():
    complete = ShellComplete(main, {}, "shardserve", "_SHARDSERVE_COMPLETE")
    found = complete.get_completions(["run", "a:b", "--log-level"], "")
    assert [item.value for item in found] == ["critical", "error", "warning", "info", "debug", "trace"]
    assert [item.value for item in complete.get_completions(["run", "--lifespan"], "o")] == ["on", "off"]


def test_click_reads_no_variables_of_its_own():
    """The loader reads the environment: two readers would disagree on precedence."""
    assert not [param for param in run.params if param.envvar]
    assert click.Context(run).auto_envvar_prefix is None
