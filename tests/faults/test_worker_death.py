"""A worker dies: nothing that is queued is lost, the slot is back, and why it died is told and counted."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import until
from tests.helpers.queues import (
    Asking,
    ask,
    fill_queue,
    queued,
    read_all,
    restarts,
    settled,
    succeeded,
    workers,
)
from tests.helpers.server import APPS, Serve, ServerProcess

CONNECTIONS = 20
# faulty.py, but only one worker lives while a file is there: the one that has the lock.
CRASHING = """
import asyncio, fcntl, os
from faulty import app as rest

NOTES = os.environ["NOTES"]
LOCK = open(NOTES + "/lock", "a")

def survives():
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return not os.path.exists(NOTES + "/crash")
    return True

async def app(scope, receive, send):
    if scope["type"] == "lifespan" and not survives():
        if os.environ["WHEN"] == "starting":
            os._exit(9)
        asyncio.get_running_loop().call_later(0.1, os._exit, 9)
    await rest(scope, receive, send)
"""


def stall_one(server: ServerProcess, asking: Asking) -> int:
    """The pid of the worker that ``asking`` has blocked."""
    found = re.search(r"worker \d \(pid (\d+)\): its event loop has not turned", server.saw("has not turned"))
    assert found
    return int(found[1])


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_in_the_queue_of_a_killed_worker_is_lost(serve: Serve, count: int) -> None:
    flags = ("--workers", str(count), "--loop-lag-warn", "0.3", "--no-access-log")
    server = serve("faulty:app", *flags, quiet=False)
    port = server.port
    with Asking(port, "/block?1000") as blocked:
        victim = stall_one(server, blocked)
        clients = fill_queue(port, CONNECTIONS)
        os.kill(victim, signal.SIGKILL)
        answered = succeeded(clients)
    print(f"{count} workers: {len(clients)} connections, {len(clients) - answered} lost")
    assert answered == len(clients)
    assert blocked.answer == b""  # it was in flight
    settled(server, count)
    assert queued(port) == 0
    assert restarts(server) == {"SIGKILL": 1}
    assert re.search(
        rf"worker \d \(pid {victim}\) ended \(killed by SIGKILL, perhaps for want of memory\) "
        r"after \d+\.\d s of service, with [1-9]\d+ MiB resident",
        server.log(),
    )


def test_only_what_was_in_flight_is_lost_under_load(serve: Serve) -> None:
    """Each client has one request at a time, so each death costs each of them at most one."""
    server = serve("faulty:app", "--workers", "2", "--no-access-log", quiet=False)
    port, clients, deaths = server.port, 4, 3
    with Load(*[lambda: fresh(port) for _ in range(clients)], pause_s=0.01) as load:
        for number in range(deaths):
            seen = load.requests
            until(lambda seen=seen: load.requests >= seen + 100, "some requests")
            victim = max(server.pids())
            os.kill(victim, signal.SIGKILL)
            until(lambda number=number: restarts(server)["SIGKILL"] == number + 1, "its burial")
            settled(server, 2)
            since = len(load.failed)
            seen = load.requests
            until(lambda seen=seen: load.requests >= seen + 100, "some requests")
            assert len(load.failed) == since, "fails after the worker is back"
    print(f"{deaths} deaths, {load.requests} requests, {len(load.failed)} errors: {load.failed}")
    assert len(load.failed) <= deaths * clients
    # A connection that an accepting worker had; none that was refused, and none that waited in vain.
    assert all(re.match("ConnectionReset|RemoteDisconnected", text) for text in load.failed), load.failed


def test_the_slot_is_started_again_in_the_turn_that_buries_its_worker(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", "--log-level", "debug", "--no-access-log", quiet=False)
    victim = fresh(server.port)["pid"]
    os.kill(victim, signal.SIGKILL)
    log = re.sub(r".*\[worker .*\n", "", server.saw("is ready", 3))  # what the master says
    # Between the two, nothing but the table's steps: neither a wait nor another worker's message.
    assert re.search(
        rf"worker (\d) \(pid {victim}\) ended.*\n(?:DEBUG: +slot \d: .*\n)*DEBUG: +worker \1 starts on core",
        log,
    )
    assert "starts again in" not in log


def test_a_segfault_is_told_with_its_stack_and_counted(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", "--no-access-log", quiet=False)
    pid = fresh(server.port)["pid"]
    assert read_all(ask(server.port, "/segfault")) == b""
    log = server.saw(r"ended \(killed by SIGSEGV\) after .* MiB resident")
    found = re.search(r"worker (\d) \(pid (\d+)\): its Python stack at the end:\n((?:    .*\n)+)", log)
    assert found, log
    assert "Segmentation fault" in found[3]
    assert re.search(r'File ".*faulty\.py", line \d+ in segfault', found[3])
    settled(server, 2)
    assert restarts(server) == {"SIGSEGV": 1}
    victim = int(found[2])
    assert victim not in server.pids()
    assert pid in server.pids() or pid == victim  # the other one was left alone


def test_an_exit_is_told_with_its_code_and_counted(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", "--no-access-log", quiet=False)
    assert read_all(ask(server.port, "/leave?7")) == b""
    server.saw(r"ERROR:    worker \d \(pid \d+\) ended \(exit code 7\) after")
    assert read_all(ask(server.port, "/leave?0")) == b""  # nor is leaving without being told all right
    server.saw(r"worker \d \(pid \d+\) ended \(exit code 0\) after")
    settled(server, 2)
    assert restarts(server) == {"exit 7": 1, "exit 0": 1}


@pytest.mark.parametrize("when", ["starting", "serving"])
def test_a_crash_loop_backs_off_and_heals(serve: Serve, tmp_path: Path, notes: Path, when: str) -> None:
    """One slot crashes on and on; the other one serves for it."""
    (tmp_path / "crashing.py").write_text(CRASHING)
    server = serve(
        "crashing:app", "--workers", "2", "--no-access-log",
        app_dir=tmp_path, env={"PYTHONPATH": str(APPS), "WHEN": when}, quiet=False,
    )  # fmt: skip
    port, crash = server.port, notes / "crash"
    crash.touch()
    survivor, victim = sorted(server.pids(), key=lambda pid: not holds_lock(pid, notes / "lock"))
    slot = next(one["slot"] for one in workers(server) if one["pid"] == victim)
    os.kill(victim, signal.SIGKILL)
    server.saw(f"worker {1 - slot} accepts for slot {slot} meanwhile")
    with Load(*[lambda: fresh(port) for _ in range(3)], pause_s=0.02) as load:
        log = server.saw(rf"worker {slot} starts again in 0\.4 s")
        load.goes_on(CONNECTIONS)
    delays = re.findall(rf"worker {slot} starts again in (\d+\.\d) s", log)
    print(f"{when}: delays {delays}, {load.requests} requests, {len(load.failed)} errors")
    assert delays[:3] == ["0.1", "0.2", "0.4"]
    cause = "start" if when == "starting" else "exit 9"
    assert restarts(server)[cause] >= 3
    if when == "starting":  # what a worker accepted goes down with it, but one that starts accepts nothing
        assert load.failed == []
        assert set(load.answers) == {survivor}
    crash.unlink()
    settled(server, 2)
    server.saw(rf"Released the listeners of slot {slot}")
    until(lambda: fresh(port)["pid"] != survivor, "an answer of the healed worker")
    assert survivor in server.pids()


def holds_lock(pid: int, path: Path) -> bool:
    """Whether this process has the lock on the file."""
    inode = path.stat().st_ino
    return bool(re.search(rf"FLOCK .* {pid} \S+:{inode} ", Path("/proc/locks").read_text()))
