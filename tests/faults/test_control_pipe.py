"""The control pipe when something is wrong with it: what a worker is told, and whether it listens.

A worker here is a real one, with the test in the master's place, or with the master's own part that
talks to workers (``Crew``). What the whole master does with one that is stuck for good, which takes it
half a minute, is tests/unit/master/test_supervisor.py's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardserve import control
from shardserve.config.model import Config, to_json
from shardserve.master.crew import STUCK_KILL_S, Crew
from shardserve.master.slots import Process
from shardserve.master.spawn import WORKER_COMMAND, start_worker
from tests.helpers.load import Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import APPS, Serve

CONFIG = to_json(Config("faulty:app", app_dir=str(APPS), access_log=False))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def start(*listeners: socket.socket, **more: Any) -> control.Start:
    names = [control.Listener(one.fileno(), f"http://127.0.0.1:{port_of(one)}") for one in listeners]
    return control.Start(0, 0, None, CONFIG, names, **more)


def descriptors_at_rest(pid: int) -> set[int]:
    """What a worker has open once it has noticed that its last client went."""
    process = psutil.Process(pid)

    def serves_nobody() -> bool:
        return all(one.status == psutil.CONN_LISTEN for one in process.net_connections(kind="tcp"))

    until(serves_nobody, "the worker to close what it answered")
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


class Bare:
    """A worker whose master is the test: every byte of the pipe is said here."""

    def __init__(self, folder: Path, *listeners: socket.socket) -> None:
        self._log = folder / "worker.log"
        self.pipe, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pipe.settimeout(PATIENCE_S)
        passed = (theirs.fileno(), *(one.fileno() for one in listeners))
        with theirs, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*WORKER_COMMAND, str(theirs.fileno())], stdin=subprocess.DEVNULL, stderr=log, pass_fds=passed
            )

    def says(self, message: control.Message | bytes, *descriptors: int) -> None:
        data = message if isinstance(message, bytes) else control.encode(message)
        socket.send_fds(self.pipe, [data], descriptors)

    def hears(self) -> control.Message | None:
        """The next message; None: its end."""
        data = self.pipe.recv(control.MAX_DATAGRAM_BYTES)
        return control.decode(data) if data else None

    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.wait()


# What a worker is told


@pytest.mark.parametrize(
    "first",
    [
        b"no JSON at all",
        b"[]",
        b'{"type":"START"}',
        b'{"type":"START","slot":0,"generation":0,"core":null,"config":{},"listeners":[],"colour":"red"}',
        b'{"type":"DANCE"}',
        control.encode(control.Start(0, 0, None, {**CONFIG, "colour": "red"})),
        control.encode(control.Start(0, 0, None, CONFIG, [control.Listener(999, "http://nowhere")])),
        control.encode(control.Start(0, 0, None, CONFIG, page_fd=999)),
        control.encode(control.Release(1)),
    ],
)
def test_a_start_that_cannot_be_obeyed_ends_the_worker_with_failed(tmp_path: Path, first: bytes) -> None:
    with Bare(tmp_path) as worker:
        worker.says(first)
        said = worker.hears()
        assert isinstance(said, control.Failed)
        assert said.stage == "start"
        assert said.text
        assert worker.hears() is None
        assert worker.process.wait(PATIENCE_S) == 3
        assert "Traceback" not in worker.log()


def test_a_running_worker_ignores_what_it_does_not_understand(
    tmp_path: Path, listener: socket.socket
) -> None:
    nonsense = [
        b"no JSON at all",
        b"\x00\xff" * 1000,
        b"[]",
        b'{"type":"DANCE"}',
        b'{"type":"DRAIN"}',
        b'{"type":"ADOPT","slot":1,"urls":[],"colour":"red"}',
        control.encode(control.Hello(1)),
        control.encode(start()),
    ]
    with Bare(tmp_path, listener) as worker:
        worker.says(start(listener))
        assert isinstance(worker.hears(), control.Ready)
        before = descriptors_at_rest(fresh(port_of(listener))["pid"])
        for data in nonsense:
            worker.says(data, listener.fileno(), listener.fileno())  # descriptors of nonsense are closed
        until(lambda: worker.log().count("Ignored ") == len(nonsense), "all of it to be ignored, and logged")
        assert descriptors_at_rest(fresh(port_of(listener))["pid"]) == before
        worker.says(control.Drain(0.0, 5.0))
        assert worker.hears() == control.Drained(served=2, cut=0)
        assert worker.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in worker.log()


# Whether it listens


class Stuck:
    """A worker of a real crew that has been stopped, with its pipe full."""

    def __init__(self, *listeners: socket.socket) -> None:
        self.now = time.monotonic()
        self.crew = Crew()
        worker = start_worker(start(*listeners), self.now, sockets=listeners)
        assert worker.handle.pid
        self.pid = worker.handle.pid
        self.process = Process(self.pid, 0, 0, self.now)
        self.channel = worker.channel
        self.crew.add(self.process, worker)
        until(lambda: any(isinstance(one, control.Ready) for _, one in self.crew.hear(self.now)), "READY")
        os.kill(self.pid, signal.SIGSTOP)
        self.sent = 0
        while not self.channel.wants_to_send:
            self.crew.send(self.process, control.Release(7), self.now)
            self.sent += 1

    def reaped(self) -> int:
        codes: list[int] = []
        until(lambda: codes.extend(code for _, code in self.crew.reap(self.now, lambda *_: None)) or codes)
        return codes[0]

    def __enter__(self) -> Stuck:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.crew:
            member.worker.handle.kill()
            self.reaped()


def test_what_does_not_fit_into_a_full_pipe_is_sent_when_there_is_room(listener: socket.socket) -> None:
    """In order, with its descriptors, and nobody waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as second, Stuck(listener) as stuck:
        print(f"the pipe is full with {stuck.sent} messages")
        assert stuck.channel.stuck_since == stuck.now
        for _ in range(1000):
            stuck.crew.send(stuck.process, control.Release(8), stuck.now)
        stuck.crew.send(stuck.process, control.Adopt(1, ["http://second"]), stuck.now, [second])
        assert list(stuck.crew.hear(stuck.now)) == []
        os.kill(stuck.pid, signal.SIGCONT)

        def sent() -> bool:
            list(stuck.crew.hear(stuck.now))
            return not stuck.channel.wants_to_send

        until(sent, "everything to be sent")
        assert stuck.channel.stuck_since is None
        assert fresh(port_of(second))["pid"] == stuck.pid
        assert fresh(port_of(listener))["pid"] == stuck.pid


