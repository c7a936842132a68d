"""The first bytes of TLS connections: real ones, cut ones, and noise."""

from __future__ import annotations

import ssl
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardserve.net import client_hello
from shardserve.net.client_hello import MAX_BYTES, Incomplete, server_name


def hello(name: str | None, *, alpn: list[str] | None = None, tls_1_2: bool = False) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls_1_2:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(alpn)
    sent = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return sent.read()


def in_records(data: bytes, *cuts: int) -> bytes:
    """The same message, in several records."""
    message, ends = data[5:], sorted({0, *cuts, len(data) - 5})
    return b"".join(
        data[:3] + (end - begin).to_bytes(2, "big") + message[begin:end] for begin, end in pairwise(ends)
    )


@pytest.mark.parametrize("tls_1_2", [False, True])
@pytest.mark.parametrize("alpn", [None, ["h2", "http/1.1"]])
def test_the_name_that_is_asked_for(tls_1_2: bool, alpn: list[str] | None) -> None:
    assert server_name(hello("www.example.org", alpn=alpn, tls_1_2=tls_1_2)) == "www.example.org"
    assert server_name(hello(None, alpn=alpn, tls_1_2=tls_1_2)) is None
    assert server_name(hello("127.0.0.1")) is None  # RFC 6066 §3: addresses are not sent


def test_case_does_not_matter() -> None:
    data = hello("www.example.org").replace(b"www.example.org", b"WWW.Example.ORG")
    assert server_name(data) == "www.example.org"


def test_every_beginning_is_incomplete() -> None:
    data = hello("www.example.org")
    for end in range(len(data)):
        with pytest.raises(Incomplete):
            server_name(data[:end])
    assert server_name(data + b"what follows") == "www.example.org"


@given(cuts=st.lists(st.integers(1, 200), max_size=6))
def test_a_message_in_several_records(cuts: list[int]) -> None:
    data = in_records(hello("www.example.org"), *cuts)
    assert server_name(data) == "www.example.org"
    with pytest.raises(Incomplete):
        server_name(data[:-1])


@pytest.mark.parametrize("name", [b"", b"\xff.org", b"x" * 256])
def test_a_name_that_is_none(name: bytes) -> None:
    assert server_name(with_name(name)) is None


def test_the_longest_name() -> None:
    assert server_name(with_name(b"x" * 255)) == "x" * 255


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x2e\x01\x00\x02",  # SSLv2
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\x40\x01" + bytes(100),  # longer than a record may be
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a ServerHello
        b"\x15\x03\x01\x00\x02\x02\x28",  # an alert
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",  # longer than we read
        hello("www.example.org")[:60] + b"\x16",
    ],
    ids=lambda data: data[:9].hex(),  # a whole one is another each time
)
def test_what_is_none_has_no_name(data: bytes) -> None:
    try:
        assert server_name(data) is None
    except Incomplete:
        assert data[0] == 0x16  # the rest may come


def test_more_than_the_limit_is_not_waited_for() -> None:
    record = b"\x16\x03\x01\x00\x10" + bytes([1, 0, 0x3F, 0]) + bytes(12)
    endless = record + b"\x16\x03\x01\x00\x01\x00" * MAX_BYTES
    with pytest.raises(Incomplete):
        server_name(endless[: MAX_BYTES - 1])
    assert server_name(endless[:MAX_BYTES]) is None


@given(data=st.binary(max_size=400))
def test_noise(data: bytes) -> None:
    try:
        assert server_name(data) is None
    except Incomplete:
        assert data[:1] in (b"", b"\x16")


@given(at=st.integers(0, 516), value=st.integers(0, 255))
def test_a_wrong_byte(at: int, value: int) -> None:
    data = bytearray(hello("www.example.org"))
    data[at % len(data)] = value
    try:
        found = server_name(bytes(data))
    except Incomplete:
        return
    assert found is None or len(found) <= 255


def test_tls_begins_with_a_handshake_record() -> None:
    assert client_hello.is_tls(hello(None)[:1])
    assert not client_hello.is_tls(b"GET")


def with_name(name: bytes) -> bytes:
    """A ClientHello with this in its server_name extension."""
    entry = b"\x00" + len(name).to_bytes(2, "big") + name
    body = len(entry).to_bytes(2, "big") + entry
    extension = b"\x00\x00" + len(body).to_bytes(2, "big") + body
    extensions = len(extension).to_bytes(2, "big") + extension
    message = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + extensions
    handshake = b"\x01" + len(message).to_bytes(3, "big") + message
    return b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake
