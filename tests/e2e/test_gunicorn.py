"""``gunicorn -k shardserve.ShardWorker``: a real gunicorn, told what people tell it.

gunicorn itself loses nothing at HUP: its listening sockets stay open, so what a reload costs is the worker's
doing.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.helpers.certificates import Authority
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import clean_environment

pytest.importorskip("gunicorn")

APP = """
import asyncio, json, os, time
from pathlib import Path

NOTES = Path(os.environ["NOTES"])
VERSION = 1

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        (NOTES / f"down-{os.getpid()}").touch()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"].removeprefix(scope["root_path"])
    if path == "/wait":
        (NOTES / "arrived").touch()
        while not (NOTES / "go-on").exists():
            await asyncio.sleep(0.01)
    if path == "/block":
        time.sleep(600)
    told = {
        "pid": os.getpid(), "version": VERSION, "scheme": scope["scheme"], "client": scope["client"],
        "root_path": scope["root_path"], "variable": os.environ.get("OF_RAW_ENV"),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})

async def refusing(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

def wsgi(environ, start_response):
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "threads": environ["wsgi.multithread"]}).encode()]
"""

# The hooks that a worker calls, or has called; each leaves a line.
HOOKS = """
import os
def note(name):
    with open(os.environ["NOTES"] + "/hooks", "a") as file:
        file.write(name + "\\n")
