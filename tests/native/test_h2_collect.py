"""Garbage of HTTP/2: what the collector sees, what it frees, and what dies without anyone closing it.

Rules of this file: every test goes through all states (h2_states.py), each in a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from typing import Any

import pytest

from shardserve import _native
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import close, text
from tests.native.drive import FakeTransport, get, turns
from tests.native.h2_acts import call_everything
from tests.native.h2_drive import (
    BODY,
    MORE,
    PREFACE,
    START,
    Scene,
    data,
    open_wide,
    opening,
    ping,
    request,
    reset,
    tunnel,
    upload,
    window,
)
from tests.native.h2_states import ACCEPT, BIG, LONG, STATES, congested, enter, never, receiving
from tests.native.isolated import AtExit, survives, survives_exit
from tests.native.test_collect import HIDDEN, Owner, instances

pytestmark = needs_nghttp2

every_state = pytest.mark.parametrize("state", STATES)


# States


async def answered_states() -> Any:
    """That the states are what they are called."""
    found = {}
    for state in STATES:
        scene = enter(state)
        await turns()
        found[state] = [scene.brief().get("1", "nothing"), scene.driver.factory.in_flight]
        assert await scene.end() == [0, 0], state
    return found


def test_the_states_are_reached() -> None:
    found = survives(answered_states)
    assert found["answered"] == ["200 ended", 0]
    assert found["running"] == ["nothing", 1]
    assert found["many running"] == ["nothing", 40]
    assert found["headed"] == ["nothing", 1]
    for state in ("begun", "congested", "congested in a task", "trailers to come", "a file to send"):
        assert found[state] == ["200 open", 1], state
    for state in (
        "receiving",
        "receiving in a task",
        "body not taken",
        "a body cut off",
        "websocket opening",
    ):
        assert found[state] == ["nothing", 1], state
    assert found["refused"][0] == "400 ended"
    assert found["malformed"] == ["reset 1", 0]
    assert found["failed"] == ["500 ended", 0]
    for state in ("websocket", "websocket with a queue", "websocket congested", "websocket listening"):
        assert found[state] == ["200 open", 1], state
    assert found["websocket denied"][0] == "403 ended"


# What the collector sees


class Probe:
    """One that the collector sees all references to."""


async def unaccounted(state: str) -> Any:
    """The references that the collector does not find: those of frames that run, and of nobody else."""
    scene = enter(state)
    await turns()
    scene.kept.append(Probe())
    kinds = {*HIDDEN, "Connection", "Tunnel", "WebSocket"} - {"Waiter"}
    everything = gc.get_objects()
    found: dict[str, set[int]] = {}
    for one in everything:
        kind = type(one).__name__
        if kind == "Probe" or (kind in kinds and "_native" in type(one).__module__):
            seen = sum(1 for other in everything for part in gc.get_referents(other) if part is one)
            found.setdefault(kind, set()).add(sys.getrefcount(one) - seen)
    del one, everything
    assert await scene.end() == [0, 0]
    [usual] = found.pop("Probe")
    return {kind: sorted(count - usual for count in counts) for kind, counts in found.items()}


@every_state
def test_every_reference_is_seen(state: str) -> None:
    """A reference that is not visited keeps what it leads to for ever."""
    found = survives(unaccounted, state)
    assert "Connection" in found
    assert {kind: counts for kind, counts in found.items() if counts != [0]} == {}, found


async def referents() -> Any:
    scenes = [enter(state) for state in ("congested in a task", "receiving in a task", "websocket listening")]
    await turns()
    found = [sorted({type(part).__name__ for part in gc.get_referents(scene.connection)}) for scene in scenes]
    tunnels = sorted({type(part).__name__ for one in instances("Tunnel") for part in gc.get_referents(one)})
    for scene in scenes:
        assert await scene.end() == [0, 0]
    return [*found, tunnels]


def test_the_collector_sees_the_members() -> None:
    http, _, websocket, tunnels = survives(referents)
    assert {"ProtocolFactory", "Solid", "Cycle", "dict", "tuple", "list", "type"} <= set(http)
    assert "Tunnel" in websocket
    assert {"Connection", "type"} <= set(tunnels)


async def hidden() -> Any:
    """The type of a tunnel cannot be made, changed or inherited."""
    scene = enter("websocket listening")
    await turns()
    [one] = instances("Tunnel")
    seen = []
    for evil in (
        lambda kind: kind(),
        lambda kind: object.__new__(kind),
        lambda kind: setattr(kind, "mark", 1),
        lambda kind: type("Sub", (kind,), {}),
        lambda kind: kind.__new__(kind),
    ):
        try:
            evil(type(one))
            seen.append("done")
        except TypeError:
            seen.append("TypeError")
    await scene.end()
    return [seen, gc.is_tracked(one), repr(scene.connection)]


def test_the_type_of_a_tunnel() -> None:
    seen, tracked, name = survives(hidden)
    assert seen == ["TypeError"] * 5
    assert tracked
    assert "http2" in name.lower()
    assert not hasattr(_native, "Stream")


# What it frees


async def cycle_through_app(state: str, beyond: str) -> list[bool]:
    """App objects in reference cycles through ours die once nothing else holds them."""
    dead: list[Any] = []

    def build() -> None:
        owner: Any = Owner()
        dead.append(weakref.ref(owner))
        owner.scene = enter(state, owner)
        dead.append(weakref.ref(owner.scene.connection))
        if beyond == "lost":
            owner.scene.lose()
        elif beyond == "paused":
            owner.scene.connection.pause_writing()
            owner.scene.feed(request(201, "/ok"), ping()) if "cut off" not in state else None

    build()
    if state == "failed":
        await turns()
    for _ in range(5):
        gc.collect()
        await turns()
    return [ref() is None for ref in dead]


BEYOND = ("", "lost", "paused")
"""What comes behind the state."""


async def cycles_through_app(state: str) -> dict[str, list[bool]]:
    return {beyond: await cycle_through_app(state, beyond) for beyond in BEYOND}


@every_state
def test_cycles_through_the_app_are_collected(state: str) -> None:
    assert survives(cycles_through_app, state) == {beyond: [True, True] for beyond in BEYOND}


async def dropped(state: str) -> Any:
    """The factory goes without close() while streams are open; their ``finally`` still calls everything."""
    seen: list[str] = []
    calls: list[int] = []

    def build() -> None:
        for number in range(4):
            run, frames = STATES[state]

            async def app(scene: Any, scope: Any, receive: Any, send: Any, run: Any = run) -> None:
                try:
                    await run(scope, receive, send)
                    await never()
                finally:
                    calls.append(1)
                    for message in (START, MORE, BODY, BIG, ACCEPT, LONG, {"type": "websocket.close"}):
                        try:
                            send(message)
                        except Exception as error:
                            seen.append(type(error).__name__)
                    try:
                        receive().send(None)
                    except (Exception, StopIteration) as error:
                        seen.append(type(error).__name__)
                    scene.connection.data_received(ping())
                    scene.connection.resume_writing()

            scene = Scene({"/evil": app})
            scene.make()
            scene.feed(opening(), *frames)
            if number % 2:
                scene.connection.pause_writing()

    build()
    for _ in range(3):
        gc.collect()
        await turns()
    return len(calls)


@every_state
def test_a_factory_that_is_dropped_while_streams_are_open(state: str) -> None:
    ended = survives(dropped, state)
    assert ended > 0 or state in ("refused", "malformed", "a head cut off", "reset", "websocket reset")


def loop_closed_under_it(state: str, uvloop: bool) -> str:
    """The loop closes with everything still open, and the rest is collected afterwards."""
    import uvloop as uvloop_module

    loop: Any = uvloop_module.new_event_loop() if uvloop else asyncio.new_event_loop()
    kept: list[Any] = []

    async def main() -> None:
        kept.append(enter(state))
        await turns()

    loop.run_until_complete(main())
    loop.close()
    [scene] = kept
    if "cut off" not in state:
        scene.feed(request(201, "/ok"), request(203, "/later"), upload(205), ping(), tunnel(207, "/evil"))
    factory = scene.driver.factory
    factory.end_streams()
    scene.connection.pause_writing()
    scene.connection.resume_writing()
    scene.connection.eof_received()
    factory.tick()
    scene.connection.connection_lost(None)
    factory.abort()
    factory.tick()
    factory.close()
    del scene, factory
    kept.clear()
    gc.collect()
    return "alive"


@pytest.mark.parametrize("uvloop", [False, True])
@every_state
def test_the_loop_is_closed_before_anything_else(state: str, uvloop: bool) -> None:
    assert survives(loop_closed_under_it, state, uvloop) == "alive"


async def weak_reference_callback(state: str) -> str:
    """A weak reference's callback walks the factory while a connection with streams dies."""
    first = enter("running")
    factory = first.driver.factory
    refs: list[Any] = []

    def called(_: Any) -> None:
        factory.tick()
        factory.end_streams()
        factory.count_states()
        factory.abort()
        gc.collect()

    run, frames = STATES[state]

    async def app(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await run(scope, receive, send)

    first.apps["/evil"] = app
    for _ in range(3):
        transport = FakeTransport()
        connection = factory()
        connection.connection_made(transport)
        connection.data_received(opening() + b"".join(frames))
        refs.append(weakref.ref(connection, called))
        connection.connection_lost(None)
        transport.shut()
        del connection, transport
        await turns()
    gc.collect()
    return "alive"


@every_state
def test_a_weak_reference_that_calls_back(state: str) -> None:
    assert survives(weak_reference_callback, state) == "alive"


async def many_streams_freed(lost: str) -> str:
    """A long list of streams, with what they wait for, is freed without deep recursion."""
    count = 200 if _native.debug_build else 5000  # its CHECKs go through all of them, each time
    for state in (never, congested, receiving):
        apps = {"/evil": lambda scene, *rest, state=state: state(*rest)}
        scene = Scene(apps, http2_max_concurrent_streams=count)
        scene.make()
        some = (upload(number, "/evil") + data(number, b"x") for number in range(1, 2 * count, 2))
        scene.feed(opening(), *some)
        assert scene.driver.factory.in_flight == count
        if lost == "lost":
            scene.lose()
        elif lost == "abort":
            scene.driver.factory.abort()
        elif lost == "garbage":
            scene.connection.data_received(b"\0\0\x01\0\0\0\0\0\0x")
        del scene
        gc.collect()
        await turns(3)
        gc.collect()
    return "alive"


@pytest.mark.parametrize("lost", ["lost", "dropped", "abort", "garbage"])
def test_many_streams_are_freed(lost: str) -> None:
    assert survives(many_streams_freed, lost) == "alive"


class Untracked:
    """The collector does not know it: its end comes in the middle of what the collector clears."""

    __slots__ = ()

    def __del__(self) -> None:
        call_everything(None)


async def end_inside_a_collection(state: str) -> str:
    """What is half-cleared is called."""

    def build() -> None:
        owner: Any = Owner()
        owner.scene = enter(state, owner, access=lambda *args: owner)
        owner.last = [Untracked() for _ in range(3)]
        owner.mine.extend(Untracked() for _ in range(3))
        owner.scene.transport.last = Untracked()
        owner.scene.driver.last = Untracked()
        for scope, *_ in [one for one in owner.mine if type(one) is tuple]:
            scope["last"] = Untracked()

    build()
    for _ in range(3):
        gc.collect()
        await turns()
    return "alive"


@every_state
def test_an_end_inside_a_collection(state: str) -> None:
    assert survives(end_inside_a_collection, state) == "alive"


# What is left to it


STEPS: dict[str, Any] = {
    "plain": lambda number: request(number, "/ok"),
    "later": lambda number: request(number, "/later"),
    "upload": lambda number: upload(number) + data(number, b"x" * 2000) + data(number, b"y", end=True),
    "big": lambda number: request(number, "/big"),
    "reset": lambda number: upload(number, "/silent") + reset(number),
    "ended by us": lambda number: upload(number, "/ok"),
    "refused": lambda number: request(number, "/", "GET", (b"host", b"another")),
    "task": lambda number: request(number, "/task"),
    "websocket": lambda number: (
        tunnel(number, "/ws") + data(number, text("x") * 3) + data(number, close(), end=True)
    ),
    "websocket reset": lambda number: tunnel(number, "/ws") + reset(number),
}


async def garbage_of_streams(kind: str) -> int:
    """Objects that 300 streams leave for the collector, which is switched off."""

    async def in_task(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.create_task(receive())
        await send(START)
        await send(BODY)

    async def echo(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    scene = Scene({"/task": in_task, "/ws": echo})
    scene.open()
    numbers = iter(range(1, 100_000, 2))
    make = STEPS[kind]

    async def streams(count: int) -> None:
        for number in range(count):
            scene.connection.data_received(make(next(numbers)))
            await turns(8)
            if number % 10 == 9:
                scene.connection.data_received(window(0, 3_000_000))
            scene.transport.read()
            scene.driver.errors.clear()
            scene.driver.rejects.clear()

    few = "reset" in kind  # a client that resets more of them is sent away
    await streams(20)
    gc.collect()
    gc.disable()
    before = len(gc.get_objects())
    await streams(100 if few else 300)
    if kind == "websocket":
        gc.collect()  # the library's handshake leaves cycles of its own
    found = len(gc.get_objects()) - before
    assert await scene.end() == [0, 0]
    return found


@pytest.mark.parametrize("kind", STEPS)
def test_a_stream_leaves_nothing_for_the_collector(kind: str) -> None:
    assert survives(garbage_of_streams, kind) < 30


async def garbage_of_connections(state: str) -> int:
    """The same of connections, which the collector may find."""

    async def step() -> None:
        scene = enter(state)
        await turns(3)
        assert await scene.end() == [0, 0]
        scene.driver.factory.close()
        await turns(3)

    for _ in range(10):
        await step()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(40):
        await step()
    gc.collect()
    gc.collect()
    return len(gc.get_objects()) - before


@every_state
def test_a_connection_leaves_nothing_behind_the_collector(state: str) -> None:
    assert survives(garbage_of_connections, state) < 20


# The end of the interpreter


def used_at_exit(state: str) -> str:
    """send, receive and the connection outlive the module at interpreter shutdown."""
    import builtins

    async def main() -> None:
        kept: list[Any] = []
        run, frames = STATES[state]

        async def app(scene: Any, scope: Any, receive: Any, send: Any) -> None:
            connection = scene.connection
            kept.append(
                AtExit(
                    lambda: send(START),
                    lambda: send(BODY),
                    lambda: send(LONG),
                    lambda: send({"type": "websocket.close"}),
                    receive,
                    lambda: connection.data_received(
                        request(201, "/ok", "GET", (b"accept", b"x"), (b"x-new", b"y"))
                    ),
                    lambda: connection.data_received(upload(203) + data(203, b"x") + tunnel(205, "/evil")),
                    lambda: connection.data_received(get()),
                    lambda: connection.connection_lost(None),
                )
            )
            await run(scope, receive, send)

        scene = Scene({"/evil": app})
        scene.make()
        scene.feed(PREFACE if state == "" else open_wide(), *frames)
        builtins.kept = kept  # type: ignore[attr-defined]
        builtins.scene = scene  # type: ignore[attr-defined]
        await turns()

    asyncio.run(main())
    return "alive"


@pytest.mark.parametrize("state", ["answered", "begun", "running", "receiving", "websocket listening"])
def test_used_while_the_interpreter_ends(state: str) -> None:
    assert survives_exit(used_at_exit, state) == "alive"
