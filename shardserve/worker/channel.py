"""The worker's end of the control pipe: datagrams in and out, and the descriptors beside them.

Rules of this file: what a message means is decided in ``server.py``; this file neither waits (after
``set_blocking(False)``) nor logs. A descriptor that arrives is wrapped or closed, never leaked, and
is not inherited by processes that the app starts.
"""

from __future__ import annotations

import os
import socket
from array import array
from dataclasses import dataclass

from .. import control
from ..errors import ControlError

# SCM_MAX_FD of the kernel is 253; ADOPT carries one descriptor per address, so a handful.
MAX_DESCRIPTORS = 64
_FD_BYTES = array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_LEN(MAX_DESCRIPTORS * _FD_BYTES)
# A FAILED text must fit a datagram even if JSON needs twelve bytes for each character (an emoji).
MAX_TEXT_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class Received:
    """One message and the descriptors that came with it, which now belong to the receiver."""

    message: control.Message
    descriptors: tuple[int, ...] = ()


class Channel:
    """A SEQPACKET socket that speaks control.py."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.set_inheritable(False)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Takes over ``fd``. Raises OSError if it is not a socket."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    def set_blocking(self, blocking: bool) -> None:
        self._sock.setblocking(blocking)

    def receive(self) -> Received | None:
        """The next message, or None: the other side died.

        Raises BlockingIOError when there is none now, ControlError when it is not one of ours.
        """
        try:
            # Not socket.recv_fds: it does not pass its flags on (Python 3.11).
            data, ancillary, flags, _ = self._sock.recvmsg(
                control.MAX_DATAGRAM_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None  # it died with messages of ours unread
        if not data:
            return None
        descriptors = _descriptors(ancillary)
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ControlError(f"control datagram was cut by the kernel: {data[:80]!r}")
            message = control.decode(data)
        except ControlError:
            close_all(descriptors)
            raise
        return Received(message, descriptors)

    def send(self, message: control.Message) -> bool:
        """Whether it is on its way. False: the master is gone, or so far behind that the pipe is full."""
        try:
            self._sock.send(control.encode(message))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._sock.close()


def shortened(text: str) -> str:
    """``text`` as a control message can carry it: the first lines say what, the last lines say why."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    half = MAX_TEXT_CHARS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % _FD_BYTES])  # a cut one ends anywhere
    return tuple(found)


def close_all(descriptors: tuple[int, ...]) -> None:
    for fd in descriptors:
        os.close(fd)
