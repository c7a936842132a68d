"""What a proxy's fields do to a scope, and what they must not; Uvicorn's middleware beside ours."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from shardserve.asgi import forwarded, forwarded_fields
from shardserve.asgi.forwarded import ProxyHeaders
from shardserve.asgi.trust import Trust

PEER = ("127.0.0.1", 40000)
ALL_X = tuple(f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "prefix"))
BROWSER = [(b"host", b"internal:8000"), (b"accept", b"*/*")]


def scope_with(*headers: tuple[str, str], websocket: bool = False, **changes: Any) -> dict[str, Any]:
    return {
        "type": "websocket" if websocket else "http",
        "scheme": "ws" if websocket else "http",
        "client": PEER,
        "server": ("10.0.0.2", 8000),
        "root_path": "",
        "path": "/x y",
        "raw_path": b"/x%20y",
        "headers": BROWSER + [(name.encode(), value.encode("latin-1")) for name, value in headers],
        **changes,
    }


def applied(
    *headers: tuple[str, str], trust: str | None = None, read: tuple[str, ...] = ALL_X, **scope: Any
) -> dict[str, Any]:
    """The scope that an app gets."""
    made = scope_with(*headers, **scope)
    ProxyHeaders(Trust(trust), read).apply(made)
    return made


def xff(*values: str, trust: str | None = None) -> Any:
    return applied(*[("x-forwarded-for", value) for value in values], trust=trust)["client"]


def rfc(*values: str, trust: str | None = None, **scope: Any) -> dict[str, Any]:
    lines = [("forwarded", value) for value in values]
    return applied(*lines, trust=trust, read=("forwarded", "x-forwarded-prefix"), **scope)


# Who the client is


def test_one_proxy() -> None:
    assert xff("203.0.113.9") == ("203.0.113.9", 0)
    assert xff("203.0.113.9:4711") == ("203.0.113.9", 4711)
    assert xff("2001:db8::9") == ("2001:db8::9", 0)
    assert xff("[2001:db8::9]:4711") == ("2001:db8::9", 4711)


def test_what_a_client_sent_itself_is_not_believed() -> None:
    assert xff("127.0.0.1, 6.6.6.6, 203.0.113.9") == ("203.0.113.9", 0)
    assert xff("127.0.0.1", "203.0.113.9") == ("203.0.113.9", 0)
    assert xff("nonsense\t,,;, 203.0.113.9") == ("203.0.113.9", 0)


def test_trusted_hops_are_walked_over_from_the_right() -> None:
    trust = "127.0.0.1, 10.0.0.0/8, 2001:db8::/32"
    assert xff("6.6.6.6, 203.0.113.9, 10.1.2.3,[2001:db8::7]:443, 10.9.9.9:80", trust=trust) == (
        "203.0.113.9",
        0,
    )


def test_if_all_are_trusted_it_is_the_left_most() -> None:
    assert xff("10.0.0.5, 10.0.0.6", "10.0.0.7", trust="10.0.0.0/8") == ("10.0.0.5", 0)


def test_if_everybody_is_trusted_it_is_the_left_most() -> None:
    assert xff("203.0.113.9, 6.6.6.6", "7.7.7.7", trust="*") == ("203.0.113.9", 0)
    for others in ("for=6.6.6.6", "for=unknown", "for=_hidden"):
        assert rfc(f"for=203.0.113.9, {others}", "for=7.7.7.7", trust="*")["client"] == ("203.0.113.9", 0)


@pytest.mark.parametrize(
    "value",
    ["", " ", ",", "203.0.113.9,", "203.0.113.9, ", "nonsense", "1.2.3", "1.2.3.4:99999", "[::1", "x" * 9000],
)
def test_a_malformed_hop_leaves_the_peer(value: str) -> None:
    assert xff(value) == PEER
    assert xff(f"203.0.113.9, {value}, 10.0.0.7", trust="10.0.0.7") == PEER


@pytest.mark.parametrize("value", ["unknown", "_hidden", "_hidden:_port", "unix:"])
def test_a_client_that_is_not_told_is_none(value: str) -> None:
    assert xff(value) is None
    assert xff(f"203.0.113.9, {value}, 10.0.0.7", trust="10.0.0.7") is None
    if value != "unix:":
        assert rfc(f'for="{value}"')["client"] is None


def test_a_hop_over_a_unix_socket_is_trusted_as_such() -> None:
    """nginx writes ``unix:`` for a client on a Unix socket, another proxy on the host."""
    assert xff("203.0.113.9, unix:", trust="unix") == ("203.0.113.9", 0)


def test_a_trusted_name_is_walked_over() -> None:
    assert xff("203.0.113.9, lb.example", trust="lb.example") == ("203.0.113.9", 0)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """What a function of forwarded_fields was given from now on."""
    seen: list[str] = []
    real = getattr(forwarded_fields, name)
    monkeypatch.setattr(forwarded_fields, name, lambda text: (seen.append(text), real(text))[1])
    return seen


def test_each_hop_is_read_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them trusted, so all are walked."""
    hops = counted(monkeypatch, "hop")
    assert xff("127.0.0.1," * 10_000 + "127.0.0.1") == ("127.0.0.1", 0)
    assert len(hops) == 10_001
    elements = counted(monkeypatch, "_element")
    assert rfc(",".join(["for=127.0.0.1"] * 10_000))["client"] == ("127.0.0.1", 0)
    assert len(elements) == 10_000


