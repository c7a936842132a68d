"""Addresses, as text and as data: where to listen, and where syslog is.

    bind           host:port      127.0.0.1:8000, localhost:8000, [::1]:8000
                   :port          every interface
                   unix:/path     a Unix domain socket
                   fd://3         a socket this process inherited
    metrics        the first three of these, and a port alone, which is on 127.0.0.1
    syslog:        /dev/log; syslog:/path is another Unix socket, syslog:host and syslog:host:port UDP

Rules of this file: text in, frozen dataclasses out, ValueError for what is neither. No socket is
opened and no name is resolved here; that is ``net/``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

HIGHEST_PORT = 65535
# sockaddr_un.sun_path is 108 bytes on Linux, the last of them a NUL (unix(7)).
LONGEST_UNIX_PATH_BYTES = 107

# Where the syslog of this host listens (syslog(3)), and the port of one elsewhere (RFC 5426 §3.3).
SYSLOG_PATH = "/dev/log"
SYSLOG_PORT = 514

_SYSLOG = re.compile(r"(?P<host>\[[^\[\]\s]+\]|[^:\[\]\s/]+)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_SYSLOG_FORMS = 'write "syslog:", "syslog:/path", "syslog:host", "syslog:host:514" or "syslog:[::1]:514"'

_FORMS = 'write "host:port", "[::1]:8000", ":8000", "unix:/path" or "fd://3"'


@dataclass(frozen=True, slots=True)
class TcpBind:
    """``host`` is without brackets; an empty one means every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixBind:
    path: str
    mode: int

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class FdBind:
    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


Bind = TcpBind | UnixBind | FdBind


def parse_bind(text: str, *, uds_mode: int = 0o666) -> Bind:
    """One entry of ``bind``. Raises ValueError saying what is wrong with it."""
    if text.startswith("unix:"):
        return UnixBind(_unix_path(text.removeprefix("unix:")), uds_mode)
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not re.fullmatch(r"[0-9]{1,9}", number):
            raise ValueError(f'"{text}" names no file descriptor: {_FORMS}')
        return FdBind(int(number))
    host, colon, port = text.rpartition(":")
    if not colon or "/" in text:
        raise ValueError(f'"{text}" is not an address: {_FORMS}')
    return TcpBind(_host(host, text), _port(port, text))


def parse_metrics(text: str) -> TcpBind | UnixBind:
    """Where metrics are served. Raises ValueError saying what is wrong with it."""
    forms = 'write "9100", "127.0.0.1:9100", "[::1]:9100", ":9100" or "unix:/path"'
    if re.fullmatch(r"[0-9]{1,5}", text) and 0 <= int(text) <= HIGHEST_PORT:
        return TcpBind("127.0.0.1", int(text))
    try:
        found = parse_bind(text)
    except ValueError as error:
        raise ValueError(str(error).replace(_FORMS, forms)) from None
    if isinstance(found, FdBind):
        raise ValueError(f'"{text}" cannot have metrics: {forms}')
    return found


def parse_syslog(text: str) -> str | tuple[str, int]:
    """A target that begins with ``syslog:``: the path of a Unix socket, or host and port for UDP. Raises
    ValueError saying what is wrong with it.
    """
    where = text.removeprefix("syslog:")
    if not where:
        return SYSLOG_PATH
    if where.startswith("/"):
        return check_unix_path(where)
    found = _SYSLOG.fullmatch(where)
    if found is None:
        raise ValueError(f'"{text}" is no place of syslog: {_SYSLOG_FORMS}')
    port = int(found["port"] or SYSLOG_PORT)
    if not 0 < port <= HIGHEST_PORT:
        raise ValueError(
            f'"{text}" has no port from 1 to {HIGHEST_PORT} after its last colon: {_SYSLOG_FORMS}'
        )
    return found["host"].strip("[]"), port


def check_unix_path(path: str) -> str:
    """The path, if a Unix socket can have it. Raises ValueError if not."""
    if not path:
        raise ValueError("a Unix socket needs a path")
    size = len(os.fsencode(path))
    if size > LONGEST_UNIX_PATH_BYTES:
        raise ValueError(f"a Unix socket path is at most {LONGEST_UNIX_PATH_BYTES} bytes, this one is {size}")
    return path


def _unix_path(path: str) -> str:
    # unix:///run/x.sock is how a URL says it, and one slash of it is the path's own.
    return check_unix_path(path.removeprefix("//") if path.startswith("///") else path)


def _host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]") and len(host) > 2:
        return host[1:-1]
    if ":" in host:
        raise ValueError(f'"{text}" is ambiguous: an IPv6 address goes in brackets, "[::1]:8000"')
    if re.search(r"[\s\[\],]", host):
        raise ValueError(f'"{text}" is not an address: {_FORMS}')
    return host


def _port(port: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > HIGHEST_PORT:
        raise ValueError(f'"{text}" has no port from 0 to {HIGHEST_PORT} after its last colon: {_FORMS}')
    return int(port)
