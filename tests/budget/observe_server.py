"""The server of tests/budget/server.py with a log, figures and ids: python -m tests.budget.observe_server.

Its lines go nowhere: what is counted is what a request costs until its line is in the buffer.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import uvloop

from shardserve import _native
from shardserve.stats import NATIVE_HISTOGRAMS, Page
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
    return _native.ProtocolFactory(
        app,
        loop=loop,
        context=contextvars.copy_context(),
        state=None,
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
        **observed(Page.create("figures")),
    )


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
    sys.exit(0)
