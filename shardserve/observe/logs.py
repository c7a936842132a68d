"""What shardserve logs, in which shape, and what may never get into a log raw.

Rules of this file: standard ``logging`` and nothing of the event loop, because the master uses it
too. Loggers are ``shardserve`` and its children (``names.py``); one handler, on stderr, sits on the parent,
unless a log config says otherwise (``log_config.py``). Text that came from the wire (a target, a method, a
reason, an address) goes through ``printable`` before it is put into a message: a log line is one line.
Access lines are not here (``access.py``): they do not use ``logging`` unless somebody wants it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import IO, Any, Protocol

from ..errors import ClientDisconnected, ConfigError
from . import formatters, log_config, names, tracebacks
from .formatters import TRACE, become, wants_colours

LOGGER_NAMES = names.OUR_LOGGERS
__all__ = [
    "LOGGER_NAMES", "TRACE", "Client", "RejectReporter", "address", "app_error_reporter", "become",
    "configure", "enable", "flush", "is_disconnect", "level_number", "log_error", "printable", "reconfigure",
    "traces", "wants_colours",
]  # fmt: skip

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
# RFC 9110's names, as the client is told them; http.HTTPStatus has them since Python 3.13.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long"}
# RFC 6455 §7.4.2: close codes begin where no status of HTTP is.
FIRST_CLOSE_CODE = 1000


class LogSettings(Protocol):
    """The settings this file reads; ``config.model.Config`` has them."""

    @property
    def log_level(self) -> Any: ...
    @property
    def use_colors(self) -> bool | None: ...
    @property
    def access_log(self) -> bool: ...
    @property
    def log_config(self) -> Any: ...
    @property
    def log_format(self) -> str: ...
    @property
    def app_dir(self) -> str: ...


# Setting up


def configure(config: LogSettings, *, slot: int | None = None, stream: IO[str] | None = None) -> None:
    """Set up the loggers for this process. ``slot``: this is a worker, and its lines say which.

    Calling it again replaces what an earlier call set up. The root logger is the app's: untouched, unless
    ``--log-config`` names it. Raises ConfigError for a log config that cannot be had.
    """
    logging.addLevelName(TRACE, "TRACE")
    become(slot)
    if config.log_config is not None:
        log_config.apply(
            config.log_config,
            level=None if config.log_level is None else level_number(config.log_level),
            access_log=config.access_log,
            use_colors=config.use_colors,
            app_dir=config.app_dir,
        )
        names.watch(watching=False)
        return
    _our_own(config, sys.stderr if stream is None else stream)


def reconfigure(config: LogSettings) -> None:
    """``configure`` for a running master, which a log config that has become wrong must not end."""
    try:
        configure(config)
    except ConfigError as error:
        _our_own(config, sys.stderr)
        logging.getLogger("shardserve.master").error("%s; the master logs on stderr instead", error)


def _our_own(config: LogSettings, out: IO[str]) -> None:
    """Ours, and Uvicorn's in the same shape: many apps write to ``uvicorn.error``, or change its handlers."""
    names.reset()
    level = level_number(config.log_level)
    ours, theirs, access = (logging.StreamHandler(stream) for stream in (out, out, sys.stdout))
    if config.log_format == "json":
        for handler in (ours, theirs, access):
            handler.setFormatter(formatters.JsonFormatter())
    else:
        colours = wants_colours(out, config.use_colors)
        ours.setFormatter(formatters.ServerFormatter(colours=colours))
        theirs.setFormatter(formatters.ServerFormatter(colours=colours, raw=True))
        fmt = formatters.ACCESS_FORMAT
        access.setFormatter(formatters.AccessFormatter(fmt, use_colors=config.use_colors))
    names.install(names.OURS, level, [ours])
    names.install(names.THEIRS, level, [theirs])
    for name in (names.THEIR_ERROR, names.THEIR_ASGI):
        logging.getLogger(name).setLevel(level)
    for name in (names.OUR_ACCESS, names.THEIR_ACCESS):
        names.install(name, level, [access] if config.access_log else [])
    names.watch(watching=True)


def enable() -> None:
    """Call it after the app's import: undoes what an app's ``logging.config`` did to us in passing."""
    names.enable()


