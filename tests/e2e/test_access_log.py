"""The access log of real servers: formats, files and their rotation, syslog; no line is lost or torn."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.helpers.load import Load
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Ended, Serve, ServerProcess, client_of

DATE = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


def lines_of(server: ServerProcess, count: int) -> list[str]:
    """The access log, once it has so many lines."""
    until(lambda: server.access().count("\n") >= count, f"{count} lines")
    return server.access().splitlines()


def exchange(port: int, request: bytes) -> bytes:
    """Everything that a connection with these bytes got."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(request)
        got = b""
        while data := client.recv(65536):
            got += data
    return got


# Formats

COMMON = rf'127\.0\.0\.1 - alice {DATE} "GET /status\?404 HTTP/1\.1" 404 -'
FORMATS = {
    "uvicorn": r'INFO:     127\.0\.0\.1:\d+ - "GET /status\?404 HTTP/1\.1" 404 Not Found',
    "common": COMMON,
    "Combined": COMMON + r' "https://a\.example/" "agent 1\.0"',
    "%(m)s|%(U)s|%(q)s|%(H)s|%(s)s|%(B)s|%(f)s|%({x-odd}i)s|%({content-type}o)s|%%": (
        r"GET\|/status\|404\|HTTP/1\.1\|404\|0\|https://a\.example/\|-\|text/plain\|%"
    ),
    "%(h)s %(l)s %({REMOTE_ADDR}e)s %({HTTP_REFERER}e)s %({worker}x)s %(D)s %(M)s %(T)s %(L)s": (
        r"127\.0\.0\.1 - 127\.0\.0\.1 https://a\.example/ 0 \d+ \d+ \d+ \d+\.\d{6}"
    ),
    "%(p)s %({pid}x)s %({first_byte_us}x)s %({request_bytes}x)s %({tls_version}x)s %({request_id}x)s": (
        r"<(\d+)> \1 \d+ 0 - -"
    ),
}


@pytest.mark.parametrize("text", FORMATS)
def test_formats(serve: Serve, text: str) -> None:
    server = serve("probe:app", "--workers", "1", "--access-log-format", text)
    with client_of(server) as client:
        fields = {"user-agent": "agent 1.0", "referer": "https://a.example/"}
        client.get("/status?404", headers=fields, auth=("alice", "secret"))
    [line] = lines_of(server, 1)
    assert re.fullmatch(FORMATS[text], line), line


