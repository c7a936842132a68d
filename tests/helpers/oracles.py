"""Three readers of the same bytes: our server, httptools alone, and h11; ``judge`` compares their Readings.

Rules of this file: a Reading says what was taken for requests, in order, and how it ended, and nothing of
what a test thinks of it. Nobody corrects an oracle, but for two things that it cannot know: httptools hears
of POST in the place of a method that it has no number for, and h11, which reads one message, of each that is
left.

What we take, both take, for the same; EXCUSED are the exceptions. What both take and we do not is refused by
a rule of ours: ``rules`` are all of them, written down anew from docs/deviations.md and the RFCs, and no
request that breaks one gets to the app.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import h11
import httptools

from shardserve.config.model import Config
from tests.helpers.asgi import reply
from tests.native.drive import Driver, FakeTransport

MOST_TURNS = 200
QUIET_TURNS = 4

Fields = list[tuple[bytes, bytes]]


class Seen(NamedTuple):
    """One request. ``trailers``: what only an oracle tells of."""

    method: str
    target: bytes
    version: str
    headers: Fields
    body: bytes
    trailers: Fields = []  # noqa: RUF012 (of a NamedTuple; nobody writes to it)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Reading(NamedTuple):
    """``seen``: the complete requests. ``begun``: one whose head was complete, and whose body was not.

    ``error``: why the rest is no request (of ours: the reason), "" if nothing is wrong with it. Of ours
    alone: ``status`` of the refusal, 0 if there was none; ``closes``: no more will be read.
    """

    seen: list[Seen]
    begun: Seen | None = None
    error: str = ""
    status: int = 0
    closes: bool = False


# Ours


class Memory(FakeTransport):
    """A transport without a socket: all output is in ``written``."""

    def __init__(self, port: int) -> None:
        self.calls: list[str] = []
        self.written = b""
        self.extra = {"peername": ("127.0.0.1", port), "sockname": ("127.0.0.1", 80)}

    def hears(self) -> bool:
        return not (
            self.is_closing() or self.calls.count("pause_reading") > self.calls.count("resume_reading")
        )


def split(target: bytes) -> tuple[bytes, bytes]:
    """Path and query, as ASGI has them."""
    absolute = ABSOLUTE.fullmatch(target)
    path, _, query = (absolute[2] if absolute else target).partition(b"?")
    return path or b"/", query


class Ours:
    """The server, with an app that notes each request and answers it once it is complete."""

    def __init__(self, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.settings = {"underscore_headers": "allow", "date_header": False, **settings}
        self.driver: Driver = self.loop.run_until_complete(self._start())
        self.requests: list[list[Any]] = []  # scope, body, complete
        self.targets: list[bytes] = []

    async def _start(self) -> Driver:
        return Driver(self._app, access=self._access, **self.settings)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        request = [scope, b"", False]
        self.requests.append(request)
        while not request[2]:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            request[1] += message["body"]
            request[2] = not message["more_body"]
        await reply(send)

    def _access(self, client: Any, method: str, target: bytes, version: str, status: int) -> None:
        self.targets.append(target)

    def read(self, pieces: Iterable[bytes], turning: bool = True) -> Reading:
        """``turning``: the loop turns between two pieces."""
        return self.loop.run_until_complete(self._read(list(pieces), turning))

    async def _read(self, pieces: list[bytes], turning: bool) -> Reading:
        self.requests, self.targets, self.driver.rejects = [], [], []
        connection, transport = self.driver.connect(Memory(4711))
        for piece in pieces:
            if not transport.hears():
                await self._rest(transport)
            if not transport.hears():
                break
            connection.data_received(piece)
            if turning:
                await asyncio.sleep(0)
        await self._rest(transport)
        reading = self._reading(transport)
        connection.connection_lost(None)
        await self._rest(transport)
        assert self.driver.factory.connections == self.driver.factory.in_flight == 0
        assert not self.driver.errors, self.driver.errors
        return reading

    async def _rest(self, transport: Memory) -> None:
        """Until nothing has happened for a while."""
        before, quiet = None, 0
        for _ in range(MOST_TURNS):
            now = len(transport.written), len(transport.calls), len(self.requests)
            quiet = quiet + 1 if now == before else 0
            if quiet == QUIET_TURNS:
                return
            before = now
            await asyncio.sleep(0)

    def _reading(self, transport: Memory) -> Reading:
        seen = [self._seen(scope, body) for scope, body, complete in self.requests if complete]
        begun = [self._seen(scope, body) for scope, body, complete in self.requests if not complete]
        output = transport.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        answers = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", output)]
        rejects = [status for status, _, _ in self.driver.rejects]
        assert answers == [200] * len(seen) + rejects, (answers, rejects, seen)
        assert len(rejects) <= 1
        assert len(begun) <= 1
        closes = transport.is_closing() or "write_eof" in transport.calls
        assert closes or not rejects
        reason = self.driver.rejects[0][1] if rejects else ""
        begun = [request._replace(target=b"") for request in begun]  # the access log does not tell it
        for request, target, (scope, _, _) in zip(seen, self.targets, self.requests, strict=False):
            assert (request.target, scope["query_string"]) == split(target), target
        return Reading(
            [request._replace(target=target) for request, target in zip(seen, self.targets, strict=True)],
            begun[0] if begun else None,
            reason,
            rejects[0] if rejects else 0,
            closes,
        )

    def _seen(self, scope: Any, body: bytes) -> Seen:
        return Seen(scope["method"], scope["raw_path"], scope["http_version"], list(scope["headers"]), body)

    def close(self) -> None:
        self.driver.factory.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


# httptools


class Callbacks:
    """httptools' callbacks, as simple as they can be."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.method: str | None = None  # in the place of the parser's
        self.done: list[Seen] = []
        self.begun: Seen | None = None
        self.in_message = False
        self.on_message_begin()
        self.in_message = False

    def on_message_begin(self) -> None:
        self.in_message = True
        self.target = self.body = b""
        self.headers: Fields = []
        self.trailers: Fields = []

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        (self.trailers if self.begun else self.headers).append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        method = self.method or self.parser.get_method().decode()
        self.begun = Seen(
            method, self.target, self.parser.get_http_version(), self.headers, b"", self.trailers
        )

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        assert self.begun is not None
        self.done.append(self.begun._replace(body=self.body))
        self.begun = self.method = None
        self.in_message = False


