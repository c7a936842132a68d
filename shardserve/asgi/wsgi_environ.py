"""From an ASGI scope to a WSGI environ (PEP 3333, "environ Variables"; RFC 3875 §4.1).

Rules of this file: text is bytes in latin-1's clothes, as PEP 3333 has it; what the client sent is never
decoded and encoded again. A variable is made of exactly one field name: names with an underscore are left
out, because X_A and X-A would be one variable, and whoever filters the latter in front of us forgets the
former (``--underscore-headers allow`` lets them in). There is no HTTP_PROXY: programs that the app starts
would take it for their proxy (CVE-2016-5385).
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import unquote_to_bytes

from .._version import __version__
from ..types import Scope
from .wsgi_files import FileWrapper

Environ = dict[str, Any]

# How many field names are remembered: clients choose them, so there must be an end.
MOST_NAMES = 1024
# A field that is here is not HTTP_…; "" is left out.
SPECIAL_NAMES = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH", b"proxy": ""}
DEFAULT_PORTS = {"https": "443"}


class Environs:
    """Makes the environ of each request of one app."""

    def __init__(self, *, multithread: bool, underscores: bool) -> None:
        """``underscores``: whether names with an underscore are let in."""
        self._underscores = underscores
        self._names = dict(SPECIAL_NAMES)
        self._base: Environ = {
            "SERVER_SOFTWARE": f"shardserve/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
        }

    def make(self, scope: Scope) -> Environ:
        """The environ of an HTTP scope; ``wsgi.input`` is the caller's."""
        environ = self._base.copy()
        environ["shardserve.scope"] = scope
        environ["REQUEST_METHOD"] = scope["method"]
        environ["SERVER_PROTOCOL"] = f"HTTP/{scope['http_version']}"
        environ["wsgi.url_scheme"] = scope["scheme"]
        _add_path(environ, scope)
        self._add_fields(environ, scope["headers"])
        if "CONTENT_LENGTH" not in environ:
            # The end of the body is the end of wsgi.input. That is always so; but Werkzeug, where it knows a
            # length and is not told this, makes a quiet 400 of an upload that breaks off.
            environ["wsgi.input_terminated"] = True
        _add_addresses(environ, scope)
        return environ

    def _add_fields(self, environ: Environ, fields: list[tuple[bytes, bytes]]) -> None:
        names = self._names
        for name, raw in fields:
            variable = names.get(name)
            if variable is None:
                variable = self._variable(name)
            if not variable:
                continue
            value = raw.decode("latin-1")
            if variable not in environ:
                environ[variable] = value
            elif variable == "HTTP_COOKIE":
                environ[variable] += "; " + value  # RFC 6265 §5.4
            elif variable != "CONTENT_LENGTH":  # the server has seen that they say the same
                environ[variable] += "," + value

    def _variable(self, name: bytes) -> str:
        if b"_" in name and not self._underscores:
            variable = ""
        else:
            variable = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        if variable in ("HTTP_PROXY", "HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
            variable = ""
        if len(self._names) < MOST_NAMES:
            self._names[name] = variable
        return variable


def _add_path(environ: Environ, scope: Scope) -> None:
    """SCRIPT_NAME and PATH_INFO: what the path of the scope begins with, and the rest of it."""
    query = scope["query_string"].decode("latin-1")
    raw = scope.get("raw_path")
    if raw is None:
        path = scope["path"].encode()
        target = path.decode("latin-1")
    else:
        path = unquote_to_bytes(raw) if b"%" in raw else raw
        target = raw.decode("latin-1")
    prefix = scope.get("root_path", "")
    if prefix:
        root = prefix.encode()
        environ["SCRIPT_NAME"] = root.decode("latin-1")
        if path.startswith(root):
            path = path[len(root) :]
    else:
        environ["SCRIPT_NAME"] = ""
    environ["PATH_INFO"] = path.decode("latin-1")
    environ["QUERY_STRING"] = query
    environ["RAW_URI"] = environ["REQUEST_URI"] = f"{target}?{query}" if query else target


def _add_addresses(environ: Environ, scope: Scope) -> None:
    """REMOTE_*, and SERVER_*, which "can never be empty strings" (PEP 3333): on a unix socket, those that
    the client has asked for."""
    client, server = scope.get("client"), scope.get("server")
    environ["REMOTE_ADDR"] = client[0] if client else ""
    if client:
        environ["REMOTE_PORT"] = str(client[1])
    if server and server[1] is not None:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
        return
    host, port = _split(environ.get("HTTP_HOST", ""))
    environ["SERVER_NAME"] = host or "localhost"
    environ["SERVER_PORT"] = port or DEFAULT_PORTS.get(scope["scheme"], "80")


def _split(host: str) -> tuple[str, str]:
    """Host and port of a Host field, which may be an IPv6 address in brackets (RFC 3986 §3.2.2)."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host, ""
    return name, port