def test_what_is_not_on_the_way_to_the_client_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    hops = counted(monkeypatch, "hop")
    assert xff("6.6.6.6," * 10_000 + "203.0.113.9") == ("203.0.113.9", 0)
    assert xff("203.0.113.10" + ",6.6.6.6" * 10_000, trust="*") == ("203.0.113.10", 0)
    assert hops == ["203.0.113.9", "203.0.113.10"]


def test_a_malformed_forwarded_costs_no_more_than_its_longest_element(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elements = counted(monkeypatch, "_element")
    rfc('for="' + "," * 60_000)
    assert len(elements) <= forwarded_fields.LONGEST_ELEMENT + 1


# Forwarded


def test_proto_and_host_are_those_of_the_element_that_names_the_client() -> None:
    scope = rfc(
        "for=6.6.6.6;proto=http;host=evil.example, for=203.0.113.9;proto=https;host=good.example",
        "for=10.0.0.7;proto=http;host=inner.example",
        trust="10.0.0.7",
    )
    assert scope["client"] == ("203.0.113.9", 0)
    assert scope["scheme"] == "https"
    assert scope["headers"][0] == (b"host", b"good.example")
    assert scope["server"] == ("good.example", 443)


def test_an_element_that_does_not_name_its_client_ends_the_walk() -> None:
    scope = rfc("for=6.6.6.6;host=evil.example, proto=https")
    assert scope["client"] == PEER
    assert scope["scheme"] == "https"
    assert (
        scope["headers"] == scope_with(("forwarded", "for=6.6.6.6;host=evil.example, proto=https"))["headers"]
    )


@pytest.mark.parametrize(
    "value",
    ["for=nonsense;proto=https", "for=203.0.113.9;proto=ftp", "for=203.0.113.9;proto=https;host=a/b", "",
     "a;b", "for=203.0.113.9;proto=https;for=6.6.6.6", 'for="203.0.113.9;proto=https'],
)  # fmt: skip
def test_a_malformed_element_is_ignored_as_a_whole(value: str) -> None:
    assert rfc(value) == scope_with(("forwarded", value))


def test_a_malformed_element_behind_trusted_ones_is_ignored_with_them() -> None:
    value = "for=203.0.113.9;by=!, for=10.0.0.7;proto=https"
    assert rfc(value, trust="10.0.0.7") == scope_with(("forwarded", value))


# Scheme


@pytest.mark.parametrize(
    ("value", "http", "websocket"),
    [("https", "https", "wss"), ("http", "http", "ws"), ("wss", "https", "wss"), ("ws", "http", "ws"),
     (" https\t", "https", "wss"), ("HTTPS", "https", "wss"), ("gopher", "http", "ws"), ("", "http", "ws"),
     ("https,http", "http", "ws")],
)  # fmt: skip
def test_the_scheme_fits_the_scope(value: str, http: str, websocket: str) -> None:
    assert applied(("x-forwarded-proto", value))["scheme"] == http
    assert applied(("x-forwarded-proto", value), websocket=True)["scheme"] == websocket


def test_forwarded_makes_a_websocket_secure() -> None:
    assert rfc("for=203.0.113.9;proto=https", websocket=True)["scheme"] == "wss"


def test_of_two_lines_the_proxys_is_the_last() -> None:
    assert applied(("x-forwarded-proto", "https"), ("x-forwarded-proto", "http"))["scheme"] == "http"


# Host and port


def host_and_server(*headers: tuple[str, str], **how: Any) -> tuple[Any, Any]:
    scope = applied(*headers, **how)
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    assert len(hosts) <= 1
    return (hosts[0].decode() if hosts else None), scope["server"]


@pytest.mark.parametrize(
    ("sent", "host", "server"),
    [
        ({"host": "example.com"}, "example.com", ("example.com", 80)),
        ({"host": "example.com", "proto": "https"}, "example.com", ("example.com", 443)),
        ({"host": "example.com:8443", "proto": "https"}, "example.com:8443", ("example.com", 8443)),
        ({"host": "example.com:443", "proto": "https"}, "example.com:443", ("example.com", 443)),
        ({"host": "example.com:8443", "port": "443"}, "example.com:8443", ("example.com", 8443)),
        ({"host": "example.com", "port": "8443"}, "example.com:8443", ("example.com", 8443)),
        ({"host": "example.com", "port": "443", "proto": "https"}, "example.com", ("example.com", 443)),
        ({"host": "[2001:db8::1]:81"}, "[2001:db8::1]:81", ("2001:db8::1", 81)),
        ({"port": "8443"}, "internal:8443", ("internal", 8443)),
        ({"port": "443", "proto": "https"}, "internal", ("internal", 443)),
        ({"host": "evil.example, example.com"}, "example.com", ("example.com", 80)),
        ({"host": "a/b"}, "internal:8000", ("10.0.0.2", 8000)),
        ({"host": ""}, "internal:8000", ("10.0.0.2", 8000)),
        ({"port": "99999"}, "internal:8000", ("10.0.0.2", 8000)),
        ({"host": "a/b", "port": "81"}, "internal:81", ("internal", 81)),
    ],
)
def test_host_and_port(sent: dict[str, str], host: str, server: tuple[str, int]) -> None:
    headers = [(f"x-forwarded-{name}", value) for name, value in sent.items()]
    assert host_and_server(*headers) == (host, server)


def test_a_websocket_has_the_ports_of_its_scheme() -> None:
    headers = (("x-forwarded-host", "example.com"), ("x-forwarded-proto", "https"))
    assert host_and_server(*headers, websocket=True) == ("example.com", ("example.com", 443))


def test_a_request_without_a_host() -> None:
    port = [(b"x-forwarded-port", b"81")]
    assert host_and_server(headers=port) == (None, ("10.0.0.2", 81))
    assert host_and_server(headers=port, server=("/run/x.sock", None)) == (None, ("/run/x.sock", None))
    named = [(b"x-forwarded-host", b"example.com"), *port]
    assert host_and_server(headers=named) == ("example.com:81", ("example.com", 81))


def test_the_servers_own_list_of_headers_is_left_alone() -> None:
    headers = [*BROWSER, (b"x-forwarded-host", b"example.com")]
    before = list(headers)
    scope = applied(headers=headers)
    assert headers == before
    assert scope["headers"] == [(b"host", b"example.com"), *before[1:]]


# Prefix


def test_a_prefix_is_put_before_everything() -> None:
    scope = applied(
        ("x-forwarded-prefix", "/caf%C3%A9/"), root_path="/app", path="/app/x", raw_path=b"/app/x"
    )
    assert scope["root_path"] == "/café/app"
    assert scope["path"] == "/café/app/x"
    assert scope["raw_path"] == b"/caf%C3%A9/app/x"


@pytest.mark.parametrize("value", ["", "/", "api", "//evil.example", "/a/../b", "/a,/b", "/a?b"])
def test_a_prefix_that_is_empty_or_malformed_changes_nothing(value: str) -> None:
    assert applied(("x-forwarded-prefix", value)) == scope_with(("x-forwarded-prefix", value))


def test_two_prefixes_are_none() -> None:
    """Traefik adds one for each that it takes off; a client could have sent the other."""
    two = (("x-forwarded-prefix", "/a"), ("x-forwarded-prefix", "/b"))
    assert applied(*two) == scope_with(*two)


# Which fields


def test_only_the_client_and_the_scheme_are_read_by_default() -> None:
    """Behind nginx as it is usually configured all the others are the client's own."""
    spoofed = [
        ("x-forwarded-host", "evil.example"), ("x-forwarded-port", "1"), ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=6.6.6.6;host=evil.example;proto=https"),
    ]  # fmt: skip
    scope = scope_with(*spoofed, ("x-forwarded-for", "203.0.113.9"))
    ProxyHeaders(Trust()).apply(scope)
    assert scope == scope_with(*spoofed, ("x-forwarded-for", "203.0.113.9"), client=("203.0.113.9", 0))


def test_with_forwarded_the_others_are_not_read() -> None:
    sent = [(name, "203.0.113.9") for name in ALL_X]
    assert applied(*sent, read=("forwarded",)) == scope_with(*sent)


def test_forwarded_and_a_prefix_go_together() -> None:
    scope = applied(
        ("forwarded", "for=203.0.113.9"),
        ("x-forwarded-prefix", "/a"),
        read=("forwarded", "x-forwarded-prefix"),
    )
    assert (scope["client"], scope["root_path"]) == (("203.0.113.9", 0), "/a")


def test_a_field_that_is_not_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shardserve.worker")
    proxy = ProxyHeaders(Trust())
    for _ in range(3):
        proxy.apply(scope_with(("x-forwarded-host", "example.com")))
    [line] = caplog.messages
    assert "127.0.0.1 sends x-forwarded-host" in line
    assert "--forwarded-fields" in line


def test_a_peer_that_is_not_trusted_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "shardserve.worker")
    proxy = ProxyHeaders(Trust())
    proxy.untrusted(("10.0.0.7", 5000), b"x-forwarded-for")
    proxy.untrusted(("10.0.0.8", 5000), b"forwarded")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "10.0.0.7 sends x-forwarded-for" in record.getMessage()
    assert record.getMessage().endswith("--forwarded-allow-ips 127.0.0.1,::1,10.0.0.7")


