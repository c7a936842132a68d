"""Apps and clients that do anything at any time, from a seed: nothing crashes, leaks, or mixes answers up.

Built with SHARDSERVE_DEBUG, every step is checked against the invariants of native/.
"""

from __future__ import annotations

import asyncio
import random

import h11
import pytest

from tests.helpers.http1 import Client, Server, chunked, get, post, until

SEEDS = range(12)
CLIENTS = 12


class Moody:
    """What it does is the path's: the same seed is the same behaviour."""

    async def __call__(self, scope, receive, send) -> None:
        dice = random.Random(scope["path"])
        if dice.random() < 0.4:
            await self.behave(scope["path"].encode(), receive, send, dice)
            return
        tasks: list[asyncio.Future] = []
        for _ in range(dice.randint(0, 8)):
            await self.act(dice, receive, send, tasks)
        for task in tasks:
            task.cancel()

    async def behave(self, path, receive, send, dice) -> None:
        """A right answer, with pauses anywhere: path * n, so that a client can check it."""
        pauses = dice.random() < 0.5
        while dice.random() < 0.8 and (await receive()).get("more_body"):
            pass
        count = dice.choice([1, 1, 2, 5, 2000])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-good", b"1")]})
        for i in range(count):
            if pauses and dice.random() < 0.3:
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": path * 20, "more_body": i < count - 1})

    async def act(self, dice, receive, send, tasks) -> None:
        action = dice.randrange(11)
        if action == 0:
            await asyncio.sleep(dice.choice([0, 0, 0.0005]))
        elif action == 1:
            await receive()
        elif action == 2:
            await send(
                {"type": "http.response.start", "status": dice.choice([200, 204, 304, 500]), "headers": []}
            )
        elif action == 3:
            data = b"x" * dice.choice([0, 1, 3000, 100_000])
            await send({"type": "http.response.body", "body": data, "more_body": dice.random() < 0.7})
        elif action == 4:
            tasks.append(asyncio.ensure_future(receive()))
            await asyncio.sleep(0)
        elif action == 5:
            async with asyncio.timeout(0.001):
                await receive()
        elif action == 6:
            asyncio.current_task().cancel()
        elif action == 7:
            raise LookupError("moody")
        elif action == 8:
            tasks.append(
                asyncio.ensure_future(send({"type": "http.response.body", "body": b"y", "more_body": True}))
            )
        elif action == 9:
            receive()
            asyncio.current_task().add_done_callback(lambda task: task.cancelled() or task.exception())
        else:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]}
            )


def make_request(dice: random.Random, path: bytes) -> bytes:
    data = dice.randbytes(dice.choice([0, 10, 5000, 100_000]))
    kind = dice.randrange(6)
    if kind == 0:
        return post(data, target=path)
    if kind == 1:
        return chunked(*[piece for piece in (data[:7], data[7:]) if piece], target=path)
    if kind == 2:
        return post(data[:10], b"Expect: 100-continue", target=path)
    if kind == 3:
        return get(path, *dice.choice([[b"Connection: close"], [b"Connection: upgrade", b"Upgrade: x"]]))
    return get(path, version=dice.choice([b"1.1", b"1.1", b"1.0"]))


def converse(dice: random.Random, client: Client, tag: int) -> None:
    paths = [b"/%d/%d" % (tag, i) for i in range(dice.randint(1, 6))]
    raw = b"".join(make_request(dice, path) for path in paths)
    edges = sorted(dice.sample(range(len(raw)), min(len(raw), dice.randint(0, 6))))
    pieces = [raw[a:b] for a, b in zip([0, *edges], [*edges, len(raw)], strict=True)]
    client.sock.settimeout(0.05)
    try:
        for piece in pieces:
            client.sock.send(piece)
            if dice.random() < 0.05:
                return
        if dice.random() < 0.2:
            client.half_close()
        for path in paths:
            response = client.response()
            if response.one(b"x-good"):
                assert response.body in (path * 20 * n for n in (1, 2, 5, 2000))
    except (OSError, EOFError, h11.RemoteProtocolError):
        pass


@pytest.mark.parametrize("seed", SEEDS)
def test_chaos(serve, seed):
    dice = random.Random(seed)
    server: Server = serve(Moody(), keep_alive_ms=100_000)
    for round_ in range(2):
        clients = [server.connect() for _ in range(CLIENTS)]
        for i, client in enumerate(clients):
            converse(dice, client, seed * 1000 + round_ * 100 + i)
        for client in clients:
            client.reset() if dice.random() < 0.3 else client.close()
    if seed % 3 == 0:
        server.call(server.factory.abort)
    elif seed % 3 == 1:
        emptied: list[int] = []
        server.call(lambda: server.factory.drain(lambda: emptied.append(1)))
        until(lambda: server.call(server.factory.tick) or emptied, "the drain to end", 2)
    until(lambda: server.call(server.factory.tick) or server.factory.connections == 0, "connections to go", 2)
    until(lambda: server.factory.in_flight == 0, "requests to end", 2)
    server.errors.clear()
    server.rejects.clear()
