"""Sockets that another process opened: one by number (``fd://3``), or all of an old master's.

Rules of this file: what is said of a descriptor is checked with the kernel, never assumed. What is
refused stays its owner's. Nothing is bound here.

An upgrade hands every listening socket to a new master, by number, described by ``Inherited``. Both
then hold the same sockets: the queues live on when the old one closes its copies.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any

from ..config.addresses import FdBind
from ..errors import ListenError
from .refusals import named, url_of

log = logging.getLogger("shardserve.master")


@dataclass(frozen=True, slots=True)
class Inherited:
    """One socket that is handed over.

    In a list of them, those of one url are in the order in which they began to listen: it is the
    order of the kernel's reuseport group, which nothing can ask for.
    """

    bind: str  # str() of the Bind that it was made for
    url: str
    slot: int | None  # None: shared by all slots
    fd: int
    file: tuple[str, int, int] | None = None  # of a unix socket that we made: path, device, inode

    def to_plain(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: object) -> Inherited:
        """What ``to_plain`` made, checked. Raises ListenError."""
        match data:
            case {
                "bind": str(bind),
                "url": str(url),
                "slot": int() | None as slot,
                "fd": int(fd),
                "file": [str(), int(), int()] | None as file,
            }:
                return cls(bind, url, slot, fd, tuple(file) if file is not None else None)
        raise ListenError(f"cannot take a listening socket over: it is not described as one: {data!r}")

    def take(self) -> socket.socket:
        """The socket. Raises ListenError unless it is open, listening, and the one described."""
        name = f"{self.bind}, handed over as descriptor {self.fd}"
        with named(name):
            sock = socket.socket(fileno=self.fd)
        with ExitStack() as undo:
            undo.callback(sock.detach)
            if sock.type != socket.SOCK_STREAM or not _is_listening(sock):
                raise ListenError(f"cannot listen on {name}: it is not a listening stream socket")
            if url_of(sock) != self.url:
                raise ListenError(f"cannot listen on {name}: it is {url_of(sock)}, not {self.url}")
            os.set_inheritable(self.fd, False)
            undo.pop_all()
        return sock


class Offer:
    """What an old master hands over, until somebody takes it."""

    def __init__(self, entries: Iterable[Inherited]) -> None:
        self._left = list(entries)
        self.given: set[str] = set()  # binds that have what was made for them

    def pick(self, *, bind: str | None = None, url: str | None = None) -> list[Inherited]:
        """Those made for this bind, or those at this address; they are not on offer any more."""
        picked = [entry for entry in self._left if bind == entry.bind or url == entry.url]
        self._left = [entry for entry in self._left if entry not in picked]
        if bind is not None and picked:
            self.given.add(bind)
        return picked

    def close_rest(self) -> None:
        """Close what nobody wanted; the old master has its own copies still."""
        for entry in self._left:
            log.debug("%s is not listened on any more: closing descriptor %d", entry.url, entry.fd)
            with suppress(ListenError):
                entry.take().close()
        self._left.clear()


def take_fd(bind: FdBind, backlog: int) -> socket.socket:
    """Take over a descriptor that somebody opened for us, and let it listen. Raises ListenError."""
    with named(str(bind)):
        sock = socket.socket(fileno=bind.fd)
    with ExitStack() as undo:
        undo.callback(sock.detach)  # what we refuse stays its owner's
        if sock.type != socket.SOCK_STREAM:
            raise ListenError(f"cannot listen on {bind}: it is not a stream socket")
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise ListenError(f"cannot listen on {bind}: its address family ({sock.family}) is not served")
        if not _is_listening(sock):
            name = sock.getsockname()
            if not (name if sock.family == socket.AF_UNIX else name[1]):
                raise ListenError(f"cannot listen on {bind}: the socket is not bound to an address")
            with named(str(bind)):  # a connected socket fails here: EINVAL
                sock.listen(backlog)
        os.set_inheritable(bind.fd, False)
        undo.pop_all()
    return sock


def _is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
