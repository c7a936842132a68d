"""Errors that nobody caught, into our log and in its shape.

Rules of this file: Python prints an error that has nowhere to go (of a finalizer, of a thread) on stderr as
it is, and the event loop logs it in a shape of its own. Either may say what a client sent, so each goes
through ``tracebacks`` like an app's error, and is one log entry. A hook that an app sets is the app's.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from .logs import is_disconnect, log_error, printable

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

log = logging.getLogger("shardserve.error")


def install() -> None:
    """Take the places of Python's own hooks. Call it once the log is set up, before the app is imported."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = report_unraisable
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = report_thread_error


def report_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """``sys.unraisablehook``: an error in ``__del__``, say, which has no caller to go to."""
    text = unraisable.err_msg or "Exception ignored in"
    _report(f"{printable(text)}: {_shown(unraisable.object)}", unraisable.exc_value)


def report_thread_error(failed: threading.ExceptHookArgs) -> None:
    """``threading.excepthook``: an error ended a thread."""
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread is not None else "unknown"
    _report(f"Exception in thread {printable(name)}", failed.exc_value)


def report_loop_error(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler: an error that nobody awaited."""
    text = printable(str(context.get("message") or "Unhandled error in the event loop"))
    source = context.get("task") or context.get("future") or context.get("handle")
    where = f" ({_shown(source)})" if source is not None else ""
    _report(text + where, context.get("exception"))


def _report(what: str, error: BaseException | None) -> None:
    if error is None:
        log.error("%s", what)
    elif is_disconnect(error):
        log.debug("%s: the client disconnected", what)
    else:
        log_error(log, what, error)


def _shown(thing: object) -> str:
    """The repr of something that may be an app's: on one line, and if need be without its help."""
    try:
        return printable(repr(thing))
    except Exception:
        return f"<{printable(type(thing).__qualname__)}, whose repr() failed>"
