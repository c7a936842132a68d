"""Where an app suspends, or not: one that does not is run on a spare task, one that does takes it over."""

from __future__ import annotations

import asyncio

from tests.helpers.asgi import reply
from tests.helpers.http1 import get


async def at_once() -> None:
    pass


async def one_turn() -> None:
    await asyncio.sleep(0)


async def a_while() -> None:
    await asyncio.sleep(0.002)


async def turns_and_a_while() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)


PAUSES = [at_once, one_turn, a_while, turns_and_a_while]


def served(serve, handle, count: int = 1, **settings):
    """``count`` requests to an app that awaits ``handle()`` and answers with its text."""

    async def app(scope, receive, send):
        await reply(send, str(await handle()).encode())

    server = serve(app, **settings)
    with server.connect() as client:
        responses = [client.ask(get(b"/%d" % i)) for i in range(count)]
    return server, [response.body.decode() for response in responses]