def debug_info(info: object) -> None:
    """What an app says of a response for people who look for a mistake (ASGI extensions, "Debug")."""
    names = ", ".join(sorted(map(str, info))) if isinstance(info, dict) else type(info).__name__
    logging.getLogger("shardserve.worker").debug("Debug information of the app: %s", printable(names))


def debugs() -> bool:
    """Whether anybody would see it: frameworks gather it only if it is asked for."""
    return logging.getLogger("shardserve.worker").isEnabledFor(logging.DEBUG)


def traces() -> bool:
    """Whether ASGI messages are logged: the level of the server log is TRACE (``asgi/trace.py``)."""
    return names.target_of("shardserve.error").getEffectiveLevel() <= TRACE


def level_number(level: str | int | None) -> int:
    """The number of a level's name; None is INFO. Unknown names are INFO: config rejects them first."""
    if isinstance(level, int):
        return level
    return _LEVELS.get((level or "info").lower(), logging.INFO)


def flush() -> None:
    """Push out what the handlers hold. A stream that is gone is not a reason to fail an exit."""
    loggers = [logging.getLogger(name) for name in (*names.OUR_LOGGERS, *names.THEIR_LOGGERS)]
    for handler in {one for logger in (logging.root, *loggers) for one in logger.handlers}:
        try:
            handler.flush()
        except (OSError, ValueError):
            continue


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
) -> Callable[[BaseException, str, str, Client, str, str | None], None]:
    """The ``on_app_error`` of the native side: one readable log for one failed request."""
    logger = log or logging.getLogger("shardserve.error")

    def report(
        error: BaseException, method: str, target: str, client: Client, outcome: str, request_id: str | None
    ) -> None:
        request = f"{printable(method)} {printable(target)} from {address(client)}, {printable(outcome)}"
        if request_id is not None:
            request += f", request id {printable(request_id)}"
        if is_disconnect(error):
            logger.debug("Client disconnected: %s", request)
        elif outcome == CUT_BY_SERVER:
            # Cancelled at a deadline; the worker says how many it cut. Not the app's error.
            logger.debug("Request cancelled: %s", request)
        else:
            log_error(logger, f"Exception in ASGI application: {request}", error)

    return report


def log_error(logger: logging.Logger, text: str, error: BaseException) -> None:
    """Log ``text`` with the traceback of ``error``, without our frames and with nothing raw in it.

    The record has the error as well (``exc_info``), for handlers that report errors elsewhere.
    """
    if not logger.isEnabledFor(logging.ERROR):
        return
    raised = (type(error), error, error.__traceback__)
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s", (text,), raised)
    record.exc_text = tracebacks.trimmed(error)  # a formatter takes this, and makes none of its own
    logger.handle(record)


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
        self._reset = 0
        self._failed = 0

    def __call__(self, status: int, reason: str, client: Client) -> None:
        """``status`` 0: the connection was closed without an answer, for which it was too late; -1: a stream
        was reset, and the connection goes on (RFC 9113 §5.4.2); 1000 and more: a WebSocket was failed with
        this close code (RFC 6455 §7.1.7).
        """
        now = self._clock()
        if now < self._quiet_until:
            self._closed += status == 0
            self._reset += status < 0
            self._rejected += 0 < status < FIRST_CLOSE_CODE
            self._failed += status >= FIRST_CLOSE_CODE
            return
        self._quiet_until = now + self.PAUSE_S
        held_back = self._rejected + self._closed + self._reset + self._failed
        more = f" ({held_back} more since the last such line)" if held_back else ""
        self._rejected = self._closed = self._reset = self._failed = 0
        who, why = address(client), printable(reason)
        if status == 0:
            self._log.warning("Closed the connection of %s without an answer: %s%s", who, why, more)
        elif status < 0:
            self._log.warning("Reset a stream of %s: %s%s", who, why, more)
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
        if self._reset:
            told.append(f"reset {_more(self._reset, 'stream')}")
        if self._failed:
            told.append(f"closed {_more(self._failed, 'WebSocket')}")
        if not told:
            return
        text = ", ".join(told)
        self._log.warning("%s", text[0].upper() + text[1:])
        self._rejected = self._closed = self._reset = self._failed = 0
        self._quiet_until = self._clock() + self.PAUSE_S


def _more(count: int, thing: str) -> str:
    return f"{count} more {thing}{'' if count == 1 else 's'}"


def _phrase(status: int) -> str:
    try:
        return _PHRASES.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return ""
