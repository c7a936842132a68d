"""``wsgi.input``: the request body as a file (PEP 3333, "Input and Error Streams").

Rules of this file: a body that is there is a BytesIO; of any other one, the next part is asked for when the
last one has been read, and the thread waits for it. Nothing is read ahead, so a client that sends more than
the app reads waits too. The end of the body is the end of the file; a client that goes before is a
ClientDisconnected, which is an OSError: frameworks make a 400 of that.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

# As much as one part of a body has.
BUFFER_BYTES = 65536


class _Parts(io.RawIOBase):
    def __init__(self, ask: Callable[[], tuple[bytes, bool]], first: bytes) -> None:
        self._ask = ask
        self._part = memoryview(first)
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._fill()
        size = min(len(buffer), len(self._part))
        buffer[:size] = self._part[:size]
        self._part = self._part[size:]
        return size

    def readall(self) -> bytes:
        found = []
        while self._fill():
            found.append(bytes(self._part))
            self._part = memoryview(b"")
        return b"".join(found)

    def _fill(self) -> bool:
        """Have a part that is not empty. False: the body is over."""
        while not self._part and self._more:
            part, self._more = self._ask()
            self._part = memoryview(part)
        return len(self._part) > 0


def whole(body: bytes) -> io.BytesIO:
    """A body that is there."""
    return io.BytesIO(body)


def in_parts(ask: Callable[[], tuple[bytes, bool]], first: bytes = b"") -> io.BufferedReader:
    """A body that comes. ``ask()``: the next part of it, and whether there is more; it may wait, and raise
    OSError."""
    return io.BufferedReader(_Parts(ask, first), BUFFER_BYTES)
