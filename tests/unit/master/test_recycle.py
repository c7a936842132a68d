"""When a worker has served enough, and that the jitter spreads it."""

from __future__ import annotations

import pytest

from shardserve.config.model import Config
from shardserve.master.recycle import MIB, Allowance

FRESH = {"served": 0, "rss_bytes": 0, "now": 100.0}


def test_without_limits_nobody_is_recycled() -> None:
    allowance = Allowance.draw(Config(app="m:app"), 100.0)
    assert allowance.used_up(served=10**9, rss_bytes=10**12, now=10**9) is None


@pytest.mark.parametrize(
    ("settings", "figures", "cause"),
    [
        ({"limit_max_requests": 10}, {"served": 10}, "max-requests"),
        ({"worker_lifetime_s": 60.0}, {"now": 160.0}, "lifetime"),
        ({"worker_max_rss_mib": 50}, {"rss_bytes": 50 * MIB + 1}, "max-rss"),
    ],
)
def test_each_limit_by_its_cause(settings: dict[str, float], figures: dict[str, float], cause: str) -> None:
    allowance = Allowance.draw(Config(app="m:app", **settings), 100.0)
    assert allowance.used_up(**FRESH) is None
    just_below = {name: value - 1 for name, value in figures.items()}
    assert allowance.used_up(**{**FRESH, **just_below}) is None
    found = allowance.used_up(**{**FRESH, **figures})
    assert found is not None
    assert found[0] == cause


def test_the_jitter_is_drawn_for_each_worker_within_its_bounds() -> None:
    config = Config(
        app="m:app",
        limit_max_requests=1000,
        limit_max_requests_jitter=500,
        worker_lifetime_s=100.0,
        worker_lifetime_jitter_s=50.0,
    )
    drawn = [Allowance.draw(config, 10.0) for _ in range(200)]
    requests = [one.requests for one in drawn if one.requests is not None]
    ends = [one.until for one in drawn if one.until is not None]
    assert len(requests) == len(ends) == 200
    assert min(requests) >= 1000
    assert max(requests) <= 1500
    assert min(ends) >= 110.0
    assert max(ends) <= 160.0
    assert len(set(requests)) > 50
    assert len(set(ends)) > 50
