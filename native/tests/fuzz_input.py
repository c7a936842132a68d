"""One input (fuzz_script.py), played on a connection, and what must hold of it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import select
import weakref
from collections.abc import Callable
from typing import Any

import fuzz_socket_apps
from fuzz_apps import BEHAVIOURS, Call, echoes, echoes_late, may_raise
from fuzz_observed import Observed
from fuzz_requests import check_body, check_scope
from fuzz_responses import CONTINUE, Reject, check, must
from fuzz_script import (
    APPS,
    BELOW,
    ENDING,
    FACTORY_INPUTS,
    LENGTHS,
    MOST_NEIGHBOURS,
    MOST_STEPS,
    PASSING_MS,
    SILENCE_MS,
    STEPS,
    WHOLE,
    ends_early,
    has_sockets,
    owns_stage,
)
from fuzz_socket_apps import SOCKETS
from fuzz_sockets import Socket
from fuzz_wire import Loop, Wire

from shardserve.ws.engine import Engine


class Stage:
    """A factory, and the play that its callbacks are for."""

    def __init__(self, native: Any, world: Any, profile: dict[str, Any], number: int) -> None:
        self.loop = Loop(world)
        self.settings = profile
        self.play: Play = None  # type: ignore[assignment]
        self.left = FACTORY_INPUTS
        arguments = dict(profile)
        if "websocket" in profile:
            arguments["websocket"] = Engine(**profile["websocket"])
        # The others have a callable for a log, and no ids.
        self.observed = Observed(native, number) if len(profile) % 2 == 0 else None
        arguments |= {"access": self.access} if self.observed is None else self.observed.arguments
        self.factory = native.ProtocolFactory(
            self.app,
            loop=self.loop,
            context=contextvars.Context(),
            state={"x": 1},
            on_app_error=self.on_app_error,
            on_reject=self.on_reject,
            **arguments,
        )
        asyncio._set_running_loop(self.loop)  # type: ignore[arg-type]
        self.loop.rest()

    def app(self, scope: Any, receive: Any, send: Any) -> Any:
        return self.play.begin(scope, receive, send)

    def on_app_error(
        self,
        error: BaseException,
        method: str,
        target: str,
        client: Any,
        outcome: str,
        request_id: str | None,
    ) -> None:
        self.play.note_error(error, client, outcome)

    def on_reject(self, status: int, reason: str, client: Any) -> None:
        self.play.note_reject(Reject(status, reason), client)

    def access(self, client: Any, method: str, target: bytes, version: str, status: int) -> None:
        must(200 <= status <= 999 or (status == 101 and method == "WebSocket"), "access", status)

    def close(self) -> None:
        self.factory.close()
        self.loop.rest()
        must(not self.loop.complaints, "the loop was told", self.loop.complaints)


class Play:
    """One connection from its first byte to its end."""

    def __init__(self, stage: Stage, control: bytes, raw: bytes, trace: Callable[..., None]) -> None:
        self.stage, self.factory, self.loop, self.trace = stage, stage.factory, stage.loop, trace
        asyncio._set_running_loop(self.loop)  # type: ignore[arg-type]
        self.world = stage.loop.world
        self.control, self.raw, self.at = control, raw, 0
        self.steps = control[STEPS]
        self.suspended: list[asyncio.Future[None]] = []
        self.kept: list[tuple[Any, Any]] = []
        self.calls = 0
        self.owns_stage = owns_stage(control)
        self.plain: Callable[[Call], Any] | None = None  # what every app does
        self.emptied = 0
        self.apps = control[APPS]
        self.has_sockets = has_sockets(control)
        stage.play = self
        self.world.reset()
        self.wires: list[Wire] = []
        self.wire = self.connect()

    def connect(self) -> Wire:
        wire = Wire(
            self.loop,
            4000 + len(self.wires),
            on_socket=not self.wires and bool(self.control[BELOW] & 1),
            trace=self.trace,
        )
        self.wires.append(wire)
        self.prepare(wire)
        wire.connection = self.factory()
        wire.connection.connection_made(wire)
        return wire

    def prepare(self, wire: Wire) -> None:
        """Before it is connected."""

    # What the factory tells

    def wire_of(self, client: Any) -> Wire:
        return self.wires[client[1] - 4000]

    def begin(self, scope: Any, receive: Any, send: Any) -> Any:
        is_socket = scope["type"] == "websocket"
        call = self.call_of(scope, receive, send)
        self.calls += 1
        self.wire_of(scope["client"]).events.append(call)
        behaviours: list[Any] = SOCKETS if is_socket else BEHAVIOURS
        behaviour = behaviours[self.apps[call.index % len(self.apps)] % len(behaviours)]
        if self.plain is not None:
            behaviour = getattr(fuzz_socket_apps, self.plain.__name__) if is_socket else self.plain
        call.behaviour = behaviour.__name__
        self.trace("app", call, scope["headers"])
        return self.run(behaviour, call)

    def call_of(self, scope: Any, receive: Any, send: Any) -> Call:
        check_scope(scope, self.stage.settings)
        kind = Socket if scope["type"] == "websocket" else Call
        return kind(self, self.calls, scope, receive, send)

    async def run(self, behaviour: Callable[[Call], Any], call: Call) -> None:
        try:
            await behaviour(call)
            call.failed = not call.finished
        except BaseException:
            call.failed = True
            raise
        finally:
            call.done = True
            self.trace("ended", call)

    def note_error(self, error: BaseException, client: Any, outcome: str) -> None:
        self.trace("app error", repr(error), outcome)
        calls = [event for event in self.wire_of(client).events if isinstance(event, Call) and event.failed]
        must(calls, "an app that did not fail", error)
        cut = outcome == "cut by the server" and isinstance(error, asyncio.CancelledError)
        must(cut or any(self.may_raise(call, error) for call in calls), "an error of the app", repr(error))

    def may_raise(self, call: Call, error: BaseException) -> bool:
        if isinstance(call, Socket):
            return fuzz_socket_apps.may_raise(call, error)
        return may_raise(call.behaviour, error)

    def note_reject(self, reject: Reject, client: Any) -> None:
        self.trace("reject", reject)
        events = self.wire_of(client).events
        must(reject.reason and reject.reason.isprintable(), "rejected because", reject)
        if reject.status >= 1000:
            must(events and isinstance(events[-1], Socket) and events[-1].accepted, "no WebSocket", reject)
            must(reject.reason != "the WebSocket engine failed", "engine", reject)
            events[-1].rejected.append(reject.status)  # type: ignore[union-attr]
            return
        must(reject.status == 0 or 400 <= reject.status <= 599, "rejected with", reject)
        events.append(reject)

    # Steps

    def next_piece(self, length: int) -> bytes:
        """0: all the rest."""
        piece = self.raw[self.at : self.at + length] if length else self.raw[self.at :]
        self.at += len(piece)
        return piece

    def feed(self, piece: bytes) -> None:
        if piece:
            self.wire.feed(piece)

    def feed_next(self) -> None:
        """Called by an app: more bytes come in now."""
        if not self.wire.lost and not self.wire.ended:
            self.feed(self.next_piece(24))

    def lose(self) -> None:
        """Called by an app: the connection ends now."""
        self.wire.lose()

    def step(self, step: int) -> None:
        kind, argument = step >> 5, step & 31
        if kind <= 3:
            self.step_feed(kind, argument)
        elif kind == 4:
            self.wire.read_on() if argument == 0 else self.wire.stall(argument * 16 - 16)
        elif kind == 5:
            self.world.pass_ms(PASSING_MS[argument % len(PASSING_MS)])
            self.factory.tick()
        elif kind == 6:
            self.wake(1 + argument)
            self.loop.turn()
        else:
            getattr(self, OTHER_STEPS[argument % len(OTHER_STEPS)])()

    def step_feed(self, kind: int, argument: int) -> None:
        if not self.wire.hears:
            self.loop.turn()
            return
        if kind == 3:
            end = self.raw.find(b"\n", self.at)
            self.feed(self.next_piece(end + 1 - self.at if end >= 0 else 0))
        else:
            self.feed(self.next_piece(LENGTHS[argument % len(LENGTHS)]))
        if kind == 0:
            self.loop.turn()
        elif kind != 1:
            self.loop.rest()

    def step_end(self) -> None:
        self.wire.end_input()

    def step_lose(self) -> None:
        self.wire.lose(ConnectionResetError())

    def step_hang_up(self) -> None:
        self.world.socket(poll_events=select.POLLHUP | select.POLLERR)
        self.factory.tick()

    def step_half_close(self) -> None:
        self.world.socket(poll_events=select.POLLRDHUP, waiting=True)
        self.factory.tick()

    def step_end_streams(self) -> None:
        if self.owns_stage:
            self.factory.end_streams()

    def step_neighbour(self) -> None:
        if len(self.wires) <= MOST_NEIGHBOURS:
            wire = self.connect()
            if wire.hears:
                wire.feed(b"GET /n HTTP/1.1\r\nHost: n\r\n\r\n")

    def step_break(self) -> None:
        self.world.socket(broken=True)

    def step_drain(self) -> None:
        if self.owns_stage and not self.emptied:
            self.emptied = 1
            self.factory.drain(self.on_empty, grace_ms=self.control[BELOW])

    def step_collect(self) -> None:
        gc.collect(1)

    def on_empty(self) -> None:
        must(self.emptied == 1, "empty twice")
        self.emptied = 2

    def wake(self, count: int) -> None:
        for future in self.suspended[:count]:
            if not future.done():
                future.set_result(None)
        del self.suspended[:count]

    # The whole

    def play(self) -> None:
        for number in range(MOST_STEPS):
            if self.at >= len(self.raw) or self.wire.lost:
                break
            self.step(self.steps[number % len(self.steps)])
        self.settle()
        while self.at < len(self.raw) and self.wire.hears:
            self.feed(self.next_piece(0))
            self.settle()

    def play_plain(self, lengths: bytes) -> None:
        """Reads of these lengths, over and over, and nothing else."""
        early = ends_early(self.control)
        self.plain = echoes_late if early else echoes
        for number in itertools.count():
            if self.at >= len(self.raw) or not self.is_read():
                break
            length = lengths[number % len(lengths)] & 31 if number < MOST_STEPS else 0
            self.feed(self.next_piece(LENGTHS[length % len(LENGTHS)]))
            if not early:
                self.settle()
        if early:
            self.end_early(at_rest=lengths == WHOLE)

    def end_early(self, at_rest: bool) -> None:
        """The client ends its input: as soon as it is read, or when nothing else is left to happen."""
        if at_rest:
            self.settle()
        if self.is_read():
            self.wire.end_input()
        self.settle()

    def is_read(self) -> bool:
        """Waits until the connection reads. False: it does not any more."""
        while not self.wire.hears and not self.wire.closing and (self.suspended or self.loop.ready):
            self.wake(1)
            self.loop.turn()
        return self.wire.hears

    def settle(self) -> None:
        """The clients read everything, and no app waits for anything else: all that is due comes."""
        while True:
            for wire in self.wires:
                if not wire.client_reads:
                    wire.read_on()
            if self.loop.ready:
                self.loop.rest()
            if not self.suspended:
                break
            self.wake(len(self.suspended))
        for wire in self.wires:
            must(not wire.buffer, "output without a reader")

    def check(self) -> None:
        """What came out so far, unless it was checked before."""
        for wire in self.wires:
            output = wire.read_so_far()
            if wire.checked == (output, len(wire.events)):
                continue
            wire.checked = output, len(wire.events)
            responses = check(output, wire.events)
            closes = bool(responses) and responses[-1].closes
            must(
                not closes or wire.closing or wire.half_closed or self.endless, "said close and stays", output
            )

    def outcome(self) -> tuple[Any, ...]:
        """What must not depend on how the bytes were cut. Of two faults, which one is told may."""
        events = self.wire.events
        output = self.wire.read_so_far().replace(CONTINUE, b"")
        rejects = [event for event in events if isinstance(event, Reject)]
        responses = check(output, events)[: -1 if rejects else None]
        calls = [event for event in events if isinstance(event, Call)]
        for event in calls:
            if isinstance(event, Socket) and event.accepted:
                event.check_all_heard()
        return (
            [(response.status, response.body) for response in responses],
            [event.seen() for event in calls if event.complete or event.accepted],
            len(rejects),
            self.wire.closing or self.wire.half_closed,
        )

    @property
    def endless(self) -> bool:
        """Whether an app still waits for the end of its client."""
        return any(isinstance(event, Call) and not event.done for wire in self.wires for event in wire.events)

    def end(self) -> None:
        ENDINGS[self.control[ENDING] % len(ENDINGS)](self)
        self.check()
        for wire in self.wires:
            wire.lose()
        self.settle()
        self.check()
        for wire in self.wires:
            for event in wire.events:
                if isinstance(event, Call):
                    self.check_body(event)
        if self.stage.observed is not None:
            events = [event for wire in self.wires for event in wire.events]
            self.stage.observed.check(events, self.factory)
        self.loop.timers.clear()
        must(self.factory.connections == 0, "connections", self.factory.connections)
        must(self.factory.in_flight == 0, "in flight", self.factory.in_flight)
        must(not self.loop.complaints, "the loop was told", self.loop.complaints)
        must(self.emptied != 1, "the drain does not end")

    def check_body(self, call: Call) -> None:
        check_body(call, self.stage.settings)

    def forget(self) -> None:
        """Nothing keeps a connection that is gone."""
        gone = [weakref.ref(wire.connection) for wire in self.wires]
        self.kept.clear()
        for wire in self.wires:
            wire.connection = None
            wire.events = []
        self.wires = []
        del self.wire
        if any(ref() is not None for ref in gone):
            gc.collect()
            must(all(ref() is None for ref in gone), "a connection outlives itself", [ref() for ref in gone])


def end_by_eof(play: Play) -> None:
    play.wire.end_input()
    play.settle()
    must(play.wire.lost or not play.wire.ended, "open although its client has ended")


def end_by_loss(play: Play) -> None:
    play.wire.lose()


def end_in_silence(play: Play) -> None:
    """Deadlines, and a client that reads."""
    for passed_ms in SILENCE_MS:
        if play.wire.lost:
            break
        play.world.pass_ms(passed_ms)
        play.factory.tick()
        play.settle()
    must(
        play.wire.lost or play.endless or not has_deadlines(play),
        "open after every deadline",
        play.wire.connection,
    )
    if "ws_ping_timeout_ms" in play.stage.settings and not play.wire.lost and not play.wire.read_paused:
        for event in play.wire.events:
            silent = isinstance(event, Socket) and event.accepted and not event.over
            must(not silent, "a WebSocket whose client is silent", event, play.wire.connection)


def end_deaf(play: Play) -> None:
    """Deadlines, and a client that takes nothing."""
    play.wire.stall(0)
    for passed_ms in SILENCE_MS:
        if play.wire.lost:
            break
        play.world.pass_ms(passed_ms)
        play.factory.tick()
        play.loop.rest()
    must(
        play.wire.lost or play.wire.closing or play.endless or not has_deadlines(play),
        "open although nobody reads",
    )


def end_by_abort(play: Play) -> None:
    if play.owns_stage:
        play.factory.abort()
        play.loop.rest()
        must(all(wire.lost for wire in play.wires), "abort() left a connection")


def end_by_drain(play: Play) -> None:
    if not play.owns_stage:
        return
    play.step_drain()
    play.settle()
    play.factory.end_streams()
    play.settle()
    play.world.pass_ms(600)
    play.loop.turn()
    play.settle()


def has_deadlines(play: Play) -> bool:
    return "first_byte_ms" in play.stage.settings


ENDINGS = [end_by_eof, end_by_loss, end_in_silence, end_deaf, end_by_abort, end_by_drain]
OTHER_STEPS = [
    "step_end",
    "step_lose",
    "step_hang_up",
    "step_half_close",
    "step_end_streams",
    "step_neighbour",
    "step_break",
    "step_drain",
    "step_collect",
]
