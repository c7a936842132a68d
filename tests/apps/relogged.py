"""An app that turns the loggers of its server round, as the snippets do that people copy: ``$SNIPPET``, at
import or in the lifespan startup (``$WHEN``).
"""

from __future__ import annotations

import logging
import logging.config
import os
import sys
from typing import Any

from hello import app as hello

access = logging.getLogger("uvicorn.access")
server = logging.getLogger("uvicorn")


class Intercept(logging.Handler):
    """As those which lead to loguru or structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"intercepted {record.levelname} {record.name}: {record.getMessage()}", flush=True)


def stdout_handler(fmt: str) -> logging.Handler:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(fmt))
    return handler


def through_root() -> None:
    logging.basicConfig(handlers=[Intercept()], level=0, force=True)
    for name in [*logging.root.manager.loggerDict]:
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


def server_too() -> None:
    for one in (server, access):
        one.handlers = [Intercept()]


DICT = {
    "version": 1,
    "formatters": {"plain": {"format": "dict %(name)s %(message)s"}},
    "handlers": {
        "out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"}
    },
    "loggers": {
        "uvicorn.error": {"level": "INFO"},
        "uvicorn.access": {"handlers": ["out"], "level": "INFO", "propagate": False},
    },
}

SNIPPETS: dict[str, Any] = {
    "nothing": lambda: None,
    "disabled": lambda: setattr(access, "disabled", True),
    "level": lambda: access.setLevel(logging.WARNING),
    "no-handlers": access.handlers.clear,
    "no-handlers-set": lambda: setattr(access, "handlers", []),
    "filter-args": lambda: access.addFilter(lambda record: record.args[2] != "/healthz"),
    "filter-message": lambda: access.addFilter(lambda record: "/healthz" not in record.getMessage()),
    "filter-handler": lambda: access.handlers[0].addFilter(lambda record: record.args[4] != 200),
    "add-handler": lambda: access.addHandler(stdout_handler("added %(name)s %(message)s")),
    "set-formatter": lambda: access.handlers[0].setFormatter(logging.Formatter("%(levelname)s: %(message)s")),
    "intercept": lambda: setattr(access, "handlers", [Intercept()]),
    "through-root": through_root,
    "server-too": server_too,
    "dict-config": lambda: logging.config.dictConfig(DICT),
    "parent-only": lambda: server.setLevel(logging.CRITICAL),
    "disable-all": lambda: logging.disable(logging.INFO),
}


def turn_round() -> None:
    SNIPPETS[os.environ["SNIPPET"]]()
    logging.getLogger("uvicorn.error").info("said by the app")


if os.environ["WHEN"] == "import":
    turn_round()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        if os.environ["WHEN"] == "startup":
            turn_round()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await hello(scope, receive, send)
