"""The opening handshake: the library judges the request, this file words the answer (RFC 6455 §4.2).

Rules of this file: nothing that a client sent is repeated, neither in a field nor in a text, but what the
library derived from it and built anew. A refusal says which field is to blame, in one line of ASCII.
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


@dataclass(frozen=True, slots=True)
class Accepted:
    """A 101, if the app agrees. ``extension_field`` is empty if there is no extension."""

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
    """``headers``: names and values as they came, checked as HTTP checks them."""
    if method != "GET":
        return _refused(405, [(b"allow", b"GET")], "the method of a WebSocket handshake is GET")
    if _has_body(headers):
        return _refused(400, [], "a WebSocket handshake has no body")
    protocol = ServerProtocol(extensions=factories, logger=LOG)
    protocol.parser.close()  # not needed, and a cycle that only the garbage collector would end
    try:
        named = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in _chosen(headers))
    except InvalidHeader:  # Newer versions of the library look at each value.
        return _refused(400, [], "a field has a character that no field may have")
    response = protocol.accept(Request("/", named))
    error = protocol.handshake_exc
    if isinstance(error, InvalidHandshake):
        return _judged(error)
    if error is not None:
        raise error
    offered = [one for value in named.get_all("Sec-WebSocket-Protocol") for one in parse_subprotocol(value)]
    fields = [*UPGRADE, (b"sec-websocket-accept", response.headers["Sec-WebSocket-Accept"].encode())]
    extension_field = response.headers.get("Sec-WebSocket-Extensions", "").encode()
    if not extension_field:
        return Accepted(fields, offered, None, b"")
    fields.append((b"sec-websocket-extensions", extension_field))
    (extension,) = protocol.extensions
    return Accepted(fields, offered, extension, extension_field)


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


def _judged(error: InvalidHandshake) -> Refused:
    """What the library found, in our words: its own repeat what the client sent."""
    if not isinstance(error, InvalidHeader):
        return _refused(400, [], "it is none")
    if isinstance(error, InvalidUpgrade):
        return _refused(426, [*UPGRADE, WANTED_VERSION], f"{error.name} does not ask for a WebSocket")
    if error.name == VERSION:
        # Another version is another protocol (RFC 6455 §4.2.2, §4.4); none or two are a broken request.
        if isinstance(error, InvalidHeaderValue):
            return _refused(426, [*UPGRADE, WANTED_VERSION], f"{VERSION} has to be 13")
        return _refused(400, [WANTED_VERSION], f"{VERSION} has to be there once, and be 13")
    return _refused(400, [], f"{error.name} is {'missing' if error.value is None else 'wrong'}")


def _refused(status: int, fields: Fields, text: str) -> Refused:
    return Refused(status, list(fields), f"WebSocket handshake refused: {text}.\n".encode("ascii"))
