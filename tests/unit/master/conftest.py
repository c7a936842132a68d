"""Log lines of the master reach caplog, whatever a test before has done to our loggers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logs_reach_caplog() -> Iterator[None]:
    logger = logging.getLogger("shardserve")
    before = logger.propagate, logger.level, logger.handlers[:]
    logger.propagate = True
    logger.setLevel(logging.DEBUG)
    yield
    logger.propagate, logger.handlers[:] = before[0], before[2]
    logger.setLevel(before[1])
