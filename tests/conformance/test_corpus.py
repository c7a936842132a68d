r"""Requests from corpus/*.http, replayed every way the network can cut them: the answers never change.

A file is TOML up to a line ``---``, then the bytes: line ends of the file do not count, ``\r \n \t \xNN \\``
are escapes. Its name begins with the RFC and the section that ``section`` cites.

What every file tells: ``statuses`` are the answers, ``end`` whether the connection is "kept" or "closed"
after them, ``requests`` what the app saw whole ([method, raw path and query, body]; body "?" is one it did
not read). Who is refused has another request behind the one that is wrong, for /smuggled: nobody may see it.

What some tell: ``headers`` are all the fields of each of these requests, as the app saw them ("name: value");
``torn`` the requests ([method, raw path and query]) that the app may have begun and whose body never ended;
``methods`` those of the requests, where an answer to HEAD must be read; ``interim`` the 1xx answers that may
come, none if it is not there; ``settings`` arguments of ProtocolFactory, for a server of its own.

``test_over_sockets`` has a server and the kernel between; ``test_at_every_offset`` has neither, so that it
can afford each cut, be sure of it, and look at everything that was said and done.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.asgi import reply
from tests.helpers.http1 import PATIENCE_S, Client, Response, ResponseReader, Server, get
from tests.native.drive import Driver, FakeTransport, statuses, turns

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.http"))
NAMES = [path.stem for path in CORPUS]
SECTION = re.compile(r"RFC (\d+) §([\d.]+)(?: rule \d)?")
# A file up to this long is cut at every offset, a longer one at each third.
EVERY_OFFSET_BYTES = 400
# RFC 9110 §5.6.7: IMF-fixdate, the only form that may be sent.
DATE = re.compile(
    rb"date: (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d "
    rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT\r\n"
)
# The request that shows whether a connection is kept.
PROBE = get("/ok")


@dataclass
class Conversation:
    raw: bytes
    section: str
    statuses: list[int]
    end: str
    requests: list[list[str]]
    headers: list[list[str]] | None = None
    torn: list[list[str]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.methods = self.methods or ["GET"] * len(self.statuses)


@cache
def load(path: Path) -> Conversation:
    front, _, text = path.read_text("utf-8").partition("\n---\n")
    raw = text.replace("\n", "").encode("ascii").decode("unicode_escape").encode("latin-1")
    return Conversation(raw=raw, **tomllib.loads(front))


class Seen(NamedTuple):
    """A request as the app saw it."""

    method: str
    target: str
    body: str
    version: str
    headers: list[str]


class Witness:
    """Notes the requests of each client: those that began, and those that were complete. It answers these.

    ``pause`` is awaited where an app is slow.
    """

    def __init__(self, pause: Callable[[], Awaitable[None]]) -> None:
        self.pause = pause
        self.begun: dict[Any, list[list[str]]] = {}
        self.seen: dict[Any, list[Seen]] = {}

    async def __call__(self, scope, receive, send) -> None:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode("latin-1")
        headers = [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in scope["headers"]]
        self.begun.setdefault(scope["client"], []).append([scope["method"], target])
        if scope["path"] == "/slow":
            await self.pause()
        body = "?" if scope["path"] == "/early" else await self.body(receive)
        if body is None:
            return
        seen = Seen(scope["method"], target, body, scope["http_version"], headers)
        self.seen.setdefault(scope["client"], []).append(seen)
        await reply(send, scope["path"].encode())

    @staticmethod
    async def body(receive) -> str | None:
        """The whole body; None: it broke off."""
        body = ""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message["body"].decode("latin-1")
            more = message["more_body"]
        return body

    def take(self, client: Any) -> tuple[list[list[str]], list[Seen]]:
        return self.begun.pop(client, []), self.seen.pop(client, [])


def check(told: Conversation, answers: list[Response], begun: list[list[str]], seen: list[Seen]) -> None:
    """Everything but the end of the connection."""
    assert [answer.status for answer in answers] == told.statuses
    assert [[one.method, one.target, one.body] for one in seen] == told.requests
    if told.headers is not None:
        assert [one.headers for one in seen] == told.headers
    # Requests run one after the other: those behind the whole ones are torn, and there may be none of them.
    whole = [one[:2] for one in told.requests]
    assert begun[: len(whole)] == whole
    assert begun[len(whole) :] in ([], told.torn)
    for answer in answers:
        assert set(answer.informational) <= set(told.interim)
        assert answer.one(b"date")
    # RFC 9112 §9.6: whoever is about to close says so.
    closes = [answer.one(b"connection") == b"close" for answer in answers]
    assert closes == [False] * (len(answers) - 1) + [told.end == "closed"]
    if told.statuses[-1] >= 400:
        assert answers[-1].one(b"content-type") == b"text/plain; charset=utf-8"
        if told.methods[-1] != "HEAD":
            assert answers[-1].one(b"content-length") == b"%d" % len(answers[-1].body)


# Cuts


def cut(raw: bytes, *offsets: int) -> list[bytes]:
    edges = [0, *sorted(set(offsets) - {0, len(raw)}), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


def whole(raw: bytes) -> list[list[bytes]]:
    return [[raw]]


def byte_by_byte(raw: bytes) -> list[list[bytes]]:
    return [cut(raw, *range(len(raw)))]


def line_by_line(raw: bytes) -> list[list[bytes]]:
    return [raw.splitlines(keepends=True)]


def at_random(raw: bytes, times: int = 4) -> list[list[bytes]]:
    dice = random.Random(raw)
    return [
        cut(raw, *dice.sample(range(len(raw)), min(len(raw) - 1, dice.randint(2, 9)))) for _ in range(times)
    ]


def at_every_offset(raw: bytes) -> list[list[bytes]]:
    step = 1 if len(raw) <= EVERY_OFFSET_BYTES else 3
    return [cut(raw, at) for at in range(1, len(raw), step)]


# Byte by byte the kernel would not: it joins what it has.
FEEDINGS: list[Callable[[bytes], list[list[bytes]]]] = [whole, line_by_line, at_random]


# Over sockets


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness(lambda: asyncio.sleep(0.0005))


@pytest.fixture(scope="module")
def server_for(witness) -> Iterator[Callable[[dict[str, Any]], Server]]:
    """A server for each combination of settings that the corpus has."""
    servers: dict[str, Server] = {}

    def find(settings: dict[str, Any]) -> Server:
        key = repr(sorted(settings.items()))
        if key not in servers:
            servers[key] = Server(witness, **settings)
        return servers[key]

    yield find
    for server in servers.values():
        server.rejects.clear()  # they are counted in the other test
        server.stop()


def assert_refuses_more(client: Client) -> None:
    try:
        client.assert_closed()
    except ConnectionResetError:
        pass  # it was still sending behind its refusal


@pytest.mark.parametrize("feeding", FEEDINGS, ids=[feeding.__name__ for feeding in FEEDINGS])
@pytest.mark.parametrize("path", CORPUS, ids=NAMES)
def test_over_sockets(server_for, witness, path, feeding):
    told = load(path)
    server = server_for(told.settings)
    for pieces in feeding(told.raw):
        with server.connect() as client:
            address = client.sock.getsockname()
            try:
                client.send_each(pieces)
            except OSError:
                assert told.end == "closed", pieces
            answers = [client.response(method) for method in told.methods]
            check(told, answers, *witness.take(address))
            if told.end == "kept":
                assert client.ask(PROBE).body == b"/ok", pieces
                witness.take(address)
            else:
                assert_refuses_more(client)
            assert witness.take(address) == ([], []), pieces
    server.clients.clear()


# Without a server


class Heard(NamedTuple):
    """All that came of a conversation: the same, however its bytes are cut."""

    answers: list[Response]
    seen: list[Seen]
    rejects: list[tuple[int, str]]
    closed: bool


@cache
def parse(output: bytes, methods: tuple[str, ...]) -> list[Response]:
    """The responses in ``output``, which has no other bytes."""
    rest = iter([output])
    reader = ResponseReader(lambda: next(rest, b""))
    answers = [reader.response(method) for method in methods]
    assert reader.buffered == b"", "bytes behind the last response"
    for answer in answers:
        answer.informational.sort()
    return answers


class Line:
    """A connection with nothing but a pair of sockets behind it."""

    ports = itertools.count(1)

    def __init__(self, driver: Driver) -> None:
        self.client = ("192.0.2.1", next(self.ports))
        self.connection, self.transport = driver.connect(FakeTransport(extra={"peername": self.client}))
        self.output = b""

    def feed(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.connection.data_received(data)

    @property
    def closed(self) -> bool:
        """Our side is: the client reads an end, and nothing that it sends is looked at."""
        return "write_eof" in self.transport.calls or self.transport.is_closing()

    def finals(self) -> list[int]:
        """The responses that have come, but for those that only say that one will."""
        self.output += self.transport.read()
        return [status for status in statuses(self.output) if status >= 200]

    async def until(self, probe: Callable[[], bool]) -> None:
        """The loop turns. What does not come by itself never does: then the test says what is there."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not probe():
                    await asyncio.sleep(0)
        except TimeoutError:
            pass

    def drop(self) -> None:
        self.connection.connection_lost(None)
        self.transport.shut()


