"""``shardserve.Server(config)``: a server inside a program, held as Uvicorn's is held.

Rules of this file: names, order and meaning of what is public here are Uvicorn's, since programs subclass it,
poll ``started``, set ``should_exit`` and read ``servers``. Serving itself is ``hosted.py``'s. The loop is the
caller's, uvloop's or asyncio's own. Only the main thread has signals; in another one they are left alone.

    serve()   capture_signals:  load · startup · main_loop (on_tick ten times a second) · shutdown

A server that cannot start logs why and raises SystemExit, as Uvicorn does: with 3 for the app, with 1 for an
address. Cancelling ``serve()`` cuts what is in flight, and still lets the app shut down.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .. import control
from ..asgi.lifespan import Lifespan
from ..config.model import Config as Settings
from ..errors import StartupError
from ..master import banner
from ..net.listeners import Listeners, wanted
from ..worker.server import LIFESPAN_SHUTDOWN_MIN_S
from .hosted import Hosted, order
from .settings import Config

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a program sets (should_exit, from whatever thread) is looked at this often.
TICK_S = 0.1
TICKS_PER_S = 10

log = logging.getLogger("shardserve.worker")


class Connections:
    """How many connections are open: ``len()`` of it, or whether there is any."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def __len__(self) -> int:
        factory = self._state.factory
        return 0 if factory is None else factory.connections


class Requests(Connections):
    """How many requests are in flight."""

    def __len__(self) -> int:
        factory = self._state.factory
        return 0 if factory is None else factory.in_flight


class ServerState:
    """What a server has to do now. The connections and tasks themselves are native, and cannot be had."""

    def __init__(self) -> None:
        self.factory: Any = None
        self.connections = Connections(self)
        self.tasks = Requests(self)

    @property
    def total_requests(self) -> int:
        """Requests finished since the start."""
        return 0 if self.factory is None else int(self.factory.served)


