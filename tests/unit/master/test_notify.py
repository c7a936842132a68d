"""What systemd is told, heard on a real datagram socket; and that nothing of it can hurt the master."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardserve.master.notify import RETRY_S, SYSTEMD_VARIABLES, Notifier, environment_for_workers


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._sock.setblocking(False)

    def heard(self) -> list[str]:
        """Every datagram since the last call, oldest first."""
        found = []
        while True:
            try:
                found.append(self._sock.recv(65536).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = f"@shardserve-test-{os.getpid()}-{tmp_path.name}"
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else abstract)
    yield manager
    manager.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address})
    yield notifier
    notifier.close()


def clog(manager: Manager) -> int:
    """Fill the manager's queue as another process of the service would; how many datagrams it took."""
    address = f"\0{manager.address[1:]}" if manager.address.startswith("@") else manager.address
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        while True:
            try:
                other.sendto(b"STATUS=noise", address)
            except BlockingIOError:
                return sent
            sent += 1


# The states


def test_a_life(manager: Manager, notifier: Notifier) -> None:
    notifier.status("starting 2 workers")
    notifier.ready()
    notifier.reloading(12.5)
    notifier.ready()
    notifier.stopping()
    assert manager.heard() == [
        "STATUS=starting 2 workers",
        "READY=1",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "READY=1",
        "STOPPING=1",
    ]


def test_a_state_is_sent_once_for_each_change(manager: Manager, notifier: Notifier) -> None:
    for _ in range(3):
        notifier.ready()
        notifier.status("serving")
    for _ in range(3):
        notifier.reloading(2.0)
    notifier.reloading(3.0)  # a second HUP: whoever sent it waits for a time after his own
    notifier.ready()
    for _ in range(3):
        notifier.stopping()
    assert manager.heard() == [
        "READY=1",
        "STATUS=serving",
        "RELOADING=1\nMONOTONIC_USEC=2000000",
        "RELOADING=1\nMONOTONIC_USEC=3000000",
        "READY=1",
        "STOPPING=1",
    ]


def test_nobody_who_stops_is_ready_again(manager: Manager, notifier: Notifier) -> None:
    notifier.ready()
    notifier.stopping()
    notifier.ready()
    notifier.reloading(5.0)
    notifier.status("1 request left")
    assert manager.heard() == ["READY=1", "STOPPING=1", "STATUS=1 request left"]


def test_a_status_is_one_line(manager: Manager, notifier: Notifier) -> None:
    notifier.status("the app\nREADY=1\r\ndid not start \udcff")
    assert manager.heard() == ["STATUS=the app READY=1 did not start ?"]


def test_a_long_status_is_cut(manager: Manager, notifier: Notifier) -> None:
    notifier.status("x" * 100_000)
    (text,) = manager.heard()
    assert 100 < len(text) < 2000


def test_the_main_process_can_be_told_again(manager: Manager, notifier: Notifier) -> None:
    notifier.main_pid(os.getpid())
    notifier.main_pid(os.getpid())
    notifier.ready()
    assert manager.heard() == [f"MAINPID={os.getpid()}", "READY=1"]


