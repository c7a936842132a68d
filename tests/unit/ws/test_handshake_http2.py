"""The opening handshake over HTTP/2 (RFC 8441 §5), against the same handshake over HTTP/1.1."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardserve.ws.engine import Engine
from tests.helpers.ws import KEY

Fields = list[tuple[bytes, bytes]]

GOOD = [(b"host", b"a"), (b"sec-websocket-version", b"13")]
IN_HTTP1 = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-key", KEY)]
DEFLATE = (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")
WANTED = (b"sec-websocket-version", b"13")


def engine(*, deflate: bool = True) -> Engine:
    return Engine(max_size_bytes=1 << 20, max_fragments=100, deflate=deflate)


# Accepted


def test_a_good_handshake_is_a_200_without_a_field() -> None:
    assert engine().open("CONNECT", GOOD) == (200, [], [], None)


def test_deflate_is_the_only_field_and_subprotocols_are_those_offered() -> None:
    offers = [DEFLATE, (b"sec-websocket-protocol", b"b, a"), (b"sec-websocket-protocol", b"c")]
    status, fields, subprotocols, agreed = engine().open("CONNECT", [*GOOD, *offers])
    assert (status, subprotocols) == (200, ["b", "a", "c"])
    ((name, value),) = fields
    assert name == b"sec-websocket-extensions"
    assert value.startswith(b"permessage-deflate; server_no_context_takeover; client_no_context_takeover;")
    assert agreed is not None


def test_without_deflate_no_extension_is_agreed() -> None:
    assert engine(deflate=False).open("CONNECT", [*GOOD, DEFLATE]) == (200, [], [], None)


def test_what_was_agreed_is_shared_with_those_of_http1() -> None:
    one = engine()
    assert one.open("CONNECT", [*GOOD, DEFLATE])[3] is one.open("GET", [*GOOD, *IN_HTTP1, DEFLATE])[3]


@pytest.mark.parametrize("name", [name for name, _ in IN_HTTP1])
@pytest.mark.parametrize("value", [b"", b"h2c", b"close; x", KEY, b"\xff"])
def test_what_only_http1_has_says_nothing(name: bytes, value: bytes) -> None:
    """RFC 8441 §5: none of them is used, so none can be wrong."""
    assert engine().open("CONNECT", [(name, value), *GOOD, (name, value)]) == (200, [], [], None)


def test_the_fields_of_the_request_stay_as_they_are() -> None:
    """The scope of the app is made of them."""
    headers = [*IN_HTTP1, *GOOD, DEFLATE]
    before = list(headers)
    engine().open("CONNECT", headers)
    assert headers == before


# Refused


@pytest.mark.parametrize("version", [b"8", b"013", b"13, 8", b"x", b""])
def test_another_version_is_a_400_that_says_which(version: bytes) -> None:
    """RFC 9110 §15.5.22: a 426 says Upgrade. RFC 9113 §8.6: which is not there in HTTP/2."""
    status, fields, text, agreed = engine().open("CONNECT", [(b"sec-websocket-version", version)])
    assert (status, fields, agreed) == (400, [WANTED], None)
    assert text == b"WebSocket handshake refused: Sec-WebSocket-Version has to be 13.\n"


@pytest.mark.parametrize("headers", [[], [WANTED, WANTED]], ids=["none", "two"])
def test_no_version_or_two_are_a_400_that_says_which(headers: Fields) -> None:
    status, fields, text, _ = engine().open("CONNECT", headers)
    assert (status, fields) == (400, [WANTED])
    assert text == b"WebSocket handshake refused: Sec-WebSocket-Version has to be there once, and be 13.\n"


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ((b"content-length", b"5"), b"body"),
        ((b"sec-websocket-protocol", b"a b"), b"Sec-WebSocket-Protocol"),
        ((b"sec-websocket-extensions", b"a=b"), b"Sec-WebSocket-Extensions"),
    ],
)
def test_what_is_wrong_over_http1_is_wrong_here(field: tuple[bytes, bytes], word: bytes) -> None:
    status, fields, text, _ = engine().open("CONNECT", [*GOOD, field])
    assert (status, fields) == (400, [])
    assert isinstance(text, bytes)
    assert word in text


@pytest.mark.parametrize("method", ["connect", "Connect", "POST"])
def test_the_method_is_case_sensitive(method: str) -> None:
    assert engine().open(method, GOOD)[0] == 405


# Whatever comes

VALUES = st.one_of(
    st.binary(max_size=30).map(lambda value: bytes(byte for byte in value if byte not in b"\r\n\0")),
    st.sampled_from([b"13", b"8", b"a, b", b"", b"null", DEFLATE[1], b"permessage-deflate; unknown"]),
)
NAMES = st.sampled_from(
    [b"host", WANTED[0], DEFLATE[0], b"sec-websocket-protocol", b"origin", b"cookie", b"content-length"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.booleans())
@example([(WANTED[0], b"8")], False)
@example([DEFLATE], True)
@settings(deadline=None, max_examples=300)
def test_any_request_is_judged_as_over_http1(more: Fields, good: bool) -> None:
    headers = [*(GOOD if good else []), *more]
    one = engine()
    status, fields, third, agreed = one.open("GET", [*headers, *IN_HTTP1])
    assert status in (101, 400, 426)
    gone = {name for name, _ in IN_HTTP1} | {b"sec-websocket-accept"}
    same = {101: 200, 426: 400}.get(status, status)
    expected = (same, [field for field in fields if field[0] not in gone], third, agreed)
    assert one.open("CONNECT", headers) == expected