def when_ready(server): note("when_ready")
def post_fork(server, worker): note("post_fork")
def post_worker_init(worker): note("post_worker_init")
def worker_int(worker): note("worker_int")
def worker_abort(worker): note("worker_abort")
def worker_exit(server, worker): note("worker_exit")
"""


class Gunicorn:
    """A gunicorn with our worker, and everything that it started."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        app: str = "served:app",
        config: str = "",
        worker: str = "shardserve.ShardWorker",
    ) -> None:
        """``config`` is appended to gunicorn.conf.py, which may then name the ``worker``."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.app_file = folder / "served.py"
        self.app_file.write_text(APP)
        (folder / "gunicorn.conf.py").write_text(HOOKS + config)
        self._out, self._log = folder / "stdout.log", folder / "stderr.log"
        command = [sys.executable, "-m", "gunicorn", app, "--bind", "127.0.0.1:0", "--no-control-socket"]
        command += [*(["--worker-class", worker] if worker else []), *flags]
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean_environment(NOTES=str(folder)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def out(self) -> str:
        return self._out.read_text()

    def saw(self, pattern: str, times: int = 1) -> str:
        """Wait until the log has this, ``times`` times."""

        def probe() -> bool:
            found = len(re.findall(pattern, self.log)) >= times
            assert found or self.process.poll() is None, self.log
            return found

        until(probe, f"{times} × {pattern!r} in the log of gunicorn")
        return self.log

    @property
    def port(self) -> int:
        found = re.search(r"Listening at: https?://127\.0\.0\.1:(\d+)", self.saw("Started server process"))
        assert found, self.log
        return int(found[1])

    def client(self, scheme: str = "http", **how: Any) -> httpx.Client:
        url = f"{scheme}://localhost:{self.port}"
        return httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S, **how)

    def workers(self) -> set[int]:
        return {one.pid for one in psutil.Process(self.process.pid).children()}

    def note(self, name: str) -> Path:
        return self.folder / name

    def hooks(self) -> list[str]:
        return self.note("hooks").read_text().split() if self.note("hooks").exists() else []

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


Start = Callable[..., Gunicorn]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts one gunicorn, and ends it and its workers."""
    started: list[Gunicorn] = []

    def make(*flags: str, **how: Any) -> Gunicorn:
        started.append(Gunicorn(tmp_path / f"gunicorn-{len(started)}", *flags, **how))
        return started[-1]

    yield make
    for one in started:
        try:
            family = psutil.Process(one.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        one.process.kill()
        one.process.wait()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Work that runs beside the test, and what came of it."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


# Serving


def test_it_serves_with_the_settings_of_gunicorn(start: Start) -> None:
    server = start(
        "--workers", "2", "--env", "OF_RAW_ENV=here", "--limit-request-line", "300",
        "--limit-request-fields", "9", "--access-logfile", "-", "--root-path", "/api",
    )  # fmt: skip
    with server.client() as client:
        told = client.get(
            "/api/", headers={"x-forwarded-proto": "https", "x-forwarded-for": "1.2.3.4"}
        ).json()
        assert told["pid"] in server.workers()
        assert told["variable"] == "here"
        assert told["root_path"] == "/api"
        assert told["scheme"] == "https"  # 127.0.0.1 is in forwarded_allow_ips
        assert told["client"][0] == "1.2.3.4"
        assert client.get("/" + "a" * 300).status_code == 414
        assert client.get("/", headers={f"x-{number}": "1" for number in range(10)}).status_code == 431
    assert '1.2.3.4:0 - "GET /api/ HTTP/1.1" 200' in until(lambda: server.out, "the access log")
    assert server.stop() == 0
    assert "Application shutdown complete." in server.log
    assert "Traceback" not in server.log


def test_without_an_access_log_file_there_is_none(start: Start) -> None:
    server = start()
    with server.client() as client:
        assert client.get("/").status_code == 200
    assert server.stop() == 0
    assert "GET /" not in server.out + server.log


def test_tls(start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    server = start("--certfile", str(files.cert), "--keyfile", str(files.key))
    with server.client("https", verify=authority.client_context()) as client:
        assert client.get("/").json()["scheme"] == "https"
    assert server.stop() == 0


def test_the_ssl_context_hook(start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    hook = (
        "def ssl_context(config, default):\n"
        "    import ssl\n"
        "    context = default()\n"
        "    context.minimum_version = ssl.TLSVersion.TLSv1_3\n"
        "    note('ssl_context')\n"
        "    return context\n"
    )
    server = start("--certfile", str(files.cert), "--keyfile", str(files.key), config=hook)
    with server.client("https", verify=authority.client_context()) as client:
        assert client.get("/").json()["scheme"] == "https"
    assert "ssl_context" in server.hooks()
    assert server.stop() == 0


def test_a_wsgi_app_in_as_many_threads_as_gunicorn_says(start: Start) -> None:
    for flags, several in (([], False), (["--threads", "4"], True)):
        server = start(*flags, app="served:wsgi")
        with server.client() as client:
            assert client.get("/").json()["threads"] is several
        assert server.stop() == 0


def test_a_subclass_says_what_gunicorn_cannot(start: Start) -> None:
    text = (
        "import shardserve\n"
        "class Mine(shardserve.ShardWorker):\n"
        "    CONFIG_KWARGS = {'headers': [('x-mine', 'yes')], 'limit_request_body': 10}\n"
        "worker_class = Mine\n"
    )
    server = start(config=text, worker="")
    with server.client() as client:
        assert client.get("/").headers["x-mine"] == "yes"
        assert client.post("/", content=b"x" * 11).status_code == 413
    assert server.stop() == 0


def test_an_app_that_refuses_to_start_stops_gunicorn(start: Start) -> None:
    server = start(app="served:refusing")
    assert server.process.wait(PATIENCE_S) == 3
    assert "no database" in server.log
    assert "Worker failed to boot" in server.log


def test_a_setting_that_cannot_be_stops_gunicorn(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.pem").write_text("no certificate")
    server = start("--certfile", str(tmp_path / "broken.pem"))
    assert server.process.wait(PATIENCE_S) == 3
    assert "ssl-certfile" in server.log


def test_what_has_no_effect_is_told(start: Start) -> None:
    server = start("--access-logformat", "%(h)s", "--workers", "2")
    log = server.saw("Application startup complete", times=2)
    assert log.count("access_log_format has no effect with ShardWorker") == 1
    assert log.count("has no effect") == 1


# Signals


def test_term_finishes_what_is_in_flight(start: Start) -> None:
    server = start()
    with server.client() as client:
        thread, found = in_thread(lambda: client.get("/wait").json())
        until(server.note("arrived").exists, "the request")
        [worker] = server.workers()
        server.process.send_signal(signal.SIGTERM)
        server.saw("Shutting down")
        server.note("go-on").touch()
        thread.join(PATIENCE_S)
        assert found[0]["pid"] == worker
    assert server.process.wait(PATIENCE_S) == 0
    assert server.note(f"down-{worker}").exists()
    assert server.hooks()[-1] == "worker_exit"


# The second worker gets no further than its fork until it was sent a signal.
LATE = """
import time
def post_fork(server, worker):
    while worker.age == 2 and not server.SIG_QUEUE.qsize():
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_an_end_that_comes_just_after_the_fork_is_heard(start: Start, number: signal.Signals) -> None:
    """Until a worker has its own handlers, those of the arbiter run in it."""
    server = start("--workers", "2", config=LATE)
    server.saw("Booting worker", times=2)
    assert server.stop(number) == 0
    assert "SIGKILL" not in server.log


def test_what_never_ends_is_cut_before_gunicorn_kills(start: Start) -> None:
    server = start("--graceful-timeout", "2")
    with server.client() as client:
        thread, found = in_thread(lambda: client.get("/wait"))
        until(server.note("arrived").exists, "the request")
        assert server.stop() == 0
        thread.join(PATIENCE_S)
        assert isinstance(found[0], httpx.TransportError)
    assert "Cut 1 requests" in server.log
    assert "SIGKILL" not in server.log
    assert "Application shutdown complete." in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_wait_for_nobody(start: Start, number: signal.Signals) -> None:
    server = start()
    with server.client() as client:
        thread, found = in_thread(lambda: client.get("/wait"))
        until(server.note("arrived").exists, "the request")
        assert server.stop(number) == 0
        thread.join(PATIENCE_S)
        assert isinstance(found[0], httpx.TransportError)
    assert server.hooks()[-2:] == ["worker_int", "worker_exit"]


def test_hup_under_load_fails_no_request(start: Start) -> None:
    """Keep-alive clients and new connections, while every worker is replaced three times."""
    server = start("--workers", "2")
    port = server.port
    over = threading.Event()

    def load(keep: bool) -> list[int]:
        versions = []
        client = server.client()
        while not over.is_set():
            versions.append(client.get("/").json()["version"])
            if not keep:
                client.close()
                client = server.client()
        client.close()
        return versions

    clients = [in_thread(lambda keep=keep: load(keep)) for keep in (True, True, True, False)]
    assert port
    for version in (2, 3, 4):
        old = server.workers()
        server.app_file.write_text(APP.replace("VERSION = 1", f"VERSION = {version}"))
        server.process.send_signal(signal.SIGHUP)
        until(lambda old=old: server.workers() and not server.workers() & old, "new workers", 3 * PATIENCE_S)
    over.set()
    for thread, found in clients:
        thread.join(PATIENCE_S)
        assert isinstance(found[0], list), found[0]
        assert found[0][-1] == 4
    assert server.stop() == 0


# An idle connection is kept this long, if anybody serves after us.
KEEP_IDLE = (
    "import shardserve\n"
    "class Patient(shardserve.ShardWorker):\n"
    "    CONFIG_KWARGS = {'timeout_drain_idle': 600, 'timeout_keep_alive': 600}\n"
    "worker_class = Patient\n"
    "graceful_timeout = 600\n"
)


def idle_client(server: Gunicorn) -> httpx.Client:
    """One whose connection has been idle for longer than an answer may be on its way."""
    client = server.client()
    assert client.get("/").status_code == 200
    answered = time.monotonic()
    until(lambda: time.monotonic() - answered > 1.0, "a while")
    return client


def test_at_hup_an_idle_client_gets_one_more_answer(start: Start) -> None:
    server = start(config=KEEP_IDLE, worker="")
    with closing(idle_client(server)) as client:
        [old] = server.workers()
        server.process.send_signal(signal.SIGHUP)
        server.saw("Shutting down")
        told = time.monotonic()
        until(lambda: time.monotonic() - told > 1.0, "a while")
        answer = client.get("/")
        assert answer.json()["pid"] == old
        assert answer.headers["connection"] == "close"
        assert client.get("/").json()["pid"] != old
    assert server.stop() == 0


def test_a_stop_does_not_wait_for_idle_clients(start: Start) -> None:
    server = start(config=KEEP_IDLE, worker="")
    with closing(idle_client(server)):
        assert server.stop() == 0


def test_usr1_opens_the_logs_again(start: Start) -> None:
    server = start("--access-logfile", "access.log", "--error-logfile", "error.log")
    access, errors = server.note("access.log"), server.note("error.log")
    until(lambda: errors.exists() and "Application startup complete" in errors.read_text(), "the server")
    found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", errors.read_text())
    assert found
    with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", trust_env=False) as client:
        assert client.get("/before").status_code == 200
        until(lambda: "/before" in access.read_text(), "the first line")
        for file in (access, errors):
            file.rename(file.with_suffix(".1"))
        server.process.send_signal(signal.SIGUSR1)
        until(access.exists, "a new file")

        def probe() -> bool:  # the worker hears of it after the arbiter
            client.get("/after")
            return "/after" in access.read_text()

        until(probe, "a line in the new file")
    assert server.stop() == 0
    assert "Application shutdown complete." in errors.read_text()


def test_usr1_just_after_the_fork_is_heard(start: Start) -> None:
    server = start("--workers", "2", "--error-logfile", "error.log", config=LATE)
    errors = server.note("error.log")
    until(lambda: errors.exists() and errors.read_text().count("Booting worker") == 2, "both workers")
    second = re.findall(r"Booting worker with pid: (\d+)", errors.read_text())[1]
    errors.rename(errors.with_suffix(".1"))
    server.process.send_signal(signal.SIGUSR1)
    until(errors.exists, "a new file")
    until(lambda: f"Started server process [{second}]" in errors.read_text(), "its line in the new file")
    assert server.stop() == 0


def test_a_worker_that_has_served_enough_is_replaced(start: Start) -> None:
    """With a request in flight, which is finished."""
    server = start("--max-requests", "5")
    with server.client() as client:
        slow, found = in_thread(lambda: client.get("/wait").json())
        until(server.note("arrived").exists, "the request")
        [worker] = server.workers()
        with server.client() as other:
            for _ in range(5):
                assert other.get("/").status_code == 200
        server.saw("Maximum request limit of 5 exceeded")
        server.note("go-on").touch()
        slow.join(PATIENCE_S)
        assert found[0]["pid"] == worker
    until(lambda: server.workers() and worker not in server.workers(), "another worker")
    with server.client() as client:
        assert client.get("/").json()["pid"] != worker
    assert server.stop() == 0


def test_a_blocked_loop_is_killed_and_told(start: Start) -> None:
    server = start("--timeout", "2")
    with server.client() as client:
        [worker] = server.workers()
        thread, _ = in_thread(lambda: client.get("/block"))
        server.saw(r"WORKER TIMEOUT")
        until(lambda: server.workers() and worker not in server.workers(), "another worker")
        thread.join(PATIENCE_S)
    with server.client() as client:
        assert client.get("/").json()["pid"] != worker
    assert re.search(
        r"It stands here:\n  File \".*served\.py\", line \d+, in app\n    time\.sleep\(600\)", server.log
    )
    assert "worker_abort" in server.hooks()
    assert server.stop() == 0


def test_a_loop_that_turns_is_left_alone(start: Start) -> None:
    """A slow request is no reason to kill: what counts is the loop."""
    server = start("--timeout", "1")
    with server.client() as client:
        thread, found = in_thread(lambda: client.get("/wait").json())
        until(server.note("arrived").exists, "the request")
        [worker] = server.workers()
        with server.client() as other:
            born = psutil.Process(worker).create_time()
            until(lambda: time.time() - born > 4, "four times the timeout")
            assert other.get("/").json()["pid"] == worker
        server.note("go-on").touch()
        thread.join(PATIENCE_S)
        assert found[0]["pid"] == worker
    assert "WORKER TIMEOUT" not in server.log
    assert server.stop() == 0


def test_a_change_is_seen_with_reload(start: Start) -> None:
    server = start("--reload", "--reload-engine", "poll")
    with server.client() as client:
        assert client.get("/").json()["version"] == 1
        # An idle connection of a browser does not hold up the new code.
        server.app_file.write_text(APP.replace("VERSION = 1", "VERSION = 2"))

        def probe() -> bool:
            try:
                return bool(client.get("/").json()["version"] == 2)
            except httpx.TransportError:
                return False

        until(probe, "the new code", 3 * PATIENCE_S)
    assert server.stop() == 0


def test_the_arbiters_death_ends_its_workers(start: Start) -> None:
    server = start()
    assert server.port
    [worker] = server.workers()
    process = psutil.Process(worker)
    server.process.kill()
    server.process.wait()
    process.wait(PATIENCE_S)


def test_the_hooks_in_their_order(start: Start) -> None:
    server = start()
    assert server.port
    assert server.stop() == 0
    assert server.hooks() == ["when_ready", "post_fork", "post_worker_init", "worker_exit"]
