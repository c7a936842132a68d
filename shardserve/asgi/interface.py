"""Which interface an app speaks (``--interface``), and its ASGI 3 form, which is what the server calls.

Rules of this file: what the user says is believed without a look at the app; ``auto`` decides by
``importer.classify``, and only where that is sure. What was found is logged, unless it is ASGI 3.

    interface   lifespan            WebSockets
    asgi3       --lifespan          --ws
    asgi2       --lifespan          --ws
    wsgi        never               never: a handshake is an ordinary GET

The last line is Uvicorn's; that it finds out about WSGI by itself is ours.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from ..types import ASGIApp
from .asgi2 import Asgi2
from .importer import Kind, classify
from .wsgi import Wsgi

log = logging.getLogger("shardserve.worker")


def adapt(app: Any, interface: str = "auto", *, threads: int = 10, underscores: bool = False) -> ASGIApp:
    """``app`` as an ASGI 3 app. ``interface``: "auto", "asgi3", "asgi2" or "wsgi".

    For WSGI, ``threads`` is how many requests run at once, and ``underscores`` whether a header name
    with an underscore comes to the app. Nothing is started here: the app may still be forked.
    """
    found = classify(app) if interface == "auto" else None
    if interface == "wsgi" or found is Kind.WSGI:
        if found:
            log.info("The app speaks WSGI: %d threads run it in each worker (--wsgi-threads).", threads)
        return Wsgi(app, threads=threads, underscores=underscores)
    if interface == "asgi2" or found is Kind.ASGI2:
        if found:
            log.info("The app speaks ASGI 2.")
        return Asgi2(app)
    return cast(ASGIApp, app)


def http_only(app: ASGIApp) -> bool:
    """Whether an app that ``adapt`` returned knows neither lifespan nor WebSockets."""
    return isinstance(app, Wsgi)
