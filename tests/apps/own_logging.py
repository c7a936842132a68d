"""An app that sets up its logs as Django and Alembic do: everything that exists is disabled."""

from __future__ import annotations

import asyncio
import logging.config
from typing import Any

from hello import app as hello

logging.config.dictConfig({"version": 1})


async def nothing() -> None:
    """For asyncio.run(), which unsets the event loop of the thread."""


asyncio.run(nothing())


async def app(scope: Any, receive: Any, send: Any) -> None:
    await hello(scope, receive, send)
