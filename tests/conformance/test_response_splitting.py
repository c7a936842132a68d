"""Nothing that an app puts into a response adds bytes of its own framing (RFC 9112 §11.1).

Rules of this file: each response is compared byte by byte, and the next one must begin where it ends
(``tests/helpers/stage.py``). What is refused is a 500 that holds nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from shardserve import _native
from shardserve.config import Config
from shardserve.config.values import Header
from shardserve.errors import ApplicationError, BodyLengthError, ConfigError, HeaderError, MessageError
from tests.helpers.asgi import ok
from tests.helpers.http1 import Server, get, post
from tests.helpers.stage import (
    FIELD_VALUE,
    PLACES,
    SERVER_ERROR,
    SPLIT,
    TCHAR,
    Stage,
    answer,
    bodies,
    start,
)

ALL_BYTES = [bytes([code]) for code in range(256)]
START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"ok"}


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.stop()


@pytest.fixture(params=["at once", "suspending"])
def stage(one_stage: Stage, request: pytest.FixtureRequest) -> Stage:
    one_stage.suspending = request.param == "suspending"
    return one_stage


# Fields


@pytest.mark.parametrize("place", PLACES)
def test_each_byte_in_a_field_value(stage, place):
    for byte in ALL_BYTES:
        value = PLACES[place] % byte
        found = stage.response(start((b"x-a", value)), BODY)
        if byte[0] in FIELD_VALUE:
            assert found == answer(b"200 OK", b"x-a: " + value, b"content-length: 2", body=b"ok")
            assert stage.refused == []
        else:
            assert found == SERVER_ERROR, byte
            assert stage.refused == [HeaderError]


@pytest.mark.parametrize("place", PLACES)
def test_each_byte_in_a_field_name(stage, place):
    for byte in ALL_BYTES:
        name = PLACES[place] % byte
        found = stage.response(start((name, b"v")), BODY)
        if byte[0] in TCHAR:
            assert found == answer(b"200 OK", name + b": v", b"content-length: 2", body=b"ok")
        else:
            assert found == SERVER_ERROR, byte
            assert stage.refused == [HeaderError]


@pytest.mark.parametrize(
    "end", [b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\n\t", b"\0", b"\x0b", b"\x85"]
)
def test_a_whole_response_in_a_field(stage, end):
    evil = b"v" + end + SPLIT.lstrip(b"\r\n")
    for field in [(b"x-a", evil), (evil, b"v"), (b"location", evil), (b"set-cookie", evil)]:
        assert stage.response(start((b"x-good", b"1"), field), BODY) == SERVER_ERROR
        assert stage.refused == [HeaderError]


class Bytes(bytes):
    """Says of itself what it is not, and is taken for what it is."""

    def __bytes__(self) -> bytes:
        return SPLIT

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return iter(SPLIT)

    def __getitem__(self, at: Any) -> Any:
        return SPLIT[at]

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def lower(self) -> bytes:
        return b"content-length"

    def __repr__(self) -> str:
        return "\r\n"


OTHERS = [
    str,
    bytearray,
    memoryview,
    lambda data: None,
    lambda data: 5,
    lambda data: [data],
    lambda data: iter(data),
]


def as_other(kind: Any, data: bytes) -> Any:
    return data.decode("latin-1") if kind is str else kind(data)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_field_is_two_bytes_objects(stage, kind):
    for data in (b"x-a", SPLIT):
        other = as_other(kind, data)
        for field in [(other, b"v"), (b"x-a", other), (other, other)]:
            assert stage.response(start((b"x-good", b"1"), field), BODY) == SERVER_ERROR
            assert stage.refused == [MessageError]


def test_subclasses_of_bytes_are_what_they_hold(stage):
    found = stage.response(start((Bytes(b"x-a"), Bytes(b"good"))), {**BODY, "body": Bytes(b"whole")})
    assert found == answer(b"200 OK", b"x-a: good", b"content-length: 5", body=b"whole")
    for field in [(Bytes(SPLIT), b"v"), (b"x-a", Bytes(SPLIT)), (Bytes(b"content-length"), Bytes(b"x"))]:
        assert stage.response(start(field), BODY) == SERVER_ERROR
        assert stage.refused == [HeaderError]


def test_messages_are_what_they_hold(stage):
    class Message(dict):
        def __getitem__(self, key: Any) -> Any:
            return SPLIT

        def get(self, key: Any, default: Any = None) -> Any:
            return SPLIT

    found = stage.response(Message(start((b"x-a", b"1"))), Message(BODY))
    assert found == answer(b"200 OK", b"x-a: 1", b"content-length: 2", body=b"ok")


# Content-Length

REFUSED_LENGTHS = [
    b"", b" ", b" 2", b"2 ", b"2\t", b"\t2", b"+2", b"-2", b"-0", b"2, 2", b"2,2", b"2;", b"0x2", b"2e0",
    b"2.0", b"2_0", b"2\xb2", "\u0662".encode(), b"two", b"2\r\n", b"2\0", b"\x002", b"1" * 20,
    b"%d" % (2**63), b"%d" % (2**64), b"%d" % (2**64 + 2), b"%d" % (2**62 + 1), b"9" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED_LENGTHS)
@pytest.mark.parametrize("name", [b"content-length", b"Content-Length", b"CONTENT-LENGTH"])
def test_a_content_length_that_is_no_number(stage, name, value):
    for fields in ([(name, value)], [(b"content-length", b"2"), (name, value)]):
        assert stage.response(start(*fields), BODY) == SERVER_ERROR
        assert stage.refused == [HeaderError]


@pytest.mark.parametrize("value", [b"2", b"02", b"00000000000000000002"])
def test_a_content_length_is_sent_once(stage, value):
    for fields in (
        [(b"Content-Length", value)],
        [(b"Content-Length", value), (b"content-length", b"2")],
        [(b"Content-Length", value), (b"x-a", b"1"), (b"CONTENT-LENGTH", b"2"), (b"content-length", value)],
    ):
        found = stage.response(start(*fields), BODY)
        others = [b"%b: %b" % field for field in fields if field[0] == b"x-a"]
        assert found == answer(b"200 OK", b"Content-Length: " + value, *others, body=b"ok")


@pytest.mark.parametrize(
    "values", [(b"2", b"3"), (b"3", b"2"), (b"2", b"2", b"3"), (b"0", b"2"), (b"2", b"0")]
)
def test_two_content_lengths_that_differ(stage, values):
    fields = [
        (name, value) for name, value in zip([b"content-length", b"Content-Length"] * 2, values, strict=False)
    ]
    assert stage.response(start(*fields), BODY) == SERVER_ERROR
    assert stage.refused == [HeaderError]


@pytest.mark.parametrize("length", [0, 1, 3, 100, 2**31, 2**32, 2**62])
def test_a_single_body_of_another_length(stage, length):
    assert stage.response(start((b"content-length", b"%d" % length)), BODY) == SERVER_ERROR
    assert stage.refused == [BodyLengthError]


@pytest.mark.parametrize(
    ("length", "pieces", "sent"),
    [
        (3, [b"ok", SPLIT], b"ok"),
        (2, [b"ok", SPLIT], b"ok"),
        (2, [b"ok", b"", SPLIT], b"ok"),
        (4, [b"ok", b"k"], b"ok"),
        (4, [b"ok", b""], b"ok"),
        (0, [b"", SPLIT], b""),
        (2**62, [b"ok", b"ok"], b"ok"),
    ],
)
def test_a_stream_of_another_length_is_torn(stage, length, pieces, sent):
    """It has begun: what fits is sent, the rest never, and the connection is not used again."""
    found = stage.last_response(start((b"content-length", b"%d" % length)), *bodies(*pieces))
    assert found == answer(b"200 OK", b"content-length: %d" % length, body=sent)
    assert stage.refused == [BodyLengthError]


# The fields that frame, and those of the connection

FRAMING = [
    b"chunked", b"CHUNKED", b"identity", b"gzip, chunked", b"chunked, chunked", b"\tchunked ", b"", b"gzip",
    b"x" * 500,
]  # fmt: skip


@pytest.mark.parametrize("value", FRAMING)
@pytest.mark.parametrize("name", [b"transfer-encoding", b"Transfer-Encoding", b"tRANSFER-eNCODING"])
def test_transfer_encoding_is_the_server_s(stage, name, value):
    length, evil = (b"content-length", b"2"), (name, value)
    for fields in ([evil], [evil, evil], [evil, length], [length, evil]):
        assert stage.response(start(*fields), BODY) == answer(b"200 OK", b"content-length: 2", body=b"ok")
    found = stage.response(start(evil), *bodies(b"0\r\n\r\n", b"evil"))
    chunks = b"5\r\n0\r\n\r\n\r\n4\r\nevil\r\n0\r\n\r\n"
    assert found == answer(b"200 OK", b"transfer-encoding: chunked", body=chunks)


@pytest.mark.parametrize(
    "name", [b"transfer_encoding", b"transfer-encodin", b"transfer-encodings", b"x-transfer-encoding", b"te"]
)
def test_what_only_looks_like_it_is_a_field_like_any_other(stage, name):
    found = stage.response(start((name, b"chunked")), BODY)
    assert found == answer(b"200 OK", name + b": chunked", b"content-length: 2", body=b"ok")


@pytest.mark.parametrize(
    "value",
    [b"keep-alive", b"Keep-Alive", b"x-a", b"content-length", b"closed", b"", b",", b"te, x-a", b"clo se"],
)
@pytest.mark.parametrize("name", [b"connection", b"Connection", b"CONNECTION"])
def test_connection_is_the_server_s(stage, name, value):
    plain = answer(b"200 OK", b"content-length: 2", body=b"ok")
    assert stage.response(start((name, value), (b"Keep-Alive", b"timeout=5")), BODY) == plain


@pytest.mark.parametrize(
    "value", [b"close", b"CLOSE", b"x, close", b"close,keep-alive", b" close\t", b", ,close"]
)
@pytest.mark.parametrize("pieces", [[b"ok"], [b"o", b"k"]], ids=["single", "stream"])
def test_connection_close_is_obeyed(stage, value, pieces):
    found = stage.last_response(start((b"Connection", value)), *bodies(*pieces))
    if len(pieces) == 1:
        assert found == answer(b"200 OK", b"content-length: 2", b"connection: close", body=b"ok")
    else:
        chunks = b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
        assert found == answer(b"200 OK", b"transfer-encoding: chunked", b"connection: close", body=chunks)


@pytest.mark.parametrize("status", [200, 426])
def test_an_upgrade_that_is_announced_frames_nothing(stage, status):
    fields = [(b"Upgrade", b"h2c"), (b"Connection", b"Upgrade, X-A")]
    found = stage.response(start(*fields, status=status), BODY)
    line = b"%d %b" % (status, HTTPStatus(status).phrase.encode())
    assert found == answer(line, b"Upgrade: h2c", b"content-length: 2", b"connection: upgrade", body=b"ok")


@pytest.mark.parametrize(
    "name", [b"trailer", b"Trailer", b"te", b"content-encoding", b"content-range", b"http2-settings"]
)
def test_fields_about_framing_that_frame_nothing(stage, name):
    field = (name, b"content-length, transfer-encoding")
    line = b"%b: %b" % field
    assert stage.response(start(field), BODY) == answer(b"200 OK", line, b"content-length: 2", body=b"ok")
    found = stage.response(start(field), *bodies(b"o", b"k"))
    chunks = b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
    assert found == answer(b"200 OK", line, b"transfer-encoding: chunked", body=chunks)


# The status


class Number(int):
    """Writes itself as it likes."""

    def __str__(self) -> str:
        return "200 OK" + SPLIT.decode()

    __repr__ = __format__ = __str__  # type: ignore[assignment]

    def __index__(self) -> int:
        return 100

    __int__ = __index__


@pytest.mark.parametrize(
    "status",
    [
        0, 1, 20, 99, 100, 101, 102, 103, 150, 199, 1000, 2000, 20000, -1, -200, True, False, 2**31,
        2**32 + 200, 2**63, 2**64 + 200, -(2**64) + 200, 10**500, Number(100), Number(5), HTTPStatus.CONTINUE,
        HTTPStatus.SWITCHING_PROTOCOLS,
    ],
)  # fmt: skip
def test_a_status_that_is_not_final(stage, status):
    """A 1xx would leave the client waiting, for the response to the next request."""
    assert stage.response(start(status=status), BODY) == SERVER_ERROR
    assert stage.refused == [HeaderError]


@pytest.mark.parametrize(
    "status",
    [
        "200",
        "200 OK" + SPLIT.decode(),
        b"200",
        SPLIT,
        200.0,
        None,
        [200],
        (200,),
        200j,
        object(),
        bytearray(b"200"),
    ],
)
def test_a_status_that_is_no_number(stage, status):
    assert stage.response(start(status=status), BODY) == SERVER_ERROR
    assert stage.refused == [MessageError]


def test_each_final_status_is_three_digits(stage):
    for status in range(200, 1000):
        found = stage.response(start(status=status), {**BODY, "body": b""})
        assert re.match(rb"HTTP/1\.1 %d [ -~]*\r\n" % status, found)
        rest = found.partition(b"\r\n")[2]
        assert rest == (b"\r\n" if status in (204, 304) else b"content-length: 0\r\n\r\n")


def test_a_status_of_a_subclass_is_the_number_that_it_is(stage):
    assert stage.response(start(status=Number(200)), BODY) == answer(
        b"200 OK", b"content-length: 2", body=b"ok"
    )


# Bodies

PIECES = [
    [b"evil"],
    [b"ev", b"il"],
    [SPLIT],
    [b"", SPLIT, b""],
    [b"0\r\n\r\n" + SPLIT, SPLIT],
    [b"x" * 100_000, SPLIT],
]


@pytest.mark.parametrize("pieces", PIECES, ids=range(len(PIECES)))
@pytest.mark.parametrize("fields", [[], [(b"content-length", b"4")], [(b"transfer-encoding", b"chunked")]])
def test_no_body_where_there_is_none(stage, pieces, fields):
    """RFC 9112 §6.3: HEAD, 204 and 304 end with their heads, whatever these say."""
    length = [b"content-length: 4" for name, _ in fields if name == b"content-length"]
    for status, line, kept in [(204, b"204 No Content", []), (304, b"304 Not Modified", length)]:
        assert stage.response(start(*fields, status=status), *bodies(*pieces)) == answer(line, *kept)
    head = get("/app", method=b"HEAD")
    found = stage.response(start(*fields), *bodies(*pieces), request=head, method="HEAD")
    assert found == answer(b"200 OK", *length)
    assert stage.refused == []


def test_an_error_in_answer_to_head_has_no_body(stage):
    head = get("/app", method=b"HEAD")
    found = stage.response(start((b"x", b"\r\n")), BODY, request=head, method="HEAD")
    assert found == SERVER_ERROR.removesuffix(b"Internal Server Error")


@pytest.mark.parametrize("pieces", PIECES, ids=range(len(PIECES)))
def test_a_body_is_data(stage, pieces):
    whole = b"".join(pieces)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
    sized = answer(b"200 OK", b"content-length: %d" % len(whole), body=whole)
    streamed = answer(b"200 OK", b"transfer-encoding: chunked", body=chunks)
    expected = sized if len(pieces) == 1 else streamed
    assert stage.response(START, *bodies(*pieces)) == expected
    assert stage.response(start((b"content-length", b"%d" % len(whole))), *bodies(*pieces)) == sized
    old = get("/app", b"Connection: keep-alive", version=b"1.0")
    found = stage.play(START, *bodies(*pieces), request=old)
    if len(pieces) == 1:
        assert found.startswith(
            answer(b"200 OK", b"content-length: %d" % len(whole), b"connection: keep-alive", body=whole)
        )
    else:  # RFC 9112 §6.1: no chunks for a 1.0 client; the end of the connection ends it
        assert found == answer(b"200 OK", b"connection: close", body=whole)


@pytest.mark.parametrize("kind", [bytearray, memoryview, Bytes, lambda data: memoryview(data).cast("I")])
def test_the_length_of_a_body_is_that_of_its_bytes(stage, kind):
    data = b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n "
    assert len(data) % 4 == 0
    expected = answer(b"200 OK", b"content-length: %d" % len(data), body=data)
    assert stage.response(START, {**BODY, "body": kind(data)}) == expected
    chunk = b"%x\r\n%b\r\n" % (len(data), data)
    expected = answer(b"200 OK", b"transfer-encoding: chunked", body=chunk + chunk + b"0\r\n\r\n")
    assert stage.response(START, *bodies(kind(data), kind(data))) == expected


def test_a_view_with_steps_is_what_it_shows(stage):
    view = memoryview(b"o-k-" * 50)[::2]
    assert stage.response(START, {**BODY, "body": view}) == answer(
        b"200 OK", b"content-length: 100", body=b"ok" * 50
    )


@pytest.mark.parametrize("body", ["ok", SPLIT.decode(), None, 5, [b"ok"], [1, 2], {b"ok"}, object()])
def test_a_body_that_is_no_bytes(stage, body):
    assert stage.response(START, {**BODY, "body": body}) == SERVER_ERROR
    assert stage.refused == [MessageError]


@pytest.mark.parametrize("upload", [b"", b"up", SPLIT, b"x" * 70_000])
def test_behind_a_request_with_a_body(stage, upload):
    found = stage.response(start((b"x", SPLIT)), BODY, request=post(upload, target=b"/app"))
    assert found == SERVER_ERROR


# Messages that do not exist

NO_MESSAGES = [
    {"type": "http.response.push", "path": "/\r\n", "headers": [(b"x", SPLIT)]},
    {"type": "http.response.informational", "status": 103, "headers": [(b"link", SPLIT)]},
    {"type": "http.response.Start", "status": 200, "headers": []},
    {"type": "http.response.body\0", "body": SPLIT},
    {"type": "http.response.body\r\n", "body": SPLIT},
    {"type": "http.request", "body": SPLIT},
    {"type": "http.disconnect"},
    {"type": "websocket.accept", "headers": [(b"x", SPLIT)]},
    {"type": "websocket.send", "bytes": SPLIT},
    {"type": "lifespan.startup.complete"},
    {"type": SPLIT.decode()},
    {"type": ""},
    {"type": SPLIT},
    {"type": None},
    {},
]


@pytest.mark.parametrize("message", NO_MESSAGES, ids=lambda message: ascii(message.get("type"))[:30])
def test_a_message_that_does_not_exist(stage, message):
    assert stage.response(message, START, BODY) == SERVER_ERROR
    assert stage.response(START, message, BODY) == SERVER_ERROR
    begun = stage.last_response(START, *bodies(b"ok", b"")[:1], message)
    assert begun == answer(b"200 OK", b"transfer-encoding: chunked", body=b"2\r\nok\r\n")
    assert stage.response(START, BODY, message) == answer(b"200 OK", b"content-length: 2", body=b"ok")
    assert stage.refused == [MessageError]


def test_a_trailer_that_would_split_the_response(stage):
    """It is refused, and the response is cut where it is: no last chunk, no trailer."""
    bad = {"type": "http.response.trailers", "headers": [(b"a", b"b"), (b"x", SPLIT)]}
    request = get("/app", b"TE: trailers")
    found = stage.last_response({**START, "trailers": True}, *bodies(b"o", b"k"), bad, request=request)
    chunks = b"1\r\no\r\n1\r\nk\r\n"
    assert found == answer(b"200 OK", b"transfer-encoding: chunked", body=chunks)
    assert stage.refused == [HeaderError]


def test_a_link_that_would_split_the_response(stage):
    assert (
        stage.response({"type": "http.response.early_hint", "links": [b"</a>", SPLIT]}, START, BODY)
        == SERVER_ERROR
    )
    assert stage.refused == [HeaderError]


def test_an_app_that_goes_on_after_its_mistakes(serve):
    """Nothing of a message that was refused stays behind, on the wire or in what is counted."""
    wrong: list[Any] = [
        start((b"x-a", b"1"), (b"x-b", SPLIT)), start((b"content-length", b"5"), (b"content-length", b"6")),
        start((b"connection", b"close"), (b"x", b"\n")), start(status=100), start(("x-a", "1")), *NO_MESSAGES,
    ]  # fmt: skip

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        for step in (START, *bodies(b"o", b"k")):
            for message in (*wrong, BODY) if step is START else wrong:
                with pytest.raises(ApplicationError):
                    await send(message)
            await send(step)

    server = serve(app, server_header=False, date_header=False)
    with server.connect() as client:
        client.send(get("/app"), get("/ok"))
        chunks = b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
        expected = answer(b"200 OK", b"transfer-encoding: chunked", body=chunks)
        expected += answer(b"200 OK", b"content-length: 2", body=b"ok")
        assert client.read_until(b"\r\n\r\nok") == expected


# What the operator fixes (--header): refused before there is a server


def refused(value: object) -> bool:
    try:
        Header().check(value)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("place", ["{}ab", "a{}b", "ab{}", "{}"])
def test_each_character_in_a_fixed_header(place):
    for code in (*range(0x180), 0x2028, 0x2029, 0x560A, 0x560D, 0xD800, 0xFF0D, 0x1F600):
        text = place.format(chr(code))
        assert refused(("x-a", text)) is (code not in FIELD_VALUE)
        assert refused((text, "v")) is (code not in TCHAR)
        # As one text the blanks around a value are not part of it, and a colon ends the name.
        assert refused(f"x-a: {text}") is (code not in FIELD_VALUE)
        if chr(code) != ":":
            assert refused(f"{text}: v") is (code not in TCHAR)


def test_a_fixed_header_that_splits_is_a_mistake_of_the_configuration():
    for evil in ("x-a: b\r\nx-b: c", "x-a: b\nc", "x-a: b\0", "x-a\n: b", ("x-a", "b\rc"), ("x-a\r", "b")):
        with pytest.raises(ConfigError, match="headers: "):
            Config("main:app", headers=(evil,))


def refused_natively(server: Server, name: bytes, value: bytes) -> bool:
    """The native side relies on nobody."""

    def make() -> None:
        _native.ProtocolFactory(
            ok, loop=server.loop, context=None, state=None, headers=[(name, value)],
            on_app_error=print, on_reject=print,
        ).close()  # fmt: skip

    try:
        server.call(make)
    except ValueError as error:
        return "cannot go on the wire" in str(error)
    return False


@pytest.mark.parametrize("place", PLACES)
def test_each_byte_in_a_fixed_header_natively(one_stage, place):
    for byte in ALL_BYTES:
        text = PLACES[place] % byte
        assert refused_natively(one_stage.server, b"x-a", text) is (byte[0] not in FIELD_VALUE)
        assert refused_natively(one_stage.server, text, b"v") is (byte[0] not in TCHAR)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "CONNECTION"])
def test_a_fixed_header_does_not_frame(one_stage, name):
    assert refused(f"{name}: 2")
    assert refused((name.swapcase(), "2"))
    assert refused_natively(one_stage.server, name.encode(), b"2")


def test_fixed_headers_are_in_each_response_once(serve):
    fixed = [(b"x-a", bytes(sorted(FIELD_VALUE))), (bytes(sorted(TCHAR)), b""), (b"x-b", b"%s%n\\r\\n")]
    lines = [name + b": " + value for name, value in fixed]
    server = serve(ok, server_header=False, date_header=False, headers=fixed)
    plain = answer(b"200 OK", b"content-length: 2", *lines, body=b"ok")
    with server.connect() as client:
        client.send(get("/"), get("/"))
        assert client.read_until(b"ok" + plain) == plain + plain