def test_json_has_all_keys(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--access-log-format", "json")
    with client_of(server) as client:
        client.get("/?x=1")
    [line] = lines_of(server, 1)
    found = json.loads(line)
    assert list(found) == [
        "ts", "type", "level", "logger", "pid", "worker", "client", "method", "target", "http_version",
        "status", "response_bytes", "duration_us", "first_byte_us", "request_id", "trace_id", "tls_version",
    ]  # fmt: skip
    assert found["pid"] in server.pids()
    assert (found["method"], found["target"], found["status"], found["worker"]) == ("GET", "/?x=1", 200, 0)
    assert found["response_bytes"] > 0
    assert 0 <= found["first_byte_us"] <= found["duration_us"]
    assert found["request_id"] is found["trace_id"] is found["tls_version"] is None
    assert not server.log().startswith("{")  # the server log has a format of its own


def test_a_websocket_in_each_format(serve: Serve) -> None:
    shown = {
        "uvicorn": r'INFO:     127\.0\.0\.1:\d+ - "WebSocket /echo\?x" \[accepted\]',
        "common": rf'127\.0\.0\.1 - - {DATE} "GET /echo\?x HTTP/1\.1" 101 -',
        "json": r'\{.*"method":"WebSocket","target":"/echo\?x","http_version":"1\.1","status":101,.*\}',
    }
    for text, line in shown.items():
        server = serve("ws_app:app", "--workers", "1", "--access-log-format", text)
        with connect(f"ws://127.0.0.1:{server.port}/echo?x", proxy=None):
            pass
        assert re.fullmatch(line, lines_of(server, 1)[0]), lines_of(server, 1)


def test_an_id_and_a_trace_are_in_every_log(serve: Serve) -> None:
    flags = ("--request-id-header", "X-Request-ID", "--log-format", "json")
    server = serve("probe:app", "--workers", "1", *flags, quiet=False, wait=False)
    until(lambda: '"message":"ready: 1 worker' in server.log(), "the server to be ready")
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", server.log())[0])
    trace = "0af7651916cd43dd8448eb211c80319c"
    request = (
        f"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-ID: abc-1\r\n"
        f"traceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n"
    )
    answer = exchange(port, request.encode())
    assert b"x-request-id: abc-1\r\n" in answer.lower()
    [line] = [json.loads(one) for one in lines_of(server, 1)]
    assert (line["request_id"], line["trace_id"], line["status"]) == ("abc-1", trace, 500)
    until(lambda: "Exception in ASGI" in server.log(), "the error")
    assert "500 sent, request id abc-1" in server.log()


# Which requests have a line


def test_what_is_excluded_and_what_is_sampled(serve: Serve) -> None:
    flags = (
        "--access-log-exclude",
        "/own*",
        "--access-log-exclude",
        "/cont?xt",
        "--access-log-sample",
        "0.25",
    )
    server = serve("probe:app", "--workers", "1", *flags)
    with client_of(server) as client:
        for _ in range(100):
            client.get("/status?200")
            client.get("/own-headers?x")
            client.get("/context")
        for _ in range(20):
            client.get("/status?503")
    until(lambda: server.access().count(" 503 ") >= 20, "all errors")
    server.stop()
    found = Counter(re.findall(r"GET (\S+) HTTP", server.access()))
    assert found.pop("/status?503") == 20
    assert 20 <= found.pop("/status?200") <= 30
    assert not found


# Nothing lost, nothing torn


class Numbered:
    """A client whose every request has another target, kept alive as long as the server wants."""

    def __init__(self, port: int, name: str) -> None:
        self._port, self._name = port, name
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        self.targets: list[str] = []

    def __call__(self) -> dict[str, Any]:
        target = f"/?{self._name}-{len(self.targets)}-" + "x" * (len(self.targets) * 7 % 200)
        self._connection.request("GET", target)
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        self.targets.append(target)
        return answer


def assert_whole(text: str, clients: list[Numbered]) -> None:
    """Each request has one line, and there is nothing else."""
    found = []
    for line in text.splitlines():
        whole = re.fullmatch(r'INFO:     127\.0\.0\.1:\d+ - "GET (/\?\S+) HTTP/1\.1" 200 OK', line)
        assert whole, line
        found.append(whole[1])
    assert text.endswith("\n")
    assert Counter(found) == Counter(target for client in clients for target in client.targets)


@pytest.mark.parametrize("told_by", ["signal", "ctl"])
def test_rotation_under_load_loses_no_line(serve: Serve, tmp_path: Path, told_by: str) -> None:
    path = tmp_path / "access.log"
    server = serve("probe:app", "--workers", "2", "--access-log-file", str(path))
    clients = [Numbered(server.port, f"client{number}") for number in range(6)]
    with Load(*clients, pause_s=0) as load:
        for turn in range(1, 6):
            load.goes_on(200)
            path.rename(tmp_path / f"access.log.{turn}")
            if told_by == "signal":
                server.send(signal.SIGUSR1)
            else:
                assert server.ctl("reopen")["message"] == "opening the log files again"
            until(path.exists, "the new file")
        load.goes_on(200)
        until(lambda: len(opened(server, path)) == 2, "both workers to write to the new file")
    assert load.failed == []
    assert len(load.answers) == 2  # workers
    server.stop()
    files = [tmp_path / f"access.log.{turn}" for turn in range(1, 6)] + [path]
    assert all(one.stat().st_size for one in files)
    assert all(one.stat().st_mode & 0o137 == 0 for one in files)
    assert_whole("".join(one.read_text() for one in files), clients)
    assert server.access() == ""


def opened(server: ServerProcess, path: Path) -> set[int]:
    """The workers that have this file open."""
    found = set()
    for worker in server.workers():
        if any(one.path == str(path) for one in worker.open_files()):
            found.add(worker.pid)
    return found


def test_nothing_is_lost_at_a_stop(serve: Serve) -> None:
    """Lines wait up to a tenth of a second for others. The last ones do not."""
    server = serve("probe:app", "--workers", "2")
    clients = [Numbered(server.port, f"client{number}") for number in range(6)]
    for client in clients:
        for _ in range(40):
            client()
    server.stop()
    assert_whole(server.access(), clients)


def test_nothing_is_lost_at_a_reload(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    server = serve("probe:app", "--workers", "2", "--access-log-file", str(path))
    clients = [Numbered(server.port, f"client{number}") for number in range(4)]
    with Load(*clients, pause_s=0) as load:
        load.goes_on(100)
        server.ctl("reload")
        load.goes_on(100)
    assert load.failed == []
    server.stop()
    assert_whole(path.read_text(), clients)


def test_a_worker_that_drains_hears_of_a_rotation(serve: Serve, tmp_path: Path, notes: Path) -> None:
    path = tmp_path / "access.log"
    server = serve("probe:app", "--workers", "1", "--access-log-file", str(path))
    [old] = server.pids()
    answers: list[bytes] = []
    request = b"GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    waiting = threading.Thread(target=lambda: answers.append(exchange(server.port, request)))
    waiting.start()
    until(lambda: list(notes.glob("here-*")), "the request")
    server.send(signal.SIGHUP)
    server.saw("is ready, ")
    until(lambda: len(server.pids()) == 2, "the new worker, and the old one that drains")
    path.rename(tmp_path / "access.log.1")
    server.send(signal.SIGUSR1)
    until(lambda: old in opened(server, path), "the old one to open the new file")
    (notes / "go").touch()
    waiting.join(PATIENCE_S)
    assert answers[0].endswith(b"went on")
    server.stop()
    assert '"GET /wait HTTP/1.1" 200 OK' in path.read_text()
    assert (tmp_path / "access.log.1").read_text() == ""


def test_a_pipe_that_is_full_holds_nobody_up(serve: Serve, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        server = serve("probe:app", "--workers", "1", "--access-log-file", str(fifo))
        fields = {"user-agent": "a"}
        with client_of(server) as client:
            for _ in range(60):  # 16 KiB each: four pipes full
                assert client.get("/status?200", headers=fields).status_code == 200
                client.get("/?" + "y" * 8000)
            server.saw("access log lines? (was|were) lost: ")
        got = drained(reader)
        with client_of(server) as client:
            client.get("/status?204")

            def arrived() -> bool:
                got.extend(drained(reader))
                return b"/status?204" in got

            until(arrived, "the line of after the pause")
        server.stop()
    finally:
        os.close(reader)
    lines = got.decode().split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert re.fullmatch(r'INFO:     127\.0\.0\.1:\d+ - "GET \S+ HTTP/1\.1" \d{3} [A-Za-z ]+', line), line


def drained(fd: int) -> bytearray:
    data = bytearray()
    while True:
        try:
            part = os.read(fd, 1 << 20)
        except BlockingIOError:
            return data
        if not part:
            return data
        data += part


# Syslog


@contextmanager
def listening(family: int, address: Any) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(PATIENCE_S)
        yield sock


def test_syslog_of_this_host(serve: Serve, tmp_path: Path) -> None:
    with listening(socket.AF_UNIX, str(tmp_path / "log")) as syslog:
        server = serve("probe:app", "--workers", "1", "--access-log-file", f"syslog:{tmp_path}/log")
        [pid] = server.pids()
        with client_of(server) as client:
            for number in range(5):
                client.get(f"/?{number}")
        server.stop()
        messages = [syslog.recv(65536).decode() for _ in range(5)]
    for number, message in enumerate(messages):
        start = rf"<190>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d shardserve\[{pid}\]: "
        line = rf'INFO:     127\.0\.0\.1:\d+ - "GET /\?{number} HTTP/1\.1" 200 OK'
        assert re.fullmatch(start + line, message), message


def test_syslog_elsewhere(serve: Serve) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as syslog:
        where = f"syslog:localhost:{syslog.getsockname()[1]}"
        flags = ("--access-log-file", where, "--access-log-format", "%(m)s %(U)s")
        server = serve("probe:app", "--workers", "1", *flags)
        with client_of(server) as client:
            client.get("/status?204")
        message = syslog.recv(65536).decode()
    assert re.fullmatch(r"<190>[A-Z][a-z]{2} [ \d]\d \S+ \S+ shardserve\[\d+\]: GET /status", message), (
        message
    )


def test_no_syslog_is_no_reason_not_to_serve(serve: Serve, tmp_path: Path) -> None:
    server = serve("probe:app", "--workers", "1", "--access-log-file", f"syslog:{tmp_path}/log")
    with client_of(server) as client:
        assert client.get("/status?204").status_code == 204
    server.saw(r"WARNING: .*The access log does not reach syslog at \S+/log: No such file or directory")
    server.stop()
    assert "1 access log line was lost: syslog at " in server.log()


# Hostile bytes


def test_no_byte_of_a_client_gets_out_of_its_place(serve: Serve) -> None:
    """CVE-2020-7694 was the decoded path in Uvicorn's access log; fields are no better."""
    form = '"%(r)s" "%(a)s" "%(f)s" "%(u)s" "%({x-forwarded-for}i)s"'
    server = serve("noisy:app", "--workers", "1", "--access-log-format", form)
    evil = bytes(code for code in range(0x21, 0x100) if code != 0x7F)
    forged = b'" 200\\x0a INFO:'
    fields = b"User-Agent: " + evil + b"\r\nReferer: " + forged + b"\r\nAuthorization: Basic Ig06Cg==\r\n"
    fields += b"X-Forwarded-For: \xc2\x9b31m\xe2\x80\xae\r\n"
    head = b'GET /%0d%0a%1b[31m"\\' + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + fields + b"\r\n"
    assert exchange(server.port, head).startswith(b"HTTP/1.1 200 ")
    [line] = lines_of(server, 1)
    shown = "".join(
        chr(code) if code < 0x7F and chr(code) not in '"\\' else f"\\x{code:02x}" for code in evil
    )
    assert line == (
        f'"GET /%0d%0a%1b[31m\\x22\\x5c HTTP/1.1" "{shown}" "\\x22 200\\x5cx0a INFO:" "\\x22\\x0d" '
        '"\\xc2\\x9b31m\\xe2\\x80\\xae"'
    )


# Log configs, and settings that cannot be


@pytest.mark.parametrize("flags", [(), ("--preload",)], ids=["exec", "preload"])
def test_files_of_a_log_config_are_opened_again(serve: Serve, tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = tmp_path / "server.log"
    config = {
        "version": 1,
        "formatters": {"plain": {"format": "%(process)d %(name)s %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(path), "formatter": "plain"}},
        "root": {"handlers": ["file"], "level": "INFO"},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    named = ("--log-config", str(tmp_path / "log.json"))
    server = serve("probe:app", "--workers", "1", *named, *flags, wait=False)
    until(lambda: path.exists() and "ready: 1 worker" in path.read_text(), "the server to be ready")
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", path.read_text())[0])
    [pid] = server.pids() if not flags else [serving(path)]
    path.rename(tmp_path / "server.log.1")
    server.send(signal.SIGUSR1)
    until(lambda: path.exists() and "opened the log files again" in path.read_text(), "the master's line")

    def asked() -> bool:
        exchange(port, b"GET /status?204 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return f"{pid} shardserve.access 127.0.0.1:" in path.read_text()

    until(asked, "the worker's line")
    if flags:  # the template has opened it again, too
        os.kill(pid, signal.SIGTERM)
        until(lambda: serving(path, but=pid), "another worker")
        pid = serving(path, but=pid)
        until(asked, "the new worker's line")


def serving(path: Path, but: int = 0) -> int:
    """The pid of a worker that says in the log that it serves."""
    pids = re.findall(r"^(\d+) shardserve\.worker ", path.read_text(), re.MULTILINE)
    return next((int(pid) for pid in reversed(pids) if int(pid) != but), 0)


def test_settings_without_effect_are_told(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('{"version": 1, "disable_existing_loggers": false}')
    config = {"version": 1, "handlers": {"err": {"class": "logging.StreamHandler"}}}
    config["root"] = {"handlers": ["err"], "level": "INFO"}
    (tmp_path / "log.json").write_text(json.dumps(config))
    flags = ("--log-config", str(tmp_path / "log.json"), "--access-log-file", str(tmp_path / "access.log"))
    server = serve("probe:app", "--workers", "1", *flags)
    assert "--access-log-file: without effect, because --log-config decides" in server.log()
    assert not (tmp_path / "access.log").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--access-log-file", "missing/access.log"), r'access-log-file ".*": "missing" is not a directory'),
        (("--access-log-file", "."), r'access-log-file "\.": it is a directory'),
        (("--access-log-format", "%(h)s %(x)s"), r"unknown atom %\(x\)s at character 7; there are h l u t r"),
        (("--access-log-sample", "2"), r"2\.0? is not a share from 0 to 1"),
    ],
)
def test_mistakes_end_the_start(tmp_path: Path, flags: tuple[str, ...], complaint: str) -> None:
    ended = Ended(tmp_path, "probe:app", *flags)
    assert ended.code == 2
    assert re.search(complaint, ended.text), ended.text
    assert ended.tracebacks == 0
    assert ended.left == []
