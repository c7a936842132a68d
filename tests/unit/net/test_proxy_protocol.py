"""PROXY headers: the specification's own examples, everything that is not one, and a socket byte by byte."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from shardserve.errors import ProxyProtocolError
from shardserve.net import proxy_protocol
from shardserve.net.proxy_protocol import LONGEST_HEADER, LONGEST_LINE, NEED_MORE, Proxied, crc32c, parse

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
V4 = Proxied(("192.0.2.9", 56324), ("198.51.100.1", 443), None)
V6 = Proxied(("2001:db8::9", 1), ("2001:db8::1", 65535), None)
LINE = b"PROXY TCP4 192.0.2.9 198.51.100.1 56324 443\r\n"


def binary(rest: bytes, *, kind: int = 0x11, command: int = 0x21, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, kind, len(rest) if length is None else length) + rest


def addresses(said: Proxied) -> bytes:
    assert said.client is not None
    assert said.server is not None
    family = socket.AF_INET6 if ":" in said.client[0] else socket.AF_INET
    packed = [socket.inet_pton(family, host) for host, _ in (said.client, said.server)]
    return b"".join(packed) + struct.pack("!HH", said.client[1], said.server[1])


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def checked(rest: bytes, *, kind: int = 0x11, size: int = 4) -> bytes:
    """With a checksum as the last TLV."""
    zeroed = binary(rest + tlv(3, bytes(size)), kind=kind)
    return zeroed[:-4] + struct.pack("!I", crc32c(zeroed))


SSL = tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"somebody"))
NO_SSL = tlv(0x20, bytes(5))
TLV4 = binary(addresses(V4) + SSL + tlv(1, b"h2") + tlv(2, b"example.com") + tlv(0xEA, b"\x01vpce-1"))

# Headers, and what each says.
GOOD: dict[str, tuple[bytes, Proxied | None]] = {
    "v1": (LINE, V4),
    "v1, IPv6": (b"PROXY TCP6 2001:DB8::9 2001:db8:0:0:0:0:0:1 1 65535\r\n", V6),
    "v1, all of IPv6": (
        b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n",
        Proxied(*[(":".join(["ffff"] * 8), 65535)] * 2, None),
    ),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1, unknown and more": (
        b"PROXY UNKNOWN " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n",
        None,
    ),
    "v2": (binary(addresses(V4)), V4),
    "v2, a datagram's": (binary(addresses(V4), kind=0x12), V4),
    "v2, IPv6": (binary(addresses(V6), kind=0x21), V6),
    "v2, Unix": (binary(b"/a".ljust(108, b"\0") * 2, kind=0x31), Proxied(None, None, None)),
    "v2, Unix and TLS": (binary(bytes(216) + SSL, kind=0x31), Proxied(None, None, "https")),
    "v2, TLVs": (TLV4, V4._replace(scheme="https")),
    "v2, not over TLS": (binary(addresses(V4) + NO_SSL), V4._replace(scheme="http")),
    "v2, a checksum": (checked(addresses(V6) + SSL, kind=0x21), V6._replace(scheme="https")),
    "v2, no-ops": (binary(addresses(V4) + tlv(4, b"") * 3), V4),
    "v2, local": (binary(b"", kind=0, command=0x20), None),
    "v2, local with whatever": (binary(b"junk", kind=0xFF, command=0x20), None),
    "v2, unspecified": (binary(b"", kind=0x00), None),
    "v2, unspecified with whatever": (binary(b"junk", kind=0x01), None),
    "v2, of unspecified transport": (binary(addresses(V4), kind=0x10), None),
    "v2, as long as allowed": (binary(bytes(LONGEST_HEADER - 16), kind=0x00), None),
}
each_good = pytest.mark.parametrize("name", GOOD)

BAD: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": bytes.fromhex("16030100f1"),
    "lower case": b"proxy ",
    "no family": b"PROXY \r\n",
    "a family of no bytes": b"PROXY  192.0.2.9 198.51.100.1 1 2\r\n",
    "UDP": b"PROXY UDP4 192.0.2.9 198.51.100.1 1 2\r\n",
    "unknown and no space": b"PROXY UNKNOWNS\r\n",
    "line feed only": LINE.replace(b"\r", b""),
    "line feed only, unknown": b"PROXY UNKNOWN\n",
    "a return in it": b"PROXY UNKNOWN \r \r\n",
    "two spaces": LINE.replace(b" 443", b"  443"),
    "a tab": LINE.replace(b" 443", b"\t443"),
    "a space at the end": LINE.replace(b"\r\n", b" \r\n"),
    "one port": LINE.replace(b" 443", b""),
    "three ports": LINE.replace(b" 443", b" 443 1"),
    "a leading zero": LINE.replace(b" 443", b" 0443"),
    "too large a port": LINE.replace(b" 443", b" 65536"),
    "a negative port": LINE.replace(b" 443", b" -1"),
    "octal": LINE.replace(b"192.0.2.9", b"192.0.2.011"),
    "a number too large": LINE.replace(b"192.0.2.9", b"192.0.2.256"),
    "three numbers": LINE.replace(b"192.0.2.9", b"192.0.2"),
    "the other family": LINE.replace(b"TCP4", b"TCP6"),
    "one of the other family": LINE.replace(b"192.0.2.9", b"::1"),
    "a name": LINE.replace(b"192.0.2.9", b"localhost"),
    "a zone": b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
    "two double colons": b"PROXY TCP6 1::2::3 ::1 1 2\r\n",
    "a NUL": LINE.replace(b"192.0.2.9", b"192.0.2.9\0"),
    "no end in 107 bytes": b"PROXY UNKNOWN " + b"x" * (LONGEST_LINE - 14),
    "an end behind 107 bytes": b"PROXY UNKNOWN " + b"x" * (LONGEST_LINE - 15) + b"\r\n",
    "a version 1 in binary": binary(addresses(V4), command=0x11),
    "a version 3": binary(addresses(V4), command=0x31),
    "a command of its own": binary(addresses(V4), command=0x22),
    "a family of its own": binary(addresses(V4), kind=0x41),
    "a transport of its own": binary(addresses(V4), kind=0x13),
    "too short for IPv4": binary(addresses(V4)[:-1]),
    "too short for IPv6": binary(addresses(V4), kind=0x21),
    "too short for Unix": binary(bytes(215), kind=0x31),
    "longer than allowed": binary(b"", kind=0, length=LONGEST_HEADER - 15),
    "half a TLV": binary(addresses(V4) + b"\x04\x00"),
    "a TLV beyond the header": binary(addresses(V4) + b"\x04\x00\x01"),
    "an SSL TLV too short": binary(addresses(V4) + tlv(0x20, bytes(4))),
    "a TLV beyond the SSL one": binary(
        addresses(V4) + tlv(0x20, bytes(5) + b"\x21\x00\x08TLSv1.3") + tlv(4, b"")
    ),
    "a wrong checksum": checked(addresses(V4))[:-1] + b"\x01",
    "a changed address": checked(addresses(V4)).replace(bytes([192, 0, 2, 9]), bytes([6, 6, 6, 6])),
    "a checksum of another size": checked(addresses(V4), size=5),
    "two checksums": checked(addresses(V4) + tlv(3, bytes(4))),
}  # fmt: skip


# Parsing


@each_good
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n", SIGNATURE, b"\n", LINE])
def test_a_header_and_its_length(name: str, behind: bytes) -> None:
    header, said = GOOD[name]
    assert parse(header + behind, versions="auto") == (said, len(header))


@each_good
def test_more_is_asked_for_until_it_is_whole(name: str) -> None:
    header, _ = GOOD[name]
    for length in range(len(header)):
        assert parse(header[:length], versions="auto") is NEED_MORE


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_an_error(name: str) -> None:
    with pytest.raises(ProxyProtocolError):
        parse(BAD[name], versions="auto")


def test_it_is_said_as_soon_as_it_is_known() -> None:
    """A client that speaks HTTP must not have to send 107 bytes of it."""
    for first in (b"G", b"\x16", b"PROXX", b"\r\n\r\n\r", SIGNATURE[:-1] + b"X"):
        with pytest.raises(ProxyProtocolError, match="no PROXY header of either version"):
            parse(first, versions="auto")


@each_good
def test_only_the_version_that_is_wanted(name: str) -> None:
    header, said = GOOD[name]
    mine, other = ("v1", "v2") if name.startswith("v1") else ("v2", "v1")
    assert parse(header, versions=mine) == (said, len(header))
    with pytest.raises(ProxyProtocolError, match=f"no PROXY header of version {other[1]}"):
        parse(header[:1], versions=other)


def test_crc32c_is_castagnolis() -> None:
    """RFC 3720 §B.4, and the check value of the catalogues."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda rest: b"PROXY TCP4 " + rest)))
