"""What the server logs, and where: compared with Uvicorn's own lines where it promises to be the same."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import APPS, Serve, ServerProcess, clean_environment, client_of

ESCAPE = "\x1b["

# Request lines and how the log shows them. A test compares the second column with a real Uvicorn.
LINES = [
    ("GET / HTTP/1.1", '"GET / HTTP/1.1" 200 OK'),
    ("GET /?x=1&y=%C3%A9 HTTP/1.1", '"GET /?x=1&y=%C3%A9 HTTP/1.1" 200 OK'),
    ("GET /a%20b/%C3%A9 HTTP/1.1", '"GET /a%20b/%C3%A9 HTTP/1.1" 200 OK'),
    ("POST / HTTP/1.1", '"POST / HTTP/1.1" 200 OK'),
    ("HEAD / HTTP/1.1", '"HEAD / HTTP/1.1" 200 OK'),
    ("GET / HTTP/1.0", '"GET / HTTP/1.0" 200 OK'),
    ("GET /status?404 HTTP/1.1", '"GET /status?404 HTTP/1.1" 404 Not Found'),
    ("GET /status?503 HTTP/1.1", '"GET /status?503 HTTP/1.1" 503 Service Unavailable'),
    ("GET /status?299 HTTP/1.1", '"GET /status?299 HTTP/1.1" 299 '),
    ("GET /nowhere HTTP/1.1", '"GET /nowhere HTTP/1.1" 500 Internal Server Error'),
]


def ask_raw(port: int, line: str) -> int:
    """Send this request line, read the whole answer; the client's port."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        own_port: int = client.getsockname()[1]
        client.sendall(f"{line}\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
        while client.recv(65536):
            pass
    return own_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("logs")
    with ServerProcess(folder, "probe:app", "--workers", "2", quiet=False) as server:
        yield server


@pytest.mark.parametrize(("line", "shown"), LINES, ids=[line for line, _ in LINES])
def test_an_access_log_line(server: ServerProcess, line: str, shown: str) -> None:
    port = ask_raw(server.port, line)
    [found] = server.saw_access(rf"127\.0\.0\.1:{port} ")
    assert found == f"INFO:     127.0.0.1:{port} - {shown}"


@contextmanager
def uvicorn(log: Path) -> Iterator[int]:
    """A real Uvicorn with the same app; its port. stdout, the access log, goes to ``log``."""
    command = [sys.executable, "-m", "uvicorn", "probe:app", "--port", "0", "--app-dir", str(APPS)]
    errors = log.with_suffix(".err")
    with log.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=clean_environment(), cwd=log.parent)
    try:
        found = until(lambda: re.search(r"running on http://127.0.0.1:(\d+)", errors.read_text()), "uvicorn")
        yield int(found[1])
        process.terminate()
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed")
def test_uvicorn_writes_the_same_access_lines(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with uvicorn(log) as port:
        ports = [ask_raw(port, line) for line, _ in LINES]
    expected = [
        f"INFO:     127.0.0.1:{port} - {shown}" for port, (_, shown) in zip(ports, LINES, strict=True)
    ]
    assert log.read_text().splitlines() == expected


def test_the_log_is_on_stderr_and_says_who_speaks(server: ServerProcess) -> None:
    log = server.log()
    first = log.splitlines()[0]
    assert re.fullmatch(
        r"INFO:     shardserve \S+ on http://127\.0\.0\.1:\d+ \(press Ctrl-C to stop\)", first
    )
    for slot, worker in enumerate(sorted(server.workers(), key=lambda one: one.cpu_affinity())):
        assert re.search(rf"^INFO:     \[worker {slot}, pid {worker.pid}\] Application startup", log, re.M)
    assert "HTTP/1." not in log.partition("Exception")[0]
    assert ESCAPE not in log + server.access()


def test_a_path_cannot_forge_a_line(server: ServerProcess) -> None:
    port = ask_raw(server.port, 'GET /status?200"\\%0d%0aINFO: HTTP/1.1')
    [found] = server.saw_access(rf"127\.0\.0\.1:{port} ")
    shown = '"GET /status?200\\x22\\x5c%0d%0aINFO: HTTP/1.1" 500 Internal Server Error'
    assert found == f"INFO:     127.0.0.1:{port} - {shown}"


def test_no_access_log(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--no-access-log")
    with client_of(server) as client:
        assert client.get("/").status_code == 200
    server.stop()
    assert server.access() == ""
    assert "Application startup complete" in server.log()


def test_log_level_debug(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--log-level", "debug")
    with client_of(server) as client:
        client.get("/")
    server.stop()
    assert re.search(r"^DEBUG:    slot 0: EMPTY on START: STARTING$", server.log(), re.MULTILINE)
    assert re.search(r"^DEBUG:    \[worker 0, pid \d+\] Draining \d connections", server.log(), re.MULTILINE)
    assert server.access().count("\n") == 1


def test_log_level_warning_says_nothing(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = serve("probe:app", "--workers", "1", "--log-level", "warning", "--uds", str(path), wait=False)
    until(path.exists, "the socket")
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", timeout=20
    ) as client:
        assert client.get("/").status_code == 200
    server.stop()
    assert server.log() + server.access() == ""


def on_terminal(serve: Serve, *flags: str, **env: str) -> ServerProcess:
    server = serve("probe:app", "--workers", "1", *flags, env=env, terminal=True, wait=False)
    server.saw("ready: 1 worker")
    server.stop()
    return server


def test_a_terminal_gets_colours(serve: Serve) -> None:
    assert f"{ESCAPE}32mINFO{ESCAPE}0m:     shardserve" in on_terminal(serve).log()


@pytest.mark.parametrize(
    ("flags", "env"),
    [((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"}), (("--no-use-colors",), {})],
    ids=["NO_COLOR", "dumb", "flag"],
)
def test_a_terminal_without_colours(serve: Serve, flags: tuple[str, ...], env: dict[str, str]) -> None:
    assert ESCAPE not in on_terminal(serve, *flags, **env).log()


def test_colours_can_be_insisted_on(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--use-colors", env={"NO_COLOR": "1"}, wait=False)
    server.saw("ready: 1 worker")
    with client_of(server) as client:
        client.get("/")
    [line] = server.saw_access("GET /")
    assert line.startswith(f"{ESCAPE}32mINFO{ESCAPE}0m:     127.0.0.1:")
    assert line.endswith(f'- "{ESCAPE}1mGET / HTTP/1.1{ESCAPE}0m" {ESCAPE}32m200 OK{ESCAPE}0m')


def test_a_bad_request_is_one_line(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1")
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(b"NONSENSE\x1b[31m\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    log = server.saw(r"^WARNING:  \[worker 0, pid \d+\] Rejected a request from 127\.0\.0\.1:\d+: 400 ")
    assert ESCAPE not in log


# At trace


def test_log_level_trace_shows_asgi_messages(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--log-level", "trace")
    with client_of(server) as client:
        client.get("/status?404", headers={"cookie": "secret"})
    server.stop()
    said = re.findall(r"^TRACE:    \[worker 0, pid \d+\] (.*ASGI \[\d\] .*)$", server.log(), re.MULTILINE)
    assert said[0].startswith("ASGI [1] Started scope={'type': 'lifespan'")
    [request] = [line for line in said if "'path': '/status'" in line]
    number = re.search(r"127\.0\.0\.1:\d+ - ASGI \[(\d)\] Started", request)
    assert number
    mine = [line for line in said if f"ASGI [{number[1]}] " in line]
    assert [line.split("] ", 1)[1].split("=")[0][:12] for line in mine] == [
        "Started scop", "Send {'type'", "Send {'type'", "Completed",
    ]  # fmt: skip
    assert "'status': 404" in mine[1]
    assert "secret" not in server.log()


# As JSON


def records(text: str) -> list[dict[str, Any]]:
    """Every line as an object: each is one, in ASCII without control characters."""
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_all_that_is_written(serve: Serve) -> None:
    server = serve("noisy:app", "--workers", "1", "--log-format", "json", quiet=False, wait=False)
    server.saw("ready: 1 worker")
    started = records(server.log())
    address = re.search(r"http://127\.0\.0\.1:(\d+)", started[0]["message"])
    assert address
    port = int(address[1])
    ports = [
        ask_raw(port, line)
        for line in ("GET /value/%1b[31m%0aINFO: HTTP/1.1", 'GET /"\\ HTTP/1.1', "NONSENSE\x1b[31m")
    ]
    server.stop()
    log, access = records(server.log()), records(server.access())
    assert {one["type"] for one in log} == {"server"}
    assert {one["worker"] for one in log} == {None, 0}
    assert {one["pid"] for one in log if one["worker"] is None} == {server.pid}
    for one in log + access:
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["ts"])
    failed = [one for one in log if one["message"].startswith("Exception in ASGI application")]
    assert {one["logger"] for one in failed} == {"shardserve.error"}
    assert {one["level"] for one in failed} == {"error"}
    assert "Traceback (most recent call last):\n" in failed[0]["exception"]
    assert ESCAPE not in failed[0]["exception"]
    assert [one["level"] for one in log if "Rejected a request" in one["message"]] == ["warning"]
    assert [(one["client"], one["method"], one["status"]) for one in access] == [
        (f"127.0.0.1:{ports[0]}", "GET", 500),
        (f"127.0.0.1:{ports[1]}", "GET", 200),
    ]
    assert access[1]["target"] == "/\\x22\\x5c"


def test_json_of_what_an_app_logs_and_of_a_logger_that_it_touched(serve: Serve) -> None:
    env = {"SNIPPET": "add-handler", "WHEN": "startup"}
    server = serve("relogged:app", "--workers", "1", "--log-format", "json", env=env, wait=False)
    server.saw("ready: 1 worker")
    ask_raw(int(re.findall(r"127\.0\.0\.1:(\d+)", server.log())[0]), "GET / HTTP/1.1")
    server.stop()
    said = [one for one in records(server.log()) if one["logger"] == "uvicorn.error"]
    assert [one["message"] for one in said][:1] == ["said by the app"]
    first, second = server.access().splitlines()
    assert json.loads(first)["type"] == "access"
    assert second.startswith("added uvicorn.access 127.0.0.1:")
