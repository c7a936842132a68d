"""The arithmetic, on numbers small enough to do by hand."""

from __future__ import annotations

from perf.stats import Spread, bootstrap_ratio, median_ratio, pair_ratios, spread


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(1.0, 2.5, 10.0)
    assert spread([4.0]) == Spread(4.0, 4.0, 4.0)


def test_ratios_are_taken_within_a_round() -> None:
    # Round 1 was slow for both: pairs see 2, 2; a ratio across rounds would see anything from 1 to 4.
    assert pair_ratios({0: 20.0, 1: 40.0}, {0: 10.0, 1: 20.0}) == [2.0, 2.0]


def test_a_round_only_one_took_part_in_is_left_out() -> None:
    assert pair_ratios({0: 20.0, 2: 30.0}, {0: 10.0, 1: 5.0}) == [2.0]
    assert pair_ratios({}, {0: 1.0}) == []


def test_median_ratio_ignores_one_bad_round() -> None:
    assert median_ratio([10.0, 10.0, 90.0], [5.0, 5.0, 5.0]) == 2.0


def test_bootstrap_interval_holds_the_ratio_and_is_repeatable() -> None:
    before, after = [10.0, 10.5, 11.0, 10.2, 10.1], [12.0, 12.5, 12.2, 13.0, 12.1]
    low, high = bootstrap_ratio(after, before)
    assert 1 < low <= median_ratio(after, before) <= high < 1.4
    assert bootstrap_ratio(after, before) == (low, high)


def test_bootstrap_interval_of_equal_samples_is_a_point() -> None:
    assert bootstrap_ratio([2.0, 2.0, 2.0], [2.0, 2.0, 2.0]) == (1.0, 1.0)
