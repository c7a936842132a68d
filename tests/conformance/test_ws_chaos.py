"""WebSocket apps and clients that do anything at any time, from a seed: nothing crashes, leaks, or mixes up.

Built with SHARDSERVE_DEBUG, every step is checked against the invariants of native/. The server asserts at
its end that no connection, no request and no task is left.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.helpers.http1 import Server, get, until
from tests.helpers.ws import (
    BINARY,
    CONTINUATION,
    PONG,
    TEXT,
    WsClient,
    binary,
    close,
    deflated,
    frame,
    handshake,
    ping,
    pong,
    text,
)
from tests.helpers.ws_peer import large, limited

SEEDS = range(24)
CLIENTS = 16
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate"


class Moody:
    """What it does is the path's: the same seed is the same behaviour."""

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "websocket":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"http"})
            return
        dice = random.Random(scope["path"])
        if dice.random() < 0.4:
            await self.behave(scope["path"], receive, send, dice)
            return
        tasks: list[asyncio.Future] = []
        if dice.random() < 0.8:
            await receive()
            await send({"type": "websocket.accept"})
        try:
            for _ in range(dice.randint(0, 10)):
                await self.act(dice, receive, send, tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def behave(self, path, receive, send, dice) -> None:
        """A right one: each message comes back behind the path, so that a client can check it."""
        assert (await receive())["type"] == "websocket.connect"
        if dice.random() < 0.3:
            await asyncio.sleep(0)
        await send({"type": "websocket.accept", "headers": [(b"x-good", b"1")]})
        for _ in range(dice.choice([1, 5, 1000])):
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if dice.random() < 0.2:
                await asyncio.sleep(0)
            size = len(message["text"] if message["text"] is not None else message["bytes"])
            await send({"type": "websocket.send", "text": f"{path} {size}"})

    async def act(self, dice, receive, send, tasks) -> None:
        action = dice.randrange(15)
        if action == 0:
            await asyncio.sleep(dice.choice([0, 0, 0.0005]))
        elif action in (1, 2):
            await receive()
        elif action == 3:
            await send({"type": "websocket.accept", "subprotocol": dice.choice([None, "x", "bad one"])})
        elif action == 4:
            await send({"type": "websocket.send", "text": "é" * dice.choice([0, 1, 600, 100_000])})
        elif action == 5:
            await send({"type": "websocket.send", "bytes": b"x" * dice.choice([0, 1, 3000, 300_000])})
        elif action == 6:
            await send({"type": "websocket.close", "code": dice.choice([1000, 4000, 1005, 70_000])})
        elif action == 7:
            tasks.append(asyncio.ensure_future(receive()))
            await asyncio.sleep(0)
        elif action == 8:
            async with asyncio.timeout(0.001):
                await receive()
        elif action == 9:
            asyncio.current_task().cancel()
        elif action == 10:
            raise LookupError("moody")
        elif action == 11:
            tasks.append(asyncio.ensure_future(send({"type": "websocket.send", "bytes": b"y" * 50_000})))
        elif action == 12:
            receive()
            asyncio.current_task().add_done_callback(lambda task: task.cancelled() or task.exception())
        elif action == 13:
            await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
            await send(
                {"type": "websocket.http.response.body", "body": b"no", "more_body": dice.random() < 0.3}
            )
        else:
            await send({"type": dice.choice(["websocket.receive", "http.response.start"]), "status": 200})


def some_frame(dice: random.Random) -> bytes:
    kind = dice.randrange(12)
    data = dice.randbytes(dice.choice([0, 5, 126, 2000, 100_000]))
    if kind in (0, 1):
        return text("x" * dice.choice([0, 1, 5, 5000]))
    if kind in (2, 3):
        return large(BINARY, data)
    if kind == 4:
        return ping(data[:125])
    if kind == 5:
        return pong()
    if kind == 6:
        return frame(TEXT, b"a", fin=False) + ping(b"between") + frame(CONTINUATION, b"b")
    if kind == 7:
        return large(BINARY, deflated(data), rsv=4)
    if kind == 8:
        return frame(dice.choice([TEXT, BINARY, CONTINUATION]), data[:126], fin=dice.random() < 0.5)
    if kind == 9:
        return close(dice.choice([None, 1000, 1006, 4000]))
    if kind == 10:
        return data[: dice.randint(0, 30)]
    return binary(b"") * 50


def converse(dice: random.Random, ws: WsClient, tag: str) -> None:
    """Anything; but where the app is a good one, what it says is checked."""
    client = ws.client
    sizes = [dice.choice([0, 1, 126, 3000]) for _ in range(dice.randint(0, 8))]
    offer = [OFFER] if dice.random() < 0.5 else []
    raw = handshake(tag, *offer)
    frames = [text("x" * size) for size in sizes] + [
        some_frame(dice) for _ in range(dice.choice([0, 0, 1, 5]))
    ]
    together = dice.random() < 0.3
    client.sock.settimeout(0.05)
    try:
        client.send(raw + b"".join(frames) if together else raw)
        response = ws.answer()
        if response.status != 101:
            if together:  # the frames are no requests
                return
            client.send(get("/http"))
            if client.response().body != b"http":
                raise AssertionError("HTTP does not go on behind a denial")
            return
        if not together:
            for one in frames:
                client.send(one)
                if dice.random() < 0.05:
                    return
        if dice.random() < 0.2:
            client.half_close()
        if not response.one(b"x-good"):
            while client.receive():
                pass
            return
        for size in sizes:
            while (found := ws.read_frame()).opcode == PONG:
                pass
            if found.opcode != TEXT:
                return
            assert found.payload.decode() == f"{tag} {size}"
    except (OSError, EOFError):
        pass
    except AssertionError as error:
        if "ended within a frame" not in str(error):
            raise


@pytest.mark.parametrize("seed", SEEDS)
def test_chaos(serve, seed):
    dice = random.Random(seed)
    settings = limited(ws_max_queue=dice.choice([1, 4, 32]), timeout_keep_alive_s=100)
    server: Server = serve(Moody(), **settings)
    for round_ in range(2):
        clients = [WsClient(server.connect()) for _ in range(CLIENTS)]
        for number, ws in enumerate(clients):
            converse(dice, ws, f"/{seed}/{round_}/{number}")
        for ws in clients:
            ws.client.reset() if dice.random() < 0.3 else ws.client.close()
    if seed % 4 == 0:
        server.call(server.factory.abort)
    elif seed % 4 == 1:
        server.call(server.factory.end_streams)
    elif seed % 4 == 2:
        emptied: list[int] = []
        server.call(lambda: server.factory.drain(lambda: emptied.append(1)))
        server.call(server.factory.end_streams)
        until(lambda: server.call(server.factory.tick) or emptied, "the drain to end", 5)
    until(lambda: server.call(server.factory.tick) or server.factory.connections == 0, "connections to go", 5)
    until(lambda: server.factory.in_flight == 0, "requests to end", 5)
    server.errors.clear()
    server.rejects.clear()


@pytest.mark.parametrize("seed", range(8))
def test_everything_is_open_when_it_ends(serve, seed):
    """Each client is somewhere in its conversation when the server is cut, told to restart, or left alone."""
    dice = random.Random(seed)
    server: Server = serve(Moody())
    clients = []
    for number in range(40):
        ws = WsClient(server.connect())
        clients.append(ws)
        raw = handshake(f"/open/{seed}/{number}", *([OFFER] if dice.random() < 0.5 else []))
        raw += b"".join(some_frame(dice) for _ in range(dice.randint(0, 5)))
        ws.client.sock.settimeout(0.02)
        try:
            ws.client.sock.sendall(raw[: dice.randint(1, len(raw))] if dice.random() < 0.3 else raw)
        except OSError:
            continue
    server.call(server.factory.abort if seed % 2 else server.factory.end_streams)
    for ws in clients:  # some may not have been accepted before
        ws.client.close()
    until(lambda: server.call(server.factory.tick) or server.factory.connections == 0, "connections to go", 8)
    until(lambda: server.factory.in_flight == 0, "requests to end", 8)
    server.errors.clear()
    server.rejects.clear()


@pytest.mark.parametrize("seed", range(8))
def test_an_app_that_is_cancelled_anywhere(serve, seed):
    """From outside, at a random moment: the client gets an end, and nothing is left."""
    dice = random.Random(seed)
    tasks: list[asyncio.Task] = []

    async def app(scope, receive, send):
        tasks.append(asyncio.current_task())
        await receive()
        await asyncio.sleep(0)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})
            await asyncio.sleep(0)

    server = serve(app)
    clients = [WsClient(server.connect()) for _ in range(20)]
    for ws in clients:
        ws.send(handshake() + text("x" * dice.choice([1, 5000])) * dice.randint(0, 20))

    def cancel() -> None:
        for task in tasks:
            if dice.random() < 0.5:
                task.cancel()

    for _ in range(5):
        server.call(cancel)
    for ws in clients:
        ws.client.close()
    until(lambda: server.factory.connections == 0, "connections to go")
    until(lambda: server.factory.in_flight == 0, "requests to end")
    server.errors.clear()
    server.rejects.clear()
