"""The real master with fake workers: starting, pinning, refusing, stopping."""

from __future__ import annotations

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from shardserve.master import affinity
from tests.helpers.master_process import MasterProcess, until


def allowed_list(pid: int) -> str:
    found = re.search(r"Cpus_allowed_list:\s*(\S+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return found[1]


def test_one_pinned_worker_for_each_usable_core(tmp_path: Path) -> None:
    cores = affinity.usable()
    with MasterProcess(tmp_path) as master:
        master.ready()
        pids = master.pids()
        assert len(pids) == cores.workers
        assert {int(allowed_list(pid)) for pid in pids} <= set(cores.order)
        assert len({allowed_list(pid) for pid in pids}) == len(pids)
        answers = master.ask_each(cores.workers)
        for slot, answer in answers.items():
            # Pinned already when START came, before the app's import.
            assert answer["cores"] == [int(allowed_list(answer["pid"]))], slot


def test_without_affinity_nobody_is_pinned(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1, affinity=False) as master:
        assert master.ready().ask()["cores"] == sorted(psutil.Process().cpu_affinity())
        assert "1 worker, not pinned" in master.log()


def test_a_worker_inherits_its_own_sockets_only_and_a_session(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2) as master:
        for answer in master.ready().ask_each(2).values():
            assert answer["unexpected_fds"] == []
            assert answer["session"] == answer["pid"]


def test_every_kind_of_bind_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    bind = ["127.0.0.1:0", f"unix:{path}"]
    with MasterProcess(tmp_path, workers=2, bind=bind, uds_permissions=0o640) as master:
        assert master.ready().ask()["slot"] in (0, 1)
        assert path.stat().st_mode & 0o777 == 0o640
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert not path.exists()


def test_an_inherited_tcp_socket_is_served_as_tcp(tmp_path: Path) -> None:
    mine = socket.create_server(("127.0.0.1", 0))
    with mine, MasterProcess(tmp_path, workers=2, fd=mine.fileno()) as master:
        assert master.ready().ask(port=mine.getsockname()[1])["slot"] in (0, 1)


def test_a_port_in_use_is_refused_and_its_owner_named(tmp_path: Path) -> None:
    mine = socket.create_server(("127.0.0.1", 0))
    port = mine.getsockname()[1]
    with mine, MasterProcess(tmp_path, port=port) as master:
        assert master.ended() == 1
        assert f"127.0.0.1:{port}: the address is in use by pid {os.getpid()} (" in master.log()
        assert "Traceback" not in master.log()


def test_a_second_master_on_the_same_port_is_refused(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with MasterProcess(tmp_path, workers=1) as first:
        port = first.ready().port
        with MasterProcess(tmp_path / "second", workers=1, port=port) as second:
            assert second.ended() == 1
            assert f"in use by pid {first.pid} (" in second.log()
        assert first.ask()["slot"] == 0


@pytest.mark.parametrize(
    ("app", "text"), [("fake:fail-import", "No module named 'nowhere'"), ("fake:die-at-start", "exit code 7")]
)
def test_an_app_that_does_not_start_is_told_once_and_ends_with_3(tmp_path: Path, app: str, text: str) -> None:
    with MasterProcess(tmp_path, workers=3, app=app, log_level="info") as master:
        assert master.ended() == 3
        assert master.log().count(text) == 1
        assert "Traceback" not in master.log()


def test_one_failing_worker_stops_those_that_hang(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2, app="fake:fail-import@0,hang-start@1") as master:
        assert master.ended() == 3


def test_a_start_that_hangs_can_be_stopped(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1, app="fake:hang-start") as master:
        until(master.pids)
        master.send(signal.SIGINT)
        assert master.ended() == 0


def test_term_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2) as master:
        port = master.ready().port
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(master.ask, "/slow", port) for _ in range(6)]
            until(lambda: established(master.pids()) >= 6, "all connections are accepted")
            master.send(signal.SIGTERM)
            assert all(one.result()["slot"] in (0, 1) for one in asked)
        assert master.ended() == 0
        assert "2 workers in " in master.log()


def established(pids: set[int]) -> int:
    found = [psutil.Process(pid).net_connections(kind="tcp") for pid in pids]
    return sum(c.status == psutil.CONN_ESTABLISHED for connections in found for c in connections)


def test_new_clients_are_refused_while_the_old_ones_finish(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1) as master:
        port = master.ready().port
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(master.ask, "/slow", port)
            until(lambda: established(master.pids()) >= 1)
            master.send(signal.SIGTERM)
            until(lambda: refused(port), "the port is closed")
            assert not asked.done()
            assert asked.result()["slot"] == 0
        assert master.ended() == 0


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM), (signal.SIGQUIT,)]
)
def test_a_second_signal_and_quit_force_the_end(tmp_path: Path, numbers: tuple[signal.Signals, ...]) -> None:
    with MasterProcess(tmp_path, workers=2, app="fake:ignore-drain") as master:
        master.ready()
        for times, number in enumerate(numbers):
            master.send(number)
            master.saw("stopping|told to stop", times + 1)
        assert master.ended() == 0
        assert "told to stop at once" in master.log()


def test_a_worker_that_ignores_drain_is_killed_at_the_deadline(tmp_path: Path) -> None:
    with MasterProcess(
        tmp_path, workers=2, app="fake:ignore-drain@1", timeout_graceful_shutdown_s=0.2
    ) as master:
        master.ready()
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert len(re.findall("past its deadline: killing it", master.log())) == 1


def test_workers_follow_a_master_that_is_killed(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2) as master:
        pids = master.ready().pids()
        os.kill(master.pid, signal.SIGKILL)
        master.ended()
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the workers exit")


def test_the_master_never_imports_an_event_loop(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1) as master:
        maps = Path(f"/proc/{master.ready().pid}/maps").read_text()
        assert "uvloop" not in maps
        assert "httptools" not in maps
        assert "_asyncio" not in maps
