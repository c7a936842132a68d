"""One worker inside a process that is not ours: a test, a notebook, a script, gunicorn's worker.

Rules of this file: we are the worker's master here, over the same control pipe and with the same messages
as between two processes (``control.py``); there is no second way to start, drain or stop a worker, and no
second request path. The process, its signals and its event loop belong to somebody else (``Plan.guest``).
Which sockets it serves and when it has to go is decided above (``embedded.py``).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence

from .. import control
from ..asgi.lifespan import Lifespan
from ..config.model import Config
from ..errors import AppImportError, LifespanError, StartupError
from ..net import tls
from ..types import ASGIApp
from ..worker.bootstrap import build
from ..worker.channel import Channel
from ..worker.server import Factory, Plan

# After a stop, the transports need a turn or two of the loop to report that they are closed, and cancelled
# requests one to end.
CUT_S = 1.0
CUT_LOOK_S = 0.01
# There is one worker, so its number says nothing.
SLOT = 0

log = logging.getLogger("shardserve.worker")


class Hosted:
    """A worker's life: ``start`` it, then ``drain`` or ``stop`` it; each once."""

    def __init__(
        self,
        config: Config,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        *,
        certificates: tls.Certificates | None = None,
    ) -> None:
        """Call it from the running loop. ``sockets`` stay the caller's: the worker gets copies.
        ``certificates``: in the place of those that the settings name. Raises ConfigError.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ours, self._theirs = Channel(ours), Channel(theirs)
        self._task: asyncio.Task[int] | None = None
        self._failed: control.Failed | None = None
        self._ready = asyncio.Event()
        self._told = False
        plan = Plan(
            slot=SLOT,
            listeners=[_listening(sock, config.backlog) for sock in sockets],
            backlog=config.backlog,
            own_drain=order(config),
            started_at=time.monotonic(),
            guest=True,
        )
        loop = asyncio.get_running_loop()
        try:
            self._worker = build(
                plan, config, app, channel=self._theirs, loop=loop, certificates=certificates
            )
        except BaseException:
            for sock in (ours, theirs, *plan.listeners):
                sock.close()
            raise

    @property
    def lifespan(self) -> Lifespan:
        return self._worker.lifespan

    @property
    def factory(self) -> Factory | None:
        return self._worker.factory

    @property
    def ended(self) -> bool:
        return self._task is not None and self._task.done()

    def begin(self) -> None:
        """Start the worker. ``ready`` says when it serves."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._ours.fileno(), self._hear)
        self._task = loop.create_task(self._worker.run(), name="shardserve-worker")
        self._task.add_done_callback(lambda _: self._ready.set())

    async def ready(self, *, within_s: float) -> bool:
        """Wait, but not longer than that; whether it serves, or has ended. Raises StartupError if it cannot
        serve, and what went wrong in the worker itself.
        """
        try:
            await asyncio.wait_for(self._ready.wait(), within_s)
        except TimeoutError:
            return False
        if self._task is not None and self._task.done():
            self._hear()
            self._task.result()
        if self._failed is not None:
            raise _as_error(self._failed)
        return True

    async def drain(self, what: control.Drain, *, within_s: float) -> bool:
        """Finish what is in flight; whether it is done. Call it again to wait on; the first order counts."""
        if not self._told:
            self._told = self._ours.send(what)
        return await self._wait(within_s)

    def release(self) -> None:
        """Accept no more."""
        if not self.ended:
            self._ours.send(control.Release(slot=SLOT))

    async def stop(self) -> None:
        """Cut everything, now."""
        self._ours.send(control.Stop())
        await self._wait(CUT_S)
        factory = self._worker.factory
        until = asyncio.get_running_loop().time() + CUT_S
        while factory is not None and factory.connections and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(CUT_LOOK_S)

    async def close(self) -> None:
        """Let go of everything, whatever state it is in."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CUT_S)
        await self._worker.lifespan.abandon()
        asyncio.get_running_loop().remove_reader(self._ours.fileno())
        self._ours.close()
        self._theirs.close()

    async def _wait(self, within_s: float) -> bool:
        assert self._task is not None, "begin() comes first"
        await asyncio.wait({self._task}, timeout=within_s)
        if self._task.done():
            self._task.result()
        return self._task.done()

    def _hear(self) -> None:
        """What the worker says. DRAINED needs no answer: its task ends with it."""
        while True:
            try:
                received = self._ours.receive()
            except BlockingIOError:
                return
            if received is None:
                asyncio.get_running_loop().remove_reader(self._ours.fileno())
                return
            if isinstance(received.message, control.Failed):
                self._failed = received.message
            if isinstance(received.message, control.Failed | control.Ready):
                self._ready.set()


def order(config: Config, *, grace_s: float = 0.0) -> control.Drain:
    """How ``config`` wants a drain. ``grace_s`` 0: nobody serves the sockets after us."""
    return control.Drain(
        grace_s=grace_s,
        deadline_s=config.timeout_graceful_shutdown_s,
        streams_s=config.timeout_drain_streams_s,
    )


def _listening(sock: socket.socket, backlog: int) -> socket.socket:
    """A copy that listens: who binds a socket may leave that to the server, as with asyncio."""
    copy = sock.dup()
    if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        copy.listen(backlog)
    return copy


def _as_error(failed: control.Failed) -> StartupError:
    kinds = {"lifespan": LifespanError, "import": AppImportError}
    return kinds.get(failed.stage, StartupError)(failed.text)
