"""What a worker counts in its page besides its heartbeat: refusals, runs of the garbage collector, and where
the native side counts requests.

Rules of this file: facts only, written as they happen; what they add up to is the master's. In somebody
else's process there is no page, and nothing of this is installed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, TypedDict

from ..stats import DURATION_BOUNDS_US, GC_PAUSES, SIZE_BOUNDS_BYTES, Page, refusal_of

Client = tuple[str, int] | None
OnReject = Callable[[int, str, Client], None]


class NativeFigures(TypedDict):
    """The arguments as ``_native.pyi`` has them."""

    figures: memoryview | None
    duration_bounds_us: tuple[int, ...]
    size_bounds_bytes: tuple[int, ...]


def native_figures(page: Page | None) -> NativeFigures:
    """Where the native side counts, for ``ProtocolFactory(**native_figures(page))``."""
    return {
        "figures": page.native if page is not None else None,
        "duration_bounds_us": DURATION_BOUNDS_US,
        "size_bounds_bytes": SIZE_BOUNDS_BYTES,
    }


def counted(page: Page | None, on_reject: OnReject) -> OnReject:
    """``on_reject`` for the native side: counted by its reason, then reported. A report may be held back,
    a count never is.
    """
    if page is None:
        return on_reject

    def count(status: int, reason: str, client: Client) -> None:
        page.count(refusal_of(status))
        on_reject(status, reason, client)

    return count


class GarbagePauses:
    """Measures every run of the garbage collector, of all generations: the process stands still meanwhile.
    It does so between ``start`` and ``stop``.

    That costs 2 µs a run, half of it what any callback costs; the run itself looks at 700 objects and more.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._began_ns: int | None = None
        self._clock = time.perf_counter_ns  # at the interpreter's end, modules are empty before callbacks are

    def start(self) -> None:
        gc.callbacks.append(self._measure)

    def stop(self) -> None:
        if self._measure in gc.callbacks:
            gc.callbacks.remove(self._measure)

    def _measure(self, phase: str, info: dict[str, Any]) -> None:
        """Runs never overlap, whichever thread they are in (the collector refuses to)."""
        if phase == "start":
            self._began_ns = self._clock()
        elif self._began_ns is not None:
            took_us = (self._clock() - self._began_ns) // 1000
            self._began_ns = None
            self._page.observe(GC_PAUSES, took_us)
            if took_us > self._page["gc_pause_max_us"]:
                self._page["gc_pause_max_us"] = took_us
