"""Attacks on HTTP/2: memory that ends, transports that hold, windows that open oddly, and storms of it all.

Rules of this file: those of test_h2_calls.py. Every response has a body that says which stream it is of, so
that a byte in the wrong place is seen.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import sys
from typing import Any

import pytest

from tests.helpers.ws import close, text
from tests.native.drive import FakeTransport, turns
from tests.native.h2_drive import (
    BODY,
    INITIAL_WINDOW,
    START,
    Collecting,
    Plain,
    Scene,
    Tls,
    built,
    data,
    frame,
    head,
    open_wide,
    opening,
    ping,
    pseudo,
    request,
    reset,
    settings,
    tunnel,
    upload,
    window,
)
from tests.native.isolated import survives
from tests.native.ws_drive import Solid, frames

pytestmark = pytest.mark.skipif(not built, reason="built without nghttp2")

GONE = [0, 0]


def failing_allocations() -> None:
    """Skips where none can be made to fail: from 3.12 on CPython itself crashes.

    Its PyFunction_New() gives back what it has not taken; over HTTP/1.1 it is the same.
    """
    pytest.importorskip("_testcapi")
    if sys.version_info >= (3, 12):
        pytest.skip("CPython crashes where it makes a function without memory")


def pattern(stream: int, length: int) -> bytes:
    """A body that no other stream has, and no part of which is another part of it."""
    text = b"".join(b"%d:%d " % (stream, at) for at in range(length // 8 + 1))
    return text[:length]


# Memory that ends

allocating = pytest.mark.skipif(
    "SHARDSERVE_SANITIZED" in os.environ, reason="allocations are counted otherwise"
)

REQUESTS: dict[str, list[bytes]] = {
    "plain": [request(1, "/ok")],
    "fields": [request(1, "/ok", "GET", *((b"x-%d" % number, b"v" * 40) for number in range(20)))],
    "cookies": [request(1, "/ok", "GET", (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"accept", b"x"))],
    "upload": [upload(1), data(1, b"x" * 3000), data(1, b"y" * 10, end=True)],
    "later": [request(1, "/later"), request(3, "/big"), request(5, "/fail")],
    "many": [request(number, "/ok") for number in range(1, 20, 2)],
    "big": [request(1, "/big")],
    "refused": [
        request(1, "/", "GET", (b"host", b"another")),
        head(3, [*pseudo(), (b"expect", b"x")], end=False),
    ],
    "reset": [upload(1, "/silent"), data(1, b"abc"), reset(1), request(3, "/ok")],
    "trailers": [request(1, "/trailers")],
    "file": [request(1, "/file")],
    "hints": [request(1, "/hints")],
    "websocket": [tunnel(1, "/ws"), data(1, text("hello")), data(1, b"", end=True)],
    "control": [ping(), settings({1: 0}), settings({INITIAL_WINDOW: 70_000}), window(0, 5)],
}


async def with_trailers(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "trailers": True})
    await send(BODY)
    await send({"type": "http.response.trailers", "headers": [(b"x-t", b"v")]})


async def with_file(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": []})
    await send({"type": "http.response.pathsend", "path": __file__})


async def with_hints(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    await send(START)
    await send(BODY)


async def echo(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


MORE_APPS = {"/trailers": with_trailers, "/file": with_file, "/hints": with_hints, "/ws": echo}


class Agreeing:
    """An engine that needs no library, which would run out of memory in its own ways."""

    def open(self, method: Any, headers: Any) -> Any:
        return 200, [(b"x-agreed", b"yes")], [], None

    def ping(self) -> bytes:
        return b"\x89\0"

    def close(self, code: int, reason: str) -> bytes:
        return b"\x88\x02" + code.to_bytes(2, "big")


def without_cleanup(function: Any, *args: Any) -> Any:
    """A loop that is left as it is: when asyncio has no memory to wake a task, nobody can end it, either."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(function(*args))


