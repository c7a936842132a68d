"""The real master with fake workers that die: nothing that waits in a queue is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from tests.helpers.master_process import MasterProcess, until
from tests.helpers.queues import ask, read_all

CONNECTIONS = 20


def stall_one(master: MasterProcess, port: int) -> int:
    return int(master.ask("/stall", port)["pid"])


def test_nothing_in_the_queue_of_a_killed_worker_is_lost(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2) as master:
        port = master.ready().port
        victim = stall_one(master, port)
        clients = [ask(port) for _ in range(CONNECTIONS)]
        os.kill(victim, signal.SIGKILL)
        answers = [read_all(client) for client in clients]
        assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
        assert not any(f'"pid": {victim},'.encode() in answer for answer in answers)
        master.saw(rf"worker \d \(pid {victim}\) ended \(killed by SIGKILL")
        master.saw(r"worker \d \(pid \d+\) is ready", 3)
        assert len(master.pids()) == 2


def test_a_crash_loop_backs_off_and_the_neighbour_serves_for_it(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2, app="fake:crash-after-ready@1") as master:
        master.saw(r"worker 1 starts again in 0\.2 s")
        master.saw("worker 0 accepts for slot 1")
        # Every connection is answered, those that the kernel deals to slot 1 as well.
        clients = [ask(master.port) for _ in range(CONNECTIONS)]
        answers = [read_all(client) for client in clients]
        assert all(b'"slot": 0' in answer for answer in answers)
        master.saw(r"worker 1 starts again in 0\.8 s")
        assert psutil.Process(master.pid).is_running()


def test_a_worker_that_says_nothing_sensible_is_ignored(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1) as master:
        pid = master.ready().ask()["pid"]
        os.kill(pid, signal.SIGTERM)  # the fake one has no handler: it dies, for no reason of ours
        master.saw("ended .killed by SIGTERM")
        until(lambda: master.pids() - {pid}, "a successor")
        assert master.ask()["pid"] != pid
