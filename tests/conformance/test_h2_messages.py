"""Requests and responses over HTTP/2 (RFC 9113 §8): what is malformed, what is refused, what it becomes.

Rules of this file: a malformed request is a stream error (§8.1.1): RST_STREAM(PROTOCOL_ERROR), no response,
the app does not run. One that is a request, but that we do not serve, gets a response with a status. In any
case the request behind it, in the same bytes, is answered on the same connection, and the app sees nothing of
the first. What one byte may be is asked of all 256.
"""

from __future__ import annotations

from typing import Any

import pytest
from h2.errors import ErrorCodes

from tests.helpers.asgi import Recorder, reply
from tests.helpers.h2_judge import DATA, END_HEADERS, END_STREAM, HEADERS, Fields
from tests.helpers.h2_peer import Host, every_way
from tests.helpers.h2_wire import Feeding, block, byte_by_byte, frame, head, pseudo, whole
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2

METHOD, SCHEME, PATH, AUTHORITY = pseudo("GET", "/smuggled")
GET = pseudo("GET", "/smuggled")
POST = pseudo("POST", "/smuggled")
NEXT = 101


class Reader:
    """Keeps the scope of each request, and whether its body came to an end."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.whole: list[str] = []
        """The paths of requests that were complete."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        if message["type"] == "http.request":
            self.whole.append(scope["path"])
            await reply(send)


async def verdict(data: bytes, start: str = "alpn", feeding: Feeding = whole, **settings: Any) -> str:
    """What came of stream 1: "malformed", or the status it was refused with; "200" if the app saw it.

    An app that runs already when the body turns out to be malformed hears of a disconnect: "broken off".
    """
    app = Reader()
    async with Host(app, **settings) as host:
        raw = host.raw(start, feeding)
        raw.send(data, head(NEXT, pseudo("GET", "/next")))
        await raw.until(lambda: raw.streams[1].over and raw.streams[NEXT].ended)
        await raw.until(lambda: host.factory.in_flight == 0)
        stream = raw.streams[1]
        ran = len(app.scopes) > 1
        assert raw.streams[NEXT].status == 200
        assert "/next" in app.whole
        assert len(app.whole) == (2 if stream.status == 200 else 1)
        if stream.status is None:
            assert stream.reset == ErrorCodes.PROTOCOL_ERROR
            assert host.take_fault(-1, "PROTOCOL_ERROR") == "the request is malformed"
            return "broken off" if ran else "malformed"
        assert stream.ended
        refused = host.take_rejects(0 if stream.status == 200 else 1)
        assert [reject.status for reject in refused] == ([] if ran else [stream.status])
        return str(stream.status)


def with_body(fields: Fields, *pieces: bytes) -> bytes:
    """HEADERS and DATA; the last piece ends the stream."""
    flags = [0] * (len(pieces) - 1) + [END_STREAM]
    data = [frame(DATA, flag, 1, piece) for flag, piece in zip(flags, pieces, strict=True)]
    return head(1, fields, END_HEADERS) + b"".join(data)


def length(value: bytes) -> tuple[bytes, bytes]:
    return (b"content-length", value)


def with_trailers(*fields: tuple[bytes, bytes], flags: int = END_STREAM) -> bytes:
    first = head(1, POST, END_HEADERS) + frame(DATA, 0, 1, b"body")
    return first + frame(HEADERS, END_HEADERS | flags, 1, block([*fields]))