async def out_of_memory(kind: str, first: int, step: int) -> Any:
    """One allocation fails; nobody may wait for ever because of it."""
    import _testcapi

    found, fine_in_a_row = {"whole": 0, "failed": 0}, 0
    whole = b"".join(REQUESTS[kind])
    if kind == "control":
        whole = open_wide() + whole
    for at in range(first, 420, step):
        print("allocation", at, flush=True)
        scene = Scene(MORE_APPS, websocket=Agreeing())
        scene.make()
        if kind != "control":
            scene.feed(open_wide())
        scene.said.allow(open_wide() + whole)
        _testcapi.set_nomemory(at, at + 1)
        try:
            scene.connection.data_received(whole)
        except MemoryError:
            scene.seen.append("MemoryError")
        finally:
            _testcapi.remove_mem_hooks()
        await turns()
        ended = scene.transport.is_closing()
        if not ended and not scene.seen:
            scene.feed(request(201, "/ok"), window(0, 300_000))
            await turns()
        said = scene.hear()
        if not ended and not said.goaways and not scene.seen:
            assert said.answers[201].ended, (at, scene.brief())
            waited_for = {"later": [1, 3], "many": [1, 3], "reset": [], "control": []}.get(kind, [1])
            for stream in waited_for:
                assert scene.brief()[str(stream)].split()[-1] != "open", (at, scene.brief())
        else:
            assert ended or said.goaways or scene.seen == ["MemoryError"], at
        fine = not ended and all(answer.ended for answer in said.answers.values())
        found["whole" if fine else "failed"] += 1
        assert (await scene.end())[0] == 0, at
        fine_in_a_row = fine_in_a_row + 1 if fine else 0
        if fine_in_a_row == 20:
            break  # there are no more of them
    return found


@allocating
@pytest.mark.parametrize("kind", REQUESTS)
def test_an_allocation_that_fails(kind: str) -> None:
    failing_allocations()
    found = {"whole": 0, "failed": 0}
    for first in range(3):
        for name, count in survives(without_cleanup, out_of_memory, kind, first, 3).items():
            found[name] += count
    assert found["whole"] > 0, "more allocations than are tried"


async def out_of_memory_later(what: str) -> Any:
    """The same where an app is in the middle of its response, or windows open, or there is room again."""
    import _testcapi

    for at in range(160):
        print("allocation", at, flush=True)
        scene = Scene(MORE_APPS)
        scene.make()
        scene.feed(
            opening(), request(1, "/big"), upload(3), data(3, b"abc"), request(5, "/wait"), tunnel(7, "/ws")
        )
        await turns()
        if what in ("resume", "lost paused"):
            scene.connection.pause_writing()
            scene.feed(request(9), window(0, 40_000), window(1, 40_000), data(3, b"x"), data(7, text("x")))
        elif what == "window":
            scene.said.allow(window(0, 300_000) + window(1, 300_000))
        elif what == "drain":
            scene.driver.factory.drain(lambda: None)
        _testcapi.set_nomemory(at, at + 1)
        try:
            if what == "resume":
                scene.connection.resume_writing()
            elif what == "window":
                scene.connection.data_received(window(0, 300_000) + window(1, 300_000))
            elif what in ("lost", "lost paused"):
                scene.transport.calls.append("lost")
                scene.connection.connection_lost(None)
            elif what == "tick":
                scene.driver.factory.tick()
            elif what == "end":
                scene.driver.factory.end_streams()
            elif what == "abort":
                scene.driver.factory.abort()
            elif what == "eof":
                scene.connection.eof_received()
            elif what == "garbage":
                scene.connection.data_received(frame(0, 0, 0, b"x"))
            elif what == "drain":
                scene.connection.data_received(b"".join(ping(one, ack=True) for one in scene.said.pings))
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
        await turns()
        assert (await scene.end())[0] == 0, (what, at)
        scene.hear()
    return "alive"


@allocating
@pytest.mark.parametrize(
    "what", ["resume", "window", "lost", "lost paused", "tick", "end", "abort", "eof", "garbage", "drain"]
)
def test_an_allocation_that_fails_later(what: str) -> None:
    failing_allocations()
    assert survives(without_cleanup, out_of_memory_later, what) == "alive"


async def out_of_memory_at_the_start() -> Any:
    """The same while a connection is made, with TLS, and while its first SETTINGS are written."""
    import _testcapi

    found = []
    for at in range(140):
        print("allocation", at, flush=True)
        scene = Scene(transport=Tls())
        _testcapi.set_nomemory(at, at + 1)
        try:
            scene.connection.connection_made(scene.transport)
        except MemoryError:
            scene.seen.append("MemoryError")
        finally:
            _testcapi.remove_mem_hooks()
        try:
            scene.feed(open_wide(), request(1))
        except Exception as error:
            scene.seen.append(type(error).__name__)
        await turns()
        served = scene.brief().get("1") == "200 ended" if scene.transport.written else False
        found.append(served)
        assert served or scene.seen or scene.transport.is_closing(), at
        assert (await scene.end())[0] == 0, at
    return found[-1]


