"""What ``perf script -F comm,ip,sym,dso`` prints, as stacks.

Rules of this file: pure. A sample is a paragraph: a line with the thread's name, then one line for
each frame, the innermost first. A function of Python is a symbol ``py::qualname:file`` (Python's
HOWTO "Python support for the Linux perf profiler"), since 3.12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from .frames import CUT, Frame, Layer, native_frame, python_frame
from .stacks import Stacks

FIELDS = "comm,ip,sym,dso"
_FRAME = re.compile(r"^\s*(?P<address>[0-9a-f]+) (?P<symbol>.*) \((?P<where>[^()]*|.*)\)$")
_PYTHON = "py::"
# Where the stack of a process or of a thread begins.
_ROOTS = re.compile(r"^_start$|clone3?$|^(start_thread|thread_start|ret_from_fork.*|__libc_start_.*)$")


def stacks_of(lines: Iterable[str], *, app_root: str = "") -> Stacks:
    """Every sample. A line that is no frame is skipped: perf may have a remark."""
    found = Stacks()
    for paragraph in _paragraphs(lines):
        stack = list(_frames(paragraph, app_root))
        found.add(reversed(stack))
    return found


def _paragraphs(lines: Iterable[str]) -> Iterator[list[str]]:
    """Each sample's frames, without the line above them."""
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield paragraph[1:]
            paragraph = []
    if paragraph:
        yield paragraph[1:]


def _frames(paragraph: list[str], app_root: str) -> Iterator[Frame]:
    """The innermost first, and CUT at the end where the stack has no beginning."""
    matches = [found for line in paragraph if (found := _FRAME.match(line.rstrip("\n")))]
    last = ""
    for number, found in enumerate(matches):
        symbol, where = found["symbol"], found["where"]
        if where == "inlined":
            # Its code is in the next function that has this address. None: it is another name of one.
            real = (one for one in matches[number + 1 :] if one["where"] != "inlined")
            after = next(real, found)
            same = after["address"] == found["address"]
            yield native_frame(symbol, after["where"] if same else "libc.so", inlined=True)
        elif symbol.startswith(_PYTHON):
            name, _, path = symbol.removeprefix(_PYTHON).partition(":")
            yield python_frame(name, path, app_root=app_root)
        elif symbol == "[unknown]" and where == "[unknown]":
            if number == 0:
                yield Frame("[unknown]", "", Layer.UNKNOWN)
            continue  # what an unwinder finds where it has lost its way
        else:
            yield native_frame(symbol if symbol != "[unknown]" else f"[{where.rsplit('/', 1)[-1]}]", where)
        last = symbol
    if len(matches) > 1 and not _ROOTS.search(last):
        yield Frame(CUT, "", Layer.UNKNOWN)
