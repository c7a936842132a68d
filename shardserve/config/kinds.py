"""Kinds of value that one setting has, or two: certificates by name, routes, secrets, logs, metrics.

Rules of this file: those of ``values.py``, whose vocabulary it extends; a kind without a parameter is no
dataclass, which costs every start of a worker. No file is opened here that a
setting names; a file object that the Python API was given is read, because it can be read only once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import access_format
from .addresses import parse_metrics, parse_syslog
from .values import FRAMING_HEADERS, TOKEN, Choice, FilePath, ImportString, Kind, Text, quote

# RFC 6066 §3: "HostName" is ASCII, without a trailing dot; RFC 1035 §2.3.4: 63 octets for a label.
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(\*\.)?[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*", re.ASCII
)
# The one key of the JSON form of a ConfigParser. A dictConfig has "version", so it is never taken for one.
_INI = "ini"


@dataclass(frozen=True)
class ChoiceOrImport(Choice):
    """One of some words, or the import string of a class that somebody wrote instead."""

    @property
    def phrase(self) -> str:  # type: ignore[override]
        return f"{super().phrase}, or an import string"

    def check(self, value: object) -> str:
        if isinstance(value, str) and ":" in value:
            return ImportString().check(value)
        return super().check(value)


class Secret(Kind):
    """Text that is never shown: not by ``to_text``, and not in what is said of a wrong one."""

    metavar = "TEXT"
    phrase = "text; it is not shown"

    def check(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"the value is {type(value).__name__}, not text")
        if "\0" in value:
            raise ValueError("the value has a NUL character")
        return value

    def to_text(self, value: Any) -> str:
        return "(given, not shown)"


class TrustedPeers(Kind):
    """Uvicorn's list: text with commas, a list in Python and in a file."""

    metavar = "ADDRESSES"
    phrase = 'addresses and networks with commas between them, "unix", or "*"'

    def check(self, value: object) -> str:
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            value = ",".join(value)
        return Text(phrase=self.phrase).check(value)


# What Forwarded says, too: a proxy that sets the one passes the client's other one through.
_SAME_AS_FORWARDED = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port")
_FORWARDED_FIELDS = (*_SAME_AS_FORWARDED, "x-forwarded-prefix", "forwarded")


class ForwardedFields(TrustedPeers):
    """Names of fields that say on whose behalf a proxy comes (``asgi/forwarded.py``)."""

    metavar = "FIELDS"
    phrase = f"a list of {', '.join(_FORWARDED_FIELDS)}, with commas between them"

    def check(self, value: object) -> str:
        names = [name.strip().lower() for name in super().check(value).split(",")]
        if not set(names) <= set(_FORWARDED_FIELDS):
            raise self._wrong(value)
        same = [name for name in _SAME_AS_FORWARDED if name in names]
        if "forwarded" in names and same:
            raise ValueError(
                f"{quote(value)} has forwarded and {same[0]}, which say the same: name the one that the "
                "proxy sets, because it may pass on the other one as the client sent it"
            )
        return ",".join(dict.fromkeys(names))


class StaticRoute(Kind):
    """``/route=directory`` as text, a (route, directory) pair in Python. A route has no trailing slash
    but for "/", which is everything.
    """

    metavar = "ROUTE=DIR"
    phrase = 'a route and a directory such as "/assets=public"'

    def check(self, value: object) -> tuple[str, str]:
        if isinstance(value, str):
            return self.from_text(value)
        match value:
            case [str() as route, str() | os.PathLike() as folder]:
                return self._pair(route, os.fspath(folder))
        raise self._wrong(value)

    def from_text(self, text: str) -> tuple[str, str]:
        route, equals, folder = text.partition("=")
        if not equals:
            raise self._wrong(text)
        return self._pair(route, folder)

    def to_json(self, value: Any) -> Any:
        return list(value)

    def to_text(self, value: Any) -> str:
        return f"{value[0]}={value[1]}"

    @staticmethod
    def _pair(route: str, folder: str) -> tuple[str, str]:
        route = Text().check(route)
        if not route.startswith("/"):
            raise ValueError(
                f'the route {quote(route)} does not begin with a slash; write "/{route}={folder}"'
            )
        if any(one in route for one in "?#%"):
            raise ValueError(f"the route {quote(route)} is a path as it is decoded, without ?, # or %")
        if any(part in ("", ".", "..") for part in route.strip("/").split("/")) and route.strip("/"):
            raise ValueError(f"the route {quote(route)} has an empty or a dotted segment; no request has it")
        if not folder:
            raise ValueError(f"the route {quote(route)} names no directory")
        return route.rstrip("/") or "/", FilePath().check(folder)


class SniEntry(Kind):
    """``host=cert.pem`` or ``host=cert.pem:key.pem``; (host, certfile, keyfile or None) in Python."""

    metavar = "HOST=CERT[:KEY]"
    phrase = 'a host name and its files such as "example.org=cert.pem:key.pem"'

    def check(self, value: object) -> tuple[str, str, str | None]:
        if isinstance(value, str):
            return self.from_text(value)
        match value:
            case [str() as host, str() | os.PathLike() as cert]:
                return self._entry(host, os.fspath(cert), None)
            case [str() as host, str() | os.PathLike() as cert, str() | os.PathLike() | None as key]:
                return self._entry(host, os.fspath(cert), None if key is None else os.fspath(key))
        raise self._wrong(value)

    def from_text(self, text: str) -> tuple[str, str, str | None]:
        host, equals, files = text.partition("=")
        cert, colon, key = files.partition(":")
        if not equals or (colon and not key):
            raise self._wrong(text)
        return self._entry(host, cert, key or None)

    def to_json(self, value: Any) -> Any:
        return list(value)

    def to_text(self, value: Any) -> str:
        host, cert, key = value
        return f"{host}={cert}" if key is None else f"{host}={cert}:{key}"

    @staticmethod
    def _entry(host: str, cert: str, key: str | None) -> tuple[str, str, str | None]:
        name = host.strip().lower()
        if not name.isascii():
            raise ValueError(f"{quote(host)} is not ASCII; write the host name as clients send it, xn--...")
        if not _HOST_NAME.fullmatch(name):
            raise ValueError(f"{quote(host)} is not a host name, nor one such as *.example.org (RFC 6066 §3)")
        if not cert:
            raise ValueError(f"{host} has no certificate file")
        return name, FilePath().check(cert), None if key is None else FilePath().check(key)