@allocating
def test_an_allocation_that_fails_at_the_start() -> None:
    failing_allocations()
    assert survives(without_cleanup, out_of_memory_at_the_start) is True


# A transport that holds


class Holding(Solid):
    """Says stop from within write(), as loops do, until it is told to go on. Nobody writes in between."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.held = 0
        self.most = 0
        self.stopped = False

    def _take(self, size: int) -> None:
        assert not self.stopped, "written while the transport says stop"
        self.held += size
        self.most = max(self.most, self.held)
        if self.held > self.room:
            self.stopped = True
            assert self.connection is not None
            self.connection.pause_writing()

    def write(self, data: Any) -> None:
        super().write(data)
        self._take(len(data))

    def writelines(self, parts: Any) -> None:
        parts = list(parts)
        super().writelines(parts)
        self._take(sum(map(len, parts)))

    def get_write_buffer_size(self) -> int:
        return self.held

    def go_on(self) -> None:
        self.held = 0
        if self.stopped:
            self.stopped = False
            assert self.connection is not None
            self.connection.resume_writing()


async def held(room: int, streams: int) -> Any:
    """Large answers on many streams through a transport that takes little at a time."""
    size = 150_000
    waiting: list[int] = []

    async def large(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        stream = int(scope["query_string"])
        body = pattern(stream, size)
        await send(START)
        for at in range(0, size, 10_000):
            waiting.append(stream)
            await send({"type": "http.response.body", "body": body[at : at + 10_000], "more_body": True})
            waiting.remove(stream)
        await send({"type": "http.response.body"})

    transport = Holding(room)
    scene = Scene({"/large": large}, transport=transport)
    scene.open(*(request(number, f"/large?{number}") for number in range(1, 2 * streams, 2)))
    rounds = 0
    while scene.driver.factory.in_flight or transport.stopped:
        await turns(3)
        transport.go_on()
        rounds += 1
        assert rounds < 20_000, scene.brief()
    right = all(
        bytes(answer.body) == pattern(stream, size) for stream, answer in scene.hear().answers.items()
    )
    return [right, len(scene.said.answers), transport.most, waiting, await scene.end()]


@pytest.mark.parametrize("streams", [1, 20])
@pytest.mark.parametrize("room", [0, 1, 65_536])
def test_nothing_is_written_while_the_transport_says_stop(room: int, streams: int) -> None:
    right, answers, most, waiting, left = survives(held, room, streams)
    assert right
    assert (answers, waiting, left) == (streams, [], GONE)
    # One write is as long as the streams may have waiting, of which each has some 64 KiB.
    assert most <= room + (streams + 1) * 100_000


# Windows


async def windows(seed: int) -> Any:
    """Windows open by little, in any order, by SETTINGS too, which may take back what they gave."""
    dice = random.Random(seed)
    sizes = {number: dice.choice([0, 1, 10, 65_535, 65_536, 100_000, 200_000]) for number in range(1, 24, 2)}

    async def sized(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        stream = int(scope["query_string"])
        body, at = pattern(stream, sizes[stream]), 0
        await send(START)
        while at < len(body):
            step = dice.choice([1, 100, 16_384, 70_000])
            await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
            at += step
            if dice.random() < 0.1:
                await asyncio.sleep(0)
        await send({"type": "http.response.body"})

    scene = Scene({"/": sized}, transport=Plain() if seed % 2 else None)
    scene.make()
    scene.feed(opening(), *(request(number, f"/?{number}") for number in sizes))
    initial, spent = 65_535, 0
    while spent < 600:
        spent += 1
        await turns(2)
        open_streams = [number for number in sizes if not scene.hear().answers.get(number, Ended()).ended]
        if not open_streams:
            break
        act, number = dice.randrange(8), dice.choice(open_streams)
        if act == 0:
            initial = dice.choice([0, 1, 65_535, 40_000, 100_000])
            scene.feed(settings({INITIAL_WINDOW: initial}))
        elif act <= 3:
            scene.feed(window(0, dice.choice([1, 1000, 50_000])))
        else:
            scene.feed(window(number, dice.choice([1, 1000, 50_000])))
    scene.feed(settings({INITIAL_WINDOW: 300_000}), window(0, 10_000_000))
    await turns(100)
    right = {
        number: bytes(scene.hear().answers[number].body) == pattern(number, size)
        for number, size in sizes.items()
    }
    return [set(right.values()) == {True}, sorted(set(scene.brief().values())), await scene.end()]


class Ended:
    ended = False


@pytest.mark.parametrize("seed", range(8))
def test_windows_that_open_oddly(seed: int) -> None:
    assert survives(windows, seed) == [True, ["200 ended"], GONE]


async def slow_taker() -> Any:
    """Windows open again as the app takes the body, and not before; what is dropped opens them at once."""
    gate = asyncio.Event()

    async def app(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        length = 0
        while (message := await receive())["type"] == "http.request":
            length += len(message["body"])
            if not message["more_body"]:
                break
        await send(START)
        await send({"type": "http.response.body", "body": b"%d" % length})

    scene = Scene(
        {"/slow": app},
        http2_initial_stream_window_size=65_535,
        http2_initial_connection_window_size=65_535,
    )
    scene.open(upload(1, "/slow"), *(data(1, b"x" * 10_000) for _ in range(6)))
    await turns()
    before = scene.hear().updates.get(1, 0), scene.said.updates.get(0, 0)
    gate.set()
    await turns()
    after = scene.hear().updates.get(1, 0), scene.said.updates.get(0, 0)
    scene.feed(*(data(1, b"y" * 15_000, end=last) for last in (False, False, False, True)))
    await turns()
    # Nobody takes these: the streams are answered at once.
    sent = 0
    for number in range(3, 203, 2):
        scene.feed(upload(number, "/ok"), *(data(number, b"z" * 15_000) for _ in range(2)))
        sent += 30_000
        await turns(2)
        if scene.hear().goaways:
            break
    return [
        before,
        after,
        scene.said.answers[1].body.decode(),
        sent,
        scene.said.goaways == [],
        await scene.end(),
    ]


def test_windows_follow_the_app() -> None:
    before, after, answer, sent, lives, left = survives(slow_taker)
    assert before == [0, 0]
    assert after[0] > 0
    assert after[1] > 0
    assert answer == "120000"
    assert sent == 100 * 30_000
    assert lives
    assert left == GONE


# Depth


async def deep(where: str) -> Any:
    """Each request brings the next, from within: no stack grows with them."""
    count = 4000
    brought = 1

    def bring() -> None:
        nonlocal brought
        if brought < count:
            brought += 1
            scene.connection.data_received(request(2 * brought - 1, "/next"))

    async def following(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        if where == "app":
            bring()
        await send({**START, "headers": [(b"x", b"y")]})
        if where == "behind the head":
            bring()
        await send(BODY)
        if where == "behind":
            bring()

    class Bringing(Solid):
        def write(self, data: Any) -> None:
            super().write(data)
            if where == "write":
                bring()

        def writelines(self, parts: Any) -> None:
            super().writelines(parts)
            if where == "write":
                bring()

    scene = Scene(
        {"/next": following},
        transport=Bringing(),
        http2_max_concurrent_streams=10_000,
        access=(lambda *args: bring()) if where == "access" else None,
    )
    scene.open(request(1, "/next"))
    await turns(50)
    while brought < count:
        before = brought
        await turns(50)
        if brought == before:
            break
    await turns(50)
    return [brought, len(scene.hear().answers), sorted(set(scene.brief().values())), await scene.end()]


@pytest.mark.parametrize("where", ["app", "behind the head", "behind", "write", "access"])
def test_requests_that_bring_the_next(where: str) -> None:
    brought, answered, answers, left = survives(deep, where)
    assert brought == answered == 4000
    assert answers == ["200 ended"]
    assert left == GONE


# Resets in the read of the request


async def reset_at_once(path: str, together: bool) -> Any:
    """The app of a stream that its client takes back either does not run, or hears that nobody is there."""
    ran: list[int] = []
    ended: list[int] = []

    async def app(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        ran.append(1)
        try:
            await scene.apps[path](scene, scope, receive, send)
        except OSError:
            pass
        ended.append(1)

    scene = Scene({"/evil": app})
    scene.open()
    streams = range(1, 199, 2)
    if together:
        scene.feed(*(one for number in streams for one in (request(number, "/evil"), reset(number))))
    else:
        for number in streams:
            scene.feed(request(number, "/evil"), reset(number))
    await turns()
    scene.feed(request(301))
    await turns()
    return [len(ran) - len(ended), scene.brief().get("301"), scene.said.goaways, await scene.end()]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("path", ["/ok", "/later", "/silent", "/wait", "/big", "/up"])
def test_streams_that_are_taken_back_at_once(path: str, together: bool) -> None:
    assert survives(reset_at_once, path, together) == [0, "200 ended", [], GONE]


# Storms


class Storm:
    """Random streams, and what became of each."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        transport: FakeTransport = Solid() if seed % 3 else Plain()
        self.scene = Scene({"/n": self.sized, "/up": self.digest, "/ws": echo}, transport=transport)
        self.next = 1
        self.sizes: dict[int, int] = {}
        self.uploads: dict[int, Any] = {}
        self.finished: dict[int, str] = {}
        self.sockets: dict[int, int] = {}
        self.resets = self.controls = 0
        self.paused = False

    async def sized(self, scene: Any, scope: Any, receive: Any, send: Any) -> None:
        stream = int(scope["query_string"])
        body, at = pattern(stream, self.sizes[stream]), 0
        await send(START)
        while at < len(body):
            step = self.dice.choice([1, 500, 20_000, 90_000])
            await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
            at += step
            if self.dice.random() < 0.3:
                await asyncio.sleep(0)
        await send({"type": "http.response.body"})

    async def digest(self, scene: Any, scope: Any, receive: Any, send: Any) -> None:
        sum_ = hashlib.sha1()
        while True:
            if self.dice.random() < 0.3:
                await asyncio.sleep(0)
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            sum_.update(message["body"])
            if not message["more_body"]:
                break
        await send(START)
        await send({"type": "http.response.body", "body": sum_.hexdigest().encode()})

    def step(self) -> None:
        scene, dice = self.scene, self.dice
        act = dice.randrange(14)
        if act <= 3 and self.open_streams() < 90:
            number = self.new_stream()
            self.sizes[number] = dice.choice([0, 1, 100, 5000, 70_000])
            scene.feed(request(number, f"/n?{number}"))
        elif act == 4 and self.open_streams() < 90:
            number = self.new_stream()
            self.uploads[number] = hashlib.sha1()
            scene.feed(upload(number))
        elif act <= 7 and self.uploads:
            self.more(dice.choice(list(self.uploads)), end=dice.random() < 0.3)
        elif act == 8 and self.resets < 120:
            self.take_back()
        elif act == 9 and self.controls < 700:
            self.controls += 3
            scene.feed(
                ping(), settings({INITIAL_WINDOW: dice.choice([0, 30_000, 65_535, 100_000])}), window(0, 9000)
            )
        elif act == 10 and self.open_streams() < 90:
            number = self.new_stream()
            self.sockets[number] = dice.randrange(4)
            scene.feed(
                tunnel(number, "/ws"),
                *(data(number, text(f"{n} of {number}")) for n in range(self.sockets[number])),
            )
        elif act == 11:
            if self.paused:
                scene.connection.resume_writing()
            else:
                scene.connection.pause_writing()
            self.paused = not self.paused
        elif act == 12:
            scene.driver.factory.tick()
            scene.driver.factory.count_states()
        elif act == 13 and dice.random() < 0.2:
            gc.collect()

    def new_stream(self) -> int:
        self.next += 2
        return self.next - 2

    def open_streams(self) -> int:
        ended = sum(answer.ended or answer.reset is not None for answer in self.scene.hear().answers.values())
        return (self.next - 1) // 2 - ended

    def more(self, number: int, *, end: bool) -> None:
        payload = self.dice.randbytes(self.dice.choice([0, 1, 1000, 9000]))
        self.uploads[number].update(payload)
        self.scene.feed(data(number, payload, end=end))
        if end:
            self.finished[number] = self.uploads.pop(number).hexdigest()

    def take_back(self) -> None:
        self.resets += 1
        alive = [*self.sizes, *self.uploads, *self.sockets]
        if not alive:
            return
        number = self.dice.choice(alive)
        for kind in (self.sizes, self.uploads, self.sockets):
            kind.pop(number, None)  # type: ignore[attr-defined]
        self.scene.feed(reset(number))

    async def end(self) -> Any:
        scene = self.scene
        if self.paused:
            scene.connection.resume_writing()
        scene.feed(settings({INITIAL_WINDOW: 200_000}), window(0, 100_000_000))
        for number in list(self.uploads):
            self.more(number, end=True)
        await turns(60)
        for number in self.sockets:
            scene.feed(data(number, close(), end=True))
        await turns(60)
        said = scene.hear()
        for number, size in self.sizes.items():
            assert bytes(said.answers[number].body) == pattern(number, size), number
        for number, sum_ in self.finished.items():
            if said.answers.get(number) is not None and said.answers[number].reset is None:
                assert said.answers[number].body.decode() == sum_, number
        for number, count in self.sockets.items():
            assert frames(bytes(said.answers[number].body)) == ["text"] * count + ["close 1000"], number
        mine = [*self.sizes, *self.finished, *self.sockets]
        ends = {said.answers[number].brief() for number in mine if number in said.answers}
        return [sorted(ends), said.goaways, scene.unraisable, await scene.end()]


