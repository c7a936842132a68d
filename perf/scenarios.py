"""The scenarios: one row per thing a client does to a server.

Rules of this file: a row is data. What is sent, which app answers, what the right answer is and which
tool makes the load are all here; how it is made is that tool's module's business. A scenario whose
correct answer is not written down cannot be added, because a server that answers wrongly fast must not
win.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from functools import partial

from perf import apps, static_file

Headers = tuple[tuple[str, str], ...]


class Tool(Enum):
    """The load generators, by the module that runs them."""

    WRK = "wrk"
    """HTTP/1.1 requests."""
    WS_LOAD = "ws_load"
    """Binary WebSocket messages to an echo."""
    H2LOAD = "h2load"
    """HTTP/2 requests."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of request, the app that answers it, and the answer a correct server gives.

    With WS_LOAD a request is a message: ``body`` is its payload and ``expect_body`` the echo's. The tool
    sends messages of that size with a content of its own, and checks each of them.
    """

    name: str
    what: str
    app: str
    expect_body: bytes
    tool: Tool = Tool.WRK
    group: str = ""
    """A name that stands for all rows that share it, on the command line."""
    method: str = "GET"
    path: str = "/"
    headers: Headers = ()
    body: bytes = b""
    pipeline: int = 1
    """Requests written at once on a connection, before the first answer is read; of messages, how many
    are in flight on each, always; with H2LOAD, the streams open on each, always."""
    connections: int | None = None
    """For each worker, where it is not the run's number."""
    tls: bool = False
    """Whether it is HTTPS. The certificate is the run's own, and nobody checks it."""
    idle: bool = False
    """Whether the server also holds open, meanwhile, the run's number of idle connections."""
    own_static: bool = False
    """Whether a server that can serve files itself does so here, in front of the app."""
    packages: tuple[str, ...] = ()
    """What the server's own interpreter must have installed to run the app."""

    @property
    def unit(self) -> str:
        """What is counted, short enough for a heading."""
        return "msg" if self.tool is Tool.WS_LOAD else "req"


# The header set of a desktop browser's navigation request, Host not counted (wrk adds it).
BROWSER_HEADERS: Headers = (
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "https://example.test/catalogue?page=2"),
    ("Connection", "keep-alive"),
    ("Cookie", "session=0f8fad5bd9cb469fa16570867728950e; theme=dark"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Priority", "u=0, i"),
)

_MIB = 1024 * 1024
_H2_STREAMS = 16
_H2_CONNECTIONS = 32
_MESSAGE_64 = b"0123456789abcdef" * 4
_MESSAGE_16K = b"0123456789abcdef" * 1024

# Rows that share most of what they say.
_plain = partial(Scenario, app="perf.apps:plain", expect_body=apps.PLAIN_BODY)
_body_100k = partial(Scenario, app="perf.apps:body_100k", expect_body=apps.BODY_100K)
_post = partial(
    Scenario,
    app="perf.apps:read_body",
    method="POST",
    headers=(("Content-Type", "application/octet-stream"),),
)
_static = partial(
    Scenario,
    app="perf.static_app:app",
    path=f"/static/{static_file.NAME}",
    packages=("starlette",),
    expect_body=apps.BODY_100K,
)
_echo = partial(Scenario, group="ws-echo", tool=Tool.WS_LOAD, app="perf.apps:ws_echo")
_echo_64 = partial(_echo, body=_MESSAGE_64, expect_body=_MESSAGE_64)
_echo_16k = partial(_echo, body=_MESSAGE_16K, expect_body=_MESSAGE_16K)
_h2 = partial(Scenario, group="h2", tool=Tool.H2LOAD, pipeline=_H2_STREAMS, connections=_H2_CONNECTIONS)
_h2_plain = partial(_h2, app="perf.apps:plain", expect_body=apps.PLAIN_BODY)
_h2_10k = partial(_h2, app="perf.apps:body_10k", expect_body=apps.BODY_10K)