class Listener:
    """One entry of ``Server.servers``, as far as programs use an ``asyncio.Server``."""

    def __init__(self, sock: socket.socket, hosted: Hosted) -> None:
        self._sock = sock
        self._hosted = hosted

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Empty once it is closed."""
        return (self._sock,) if self._sock.fileno() >= 0 else ()

    def is_serving(self) -> bool:
        return bool(self.sockets)

    def close(self) -> None:
        """Accept no more, on any socket of the server; what is connected is served on."""
        self._sock.close()
        self._hosted.release()

    async def wait_closed(self) -> None:
        """Nothing to wait for: ``Server.shutdown()`` waits for the connections."""


class Server:
    """One server, run once after the other: ``run()``, or ``await serve()`` in a loop that runs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.server_state = ServerState()
        self.started = False
        self.should_exit = False
        self.force_exit = False
        self.last_notified = 0.0
        self.servers: list[Listener] = []
        self.lifespan: Lifespan | None = None
        self.limit_max_requests = _with_jitter(config)
        self._captured_signals: list[int] = []
        self._hosted: Hosted | None = None
        self._settings: Settings | None = None
        self._listeners: Listeners | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, in a loop of its own. In any thread."""
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(self.serve(sockets=sockets))

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until ``should_exit``, or a signal. ``sockets``: serve these, and close them at the end."""
        with self.capture_signals():
            await self._serve(sockets)

    async def _serve(self, sockets: list[socket.socket] | None) -> None:
        if not self.config.loaded:
            self.config.load()
        log.info("Started server process [%d]", os.getpid())
        await self.startup(sockets=sockets)
        try:
            if not self.should_exit:
                await self.main_loop()
        except BaseException:
            await self._cut(polite=True)
            self._let_go(sockets)
            raise
        if self.started:
            await self.shutdown(sockets=sockets)
            log.info("Finished server process [%d]", os.getpid())

    # Its life, a step at a time

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, start the app, accept. Raises SystemExit, with the reason logged, if that cannot be."""
        if not self.config.loaded:
            self.config.load()
        self._settings = settings = self.config.settings()
        try:
            listening = self._listen(settings, sockets)
            self._hosted = Hosted(
                settings, self.config.loaded_app, listening, certificates=self.config.certificates
            )
            serving = await self._until_ready(self._hosted, settings)
        except StartupError as error:
            await self._cut(polite=False)
            self._let_go(sockets)
            log.critical("%s", error)
            sys.exit(error.exit_code)
        except BaseException:
            await self._cut(polite=False)
            self._let_go(sockets)
            raise
        if not serving:
            await self._cut(polite=False)
            self._let_go(sockets)
            return
        self.lifespan = self._hosted.lifespan
        self.server_state.factory = self._hosted.factory
        self.servers = [Listener(sock, self._hosted) for sock in listening]
        if self._listeners is not None:
            urls = banner.spoken(self._listeners.urls, tls=self.config.is_ssl)
            log.info("%s", banner.lines(urls, 1, None)[0])
        self.started = True

    async def main_loop(self) -> None:
        """Until ``on_tick`` says that it is time to go."""
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            await asyncio.sleep(TICK_S)

    async def on_tick(self, counter: int) -> bool:
        """Whether to shut down now."""
        notify = self.config.callback_notify
        if counter % TICKS_PER_S == 0 and notify is not None:
            now = time.time()
            if now - self.last_notified > self.config.timeout_notify:
                self.last_notified = now
                await notify()
        if self.should_exit:
            return True
        if self._hosted is not None and self._hosted.ended:
            return True
        limit = self.limit_max_requests
        if limit is not None and self.server_state.total_requests >= limit:
            log.info("Maximum request limit of %d exceeded. Terminating process.", limit)
            return True
        return False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, then have the app shut down. ``force_exit`` cuts it short."""
        log.info("Shutting down")
        hosted = self._hosted
        if hosted is None or self._settings is None:
            return
        what = self.drain_order(self._settings)
        if what.grace_s == 0:
            # Our descriptors first: the worker takes what is queued and then closes the last ones.
            self._let_go(sockets)
        try:
            while not self.force_exit:
                if await hosted.drain(what, within_s=TICK_S):
                    break
        finally:
            await self._cut(polite=False)
            self._let_go(sockets)

    def drain_order(self, settings: Settings) -> control.Drain:
        """How to finish. Nobody serves our sockets after us."""
        return order(settings)

    def _listen(self, settings: Settings, sockets: Sequence[socket.socket] | None) -> list[socket.socket]:
        if sockets is not None:
            return list(sockets)
        self._listeners = found = Listeners(wanted(settings), slots=1, backlog=settings.backlog)
        return [one.sock for one in (*found.of_slot(0), *found.shared)]

    async def _until_ready(self, hosted: Hosted, settings: Settings) -> bool:
        """Whether it serves; False: told to exit before the app was up."""
        hosted.begin()
        while not await hosted.ready(within_s=TICK_S):
            if self.should_exit:
                await hosted.drain(order(settings), within_s=LIFESPAN_SHUTDOWN_MIN_S)
                return False
        return not hosted.ended

    async def _cut(self, *, polite: bool) -> None:
        """End the worker, whatever state it is in. ``polite``: the app's lifespan gets its shutdown."""
        hosted, self._hosted = self._hosted, None
        if hosted is None:
            return
        if not hosted.ended:
            await hosted.stop()
            if polite:
                await hosted.lifespan.shutdown(timeout_s=LIFESPAN_SHUTDOWN_MIN_S)
        await hosted.close()

    def _let_go(self, sockets: Sequence[socket.socket] | None) -> None:
        """Close the listening sockets."""
        listeners, self._listeners = self._listeners, None
        if listeners is not None:
            listeners.close()
        for sock in sockets or ():
            sock.close()

    # Signals

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Have SIGINT and SIGTERM end the server, then put the handlers back and raise them again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
        self.install_signal_handlers()
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:  # None: it was not set from Python, and cannot be put back
                    signal.signal(number, handler)
        for captured in reversed(self._captured_signals):
            signal.raise_signal(captured)

    def install_signal_handlers(self) -> None:
        """Override it to leave signals alone."""
        for number in HANDLED_SIGNALS:
            signal.signal(number, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The handler: the first signal asks for a shutdown, a second SIGINT cuts what is in flight."""
        self._captured_signals.append(sig)
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        else:
            self.should_exit = True


def _with_jitter(config: Config) -> int | None:
    if config.limit_max_requests is None:
        return None
    return int(config.limit_max_requests) + random.randint(0, int(config.limit_max_requests_jitter))
