"""Fields and chunks from tables: every byte value at every place, every way to frame a body (RFC 9112 §5-7).

What is right follows from the grammar in tests/helpers/abnf.py. Where the server knowingly differs, LENIENT
or STRICTER says so, and docs/deviations.md why.
"""

from __future__ import annotations

import itertools
import re

import pytest

from tests.helpers.abnf import (
    DIGIT,
    FIELD_VCHAR,
    HEXDIG,
    OWS,
    QDTEXT,
    QUOTED_PAIR,
    REG_NAME,
    TCHAR,
    is_host,
)
from tests.helpers.verdicts import CLOSED, KEPT, Court, Outcome, differing, field_of, request, without

HOST = b"Host: a"
LINE = b"GET /x HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /x HTTP/1.1"
CHUNKED = request(HOST, b"Transfer-Encoding: chunked", line=POST)
# RFC 9110 §5.5: field-content, with what may stand around it
VALUE = FIELD_VCHAR + OWS

# RFC 9112 §7.1.1 has whitespace (BWS) around ";" and "=" of an extension, §5.1 OWS around any value.
# httptools refuses the former, and a tab behind a coding: docs/deviations.md.
STRICTER_BWS = OWS
STRICTER_CODING = b"\t"
BWS = without(OWS, STRICTER_BWS)
# The name of an extension may be empty if ";" or "=" follows, and so may a value: docs/deviations.md.
LENIENT_NAME = b";"
LENIENT_VALUE = b";"
LENIENT_EQUALS = b"="


# Fields

# The place → what stands before the byte, what behind it, and the values that are right there.
PLACES = {
    "in front of the first name (RFC 9112 §2.2)": (b"GET /x HTTP/1.1\r\n", b"X: v\r\nHost: a\r\n\r\n", TCHAR),
    "in front of a name (RFC 9112 §5.2)": (LINE, b"X: v\r\n\r\n", TCHAR),
    "as the name (RFC 9110 §5.1)": (LINE, b": v\r\n\r\n", TCHAR),
    "inside the name": (LINE + b"X", b"Y: v\r\n\r\n", TCHAR + b":"),
    "between name and colon (RFC 9112 §5.1)": (LINE + b"X", b": v\r\n\r\n", TCHAR + b":"),
    "as the colon": (LINE + b"X", b"v\r\n\r\n", b":"),
    "behind the colon": (LINE + b"X:", b"v\r\n\r\n", VALUE),
    "as the value (RFC 9110 §5.5)": (LINE + b"X: ", b"\r\n\r\n", VALUE),
    "at the beginning of the value": (LINE + b"X: ", b"v\r\n\r\n", VALUE),
    "inside the value": (LINE + b"X: v", b"w\r\n\r\n", VALUE),
    "at the end of the value": (LINE + b"X: v", b"\r\n\r\n", VALUE),
    "behind whitespace": (LINE + b"X: v ", b"\r\n\r\n", VALUE),
    "as the CR of a field (RFC 9112 §2.2)": (LINE + b"X: v", b"\nY: v\r\n\r\n", b"\r"),
    "between CR and LF": (LINE + b"X: v\r", b"\nY: v\r\n\r\n", b""),
    "as the LF of a field": (LINE + b"X: v\r", b"Y: v\r\n\r\n", b"\n"),
    "as the CR of the last field": (LINE + b"X: v", b"\n\r\n", b"\r"),
    "as the CR of the empty line": (LINE + b"X: v\r\n", b"\n", b"\r"),
    "as the LF of the empty line": (LINE + b"X: v\r\n\r", b"", b"\n"),
    "in front of Host (RFC 9110 §7.2)": (b"GET /x HTTP/1.1\r\nHost: ", b"41\r\n\r\n", REG_NAME + OWS),
    "inside Host": (b"GET /x HTTP/1.1\r\nHost: a", b"41\r\n\r\n", REG_NAME + b":"),
    "behind Host": (b"GET /x HTTP/1.1\r\nHost: a", b"\r\n\r\n", without(REG_NAME, b"%") + b":" + OWS),
    "in front of the port": (b"GET /x HTTP/1.1\r\nHost: a:", b"1\r\n\r\n", DIGIT),
    "behind the port": (b"GET /x HTTP/1.1\r\nHost: a:1", b"\r\n\r\n", DIGIT + OWS),
    "behind a percent sign": (b"GET /x HTTP/1.1\r\nHost: a%", b"1\r\n\r\n", HEXDIG),
    "inside an address": (b"GET /x HTTP/1.1\r\nHost: [::", b"1]\r\n\r\n", HEXDIG),
    "behind an address": (b"GET /x HTTP/1.1\r\nHost: [::1]", b"\r\n\r\n", b":" + OWS),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=[place.partition(" (")[0] for place in PLACES])
async def test_every_byte_of_a_field(place):
    before, behind, right = PLACES[place]
    assert await differing(lambda byte: before + byte + behind, (right, KEPT)) == {}


@pytest.mark.parametrize(("before", "behind"), [(b"", b""), (b"", b"3"), (b"1", b"2"), (b"3", b"")])
async def test_every_byte_of_a_length(before, behind):
    """RFC 9110 §8.6: Content-Length = 1*DIGIT"""

    def make(byte: bytes) -> bytes:
        value = before + byte + behind
        body = b"x" * int(value) if value.isdigit() else b"abc"
        return request(HOST, b"Content-Length: " + value, line=POST, body=body)

    around = OWS if b"3" in before + behind else b""
    assert await differing(make, (DIGIT + around, KEPT)) == {}


async def test_every_value_reaches_the_app_as_it_is():
    """RFC 9110 §5.5: but for the whitespace around it, which is no part of it."""
    values = [bytes([a, b, c]) for a, b, c in itertools.product(b" \tA\xff:", VALUE, b" \tA\xff,")]
    with Court(limit_request_head=0) as court:
        for at in range(0, len(values), 50):
            some = values[at : at + 50]
            verdict = await court.judge(request(HOST, *[b"X:" + value for value in some]))
            assert verdict.scope is not None, some
            assert field_of(verdict.scope, b"x") == [value.strip(OWS) for value in some]


async def test_every_name_reaches_the_app_in_lower_case():
    """RFC 9110 §5.1: names are case-insensitive; ASGI has them in lower case."""
    names = [bytes([a, b, c]) for a, b, c in itertools.product(b"Xx1-", TCHAR, b"Yy2-")]
    with Court(underscore_headers="allow") as court:
        for at in range(0, len(names), 50):
            some = names[at : at + 50]
            verdict = await court.judge(request(HOST, *[name + b": v" for name in some]))
            assert verdict.scope is not None, some
            assert [name for name, _ in verdict.scope["headers"]] == [b"host", *map(bytes.lower, some)]


NAMES = [
    "", "a", "a.b.", "a_b", "%41", "%4", "%zz", "127.0.0.1", "256.1.1.1", "a b", "a,b", "u@a", "a/", "a?",
    "a#", "\\", "é", "[",
]  # fmt: skip
ADDRESSES = [
    "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7", "1::8", "1::3::5",
    "1:2:3:4::5:6:7:8", "1:2:3::5:6:7:8", ":::", ":1", "1:", "12345::", "fFfF::", "g::", "::127.0.0.1",
    "::1.2.3", "::1.2.3.256", "::01.2.3.4", "1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4",
    "1.2.3.4::", "fe80::1%25eth0", "::1 ", "v1.a", "vF.:", "v.a", "v1.", "v1", "v1.%41", "vg.a", "", "a",
]  # fmt: skip
PORTS = [
    "", ":", ":80", ":0", ":99999999999999999999", ":8o", ":-1", ": 80", ":80:80", "::", "80",
]  # fmt: skip


async def test_every_form_of_a_host():
    """RFC 9110 §7.2, RFC 3986 §3.2.2. An empty one is right: it stands for a target without authority."""
    wrong = {}
    with Court() as court:
        for name, port in itertools.product([*NAMES, *(f"[{one}]" for one in ADDRESSES)], PORTS):
            text = (name + port).encode("latin-1")
            verdict = await court.judge(request(b"Host: " + text))
            if verdict.outcome != (KEPT if is_host(text) or not text else 400):
                wrong[text] = verdict.outcome
    assert wrong == {}


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_every_number_of_hosts(version):
    """RFC 9112 §3.2: exactly one, but for HTTP/1.0, which may have none."""
    line = b"GET /x HTTP/" + version
    with Court() as court:
        for hosts in itertools.product([b"Host: a", b"hOST:a", b"Host:", b"X-A: 1"], repeat=3):
            count = sum(one != b"X-A: 1" for one in hosts)
            verdict = await court.judge(request(*hosts, b"Connection: keep-alive", line=line))
            right = count == 1 or (count == 0 and version == b"1.0")
            assert verdict.outcome == (KEPT if right else 400), hosts


# Framing


def framed(fields: list[bytes], version: bytes) -> Outcome:
    """RFC 9112 §6.3, as far as we go: the outcome of a request with these fields and a body for either."""
    lengths = [
        value for name, _, value in (one.partition(b": ") for one in fields) if name == b"Content-Length"
    ]
    codings = [
        value for name, _, value in (one.partition(b": ") for one in fields) if name == b"Transfer-Encoding"
    ]
    if len(lengths) > 1 or (lengths and codings) or (codings and version == b"1.0"):
        return 400
    if lengths and not re.fullmatch(rb"[0-9]+", lengths[0].strip(OWS)):
        return 400
    if not codings:
        return KEPT
    members = [member.strip(OWS).lower() for member in b",".join(codings).split(b",")]
    known = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"]
    if members[-1] != b"chunked" or any(one not in known for one in members[:-1]):
        return 400
    return KEPT if len(members) == 1 else 501


FRAMING = [
    b"X-A: 1", b"Content-Length: 3", b"Content-Length: 03", b"Content-Length: 3,3", b"Content-Length: +3",
    b"Content-Length: 3x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED ",
    b"Transfer-Encoding: gzip", b"Transfer-Encoding: gzip , chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: x-compress",
    b"Transfer-Encoding: br, chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: ",
    b"Transfer-Encoding: ,chunked", b"Transfer-Encoding: chunked,", b"Transfer-Encoding: chunked;a=b",
    b"Transfer-Encoding: Deflate,X-GZIP,Chunked",
]  # fmt: skip


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_every_framing(version):
    """RFC 9112 §6.3: a body has one length, or its request is nobody's."""
    wrong = {}
    with Court() as court:
        for fields in itertools.product(FRAMING, repeat=2):
            expected = framed(list(fields), version)
            chunked = any(one.lower().startswith(b"transfer-encoding: chunked") for one in fields)
            length = any(one.startswith(b"Content-Length") for one in fields)
            body = b"3\r\nabc\r\n0\r\n\r\n" if chunked else b"abc" if length else b""
            raw = request(
                HOST, *fields, b"Connection: keep-alive", line=b"POST /x HTTP/" + version, body=body
            )
            verdict = await court.judge(raw, at=raw.index(b"\r\n\r\n"))
            right = (expected, b"abc" if body and expected == KEPT else b"")
            if (verdict.outcome, verdict.body) != right:
                wrong[fields] = verdict.outcome, right
    assert wrong == {}


async def test_every_byte_in_front_of_chunked():
    """RFC 9112 §6.1: a coding is a token, and OWS is none of it."""
    found = await differing(
        lambda byte: request(HOST, b"Transfer-Encoding: " + byte + b"chunked", line=POST, body=b"0\r\n\r\n"),
        (OWS, KEPT),
    )
    assert found == {}


async def test_every_byte_behind_chunked():
    found = await differing(
        lambda byte: request(HOST, b"Transfer-Encoding: chunked" + byte, line=POST, body=b"0\r\n\r\n"),
        (without(OWS, STRICTER_CODING), KEPT),
    )
    assert found == {}


# Chunks

