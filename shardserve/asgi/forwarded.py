"""On whose behalf a proxy comes: X-Forwarded-* and Forwarded (RFC 7239), put into the scope.

Rules of this file: the native side asks ``trusts`` once for a connection and calls ``apply`` for
each of its requests that has such a field; a request of anybody else costs nothing. A value is read
by ``forwarded_fields.py``, once: what it said is kept, bounded, because clients come again. A malformed value
is as good as absent: nothing is raised, nothing guessed.

**Which fields are read** is ``--forwarded-fields``, and should be those that the proxy in front
sets or deletes itself. Every other one is what the *client* says, passed on by a proxy that does
not know it: nginx, as it is configured everywhere, sets -For and -Proto, and hands through
X-Forwarded-Host, -Port, -Prefix and Forwarded. So only the first two are read unless told
otherwise, as in Uvicorn; and Forwarded only instead of those that say the same.

**Who the client is**: the hops are walked from the right, where the nearest proxy wrote. The first
that is not trusted is the client; if all are trusted it is the left-most, and if everybody is
trusted ("*") too. What is left of the client is not even looked at. Of Forwarded, proto and host of
that same element count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ..types import Scope
from . import forwarded_fields as fields
from .forwarded_fields import Authority, Element, Node
from .trust import Trust

FOR, PROTO, HOST, PORT, PREFIX = (
    b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
    b"x-forwarded-prefix",
)  # fmt: skip
FORWARDED = b"forwarded"
_KNOWN = frozenset((FOR, PROTO, HOST, PORT, PREFIX, FORWARDED))
DEFAULT = ("x-forwarded-for", "x-forwarded-proto")
# How many values of a field are remembered, and how long one may be: 1 MiB at most for a field and
# worker, if somebody makes it so.
VALUES_KEPT = 2048
LONGEST_KEPT = 256

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

Client = tuple[str, int] | None
_Said = TypeVar("_Said")

log = logging.getLogger("shardserve.worker")


class ProxyHeaders:
    """What the native side asks about proxies (``proxy`` of ``_native.ProtocolFactory``).

    ``names``: the fields that are read. That they do not contradict each other the setting has checked.
    """

    def __init__(self, trust: Trust, names: Iterable[str] = DEFAULT) -> None:
        self._trust = trust
        self._read = frozenset(name.encode() for name in names)
        self._told_unread = self._told_untrusted = False
        self._clients = _Values(self._client_of)
        self._claims = _Values(self._claim_of)
        self._hosts = _Values(lambda value: fields.authority(_last(value)))
        self._ports = _Values(lambda value: fields.port(_last(value)))
        self._prefixes = _Values(lambda value: fields.prefix(value.decode("latin-1").strip(" \t")))
        self._schemes = _Values(
            lambda value: fields.scheme(value.decode("latin-1").strip(" \t"), websocket=False)
        )
        # Whether this peer may say on whose behalf it comes: no frame of Python between that and
        # the answer.
        self.trusts: Callable[[Client], bool] = trust.trusts

    # For each request

    def apply(self, scope: Scope) -> None:
        """Edit ``scope`` as the fields of a trusted peer say. Never raises."""
        found: dict[bytes, list[bytes]] = {}
        known, read = _KNOWN, self._read
        for name, value in scope["headers"]:
            if name in known:
                if name not in read:
                    self._unread(scope["client"], name)
                elif name in found:
                    found[name].append(value)
                else:
                    found[name] = [value]
        authority: Authority | None = None
        if FORWARDED in found:
            authority = self._apply_forwarded(scope, found[FORWARDED])
        if PROTO in found:
            # The last line: a proxy that adds one, instead of replacing it, adds it at the end.
            _set_scheme(scope, self._schemes[found[PROTO][-1]])
        if FOR in found:
            lines = found[FOR]
            node = self._clients[lines[0] if len(lines) == 1 else b", ".join(lines)]
            if node is not None:
                scope["client"] = node.client
        if HOST in found:
            authority = self._hosts[found[HOST][-1]]
        port = self._ports[found[PORT][-1]] if PORT in found else None
        if authority is not None or port is not None:
            _set_host(scope, authority, port)
        if PREFIX in found and len(found[PREFIX]) == 1:
            _set_prefix(scope, self._prefixes[found[PREFIX][0]])

    def _apply_forwarded(self, scope: Scope, lines: list[bytes]) -> Authority | None:
        # A new line between the lines: an element ends with its line, and no value has one in it.
        claim = self._claims[lines[0] if len(lines) == 1 else b"\n".join(lines)]
        if claim is None:
            return None
        if claim.node is not None:
            scope["client"] = claim.node.client
        _set_scheme(scope, claim.scheme)
        return claim.authority

    # Who the client is

    def _client_of(self, value: bytes) -> Node | None:
        """Of X-Forwarded-For, as a whole. None: nobody can tell."""
        text = value.decode("latin-1")
        end = text.find(",") if self._trust.everybody else len(text)
        end = len(text) if end < 0 else end
        while True:
            comma = text.rfind(",", 0, end)
            hop = text[comma + 1 : end].strip(" \t")
            node = fields.hop(hop)
            if comma < 0 or not self._is_trusted(node, hop):
                return node
            end = comma

    def _claim_of(self, value: bytes) -> Element | None:
        """Of Forwarded, as a whole."""
        last: Element | None = None
        for line in reversed(value.decode("latin-1").split("\n")):
            for element in fields.elements(line):
                if element is None:
                    return None
                last = element
                if element.node is None or not self._is_trusted(element.node):
                    return element
        return last

    def _is_trusted(self, node: Node | None, text: str = "") -> bool:
        """Whether this hop is one of ours. ``text``: what was written, which may be a trusted name."""
        if node is not None and node.client is not None:
            return self._trust.trusts(node.client)
        if text == "unix:":
            return self._trust.unix or self._trust.trusts_host(text)
        return self._trust.everybody or (text != "" and self._trust.trusts_host(text))

    # Who should know

    def untrusted(self, client: Client, name: bytes) -> None:
        """A peer that is not trusted sends such a field. Warns once: the flag may have been forgotten."""
        if self._told_untrusted:
            return
        self._told_untrusted = True
        peer = "unix" if client is None else client[0]
        flag = f"{self._trust.text},{peer}" if self._trust.text else peer
        log.warning(
            "%s sends %s, and is not trusted to: the field is not believed. If it is your proxy: "
            "--forwarded-allow-ips %s",
            "A peer on a Unix socket" if client is None else peer,
            name.decode("latin-1"),
            flag,
        )

    def _unread(self, client: Client, name: bytes) -> None:
        if self._told_unread:
            return
        self._told_unread = True
        log.info(
            "%s sends %s, which is not read. If your proxy sets or deletes it in every request: "
            "--forwarded-fields",
            "A peer on a Unix socket" if client is None else client[0],
            name.decode("latin-1"),
        )


class _Values(dict[bytes, _Said | None], Generic[_Said]):
    """What values of one field said. ``[value]`` is one call of C for a value that is known."""

    def __init__(self, read: Callable[[bytes], _Said | None]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, value: bytes) -> _Said | None:
        said = self._read(value)
        if len(value) <= LONGEST_KEPT:
            if len(self) >= VALUES_KEPT:
                self.clear()
            self[value] = said
        return said


def _last(value: bytes) -> str:
    """Of a list the last member, which the nearest proxy wrote (Apache appends to X-Forwarded-Host)."""
    return value.rpartition(b",")[2].decode("latin-1").strip(" \t")


# What becomes of it in the scope


def _set_scheme(scope: Scope, scheme: str | None) -> None:
    """``scheme`` is http or https."""
    if scheme is not None:
        websocket = scope["type"] == "websocket"
        scope["scheme"] = scheme.replace("http", "ws") if websocket else scheme


def _set_host(scope: Scope, authority: Authority | None, port: int | None) -> None:
    """The host that the client asked for, in the Host field and ``server``; they agree.

    A port that the forwarded host names is the client's own word and counts; else X-Forwarded-Port;
    else the scheme's. One that the scheme has anyway is not written.
    """
    usual = _DEFAULT_PORTS.get(scope["scheme"])
    if authority is None:
        authority = _own_host(scope["headers"])
        if authority is None:  # an HTTP/1.0 request: there is only the port
            server = scope["server"]
            if server is not None and server[1] is not None:
                scope["server"] = (server[0], port)
            return
        authority = Authority(authority.host, None)
    host, explicit = authority
    actual = explicit or port or usual
    written = f"{host}:{actual}" if explicit or actual != usual else host
    scope["headers"] = [(b"host", written.encode("ascii"))] + [
        field for field in scope["headers"] if field[0] != b"host"
    ]
    scope["server"] = (host.removeprefix("[").removesuffix("]"), actual)


def _own_host(headers: Iterable[tuple[bytes, bytes]]) -> Authority | None:
    for name, value in headers:
        if name == b"host":
            return fields.authority(value.decode("latin-1"))
    return None


def _set_prefix(scope: Scope, prefix: tuple[str, bytes] | None) -> None:
    """As --root-path: path and raw_path begin with it. The proxy's prefix is outside of ours."""
    if prefix is None or not prefix[1]:
        return
    text, raw = prefix
    scope["root_path"] = text + scope["root_path"]
    scope["path"] = text + scope["path"]
    scope["raw_path"] = raw + scope["raw_path"]
