"""Whole lines into stdout, files and pipes: nothing torn, what is lost is counted, files that are renamed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardserve.observe import line_file
from shardserve.observe.line_file import SHARED_WRITE_BYTES, LineFile


@dataclass
class Pipe:
    read_fd: int
    write_fd: int

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                part = os.read(self.read_fd, 1 << 20)
            except BlockingIOError:
                return data
            if not part:
                return data
            data += part


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    yield Pipe(read_fd, write_fd)
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            pass


class Narrow:
    """An os.write that takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.written = bytearray()

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError(errno.EAGAIN, "full")
        taken = data[: self.room]
        self.room -= len(taken)
        self.written += taken
        return len(taken)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Narrow:
    narrow = Narrow(0)
    monkeypatch.setattr(line_file.os, "write", narrow)
    return narrow


def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What each os.write gets; all of it is taken."""
    pieces: list[bytes] = []

    def taken(fd: int, data: bytes) -> int:
        pieces.append(data)
        return len(data)

    monkeypatch.setattr(line_file.os, "write", taken)
    return pieces


# Writing


def test_a_pipe_gets_whole_lines_in_atomic_pieces(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = writes(monkeypatch)
    lines = b"".join(b"x" * size + b"\n" for size in (10, 3000, 3000, 9000, 10, 10))
    LineFile(pipe.write_fd, "a pipe").write(lines)
    assert b"".join(pieces) == lines
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= SHARED_WRITE_BYTES or piece.count(b"\n") == 1 for piece in pieces)
    assert len(pieces) == 4  # 10 + 3000, 3000, 9000, 20


def test_a_file_gets_a_batch_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LineFile.opened(str(tmp_path / "log"))
    pieces = writes(monkeypatch)
    lines = b"line\n" * 20_000
    file.write(lines)
    assert pieces == [lines]


def test_a_full_pipe_loses_lines_but_never_tears_one(pipe: Pipe) -> None:
    file = LineFile(pipe.write_fd, "a pipe")
    total, read, batch = 6000, b"", b""
    for number in range(total):
        batch += b"begin %d/" % number + b"x" * 37 + b" end\n"
        if number % 100 == 99:
            file.write(batch)
            batch = b""
        if number in (4000, 5000):
            read += pipe.read()
    for _ in range(2):
        read += pipe.read()
        file.flush()
    lines = (read + pipe.read()).split(b"\n")
    assert lines.pop() == b""
    assert all(line.startswith(b"begin ") and line.endswith(b" end") for line in lines)
    assert file.lost > 0
    assert len(lines) + file.lost == total


def test_a_short_write_is_finished_before_the_next_line(narrow: Narrow) -> None:
    file = LineFile(1, "stdout")
    narrow.room = 5
    file.write(b"first line\nlost\n")
    assert file.lost == 1
    narrow.room = 2
    file.write(b"also lost\n")
    narrow.room = 1000
    file.write(b"second line\n")
    assert bytes(narrow.written) == b"first line\nsecond line\n"
    assert file.lost == 2


def test_a_write_that_ends_with_a_line_tears_nothing(narrow: Narrow) -> None:
    file = LineFile(1, "stdout")
    narrow.room = len(b"first\n")
    file.write(b"first\nlost\nlost too\n")
    narrow.room = 1000
    file.write(b"second\n")
    assert bytes(narrow.written) == b"first\nsecond\n"
    assert file.lost == 2


def test_the_end_of_a_torn_line_needs_no_new_line(narrow: Narrow) -> None:
    file = LineFile(1, "stdout")
    narrow.room = 3
    file.write(b"a line\n")
    assert bytes(narrow.written) == b"a l"
    narrow.room = 1000
    file.flush()
    assert bytes(narrow.written) == b"a line\n"
    assert file.lost == 0


def test_a_reader_that_went_is_survived_and_counted(pipe: Pipe) -> None:
    file = LineFile(pipe.write_fd, "a pipe")
    os.close(pipe.read_fd)
    for _ in range(3):
        file.write(b"a line\n")
    assert file.lost == 3


def test_a_full_disk_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = [OSError(errno.ENOSPC, "No space left on device")]
    written: list[bytes] = []

    def disk(fd: int, data: bytes) -> int:
        if problem:
            raise problem.pop()
        written.append(data)
        return len(data)

    monkeypatch.setattr(line_file.os, "write", disk)
    file = LineFile(1, "stdout")
    file.write(b"lost\n")
    file.write(b"kept\n")
    assert written == [b"kept\n"]
    assert file.lost == 1


def test_a_closed_descriptor_is_survived() -> None:
    file = LineFile(-1, "nothing")
    file.write(b"a line\n")
    file.flush()
    file.close()
    assert file.lost == 1


# Files


def test_a_file_is_made_for_owner_and_group(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        file = LineFile.opened(str(tmp_path / "log"))
    finally:
        os.umask(before)
    file.write(b"a line\n")
    assert (tmp_path / "log").read_bytes() == b"a line\n"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


def test_a_file_that_is_there_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    first, second = LineFile.opened(str(path)), LineFile.opened(str(path))
    first.write(b"one\n")
    second.write(b"two\n")
    first.write(b"three\n")
    assert path.read_bytes() == b"before\none\ntwo\nthree\n"


def test_a_file_that_was_truncated_goes_on_at_its_beginning(tmp_path: Path) -> None:
    """As copytruncate of logrotate does it: without a hole in front."""
    path = tmp_path / "log"
    file = LineFile.opened(str(path))
    file.write(b"before\n")
    os.truncate(path, 0)
    file.write(b"after\n")
    assert path.read_bytes() == b"after\n"


@pytest.mark.parametrize("wrong", ["missing/log", "."])
def test_what_cannot_be_opened(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(OSError):
        LineFile.opened(str(tmp_path / wrong))


def test_a_fifo_without_a_reader_is_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError) as raised:
        LineFile.opened(str(tmp_path / "fifo"))
    assert raised.value.errno == errno.ENXIO
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    LineFile.opened(str(tmp_path / "fifo")).write(b"a line\n")
    assert os.read(reader, 100) == b"a line\n"
    os.close(reader)


def test_the_streams_by_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be sockets, as of systemd, which cannot be opened."""
    written: list[tuple[int, bytes]] = []
    monkeypatch.setattr(line_file.os, "write", lambda fd, data: written.append((fd, data)) or len(data))
    for path in ("/dev/stdout", "/dev/stderr"):
        LineFile.opened(path).write(b"a line\n")
    assert written == [(1, b"a line\n"), (2, b"a line\n")]


