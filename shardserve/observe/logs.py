"""What shardserve logs, in which shape, and what may never get into a log raw.

Rules of this file: standard ``logging`` and nothing of the event loop, because the master uses it
too. Loggers are ``shardserve`` and its children ``shardserve.master``, ``shardserve.worker`` and
``shardserve.error``; one handler, on stderr, sits on the parent. Text that came from the wire (a
target, a method, a reason, an address) goes through ``printable`` before it is put into a message:
a log line is one line. Access lines are not here (``access.py``): they do not use ``logging``.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import IO, Any, Protocol

from ..errors import ClientDisconnected
from . import tracebacks

TRACE = 5
LOGGER_NAMES = ("shardserve", "shardserve.master", "shardserve.worker", "shardserve.error")

Client = tuple[str, int] | None

# What the native side calls the end of a request that abort() cancelled.
CUT_BY_SERVER = "cut by the server"

_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
# SGR codes, the same colour per level as Uvicorn's, so that eyes trained on it stay right.
_COLOURS = {
    TRACE: "34",
    logging.DEBUG: "36",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "91",
}
# RFC 9110's names, as the client is told them; http.HTTPStatus has them since Python 3.13.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long"}
# RFC 6455 §7.4.2: close codes begin where no status of HTTP is.
FIRST_CLOSE_CODE = 1000
_PREFIX_WIDTH = 8  # of the longest level name, so that messages line up


class LogSettings(Protocol):
    """The settings this file reads; ``config.model.Config`` has them."""

    @property
    def log_level(self) -> Any: ...
    @property
    def use_colors(self) -> bool | None: ...


# Setting up


def configure(config: LogSettings, *, slot: int | None = None, stream: IO[str] | None = None) -> None:
    """Set up our loggers for this process. ``slot``: this is a worker, and its lines say which.

    Calling it again replaces what an earlier call set up. The root logger is the app's: untouched.
    """
    logging.addLevelName(TRACE, "TRACE")
    out = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    who = "" if slot is None else f"[worker {slot}, pid {os.getpid()}] "
    handler.setFormatter(_Formatter(who=who, colours=wants_colours(out, config.use_colors)))
    parent = logging.getLogger(LOGGER_NAMES[0])
    parent.handlers[:] = [handler]
    parent.setLevel(level_number(config.log_level))
    parent.propagate = False
    enable()


def enable() -> None:
    """Undo what an app's ``logging.config`` did to us in passing.

    ``dictConfig`` and ``fileConfig`` disable every logger that exists and is not named in them
    (``disable_existing_loggers`` is true by default). A server that falls silent because an app
    set up its own logs is a trap, so the worker calls this after the app's import. Loggers that
    the app *names* keep the handlers and levels it gave them.
    """
    for name in LOGGER_NAMES:
        logging.getLogger(name).disabled = False


def level_number(level: str | int | None) -> int:
    """The number of a level's name; None is INFO. Unknown names are INFO: config rejects them first."""
    if isinstance(level, int):
        return level
    return _LEVELS.get((level or "info").lower(), logging.INFO)


def wants_colours(stream: IO[str] | None, use_colors: bool | None) -> bool:
    """The flag when given; else only on a terminal, and not against NO_COLOR (no-color.org)."""
    if use_colors is not None:
        return use_colors
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # a closed stream
        return False


def flush() -> None:
    """Push out what the handlers hold. A stream that is gone is not a reason to fail an exit."""
    for handler in logging.getLogger(LOGGER_NAMES[0]).handlers:
        try:
            handler.flush()
        except (OSError, ValueError):
            continue


class _Formatter(logging.Formatter):
    """``INFO:     [worker 0, pid 7] message``: Uvicorn's shape, plus who speaks."""

    def __init__(self, *, who: str, colours: bool) -> None:
        super().__init__("%(message)s")
        self._who = who
        self._colours = colours

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        name = record.levelname
        padding = " " * (_PREFIX_WIDTH - len(name))
        if self._colours and record.levelno in _COLOURS:
            name = f"\x1b[{_COLOURS[record.levelno]}m{name}\x1b[0m"
        # Whoever builds a message minds what is in it (printable); that nobody forgot is seen to here.
        return f"{name}:{padding} {self._who}{tracebacks.defused(record.message)}"

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return tracebacks.trimmed(ei[1])


# Text from the wire


