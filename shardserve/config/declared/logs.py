"""What an operator hears from the server and sees of it, and how it is spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..kinds import AccessFormat, FieldName, Glob, LogConfig, LogTarget, MetricsAddress, Share
from ..setting import setting
from ..values import Choice, ControlPath, FilePath, Many, Switch


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Control:
    """How a running server is found and told."""

    __slots__ = ()

    # fmt: off
    control_socket: str = setting(
        "auto", ControlPath(), reloadable=False,
        help="Unix socket for shardserve ctl: a path, off, or auto (shardserve-PID.sock in the runtime "
        "directory).",
    )
    pid: str | None = setting(
        None, FilePath(), reloadable=False,
        help="Write the master's pid into this file, and lock it.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Logs:
    """What is logged, and how."""

    __slots__ = ()

    # fmt: off
    log_level: str | None = setting(
        None, Choice(("critical", "error", "warning", "info", "debug", "trace")), unset="info", uvicorn=True,
        help="Log messages of this level and above. Unset leaves the levels of a log config as they are.",
    )
    access_log: bool = setting(
        True, Switch(), uvicorn=True,
        help="Log one line for each request.",
    )
    use_colors: bool | None = setting(
        None, Switch(), unset="auto", uvicorn=True,
        help="Colour the log; auto does on a terminal where NO_COLOR is not set.",
    )
    log_config: str | Mapping[str, Any] | None = setting(
        None, LogConfig(), uvicorn=True,
        help="Configure logging by this file (.ini, .json, .yaml), which may name the loggers of Uvicorn.",
    )
    log_format: str = setting(
        "text", Choice(("text", "json")),
        help="Write the log as text, or as one JSON object a line.",
    )
    access_log_format: str | None = setting(
        None, AccessFormat(), unset="uvicorn; json where log-format is",
        help="What a line of the access log says: one of these, or a format string with Gunicorn's atoms.",
    )
    access_log_file: str | None = setting(
        None, LogTarget(), unset="stdout",
        help="Write the access log into this file, which USR1 opens again; or to syslog, on a Unix socket or "
        "over UDP. - is stdout.",
    )
    access_log_exclude: tuple[str, ...] = setting(
        (), Many(Glob(), ","),
        help="No line for paths like this one, as they were sent, without the query: * is any text, with "
        "slashes too, ? one character. Repeatable.",
    )
    access_log_sample: float = setting(
        1.0, Share(),
        help="Log only this share of the requests, chosen at random; those that were answered 5xx always.",
    )
    request_id_header: str | None = setting(
        None, FieldName(), unset="no request ids",
        help="The field that has a request's id: taken from the request or made, shown to the app, sent with "
        "the response, and in the logs.",
    )
    traceparent: str = setting(
        "pass", Choice(("pass", "make")),
        help="W3C Trace Context: pass leaves what a client sent as it is, make gives a request without a "
        "valid traceparent a new one.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Metrics:
    """Figures of the running server, for Prometheus and for people."""

    __slots__ = ()

    # fmt: off
    metrics: str | None = setting(
        None, MetricsAddress(), reloadable=False, unset="off",
        help="Serve metrics and a status page on this address of the master's own; a port alone is on "
        "127.0.0.1.",
    )
    # fmt: on
