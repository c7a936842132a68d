"""permessage-deflate (RFC 7692): what is agreed, and what one message needs of it.

Rules of this file: the library compresses, inflates and negotiates; this file decides what it may agree
to, and keeps the messages of different clients apart. No context takeover, in either direction, ever:
between messages there is no zlib state, so what was agreed with one client is also what was agreed with
every other client that got the same answer, and they share one ``Agreement``. Why, and what it costs:
docs/decisions/0009-websocket.md.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from websockets.exceptions import NegotiationError, PayloadTooBig
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.typing import ExtensionParameter

# The library's own defaults for a server. They bound what one message in progress takes.
WINDOW_BITS = 12
MEM_LEVEL = 5


class DeflateFactory(ServerPerMessageDeflateFactory):
    """What we agree to: no context takeover both ways, small windows (RFC 7692 §7.1)."""

    def __init__(self) -> None:
        super().__init__(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=WINDOW_BITS,
            client_max_window_bits=WINDOW_BITS,
            compress_settings={"memLevel": MEM_LEVEL},
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """The answer to one offer. Raises NegotiationError to decline it."""
        answer, extension = super().process_request_params(params, accepted_extensions)
        if ("server_max_window_bits", "8") in answer:
            # zlib cannot compress with 8 bits. websockets 14 agrees to it, and fails at the first message.
            raise NegotiationError("server_max_window_bits=8")
        return answer, extension


class Deflate(Extension):
    """The library's extension object for one message at a time, with a limit that is exact.

    zlib stops at the limit, and may then hold up to 258 bytes back for which it needs no more input (the
    longest match). The library adds them to the message when its last fragment is empty, or (before 17)
    drops them. Where one byte more is asked for, nothing can be held back unless it is too much.
    """

    def __init__(self, extension: Extension) -> None:
        self.name = extension.name
        self._extension = extension

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """The frame inflated. Raises PayloadTooBig before more than ``max_size`` + 1 bytes were made."""
        if max_size is None:
            return self._extension.decode(frame)
        try:
            decoded = self._extension.decode(frame, max_size=max_size + 1)
        except PayloadTooBig:
            raise PayloadTooBig(None, max_size) from None
        if len(decoded.data) > max_size:
            raise PayloadTooBig(None, max_size)
        return decoded

    def encode(self, frame: Frame) -> Frame:
        """The frame compressed."""
        return self._extension.encode(frame)


class Agreement:
    """What was agreed, shared by all clients that were given the same answer; opaque to the native side.

    ``for_one_call``: for what is begun and ended in one call: a whole message, in or out. ``fresh()``: for a
    message that comes in fragments, while others come and go. After an error the former may still
    hold what it was working on: ``renew()``.
    """

    __slots__ = ("_pattern", "for_one_call")

    def __init__(self, extension: Extension) -> None:
        self._pattern = extension  # only ever copied, so that it stays as the negotiation made it
        self.renew()

    def fresh(self) -> list[Extension]:
        return [Deflate(copy.copy(self._pattern))]

    def renew(self) -> None:
        self.for_one_call = self.fresh()