def test_a_drain_reaches_one_that_was_stuck(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second, Stuck(listener) as stuck:
        stuck.crew.send(stuck.process, control.Adopt(1, ["http://second"]), stuck.now, [second])
        stuck.crew.send(stuck.process, control.Drain(0.0, 5.0), stuck.now, last=True)
        os.kill(stuck.pid, signal.SIGCONT)
        said: list[control.Message] = []
        until(lambda: said.extend(one for _, one in stuck.crew.hear(stuck.now)) or said, "its last words")
        assert said == [control.Drained(served=0, cut=0)]
        assert stuck.reaped() == 0


def test_one_that_never_reads_is_killed(listener: socket.socket) -> None:
    with Stuck(listener) as stuck:
        stuck.crew.kill_overdue(stuck.now + STUCK_KILL_S - 1)
        until(lambda: psutil.Process(stuck.pid).status() == psutil.STATUS_STOPPED, "it to stand still, alive")
        stuck.crew.kill_overdue(stuck.now + STUCK_KILL_S)
        assert stuck.reaped() == -signal.SIGKILL


def test_a_worker_that_stands_still_holds_up_nobody_else(serve: Serve) -> None:
    """The master goes on: it replaces another one that dies meanwhile, and answers."""
    server = serve("faulty:app", "--workers", "3", "--no-access-log", quiet=False)
    found = {one["slot"]: one["pid"] for one in server.ctl("workers")["workers_list"]}
    still = psutil.Process(found[0])
    still.suspend()
    for _ in range(2):
        victims = {one["slot"]: one["pid"] for one in server.ctl("workers")["workers_list"] if one["slot"]}
        for pid in victims.values():
            os.kill(pid, signal.SIGKILL)
        until(lambda old=victims: replaced(server.ctl("workers")["workers_list"], old), "their successors")
    still.resume()
    with Load.mixed(server.port) as load:
        load.goes_on(300)
    print(f"after a standstill of worker 0: {load.requests} requests, {len(load.failed)} failed")
    assert load.failed == []
    assert {fresh(server.port)["pid"] for _ in range(100)} == server.pids()
    assert found[0] in server.pids()


def replaced(workers: list[dict[str, Any]], old: dict[int, int]) -> bool:
    ready = {one["slot"]: one["pid"] for one in workers if one["state"] == "ready"}
    return all(ready.get(slot) not in (None, pid) for slot, pid in old.items())
