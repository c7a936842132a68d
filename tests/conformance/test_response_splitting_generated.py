"""Whatever an app comes up with: a second encoder, of a page, says what must be on the wire, to the byte.

Rules of this file: the encoder knows the rules (RFC 9110 §5, §8.6, RFC 9112 §6) and nothing of native/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.http1 import get
from tests.helpers.stage import FIELD_VALUE, SERVER_ERROR, SPLIT, TCHAR, Stage, bodies, start

MOST_LENGTH = 2**62
BODILESS = (204, 304)
THE_SERVER_S = (b"connection", b"keep-alive", b"transfer-encoding")
# RFC 9110 names these otherwise than older Pythons do.
RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    418: "I'm a Teapot",
    422: "Unprocessable Content",
}


@dataclass
class Told:
    """What the app sends, and whether that is an answer to HEAD."""

    status: int
    fields: list[tuple[bytes, bytes]]
    pieces: list[bytes]
    head: bool


class Refused(Exception):
    """A 500 in its place."""


def length_of(told: Told) -> int | None:
    """What its Content-Length promises."""
    numbers = set()
    for name, value in told.fields:
        if not name or not set(name) <= TCHAR or not set(value) <= FIELD_VALUE:
            raise Refused(name)
        if name.lower() == b"content-length":
            if not re.fullmatch(rb"[0-9]+", value) or int(value) > MOST_LENGTH:
                raise Refused(value)
            numbers.add(int(value))
    if told.status in (204, 205):
        return None  # RFC 9110 §8.6: none is sent; §15.3.6: 0, and it is ours
    if len(numbers) > 1:
        raise Refused(numbers)
    return numbers.pop() if numbers else None


def head_of(told: Told, length: int | None) -> list[bytes]:
    """The status line and the app's fields."""
    phrase = HTTPStatus(told.status).phrase if told.status in set(HTTPStatus) else ""
    lines = [b"HTTP/1.1 %d %b" % (told.status, RENAMED.get(told.status, phrase).encode())]
    lengths = 0 if length is None else 1
    for name, value in told.fields:
        if name.lower() == b"content-length":
            if lengths == 0:
                continue
            lengths = 0  # an equal one says nothing new
        if name.lower() not in THE_SERVER_S:
            lines.append(name + b": " + value)
    return lines


def framed(told: Told, length: int | None) -> tuple[list[bytes], bytes]:
    """The framing field, if there is one, and the body as it is sent."""
    if told.status == 205:
        return [b"content-length: 0"], b""
    if told.head or told.status in BODILESS:
        return [], b""
    if length is not None:
        return [], fitting(told.pieces, length)
    if len(told.pieces) == 1:
        return [b"content-length: %d" % len(told.pieces[0])], told.pieces[0]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in told.pieces if piece)
    return [b"transfer-encoding: chunked"], chunks + b"0\r\n\r\n"


def fitting(pieces: list[bytes], length: int) -> bytes:
    """The pieces up to the one that breaks the promise. One that does so at once is refused."""
    sent = b""
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        total = len(sent + piece)
        if total > length or (last and total < length):
            if number == 0:
                raise Refused(total)
            break
        sent += piece
    return sent


def connection_fields(told: Told) -> list[bytes]:
    lists = [value for name, value in told.fields if name.lower() == b"connection"]
    members = {one.strip(b" \t").lower() for value in lists for one in value.split(b",")}
    if any(name.lower() == b"upgrade" for name, _ in told.fields):
        members.add(b"upgrade")  # RFC 9110 §7.8
    return [b"connection: " + one for one in (b"upgrade", b"close") if one in members]


def wire(told: Told) -> tuple[bytes, bool]:
    """What must come, and whether the connection is kept."""
    try:
        if not 200 <= told.status <= 999:
            raise Refused(told.status)
        length = length_of(told)
        framing, body = framed(told, length)
    except Refused:
        return SERVER_ERROR.removesuffix(b"Internal Server Error") if told.head else SERVER_ERROR, True
    ending = connection_fields(told)
    raw = b"\r\n".join([*head_of(told, length), *framing, *ending, b"", body])
    return raw, b"connection: close" not in ending and not is_torn(told, length)


def is_torn(told: Told, length: int | None) -> bool:
    """Whether the app sent more or less than it promised, once it had begun: the connection ends there."""
    if length is None or told.head or told.status in BODILESS:
        return False
    return sum(map(len, told.pieces)) != length


tokens = st.text("".join(map(chr, sorted(TCHAR))), min_size=1, max_size=12).map(str.encode)
known_names = st.sampled_from(
    [
        b"content-length",
        b"Content-Length",
        b"transfer-encoding",
        b"Connection",
        b"Keep-Alive",
        b"Trailer",
        b"Upgrade",
    ]
)
names = st.one_of(known_names, known_names, tokens, st.sampled_from([b"", b"x ", b"x:", b"\r\nx", b"x\0"]))
known_values = st.sampled_from(
    [b"0", b"2", b"4", b"04", b"close", b"Upgrade , x", b"chunked", b"text/event-stream"]
)
letters = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8).map(str.encode)
bad_values = st.sampled_from([SPLIT, b"2, 2", b"a\rb", b"a\nb", b"\0", b"\x7f"])
values = st.one_of(known_values, known_values, letters, st.binary(max_size=3), bad_values)
pieces = st.one_of(st.sampled_from([b"", b"ok", b"evil", SPLIT, b"0\r\n\r\n"]), st.binary(max_size=8))
statuses = st.one_of(
    st.sampled_from([200, 200, 201, 204, 205, 206, 304, 404, 426, 999]), st.integers(-5, 1100)
)
tellings = st.builds(
    Told,
    status=statuses,
    fields=st.lists(st.tuples(names, values), max_size=3),
    pieces=st.lists(pieces, min_size=1, max_size=4),
    head=st.booleans(),
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.stop()


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=tellings, suspending=st.booleans())
def test_whatever_an_app_comes_up_with(stage, told, suspending):
    stage.suspending = suspending
    expected, kept = wire(told)
    messages = [start(*told.fields, status=told.status), *bodies(*told.pieces)]
    method = "HEAD" if told.head else "GET"
    request = get("/app", method=method.encode())
    if kept:
        assert stage.response(*messages, request=request, method=method) == expected
    else:
        assert stage.last_response(*messages, request=request) == expected
