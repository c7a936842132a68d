"""The pid file: one server holds it, stale ones do not matter, nobody else's is removed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardserve.errors import StartupError
from shardserve.master import pidfile
from shardserve.master.pidfile import PidFile

MINE = f"{os.getpid()}\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "server.pid")


def text_of(path: str) -> str:
    return Path(path).read_text()


@contextmanager
def held_by_another(path: str) -> Iterator[int]:
    """Another process with the file claimed; its pid."""
    program = (
        "import sys; from shardserve.master.pidfile import PidFile; held = PidFile.claim(sys.argv[1]);"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.kill()


def is_locked(path: str) -> bool:
    """As a stranger sees it."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# Claiming


def test_a_claim_writes_our_pid_and_locks(path: str) -> None:
    held = PidFile.claim(path)
    assert text_of(path) == MINE
    assert os.stat(path).st_mode & 0o777 & ~0o644 == 0
    assert is_locked(path)
    assert not os.get_inheritable(held.fd)
    held.close(unlink=True)
    assert not os.path.exists(path)


def test_who_holds_it_is_named(path: str) -> None:
    with held_by_another(path) as pid:
        with pytest.raises(StartupError) as caught:
            PidFile.claim(path)
        assert path in str(caught.value)
        assert f"pid {pid}" in str(caught.value)
        assert "--pid" in str(caught.value)
        assert caught.value.exit_code == 1
        assert text_of(path) == f"{pid}\n"


