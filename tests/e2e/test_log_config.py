"""Whoever has set up the logs of Uvicorn has set up ours: config files, and what apps do to its loggers.

Rules of this file: Uvicorn itself is the oracle. The same app, config and requests, then the same lines, but
for ports, times and who speaks.
"""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import APPS, Serve, clean_environment, client_of

SNIPPETS = [
    "nothing", "disabled", "level", "no-handlers", "no-handlers-set", "filter-args", "filter-message",
    "filter-handler", "add-handler", "set-formatter", "intercept", "through-root", "server-too",
    "dict-config", "parent-only", "disable-all",
]  # fmt: skip
PATHS = ["/", "/healthz", "/items/1?x=%20", "/error"]

has_uvicorn = pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed"
)


def comparable(text: str) -> list[str]:
    """The lines that both servers have to write alike."""
    text = re.sub(r"127\.0\.0\.1:\d+", "CLIENT", text)
    text = re.sub(r"\[worker \d+, pid \d+\] ", "", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d{3})?", "TIME", text)
    return sorted(line for line in text.splitlines() if "HTTP/1.1" in line or "said by the app" in line)


def ask(port: int, paths: Sequence[str] = PATHS) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as client:
        for path in paths:
            client.get(path)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def uvicorn(folder: Path, app: str, *flags: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """A real Uvicorn in ``folder``, whose streams go to files there; its port."""
    folder.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--app-dir", str(APPS), *flags]
    environment = clean_environment(**(env or {}))
    with (folder / "stdout.log").open("wb") as out, (folder / "stderr.log").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=folder)
    try:
        until(lambda: accepts(port), "uvicorn")
        yield port
        process.terminate()
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def uvicorns_lines(tmp_path: Path, *flags: str, env: dict[str, str] | None = None) -> dict[str, list[str]]:
    """The comparable lines of each file that it wrote."""
    folder = tmp_path / "uvicorn"
    with uvicorn(folder, "relogged:app", *flags, env=env) as port:
        ask(port)
    return lines_in(folder)


def our_lines(tmp_path: Path, serve: Serve, *flags: str, env: dict[str, str]) -> dict[str, list[str]]:
    folder = tmp_path / "ours"
    server = serve("relogged:app", "--workers", "1", *flags, folder=folder, env=env, quiet=False, wait=False)
    found: list[int] = []

    def listening() -> bool:
        sockets = [one for worker in server.workers() for one in worker.net_connections(kind="tcp")]
        found[:] = [one.laddr.port for one in sockets if one.status == "LISTEN"]
        return bool(found)

    until(listening, "a listening worker")
    ask(found[0])
    server.stop()
    return lines_in(folder)


def lines_in(folder: Path) -> dict[str, list[str]]:
    return {
        path.name: comparable(path.read_text()) for path in sorted(folder.iterdir()) if path.suffix == ".log"
    }


# Without a log config: what an app does to Uvicorn's loggers


@has_uvicorn
@pytest.mark.parametrize("when", ["import", "startup"])
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_for_uvicorn_has_its_effect(tmp_path: Path, serve: Serve, snippet: str, when: str) -> None:
    env = {"SNIPPET": snippet, "WHEN": when}
    expected = uvicorns_lines(tmp_path, env=env)
    if snippet == "disable-all":  # the worker's own lines are silent, the master is another process
        assert expected["stdout.log"] == []
    assert our_lines(tmp_path, serve, env=env) == expected


@has_uvicorn
@pytest.mark.parametrize("flags", [["--no-access-log"], ["--log-level", "warning"], ["--use-colors"]])
@pytest.mark.parametrize("snippet", ["nothing", "add-handler", "through-root"])
def test_with_flags_too(tmp_path: Path, serve: Serve, snippet: str, flags: list[str]) -> None:
    env = {"SNIPPET": snippet, "WHEN": "startup"}
    expected = uvicorns_lines(tmp_path, *flags, env=env)
    assert our_lines(tmp_path, serve, *flags, env=env) == expected


def test_the_access_log_is_not_written_by_logging_unless_it_is_touched(serve: Serve) -> None:
    """An app that only writes to these loggers does not make the access log slow."""
    server = serve("relogged:app", "--workers", "1", env={"SNIPPET": "nothing", "WHEN": "import"})
    server.saw(r"^INFO:     \[worker 0, pid \d+\] said by the app$")
    ask(server.port, ["/"])
    assert server.saw_access("GET / ")


# Log configs

