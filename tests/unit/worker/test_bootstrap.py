"""Real worker processes, with the test as their master."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardserve import control
from shardserve.config.model import Config, to_json
from shardserve.worker.channel import Channel
from shardserve.worker.server import SHUTDOWN_KEY
from tests.unit.worker.fake_factory import WAIT_S, Master, tcp_listener

ROOT = Path(__file__).parents[3]
APPS = ROOT / "tests" / "apps"
DRAIN = control.Drain(grace_s=0.0, deadline_s=WAIT_S)


class Worker:
    """One ``python -m shardserve.worker`` and what a test does with it."""

    def __init__(self, folder: Path, *, stdout: Any = None, **environment: str) -> None:
        self.master = Master()
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.listeners: list[socket.socket] = []
        self._environment = {**os.environ, **environment}
        self._stdout = stdout

    def launch(self, *listeners: socket.socket) -> None:
        self.listeners = list(listeners)
        with self.master.worker_end as end, open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shardserve.worker", str(end.fileno())],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=self._stdout or out,
                stderr=err,
                pass_fds=[end.fileno(), *(one.fileno() for one in listeners)],
            )

    def start(
        self, app: str = "hello:app", *, listeners: list[socket.socket] | None = None, **settings: Any
    ) -> None:
        self.launch(*([tcp_listener()] if listeners is None else listeners))
        config = to_json(Config(app, app_dir=str(APPS), **settings))
        names = [control.Listener(fd=one.fileno(), url="http://test") for one in self.listeners]
        self.master.send(control.Start(slot=0, generation=1, core=None, config=config, listeners=names))

    def ready(self, app: str = "hello:app", **settings: Any) -> control.Ready:
        self.start(app, **settings)
        message = self.master.receive_now()
        assert isinstance(message, control.Ready), message
        return message

    def get(self, path: str) -> http.client.HTTPResponse:
        host, port = self.listeners[0].getsockname()
        connection = http.client.HTTPConnection(host, port, timeout=WAIT_S)
        connection.request("GET", path)
        return connection.getresponse()

    def ask(self, path: str) -> socket.socket:
        """A request sent on a connection of its own; the answer is read by ``answer``."""
        caller = socket.create_connection(self.listeners[0].getsockname(), timeout=WAIT_S)
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        return caller

    def drain(self) -> int:
        self.master.send(DRAIN)
        message = self.master.receive_now()
        assert isinstance(message, control.Drained), message
        return self.code()

    def code(self) -> int:
        return self.process.wait(WAIT_S)

    def end(self) -> None:
        """Whatever became of the test: the process ends, by its own pid."""
        self.master.close()
        for listener in self.listeners:
            listener.close()
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def worker(tmp_path) -> Iterator[Worker]:
    one = Worker(tmp_path)
    yield one
    one.end()


def answer(caller: socket.socket) -> bytes:
    """Everything until the server closes; a reset counts as closed."""
    data = b""
    with caller:
        try:
            while part := caller.recv(65536):
                data += part
        except ConnectionError:
            pass
    return data


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# The ordinary life


def test_start_serve_drain(worker):
    ready = worker.ready()
    assert ready.pid == worker.process.pid
    assert ready.startup_ms > 0
    response = worker.get("/?x=1")
    assert (response.status, response.read()) == (200, b"hello")
    peer = response.getheader("server")
    assert peer == "shardserve"
    assert worker.drain() == 0
    lines = worker.out.read_text().splitlines()
    assert lines[0].startswith("INFO:     127.0.0.1:")
    assert lines[0].endswith(' - "GET /?x=1 HTTP/1.1" 200 OK')
    assert lines[1] == "the app shuts down"
    assert "Traceback" not in worker.err.read_text()
    assert f"INFO:     [worker 0, pid {ready.pid}] Application startup complete." in worker.err.read_text()


def test_several_listeners_one_of_them_unix(worker, tmp_path):
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "sock"))
    unix.listen()
    worker.ready(listeners=[tcp_listener(), unix])
    assert worker.get("/").read() == b"hello"
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(WAIT_S)
        caller.connect(str(tmp_path / "sock"))
        caller.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert answer(caller).endswith(b"\r\n\r\nhello")
    assert worker.drain() == 0
    assert (tmp_path / "sock").exists()


def test_settings_reach_the_wire(worker):
    worker.ready(headers=(("X-Extra", "one"),), server_header=False, date_header=False, access_log=False)
    response = worker.get("/")
    assert response.getheader("x-extra") == "one"
    assert response.getheader("server") is None
    assert response.getheader("date") is None
    assert worker.drain() == 0
    assert worker.out.read_text() == "the app shuts down\n"


def test_the_limit_of_requests_in_flight_reaches_the_wire(worker, tmp_path):
    worker.ready(limit_concurrency=1)
    caller = worker.ask(f"/wait?{tmp_path}/go")
    until(lambda: worker.get("/").status == 503)
    (tmp_path / "go").touch()
    assert worker.drain() == 0
    assert answer(caller).startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_access_log_follows_the_log_level(worker):
    worker.ready(log_level="warning")
    assert worker.get("/").read() == b"hello"
    assert worker.drain() == 0
    assert "GET" not in worker.out.read_text()
    assert worker.err.read_text() == ""


def test_a_factory(worker):
    worker.ready("hello:create", factory=True)
    assert worker.get("/").read() == b"hello"


@pytest.mark.parametrize(("reset", "seen"), [(False, b"set at import"), (True, b"unset")])
def test_context_variables_of_the_import(worker, reset, seen):
    worker.ready(reset_contextvars=reset)
    assert worker.get("/context").read() == seen


def test_the_lifespan_state_is_in_the_scope(worker):
    worker.ready()
    assert b"'tasks': []" in worker.get("/state").read()


def test_without_lifespan_there_is_an_empty_state(worker):
    worker.ready(lifespan="off")
    state = worker.get("/state").read()
    assert b"tasks" not in state
    assert SHUTDOWN_KEY.encode() in state


def test_an_app_error_is_logged_once_with_the_apps_frames_only(worker):
    worker.ready()
    assert worker.get("/error").status == 500
    assert worker.drain() == 0
    log = worker.err.read_text()
    assert log.count("Exception in ASGI application: GET /error from 127.0.0.1:") == 1
    assert log.count("Traceback") == 1
    assert "LookupError: the app's own error" in log
    assert str(APPS / "hello.py") in log
    assert "shardserve/worker" not in log


def test_an_app_that_disables_loggers_and_unsets_the_loop(worker):
    worker.ready("own_logging:app")
    assert worker.get("/error").status == 500
    assert worker.drain() == 0
    assert "Exception in ASGI application" in worker.err.read_text()


# Starts that fail


def failure(worker: Worker) -> control.Failed:
    message = worker.master.receive_now()
    assert isinstance(message, control.Failed), message
    assert worker.code() == 3
    assert "Traceback" not in worker.err.read_text()
    return message


def test_a_master_that_died_first(worker):
    worker.launch()
    worker.master.close()
    assert worker.code() == 0
    assert worker.err.read_text() == worker.out.read_text() == ""


@pytest.mark.parametrize("data", [b"garbage", b'{"type":"START"}', b'{"type":"RELEASE","slot":1}'])
def test_a_first_message_that_is_not_start(worker, data):
    worker.launch()
    worker.master.send_raw(data)
    assert failure(worker).stage == "start"


@pytest.mark.parametrize("message", [control.Stop(), DRAIN])
def test_told_to_go_before_start(worker, message):
    worker.launch()
    worker.master.send(message)
    assert worker.code() == 0


@pytest.mark.parametrize(
    ("config", "fd", "text"),
    [
        ({"app": "hello:app", "colour": "red"}, None, "colour"),
        ({"app": "hello:app"}, 999, "fd 999 was not inherited"),
    ],
)
def test_a_start_that_cannot_be_obeyed(worker, config, fd, text):
    worker.launch()
    listeners = [] if fd is None else [control.Listener(fd=fd, url="http://test")]
    worker.master.send(control.Start(slot=0, generation=1, core=None, config=config, listeners=listeners))
    message = failure(worker)
    assert message.stage == "start"
    assert text in message.text


def test_an_app_that_cannot_be_imported(worker):
    worker.start("missing_dependency:app")
    message = failure(worker)
    assert message.stage == "import"
    assert "No module named 'not_installed_anywhere'" in message.text
    assert message.text.count("Traceback") == 1


def test_an_app_that_refuses_to_start(worker):
    worker.start("refuses:app")
    message = failure(worker)
    assert message == control.Failed(
        "lifespan", "the app refused to start (lifespan.startup.failed): the database is away"
    )


def test_a_listener_that_does_not_listen(worker):
    worker.start(listeners=[socket.socket()])
    message = failure(worker)
    assert message.stage == "start"
    assert "not a listening socket" in message.text


# Ends


def test_requests_in_flight_outlive_the_master(worker, tmp_path):
    worker.ready()
    caller = worker.ask(f"/wait?{tmp_path}/go")
    until(lambda: worker.get("/").status == 200)
    worker.master.close()
    until(lambda: "The master is gone" in worker.err.read_text())
    (tmp_path / "go").touch()
    reply = answer(caller)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in reply.lower()
    assert worker.code() == 0
    assert worker.out.read_text().endswith("the app shuts down\n")


def test_sigterm_to_the_worker_drains_it(worker, tmp_path):
    worker.ready()
    caller = worker.ask(f"/wait?{tmp_path}/go")
    until(lambda: worker.get("/").status == 200)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "SIGTERM" in worker.err.read_text())
    (tmp_path / "go").touch()
    assert answer(caller).endswith(b"hello")
    assert worker.master.receive_now() == control.Leaving("SIGTERM")
    assert worker.master.receive_now() == control.Drained(served=2, cut=0)
    assert worker.code() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_that_are_the_masters_business(worker, number):
    worker.ready()
    worker.process.send_signal(number)
    assert worker.get("/").read() == b"hello"
    assert worker.drain() == 0


def test_the_deadline_cuts_and_counts(worker, tmp_path):
    worker.ready()
    caller = worker.ask(f"/wait?{tmp_path}/never")
    until(lambda: worker.get("/").status == 200)
    worker.master.send(control.Drain(grace_s=0.0, deadline_s=0.05))
    assert worker.master.receive_now() == control.Drained(served=1, cut=1)
    assert answer(caller) == b""
    assert worker.code() == 0
    assert "Cut 1 requests" in worker.err.read_text()


def test_stop_ends_it_at_once(worker, tmp_path):
    worker.ready()
    caller = worker.ask(f"/wait?{tmp_path}/never")
    until(lambda: worker.get("/").status == 200)
    worker.master.send(control.Stop())
    assert worker.code() == 0
    assert worker.master.receive_now() is None
    assert answer(caller) == b""
    assert "the app shuts down" not in worker.out.read_text()
    assert worker.out.read_text().count("200 OK") == 1


def test_a_thread_that_never_ends_does_not_keep_the_worker(worker):
    worker.ready()
    assert worker.get("/stuck-thread").read() == b"hello"
    assert worker.drain() == 0
    assert "Not waiting any longer for" in worker.err.read_text()


def test_tasks_that_the_app_left_are_ended_quietly(worker):
    worker.ready()
    assert worker.get("/leftover-task").read() == b"hello"
    assert worker.drain() == 0
    assert "pending" not in worker.err.read_text()


def test_exit_handlers_run(tmp_path):
    worker = Worker(tmp_path, HELLO_EXIT_NOTE=str(tmp_path / "note"))
    try:
        worker.ready()
        assert worker.drain() == 0
        assert (tmp_path / "note").read_text() == "atexit ran"
    finally:
        worker.end()


def test_a_stdout_that_nobody_reads_harms_nothing(tmp_path):
    read_fd, write_fd = os.pipe()
    worker = Worker(tmp_path, stdout=write_fd)
    try:
        worker.ready()
        os.close(write_fd)
        os.close(read_fd)
        for _ in range(3):
            assert worker.get("/").read() == b"hello"
        assert worker.drain() == 0
        assert "access log lines were lost" in worker.err.read_text()
    finally:
        worker.end()


def test_the_control_pipe_is_taken_over():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel.from_fd(left.detach())
    assert channel.send(control.Stop())
    assert control.decode(right.recv(100)) == control.Stop()
    channel.close()
    right.close()
