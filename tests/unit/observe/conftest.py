"""The loggers are global: what a test sets up must not reach the next one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest

from shardserve.observe import formatters, names


@pytest.fixture(autouse=True)
def restored_loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", sys.path[:])
    touched = [
        logging.root,
        *(logging.getLogger(name) for name in (*names.OUR_LOGGERS, *names.THEIR_LOGGERS)),
    ]
    kept = [(one, one.level, one.disabled, one.propagate, one.handlers[:], one.filters[:]) for one in touched]
    threshold = logging.root.manager.disable
    names.reset()  # whoever ran before
    yield
    logging.disable(threshold)
    for logger, level, disabled, propagate, handlers, filters in kept:
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
        logger.handlers[:], logger.filters[:] = handlers, filters
    names._CANARY.disabled = False
    names._watches.clear()
    names._installed.clear()
    formatters.become(None)
