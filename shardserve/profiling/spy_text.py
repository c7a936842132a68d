"""What ``py-spy record --format raw --full-filenames --nolineno`` writes, as stacks.

Rules of this file: pure. A line is a stack, its root first: ``name (file);name (file) 12``. py-spy
reads a process from outside and cannot see the kernel: a system call is the function of the C
library that makes it, and whether its thread waits in it or works is told by which one it is.
"""

from __future__ import annotations

import re

from .frames import Frame, native_frame, python_frame
from .stacks import Stacks

_LINE = re.compile(r"^(?P<stack>.*) (?P<samples>\d+)$")
# A semicolon inside a name does not end a frame: only one after a closing parenthesis does.
_BETWEEN = re.compile(r"(?<=\));(?=\S)")
_FRAME = re.compile(r"^(?P<name>.*) \((?P<where>.*)\)$")
_LINE_NUMBER = re.compile(r":\d+$")


def stacks_of(text: str, *, app_root: str = "") -> Stacks:
    """Every sample. A line that is no stack is skipped."""
    found = Stacks()
    for line in text.splitlines():
        if match := _LINE.match(line):
            parts = _BETWEEN.split(match["stack"])
            # Threads and processes come as frames of their own: "process 12:python …", "thread (0x…)".
            parts = [one for one in parts if not one.startswith(("process ", "thread ("))]
            frames = [_frame(one, app_root, leaf=one is parts[-1]) for one in parts]
            found.add(frames, int(match["samples"]))
    return found


def _frame(text: str, app_root: str, *, leaf: bool) -> Frame:
    match = _FRAME.match(text)
    if match is None:
        return native_frame(text, "[unknown]")
    name, where = match["name"], _LINE_NUMBER.sub("", match["where"])
    if where.endswith((".py", ".pyc")) or where.startswith("<"):
        return python_frame(name, where, app_root=app_root)
    return native_frame(name, where if where != "?" else "[unknown]", leaf=leaf)