# What follows a chunk's size, and what comes before a trailer.
DATA = b"\r\nhello\r\n0\r\n\r\n"
BEFORE = b"5\r\nhello\r\n0\r\n"

CHUNK_PLACES = {
    "as the CR of the size": (b"5", b"\nhello\r\n0\r\n\r\n", b"\r"),
    "between CR and LF": (b"5\r", b"\nhello\r\n0\r\n\r\n", b""),
    "as the LF of the size": (b"5\r", b"hello\r\n0\r\n\r\n", b"\n"),
    "in front of an extension (RFC 9112 §7.1.1)": (b"5", b"x" + DATA, b";"),
    "in front of the name of an extension": (b"5;", b"a" + DATA, TCHAR + BWS + LENIENT_NAME + LENIENT_EQUALS),
    "in front of the equals sign": (b"5;a", b"=b" + DATA, TCHAR + BWS + LENIENT_NAME),
    "in front of the value of an extension": (b"5;a=", b"b" + DATA, TCHAR + BWS + LENIENT_VALUE),
    "as the name of an extension": (b"5;", DATA, TCHAR + LENIENT_EQUALS),
    "inside the name of an extension": (b"5;a", b"c" + DATA, TCHAR + b"=;"),
    "behind the name of an extension": (b"5;a", DATA, TCHAR + LENIENT_EQUALS),
    "as the value of an extension": (b"5;a=", DATA, TCHAR),
    "inside the value of an extension": (b"5;a=b", b"c" + DATA, TCHAR + b";"),
    "behind the value of an extension": (b"5;a=b", DATA, TCHAR),
    "inside quotes": (b'5;a="b', b'c"' + DATA, QDTEXT + b"\\"),
    "at the end of quotes": (b'5;a="b', b'"' + DATA, QDTEXT),
    "behind a backslash": (b'5;a="\\', b'c"' + DATA, QUOTED_PAIR),
    "behind quotes": (b'5;a="b"', DATA, b""),
    "behind the data (RFC 9112 §7.1)": (b"5\r\nhello", b"\r\n0\r\n\r\n", b""),
    "as the CR of the data": (b"5\r\nhello", b"\n0\r\n\r\n", b"\r"),
    "between CR and LF of the data": (b"5\r\nhello\r", b"\n0\r\n\r\n", b""),
    "as the LF of the data": (b"5\r\nhello\r", b"0\r\n\r\n", b"\n"),
    "behind the last size": (b"5\r\nhello\r\n0", b"\r\n\r\n", b"0"),
    "as the CR of the last size": (b"5\r\nhello\r\n0", b"\n\r\n", b"\r"),
    "as the LF of the last size": (b"5\r\nhello\r\n0\r", b"\r\n", b"\n"),
    "as the last CR": (b"5\r\nhello\r\n0\r\n", b"\n", b"\r"),
    "as the last LF": (b"5\r\nhello\r\n0\r\n\r", b"", b"\n"),
    "in front of a trailer (RFC 9112 §7.1.2)": (BEFORE, b"X: v\r\n\r\n", TCHAR),
    "inside the name of a trailer": (BEFORE + b"X", b"Y: v\r\n\r\n", TCHAR + b":"),
    "between name and colon of a trailer": (BEFORE + b"X", b": v\r\n\r\n", TCHAR + b":"),
    "as the colon of a trailer": (BEFORE + b"X", b"v\r\n\r\n", b":"),
    "in front of the value of a trailer": (BEFORE + b"X:", b"v\r\n\r\n", VALUE),
    "inside the value of a trailer": (BEFORE + b"X: v", b"w\r\n\r\n", VALUE),
    "behind the value of a trailer": (BEFORE + b"X: v", b"\r\n\r\n", VALUE),
    "as the CR of a trailer": (BEFORE + b"X: v", b"\n\r\n", b"\r"),
    "as the LF of a trailer": (BEFORE + b"X: v\r", b"\r\n", b"\n"),
    "behind a trailer": (BEFORE + b"X: v\r\n", b"\r\n", b""),
}  # fmt: skip


