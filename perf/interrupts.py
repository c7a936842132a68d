"""Ctrl-C and TERM while processes are being started and stopped.

Rules of this file: an interrupt is a KeyboardInterrupt wherever it may fall, except inside
``deferred()``, where it waits for the end of the block. Starting a child (until its pid is on record)
and stopping the children are such blocks: otherwise an ill-timed Ctrl-C leaves a process behind.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """A context manager: INT and TERM raise KeyboardInterrupt, now or at the end of a deferred block."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._depth = 0
        self._pending = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        # Python allows handlers in the main thread only; elsewhere nobody sends us a Ctrl-C.
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._pending and not self._depth:
            self._pending = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._pending = True
        else:
            raise KeyboardInterrupt
