"""One worker process's page of figures, shared with the master: its layout, its writer, its reader.

Rules of this file: a page is a memfd that the master makes for one process and that process
inherits. The worker alone writes the figures, the master alone reads them; each is one aligned
8-byte store, so a reader sees an old value or a new one and never half of one, and there are no
locks: a worker that dies or hangs holds nothing up. Figures are facts; what to think of them
(stalls, recycling, rates) is the master's.

Behind the page the same file takes *dumps*: the Python stacks that faulthandler writes, in a signal
handler and without the GIL, when the master asks a stalled worker where it is, or when it crashes.
They go to the file's offset, which both processes share: ``DUMPS_AT`` when nothing is there.
"""

from __future__ import annotations

import mmap
import os
import signal
from enum import IntEnum
from typing import Final

PAGE_BYTES: Final = 4096
DUMPS_AT: Final = PAGE_BYTES
# More than 100 threads × 100 frames, faulthandler's own limits, are not asked for.
DUMP_MAX_BYTES: Final = 256 * 1024


class Stage(IntEnum):
    """How far a worker is. Written before the stage begins."""

    BORN = 0
    IMPORTING = 1
    LIFESPAN = 2
    SERVING = 3
    DRAINING = 4
    ENDED = 5  # the event loop is over; threads and exit handlers may still be


# The order is the layout: every figure is one unsigned 64-bit number. A new one goes to the end.
FIGURES: Final = (
    "stage",  # Stage
    "heartbeat_ns",  # CLOCK_MONOTONIC when the event loop last turned; 0: it does not run yet
    "lag_us",  # how late that turn was
    "lag_max_us",  # the worst so far
    "connections",  # open
    "in_flight",  # requests given to the app and not finished
    "served",  # requests finished
    "refused",  # requests answered 503 by --limit-concurrency
    "accept_pauses",  # times that accepting paused for want of descriptors
)
_INDEX: Final = {name: index for index, name in enumerate(FIGURES)}


class Page:
    """The figures of one process, by name: ``page["served"] = 7``. ``fd`` is the memfd's."""

    def __init__(self, fd: int) -> None:
        """Takes ``fd`` over. Raises OSError or ValueError if it is not a page."""
        self.fd = fd
        self._map = mmap.mmap(fd, PAGE_BYTES)
        self._figures = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, name: str) -> Page:
        """A page with every figure 0, not inherited unless passed on. Raises OSError."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, PAGE_BYTES)
            os.lseek(fd, DUMPS_AT, os.SEEK_SET)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def fileno(self) -> int:
        return self.fd

    def __getitem__(self, figure: str) -> int:
        return self._figures[_INDEX[figure]]

    def __setitem__(self, figure: str, value: int) -> None:
        self._figures[_INDEX[figure]] = value

    def dump_bytes(self) -> int:
        """How much has been dumped and not taken."""
        return max(0, os.fstat(self.fd).st_size - DUMPS_AT)

    def take_dump(self) -> str:
        """What was dumped since the last time, and room for the next one."""
        data = os.pread(self.fd, DUMP_MAX_BYTES, DUMPS_AT)
        os.ftruncate(self.fd, PAGE_BYTES)
        os.lseek(self.fd, DUMPS_AT, os.SEEK_SET)
        return data.decode(errors="replace")

    def close(self) -> None:
        if self.fd != -1:
            self._figures.release()
            self._map.close()
            os.close(self.fd)
            self.fd = -1


# Asks a worker for the Python stack of the thread that takes it; sent once its stage is IMPORTING, since
# before that it ends the process. A real-time signal: apps use USR1, USR2, PROF and ALRM; containers and
# init systems count up from SIGRTMIN, so this one is counted down from SIGRTMAX.
DUMP_SIGNAL: Final = int(signal.SIGRTMAX) - 5
