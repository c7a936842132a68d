"""The running worker: lifespan up, accept, do what the master says, drain, lifespan down.

Rules of this file: the control pipe and SIGTERM only *ask* (``_ask_drain``, ``_ask_stop``); ``run``
is the one place where the worker moves from phase to phase, in the order written there. Every wait
has a deadline or ends with an order. The request path is the factory's (native) and is not here;
importing the app and ending the process are ``bootstrap.py``'s.

    what arrives          while starting            while serving           while draining
    DRAIN                 give up, DRAINED, exit 0  drain                   ignored
    SIGTERM               the same                  LEAVING, drain          ignored
    master gone           the same                  drain, own deadline     ignored
    STOP                  exit 0                    cut, exit 0             cut, exit 0
    ADOPT, RELEASE        kept until serving        done in order           descriptors closed
    REOPEN                log files are opened again, in every phase
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from .. import control
from ..asgi.lifespan import Lifespan
from ..errors import ControlError, LifespanError
from ..observe import log_config, uncaught
from ..observe.access import AccessLog
from ..observe.logs import RejectReporter
from ..stats import Page, Stage
from .admission import Admission
from .channel import Channel, Received, close_all, shortened
from .figures import GarbagePauses
from .heartbeat import Heartbeat
from .listening import Listening
from .opening import Opening

EXIT_DRAINED = 0
EXIT_FAILED = 3

TICK_S = 1.0
# An app gets at least this long for its lifespan shutdown, however long the drain took.
LIFESPAN_SHUTDOWN_MIN_S = 5.0
# The key of the lifespan state, and so of every request's, where an app finds an asyncio.Event that is
# set when this worker begins to drain (docs/operations.md).
SHUTDOWN_KEY = "shardserve_shutdown"
# While a drain waits for connections that came out of their handshakes after the others had gone.
LOOK_S = 0.05
# After abort() the transports need a turn or two of the loop to report that they are closed.
ABORT_S = 1.0

log = logging.getLogger("shardserve.worker")


class Factory(Protocol):
    """What the worker uses of ``_native.ProtocolFactory`` (its stub is the manual)."""

    def __call__(self) -> Any: ...
    def tick(self) -> None: ...
    def count_states(self) -> None: ...
    def drain(self, on_empty: Callable[[], None], *, grace_ms: int = 0) -> None: ...
    def end_streams(self) -> int: ...
    def abort(self) -> int: ...
    def close(self) -> None: ...
    @property
    def connections(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def served(self) -> int: ...
    @property
    def refused(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker was started with. ``own_drain`` is for when no master says how to drain."""

    slot: int
    listeners: list[socket.socket]
    backlog: int
    own_drain: control.Drain
    started_at: float  # time.monotonic() when START came
    page: Page | None = None  # where the master reads our figures
    # In somebody else's process (integrations/): its signals, loop and garbage collector are left alone.
    guest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """The logs that are gathered, and so have to be flushed."""

    access: AccessLog | None
    rejects: RejectReporter

    def flush(self) -> None:
        if self.access is not None:
            self.access.flush()
        self.rejects.flush()

    def reopen(self) -> None:
        """The files were moved away (logrotate): go on in new ones."""
        if self.access is not None:
            self.access.reopen()
        log_config.reopen()

    def close(self) -> None:
        if self.access is not None:
            self.access.close()
        self.rejects.close()


class Phase(IntEnum):
    STARTING = 0
    SERVING = 1
    DRAINING = 2
    ENDED = 3


