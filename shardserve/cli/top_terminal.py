"""A terminal that is drawn on and has its keys read one by one, and that is left as it was found.

Rules of this file: no curses; the sequences are ECMA-48's and DEC's private modes, as every terminal of the
last decades has them. One frame is one write, over the one before, so nothing flickers. Whatever ends the
block restores the screen, the cursor and the line discipline: leaving it, an error, Ctrl-C, TERM, HUP;
Ctrl-Z does before the shell has the terminal again. It waits in one place, ``wait``, which says what came.
"""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

# The other screen without the scroll-back, no cursor, no wrapping of lines that are too long.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

QUIT, NEWS, RESIZED = "quit", "news", "resized"
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALS = (*_ENDS, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_WOKEN = 0  # is no signal's number

# CSI and SS3 sequences (ECMA-48 §5.4, xterm's keys), any other character after ESC, or a character.
_KEY = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~])|[^\x1b]", re.DOTALL)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
_NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page up",
    "\x1b[6~": "page down", "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b[F": "end",
    "\x1bOF": "end", "\x1b[4~": "end",
}  # fmt: skip


class Keys:
    """Bytes from a terminal in, names of keys out: ``q``, ``up``. Nothing for keys that have no name here."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """A sequence may come in parts. An Escape alone waits for what follows it, and is then nothing."""
        text = self._rest + data.decode("latin-1")
        unfinished = _UNFINISHED.search(text)
        self._rest = unfinished[0] if unfinished else ""
        found = _KEY.findall(text.removesuffix(self._rest))
        return [_NAMES.get(key, key) for key in found if key in _NAMES or key[0] != "\x1b"]


class Screen:
    """``with Screen(1, 0) as screen:`` in the main thread. ``keyboard`` None, or not a terminal: no keys."""

    def __init__(self, fd: int, keyboard: int | None) -> None:
        self._fd = fd
        self.keyboard = keyboard if keyboard is not None and os.isatty(keyboard) else None
        self._keys = Keys()
        self._before: list[Any] | None = None  # of the keyboard, while ours are in force
        self._handlers: dict[signal.Signals, Any] = {}
        self._lock = threading.Lock()  # wake() comes from other threads, and may come late
        self._open = False

    def __enter__(self) -> Screen:
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._open = True
        # Handlers only make Python write the signal's number to the pipe.
        self._handlers = {one: signal.signal(one, _heard) for one in _SIGNALS}
        self._old_wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, termios.error):  # the terminal may be gone
            self._stop()
        signal.set_wakeup_fd(self._old_wakeup)
        for one, handler in self._handlers.items():
            signal.signal(one, handler)
        with self._lock:
            self._open = False
            os.close(self._woken)
            os.close(self._wake)

    def _start(self) -> None:
        if self.keyboard is not None:
            if self._before is None:
                self._before = termios.tcgetattr(self.keyboard)
            ours = [*self._before[:6], [*self._before[6]]]
            ours[3] &= ~(termios.ICANON | termios.ECHO)  # a key at a time, not shown; Ctrl-C and Ctrl-Z stay
            ours[6][termios.VMIN], ours[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self.keyboard, termios.TCSANOW, ours)
        self._write(ENTER)

    def _stop(self) -> None:
        try:
            self._write(LEAVE)
        finally:
            if self._before is not None:
                assert self.keyboard is not None
                termios.tcsetattr(self.keyboard, termios.TCSANOW, self._before)
                self._before = None

    # Drawing

    def size(self) -> tuple[int, int]:
        """Columns and lines. 80 and 24 where nobody knows."""
        try:
            columns, lines = os.get_terminal_size(self._fd)
        except OSError:
            return 80, 24
        return columns or 80, lines or 24

    def draw(self, lines: list[str], encoding: str) -> None:
        """The whole screen. Raises OSError: the terminal is gone."""
        body = "\r\n".join(f"{line}{_REST_OF_LINE}" for line in lines)
        self._write(f"{_HOME}{body}{_REST_OF_SCREEN}", encoding)

    def _write(self, text: str, encoding: str = "ascii") -> None:
        data = text.encode(encoding, "replace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody else with this terminal has made it non-blocking
                select.select([], [self._fd], [])

    # Waiting

    def wake(self) -> None:
        """``wait`` returns NEWS. From any thread, at any time."""
        with self._lock, suppress(BlockingIOError):
            if self._open:
                os.write(self._wake, bytes((_WOKEN,)))

    def wait(self) -> Iterator[str]:
        """Wait, and then say what came: keys, NEWS, RESIZED, QUIT."""
        watched = [self._woken] if self.keyboard is None else [self._woken, self.keyboard]
        ready, _, _ = select.select(watched, [], [])
        if self._woken in ready:
            for number in os.read(self._woken, 4096):
                yield self._event(number)
        if self.keyboard in ready:
            yield from self._pressed(self.keyboard)

    def _event(self, number: int) -> str:
        if number == _WOKEN:
            return NEWS
        if number in _ENDS:
            return QUIT
        if number == signal.SIGTSTP:
            self._suspend()
        elif number == signal.SIGCONT:  # after a SIGSTOP, of which nobody is told before
            self._start()
        return RESIZED

    def _pressed(self, keyboard: int) -> list[str]:
        try:
            data = os.read(keyboard, 1024)
        except OSError:
            data = b""
        return self._keys.feed(data) if data else [QUIT]  # it is gone

    def _suspend(self) -> None:
        """Ctrl-Z: stop as if we had no handler. Where no shell could continue us the kernel does nothing."""
        self._stop()
        # Of the SIGCONT that ends this nobody need be told.
        for one in (signal.SIGTSTP, signal.SIGCONT):
            signal.signal(one, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        for one in (signal.SIGTSTP, signal.SIGCONT):
            signal.signal(one, _heard)
        self._start()


def _heard(number: int, frame: FrameType | None) -> None:
    """The pipe has it."""