def test_anything_is_parsed_without_another_error(data: bytes) -> None:
    read_strictly(data)


@given(
    kind=st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x31, 0x41]),
    command=st.sampled_from([0x20, 0x21, 0x22]),
    tlvs=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 0x20, 0xEE]), st.binary(max_size=12)).map(
            lambda pair: tlv(*pair)
        ),
        max_size=4,
    ).map(b"".join),
    cut=st.integers(0, 20),
    behind=st.binary(max_size=20),
)
def test_binary_headers_of_all_kinds(kind: int, command: int, tlvs: bytes, cut: int, behind: bytes) -> None:
    room = {1: 12, 2: 36, 3: 216}.get(kind >> 4, 0)
    whole = binary((bytes(room) + tlvs)[: room + len(tlvs) - cut], kind=kind, command=command)
    read_strictly(whole + behind)


def read_strictly(data: bytes) -> None:
    """It is a header as it is, or the beginning of one, or none; the bytes behind it change nothing."""
    try:
        found = parse(data, versions="auto")
    except ProxyProtocolError:
        return
    if found is NEED_MORE:
        assert len(data) < LONGEST_HEADER
    else:
        _, length = found
        assert length <= len(data)
        assert parse(data[:length], versions="auto") == found
        for shorter in range(length):
            assert parse(data[:shorter], versions="auto") is NEED_MORE


