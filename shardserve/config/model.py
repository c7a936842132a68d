"""THE one declaration of a setting, and the frozen ``Config`` made of them.

Rules of this file: a setting is one field of ``Config``, declared with ``setting()``. Its flag,
environment variable, file key, help, documentation, check and JSON form all follow from that field;
a second place that lists settings is a bug. The names follow from the attribute:

    attribute    timeout_keep_alive_s            units are in attribute names only
    flag         --timeout-keep-alive            Uvicorn's name wherever Uvicorn has one
    file key     timeout-keep-alive              timeout_keep_alive reads the same
    environment  SHARDSERVE_TIMEOUT_KEEP_ALIVE

A ``Config`` that exists is valid: the constructor checks every field. Reading files, variables and
flags is ``load.py``; no I/O, no logging and no click here.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .mistakes import Mistake, conflicts, describe
from .setting import Setting, setting
from .values import (
    BindAddress,
    Choice,
    ControlPath,
    FileMode,
    FilePath,
    Header,
    ImportString,
    Integer,
    Many,
    Seconds,
    Size,
    Switch,
    Text,
    UnixPath,
)  # fmt: skip

# What the other rooms find here.
__all__ = [
    "BY_ATTRIBUTE", "BY_NAME", "SETTINGS", "Config", "Setting", "adopt", "describe", "from_json", "nearest",
    "to_json",
]  # fmt: skip

# Of a line, a field, all fields: memory that a client can have before anybody knows what it wants.
LARGEST_HEAD = 2**24

# Sections of --help and of the reference, in this order.
APPLICATION, ADDRESS, PROCESSES, RECYCLING, LIMITS, TIMEOUTS, WEBSOCKET, CONTROL, LOGS, RESPONSES = (
    "Application", "Address", "Processes", "Recycling", "Limits", "Timeouts", "WebSocket", "Control", "Logs",
    "Responses",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of one server. Raises ConfigError, naming every wrong field, if it is not valid."""

    # fmt: off
    # Application
    app: str = setting(
        "", ImportString(), argument=True, group=APPLICATION,
        help="The application to serve, as module:attribute.",
    )
    app_dir: str = setting(
        "", FilePath(), group=APPLICATION,
        help="Directory to look for APP in, put first on the import path. Empty is the current one.",
    )
    factory: bool = setting(
        False, Switch(), group=APPLICATION,
        help="APP is a function that takes nothing and returns the application.",
    )
    lifespan: str = setting(
        "auto", Choice(("auto", "on", "off")), group=APPLICATION,
        help="Run the application's lifespan: on insists, off skips, auto runs it if there is one.",
    )
    root_path: str = setting(
        "", Text(), group=APPLICATION,
        help="The path the application is mounted at behind a proxy: ASGI's root_path.",
    )
    reset_contextvars: bool = setting(
        False, Switch(), group=APPLICATION,
        help="Run each request in a fresh context, without the variables set at import and startup.",
    )

    # Address
    host: str = setting(
        "127.0.0.1", Text(), group=ADDRESS, reloadable=False,
        help="Listen on this address.",
    )
    port: int = setting(
        8000, Integer(0, 65535), group=ADDRESS, reloadable=False,
        help="Listen on this port; 0 picks a free one.",
    )
    uds: str | None = setting(
        None, UnixPath(), group=ADDRESS, reloadable=False,
        help="Listen on a Unix domain socket at this path, instead of host and port.",
    )
    uds_permissions: int = setting(
        0o666, FileMode(), group=ADDRESS, reloadable=False,
        help="File mode of Unix domain sockets.",
    )
    fd: int | None = setting(
        None, Integer(0), group=ADDRESS, reloadable=False,
        help="Listen on this inherited file descriptor, instead of host and port.",
    )
    bind: tuple[str, ...] = setting(
        (), Many(BindAddress(), ","), group=ADDRESS, reloadable=False,
        help="Listen here: host:port, [::1]:8000, :8000, unix:/path or fd://3. Repeatable; replaces --host, "
        "--port, --uds and --fd.",
    )
    backlog: int = setting(
        2048, Integer(1, 2**31 - 1), group=ADDRESS, reloadable=False,
        help="How many connections may wait to be accepted, for each worker.",
    )

    # Processes
    workers: int | None = setting(
        None, Integer(1, 1024), group=PROCESSES, reloadable=False, fallback_env=("WEB_CONCURRENCY",),
        unset="one per usable core",
        help="How many worker processes.",
    )
    affinity: bool = setting(
        True, Switch(), group=PROCESSES,
        help="Pin each worker to a core of its own.",
    )
    balance: str = setting(
        "hash", Choice(("hash", "cpu", "random")), group=PROCESSES, reloadable=False,
        help="Who gets a new TCP connection: hash of its addresses, the worker of the cpu it arrived on, or "
        "random.",
    )
    preload: bool = setting(
        False, Switch(), group=PROCESSES, reloadable=False,
        help="Import the application once, in a template process, and fork the workers from it: they share "
        "its memory.",
    )
    reload_parallel: int = setting(
        1, Integer(1, 1024), group=PROCESSES,
        help="At reload: how many workers are replaced at the same time.",
    )

    # Recycling
    limit_max_requests: int | None = setting(
        None, Integer(1), group=RECYCLING, unset="never",
        help="Replace a worker after this many requests.",
    )
    limit_max_requests_jitter: int = setting(
        0, Integer(0), group=RECYCLING,
        help="Add up to this many requests, at random, to the limit of each worker.",
    )
    worker_lifetime_s: float | None = setting(
        None, Seconds(1.0), unit="s", group=RECYCLING, unset="never",
        help="Replace a worker after this long.",
    )
    worker_lifetime_jitter_s: float = setting(
        0.0, Seconds(), unit="s", group=RECYCLING,
        help="Add up to this long, at random, to the lifetime of each worker.",
    )
    worker_max_rss_mib: int | None = setting(
        None, Integer(1), unit="mib", group=RECYCLING, unset="never",
        help="Replace a worker whose resident memory is more than this many MiB.",
    )

    # Limits
    limit_concurrency: int | None = setting(
        None, Integer(1), group=LIMITS, unset="no limit",
        help="Answer 503 to requests beyond this many in flight, for each worker. Idle connections do not "
        "count.",
    )
    limit_connections: int | None = setting(
        None, Integer(1, 2**31 - 1), group=LIMITS, unset="no limit",
        # What can run out is descriptors, and a worker that is short of them stops accepting by itself.
        help="Answer 503 to connections beyond this many, for each worker, and close them.",
    )
    limit_keep_alive_requests: int | None = setting(
        None, Integer(1, 2**31 - 1), group=LIMITS, unset="no limit",
        # nginx closes after 1000 to free what a connection has piled up; ours piles up nothing.
        help="Close a connection when it has brought this many requests.",
    )
    limit_request_line_bytes: int = setting(
        8192, Size(256, LARGEST_HEAD), suffix="bytes", group=LIMITS,
        # nginx, Apache and Kestrel, so that what passes a proxy passes here. Gunicorn has 4094.
        help="Answer 414 to a request whose first line is longer than this.",
    )
    limit_request_fields: int = setting(
        100, Integer(1, 100_000), group=LIMITS,
        # Gunicorn, Apache and Kestrel.
        help="Answer 431 to a request with more header fields than this.",
    )
    limit_request_field_size_bytes: int = setting(
        65536, Size(256, LARGEST_HEAD), suffix="bytes", group=LIMITS,
        # A Kerberos ticket may have 48,000 bytes, which are 64,000 in Authorization. nginx, Apache and
        # Gunicorn have 8 KiB, which single sign-on outgrows.
        help="Answer 431 to a request with a header field, name and value, longer than this.",
    )
    limit_request_head_bytes: int = setting(
        65536, Size(256, LARGEST_HEAD), suffix="bytes", group=LIMITS,
        # Twice what nginx and Kestrel take, and room for one field of the size above.
        help="Answer 431 to a request whose header fields together are longer than this.",
    )
    limit_request_body_bytes: int = setting(
        2**30, Size(), suffix="bytes", group=LIMITS,
        # A fence, not a policy: Uvicorn and Gunicorn have none, and an app that takes large uploads
        # must go on working. Whoever takes uploads at all has to raise nginx's 1 MiB, Kestrel's 30 MB.
        help="Answer 413 to a request whose body is larger than this; 0 is any size.",
    )
    limit_pipelined_bytes: int = setting(
        65536, Size(1024, 2**24), suffix="bytes", group=LIMITS,
        # One full read ahead, asyncio's own mark for a buffer that is full. Nobody is refused by it.
        help="Stop reading a connection that has sent this much behind the request being answered.",
    )
    underscore_headers: str = setting(
        "safe", Choice(("safe", "allow", "drop", "reject")), group=LIMITS,
        # WSGI and CGI call X_Real_IP and X-Real-IP by one name, so one can pass for the other behind a
        # proxy that only guards the second. nginx and Gunicorn drop all, Uvicorn passes all.
        help="Header names with an underscore: safe drops those that imitate a name with dashes.",
    )

    # Timeouts
    timeout_first_byte_s: float = setting(
        30.0, Seconds(), unit="s", group=TIMEOUTS,
        # Browsers and pools open connections ahead of need; half of the 60 s that nginx waits.
        help="Close a new connection that has sent nothing for this long; 0 never.",
    )
    timeout_request_head_s: float = setting(
        10.0, Seconds(), unit="s", group=TIMEOUTS,
        # A head is a few packets: time for one that is lost three times (1 + 2 + 4 s). nginx 60, Kestrel 30.
        help="Answer 408 to a request whose head is not complete this long after its first byte; 0 never.",
    )
    min_request_body_rate_bytes_per_s: int = setting(
        240, Integer(0, 10**9), unit="bytes/s", suffix="bytes_per_s", group=TIMEOUTS,
        # Kestrel's and IIS's: 1.9 kbit/s, below any modem.
        help="Answer 408 to a request whose body comes slower than this; 0 is any speed.",
    )
    timeout_request_body_grace_s: float = setting(
        10.0, Seconds(), unit="s", group=TIMEOUTS,
        # Twice Kestrel's: a phone that changes networks is silent for some seconds.
        help="Measure the rate of a request body over windows of this length; 0 never.",
    )
    timeout_write_stall_s: float = setting(
        60.0, Seconds(), unit="s", group=TIMEOUTS,
        # nginx's send_timeout.
        help="Cut a connection whose client has taken nothing of its response for this long; 0 never.",
    )
    timeout_keep_alive_s: float = setting(
        75.0, Seconds(), unit="s", group=TIMEOUTS,
        # nginx's keepalive_timeout, and longer than the 60 s idle timeout of common load balancers,
        # which must be the side that closes; Uvicorn's 5 s loses that race.
        help="Close a connection that has been idle this long.",
    )
    timeout_graceful_shutdown_s: float = setting(
        30.0, Seconds(), unit="s", group=TIMEOUTS,
        # Kubernetes' terminationGracePeriodSeconds.
        help="At shutdown and reload: how long requests in flight may take before they are cut.",
    )
    timeout_drain_idle_s: float = setting(
        5.0, Seconds(), unit="s", group=TIMEOUTS,
        help="At reload: how long an idle connection may still bring one more request before it is closed.",
    )
    timeout_drain_streams_s: float = setting(
        5.0, Seconds(), unit="s", group=TIMEOUTS,
        # Long enough for a page that is being streamed, short enough not to use up the deadline.
        help="At shutdown and reload: after this long, endless responses (SSE) are told that their client "
        "is gone, and WebSockets are closed with 1012.",
    )
    timeout_worker_startup_s: float = setting(
        600.0, Seconds(), unit="s", group=TIMEOUTS,
        # Loading a large model is minutes; a start that never ends must not block reloads for good.
        help="Kill a worker that is not ready this long after its start; 0 waits for ever.",
    )
    timeout_worker_healthcheck_s: float = setting(
        30.0, Seconds(), unit="s", group=TIMEOUTS,
        # Gunicorn's timeout. Uvicorn's 5 s is answered by a thread; our event loop answers itself, and
        # a call that blocks it for 6 s is bad but not worth the other requests of the worker.
        help="Kill a worker whose event loop has not turned for this long; its stack is logged. 0 never.",
    )
    loop_lag_warn_s: float = setting(
        1.0, Seconds(), unit="s", group=TIMEOUTS,
        help="Log the Python stack of a worker whose event loop has not turned for this long; 0 never.",
    )

    # WebSocket
    ws: str = setting(
        "auto", Choice(("auto", "none")), group=WEBSOCKET,
        help="Serve WebSockets: auto does, none hands a handshake to the application as an ordinary GET.",
    )
    ws_max_size_bytes: int = setting(
        2**24, Size(), suffix="bytes", group=WEBSOCKET,
        # Uvicorn's, Gunicorn's and Hypercorn's.
        help="Close a WebSocket with 1009 at a message larger than this, also once it is inflated; 0 is any "
        "size.",
    )
    ws_max_queue: int = setting(
        32, Integer(1, 2**31 - 1), group=WEBSOCKET,
        # Uvicorn's. Nobody is refused by it: the client's next message waits in the socket.
        help="Stop reading a WebSocket while this many messages wait for the application.",
    )
    ws_max_fragments: int = setting(
        100_000, Integer(1, 2**31 - 1), group=WEBSOCKET,
        # Room for 4 MiB in fragments of 64 bytes, the most that Autobahn's test suite sends. A fragment may
        # be empty, so the size of a message does not bound their number.
        help="Close a WebSocket with 1008 at a message in more fragments than this.",
    )
    ws_ping_interval_s: float = setting(
        20.0, Seconds(), unit="s", group=WEBSOCKET,
        # Uvicorn's, and well below the 60 s after which nginx takes a silent connection for dead.
        help="Send a ping over each WebSocket this often; 0 never.",
    )
    ws_ping_timeout_s: float = setting(
        20.0, Seconds(), unit="s", group=WEBSOCKET,
        # Uvicorn's: a phone that changes networks is silent for some seconds.
        help="Close a WebSocket with 1011 when nothing has come from its client for this long after a ping; "
        "0 never.",
    )
    ws_per_message_deflate: bool = setting(
        True, Switch(), group=WEBSOCKET,
        # Uvicorn's. Without a context from message to message, so that an idle WebSocket holds no memory
        # for it.
        help="Compress messages (RFC 7692) where the client can.",
    )
    timeout_ws_idle_s: float = setting(
        0.0, Seconds(), unit="s", group=WEBSOCKET,
        # A WebSocket that waits for an event is in use, and pings find those that are dead.
        help="Close a WebSocket with 1001 that has had no message, either way, for this long; 0 never.",
    )
    timeout_ws_close_s: float = setting(
        10.0, Seconds(), unit="s", group=WEBSOCKET,
        # What websockets and Uvicorn wait.
        help="Cut a WebSocket whose client has not answered a close frame within this long; 0 never.",
    )

    # Control
    control_socket: str = setting(
        "auto", ControlPath(), group=CONTROL, reloadable=False,
        help="Unix socket for shardserve ctl: a path, off, or auto (shardserve-PID.sock in the runtime "
        "directory).",
    )
    pid: str | None = setting(
        None, FilePath(), group=CONTROL, reloadable=False,
        help="Write the master's pid into this file, and lock it.",
    )

    # Logs
    log_level: str = setting(
        "info", Choice(("critical", "error", "warning", "info", "debug", "trace")), group=LOGS,
        help="Log messages of this level and above.",
    )
    access_log: bool = setting(
        True, Switch(), group=LOGS,
        help="Log one line for each request.",
    )
    use_colors: bool | None = setting(
        None, Switch(), group=LOGS, unset="auto",
        help="Colour the log; auto does on a terminal where NO_COLOR is not set.",
    )

    # Responses
    server_header: bool = setting(
        True, Switch(), group=RESPONSES,
        help="Send a Server header.",
    )
    date_header: bool = setting(
        True, Switch(), group=RESPONSES,
        help="Send a Date header.",
    )
    headers: tuple[tuple[str, str], ...] = setting(
        (), Many(Header(), "\n"), flag_name="header", group=RESPONSES,
        help='Add this header to every response: "Name: value". Repeatable.',
    )
    # fmt: on

    def __post_init__(self) -> None:
        mistakes = []
        for one in SETTINGS:
            try:
                object.__setattr__(self, one.attribute, one.check(getattr(self, one.attribute)))
            except ValueError as error:
                mistakes.append(Mistake(one.name, str(error)))
        if not mistakes:
            changed = {
                one.attribute: one.name for one in SETTINGS if getattr(self, one.attribute) != one.default
            }
            mistakes = conflicts({attribute: getattr(self, attribute) for attribute in changed}, changed)
        if mistakes:
            raise ConfigError(describe(mistakes))


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(attribute=field.name, **field.metadata) for field in dataclasses.fields(Config)
)
BY_ATTRIBUTE: Mapping[str, Setting] = {one.attribute: one for one in SETTINGS}
BY_NAME: Mapping[str, Setting] = {one.name: one for one in SETTINGS}


