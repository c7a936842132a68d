"""Names for the shapes ASGI passes around, for type checkers only.

Shapes are the ASGI specification's (https://asgi.readthedocs.io/en/latest/specs/www.html); nothing
here has behaviour, and nothing here may import the rest of the package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class WebSocketEngine(Protocol):
    """What the native side asks about WebSockets: ``shardserve.ws.engine.Engine``, which see."""

    def open(self, method: str, headers: list[tuple[bytes, bytes]], /) -> tuple[int, Any, Any, Any]: ...
    def receive(self, peer: Any, extensions: Any, frame: bytes, /) -> tuple[Any, int, Any, str, bytes]: ...
    def send(self, extensions: Any, data: str | bytes, /) -> bytes: ...
    def ping(self) -> bytes: ...
    def close(self, code: int, reason: str, /) -> bytes: ...


class ProxyPolicy(Protocol):
    """Whose word on the client is taken, and how: ``shardserve.asgi.forwarded.ProxyHeaders``, which see."""

    def trusts(self, client: tuple[str, int] | None, /) -> bool:
        """Once for each connection; None is a Unix socket."""

    def apply(self, scope: Any, /) -> None:
        """Edit the scope of a trusted peer's request in place."""

    def untrusted(self, client: tuple[str, int] | None, name: bytes, /) -> None:
        """Once for a factory: somebody else sent the field ``name``."""