@given(
    st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535), st.sampled_from([None, "http", "https"])
)
def test_what_is_written_is_read(host: Any, port: int, other: int, scheme: str | None) -> None:
    said = Proxied((str(host), port), (str(host), other), scheme)
    rest = addresses(said) + {None: b"", "http": NO_SSL, "https": SSL}[scheme]
    header = checked(rest, kind=0x11 if host.version == 4 else 0x21)
    read = parse(header, versions="v2")
    assert read == (as_the_library_writes_it(said), len(header))
    line = f"PROXY TCP{host.version} {host} {host} {port} {other}\r\n".encode()
    assert parse(line, versions="v1") == (as_the_library_writes_it(said)._replace(scheme=None), len(line))


def as_the_library_writes_it(said: Proxied) -> Proxied:
    """``ipaddress`` and inet_ntop differ in ::1.2.3.4."""

    def canonical(address: tuple[str, int] | None) -> tuple[str, int]:
        assert address is not None
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return socket.inet_ntop(family, socket.inet_pton(family, address[0])), address[1]

    return said._replace(client=canonical(said.client), server=canonical(said.server))


# From a socket

PATIENCE_S = 20.0
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """Run a coroutine on a loop of either kind, for a while at most."""
    loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
    yield lambda coroutine: loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE_S))
    loop.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: ours, which does not block, and the peer's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


Ends = tuple[socket.socket, socket.socket]


def left_in(sock: socket.socket) -> bytes:
    sock.settimeout(PATIENCE_S)
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(4096)
    return data


@each_good
def test_the_header_is_taken_and_nothing_else(run: Any, ends: Ends, name: str) -> None:
    ours, theirs = ends
    header, said = GOOD[name]
    theirs.sendall(header + HTTP)
    assert run(proxy_protocol.receive(ours, versions="auto")) == said
    assert left_in(ours) == HTTP


