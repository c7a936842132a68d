"""The grammar of requests, as sets of characters and as patterns: what tests hold the server against.

Everything here follows from the RFC that its comment names, and nothing from what the server does. A
pattern is for ``fullmatch``.
"""

from __future__ import annotations

import ipaddress
import re

# RFC 5234 §B.1
ALPHA = bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B))
DIGIT = b"0123456789"
HEXDIG = DIGIT + b"ABCDEFabcdef"
VCHAR = bytes(range(0x21, 0x7F))

# RFC 9110 §5.6.2: token = 1*tchar
TCHAR = b"!#$%&'*+-.^_`|~" + DIGIT + ALPHA
# RFC 9110 §5.5: field-vchar = VCHAR / obs-text
OBS_TEXT = bytes(range(0x80, 0x100))
FIELD_VCHAR = VCHAR + OBS_TEXT
# RFC 9110 §5.6.3: OWS = *( SP / HTAB )
OWS = b" \t"
# RFC 9110 §5.6.4: between the quotes of a quoted-string: qdtext, and what may follow a backslash.
QDTEXT = OWS + bytes(sorted(set(VCHAR) - set(b'"\\'))) + OBS_TEXT
QUOTED_PAIR = OWS + FIELD_VCHAR

# RFC 3986 §2.2, §2.3, §3.3: "%" stands for the beginning of pct-encoded.
UNRESERVED = ALPHA + DIGIT + b"-._~"
SUB_DELIMS = b"!$&'()*+,;="
PCHAR = UNRESERVED + SUB_DELIMS + b":@%"
# RFC 3986 §3.2.2: reg-name
REG_NAME = UNRESERVED + SUB_DELIMS + b"%"


def one_of(chars: bytes) -> bytes:
    """A set of characters, for a pattern."""
    return b"[" + re.escape(chars) + b"]"


PCT_ENCODED = b"%" + one_of(HEXDIG) + b"{2}"
# RFC 3986 §3.2.2, but for the addresses, which is_host() reads.
NAME = re.compile(b"(?:" + one_of(UNRESERVED + SUB_DELIMS) + b"|" + PCT_ENCODED + b")+")
IP_FUTURE = re.compile(rb"[vV]" + one_of(HEXDIG) + rb"+\." + one_of(UNRESERVED + SUB_DELIMS + b":") + b"+")
# RFC 9110 §7.2 and RFC 3986 §3.2.3: uri-host [ ":" port ], port = *DIGIT
AUTHORITY = re.compile(rb"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?P<port>:[0-9]*)?")
# RFC 9112 §3.2: the forms of a target, as far as their parts can be told apart.
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?")
ORIGIN_FORM = re.compile(rb"(?P<path>/[^?#]*)(?:\?(?P<query>[^#]*))?")


def is_ipv6(text: str) -> bool:
    """RFC 3986 §3.2.2: IPv6address, which has no zone."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text


def is_host(text: bytes) -> bool:
    """The host and port of a URI, and no empty host (RFC 9110 §4.2.1)."""
    parts = AUTHORITY.fullmatch(text)
    if parts is None:
        return False
    host = parts["host"]
    if not host.startswith(b"["):
        return NAME.fullmatch(host) is not None
    return is_ipv6(host[1:-1].decode("latin-1")) or IP_FUTURE.fullmatch(host[1:-1]) is not None
