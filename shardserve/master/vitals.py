"""What the master measures of a worker by itself: its memory, and its rate of requests.

Rules of this file: sampled once a second from /proc and from the worker's page; ``now`` is an
argument. Nothing is judged here (``health.py``, ``recycle.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..stats import Page
from . import procfs

EVERY_S = 1.0


@dataclass(slots=True)
class Vitals:
    """The last sample. ``rss_bytes`` is 0 before the first one."""

    rss_bytes: int = 0
    rps: float = 0.0
    _served: int = 0
    _at: float | None = None

    def sample(self, pid: int, page: Page, now: float) -> None:
        """Look, if the last look is a second old. The memory of a process that is gone stays known."""
        if self._at is not None and now - self._at < EVERY_S:
            return
        self.rss_bytes = procfs.rss_bytes(pid) or self.rss_bytes
        served = page["served"]
        if self._at is not None:
            self.rps = (served - self._served) / (now - self._at)
        self._served, self._at = served, now
