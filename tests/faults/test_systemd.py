"""What systemd hears and gives: readiness, reloads, the watchdog, an upgrade, sockets; and the pid file."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardserve.master.notify import SYSTEMD_VARIABLES
from tests.helpers.load import Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import APPS, Ended, Serve, ServerProcess
from tests.helpers.versioned import held_up, write_app

TWO = ("--workers", "2", "--no-access-log", "--timeout-drain-idle", "2")
_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True)
class Word:
    """One datagram."""

    pid: int  # whose it is, says the kernel
    lines: tuple[str, ...]


class Manager:
    """A service manager: the socket of $NOTIFY_SOCKET, and all that it heard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[Word] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind(str(path))
        # At once: the kernel does not know the pid any more of a sender that has ended.
        self._thread = threading.Thread(target=self._listen, name="manager")
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._sock.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
            if not data:
                break
            ((_, _, credentials),) = ancillary
            self.heard.append(Word(_UCRED.unpack(credentials)[0], tuple(data.decode().splitlines())))

    def listen(self) -> list[Word]:
        """Everything so far, but for the watchdog's pings and the lines for people."""
        return [one for one in self.heard if not one.lines[0].startswith(("WATCHDOG", "STATUS"))]

    def said(self, how: str) -> list[str]:
        """The lines for people that begin so."""
        return [line for one in self.heard for line in one.lines if line.startswith(f"STATUS={how}")]

    def states(self) -> list[tuple[int, str]]:
        """Who said what, in order: the first line of each."""
        return [(one.pid, one.lines[0]) for one in self.listen()]

    def hears(self, count: int) -> list[tuple[int, str]]:
        """Wait until there are so many."""
        until(lambda: len(self.states()) >= count, f"{count} states; heard {self.heard}")
        return self.states()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RD)
        self._thread.join(PATIENCE_S)
        self._sock.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    write_app(tmp_path, 1)
    return tmp_path


def env(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(manager.path), **more}


# What it hears


def test_ready_when_every_worker_is_and_stopping_at_the_end(
    serve: Serve, manager: Manager, app_dir: Path, notes: Path
) -> None:
    (notes / "hold").touch()
    server = serve("versioned:app", *TWO, app_dir=app_dir, env=env(manager), wait=False)
    held_up(notes, server.pid)
    assert manager.states() == []
    (notes / "hold").unlink()
    assert manager.hears(1) == [(server.pid, "READY=1")]
    assert "ready: 2 workers" in server.log()
    server.stop()
    assert manager.hears(2) == [(server.pid, "READY=1"), (server.pid, "STOPPING=1")]


def test_an_app_that_does_not_start_is_never_ready(manager: Manager, app_dir: Path, notes: Path) -> None:
    (notes / "broken").touch()
    ended = Ended(app_dir, "versioned:app", *TWO, app_dir=app_dir, env=env(manager, NOTES=str(notes)))
    assert ended.code == 3
    assert "READY=1" not in [state for _, state in manager.states()]


