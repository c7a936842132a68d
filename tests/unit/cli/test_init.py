"""``shardserve config init``: the command. What is in the file is ``config/test_initial.py``'s."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shardserve.cli import init as command
from shardserve.config.load import Loader
from shardserve.config.model import Config
from shardserve.master import affinity
from shardserve.net.listeners import SOMAXCONN


def read(path: str = "shardserve.toml") -> Config:
    return Loader(environ={}, file=path).load()[0]


def test_it_writes_a_file_without_mistakes(shardserve):
    result = shardserve("config", "init")
    assert result.exit_code == 0, result.output
    assert "wrote shardserve.toml" in result.stdout
    assert result.stderr == ""
    assert shardserve("config", "check").stdout == f"{Path.cwd()}/shardserve.toml: no mistakes\n"
    assert read().workers == affinity.usable().workers
    assert read().backlog == min(2048, int(SOMAXCONN.read_text()))


def test_what_was_said_is_in_the_file(shardserve):
    args = ("--app", "main:app", "--no-behind-proxy", "--ssl-certfile", "c.pem", "--ssl-keyfile", "k.pem")
    assert shardserve("config", "init", "other.toml", *args).exit_code == 0
    config = read("other.toml")
    assert (config.app, config.proxy_headers) == ("main:app", False)
    assert (config.ssl_certfile, config.ssl_keyfile) == ("c.pem", "k.pem")


def test_a_file_that_exists_is_left_alone(shardserve):
    path = Path("shardserve.toml")
    path.write_text("port = 1\n")
    path.chmod(0o640)
    result = shardserve("config", "init")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: shardserve.toml exists; --force writes over it\n"
    assert path.read_text() == "port = 1\n"
    assert shardserve("config", "init", "--force").exit_code == 0
    assert read().port == 8000
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_dangling_link_is_left_alone_too(shardserve):
    os.symlink("elsewhere.toml", "shardserve.toml")
    assert shardserve("config", "init").exit_code == 1
    assert not Path("elsewhere.toml").exists()


def test_standard_output(shardserve):
    result = shardserve("config", "init", "-", "--behind-proxy")
    assert result.exit_code == 0
    Path("piped.toml").write_text(result.stdout)
    assert read("piped.toml").proxy_headers
    assert "workers" in result.stderr
    assert not Path("shardserve.toml").exists()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--app", "main.py"], 'name the module: "main:app"'),
        (["--ssl-keyfile", "k.pem"], "--ssl-keyfile needs --ssl-certfile"),
        (["--ssl-certfile", "a\nb"], "is not a path"),
    ],
)
def test_what_would_be_a_mistake_in_the_file_is_refused(shardserve, args, complaint):
    result = shardserve("config", "init", *args)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not Path("shardserve.toml").exists()


def test_a_folder_that_is_not_there(shardserve):
    result = shardserve("config", "init", "no/where.toml")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: no/where.toml cannot be written: No such file or directory\n",
    )


def test_nothing_is_asked_without_a_terminal(shardserve, monkeypatch):
    monkeypatch.setattr(command.click, "confirm", lambda *_, **__: pytest.fail("asked"))
    assert "not said" in shardserve("config", "init").stdout
    assert read().proxy_headers  # the default, since its line is not in force


def test_a_kernel_limit_is_told(shardserve, monkeypatch, tmp_path):
    limit = tmp_path / "somaxconn"
    limit.write_text("128\n")
    monkeypatch.setattr("shardserve.net.listeners.SOMAXCONN", limit)
    result = shardserve("config", "init")
    assert read().backlog == 128
    assert "128" in result.stdout


def test_a_container_listens_on_every_interface(shardserve):
    assert shardserve("config", "init", env={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).exit_code == 0
    assert read().host == "0.0.0.0"
