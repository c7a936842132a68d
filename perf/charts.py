"""The charts of a run: which there are, what they are called, and how they come into files.

Rules of this file: the same run gives the same files, byte for byte. Names of files are made from names of
scenarios and hold nothing but letters, digits, dots and dashes, whatever a result file has in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perf import charts_axes as axes
from perf import charts_lines, charts_overview, charts_rows, scale
from perf import report_data as data
from perf.charts_axes import Scale
from perf.charts_rows import Scales
from perf.peers import BASELINE
from perf.report_findings import findings
from perf.results import Report, ScenarioResult
from perf.svg import Svg


@dataclass(frozen=True)
class Chart:
    """One picture: ``name`` is its file's without the ending, ``about`` the scenario it shows or ''."""

    name: str
    about: str
    svg: Svg


def charts(report: Report, *, prefix: str = "", baseline: str = BASELINE) -> list[Chart]:
    """All pictures of a run: overviews, scenarios in the order of the run, curves. Empty if nothing was
    measured. ``prefix`` keeps the names of several runs apart."""
    source = source_of(report)
    made: list[Chart] = []
    taken: set[str] = set()

    def add(kind: str, name: str, about: str, draw: Callable[[str], Svg]) -> None:
        file_name = _free(file_stem(f"{prefix}{kind}{name}"), taken)
        made.append(Chart(file_name, about, draw(file_name)))

    ordinary = data.measured(report)
    found = findings(report, baseline)
    if found:
        results = [one.result for one in found]
        add("overview-", "cpu", "", lambda key: charts_overview.matrix(results, key=key, source=source))
        add(
            "overview-",
            "ratios",
            "",
            lambda key: charts_overview.ratios(found, baseline=baseline, key=key, source=source),
        )
    singles = [
        next(iter(by_rate.values())) for by_rate in data.fixed_rates(report).values() if len(by_rate) == 1
    ]
    shown = ordinary + singles
    scales = scales_of(shown)
    for result in shown:
        add("", result.name, result.name, _row_drawer(result, scales[result.name], baseline, source))
    for name, by_workers in data.scalings(report).items():
        warning = scale.OVERLAP_WARNING if report.settings.get("overlap") else ""
        add("scaling-", name, f"{name}×", _scaling_drawer(name, by_workers, source, warning))
    for name, by_rate in data.fixed_rates(report).items():
        if len(by_rate) > 1:
            add("rates-", name, f"{name}@", _rate_drawer(name, by_rate, source))
    return made


def _row_drawer(result: ScenarioResult, scales: Scales, baseline: str, source: str) -> Callable[[str], Svg]:
    return lambda key: charts_rows.scenario_chart(result, scales, baseline=baseline, key=key, source=source)


def _scaling_drawer(
    name: str, by_workers: Mapping[int, ScenarioResult], source: str, warning: str
) -> Callable[[str], Svg]:
    return lambda key: charts_lines.scaling_chart(name, by_workers, key=key, source=source, warning=warning)


def _rate_drawer(name: str, by_rate: Mapping[float, ScenarioResult], source: str) -> Callable[[str], Svg]:
    return lambda key: charts_lines.rate_chart(name, by_rate, key=key, source=source)


def scales_of(results: list[ScenarioResult]) -> dict[str, Scales]:
    """The scales of each scenario. Costs and rates are shared by all that count the same thing, requests or
    messages; latencies and memory by all."""
    cpu = _shared(results, data.CPU)
    rate = _shared(results, data.RATE)
    latency = axes.factors(
        value for result in results for metric in data.LATENCIES for value in _all(result, metric)
    )
    rss = axes.from_zero(max((value for result in results for value in _all(result, data.RSS)), default=0))
    return {
        result.name: Scales(
            cpu=cpu[result.name],
            rate=rate[result.name],
            latency=latency,
            rss=rss,
        )
        for result in results
    }


def _shared(results: list[ScenarioResult], metric: data.Metric) -> dict[str, Scale]:
    """By scenario: the scale of all that count what it counts."""
    by_unit: dict[str, list[float]] = {}
    for one in results:
        by_unit.setdefault(data.unit(one), []).extend(_all(one, metric))
    scales = {unit: axes.factors(found) for unit, found in by_unit.items()}
    return {one.name: scales[data.unit(one)] for one in results}


def _all(result: ScenarioResult, metric: data.Metric) -> list[float]:
    return [
        value for server in data.servers(result) for value in data.values(result, server, metric).values()
    ]


def source_of(report: Report) -> str:
    """The day and the commit: enough to find the run that a picture shows."""
    commit = str(report.host.get("commit", ""))
    short = commit[:10] + ("+dirty" if commit.endswith("+dirty") else "")
    return " · ".join(part for part in (str(report.started)[:10], short) if part)


def file_stem(name: str) -> str:
    """``plain×4`` → ``plain-x4``; nothing that a shell, a URL or a folder could misread."""
    known = name.replace("×", "-x").replace("@", "-at-")
    return re.sub(r"[^A-Za-z0-9.-]+", "-", known).strip(".-")[:80] or "chart"


def _free(stem: str, taken: set[str]) -> str:
    """``stem``, with a number behind it if another chart has that name already."""
    name, number = stem, 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.lower())
    return name


def of_runs(runs: Sequence[data.Run], *, baseline: str = BASELINE) -> list[list[Chart]]:
    """The charts of each run; of several, the names of each begin with its number."""
    prefixes = [f"{at + 1}-" for at in range(len(runs))] if len(runs) > 1 else [""]
    return [
        charts(run.report, prefix=prefix, baseline=baseline)
        for run, prefix in zip(runs, prefixes, strict=True)
    ]


def write(made: Sequence[Chart], folder: Path) -> list[Path]:
    """Each chart as ``folder``/NAME.svg; the paths written. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for chart in made:
        path = folder / f"{chart.name}.svg"
        path.write_text(chart.svg.render(), encoding="utf-8")
        paths.append(path)
    return paths