MALFORMED = {
    # §8.3.1
    "no :method": head(1, [SCHEME, PATH, AUTHORITY]),
    "no :scheme": head(1, [METHOD, PATH, AUTHORITY]),
    "no :path": head(1, [METHOD, SCHEME, AUTHORITY]),
    "no pseudo-header field at all": head(1, [(b"host", b"test"), (b"x-a", b"1")]),
    "an empty field block": head(1, []),
    "an empty :path": head(1, [METHOD, SCHEME, (b":path", b""), AUTHORITY]),
    "an empty :method": head(1, [(b":method", b""), SCHEME, PATH, AUTHORITY]),
    "an empty :scheme": head(1, [METHOD, (b":scheme", b""), PATH, AUTHORITY]),
    "a :path without a slash": head(1, [METHOD, SCHEME, (b":path", b"smuggled"), AUTHORITY]),
    "a :path that is a URL": head(1, [METHOD, SCHEME, (b":path", b"http://test/smuggled"), AUTHORITY]),
    "a :path of an asterisk that is not for OPTIONS": head(1, [METHOD, SCHEME, (b":path", b"*"), AUTHORITY]),
    **{
        f"{field[0].decode()} twice": head(1, [METHOD, SCHEME, PATH, AUTHORITY, field])
        for field in (METHOD, SCHEME, PATH, AUTHORITY)
    },
    # §8.3.1, RFC 9110 §7.2: no host, or what is none; nghttp2 leaves no request to answer.
    "no :authority and no host": head(1, [METHOD, SCHEME, PATH]),
    "an empty :authority": head(1, [METHOD, SCHEME, PATH, (b":authority", b"")]),
    "an empty host": head(1, [METHOD, SCHEME, PATH, (b"host", b"")]),
    "a path in :authority": head(1, [METHOD, SCHEME, PATH, (b":authority", b"test/x")]),
    # §8.3
    "an unknown pseudo-header field": head(1, [*GET, (b":unknown", b"1")]),
    "a nameless pseudo-header field": head(1, [*GET, (b":", b"1")]),
    "a pseudo-header field of responses": head(1, [*GET, (b":status", b"200")]),
    "a pseudo-header field behind another field": head(1, [METHOD, SCHEME, PATH, (b"x-a", b"1"), AUTHORITY]),
    "an unknown one behind another field": head(1, [*GET, (b"x-a", b"1"), (b":unknown", b"1")]),
    # §8.2
    "a name in upper case": head(1, [*GET, (b"X-A", b"1")]),
    "a name with one letter in upper case": head(1, [*GET, (b"x-aB", b"1")]),
    "a pseudo-header field in upper case": head(1, [(b":Method", b"GET"), SCHEME, PATH, AUTHORITY]),
    "a nameless field": head(1, [*GET, (b"", b"1")]),
    "a space before a value": head(1, [*GET, (b"x-a", b" 1")]),
    "a space behind a value": head(1, [*GET, (b"x-a", b"1 ")]),
    "a tab before a value": head(1, [*GET, (b"x-a", b"\t1")]),
    "a value of a space": head(1, [*GET, (b"x-a", b" ")]),
    # §8.2.2
    "connection": head(1, [*GET, (b"connection", b"close")]),
    "connection: keep-alive": head(1, [*GET, (b"connection", b"keep-alive")]),
    "keep-alive": head(1, [*GET, (b"keep-alive", b"timeout=5")]),
    "proxy-connection": head(1, [*GET, (b"proxy-connection", b"keep-alive")]),
    "transfer-encoding": with_body([*POST, (b"transfer-encoding", b"chunked")], b"5\r\nhello\r\n0\r\n\r\n"),
    "upgrade": head(1, [*GET, (b"upgrade", b"websocket")]),
    "te other than trailers": head(1, [*GET, (b"te", b"gzip")]),
    "te with trailers and others": head(1, [*GET, (b"te", b"trailers, gzip")]),
    # §8.1.1: content-length that lies, or is none
    "no body in spite of content-length": head(1, [*POST, length(b"1")]),
    **{
        f"content-length {value!r}": with_body([*POST, length(value)], b"x")
        for value in (b"", b"-1", b"+1", b"1,1", b"1, 1", b"0x1", b"1.0", b"one", b"1 1", b"9" * 30)
    },
    "two content-lengths that differ": with_body([*POST, length(b"1"), length(b"2")], b"x"),
    "two content-lengths that agree": with_body([*POST, length(b"1"), length(b"1")], b"x"),
    # §8.5
    "CONNECT with :path": head(1, [(b":method", b"CONNECT"), PATH, AUTHORITY]),
    "CONNECT with :scheme": head(1, [(b":method", b"CONNECT"), SCHEME, AUTHORITY]),
    "CONNECT without :authority": head(1, [(b":method", b"CONNECT")]),
    # RFC 8441 §4
    ":protocol without CONNECT": head(1, [*GET, (b":protocol", b"websocket")]),
    ":protocol without :path": head(
        1, [(b":method", b"CONNECT"), SCHEME, AUTHORITY, (b":protocol", b"websocket")]
    ),
}