def test_a_reload_is_told_with_its_time(serve: Serve, manager: Manager) -> None:
    server = serve("faulty:app", *TWO, env=env(manager))
    before = server.pids()
    asked_at_us = time.monotonic_ns() // 1000
    server.send(signal.SIGHUP)
    words = manager.hears(3)
    assert [state for _, state in words] == ["READY=1", "RELOADING=1", "READY=1"]
    (reloading,) = [one for one in manager.listen() if one.lines[0] == "RELOADING=1"]
    name, _, told_at_us = reloading.lines[1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert asked_at_us <= int(told_at_us) <= time.monotonic_ns() // 1000
    until(lambda: not before & server.pids(), "the old workers to go")


def test_a_reload_that_fails_ends_as_well(serve: Serve, manager: Manager, app_dir: Path, notes: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir, env=env(manager), quiet=False)
    (notes / "broken").touch()
    server.send(signal.SIGHUP)
    assert [state for _, state in manager.hears(3)] == ["READY=1", "RELOADING=1", "READY=1"]
    said = until(lambda: manager.said("reload failed"), "its STATUS, which comes behind the state")
    assert "LookupError: the new version is broken" in said[0]


def test_the_watchdog_is_answered(serve: Serve, manager: Manager) -> None:
    """By the master, also while a worker hangs."""
    server = serve("faulty:app", *TWO, env=env(manager, WATCHDOG_USEC="200000"))

    def pings() -> list[Word]:
        return [one for one in manager.heard if one.lines == ("WATCHDOG=1",)]

    until(lambda: len(pings()) >= 5, "five pings")
    workers = server.workers()
    for one in workers:
        one.suspend()
    seen = len(pings())
    until(lambda: len(pings()) >= seen + 5, "five more")
    for one in workers:
        one.resume()
    assert {one.pid for one in pings()} == {server.pid}


def test_an_upgrade_names_the_new_main_process(serve: Serve, manager: Manager) -> None:
    server = serve("faulty:app", *TWO, env=env(manager, WATCHDOG_USEC="200000"))
    old = server.pid
    new = server.upgraded()
    server.stop()
    words = manager.hears(5)
    main = f"MAINPID={new}"
    assert [state for pid, state in words if pid == new] == [main, "READY=1", "STOPPING=1"]
    # The old one is silent from then on: its own stop is not the unit's.
    assert [state for pid, state in words if pid == old] == ["READY=1", main]
    assert {one.pid for one in manager.heard} == {old, new}
    pinged = {one.pid for one in manager.heard if one.lines == ("WATCHDOG=1",)}
    assert pinged == {old, new}


def test_an_upgrade_that_fails_is_not_told(
    serve: Serve, manager: Manager, app_dir: Path, notes: Path
) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir, env=env(manager), quiet=False)
    (notes / "broken").touch()
    server.upgrade()
    server.saw("the upgrade failed")
    server.stop()
    assert manager.hears(2) == [(server.pid, "READY=1"), (server.pid, "STOPPING=1")]


# What it gives

LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "shardserve", *sys.argv[2:]])
"""


def activated(serve: Serve, listener: socket.socket, **more: str) -> ServerProcess:
    """As systemd starts it: the socket is descriptor 3, and LISTEN_PID is its own pid."""
    flags = ("faulty:app", *TWO, "--app-dir", str(APPS))
    return serve(
        None,
        program=("-c", LAUNCHER, str(listener.fileno()), *flags),
        pass_fds=[listener.fileno()],
        env={"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", **more},
    )


def test_a_socket_from_systemd_is_served_by_both_workers(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = activated(serve, listener)
        assert server.urls == [f"http://127.0.0.1:{port}"]
        pids: set[int] = set()
        until(lambda: pids.add(fresh(port)["pid"]) or len(pids) == 2, "both workers to answer")
        assert pids == server.pids()
        server.stop()
        # It is systemd's, and waits for the next start.
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S):
            pass


def test_a_new_master_has_the_sockets_from_systemd(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = activated(serve, listener)
        with Load.mixed(port) as load:
            load.goes_on(100)
            server.upgraded()
            load.goes_on(100)
        print(f"an upgrade with a socket from systemd: {load.requests} requests, {len(load.failed)} failed")
        assert load.failed == []
        assert {fresh(port)["pid"] for _ in range(20)} <= server.pids()
        server.stop()


def test_workers_do_not_see_what_is_the_masters(serve: Serve, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = activated(serve, listener, **env(manager, WATCHDOG_USEC="9000000"))
        workers = server.workers()
        assert len(workers) == 2
        for one in workers:
            assert not set(SYSTEMD_VARIABLES) & set(one.environ())


# The pid file


def test_a_second_server_with_the_same_pid_file_is_refused(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text("1\n")  # left by one that is gone, and its pid is another's now
    server = serve("faulty:app", *TWO, "--pid", str(path))
    assert path.read_text() == f"{server.pid}\n"
    second = Ended(tmp_path, "faulty:app", *TWO, "--pid", str(path))
    assert second.code == 1
    assert f"cannot have the pid file {path} (--pid): it is held by pid {server.pid}" in second.text
    assert second.left == []
    assert path.read_text() == f"{server.pid}\n"
    assert fresh(server.port)["pid"] in server.pids()
    server.stop()
    assert not path.exists()


def test_the_pid_file_of_a_killed_server_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    first = serve("faulty:app", *TWO, "--pid", str(path), quiet=False)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.family() == [], "all of it to end")
    assert path.read_text() == f"{first.pid}\n"
    second = serve("faulty:app", *TWO, "--pid", str(path))
    assert path.read_text() == f"{second.pid}\n"
