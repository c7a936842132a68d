"""The generated options and their help."""

from __future__ import annotations

import re

import click
import pytest
from click.shell_completion import ShellComplete

from shardserve.cli import main
from shardserve.cli.options import switches_without_words
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


def test_files_are_completed_by_the_shell():
    complete = ShellComplete(main, {}, "shardserve", "_SHARDSERVE_COMPLETE")
    for flag in ("--ssl-keyfile", "--env-file", "--uds", "--reload-dir", "--log-config"):
        [item] = complete.get_completions(["a:b", flag], "some/pa")
        assert (item.value, item.type) == ("some/pa", "file")
    assert complete.get_completions(["a:b", "--port"], "") == []


@pytest.mark.parametrize(
    ("args", "rest"),
    [
        (["--reload", "false", "a:b"], ["--no-reload", "a:b"]),
        (["--reload", "TRUE"], ["--reload"]),
        (["--no-reload", "true"], ["--no-reload"]),
        (["--no-reload", "off"], ["--reload"]),
        (["--reload=0", "--factory=yes"], ["--no-reload", "--factory"]),
        (["--reload", "a:b"], ["--reload", "a:b"]),
        (["--reload", "--factory", "false"], ["--reload", "--no-factory"]),
        (["--reload=maybe"], ["--reload=maybe"]),
        (["--reload", "true", "true"], ["--reload", "true"]),
        (["--root-path", "true"], ["--root-path", "true"]),
        (["--reload", "--", "false"], ["--reload", "--", "false"]),
        (["true", "--reload"], ["true", "--reload"]),
        (["false"], ["false"]),
        ([], []),
    ],
)
def test_a_switch_may_be_followed_by_a_word(args, rest):
    assert switches_without_words(args) == rest


def test_uvicorns_form_of_a_switch_reaches_the_config(shardserve, master):
    assert shardserve("a:b", "--ws-per-message-deflate", "false", "--reload", "1").exit_code == 0
    assert (master.config.ws_per_message_deflate, master.config.reload) == (False, True)


def test_click_reads_no_variables_of_its_own():
    """The loader reads the environment: two readers would disagree on precedence."""
    assert not [param for param in run.params if param.envvar]
    assert click.Context(run).auto_envvar_prefix is None
