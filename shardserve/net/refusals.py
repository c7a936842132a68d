"""Why an address cannot be had, in words people can act on; and how an address is written.

Rules of this file: it makes ListenErrors and looks up who has an address (psutil), and changes
nothing. No socket is opened here.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from ..errors import ListenError


@contextmanager
def named(address: str) -> Iterator[None]:
    """Turn an OSError into a ListenError that names the address."""
    try:
        yield
    except OSError as error:
        raise refusal(address, error) from error


def refusal(
    address: str, error: OSError | None, *, owner: Callable[[], str | None] | None = None
) -> ListenError:
    code = error.errno if error is not None else None
    reason = (error.strerror or str(error)) if error is not None else "it has no address"
    text = f"cannot listen on {address}: {reason}"
    if code == errno.EADDRINUSE:
        text = f"cannot listen on {address}: the address is in use"
        by = owner() if owner is not None else None
        text += f" by {by}" if by else " (by which process is not visible to this user)"
    elif code == errno.EACCES and not address.startswith("unix:"):
        text += "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
    elif code == errno.EADDRNOTAVAIL:
        text += "; no interface of this host has that address"
    elif code in (errno.EBADF, errno.ENOTSOCK):
        text += "; no open socket was inherited under that number"
    return ListenError(text)


# Who has it


def tcp_owner(sockaddr: tuple[Any, ...]) -> str | None:
    """``pid 7 (nginx: master)`` of whoever listens on an address that overlaps this one."""
    anywhere = {"0.0.0.0", "::"}

    def overlaps(entry: Any) -> bool:
        if entry.status != psutil.CONN_LISTEN or entry.laddr.port != sockaddr[1]:
            return False
        return entry.laddr.ip == sockaddr[0] or bool(anywhere & {entry.laddr.ip, sockaddr[0]})

    return _owner("tcp", overlaps)


def unix_owner(path: str) -> str | None:
    names = {path, os.path.abspath(path)}
    return _owner("unix", lambda entry: entry.laddr in names)


def _owner(kind: str, is_it: Callable[[Any], bool]) -> str | None:
    """The process with such a socket; of a master and its workers, the master. Best effort."""
    try:
        pids = (c.pid for c in psutil.net_connections(kind=kind) if c.pid is not None and is_it(c))
        pid = next(pids, None)
        if pid is None:
            return None
        owner = psutil.Process(pid)
        with suppress(psutil.Error):  # a parent of another user may not be looked into
            while (parent := owner.parent()) and any(map(is_it, parent.net_connections(kind=kind))):
                owner = parent
        command = " ".join(owner.cmdline()) or owner.name()
        return f"pid {owner.pid} ({command[:120]})"
    except (psutil.Error, OSError):
        return None


# How an address is written


def url_of(sock: socket.socket) -> str:
    """What a socket is bound to, for people."""
    name = sock.getsockname()
    return f"unix:{_text(name)}" if sock.family == socket.AF_UNIX else tcp_url(name)


def tcp_url(sockaddr: tuple[Any, ...]) -> str:
    host, port = sockaddr[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _text(name: str | bytes) -> str:
    """A unix socket's name; the abstract ones start with a NUL, written @."""
    return os.fsdecode(name).replace("\0", "@")