async def converse(driver: Driver, witness: Witness, told: Conversation, pieces: list[bytes]) -> Heard:
    """One conversation to its end, and a request behind it."""
    line = Line(driver)
    for number, piece in enumerate(pieces):
        line.feed(piece)
        await turns((number + len(piece)) % 3)  # sometimes the next piece is there before the app has begun
    kept = told.end == "kept"
    expected = [*told.statuses, *([200] if kept else [])]  # with that of the probe
    await line.until(lambda: line.closed or (kept and len(line.finals()) >= len(told.statuses)))
    begun, seen = witness.take(line.client)
    line.feed(PROBE)
    await (line.until(lambda: line.closed or len(line.finals()) >= len(expected)) if kept else turns(3))
    probed = witness.take(line.client)
    assert line.finals() == expected, pieces
    assert len(DATE.findall(line.output)) == len(expected), line.output
    methods = [*told.methods, *(["GET"] if kept else [])]
    answers = parse(DATE.sub(b"date: now\r\n", line.output), tuple(methods))
    assert probed[0] == ([["GET", "/ok"]] if kept else []), pieces
    check(told, answers[: len(told.statuses)], begun, seen)
    rejects = [(status, reason) for status, reason, client in driver.rejects if client == line.client]
    heard = Heard(answers, seen, rejects, line.closed)
    driver.rejects.clear()
    line.drop()
    return heard


