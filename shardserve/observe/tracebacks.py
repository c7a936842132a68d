"""Tracebacks for people: the app's frames, without the server's and the import machinery's.

Rules of this file: pure text, no logging, no I/O beyond the source lines that ``traceback`` reads.
A frame is dropped only when it is certainly ours; code that runs *as an app* (the demo, the
middleware, the integrations) is shown like any app's. What an exception says may be what a client
sent (``KeyError(header)``), so nothing of it gets out as it is:

- every control character but newline and tab, and all else that does not print, is escaped;
- what it says behind its first line, and its notes, is indented; and no line begins as a line of the
  server's log does: nobody can forge one;
- it has an end;
- an exception that fails when it is asked for its text is shown all the same.

What a log line says around a traceback is decided by ``logs.py``; what makes an import error
readable, by ``asgi/importer.py``.
"""

from __future__ import annotations

import re
import textwrap
import traceback
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

_PACKAGE = str(Path(__file__).resolve().parent.parent)
# These live in our package and yet are somebody's application code.
_APP_CODE = tuple(f"{_PACKAGE}/{name}" for name in ("demo.py", "middleware/", "integrations/"))
_IMPORT_MACHINERY = "<frozen importlib"
_IMPORT_MODULE = str(Path("importlib") / "__init__.py")
# A chain is bounded so that a cycle in __context__ cannot hang the log (CPython allows one to be built).
_MAX_CHAIN = 100
# Of one message or note. An app may put a whole request body into one.
_MAX_CHARACTERS = 16 * 1024
_INDENT = "    "
# How a line of the server's log begins: with the name of a level.
_LOG_LINE = re.compile(r"(?:TRACE|DEBUG|INFO|WARNING|ERROR|CRITICAL):")


def is_ours(filename: str) -> bool:
    """Whether a frame of this file says nothing to the app's author."""
    if filename.startswith(_IMPORT_MACHINERY) or filename.endswith(_IMPORT_MODULE):
        return True
    return filename.startswith(_PACKAGE + "/") and not filename.startswith(_APP_CODE)


def trimmed(error: BaseException) -> str:
    """The traceback of ``error`` with its causes, our frames left out, without a final newline.

    Never raises: what cannot be shown must not take the rest of the log line with it.
    """
    try:
        report = _Report.from_exception(error, compact=True)
        _make_presentable(report)
        return "".join(report.format()).rstrip("\n")
    except Exception as failure:
        name, why = type(error).__qualname__, type(failure).__qualname__
        return _contained(f"{name}, whose traceback cannot be shown ({why})")


def raised_by_app(error: BaseException) -> bool:
    """Whether any frame below our own took part: code of the app, or a library it called."""
    return any(not is_ours(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__))


def chain(error: BaseException) -> list[BaseException]:
    """``error`` and all its causes and contexts, each once, nearest first."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < _MAX_CHAIN:
        one = waiting.pop(0)
        if one is None or any(one is known for known in found):
            continue
        found.append(one)
        waiting += [one.__cause__, one.__context__]
    return found


# Text that is not ours


def defused(text: str) -> str:
    """``text`` without anything that a terminal would obey: all that does not print is escaped, but for
    newlines and tabs.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else escaped(char) for char in text)


def escaped(char: str) -> str:
    """``\\x1b``, ``\\u2028``, ``\\U000e0001``."""
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _contained(text: str) -> str:
    """What one exception says: defused, and indented behind its first line."""
    first, newline, rest = defused(_shortened(text)).partition("\n")
    if _LOG_LINE.match(first):  # a class may have any name
        first = _INDENT + first
    return first + newline + textwrap.indent(rest, _INDENT)


def _one_line(text: str) -> str:
    return defused(text).replace("\n", "\\x0a")


def _shortened(text: str) -> str:
    more = len(text) - _MAX_CHARACTERS
    return text if more <= 0 else f"{text[:_MAX_CHARACTERS]}... and {more} characters more\n"


# An exception as text: where the standard library joins it, what is not ours is caught


class _Report(traceback.TracebackException):
    def format_exception_only(self, **_: Any) -> Generator[str, None, None]:
        """``_``: 3.13 says here that it wants no colours."""
        # Notes are lines of their own, which would begin at the margin.
        notes, self.__notes__ = self.__notes__, None
        for text in super().format_exception_only():
            yield _contained(text)
        for note in _texts(notes):
            yield textwrap.indent(defused(_shortened(note)).rstrip("\n"), _INDENT) + "\n"


def _texts(notes: Any) -> list[str]:
    """An app may have set ``__notes__`` to anything."""
    if notes is None:
        return []
    if not isinstance(notes, Sequence) or isinstance(notes, str | bytes):
        notes = [notes]
    return [_text(note) for note in notes]


def _text(note: Any) -> str:
    try:
        return str(note)
    except Exception:
        return "<note str() failed>"


class _Stack(traceback.StackSummary):
    def format_frame_summary(self, frame_summary: traceback.FrameSummary, **_: Any) -> str:
        """A template's name can be a file name, and a generated function can have any."""
        frame_summary.filename = _one_line(frame_summary.filename)
        frame_summary.name = _one_line(frame_summary.name)
        return defused(super().format_frame_summary(frame_summary))


def _make_presentable(report: traceback.TracebackException) -> None:
    """Drop our frames, and have the rest formatted by the two classes above, all through the tree."""
    waiting: list[traceback.TracebackException | None] = [report]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__class__ = _Report  # the standard library made its causes and members of its own class
        one.stack = _Stack(frame for frame in one.stack if not is_ours(frame.filename))
        waiting += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
