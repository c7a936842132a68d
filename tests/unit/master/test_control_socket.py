"""The control socket: commands in, answers out, and no client that can hold the master up.

Time is an argument and a Unix socket delivers at once, so nothing here waits.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardserve import commands
from shardserve.errors import ListenError
from shardserve.master import control_socket
from shardserve.master.control_socket import MOST_CLIENTS, PATIENCE_S, ControlSocket, Request

Connect = Callable[[], socket.socket]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
def control(path: Path) -> Iterator[ControlSocket]:
    control = ControlSocket(path)
    yield control
    control.close()


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    """Connections to the path, closed at the end."""
    made = []

    def one() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        made.append(sock)
        sock.settimeout(5)
        sock.connect(str(path))
        return sock

    yield one
    for sock in made:
        sock.close()


def ask(control: ControlSocket, sock: socket.socket, command: commands.Command, now: float = 0.0) -> Request:
    sock.sendall(commands.encode_command(command))
    [request] = turns(control, now)
    assert request.command == command
    return request


def turns(control: ControlSocket, now: float = 0.0) -> list[Request]:
    """As many turns as the selector would wake us up for."""
    found = []
    for _ in range(1000):
        found += control.turn(now)
        if not wakes(control):
            return found
    raise AssertionError("it wakes up for ever")


def wakes(control: ControlSocket) -> bool:
    return bool(select.select([control], [], [], 0)[0])


def hear(sock: socket.socket) -> dict[str, Any]:
    """The reply, and the end of the connection."""
    data = b""
    while more := sock.recv(1 << 20):
        data += more
    assert data.endswith(b"\n")
    found: dict[str, Any] = json.loads(data)
    return found


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


# Commands


def test_a_command_and_its_reply(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    request = ask(control, sock, commands.Status())
    assert request.who == f"pid {os.getpid()} of uid {os.getuid()}"
    request.reply({"version": "é"})
    assert hear(sock) == {"ok": True, "version": "é"}
    assert not request.open


def test_a_failure(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    ask(control, sock, commands.Scale(3)).fail("not now")
    assert hear(sock) == {"ok": False, "error": "not now"}


def test_a_reply_may_come_much_later(control: ControlSocket, connect: Connect) -> None:
    """A reload takes minutes. Others are served meanwhile, and nothing times out."""
    slow, other = connect(), connect()
    request = ask(control, slow, commands.Reload(wait=True))
    request.progress("worker 0 is ready")
    assert json.loads(slow.recv(1000)) == {"progress": "worker 0 is ready"}
    assert control.next_deadline() == PATIENCE_S  # the other's, who has said nothing yet
    ask(control, other, commands.Status(), now=5.0).reply({})
    assert hear(other) == {"ok": True}
    assert control.next_deadline() is None
    assert turns(control, 3600.0) == []
    assert request.open
    request.reply({"message": "reloaded"})
    assert hear(slow) == {"ok": True, "message": "reloaded"}


def test_a_command_in_pieces(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    line = commands.encode_command(commands.Scale(3))
    for piece in (line[:1], line[1:9], line[9:-1]):
        sock.sendall(piece)
        assert turns(control) == []
    sock.sendall(b"\n")
    [request] = turns(control)
    assert request.command == commands.Scale(3)


def test_one_command_for_each_connection(control: ControlSocket, connect: Connect) -> None:
    """The rest is ignored, also when it comes in the same packet."""
    sock = connect()
    sock.sendall(commands.encode_command(commands.Status()) + commands.encode_command(commands.Stop()))
    [request] = turns(control)
    sock.sendall(commands.encode_command(commands.Stop()))
    assert turns(control) == []
    request.reply()
    assert hear(sock) == {"ok": True}


def test_only_the_first_answer_counts(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    request = ask(control, sock, commands.Status())
    request.reply()
    request.fail("what?")
    request.progress("more")
    request.reply()
    assert hear(sock) == {"ok": True}


def test_a_reply_that_is_too_large_is_a_failure(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    ask(control, sock, commands.Status()).reply({"message": "x" * commands.MAX_REPLY_BYTES})
    assert "over the limit" in hear(sock)["error"]


def test_who_asks_for_a_stop_hears_the_end(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    ask(control, sock, commands.Stop()).reply()
    assert json.loads(sock.recv(1000)) == {"ok": True}
    assert turns(control, 3600.0) == []
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):  # still connected
        sock.recv(1)
    control.close()
    assert ended(sock)


def test_a_stop_that_is_refused_ends_at_once(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    ask(control, sock, commands.Stop()).fail("no")
    assert hear(sock) == {"ok": False, "error": "no"}


# Bad clients


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\n", "not JSON"),
        (b"GET / HTTP/1.1\r\n\r\n", "not JSON"),
        (b'{"command":"explode"}\n', "unknown command 'explode'"),
        (b"x" * (commands.MAX_REQUEST_BYTES + 1), "over the limit of 65536 bytes"),
        (b'{"command":"status","a":"' + b"x" * commands.MAX_REQUEST_BYTES + b'"}\n', "over the limit"),
    ],
    ids=["empty", "http", "unknown", "endless", "long"],
)
def test_junk_is_refused_by_name(control: ControlSocket, connect: Connect, data: bytes, why: str) -> None:
    sock = connect()
    sock.sendall(data)
    assert turns(control) == []
    reply = commands.decode_reply(sock.recv(10_000))
    assert reply["ok"] is False
    assert why in reply["error"]
    assert ended(sock)


def test_a_client_that_says_nothing_is_dropped(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    assert turns(control, 100.0) == []
    assert control.next_deadline() == 100.0 + PATIENCE_S
    sock.sendall(b'{"comm')  # nor may it take for ever over it
    assert turns(control, 109.9) == []
    assert control.next_deadline() == 100.0 + PATIENCE_S
    assert turns(control, 110.0) == []
    assert ended(sock)
    assert control.next_deadline() is None


def test_a_client_that_goes_is_forgotten(control: ControlSocket, connect: Connect) -> None:
    early, late = connect(), connect()
    assert turns(control) == []
    early.close()
    request = ask(control, late, commands.Reload())
    late.close()
    assert turns(control) == []
    assert not request.open
    request.progress("nobody listens")
    request.reply()
    assert control._clients == {}
    assert control.next_deadline() is None


def test_a_client_that_only_sends_no_more_is_answered(control: ControlSocket, connect: Connect) -> None:
    """``printf ... | nc -NU``; and it does not keep us awake while it waits."""
    sock = connect()
    request = ask(control, sock, commands.Reload())
    sock.shutdown(socket.SHUT_WR)
    assert turns(control) == []
    assert request.open
    request.reply()
    assert hear(sock) == {"ok": True}


def test_such_a_client_can_go_too(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    request = ask(control, sock, commands.Reload())
    sock.shutdown(socket.SHUT_WR)
    assert turns(control) == []
    sock.close()
    assert turns(control) == []
    assert not request.open


def test_a_slow_reader_gets_it_all(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    text = "x" * (commands.MAX_REPLY_BYTES - 100)
    ask(control, sock, commands.Status()).reply({"message": text})
    data, now = b"", 0.0
    while more := sock.recv(100_000):
        data += more
        now += PATIENCE_S - 1  # slow, but it reads
        turns(control, now)
    assert json.loads(data) == {"ok": True, "message": text}


def test_a_client_that_does_not_read_is_dropped(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    ask(control, sock, commands.Status(), now=50.0).reply({"message": "x" * 1_000_000})
    assert turns(control, 55.0) == []
    assert control.next_deadline() == 50.0 + PATIENCE_S
    assert turns(control, 60.0) == []
    assert control._clients == {}
    assert control.next_deadline() is None


def test_what_waits_for_a_client_has_a_limit(control: ControlSocket, connect: Connect) -> None:
    sock = connect()
    request = ask(control, sock, commands.Reload())
    most = 0
    while request.open:
        request.progress("x" * 1_000_000)
        [client] = control._clients.values() or [None]
        most = max(most, len(client._unsent) if client else 0)
    assert 4 * 1_000_000 < most <= control_socket.UNSENT_MAX_BYTES
    assert control._clients == {}


def test_too_many_clients_are_told(control: ControlSocket, connect: Connect) -> None:
    clients = []
    for _ in range(MOST_CLIENTS):
        clients.append(connect())
        turns(control)
    late = connect()
    assert turns(control) == []
    assert hear(late) == {"ok": False, "error": "the server is busy with 32 other commands; try again"}
    clients.pop().close()
    again = connect()
    ask(control, again, commands.Status()).reply()
    assert hear(again) == {"ok": True}


@pytest.mark.parametrize(("uid", "served"), [(os.geteuid(), True), (0, True), (os.geteuid() + 1, False)])
def test_only_our_user_and_root_are_served(
    control: ControlSocket,
    connect: Connect,
    uid: int,
    served: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The mode of the file keeps others out already; a descriptor can be handed on."""
    monkeypatch.setattr(control_socket.commands, "peer", lambda sock: (77, uid))
    sock = connect()
    assert turns(control) == []
    if served:
        ask(control, sock, commands.Status())
    else:
        assert hear(sock) == {"ok": False, "error": "this server is another user's"}
        assert f"refused pid 77 of uid {uid}" in caplog.text


