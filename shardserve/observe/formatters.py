"""How a log record becomes text: the shapes of the server log, and the formatters that a log config may name.

Rules of this file: ``logging`` and text only. Two kinds are here. ``ServerFormatter`` and ``JsonFormatter``
write what *we* say, and let nothing out raw. ``DefaultFormatter`` and ``AccessFormatter`` have the names,
arguments and fields of Uvicorn's (``%(levelprefix)s``, ``%(client_addr)s``, ``%(request_line)s``,
``%(status_code)s``), because existing log configs are written for them; ``shardserve.logging`` exports them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from copy import copy
from http import HTTPStatus
from typing import IO, Any, Literal

from . import tracebacks

TRACE = 5
# What the native side calls the method of a WebSocket handshake (``access.py``).
WEBSOCKET = "WebSocket"
SWITCHING_PROTOCOLS = 101

# What a line of the access log is made of, in the terms of AccessFormatter.
ACCESS_FORMAT = '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s'

# SGR codes, the same colour per level and class of status as Uvicorn's: eyes trained on it stay right.
_LEVEL_COLOURS = {
    TRACE: "34",
    logging.DEBUG: "36",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "91",
}
_STATUS_COLOURS = {1: "97", 2: "32", 3: "33", 4: "31", 5: "91"}
_PREFIX_WIDTH = 8  # of the longest level name, so that messages line up


class Identity:
    """Which process speaks. One for each process: a fork of the template becomes a worker."""

    slot: int | None = None
    pid: int = 0

    @property
    def text(self) -> str:
        return "" if self.slot is None else f"[worker {self.slot}, pid {self.pid}] "


identity = Identity()


def become(slot: int | None) -> None:
    """This process is the worker of ``slot`` from now on; None: the master or a template."""
    identity.slot, identity.pid = slot, os.getpid()


# Colours


def wants_colours(stream: IO[str] | None, use_colors: bool | None) -> bool:
    """The flag when given; else only on a terminal, and not against NO_COLOR (no-color.org)."""
    if use_colors is not None:
        return use_colors
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # a closed stream
        return False


def level_prefix(record: logging.LogRecord, colours: bool) -> str:
    """``INFO:     ``, with the name coloured if wanted."""
    name = record.levelname
    padding = " " * (_PREFIX_WIDTH - len(name))
    if colours and record.levelno in _LEVEL_COLOURS:
        name = f"\x1b[{_LEVEL_COLOURS[record.levelno]}m{name}\x1b[0m"
    return f"{name}:{padding}"


def status_text(status: int, colours: bool) -> str:
    """``200 OK``; an unknown status keeps Uvicorn's trailing space, so that columns split alike."""
    try:
        text = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        text = f"{status} "
    colour = _STATUS_COLOURS.get(status // 100)
    return f"\x1b[{colour}m{text}\x1b[0m" if colours and colour else text


# The server log


class ServerFormatter(logging.Formatter):
    """``INFO:     [worker 0, pid 7] message``: Uvicorn's shape, plus who speaks.

    ``raw``: for loggers that the app writes to. What it says is its own, and left alone.
    """

    def __init__(self, *, colours: bool, raw: bool = False) -> None:
        super().__init__("%(message)s")
        self._colours = colours
        self._raw = raw

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        # Whoever builds a message minds what is in it (printable); that nobody forgot is seen to here.
        text = record.message if self._raw else tracebacks.defused(record.message)
        return f"{level_prefix(record, self._colours)} {identity.text}{text}"

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return tracebacks.trimmed(ei[1])


class JsonFormatter(logging.Formatter):
    """One record, one JSON object (RFC 8259) on one line: of the server log, or of the access log.

    A log config can name it, for any logger: ``{"()": "shardserve.logging.JsonFormatter"}``.
    """

    def __init__(
        self, fmt: str | None = None, datefmt: str | None = None, style: str = "%", **_: object
    ) -> None:
        """The arguments are those of every formatter, for config files, and change nothing."""
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {"ts": timestamp(record.created), "type": "server"}
        fields |= {"level": record.levelname.lower(), "logger": record.name}
        fields |= {"pid": record.process or os.getpid(), "worker": identity.slot}
        arguments = access_arguments(record)
        if arguments is None:
            fields["message"] = record.getMessage()
            fields |= self._trouble(record)
        else:
            client, method, target, http_version, status = arguments
            fields["type"] = "access"
            fields |= {"client": client or None, "method": method, "target": target}
            fields |= {"http_version": http_version, "status": int(status)}
        return json_text(fields)

    def _trouble(self, record: logging.LogRecord) -> dict[str, str]:
        found = {}
        if record.exc_text:
            found["exception"] = record.exc_text
        elif record.exc_info and record.exc_info[1] is not None:
            found["exception"] = tracebacks.trimmed(record.exc_info[1])
        if record.stack_info:
            found["stack"] = record.stack_info
        return found


def json_text(value: Any) -> str:
    """JSON in ASCII without a control character, also where its text holds lone surrogates.

    RFC 8259 §8.2: what a reader makes of those is open, so they become text (``\\udc80``, six characters).
    """
    try:
        text = json.dumps(value, separators=(",", ":"), default=str)
        if "\\ud" in text:
            text = json.dumps(_encodable(value), separators=(",", ":"), default=str)
    except Exception:  # str() of something that an app logs
        text = json.dumps({key: str(type(one)) for key, one in value.items()}, separators=(",", ":"))
    return text.replace("\x7f", "\\u007f")


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encodable(one) for key, one in value.items()}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


