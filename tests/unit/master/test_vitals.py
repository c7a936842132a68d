"""What is measured of a worker once a second: memory, CPU, rate, and how long its requests took."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shardserve import stats
from shardserve.master import procfs
from shardserve.master.vitals import WINDOW, Vitals, quantile_ms, together
from shardserve.stats import Page


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page.create("test")
    yield page
    page.close()


def took(page: Page, ms: float, times: int = 1) -> None:
    """So many requests, as the native side counts them."""
    for _ in range(times):
        page.observe(stats.DURATION, round(ms * 1000))


def test_memory_and_rate_are_sampled_once_a_second(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(procfs, "rss_bytes", lambda pid: looks.append(pid) or 7000)
    vitals = Vitals()
    vitals.sample(42, page, 10.0)
    assert (vitals.rss_bytes, vitals.rps, looks) == (7000, 0.0, [42])
    page["served"] = 300
    vitals.sample(42, page, 10.9)
    assert (vitals.rps, looks) == (0.0, [42])
    vitals.sample(42, page, 12.0)
    assert (vitals.rps, looks) == (150.0, [42, 42])


def test_the_memory_of_one_that_is_gone_stays_known(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    vitals = Vitals()
    vitals.sample(os.getpid(), page, 1.0)
    seen = vitals.rss_bytes
    assert seen > 1_000_000
    monkeypatch.setattr(procfs, "rss_bytes", lambda pid: None)
    vitals.sample(os.getpid(), page, 3.0)
    assert vitals.rss_bytes == seen


def test_a_steady_rate_is_steady_wherever_a_second_is_cut(page: Page) -> None:
    """1,000 a second, counted with a heartbeat each quarter of a second that is later each time."""
    vitals = Vitals()
    rates = []
    beat_s = 0.0
    for second in range(1, 20):
        while beat_s + 0.254 <= second:
            beat_s += 0.254
            page["heartbeat_ns"], page["served"] = round(beat_s * 1e9), round(beat_s * 1000)
        vitals.sample(os.getpid(), page, float(second))
        rates.append(vitals.rps)
    assert rates[1:] == [pytest.approx(1000, rel=0.01)] * 18


def test_a_worker_that_is_blocked_has_no_rate(page: Page) -> None:
    vitals = Vitals()
    page["heartbeat_ns"], page["served"] = 10**9, 500
    vitals.sample(os.getpid(), page, 1.0)
    vitals.sample(os.getpid(), page, 2.0)
    assert vitals.rps == 0.0


def test_cpu_is_of_one_core(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float | None] = [3.0, 3.5, 6.5, None, 7.0, 7.25]
    monkeypatch.setattr(procfs, "cpu_s", lambda pid: used.pop(0))
    vitals = Vitals()
    found = []
    for at in (10.0, 11.0, 13.0, 14.0, 15.0, 16.0):
        vitals.sample(42, page, at)
        found.append(vitals.cpu_percent)
    assert found == [None, 50.0, 150.0, None, None, 25.0]


def test_durations_are_of_the_last_seconds(page: Page) -> None:
    vitals = Vitals()
    assert sum(vitals.durations()) == 0
    took(page, 90.0, 1000)  # long ago
    vitals.sample(1, page, 0.0)
    assert sum(vitals.durations()) == 0
    took(page, 1.0, 98)
    took(page, 40.0, 2)
    vitals.sample(1, page, 1.0)
    for at in range(2, WINDOW + 1):
        vitals.sample(1, page, float(at))
    assert sum(vitals.durations()) == 100
    assert quantile_ms(vitals.durations(), 0.5) == pytest.approx(1.0, rel=0.2)
    assert quantile_ms(vitals.durations(), 0.99) == pytest.approx(40.0, rel=0.3)
    vitals.sample(1, page, WINDOW + 1.0)
    assert sum(vitals.durations()) == 0
    assert quantile_ms(vitals.durations(), 0.99) is None


def test_the_quantiles_of_several_are_of_all_their_requests() -> None:
    fast, slow = [0] * stats.DURATION.buckets, [0] * stats.DURATION.buckets
    fast[stats.DURATION.bucket_of(100)] = 97
    slow[stats.DURATION.bucket_of(500_000)] = 3
    both = together([fast, slow])
    assert sum(both) == 100
    assert quantile_ms(both, 0.5) == pytest.approx(0.1, rel=0.2)
    assert quantile_ms(both, 0.99) == pytest.approx(500, rel=0.3)
    assert quantile_ms(together([]), 0.5) is None
