"""Deadlines of HTTP/2 that are short enough to be waited for, and a victim of them."""

from __future__ import annotations

import time

from tests.helpers.h2_attacks import request
from tests.helpers.h2_victim import Busy, Victim
from tests.native.drive import FakeTransport

SHORT_MS = 40
SHORT_S = SHORT_MS / 1000
LONG_MS = 60_000
# So many deadlines, for who must outlive them.
MANY = 4
LONG = {
    "first_byte_ms": LONG_MS, "head_ms": LONG_MS, "keep_alive_ms": LONG_MS, "write_stall_ms": LONG_MS,
    "body_window_ms": LONG_MS, "body_min_rate": 1,
}  # fmt: skip
# Each window has to bring 40 bytes.
SLOWEST = {"body_window_ms": SHORT_MS, "body_min_rate": 1000}
STALL = {"write_stall_ms": SHORT_MS}
PINGS = {"http2_ping_interval_ms": SHORT_MS, "http2_ping_timeout_ms": SHORT_MS}
UPLOAD = request(1, end=False, method=b"POST", path=b"/upload")


def victim_with(app: Busy | None = None, *, transport: FakeTransport | None = None, **short: int) -> Victim:
    """All deadlines are long but these."""
    return Victim(app, transport=transport, **{**LONG, **short})


async def look(victim: Victim) -> None:
    """The deadlines are enforced, as the worker does once a second."""
    victim.driver.factory.tick()
    await victim.say()


async def late(victim: Victim) -> None:
    """A deadline has gone by before anybody looks."""
    time.sleep(1.2 * SHORT_S)
    await look(victim)


def aborted(victim: Victim) -> bool:
    return "abort" in victim.transport.calls
