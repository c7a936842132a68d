"""What an app may do with a WebSocket: ``SOCKETS``, which an input chooses from.

Each is a coroutine function of a Socket (fuzz_sockets.py), and says everything through it. One of them,
``acts``, does what the input says, step by step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fuzz_apps import AppFailure
from fuzz_responses import must
from fuzz_sockets import Socket

from shardserve.errors import ApplicationError, ClientDisconnected


async def echoes(socket: Socket) -> None:
    """For ever, and listens to the end whatever happens to what it says."""
    await socket.accept()
    while not socket.gone:
        count = len(socket.heard)
        if await socket.hear() != "websocket.receive":
            continue
        try:
            await socket.echo(socket.heard[count])
        except ClientDisconnected:
            pass


async def echoes_late(socket: Socket) -> None:
    await socket.suspend()
    await echoes(socket)


async def acts(socket: Socket) -> None:
    """What the input says, one thing after the other."""
    apps = socket.world.apps
    at = socket.index + 1
    for number in range(len(apps) * 2):
        await ACTIONS[apps[(at + number) % len(apps)] % len(ACTIONS)](socket)


async def lags(socket: Socket) -> None:
    """Hears one message between two suspensions."""
    await socket.accept()
    while not socket.gone:
        await socket.suspend()
        await socket.hear()


async def floods(socket: Socket) -> None:
    await socket.accept()
    for number in range(12):
        await socket.echo("é" * 300 * number if number % 2 else b"b" * 500 * number)
    await socket.hear()
    await socket.close(3000, "enough")


async def talks_to_itself(socket: Socket) -> None:
    await socket.accept(subprotocol="chat", headers=[(b"x", b"1"), (b"x", b"2")])
    for message in ("", b"", "x" * 125, "x" * 126, b"y" * 2000, "\U0001f600" * 400):
        await socket.echo(message)
        await socket.turn()
    await socket.close(1000, "é" * 61)


async def closes_and_listens(socket: Socket) -> None:
    await socket.accept()
    await socket.hear()
    await socket.close(4999)
    while not socket.gone:
        await socket.hear()
    must(not await socket.tell("websocket.send", text="more"), "said after the close")


async def denies(socket: Socket) -> None:
    await socket.hear()
    await socket.close()


async def denies_at_length(socket: Socket) -> None:
    await socket.start(401, (b"x", b"y"))
    await socket.part(b"no" * 20, True)
    await socket.turn()
    await socket.part(b".")
    must(not await socket.tell("websocket.accept"), "accepted after a denial")


async def breaks_off_a_denial(socket: Socket) -> None:
    await socket.start(401)
    await socket.part(b"n", True)
    await socket.suspend()
    raise AppFailure


async def raises(socket: Socket) -> None:
    await socket.hear()
    raise AppFailure


async def raises_in_between(socket: Socket) -> None:
    await socket.accept()
    await socket.echo("before")
    await socket.hear()
    raise AppFailure


async def forgets_to_answer(socket: Socket) -> None:
    await socket.hear()


async def leaves(socket: Socket) -> None:
    await socket.accept()
    await socket.hear()


async def listens_twice(socket: Socket) -> None:
    """Two receive() at once; one of them is given up."""
    await socket.accept()
    first = socket.receive()
    second = asyncio.Task(socket.hear(), loop=socket.world.loop)
    await socket.turn()
    second.cancel()
    socket.note(await first)
    try:
        await second
    except asyncio.CancelledError:
        pass


async def cancels_itself(socket: Socket) -> None:
    await socket.accept()
    await socket.turn()
    raise asyncio.CancelledError


async def keeps_its_channels(socket: Socket) -> None:
    """Others use them when it is over."""
    await socket.accept()
    await socket.hear()
    socket.world.kept.append((socket.receive, socket.send))


async def says_it_wrong(socket: Socket) -> None:
    """Nothing of this may go out, or change anything."""
    await socket.hear()
    wrong: list[dict[str, Any]] = [
        {"type": "websocket.accept", "headers": [(b"Upgrade", b"h2c")]},
        {"type": "websocket.accept", "headers": [(b"a", b"b\r\nc: d")]},
        {"type": "websocket.accept", "headers": 3},
        {"type": "websocket.accept", "subprotocol": "a\r\nb: c"},
        {"type": "http.response.start", "status": 200},
        {"type": "websocket.send", "text": "early"},
        {"type": "websocket.http.response.body", "body": b"early"},
    ]
    await refused(socket, wrong)
    await socket.tell("websocket.accept")
    wrong = [
        {"type": "websocket.accept"},
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": "a", "bytes": b"b"},
        {"type": "websocket.send", "text": b"a"},
        {"type": "websocket.send", "bytes": "b"},
        {"type": "websocket.send", "text": "\ud800"},
        {"type": "websocket.close", "code": 1005},
        {"type": "websocket.close", "code": 1 << 70},
        {"type": "websocket.close", "code": "1000"},
        {"type": "websocket.close", "reason": "r" * 124},
        {"type": "websocket.close", "reason": "\udfff"},
        {"type": "websocket.http.response.start", "status": 200},
        {},
    ]
    await refused(socket, wrong)
    await echoes_on(socket)


async def refused(socket: Socket, wrong: list[dict[str, Any]]) -> None:
    for message in wrong:
        try:
            socket.send(message)
        except (ApplicationError, TypeError, ValueError):
            continue
        must(False, "this was sent", message)


async def echoes_on(socket: Socket) -> None:
    while not socket.gone:
        count = len(socket.heard)
        if await socket.hear() == "websocket.receive":
            await socket.echo(socket.heard[count])


# ---- actions: what ``acts`` does ----


async def act_hear(socket: Socket) -> None:
    if not socket.gone:
        await socket.hear()


async def act_accept(socket: Socket) -> None:
    await socket.tell("websocket.accept")


async def act_say(socket: Socket) -> None:
    await socket.echo("text")
    await socket.echo(b"bytes")


async def act_say_much(socket: Socket) -> None:
    await socket.echo(b"m" * 3000)


async def act_close(socket: Socket) -> None:
    await socket.close(1001, "bye")


async def act_start(socket: Socket) -> None:
    await socket.start(403)


async def act_body(socket: Socket) -> None:
    await socket.part(b"part", True)
    await socket.part(b"end")


async def act_suspend(socket: Socket) -> None:
    await socket.suspend()


async def act_turn(socket: Socket) -> None:
    await socket.turn()


async def act_raise(socket: Socket) -> None:
    raise AppFailure


async def act_tick(socket: Socket) -> None:
    socket.world.factory.tick()


async def act_feed(socket: Socket) -> None:
    socket.world.feed_next()


async def act_lose(socket: Socket) -> None:
    socket.world.lose()


async def act_end_streams(socket: Socket) -> None:
    socket.world.step_end_streams()


ACTIONS: list[Callable[[Socket], Coroutine[Any, Any, None]]] = [
    act_hear,
    act_accept,
    act_say,
    act_hear,
    act_say_much,
    act_close,
    act_start,
    act_body,
    act_suspend,
    act_turn,
    act_raise,
    act_tick,
    act_feed,
    act_lose,
    act_end_streams,
]
SOCKETS: list[Callable[[Socket], Coroutine[Any, Any, None]]] = [
    echoes,
    acts,
    acts,
    lags,
    floods,
    talks_to_itself,
    closes_and_listens,
    denies,
    denies_at_length,
    breaks_off_a_denial,
    raises,
    raises_in_between,
    forgets_to_answer,
    leaves,
    listens_twice,
    cancels_itself,
    keeps_its_channels,
    says_it_wrong,
    echoes_late,
    echoes_on,
]


def may_raise(socket: Socket, error: BaseException) -> bool:
    """Whether this is how its app fails."""
    if isinstance(error, (ClientDisconnected, AppFailure)):
        return True
    if isinstance(error, asyncio.CancelledError):
        return socket.behaviour == cancels_itself.__name__
    # Returned without an answer.
    return isinstance(error, RuntimeError) and not socket.finished
