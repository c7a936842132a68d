"""Formatters that a log config may name, like those of ``uvicorn.logging``, and a config to start from.

Names and data only: what the formatters do is written in ``observe/formatters.py``, how all this is used in
docs/logging.md.
"""

from __future__ import annotations

from typing import Any

from .observe.formatters import (
    ACCESS_FORMAT,
    TRACE,
    AccessFormatter,
    ColourizedFormatter,
    DefaultFormatter,
    JsonFormatter,
)

__all__ = [
    "LOGGING_CONFIG",
    "TRACE",
    "TRACE_LOG_LEVEL",
    "AccessFormatter",
    "ColourizedFormatter",
    "DefaultFormatter",
    "JsonFormatter",
]

TRACE_LOG_LEVEL = TRACE

LOGGING_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {
            "()": "shardserve.logging.DefaultFormatter",
            "fmt": "%(levelprefix)s %(message)s",
        },
        "access": {
            "()": "shardserve.logging.AccessFormatter",
            "fmt": ACCESS_FORMAT,
        },
    },
    "handlers": {
        "default": {"class": "logging.StreamHandler", "formatter": "default", "stream": "ext://sys.stderr"},
        "access": {"class": "logging.StreamHandler", "formatter": "access", "stream": "ext://sys.stdout"},
    },
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}
"""A log config to start from: copy it, change it, pass it as ``log_config``. Its loggers have Uvicorn's
names, which existing code knows; ``shardserve`` and ``shardserve.access`` do as well."""
