"""Who gets the lines of the access log: batches (``access.py``) to wherever, or the handlers of ``logging``.

Rules of this file: decided once, when the app is up. Batches are what a server should do. By ``logging`` a
line costs ten times as much, so that is for those who asked for it: by a log config, or by what their app did
to the logger ``uvicorn.access`` (``names.py``). Then what a line says, and who has one, is theirs to decide.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from . import names
from .access import SAFE, AccessLog, Client, address_text, escaped
from .logs import level_number

# With the arguments that filters of existing configs look at: record.args[2] is the path.
MESSAGE = '%s - "%s %s HTTP/%s" %d'


class AccessSettings(Protocol):
    """The settings this file reads; ``config.model.Config`` has them."""

    @property
    def log_level(self) -> Any: ...
    @property
    def access_log(self) -> bool: ...


def wanted(config: AccessSettings) -> bool:
    """Whether lines may be written without ``logging``.

    Access lines are INFO, as in Uvicorn: --log-level warning silences them too.
    """
    return names.is_watching() and config.access_log and level_number(config.log_level) <= logging.INFO


def settled(access: AccessLog | None) -> Any:
    """What the native side is to call, now that the app is up: ``access``, or a way through ``logging``.

    Also gives what the app did to other loggers its effect (``names.settle``).
    """
    names.settle()
    logger = names.touched_access() if names.is_watching() else names.target_of(names.OUR_ACCESS)
    if logger is None:
        return None if access is None else access.lines
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
