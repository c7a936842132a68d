"""Whole lines into a descriptor that other processes write to as well: stdout, a file, a pipe.

Rules of this file: a line is never torn: what a short write left of a line goes out before anything else.
``write`` never raises, and never waits on a descriptor that does not block; lines that cannot be written are
lost, and counted. Each worker opens a file for itself, to append: the kernel takes a whole batch under one
lock (write(2) with O_APPEND). To a pipe a batch goes in pieces of whole lines.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import weakref
from collections.abc import Callable

# Several workers write to the same pipe. POSIX write(): only writes of at most PIPE_BUF bytes to a pipe are
# not interleaved with other writers'. A longer line goes alone.
SHARED_WRITE_BYTES = select.PIPE_BUF
# Also of the group, which reads logs on many systems, and as the umask has it.
MODE = 0o640
# By these names our own descriptors are meant: what they lead to may be a socket, which cannot be opened.
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_NEWLINE = 0x0A


class LineFile:
    """Where lines go. ``write`` takes any number of whole lines."""

    def __init__(self, fd: int, name: str) -> None:
        """``fd`` stays the caller's. ``name`` is for people."""
        self.name = name
        self.lost = 0  # lines
        self._path: str | None = None
        self._torn = b""
        self._closer: Callable[[], object] = lambda: None
        self._take(fd)

    @classmethod
    def opened(cls, path: str) -> LineFile:
        """The file of this path, which is made if it is not there. Raises OSError."""
        if path in _STREAMS:
            return cls(_STREAMS[path], path)
        file = cls(_opened(path), path)
        file._path = path
        file._closer = weakref.finalize(file, os.close, file._fd)
        return file

    def _take(self, fd: int) -> None:
        self._fd = fd
        self._limit = None if _is_regular(fd) else SHARED_WRITE_BYTES
        self._gone = False

    def write(self, lines: bytes) -> None:
        """Write them, or count them as lost."""
        if not self._finish_torn_line():
            self.lost += lines.count(b"\n")
            return
        for batch in [lines] if self._limit is None else _pieces(lines, self._limit):
            if self._torn or self._gone:
                self.lost += batch.count(b"\n")
            else:
                self._write_batch(batch)

    def flush(self) -> None:
        """Call it once a second: the end of a torn line does not wait for traffic."""
        self._finish_torn_line()

    def reopen(self) -> None:
        """Go on in the file that has the path now. Raises OSError, and goes on in the old one."""
        if self._path is None:
            return
        fd = _opened(self._path)
        if not self._finish_torn_line():
            self.lost += bool(self._torn)  # its rest would be garbage in another file
            self._torn = b""
        self._closer()
        self._take(fd)
        self._closer = weakref.finalize(self, os.close, fd)

    def close(self) -> None:
        """The last lines were written. It is closed when nobody has it any more: there may be later ones."""
        self._finish_torn_line()

    def _finish_torn_line(self) -> bool:
        """Whether a new line may begin."""
        if self._torn and not self._gone:
            self._torn = self._torn[self._write(self._torn) :]
        return not self._torn and not self._gone

    def _write_batch(self, batch: bytes) -> None:
        written = self._write(batch)
        if written == len(batch):
            return
        # What went out may end inside a line. That line must end before another begins, so its rest is kept;
        # the whole lines behind it are lost.
        inside = written > 0 and batch[written - 1] != _NEWLINE and not self._gone
        line_end = batch.index(b"\n", written) + 1 if inside else written
        self._torn = batch[written:line_end]
        self.lost += batch.count(b"\n", line_end)

    def _write(self, data: bytes) -> int:
        """How many bytes were taken: fewer than all when it is full or gone."""
        taken = 0
        while taken < len(data):
            try:
                taken += os.write(self._fd, data[taken:] if taken else data)
            except OSError as error:
                # EAGAIN, ENOSPC and the like may pass. These two do not: nobody reads any more.
                self._gone = error.errno in (errno.EPIPE, errno.EBADF)
                break
        return taken


def _opened(path: str) -> int:
    # Not to wait for whoever reads a FIFO: without a reader, that is ENXIO.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    return os.open(path, flags, MODE)


def _is_regular(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def _pieces(lines: bytes, limit: int) -> list[bytes]:
    """Whole lines in pieces of at most ``limit`` bytes; a longer line goes alone."""
    if len(lines) <= limit:
        return [lines] if lines else []
    pieces: list[bytes] = []
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + limit) + 1 if len(lines) - start > limit else len(lines)
        if end == 0:
            end = lines.index(b"\n", start) + 1
        pieces.append(lines[start:end])
        start = end
    return pieces