@cache
def httptools_knows(method: bytes) -> bool:
    """Whether it takes this method in a request of HTTP."""
    try:
        httptools.HttpRequestParser(Callbacks()).feed_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    except httptools.HttpParserUpgrade:
        return method == b"CONNECT"
    except httptools.HttpParserError:
        return False
    return True


WORD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ")


def read_httptools(raw: bytes) -> Reading:
    """Fed byte by byte, so that it is known where each message begins."""
    callbacks = Callbacks()
    at = 0
    try:
        while at < len(raw):
            if not callbacks.in_message and (word := WORD.match(raw, at)) and not httptools_knows(word[1]):
                callbacks.method = word[1].decode()
                callbacks.parser.feed_data(b"POST")
                at += len(word[1])
            callbacks.parser.feed_data(raw[at : at + 1])
            at += 1
    except httptools.HttpParserUpgrade:
        # It would hand the connection on, and calls the message complete without looking at its body.
        return Reading(callbacks.done[:-1], callbacks.done[-1], "Upgrade")
    except httptools.HttpParserError as error:
        return Reading(callbacks.done, callbacks.begun, str(error))
    return Reading(callbacks.done, callbacks.begun)


# h11


BLANK_LINES = re.compile(rb"(?:\r\n)*")


def read_h11(raw: bytes) -> Reading:
    """A parser for each message. It takes no empty line before one, which RFC 9112 §2.2 wants taken."""
    seen: list[Seen] = []
    while raw := raw[len(BLANK_LINES.match(raw)[0]) :]:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        parser.receive_data(raw)
        request: Seen | None = None
        try:
            while True:
                event = parser.next_event()
                if isinstance(event, h11.Request):
                    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                    version = event.http_version.decode()
                    request = Seen(event.method.decode(), bytes(event.target), version, fields, b"")
                elif isinstance(event, h11.Data):
                    assert request is not None
                    request = request._replace(body=request.body + bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    assert request is not None
                    trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
                    seen.append(request._replace(trailers=trailers))
                    break
                else:
                    assert event is h11.NEED_DATA, event
                    return Reading(seen, request)
        except h11.RemoteProtocolError as error:
            return Reading(seen, request, str(error))
        raw = bytes(parser.trailing_data[0])
    return Reading(seen)


# Our rules

HEX = rb"[0-9A-Fa-f]"
REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%" + HEX + HEX + rb")+"
AUTHORITY = re.compile(rb"(\[[^\]]*\]|" + REG_NAME + rb")(?::[0-9]*)?")
FUTURE_ADDRESS = re.compile(rb"[vV]" + HEX + rb"+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+")
ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(.*)", re.DOTALL)
LARGEST_BODY = Config("none:none").limit_request_body_bytes
KNOWN_CODINGS = {b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"}
NO_TRAILERS = {
    b"authorization", b"connection", b"content-length", b"cookie", b"expect", b"forwarded", b"host",
    b"keep-alive", b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade",
}  # fmt: skip


def is_authority(text: bytes) -> bool:
    """A host that is not empty, and perhaps a port."""
    found = AUTHORITY.fullmatch(text)
    if not found or not found[1].startswith(b"["):
        return found is not None
    inside = found[1][1:-1]
    if inside[:1] in (b"v", b"V"):
        return FUTURE_ADDRESS.fullmatch(inside) is not None
    try:
        return b"%" not in inside and bool(ipaddress.IPv6Address(inside.decode("ascii")))
    except ValueError:
        return False


def rules_of_target(request: Seen) -> set[int]:
    if b"#" in request.target:
        return {400}
    if request.target.startswith(b"/") or (request.target == b"*" and request.method == "OPTIONS"):
        return set()
    absolute = ABSOLUTE.fullmatch(request.target)
    return set() if absolute and is_authority(absolute[1]) else {400}


def rules_of_coding(request: Seen) -> set[int]:
    codings = [
        coding.strip(b" \t").lower()
        for value in request.all(b"transfer-encoding")
        for coding in value.split(b",")
    ]
    lengths = request.all(b"content-length")
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        return {400}
    if not codings or (codings == [b"chunked"] and request.version == "1.1" and not lengths):
        return set()
    if codings[-1] == b"chunked" and set(codings[:-1]) <= KNOWN_CODINGS and request.version == "1.1":
        return {501}
    return {400}


def rules(request: Seen) -> set[int]:
    """The statuses that our rules have for ``request``; none: it is served."""
    broken = rules_of_target(request) | rules_of_coding(request)
    hosts = request.all(b"host")
    if request.version not in ("1.0", "1.1"):
        broken.add(505)
    if request.method == "CONNECT":
        broken.add(501)
    if (
        len(hosts) > 1
        or (request.version == "1.1" and not hosts)
        or any(host and not is_authority(host) for host in hosts)
    ):
        broken.add(400)
    if any(length.isdigit() and int(length) > LARGEST_BODY for length in request.all(b"content-length")):
        broken.add(413)
    if any(value.lower() != b"100-continue" for value in request.all(b"expect")):
        broken.add(417)
    if any(name in NO_TRAILERS for name, _ in request.trailers):
        broken.add(400)
    return broken


# The comparison

EXCUSED = {
    ("httptools", "Upgrade"): "it stops at an Upgrade, which we ignore, and does not read the body",
}
"""Why an oracle may not take what we take: its name, what it says, the reason."""


def same(name: str, ours: Seen, theirs: Seen) -> list[str]:
    """In what two readings of one request differ."""
    problems = [
        f"{field} {getattr(ours, field)!r}, {name} {getattr(theirs, field)!r}"
        for field in ("method", "target", "version", "body")
        if getattr(ours, field) != getattr(theirs, field)
    ]
    # h11 writes a coding in lower case; the host of an absolute target takes the place of the Host field.
    absolute = not ours.target.startswith((b"/", b"*"))
    fields = [
        [
            (key, value.lower() if key == b"transfer-encoding" else value)
            for key, value in request.headers
            if not (absolute and key == b"host")
        ]
        for request in (ours, theirs)
    ]
    if fields[0] != fields[1]:
        problems.append(f"fields {fields[0]}, {name} {fields[1]}")
    return problems


def taken(reading: Reading, at: int) -> Seen | None:
    """What this reader takes for the request at this place; None: nothing, or not without an error."""
    if at < len(reading.seen):
        return reading.seen[at]
    return reading.begun if at == len(reading.seen) and not reading.error else None


def differences(ours: Reading, name: str, theirs: Reading) -> list[str]:
    """Where this oracle does not take what we take, or we wait where it does not."""
    problems: list[str] = []
    for at, request in enumerate(ours.seen):
        if at == len(theirs.seen):
            if (name, theirs.error) not in EXCUSED:
                problems.append(f"{name} does not take request {at}: {theirs.error!r}")
            return problems
        problems += same(name, request, theirs.seen[at])
    if not ours.status and not ours.closes and len(theirs.seen) > len(ours.seen):
        problems.append(f"{name} has request {len(ours.seen)} complete, we wait")
    return problems


def ends_rightly(ours: Reading) -> bool:
    """A connection without a refusal ends exactly when its last request says so (RFC 9112 §9.3)."""
    if ours.status:
        return ours.closes
    if not ours.seen or ours.begun:
        return not ours.closes
    last = ours.seen[-1]
    options = {
        option.strip(b" \t").lower() for value in last.all(b"connection") for option in value.split(b",")
    }
    closes = b"close" in options or (last.version == "1.0" and b"keep-alive" not in options)
    return closes == ours.closes


class Verdict(NamedTuple):
    problems: list[str]
    alone: int  # the status with which we refuse what both oracles take, or 0


def judge(raw: bytes, ours: Reading) -> Verdict:
    """What is wrong with how we read ``raw``."""
    theirs = {"httptools": read_httptools(raw), "h11": read_h11(raw)}
    problems = [text for name, reading in theirs.items() for text in differences(ours, name, reading)]
    for request in theirs["httptools"].seen[: len(ours.seen)]:
        if broken := rules(request):
            problems.append(f"served although {broken}: {request}")
    if not ends_rightly(ours):
        problems.append("kept, or closed, against what the last request says")
    at = len(ours.seen)
    requests = [taken(reading, at) for reading in theirs.values()]
    alone = 0
    if ours.status and None not in requests:
        alone = ours.status
        if not any(request and ours.status in rules(request) for request in requests):
            problems.append(f"{ours.status} ({ours.error}) for what both take, against no rule: {requests}")
    return Verdict(problems, alone)
