"""Deadlines of a WebSocket that a test need not wait for: their lengths, and who looks at them when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tests.helpers.http1 import Server

SHORT_MS = 100
SHORT_S = SHORT_MS / 1000
LONG_MS = 60_000
TICK_S = 0.005
# So many deadlines, for who must outlive them.
MANY = 5
NEVER = {"ws_ping_interval_ms": 0, "ws_ping_timeout_ms": 0, "ws_idle_ms": 0, "ws_close_ms": 0}
PINGS = {**NEVER, "ws_ping_interval_ms": SHORT_MS, "ws_ping_timeout_ms": SHORT_MS}
PINGS_ONLY = {**NEVER, "ws_ping_interval_ms": SHORT_MS}
IDLE = {**NEVER, "ws_idle_ms": SHORT_MS}
CLOSING = {**NEVER, "ws_close_ms": SHORT_MS}
TIMED_OUT = "keepalive ping timeout"


class Ticking:
    """``with Ticking(serve) as start``: ``start`` is ``serve`` for servers that enforce their deadlines all
    the time.
    """

    def __init__(self, serve: Callable[..., Server]) -> None:
        self._serve = serve
        self._timers: list[tuple[Server, list[asyncio.TimerHandle]]] = []

    def _start(self, app: Any, **settings: Any) -> Server:
        server = self._serve(app, **settings)
        timer: list[asyncio.TimerHandle] = []

        def turn() -> None:
            timer[:] = [server.loop.call_later(TICK_S, turn)]
            server.factory.tick()

        server.call(turn)
        self._timers.append((server, timer))
        return server

    def __enter__(self) -> Callable[..., Server]:
        return self._start

    def __exit__(self, *_: object) -> None:
        for server, timer in self._timers:
            server.call(lambda timer=timer: timer[0].cancel())


def tick(server: Server) -> None:
    server.call(server.factory.tick)


def settle(server: Server) -> None:
    """The loop has gone round, so what was sent before has been read."""
    for _ in range(3):
        server.call(lambda: None)


def ticks_for(server: Server, seconds: float) -> None:
    """Time goes by, and the deadlines are enforced throughout."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tick(server)
        time.sleep(TICK_S)


def late(server: Server) -> None:
    """A deadline has gone by before anybody looks."""
    time.sleep(1.2 * SHORT_S)
    settle(server)
    tick(server)