UVICORNS_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": True,
    "filters": {"no_health": {"()": "log_filters.NoHealth"}},
    "formatters": {
        "default": {"()": "uvicorn.logging.DefaultFormatter", "fmt": "%(levelprefix)s %(name)s %(message)s"},
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": '%(asctime)s %(levelprefix)s %(name)s %(client_addr)s "%(request_line)s" %(status_code)s',
            "datefmt": "%Y-%m-%d %H:%M:%S",
        },
        "plain": {"class": "uvicorn.logging.ColourizedFormatter", "format": "%(levelprefix)s|%(message)s"},
    },
    "handlers": {
        "error": {"class": "logging.FileHandler", "formatter": "default", "filename": "error.log"},
        "access": {
            "class": "logging.FileHandler",
            "formatter": "access",
            "filename": "access.log",
            "filters": ["no_health"],
        },
        "plain": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"},
    },
    "loggers": {
        "uvicorn": {"handlers": ["error"], "level": "INFO", "propagate": False},
        "uvicorn.access": {"handlers": ["access", "plain"], "level": "INFO", "propagate": False},
    },
}
INI = """\
[loggers]
keys=root, uvicorn, access

[handlers]
keys=error, access

[formatters]
keys=default, access

[logger_root]
level=WARNING
handlers=

[logger_uvicorn]
level=INFO
handlers=error
propagate=0
qualname=uvicorn.error

[logger_access]
level=INFO
handlers=access
propagate=0
qualname=uvicorn.access

[handler_error]
class=FileHandler
formatter=default
args=('error.log',)

[handler_access]
class=FileHandler
formatter=access
args=('access.log', 'a')

[formatter_default]
format=%(levelprefix)s %(name)s %(message)s
class=uvicorn.logging.DefaultFormatter

[formatter_access]
format=%(levelprefix)s %(client_addr)s "%(request_line)s" %(status_code)s
class=uvicorn.logging.AccessFormatter
"""
FILTERS = """\
import logging


class NoHealth(logging.Filter):
    def filter(self, record):
        client, method, path, http_version, status = record.args
        assert record.name == "uvicorn.access" and isinstance(status, int)
        return path != "/healthz"
"""


@pytest.fixture
def filters(tmp_path: Path) -> str:
    """A folder for PYTHONPATH with the filter class."""
    folder = tmp_path / "filters"
    folder.mkdir()
    (folder / "log_filters.py").write_text(FILTERS)
    return str(folder)


def as_json(folder: Path) -> Path:
    path = folder / "log.json"
    path.write_text(json.dumps(UVICORNS_CONFIG))
    return path


def as_yaml(folder: Path) -> Path:
    yaml = pytest.importorskip("yaml")
    path = folder / "log.yml"
    path.write_text(yaml.safe_dump(UVICORNS_CONFIG))
    return path


def as_ini(folder: Path) -> Path:
    path = folder / "log.ini"
    path.write_text(INI)
    return path


@has_uvicorn
@pytest.mark.parametrize("flags", [[], ["--no-access-log"], ["--log-level", "warning"], ["--use-colors"]])
@pytest.mark.parametrize("write", [as_json, as_yaml, as_ini])
def test_a_log_config_for_uvicorn_works_unchanged(
    tmp_path: Path, serve: Serve, filters: str, write: Callable[[Path], Path], flags: list[str]
) -> None:
    env = {"SNIPPET": "nothing", "WHEN": "startup", "PYTHONPATH": filters}
    flags = ["--log-config", str(write(tmp_path)), *flags]
    expected = uvicorns_lines(tmp_path, *flags, env=env)
    assert expected["error.log"] or "warning" in flags
    ours = our_lines(tmp_path, serve, *flags, env=env)
    assert ours == expected


@has_uvicorn
def test_levels_of_a_config_stay_where_no_flag_says_otherwise(tmp_path: Path, serve: Serve) -> None:
    config = json.loads(json.dumps(UVICORNS_CONFIG).replace("log_filters.NoHealth", "logging.Filter"))
    config["loggers"]["uvicorn.access"]["level"] = "WARNING"
    path = tmp_path / "log.json"
    path.write_text(json.dumps(config))
    env = {"SNIPPET": "nothing", "WHEN": "startup"}
    expected = uvicorns_lines(tmp_path, "--log-config", str(path), env=env)
    assert expected["access.log"] == expected["stdout.log"] == []
    assert our_lines(tmp_path, serve, "--log-config", str(path), env=env) == expected


def test_uvicorn_need_not_be_installed(tmp_path: Path, serve: Serve, filters: str) -> None:
    """Nor is it imported where it is: a package of that name that cannot be, stands in its way."""
    package = Path(filters) / "uvicorn"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('nobody may import this')")
    env = {"SNIPPET": "nothing", "WHEN": "import", "PYTHONPATH": filters}
    lines = our_lines(tmp_path, serve, "--log-config", str(as_json(tmp_path)), env=env)
    assert [line for line in lines["access.log"] if '"GET / HTTP/1.1" 200 OK' in line]
    assert lines["error.log"] == ["INFO:     uvicorn.error said by the app"]


