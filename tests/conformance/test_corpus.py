r"""Requests from corpus/*.http, replayed every way the network can cut them: the answers never change.

A file is TOML up to a line ``---``, then the bytes: line ends of the file do not count, ``\r \n \t \xNN \\``
are escapes. ``statuses`` are the answers, ``end`` tells whether the connection is "kept" or "closed" after
them, ``requests`` what the app saw whole ([method, raw path and query, body]; body "?" is one it did not
read), ``methods`` those of the requests where an answer to HEAD must be read.
"""

from __future__ import annotations

import asyncio
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers.asgi import reply
from tests.helpers.http1 import Server, get

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.http"))
SHORT_BYTES = 200


@dataclass
class Conversation:
    raw: bytes
    statuses: list[int]
    end: str
    requests: list[list[str]]
    methods: list[str] = field(default_factory=list)


def load(path: Path) -> Conversation:
    front, _, text = path.read_text("utf-8").partition("\n---\n")
    raw = text.replace("\n", "").encode("ascii").decode("unicode_escape").encode("latin-1")
    return Conversation(raw=raw, **tomllib.loads(front))


class Witness:
    """Notes the requests of each client that were complete, and answers them."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], list[list[str]]] = {}

    async def __call__(self, scope, receive, send) -> None:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        request = [scope["method"], (scope["raw_path"] + query).decode("latin-1"), "?"]
        if scope["path"] == "/slow":
            await asyncio.sleep(0.0005)
        if scope["path"] != "/early":
            request[2] = ""
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                request[2] += message["body"].decode("latin-1")
                more = message["more_body"]
        self.seen.setdefault(scope["client"], []).append(request)
        await reply(send, scope["path"].encode())


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="module")
def server(witness) -> Iterator[Server]:
    server = Server(witness)
    yield server
    server.rejects.clear()
    server.stop()


def cut(raw: bytes, *offsets: int) -> list[bytes]:
    edges = [0, *sorted(set(offsets) - {0, len(raw)}), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


def whole(raw: bytes) -> list[list[bytes]]:
    return [[raw]]


def byte_by_byte(raw: bytes) -> list[list[bytes]]:
    return [cut(raw, *range(len(raw)))]


def line_by_line(raw: bytes) -> list[list[bytes]]:
    return [raw.splitlines(keepends=True)]


def at_every_offset(raw: bytes) -> list[list[bytes]]:
    step = 1 if len(raw) <= SHORT_BYTES else 3
    return [cut(raw, at) for at in range(1, len(raw), step)]


def at_random(raw: bytes) -> list[list[bytes]]:
    dice = random.Random(raw)
    return [cut(raw, *dice.sample(range(len(raw)), min(len(raw) - 1, dice.randint(2, 9)))) for _ in range(8)]


FEEDINGS: list[Callable[[bytes], list[list[bytes]]]] = [
    whole,
    byte_by_byte,
    line_by_line,
    at_every_offset,
    at_random,
]


@pytest.mark.parametrize("feeding", FEEDINGS, ids=[feeding.__name__ for feeding in FEEDINGS])
@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
def test_corpus(server, witness, path, feeding):
    told = load(path)
    methods = told.methods or ["GET"] * len(told.statuses)
    for pieces in feeding(told.raw):
        with server.connect() as client:
            address = client.sock.getsockname()
            try:
                client.send_each(pieces)
            except OSError:
                assert told.end == "closed"
            statuses = [client.response(method).status for method in methods]
            assert statuses == told.statuses, pieces
            assert witness.seen.pop(address, []) == told.requests, pieces
            if told.end == "kept":
                assert client.ask(get("/ok")).body == b"/ok", pieces
                del witness.seen[address]
            else:
                try:
                    client.assert_closed()
                except ConnectionResetError:
                    pass  # it sent on behind its refusal
            assert address not in witness.seen, pieces
    server.clients.clear()


def test_the_corpus_is_there():
    assert len(CORPUS) >= 25
    for path in CORPUS:
        told = load(path)
        assert told.raw.isascii() or b"\xff" in told.raw or b"\xfc" in told.raw
        assert told.end in ("kept", "closed")