def nearest(word: str, *, cutoff: float = 0.6) -> str | None:
    """The name of the setting that ``word`` probably meant, or None. Either spelling of dashes."""
    close = difflib.get_close_matches(word.replace("-", "_").lower(), BY_NAME, n=1, cutoff=cutoff)
    return close[0] if close else None


# A Config as data


def to_json(config: Config) -> dict[str, Any]:
    """Every setting, as the START message carries it. ``from_json`` gives back an equal Config."""
    return {
        one.attribute: None if (value := getattr(config, one.attribute)) is None else one.kind.to_json(value)
        for one in SETTINGS
    }


def from_json(data: Mapping[str, Any]) -> Config:
    """The Config that ``to_json`` wrote. Raises ConfigError for a setting this version does not have."""
    unknown = sorted(set(data) - set(BY_ATTRIBUTE))
    if unknown:
        # The package was replaced under a running master.
        names = ", ".join(unknown)
        raise ConfigError(f"settings unknown to this version of shardserve: {names}; restart the master")
    return Config(**data)


def adopt(running: Config, wanted: Config) -> tuple[Config, tuple[str, ...]]:
    """What a reload may adopt of ``wanted``, and the names of the changes that wait for a restart."""
    waiting = tuple(
        one
        for one in SETTINGS
        if not one.reloadable and getattr(wanted, one.attribute) != getattr(running, one.attribute)
    )
    kept = {one.attribute: getattr(running, one.attribute) for one in waiting}
    return dataclasses.replace(wanted, **kept), tuple(one.key for one in waiting)