class Server:
    """One worker's life after the app's import. ``run`` it once."""

    def __init__(
        self,
        plan: Plan,
        *,
        channel: Channel,
        lifespan: Lifespan,
        make_factory: Callable[[dict[str, Any], Admission], Factory],
        logs: Logs,
        make_opening: Callable[[Factory], Opening | None] = lambda factory: None,
    ) -> None:
        """``make_factory`` gets the lifespan state, and whom to tell of descriptors that run out; it is
        called once the app is up. ``make_opening``: for connections that have something before HTTP.
        """
        self._plan = plan
        self._channel = channel
        self._lifespan = lifespan
        self._make_factory = make_factory
        self._logs = logs
        self._make_opening = make_opening
        self._opening: Opening | None = None
        self._factory: Factory | None = None
        self._admission: Admission | None = None
        self._drain_order: control.Drain | None = None
        self._told = asyncio.Event()  # to drain or to stop
        self._stop = asyncio.Event()
        self._errands: asyncio.Queue[Received] = asyncio.Queue()
        self._ticker: asyncio.TimerHandle | None = None
        self._stream_ender: asyncio.TimerHandle | None = None
        self._heart = Heartbeat(plan.page) if plan.page is not None else None
        self._garbage = GarbagePauses(plan.page) if plan.page is not None else None
        self._shutdown = asyncio.Event()  # the app's copy of the news
        self.phase = Phase.STARTING

    async def run(self) -> int:
        """The whole life; returns the exit code."""
        self._watch()
        try:
            served = await self._start()
            if isinstance(served, int):
                return served
            factory, listening = served
            errands = asyncio.create_task(self._run_errands(listening), name="shardserve-errands")
            await self._told.wait()
            errands.cancel()
            await asyncio.wait({errands})
            return await self._drain(factory, listening)
        finally:
            self.phase = Phase.ENDED
            self._enter(Stage.ENDED)
            if self._plan.page is not None:
                self._publish(self._plan.page)  # the last figures
            self._unwatch()
            self._logs.close()

    # Starting

    async def _start(self) -> tuple[Factory, Listening] | int:
        self._enter(Stage.LIFESPAN)
        self._lifespan.state[SHUTDOWN_KEY] = self._shutdown
        try:
            state = await self._unless(self._told, self._lifespan.startup())
        except LifespanError as error:
            return self._failed("lifespan", str(error))
        if state is None:
            log.info("Told to go before the app was up.")
            self._close_own_listeners()
            self._channel.send(control.Drained(served=0, cut=0))
            return EXIT_DRAINED
        # What was imported and started lives as long as the process. Frozen, it is not walked
        # again by every full collection, which would stall the loop for as long as the app is
        # large; collected first, so that no garbage is kept for good.
        if not self._plan.guest:
            gc.collect()
            gc.freeze()
        if self._garbage is not None:
            self._garbage.start()
        try:
            served = await self._open(state)
        except Exception as error:
            # A listening socket that is none, a setting the native side refuses: the master prints it.
            await self._lifespan.shutdown(timeout_s=LIFESPAN_SHUTDOWN_MIN_S)
            return self._failed("start", f"cannot serve: {type(error).__name__}: {error}")
        took_ms = round((time.monotonic() - self._plan.started_at) * 1000)
        self.phase = Phase.SERVING
        self._enter(Stage.SERVING)
        if not self._channel.send(control.Ready(pid=os.getpid(), startup_ms=took_ms)):
            self._master_gone()
        return served

    async def _open(self, state: dict[str, Any]) -> tuple[Factory, Listening]:
        self._admission = Admission()
        self._factory = factory = self._make_factory(state, self._admission)
        self._opening = self._make_opening(factory)
        listening = Listening(factory, backlog=self._plan.backlog, opening=self._opening)
        self._admission.guard(listening)
        for sock in self._plan.listeners:
            await listening.accept_on(sock, slot=self._plan.slot)
        self._tick(factory)
        return factory, listening

    def _failed(self, stage: str, text: str) -> int:
        self._close_own_listeners()
        self._channel.send(control.Failed(stage=stage, text=shortened(text)))
        return EXIT_FAILED

    def _close_own_listeners(self) -> None:
        for sock in self._plan.listeners:
            sock.close()

    # Serving

    def _tick(self, factory: Factory) -> None:
        """Once a second: the deadlines of the connections, what they do, and what the logs hold back."""
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(TICK_S, self._tick, factory)
        factory.tick()
        factory.count_states()
        if self._admission is not None:
            self._admission.check()
        if self._opening is not None:
            self._opening.look(loop.time())
        self._logs.flush()

    async def _run_errands(self, listening: Listening) -> None:
        """ADOPT and RELEASE, one after the other, in the order they came."""
        while True:
            received = await self._errands.get()
            message = received.message
            if isinstance(message, control.Adopt):
                await self._adopt(listening, message, received.descriptors)
            elif isinstance(message, control.Release) and listening.close(message.slot):
                log.info("Released the listeners of slot %d.", message.slot)

    async def _adopt(
        self, listening: Listening, message: control.Adopt, descriptors: tuple[int, ...]
    ) -> None:
        if message.slot == self._plan.slot:
            log.error("Ignored ADOPT of this worker's own slot %d.", message.slot)
            close_all(descriptors)
            return
        for fd, url in zip(descriptors, message.urls, strict=False):
            try:
                await listening.accept_on(socket.socket(fileno=fd), slot=message.slot)
            except OSError as error:
                log.error("Cannot adopt %s of slot %d: %s", url, message.slot, error)
            else:
                log.info("Adopted %s of slot %d.", url, message.slot)

    # Draining

    async def _drain(self, factory: Factory, listening: Listening) -> int:
        self.phase = Phase.DRAINING
        self._enter(Stage.DRAINING)
        if self._admission is not None:
            self._admission.close()
        order = self._drain_order
        # Unless a master says by the grace that somebody serves after us: what waits would be reset.
        if order is not None and (order.grace_s == 0 or order is self._plan.own_drain):
            await listening.accept_queued()
        listening.close_all()
        await listening.connected()
        self._drop_errands()
        if order is None or self.stopped:
            return self._cut_everything(factory)
        deadline = asyncio.get_running_loop().time() + order.deadline_s
        served, cut = await self._finish_requests(factory, order)
        self._logs.flush()  # before whatever the app says, or does, at its end
        if not self.stopped:
            remaining_s = max(deadline - asyncio.get_running_loop().time(), LIFESPAN_SHUTDOWN_MIN_S)
            await self._unless(self._stop, self._lifespan.shutdown(timeout_s=remaining_s))
        if self.stopped:
            return self._cut_everything(factory)
        self._end_ticking()
        if factory.connections == 0:
            factory.close()
        self._logs.close()
        self._channel.send(control.Drained(served=served, cut=cut))
        return EXIT_DRAINED

    async def _finish_requests(self, factory: Factory, order: control.Drain) -> tuple[int, int]:
        """Until no connection is left, by itself or cut. Returns how many were served and cut."""
        log.debug("Draining %d connections for at most %.1f seconds.", factory.connections, order.deadline_s)
        empty = asyncio.Event()
        factory.drain(empty.set, grace_ms=round(min(order.grace_s, order.deadline_s) * 1000))
        loop = asyncio.get_running_loop()
        self._stream_ender = loop.call_later(order.streams_s, self._end_streams, factory)
        emptied = await self._unless(self._stop, self._emptied(factory, empty), timeout_s=order.deadline_s)
        served = factory.served  # before the cut ones count as finished too
        if emptied or self.stopped:
            return served, 0
        cut = factory.abort()
        if self._opening is not None:
            self._opening.abort()
        log.warning("Cut %d requests that were not finished after %.1f seconds.", cut, order.deadline_s)
        await self._unless(self._stop, self._emptied(factory, empty), timeout_s=ABORT_S)
        return served, cut

    async def _emptied(self, factory: Factory, empty: asyncio.Event) -> bool:
        """Until no connection is left, not even one that was in its handshake when the drain began."""
        await empty.wait()
        if self._opening is not None:
            await self._opening.settled()
            while factory.connections > 0:
                await asyncio.sleep(LOOK_S)
        return True

    def _end_streams(self, factory: Factory) -> None:
        """End what has no end: WebSockets, and responses that only end with their client. From now on
        the factory does so by itself."""
        told = factory.end_streams()
        if told:
            log.info("Told %d streaming responses and WebSockets that it is time to end.", told)

    def _cut_everything(self, factory: Factory) -> int:
        self._end_ticking()
        if self._opening is not None:
            self._opening.abort()
        cut = factory.abort()
        if cut:
            log.warning("Cut %d requests: told to stop at once.", cut)
        return EXIT_DRAINED

    def _end_ticking(self) -> None:
        for timer in (self._ticker, self._stream_ender):
            if timer is not None:
                timer.cancel()

    # The page that the master reads

    def _enter(self, stage: Stage) -> None:
        if self._plan.page is not None:
            self._plan.page["stage"] = stage

    def _publish(self, page: Page) -> None:
        """With every heartbeat."""
        if self._factory is not None:
            page["connections"] = self._factory.connections
            page["in_flight"] = self._factory.in_flight
            page["served"] = self._factory.served
            page["refused"] = self._factory.refused
        if self._logs.access is not None:
            page["access_lines_lost"] = self._logs.access.lost
        if self._admission is not None:
            page["accept_pauses"] = self._admission.pauses

    # What the master and the system say

    @property
    def lifespan(self) -> Lifespan:
        return self._lifespan

    @property
    def factory(self) -> Factory | None:
        """What makes the connections; None until the app is up."""
        return self._factory

    @property
    def stopped(self) -> bool:
        """Whether STOP came: the process ends without any further politeness."""
        return self._stop.is_set()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._channel.set_blocking(False)
        loop.add_reader(self._channel.fileno(), self._read_control)
        if not self._plan.guest:
            loop.set_exception_handler(uncaught.report_loop_error)
            # Signals are the master's business. A TERM sent to this pid alone (an operator, an OOM
            # guard) still costs no request: the worker drains and the master starts another.
            loop.add_signal_handler(signal.SIGTERM, self._terminated)
        if self._heart is not None:
            self._heart.arm(loop, self._publish)

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        if not self._plan.guest:
            loop.remove_signal_handler(signal.SIGTERM)
        if self._heart is not None:
            self._heart.stop()
        if self._garbage is not None:
            self._garbage.stop()
        if self._opening is not None:
            self._opening.close()
        self._end_ticking()
        self._drop_errands()

    def _read_control(self) -> None:
        while True:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except ControlError as error:
                log.error("Ignored a control message: %s", error)
                continue
            if received is None:
                asyncio.get_running_loop().remove_reader(self._channel.fileno())
                self._master_gone()
                return
            self._obey(received)

    def _obey(self, received: Received) -> None:
        message = received.message
        if isinstance(message, control.Drain):
            self._ask_drain(message)
        elif isinstance(message, control.Stop):
            self._ask_stop()
        elif isinstance(message, control.Reopen):
            self._logs.reopen()
        elif isinstance(message, control.Adopt | control.Release) and self.phase < Phase.DRAINING:
            self._errands.put_nowait(received)
            return
        elif not isinstance(message, control.Adopt | control.Release):
            log.error("Ignored %s from the master: not a message for a running worker.", message.type)
        close_all(received.descriptors)

    def _master_gone(self) -> None:
        if self._drain_order is None:
            log.warning("The master is gone: finishing what is in flight, then exiting.")
        self._ask_drain(self._plan.own_drain)

    def _terminated(self) -> None:
        log.info("Got SIGTERM: finishing what is in flight, then exiting.")
        if self.phase is Phase.SERVING:
            self._channel.send(control.Leaving("SIGTERM"))
        self._ask_drain(self._plan.own_drain)

    def _ask_drain(self, order: control.Drain) -> None:
        if self._drain_order is None:
            self._drain_order = order
            self._told.set()
            self._shutdown.set()

    def _ask_stop(self) -> None:
        self._stop.set()
        self._told.set()
        self._shutdown.set()

    def _drop_errands(self) -> None:
        while not self._errands.empty():
            close_all(self._errands.get_nowait().descriptors)

    async def _unless(
        self, order: asyncio.Event, wanted: Coroutine[Any, Any, Any], *, timeout_s: float | None = None
    ) -> Any:
        """The result of ``wanted``; None when ``order`` or the time limit came first."""
        work = asyncio.ensure_future(wanted)
        told = asyncio.ensure_future(order.wait())
        try:
            await asyncio.wait({work, told}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            work.cancel()
            await asyncio.wait({work}, timeout=ABORT_S)
            return None
        finally:
            told.cancel()
            work.cancel()