def test_so_is_one_on_a_unix_socket(caplog: pytest.LogCaptureFixture) -> None:
    ProxyHeaders(Trust("")).untrusted(None, b"forwarded")
    [line] = caplog.messages
    assert line.endswith("--forwarded-allow-ips unix")


def test_what_a_value_said_is_kept_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarded, "VALUES_KEPT", 8)
    proxy = ProxyHeaders(Trust())
    for n in range(100):
        scope = scope_with(("x-forwarded-for", f"203.0.113.{n}"))
        proxy.apply(scope)
        assert scope["client"] == (f"203.0.113.{n}", 0)
    assert 1 <= len(proxy._clients) <= 8
    proxy.apply(scope_with(("x-forwarded-for", "1.2.3.4," * 100)))
    assert all(len(value) < 256 for value in proxy._clients)


def test_a_value_that_is_known_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = ProxyHeaders(Trust())
    proxy.apply(scope_with(("x-forwarded-for", "203.0.113.9")))
    monkeypatch.setattr(forwarded_fields, "hop", None)  # whoever read it again would fail
    scope = scope_with(("x-forwarded-for", "203.0.113.9"))
    proxy.apply(scope)
    assert scope["client"] == ("203.0.113.9", 0)


# Uvicorn, side by side


def theirs(scope: dict[str, Any], trust: str) -> dict[str, Any]:
    """What the app gets behind Uvicorn's middleware."""

    async def app(inner: Any, receive: Any, send: Any) -> None:
        pass

    async def call() -> None:
        await ProxyHeadersMiddleware(app, trust)(scope, None, None)  # type: ignore[arg-type]

    asyncio.run(call())
    return scope


