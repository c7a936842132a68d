"""A recording made by perf, and the stacks in it.

Rules of this file: all files of a recording are in one folder of ours. Python writes its own beside,
into /tmp (that is not configurable): ``remove_traces`` takes those of the processes we started away.

Stacks are unwound by DWARF: the libraries between the interpreter's frames (uvloop's, ours) keep no
frame pointers. For that perf copies the top of the stack with each sample. 64 KiB hold all but the
deepest; a long recording gets less, so that it does not fill the disk.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from . import perf_text
from .programs import ProfileError, Program, output_of
from .stacks import Stacks
from .tools import Way

_LARGEST_STACK_BYTES = 65528  # perf's own limit
_SMALLEST_STACK_BYTES = 8192
_MOST_DATA_BYTES = 1 << 30
_LATE_S = 60.0
_DEEPEST = "2048"  # frames, inlined ones too; unless told, perf stops at 127
# To find out what the compiler inlined, perf may run addr2line, which may take minutes.
_INLINE_S = 60.0
_SCRIPT_S = 600.0
_TMP = Path("/tmp")


def stack_bytes(duration_s: float, rate_hz: int, processes: int) -> int:
    """How much of the stack each sample brings. perf wants a multiple of eight."""
    room = _MOST_DATA_BYTES / max(duration_s * rate_hz * processes, 1)
    return max(_SMALLEST_STACK_BYTES, min(_LARGEST_STACK_BYTES, int(room))) // 8 * 8


class Recording:
    """perf, watching processes for some seconds."""

    def __init__(
        self, path: str, way: Way, pids: Sequence[int], folder: Path, *, duration_s: float, rate_hz: int
    ) -> None:
        """Begins at once."""
        self._path, self._way, self._folder = path, way, folder
        self._data = folder / "perf.data"
        depth = stack_bytes(duration_s, rate_hz, len(pids))
        graph = "fp" if way is Way.PERF_FRAME_POINTERS else f"dwarf,{depth}"
        self._program = Program(
            [
                *self._perf("record"), "-N", "-q", "-F", str(rate_hz), "--call-graph", graph, "-k", "mono",
                "-o", str(self._data), "-p", ",".join(map(str, pids)), "--", "sleep", f"{duration_s:g}",
            ],
            folder / "perf.log",
        )  # fmt: skip
        self._duration_s = duration_s

    @property
    def ended(self) -> bool:
        return self._program.returncode is not None

    def finish(self) -> None:
        """Wait until all is written. Raises ProfileError."""
        if not self._program.wait(self._duration_s + _LATE_S):
            self.stop()
            raise ProfileError(f"perf did not end {_LATE_S:.0f} s after its time")
        if self._program.returncode != 0 or not self._data.exists():
            raise ProfileError(f"perf recorded nothing:\n{self._program.said()}")

    def stop(self) -> None:
        """End it now, if it still runs."""
        self._program.stop(signal.SIGINT)

    def stacks(self, app_root: str) -> Stacks:
        """What was recorded. The processes may be gone by now. Raises ProfileError."""
        data = self._data
        if self._way is Way.PERF_JIT:
            data = self._folder / "perf.jit.data"
            argv = [*self._perf("inject"), "--jit", "-i", str(self._data), "-o", str(data)]
            code, said = output_of(argv, self._folder, timeout_s=_SCRIPT_S)
            if code != 0:
                raise ProfileError(f"perf inject failed:\n{said}")
        text = self._folder / "perf.txt"
        script = [*self._perf("script"), "-i", str(data), "-F", perf_text.FIELDS, "--max-stack", _DEEPEST]
        code, said = output_of(script, self._folder, timeout_s=_INLINE_S, output=text)
        if code != 0:
            code, said = output_of([*script, "--no-inline"], self._folder, timeout_s=_SCRIPT_S, output=text)
        if code != 0:
            raise ProfileError(f"perf script failed:\n{said}")
        with text.open(errors="replace") as lines:
            return perf_text.stacks_of(lines, app_root=app_root)

    def _perf(self, command: str) -> list[str]:
        """perf keeps copies of what it has seen, in ~/.debug unless told otherwise."""
        return [self._path, "--buildid-dir", str(self._folder / "debug"), command]


def remove_traces(pids: Iterable[int]) -> None:
    """The files that Python and perf have left in /tmp for these processes, all of which have ended."""
    for pid in pids:
        names = [f"perf-{pid}.map", f"jit-{pid}.dump"]
        for path in [*(_TMP / name for name in names), *_TMP.glob(f"jitted-{pid}-*.so")]:
            with suppress(OSError):
                path.unlink()
