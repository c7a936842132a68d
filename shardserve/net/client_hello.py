"""What a TLS connection's first bytes say: that they are TLS, and which host name the client wants (SNI).

Rules of this file: sans-I/O and pure; bytes in, an answer out. OpenSSL is the authority on TLS: what is
not understood here is answered with "no name", and OpenSSL then accepts or refuses it. So a mistake
here can choose the wrong certificate, and nothing else. Nothing is read beyond ``MAX_BYTES``.

The layout: records (RFC 8446 §5.1), which carry a handshake message in one or more pieces; the message
(§4.1.2); its extensions (§4.2), of which one has the name (RFC 6066 §3).
"""

from __future__ import annotations

# A ClientHello is 300 to 2000 bytes; one with a large session ticket may be a full record.
MAX_BYTES = 16 * 1024 + 5

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_MAX_RECORD = 2**14
_MAX_HOST_NAME = 255


class Incomplete(Exception):
    """The ClientHello goes on behind these bytes."""


class _Malformed(Exception):
    """Not a ClientHello as the RFCs have it."""


def is_tls(data: bytes) -> bool:
    """Whether a connection that begins with these bytes, at least one, speaks TLS."""
    return data[0] == _HANDSHAKE


def server_name(data: bytes) -> str | None:
    """The host name that the ClientHello at the start of ``data`` asks for, in lower case; None without one.

    Raises Incomplete while there is less than the whole message and more may come.
    """
    try:
        return _name_in(_message(data))
    except _Malformed:
        return None
    except Incomplete:
        if len(data) >= MAX_BYTES:
            return None
        raise


def _message(data: bytes) -> bytes:
    """The body of the ClientHello, put together from its records."""
    message = b""
    at = 0
    while True:
        header = data[at : at + _RECORD_HEADER]
        if header and header[0] != _HANDSHAKE:
            raise _Malformed
        if len(header) < _RECORD_HEADER:
            raise Incomplete
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= _MAX_RECORD:
            raise _Malformed
        at += _RECORD_HEADER
        message += data[at : at + length]
        if message and message[0] != _CLIENT_HELLO:
            raise _Malformed
        if len(message) >= _MESSAGE_HEADER:
            end = _MESSAGE_HEADER + int.from_bytes(message[1:4], "big")
            if end > MAX_BYTES:
                raise _Malformed
            if len(message) >= end:
                return message[_MESSAGE_HEADER:end]
        at += length
        if at > len(data):
            raise Incomplete


class _Reader:
    """Vectors with a length before them, as TLS writes everything (RFC 8446 §3.4)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _Malformed
        taken, self._at = self._data[self._at : end], end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))


def _name_in(message: bytes) -> str | None:
    hello = _Reader(message)
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if hello.ended:  # no extensions at all: TLS 1.2 allows it
        return None
    extensions = _Reader(hello.vector(2))
    while not extensions.ended:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            return _host_name(body)
    return None


def _host_name(body: bytes) -> str | None:
    names = _Reader(_Reader(body).vector(2))
    while not names.ended:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            if not 0 < len(name) <= _MAX_HOST_NAME or not name.isascii():
                return None
            return name.decode("ascii").lower()
    return None
