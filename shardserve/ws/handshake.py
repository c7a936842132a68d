"""The opening handshake: the library judges the request, this file words the answer (RFC 6455 §4.2).

Rules of this file: nothing that a client sent is repeated, neither in a field nor in a text, but what the
library derived from it and built anew. A refusal says which field is to blame, in one line of ASCII.

Over HTTP/2 (RFC 8441 §5, method CONNECT) ``:protocol`` stands for Connection, Upgrade and Sec-WebSocket-Key.
The library knows only the latter: they are lent to it, and what it answers to them is left out. So versions,
subprotocols and extensions are judged by the same code, whichever way they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidHeader, InvalidHeaderValue, InvalidUpgrade
from websockets.extensions import Extension, ServerExtensionFactory
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

from .spares import LOG

Fields = list[tuple[bytes, bytes]]

VERSION: Final = "Sec-WebSocket-Version"
UPGRADE: Final = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
WANTED_VERSION: Final = (b"sec-websocket-version", b"13")
# What a client leaves out over HTTP/2 (RFC 8441 §5, RFC 9113 §8.2.2). The hash of this key goes nowhere.
LENT: Final = [*UPGRADE, (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")]
_LENT_NAMES: Final = frozenset(name for name, _ in LENT)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is answered if the app agrees. ``extension_field`` is empty if there is no extension."""

    status: int
    fields: Fields
    subprotocols: Sequence[str]
    extension: Extension | None
    extension_field: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    status: int
    fields: Fields
    text: bytes


def answer(method: str, headers: Fields, factories: Sequence[ServerExtensionFactory]) -> Accepted | Refused:
    """``method``: "GET" (RFC 6455 §4.2), or "CONNECT" for an extended CONNECT over HTTP/2 whose ``:protocol``
    is websocket (RFC 8441 §4). ``headers``: names and values as they came, checked as HTTP checks them,
    without the pseudo-header fields.
    """
    over_http2 = method == "CONNECT"
    if method != "GET" and not over_http2:
        return _refused(405, [(b"allow", b"GET")], "the method of a WebSocket handshake is GET")
    if _has_body(headers):
        return _refused(400, [], "a WebSocket handshake has no body")
    chosen = _lent(headers) if over_http2 else _chosen(headers)
    protocol = ServerProtocol(extensions=factories, logger=LOG)
    protocol.parser.close()  # not needed, and a cycle that only the garbage collector would end
    try:
        named = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in chosen)
    except InvalidHeader:  # Newer versions of the library look at each value.
        return _refused(400, [], "a field has a character that no field may have")
    response = protocol.accept(Request("/", named))
    error = protocol.handshake_exc
    if isinstance(error, InvalidHandshake):
        return _judged(error, over_http2)
    if error is not None:
        raise error
    offered = [one for value in named.get_all("Sec-WebSocket-Protocol") for one in parse_subprotocol(value)]
    status, fields = 200, []
    if not over_http2:
        accept = response.headers["Sec-WebSocket-Accept"].encode()
        status, fields = 101, [*UPGRADE, (b"sec-websocket-accept", accept)]
    extension_field = response.headers.get("Sec-WebSocket-Extensions", "").encode()
    if not extension_field:
        return Accepted(status, fields, offered, None, b"")
    fields.append((b"sec-websocket-extensions", extension_field))
    (extension,) = protocol.extensions
    return Accepted(status, fields, offered, extension, extension_field)


def _lent(headers: Fields) -> Fields:
    """With the fields of HTTP/1.1 in the place of any that the client sent: they say nothing here."""
    return [*(field for field in headers if field[0] not in _LENT_NAMES), *LENT]


def _chosen(headers: Fields) -> Fields:
    """With WebSocket chosen from a list of protocols (RFC 9110 §7.8): the library takes no list."""
    offers = b",".join(value for name, value in headers if name == b"upgrade").lower().split(b",")
    if len(offers) < 2 or b"websocket" not in (offer.strip(b" \t") for offer in offers):
        return headers
    return [*(field for field in headers if field[0] != b"upgrade"), (b"upgrade", b"websocket")]


def _has_body(headers: Fields) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in headers
    )


def _judged(error: InvalidHandshake, over_http2: bool) -> Refused:
    """What the library found, in our words: its own repeat what the client sent.

    A 426 has to say Upgrade (RFC 9110 §15.5.22), which no message of HTTP/2 may (RFC 9113 §8.6): it is a 400.
    """
    if not isinstance(error, InvalidHeader):
        return _refused(400, [], "it is none")
    if isinstance(error, InvalidUpgrade):
        return _refused(426, [*UPGRADE, WANTED_VERSION], f"{error.name} does not ask for a WebSocket")
    if error.name == VERSION:
        # Another version is another protocol (RFC 6455 §4.2.2, §4.4); none or two are a broken request.
        if isinstance(error, InvalidHeaderValue):
            if over_http2:
                return _refused(400, [WANTED_VERSION], f"{VERSION} has to be 13")
            return _refused(426, [*UPGRADE, WANTED_VERSION], f"{VERSION} has to be 13")
        return _refused(400, [WANTED_VERSION], f"{VERSION} has to be there once, and be 13")
    return _refused(400, [], f"{error.name} is {'missing' if error.value is None else 'wrong'}")


def _refused(status: int, fields: Fields, text: str) -> Refused:
    return Refused(status, list(fields), f"WebSocket handshake refused: {text}.\n".encode("ascii"))
