"""The command as a process: version, imports, exit codes, no tracebacks."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import shardserve as package
from shardserve import _native
from shardserve.cli.group import COMMANDS

ROOT = Path(__file__).parents[3]


def python(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SHARDSERVE_")}
    env |= {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("args", "code", "stderr"),
    [
        (["--help"], 0, ""),
        (["--version"], 0, ""),
        (["config", "check"], 0, ""),
        ([], 2, "there is no APP to serve"),
        (["a:b", "--nope"], 2, "No such option"),
        (["a:b", "c:d"], 2, "unexpected extra argument"),
        (["a:b", "--port", "x"], 2, 'flag --port: port: "x" is not'),
        (["a:b", "--config", "nothere.toml"], 2, "nothere.toml: there is no such file"),
        (["config", "nope"], 2, "No such command"),
    ],
)
def test_exit_codes_of_the_process(tmp_path, args, code, stderr):
    done = python("-m", "shardserve", *args, cwd=tmp_path)
    assert done.returncode == code
    assert stderr in done.stderr
    assert bool(done.stderr) == bool(code)
    assert "Traceback" not in done.stderr
    assert "__main__" not in done.stderr


@pytest.mark.parametrize("args", [["--version"], ["run", "--version"], ["a:b", "--version"]])
def test_version(shardserve, args):
    result = shardserve(*args)
    assert result.exit_code == 0
    openssl = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    start, end = result.stdout.split(", httptools ")
    assert start == (
        f"shardserve {package.__version__} with CPython {platform.python_version()}, "
        f"uvloop {metadata.version('uvloop')}"
    )
    assert end.startswith(metadata.version("httptools"))
    assert end.endswith(f", {openssl} on Linux\n")
    assert (f", nghttp2 {_native.nghttp2_version}, " in end) == (_native.nghttp2_version is not None)
    assert openssl.startswith(("OpenSSL 3.", "OpenSSL 1.1.1"))


def test_version_without_what_is_not_installed(shardserve, monkeypatch):
    real = metadata.version

    def version(name: str) -> str:
        if name == "aiofastnet":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    assert "aiofastnet" not in shardserve("--version").stdout
    monkeypatch.setattr(metadata, "version", lambda name: "1.2.3")
    assert "aiofastnet 1.2.3, OpenSSL" in shardserve("--version").stdout


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from shardserve.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'asyncio', 'uvloop', 'httptools', 'websockets', 'psutil', 'importlib.metadata'}\n"
        "heavy |= {'ssl', 'dotenv', 'watchfiles'}\n"
        "found = sorted(heavy & set(sys.modules))\n"
        "below = ('shardserve.master', 'shardserve.worker')\n"
        "found += [name for name in sys.modules if name.startswith(below)]\n"
        "sys.exit(', '.join(found) or 0)\n"
    )
    done = python("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_imports_no_command_line(tmp_path):
    """Every worker does it."""
    code = "import sys, shardserve; sys.exit(int('click' in sys.modules or 'dataclasses' in sys.modules))"
    assert python("-c", code, cwd=tmp_path).returncode == 0


def test_help_lists_every_command(shardserve):
    lines = shardserve("--help").stdout.splitlines()
    assert lines[:2] == ["Usage: shardserve [OPTIONS] APP", "       shardserve COMMAND [ARGS]..."]
    for name in COMMANDS:
        assert any(line.startswith(f"  {name} ") for line in lines)


def test_a_command_is_one_line_of_the_table(shardserve, monkeypatch):
    monkeypatch.setitem(COMMANDS, "verify", ".config:check")
    assert "no mistakes" in shardserve("verify").stdout
    assert "  verify" in shardserve("--help").stdout
