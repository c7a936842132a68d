"""Two result files against each other: did a change make a request dearer?

Rules of this file: CPU per request only, because requests per second measure the neighbours too; a
verdict needs both a ratio past the limit and an interval that excludes "no change", so that noise
alone does not fail a build. It reads files and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perf.results import Report, ScenarioResult
from perf.stats import bootstrap_ratio, median_ratio, pair_ratios
from perf.tables import table

REGRESSION_LIMIT = 1.10
_LEAST_SAMPLES = 3
"""Below this an interval says nothing; such a pair is shown and never fails."""


@dataclass(frozen=True)
class Change:
    """One server in one scenario, after ÷ before."""

    scenario: str
    server: str
    ratio: float
    low: float
    high: float
    samples: int

    @property
    def verdict(self) -> str:
        if self.samples < _LEAST_SAMPLES:
            return "too few rounds"
        if self.ratio > REGRESSION_LIMIT and self.low > 1:
            return "REGRESSION"
        if self.high < 1:
            return "cheaper"
        return "dearer" if self.low > 1 else "same"


def changes(before: Report, after: Report, relative_to: str | None = None) -> Iterator[Change]:
    """Every server and scenario that both have samples of.

    With ``relative_to``, what is compared is the cost relative to that server's in the same round:
    the way to compare runs made on different machines or days.
    """
    for new in after.scenarios:
        old = before.scenario(new.name)
        if old is None:
            continue
        for server in new.samples:
            old_values = _values(old, server, relative_to)
            new_values = _values(new, server, relative_to)
            if server != relative_to and old_values and new_values:
                low, high = bootstrap_ratio(new_values, old_values)
                least = min(len(old_values), len(new_values))
                yield Change(new.name, server, median_ratio(new_values, old_values), low, high, least)


def differences(before: Report, after: Report) -> list[str]:
    """What makes the two runs hard to compare, one line each."""
    pairs = [
        (f"host {key}", before.host.get(key), after.host.get(key)) for key in ("cpu", "kernel", "python")
    ]
    pairs += [
        (f"setting {key}", before.settings.get(key), after.settings.get(key))
        for key in ("seconds", "connections")
    ]
    return [f"{what} differs: {old} → {new}" for what, old, new in pairs if old != new]


def render(found: list[Change]) -> str:
    rows = [
        (c.scenario, c.server, f"{c.ratio:.3f}", f"{c.low:.3f}–{c.high:.3f}", str(c.samples), c.verdict)
        for c in found
    ]
    return table(
        ("scenario", "server", "after ÷ before", "95 % interval", "rounds", "verdict"), rows, words=2
    )


def _values(result: ScenarioResult, server: str, relative_to: str | None) -> list[float]:
    own = result.cpu_by_round(server)
    if relative_to is None:
        return list(own.values())
    return pair_ratios(own, result.cpu_by_round(relative_to))
