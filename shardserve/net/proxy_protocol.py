"""The PROXY protocol, versions 1 and 2: what a proxy says of a connection before its first byte.

The specification is HAProxy's proxy-protocol.txt; "§" is one of its sections.

Rules of this file: ``parse`` is pure, and strict: a header is well-formed or the connection ends,
for what follows a header that was misread would be read as the client's. It asks for more only
while what has come can still become a header. ``receive`` takes from the socket exactly the header
and not one byte behind it, which may be a TLS handshake. Who is allowed to send one, and how long
it may take, is the caller's to say.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from ..errors import ProxyProtocolError

# §2.1: of a line, with CRLF.
LONGEST_LINE = 107
# §2.2 allows 64 KiB. Ours is more than anybody sends: addresses, a few names, a certificate's subject.
LONGEST_HEADER = 4096

_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_BYTES = 16  # signature, version and command, family and transport, length
_LOCAL, _PROXY = 0x20, 0x21
_INET, _INET6, _UNIX = 1, 2, 3
_ADDRESS_BYTES = {_INET: 4, _INET6: 16, _UNIX: 108}

# §2.1: decimal numbers have no leading zeros. The addresses are for inet_pton, which takes none either.
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) "
    rb"(0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)

_CRC32C, _SSL = 0x03, 0x20
_CLIENT_SSL = 0x01
_SSL_FIXED_BYTES = 5  # client, verify


class Proxied(NamedTuple):
    """What a header says. None: not told, the socket's own counts. ``scheme`` is http or https."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None
    scheme: str | None


class NeedMore(Enum):
    """What has come is the beginning of a header."""

    NEED_MORE = 0


NEED_MORE: Final = NeedMore.NEED_MORE


def parse(data: bytes, *, versions: str) -> tuple[Proxied | None, int] | NeedMore:
    """The header that ``data`` begins with, and its length. ``versions``: v1, v2, or auto for either.

    None instead of ``Proxied``: the proxy speaks for itself (LOCAL, a health check), or does not
    know for whom (UNKNOWN, AF_UNSPEC). Raises ProxyProtocolError.
    """
    v1, v2 = versions in ("v1", "auto"), versions in ("v2", "auto")
    if v1 and _may_begin(data, _LINE_START):
        return _parse_line(data)
    if v2 and _may_begin(data, _SIGNATURE):
        return _parse_binary(data)
    which = {"v1": "version 1", "v2": "version 2"}.get(versions, "either version")
    raise ProxyProtocolError(f"no PROXY header of {which}")


def _may_begin(data: bytes, start: bytes) -> bool:
    return data.startswith(start) if len(data) > len(start) else start.startswith(data)


# Version 1: a line


def _parse_line(data: bytes) -> tuple[Proxied | None, int] | NeedMore:
    end = data.find(b"\n", 0, LONGEST_LINE) + 1
    if not end:
        if len(data) >= LONGEST_LINE:
            raise ProxyProtocolError(f"no end of the PROXY line in {LONGEST_LINE} bytes")
        return NEED_MORE
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        raise ProxyProtocolError("a malformed PROXY line")
    family, source, destination, source_port, destination_port = match.groups()
    if family is None:  # UNKNOWN
        return None, end
    kind = socket.AF_INET if family == b"4" else socket.AF_INET6
    client = _line_address(kind, source, source_port)
    return Proxied(client, _line_address(kind, destination, destination_port), None), end


def _line_address(family: socket.AddressFamily, host: bytes, port: bytes) -> tuple[str, int]:
    try:
        packed = socket.inet_pton(family, host.decode("ascii"))
    except OSError:
        raise ProxyProtocolError("an invalid address in the PROXY line") from None
    if int(port) > 65535:
        raise ProxyProtocolError("an invalid port in the PROXY line")
    return socket.inet_ntop(family, packed), int(port)


# Version 2: binary


def _parse_binary(data: bytes) -> tuple[Proxied | None, int] | NeedMore:
    if len(data) < _FIXED_BYTES:
        return NEED_MORE
    command, kind = data[12], data[13]
    if command not in (_LOCAL, _PROXY):
        raise ProxyProtocolError(f"version and command 0x{command:02x} of a PROXY header")
    family, transport = kind >> 4, kind & 0x0F
    if command == _PROXY and (family > _UNIX or transport > 2):
        raise ProxyProtocolError(f"family and transport 0x{kind:02x} of a PROXY header")
    length = _FIXED_BYTES + int.from_bytes(data[14:16])
    if length > LONGEST_HEADER:
        raise ProxyProtocolError(f"a PROXY header of {length} bytes, {LONGEST_HEADER} are allowed")
    if len(data) < length:
        return NEED_MORE
    # Of LOCAL the rest is to be skipped unread; of an unspecified kind nobody knows where addresses
    # end.
    if command == _LOCAL or family == 0 or transport == 0:
        return None, length
    return _announced(data[:length], family), length