def check_report(told: Conversation, heard: Heard) -> None:
    """A refusal is reported once, in the words that the client got."""
    refused = [answer for answer in heard.answers if answer.status >= 400]
    assert [status for status, _ in heard.rejects] == [answer.status for answer in refused]
    for (_, reason), answer in zip(heard.rejects, refused, strict=True):
        assert reason
        assert answer.body == (b"" if told.methods[-1] == "HEAD" else reason.encode())


@pytest.mark.parametrize("path", CORPUS, ids=NAMES)
async def test_at_every_offset(path):
    told = load(path)
    witness = Witness(lambda: turns(4))
    driver = Driver(witness, **told.settings)
    first = await converse(driver, witness, told, [told.raw])
    assert first.closed == (told.end == "closed")
    check_report(told, first)
    cuts = [at_every_offset, byte_by_byte, line_by_line, lambda raw: at_random(raw, 20)]
    for pieces in (pieces for cut_up in cuts for pieces in cut_up(told.raw)):
        heard = await converse(driver, witness, told, pieces)
        assert heard._replace(answers=[]) == first._replace(answers=[]), pieces
        for answer, whole_answer in zip(heard.answers, first.answers, strict=True):
            # A client that is not waiting need not be told to go on (RFC 9110 §10.1.1).
            assert (answer.status, answer.headers, answer.body) == (
                whole_answer.status,
                whole_answer.headers,
                whole_answer.body,
            ), pieces
    assert driver.errors == []
    assert driver.factory.connections == driver.factory.in_flight == 0
    driver.factory.close()


# The corpus itself


def test_the_corpus_is_there():
    assert len(CORPUS) >= 150
    for path in CORPUS:
        told = load(path)
        cited = SECTION.fullmatch(told.section)
        assert cited, told.section
        assert path.stem.startswith(f"{cited[1]}-{cited[2]}-"), path
        assert told.end in ("kept", "closed"), path
        assert len(told.methods) == len(told.statuses), path
        assert told.headers is None or len(told.headers) == len(told.requests), path
        if told.statuses[-1] >= 400:
            assert told.end == "closed", path
            assert b" /smuggled " in told.raw, path
            assert not any(target == "/smuggled" for _, target, *_ in told.requests + told.torn), path
