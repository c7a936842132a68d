"""The access log: one line a response or accepted WebSocket, in Uvicorn's words, written in batches.

Rules of this file: ``AccessLog.__call__`` runs once per request, so it does not import, format
with ``logging``, or make a system call; it appends one string. The batch leaves with one write per
turn of the event loop, or at 64 KiB. A line is never torn: what a short write left of a line goes
out before anything else. The log may lose lines (a full or closed stdout), and counts them; it
may not stop the worker. This class is the seam that a native log replaces: its call signature is
the contract of ``_native.ProtocolFactory(access=…)``.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from .formatters import SWITCHING_PROTOCOLS, WEBSOCKET, status_text
from .logs import printable

Client = tuple[str, int] | None

BATCH_BYTES = 64 * 1024
# Several workers write to the same stdout. POSIX write(): only writes of at most PIPE_BUF bytes to
# a pipe are not interleaved with other writers'. Regular files take a whole batch under one lock.
SHARED_WRITE_BYTES = select.PIPE_BUF

# What may stand between the quotes as it is. Out: controls, space, non-ASCII, and the two characters
# that could forge a field, the quote and the backslash (nginx escapes the same set, as \xNN).
SAFE = bytes(code for code in range(0x21, 0x7F) if chr(code) not in '"\\')
_NEWLINE = 0x0A


class AccessLog:
    """Call it with each finished response; ``flush`` it when the worker ends."""

    def __init__(
        self,
        *,
        schedule: Callable[[Callable[[], None]], Any],
        fd: int = 1,
        colours: bool = False,
    ) -> None:
        """``schedule`` is the loop's ``call_soon``: it runs ``flush`` after this turn's requests."""
        self._schedule = schedule
        self._fd = fd
        self._write_bytes = _write_size(fd)
        bold, plain = ("\x1b[1m", "\x1b[0m") if colours else ("", "")
        self._start = "\x1b[32mINFO\x1b[0m:     " if colours else "INFO:     "
        self._open, self._close = f' - "{bold}', f'{plain}" '
        self._outcomes = {status.value: status_text(status.value, colours) for status in HTTPStatus}
        self._colours = colours
        self._lines: list[str] = []
        self._size = 0
        self._torn = b""
        self._gone = False
        self.dropped = 0

    # A response is finished

    def __call__(self, client: Client, method: str, target: bytes, http_version: str, status: int) -> None:
        # The first test is the cheapest way to ask "any other byte than these?": one C call.
        text = escaped(target) if target.translate(None, SAFE) else target.decode("ascii")
        peer = f"{client[0]}:{client[1]}" if client else ""
        if not peer.isprintable():  # an address that a proxy named can hold anything
            peer = printable(peer)
        if method == WEBSOCKET:
            # A client may send this as a method too: its line lacks the version, and never says "accepted".
            what = "[accepted]" if status == SWITCHING_PROTOCOLS else status
            line = f'{self._start}{peer} - "{method} {text}" {what}\n'
        else:
            outcome = self._outcomes.get(status) or status_text(status, self._colours)
            line = (
                f"{self._start}{peer}{self._open}{method} {text} HTTP/{http_version}{self._close}{outcome}\n"
            )
        self._add(line)

    def _add(self, line: str) -> None:
        if not self._lines:
            self._schedule(self.flush)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BATCH_BYTES:
            self.flush()

    # The batch leaves

    def flush(self) -> None:
        """Write what is gathered. Never raises, never waits on a non-blocking stdout.

        Also called once a second, so that the end of a torn line does not wait for traffic.
        """
        lines, self._lines, self._size = self._lines, [], 0
        if not self._finish_torn_line():
            self.dropped += len(lines)
            return
        for batch in _batches(lines, self._write_bytes):
            if self._torn or self._gone:
                self.dropped += batch.count(b"\n")
                continue
            self._write_batch(batch)

    def _finish_torn_line(self) -> bool:
        """Whether a new line may begin."""
        if self._torn and not self._gone:
            self._torn = self._torn[self._write(self._torn) :]
        return not self._torn and not self._gone

    def _write_batch(self, batch: bytes) -> None:
        written = self._write(batch)
        if written == len(batch):
            return
        # What went out may end inside a line. That line must end before another begins, so its
        # rest is kept; the whole lines behind it are lost.
        inside = written > 0 and batch[written - 1] != _NEWLINE and not self._gone
        line_end = batch.index(b"\n", written) + 1 if inside else written
        self._torn = batch[written:line_end]
        self.dropped += batch.count(b"\n", line_end)

    def _write(self, data: bytes) -> int:
        """How many bytes stdout took: fewer than all when it is full or gone."""
        taken = 0
        while taken < len(data):
            try:
                taken += os.write(self._fd, data[taken:] if taken else data)
            except OSError as error:
                # EAGAIN, ENOSPC and the like may pass. These two do not: nobody reads any more.
                self._gone = error.errno in (errno.EPIPE, errno.EBADF)
                break
        return taken


def _batches(lines: list[str], limit: int) -> list[bytes]:
    """Whole lines joined into writes of at most ``limit`` bytes; a longer line goes alone."""
    whole = "".join(lines).encode()
    if len(whole) <= limit:
        return [whole] if whole else []
    batches: list[bytes] = []
    start = 0
    while start < len(whole):
        end = whole.rfind(b"\n", start, start + limit) + 1 if len(whole) - start > limit else len(whole)
        if end == 0:
            end = whole.index(b"\n", start) + 1
        batches.append(whole[start:end])
        start = end
    return batches


def _write_size(fd: int) -> int:
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        regular = False
    return BATCH_BYTES if regular else SHARED_WRITE_BYTES


def address_text(client: Client) -> str:
    """``127.0.0.1:50000``; empty for a client without an address, as in Uvicorn's lines."""
    return printable(f"{client[0]}:{client[1]}") if client else ""


def escaped(target: bytes) -> str:
    """A target with every byte but the harmless ones as ``\\xNN``."""
    return "".join(chr(code) if code in SAFE else f"\\x{code:02x}" for code in target)
