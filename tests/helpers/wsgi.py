"""A WSGI app under our adapter, without a server: scopes, a client that says this and that, and what it got.

Rules of this file: everything runs in the event loop of the test; a wait has a generous bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from shardserve.asgi.wsgi import Wsgi
from shardserve.errors import ClientDisconnected
from tests.helpers.master_process import PATIENCE_S

BODY_OVER = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}


def scope_of(path: str = "/", **how: Any) -> dict[str, Any]:
    """An HTTP scope; ``headers`` and all other keys as keyword arguments."""
    raw, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.1", 50000),
        "server": ("198.51.100.1", 8000),
        **how,
    }


def parts_of(*parts: bytes) -> list[dict[str, Any]]:
    """The messages of a body in these parts."""
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]


class Client:
    """Says ``messages``, then waits until ``leave()``; keeps what it gets."""

    def __init__(self, messages: Iterable[dict[str, Any]] = (), *, refuse: Exception | None = None) -> None:
        """``refuse``: what its send() raises."""
        self.waiting = [*messages] or [BODY_OVER]
        self.got: list[dict[str, Any]] = []
        self.asked = 0
        self.refuse = refuse
        self.reads = asyncio.Event()  # cleared: it is slow, and send() waits
        self.reads.set()
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if self.waiting:
            return self.waiting.pop(0)
        await self.gone.wait()
        return GONE

    async def send(self, message: dict[str, Any]) -> None:
        if self.refuse is not None:
            raise self.refuse
        if self.gone.is_set():
            raise ClientDisconnected("the client disconnected")
        self.got.append(message)
        await self.reads.wait()

    def leave(self) -> None:
        self.gone.set()

    @property
    def status(self) -> int:
        return int(self.got[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.got[0]["headers"])

    @property
    def bodies(self) -> list[tuple[bytes, bool]]:
        """Each body message: its bytes, and whether more follow."""
        return [(one["body"], one["more_body"]) for one in self.got if one["type"] == "http.response.body"]

    @property
    def body(self) -> bytes:
        return b"".join(body for body, _ in self.bodies)


async def call(app: Any, client: Client | None = None, *, threads: int = 2, **scope: Any) -> Client:
    """One request, to its end; who asked and what it got. Raises what the app raised."""
    client = client or Client()
    how = scope.pop("path", "/")
    served = Wsgi(app, threads=threads)(scope_of(how, **scope), client.receive, client.send)
    await asyncio.wait_for(served, PATIENCE_S)
    return client


async def until_true(probe: Any, what: str) -> None:
    """Let the loop run until ``probe()`` is true."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not probe():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.002)


# Apps

PLAIN = [("Content-Type", "text/plain")]


def answering(blocks: Any, headers: Any = PLAIN, status: Any = "200 OK") -> Any:
    """An app that returns ``blocks``."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return blocks

    return app


class Blocks:
    """An iterable that counts how often it is closed."""

    def __init__(self, blocks: Any, fail: Exception | None = None) -> None:
        self.blocks = iter(blocks)
        self.fail = fail
        self.closed = 0

    def __iter__(self) -> Blocks:
        return self

    def __next__(self) -> bytes:
        found: bytes = next(self.blocks)
        return found

    def close(self) -> None:
        self.closed += 1
        if self.fail:
            raise self.fail
