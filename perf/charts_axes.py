"""Axes: where a value lies, and which ticks it is read by.

Rules of this file: numbers only, nothing is drawn. What is compared as a ratio (costs, rates, latencies)
gets a logarithmic scale: equal distances are equal factors, and the spread of a cheap server is drawn as
wide as an equal one of a dear server. What is compared as an amount starts at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Format = Callable[[float], str]


@dataclass(frozen=True)
class Scale:
    """From a value to a place: ``low``..``high`` onto 0..1, linear or logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where ``value`` lies, 0 at the low end and 1 at the high one; values beyond an end lie on it."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale, at most ``most`` if it is linear."""
        if self.logarithmic:
            return _log_ticks(self.low, self.high, most)
        step = _step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def from_zero(highest: float) -> Scale:
    """Linear, from zero to a round value at or above ``highest``."""
    if highest <= 0:
        return Scale(0.0, 1.0)
    step = _step(highest / 6)
    return Scale(0.0, step * math.ceil(highest / step - 1e-9))


def factors(values: Iterable[float]) -> Scale:
    """Logarithmic, around all of ``values`` that are above zero; at least a factor of two wide."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = _mark_below(min(known)), _mark_above(max(known))
    return Scale(low, high if high > low else low * 2, logarithmic=True)


def _step(least: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, not less than ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((n * power for n in (1, 2, 2.5, 5) if n * power >= least * (1 - 1e-9)), 10 * power)


_MARKS = (1.0, 2.0, 5.0)


def _mark_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(n * power for n in _MARKS if n * power <= value * (1 + 1e-9))


def _mark_above(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return min(n * power for n in (*_MARKS, 10.0) if n * power >= value * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2, 5 of each decade; where those are too many the powers of ten alone."""
    powers = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    every = [n * 10.0**power for power in powers for n in _MARKS]
    inside = [tick for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    if len(inside) <= most:
        return inside
    tens = [tick for tick in inside if abs(math.log10(tick) - round(math.log10(tick))) < 1e-9]
    return tens if len(tens) > 1 else [inside[0], inside[-1]]


def plain(value: float) -> str:
    """Three figures at most, without needless zeros: ``0.5``, ``12.5``, ``120``."""
    if value >= 1000:
        return count(value)
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def micro(us: float) -> str:
    """Microseconds as tables have them: two decimals below 10, one below 100."""
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:.0f}"


def count(value: float) -> str:
    """``950``, ``12 k``, ``1.2 M``."""
    if value < 1000:
        return f"{value:.0f}"
    if value < 1_000_000:
        return f"{value / 1000:.3g} k" if value < 999_500 else "1 M"
    return f"{value / 1_000_000:.3g} M"


def time(us: float) -> str:
    """A latency in the unit that suits it: ``850 µs``, ``2.5 ms``, ``1.2 s``."""
    if us < 999.5:
        return f"{us:.3g} µs"
    if us < 999_500:
        return f"{us / 1000:.3g} ms"
    return f"{us / 1_000_000:.3g} s"


def mib(size_mib: float) -> str:
    """Memory: ``48 MiB``, ``1.4 MiB``."""
    return f"{size_mib:.0f} MiB" if size_mib >= 10 else f"{size_mib:.1f} MiB"


def times(ratio: float) -> str:
    """A ratio: ``0.87×``, ``3.8×``, ``14×``."""
    return f"{ratio:.2f}×" if ratio < 2 else f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"
