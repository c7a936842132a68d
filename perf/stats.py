"""The arithmetic: spreads, ratios pair by pair, bootstrap intervals.

Rules of this file: pure functions of numbers. Two servers are compared within a round, because the
machine's mood changes between rounds and is shared within one; medians are used wherever a middle is
meant, because noise on a shared machine is one-sided: it only ever makes a round slower.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    ratios = sorted(
        median_ratio(draw.choices(after, k=len(after)), draw.choices(before, k=len(before)))
        for _ in range(BOOTSTRAP_DRAWS)
    )
    tail = round(BOOTSTRAP_DRAWS * (1 - CONFIDENCE) / 2)
    return ratios[tail], ratios[-1 - tail]