# Renamed files


def test_reopened_after_it_was_renamed(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    file = LineFile.opened(str(path))
    file.write(b"one\n")
    path.rename(old)
    file.write(b"two\n")  # nobody has said anything yet: nothing is lost
    file.reopen()
    file.write(b"three\n")
    assert old.read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"


def test_no_descriptor_is_left_over(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def count() -> int:
        return len([one for one in os.listdir("/proc/self/fd") if _is(one, path)])

    file = LineFile.opened(str(path))
    for _ in range(5):
        file.reopen()
    assert count() == 1
    del file
    assert count() == 0


def _is(fd: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == str(path)
    except OSError:
        return False


def test_what_cannot_be_opened_again_goes_on_in_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = LineFile.opened(str(folder / "log"))
    folder.rename(tmp_path / "moved")
    with pytest.raises(OSError):
        file.reopen()
    file.write(b"a line\n")
    assert (tmp_path / "moved" / "log").read_bytes() == b"a line\n"


def test_the_rest_of_a_torn_line_does_not_get_into_the_new_file(tmp_path: Path, narrow: Narrow) -> None:
    file = LineFile.opened(str(tmp_path / "log"))
    narrow.room = 3
    file.write(b"torn\n")
    file.reopen()
    assert file.lost == 1
    narrow.room = 100
    file.write(b"whole\n")
    assert bytes(narrow.written) == b"torwhole\n"


def test_a_stream_is_not_reopened(pipe: Pipe) -> None:
    file = LineFile(pipe.write_fd, "stdout")
    file.reopen()
    file.write(b"a line\n")
    assert pipe.read() == b"a line\n"