# The head is a request; then it turns out that the whole is none.
BROKEN_OFF = {
    # §8.1.1
    "a body longer than content-length": with_body([*POST, length(b"3")], b"four"),
    "a body longer than content-length, in pieces": with_body([*POST, length(b"3")], b"fo", b"ur"),
    "a body shorter than content-length": with_body([*POST, length(b"5")], b"four"),
    "an empty body in spite of content-length": with_body([*POST, length(b"1")], b""),
    "a body in spite of content-length 0": with_body([*POST, length(b"0")], b"x"),
    "trailers before the body is complete": (
        head(1, [*POST, length(b"5")], END_HEADERS)
        + frame(DATA, 0, 1, b"four")
        + frame(HEADERS, 5, 1, block([(b"x-a", b"1")]))
    ),
    # §8.1
    "a content-length that differs in trailers": with_trailers(length(b"99")),
    "a pseudo-header field in trailers": with_trailers((b":path", b"/x")),
    "a pseudo-header field of responses in trailers": with_trailers((b":status", b"200")),
    "a name in upper case in trailers": with_trailers((b"X-A", b"1")),
    "a connection-specific field in trailers": with_trailers((b"connection", b"close")),
    "trailers without END_STREAM": with_trailers((b"x-a", b"1"), flags=0),
}

REFUSED = {
    # RFC 9113 §8.3.1
    "a host that differs from :authority": (head(1, [*GET, (b"host", b"other")]), "400"),
    "a host that differs by its port": (head(1, [*GET, (b"host", b"test:80")]), "400"),
    "userinfo in :authority": (head(1, [METHOD, SCHEME, PATH, (b":authority", b"me@test")]), "400"),
    # RFC 9110 §9.3.6, §10.1.1
    "CONNECT": (head(1, [(b":method", b"CONNECT"), (b":authority", b"test:80")]), "501"),
    "an expectation that nobody has": (head(1, [*GET, (b"expect", b"more")]), "417"),
}

SERVED = {
    "no field but the pseudo-headers": head(1, GET),
    "pseudo-headers in another order": head(1, [AUTHORITY, PATH, SCHEME, METHOD]),
    "host in the place of :authority": head(1, [METHOD, SCHEME, PATH, (b"host", b"test")]),
    "host and :authority": head(1, [*GET, (b"host", b"test")]),
    "te: trailers": head(1, [*GET, (b"te", b"trailers")]),
    "an empty value": head(1, [*GET, (b"x-a", b"")]),
    "content-length 0 and no body": head(1, [*POST, length(b"0")]),
    "content-length 0 and an empty body": with_body([*POST, length(b"0")], b""),
    "a body as long as it says": with_body([*POST, length(b"4")], b"fo", b"", b"ur"),
    "leading zeros in content-length": with_body([*POST, length(b"0004")], b"four"),
    "trailers": with_trailers((b"x-a", b"1")),
    "empty trailers": with_trailers(),
    "trailers behind no body": head(1, POST, END_HEADERS) + frame(HEADERS, 5, 1, block([(b"x-a", b"1")])),
    "OPTIONS *": head(1, [(b":method", b"OPTIONS"), SCHEME, (b":path", b"*"), AUTHORITY]),
    "a method that nobody knows": head(1, [(b":method", b"BREW"), SCHEME, PATH, AUTHORITY]),
    "another scheme": head(1, [METHOD, (b":scheme", b"https"), PATH, AUTHORITY]),
}


@every_way
@pytest.mark.parametrize("rule", MALFORMED)
async def test_malformed(rule, start, feeding):
    assert await verdict(MALFORMED[rule], start, feeding) == "malformed"


@every_way
@pytest.mark.parametrize("rule", BROKEN_OFF)
async def test_malformed_behind_its_head(rule, start, feeding):
    """An app that runs already hears of a disconnect, not of a whole body."""
    assert await verdict(BROKEN_OFF[rule], start, feeding) in ("malformed", "broken off")


@every_way
@pytest.mark.parametrize("rule", REFUSED)
async def test_refused(rule, start, feeding):
    data, status = REFUSED[rule]
    assert await verdict(data, start, feeding) == status


