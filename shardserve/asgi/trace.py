"""``--log-level trace``: every ASGI message of an app, on the logger ``shardserve.asgi``.

Rules of this file: an app around the app, there only at this level, so that it costs nothing else. Lines are
Uvicorn's: ``127.0.0.1:5 - ASGI [2] Send {...}``, numbered by scope. Bodies and headers are not shown: they
are long, and hold what a log must not.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from typing import Any

from ..observe.formatters import TRACE
from ..types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("shardserve.asgi")

_UNITS = {"body": "bytes", "bytes": "bytes", "text": "chars"}
# Fields, or what an app keeps for itself: nobody reads it here.
_LEFT_OUT = ("headers", "state")


def traced(app: ASGIApp) -> ASGIApp:
    """``app``, with its scope, all that it hears and says, and how it ended in the log."""
    numbers = itertools.count(1)

    async def traced_app(scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        who = f"{client[0]}:{client[1]} - ASGI" if client else "ASGI"
        who = f"{who} [{next(numbers)}]"

        async def traced_receive() -> Message:
            message = await receive()
            log.log(TRACE, "%s Receive %s", who, outline(message))
            return message

        async def traced_send(message: Message) -> None:
            log.log(TRACE, "%s Send %s", who, outline(message))
            await send(message)

        log.log(TRACE, "%s Started scope=%s", who, outline(scope))
        try:
            await app(scope, traced_receive, traced_send)
        except BaseException:
            log.log(TRACE, "%s Raised exception", who)
            raise
        log.log(TRACE, "%s Completed", who)

    return traced_app


def outline(message: object) -> object:
    """The message, with how long a body is in its place. An app may send anything, so nothing is expected."""
    if not isinstance(message, Mapping):
        return message
    shown: dict[Any, Any] = dict(message)
    for key, unit in _UNITS.items():
        try:
            if shown.get(key) is not None:
                shown[key] = f"<{len(shown[key])} {unit}>"
        except TypeError:
            shown[key] = f"<{type(shown[key]).__name__}>"
    for key in _LEFT_OUT:
        if shown.get(key) is not None:
            shown[key] = "<...>"
    return shown
