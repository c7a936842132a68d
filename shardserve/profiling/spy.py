"""A recording made by py-spy, and the stacks in it.

Rules of this file: one py-spy for each process. It stops a process for a moment to read its stacks,
so the rate is a part of the cost. With ``idle`` every thread is read every time, whatever it does:
samples are then time that passed, and a thread that waits is where it waits.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from . import spy_text
from .programs import ProfileError, Program
from .stacks import Stacks
from .tools import Way

_LATE_S = 60.0


class Recording:
    """py-spy, watching processes for some seconds."""

    def __init__(
        self,
        path: str,
        way: Way,
        pids: Sequence[int],
        folder: Path,
        *,
        duration_s: float,
        rate_hz: int,
        idle: bool,
    ) -> None:
        """Begins at once."""
        self._idle = idle
        self._programs: dict[Path, Program] = {}
        # It takes whole seconds only.
        self._whole_s = -int(-duration_s // 1)
        flags = ["--full-filenames", "--nolineno", "--format", "raw", "--rate", str(rate_hz)]
        flags += ["--native"] * (way is Way.SPY) + ["--idle"] * idle
        try:
            for pid in pids:
                raw = folder / f"spy-{pid}.raw"
                argv = [
                    path,
                    "record",
                    *flags,
                    "--duration",
                    str(self._whole_s),
                    "--output",
                    str(raw),
                    "--pid",
                    str(pid),
                ]
                self._programs[raw] = Program(
                    argv, folder / f"spy-{pid}.log", output=folder / f"spy-{pid}.out"
                )
        except BaseException:
            self.stop()
            raise

    @property
    def ended(self) -> bool:
        return all(one.returncode is not None for one in self._programs.values())

    def finish(self) -> None:
        """Wait until all is written. Raises ProfileError."""
        for raw, program in self._programs.items():
            if not program.wait(self._whole_s + _LATE_S):
                self.stop()
                raise ProfileError(f"py-spy did not end {_LATE_S:.0f} s after its time")
            if not raw.exists():
                raise ProfileError(f"py-spy recorded nothing:\n{program.said()}")

    def stop(self) -> None:
        """End it now, if it still runs."""
        for program in self._programs.values():
            program.send(signal.SIGINT)
        for program in self._programs.values():
            program.stop(signal.SIGINT)

    def stacks(self, app_root: str) -> Stacks:
        """What was recorded: without ``idle`` what ran, with it what waited."""
        found = Stacks()
        for raw in self._programs:
            found.update(spy_text.stacks_of(raw.read_text(errors="replace"), app_root=app_root))
        return found.only(waiting=self._idle)
