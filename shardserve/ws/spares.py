"""The library's protocol objects, lent for as long as one frame or one fragmented message takes.

Rules of this file: a connection owns none of them between messages. One that comes back is kept only
if it is provably as it was when it was new; in doubt it is dropped, which is always right and costs a few
microseconds. All that we use of the library beyond its documentation (sansio reference) is in this file:

    ``Protocol.extensions``     assigned: the documented way to it is a handshake on the same object
    ``Protocol.current_size``   (``cur_size`` in 14), ``reader.buffer``, ``parser``: looked at, to see whether
                                it is clean

tests/unit/ws/test_spares.py fails if a new version has these no more. Without the latter three everything
works, only slower: each frame gets a new object.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from websockets.extensions import Extension
from websockets.frames import Frame
from websockets.protocol import Protocol, Side, State

KEPT: Final = 8

# What a client does is not logged frame by frame. An exception inside the library is, as an error.
LOG: Final = logging.getLogger("shardserve.ws")
LOG.setLevel(logging.ERROR)

_NONE: Final[list[Extension]] = []
_UNKNOWN: Final = object()


class Spares:
    """Protocols of a server whose connection is open, all with the same ``max_size``."""

    __slots__ = ("_max_size", "_spare")

    def __init__(self, max_size: int | None) -> None:
        self._max_size = max_size
        self._spare: list[Protocol] = []

    def lend(self, extensions: list[Extension] = _NONE) -> Protocol:
        """One that has seen nothing, for a connection with these extensions."""
        if self._spare:
            protocol = self._spare.pop()
        else:
            protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=self._max_size, logger=LOG)
        protocol.extensions = extensions
        return protocol

    def take_back(self, protocol: Protocol) -> None:
        """It is not needed any more; its events and its output were fetched."""
        if len(self._spare) < KEPT and is_clean(protocol):
            protocol.extensions = _NONE
            self._spare.append(protocol)


def is_clean(protocol: Protocol) -> bool:
    """Whether nothing of what it was used for can be seen in what it does next."""
    try:
        parser: Any = protocol.parser
        return (
            protocol.state is State.OPEN
            # Nothing is waiting to be read, and the parser waits for a frame, not for the rest of one.
            and not protocol.reader.buffer
            and parser.gi_yieldfrom.__name__ == "at_eof"
            and getattr(protocol, "current_size", getattr(protocol, "cur_size", _UNKNOWN)) is None
        )
    except AttributeError:
        return False


def take_data(frame: Frame) -> bytes:
    """The payload of a frame. The frame has it no more: the parser of a protocol remembers its last frame."""
    data = bytes(frame.data)
    frame.data = b""
    return data