async def storm(seed: int) -> Any:
    one = Storm(seed)
    one.scene.make()
    one.scene.feed(opening())
    for _ in range(700):
        if one.dice.random() < 0.05:
            with Collecting(gc.collect, one.dice.randrange(20)):
                one.step()
        else:
            one.step()
        if one.dice.random() < 0.5:
            await turns(1)
    return await one.end()


@pytest.mark.parametrize("seed", range(12))
def test_a_storm(seed: int) -> None:
    ends, goaways, unraisable, left = survives(storm, seed)
    assert ends == ["200 ended"]
    assert (goaways, unraisable, left) == ([], [], GONE)


async def mutated(seed: int) -> Any:
    """Conversations with bytes changed, cut and doubled: nothing crashes, and nothing is left."""
    dice = random.Random(seed)
    whole = [
        open_wide(),
        *(one for kind in ("fields", "upload", "cookies", "reset") for one in REQUESTS[kind]),
        *REQUESTS["control"],
        tunnel(11, "/ws"),
        data(11, text("x")),
        request(13, "/file"),
        request(15, "/wait"),
    ]
    for _ in range(150):
        frames_ = list(whole)
        for _ in range(dice.randrange(1, 4)):
            at, how = dice.randrange(1, len(frames_)), dice.randrange(5)
            one = bytearray(frames_[at])
            if how <= 1 and one:
                one[dice.randrange(min(len(one), 30 if how else len(one)))] = dice.randrange(256)
                frames_[at] = bytes(one)
            elif how == 2:
                frames_[at] = bytes(one[: dice.randrange(len(one) + 1)])
            elif how == 3:
                frames_.insert(at, frames_[dice.randrange(len(frames_))])
            else:
                frames_[at], frames_[-1] = frames_[-1], frames_[at]
        scene = Scene(MORE_APPS)
        scene.make()
        stream = b"".join(frames_)
        for one_frame in frames_:
            scene.said.allow(one_frame)
        scene.said._allowed[0] = 1 << 40  # what a broken frame allows is not our business
        while stream:
            cut = dice.choice([1, 9, 100, 5000, len(stream)])
            scene.connection.data_received(stream[:cut])
            stream = stream[cut:]
            if dice.random() < 0.3:
                await turns(1)
        await turns(4)
        left = await scene.end()
        assert left == GONE, frames_
        assert scene.unraisable == [], scene.unraisable
    return "alive"