def test_without_a_free_descriptor_it_waits(
    control: ControlSocket,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The queue would wake the master up again and again."""
    sock = connect()

    class Full:
        def __init__(self, real: socket.socket) -> None:
            self.fileno = real.fileno
            self.close = real.close

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    listener = control._listener
    monkeypatch.setattr(control, "_listener", Full(listener))
    assert turns(control, 5.0) == []
    assert "cannot accept: Too many open files; trying again in a second" in caplog.text
    assert control.next_deadline() == 6.0
    monkeypatch.setattr(control, "_listener", listener)
    assert turns(control, 5.5) == []
    assert turns(control, 6.0) == []
    assert control.next_deadline() == 6.0 + PATIENCE_S  # accepted
    ask(control, sock, commands.Status(), now=6.0).reply()
    assert hear(sock) == {"ok": True}


def test_closing_hangs_up_on_everybody(control: ControlSocket, connect: Connect, path: Path) -> None:
    asked, silent = connect(), connect()
    request = ask(control, asked, commands.Reload())
    control.close()
    assert ended(asked)
    assert ended(silent)
    request.reply()
    control.close()
    assert not path.exists()


# The path


def test_only_its_user_may_open_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        control = ControlSocket(path)
        assert os.umask(0) == 0  # as it was
    finally:
        os.umask(umask)
    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    control.close()
    assert list(path.parent.iterdir()) == []


def test_it_is_never_there_with_another_mode(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The umask counts at bind: a chmod afterwards would be too late."""
    seen = []
    monkeypatch.setattr(control_socket.os, "chmod", lambda name, mode: seen.append(os.lstat(name).st_mode))
    ControlSocket(path).close()
    assert [stat.S_IMODE(mode) for mode in seen] == [0o600]


def test_a_stale_socket_is_replaced(path: Path, connect: Connect) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    before = path.lstat().st_ino
    control = ControlSocket(path)
    assert path.lstat().st_ino != before
    ask(control, connect(), commands.Status())
    control.close()


def test_a_socket_that_answers_is_left_alone(control: ControlSocket, path: Path, connect: Connect) -> None:
    with pytest.raises(
        ListenError, match=rf"{path}: pid {os.getpid()} answers there; is this server running"
    ):
        ControlSocket(path)
    turns(control)  # the knock is somebody who goes
    ask(control, connect(), commands.Status())


def test_one_that_is_too_busy_to_answer_is_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ListenError, match="somebody answers there"):
            ControlSocket(path)
    assert path.exists()