def test_a_holder_who_wrote_nothing_yet(path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(StartupError, match="held by another running server"):
        PidFile.claim(path)
    os.close(fd)


def test_a_refused_claim_leaves_no_descriptor(path: str) -> None:
    held = PidFile.claim(path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartupError):
        PidFile.claim(path)
    assert os.listdir("/proc/self/fd") == before
    held.close(unlink=True)


@pytest.mark.parametrize(
    "stale",
    [b"", b"999999999\n", b"1\n", b"junk " * 1000, b"\xff\0", f"{os.getpid()}".encode()],
    ids=["empty", "dead", "alive-but-not-holding", "junk", "binary", "ours"],
)
def test_what_nobody_holds_is_replaced(path: str, stale: bytes) -> None:
    Path(path).write_bytes(stale)
    held = PidFile.claim(path)
    assert text_of(path) == MINE
    held.close(unlink=True)


def test_a_killed_server_leaves_a_stale_file(path: str) -> None:
    with held_by_another(path) as pid:
        os.kill(pid, signal.SIGKILL)
    assert text_of(path) == f"{pid}\n"
    held = PidFile.claim(path)
    assert text_of(path) == MINE
    held.close(unlink=True)


def test_a_file_removed_while_it_is_claimed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last holder unlinked it between our open and our lock: what we locked has no name."""
    real = fcntl.flock
    took: list[int] = []

    def flock(fd: int, how: int) -> None:
        if not took:
            os.unlink(path)
        took.append(fd)
        real(fd, how)

    monkeypatch.setattr(pidfile.fcntl, "flock", flock)
    held = PidFile.claim(path)
    monkeypatch.undo()
    assert len(took) == 2
    assert text_of(path) == MINE
    assert is_locked(path)
    held.close(unlink=True)


def test_a_file_that_is_always_gone_again_is_an_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfile.fcntl, "flock", lambda fd, how: os.unlink(path))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartupError, match="keeps being removed"):
        PidFile.claim(path)
    assert os.listdir("/proc/self/fd") == before


# What is no pid file


def test_a_symlink_is_not_followed(tmp_path: Path, path: str) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    os.symlink(target, path)
    with pytest.raises(StartupError, match=r"--pid.*symbolic link"):
        PidFile.claim(path)
    assert target.read_text() == "precious"


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--pid.*directory"):
        PidFile.claim(str(tmp_path))


def test_a_fifo_does_not_block(path: str) -> None:
    os.mkfifo(path)
    with pytest.raises(StartupError, match="not a regular file"):
        PidFile.claim(path)


def test_a_device_is_not_written_to() -> None:
    with pytest.raises(StartupError, match="not a regular file"):
        PidFile.claim("/dev/null")


def test_a_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        with pytest.raises(StartupError, match="--pid"):
            PidFile.claim(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "gone" / "server.pid")
    with pytest.raises(StartupError) as caught:
        PidFile.claim(path)
    text = str(caught.value)
    assert path in text
    assert "--pid" in text
    assert "No such file or directory" in text
    assert "create the directory" in text


def test_a_folder_we_may_not_write(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:  # root may write anywhere, so the kernel is not asked
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(pidfile.os, "open", refuse)
    with pytest.raises(StartupError, match=r"--pid.*Permission denied; choose a path"):
        PidFile.claim(path)


def test_a_full_disk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pidfile.os, "pwrite", full)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartupError, match=r"--pid.*No space left"):
        PidFile.claim(path)
    assert os.listdir("/proc/self/fd") == before


# Closing


def test_somebody_elses_file_is_not_removed(path: str) -> None:
    held = PidFile.claim(path)
    os.unlink(path)
    Path(path).write_text("1\n")
    held.close(unlink=True)
    assert text_of(path) == "1\n"


def test_the_pid_of_a_successor_is_not_removed(path: str) -> None:
    """An upgrade: it holds our lock, and has put its pid in."""
    held = PidFile.claim(path)
    Path(path).write_text("12345\n")
    held.close(unlink=True)
    assert text_of(path) == "12345\n"


def test_a_file_may_stay(path: str) -> None:
    held = PidFile.claim(path)
    held.close(unlink=False)
    assert text_of(path) == MINE
    assert not is_locked(path)
    held.close(unlink=True)  # the second time is nothing: it is not ours any more
    assert text_of(path) == MINE


def test_the_path_holds_after_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    held = PidFile.claim("server.pid")
    (tmp_path / "elsewhere").mkdir()
    os.chdir("elsewhere")
    held.close(unlink=True)
    assert not (tmp_path / "server.pid").exists()


# Handing it over


def heir_of(held: PidFile) -> int:
    """The same open file under another number: what a child inherits."""
    return os.dup(held.fd)


def test_the_heir_has_the_lock_when_the_old_one_is_gone(path: str) -> None:
    held = PidFile.claim(path)
    heir = PidFile.inherit(path, heir_of(held))
    held.close(unlink=False)
    assert is_locked(path)
    heir.close(unlink=False)
    assert not is_locked(path)


def test_an_heir_in_a_process_of_its_own(path: str) -> None:
    program = (
        "import sys; from shardserve.master.pidfile import PidFile;"
        "heir = PidFile.inherit(sys.argv[1], int(sys.argv[2])); print(flush=True);"
        "sys.stdin.readline(); heir.write(); print(flush=True); sys.stdin.read(); heir.close(unlink=True)"
    )
    held = PidFile.claim(path)
    with subprocess.Popen(
        [sys.executable, "-c", program, path, str(held.fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[held.fd],
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"\n"
        assert text_of(path) == MINE  # inheriting writes nothing
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"\n"
        assert text_of(path) == f"{process.pid}\n"
        held.close(unlink=True)
        assert text_of(path) == f"{process.pid}\n"
        with pytest.raises(StartupError, match=f"pid {process.pid}"):
            PidFile.claim(path)
        process.stdin.close()
        assert process.wait(20) == 0
    assert not os.path.exists(path)


def test_an_heir_without_its_pid_in_it_removes_nothing(path: str) -> None:
    """A new master that does not come up: the old one goes on under its pid file."""
    Path(path).write_text("12345\n")
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    PidFile.inherit(path, fd).close(unlink=True)
    assert text_of(path) == "12345\n"


def test_an_heir_with_another_path_claims_that(tmp_path: Path, path: str) -> None:
    """--pid was changed before the upgrade: the file of the old setting stays the old master's."""
    other = str(tmp_path / "other.pid")
    held = PidFile.claim(path)
    fds = len(os.listdir("/proc/self/fd"))
    heir = PidFile.inherit(other, heir_of(held))
    assert len(os.listdir("/proc/self/fd")) == fds + 1  # the inherited one is closed
    assert text_of(other) == MINE
    assert is_locked(other)
    held.close(unlink=True)
    assert not os.path.exists(path)
    heir.close(unlink=True)
    assert not os.path.exists(other)


def test_an_heir_whose_file_was_removed_makes_it_again(path: str) -> None:
    held = PidFile.claim(path)
    os.unlink(path)
    heir = PidFile.inherit(path, heir_of(held))
    assert text_of(path) == MINE
    assert is_locked(path)
    held.close(unlink=True)
    assert text_of(path) == MINE  # the heir's
    heir.close(unlink=True)


def test_an_inherited_number_that_is_nothing(path: str) -> None:
    with pytest.raises(StartupError, match="--pid"):
        PidFile.inherit(path, 9999)


def test_an_inherited_descriptor_is_not_passed_on(path: str) -> None:
    held = PidFile.claim(path)
    fd = heir_of(held)
    os.set_inheritable(fd, True)
    heir = PidFile.inherit(path, fd)
    assert not os.get_inheritable(heir.fd)
    heir.close(unlink=False)
    held.close(unlink=True)


# Writing again


def test_writing_replaces_a_longer_pid(path: str) -> None:
    held = PidFile.claim(path)
    Path(path).write_text("1234567890123\n")
    held.write()
    assert text_of(path) == MINE
    held.close(unlink=True)
    assert not os.path.exists(path)


def test_writing_a_file_that_is_gone_makes_it_again(path: str) -> None:
    """A new master of an upgrade that failed late took its pid file away; the old one goes on."""
    held = PidFile.claim(path)
    os.unlink(path)
    fds = len(os.listdir("/proc/self/fd"))
    held.write()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert text_of(path) == MINE
    assert is_locked(path)
    held.close(unlink=True)
    assert not os.path.exists(path)


def test_writing_never_fails(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = PidFile.claim(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pidfile.os, "pwrite", full)
        held.write()
    assert f"{path}" in caplog.text
    assert "No space left on device" in caplog.text
    held.close(unlink=True)


def test_writing_a_file_that_somebody_took(path: str, caplog: pytest.LogCaptureFixture) -> None:
    held = PidFile.claim(path)
    os.unlink(path)
    with held_by_another(path) as pid:
        held.write()
        assert f"pid {pid}" in caplog.text
        held.close(unlink=True)
        assert text_of(path) == f"{pid}\n"
