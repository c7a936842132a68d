"""One TCP address and the SO_REUSEPORT sockets on it: proven free, then one for each slot.

Rules of this file: TCP sockets are made, bound and set listening here; whose they are and when they
are closed is ``listeners.py``'s.

SO_REUSEPORT lets a second server of the same user bind a port *silently*. So the first socket on an
address is bound and set listening **without** it, and gets the option afterwards:

- the kernel lets no two sockets without it listen on one address, and decides that at listen(2)
  under a lock of its own. Of any number of servers that start in the same instant, one gets through;
- from then on, a bind without the option is refused, and every server here begins with such a one.

IPv6 sockets are always IPV6_V6ONLY, whatever the sysctl says (nginx does the same): ``[::]`` is IPv6,
an empty host (``:8000``) is both families.
"""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config.addresses import TcpBind
from ..errors import ListenError
from .refusals import named, refusal, tcp_owner, tcp_url

_PORT_PICKS = 16  # tries to find one free port for all addresses of a name

# The kernel marks a socket as listening before it looks for others that do, so two that call
# listen(2) at the same time can refuse each other. Then both try again, not at the same time.
_LISTEN_TRIES = 8
_LISTEN_PAUSE_S = 0.01  # at most

# A family this machine lacks or an address it does not have: no reason to fail as long as the same
# name has another one (``localhost`` is ::1 too, on hosts where IPv6 is off).
_NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}

Found = tuple[socket.AddressFamily, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Group:
    """One resolved address of a TcpBind and its sockets. The port is never 0 here.

    ``members``: slot → socket, in the order in which they began to listen. That is their order in the
    kernel's reuseport group, too, as long as none is closed: a balance program counts on it.
    """

    bind: str
    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]
    url: str
    members: dict[int, socket.socket]

    @property
    def is_wildcard(self) -> bool:
        return self.sockaddr[0] in ("0.0.0.0", "::")

    def covers(self, other: Group) -> bool:
        """Whether whoever has this address alone has the other one, too."""
        return self.is_wildcard and (self.family, self.sockaddr[1]) == (other.family, other.sockaddr[1])

    def start(self, backlog: int, *, covered: bool) -> None:
        """Let the first socket listen, alone. Raises ListenError if another server was faster.

        ``covered``: by one of ours that has been started, so that it joins that one, and is alone with it.
        """
        (first,) = self.members.values()
        if covered:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for left in reversed(range(_LISTEN_TRIES)):
            try:
                first.listen(backlog)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not left:
                    raise refusal(self.bind, error, owner=partial(tcp_owner, self.sockaddr)) from error
                time.sleep(random.uniform(0, _LISTEN_PAUSE_S))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def joined(self, backlog: int) -> socket.socket:
        """One more listening socket on the address; not among the members yet."""
        with named(self.url), ExitStack() as undo:
            sock = undo.enter_context(_tcp_socket(self.family))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(self.sockaddr)
            sock.listen(backlog)
            undo.pop_all()
            return sock

    def close(self) -> None:
        for sock in self.members.values():
            sock.close()
        self.members.clear()


def resolve(bind: TcpBind) -> list[Found]:
    """Every address of the host, in the resolver's order, without repeats."""
    try:
        found = socket.getaddrinfo(
            bind.host or None, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ListenError(f"cannot listen on {bind}: {bind.host!r} does not resolve: {reason}") from error
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def claim(bind: TcpBind, resolved: Sequence[Found], have: Collection[str]) -> list[Group]:
    """A group for each resolved address of the bind whose url is not in ``have``.

    Slot 0's socket of each is bound, and found free of others that listen; ``start`` it next.
    """
    found = [one for one in resolved if tcp_url(one[1]) not in have]
    for _ in range(_PORT_PICKS if bind.port == 0 else 1):
        with ExitStack() as undo:
            groups = _bind_all(bind, found, undo, may_be_none=len(found) < len(resolved))
            if groups is not None:
                undo.pop_all()
                return groups
    raise ListenError(f"cannot listen on {bind}: found no port that is free on all its addresses")


def _bind_all(bind: TcpBind, found: list[Found], undo: ExitStack, *, may_be_none: bool) -> list[Group] | None:
    """Bind all to one port. None: port 0, and the kernel's pick for the first is taken on another."""
    groups: list[Group] = []
    skipped: OSError | None = None
    port = bind.port
    for family, sockaddr in found:
        target = (sockaddr[0], port, *sockaddr[2:])
        try:
            sock = undo.enter_context(_tcp_socket(family))
            sock.bind(target)
        except OSError as error:
            if error.errno in _NOT_HERE:
                skipped = error
                continue
            if error.errno == errno.EADDRINUSE and port != bind.port:
                return None
            raise refusal(str(bind), error, owner=partial(tcp_owner, target)) from error
        name = sock.getsockname()
        port = name[1]
        groups.append(Group(str(bind), family, name, tcp_url(name), {0: sock}))
    if skipped is not None and not groups and not may_be_none:
        raise refusal(str(bind), skipped) from skipped
    return groups


def _tcp_socket(family: socket.AddressFamily) -> socket.socket:
    """A fresh socket, so set up that connections in TIME_WAIT do not stand in the way of a restart."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock
