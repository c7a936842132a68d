"""A worker's memory and its rate, once a second."""

from __future__ import annotations

import os

import pytest

from shardserve.master import procfs
from shardserve.master.vitals import Vitals
from shardserve.stats import Page


def test_memory_and_rate_are_sampled_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page.create("test")
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
    page.close()


def test_the_memory_of_one_that_is_gone_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page.create("test")
    vitals = Vitals()
    vitals.sample(os.getpid(), page, 1.0)
    seen = vitals.rss_bytes
    assert seen > 1_000_000
    monkeypatch.setattr(procfs, "rss_bytes", lambda pid: None)
    vitals.sample(os.getpid(), page, 3.0)
    assert vitals.rss_bytes == seen
    page.close()
