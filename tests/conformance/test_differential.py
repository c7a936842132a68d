"""Generated requests, which HTTP allows, read by us, by httptools alone and by h11: all see the same.

What they are made of goes further than what clients send; what is not allowed is test_mutations.py. "The
same" is what tests/helpers/oracles.py says: in their order the requests, their methods, targets, versions,
fields and bodies.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.oracles import NO_TRAILERS, Ours, judge, read_h11

TOKEN = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
# With what RFC 3986 does not have in a path, and clients send (docs/deviations.md).
TARGET = string.ascii_letters + string.digits + "/?%:@!$&'()*+,;=-._~[]|{}^`\"<>\\"
HOST = string.ascii_letters + string.digits + "-._~!$&'()*+,;="
METHODS = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "HEAD",
    "REPORT",
    "LINK",
    "SEARCH",
    "SETUP",
    "PRI",
    "get",
]
# Fields that have a meaning of their own for the connection, or in a trailer.
OURS = {name.decode() for name in NO_TRAILERS}


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    server = Ours()
    yield server
    server.close()


names = st.text(TOKEN, min_size=1, max_size=20).filter(lambda name: name.lower() not in OURS)
letters = st.characters(codec="latin-1", exclude_categories=["Cc"]) | st.just("\t")
values = st.text(letters, max_size=40).map(lambda value: value.strip(" \t"))
spaces = st.sampled_from(["", " ", "\t", "  ", " \t"])
fields = st.tuples(names, spaces, values, spaces).map(
    lambda parts: f"{parts[0]}:{parts[1]}{parts[2]}{parts[3]}"
)
methods = st.sampled_from(METHODS) | st.text(TOKEN, min_size=1, max_size=32).filter(
    lambda name: name != "CONNECT"
)
ports = st.sampled_from(["", ":", ":1", ":65535"])
hosts = st.tuples(
    st.text(HOST, min_size=1, max_size=12) | st.sampled_from(["[::1]", "[v1.a:b]", "%C3%A9"]), ports
).map("".join)
bodies = st.none() | st.binary(max_size=100) | st.lists(st.binary(min_size=1, max_size=60), max_size=5)
quoted = st.text(string.ascii_letters + " ;=,", max_size=8).map(lambda text: f'"{text}"')
extensions = st.lists(
    st.tuples(
        st.text(TOKEN, min_size=1, max_size=6), st.none() | st.text(TOKEN, min_size=1, max_size=6) | quoted
    ),
    max_size=2,
).map(lambda found: "".join(f";{name}" if value is None else f";{name}={value}" for name, value in found))


@st.composite
def targets(draw: st.DrawFn, method: str) -> str:
    form = draw(st.sampled_from(["origin", "origin", "origin", "absolute", "asterisk"]))
    if form == "asterisk" and method == "OPTIONS":
        return "*"
    rest = draw(st.text(TARGET, max_size=40))
    if form == "absolute":
        scheme = draw(st.sampled_from(["http", "https", "HTTP"]))
        return f"{scheme}://{draw(hosts)}{draw(st.sampled_from(['', '/', '?', '/a']))}".rstrip() + (
            rest if rest[:1] in ("/", "?") else ""
        )
    return "/" + rest


@st.composite
def chunked(draw: st.DrawFn, chunks: list[bytes]) -> bytes:
    parts = []
    for chunk in chunks:
        size = draw(st.sampled_from(["%x", "%X", "%04x"])) % len(chunk)
        parts += [size.encode(), draw(extensions).encode(), b"\r\n", chunk, b"\r\n"]
    trailers = "".join(field + "\r\n" for field in draw(st.lists(fields, max_size=2)))
    return (
        b"".join(parts)
        + draw(st.sampled_from([b"0", b"000", b"0;a"]))
        + b"\r\n"
        + trailers.encode("latin-1")
        + b"\r\n"
    )


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method, body, payload = draw(methods), draw(bodies), b""
    version = "1.1" if isinstance(body, list) else draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    lines = [f"Host: {draw(hosts)}", *draw(st.lists(fields, max_size=8))]
    if version == "1.0":
        lines.append("Connection: keep-alive")
    if draw(st.booleans()):
        lines.append(
            draw(st.sampled_from(["Expect: 100-continue", "Connection: x", "TE: trailers", "Cookie: a=b"]))
        )
    if isinstance(body, bytes):
        lines.append(f"Content-Length: {draw(st.sampled_from(['', '0', '000']))}{len(body)}")
        payload = body
    elif isinstance(body, list):
        lines.append(f"Transfer-Encoding: {draw(st.sampled_from(['chunked', 'Chunked']))}")
        payload = draw(chunked(body))
    lines = draw(st.permutations(lines))
    line = f"{method} {draw(targets(method))} HTTP/{version}"
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1") + payload


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(pipeline=st.lists(requests(), min_size=1, max_size=4), cuts=st.lists(st.integers(1, 2000), max_size=4))
def test_the_same_requests_as_others_see(ours: Ours, pipeline: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(pipeline)
    edges = [0, *sorted({at for at in cuts if at < len(raw)}), len(raw)]
    reading = ours.read([raw[a:b] for a, b in pairwise(edges)])
    assert (reading.status, reading.begun, reading.closes) == (0, None, False), reading
    assert len(reading.seen) == len(read_h11(raw).seen) == len(pipeline)
    assert judge(raw, reading).problems == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=requests(), field=st.sampled_from(["IRC/6.9", "h2c", "TLS/1.0"]), last=st.booleans())
def test_a_body_behind_an_upgrade_ends_where_h11_says(
    ours: Ours, head: bytes, field: str, last: bool
) -> None:
    """httptools stops there, so it is h11 alone that we can be compared with."""
    line, _, rest = head.partition(b"\r\n")
    options = b"Connection: Upgrade" + (b", close" if last else b"")
    raw = line + b"\r\n" + options + b"\r\nUpgrade: " + field.encode() + b"\r\n" + rest
    following = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    reading = ours.read([raw, following])
    assert (reading.status, reading.begun, reading.closes) == (0, None, last), reading
    assert len(reading.seen) == (1 if last else 2)
    assert judge(raw + following, reading).problems == []
