"""What one value says: the grammar of RFC 7239, hosts, ports, prefixes; and everything that is malformed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardserve.asgi import forwarded_fields as fields
from shardserve.asgi.forwarded_fields import LONGEST_ELEMENT, Authority, Element, Node

V4 = Node(("192.0.2.43", 0))


def from_the_right(line: str) -> list[Element | None]:
    return list(fields.elements(line))


def only(line: str) -> Element | None:
    [element] = from_the_right(line)
    return element


# Nodes


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("192.0.2.43", ("192.0.2.43", 0)),
        ("192.0.2.43:4711", ("192.0.2.43", 4711)),
        ("192.0.2.43:_port", ("192.0.2.43", 0)),
        ("[2001:db8::17]", ("2001:db8::17", 0)),
        ("[2001:DB8::17]:65535", ("2001:DB8::17", 65535)),
        ("[::ffff:10.0.0.1]:80", ("::ffff:10.0.0.1", 80)),
        ("unknown", None),
        ("UNKNOWN:80", None),
        ("_hidden", None),
        ("_SEVKISEK:_p", None),
    ],
)
def test_a_node(text: str, client: tuple[str, int] | None) -> None:
    assert fields.node(text) == Node(client)
    assert fields.hop(text) == Node(client)


@pytest.mark.parametrize(
    "text",
    ["", " ", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:+8",
     "1.2.3.4:123456", "1.2.3.4 ", "[1.2.3.4]", "[::1", "::1]", "[::1]x", "[::1]:", "[::1]:-1", "[]",
     "[:::]", "[fe80::1%eth0]", "_", "_h!", "unknown_", "localhost", "1.2.3.4\x00", "1.2.3.4\n",
     "١.٢.٣.٤", "é", "_" + "a" * 200, "1" * 5000],
)  # fmt: skip
def test_no_node(text: str) -> None:
    assert fields.node(text) is None
    assert fields.hop(text) is None


def test_x_forwarded_for_has_ipv6_without_brackets_and_unix() -> None:
    assert fields.hop("2001:db8::17") == Node(("2001:db8::17", 0))
    assert fields.hop("unix:") == Node(None)
    assert fields.hop("2001:db8::17::1") is None
    assert fields.node("2001:db8::17") is None
    assert fields.node("unix:") is None


# Hosts, ports, prefixes, schemes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("example.com", Authority("example.com", None)),
        ("example.com:8443", Authority("example.com", 8443)),
        ("ex_ample-1.com.", Authority("ex_ample-1.com.", None)),
        ("[2001:db8::1]:80", Authority("[2001:db8::1]", 80)),
        ("10.0.0.1", Authority("10.0.0.1", None)),
    ],
)
def test_a_host(text: str, found: Authority) -> None:
    assert fields.authority(text) == found


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a,b", "a/b", "a\\b", "a?b", "a#b", "a@b", "user:pass@b", "a:b", "a:", "a:0",
     "a:65536", ":80", "-a", ".a", "[::1", "[::g]", "[1.2.3.4]", "::1", "a\r\nx: y", "a\n", "a\x00",
     "é.example", "a%2eb", "a" * 300, '"a"', "<a>", "a;b"],
)  # fmt: skip
def test_no_host(text: str) -> None:
    assert fields.authority(text) is None


@pytest.mark.parametrize(
    ("text", "found"), [("80", 80), ("65535", 65535), ("0", None), ("65536", None), ("", None), ("+80", None)]
)
def test_a_port(text: str, found: int | None) -> None:
    assert fields.port(text) == found


@pytest.mark.parametrize("text", ["8 0", "٨٠", "²", "80a", "000080", "-1", "8_0", "1" * 5000])
def test_no_port(text: str) -> None:
    assert fields.port(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/", ("", b"")),
        ("/api", ("/api", b"/api")),
        ("/api/", ("/api", b"/api")),
        ("/a/b-c_d~e.f", ("/a/b-c_d~e.f", b"/a/b-c_d~e.f")),
        ("/caf%C3%A9", ("/café", b"/caf%C3%A9")),
        ("/a%20b", ("/a b", b"/a%20b")),
        ("/...", ("/...", b"/...")),
    ],
)
def test_a_prefix(text: str, found: tuple[str, bytes]) -> None:
    assert fields.prefix(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "api", "//evil.example", "/\\evil.example", "/%5Cevil", "/a//b", "/a%2fb", "//", "/..",
     "/a/../b", "/%2e%2e", "/./a", "/a?b", "/a#b", "/a b", "/a,/b", "/%0d%0a", "/a\r\n", "/a\x00",
     "/%00", "/%ff", "/%", "/%4", "/é", "http://evil/", "/%E2%80%AE", "/" + "a" * 2000],
)  # fmt: skip
def test_no_prefix(text: str) -> None:
    assert fields.prefix(text) is None


@pytest.mark.parametrize(
    ("text", "http", "websocket"),
    [("http", "http", "ws"), ("https", "https", "wss"), ("ws", "http", "ws"), ("wss", "https", "wss"),
     ("HTTPS", "https", "wss"), ("ftp", None, None), ("", None, None), ("https,http", None, None)],
)  # fmt: skip
def test_a_scheme(text: str, http: str | None, websocket: str | None) -> None:
    assert fields.scheme(text, websocket=False) == http
    assert fields.scheme(text, websocket=True) == websocket


# Forwarded


def test_the_examples_of_the_rfc() -> None:
    assert only('for="_gazonk"') == Element(Node(None), None, None)
    assert only('For="[2001:db8:cafe::17]:4711"') == Element(Node(("2001:db8:cafe::17", 4711)), None, None)
    assert only("for=192.0.2.60;proto=http;by=203.0.113.43") == Element(Node(("192.0.2.60", 0)), "http", None)
    assert from_the_right("for=192.0.2.43, for=198.51.100.17") == [
        Element(Node(("198.51.100.17", 0)), None, None),
        Element(V4, None, None),
    ]
    assert from_the_right('for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown')[0] == Element(
        Node(None), None, None
    )
    assert from_the_right("for=_hidden, for=_SEVKISEK") == [Element(Node(None), None, None)] * 2


@pytest.mark.parametrize(
    "line",
    ["for=192.0.2.43;host=a.example;proto=https", "PROTO=HTTPS;Host=a.example;FOR=192.0.2.43",
     'for="192.0.2.43";host="a.example";proto="https"',
     'for="192\\.0.2.43";host=a.example;proto=https;', ";;for=192.0.2.43;;host=a.example;proto=https",
     "  for=192.0.2.43; host=a.example ;proto=https\t",
     'for=192.0.2.43;host=a.example;proto=https;ext="a, b; c=\\"d\\""'],
)  # fmt: skip
def test_one_element_however_it_is_written(line: str) -> None:
    assert only(line) == Element(V4, "https", Authority("a.example", None))


def test_an_ipv6_host_and_a_port_are_quoted() -> None:
    assert only('host="[::1]:8443"') == Element(None, None, Authority("[::1]", 8443))
    assert only("host=[::1]:8443") is None


@pytest.mark.parametrize(
    "line",
    ["", " ", ";", "for", "for=", "=x", "for =192.0.2.43", "for= 192.0.2.43", "for=[::1]",
     "for=192.0.2.43:80", "for=2001:db8::1", 'for="2001:db8::1"', "for=1.2.3", "for=example.com",
     'for="192.0.2.43', 'for=192.0.2.43"', 'for="192.0.2.43"x', "for=192.0.2.43;for=192.0.2.43",
     "for=192.0.2.43;FOR=192.0.2.44", "for=192.0.2.43;proto=ftp", 'for=192.0.2.43;host="a b"',
     'for=192.0.2.43;host="a\x00"', "for=192.0.2.43 proto=http", 'for="\\"',
     "for=192.0.2.43;by=nonsense", "for=192.0.2.43\x0b", 'for=""', 'host=""', "for='192.0.2.43'"],
)  # fmt: skip
def test_malformed_as_a_whole(line: str) -> None:
    assert only(line) is None


def test_what_a_client_sent_cannot_swallow_what_a_proxy_appends() -> None:
    for sent in ('for="1.1.1.1', "for=", '"', "\\", 'for="a\\"', "a" * 5000):
        found = from_the_right(f"{sent}, for=192.0.2.43;proto=https")
        assert found[0] == Element(V4, "https", None), sent
        assert found[1:] == [None], sent


def test_a_quoted_comma_is_no_end() -> None:
    """A client chooses the host, and the proxy quotes it."""
    line = 'for=192.0.2.43;x="evil, for=6.6.6.6;host=evil.example"'
    assert from_the_right(f"for=10.0.0.1, {line}") == [
        Element(V4, None, None),
        Element(Node(("10.0.0.1", 0)), None, None),
    ]


def test_an_element_has_a_length() -> None:
    padding = "x" * (LONGEST_ELEMENT - len('for=192.0.2.43;y=""'))
    assert only(f'for=192.0.2.43;y="{padding}"') == Element(V4, None, None)
    assert only(f'for=192.0.2.43;y="{padding}12"') is None
    assert only(f'for=192.0.2.43;y="{padding}1,2"') is None
    assert only('for="' + "," * 60000) is None


TOKEN = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=6)
TEXT = st.text('\t !"#,;=\\[]~az09\x80\xff', max_size=12)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


EXTENSION = st.tuples(TOKEN.map(lambda name: "x" + name), st.one_of(TOKEN, TEXT.map(quoted))).map("=".join)
GOOD = st.tuples(
    st.ip_addresses(), st.lists(EXTENSION, max_size=3, unique_by=lambda pair: pair.split("=")[0].lower())
)


def written(element: tuple[Any, list[str]]) -> str:
    address, extensions = element
    node = str(address) if address.version == 4 else f'"[{address}]"'
    middle = len(extensions) // 2
    return ";".join([*extensions[:middle], f"for={node}", *extensions[middle:]])


@given(
    st.lists(GOOD, min_size=1, max_size=4),
    st.sampled_from([",", ", ", " , ", ",\t"]),
    st.one_of(st.just(""), TEXT, st.text(alphabet=st.characters(max_codepoint=255), max_size=20)),
)
def test_what_well_behaved_proxies_write_is_read_behind_anything(
    elements: list[tuple[Any, list[str]]], comma: str, junk: str
) -> None:
    line = comma.join([junk, *map(written, elements)])
    found = from_the_right(line)[: len(elements)]
    assert found == [Element(Node((str(one), 0)), None, None) for one, _ in reversed(elements)]


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_anything_is_read_without_an_error(text: str) -> None:
    """And what is accepted can be put into a header or a path."""
    for read in (fields.node, fields.hop, fields.port, from_the_right):
        read(text)
    authority, *prefixes = fields.authority(text), fields.prefix(text), fields.prefix(f"/{text}")
    if authority is not None:
        assert not set(authority.host) & set('\r\n\x00 ,/\\@"')
    for prefix in prefixes:
        assert prefix is None or (prefix[0][:2] != "//" and prefix[0].isprintable())


@given(
    st.lists(
        st.sampled_from(["for=", "192.0.2.1", '"', ",", ";", "\\", "[::1]", "x=", " ", "host=", "a"]),
        max_size=25,
    )
)
def test_pieces_in_any_order_are_read_without_an_error(pieces: list[str]) -> None:
    found = from_the_right("".join(pieces))
    assert found
    assert None not in found[:-1]
