"""Every flag and variable of the Uvicorn that is installed, read by Uvicorn and by us: the same meaning.

``SAMPLES`` has a value of each; a flag of a newer Uvicorn that is not in it fails here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shardserve.cli import main
from shardserve.config.load import Loader
from shardserve.config.model import BY_NAME, SETTINGS, Config
from tests.helpers.server import Ended, Serve, client_of

uvicorn = pytest.importorskip("uvicorn.main")
PARAMS = {param.name: param for param in uvicorn.main.params}

# As text on a command line. A switch has none; a list is a flag given several times.
SAMPLES: dict[str, Any] = {
    "app": "probe:app",
    "host": "::1",
    "port": "9000",
    "uds": "/run/app.sock",
    "fd": "3",
    "reload": None,
    "reload_dirs": [".", "/tmp"],
    "reload_includes": ["*.html", "*.css"],
    "reload_excludes": ["build", ".git"],
    "reload_delay": "0.5",
    "workers": "3",
    "loop": "asyncio",
    "http": "h11",
    "http2": None,
    "ws": "websockets-sansio",
    "ws_max_size": "1048576",
    "ws_max_queue": "8",
    "ws_ping_interval": "5.5",
    "ws_ping_timeout": "6",
    "ws_per_message_deflate": "false",
    "lifespan": "off",
    "interface": "asgi2",
    "env_file": "app.env",
    "log_config": "logging.ini",
    "log_level": "trace",
    "access_log": None,
    "use_colors": None,
    "proxy_headers": None,
    "server_header": None,
    "date_header": None,
    "forwarded_allow_ips": "10.0.0.0/8, unix",
    "root_path": "/api",
    "limit_concurrency": "100",
    "backlog": "512",
    "limit_max_requests": "1000",
    "limit_max_requests_jitter": "50",
    "timeout_keep_alive": "30",
    "timeout_graceful_shutdown": "20",
    "timeout_worker_healthcheck": "10",
    "ssl_keyfile": "key.pem",
    "ssl_certfile": "cert.pem",
    "ssl_keyfile_password": "geheim",
    "ssl_version": "5",
    "ssl_cert_reqs": "2",
    "ssl_ca_certs": "ca.pem",
    "ssl_ciphers": "ECDHE+AESGCM",
    "headers": ["X-A:1", "X-B:2"],
    "app_dir": "/srv",
    "h11_max_incomplete_event_size": "16384",
    "reset_contextvars": None,
    "factory": None,
}
# What only has a meaning beside something else.
TLS = ["--ssl-certfile", "cert.pem", "--ssl-ca-certs", "ca.pem"]
WITH_TLS = {"ssl_keyfile", "ssl_keyfile_password", "ssl_cert_reqs", "ssl_ca_certs"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the files that Uvicorn insists on; no variable that configures a server."""
    for one in SETTINGS:
        for variable in one.env:
            monkeypatch.delenv(variable, raising=False)
    (tmp_path / "app.env").write_text("A=1\n")
    (tmp_path / "logging.ini").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_our_form(name: str, theirs: Any) -> Any:
    """A parameter of Uvicorn's as our Config has it."""
    if name == "headers":
        return tuple(tuple(one.split(":", 1)) for one in theirs)
    return tuple(theirs) if isinstance(theirs, list | tuple) else theirs


def ours(*args: str) -> Config:
    """What ``shardserve`` makes of a command line."""
    seen: list[Config] = []

    def serve(config: Config, *_: Any, **__: Any) -> int:
        seen.append(config)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shardserve.master.serve.serve", serve)
        done = CliRunner().invoke(main, args, prog_name="shardserve")
    assert done.exit_code == 0, done.output
    return seen[0]


def test_there_is_a_sample_of_every_flag() -> None:
    assert set(SAMPLES) == set(PARAMS) - {"version"}
    assert set(SAMPLES) == {one.name for one in SETTINGS if one.uvicorn}


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "app"])
def test_every_flag_means_the_same(folder: Path, name: str) -> None:
    values = SAMPLES[name] if isinstance(SAMPLES[name], list) else [SAMPLES[name]]
    for flag in PARAMS[name].opts + PARAMS[name].secondary_opts:
        words = [word for value in values for word in (flag, value) if word is not None]
        line = ["probe:app", *words, *(TLS if name in WITH_TLS else [])]
        theirs = uvicorn.main.make_context("uvicorn", list(line)).params[name]
        config = ours(*line)
        assert getattr(config, BY_NAME[name].attribute) == in_our_form(name, theirs), line
        assert config.app == "probe:app"


@pytest.mark.parametrize("name", list(SAMPLES))
def test_every_variable_means_the_same(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SAMPLES[name]
    if isinstance(sample, list):
        sample = (":" if name == "reload_dirs" else " ").join(sample)
    environ = {f"UVICORN_{name.upper()}": "true" if sample is None else sample}
    if name in WITH_TLS:
        environ = {"UVICORN_SSL_CERTFILE": "cert.pem", "UVICORN_SSL_CA_CERTS": "ca.pem"} | environ
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    args = [] if name == "app" else ["probe:app"]
    theirs = uvicorn.main.make_context("uvicorn", args, auto_envvar_prefix="UVICORN").params[name]
    config, sources = Loader(environ=environ, directory=folder).load()
    attribute = BY_NAME[name].attribute
    assert getattr(config, attribute) == in_our_form(name, theirs)
    assert sources[attribute] == f"env UVICORN_{name.upper()}"


def test_a_password_is_shown_nowhere(folder: Path) -> None:
    """By none of the doors that print settings, nor in what is said of a mistake."""
    (folder / "app.toml").write_text('ssl-certfile = "c"\nssl-keyfile-password = "geheim"\nport = "x"\n')
    lines: list[tuple[list[str], dict[str, str]]] = [
        (["config", "show", "--ssl-certfile", "c", "--ssl-keyfile-password", "geheim"], {}),
        (["config", "show", "--ssl-certfile", "c"], {"SHARDSERVE_SSL_KEYFILE_PASSWORD": "geheim"}),
        (["config", "show", "--ssl-keyfile-password", "geheim"], {}),
        (["config", "show", "--port", "x", "--ssl-keyfile-password", "geheim"], {}),
        (["config", "check"], {"UVICORN_SSL_KEYFILE_PASSWORD": "geheim"}),
        (["config", "check", "--config", "app.toml"], {}),
    ]
    for args, env in lines:
        done = CliRunner().invoke(main, args, env=env)
        assert done.exit_code in (0, 2)
        assert done.output
        assert "geheim" not in done.output
    shown = CliRunner().invoke(main, lines[0][0]).output
    assert re.search(
        r"^ssl-keyfile-password +\(given, not shown\) +flag --ssl-keyfile-password$", shown, re.M
    )


# The server itself


def test_flags_that_mean_nothing_here_get_one_warning_each(serve: Serve) -> None:
    flags = (
        "--http", "h11", "--loop", "asyncio", "--http2", "--ws", "wsproto", "--ssl-version", "5",
        "--h11-max-incomplete-event-size", "65536", "--reload-dir", ".", "--workers", "2",
    )  # fmt: skip
    server = serve("probe:app", *flags)
    with client_of(server) as client:
        assert client.get("/").status_code == 200
    warned = re.findall(r"^WARNING: +(?:\[\S+\] )?(.+)$", server.log(), re.M)
    about = ("http h11", "loop asyncio", "http2 ", "ws wsproto", "ssl-version 5", "h11-max", "--reload-dir")
    for start in about:
        assert len([line for line in warned if line.startswith(start)]) == 1, (start, warned)


def test_flags_that_mean_the_same_get_none(serve: Serve) -> None:
    server = serve("probe:app", "--http", "httptools", "--loop", "uvloop", "--ws", "auto", "--workers", "1")
    assert "not for shardserve" not in server.log()


def test_port_of_the_environment(serve: Serve) -> None:
    """PORT=0, since a fixed one may be taken: any port but the default one."""
    server = serve("probe:app", "--workers", "1", choose_port=False, env={"PORT": "0"})
    assert server.port != 8000
    with client_of(server) as client:
        assert client.get("/").json()["server"][1] == server.port


def test_variables_of_uvicorns_are_enough(serve: Serve) -> None:
    env = {"UVICORN_APP": "probe:app", "UVICORN_WORKERS": "2", "UVICORN_ROOT_PATH": "/uvicorn"}
    server = serve(None, env=env)
    assert len(server.pids()) == 2
    with client_of(server) as client:
        assert client.get("/").json()["root_path"] == "/uvicorn"


@pytest.mark.parametrize(("flags", "workers"), [((), 1), (("--workers", "2"), 2)])
def test_reload_has_one_worker_unless_told(serve: Serve, flags: tuple[str, ...], workers: int) -> None:
    assert serve("probe:app", "--reload", *flags).ctl("status")["workers"] == workers


# Variables for the application

TELLS = """
import os

AT_IMPORT = os.environ.get("FROM_FILE", "nothing")

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    names = ("FROM_FILE", "SET", "UVICORN_ROOT_PATH")
    body = " ".join([AT_IMPORT, *(os.environ.get(name, "nothing") for name in names)]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "tells.py").write_text(TELLS)

    def ask(server: Any) -> str:
        with client_of(server) as client:
            return client.get("/").text

    return ask


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["import in the worker", "preload"])
def test_an_env_file_is_there_at_import(
    serve: Serve, tmp_path: Path, told: Callable[..., str], more: tuple[str, ...]
) -> None:
    pytest.importorskip("dotenv")
    path = tmp_path / "app.env"
    path.write_text("FROM_FILE=one\nSET=file\nUVICORN_ROOT_PATH=/file\n")
    flags = ("--env-file", str(path), "--workers", "1", *more)
    server = serve("tells:app", *flags, app_dir=tmp_path, env={"SET": "environment"})
    assert told(server) == "one one environment /file"


def test_a_reload_reads_the_env_file_again(serve: Serve, tmp_path: Path, told: Callable[..., str]) -> None:
    pytest.importorskip("dotenv")
    path = tmp_path / "app.env"
    path.write_text("FROM_FILE=one\n")
    server = serve("tells:app", "--env-file", str(path), "--workers", "1", app_dir=tmp_path)
    assert told(server).split()[0] == "one"
    path.write_text("FROM_FILE=two\n")
    server.ctl("reload")
    assert told(server).split()[0] == "two"


def test_an_env_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    pytest.importorskip("dotenv")
    ended = Ended(tmp_path, "probe:app", "--env-file", "nowhere.env")
    assert ended.code == 2
    assert "flag --env-file: env_file: nowhere.env cannot be read: No such file or directory" in ended.text
    assert ended.tracebacks == 0
