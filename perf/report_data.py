"""What charts, pages and comparisons take from a result file: metrics, the order of servers, who is who.

Rules of this file: the one place that knows which field a figure comes from, and that a field may be
missing (an older file, a tool that does not measure it); nothing is drawn, judged or printed here.
Everything else asks for values by round, and gets those there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from perf import charts_axes as axes
from perf.peers import BASELINE
from perf.results import Report, Sample, ScenarioResult
from perf.scenarios import BY_NAME, Scenario
from perf.stats import Spread, pair_ratios, spread

OURS = "shardserve"
"""The server a report is about. Its other revisions are shardserve@REV."""
NOT_ASGI = frozenset({"floor", "ws-floor", "h2-floor", "nghttpd", "picows", "node"})
"""They run no ASGI app: they show what one costs, and are nobody's alternative."""
VARIANTS = ("-accesslog", "-metrics")
"""Ends of the names of a server that does more work than the row it is a variant of."""


@dataclass(frozen=True)
class Metric:
    """One figure of a sample; None where the sample has none."""

    key: str
    title: str
    """``{unit}`` is what is counted: req, msg."""
    of: Callable[[Sample], float | None]
    show: axes.Format
    less_is_better: bool = True


CPU = Metric("cpu", "CPU µs/{unit}", lambda s: s.cpu_us if s.cpu_ns else None, axes.micro)
RATE = Metric("rate", "{unit}/s", lambda s: s.per_second, axes.count, less_is_better=False)
P50 = Metric("p50", "p50", lambda s: s.p50_us, axes.time)
P99 = Metric("p99", "p99", lambda s: s.p99_us, axes.time)
P999 = Metric("p99.9", "p99.9", lambda s: s.p999_us, axes.time)
RSS = Metric("rss", "RSS", lambda s: s.rss_kib / 1024 if s.rss_kib else None, axes.mib)
LATENCIES = (P50, P99, P999)
METRICS = {metric.key: metric for metric in (CPU, RATE, *LATENCIES, RSS)}


def values(result: ScenarioResult, server: str, metric: Metric) -> dict[int, float]:
    """The figure by round; rounds in which nothing was answered, or it was not measured, are left out."""
    found: dict[int, float] = {}
    for sample in result.samples.get(server, []):
        if sample.requests > 0 and sample.duration_us > 0:
            value = metric.of(sample)
            if value is not None:
                found[sample.round] = value
    return found


def servers(result: ScenarioResult) -> list[str]:
    """Those with samples of CPU time, cheapest first, whatever order they ran in."""
    least = {name: min(costs) for name in result.samples if (costs := values(result, name, CPU).values())}
    return sorted(least, key=lambda name: (least[name], name))


def measured(report: Report) -> list[ScenarioResult]:
    """The scenarios that have anything to show, at full load with the workers of the run."""
    ordinary = [one for one in report.scenarios if one.rate_per_s is None and not is_scaling(one)]
    return [one for one in ordinary if servers(one)]


def is_scaling(result: ScenarioResult) -> bool:
    """Whether it is one number of workers of a run over several: ``plain×4``."""
    return "×" in result.name and result.rate_per_s is None


def scalings(report: Report) -> dict[str, dict[int, ScenarioResult]]:
    """By scenario: what was measured, by number of workers, fewest first."""
    found: dict[str, dict[int, ScenarioResult]] = {}
    for one in sorted(filter(is_scaling, report.scenarios), key=lambda one: one.workers):
        if servers(one):
            found.setdefault(one.scenario, {})[one.workers] = one
    return found


def fixed_rates(report: Report) -> dict[str, dict[float, ScenarioResult]]:
    """By scenario: what was measured, by the rate of the load in requests per second, lowest first."""
    found: dict[str, dict[float, ScenarioResult]] = {}
    by_rate = [(one.rate_per_s, one) for one in report.scenarios if one.rate_per_s is not None]
    for rate_per_s, one in sorted(by_rate, key=lambda pair: pair[0]):
        if servers(one):
            found.setdefault(one.name.partition("@")[0], {})[rate_per_s] = one
    return found


def ratios(result: ScenarioResult, other: str, server: str, metric: Metric = CPU) -> list[float]:
    """``other``'s figure over ``server``'s in every round both took part in."""
    return pair_ratios(values(result, other, metric), values(result, server, metric))


def ratio(result: ScenarioResult, other: str, server: str) -> Spread | None:
    """How many times ``server``'s CPU per request ``other``'s is; None if they shared no round."""
    found = ratios(result, other, server)
    return spread(found) if found else None


def is_ours(server: str) -> bool:
    """This project in any revision and variant."""
    return server == OURS or server.startswith((f"{OURS}@", f"{OURS}-"))


def rivals(result: ScenarioResult) -> list[str]:
    """The servers that an app could be moved to, cheapest first: no floors, no variants, not ourselves."""
    return [
        name
        for name in servers(result)
        if not is_ours(name) and name not in NOT_ASGI and not is_variant(name)
    ]