def test_our_own_names_are_found_under_themselves(tmp_path: Path, serve: Serve) -> None:
    config = {
        "version": 1,
        "formatters": {"json": {"()": "shardserve.logging.JsonFormatter"}},
        "handlers": {"file": {"class": "logging.FileHandler", "formatter": "json", "filename": "all.log"}},
        "loggers": {"shardserve": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    path = tmp_path / "log.json"
    path.write_text(json.dumps(config))
    folder = tmp_path / "ours"
    server = serve("hello:app", "--workers", "1", "--log-config", str(path), folder=folder, wait=False)
    log = folder / "all.log"
    until(lambda: log.exists() and "ready: 1 worker" in log.read_text(), "the master in its log file")
    found = re.search(r"shardserve \S+ on http://127\.0\.0\.1:(\d+)", log.read_text())
    assert found
    ask(int(found[1]), ["/", "/error"])
    server.stop()
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {one["logger"] for one in records} == {
        "shardserve.access", "shardserve.error", "shardserve.master", "shardserve.worker",
    }  # fmt: skip
    [error] = [one for one in records if one["logger"] == "shardserve.error"]
    assert error["exception"].endswith("LookupError: the app's own error")
    statuses = [one["status"] for one in records if one["type"] == "access"]
    assert statuses == [200, 500]
    assert server.log() == server.access().replace("the app shuts down\n", "") == ""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("log.json", "{", "is not JSON"),
        ("log.json", "[]", "is not a mapping"),
        ("log.json", '{"version": 2}', "Unsupported version: 2"),
        (
            "log.json",
            '{"version": 1, "handlers": {"x": {"class": "nowhere.Handler"}}}',
            "Unable to configure handler 'x': Cannot resolve 'nowhere.Handler': No module named 'nowhere'",
        ),
        ("log.yaml", "a: [", "is not YAML"),
        ("log.ini", "nothing\n", "is not an ini file"),
        ("log.toml", "a = 1\n", "is not an ini file"),
        ("log.ini", "[a]\nb = 1\n", "has no section [loggers]"),
        (None, "", "No such file or directory"),
    ],
)
def test_a_wrong_log_config_ends_with_2_and_says_what_is_wrong(
    tmp_path: Path, name: str | None, text: str, said: str
) -> None:
    path = tmp_path / (name or "missing.json")
    if name:
        path.write_text(text)
    if path.suffix == ".yaml":
        pytest.importorskip("yaml")
    command = [sys.executable, "-m", "shardserve", "hello:app", "--port", "0", "--app-dir", str(APPS)]
    done = subprocess.run(
        [*command, "--log-config", str(path)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_environment_variable_of_uvicorns_is_read(tmp_path: Path, serve: Serve) -> None:
    config = {
        "version": 1,
        "handlers": {"file": {"class": "logging.FileHandler", "filename": "root.log"}},
        "root": {"handlers": ["file"], "level": "INFO"},
    }
    path = tmp_path / "log.json"
    path.write_text(json.dumps(config))
    folder = tmp_path / "ours"
    serve("hello:app", "--workers", "1", folder=folder, env={"UVICORN_LOG_CONFIG": str(path)}, wait=False)
    log = folder / "root.log"
    until(lambda: log.exists() and "ready: 1 worker" in log.read_text(), "the master in its log file")


def test_preload_keeps_what_the_app_did(serve: Serve) -> None:
    """Its import ran in the template; the workers say who they are all the same."""
    env = {"SNIPPET": "filter-args", "WHEN": "import"}
    server = serve("relogged:app", "--workers", "2", "--preload", env=env)
    with client_of(server) as client:
        for path in ("/healthz", "/", "/healthz", "/"):
            client.get(path)
    for worker in server.workers():
        assert str(worker.pid).isdigit()
    server.stop()
    lines = [line for line in server.access().splitlines() if "HTTP/1.1" in line]
    assert len(lines) == 2
    assert all('"GET / HTTP/1.1" 200 OK' in line for line in lines)
    slots = set(re.findall(r"\[worker (\d), pid \d+\] Application startup complete", server.log()))
    assert slots == {"0", "1"}


def test_a_reload_adopts_the_file_and_a_broken_one_changes_nothing(tmp_path: Path, serve: Serve) -> None:
    path = tmp_path / "log.json"

    def write(name: str) -> None:
        handlers = {"file": {"class": "logging.FileHandler", "filename": name}}
        path.write_text(
            json.dumps({"version": 1, "handlers": handlers, "root": {"handlers": ["file"], "level": "INFO"}})
        )

    write("before.log")
    folder = tmp_path / "ours"
    before, after = folder / "before.log", folder / "after.log"
    server = serve("hello:app", "--workers", "1", "--log-config", str(path), folder=folder, wait=False)
    until(lambda: before.exists() and "ready: 1 worker" in before.read_text(), "the start in the first file")
    found = re.search(r"shardserve \S+ on http://127\.0\.0\.1:(\d+)", before.read_text())
    assert found
    path.write_text("{")
    server.send(signal.SIGHUP)
    until(lambda: "is not JSON" in before.read_text(), "the reason why there is no reload")
    ask(int(found[1]), ["/still-here"])
    until(lambda: "GET /still-here" in before.read_text(), "an access line in the first file")
    write("after.log")
    server.send(signal.SIGHUP)
    # Until then the old worker may accept, and its line is in the first file.
    until(lambda: after.exists() and "reloaded" in after.read_text(), "the end of the reload")
    assert "Application startup complete" in after.read_text()
    ask(int(found[1]), ["/new"])
    until(lambda: "GET /new" in after.read_text(), "an access line in the second file")
    server.stop()
    assert "stopped" in after.read_text()  # the master has taken it over too
