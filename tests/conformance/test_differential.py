"""Generated requests, parsed by h11 and by us: both must see the same (style point 10: many oracles)."""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.asgi import read_body, reply
from tests.helpers.http1 import Server

TOKEN = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
TARGET = string.ascii_letters + string.digits + "/?%:@!$&'()*+,;=-._~[]|{}^`\"<>\\"
OURS = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect"}
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT", "LINK", "SEARCH"]


class Seen(NamedTuple):
    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Witness:
    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def __call__(self, scope, receive, send) -> None:
        query = scope["query_string"]
        self.seen.append(
            Seen(
                scope["method"],
                scope["raw_path"] + (b"?" + query if query else b""),
                scope["http_version"],
                scope["headers"],
                await read_body(receive),
            )
        )
        await reply(send)


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="module")
def server(witness) -> Iterator[Server]:
    server = Server(witness)
    yield server
    server.stop()


names = st.text(TOKEN, min_size=1, max_size=20).filter(lambda name: name.lower() not in OURS)
letters = st.characters(codec="latin-1", exclude_categories=["Cc"]) | st.just("\t")
values = st.text(letters, max_size=40).map(lambda value: value.strip(" \t"))
bodies = st.one_of(
    st.none(), st.binary(max_size=100), st.lists(st.binary(min_size=1, max_size=60), max_size=5)
)


@st.composite
def requests(draw) -> bytes:
    target = "/" + draw(st.text(TARGET, max_size=40))
    lines = [f"{draw(st.sampled_from(METHODS))} {target} HTTP/1.1", "Host: test"]
    for name, value in draw(st.lists(st.tuples(names, values), max_size=8)):
        lines.append(f"{name}:{draw(st.sampled_from(['', ' ', chr(9), '  ']))}{value}")
    body = draw(bodies)
    payload = b""
    if isinstance(body, bytes):
        lines.insert(draw(st.integers(1, len(lines))), f"Content-Length: {len(body)}")
        payload = body
    elif isinstance(body, list):
        lines.insert(draw(st.integers(1, len(lines))), "Transfer-Encoding: chunked")
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"]))
        payload = b"".join(size % len(chunk) + b"\r\n" + chunk + b"\r\n" for chunk in body) + b"0\r\n\r\n"
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


def parsed_by_h11(data: bytes) -> list[Seen]:
    """What h11 takes for a sequence of requests."""
    seen = []
    while data:
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(data)
        request = parser.next_event()
        assert isinstance(request, h11.Request)
        body = b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            body += bytes(event.data)
        headers = [(bytes(name), bytes(value)) for name, value in request.headers]
        version = request.http_version.decode()
        path, _, query = request.target.partition(b"?")
        target = path + b"?" + query if query else path  # ASGI does not tell an empty query from none
        seen.append(Seen(request.method.decode(), target, version, headers, body))
        data = bytes(parser.trailing_data[0])
    return seen


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pipeline=st.lists(requests(), min_size=1, max_size=4), cuts=st.lists(st.integers(1, 2000), max_size=4))
def test_the_same_requests_as_h11(server, witness, pipeline, cuts):
    data = b"".join(pipeline)
    expected = parsed_by_h11(data)
    witness.seen.clear()
    edges = [0, *sorted({at for at in cuts if at < len(data)}), len(data)]
    with server.connect() as client:
        client.send_each([data[a:b] for a, b in pairwise(edges)])
        assert [response.status for response in client.responses(len(pipeline))] == [200] * len(pipeline)
    server.clients.clear()
    assert witness.seen == expected
