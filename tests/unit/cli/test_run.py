"""``shardserve [run] APP``: what reaches the master, and how it ends when nothing may."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardserve.config.model import Config
from shardserve.errors import AppImportError, ConfigError, ListenError, StartupError


@pytest.mark.parametrize(
    "args",
    [
        ["main:app", "--port", "9000"],
        ["--port", "9000", "main:app"],
        ["run", "main:app", "--port=9000"],
        ["run", "--port", "9000", "--", "main:app"],
    ],
)
def test_run_is_the_default_command(shardserve, master, args):
    result = shardserve(*args)
    assert result.exit_code == 0, result.output
    assert master.config == Config("main:app", port=9000)


def test_every_flag_reaches_the_master(shardserve, master):
    result = shardserve(
        "a:b", "--app-dir", "/srv", "--factory", "--lifespan", "off", "--root-path", "/x",
        "--reset-contextvars", "--bind", ":80", "--bind", "unix:/u", "--uds-permissions", "600",
        "--backlog", "7", "--workers", "4", "--no-affinity", "--timeout-keep-alive", "1.5",
        "--timeout-graceful-shutdown", "2", "--timeout-drain-idle", "0", "--log-level", "trace",
        "--no-access-log", "--no-use-colors", "--no-server-header", "--no-date-header",
        "--header", "A: 1", "--header", "B:2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert master.config == Config(
        "a:b", app_dir="/srv", factory=True, lifespan="off", root_path="/x", reset_contextvars=True,
        bind=(":80", "unix:/u"), uds_permissions=0o600, backlog=7, workers=4, affinity=False,
        timeout_keep_alive_s=1.5, timeout_graceful_shutdown_s=2, timeout_drain_idle_s=0, log_level="trace",
        access_log=False, use_colors=False, server_header=False, date_header=False,
        headers=(("A", "1"), ("B", "2")),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "config"),
    [
        (["--host", "::"], Config("a:b", host="::")),
        (["--uds", "/u"], Config("a:b", uds="/u")),
        (["--fd", "3"], Config("a:b", fd=3)),
        (["--use-colors"], Config("a:b", use_colors=True)),
    ],
)
def test_single_addresses(shardserve, master, flag, config):
    assert shardserve("a:b", *flag).exit_code == 0
    assert master.config == config


def test_every_switch_can_be_switched_back(shardserve, master):
    Path("shardserve.toml").write_text("factory = true\naffinity = false\nreset-contextvars = true")
    assert shardserve("a:b", "--no-factory", "--affinity", "--no-reset-contextvars").exit_code == 0
    assert master.config == Config("a:b")


def test_the_app_may_come_from_file_or_environment(shardserve, master):
    Path("shardserve.toml").write_text("app = 'file:app'")
    assert shardserve().exit_code == 0
    assert shardserve("--port", "1", env={"SHARDSERVE_APP": "env:app"}).exit_code == 0
    assert [config.app for config, _ in master.calls] == ["file:app", "env:app"]


def test_an_app_called_like_a_command_is_reached_by_run(shardserve, master):
    result = shardserve("run", "config")
    assert result.exit_code == 2
    assert 'argument APP: app: "config" names no attribute; for example "config:app"' in result.stderr
    assert shardserve("config:app").exit_code == 0
    assert master.config.app == "config:app"


def test_the_master_can_read_the_settings_again(shardserve, master):
    Path("shardserve.toml").write_text("log-level = 'debug'")
    assert shardserve("a:b", "--port", "9").exit_code == 0
    [(_, reload_config)] = master.calls
    Path("shardserve.toml").write_text("log-level = 'error'\nport = 1")
    assert reload_config() == Config("a:b", port=9, log_level="error")


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_masters_exit_code_is_the_commands(shardserve, master, code):
    master.exit_code = code
    assert shardserve("a:b").exit_code == code


@pytest.mark.parametrize("kind", [StartupError, ListenError, ConfigError, AppImportError])
def test_a_startup_error_is_its_text_and_its_exit_code(shardserve, master, kind):
    master.error = kind("the reason,\nin two lines")
    result = shardserve("a:b")
    assert result.exit_code == kind.exit_code
    assert result.stderr == "Error: the reason,\nin two lines\n"
    assert result.stdout == ""


def test_without_an_app_there_is_an_example(shardserve, master):
    for args in ([], ["run"], ["--port", "80"]):
        result = shardserve(*args)
        assert result.exit_code == 2
        assert "Usage: shardserve run [OPTIONS] [APP]" in result.stderr
        assert "  shardserve main:app\n" in result.stderr
    assert master.calls == []


def test_an_unknown_flag_is_a_usage_error_with_the_nearest_ones(shardserve, master):
    result = shardserve("a:b", "--workres", "2")
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert "--workers" in result.stderr


def test_bad_flags_are_one_usage_error_together_with_the_file(shardserve, master):
    Path("shardserve.toml").write_text("wokers = 3")
    result = shardserve("a:b", "--port", "http", "--lifespan", "maybe", env={"SHARDSERVE_FD": "x"})
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    lines = result.stderr.splitlines()
    assert "Error: the configuration has 4 mistakes:" in lines
    assert f"  {Path.cwd()}/shardserve.toml:1: unknown setting wokers; did you mean workers?" in lines
    assert '  env SHARDSERVE_FD: fd: "x" is not an integer, at least 0' in lines
    assert '  flag --port: port: "http" is not an integer from 0 to 65535' in lines
    assert '  flag --lifespan: lifespan: "maybe" is not one of auto, on, off' in lines
    assert master.calls == []


def test_a_bad_file_alone_is_no_usage_error(shardserve, master):
    Path("bad.toml").write_text("port = 'x'")
    result = shardserve("a:b", "--config", "bad.toml")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Error: the configuration has 1 mistake:",
        f'  {Path.cwd()}/bad.toml:1: port: "x" is not an integer from 0 to 65535',
    ]


def test_bind_beside_port_names_both(shardserve, master):
    Path("shardserve.toml").write_text("bind = [':80']")
    result = shardserve("a:b", "--port", "81")
    assert result.exit_code == 2
    assert "flag --port: port cannot be given together with bind (" in result.stderr
    assert "shardserve.toml:1); add it to bind" in result.stderr
