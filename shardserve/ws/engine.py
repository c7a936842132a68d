"""WebSocket frames that the native lane does not take, judged by the ``websockets`` library (RFC 6455).

Rules of this file: the library decides what a frame means and what is answered; this file lends it a
protocol object, hands it one frame, and says in five events what came of it. No sockets, no clock, nothing
that belongs to one connection but the message it is in the middle of (``Message``). What the library does not
do is done here: text is checked, fragments are put together and counted.

Control frames are judged alone, by a protocol that knows of no message and no size limit: they may come in
the middle of any message (RFC 6455 §5.4), and what is left of ``max_size_bytes`` for that is not for them.
So a close frame there is answered like any other, where the library by itself would call it an error.
"""

from __future__ import annotations

import codecs
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import Protocol, State

from . import handshake
from .deflate import Agreement, DeflateFactory
from .handshake import Fields
from .spares import Spares, take_data

# What receive() says, as native/ws_*.c knows it.
NOTHING: Final = 0
MESSAGE: Final = 1
PONG: Final = 2
CLOSED: Final = 3
FAILED: Final = 4

LONGEST_REASON_BYTES: Final = 123

# The first byte of a frame (RFC 6455 §5.2).
FIN: Final = 0x80
RSV: Final = 0x70
CONTROL: Final = 0x08

Outcome = tuple["Message | None", int, str | bytes | int | None, str, bytes]
_utf8 = codecs.getincrementaldecoder("utf-8")


class Message:
    """A message of which some fragments are here; between them it has a protocol for itself."""

    __slots__ = ("data", "fragments", "protocol", "utf8")

    def __init__(self, protocol: Protocol, opcode: Opcode) -> None:
        self.protocol = protocol
        self.data = bytearray()
        self.fragments = 0
        self.utf8 = _utf8() if opcode is Opcode.TEXT else None

    def add(self, data: bytes, *, last: bool) -> None:
        """Raises UnicodeDecodeError at the first fragment after which the text cannot be right any more."""
        if self.utf8 is not None:
            self.utf8.decode(data, last)
            begun = self.utf8.getstate()[0]
            if b"\xed\xa0" <= begun <= b"\xed\xbf":
                # Half of UTF-16's surrogate pairs (RFC 3629 §3). Python waits for the third byte.
                raise UnicodeDecodeError("utf-8", begun, 0, len(begun), "invalid continuation byte")
        self.data += data
        self.fragments += 1

    def payload(self) -> str | bytes:
        return bytes(self.data) if self.utf8 is None else self.data.decode()


