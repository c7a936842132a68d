"""The lifespan protocol: one task runs the app from before the first request to after the last.

Rules of this file: the order of messages is the table ``TRANSITIONS`` and nothing else decides it;
an illegal message is a lookup that fails. Time comes in as an argument. Nothing here knows of
sockets, the master or exit codes. Requests never pass through here: they get ``state`` from the
native side, which copies it per request.

What ``mode`` means when the app ends or fails before it said ``lifespan.startup.complete``:

                         auto                     on                  off
    raises               "unsupported": serves    LifespanError       (never called)
    sends startup.failed LifespanError            LifespanError
    messages out of order LifespanError           LifespanError
    returns              serves                   serves (like Uvicorn)

ASGI lifespan specification 2.0: "If an exception is raised when calling the application callable
with a lifespan.startup message or a scope of type lifespan, the server must continue but not send
any lifespan events."
"""

from __future__ import annotations

import asyncio
import logging
from enum import IntEnum
from typing import Any

from ..errors import LifespanError, MessageError
from ..observe import tracebacks
from ..types import ASGIApp, Message


class Phase(IntEnum):
    """Where the conversation stands."""

    NEW = 0
    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    STOPPED = 4
    FAILED = 5


# What the app may say in which phase, and what comes of it. Anything else is out of order.
TRANSITIONS: dict[Phase, dict[str, Phase]] = {
    Phase.NEW: {},
    Phase.STARTING: {
        "lifespan.startup.complete": Phase.RUNNING,
        "lifespan.startup.failed": Phase.FAILED,
    },
    Phase.RUNNING: {},
    Phase.STOPPING: {
        "lifespan.shutdown.complete": Phase.STOPPED,
        "lifespan.shutdown.failed": Phase.STOPPED,
    },
    Phase.STOPPED: {},
    Phase.FAILED: {},
}
MESSAGE_TYPES = frozenset(name for row in TRANSITIONS.values() for name in row)

# After shutdown.complete the app has said it is done; this is for its last ``finally`` blocks.
LAST_WORDS_S = 1.0


class Lifespan:
    """One app's lifespan. ``startup`` once, then ``shutdown`` once, from the same event loop."""

    def __init__(self, app: ASGIApp, mode: str, *, log: logging.Logger | None = None) -> None:
        """``mode``: "auto", "on" or "off", see the table above."""
        self._app = app
        self._mode = mode
        self._log = log or logging.getLogger("shardserve.worker")
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._refused: MessageError | None = None
        self._app_text = ""
        self._left = False
        self.phase = Phase.NEW
        self.state: dict[str, Any] = {}

    # Up

    async def startup(self) -> dict[str, Any]:
        """The state for the requests, once the app is ready. Raises LifespanError if it is not."""
        assert self.phase is Phase.NEW, "startup() is called once"
        if self._mode == "off":
            return self.state
        self._log.info("Waiting for application startup.")
        self.phase = Phase.STARTING
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shardserve-lifespan")
        self._events.put_nowait({"type": "lifespan.startup"})
        try:
            await self._until_not(Phase.STARTING)
        except asyncio.CancelledError:
            await self._end_task(wait_s=0)
            raise
        self._judge_startup()
        return self.state

    def _judge_startup(self) -> None:
        if self.phase is Phase.RUNNING:
            self._log.info("Application startup complete.")
        elif self.phase is Phase.FAILED:
            text = self._app_text or "the app gave no reason"
            raise LifespanError(f"the app refused to start (lifespan.startup.failed): {text}")
        elif self._failure is None:
            self._log.info("Application startup complete (the app left its lifespan early).")
        elif self._failure is self._refused:
            raise LifespanError(str(self._failure))
        elif self._mode == "on":
            trace = tracebacks.trimmed(self._failure)
            raise LifespanError(f"the app's lifespan startup failed (--lifespan on):\n{trace}")
        else:
            self._log.info("ASGI 'lifespan' protocol appears unsupported.")
            self._log.debug("The app's answer to it was:\n%s", tracebacks.trimmed(self._failure))

    # Down

    async def shutdown(self, *, timeout_s: float | None = None) -> None:
        """Tell the app to shut down and wait for it. What fails here is logged, never raised."""
        if self._task is None:
            return
        if self.phase is Phase.RUNNING and not self._left:
            self._log.info("Waiting for application shutdown.")
            self.phase = Phase.STOPPING
            self._events.put_nowait({"type": "lifespan.shutdown"})
            try:
                await asyncio.wait_for(self._until_not(Phase.STOPPING), timeout_s)
            except TimeoutError:
                self._log.error("Application shutdown did not finish within %.1f seconds.", timeout_s)
            else:
                self._judge_shutdown()
        await self._end_task(wait_s=LAST_WORDS_S)

    async def abandon(self) -> None:
        """End the app's task without telling the app: the server was told to stop at once."""
        await self._end_task(wait_s=0)

    def _judge_shutdown(self) -> None:
        if self._app_text:
            self._log.error("Application shutdown failed: %s", self._app_text)
        elif self._failure is None:
            self._log.info("Application shutdown complete.")

    async def _end_task(self, *, wait_s: float) -> None:
        task = self._task
        if task is None or task.done():
            return
        if self.phase is Phase.STOPPED:
            await asyncio.wait({task}, timeout=wait_s)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=LAST_WORDS_S)

    # The task and the two callables the app holds

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:
            # BaseException, because a SystemExit that leaves a task ends the whole event loop.
            self._failure = error
            self._report_late_failure(error)
        finally:
            self._left = True
            self._moved.set()

    def _report_late_failure(self, error: BaseException) -> None:
        # STARTING: startup() judges it. FAILED: the app said so itself, then raised, as Starlette does.
        if self.phase in (Phase.STARTING, Phase.FAILED) or isinstance(error, asyncio.CancelledError):
            return
        if self.phase is Phase.STOPPED and self._app_text:
            return
        when = {Phase.RUNNING: "while serving", Phase.STOPPING: "at shutdown"}.get(
            self.phase, "after shutdown"
        )
        self._log.error("The app's lifespan failed %s:\n%s", when, tracebacks.trimmed(error))

    async def _receive(self) -> Message:
        return await self._events.get()

    async def _send(self, message: Message) -> None:
        kind = message.get("type")
        following = TRANSITIONS[self.phase].get(kind) if isinstance(kind, str) else None
        if following is None:
            raise self._out_of_order(kind)
        if kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._app_text = str(message.get("message", "")) or "the app gave no reason"
        self.phase = following
        self._moved.set()

    def _out_of_order(self, kind: object) -> MessageError:
        allowed = " or ".join(TRANSITIONS[self.phase]) or "nothing"
        error = MessageError(
            f"the app sent {kind!r} over lifespan while {self.phase.name}; it may send {allowed} now"
        )
        if kind in MESSAGE_TYPES:
            # An app that ignores the scope's type and answers "http.response.start" does not know
            # lifespan: unsupported. One that speaks it in the wrong order has a bug to be told of.
            self._refused = error
        return error

    async def _until_not(self, phase: Phase) -> None:
        """Until the app moved on from ``phase``, or left while in it."""
        while self.phase is phase and not self._left:
            self._moved.clear()
            await self._moved.wait()