SCENARIOS: tuple[Scenario, ...] = (
    _plain(name="plain", what="GET, a 13-byte body and two headers"),
    _plain(name="browser", what="as plain, with a browser's twelve request headers", headers=BROWSER_HEADERS),
    Scenario(
        name="json",
        what="GET, a small JSON document encoded per request",
        app="perf.apps:json",
        expect_body=json.dumps(apps.JSON_DOCUMENT).encode(),
    ),
    _post(name="post-1k", what="POST of 1 KiB that the app reads", body=b"p" * 1024, expect_body=b"1024"),
    _post(
        name="post-1m",
        what="POST of 1 MiB that the app reads",
        body=b"p" * _MIB,
        expect_body=str(_MIB).encode(),
    ),
    _body_100k(name="body-100k", what="GET, a 100 KiB response body"),
    Scenario(
        name="stream",
        what="GET, ten chunks of 1 KiB without a content-length",
        app="perf.apps:stream",
        expect_body=apps.STREAM_CHUNK * apps.STREAM_CHUNKS,
    ),
    _plain(name="pipelined-16", what="as plain, sixteen requests in one write", pipeline=16),
    Scenario(
        name="suspend",
        what="as plain, after one await asyncio.sleep(0)",
        app="perf.apps:suspend",
        expect_body=apps.PLAIN_BODY,
    ),
    _plain(
        name="connection-per-request",
        what="as plain, Connection: close and a new connection for every request",
        headers=(("Connection", "close"),),
    ),
    _plain(name="many-idle", what="as plain, while many other connections are open and idle", idle=True),
    _static(name="static", what="GET, a file of 100 KiB", own_static=True),
    _static(name="static-starlette", what="the same file, for everybody through Starlette's StaticFiles"),
    _plain(name="tls", what="as plain, over TLS", tls=True),
    _body_100k(name="tls-body-100k", what="as body-100k, over TLS", tls=True),
    Scenario(
        name="starlette",
        what="one Starlette route",
        app="perf.starlette_app:app",
        packages=("starlette",),
        expect_body=apps.PLAIN_BODY,
    ),
    Scenario(
        name="fastapi",
        what="one FastAPI route with a path and a query parameter",
        app="perf.fastapi_app:app",
        path="/items/42?q=shard",
        packages=("fastapi",),
        expect_body=b'{"id":42,"q":"shard"}',
    ),
    Scenario(
        name="django",
        what="one Django URL, an async view, no middleware",
        app="perf.django_app:app",
        packages=("django",),
        expect_body=apps.PLAIN_BODY,
    ),
    _echo_64(name="ws-echo-64", what="WebSocket, messages of 64 bytes echoed, one in flight"),
    _echo_64(
        name="ws-echo-64-deep-16",
        what="WebSocket, messages of 64 bytes echoed, sixteen in flight",
        pipeline=16,
    ),
    _echo_16k(name="ws-echo-16k", what="WebSocket, messages of 16 KiB echoed, one in flight"),
    _echo_16k(
        name="ws-echo-16k-deep-16",
        what="WebSocket, messages of 16 KiB echoed, sixteen in flight",
        pipeline=16,
    ),
    _h2_plain(name="h2-plain", what="HTTP/2, GET, a 13-byte body; 32 connections of 16 streams"),
    _h2(
        name="h2-post-1k",
        what="HTTP/2, POST of 1 KiB that the app reads; 32 connections of 16 streams",
        app="perf.apps:read_body",
        method="POST",
        body=b"p" * 1024,
        expect_body=b"1024",
    ),
    _h2_10k(name="h2-10k", what="HTTP/2, GET, a 10 KiB response body; 32 connections of 16 streams"),
    _h2_plain(
        name="h2-1",
        what="HTTP/2, as h2-plain, one stream at a time on each connection",
        pipeline=1,
        connections=None,
    ),
    _h2_plain(name="h2-tls", what="HTTP/2, as h2-plain, over TLS", tls=True),
    _h2_10k(name="h2-tls-10k", what="HTTP/2, as h2-10k, over TLS", tls=True),
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
HTTP = frozenset(scenario.name for scenario in SCENARIOS if scenario.tool is Tool.WRK)
"""Over HTTP/1.1."""
WEBSOCKET = frozenset(scenario.name for scenario in SCENARIOS if scenario.tool is Tool.WS_LOAD)
HTTP2 = frozenset(scenario.name for scenario in SCENARIOS if scenario.tool is Tool.H2LOAD)


def request_bytes(scenario: Scenario, host: str) -> bytes:
    """One request of the scenario as it goes on the wire of HTTP/1.1, for the correctness probe."""
    lines = [f"{scenario.method} {scenario.path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in scenario.headers]
    if scenario.body:
        lines.append(f"Content-Length: {len(scenario.body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + scenario.body