def printable(text: str) -> str:
    """``text`` on one line, harmless to a terminal: CR, LF, ESC and every other unprintable
    character as ``\\xNN`` (C0, DEL, C1) or ``\\uNNNN`` (bidi controls, line separators, surrogates).
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else tracebacks.escaped(char) for char in text)


def address(client: Client) -> str:
    """``127.0.0.1:50000``, or a word for a client without an address (a unix socket)."""
    return printable(f"{client[0]}:{client[1]}") if client else "a local client"


# Reporters: what the native side calls when a request goes wrong


def app_error_reporter(
    log: logging.Logger | None = None,
) -> Callable[[BaseException, str, str, Client, str], None]:
    """The ``on_app_error`` of the native side: one readable log for one failed request."""
    logger = log or logging.getLogger("shardserve.error")

    def report(error: BaseException, method: str, target: str, client: Client, outcome: str) -> None:
        request = f"{printable(method)} {printable(target)} from {address(client)}, {printable(outcome)}"
        if is_disconnect(error):
            logger.debug("Client disconnected: %s", request)
        elif outcome == CUT_BY_SERVER:
            # Cancelled at a deadline; the worker says how many it cut. Not the app's error.
            logger.debug("Request cancelled: %s", request)
        else:
            logger.error("Exception in ASGI application: %s\n%s", request, tracebacks.trimmed(error))

    return report


def is_disconnect(error: BaseException) -> bool:
    """Whether the client's going is what the app failed of: nobody's bug, so nobody's error log.

    A framework may wrap the error (``raise … from``), fail while it handles it, or gather it in
    an exception group; a group counts when every member does, else a real bug would hide in it.
    """
    return _comes_of_disconnect(error, set())


def _comes_of_disconnect(error: BaseException, seen: set[int]) -> bool:
    """``seen``: the groups that are being looked at. A group can be the context of its own member."""
    for one in tracebacks.chain(error):
        if isinstance(one, ClientDisconnected):
            return True
        if isinstance(one, BaseExceptionGroup) and id(one) not in seen:
            inside = seen | {id(one)}
            if all(_comes_of_disconnect(member, inside) for member in one.exceptions):
                return True
    return False


class RejectReporter:
    """The ``on_reject`` of the native side: requests that were refused, connections that were cut, and
    WebSockets that were failed.

    At most one line a second, whatever arrives: anybody on the network can cause these, and a log
    must not be the cheapest thing to flood. What was held back is counted in the next line, or in
    a line of its own when ``flush`` finds that none came.
    """

    PAUSE_S = 1.0

    def __init__(
        self, log: logging.Logger | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log or logging.getLogger("shardserve.error")
        self._clock = clock
        self._quiet_until = float("-inf")
        # Held back and not yet told.
        self._rejected = 0
        self._closed = 0
        self._failed = 0

    def __call__(self, status: int, reason: str, client: Client) -> None:
        """``status`` 0: the connection was closed without an answer, for which it was too late; 1000 and
        more: a WebSocket was failed with this close code (RFC 6455 §7.1.7).
        """
        now = self._clock()
        if now < self._quiet_until:
            self._closed += status == 0
            self._rejected += 0 < status < FIRST_CLOSE_CODE
            self._failed += status >= FIRST_CLOSE_CODE
            return
        self._quiet_until = now + self.PAUSE_S
        held_back = self._rejected + self._closed + self._failed
        more = f" ({held_back} more since the last such line)" if held_back else ""
        self._rejected = self._closed = self._failed = 0
        who, why = address(client), printable(reason)
        if status == 0:
            self._log.warning("Closed the connection of %s without an answer: %s%s", who, why, more)
        elif status >= FIRST_CLOSE_CODE:
            self._log.warning("Closed the WebSocket of %s with %d: %s%s", who, status, why, more)
        else:
            what = f"{status} {_phrase(status)}".rstrip()
            self._log.warning("Rejected a request from %s: %s: %s%s", who, what, why, more)

    def flush(self) -> None:
        """Call once a second and at the end: says how many were held back and not yet told."""
        if self._clock() >= self._quiet_until:
            self.close()

    def close(self) -> None:
        """The last word: what was held back, without waiting for the pause to end."""
        told = []
        if self._rejected:
            told.append(f"rejected {_more(self._rejected, 'request')}")
        if self._closed:
            told.append(f"closed {_more(self._closed, 'connection')} without an answer")
        if self._failed:
            told.append(f"closed {_more(self._failed, 'WebSocket')}")
        if not told:
            return
        text = ", ".join(told)
        self._log.warning("%s", text[0].upper() + text[1:])
        self._rejected = self._closed = self._failed = 0
        self._quiet_until = self._clock() + self.PAUSE_S


def _more(count: int, thing: str) -> str:
    return f"{count} more {thing}{'' if count == 1 else 's'}"


def _phrase(status: int) -> str:
    try:
        return _PHRASES.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return ""
