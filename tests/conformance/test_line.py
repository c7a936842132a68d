"""Request lines from tables: every byte value at every place, every form of a target (RFC 9112 §3).

What is right follows from the grammar in tests/helpers/abnf.py. Where the server knowingly differs, LENIENT
says so, and docs/deviations.md why.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest

from tests.helpers.abnf import (
    ABSOLUTE_FORM,
    DIGIT,
    ORIGIN_FORM,
    PCHAR,
    REG_NAME,
    TCHAR,
    VCHAR,
    is_host,
)
from tests.helpers.verdicts import CLOSED, KEPT, Court, Verdict, differing, field_of, request, without

HEAD = b"\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
VERSION = b" HTTP/1.1"
REST = VERSION + HEAD

# RFC 3986 has no place for these, and httptools lets them pass: docs/deviations.md.
LENIENT = b'"<>[\\]^`{|}'
PATH = PCHAR + b"/" + LENIENT
# RFC 9112 §3.2.1: absolute-path [ "?" query ]
TARGET = PATH + b"?"

# The place → what stands before the byte, what behind it, and the values that are right there.
PLACES = {
    "in front of the method (RFC 9112 §3.1)": (b"", b"GET /x" + REST, TCHAR),
    "as the method": (b"", b" /x" + REST, TCHAR),
    "inside the method": (b"GE", b"T /x" + REST, TCHAR),
    "behind the method": (b"GET", b" /x" + REST, TCHAR),
    "behind blank lines (RFC 9112 §2.2)": (b"\r\n\r\n", b"GET /x" + REST, TCHAR),
    "inside a blank line": (b"\r", b"\nGET /x" + REST, b""),
    "as the LF of a blank line": (b"\r", b"GET /x" + REST, b"\n"),
    "between method and target (RFC 9112 §3)": (b"GET", b"/x" + REST, b" "),
    "in front of the target": (b"GET ", b"/x" + REST, b"/"),
    "as the target (RFC 9112 §3.2)": (b"GET ", REST, b"/"),
    "as the target of OPTIONS (RFC 9112 §3.2.4)": (b"OPTIONS ", REST, b"/*"),
    "behind an asterisk": (b"OPTIONS *", REST, b""),
    "in the path (RFC 9112 §3.2.1)": (b"GET /x", b"41" + REST, TARGET),
    "behind the path": (b"GET /x", REST, TARGET),
    "in the query": (b"GET /x?y", b"41" + REST, TARGET),
    "behind the query": (b"GET /x?y", REST, TARGET),
    "behind a percent sign": (b"GET /x%", b"1" + REST, TARGET),
    "in the scheme (RFC 9110 §4.2.1)": (b"GET ht", b"p://a/x" + REST, b"tT"),
    "behind http": (b"GET http", b"://a/x" + REST, b"sS"),
    "as the colon of http": (b"GET http", b"//a/x" + REST, b":"),
    "as a slash of http": (b"GET http:", b"/a/x" + REST, b"/"),
    "in front of the authority": (b"GET http://", b"41.a/x" + REST, REG_NAME),
    "in the authority (RFC 9112 §3.2.2)": (b"GET http://a", b"41/x" + REST, REG_NAME + b":/?"),
    "in the port": (b"GET http://a:4", b"1/x" + REST, DIGIT + b"/?"),
    "in the path of a URI": (b"GET http://a/x", b"41" + REST, TARGET),
    "in the query of a URI": (b"GET http://a?x", b"41" + REST, TARGET),
    "between target and version (RFC 9112 §3)": (b"GET /x", b"HTTP/1.1" + HEAD, b" "),
    "in front of the version": (b"GET /x ", b"HTTP/1.1" + HEAD, b""),
    "as H (RFC 9112 §2.3)": (b"GET /x ", b"TTP/1.1" + HEAD, b"H"),
    "as T": (b"GET /x H", b"TP/1.1" + HEAD, b"T"),
    "as the other T": (b"GET /x HT", b"P/1.1" + HEAD, b"T"),
    "as P": (b"GET /x HTT", b"/1.1" + HEAD, b"P"),
    "as the slash of the version": (b"GET /x HTTP", b"1.1" + HEAD, b"/"),
    "in front of the major version": (b"GET /x HTTP/", b"1.1" + HEAD, b""),
    "as the dot of the version": (b"GET /x HTTP/1", b"1" + HEAD, b"."),
    "behind the dot": (b"GET /x HTTP/1.", b"1" + HEAD, b""),
    "behind the version": (b"GET /x HTTP/1.1", HEAD, b""),
    "as the CR of the line (RFC 9112 §2.2)": (b"GET /x HTTP/1.1", HEAD[1:], b"\r"),
    "between CR and LF": (b"GET /x HTTP/1.1\r", HEAD[1:], b""),
    "as the LF of the line": (b"GET /x HTTP/1.1\r", HEAD[2:], b"\n"),
}


@pytest.mark.parametrize("place", PLACES, ids=[place.partition(" (")[0] for place in PLACES])
async def test_every_byte(place):
    before, behind, right = PLACES[place]
    assert await differing(lambda byte: before + byte + behind, (right, KEPT)) == {}


@pytest.mark.parametrize(("before", "behind", "right"), [(b"HTTP/", b".1", b"1"), (b"HTTP/1.", b"", b"01")])
async def test_every_byte_as_a_digit_of_the_version(before, behind, right):
    """RFC 9112 §2.3; RFC 9110 §15.6.6: a version that is one, but none of ours, is a 505."""
    found = await differing(
        lambda byte: b"GET /x " + before + byte + behind + HEAD, (without(DIGIT, right), 505), (right, KEPT)
    )
    assert found == {}


# Those of the registry, of WebDAV and others, of RTSP and ICE, and some of nobody.
METHODS = [
    "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LABEL",
    "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE",
    "OPTIONS", "ORDERPATCH", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PUT", "QUERY", "REBIND", "REPORT",
    "SEARCH", "TRACE", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF",
    "VERSION-CONTROL", "PURGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "SOURCE", "DESCRIBE",
    "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER", "REDIRECT",
    "RECORD", "FLUSH", "PRI", "BREW", "FOO", "get", "Post", "gEt", "HEADER", "GETT", "GE", "P", "1", "*",
    "HTTP", "HTTP1.1", "connect", "CONNECTS", "CONNEC",
]  # fmt: skip


# Framing → the bytes of the body "abc".
FRAMINGS = {
    b"X-A: 1": b"",
    b"Content-Length: 3": b"abc",
    b"Transfer-Encoding: chunked": b"3\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_every_method_reaches_the_app_as_it_is(framing):
    """RFC 9110 §9.1: a token, case-sensitive; which ones an app knows is its own affair."""
    with Court() as court:
        for method in {*METHODS, *(method.lower() for method in METHODS)}:
            line = method.encode() + b" /x HTTP/1.1"
            raw = request(b"Host: a", framing, line=line, body=FRAMINGS[framing])
            verdict = await court.judge(raw, at=len(method))
            assert verdict.outcome == KEPT, method
            assert verdict.scope is not None
            assert (verdict.scope["method"], verdict.scope["raw_path"]) == (method, b"/x")
            assert verdict.body == (b"abc" if FRAMINGS[framing] else b"")


async def test_a_method_of_any_length():
    """RFC 9112 §3.1: 501 for one longer than any that the server implements."""
    with Court() as court:
        for length in [*range(1, 70), 200, 5000]:
            verdict = await court.judge(b"M" * length + b" /x" + REST, at=length - 1)
            assert verdict.outcome == (KEPT if length <= 32 else 501), length


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_both_versions_are_told(version):
    with Court() as court:
        verdict = await court.judge(b"GET /x HTTP/" + version + b"\r\nHost: a\r\n\r\n", at=14)
    assert verdict.scope is not None
    assert verdict.scope["http_version"] == version.decode()
    assert verdict.outcome == (CLOSED if version == b"1.0" else KEPT)


class Target(NamedTuple):
    """What the app must see of a target: the raw path and query, and the host."""

    path: bytes
    query: bytes
    host: bytes


def read_target(text: bytes) -> Target | None:
    """RFC 9112 §3.2, for any method but OPTIONS and CONNECT; None: it is no target."""
    if any(char not in without(VCHAR, b"#") for char in text):
        return None
    if origin := ORIGIN_FORM.fullmatch(text):
        return Target(origin["path"], origin["query"] or b"", b"a")
    absolute = ABSOLUTE_FORM.fullmatch(text)
    if absolute is None or not is_host(absolute["authority"]):
        return None
    # RFC 9110 §4.2.3: an empty path is "/".
    return Target(absolute["path"] or b"/", absolute["query"] or b"", absolute["authority"])


SCHEMES = [b"", b"http:", b"https:", b"HttP:", b"ftp:", b"http", b"ws:", b"http:http:"]
SLASHES = [b"", b"/", b"//", b"///"]
AUTHORITIES = [
    b"", b"b", b"b.c:80", b"b:", b":80", b"b:8x", b"b:1:2", b"u@b", b"u:p@b:80", b"@b", b"b%2e", b"b%2",
    b"b%", b"192.0.2.1", b"[::1]", b"[2001:db8::a]:8080", b"[::1", b"::1]", b"[]", b"[v1.b]", b"[::1]b",
    b"b\\c", b"*",
]  # fmt: skip
PATHS = [
    b"", b"/", b"/x", b"?y", b"/x?y=/?", b"x", b"#f", b"/x#f", b"?y#f", b"//x//", b"/%", b"*", b"/@", b"?@",
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_every_form_of_a_target(scheme):
    """RFC 9112 §3.2: whatever is no target is a 400, whatever is one reaches the app as it is."""
    wrong = {}
    with Court() as court:
        for parts in itertools.product(SLASHES, AUTHORITIES, PATHS):
            text = scheme + b"".join(parts)
            verdict = await court.judge(b"GET " + text + REST, at=4 + len(scheme))
            found = seen_target(verdict)
            if (verdict.outcome, found) != (KEPT if read_target(text) else 400, read_target(text)):
                wrong[text] = verdict.outcome, found
    assert wrong == {}


def seen_target(verdict: Verdict) -> Target | None:
    if verdict.scope is None:
        return None
    (host,) = field_of(verdict.scope, b"host")
    return Target(verdict.scope["raw_path"], verdict.scope["query_string"], host)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"FOO", b"options", b"OPTION", b"OPTIONSS"])
async def test_the_asterisk_is_for_options_alone(method):
    """RFC 9112 §3.2.4"""
    with Court() as court:
        assert (await court.judge(method + b" *" + REST)).outcome == 400


@pytest.mark.parametrize("target", [b"a:443", b"a", b"[::1]:443", b"/", b"*", b"http://a/", b"a:443#b"])
async def test_connect_is_not_implemented(target):
    """RFC 9110 §9.3.6: for a server that is no proxy, whatever the target."""
    with Court() as court:
        assert (await court.judge(b"CONNECT " + target + REST, at=7)).outcome == 501


@pytest.mark.parametrize("limit", [32, 8192])
async def test_the_longest_line(limit):
    """RFC 9112 §3: 414 for a target that is too long; at least 8000 bytes are for everybody."""
    with Court(limit_request_line=limit) as court:
        lengths = (limit - 1, limit, limit + 1, limit + 2, limit + 3, 2 * limit, 20 * limit)
        for length, method, blank in itertools.product(lengths, (b"GET", b"FOO"), (b"", b"\r\n\r\n")):
            line = (method + b" /").ljust(length - len(VERSION), b"x") + VERSION
            verdict = await court.judge(blank + line + HEAD, at=min(length, limit))
            assert verdict.outcome == (KEPT if length <= limit else 414), length


async def test_a_line_that_ends_wrongly_at_the_limit():
    """What is too long is a 414 even if its end would be wrong, too; nothing depends on where it is cut."""
    with Court(limit_request_line=100) as court:
        for length in range(95, 110):
            raw = b"GET /".ljust(length, b"x") + b"\n"
            expected = 400 if length <= 101 else 414  # with its LF in the place of the CRLF's
            assert (await court.judge(raw, at=length - 1)).outcome == expected, length


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
async def test_any_number_of_blank_lines(count):
    """RFC 9112 §2.2: a server SHOULD ignore at least one. All of them: docs/deviations.md."""
    with Court() as court:
        assert (await court.judge(b"\r\n" * count + b"GET /x" + REST, at=count)).outcome == KEPT


def test_the_tables_are_whole():
    assert len(set(METHODS)) == len(METHODS) > 60
    assert set(TARGET) == set(VCHAR) - {ord("#")}  # so there is nothing else to be lenient about
