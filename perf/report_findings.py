"""What the figures of a run say: where we win, where the framework is the cost, where we lose.

Rules of this file: every word is computed from samples, none is typed in for a scenario or a server. A
claim needs size and certainty: the 95 % interval of the paired rounds excludes "the same", and the ratio
is more than LEVEL_WITHIN from it. The opponent is always the toughest one: the server, of those an app
could be moved to, that is cheapest against us in the same rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from perf import report_data as data
from perf.results import Report, ScenarioResult
from perf.stats import bootstrap_pairs

LEVEL_WITHIN = 0.03
"""A difference smaller than this is nobody's reason to choose a server, however certain."""
WORSE_BY = 1.10
"""Latency and memory are listed as lost beyond this: they are noisier than CPU time."""
FRAMEWORK_SHARE = 0.5
"""The framework is the cost if it takes more than this share of our CPU time for the scenario."""
LEAST_ROUNDS = 3


class Verdict(Enum):
    """What a scenario says about us; the value is the word that is shown."""

    WIN = "win"
    LEVEL = "level"
    LOSE = "lose"
    FRAMEWORK = "framework"
    ALONE = "no rival"
    FEW = "too few rounds"


@dataclass(frozen=True)
class Duel:
    """``server``'s figure over ours, round by round: above 1 it is the higher one."""

    server: str
    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 'the same'."""
        return self.rounds >= LEAST_ROUNDS and not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Finding:
    """One scenario: our cost, the toughest rival, and what follows."""

    result: ScenarioResult
    verdict: Verdict
    ours_us: float
    toughest: Duel | None
    baseline: Duel | None
    framework_share: float | None = None
    """Of our CPU time, what is not there in ``without``; None where no framework takes part."""
    without: ScenarioResult | None = None
    """The scenario most like this one that has no framework."""


@dataclass(frozen=True)
class Loss:
    """One figure other than CPU time in which a rival is better, surely and by more than WORSE_BY."""

    result: ScenarioResult
    metric: data.Metric
    ours: float
    theirs: float
    duel: Duel


def duel(result: ScenarioResult, server: str, metric: data.Metric = data.CPU) -> Duel | None:
    """``server`` against us; None if they shared no round."""
    ratios = data.ratios(result, server, data.OURS, metric)
    if not ratios:
        return None
    low, high = bootstrap_pairs(ratios)
    return Duel(server, statistics.median(ratios), low, high, len(ratios))


def findings(report: Report, baseline: str) -> list[Finding]:
    """One for each scenario that we were measured in, in the order of the run."""
    ours = [one for one in data.measured(report) if data.values(one, data.OURS, data.CPU)]
    return [_finding(one, ours, baseline) for one in ours]


def _finding(result: ScenarioResult, all_ours: list[ScenarioResult], baseline: str) -> Finding:
    ours = _ours_us(result)
    toughest = _toughest(duel(result, name) for name in data.rivals(result))
    without = _without_framework(result, all_ours)
    share = None if without is None else max(0.0, 1 - _ours_us(without) / ours)
    return Finding(
        result=result,
        verdict=_verdict(toughest, share),
        ours_us=ours,
        toughest=toughest,
        baseline=duel(result, baseline) if baseline in result.samples else None,
        framework_share=share,
        without=without,
    )


def _without_framework(result: ScenarioResult, all_ours: list[ScenarioResult]) -> ScenarioResult | None:
    """For a scenario with a framework: the one most like it without, by the size of the answer.

    None if there is no framework in it, if some servers answer without theirs, or if nothing like it was
    measured.
    """
    row = data.scenario_of(result)
    if row is None or not row.packages or result.served_by:
        return None
    alike: list[tuple[int, int, ScenarioResult]] = []
    for other in all_ours:
        one = data.scenario_of(other)
        if one is None or one.packages or one.headers or one.pipeline > 1 or one.idle:
            continue
        if (one.tool, one.method, one.tls) == (row.tool, row.method, row.tls):
            alike.append((abs(len(one.expect_body) - len(row.expect_body)), len(alike), other))
    return min(alike)[2] if alike else None


def _ours_us(result: ScenarioResult) -> float:
    return statistics.median(data.values(result, data.OURS, data.CPU).values())


def _toughest(duels: Iterable[Duel | None]) -> Duel | None:
    known = [one for one in duels if one is not None]
    return min(known, key=lambda one: (one.ratio, one.server), default=None)


def _verdict(toughest: Duel | None, framework_share: float | None) -> Verdict:
    if framework_share is not None and framework_share > FRAMEWORK_SHARE:
        return Verdict.FRAMEWORK
    if toughest is None:
        return Verdict.ALONE
    return verdict_of(toughest)


def verdict_of(one: Duel) -> Verdict:
    """Against this server alone, CPU time being compared."""
    if one.rounds < LEAST_ROUNDS:
        return Verdict.FEW
    if not one.sure or abs(one.ratio - 1) <= LEVEL_WITHIN:
        return Verdict.LEVEL
    return Verdict.WIN if one.ratio > 1 else Verdict.LOSE


def losses(report: Report, metric: data.Metric) -> list[Loss]:
    """Where the best rival has less of ``metric`` than we, surely and by more than WORSE_BY; worst first.

    At a fixed rate too: there a latency is the server's, while at full load it is mostly the queue.
    """
    found = []
    for result in report.scenarios:
        ours = data.values(result, data.OURS, metric)
        best = _toughest(duel(result, name, metric) for name in data.rivals(result)) if ours else None
        if best is not None and best.sure and best.ratio * WORSE_BY < 1:
            theirs = statistics.median(data.values(result, best.server, metric).values())
            found.append(Loss(result, metric, statistics.median(ours.values()), theirs, best))
    return sorted(found, key=lambda loss: (loss.duel.ratio, loss.result.name))


def judged(report: Report, metric: data.Metric) -> int:
    """In how many scenarios we could be compared in ``metric``: what the number of losses is out of."""
    return sum(
        bool(data.values(one, data.OURS, metric))
        and any(len(data.ratios(one, name, data.OURS, metric)) >= LEAST_ROUNDS for name in data.rivals(one))
        for one in report.scenarios
    )
