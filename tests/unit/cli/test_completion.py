"""``shardserve completion``, and what a shell is answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from shardserve.cli import main
from shardserve.cli.completion import VARIABLE
from shardserve.cli.group import COMMANDS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_the_program(shardserve, shell):
    result = shardserve("completion", shell)
    assert result.exit_code == 0, result.output
    assert f"{VARIABLE}={shell}_complete" in result.stdout
    assert result.stderr == ""


def test_another_shell_is_refused(shardserve):
    result = shardserve("completion", "tcsh")
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr


def test_the_first_word_is_a_command_or_an_option():
    complete = ShellComplete(main, {}, "shardserve", VARIABLE)
    assert [item.value for item in complete.get_completions([], "")] == list(COMMANDS)
    assert [item.value for item in complete.get_completions([], "co")] == ["config", "completion"]
    assert [item.value for item in complete.get_completions([], "--workers")] == ["--workers"]
    assert [item.value for item in complete.get_completions([], "--vers")] == ["--version"]
    assert [item.value for item in complete.get_completions(["config"], "")] == ["check", "init", "show"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_script(tmp_path):
    """As at a TAB: the script's function is called with the words of the line, and leaves its answer."""
    program = tmp_path / "shardserve"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m shardserve "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(shardserve completion bash)"\n'
        "complete -p shardserve\n"
        'COMP_WORDS=(shardserve a:b --log-level "")\n'
        "COMP_CWORD=3\n"
        "_shardserve_completion shardserve\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    registered, words = done.stdout.splitlines()
    assert "-F _shardserve_completion shardserve" in registered
    assert words.split() == ["critical", "error", "warning", "info", "debug", "trace"]
