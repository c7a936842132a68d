"""The access log: lines that the native side makes, written in batches.

Rules of this file: nothing here runs once per request. ``_native.AccessLog`` formats and gathers; it says
when the first line has come into its empty buffer, and hands over what it has when told, or when its buffer
is full. The first line after a pause leaves at the end of the event loop's turn; under load there are ten
writes a second, or more if the buffer is full before.
The log may lose lines (a full or closed stdout, a syslog that is not there), and counts them; it may not stop
the worker. Where lines go is ``line_file.py`` and ``syslog.py``, who gets them at all ``access_sink.py``, and
what a line says ``config/access_format.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from .logs import printable

Client = tuple[str, int] | None

# A line of a quiet server is there at once. Lines of a busy one come together.
PAUSE_S = 0.1
# Lost lines are told of at once, and then at most this often.
TELL_S = 60.0

# What may stand between the quotes as it is. Out: controls, space, non-ASCII, and the two characters
# that could forge a field, the quote and the backslash (nginx escapes the same set, as \xNN).
SAFE = bytes(code for code in range(0x21, 0x7F) if chr(code) not in '"\\')

log = logging.getLogger("shardserve.worker")


class Sink(Protocol):
    """Where lines go."""

    name: str  # for people
    lost: int  # lines, so far

    def write(self, lines: bytes) -> None: ...
    def flush(self) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


class AccessLog:
    """Give ``lines`` to the native side. ``flush`` it once a second, ``close`` it when the worker ends."""

    def __init__(
        self,
        make: Callable[[Callable[[bytes], None], Callable[[], None]], Any],
        sink: Sink,
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``make(write, schedule)`` makes the ``_native.AccessLog``."""
        self.sink = sink
        self._loop = loop
        self._timer: asyncio.Handle | None = None
        self._left_at = float("-inf")  # the last lines
        self._told = 0
        self._tell_at = float("-inf")
        self.lines = make(sink.write, self._schedule)

    @property
    def lost(self) -> int:
        """How many lines could not be written."""
        return self.sink.lost

    def flush(self) -> None:
        """Write what is gathered, now. Never raises."""
        self.lines.flush()
        self.sink.flush()
        if self.lost > self._told and self._loop.time() >= self._tell_at:
            self._tell()

    def reopen(self) -> None:
        """Go on in the file that has the path now, as after a rotation. Never raises."""
        self.flush()
        try:
            self.sink.reopen()
        except OSError as error:
            log.error(
                "The access log cannot open %s again: %s. It goes on where it was.",
                self.sink.name, error.strerror,
            )  # fmt: skip

    def close(self) -> None:
        """The last lines. Whatever comes later is written, too, while the loop runs."""
        self.lines.flush()
        self.sink.close()
        if self.lost > self._told:
            self._tell()

    def _schedule(self) -> None:
        """There is a first line."""
        if self._timer is not None:
            return
        wait_s = self._left_at + PAUSE_S - self._loop.time()
        self._timer = (
            self._loop.call_soon(self._due) if wait_s <= 0 else self._loop.call_later(wait_s, self._due)
        )

    def _due(self) -> None:
        self._timer = None
        self._left_at = self._loop.time()
        self.lines.flush()

    def _tell(self) -> None:
        lost, self._told = self.lost - self._told, self.lost
        self._tell_at = self._loop.time() + TELL_S
        what = "line was" if lost == 1 else "lines were"
        log.warning("%d access log %s lost: %s was full or closed.", lost, what, self.sink.name)


def address_text(client: Client) -> str:
    """``127.0.0.1:50000``; empty for a client without an address, as in Uvicorn's lines."""
    return printable(f"{client[0]}:{client[1]}") if client else ""


def escaped(target: bytes) -> str:
    """A target with every byte but the harmless ones as ``\\xNN``."""
    return "".join(chr(code) if code in SAFE else f"\\x{code:02x}" for code in target)
