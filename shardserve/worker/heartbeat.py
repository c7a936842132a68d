"""The signs of life that a worker gives: a tick of its event loop, and its Python stack when asked.

Rules of this file: the event loop itself ticks, so a loop that is blocked, busy or starved stops
ticking; a thread that answered for it could not know. The worker only reports: what a missing tick
means, and what to do about it, is the master's (``master/health.py``).

``watch_for_dumps`` is called before anything of the app is imported. From then on

    DUMP_SIGNAL   the thread that takes the signal writes its own Python stack to the page, at once: in
                  the signal handler, without the GIL, so even while C code holds that
    a crash       SIGSEGV, SIGFPE, SIGABRT, SIGBUS, SIGILL: the stacks of all threads, then the death

A stack that is asked for is that of one thread: reading the frames of threads that run while one reads
them is a crash before long (measured: after some hundred signals), and a warning must not kill.
An app that installs a handler of its own for DUMP_SIGNAL, or its own faulthandler, gets what it asked
for, and the master goes without stacks.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import time
from collections.abc import Callable

from ..stats import DUMP_SIGNAL, LOOP_LAG, Page, Stage

INTERVAL_S = 0.25

log = logging.getLogger("shardserve.worker")


def watch_for_dumps(page: Page | None) -> None:
    """From now on stacks go to the page, and the stage is IMPORTING, which says that one may ask.

    Again in a forked process, with its own page.
    """
    if page is None:
        return
    faulthandler.enable(file=page.fd, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, file=page.fd, all_threads=False, chain=False)
    page["stage"] = Stage.IMPORTING


class Heartbeat:
    """Ticks on an event loop and writes the page: when it turned, how late, and the server's figures."""

    def __init__(self, page: Page, *, interval_s: float = INTERVAL_S) -> None:
        self._page = page
        self._interval_s = interval_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._publish: Callable[[Page], None] | None = None
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._complained = False

    def arm(self, loop: asyncio.AbstractEventLoop, publish: Callable[[Page], None]) -> None:
        """Tick now and from now on. ``publish`` writes the figures that are not the heartbeat's."""
        self._loop, self._publish = loop, publish
        self._due_s = time.monotonic()
        self._tick()

    def stop(self) -> None:
        """No more ticks; the page says that no loop runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None
        self._page["heartbeat_ns"] = 0

    def _tick(self) -> None:
        if self._loop is None:
            return
        now_s = time.monotonic()
        # Not loop.time(), which stands still within a turn: it would hide what this turn did before us.
        lag_us = max(0, round((now_s - self._due_s) * 1e6))
        self._page["lag_us"] = lag_us
        self._page["lag_max_us"] = max(lag_us, self._page["lag_max_us"])
        self._page.observe(LOOP_LAG, lag_us)
        self._page["heartbeat_ns"] = time.monotonic_ns()
        self._write_figures()
        # From now, not from when this tick was due: after a stall one tick is enough.
        self._due_s = time.monotonic() + self._interval_s
        self._timer = self._loop.call_later(self._interval_s, self._tick)

    def _write_figures(self) -> None:
        assert self._publish is not None
        try:
            self._publish(self._page)
        except Exception:
            if not self._complained:
                log.exception("The figures of this worker are stale: they cannot be read.")
            self._complained = True
