"""What a worker counts in Python: refusals by reason, runs of the garbage collector; and what it hands on."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from shardserve import _native, stats
from shardserve.stats import GC_PAUSES, Page
from shardserve.worker.figures import GarbagePauses, counted, native_figures


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page.create("test")
    yield page
    page.close()


# Refusals


@pytest.mark.parametrize(
    ("status", "figure"),
    [
        (400, "refused_bad_request"), (503, "refused_overloaded"), (0, "refused_closed_without_answer"),
        (-1, "refused_stream_reset"),
        (1009, "refused_websocket_message_too_big"), (418, "refused_other"), (4999, "refused_other"),
    ],
)  # fmt: skip
def test_a_refusal_is_counted_and_reported(page: Page, status: int, figure: str) -> None:
    reported = []
    on_reject = counted(page, lambda *what: reported.append(what))
    on_reject(status, "why", ("10.0.0.1", 7))
    on_reject(status, "why", None)
    assert page[figure] == 2
    assert reported == [(status, "why", ("10.0.0.1", 7)), (status, "why", None)]
    assert sum(value for name, value in page.counters().items() if name.startswith("refused_")) == 2


def test_a_report_that_fails_is_counted_all_the_same(page: Page) -> None:
    def broken(status: int, reason: str, client: object) -> None:
        raise OSError("the log is full")

    with pytest.raises(OSError):
        counted(page, broken)(400, "why", None)
    assert page["refused_bad_request"] == 1


def test_without_a_page_there_is_nothing_in_between() -> None:
    def on_reject(status: int, reason: str, client: object) -> None: ...

    assert counted(None, on_reject) is on_reject


# Garbage


@pytest.fixture
def pauses(page: Page) -> Iterator[GarbagePauses]:
    """Measuring, while nothing but the test collects."""
    gc.disable()
    pauses = GarbagePauses(page)
    pauses.start()
    yield pauses
    pauses.stop()
    gc.enable()


def test_every_run_is_counted_whatever_its_generation(page: Page, pauses: GarbagePauses) -> None:
    for generation in (0, 1, 2, 0):
        gc.collect(generation)
    assert sum(page.buckets(GC_PAUSES)) == 4
    assert page["gc_pause_us_sum"] >= page["gc_pause_max_us"] > 0


def test_a_run_takes_as_long_as_the_clock_says(page: Page, pauses: GarbagePauses) -> None:
    times_ns = iter([1_000_000, 1_250_000, 5_000_000, 45_000_000, 90_000_000, 90_000_999])
    pauses._clock = lambda: next(times_ns)
    for _ in range(3):
        pauses._measure("start", {})
        pauses._measure("stop", {})
    assert page["gc_pause_us_sum"] == 250 + 40_000 + 0
    assert page["gc_pause_max_us"] == 40_000
    found = dict(zip([*GC_PAUSES.bounds, None], page.buckets(GC_PAUSES), strict=True))
    assert [bound for bound, count in found.items() if count] == [100, 250, 50_000]


def test_an_end_without_a_beginning_is_nothing(page: Page, pauses: GarbagePauses) -> None:
    """``start`` was called while the collector ran."""
    pauses._measure("stop", {})
    assert sum(page.buckets(GC_PAUSES)) == 0


def test_after_its_end_nothing_is_counted(page: Page, pauses: GarbagePauses) -> None:
    pauses.stop()
    pauses.stop()
    gc.collect()
    assert sum(page.buckets(GC_PAUSES)) == 0
    assert pauses._measure not in gc.callbacks


def test_objects_that_collect_in_their_finalizer_do_not_confuse_it(page: Page, pauses: GarbagePauses) -> None:
    class Collects:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            gc.collect()

    Collects()
    gc.collect()
    assert sum(page.buckets(GC_PAUSES)) >= 1
    assert page["gc_pause_max_us"] <= page["gc_pause_us_sum"] < 60_000_000


# What the native side is handed


def test_the_native_side_counts_in_the_page(page: Page) -> None:
    given = native_figures(page)
    assert given["figures"] is not None
    assert len(given["figures"]) == len(_native.figure_names) + len(stats.METHODS) * len(stats.CLASSES) + sum(
        len(one.figures) for one in stats.NATIVE_HISTOGRAMS
    )
    given["figures"][0] = 7
    assert page[stats.NATIVE[0]] == 7


def test_without_a_page_it_counts_for_itself() -> None:
    assert native_figures(None)["figures"] is None


def test_measuring_is_cheap_enough_to_be_always_on(page: Page, pauses: GarbagePauses) -> None:
    """A run makes few Python calls, and no objects that the collector would have to look at next time."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        gc.collect(0)
    finally:
        sys.setprofile(None)
    assert 2 <= calls <= 8
    before = gc.get_count()[0]
    for _ in range(50):
        pauses._measure("start", {})
        pauses._measure("stop", {})
    assert gc.get_count()[0] - before < 50
