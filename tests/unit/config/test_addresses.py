"""The forms of ``bind``."""

from __future__ import annotations

import pytest

from shardserve.config.addresses import Bind, FdBind, TcpBind, UnixBind, parse_bind, parse_syslog


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8000", TcpBind("127.0.0.1", 8000)),
        ("localhost:0", TcpBind("localhost", 0)),
        (":65535", TcpBind("", 65535)),
        ("[::1]:8000", TcpBind("::1", 8000)),
        ("[fe80::1%eth0]:80", TcpBind("fe80::1%eth0", 80)),
        ("unix:/run/a.sock", UnixBind("/run/a.sock", 0o666)),
        ("unix:///run/a.sock", UnixBind("/run/a.sock", 0o666)),
        ("unix:a.sock", UnixBind("a.sock", 0o666)),
        ("fd://3", FdBind(3)),
    ],
)
def test_parse(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


def test_the_mode_is_the_callers() -> None:
    assert parse_bind("unix:/a", uds_mode=0o600) == UnixBind("/a", 0o600)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not an address"),
        ("localhost", "is not an address"),
        ("http://localhost:80", "is not an address"),
        ("a b:80", "is not an address"),
        ("localhost:", "no port from 0 to 65535"),
        ("localhost:http", "no port from 0 to 65535"),
        ("localhost:65536", "no port from 0 to 65535"),
        ("localhost:-1", "no port from 0 to 65535"),
        ("[::1]", "ambiguous"),
        ("::1:8000", "brackets"),
        ("[]:80", "is not an address"),
        ("unix:", "needs a path"),
        ("unix:" + "x" * 108, "at most 107 bytes"),
        ("fd://", "names no file descriptor"),
        ("fd://-1", "names no file descriptor"),
        ("fd://x", "names no file descriptor"),
    ],
)
def test_parse_refuses(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_bind(text)
    assert complaint in str(raised.value)


@pytest.mark.parametrize("text", ["127.0.0.1:8000", "[::1]:8000", ":80", "unix:/a", "fd://3"])
def test_str_is_what_was_written(text: str) -> None:
    assert str(parse_bind(text)) == text


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("syslog:", "/dev/log"),
        ("syslog:/run/a:1.sock", "/run/a:1.sock"),
        ("syslog:logs.example.org", ("logs.example.org", 514)),
        ("syslog:10.0.0.1:5514", ("10.0.0.1", 5514)),
        ("syslog:[::1]", ("::1", 514)),
        ("syslog:[::1]:1", ("::1", 1)),
    ],
)
def test_places_of_syslog(text: str, place: object) -> None:
    assert parse_syslog(text) == place


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("syslog:::1", "is no place of syslog"),
        ("syslog:[]", "is no place of syslog"),
        ("syslog:a b", "is no place of syslog"),
        ("syslog:host:", "is no place of syslog"),
        ("syslog:host:x", "is no place of syslog"),
        ("syslog:relative/path", "is no place of syslog"),
        ("syslog:host:0", "no port from 1 to 65535"),
        ("syslog:host:65536", "no port from 1 to 65535"),
        ("syslog:/" + "x" * 107, "at most 107 bytes"),
    ],
)
def test_no_places_of_syslog(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_syslog(text)
    assert complaint in str(raised.value)
