"""Under which logger names our records are found, and who has touched those of Uvicorn.

Rules of this file: our loggers are ``shardserve`` and its children. Code and configs that exist name
Uvicorn's (``uvicorn``, ``uvicorn.error``, ``uvicorn.access``, ``uvicorn.asgi``), so these are set up like it
does, and what is done to them has its effect on us:

- a log config that names anything of Uvicorn's, and no logger of ours, gets our records under its names;
- the app may turn these loggers round at import or in its lifespan startup. ``Watch`` compares them with how
  we left them, and what was touched is written through ``logging`` from then on.

Otherwise the access log does not use ``logging`` (``access.py``), where a line costs four to thirteen times
as much.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from copy import copy
from typing import Any

from . import tracebacks
from .formatters import TRACE

OURS = "shardserve"
OUR_ACCESS = "shardserve.access"
OUR_LOGGERS = (
    OURS,
    "shardserve.master",
    "shardserve.worker",
    "shardserve.error",
    "shardserve.asgi",
    OUR_ACCESS,
)
THEIRS = "uvicorn"
THEIR_ERROR = "uvicorn.error"
THEIR_ACCESS = "uvicorn.access"
THEIR_ASGI = "uvicorn.asgi"
THEIR_LOGGERS = (THEIRS, THEIR_ERROR, THEIR_ACCESS, THEIR_ASGI)

# Everything that is not here is the server's log, which is one logger there.
_THEIR_NAME_OF = {OUR_ACCESS: THEIR_ACCESS, "shardserve.asgi": THEIR_ASGI}

# Nobody names it. If it is disabled, then a dictConfig or fileConfig has disabled all that it did not name.
_CANARY = logging.getLogger("_shardserve")


# One record, their name


class Forward(logging.Handler):
    """The one handler of ``shardserve`` where our records are to be found under Uvicorn's names.

    The other logger decides, by its level, filters and handlers, as if the record had been made there.
    """

    def emit(self, record: logging.LogRecord) -> None:
        logger = logging.getLogger(_THEIR_NAME_OF.get(record.name, THEIR_ERROR))
        if not logger.isEnabledFor(record.levelno):
            return
        sent = copy(record)
        sent.name = logger.name
        if record.name != OUR_ACCESS:  # whose arguments are looked at, and are safe
            # The formatter is somebody else's, so what it gets is safe already.
            sent.msg, sent.args = tracebacks.defused(record.getMessage()), ()
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            sent.exc_text = tracebacks.trimmed(record.exc_info[1])
        logger.handle(sent)


def forward() -> None:
    """From now on our server log is Uvicorn's."""
    ours = logging.getLogger(OURS)
    ours.handlers[:] = [Forward()]
    ours.propagate = False
    ours.setLevel(TRACE)  # the other logger decides


def is_forwarded() -> bool:
    return any(isinstance(one, Forward) for one in logging.getLogger(OURS).handlers)


def target_of(name: str) -> logging.Logger:
    """The logger that decides about records of our logger ``name``."""
    return logging.getLogger(_THEIR_NAME_OF.get(name, THEIR_ERROR) if is_forwarded() else name)


# Set up, and disabled in passing


_installed: list[logging.Handler] = []


def install(name: str, level: int, handlers: list[logging.Handler]) -> None:
    """Give a logger these handlers, in the place of any that it had."""
    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = False
    _installed.extend(handlers)


def leave() -> None:
    """Logging is set up by somebody else: our records go, under Uvicorn's names, wherever that leads.

    Whoever has given ``shardserve`` handlers finds them there.
    """
    if _installed:
        reset()
    if not logging.getLogger(OURS).handlers:
        forward()


def reset() -> None:
    """All of these loggers as if nobody had ever set them up; filters are kept, as dictConfig does."""
    for name in (*OUR_LOGGERS, *THEIR_LOGGERS):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.disabled = False
    _CANARY.disabled = False
    _installed.clear()


def enable() -> None:
    """Undo what a ``logging.config`` did to our loggers in passing.

    ``dictConfig`` and ``fileConfig`` disable every logger that exists and is not named in them
    (``disable_existing_loggers`` is true by default). A server that falls silent because an app set up its
    own logs is a trap. Whoever disables one of these loggers by name means it, and is left alone.
    """
    for name in OUR_LOGGERS:
        if name != OUR_ACCESS or _CANARY.disabled:
            logging.getLogger(name).disabled = False
    if _CANARY.disabled:
        for name in THEIR_LOGGERS:
            logging.getLogger(name).disabled = False
    _CANARY.disabled = False


# Who has touched what


class Watch:
    """How loggers were left, so that a change is seen."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._left = self._look()
        # There from the start: set before we were, in a program that we are embedded in.
        self._filtered = any(logging.getLogger(name).filters for name in self._names)

    def touched(self) -> bool:
        return self._filtered or self._look() != self._left

    def _look(self) -> list[Any]:
        return [_state(logging.getLogger(name)) for name in self._names] + [logging.root.manager.disable]


# Set by ``watch``; none while a log config decides, which is what the user asked for.
_watches: dict[str, Watch] = {}


def watch(*, watching: bool) -> None:
    """Remember how the loggers are now; or, with a log config, that nobody is to be looked after."""
    _watches.clear()
    if watching:
        _watches.update({name: Watch([name]) for name in (OURS, OUR_ACCESS, THEIR_ACCESS)})
        _watches[THEIRS] = Watch([THEIRS, THEIR_ERROR])


def settle() -> None:
    """The app is up: give what it did to Uvicorn's loggers its effect on our server log."""
    enable()
    if _watches and _watches[THEIRS].touched() and not _watches[OURS].touched():
        forward()


def touched_access() -> logging.Logger | None:
    """The access logger that the app has turned round, if it has."""
    for name in (THEIR_ACCESS, OUR_ACCESS) if _watches else ():
        if _watches[name].touched():
            return logging.getLogger(name)
    return None


def is_watching() -> bool:
    """False: a log config has set up the loggers."""
    return bool(_watches)


def _state(logger: logging.Logger) -> tuple[Any, ...]:
    handlers = [
        (one, one.level, one.formatter, getattr(one, "stream", None), list(one.filters))
        for one in logger.handlers
    ]
    return logger.level, logger.disabled, logger.propagate, handlers, list(logger.filters)