def test_another_kind_of_socket_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as foreign:
        foreign.bind(str(path))
        with pytest.raises(
            ListenError, match=r"another's socket is there, and is left alone \(Protocol wrong"
        ):
            ControlSocket(path)
    assert path.exists()


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_no_socket_is_never_removed(path: Path, what: str, replace: bool) -> None:
    if what == "file":
        path.write_text("precious")
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nowhere")
    before = path.lstat()
    with pytest.raises(
        ListenError, match="not a socket is there, and is left alone; or set control-socket to off"
    ):
        ControlSocket(path, replace=replace)
    assert path.lstat() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_upgrade_takes_the_path_over(control: ControlSocket, path: Path, connect: Connect) -> None:
    """Without a moment in which nobody answers, and the old master does not remove it at its end."""
    before = connect()
    successor = ControlSocket(path, replace=True)
    after = connect()
    ask(control, before, commands.Status()).reply({"message": "old"})
    ask(successor, after, commands.Status()).reply({"message": "new"})
    assert hear(before)["message"] == "old"
    assert hear(after)["message"] == "new"
    control.close()
    ask(successor, connect(), commands.Status())
    successor.close()
    assert not path.exists()


def test_what_somebody_put_there_since_stays(control: ControlSocket, path: Path) -> None:
    path.unlink()
    path.write_text("precious")
    control.close()
    assert path.read_text() == "precious"


def test_a_path_that_is_gone_is_no_error(control: ControlSocket, path: Path) -> None:
    path.unlink()
    control.close()


def test_a_relative_path_is_meant_from_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    control = ControlSocket("c.sock")
    monkeypatch.chdir("/")
    control.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("nowhere/c.sock", "No such file or directory"), ("x" * 107, "at most 107 bytes")],
)
def test_a_path_that_cannot_be_had_is_named(tmp_path: Path, name: str, why: str) -> None:
    open_before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError, match=rf"cannot make the control socket {tmp_path}/{name}: .*{why}"):
        ControlSocket(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    assert len(set(os.listdir("/proc/self/fd"))) == len(open_before)


def test_the_longest_path_there_is(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    path += "x" * (107 - len(path))
    control = ControlSocket(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        ask(control, sock, commands.Status())
    control.close()
