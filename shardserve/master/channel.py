"""The master's end of one worker's control pipe.

Rules of this file: nothing blocks. What does not fit into the pipe waits in ``_unsent`` and is tried
again when the loop says that there is room; since when that is so is ``stuck_since``, and what to do
about it is the supervisor's. A message's meaning is not known here. Bytes come from and go to
``control.py``.

The worker's death shows as end of file here, or as ECONNRESET when it died with messages of ours
unread. Either way the reaping says how it died, so this file only says *that* it is over.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Sequence
from select import POLLIN, POLLOUT
from typing import Protocol

from .. import control
from ..errors import ControlError

log = logging.getLogger("shardserve.master")


class HasFileno(Protocol):
    """A socket, or a page: -1 once it is closed."""

    def fileno(self) -> int: ...


class Channel:
    """Messages to and from one worker, each with the descriptors that travel beside it."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        """Takes the socket over. ``name`` is whom the log lines are about."""
        sock.setblocking(False)
        self._sock = sock
        self.name = name
        self._unsent: deque[tuple[control.Message, Sequence[HasFileno]]] = deque()
        self.stuck_since: float | None = None
        self.open = True

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_to_send(self) -> bool:
        return self.open and bool(self._unsent)

    def watched(self) -> list[tuple[int, int]]:
        """What to poll it for: messages, and room if something is unsent. Nothing once it is over."""
        if not self.open:
            return []
        return [(self.fileno(), POLLIN | (POLLOUT if self.wants_to_send else 0))]

    def send(
        self,
        message: control.Message,
        now: float,
        sockets: Sequence[HasFileno] = (),
        *,
        last: bool = False,
    ) -> None:
        """Send now, or as soon as there is room. ``last``: what is still unsent has no point any more."""
        if last:
            self._unsent.clear()
        self._unsent.append((message, sockets))
        self.flush(now)

    def flush(self, now: float) -> None:
        """Send what fits."""
        while self.wants_to_send:
            message, sockets = self._unsent[0]
            # A listener that was closed meanwhile (the server stops) is not there to be passed on.
            descriptors = [sock.fileno() for sock in sockets if sock.fileno() != -1]
            try:
                socket.send_fds(self._sock, [control.encode(message)], descriptors)
            except BlockingIOError:
                if self.stuck_since is None:
                    self.stuck_since = now
                    log.warning("%s does not read its control pipe: it is unresponsive", self.name)
                return
            except OSError as error:
                log.debug("%s: cannot send %s: %s", self.name, message.type, error)
                self._unsent.clear()  # it is dying
            else:
                self._unsent.popleft()
        self.stuck_since = None

    def receive(self) -> list[control.Message]:
        """Every message there is. ``open`` is false afterwards if there will be no more."""
        found: list[control.Message] = []
        while self.open:
            try:
                data = self._sock.recv(control.MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.open = False
                self._unsent.clear()
                break
            try:
                found.append(control.decode(data))
            except ControlError as error:
                log.error("%s: ignored: %s", self.name, error)
        return found

    def close(self) -> None:
        self.open = False
        self._unsent.clear()
        self._sock.close()