def test_who_is_not_the_main_process_any_more_is_silent(manager: Manager) -> None:
    """The old master of an upgrade stops, and the unit must not."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    notifier = Notifier.from_environ(environ)
    notifier.ready()
    notifier.main_pid(os.getppid())
    notifier.stopping()
    notifier.status("bye")
    notifier.ping_if_due(1000.0)
    assert notifier.next_ping is None
    assert manager.heard() == ["READY=1", f"MAINPID={os.getppid()}"]
    notifier.close()


# The watchdog


def test_a_ping_in_every_half_of_the_time(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier.from_environ(environ)
    assert notifier.watchdog_s == 1.5
    assert notifier.next_ping is not None
    assert notifier.next_ping <= 100.0  # the first is due at once
    notifier.ping_if_due(100.0)
    assert notifier.next_ping == 101.5
    notifier.ping_if_due(101.4)
    assert manager.heard() == ["WATCHDOG=1"]
    notifier.ping_if_due(101.5)
    notifier.ping_if_due(200.0)  # however late: one, not one for each that was missed
    assert notifier.next_ping == 201.5
    assert manager.heard() == ["WATCHDOG=1", "WATCHDOG=1"]
    notifier.close()


def test_a_watchdog_without_a_pid_is_ours() -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "500000"})
    assert notifier.watchdog_s == 0.25
    notifier.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "me"},
    ],
    ids=str,
)
def test_no_watchdog(manager: Manager, environ: dict[str, str]) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address, **environ})
    assert notifier.watchdog_s is None
    assert notifier.next_ping is None
    notifier.ping_if_due(1e9)
    assert manager.heard() == []
    notifier.close()


# Nobody there, or nobody who listens


def everything(notifier: Notifier) -> None:
    notifier.status("x")
    notifier.ready()
    notifier.reloading(1.0)
    notifier.ready()
    notifier.ping_if_due(1e9)
    notifier.stopping()
    notifier.main_pid(1)
    notifier.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}], ids=str)
def test_without_a_manager_nothing_happens(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was made"))
    caplog.set_level(logging.DEBUG)
    notifier = Notifier.from_environ(environ)
    assert notifier.watchdog_s is None
    assert notifier.next_ping is None
    everything(notifier)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "address",
    ["/nowhere/notify", "@nobody-is-here", "relative", "vsock:2:1234", "/" + "x" * 200, "@", "/a\0b"],
)
def test_a_manager_that_cannot_be_reached_is_a_debug_line(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    everything(Notifier.from_environ({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}))
    assert "systemd is" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_no_descriptor_left_is_a_debug_line(
    monkeypatch: pytest.MonkeyPatch, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address})
        notifier.ready()
        assert notifier.next_ping is None
    assert "no socket to send from" in caplog.text
    notifier.close()


def test_a_state_that_finds_no_room_is_sent_later(manager: Manager, notifier: Notifier) -> None:
    """READY lost would be a service that systemd kills for not having started."""
    noise = clog(manager)
    notifier.ready()  # does not block
    assert notifier.next_ping is not None
    assert notifier.next_ping <= 10.0
    notifier.ping_if_due(10.0)
    assert notifier.next_ping == 10.0 + RETRY_S  # not at once: the loop would spin
    assert manager.heard() == ["STATUS=noise"] * noise
    notifier.ping_if_due(10.0)
    assert manager.heard() == []
    notifier.ping_if_due(10.0 + RETRY_S)
    assert manager.heard() == ["READY=1"]
    assert notifier.next_ping is None


def test_what_waits_keeps_its_order(manager: Manager, notifier: Notifier) -> None:
    clog(manager)
    notifier.ready()
    notifier.reloading(1.0)
    manager.heard()
    notifier.ready()
    notifier.status("serving")
    assert manager.heard() == ["READY=1", "RELOADING=1\nMONOTONIC_USEC=1000000", "READY=1", "STATUS=serving"]


def test_a_ping_without_room_does_not_wait_behind_itself(manager: Manager) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"})
    clog(manager)
    for now in range(10, 100):
        notifier.ping_if_due(float(now))
    manager.heard()
    notifier.ping_if_due(100.0)
    assert manager.heard() == ["WATCHDOG=1"]
    assert notifier.next_ping == 101.0
    notifier.close()


# What workers see


def test_workers_see_nothing_of_it() -> None:
    environ = dict.fromkeys(SYSTEMD_VARIABLES, "x") | {"PATH": "/bin", "LANG": "C"}
    assert environment_for_workers(environ) == {"PATH": "/bin", "LANG": "C"}
    assert set(SYSTEMD_VARIABLES) == {
        "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
    }  # fmt: skip
    assert len(environ) == 8  # the caller's own is left as it is


def test_the_environment_is_not_touched(manager: Manager) -> None:
    """A new master of an upgrade needs it again."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    before = dict(environ)
    Notifier.from_environ(environ).close()
    assert environ == before


def test_the_socket_is_not_inherited(manager: Manager, notifier: Notifier) -> None:
    notifier.ready()
    mine = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_datagram_socket(fd)]
    assert len(mine) >= 2  # the manager's, and ours
    assert not any(os.get_inheritable(fd) for fd in mine)


def _is_datagram_socket(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with sock:
        return sock.type == socket.SOCK_DGRAM
