"""What an operator hears from the server, and how it is spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..kinds import LogConfig
from ..setting import setting
from ..values import Choice, ControlPath, FilePath, Switch


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
    # fmt: on