@every_way
@pytest.mark.parametrize("rule", SERVED)
async def test_served(rule, start, feeding):
    assert await verdict(SERVED[rule], start, feeding) == "200"


# What one byte may be: all 256 of them

EVERY = [bytes([byte]) for byte in range(256)]
TCHAR = set(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110 §5.6.2, in lower case
VALUE = {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}  # RFC 9110 §5.5, as over HTTP/1.1
INNER = VALUE - {0x09, 0x20}  # RFC 9113 §8.2.1
DIGITS = set(b"0123456789")


def field(name: bytes, value: bytes) -> Fields:
    return [*GET, (name, value)]


# What the byte is put into, and those that pass.
PLACES: dict[str, tuple[Any, set[int]]] = {
    "in a name": (lambda byte: field(b"x-a" + byte + b"b", b"1"), TCHAR),
    "at the beginning of a name": (lambda byte: field(byte + b"ab", b"1"), TCHAR),
    "at the end of a name": (lambda byte: field(b"ab" + byte, b"1"), TCHAR),
    "as a name": (lambda byte: field(byte, b"1"), TCHAR),
    "in a value": (lambda byte: field(b"x-a", b"1" + byte + b"2"), VALUE),
    "at the beginning of a value": (lambda byte: field(b"x-a", byte + b"1"), INNER),
    "at the end of a value": (lambda byte: field(b"x-a", b"1" + byte), INNER),
    "as a value": (lambda byte: field(b"x-a", byte), INNER),
    "in a value that is known": (lambda byte: field(b"accept", b"1" + byte + b"2"), VALUE),
    "in a cookie": (lambda byte: field(b"cookie", b"a=" + byte + b"2"), VALUE),
    "in a method": (
        lambda byte: [(b":method", b"GE" + byte + b"T"), *GET[1:]],
        TCHAR | set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    ),
    "in a content-length": (lambda byte: field(b"content-length", b"0" + byte + b"0"), set(b"0")),
}  # fmt: skip


async def answers(make: Any, **settings: Any) -> dict[int, Any]:
    """By byte: the scope of its request, or None if that was malformed. 64 requests on a connection."""
    scopes: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes[str(len(scopes))] = scope
        await reply(send)

    found: dict[int, Any] = {}
    async with Host(app, http2_max_concurrent_streams=1000, **settings) as host:
        for first in range(0, 256, 64):
            raw = host.raw()
            for at, byte in enumerate(EVERY[first : first + 64]):
                seen = len(scopes)
                raw.send(head(2 * at + 1, make(byte)))
                await raw.until(lambda raw=raw, at=at: raw.streams[2 * at + 1].over)
                stream = raw.streams[2 * at + 1]
                passed = len(scopes) > seen
                assert passed == (stream.status == 200)
                assert passed or stream.reset == ErrorCodes.PROTOCOL_ERROR or stream.status == 400
                found[byte[0]] = scopes[str(seen)] if passed else None
            await raw.pong()
            host.rejects.clear()
    return found


@pytest.mark.parametrize("place", PLACES)
async def test_every_byte(place):
    make, good = PLACES[place]
    found = await answers(make)
    assert {byte for byte, scope in found.items() if scope is not None} == good


async def test_every_byte_in_a_path():
    """As it is sent, in raw_path: visible ASCII but the beginning of a fragment, and what is beyond ASCII."""
    found = await answers(lambda byte: [METHOD, SCHEME, (b":path", b"/a" + byte + b"b"), AUTHORITY])
    assert {byte for byte, scope in found.items() if scope is not None} == set(range(0x21, 0x100)) - {
        0x7F,
        ord("#"),
    }
    for byte, scope in found.items():
        if scope is not None and byte != ord("?"):
            assert scope["raw_path"] == b"/a" + bytes([byte]) + b"b"


async def test_every_byte_in_an_authority():
    """What passes is the host, as it is sent, and is what passes in a Host of HTTP/1.1."""
    found = await answers(lambda byte: [METHOD, SCHEME, PATH, (b":authority", b"a" + byte + b"b")])
    passed = {byte for byte, scope in found.items() if scope is not None}
    letters = {byte for byte in range(0x41, 0x7B) if chr(byte).isalpha()}
    assert passed == letters | DIGITS | set(
        b"!$&'()*+,-.;=_~"
    )  # RFC 3986 §3.2.2; "%b" is no percent-encoding
    assert all(found[byte]["headers"][0] == (b"host", b"a" + bytes([byte]) + b"b") for byte in passed)


# What becomes of a request


async def headers_of(*fields: tuple[bytes, bytes], target: Fields = GET, **settings: Any) -> Fields:
    """What the app sees, whole and byte by byte, with the field tables empty and filled."""
    app = Reader()
    async with Host(app, **settings) as host:
        for begin, feeding in (("alpn", whole), ("prior", byte_by_byte)):
            client = host.connect(begin, feeding)
            for _ in range(2):
                stream = await client.ask("GET", "/", *fields, pseudo_fields=target)
                assert stream.status == 200
    seen = [scope["headers"] for scope in app.scopes]
    assert seen[0] == seen[1] == seen[2] == seen[3]
    for name, value in seen[0]:
        assert (type(name), type(value)) == (bytes, bytes)
    return seen[0]


async def test_the_host_comes_first():
    """§8.3.1: :authority is what Host is over HTTP/1.1, and a Host that says the same is no second one."""
    target = [*GET[:3], (b":authority", b"example.com:80")]
    expected = [(b"host", b"example.com:80"), (b"x-a", b"1"), (b"x-b", b"2")]
    assert await headers_of((b"x-a", b"1"), (b"x-b", b"2"), target=target) == expected
    same = (b"host", b"example.com:80")
    assert await headers_of((b"x-a", b"1"), same, (b"x-b", b"2"), target=target) == expected


async def test_a_host_without_authority_stays_the_host():
    found = await headers_of((b"x-a", b"1"), (b"host", b"test"), target=GET[:3])
    assert sorted(found) == [(b"host", b"test"), (b"x-a", b"1")]


async def test_fields_in_order_with_duplicates():
    fields = [
        (b"x-a", b"1"),
        (b"accept", b"*/*"),
        (b"x-a", b"2"),
        (b"x-empty", b""),
        (b"x-high", b"\xe9\xff"),
    ]
    assert await headers_of(*fields) == [(b"host", b"test"), *fields]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
async def test_cookies_are_joined(count):
    """§8.2.3: a client may cut its cookies so that they compress; the app gets one field."""
    cookies = [(b"cookie", b"name%d=%d" % (i, i)) for i in range(count)]
    found = await headers_of((b"x-a", b"1"), *cookies, (b"x-b", b"2"))
    joined = (b"cookie", b"; ".join(value for _, value in cookies))
    assert found == [(b"host", b"test"), (b"x-a", b"1"), joined, (b"x-b", b"2")]


async def test_cookies_that_are_apart_are_joined():
    apart = [(b"cookie", b"a=1"), (b"x-a", b"1"), (b"cookie", b"b=2"), (b"x-b", b"2"), (b"cookie", b"c=3")]
    found = await headers_of(*apart)
    assert sorted(found) == [
        (b"cookie", b"a=1; b=2; c=3"), (b"host", b"test"), (b"x-a", b"1"), (b"x-b", b"2"),
    ]  # fmt: skip


UNDERSCORES = {
    "safe": [(b"x-my-name", b"good"), (b"session_id", b"1")],
    "allow": [
        (b"x_my_name", b"evil"), (b"x-my-name", b"good"), (b"session_id", b"1"), (b"content_type", b"evil"),
    ],
    "drop": [(b"x-my-name", b"good")],
}  # fmt: skip


@pytest.mark.parametrize("policy", UNDERSCORES)
async def test_underscores(policy):
    """As over HTTP/1.1: test_underscores.py."""
    fields = [
        (b"x_my_name", b"evil"), (b"x-my-name", b"good"), (b"session_id", b"1"), (b"content_type", b"evil"),
    ]  # fmt: skip
    found = await headers_of(*fields, underscore_headers=policy)
    assert found == [(b"host", b"test"), *UNDERSCORES[policy]]


async def test_underscores_that_are_refused():
    request = head(1, [*GET, (b"session_id", b"1")])
    assert await verdict(request, underscore_headers="reject") == "400"


@pytest.mark.parametrize("feeding", [whole, byte_by_byte])
async def test_trailers_are_read_and_dropped(feeding):
    """RFC 9110 §6.5.1: the app gets the body, and nobody merges them into the fields."""
    app = Recorder()
    async with Host(app) as host:
        raw = host.raw("alpn", feeding)
        raw.send(with_trailers((b"x-a", b"1"), (b"cookie", b"a=1"), (b"host", b"evil")))
        await raw.until(lambda: raw.streams[1].ended)
        assert app.bodies == [b"body"]
        assert app.scopes[0]["headers"] == [(b"host", b"test")]


# Responses


async def answer(*messages: dict[str, Any], method: str = "GET", **settings: Any) -> Any:
    """What comes of these messages, for every start and feeding the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    found = []
    async with Host(app, date_header=False, **settings) as host:
        for begin, feeding in (("alpn", whole), ("prior", byte_by_byte)):
            client = host.connect(begin, feeding)
            for _ in range(2):
                stream = await client.ask(method)
                assert (stream.ended, stream.reset) == (True, None)
                found.append((stream.status, stream.fields, stream.body, stream.trailers))
    assert found[0] == found[1] == found[2] == found[3]
    return found[0]


def started(*fields: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": fields}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


SERVER = (b"server", b"shardserve")


async def test_names_become_lower_case():
    """§8.2.1"""
    _, fields, _, _ = await answer(
        started((b"X-Upper", b"Value"), (b"Content-Type", b"text/plain")), body(b"x")
    )
    assert sorted(fields) == [
        (b"content-length", b"1"), (b"content-type", b"text/plain"), SERVER, (b"x-upper", b"Value"),
    ]  # fmt: skip


async def test_connection_specific_fields_are_dropped():
    """§8.2.2: an app that knows HTTP/1.1 only may well send them."""
    names = [b"Connection", b"keep-alive", b"Proxy-Connection", b"Transfer-Encoding", b"Upgrade"]
    _, fields, data, _ = await answer(started(*[(name, b"x") for name in names], (b"x-a", b"1")), body(b"x"))
    assert sorted(fields) == [(b"content-length", b"1"), SERVER, (b"x-a", b"1")]
    assert data == b"x"


async def test_a_body_in_pieces_needs_no_length():
    _, fields, data, _ = await answer(started(), body(b"one", True), body(b"", True), body(b"two"))
    assert (fields, data) == ([SERVER], b"onetwo")


@pytest.mark.parametrize("pieces", [[b""], [b"x" * 100], [b"x" * 60, b"x" * 40]])
@pytest.mark.parametrize("given", [[], [(b"content-length", b"100")]])
async def test_head(pieces, given):
    """RFC 9110 §9.3.2: no DATA, END_STREAM is on the HEADERS; a length that the app gives stays."""
    last = len(pieces) - 1
    messages = [started((b"x-a", b"1"), *given), *[body(piece, at < last) for at, piece in enumerate(pieces)]]
    status, fields, data, _ = await answer(*messages, method="HEAD")
    assert (status, sorted(fields), data) == (200, sorted([SERVER, (b"x-a", b"1"), *given]), b"")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_content(status):
    """RFC 9110 §6.4.1: no DATA, and a 204 has no length either (§8.6)."""
    found, fields, data, _ = await answer(started((b"x-a", b"1"), status=status), body(b"nothing of this"))
    assert (found, data) == (status, b"")
    assert sorted(fields) == [SERVER, (b"x-a", b"1")]


@pytest.mark.parametrize("status", [200, 201, 205, 299, 404, 418, 500, 599, 600, 999])
async def test_any_status(status):
    found, _, _, _ = await answer(started(status=status), body(b""))
    assert found == status


async def test_date_server_and_fixed_fields():
    app = Recorder()
    async with Host(app, headers=[(b"X-Fixed", b"1")]) as host:
        stream = await host.connect().ask()
        assert sorted(name for name, _ in stream.fields) == [
            b"content-length", b"date", b"server", b"x-fixed",
        ]  # fmt: skip
    async with Host(app, server_header=False, date_header=False) as host:
        assert (await host.connect().ask()).fields == [(b"content-length", b"1")]
