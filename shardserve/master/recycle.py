"""When a worker has served enough: requests, age, memory.

Rules of this file: no clock, no processes. The jitter is drawn once, when a worker becomes ready, so
that workers which started together do not end together. Replacing one is a reload of its slot, one
slot at a time (``supervisor.py``).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..config.model import Config

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one worker may use up. None: without end."""

    requests: int | None
    until: float | None  # monotonic seconds
    rss_bytes: int | None

    @classmethod
    def draw(cls, config: Config, now: float) -> Allowance:
        """For a worker that is ready now."""
        requests, lifetime_s = config.limit_max_requests, config.worker_lifetime_s
        if requests is not None:
            requests += random.randint(0, config.limit_max_requests_jitter)
        if lifetime_s is not None:
            lifetime_s += random.uniform(0.0, config.worker_lifetime_jitter_s)
        rss_mib = config.worker_max_rss_mib
        return cls(
            requests,
            None if lifetime_s is None else now + lifetime_s,
            None if rss_mib is None else rss_mib * MIB,
        )

    def used_up(self, *, served: int, rss_bytes: int, now: float) -> tuple[str, str] | None:
        """The cause, to count by, and the words for it; None while there is something left."""
        if self.requests is not None and served >= self.requests:
            return "max-requests", f"it has served {served} requests, of at most {self.requests}"
        if self.rss_bytes is not None and rss_bytes > self.rss_bytes:
            return "max-rss", f"it has {rss_bytes // MIB} MiB resident, more than {self.rss_bytes // MIB}"
        if self.until is not None and now >= self.until:
            return "lifetime", "it is as old as it may become"
        return None
