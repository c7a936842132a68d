"""Storms of HTTP/2: all of it at once at random, and frames with bytes changed; each seed is one.

Rules of this file: those of test_h2_attacks.py.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from typing import Any

import pytest

from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import close, text
from tests.native.collecting import Collecting
from tests.native.drive import GONE, FakeTransport, turns
from tests.native.h2_drive import (
    INITIAL_WINDOW,
    START,
    Plain,
    Scene,
    data,
    open_wide,
    opening,
    ping,
    request,
    reset,
    settings,
    tunnel,
    upload,
    window,
)
from tests.native.h2_requests import MORE_APPS, REQUESTS, echo, pattern
from tests.native.isolated import survives
from tests.native.ws_drive import Solid, frames

pytestmark = needs_nghttp2


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
