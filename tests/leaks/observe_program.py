"""One leak program of the access log, the figures and the ids: tests/leaks/program.py, with all of them on.

python -m tests.leaks.observe_program SCENARIO REQUESTS
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop

from shardserve import _native
from shardserve.stats import NATIVE_HISTOGRAMS, Page
from tests.leaks.program import (
    CHUNKED,
    POST,
    STATUS,
    Client,
    Scenario,
    get,
    head,
    left_by,
)
from tests.leaks.program import app as any_app

BUFFER_BYTES = 4096
TEXT: list[tuple[str, bytes | None]] = [
    *(
        (op, None)
        for op in ("client", "host", "port", "user", "method", "target", "path", "query", "version")
    ),
    *((op, None) for op in ("status", "time_clf", "time_iso", "duration_us", "duration_decimal")),
    *((op, None) for op in ("first_byte_us", "request_bytes", "response_bytes", "response_bytes_clf")),
    ("request_field", b"user-agent"),
    ("response_field", b"content-type"),
    ("response_field", b"x-long"),
    ("request_id", None),
    ("trace_id", None),
    ("tls_version", None),
    ("literal", b"|"),
]
BASIC = b"Authorization: Basic YWxpY2U6c2VjcmV0"
TRACE = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    if path == "/long":
        headers = [(b"x-long", b"\xff" * 20_000), (b"X-Request-ID", b"mine")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})
    elif path == "/mutate":
        scope["headers"][:] = [5, (b"user-agent", 5)] * 20
        scope["extensions"]["shardserve.request_id"]["me"] = scope
        await send({"type": "http.response.start", "status": 503, "headers": [(b"x-long", b"1")]})
        await send({"type": "http.response.body", "body": b"ok"})
    elif path == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"a/b")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        await any_app(scope, receive, send)


def different(number: int) -> bytes:
    fields = [b"User-Agent: agent %d" % number, b"X-Request-ID: id-%d" % number, BASIC]
    return head(*fields, line=b"GET /a%d?b=%d HTTP/1.1" % (number, number))


BAD = head(b"X-Request-ID: a b", b"X-Request-ID: c", b"traceparent: x", b"traceparent: y")
LONG = head(b"User-Agent: " + b"\x80" * 8000, line=b"GET /long HTTP/1.1")
SCENARIOS = {
    "plain": Scenario(lambda client, count: client.pipelined(get("/"), count, 50)),
    "suspend": Scenario(lambda client, count: client.pipelined(get("/later"), count, 20)),
    "all different": Scenario(lambda client, count: client.each_different(different, count, 50)),
    "ids of others": Scenario(
        lambda client, count: client.pipelined(head(b"X-Request-ID: abc", TRACE), count, 50)
    ),
    "ids replaced": Scenario(lambda client, count: client.pipelined(BAD, count, 50)),
    "long lines": Scenario(lambda client, count: client.pipelined(LONG, count // 10, 5, STATUS)),
    "changed by the app": Scenario(lambda client, count: client.pipelined(get("/mutate"), count // 2, 20)),
    "errors": Scenario(lambda client, count: client.pipelined(get("/boom"), count // 2, 20)),
    "uploads": Scenario(lambda client, count: client.pipelined(POST, count // 20, 5)),
    "chunked uploads": Scenario(lambda client, count: client.pipelined(CHUNKED, count // 5, 20)),
    "broken off": Scenario(lambda client, count: client.disconnects(get("/begun"), count // 20)),
    "new connections": Scenario(lambda client, count: client.new_connections(get("/"), count // 20)),
}


async def main(scenario: Scenario, requests: int) -> dict[str, int]:
    page = Page.create("figures")
    loop = asyncio.get_running_loop()
    log: Any = None
    taken = 0

    def write(lines: bytes) -> None:
        nonlocal taken
        taken += lines.count(b"\n")

    log = _native.AccessLog(
        TEXT,
        TEXT,
        write=write,
        schedule=lambda: loop.call_soon(log.flush),
        exclude=[b"/health*", b"*.ico"],
        buffer_bytes=BUFFER_BYTES,
    )
    duration, _, _, size = NATIVE_HISTOGRAMS
    left = await left_by(
        app,
        scenario.run,
        requests,
        client=Client,
        access=log,
        figures=page.native,
        duration_bounds_us=duration.bounds,
        size_bounds_bytes=size.bounds,
        request_id_field=b"X-Request-ID",
        make_traceparent=True,
        **scenario.settings,
    )
    log.flush()
    return left | {"untold": log.lines - taken, "lines": taken, "abandoned": page["abandoned"]}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(SCENARIOS[sys.argv[1]], int(sys.argv[2])))))
