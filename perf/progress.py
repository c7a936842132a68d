"""What the user sees while a run goes on: one line that changes on a terminal, few lines elsewhere.

Rules of this file: standard error only, so that standard output stays the tables; NO_COLOR and a
stream that is not a terminal turn every escape sequence off (no-color.org).
"""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

_DIM, _PLAIN, _CLEAR_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[2K"


class Progress:
    """Counts steps towards ``total`` and says how long is left."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._total = total
        self._done = 0
        self._began = time.monotonic()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._stream.write((_CLEAR_LINE if self._live else "") + text + "\n")
        self._stream.flush()

    def step(self, text: str, steps: int = 1) -> None:
        """``steps`` of the total are about to be done; on a terminal, show which."""
        if self._live:
            line = f"[{self._done}/{self._total}] {text}{self._left()}"
            self._stream.write(_CLEAR_LINE + (f"{_DIM}{line}{_PLAIN}" if self._colour else line))
            self._stream.flush()
        self._done += steps

    def close(self) -> None:
        """Leave a clean line behind."""
        if self._live:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()

    def _left(self) -> str:
        if self._done == 0:
            return ""
        elapsed = time.monotonic() - self._began
        return f" · about {duration(elapsed / self._done * (self._total - self._done))} left"


def duration(seconds: float) -> str:
    """``75`` as "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
