"""Which listening sockets this worker accepts on: its own, and those adopted for other slots.

Rules of this file: the sockets belong to the master, which has its own descriptors of them. Closing
ours stops this worker's accepting and nothing else: a connection in the queue waits for whoever
accepts next. So nothing here may shut a socket down, unlink a path or change the backlog.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

ProtocolMaker = Callable[[], asyncio.BaseProtocol]

# From Python 3.13 on the default is to unlink the path at close, which the master and the other
# workers still serve. uvloop takes the argument on every version, the standard library's stub only there.
_KEEP_PATH: dict[str, Any] = {"cleanup_socket": False}


class Listening:
    """The open asyncio servers, by the slot whose sockets they accept on."""

    def __init__(self, make_protocol: ProtocolMaker, *, backlog: int) -> None:
        self._make_protocol = make_protocol
        self._backlog = backlog
        self._servers: dict[int, list[tuple[asyncio.AbstractServer, socket.socket]]] = {}

    @property
    def slots(self) -> list[int]:
        return list(self._servers)

    async def accept_on(self, sock: socket.socket, *, slot: int) -> None:
        """Accept on ``sock``, which is closed with ``close``. Raises OSError."""
        loop = asyncio.get_running_loop()
        # listen() again with another number would change the master's backlog: pass the same one.
        try:
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, "not a listening socket")
            if sock.family == socket.AF_UNIX:
                server = await loop.create_unix_server(
                    self._make_protocol, sock=sock, backlog=self._backlog, **_KEEP_PATH
                )
            else:
                server = await loop.create_server(self._make_protocol, sock=sock, backlog=self._backlog)
        except BaseException:
            sock.close()
            raise
        self._servers.setdefault(slot, []).append((server, sock))

    def close(self, slot: int) -> bool:
        """Stop accepting for ``slot``. Whether there was anything to stop."""
        servers = self._servers.pop(slot, [])
        for server, _ in servers:
            server.close()
        return bool(servers)

    async def accept_queued(self) -> int:
        """Accept what waits in the queues now: at a stop nobody comes after us who would.

        Returns how many connections that were. The kernel goes on queueing until the last
        descriptor is closed, so ``close_all`` should follow at once.
        """
        loop = asyncio.get_running_loop()
        accepted = 0
        for _, sock in [pair for pairs in self._servers.values() for pair in pairs]:
            for _ in range(self._backlog):
                try:
                    connection, _ = sock.accept()
                except OSError:  # EAGAIN: none left; EMFILE and the like: no more can be had
                    break
                connection.setblocking(False)
                await loop.connect_accepted_socket(self._make_protocol, connection)
                accepted += 1
        return accepted

    def close_all(self) -> None:
        for slot in self.slots:
            self.close(slot)
