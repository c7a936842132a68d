"""The opening handshake: RFC 6455 §4.2, and nothing that a client sent in what it is told."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardserve.ws.engine import Engine
from tests.helpers.ws import ACCEPT, KEY

GOOD = {
    b"host": b"a",
    b"connection": b"Upgrade",
    b"upgrade": b"websocket",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
}
DEFLATE = b"permessage-deflate"


def engine(*, deflate: bool = True) -> Engine:
    return Engine(max_size_bytes=1 << 20, max_fragments=100, deflate=deflate)


def request(*more: tuple[bytes, bytes], without: bytes = b"", **fields: bytes) -> list[tuple[bytes, bytes]]:
    """A good request; ``fields`` replace its own, ``more`` are added."""
    named = GOOD | {name.replace("_", "-").encode(): value for name, value in fields.items()}
    return [(name, value) for name, value in named.items() if name != without] + list(more)


def refused(headers: list[tuple[bytes, bytes]], method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    status, fields, text, nothing = engine().open(method, headers)
    assert nothing is None
    assert isinstance(text, bytes)
    assert text.endswith(b".\n")
    assert text.count(b"\n") == 1
    assert len(text) < 200
    assert all(0x20 <= byte < 0x7F for byte in text[:-1])
    return status, dict(fields), text


# Accepted


def test_a_good_handshake() -> None:
    status, fields, subprotocols, agreed = engine().open("GET", request())
    assert status == 101
    assert fields == [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", ACCEPT),
    ]
    assert (subprotocols, agreed) == ([], None)


@pytest.mark.parametrize("upgrade", [b"websocket", b"WebSocket", b"WEBSOCKET"])
@pytest.mark.parametrize("connection", [b"upgrade", b"keep-alive, Upgrade", b",Upgrade,"])
def test_names_are_case_insensitive_and_lists_are_lists(upgrade: bytes, connection: bytes) -> None:
    assert engine().open("GET", request(upgrade=upgrade, connection=connection))[0] == 101


def test_the_accept_field_is_the_hash_of_this_key() -> None:
    key = base64.b64encode(b"0123456789abcdef")
    fields = dict(engine().open("GET", request(sec_websocket_key=key))[1])
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert fields[b"sec-websocket-accept"] == base64.b64encode(digest)


def test_subprotocols_are_those_offered_in_their_order_and_none_is_chosen() -> None:
    headers = request((b"sec-websocket-protocol", b"b, a"), (b"sec-websocket-protocol", b"c"))
    status, fields, subprotocols, _ = engine().open("GET", headers)
    assert (status, subprotocols) == (101, ["b", "a", "c"])
    assert b"sec-websocket-protocol" not in dict(fields)


def test_an_empty_body_is_none() -> None:
    assert engine().open("GET", request(content_length=b"0"))[0] == 101


def test_fields_that_are_not_ours_may_have_any_byte_that_http_allows() -> None:
    assert engine().open("GET", request(cookie=b"caf\xc3\xa9 \xff", origin=b"null"))[0] == 101


# Extensions


def test_deflate_is_agreed_without_context_takeover() -> None:
    offer = b"permessage-deflate; client_max_window_bits"
    _, fields, _, agreed = engine().open("GET", request(sec_websocket_extensions=offer))
    assert dict(fields)[b"sec-websocket-extensions"] == (
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover;"
        b" server_max_window_bits=12; client_max_window_bits=12"
    )
    assert agreed is not None


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        # A client that did not name client_max_window_bits must not be told any (RFC 7692 §7.1.2.2).
        (b"", b"server_max_window_bits=12"),
        (b"; server_max_window_bits=15", b"server_max_window_bits=12"),
        (b"; server_max_window_bits=9", b"server_max_window_bits=9"),
        (b"; client_max_window_bits=15", b"server_max_window_bits=12; client_max_window_bits=12"),
        (b"; client_max_window_bits=8", b"server_max_window_bits=12; client_max_window_bits=8"),
        (b'; client_max_window_bits="10"', b"server_max_window_bits=12; client_max_window_bits=10"),
        (b"; server_no_context_takeover", b"server_max_window_bits=12"),
        (b"; client_no_context_takeover", b"server_max_window_bits=12"),
        (b"; unknown, permessage-deflate", b"server_max_window_bits=12"),
        (b"; server_max_window_bits=8, permessage-deflate", b"server_max_window_bits=12"),
        (b", permessage-deflate; server_max_window_bits=9", b"server_max_window_bits=12"),
    ],
)
def test_what_is_answered_to_an_offer(offer: bytes, answer: bytes) -> None:
    _, fields, _, agreed = engine().open("GET", request(sec_websocket_extensions=DEFLATE + offer))
    assert agreed is not None
    assert dict(fields)[b"sec-websocket-extensions"] == (
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; " + answer
    )


@pytest.mark.parametrize(
    "offer",
    [
        b"permessage-foo",
        b"x-webkit-deflate-frame",
        b"permessage-deflate; unknown",
        b"permessage-deflate; unknown=1",
        b"permessage-deflate; server_no_context_takeover=1",
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits=7",
        b"permessage-deflate; client_max_window_bits=012",
        # zlib cannot compress so.
        b"permessage-deflate; server_max_window_bits=8",
    ],
)
def test_an_offer_that_cannot_be_taken_is_declined_and_the_websocket_opens(offer: bytes) -> None:
    status, fields, _, agreed = engine().open("GET", request(sec_websocket_extensions=offer))
    assert (status, agreed) == (101, None)
    assert b"sec-websocket-extensions" not in dict(fields)


def test_without_deflate_no_extension_is_agreed() -> None:
    headers = request(sec_websocket_extensions=DEFLATE)
    status, fields, _, agreed = engine(deflate=False).open("GET", headers)
    assert (status, agreed) == (101, None)
    assert b"sec-websocket-extensions" not in dict(fields)


def test_what_was_agreed_is_one_object_for_all_who_got_the_same_answer() -> None:
    one = engine()
    bits = [b"", *(b"; client_max_window_bits=%d" % number for number in range(8, 16))]
    offers = [DEFLATE + many for many in bits * 3]
    agreed = [one.open("GET", request(sec_websocket_extensions=offer))[3] for offer in offers]
    assert len({id(each) for each in agreed}) == len({b"", *range(8, 13)})
    assert agreed[:9] == agreed[9:18] == agreed[18:]


# Refused


@pytest.mark.parametrize("method", ["POST", "HEAD", "get", "OPTIONS"])
def test_another_method_is_a_405(method: str) -> None:
    status, fields, _ = refused(request(), method)
    assert (status, fields) == (405, {b"allow": b"GET"})


@pytest.mark.parametrize("version", [b"8", b"0", b"14", b"013", b"13, 8", b"x", b"", b"multiple values"])
def test_another_version_is_a_426_that_says_which(version: bytes) -> None:
    status, fields, _ = refused(request(sec_websocket_version=version))
    assert status == 426
    assert fields[b"sec-websocket-version"] == b"13"
    assert fields[b"upgrade"] == b"websocket"  # RFC 9110 §15.5.22
    assert fields[b"connection"] == b"Upgrade"  # RFC 9110 §7.8


@pytest.mark.parametrize(
    "headers",
    [request(without=b"sec-websocket-version"), request((b"sec-websocket-version", b"13"))],
    ids=["none", "two"],
)
def test_no_version_or_two_are_a_400_that_says_which(headers: list[tuple[bytes, bytes]]) -> None:
    status, fields, text = refused(headers)
    assert (status, fields) == (400, {b"sec-websocket-version": b"13"})
    assert b"Sec-WebSocket-Version" in text


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"x",
        base64.b64encode(b"15 bytes, not 16"[:15]),
        base64.b64encode(b"17 bytes, not 16!"),
        KEY.rstrip(b"="),
        KEY[:5] + b"*" + KEY[6:],
        KEY[:5] + b"\xff" + KEY[6:],
        KEY + b", " + KEY,
    ],
)
def test_a_bad_key_is_a_400(key: bytes) -> None:
    status, fields, text = refused(request(sec_websocket_key=key))
    assert (status, fields) == (400, {})
    assert b"Sec-WebSocket-Key is wrong" in text


def test_no_key_is_a_400() -> None:
    status, _, text = refused(request(without=b"sec-websocket-key"))
    assert (status, text) == (400, b"WebSocket handshake refused: Sec-WebSocket-Key is missing.\n")


def test_two_keys_are_a_400() -> None:
    assert refused(request((b"sec-websocket-key", KEY)))[0] == 400


@pytest.mark.parametrize("body", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")])
def test_a_body_is_a_400(body: tuple[bytes, bytes]) -> None:
    status, fields, text = refused(request(body))
    assert (status, fields) == (400, {})
    assert b"no body" in text


@pytest.mark.parametrize(
    "field",
    [
        (b"connection", b"close; x"),
        (b"sec-websocket-protocol", b"a b"),
        (b"sec-websocket-protocol", b""),
        (b"sec-websocket-extensions", b"a=b"),
        (b"sec-websocket-extensions", b'permessage-deflate; a="'),
    ],
)
def test_a_list_that_is_none_is_a_400(field: tuple[bytes, bytes]) -> None:
    assert refused(request(field))[0] == 400


@pytest.mark.parametrize("upgrade", [b"h2c", b"h2c, websockets", b"websockets", b"websocket/13"])
def test_another_upgrade_is_a_426(upgrade: bytes) -> None:
    status, fields, text = refused(request(upgrade=upgrade))
    assert (status, fields[b"upgrade"]) == (426, b"websocket")
    assert b"Upgrade" in text


@pytest.mark.parametrize("upgrade", [b"websocket, h2c", b"h2c,WebSocket", b" h2c ,\twebsocket "])
def test_websocket_is_chosen_from_a_list(upgrade: bytes) -> None:
    """RFC 9110 §7.8: the client says what it could do, and the server chooses."""
    status, fields, _, _ = Engine(max_size_bytes=0, max_fragments=0, deflate=False).open(
        "GET", request(upgrade=upgrade)
    )
    assert (status, dict(fields)[b"upgrade"]) == (101, b"websocket")


def test_two_origins_are_a_400() -> None:
    """RFC 6454 §7.3."""
    assert refused(request((b"origin", b"https://a"), (b"origin", b"https://b")))[0] == 400


# Whatever comes

VALUES = st.one_of(
    st.binary(max_size=30).map(lambda value: bytes(byte for byte in value if byte not in b"\r\n\0")),
    st.sampled_from([*GOOD.values(), DEFLATE, b"permessage-deflate; server_max_window_bits=9", b"a,b", b""]),
)
NAMES = st.sampled_from(
    [*GOOD, b"sec-websocket-extensions", b"sec-websocket-protocol", b"origin", b"cookie", b"x-\xe9"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.booleans())
@settings(deadline=None, max_examples=300)
def test_any_request_is_answered_and_nothing_of_it_is_repeated(
    more: list[tuple[bytes, bytes]], replaced: bool
) -> None:
    names = {name for name, _ in more} if replaced else set()
    headers = [pair for pair in request() if pair[0] not in names] + more
    status, fields, third, agreed = engine().open("GET", headers)
    for name, value in fields:
        assert name in (
            b"upgrade",
            b"connection",
            b"sec-websocket-accept",
            b"sec-websocket-extensions",
            b"sec-websocket-version",
        )
        assert all(0x20 <= byte < 0x7F for byte in value)
    if status == 101:
        assert isinstance(third, list)
    else:
        assert status in (400, 426)
        assert agreed is None
        assert isinstance(third, bytes)
        assert all(0x20 <= byte < 0x7F for byte in third[:-1])


def test_an_error_in_the_library_is_not_a_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised, so that somebody hears of it."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("websockets.server.ServerProtocol.process_extensions", broken)
    with pytest.raises(ZeroDivisionError):
        engine().open("GET", request())