class Engine:
    """One per worker. The native side calls it for each handshake and each frame it does not do itself."""

    __slots__ = ("_agreements", "_control", "_data", "_factories", "_max_fragments", "_ping")

    def __init__(self, *, max_size_bytes: int, max_fragments: int, deflate: bool) -> None:
        """``max_size_bytes``, ``max_fragments``: of one message; 0 is no limit."""
        self._max_fragments = max_fragments
        self._data = Spares(max_size_bytes or None)
        self._control = Spares(None)
        self._factories = [DeflateFactory()] if deflate else []
        self._agreements: dict[bytes, Agreement] = {}
        self._ping = self._make_ping()

    def open(
        self, method: str, headers: Fields
    ) -> tuple[int, Fields, list[str], Agreement | None] | tuple[int, Fields, bytes, None]:
        """The answer to a handshake (RFC 6455 §4.2), whose method is CONNECT over HTTP/2 (RFC 8441 §5).

        (101, or 200 to CONNECT, response fields, subprotocols offered, what was agreed) or (400, 405 or 426,
        response fields, the text of the response, None). CONNECT is never answered with 405 or 426.
        """
        answer = handshake.answer(method, headers, self._factories)
        if isinstance(answer, handshake.Refused):
            return answer.status, answer.fields, answer.text, None
        agreement = None
        if answer.extension is not None:
            # The answer says all that was agreed. There are a few dozen of them at most.
            agreement = self._agreements.get(answer.extension_field)
            if agreement is None:
                agreement = self._agreements[answer.extension_field] = Agreement(answer.extension)
        return answer.status, answer.fields, list(answer.subprotocols), agreement

    def receive(self, peer: Message | None, extensions: Agreement | None, frame: bytes) -> Outcome:
        """What one frame means: (peer, event, payload, reason, output).

        ``frame``: header and masked payload as on the wire, or the header only where it cannot be right.
        ``peer``: what the last call for this connection returned.
        """
        if frame[0] & CONTROL:
            return self._receive_control(peer, frame)
        if peer is None:
            return self._receive_first(extensions, frame)
        return self._receive_next(peer, frame)

    def send(self, extensions: Agreement | None, data: str | bytes) -> bytes:
        """One message as one frame, compressed if that was agreed."""
        payload = data.encode() if isinstance(data, str) else data
        protocol = self._data.lend() if extensions is None else self._data.lend(extensions.for_one_call)
        if isinstance(data, str):
            protocol.send_text(payload)
        else:
            protocol.send_binary(payload)
        output = b"".join(protocol.data_to_send())
        self._data.take_back(protocol)
        return output

    def ping(self) -> bytes:
        """One ping frame."""
        return self._ping

    def close(self, code: int, reason: str) -> bytes:
        """One close frame. Raises ValueError for a code or a reason that cannot be sent (RFC 6455 §7.4)."""
        try:
            size = len(reason.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"the reason of a close is no valid text: {error.reason}") from None
        if size > LONGEST_REASON_BYTES:
            raise ValueError(
                f"the reason of a close is {size} bytes of UTF-8; a close frame has room for"
                f" {LONGEST_REASON_BYTES} (RFC 6455 §5.5)"
            )
        protocol = self._control.lend()
        try:
            protocol.send_close(code, reason)
        except ProtocolError:
            raise ValueError(
                f"{code} cannot be the code of a close frame; 1000 to 1003, 1007 to 1014 and 3000 to 4999"
                " can (RFC 6455 §7.4)"
            ) from None
        return b"".join(protocol.data_to_send())

    # The frames

    def _receive_control(self, peer: Message | None, frame: bytes) -> Outcome:
        protocol = self._control.lend()
        event = _feed(protocol, frame)
        if event is None:
            return _failed(protocol)
        output = b"".join(protocol.data_to_send())
        if event.opcode is Opcode.CLOSE:
            close = Close.parse(bytes(event.data))
            return None, CLOSED, int(close.code), close.reason, output
        self._control.take_back(protocol)
        return peer, PONG if event.opcode is Opcode.PONG else NOTHING, None, "", output

    def _receive_first(self, extensions: Agreement | None, frame: bytes) -> Outcome:
        """A whole message, or the first fragment of one."""
        if extensions is None:
            protocol = self._data.lend()
        elif frame[0] & FIN:
            protocol = self._data.lend(extensions.for_one_call)
        else:
            protocol = self._data.lend(extensions.fresh())
        event = _feed(protocol, frame)
        if event is None:
            if extensions is not None:
                extensions.renew()
            return _failed(protocol)
        if not event.fin:
            return self._add(Message(protocol, event.opcode), event)
        data = take_data(event)
        if event.opcode is Opcode.BINARY:
            self._data.take_back(protocol)
            return None, MESSAGE, data, "", b""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            return _fail(protocol, CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
        self._data.take_back(protocol)
        return None, MESSAGE, text, "", b""

    def _receive_next(self, message: Message, frame: bytes) -> Outcome:
        event = _feed(message.protocol, frame)
        if event is None:
            return _failed(message.protocol)
        return self._add(message, event)

    def _add(self, message: Message, event: Frame) -> Outcome:
        protocol = message.protocol
        if 0 < self._max_fragments <= message.fragments:
            reason = f"message has more than {self._max_fragments} fragments"
            return _fail(protocol, CloseCode.POLICY_VIOLATION, reason)
        try:
            message.add(take_data(event), last=event.fin)
        except UnicodeDecodeError as error:
            return _fail(protocol, CloseCode.INVALID_DATA, error.reason)
        if not event.fin:
            return message, NOTHING, None, "", b""
        self._data.take_back(protocol)
        return None, MESSAGE, message.payload(), "", b""

    def _make_ping(self) -> bytes:
        protocol = self._control.lend()
        protocol.send_ping(b"")
        output = b"".join(protocol.data_to_send())
        self._control.take_back(protocol)
        return output


# The library, one frame at a time


def _feed(protocol: Protocol, frame: bytes) -> Frame | None:
    """The frame as the library read it; None if the connection is failed, by the library or, for a header
    without the rest, by us."""
    protocol.receive_data(frame)
    events = protocol.events_received()
    if events:
        (event,) = events
        assert isinstance(event, Frame)
        return event
    if protocol.state is State.OPEN:
        protocol.fail(CloseCode.PROTOCOL_ERROR, _why_wrong(frame))
    return None


def _why_wrong(header: bytes) -> str:
    """What is wrong with a header for which the library would wait for the payload."""
    if header[0] & CONTROL and not header[0] & FIN:
        return "fragmented control frame"
    if header[0] & CONTROL and len(header) > 1 and header[1] & 0x7F > 125:
        return "control frame too long"
    if header[0] & RSV:
        return "reserved bits must be 0"
    return "incomplete frame"


def _fail(protocol: Protocol, code: CloseCode, reason: str) -> Outcome:
    protocol.fail(code, reason)
    return _failed(protocol)


def _failed(protocol: Protocol) -> Outcome:
    """Code and reason of a failed connection are read from the close frame that says them."""
    output = b"".join(protocol.data_to_send())
    close = Close.parse(output[2:])
    return None, FAILED, int(close.code), close.reason, output
