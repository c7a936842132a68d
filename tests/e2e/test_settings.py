"""Where settings come from: flags over the environment over shardserve.toml over the defaults."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.server import APPS, Ended, Serve, ServerProcess, client_of


def ask(server: ServerProcess) -> httpx.Response:
    """One request on a connection of its own."""
    with client_of(server) as client:
        return client.get("/")


def write(folder: Path, **settings: Any) -> Path:
    """A shardserve.toml. JSON's texts, numbers, lists and booleans are TOML's."""
    folder.mkdir(exist_ok=True)
    path = folder / "shardserve.toml"
    path.write_text(
        "".join(f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in settings.items())
    )
    return path


EVERYTHING: dict[str, Any] = {
    "app": "probe:create",
    "app_dir": str(APPS),
    "factory": True,
    "bind": ["127.0.0.1:0"],
    "workers": 2,
    "root_path": "/file",
    "header": ["X-From: file", "X-More: yes"],
    "access_log": False,
    "server_header": False,
}


def test_a_file_in_the_working_directory_is_enough(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "cwd"
    settings = dict(EVERYTHING)
    settings["headers"] = settings.pop("header")
    write(folder, **settings)
    server = serve(None, app_dir=None, choose_port=False, folder=folder)
    assert len(server.pids()) == 2
    answer = ask(server)
    assert answer.json()["root_path"] == "/file"
    assert (answer.headers["x-from"], answer.headers["x-more"]) == ("file", "yes")
    assert "server" not in answer.headers
    server.stop()
    assert server.access() == ""


def test_the_environment_is_enough(serve: Serve) -> None:
    env = {
        "SHARDSERVE_APP": "probe:app",
        "SHARDSERVE_APP_DIR": str(APPS),
        "SHARDSERVE_PORT": "0",
        "SHARDSERVE_WORKERS": "2",
        "SHARDSERVE_ROOT_PATH": "/env",
        "SHARDSERVE_HEADERS": "X-From: env\nX-More: yes",
        "SHARDSERVE_ACCESS_LOG": "false",
    }
    server = serve(None, app_dir=None, choose_port=False, env=env)
    assert len(server.pids()) == 2
    answer = ask(server)
    assert answer.json()["root_path"] == "/env"
    assert (answer.headers["x-from"], answer.headers["x-more"]) == ("env", "yes")


@pytest.mark.parametrize(
    ("flags", "env", "expected"),
    [
        ((), {}, "/file"),
        ((), {"SHARDSERVE_ROOT_PATH": "/env"}, "/env"),
        (("--root-path", "/flag"), {"SHARDSERVE_ROOT_PATH": "/env"}, "/flag"),
        (("--root-path", ""), {"SHARDSERVE_ROOT_PATH": "/env"}, ""),
        ((), {"SHARDSERVE_ROOT_PATH": ""}, "/file"),
    ],
    ids=["file", "environment", "flag", "empty flag", "empty variable"],
)
def test_the_stronger_source_wins(
    serve: Serve, tmp_path: Path, flags: tuple[str, ...], env: dict[str, str], expected: str
) -> None:
    folder = tmp_path / "cwd"
    write(folder, root_path="/file", workers=1)
    server = serve("probe:app", *flags, env=env, folder=folder)
    assert ask(server).json()["root_path"] == expected


def test_another_file(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path / "cwd", root_path="/not-this-one")
    other = write(tmp_path / "elsewhere", root_path="/other", workers=1)
    server = serve("probe:app", "--config", str(other), folder=tmp_path / "cwd")
    assert ask(server).json()["root_path"] == "/other"


def test_another_file_by_the_environment(serve: Serve, tmp_path: Path) -> None:
    other = write(tmp_path / "elsewhere", root_path="/other", workers=1)
    server = serve("probe:app", env={"SHARDSERVE_CONFIG": str(other)})
    assert ask(server).json()["root_path"] == "/other"


def test_web_concurrency_is_the_number_of_workers(serve: Serve) -> None:
    server = serve("probe:app", env={"WEB_CONCURRENCY": "1"})
    assert len(server.pids()) == 1


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, worker=2, port="many")
    env = {"SHARDSERVE_BACKLOG": "0"}
    ended = Ended(tmp_path, "probe:app", "--log-level", "loud", env=env)
    assert ended.code == 2
    assert f"{path}:1: unknown setting worker; did you mean workers?" in ended.text
    assert f"{path}:2: port: " in ended.text
    assert "env SHARDSERVE_BACKLOG: backlog: " in ended.text
    assert "flag --log-level: log_level: " in ended.text
    assert "4 mistakes" in ended.text
    assert ended.tracebacks == 0


def test_config_show_tells_where_each_setting_is_from(tmp_path: Path) -> None:
    path = write(tmp_path, workers=3)
    env = {"SHARDSERVE_ROOT_PATH": "/env"}
    ended = Ended(tmp_path, "config", "show", app_dir=None, choose_port=False, env=env)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert any("workers" in line and "3" in line and f"{path}:1" in line for line in lines), ended.out
    assert any("/env" in line and "env SHARDSERVE_ROOT_PATH" in line for line in lines), ended.out


def test_hup_reads_the_file_again(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "cwd"
    write(folder, headers=["X-Version: 1"], workers=1, root_path="/one")
    server = serve("probe:app", folder=folder)
    assert ask(server).headers["x-version"] == "1"
    write(folder, headers=["X-Version: 2"], workers=2, root_path="/two")
    server.send(signal.SIGHUP)
    log = server.saw(r"\breloaded$")
    assert "changed, but needs a restart: workers" in log
    answer = ask(server)
    assert answer.headers["x-version"] == "2"
    assert answer.json()["root_path"] == "/two"


def test_hup_with_a_broken_file_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "cwd"
    path = write(folder, headers=["X-Version: 1"], workers=1)
    server = serve("probe:app", folder=folder, quiet=False)
    before = server.pids()
    path.write_text("headers = [")
    server.send(signal.SIGHUP)
    server.saw("the old configuration stays")
    assert ask(server).headers["x-version"] == "1"
    assert server.pids() == before


HANDSHAKE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


def test_websockets_can_be_switched_off(serve: Serve) -> None:
    server = serve("probe:app", "--ws", "none", "--workers", "1")
    with client_of(server) as client:
        answer = client.get("/", headers=HANDSHAKE)
    assert answer.status_code == 200
    assert (answer.json()["method"], answer.json()["scheme"]) == ("GET", "http")
