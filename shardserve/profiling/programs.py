"""Child processes: started apart from our terminal, and ended by their own pid.

Rules of this file: a child is in a session of its own, so that a Ctrl-C reaches us alone and we end
things in order; and the kernel ends it (SIGTERM) should we be killed. What it writes goes to a file
of ours, so that no pipe fills up; its last lines are what an error quotes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ShardserveError

STOP_S = 15.0
_PR_SET_PDEATHSIG = 1
_LINES = 12
_libc = ctypes.CDLL(None, use_errno=True)


class ProfileError(ShardserveError):
    """There will be no profile. The text says why, and what to do."""


class Program:
    """One child. ``output`` is where its stdout and stderr go; None drops the former."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
        cores: Iterable[int] = (),
    ) -> None:
        """``log`` takes its stderr. ``cores``: where it may run, if not everywhere. Raises OSError."""
        self._log = log
        mask, parent = frozenset(cores), os.getpid()

        def prepare() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it was too late to ask for it
                os._exit(1)
            if mask:
                os.sched_setaffinity(0, mask)

        with log.open("wb") as errors, (output or Path(os.devnull)).open("wb") as out:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env=env,
                start_new_session=True,
                preexec_fn=prepare,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.poll()

    def send(self, number: signal.Signals) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended by itself."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        return self._popen.returncode is not None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_S) -> None:
        """Ask it to end, and kill it if it does not."""
        self.send(number)
        if not self.wait(timeout_s):
            self._popen.kill()
            self._popen.wait()

    def said(self, lines: int = _LINES) -> str:
        """The end of what it wrote to stderr."""
        try:
            data = self._log.read_bytes()[-16384:]
        except OSError:
            return ""
        return "\n".join(data.decode(errors="replace").strip().splitlines()[-lines:])


def output_of(
    argv: Sequence[str], folder: Path, *, timeout_s: float, output: Path | None = None
) -> tuple[int, str]:
    """Run a program to its end: its exit code, and what it wrote to stderr. One that takes longer is
    killed: the code is negative. One that cannot be started has 127, as with a shell.
    """
    log = folder / "program.log"
    try:
        program = Program(argv, log, output=output)
    except OSError as error:
        return 127, f"{argv[0]}: {error.strerror}"
    try:
        program.wait(timeout_s)
    finally:
        program.stop(signal.SIGKILL)
    return program.returncode or 0, program.said()
