"""What native/ exports, compared with the module by tests/unit/test_native_stub.py.

The factory is the worker's door to the request path: one per worker, handed to
``loop.create_server``. Everything per request happens below it without a Python frame of ours.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from .types import ASGIApp

__all__ = ["Connection", "ProtocolFactory", "debug_build"]

debug_build: bool
"""True when the invariant checks (CHECK) are compiled in."""

Client = tuple[str, int] | None

@final
class Connection:
    """One HTTP/1.1 connection: the asyncio.Protocol and the httptools callbacks. Made by the factory only."""

@final
class ProtocolFactory:
    """Makes connections and holds what they share: the app, the spare tasks, deadlines, counters."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        loop: AbstractEventLoop,
        context: Context | None,
        state: dict[str, Any] | None,
        scheme: str = "http",
        root_path: str = "",
        headers: list[tuple[bytes, bytes]] = ...,
        server_header: bool = True,
        date_header: bool = True,
        keep_alive_ms: int = 75_000,
        on_app_error: Callable[[BaseException, str, str, Client, str], None],
        on_reject: Callable[[int, str, Client], None],
        access: Callable[[Client, str, bytes, str, int], None] | None = None,
    ) -> None:
        """``context``: copied for every request; None gives every request an empty context.
        ``state``: the lifespan state, shallow-copied into every scope; None leaves the key out.
        ``headers``: sent with every response, in wire case.
        ``on_app_error(error, method, target, client, outcome)``: the app failed; ``outcome`` is
        what the client got: "500 sent", "connection closed early", "response already sent",
        "client gone", or, for a request that ``abort()`` cancelled, "cut by the server".
        ``on_reject(status, reason, client)``: a request that never reached the app.
        ``access(client, method, target, http_version, status)``: one finished response; ``target``
        is the raw request target.
        """

    def __call__(self) -> Connection:
        """A new Connection: this is asyncio's ``protocol_factory``."""

    def tick(self) -> None:
        """Enforce deadlines and refresh the Date header. Call once a second while the loop runs."""

    def drain(self, on_empty: Callable[[], None], *, grace_ms: int = 0) -> None:
        """Finish what is in flight: every response from now on says ``Connection: close``.

        Idle connections are closed ``grace_ms`` from now (0: at once), so that a client about to
        reuse one still gets its answer. ``on_empty`` is called once, from the loop, when no
        connection is left. Raises RuntimeError if already draining.
        """

    def abort(self) -> int:
        """Cut every connection and cancel its app task. Returns how many had a request in flight."""

    def close(self) -> None:
        """Let go of the spare tasks and the free lists. No connection may be open."""

    @property
    def connections(self) -> int:
        """Open connections."""

    @property
    def in_flight(self) -> int:
        """Requests given to the app and not finished."""

    @property
    def served(self) -> int:
        """Requests finished since the start."""