class LogConfig(Kind):
    """What Uvicorn takes: a path; from Python also a dict for ``logging.config.dictConfig``, a ConfigParser,
    or an open file in its format, which becomes one.
    """

    metavar = "PATH"
    phrase = "the path of a .ini, .json or .yaml file"

    def check(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            ini = value.get(_INI) if len(value) == 1 else None
            return _ini_of(ini) if isinstance(ini, str) else value
        if hasattr(value, "readline") and not isinstance(value, str):
            return _ini_of(value.read())
        text = FilePath(phrase=self.phrase).check(value)
        if not text:
            raise self._wrong(value)
        return text

    def from_file(self, value: object) -> Any:
        if not isinstance(value, str):
            raise self._wrong(value)
        return self.check(value)

    def to_json(self, value: Any) -> Any:
        """Raises ValueError for a dict with objects in it, which no other process can have."""
        if isinstance(value, str):
            return value
        if hasattr(value, "read_file"):  # a ConfigParser, without importing that here
            from io import StringIO

            text = StringIO()
            value.write(text)
            return {_INI: text.getvalue()}
        try:
            return json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            reason = f"it has an object in it that worker processes cannot be sent ({error})"
            raise ValueError(f"{reason}; name it by its import string, as ext://sys.stderr") from None

    def to_text(self, value: Any) -> str:
        return value if isinstance(value, str) else f"({type(value).__name__})"


class AccessFormat(Kind):
    """A preset's name, or a format string (``access_format.py``)."""

    metavar = f"[{'|'.join(access_format.PRESETS)}|FORMAT]"
    phrase = (
        f"one of {', '.join(access_format.PRESETS)}, or a format string such as '%(h)s \"%(r)s\" %(s)s %(D)s'"
    )

    def check(self, value: object) -> str:
        # A tab is a fine separator; any other control character is a mistake, and most of all a newline.
        if not isinstance(value, str) or any((ord(c) < 0x20 and c != "\t") or ord(c) == 0x7F for c in value):
            raise self._wrong(value)
        return access_format.check(value)


class LogTarget(Kind):
    """Where lines go: None for stdout, a path, or ``syslog:`` and where that is."""

    metavar = "PATH"
    phrase = 'a path, "-" for stdout, or "syslog:", "syslog:/path", "syslog:host:port"'

    def check(self, value: object) -> str | None:
        text = FilePath(phrase=self.phrase).check(value)
        if not text:
            raise self._wrong(value)
        if text.startswith("syslog:"):
            parse_syslog(text)
        return None if text == "-" else text


class Glob(Kind):
    """A pattern of raw paths."""

    metavar = "GLOB"
    phrase = 'a pattern of paths such as "/health*"'

    def check(self, value: object) -> str:
        text = Text(phrase=self.phrase).check(value)
        # The path of a request begins with a slash (RFC 9112 §3.2.1), but for * itself (§3.2.4).
        if not text.startswith(("/", "*", "?")):
            raise ValueError(
                f"{quote(text)} matches no path; write {quote(f'/{text}')} or {quote(f'*{text}')}"
            )
        return text


class Share(Kind):
    """A part of a whole."""

    metavar = "SHARE"
    phrase = "a share from 0 to 1, such as 0.1"

    def check(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise self._wrong(value)  # nan is not in there either
        return float(value)

    def from_text(self, text: str) -> float:
        if not re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*", text, re.ASCII):
            raise self._wrong(text)
        return self.check(float(text))


_TAKEN_FIELDS = FRAMING_HEADERS | {"date", "host", "server", "te", "trailer", "traceparent", "upgrade"}


class FieldName(Kind):
    """The name of a header field that the server reads and writes."""

    metavar = "NAME"
    phrase = 'the name of a field such as "X-Request-ID" (RFC 9110 §5.6.2)'

    def check(self, value: object) -> str:
        if not isinstance(value, str) or not TOKEN.fullmatch(value):
            raise self._wrong(value)
        if value.lower() in _TAKEN_FIELDS:
            raise ValueError(f"{value} has a meaning of its own in HTTP; choose another name")
        return value


class MetricsAddress(Kind):
    """Stays text, in a form that ``addresses.parse_bind`` takes."""

    metavar = "ADDRESS"
    phrase = 'an address such as "9100", "127.0.0.1:9100", "[::1]:9100" or "unix:/path"'

    def check(self, value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return str(parse_metrics(Text(phrase=self.phrase).check(value)))


def _ini_of(text: str) -> Any:
    from configparser import ConfigParser, Error

    parser = ConfigParser()
    try:
        parser.read_string(text)
    except Error as error:
        raise ValueError(f"the file is not in the format of logging.config.fileConfig: {error}") from None
    return parser
