"""ASGI 2 apps: ``app(scope)`` makes an instance, which is then called with receive and send.

Rules of this file: the scope is the server's, but says version 2.0, as Uvicorn's does; everything else, the
lifespan too, is passed as it is. An app that does not know lifespan raises, which the server understands.
(ASGI specification, "Legacy Applications": https://asgi.readthedocs.io/en/latest/specs/main.html)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..types import Receive, Scope, Send

ASGI2App = Callable[[Scope], Callable[[Receive, Send], Awaitable[None]]]


class Asgi2:
    """An ASGI 2 app as an ASGI 3 app."""

    __slots__ = ("_app",)

    def __init__(self, app: ASGI2App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A new dict: the server may share its own between scopes.
        scope["asgi"] = {**scope["asgi"], "version": "2.0"}
        await self._app(scope)(receive, send)
