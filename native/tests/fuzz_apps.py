"""What an app may do with a request: ``BEHAVIOURS``, which an input chooses from.

Each is a coroutine function of a Call, and says everything through it, so that a Call knows what its client
is to get. An app that fails on purpose raises AppFailure; what else may come out of it stands in
``may_raise``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from shardserve.errors import ClientDisconnected, MessageError

# Longer than what is read at once (native/file.c: SMALL_BYTES).
FILE_BYTES = bytes(range(251)) * 200
FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "file"
FILE.write_bytes(FILE_BYTES)
MADE = (b"x-request-id", b"traceparent")
"""Fields of a request that the server may have put there (fuzz_observed.py), each time another."""


class AppFailure(Exception):
    """On purpose."""


class Call:
    """One request as its app sees it, and what the app said."""

    def __init__(self, world: Any, index: int, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.world, self.index, self.scope, self.receive, self.send = world, index, scope, receive, send
        self.method: str = scope.get("method", "GET")
        self.status = 0
        self.sent = bytearray()
        self.body: list[bytes] = []
        self.complete = False  # the app has the whole request
        self.gone = False  # it was told http.disconnect
        self.finished = False  # the last body message was accepted
        self.failed = False  # it raised, or returned early
        self.done = False
        # Of a WebSocket (fuzz_sockets.py):
        self.accepted = False  # what follows are no responses
        self.denied = False  # in one word
        self.behaviour = ""

    def __repr__(self) -> str:
        state = " ".join(
            name for name in ("complete", "gone", "finished", "failed", "done") if getattr(self, name)
        )
        target = self.scope["raw_path"] + b"?" + self.scope["query_string"]
        return f"<Call {self.index} {self.method} {target!r} {self.behaviour}: {self.status}, {state}>"

    @property
    def takes_trailers(self) -> bool:
        """RFC 9110 §10.1.4. Others do not get any, but over HTTP/2."""
        return self.scope["http_version"] == "2" or any(
            name == b"te" and b"trailers" in [one.strip(b" \t").lower() for one in value.split(b",")]
            for name, value in self.scope["headers"]
        )

    @property
    def expects_continue(self) -> bool:
        return self.scope["http_version"] == "1.1" and any(
            name == b"expect" for name, _ in self.scope["headers"]
        )

    def head(self) -> tuple[Any, ...]:
        scope = self.scope
        fields = [field for field in scope["headers"] if field[0] not in MADE]
        return self.method, scope["raw_path"], scope["query_string"], scope["http_version"], fields

    def seen(self) -> tuple[Any, ...]:
        return (*self.head(), b"".join(self.body))

    def check_wire(self, output: bytes) -> None:
        """Of an accepted WebSocket: ``output`` is all that the client has from the 101 on."""
        raise NotImplementedError

    # What apps do

    async def read(self) -> None:
        """One message."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            return
        self.body.append(message["body"])
        self.complete = not message["more_body"]

    async def read_all(self) -> bool:
        """The whole body. False: the client went."""
        while not self.complete and not self.gone:
            await self.read()
        return self.complete

    async def start(self, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        fields = [(b"n", b"%d" % self.index), *headers]
        waiter = self.send({"type": "http.response.start", "status": status, "headers": fields})
        self.status = status
        await waiter

    async def say(self, data: bytes = b"", more: bool = False) -> None:
        waiter = self.send({"type": "http.response.body", "body": data, "more_body": more})
        self.sent += data
        self.finished = not more
        await waiter

    async def say_file(self, offset: int, count: int, more: bool = False) -> None:
        """A part of FILE, which is closed before it can have been sent."""
        with FILE.open("rb") as file:
            waiter = self.send(
                {
                    "type": "http.response.zerocopysend",
                    "file": file,
                    "offset": offset,
                    "count": count,
                    "more_body": more,
                }
            )
        self.sent += FILE_BYTES[offset : offset + count]
        self.finished = not more
        await waiter

    async def turn(self) -> None:
        """Until the loop's next turn."""
        await _Yield()

    async def suspend(self) -> None:
        """Until the input says so."""
        future = self.world.loop.create_future()
        self.world.suspended.append(future)
        await future


class _Yield:
    def __await__(self) -> Any:
        yield


def digest(call: Call) -> bytes:
    body = b"".join(call.body)
    return b"%d %d %s" % (call.index, len(body), body[:16])


async def echoes(call: Call) -> None:
    if await call.read_all():
        await call.start()
        await call.say(digest(call))


async def echoes_late(call: Call) -> None:
    await call.suspend()
    await echoes(call)


async def answers_at_once(call: Call) -> None:
    await call.start()
    await call.say(b"ok")


async def streams(call: Call) -> None:
    await call.start()
    for part in (b"a", b"", b"bc" * 30):
        await call.say(part, True)
    await call.say(b"z")


async def streams_slowly(call: Call) -> None:
    await call.start(200, (b"content-type", b"text/html"))
    for part in (b"a" * 10, b"b" * 2500, b"c" * 300):
        await call.say(part, True)
        await call.turn()
    await call.say()


async def suspends(call: Call) -> None:
    await call.suspend()
    await call.read_all()
    await call.start(404)
    await call.suspend()
    await call.say(b"late")


async def turns_and_reads(call: Call) -> None:
    await call.turn()
    await call.read()
    await call.turn()
    await call.start()
    await call.say(b"x" * 70, True)
    await call.read_all()
    await call.say(b"end")


async def raises(call: Call) -> None:
    await call.read()
    raise AppFailure


async def raises_late(call: Call) -> None:
    await call.start(200, (b"content-length", b"10"))
    await call.say(b"12345", True)
    raise AppFailure


async def raises_in_chunks(call: Call) -> None:
    await call.start()
    await call.say(b"12345", True)
    await call.turn()
    raise AppFailure


async def raises_after_its_head(call: Call) -> None:
    await call.start(200, (b"content-length", b"10"))
    await call.suspend()
    raise AppFailure


async def closes(call: Call) -> None:
    await call.start(200, (b"connection", b"close"))
    await call.say(b"bye")


async def forgets_to_answer(call: Call) -> None:
    await call.read()


async def has_nothing_to_say(call: Call) -> None:
    await call.start(204 if call.index % 2 else 304, (b"content-length", b"5"))
    await call.say()


async def promises_more(call: Call) -> None:
    await call.start(200, (b"content-length", b"4000"))
    await call.say(b"m" * 3000)


async def answers_in_full(call: Call) -> None:
    await call.start(200, (b"content-length", b"3000"), (b"date", b"today"), (b"server", b"mine"))
    await call.say(b"f" * 1000, True)
    await call.say(b"g" * 2000)


async def waits_for_the_end(call: Call) -> None:
    await call.read_all()
    await call.start()
    await call.say(b"tick", True)
    while not call.gone:
        await call.read()
    await call.say(b"over")


async def sends_events(call: Call) -> None:
    await call.start(200, (b"content-type", b"text/event-stream"))
    await call.read_all()
    while not call.gone:
        await call.say(b"data: x\n\n", True)
        await call.read()


async def works_on(call: Call) -> None:
    """Its response is done, it is not."""
    await call.start()
    await call.say(b"done")
    await call.suspend()
    while not call.gone:
        await call.read()


async def says_too_much(call: Call) -> None:
    await call.start(200, (b"content-length", b"2"))
    await call.say(b"two more than", True)


async def says_it_twice(call: Call) -> None:
    await call.start()
    await call.say(b"once")
    try:
        await call.send({"type": "http.response.body", "body": b"HTTP/1.1 200 OK\r\n\r\n"})
    except MessageError:
        return
    raise AssertionError("a second last message was accepted")


async def splits(call: Call) -> None:
    """Tries to add a field, and a response, of its own."""
    try:
        await call.send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nn: 7")]})
    except Exception:
        await call.start()
        await call.say(b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        return
    raise AssertionError("a CR was accepted")


async def keeps_its_channels(call: Call) -> None:
    """Others use them when it is over."""
    await call.start()
    await call.say(b"kept")
    call.world.kept.append((call.receive, call.send))


async def uses_those_of_others(call: Call) -> None:
    for receive, send in call.world.kept:
        for channel, message in (
            (send, [{"type": "http.response.body", "body": b"HTTP/1.1 "}]),
            (receive, []),
        ):
            try:
                await channel(*message)
            except (RuntimeError, OSError, MessageError):
                pass
    await call.start()
    await call.say(b"used")


async def ticks(call: Call) -> None:
    """Deadlines are enforced while the connection is in the middle of things."""
    call.world.factory.tick()
    await call.start()
    call.world.factory.tick()
    await call.say(b"tick", True)
    call.world.factory.tick()
    await call.say(b"tock")


async def feeds_itself(call: Call) -> None:
    """Bytes come in while the app runs."""
    call.world.feed_next()
    await call.start()
    call.world.feed_next()
    await call.say(b"fed")


async def loses_its_client(call: Call) -> None:
    """The connection ends while the app runs."""
    await call.start()
    await call.say(b"go", True)
    call.world.lose()
    await call.turn()
    await call.say(b"ne")


async def sends_a_file(call: Call) -> None:
    await call.start(200, (b"content-type", b"text/html"))
    waiter = call.send({"type": "http.response.pathsend", "path": FILE})
    call.sent += FILE_BYTES
    call.finished = True
    await waiter


async def sends_parts_of_a_file(call: Call) -> None:
    await call.start()
    await call.say(b"before", True)
    await call.say_file(1, 40_000, True)
    await call.say_file(7, 20, True)
    await call.turn()
    await call.say(b"behind", True)
    await call.say_file(10_000, 35_000)


async def leaves_its_file(call: Call) -> None:
    """It does not wait until the file is sent, and then it fails."""
    await call.start()
    call.send({"type": "http.response.zerocopysend", "file": FILE.open("rb"), "more_body": True})
    call.sent += FILE_BYTES
    raise AppFailure


async def sends_trailers(call: Call) -> None:
    await call.send({"type": "http.response.early_hint", "links": [b"</a>", b"</b>"]})
    fields = [(b"n", b"%d" % call.index)]
    waiter = call.send({"type": "http.response.start", "status": 200, "headers": fields, "trailers": True})
    call.status = 200
    await waiter
    await call.say(b"a" * 70, True)
    await call.say(b"z")
    call.finished = not call.takes_trailers  # there is more to come
    await call.suspend()
    await call.send({"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True})
    waiter = call.send({"type": "http.response.trailers", "headers": [(b"b", b"2"), (b"c", b"3")]})
    call.finished = True
    await waiter


async def forgets_its_trailers(call: Call) -> None:
    await call.send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"n", b"%d" % call.index)],
            "trailers": True,
        }
    )
    call.status = 200
    await call.say(b"all there is")
    call.finished = not call.takes_trailers


BEHAVIOURS: list[Callable[[Call], Coroutine[Any, Any, None]]] = [
    echoes,
    answers_at_once,
    streams,
    streams_slowly,
    suspends,
    turns_and_reads,
    raises,
    raises_late,
    raises_in_chunks,
    raises_after_its_head,
    closes,
    forgets_to_answer,
    has_nothing_to_say,
    promises_more,
    answers_in_full,
    waits_for_the_end,
    sends_events,
    works_on,
    says_too_much,
    says_it_twice,
    splits,
    keeps_its_channels,
    uses_those_of_others,
    ticks,
    feeds_itself,
    loses_its_client,
    sends_a_file,
    sends_parts_of_a_file,
    leaves_its_file,
    sends_trailers,
    forgets_its_trailers,
]
MISTAKEN = {"forgets_to_answer", "promises_more", "says_too_much", "forgets_its_trailers"}
"""Behaviours that break a rule of ASGI: the server says so."""


def may_raise(behaviour: str, error: BaseException) -> bool:
    """Whether this is how an app with this behaviour fails."""
    if isinstance(error, ClientDisconnected):
        return True
    return isinstance(error, AppFailure) or (isinstance(error, Exception) and behaviour in MISTAKEN)