_SERIES = {
    "granian": 3,
    "h2corn": 4,
    "freastal": 5,
    "gunicorn": 6,
    "fastpysgi": 7,
    "hypercorn": 9,
    "daphne": 11,
}
_OTHERS = (8, 10)


def colour(server: str) -> int:
    """The series of a server: the same in every chart of every file. Ours is 0, the baseline 1.

    Revisions and variants have that of their server; ``is_variant`` tells them from it.
    """
    if is_ours(server):
        return 0
    base = server.partition("@")[0]
    if base == BASELINE or base.startswith(f"{BASELINE}-"):
        return 1
    if base in NOT_ASGI:
        return 2
    family = base.partition("-")[0]
    return _SERIES.get(family, _OTHERS[sum(family.encode()) % len(_OTHERS)])


def is_variant(server: str) -> bool:
    """A revision, or a server started so that it does more."""
    return "@" in server or server.endswith(VARIANTS)


def scenario_of(result: ScenarioResult) -> Scenario | None:
    """The row of perf/scenarios.py; None for one that is not there any more."""
    return BY_NAME.get(result.scenario)


def unit(result: ScenarioResult) -> str:
    known = scenario_of(result)
    return known.unit if known else "req"


def what(result: ScenarioResult) -> str:
    known = scenario_of(result)
    return known.what if known else ""


def title(metric: Metric, result: ScenarioResult) -> str:
    return metric.title.format(unit=unit(result))


def merge(reports: Sequence[Report]) -> Report:
    """Several runs as one: their samples side by side, no round of one taken for a round of another.

    Host and settings are the first one's, versions of each server the first that has them. ``reports`` must
    not be empty.
    """
    merged: dict[str, ScenarioResult] = {}
    known: dict[str, dict[str, Any]] = {}
    for report in reports:
        known = report.servers | known
    for result in _renumbered(reports):
        there = merged.get(result.name)
        if there is None:
            merged[result.name] = result
            continue
        for server, samples in result.samples.items():
            there.samples.setdefault(server, []).extend(samples)
        there.skipped.update(result.skipped)
        there.idle.update(result.idle)
        there.served_by.update(result.served_by)
    settings = dict(reports[0].settings)
    if any(report.settings.get("overlap") for report in reports):
        settings["overlap"] = True  # of a run over workers: whatever it is part of has to say so
    return replace(
        reports[0],
        settings=settings,
        servers=known,
        scenarios=list(merged.values()),
        interrupted=any(report.interrupted for report in reports),
    )


def _renumbered(reports: Sequence[Report]) -> Iterator[ScenarioResult]:
    """Copies of every scenario, the rounds of each report after those of the reports before."""
    first = 0
    for report in reports:
        after = first
        for result in report.scenarios:
            samples = {
                server: [replace(sample, round=first + sample.round) for sample in rows]
                for server, rows in result.samples.items()
            }
            rounds = [sample.round for rows in samples.values() for sample in rows]
            after = max([after, *(number + 1 for number in rounds)])
            yield replace(
                result,
                samples=samples,
                skipped=dict(result.skipped),
                idle=dict(result.idle),
                served_by=dict(result.served_by),
            )
        first = after


@dataclass(frozen=True)
class Run:
    """What was measured of one tree on one machine, and the files it was read from."""

    paths: tuple[Path, ...]
    parts: tuple[Report, ...]
    """One of each file."""

    @cached_property
    def report(self) -> Report:
        """All parts as one."""
        return merge(self.parts)

    @property
    def label(self) -> str:
        """What a page calls it: the names of its files, which their author chose."""
        return ", ".join(path.stem for path in self.paths)


_SAME_HOST = ("cpu", "cpus_allowed", "kernel", "python", "commit")
_SAME_SETTINGS = ("seconds", "connections", "warm_up_s")


def runs(files: Sequence[tuple[Path, Report]]) -> list[Run]:
    """Files of the same tree on the same machine as one run: bench, scale and each fixed rate write one each.

    Two files with a scenario in common stay apart unless their settings are alike: rounds of one second and
    of ten are not samples of one thing.
    """
    made: list[Run] = []
    for path, report in files:
        at = next((at for at, run in enumerate(made) if _fits(run, report)), None)
        if at is None:
            made.append(Run((path,), (report,)))
        else:
            made[at] = Run((*made[at].paths, path), (*made[at].parts, report))
    return made


def _fits(run: Run, report: Report) -> bool:
    for part in run.parts:
        if any(part.host.get(key) != report.host.get(key) for key in _SAME_HOST):
            return False
        alike = all(part.settings.get(key) == report.settings.get(key) for key in _SAME_SETTINGS)
        shared = {one.name for one in part.scenarios} & {one.name for one in report.scenarios}
        if shared and not alike:
            return False
    return True


def has_anything(report: Report) -> bool:
    """Whether any server of any scenario was measured."""
    return any(servers(result) for result in report.scenarios)
