"""A thousand requests over twenty connections, cut and mixed up anyhow: each answer is the one it should be.

Rules of this file: a request's path is a seed, from which app and test work out, each for itself, what is
asked and what is answered (``Plan``). Clients open streams, send bodies in pieces, cancel, change their
settings, stop taking bytes, and go, as a seed has it. Built with SHARDSERVE_DEBUG, every step is checked
against the invariants of native/.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest

from shardserve.errors import ClientDisconnected
from tests.helpers.files import BLOB, PATHSEND, file
from tests.helpers.h2_judge import INITIAL_WINDOW_SIZE, Fields, Stream
from tests.helpers.h2_peer import Client, Host
from tests.helpers.h2_wire import STARTS, at_random
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2
__all__ = ["file"]  # a fixture

CONNECTIONS = 20
REQUESTS = 1000


class Plan:
    """What is asked at a path, and what is answered."""

    def __init__(self, path: str) -> None:
        dice = random.Random(path)
        self.dice = dice
        self.method = dice.choice(["GET", "GET", "POST", "PUT", "HEAD"])
        size = dice.choice([0, 1, 700, 20_000, 90_000])
        at = dice.randrange(1000)
        self.upload = BLOB[at : at + size] if self.method in ("POST", "PUT") else None
        self.reads = dice.random() < 0.8
        self.hints = dice.randrange(2)
        self.status = dice.choice([200, 200, 200, 201, 404, 503])
        self.pieces = [BLOB[: dice.choice([0, 1, 5000, 30_000])] for _ in range(dice.choice([1, 1, 2, 5]))]
        self.file = dice.random() < 0.1
        self.trailers = dice.random() < 0.2 and not self.file
        self.pauses = dice.random() < 0.6
        self.fields: Fields = [(b"x-%d" % i, b"v" * dice.randrange(50)) for i in range(dice.randrange(6))]

    @property
    def body(self) -> bytes:
        return BLOB[:70_000] if self.file else b"".join(self.pieces)

    @property
    def read(self) -> bytes:
        """Said in x-read: what the app has read of the upload."""
        return hashlib.sha1(self.upload or b"").hexdigest().encode() if self.reads else b"nothing"


class Planned:
    def __init__(self, path: Any) -> None:
        self.file = str(path)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        plan = Plan(scope["path"])
        assert scope["method"] == plan.method
        assert scope["headers"][1:] == plan.fields
        read = hashlib.sha1()
        while plan.reads:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            read.update(message["body"])
            if not message["more_body"]:
                break
        for _ in range(plan.hints):
            await send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
        said = read.hexdigest().encode() if plan.reads else b"nothing"
        head = {"type": "http.response.start", "status": plan.status, "headers": [(b"x-read", said)]}
        await send({**head, "trailers": plan.trailers})
        if plan.file:
            await send({"type": PATHSEND, "path": self.file})
            return
        for at, piece in enumerate(plan.pieces):
            if plan.pauses:
                await asyncio.sleep(0)
            more = at < len(plan.pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})
        if plan.trailers:
            await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})


class Actor:
    """One client, which does something else at each step."""

    def __init__(self, client: Client, tag: int, dice: random.Random) -> None:
        self.client, self.tag, self.dice = client, tag, dice
        self.open: list[tuple[Stream, Plan]] = []
        self.asked = self.answered = self.cancelled = 0

    def step(self) -> None:
        act = self.dice.randrange(10)
        if act < 5 and self.asked < REQUESTS // CONNECTIONS and len(self.open) < 100:
            self.ask()
        elif act == 5 and self.open:
            stream, plan = self.dice.choice(self.open)
            if plan.hints == 0 and not stream.over:  # h2 takes no 103 that crosses its RST_STREAM
                self.open.remove((stream, plan))
                self.cancelled += 1
                self.client.reset(stream)
        elif act == 6:
            self.client.change({INITIAL_WINDOW_SIZE: self.dice.choice([0, 1000, 65_535, 500_000])})
        elif act == 7:
            self.client.hold()
        elif act == 8:
            self.client.release()
        else:
            self.client.pump()

    def ask(self) -> None:
        path = f"/{self.tag}/{self.asked}"
        plan = Plan(path)
        self.asked += 1
        later = plan.upload is not None and self.dice.random() < 0.5
        first = plan.upload if plan.upload is None or not later else plan.upload[:10]
        stream = self.client.request(plan.method, path, *plan.fields, body=first, end=not later)
        if later and plan.upload is not None:
            self.client.write(stream, plan.upload[10:], end=True)
        self.open.append((stream, plan))

    def check(self) -> None:
        """Takes those that are answered off the list."""
        for stream, plan in [one for one in self.open if one[0].over]:
            self.open.remove((stream, plan))
            self.answered += 1
            assert stream.ended, stream
            assert stream.reset in (None, 0)
            assert stream.status == plan.status
            assert stream.one(b"x-read") == plan.read
            assert stream.body == (b"" if plan.method == "HEAD" else plan.body)
            assert len(stream.interim) == plan.hints
            if plan.trailers and plan.method != "HEAD":
                assert stream.trailers == [(b"x-sum", b"1")]

    def finish(self) -> None:
        self.client.release()
        self.client.change({INITIAL_WINDOW_SIZE: 1_000_000})


@pytest.mark.parametrize("seed", range(3))
async def test_a_thousand_requests(seed, file):
    dice = random.Random(seed)
    async with Host(Planned(file(70_000)), write_stall_ms=0) as host:
        actors = [
            Actor(host.connect(STARTS[at % 2], at_random, seed=dice.random()), at + 100 * seed, dice)
            for at in range(CONNECTIONS)
        ]
        while any(actor.asked < REQUESTS // CONNECTIONS for actor in actors):
            for actor in dice.sample(actors, 5):
                actor.step()
                actor.check()
            await asyncio.sleep(0)
        for actor in actors:
            actor.finish()
        for actor in actors:
            await actor.client.until(lambda actor=actor: (actor.check(), not actor.open)[1], "all answers")
            await actor.client.pong()
            assert (actor.client.goaway, actor.client.closed) == (None, False)
        assert sum(actor.answered + actor.cancelled for actor in actors) == REQUESTS
        assert sum(actor.answered for actor in actors) > REQUESTS * 0.7
        await actors[0].client.until(lambda: host.factory.in_flight == 0)
        assert all(type(report.error) is ClientDisconnected for report in host.errors)
        host.errors.clear()


@pytest.mark.parametrize("seed", range(3))
async def test_clients_that_go_at_any_moment(seed, file):
    """Nothing is left of them."""
    dice = random.Random(seed)
    async with Host(Planned(file(70_000)), write_stall_ms=0) as host:
        for round_ in range(8):
            actors = [
                Actor(host.connect(STARTS[at % 2], at_random, seed=dice.random()), round_ * 10 + at, dice)
                for at in range(5)
            ]
            for _ in range(dice.randrange(60)):
                dice.choice(actors).step()
                if dice.random() < 0.3:
                    await asyncio.sleep(0)
            for actor in actors:
                actor.check()
                dice.choice([actor.client.lose, actor.client.half_close, actor.client.go_away])()
                actor.client.lose()
            await actors[0].client.until(lambda: host.factory.in_flight == 0)
            assert host.factory.connections == 0
        assert all(type(report.error) is ClientDisconnected for report in host.errors)
        host.errors.clear()