def _announced(header: bytes, family: int) -> Proxied:
    """What a whole header says. A datagram's addresses are as good as a stream's: QUIC has those."""
    size = _ADDRESS_BYTES[family]
    ports_at = _FIXED_BYTES + 2 * size
    vectors_at = ports_at + (0 if family == _UNIX else 4)
    if len(header) < vectors_at:
        raise ProxyProtocolError("a PROXY header that is too short for its addresses")
    scheme = _scheme(header, vectors_at)
    if family == _UNIX:  # a path, which is no address of ASGI's
        return Proxied(None, None, scheme)
    inet = socket.AF_INET if family == _INET else socket.AF_INET6
    source, destination = header[_FIXED_BYTES : _FIXED_BYTES + size], header[ports_at - size : ports_at]
    return Proxied(
        (socket.inet_ntop(inet, source), int.from_bytes(header[ports_at : ports_at + 2])),
        (socket.inet_ntop(inet, destination), int.from_bytes(header[ports_at + 2 : ports_at + 4])),
        scheme,
    )


def _scheme(header: bytes, vectors_at: int) -> str | None:
    """Whether the client came over TLS, if a TLV says so. All must be well-formed, a checksum right."""
    scheme = None
    for kind, start, end in _vectors(header, vectors_at, len(header)):
        if kind == _CRC32C:
            _check(header, start, end)
        elif kind == _SSL:
            if end - start < _SSL_FIXED_BYTES:
                raise ProxyProtocolError("a PROXY header with a malformed TLV")
            _vectors(header, start + _SSL_FIXED_BYTES, end)
            scheme = "https" if header[start] & _CLIENT_SSL else "http"
    return scheme


def _check(header: bytes, start: int, end: int) -> None:
    """§2.2.3: the checksum is that of the header in which itself is zeros."""
    zeroed = header[:start] + bytes(end - start) + header[end:]
    if end - start != 4 or crc32c(zeroed) != int.from_bytes(header[start:end]):
        raise ProxyProtocolError("a PROXY header with a wrong checksum")


def _vectors(header: bytes, at: int, limit: int) -> list[tuple[int, int, int]]:
    """The type-length-value vectors from ``at`` to ``limit``, which they must fill: type, start, end."""
    found = []
    while at < limit:
        start = at + 3
        end = start + int.from_bytes(header[at + 1 : start])
        if start > limit or end > limit:
            raise ProxyProtocolError("a PROXY header with a malformed TLV")
        found.append((header[at], start, end))
        at = end
    return found


def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The CRC of RFC 4960, appendix B (Castagnoli), as a number."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# From a socket


async def receive_from_trusted(
    sock: socket.socket, *, versions: str, trusts: Callable[[tuple[str, int] | None], bool]
) -> Proxied | None:
    """``receive``, if the peer is trusted (``asgi.trust``); anybody else is a ProxyProtocolError.

    §2: a receiver must not guess whether there is a header. So who may not send one may not connect: taking
    such a connection for a direct one would let the port be used past the proxy.
    """
    peer = sock.getpeername()
    if not trusts(None if sock.family == socket.AF_UNIX else peer[:2]):
        raise ProxyProtocolError("the peer is not trusted (--forwarded-allow-ips)")
    return await receive(sock, versions=versions)


async def receive(sock: socket.socket, *, versions: str) -> Proxied | None:
    """Take the header, and nothing else, from a connected non-blocking socket of the running loop.

    Raises ProxyProtocolError, and OSError if the peer goes before it has sent anything (a port that is
    probed) or its connection breaks. It waits as long as it is let: cancel it to end that.

    Until the header is whole, every byte that is there belongs to it. So what is there is looked
    at, and then taken: up to the header's end if that is known, else all of it. Looking again at
    what was not taken would be a busy loop, since the socket stays readable.
    """
    taken = b""
    while True:
        try:
            there = sock.recv(LONGEST_HEADER, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)
            continue
        if not there:
            if taken:
                raise ProxyProtocolError("the connection ended within its PROXY header")
            raise ConnectionResetError("the peer went before it sent a PROXY header")
        found = parse(taken + there, versions=versions)
        if isinstance(found, NeedMore):
            taken += sock.recv(len(there))
            continue
        proxied, length = found
        while len(taken) < length:
            taken += sock.recv(length - len(taken))
        return proxied


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    fd = sock.fileno()
    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
