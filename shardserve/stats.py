"""One worker process's page of figures, shared with the master: its layout, its writer, its reader.

Rules of this file: a page is a memfd that the master makes for one process and that process
inherits. The worker alone writes the figures, the master alone reads them; each is one aligned
8-byte store, so a reader sees an old value or a new one and never half of one, and there are no
locks: a worker that dies or hangs holds nothing up. Figures are facts; what to think of them
(stalls, recycling, rates) is the master's.

Behind the page the same file takes *dumps*: the Python stacks that faulthandler writes, in a signal
handler and without the GIL, when the master asks a stalled worker where it is, or when it crashes.
They go to the file's offset, which both processes share: ``DUMPS_AT`` when nothing is there.
"""

from __future__ import annotations

import mmap
import os
import signal
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PAGE_BYTES: Final = 8192
DUMPS_AT: Final = PAGE_BYTES
# More than 100 threads × 100 frames, faulthandler's own limits, are not asked for.
DUMP_MAX_BYTES: Final = 256 * 1024


class Stage(IntEnum):
    """How far a worker is. Written before the stage begins."""

    BORN = 0
    IMPORTING = 1
    LIFESPAN = 2
    SERVING = 3
    DRAINING = 4
    ENDED = 5  # the event loop is over; threads and exit handlers may still be


# The order is the layout: every figure is one unsigned 64-bit number. A new one goes to the end of its part.

# Written by the worker in Python, with every heartbeat, or once a second.
FIGURES: Final = (
    "stage",  # Stage
    "heartbeat_ns",  # CLOCK_MONOTONIC when the event loop last turned; 0: it does not run yet
    "lag_us",  # how late that turn was
    "lag_max_us",  # the worst so far
    "connections",  # open
    "in_flight",  # requests given to the app and not finished
    "served",  # requests finished
    "refused",  # requests answered 503 by --limit-concurrency
    "accept_pauses",  # times that accepting paused for want of descriptors
    "gc_pause_max_us",  # the longest run of the garbage collector
    "access_lines_lost",  # lines of the access log that could not be written
)

# Why a request, a connection or a WebSocket was refused or cut by us; the worker counts what the native side
# reports (``refusal_of``). By status (RFC 9110 §15), then by close code (RFC 6455 §7.4.1).
REFUSALS: Final = {
    -1: "stream_reset",
    0: "closed_without_answer",
    400: "bad_request",
    408: "timeout",
    413: "content_too_large",
    414: "uri_too_long",
    417: "expectation_failed",
    426: "upgrade_required",
    431: "fields_too_large",
    500: "server_error",
    501: "not_implemented",
    503: "overloaded",
    505: "version_not_supported",
    1002: "websocket_protocol_error",
    1007: "websocket_bad_text",
    1009: "websocket_message_too_big",
    1011: "websocket_ping_timeout",
}
_REFUSED: Final = tuple(f"refused_{name}" for name in (*REFUSALS.values(), "other"))