def both(
    headers: list[tuple[str, str]], trust: str = "127.0.0.1,::1", websocket: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    ours = scope_with(*headers, websocket=websocket)
    proxy = ProxyHeaders(Trust(trust))
    if proxy.trusts(ours["client"]):
        proxy.apply(ours)
    return ours, theirs(scope_with(*headers, websocket=websocket), trust)


HOPS = st.sampled_from(
    ["203.0.113.9", "6.6.6.6:80", "127.0.0.1", "127.0.0.1:5000", "::1", "[::1]", "[::1]:80", "10.0.0.7",
     "10.0.0.8:81", "2001:db8::9", "[2001:DB8::9]:443", "fd00::1", ""]
)  # fmt: skip
TRUSTED = st.sampled_from(
    [
        "127.0.0.1,::1",
        "127.0.0.1,10.0.0.0/8",
        "*",
        "127.0.0.0/8, fd00::/8,::1",
        "10.0.0.7",
        "",
        "127.0.0.1,2001:db8::9",
    ]
)
LINES = st.lists(st.lists(HOPS, min_size=1, max_size=5).map(", ".join), max_size=3)
SCHEMES = st.lists(st.sampled_from(["http", "https", "ftp", "https,http", ""]), max_size=2)


@given(lines=LINES, schemes=SCHEMES, trust=TRUSTED, websocket=st.booleans())
@example(lines=["203.0.113.9, "], schemes=["https"], trust="*", websocket=True)
def test_uvicorn_makes_the_same_of_what_proxies_write(
    lines: list[str], schemes: list[str], trust: str, websocket: bool
) -> None:
    headers = [("x-forwarded-for", line) for line in lines]
    headers += [("x-forwarded-proto", scheme) for scheme in schemes]
    ours, expected = both(headers, trust, websocket)
    assert ours == expected


@given(
    line=st.one_of(
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=30),
        st.lists(st.sampled_from(["1.2.3.4", "::1", "[", "]", ":", ",", "80", "x", "_", "unknown", " "])).map(
            "".join
        ),
    ),
    trust=TRUSTED,
)
def test_of_anything_else_we_make_what_uvicorn_makes_or_nothing(line: str, trust: str) -> None:
    """A text that is no address may be a client's host there. Here the peer stays, or nobody is named."""
    ours, expected = both([("x-forwarded-for", line)], trust)
    assert ours["client"] in (expected["client"], PEER, None)


