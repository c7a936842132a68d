"""Lines to syslog, one message a line: over a Unix socket of this host, or as UDP datagrams.

Rules of this file: the event loop never waits for it. What cannot be sent at once is kept, up to
``BACKLOG_BYTES``, and goes out when there is room; more than that is lost, and counted. A syslog that is not
there, or goes, is looked for once a second. Messages have the form of RFC 3164, which every syslog takes:

    <190>Nov 23 17:15:47 HOST shardserve[71]: the line     without HOST on a Unix socket, as of syslog(3)
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

# RFC 3164 §4.1.1: facility × 8 + severity. local7 and informational, which is nginx's choice too.
PRIORITY = 23 * 8 + 6
TAG = "shardserve"
BACKLOG_BYTES = 1024 * 1024
RETRY_S = 1.0
# What the end of a worker may wait for the rest of its lines.
CLOSE_S = 1.0
# RFC 3164 §4.1.2: these names, whatever the locale is.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FULL = (errno.EAGAIN, errno.ENOBUFS)

Place = str | tuple[str, int]

log = logging.getLogger("shardserve.worker")


class Syslog:
    """Where lines go. ``write`` takes any number of whole lines."""

    def __init__(
        self, place: Place, *, loop: asyncio.AbstractEventLoop, now: Callable[[], float] = time.time
    ) -> None:
        """``place``: the path of a Unix socket, or host and port."""
        self.name = f"syslog at {place if isinstance(place, str) else f'{place[0]}, port {place[1]}'}"
        self.lost = 0  # lines
        self._place = place
        self._loop = loop
        self._now = now
        host = "" if isinstance(place, str) else f"{socket.gethostname().partition('.')[0] or '-'} "
        self._from = f"{host}{TAG}[{os.getpid()}]: ".encode("ascii", "replace")
        self._messages: deque[bytes] = deque()
        self._bytes = 0  # of all of them
        self._sent = 0  # of the first of them
        self._socket: socket.socket | None = None
        self._end = b""  # of each message
        self._retry_at = float("-inf")
        self._resolving: asyncio.Task[None] | None = None
        self._waiting = False  # for room
        self._trouble = ""
        self._connect()

    def write(self, lines: bytes) -> None:
        """Send them, keep them for later, or count them as lost."""
        self._connect()
        header = self._header()
        for line in lines.removesuffix(b"\n").split(b"\n"):
            if self._bytes + len(header) + len(line) > BACKLOG_BYTES:
                self.lost += 1
                continue
            self._messages.append(header + line)
            self._bytes += len(header) + len(line)
        if not self._waiting:
            self._send()

    def flush(self) -> None:
        """Call it once a second: looks again for a syslog that was not there."""
        self._connect()
        if not self._waiting:
            self._send()

    def reopen(self) -> None:
        """Connect anew."""
        self._disconnect()
        self._retry_at = float("-inf")
        self.flush()

    def close(self) -> None:
        """Send what is left, for which this may wait ``CLOSE_S``. It can be used again."""
        self.flush()
        until = time.monotonic() + CLOSE_S
        while self._messages and self._socket is not None and (left := until - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            if poll.poll(left * 1000):
                self._send()
        self.lost += len(self._messages)
        self._messages.clear()
        self._bytes = 0
        self._disconnect()

    def _header(self) -> bytes:
        now = time.localtime(self._now())
        date = f"<{PRIORITY}>{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}"
        return f"{date}:{now.tm_sec:02d} ".encode() + self._from

    # Sending

    def _send(self) -> None:
        """What can be sent now."""
        refused = False
        while self._messages and self._socket is not None:
            message = self._messages[0] + self._end
            try:
                self._sent += self._socket.send(message[self._sent :])
            except OSError as error:
                if error.errno in _FULL:
                    self._wait()
                    return
                if error.errno == errno.EMSGSIZE:
                    self.lost += 1
                    self._sent = len(message)
                elif isinstance(self._place, tuple) and not refused:
                    # Of the datagram before this one: nobody listened there, says ICMP. Once more.
                    refused = True
                    self.lost += 1
                    self._tell(error)
                else:
                    self._failed(error)
                    return
            if self._sent == len(message):
                self._bytes -= len(self._messages.popleft())
                self._sent = 0
        self._go_on()

    def _wait(self) -> None:
        if not self._waiting and self._socket is not None and not self._loop.is_closed():
            self._waiting = True
            self._loop.add_writer(self._socket, self._send)

    def _go_on(self) -> None:
        if self._waiting and self._socket is not None:
            self._waiting = False
            self._loop.remove_writer(self._socket)

    # Connecting

    def _connect(self) -> None:
        if self._socket is not None or self._resolving is not None or self._loop.time() < self._retry_at:
            return
        self._retry_at = self._loop.time() + RETRY_S
        if isinstance(self._place, str):
            self._connect_to_path(self._place)
            return
        host, port = self._place
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except OSError:  # a name
            self._resolving = self._loop.create_task(self._resolve(host, port), name="shardserve-syslog")
        else:
            self._connect_to_any(found)

    def _connect_to_path(self, path: str) -> None:
        for kind, end in ((socket.SOCK_DGRAM, b""), (socket.SOCK_STREAM, b"\0")):  # as syslog(3) ends one
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.setblocking(False)
            try:
                sock.connect(path)
            except OSError as error:
                sock.close()
                if error.errno != errno.EPROTOTYPE:
                    self._failed(error)
                    return
            else:
                self._connected(sock, end)
                return

    async def _resolve(self, host: str, port: int) -> None:
        """A thread looks the name up: that may take seconds."""
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            self._failed(error)
        else:
            self._connect_to_any(found)
            self._send()
        finally:
            self._resolving = None

    def _connect_to_any(self, found: Sequence[tuple[Any, ...]]) -> None:
        """The first that a route leads to."""
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                self._failed(error)
            else:
                self._connected(sock, b"")
                return

    def _connected(self, sock: socket.socket, end: bytes) -> None:
        self._socket, self._end = sock, end
        if self._trouble and isinstance(self._place, str):  # of UDP this says nothing
            log.info("The access log reaches %s again.", self.name)
            self._trouble = ""

    def _failed(self, error: OSError) -> None:
        self._tell(error)
        self._disconnect()

    def _tell(self, error: OSError) -> None:
        """Once for each kind of trouble, until it is over."""
        text = error.strerror or str(error)
        if text != self._trouble:
            self._trouble = text
            log.warning("The access log does not reach %s: %s. Trying again.", self.name, text)

    def _disconnect(self) -> None:
        sock, self._socket = self._socket, None
        self._sent = 0  # the half of a message that a stream has got ends with it
        if sock is None:
            return
        if self._waiting:
            self._waiting = False
            with suppress(RuntimeError):  # the loop is closed
                self._loop.remove_writer(sock)
        sock.close()
