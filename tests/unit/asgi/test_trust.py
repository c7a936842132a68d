"""Who is trusted: each kind of entry, each way to write an address, and Uvicorn's answer beside ours."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import _TrustedHosts

from shardserve.asgi import trust
from shardserve.asgi.trust import Trust


def trusts(entries: str | list[str] | None, host: str) -> bool:
    return Trust(entries).trusts((host, 4711))


def test_a_proxy_on_the_same_host_is_trusted_by_default() -> None:
    assert trusts(None, "127.0.0.1")
    assert trusts(None, "::1")
    assert not trusts(None, "127.0.0.2")
    assert not Trust(None).trusts(None)


@pytest.mark.parametrize("host", ["10.0.0.7", "10.255.0.1", "2001:db8::1", "2001:0DB8:0::1", "192.0.2.9"])
def test_addresses_and_networks(host: str) -> None:
    assert trusts("10.0.0.0/8, 192.0.2.9,2001:db8::/32", host)


@pytest.mark.parametrize(
    "host", ["11.0.0.7", "192.0.2.8", "2001:db9::1", "::", "", "10.0.0.7.", "10.0.0.07", "x"]
)
def test_others_are_not(host: str) -> None:
    assert not trusts("10.0.0.0/8, 192.0.2.9,2001:db8::/32", host)


def test_one_address_however_it_is_written() -> None:
    assert trusts("2001:0db8:0000::0001", "2001:db8::1")


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "10.0.0.7", "::ffff:10.0.0.7", "::ffff:10.0.0.0/104"])
def test_a_dual_stack_socket_sees_ipv4_clients_as_ipv6(entry: str) -> None:
    assert trusts(entry, "::ffff:10.0.0.7")
    assert trusts(entry, "10.0.0.7")
    assert not trusts(entry, "::ffff:11.0.0.7")


def test_all_of_ipv6_is_not_ipv4() -> None:
    assert trusts("::/0", "2001:db8::1")
    assert not trusts("::/0", "::ffff:10.0.0.7")
    assert not trusts("0.0.0.0/0", "2001:db8::1")
    assert trusts("0.0.0.0/0", "::ffff:10.0.0.7")


def test_unix_is_for_peers_without_an_address() -> None:
    assert Trust("unix").trusts(None)
    assert Trust("10.0.0.1, unix").trusts(None)
    assert not Trust("10.0.0.1").trusts(None)
    assert not trusts("unix", "10.0.0.1")


def test_a_star_is_everybody() -> None:
    everybody = Trust("*")
    assert everybody.trusts(None)
    assert everybody.trusts(("203.0.113.5", 1))
    assert everybody.trusts_host("anything")


def test_a_star_among_others_is_only_a_name() -> None:
    """As in Uvicorn: a list must not trust everybody because of something in its midst."""
    assert not trusts("10.0.0.1,*", "203.0.113.5")
    assert not Trust("10.0.0.1,*").trusts(None)


@pytest.mark.parametrize("entries", ["", ",", "10.0.0.1/8", "10.0.0.0/33", "300.0.0.1", "10.0.0.1:80"])
def test_what_is_no_address_trusts_none(entries: str) -> None:
    assert not trusts(entries, "10.0.0.1")
    assert not Trust(entries).trusts(None)
    assert not trusts(entries, "")


def test_a_name_is_compared_as_it_is_written() -> None:
    named = Trust("lb.example, 10.0.0.1")
    assert named.trusts_host("lb.example")
    assert not named.trusts_host("LB.example")


def test_a_list_is_as_good_as_text() -> None:
    assert trusts(["10.0.0.0/8", "::1"], "10.1.2.3")
    assert Trust(["*"]).everybody


def test_answers_are_kept_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "ANSWERS_KEPT", 8)
    one = Trust("10.0.0.0/24")
    for n in range(100):
        assert one.trusts((f"10.0.0.{n}", 1))
        assert not one.trusts((f"10.0.1.{n}", 1))
    assert 1 <= len(one._answers) <= 8
    assert not one.trusts_host("x" * 1000)
    assert "x" * 1000 not in one._answers


def test_an_answer_is_looked_up_and_not_found_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Trust("10.0.0.1")
    assert one.trusts(("10.0.0.1", 1))
    monkeypatch.setattr(trust, "address_of", None)  # whoever asked again would fail
    assert one.trusts(("10.0.0.1", 2))


ADDRESSES = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.sampled_from(["10.0.0.1", "10.0.0.9", "127.0.0.1", "::1", "fd00::1"]).map(ipaddress.ip_address),
).filter(lambda one: one.version == 4 or one.ipv4_mapped is None)  # type: ignore[union-attr]
NETWORKS = st.sampled_from(
    ["10.0.0.0/8", "10.0.0.0/29", "127.0.0.0/8", "::1/128", "fd00::/8", "0.0.0.0/0", "2000::/3", "10.0.0.1/8"]
)
ENTRIES = st.lists(
    st.one_of(ADDRESSES.map(str), NETWORKS, st.sampled_from(["*", "", "lb.example", "unix", "/run/x.sock"])),
    max_size=4,
)


@given(
    entries=ENTRIES,
    hosts=st.lists(st.one_of(ADDRESSES.map(str), st.text(max_size=12), ENTRIES.map(",".join))),
)
def test_uvicorn_answers_the_same(entries: list[str], hosts: list[str]) -> None:
    """But for IPv4 addresses mapped into IPv6, which it takes for IPv6."""
    text = ",".join(entries)
    ours, theirs = Trust(text), _TrustedHosts(text)
    for host in [*hosts, *entries]:
        if host:  # they trust an empty name for "*" only; no peer has one
            assert ours.trusts_host(host) == (host in theirs), (text, host)