_second: tuple[int, str] = (0, "")


def timestamp(created: float) -> str:
    """RFC 3339 §5.6 in UTC, with milliseconds: ``2026-11-23T13:58:38.123Z``."""
    global _second
    milliseconds = int(created * 1000)
    second, rest = divmod(milliseconds, 1000)
    if _second[0] != second:
        _second = (second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)))
    return f"{_second[1]}{rest:03d}Z"


# What existing log configs name


class ColourizedFormatter(logging.Formatter):
    """A format string that has ``%(levelprefix)s`` besides what every record has.

    A record's ``color_message``, if it has one, replaces its message in colour.
    """

    _stream_name = "stdout"

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
        *,
        defaults: dict[str, Any] | None = None,
    ) -> None:
        """``use_colors`` None: if the stream is a terminal and NO_COLOR is not set."""
        super().__init__(fmt, datefmt, style, defaults=defaults)
        self.use_colors = wants_colours(getattr(sys, self._stream_name), use_colors)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        shown = copy(record)
        self.add_fields(shown)
        return super().formatMessage(shown)

    def add_fields(self, record: logging.LogRecord) -> None:
        """Add the fields that this formatter knows to ``record``, which is a copy."""
        if self.use_colors and "color_message" in record.__dict__:
            record.msg = record.__dict__["color_message"]
            record.message = record.getMessage()
        record.__dict__["levelprefix"] = level_prefix(record, self.use_colors)


class DefaultFormatter(ColourizedFormatter):
    """For the server log: ``%(levelprefix)s %(message)s``."""

    _stream_name = "stderr"


class AccessFormatter(ColourizedFormatter):
    """For the access log: ``%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s``.

    A record whose arguments are not those of a response is formatted with empty fields and its message as
    the request line: an app may write to that logger too.
    """

    def add_fields(self, record: logging.LogRecord) -> None:
        super().add_fields(record)
        arguments = access_arguments(record)
        if arguments is None:
            client, line, outcome = "", record.message, ""
        else:
            client, method, target, http_version, status = arguments
            line, outcome = request_line(method, target, http_version), status_text(status, self.use_colors)
            if method == WEBSOCKET:
                accepted = status == SWITCHING_PROTOCOLS or (status == 200 and http_version == "2")
                outcome = "[accepted]" if accepted else str(status)
            elif self.use_colors:
                line = f"\x1b[1m{line}\x1b[0m"
        record.__dict__.update(client_addr=client, request_line=line, status_code=outcome)


def request_line(method: str, target: str, http_version: str) -> str:
    """``GET /path HTTP/1.1``; a WebSocket handshake is shown without the version."""
    return f"{method} {target}" if method == WEBSOCKET else f"{method} {target} HTTP/{http_version}"


def access_arguments(record: logging.LogRecord) -> tuple[str, str, str, str, int] | None:
    """Client, method, target, HTTP version and status, if that is what the record is about."""
    arguments = record.args
    if not isinstance(arguments, tuple) or len(arguments) != 5 or not record.name.endswith(".access"):
        return None
    client, method, target, http_version, status = arguments
    if not isinstance(status, int):
        return None
    return str(client), str(method), str(target), str(http_version), status
