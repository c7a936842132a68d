"""What a value of X-Forwarded-* or Forwarded says, strictly: pure text in, facts out.

Rules of this file: every function takes one value as it came and answers with what it says, or None
if it is malformed; none raises. Nothing here knows who is trusted (``trust.py``) or what becomes of
a fact (``forwarded.py``). A value is judged as a whole: there is no half of one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import NamedTuple

# A forwarded element is short. The bound keeps the way from the right (``elements``) cheap whatever
# comes.
LONGEST_ELEMENT = 1024
LONGEST_PREFIX = 1024

_HTTP = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_WEBSOCKET = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}

# RFC 7239 §6: node = nodename [ ":" node-port ]; and an IPv6 address without brackets, which
# X-Forwarded-For has.
_PORT = r"(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?"
_NODE = re.compile(rf"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\]|(?i:unknown)|_[A-Za-z0-9._-]+){_PORT}")
_LONGEST_NODE = 128

# RFC 9110 §4.2: authority = host [ ":" port ], of the hosts only those that DNS or a hosts file can
# have. An IPv6 address is checked by ``inet_pton``.
_AUTHORITY = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")

# RFC 3986 §3.3: *( "/" segment-nz ), without the comma, which would make it a list.
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)*")
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")

# RFC 7239 §4: forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] ). Blanks around ";"
# are taken, too: MDN's examples have them, and they leave nothing open.
_PAIR = re.compile(
    r"[ \t]*(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)"
    r'|"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)"))?[ \t]*(?:;|\Z)'
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class Node(NamedTuple):
    """A hop. ``client`` is ASGI's, and None if it is not told: ``unknown``, ``_hidden``, a Unix socket."""

    client: tuple[str, int] | None


class Authority(NamedTuple):
    """A host as a URI has it (IPv6 in brackets), and the port if it names one."""

    host: str
    port: int | None


class Element(NamedTuple):
    """One hop of Forwarded. ``None`` is what it does not say."""

    node: Node | None
    scheme: str | None
    authority: Authority | None


def scheme(text: str, *, websocket: bool) -> str | None:
    """http, https, ws or wss, as the one that is meant in a scope of this type."""
    return (_WEBSOCKET if websocket else _HTTP).get(text.lower())


def node(text: str) -> Node | None:
    """RFC 7239 §6: an address with or without a port, ``unknown``, or an obfuscated identifier."""
    if len(text) > _LONGEST_NODE:
        return None
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    v4, v6, port = match.groups()
    number = int(port or 0)
    if number > 65535 or (v4 and not _is_v4(v4)) or (v6 and not _is_v6(v6)):
        return None
    host = v4 or v6
    return Node((host, number) if host else None)


def hop(text: str) -> Node | None:
    """A member of X-Forwarded-For: as ``node``, but IPv6 may stand without brackets, and nginx says
    ``unix:`` of a client on a Unix socket.
    """
    if text.count(":") > 1 and not text.startswith("["):
        return Node((text, 0)) if len(text) <= _LONGEST_NODE and _is_v6(text) else None
    return Node(None) if text == "unix:" else node(text)


def authority(text: str) -> Authority | None:
    """A host and perhaps a port that can be put into a Host field."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host, port = match.groups()
    number = None if port is None else int(port)
    if number is not None and not 0 < number <= 65535:
        return None
    if host.startswith("[") and not _is_v6(host[1:-1]):
        return None
    return Authority(host, number)


def port(text: str) -> int | None:
    """1 to 65535."""
    number = int(text) if len(text) <= 5 and text.isascii() and text.isdecimal() else 0
    return number if 0 < number <= 65535 else None


def prefix(text: str) -> tuple[str, bytes] | None:
    """A path that everything is below, decoded and raw, without a slash at its end; "/" is the empty one.

    What could leave the prefix or the host (``..``, ``//``, a backslash) is malformed, escaped or not.
    """
    raw = text.removesuffix("/")
    if len(raw) > LONGEST_PREFIX or _PREFIX.fullmatch(raw) is None or not text.startswith("/"):
        return None
    try:
        decoded = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), raw).encode("latin-1").decode()
    except UnicodeDecodeError:
        return None
    segments = decoded.split("/")[1:]
    if "\\" in decoded or not decoded.isprintable() or len(segments) != raw.count("/"):
        return None
    if any(segment in (".", "..") for segment in segments):
        return None
    return decoded, raw.encode("ascii")


def elements(line: str) -> Iterator[Element | None]:
    """The elements of one Forwarded line, the right-most first. None, as the last one: malformed.

    From the right, because what stands there was added by the nearest proxy, and what stands on the
    left may be anybody's: an open quote of a client must not swallow what a proxy adds behind it.
    The shortest well-formed end of the line is the last element. It cannot begin inside a quoted
    string of that element: the quotes that follow would be odd in number.
    """
    end = len(line)
    while end >= 0:
        lowest = max(0, end - LONGEST_ELEMENT)
        comma = line.rfind(",", lowest, end)
        found = _element(line[comma + 1 : end]) if comma >= 0 or lowest == 0 else None
        while found is None and comma >= 0:
            comma = line.rfind(",", lowest, comma)
            if comma < 0 < lowest:
                break
            found = _element(line[comma + 1 : end])
        yield found
        if found is None:
            return
        end = comma


def _element(text: str) -> Element | None:
    pairs: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            return None
        at = match.end()
        name, token, quoted = match.groups()
        if name is None:
            continue
        # §4: "Each parameter MUST NOT occur more than once per field-value."
        if name.lower() in pairs:
            return None
        pairs[name.lower()] = token if token is not None else _QUOTED_PAIR.sub(r"\1", quoted)
    return _meaning(pairs)


def _meaning(pairs: dict[str, str]) -> Element | None:
    by, said_for, said_proto, said_host = (pairs.get(name) for name in ("by", "for", "proto", "host"))
    if not pairs or (by is not None and node(by) is None):
        return None
    found = Element(
        node=None if said_for is None else node(said_for),
        scheme=None if said_proto is None else scheme(said_proto, websocket=False),
        authority=None if said_host is None else authority(said_host),
    )
    said = (said_for, said_proto, said_host)
    return None if any(a is not None and b is None for a, b in zip(said, found, strict=True)) else found


def _is_v4(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def _is_v6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return False
    return True
