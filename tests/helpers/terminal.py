"""A program on a terminal of its own: a pseudo-terminal that a test types on, resizes and reads.

Rules of this file: nothing sleeps for a fixed time. ``frame`` understands no more of a terminal than programs
need that draw whole frames from the top: home, lines, end of screen.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.helpers.master_process import PATIENCE_S, until

# A session of its own, and this its terminal: so Ctrl-C and a change of size become signals.
_LEAD = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_FRAME = re.compile(rb"\x1b\[H((?:(?!\x1b\[H).)*)\x1b\[J", re.DOTALL)
_STYLE = re.compile(r"\x1b\[[0-9;]*[mK]")


class Terminal:
    """``with Terminal([sys.executable, "-m", "shardserve", "top"], env=...) as terminal:``

    What is still there at the end is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: dict[str, str],
        folder: Path,
        columns: int = 120,
        lines: int = 30,
    ) -> None:
        self.ours, theirs = os.openpty()
        self.resize(columns, lines)
        self.modes_before = self.modes()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LEAD, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            cwd=folder,
        )
        os.close(theirs)
        self.pid = self.process.pid
        self._out = bytearray()
        self._pump = threading.Thread(target=self._read, name="terminal")
        self._pump.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return
            self._out += data

    # Doing

    def press(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def resize(self, columns: int, lines: int) -> None:
        """The kernel tells the program (WINCH)."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    # Seeing

    @property
    def out(self) -> str:
        """Everything that was written."""
        return self._out.decode(errors="replace")

    @property
    def frame(self) -> list[str]:
        """The lines of the last whole frame, without their styles."""
        frames = _FRAME.findall(bytes(self._out))
        return re.split("\r+\n", _STYLE.sub("", frames[-1].decode())) if frames else []

    def saw(self, pattern: str, since: int = 0) -> str:
        """Wait until this was written; everything that was."""
        self._until(lambda: re.search(pattern, self.out[since:]), f"{pattern!r} on the terminal")
        return self.out

    def shows(self, pattern: str) -> list[str]:
        """Wait until the last frame has a line with this; the frame."""
        return self.shown(lambda frame: any(re.search(pattern, line) for line in frame), repr(pattern))

    def shown(self, good: Callable[[list[str]], object], what: str) -> list[str]:
        """Wait until the last frame is good; that frame."""

        def probe() -> list[str] | None:
            frame = self.frame
            return frame if frame and good(frame) else None

        found: list[str] = self._until(probe, f"{what} on the screen")
        return found

    def _until(self, probe: Callable[[], Any], what: str) -> Any:
        def alive() -> Any:
            over = self.process.poll() is not None
            if over:
                self._pump.join(PATIENCE_S)
            found = probe()
            assert found or not over, f"ended with {self.process.returncode}, never had {what}: {self.out!r}"
            return found

        return until(alive, what)

    def modes(self) -> list[Any]:
        """The line discipline, as tcgetattr(3) has it."""
        return termios.tcgetattr(self.ours)

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(PATIENCE_S)
        self._pump.join(PATIENCE_S)
        return code

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        self._pump.join(PATIENCE_S)
        os.close(self.ours)
        if error is not None:
            error.add_note("on the terminal:\n" + "\n".join(self.frame or [self.out[-2000:]]))
