"""What the user sees while it runs: one line that changes on a terminal, a line for each stage elsewhere.

Rules of this file: stderr only, so that stdout stays the table. No control character where stderr is
not a terminal; no colour there, or with NO_COLOR (no-color.org).
"""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from ..observe.logs import printable

_CLEAR, _DIM, _PLAIN = "\r\x1b[2K", "\x1b[2m", "\x1b[0m"
_BAR = 24
_STEP_S = 0.1


class Progress:
    """The line. ``close`` leaves the terminal clean."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and not os.environ.get("NO_COLOR")

    def stage(self, text: str) -> None:
        """What is done now."""
        if self._live:
            self._draw(f"{text} …")
        else:
            self._write(f"{text}\n")

    def note(self, text: str) -> None:
        """Lines that stay. What others have said in them comes without control characters."""
        clear = _CLEAR if self._live else ""
        self._write(clear + "".join(f"{printable(line)}\n" for line in text.splitlines()))

    def part(self, text: str, done: float) -> None:
        """``done`` of a stage is over, between 0 and 1. Only a terminal shows it."""
        if self._live:
            full = round(_BAR * min(done, 1.0))
            self._draw(f"{text} [{'#' * full}{'-' * (_BAR - full)}]")

    def close(self) -> None:
        if self._live:
            self._write(_CLEAR)

    def wait(self, text: str, seconds: float) -> None:
        """Let time pass, and show how much is left."""
        self.stage(text)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            self.part(f"{text}, {seconds - passed:.0f} s left", passed / seconds)
            time.sleep(min(_STEP_S, seconds - passed))

    def _draw(self, text: str) -> None:
        text = printable(text)
        self._write(_CLEAR + (f"{_DIM}{text}{_PLAIN}" if self._colour else text))

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