@pytest.mark.parametrize("seed", range(4))
def test_mutated_frames(seed: int) -> None:
    assert survives(mutated, seed) == "alive"


# The recursion limit, and other ends of the interpreter


async def at_the_end_of_the_stack() -> Any:
    """data_received() where no call fits any more: a request fails, and the server lives."""
    scene = Scene()
    scene.open()
    found = []

    def fall(depth: int, number: int) -> None:
        if depth:
            fall(depth - 1, number)
        else:
            scene.connection.data_received(request(number, "/later"))

    limit = sys.getrecursionlimit()
    number = 1
    for depth in range(limit - 60, limit - 10):
        try:
            fall(depth, number)
        except RecursionError:
            found.append(depth)
        number += 2
        await turns(2)
    scene.feed(request(number + 2))
    await turns()
    return [len(found), scene.brief().get(str(number + 2)), scene.said.goaways, await scene.end()]


def test_a_stack_that_ends() -> None:
    _, last, goaways, left = survives(at_the_end_of_the_stack)
    assert left == GONE
    assert last == "200 ended" or goaways


async def acks() -> Any:
    """SETTINGS are acknowledged once each."""
    scene = Scene()
    scene.open(*([settings({1: 100})] * 50), request(1))
    await turns()
    return [scene.hear().settings_acked, scene.brief(), await scene.end()]


def test_settings_are_acknowledged() -> None:
    assert survives(acks) == [51, {"1": "200 ended"}, GONE]
