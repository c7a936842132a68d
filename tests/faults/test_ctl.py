"""``shardserve ctl`` against a real server: what it shows is true, and what it orders happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardserve.master import affinity
from tests.helpers.load import Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Ended, Serve, ServerProcess
from tests.helpers.versioned import write_app

TWO = ("--workers", "2", "--no-access-log", "--timeout-drain-idle", "2")


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    write_app(tmp_path, 1)
    return tmp_path


def workers(server: ServerProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ctl("workers")["workers_list"]
    return found


def total(server: ServerProcess, figure: str) -> float:
    return sum(one[figure] or 0 for one in workers(server))


# Seeing


def test_status_for_people(serve: Serve) -> None:
    server = serve("faulty:app", *TWO)
    done = server.run_ctl("status")
    assert done.returncode == 0
    first, second, empty, titles, *rows = done.stdout.splitlines()
    assert first.startswith(f"faulty:app on {server.url}: serving, up ")
    assert f"pid {server.pid}, generation 0, 0 reloads, 2 of 2 workers ready" in second
    assert empty == ""
    assert titles.split()[:4] == ["slot", "state", "core", "pid"]
    assert {int(row.split()[3]) for row in rows} == server.pids()
    assert [row.split()[:2] for row in rows] == [["0", "ready"], ["1", "ready"]]
    assert done.stderr == ""
    assert server.run_ctl("workers").stdout.splitlines()[0] == titles


def test_status_as_json(serve: Serve, notes: Path) -> None:
    server = serve("faulty:app", *TWO)
    status = server.ctl("status")
    expected = {"ok": True, "pid": server.pid, "app": "faulty:app", "phase": "serving", "urls": [server.url]}
    assert status.items() >= {**expected, "workers": 2, "generation": 0, "reloads": 0}.items()
    found = status["workers_list"]
    assert [one["state"] for one in found] == ["ready", "ready"]
    assert {one["pid"] for one in found} == server.pids()
    for one in found:
        assert psutil.Process(one["pid"]).cpu_affinity() == [one["core"]]
        assert one["restarts"] == {}
        assert one["uptime_s"] > 0
    with ThreadPoolExecutor(6) as pool, Load.mixed(server.port, kept=3, new=1, uploads=1) as load:
        go = notes / "go"
        held = [pool.submit(fresh, server.port, f"/hold?{go}") for _ in range(6)]
        try:
            until(lambda: total(server, "in_flight") >= 6, "the held requests in flight")
            until(lambda: total(server, "connections") >= 6, "their connections")
            until(lambda: total(server, "rps") > 0, "a rate")
        finally:
            go.touch()
        assert all(one.result()["pid"] in server.pids() for one in held)
    until(lambda: total(server, "served") == load.requests + 6, "every request to be counted")
    assert load.failed == []
    assert server.ctl("status")["requests"] == load.requests + 6
    until(lambda: total(server, "in_flight") == 0, "nothing in flight")
    for one in workers(server):
        worker = psutil.Process(one["pid"])
        assert 0.5 < one["rss_bytes"] / worker.memory_info().rss < 2
        assert 0 <= one["loop_lag_ms"] <= one["loop_lag_max_ms"]


def test_restarts_by_cause(serve: Serve) -> None:
    server = serve("faulty:app", *TWO, quiet=False)
    victim = workers(server)[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    until(
        lambda: (
            [one["state"] for one in workers(server)] == ["ready", "ready"]
            and victim not in [one["pid"] for one in workers(server)]
        ),
        "another one to be ready",
    )
    assert [one["restarts"] for one in workers(server)] == [{}, {"SIGKILL": 1}]
    assert "1 (SIGKILL 1)" in server.run_ctl("status").stdout


def test_the_lag_of_a_blocked_loop_is_shown(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "1")
    fresh(server.port, "/block?0.5")
    until(lambda: total(server, "loop_lag_max_ms") >= 200, "the lag")


# Ordering


def test_scale_up_and_down_under_load(serve: Serve) -> None:
    server = serve("faulty:app", *TWO)
    with Load.mixed(server.port) as load:
        for count in (3, 1):
            before = server.ctl("status")["workers"]
            reply = server.ctl("scale", str(count))
            assert reply["message"] == f"{count} workers from now on; there were {before}"
            until(
                lambda count=count: [one["state"] for one in workers(server)] == ["ready"] * count,
                f"{count} workers",
            )
            load.goes_on(200)
    print(f"scaled 2 → 3 → 1: {load.requests} requests, {len(load.failed)} failed")
    assert load.failed == []
    assert len(server.pids()) == 1
    assert server.ctl("status")["workers"] == 1


def test_reload_waits_until_it_is_done(serve: Serve, app_dir: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir)
    with Load.mixed(server.port, key="version") as load:
        for version in (2, 3):
            before = server.pids()
            write_app(app_dir, version)
            done = server.run_ctl("reload")
            assert (done.returncode, done.stdout) == (0, "2 replaced\n")
            assert done.stderr.count("is ready") == 2  # its progress
            assert {fresh(server.port)["version"] for _ in range(20)} == {version}
            until(lambda before=before: not before & server.pids(), "the old workers to go")
    print(f"two reloads by ctl: {load.requests} requests, {len(load.failed)} failed")
    assert load.failed == []
    status = server.ctl("status")
    assert (status["reloads"], status["generation"]) == (2, 2)


def test_a_reload_that_fails_says_why(serve: Serve, app_dir: Path, notes: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir, quiet=False)
    before = server.pids()
    (notes / "broken").touch()
    done = server.run_ctl("reload")
    assert done.returncode == 1
    assert "LookupError: the new version is broken" in done.stderr
    status = server.ctl("status")
    assert (status["reloads"], status["reload_failures"], status["phase"]) == (0, 1, "serving")
    assert "LookupError: the new version is broken" in status["config_problems"][0]
    assert "! " in server.run_ctl("status").stdout
    assert {fresh(server.port)["pid"] for _ in range(20)} <= before


def test_reload_without_waiting(serve: Serve, app_dir: Path, notes: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir)
    before = server.pids()
    (notes / "hold").touch()
    assert server.ctl("reload", "--no-wait")["message"] == "reloading"
    until(lambda: server.ctl("status")["phase"] == "reloading", "the reload to begin")
    assert "reloading" in [one["state"] for one in workers(server)]
    (notes / "hold").unlink()
    until(lambda: server.ctl("status")["reloads"] == 1, "the reload to end")
    until(lambda: not before & server.pids(), "the old workers to go")


def test_stop_finishes_what_is_in_flight_and_waits_for_it(serve: Serve, notes: Path) -> None:
    server = serve("faulty:app", *TWO)
    go = notes / "go"
    port = server.port
    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(fresh, port, f"/hold?{go}") for _ in range(8)]
        until(lambda: total(server, "in_flight") == 8, "all to be in flight")
        stopping = pool.submit(server.run_ctl, "stop")
        server.saw(r"told to stop by ctl \(pid \d+ of uid \d+\)")
        assert server.ctl("status")["phase"] == "stopping"
        assert not stopping.done()
        go.touch()
        assert len([one.result()["pid"] for one in asked]) == 8
        done = stopping.result()
    assert (done.returncode, done.stdout) == (0, "stopping\nstopped\n")
    assert server.ended() == 0


def test_stop_by_force_cuts(serve: Serve) -> None:
    server = serve("faulty:app", *TWO, "--timeout-graceful-shutdown", "60")
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(b"GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100)
        done = server.run_ctl("stop", "--force", "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)["ok"] is True
        assert server.ended() == 0
    assert "told to stop at once: cutting what is in flight" in server.log()


def test_several_commands_at_once(serve: Serve) -> None:
    """A reload that waits holds nobody else up."""
    server = serve("faulty:app", *TWO, env={"IMPORT_S": "0.2"})
    with ThreadPoolExecutor(8) as pool:
        reloads = [pool.submit(server.ctl, "reload") for _ in range(2)]
        statuses = [pool.submit(server.ctl, "status") for _ in range(6)]
        assert {one.result()["pid"] for one in statuses} == {server.pid}
        assert all(one.result()["ok"] for one in reloads)


# The socket


def test_only_its_owner_may_use_the_socket(serve: Serve) -> None:
    server = serve("faulty:app", *TWO)
    path = server.runtime / f"shardserve-{server.pid}.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.stop()
    assert not path.exists()


def test_a_socket_that_is_not_ours_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "ctl.sock"
    with socket.socket(socket.AF_UNIX) as others:
        others.bind(str(path))
        others.listen()
        inode = path.stat().st_ino
        ended = Ended(tmp_path, "faulty:app", *TWO, env={"SHARDSERVE_CONTROL_SOCKET": str(path)})
        assert ended.code == 1
        assert f"cannot make the control socket {path}: pid {os.getpid()} answers there" in ended.text
        assert (ended.tracebacks, ended.left) == (0, [])
        assert path.stat().st_ino == inode
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ctl.sock"
    path.write_text("precious")
    ended = Ended(tmp_path, "faulty:app", *TWO, env={"SHARDSERVE_CONTROL_SOCKET": str(path)})
    assert ended.code == 1
    assert f"cannot make the control socket {path}: something that is not a socket is there" in ended.text
    assert path.read_text() == "precious"


def test_a_stale_socket_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "ctl.sock"
    first = serve("faulty:app", *TWO, "--control-socket", str(path), quiet=False)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.family() == [], "all of it to end")
    assert path.is_socket()
    second = serve("faulty:app", *TWO, "--control-socket", str(path))
    assert second.ctl("status", "--socket", str(path))["pid"] == second.pid
    second.stop()
    assert not path.exists()


def test_no_server(serve: Serve, tmp_path: Path) -> None:
    server = serve("faulty:app", *TWO)
    server.stop()
    done = server.run_ctl("status")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no running server was found" in done.stderr
    missing = server.run_ctl("status", "--socket", str(tmp_path / "none.sock"))
    assert missing.returncode == 1
    assert f"there is no control socket {tmp_path / 'none.sock'}" in missing.stderr
    other = server.run_ctl("status", "--pid", str(os.getpid()))
    assert other.returncode == 1
    assert f"no server with pid {os.getpid()} was found" in other.stderr


def test_cores_are_those_of_the_slots(serve: Serve) -> None:
    cores = affinity.usable().order
    server = serve("faulty:app", "--workers", str(len(cores)))
    assert sorted(one["core"] for one in workers(server)) == sorted(cores)