@pytest.mark.parametrize("name", ["v1", "v1, unknown", "v2", "v2, TLVs", "v2, local"])
def test_byte_by_byte(run: Any, ends: Ends, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a header is taken off the socket, or it would be readable all the time: a busy loop."""
    ours, theirs = ends
    header, said = GOOD[name]
    waits: list[int] = []
    wait = proxy_protocol._readable

    async def counted(sock: socket.socket) -> None:
        waits.append(1)
        await wait(sock)

    monkeypatch.setattr(proxy_protocol, "_readable", counted)

    async def drip() -> Proxied | None:
        receiving = asyncio.ensure_future(proxy_protocol.receive(ours, versions="auto"))
        for at in range(len(header)):
            while len(waits) <= at and not receiving.done():  # until it has read all that is there
                await asyncio.sleep(0)
            theirs.send(header[at : at + 1])
        theirs.sendall(HTTP)
        return await receiving

    assert run(drip()) == said
    assert len(waits) == len(header)
    assert left_in(ours) == HTTP


@pytest.mark.parametrize("name", ["HTTP", "line feed only", "a wrong checksum", "longer than allowed"])
def test_what_is_no_header_is_an_error(run: Any, ends: Ends, name: str) -> None:
    ours, theirs = ends
    theirs.sendall(BAD[name])
    with pytest.raises(ProxyProtocolError):
        run(proxy_protocol.receive(ours, versions="auto"))


def test_a_peer_that_goes_within_it(run: Any, ends: Ends) -> None:
    ours, theirs = ends
    theirs.sendall(LINE[:20])
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ProxyProtocolError, match="ended within its PROXY header"):
        run(proxy_protocol.receive(ours, versions="auto"))


def test_a_peer_that_only_looks_whether_we_are_there(run: Any, ends: Ends) -> None:
    """Health checks of the transport: nothing to say in a log."""
    ours, theirs = ends
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        run(proxy_protocol.receive(ours, versions="auto"))


def test_it_can_be_cancelled_and_leaves_no_reader(run: Any, ends: Ends) -> None:
    ours, theirs = ends

    async def cancel() -> None:
        receiving = asyncio.ensure_future(proxy_protocol.receive(ours, versions="auto"))
        theirs.sendall(LINE[:5])
        await asyncio.sleep(0.01)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert not asyncio.get_running_loop().remove_reader(ours.fileno())

    run(cancel())


# Who may send one


def from_trusted(sock: socket.socket, trusts: Callable[[Any], bool]) -> Any:
    return proxy_protocol.receive_from_trusted(sock, versions="auto", trusts=trusts)


def test_a_trusted_peers_is_received(run: Any, ends: Ends) -> None:
    ours, theirs = ends
    asked: list[Any] = []
    theirs.sendall(LINE + HTTP)
    assert run(from_trusted(ours, lambda peer: asked.append(peer) is None)) == V4
    assert asked == [theirs.getsockname()]


def test_nobody_elses_is(run: Any, ends: Ends) -> None:
    ours, theirs = ends
    theirs.sendall(LINE + HTTP)
    with pytest.raises(ProxyProtocolError, match="--forwarded-allow-ips"):
        run(from_trusted(ours, lambda peer: False))


def test_a_peer_on_a_unix_socket_has_no_address(run: Any) -> None:
    asked: list[Any] = []
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ours.setblocking(False)
    with ours, theirs:
        theirs.sendall(GOOD["v2"][0])
        assert run(from_trusted(ours, lambda peer: asked.append(peer) is None)) == V4
    assert asked == [None]


def test_the_longest_header_arrives_in_pieces(run: Any, ends: Ends) -> None:
    ours, theirs = ends
    header = binary(addresses(V4) + tlv(4, os.urandom(LONGEST_HEADER - 16 - 12 - 3)))
    assert len(header) == LONGEST_HEADER

    async def in_pieces() -> Proxied | None:
        receiving = asyncio.ensure_future(proxy_protocol.receive(ours, versions="v2"))
        for at in range(0, len(header), 1000):
            theirs.sendall(header[at : at + 1000])
            await asyncio.sleep(0.001)
        theirs.sendall(HTTP)
        return await receiving

    assert run(in_pieces()) == V4
    assert left_in(ours) == HTTP
