"""Attacks on HTTP/2: transports that hold, windows that open oddly, requests that bring the next one.

Rules of this file: those of test_h2_calls.py. Every response has a body that says which stream it is of, so
that a byte in the wrong place is seen.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import pytest

from tests.helpers.nghttp2 import needs_nghttp2
from tests.native.drive import GONE, turns
from tests.native.h2_drive import (
    BODY,
    INITIAL_WINDOW,
    START,
    Plain,
    Scene,
    data,
    opening,
    request,
    reset,
    settings,
    upload,
    window,
)
from tests.native.h2_requests import pattern
from tests.native.isolated import survives
from tests.native.ws_drive import Solid

pytestmark = needs_nghttp2


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
