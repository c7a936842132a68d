"""Signals, turned into things that the one loop reads.

Rules of this file: a handler does nothing. The C-level wakeup fd writes the signal's number as a
byte into a pipe that the loop selects on; ``take`` reads them, in order of arrival. What a signal
means is the supervisor's business, and nothing here logs.

Only the main thread can have handlers, so only it can run the master.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

HANDLED = (
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Signals:
    """While entered, the signals of HANDLED arrive at ``fileno()`` and nowhere else."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = -1, -1
        self._previous: dict[signal.Signals, object] = {}
        self._previous_wakeup = -1

    def __enter__(self) -> Signals:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A full pipe holds 64 Ki unread signals: the loop is going to wake up, nothing is to be said.
        self._previous_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in HANDLED:
            self._previous[number] = signal.signal(number, _no_op)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None: it was not set from Python, so Python cannot put it back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def fileno(self) -> int:
        """What to select on."""
        return self._read_fd

    def take(self) -> list[signal.Signals]:
        """The signals that came since the last call, oldest first. Never blocks."""
        found = bytearray()
        try:
            while chunk := os.read(self._read_fd, 4096):
                found += chunk
        except BlockingIOError:
            pass
        return [signal.Signals(number) for number in found if number in HANDLED]


def _no_op(number: int, frame: FrameType | None) -> None:
    """Its presence keeps the default action away; the wakeup fd has the news."""
