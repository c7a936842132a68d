"""Two runs, or two servers of one run, against each other: did a change make a request dearer?

Rules of this file: the verdict is CPU per request alone, because requests per second and latencies measure
the neighbours too; those and memory are shown where they changed, and judge nothing. A verdict needs both
a ratio past the limit and an interval that excludes "no change", so that noise alone does not fail a
build. It reads files and measures nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from perf import report_data as data
from perf.report_data import CPU, Metric
from perf.results import Report, ScenarioResult
from perf.stats import bootstrap_pairs, bootstrap_ratio, median_ratio, pair_ratios
from perf.tables import table

REGRESSION_LIMIT = 1.10
SHOWN = (*data.LATENCIES, data.RSS)
"""What is compared beside CPU time, and judges nothing."""
_LEAST_SAMPLES = 3
"""Below this an interval says nothing; such a pair is shown and never fails."""


@dataclass(frozen=True)
class Change:
    """One figure of one server in one scenario, after ÷ before."""

    scenario: str
    server: str
    ratio: float
    low: float
    high: float
    samples: int
    """Rounds on the side that has fewer."""
    before: float
    """Medians, in the metric's own unit, or relative to a server's in the same rounds."""
    after: float
    metric: Metric = CPU
    limit: float = REGRESSION_LIMIT

    @property
    def verdict(self) -> str:
        if self.samples < _LEAST_SAMPLES:
            return "too few rounds"
        if self.metric is not CPU:
            return "higher" if self.low > 1 else "lower" if self.high < 1 else "same"
        if self.ratio > self.limit and self.low > 1:
            return "REGRESSION"
        if self.high < 1:
            return "cheaper"
        return "dearer" if self.low > 1 else "same"

    @property
    def large(self) -> bool:
        """Whether it changed surely and past the limit, up or down."""
        sure = self.samples >= _LEAST_SAMPLES and not self.low <= 1 <= self.high
        return sure and not 1 / self.limit <= self.ratio <= self.limit

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "server": self.server,
            "metric": self.metric.key,
            "before": self.before,
            "after": self.after,
            "ratio": self.ratio,
            "low": self.low,
            "high": self.high,
            "rounds": self.samples,
            "verdict": self.verdict,
        }


def changes(
    before: Report,
    after: Report,
    relative_to: str | None = None,
    *,
    metric: Metric = CPU,
    limit: float = REGRESSION_LIMIT,
) -> Iterator[Change]:
    """Every server and scenario that both have samples of.

    With ``relative_to``, what is compared is the figure relative to that server's in the same round:
    the way to compare runs made on different machines or days.
    """
    for new in after.scenarios:
        old = before.scenario(new.name)
        if old is None:
            continue
        for server in new.samples:
            old_values = _values(old, server, relative_to, metric)
            new_values = _values(new, server, relative_to, metric)
            if server == relative_to or not old_values or not new_values:
                continue
            ratio = median_ratio(new_values, old_values)
            low, high = ratio, ratio
            if metric is CPU or not 1 / limit <= ratio <= limit:  # else nothing is said of it
                low, high = bootstrap_ratio(new_values, old_values)
            yield Change(
                scenario=new.name,
                server=server,
                ratio=ratio,
                low=low,
                high=high,
                samples=min(len(old_values), len(new_values)),
                before=statistics.median(old_values),
                after=statistics.median(new_values),
                metric=metric,
                limit=limit,
            )


def pair_changes(
    report: Report,
    before: str,
    after: str,
    *,
    metric: Metric = CPU,
    limit: float = REGRESSION_LIMIT,
) -> Iterator[Change]:
    """Server ``after`` against server ``before`` in every scenario that both ran, in the same rounds.

    The ratio is the median of the rounds' ratios and the interval is a paired one, so what the machine
    did to both within a round does not widen it.
    """
    for result in report.scenarios:
        old, new = data.values(result, before, metric), data.values(result, after, metric)
        ratios = pair_ratios(new, old)
        if not ratios:
            continue
        low, high = bootstrap_pairs(ratios)
        rounds = old.keys() & new.keys()
        yield Change(
            scenario=result.name,
            server=after,
            ratio=statistics.median(ratios),
            low=low,
            high=high,
            samples=len(ratios),
            before=statistics.median(old[number] for number in rounds),
            after=statistics.median(new[number] for number in rounds),
            metric=metric,
            limit=limit,
        )


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


def render(found: Sequence[Change]) -> str:
    """CPU per request, every pair."""
    rows = [
        (c.scenario, c.server, f"{c.ratio:.3f}", f"{c.low:.3f}–{c.high:.3f}", str(c.samples), c.verdict)
        for c in found
    ]
    return table(
        ("scenario", "server", "after ÷ before", "95 % interval", "rounds", "verdict"), rows, words=2
    )


def render_shown(found: Sequence[Change], limit: float) -> str:
    """Latency and memory: those that changed surely and past the limit, and how many were looked at."""
    percent = f"{(limit - 1) * 100:g} %"
    changed = [change for change in found if change.large]
    lines = [
        f"Latency and memory, not judged: {len(changed)} of {len(found)} changed by more than {percent}."
    ]
    if changed:
        rows = [
            (
                c.scenario,
                c.server,
                c.metric.key,
                f"{c.ratio:.3f}",
                f"{c.low:.3f}–{c.high:.3f}",
                str(c.samples),
                c.verdict,
            )
            for c in changed
        ]
        heads = ("scenario", "server", "figure", "after ÷ before", "95 % interval", "rounds", "change")
        lines += ["", table(heads, rows, words=3)]
    return "\n".join(lines)


def _values(result: ScenarioResult, server: str, relative_to: str | None, metric: Metric) -> list[float]:
    own = data.values(result, server, metric)
    if relative_to is None:
        return list(own.values())
    return pair_ratios(own, data.values(result, relative_to, metric))
