"""The arithmetic: spreads, ratios pair by pair, bootstrap intervals.

Rules of this file: pure functions of numbers. Two servers are compared within a round, because the
machine's mood changes between rounds and is shared within one; medians are used wherever a middle is
meant, because noise on a shared machine is one-sided: it only ever makes a round slower.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

BOOTSTRAP_DRAWS = 2000
CONFIDENCE = 0.95
_SEED = 20_251_123
"""Fixed, so that comparing the same two files twice says the same."""


@dataclass(frozen=True)
class Spread:
    """Least, middle and most of some values."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """``values`` must not be empty."""
    return Spread(min(values), statistics.median(values), max(values))


def pair_ratios(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> list[float]:
    """numerator ÷ denominator for every round both took part in, in order of the rounds."""
    return [numerator[n] / denominator[n] for n in sorted(numerator.keys() & denominator.keys())]


def median_ratio(after: Sequence[float], before: Sequence[float]) -> float:
    """How many times ``before``'s median ``after``'s is."""
    return statistics.median(after) / statistics.median(before)


def bootstrap_ratio(after: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """The interval that holds median_ratio in 95 of 100 redrawings of both sets of samples."""
    draw = random.Random(_SEED)
    return _middle(
        median_ratio(draw.choices(after, k=len(after)), draw.choices(before, k=len(before)))
        for _ in range(BOOTSTRAP_DRAWS)
    )


def bootstrap_pairs(ratios: Sequence[float]) -> tuple[float, float]:
    """The interval that holds the median of ``ratios`` in 95 of 100 redrawings of the pairs.

    For two servers that took turns in the same rounds (pair_ratios): what the machine did to both in a
    round is gone from its ratio, so the interval is narrower than bootstrap_ratio's of the same samples.
    """
    return _of_pairs(tuple(ratios))


@cache
def _of_pairs(ratios: tuple[float, ...]) -> tuple[float, float]:
    draw = random.Random(_SEED)
    return _middle(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(BOOTSTRAP_DRAWS))


def _middle(drawn: Iterable[float]) -> tuple[float, float]:
    """What is left of sorted draws when both tails are cut off."""
    ratios = sorted(drawn)
    tail = round(len(ratios) * (1 - CONFIDENCE) / 2)
    return ratios[tail], ratios[-1 - tail]
