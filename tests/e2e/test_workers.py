"""Two workers on two cores: both serve, each on its own core; and what happens when one dies."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shardserve.master import affinity
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, ServerProcess

CONNECTIONS = 200
DEMO: dict[str, Any] = {"app_dir": None}

needs_two_cores = pytest.mark.skipif(len(affinity.usable().order) < 2, reason="needs two usable cores")


def ask(port: int, path: str = "/") -> bytes:
    """One request on a connection of its own: the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        connection.close()


def whoami(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(port, "/whoami"))
    return found


def allowed_cores(pid: int) -> str:
    found = re.search(r"Cpus_allowed_list:\s*(\S+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return found[1]


def nanoseconds_on_cpu(pid: int) -> int:
    """proc(5): schedstat's first field."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


@needs_two_cores
def test_both_workers_serve_each_on_its_own_core(serve: Serve) -> None:
    server = serve("shardserve.demo:app", "--workers", "2", **DEMO)
    pids, port = server.pids(), server.port
    before = {pid: nanoseconds_on_cpu(pid) for pid in pids}
    answers = [whoami(port) for _ in range(CONNECTIONS)]
    hits = Counter(answer["pid"] for answer in answers)
    assert set(hits) == pids
    # The kernel hashes; a fair coin gives fewer than 40 of 200 once in 10^17 times.
    assert min(hits.values()) >= 40, hits
    for pid in pids:
        last = max((answer for answer in answers if answer["pid"] == pid), key=lambda one: one["requests"])
        assert last["requests"] == hits[pid]
        assert allowed_cores(pid) == str(last["core"])
        assert nanoseconds_on_cpu(pid) > before[pid]
    assert len({allowed_cores(pid) for pid in pids}) == 2
    # The master is not pinned, and has no part in the requests.
    assert allowed_cores(server.pid) == allowed_cores(os.getpid())


def test_without_affinity_workers_may_run_anywhere(serve: Serve) -> None:
    server = serve("shardserve.demo:app", "--workers", "1", "--no-affinity", **DEMO)
    assert whoami(server.port)["cores"] == sorted(os.sched_getaffinity(0))
    assert "1 worker, not pinned" in server.log()


def test_one_worker_for_each_core_is_the_default(serve: Serve) -> None:
    server = serve("shardserve.demo:app", **DEMO)
    assert len(server.pids()) == affinity.usable().workers


def test_a_killed_worker_is_replaced_and_service_goes_on(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2", quiet=False)
    port, before = server.port, server.pids()
    # A keep-alive connection to each worker.
    kept: dict[int, http.client.HTTPConnection] = {}

    def connect() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("GET", "/")
        kept.setdefault(json.loads(connection.getresponse().read())["pid"], connection)
        return len(kept) == 2

    until(connect, "a connection to each worker")
    victim, other = kept
    next(one for one in server.workers() if one.pid == victim).kill()
    # The other one does not notice; new connections are all answered, by whoever is there.
    kept[other].request("GET", "/")
    assert json.loads(kept[other].getresponse().read())["pid"] == other
    answers = {json.loads(ask(port))["pid"] for _ in range(20)}
    assert victim not in answers
    until(lambda: len(server.pids()) == 2 and victim not in server.pids(), "a successor")
    [successor] = server.pids() - before
    until(lambda: json.loads(ask(port))["pid"] == successor, "the successor to answer")
    server.saw(rf"^ERROR:    worker \d \(pid {victim}\) ended \(killed by SIGKILL")
    for connection in kept.values():
        connection.close()


def test_an_app_that_crashes_takes_only_its_own_connections(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2", quiet=False)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(server.port, "/die")
    for _ in range(20):
        ask(server.port)
    server.saw(r"^ERROR:    worker \d \(pid \d+\) ended \(exit code 7\)")
    until(lambda: len(server.pids()) == 2, "a successor")


def test_a_worker_told_to_go_is_replaced_without_loss(serve: Serve, notes: Path) -> None:
    """TERM to a worker alone: an operator, or a tool that recycles processes."""
    server = serve("probe:app", "--workers", "1")
    [old] = server.workers()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: list(notes.glob("here-*")), "the request to arrive")
        old.send_signal(signal.SIGTERM)
        server.saw(r"Got SIGTERM: finishing what is in flight")
        (notes / "go").touch()
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert json.loads(ask(server.port))["pid"] != old.pid


def test_fewer_and_more_workers_on_the_run(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2")
    port = server.port
    server.send(signal.SIGTTOU)
    server.saw(r"worker 0 accepts for (worker|slot) 1\b")
    until(lambda: len(server.pids()) == 1, "one worker to go")
    # The kernel still deals connections to both queues; the one worker has both.
    assert len({json.loads(ask(port))["pid"] for _ in range(30)}) == 1
    server.send(signal.SIGTTIN)
    until(lambda: len(server.pids()) == 2, "the second worker")
    until(lambda: len({json.loads(ask(port))["pid"] for _ in range(10)}) == 2, "both to answer")


def test_workers_follow_a_master_that_is_killed(serve: Serve) -> None:
    server: ServerProcess = serve("probe:app", "--workers", "2")
    server.process.kill()
    server.process.wait(PATIENCE_S)
    until(lambda: not server.family(), "the workers to end")
    assert server.log().count("The master is gone") == 2