@pytest.mark.parametrize("place", CHUNK_PLACES, ids=[place.partition(" (")[0] for place in CHUNK_PLACES])
async def test_every_byte_of_a_chunk(place):
    before, behind, right = CHUNK_PLACES[place]
    assert await differing(lambda byte: CHUNKED + before + byte + behind, (right, KEPT)) == {}


@pytest.mark.parametrize(
    ("before", "behind", "right"),
    [
        (b"", b"", HEXDIG),
        (b"", b"1", HEXDIG),
        (b"1", b"", HEXDIG),
        (b"0", b"1;a", HEXDIG),
        (b"1", b";a", HEXDIG + BWS),
    ],
)
async def test_every_byte_of_a_size(before, behind, right):
    """RFC 9112 §7.1: chunk-size = 1*HEXDIG, in either case."""

    def make(byte: bytes) -> bytes:
        size = before + byte + behind.removesuffix(b";a")
        length = int(size, 16) if set(size) <= set(HEXDIG) else 5
        data = b"x" * length + b"\r\n0\r\n" if length else b""  # a size of 0 is the last one
        return CHUNKED + before + byte + behind + b"\r\n" + data + b"\r\n"

    assert await differing(make, (right, KEPT)) == {}


# Other lists


async def test_every_byte_behind_close():
    """RFC 9110 §7.6.1: an option is a token, and what stands in the list beside it is another."""
    found = await differing(
        lambda byte: request(HOST, b"Connection: close" + byte), (VALUE, KEPT), (OWS + b",", CLOSED)
    )
    assert found == {}


CONNECTIONS = [
    b"close", b"keep-alive", b"Close", b"upgrade", b"", b"closed", b'"close"', b" close", b"x=close",
    b"close\t",
]  # fmt: skip


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_every_list_of_options(version):
    """RFC 9112 §9.3: close is stronger than everything, and HTTP/1.0 is kept only if it asks."""
    with Court() as court:
        for options in itertools.product(CONNECTIONS, repeat=3):
            fields = [b"Connection: " + options[0] + b"," + options[1], b"Connection: " + options[2]]
            names = [one.strip(OWS).lower() for one in options]
            kept = b"close" not in names and (version == b"1.1" or b"keep-alive" in names)
            verdict = await court.judge(request(HOST, *fields, line=b"GET /x HTTP/" + version))
            assert verdict.outcome == (KEPT if kept else CLOSED), fields


async def test_every_byte_behind_100_continue():
    """RFC 9110 §10.1.1: whatever else is expected cannot be met. A comma, too: docs/deviations.md."""
    found = await differing(
        lambda byte: request(HOST, b"Expect: 100-continue" + byte), (VALUE, 417), (OWS, KEPT)
    )
    assert found == {}


# RFC 9110 §6.5.1: fields that frame, route, authenticate or control have no place in a trailer.
NEVER_TRAILERS = [
    "Authorization", "Connection", "Content-Length", "Cookie", "Expect", "Host", "Keep-Alive",
    "Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
]  # fmt: skip
TRAILERS = [
    "X-Checksum", "ETag", "Server-Timing", "X", "Hos", "Hosts", "Content-Digest", "Content_Length",
    "Content-Lengt",
]  # fmt: skip


async def test_trailers_are_dropped_or_refused():
    """Never merged: the app sees the fields of the head, and nothing else frames what follows."""
    with Court() as court:
        for name in [*NEVER_TRAILERS, *TRAILERS]:
            for written, value in itertools.product(
                [name, name.lower(), name.upper()], [b"1", b"chunked", b"", b"close"]
            ):
                trailer = written.encode() + b": " + value
                raw = CHUNKED + b"3\r\nabc\r\n0\r\nX-A: 1\r\n" + trailer + b"\r\n\r\n"
                verdict = await court.judge(raw, at=raw.index(trailer) + len(written))
                assert verdict.outcome == (400 if name in NEVER_TRAILERS else KEPT), trailer
                if verdict.scope:
                    assert verdict.scope["headers"] == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
                    assert verdict.body == b"abc"
