"""Whether another connection may be accepted: descriptors are counted here before they run out.

Rules of this file: it decides, ``listening.py`` carries out. Nothing here runs per connection while
there is plenty. Every wait is a timer; nothing blocks.

Descriptors are handed out lowest number first, so the number of a new connection says how many are in
use. Three ranges of numbers, up to the soft limit of RLIMIT_NOFILE:

    0 … max_fd          uvloop accepts (Mode.FAST). At EMFILE it would reset the clients that wait.
    max_fd … pause_fd   we accept (Mode.CAREFUL). At EMFILE the clients stay in the queue.
    pause_fd … limit    kept for the app: its files, databases, name look-ups. No accepting; a look
                        every 100 ms whether some have come back.

The native side tells of a number from ``max_fd`` on (``on_crowded``). An app can take many at once
while no connection comes, so ``check`` looks, too, once a second: only an app that takes more than the
two upper ranges together within a second can still make uvloop meet EMFILE.

The kernel's table of open files (fs.file-max, ENFILE) is one for all processes and is looked at by
``check``: with less than a tenth left we accept, with less than a hundredth nobody does.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from pathlib import Path

from .listening import Listening, Mode

FILE_NR = Path("/proc/sys/fs/file-nr")
# Nobody reaches a limit above this; systemd sets the largest number there is.
FILES_WITHOUT_LIMIT = 2**40
RETRY_S = 0.1
# A server at its limit may pause ten times a second: one pause and its end are told in this time.
LOG_EVERY_S = 10.0

_RESERVE_MAX = 64
_CAREFUL_MAX = 1024
_SYSTEM_RESERVE_MAX = 4096

# The soft limit has been raised to the hard one by the master.
_MORE_DESCRIPTORS = "raise the hard limit (LimitNOFILE=, ulimit -Hn)"
_MORE_FILES = "raise fs.file-max (sysctl)"

log = logging.getLogger("shardserve.worker")


class Admission:
    """Made once the app is up: what it has open by then counts as its own."""

    def __init__(self, *, file_nr: Path = FILE_NR) -> None:
        limit = descriptor_limit()
        # An app that has nearly everything in use must still get connections: half of what is left.
        self._reserve = max(min(_RESERVE_MAX, limit // 8, (limit - lowest_free(limit)) // 2), 1)
        self._files = FileTable(file_nr)
        self._listening: Listening | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._paused_at = 0.0
        self._quiet_until = 0.0
        self._untold = 0
        self._loud = True
        self._pauses = 0

    @property
    def max_fd(self) -> int:
        """The first descriptor number of which ``on_crowded`` is to be told. At least 1: 0 means never."""
        limit = descriptor_limit()
        return max(self._pause_fd(limit) - min(_CAREFUL_MAX, limit // 4), 1)

    @property
    def pauses(self) -> int:
        """How often accepting was paused."""
        return self._pauses

    @property
    def paused(self) -> bool:
        return self._retry is not None

    def guard(self, listening: Listening) -> None:
        """Decide for ``listening`` from now on, until ``close``."""
        self._listening = listening
        listening.watch(on_accepted=self._accepted, on_failure=self._failed)
        self.check()

    def close(self) -> None:
        """Decide no more: the worker stops accepting for good."""
        self._listening = None
        self._files.close()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    # What it is told

    def on_crowded(self) -> None:
        """A connection has a number from ``max_fd`` on. The app may have raised the limit since."""
        listening = self._listening
        if listening is not None and listening.mode is Mode.FAST and not has_room(1, below=self.max_fd):
            listening.resume(careful=True)

    def check(self) -> None:
        """Once a second, for what no new connection tells."""
        listening = self._listening
        if listening is None or self.paused:
            return
        if has_room(self._slack, below=self.max_fd) and not self._files.is_nearly_full():
            listening.resume()
        elif (shortage := self._shortage()) is not None:
            self._pause(*shortage)
        else:
            listening.resume(careful=True)

    def _accepted(self, fd: int) -> None:
        limit = descriptor_limit()
        if fd >= self._pause_fd(limit):
            self._pause(_in_use(fd + 1, limit), _MORE_DESCRIPTORS)

    def _failed(self, error: OSError) -> None:
        if error.errno == errno.EMFILE:
            limit = descriptor_limit()
            self._pause(_in_use(limit, limit), _MORE_DESCRIPTORS)
        elif error.errno == errno.ENFILE:
            self._pause("the system has no more open files to give", _MORE_FILES)
        else:
            self._pause(f"accept() says {error.strerror}", "see what this host is short of")

    # A pause

    def _pause(self, reason: str, advice: str) -> None:
        if self._listening is None or self.paused:
            return
        loop = asyncio.get_running_loop()
        self._listening.pause()
        self._pauses += 1
        self._paused_at = loop.time()
        self._loud = self._paused_at >= self._quiet_until
        if self._loud:
            more = f" ({self._untold} short pauses were not logged)" if self._untold else ""
            log.warning(
                "Not accepting new connections: %s; trying again every %d ms; %s%s.",
                reason,
                round(RETRY_S * 1000),
                advice,
                more,
            )
            self._quiet_until = self._paused_at + LOG_EVERY_S
        self._untold = 0 if self._loud else self._untold + 1
        self._retry = loop.call_later(RETRY_S, self._look_again)

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        if self._listening is None:
            return
        if self._shortage() is not None:
            self._retry = loop.call_later(RETRY_S, self._look_again)
            return
        self._retry = None
        self._listening.resume(careful=True)
        if self._loud:
            log.info("Accepting new connections again after %.1f s.", loop.time() - self._paused_at)

    def _shortage(self) -> tuple[str, str] | None:
        """Why nothing should be accepted now, and what to do about it."""
        limit = descriptor_limit()
        if self._files.is_full():  # first: it may be why no descriptor can be had
            return "the system's table of open files is nearly full", _MORE_FILES
        if not has_room(self._slack, below=self._pause_fd(limit)):
            return _in_use(lowest_free(limit), limit), _MORE_DESCRIPTORS
        return None

    def _pause_fd(self, limit: int) -> int:
        return limit - self._reserve

    @property
    def _slack(self) -> int:
        """This many descriptors must be free before accepting begins again, lest it pause at the next."""
        return max(self._reserve // 2, 1)


class FileTable:
    """fs.file-nr, kept open: opening it takes what it tells the lack of. Unreadable is not full."""

    def __init__(self, path: Path = FILE_NR) -> None:
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        _, limit = self._read()
        if limit > FILES_WITHOUT_LIMIT:
            self.close()

    def is_nearly_full(self) -> bool:
        used, limit = self._read()
        return limit - used < limit // 10

    def is_full(self) -> bool:
        """Whether less is left than other processes should find."""
        used, limit = self._read()
        return limit - used < min(limit // 100, _SYSTEM_RESERVE_MAX)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> tuple[int, int]:
        """Open files of all processes, and the limit; zeros when it cannot be known."""
        if self._fd < 0:
            return 0, 0
        try:
            used, _, limit = os.pread(self._fd, 100, 0).split()
            return int(used), int(limit)
        except (OSError, ValueError):
            return 0, 0


def descriptor_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**30 if soft == resource.RLIM_INFINITY else soft


def has_room(count: int, *, below: int) -> bool:
    """Whether ``count`` more descriptors with numbers below this can be had. They are taken and given back:
    the lowest free number alone would say little, since any connection that closes leaves a gap.
    """
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.dup(taken[0]) if taken else os.eventfd(0))
            if taken[-1] >= below:
                return False
        return True
    except OSError:
        return False
    finally:
        for fd in taken:
            os.close(fd)


def lowest_free(limit: int) -> int:
    """The number that the next descriptor gets; the limit when there is none."""
    try:
        fd = os.eventfd(0)
    except OSError:
        return limit
    os.close(fd)
    return fd


def _in_use(count: int, limit: int) -> str:
    return f"{count} of {limit} descriptors are in use"
