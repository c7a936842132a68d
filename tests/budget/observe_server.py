"""The server of tests/budget/server.py with a log, figures and ids: python -m tests.budget.observe_server.

Its lines go nowhere: what is counted is what a request costs until its line is in the buffer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from shardserve import _native
from shardserve.stats import NATIVE_HISTOGRAMS, Page
from tests.budget import serving
from tests.budget.server import app

PROGRAM: list[tuple[str, bytes | None]] = [
    ("literal", b"INFO:     "),
    ("client", None),
    ("literal", b' - "'),
    ("method", None),
    ("literal", b" "),
    ("target", None),
    ("literal", b" HTTP/"),
    ("version", None),
    ("literal", b'" '),
    ("status_text", b""),
    ("literal", b" "),
    ("duration_us", None),
    ("literal", b" "),
    ("time_clf", None),
    ("request_field", b"user-agent"),
    ("response_field", b"content-type"),
    ("request_id", None),
    ("trace_id", None),
]


def observed(page: Page, **options: Any) -> dict[str, Any]:
    """The arguments of a factory that has everything on."""
    duration, _, _, size = NATIVE_HISTOGRAMS
    given: dict[str, Any] = {"write": len, "schedule": bool, **options}
    return {
        "access": _native.AccessLog(PROGRAM, PROGRAM, **given),
        "figures": page.native,
        "duration_bounds_us": duration.bounds,
        "size_bounds_bytes": size.bounds,
        "request_id_field": b"X-Request-ID",
        "make_traceparent": True,
    }


def make_factory(loop: asyncio.AbstractEventLoop) -> _native.ProtocolFactory:
    return serving.factory(app, loop, **observed(Page.create("figures")))


if __name__ == "__main__":
    serving.main(make_factory)
