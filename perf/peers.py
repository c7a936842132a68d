"""The servers: one row per server and way of starting it.

Rules of this file: a row is data. ``argv`` is a template whose fields rounds.py fills in; nothing
here starts, measures or formats. Every server gets one worker (or as many as a run over numbers of
workers asks for, where it can), its access log off (or on, in the variants named so), uvloop and its
C parser where it has them, and otherwise its own defaults (permessage-deflate among them: the client
does not offer it, so nobody compresses): a peer is measured as its authors would start it for a
benchmark, and never worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from perf.scenarios import HTTP, HTTP2, WEBSOCKET, Scenario, Tool


class Home(Enum):
    """Which interpreter a server runs in."""

    OURS = "the interpreter running perf"
    PEERS = ".venv-peers"
    NONE = "no Python"


@dataclass(frozen=True, kw_only=True)
class Server:
    """How one server is started.

    Fields of argv: {python} {app} {port} {workers} {floor} {ws_floor} {h2_floor} {node} {nghttpd} {perf}
    {folder}, the run's own folder, {answer}, a folder with the scenario's answer as a file; in ``tls`` and
    ``http2_tls`` also {cert} {key}, in ``static`` also {static}, the folder with the file.
    """

    name: str
    what: str
    argv: tuple[str, ...]
    home: Home = Home.PEERS
    packages: tuple[str, ...] = ()
    """Needed to start at all; the first one's version is the server's."""
    wanted: tuple[str, ...] = ()
    """What makes it faster; installed along, not required."""
    program: str | None = None
    """An executable that must be on PATH."""
    scenarios: frozenset[str] | None = None
    """What it can answer; None: everything. A fixed-answer server has a short list."""
    tls: tuple[str, ...] | None = None
    """What is added to argv for HTTPS, with {cert} and {key}; None: it cannot, or is not asked to."""
    http2: tuple[str, ...] | None = None
    """What is added to argv for HTTP/2 without TLS, with prior knowledge; None: it cannot."""
    http2_tls: tuple[str, ...] | None = None
    """What is added to argv for HTTP/2 over TLS, with {cert} and {key}; None: it cannot."""
    static: tuple[str, ...] | None = None
    """What is added to argv to serve the folder {static} under /static itself; None: it cannot."""
    source: Path | None = None
    """Where our own package is imported from, if not from this tree: another revision, built."""
    revision: str | None = None
    """The commit of ``source``."""
    broken: str | None = None
    """Why the row cannot run, known beforehand: its revision does not build."""
    by_default: bool = True

    @property
    def scales(self) -> bool:
        """Whether it can be started with several workers."""
        return any("{workers}" in part for part in self.argv)

    def protocol(self, scenario: Scenario) -> tuple[str, ...] | None:
        """What is added to argv for what the scenario speaks; None: the server does not speak it."""
        if scenario.tool is Tool.H2LOAD:
            return self.http2_tls if scenario.tls else self.http2
        return self.tls if scenario.tls else ()


BASELINE = "uvicorn"
"""The server the others are compared with."""

C_PROGRAMS = ("floor", "ws_floor", "h2_floor")
"""The fields of argv that are programs of this folder, compiled when they are needed."""

FIXED_ANSWER = frozenset({"plain", "browser", "pipelined-16", "many-idle"})

_SHARDSERVE = (
    *("{python}", "-m", "shardserve", "{app}"),
    *("--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}"),
)
_UVICORN = (
    *("{python}", "-m", "uvicorn", "{app}", "--host", "127.0.0.1", "--port", "{port}"),
    *("--workers", "{workers}"),
    *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"),
)
_SSL = ("--ssl-certfile", "{cert}", "--ssl-keyfile", "{key}")
_GRANIAN_SSL = ("--ssl-certificate", "{cert}", "--ssl-keyfile", "{key}")
_CERTFILE = ("--certfile", "{cert}", "--keyfile", "{key}")
# The last --http counts, in Uvicorn and in Granian.
_UVICORN_HTTP2 = ("--http", "zttp", "--http2")
_GRANIAN_HTTP2 = ("--http", "2")
_GUNICORN_HTTP2 = ("--http-protocols", "h2,h1")
_GRANIAN = (
    *("{python}", "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1"),
    *("--port", "{port}", "--workers", "{workers}", "--loop", "uvloop", "--http", "1"),
    *("--log-level", "warning"),
    # Its default, 1024, is also how many connections it takes at a time.
    *("--backlog", "4096"),
)

_floor = partial(Server, home=Home.NONE, program="cc")
_shardserve = partial(
    Server,
    home=Home.OURS,
    tls=_SSL,
    http2=("--http2-cleartext",),
    http2_tls=("--http2", *_SSL),
    static=("--static", "/static={static}"),
)

SERVERS: tuple[Server, ...] = (
    _floor(
        name="floor",
        what="a C epoll loop with a fixed answer: the least this machine can do",
        argv=("{floor}", "{port}"),
        scenarios=FIXED_ANSWER,
    ),
    _floor(
        name="ws-floor",
        what="a C epoll loop that echoes WebSocket messages: the least this machine can do",
        argv=("{ws_floor}", "{port}"),
        scenarios=WEBSOCKET,
    ),
    _floor(
        name="h2-floor",
        what="a C epoll loop with nghttp2 and a fixed answer: what the protocol costs",
        argv=("{h2_floor}", "{port}"),
        scenarios=frozenset({"h2-plain", "h2-1"}),
        http2=(),
    ),
    Server(
        name="nghttpd",
        what="nghttp2's own server, C++: the answer is a file",
        home=Home.NONE,
        argv=("{nghttpd}", "--address", "127.0.0.1", "--htdocs", "{answer}", "{port}"),
        program="nghttpd",
        scenarios=HTTP2,
        http2=("--no-tls",),
        http2_tls=("{key}", "{cert}"),
    ),
    Server(
        name="picows",
        what="Cython, callbacks instead of ASGI: for distance",
        argv=("{python}", "-m", "perf.picows_echo", "127.0.0.1", "{port}"),
        packages=("picows", "uvloop"),
        scenarios=WEBSOCKET,
    ),
    _shardserve(
        name="shardserve",
        what="this project",
        argv=(*_SHARDSERVE, "--no-access-log", "--log-level", "warning"),
    ),
    _shardserve(
        name="shardserve-accesslog",
        what="this project, access log on",
        argv=(*_SHARDSERVE, "--access-log"),
        by_default=False,
    ),
    _shardserve(
        name="shardserve-metrics",
        what="this project, metrics on",
        argv=(
            *(*_SHARDSERVE, "--no-access-log", "--log-level", "warning"),
            *("--metrics", "unix:{folder}/metrics-{port}.sock"),
        ),
        by_default=False,
    ),
    Server(
        name="uvicorn",
        what="uvloop + httptools, websockets",
        argv=(*_UVICORN, "--no-access-log", "--log-level", "warning"),
        tls=_SSL,
        http2=_UVICORN_HTTP2,
        http2_tls=(*_UVICORN_HTTP2, *_SSL),
        packages=("uvicorn", "uvloop", "httptools", "websockets"),
        wanted=("zttp",),
    ),
    Server(
        name="uvicorn-accesslog",
        what="uvloop + httptools, its default access log",
        argv=_UVICORN,
        packages=("uvicorn", "uvloop", "httptools", "websockets"),
        by_default=False,
    ),
    Server(
        name="granian",
        what="Rust, hyper",
        argv=(*_GRANIAN, "--no-ws", "{app}"),
        tls=_GRANIAN_SSL,
        http2=_GRANIAN_HTTP2,
        http2_tls=(*_GRANIAN_HTTP2, *_GRANIAN_SSL),
        static=("--static-path-route", "/static", "--static-path-mount", "{static}"),
        packages=("granian", "uvloop"),
        scenarios=HTTP | HTTP2,
    ),
    Server(
        name="granian-ws",
        what="Rust, hyper + tungstenite",
        argv=(*_GRANIAN, "--ws", "{app}"),
        packages=("granian", "uvloop"),
        scenarios=WEBSOCKET,
    ),
    Server(
        name="hypercorn",
        what="Python, h11, wsproto",
        argv=(
            *("{python}", "-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "{workers}"),
            *("--worker-class", "uvloop", "--log-level", "warning", "{app}"),
        ),
        tls=_CERTFILE,
        http2=(),
        http2_tls=_CERTFILE,
        packages=("hypercorn", "uvloop"),
    ),
    Server(
        name="gunicorn",
        what="its own ASGI worker",
        argv=(
            *("{python}", "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "{workers}"),
            *("--worker-class", "asgi", "--asgi-loop", "uvloop", "--log-level", "warning"),
            *("--no-control-socket", "{app}"),
        ),
        http2=(*_GUNICORN_HTTP2, "--http2-cleartext", "prior-knowledge"),
        http2_tls=(*_GUNICORN_HTTP2, *_CERTFILE),
        packages=("gunicorn", "uvloop"),
        wanted=("gunicorn_h1c", "h2"),
    ),
    Server(
        name="gunicorn-uvicorn",
        what="Gunicorn with Uvicorn's worker class",
        argv=(
            *("{python}", "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "{workers}"),
            *("--worker-class", "uvicorn_worker.UvicornWorker", "--log-level", "warning"),
            *("--no-control-socket", "{app}"),
        ),
        packages=("gunicorn", "uvicorn_worker", "uvloop", "httptools", "websockets"),
        by_default=False,
    ),
    Server(
        name="freastal",
        what="C, libuv + picohttpparser",
        argv=("{python}", "-m", "perf.launch", "freastal", "{app}", "{port}", "{workers}"),
        tls=("{cert}", "{key}"),
        packages=("freastal",),
        scenarios=HTTP,
    ),
    Server(
        name="fastpysgi",
        what="C, libuv + llhttp",
        argv=("{python}", "-m", "perf.launch", "fastpysgi", "{app}", "{port}", "{workers}"),
        packages=("fastpysgi",),
        scenarios=HTTP,
    ),
    Server(
        name="h2corn",
        what="Rust",
        argv=(
            *("{python}", "-m", "h2corn", "{app}", "--bind", "127.0.0.1:{port}", "--workers", "{workers}"),
            *("--loop", "uvloop", "--no-access-log"),
        ),
        tls=_CERTFILE,
        http2=(),
        http2_tls=_CERTFILE,
        packages=("h2corn", "uvloop"),
    ),
    Server(
        name="daphne",
        what="Twisted",
        argv=("{python}", "-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", "-v", "0", "{app}"),
        packages=("daphne",),
        by_default=False,
    ),
    Server(
        name="node",
        what="node's own http server, a fixed answer",
        home=Home.NONE,
        argv=("{node}", "{perf}/node_plain.js", "{port}"),
        program="node",
        scenarios=FIXED_ANSWER | {"connection-per-request"},
    ),
)

BY_NAME = {server.name: server for server in SERVERS}

FRAMEWORK_PACKAGES = ("starlette", "fastapi", "django")
"""Installed next to the peers for the framework scenarios."""


def requirements() -> tuple[str, ...]:
    """Everything ``peers install`` puts into .venv-peers, each name once, in table order."""
    names = [name for server in SERVERS for name in (*server.packages, *server.wanted)]
    return tuple(dict.fromkeys((*names, *FRAMEWORK_PACKAGES)))
