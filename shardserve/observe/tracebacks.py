"""Tracebacks for people: the app's frames, without the server's and the import machinery's.

Rules of this file: pure text, no logging, no I/O beyond the source lines that ``traceback`` reads.
A frame is dropped only when it is certainly ours; code that runs *as an app* (the demo, the
middleware, the integrations) is shown like any app's. What a log line says around a traceback is
decided by ``logs.py``; what makes an import error readable, by ``asgi/importer.py``.
"""

from __future__ import annotations

import traceback
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent.parent)
# These live in our package and yet are somebody's application code.
_APP_CODE = tuple(f"{_PACKAGE}/{name}" for name in ("demo.py", "middleware/", "integrations/"))
_IMPORT_MACHINERY = "<frozen importlib"
_IMPORT_MODULE = str(Path("importlib") / "__init__.py")
# A chain is bounded so that a cycle in __context__ cannot hang the log (CPython allows one to be built).
_MAX_CHAIN = 100


def is_ours(filename: str) -> bool:
    """Whether a frame of this file says nothing to the app's author."""
    if filename.startswith(_IMPORT_MACHINERY) or filename.endswith(_IMPORT_MODULE):
        return True
    return filename.startswith(_PACKAGE + "/") and not filename.startswith(_APP_CODE)


def trimmed(error: BaseException) -> str:
    """The traceback of ``error`` with its causes, our frames left out, without a final newline."""
    report = traceback.TracebackException.from_exception(error, compact=True)
    _drop_our_frames(report)
    return "".join(report.format()).rstrip("\n")


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


def _drop_our_frames(report: traceback.TracebackException) -> None:
    waiting: list[traceback.TracebackException | None] = [report]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        kept = [frame for frame in one.stack if not is_ours(frame.filename)]
        one.stack = traceback.StackSummary.from_list(kept)
        waiting += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
