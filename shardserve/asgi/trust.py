"""Whose word is taken: the peers that ``--forwarded-allow-ips`` names.

Rules of this file: the setting is parsed once, and an answer is found once for each address;
nothing on the request path makes an ``ipaddress`` object. An entry is

    10.0.0.7, 2001:db8::7       an address, however it is written
    10.0.0.0/8, 2001:db8::/32   a network
    unix                        whoever comes over a Unix socket
    *                           everybody, if it is the only entry
    anything else               a name, which is compared as it is written with what a field says

The last two are Uvicorn's, as is a network with bits behind its mask (10.0.0.1/8), which is only a
name there and here. An IPv4 address mapped into IPv6 (::ffff:10.0.0.7), as which a dual-stack
socket sees an IPv4 client, is that IPv4 address, here and in an entry; ``::/0`` therefore trusts no
IPv4 client.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

# What is trusted where nothing is said: a proxy on the same host.
DEFAULT = "127.0.0.1,::1"
UNIX = "unix"
# How many answers are kept. They are forgotten all together: an attacker who fills them with
# addresses of a large IPv6 network gains that some are found anew, a few microseconds each.
ANSWERS_KEPT = 4096
# Longer than any address (the longest is 45), so that what is kept is bounded, too.
LONGEST_KEPT = 64

# Version (4 or 6) and number.
_Address = tuple[int, int]
# ::ffff:0:0/96 (RFC 4291 §2.5.5.2).
_MAPPED = 0xFFFF << 32


class Trust:
    """Who is trusted. ``entries``: the setting as text or its parts; None is ``DEFAULT``. Never raises."""

    def __init__(self, entries: str | Iterable[str] | None = None) -> None:
        given = DEFAULT if entries is None else entries
        parts = given.split(",") if isinstance(given, str) else given
        listed = [part.strip() for part in parts]
        self.text = ",".join(listed)
        # These two may be read, never written.
        self.everybody = listed == ["*"]
        self.unix = self.everybody or UNIX in listed
        self._addresses: set[_Address] = set()
        self._networks: list[tuple[int, int, int]] = []  # version, mask, number
        self._names: set[str] = set()
        for entry in listed:
            self._add(entry)
        self._answers = _Answers(self)

    def trusts(self, client: tuple[str, int] | None) -> bool:
        """Whether this peer is. None is one on a Unix socket, which has no address."""
        if client is None:
            return self.unix
        return self.everybody or self._answers[client[0]]

    def trusts_host(self, host: str) -> bool:
        """Whether this address is, or this name, which some field has brought: any text."""
        return self.everybody or self._answers[host]

    def _add(self, entry: str) -> None:
        address = address_of(entry)
        network = None if address else _network_of(entry)
        if address:
            self._addresses.add(address)
        elif network:
            self._networks.append(network)
        elif entry:
            self._names.add(entry)

    def find(self, host: str) -> bool:
        """The answer for ``host``, found anew."""
        address = address_of(host)
        if address is None:
            return host in self._names
        version, number = address
        return address in self._addresses or any(
            version == other and number & mask == value for other, mask, value in self._networks
        )


class _Answers(dict[str, bool]):
    """Answers that were given. ``[host]`` is one call of C for a host that is known."""

    def __init__(self, trust: Trust) -> None:
        super().__init__()
        self._find = trust.find

    def __missing__(self, host: str) -> bool:
        answer = self._find(host)
        if len(host) <= LONGEST_KEPT:
            if len(self) >= ANSWERS_KEPT:
                self.clear()
            self[host] = answer
        return answer


def address_of(text: str) -> _Address | None:
    """An IPv4 or IPv6 address (no zone, no port, no brackets) as version and number; None if it is none."""
    try:
        return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):  # ValueError: a NUL, or what cannot be encoded
        pass
    try:
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, ValueError):
        return None
    return (4, number & 0xFFFFFFFF) if number >> 32 == 0xFFFF else (6, number)


def _network_of(entry: str) -> tuple[int, int, int] | None:
    if "/" not in entry:
        return None
    try:
        network = ipaddress.ip_network(entry)
    except ValueError:
        return None
    number, mask = int(network.network_address), int(network.netmask)
    if network.version == 6 and number & ~0xFFFFFFFF == _MAPPED:
        return 4, mask & 0xFFFFFFFF, number & 0xFFFFFFFF
    return network.version, mask, number
