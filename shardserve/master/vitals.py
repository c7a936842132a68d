"""What the master measures of a worker by itself: memory, CPU, rate of requests, how long they took.

Rules of this file: sampled once a second from /proc and from the worker's page; ``now`` is an
argument. Nothing is judged here (``health.py``, ``recycle.py``). Sampling is done for every worker,
in the master's one loop: it costs some 60 µs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .. import stats
from ..stats import Page
from . import procfs

EVERY_S = 1.0
# Quantiles are of the requests between the last sample and the one so many samples before.
WINDOW = 5


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    beat_ns: int
    served: int
    cpu_s: float | None
    durations: list[int]  # page.buckets(DURATION)


@dataclass(slots=True)
class Vitals:
    """What came of the last samples. ``rss_bytes`` is 0 before the first one."""

    rss_bytes: int = 0
    rps: float = 0.0
    cpu_percent: float | None = None  # of one core; several threads can use more than 100
    _samples: deque[_Sample] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))

    def sample(self, pid: int, page: Page, now: float) -> None:
        """Look, if the last look is a second old. The memory of a process that is gone stays known."""
        if self._samples and now - self._samples[-1].at < EVERY_S:
            return
        self.rss_bytes = procfs.rss_bytes(pid) or self.rss_bytes
        new = _Sample(
            now, page["heartbeat_ns"], page["served"], procfs.cpu_s(pid), page.buckets(stats.DURATION)
        )
        if self._samples:
            last = self._samples[-1]
            self.rps = _rate(last, new)
            if last.cpu_s is None or new.cpu_s is None:
                self.cpu_percent = None
            else:
                self.cpu_percent = max(0.0, 100 * (new.cpu_s - last.cpu_s) / (now - last.at))
        self._samples.append(new)

    def durations(self) -> list[int]:
        """The requests of the last seconds by how long they took: ``stats.DURATION``'s buckets."""
        if not self._samples:
            return [0] * stats.DURATION.buckets
        first, last = self._samples[0].durations, self._samples[-1].durations
        return [new - old for old, new in zip(first, last, strict=True)]


def _rate(last: _Sample, new: _Sample) -> float:
    """Requests a second. The worker writes ``served`` with its heartbeat, four times a second: what is
    between two samples began and ended with a beat, and a second that we cut elsewhere would be of three
    beats or of five.
    """
    beats_s = (new.beat_ns - last.beat_ns) / 1e9 if last.beat_ns and new.beat_ns else 0.0
    return max(0, new.served - last.served) / (beats_s if beats_s > 0 else new.at - last.at)


def together(durations: Iterable[Sequence[int]]) -> list[int]:
    """The buckets of several workers as those of one."""
    return [sum(column) for column in zip(*durations, strict=True)] or [0] * stats.DURATION.buckets


def quantile_ms(durations: Sequence[int], share: float) -> float | None:
    """How long ``share`` (0 to 1) of these requests took at most. None if there were none."""
    found_us = stats.quantile(durations, stats.DURATION_BOUNDS_US, share)
    return None if found_us is None else found_us / 1000
