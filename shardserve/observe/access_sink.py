"""Who gets the lines of the access log: the batches of ``access.py``, or the handlers of ``logging``.

Rules of this file: decided once, when the app is up. Batches are what a server should do. By ``logging`` a
line costs four to thirteen times as much, so that is for those who asked for it: by a log config, or by what
their app did to the logger ``uvicorn.access`` (``names.py``).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Protocol

from . import names
from .access import SAFE, AccessLog, Client, address_text, escaped
from .access_json import JsonAccessLog
from .formatters import wants_colours
from .logs import level_number

Access = Callable[[Client, str, bytes, str, int], None]

# With the arguments that filters of existing configs look at: record.args[2] is the path.
MESSAGE = '%s - "%s %s HTTP/%s" %d'


class AccessSettings(Protocol):
    """The settings this file reads; ``config.model.Config`` has them."""

    @property
    def log_level(self) -> Any: ...
    @property
    def access_log(self) -> bool: ...
    @property
    def use_colors(self) -> bool | None: ...
    @property
    def log_format(self) -> str: ...


def batches(config: AccessSettings, *, schedule: Callable[[Callable[[], None]], Any]) -> AccessLog | None:
    """The access log without ``logging``; None where nothing is to be written that way.

    Access lines are INFO, as in Uvicorn: --log-level warning silences them too.
    """
    if not names.is_watching() or not config.access_log or level_number(config.log_level) > logging.INFO:
        return None
    if config.log_format == "json":
        return JsonAccessLog(schedule=schedule)
    return AccessLog(schedule=schedule, colours=wants_colours(sys.stdout, config.use_colors))


def settled(access: AccessLog | None) -> Access | None:
    """What the native side is to call, now that the app is up: ``access``, or a way through ``logging``.

    Also gives what the app did to other loggers its effect (``names.settle``).
    """
    names.settle()
    logger = names.touched_access() if names.is_watching() else names.target_of(names.OUR_ACCESS)
    if logger is None:
        return access
    return LoggedAccess(logger) if logger.hasHandlers() else None


class LoggedAccess:
    """Each finished response as a record of a logger, for its filters and handlers to judge."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __call__(self, client: Client, method: str, target: bytes, http_version: str, status: int) -> None:
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        text = escaped(target) if target.translate(None, SAFE) else target.decode("ascii")
        arguments = (address_text(client), method, text, http_version, status)
        # Without the walk up the stack that Logger.info() takes to find its caller.
        logger.handle(
            logger.makeRecord(logger.name, logging.INFO, __file__, 0, MESSAGE, arguments, None, "access")
        )