@pytest.mark.parametrize(
    ("headers", "websocket", "mine", "uvicorns"),
    [
        ([("x-forwarded-for", "nonsense")], False, {"client": PEER}, {"client": ("nonsense", 0)}),
        ([("x-forwarded-for", "unknown")], False, {"client": None}, {"client": ("unknown", 0)}),
        ([("x-forwarded-for", "1.2.3.4:99999")], False, {"client": PEER}, {"client": ("1.2.3.4", 99999)}),
        ([("x-forwarded-for", "6.6.6.6, ::ffff:127.0.0.1")], False, {"client": ("6.6.6.6", 0)},
         {"client": ("::ffff:127.0.0.1", 0)}),
        ([("x-forwarded-proto", "wss")], False, {"scheme": "https"}, {"scheme": "wss"}),
        ([("x-forwarded-proto", "HTTPS")], False, {"scheme": "https"}, {"scheme": "http"}),
    ],
)  # fmt: skip
def test_deviations_from_uvicorn(
    headers: list[tuple[str, str]], websocket: bool, mine: dict[str, Any], uvicorns: dict[str, Any]
) -> None:
    """Each row of docs/deviations.md. A row that fails on Uvicorn's side is one to strike out there."""
    ours, expected = both(headers, websocket=websocket)
    assert ours == scope_with(*headers, websocket=websocket) | mine
    assert expected == scope_with(*headers, websocket=websocket) | uvicorns