# Written by the native side as things happen. ``_native.figure_names`` is this tuple (a test compares them).
NATIVE: Final = (
    "accepted",  # connections
    "reused",  # requests that were not the first on their connection
    "abandoned",  # requests whose client went before the response was complete
    "app_errors",  # requests that the app failed
    "websockets_accepted",
    "ws_messages_received",
    "ws_messages_sent",
    # Connections by what they do. Counted anew once a second.
    "connections_idle",  # between two requests, or new
    "connections_reading",  # in the head or the body of a request
    "connections_active",  # with a response that is due
    "connections_websocket",
    "connections_closing",
)
METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "other")
CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
_RESPONSES: Final = tuple(f"responses_{method}_{kind}" for method in METHODS for kind in CLASSES)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a quantity was at most each of ``bounds``, or more than the last of them: one figure each,
    behind one with the sum of all values.
    """

    name: str
    bounds: tuple[int, ...]

    @property
    def buckets(self) -> int:
        return len(self.bounds) + 1

    @property
    def figures(self) -> tuple[str, ...]:
        return (f"{self.name}_sum", *(f"{self.name}_le_{bound}" for bound in self.bounds), f"{self.name}_inf")

    def bucket_of(self, value: int) -> int:
        return bisect_left(self.bounds, value)


def _decades(first: int, last: int, steps: Sequence[int]) -> tuple[int, ...]:
    """``steps`` × each power of ten from 10**first to below 10**last, in tenths, and 10**last."""
    return (*(step * 10**power // 10 for power in range(first, last) for step in steps), 10**last)


# 10 µs to 100 s, seven steps a decade: the ends of a bucket are at most a half apart.
DURATION_BOUNDS_US: Final = _decades(1, 8, (10, 15, 20, 25, 35, 50, 70))
SIZE_BOUNDS_BYTES: Final = _decades(2, 9, (10,))
PAUSE_BOUNDS_US: Final = _decades(2, 7, (10, 25, 50))

# Filled by the worker in Python:
LOOP_LAG: Final = Histogram("loop_lag_us", PAUSE_BOUNDS_US)
GC_PAUSES: Final = Histogram("gc_pause_us", PAUSE_BOUNDS_US)
# Filled by the native side, in this order behind its other figures:
DURATION: Final = Histogram(
    "duration_us", DURATION_BOUNDS_US
)  # first byte of the head to the last of the answer
FIRST_BYTE: Final = Histogram("first_byte_us", DURATION_BOUNDS_US)  # → head handed over
REQUEST_SIZE: Final = Histogram("request_body_bytes", SIZE_BOUNDS_BYTES)
RESPONSE_SIZE: Final = Histogram("response_body_bytes", SIZE_BOUNDS_BYTES)
NATIVE_HISTOGRAMS: Final = (DURATION, FIRST_BYTE, REQUEST_SIZE, RESPONSE_SIZE)
HISTOGRAMS: Final = (LOOP_LAG, GC_PAUSES, *NATIVE_HISTOGRAMS)

_OURS: Final = (*FIGURES, *_REFUSED, *LOOP_LAG.figures, *GC_PAUSES.figures)
_THEIRS: Final = (*NATIVE, *_RESPONSES, *(name for one in NATIVE_HISTOGRAMS for name in one.figures))
ALL: Final = (*_OURS, *_THEIRS)
# Of these, what is true now and not since the start: it ends with its worker, and is not added up.
GAUGES: Final = frozenset(
    (
        *("stage", "heartbeat_ns", "lag_us", "lag_max_us", "connections", "in_flight", "gc_pause_max_us"),
        *(name for name in NATIVE if name.startswith("connections_")),
    )
)
COUNTERS: Final = tuple(name for name in ALL if name not in GAUGES)
_INDEX: Final = {name: index for index, name in enumerate(ALL)}


def refusal_of(status: int) -> str:
    """The figure that counts what was refused with this status or close code; 0 is no answer at all,
    -1 a stream that was reset (HTTP/2)."""
    return f"refused_{REFUSALS.get(status, 'other')}"


def quantile(counts: Sequence[int], bounds: Sequence[int], share: float) -> float | None:
    """The value that ``share`` (0 to 1) of what was counted is at most, as if spread evenly inside a bucket.

    ``counts`` has one more than ``bounds``: of what is over the last bound only that is known, and returned.
    None if nothing was counted.
    """
    total = sum(counts)
    if total == 0:
        return None
    rank, seen = share * total, 0
    for index, (count, bound) in enumerate(zip(counts, bounds, strict=False)):
        if count and seen + count >= rank:
            low = bounds[index - 1] if index else 0
            return low + (bound - low) * max(0.0, rank - seen) / count
        seen += count
    return float(bounds[-1])


class Page:
    """The figures of one process, by name: ``page["served"] = 7``. ``fd`` is the memfd's."""

    def __init__(self, fd: int) -> None:
        """Takes ``fd`` over. Raises OSError or ValueError if it is not a page."""
        self.fd = fd
        self._map = mmap.mmap(fd, PAGE_BYTES)
        self._figures = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, name: str) -> Page:
        """A page with every figure 0, not inherited unless passed on. Raises OSError."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, PAGE_BYTES)
            os.lseek(fd, DUMPS_AT, os.SEEK_SET)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def fileno(self) -> int:
        return self.fd

    def __getitem__(self, figure: str) -> int:
        return self._figures[_INDEX[figure]]

    def __setitem__(self, figure: str, value: int) -> None:
        self._figures[_INDEX[figure]] = value

    @property
    def native(self) -> memoryview:
        """The part that the native side writes: ``figures`` of its factory, which keeps the page mapped."""
        return self._figures[len(_OURS) : len(ALL)]

    def count(self, figure: str) -> None:
        """One more."""
        self._figures[_INDEX[figure]] += 1

    def observe(self, histogram: Histogram, value: int) -> None:
        """One value into its bucket, and onto the sum."""
        at = _INDEX[f"{histogram.name}_sum"]
        self._figures[at] += value
        self._figures[at + 1 + histogram.bucket_of(value)] += 1

    def buckets(self, histogram: Histogram) -> list[int]:
        """How many values each bucket has, not added up."""
        at = _INDEX[f"{histogram.name}_sum"] + 1
        return list(self._figures[at : at + histogram.buckets])

    def counters(self) -> dict[str, int]:
        """Every figure that only grows, by name."""
        return {name: self._figures[_INDEX[name]] for name in COUNTERS}

    def dump_bytes(self) -> int:
        """How much has been dumped and not taken."""
        return max(0, os.fstat(self.fd).st_size - DUMPS_AT)

    def take_dump(self) -> str:
        """What was dumped since the last time, and room for the next one."""
        data = os.pread(self.fd, DUMP_MAX_BYTES, DUMPS_AT)
        os.ftruncate(self.fd, PAGE_BYTES)
        os.lseek(self.fd, DUMPS_AT, os.SEEK_SET)
        return data.decode(errors="replace")

    def close(self) -> None:
        if self.fd != -1:
            self._figures.release()
            with suppress(BufferError):  # the native side still has its part
                self._map.close()
            os.close(self.fd)
            self.fd = -1


# Asks a worker for the Python stack of the thread that takes it; sent once its stage is IMPORTING, since
# before that it ends the process. A real-time signal: apps use USR1, USR2, PROF and ALRM; containers and
# init systems count up from SIGRTMIN, so this one is counted down from SIGRTMAX.
DUMP_SIGNAL: Final = int(signal.SIGRTMAX) - 5
