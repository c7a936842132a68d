"""The tables a person reads, as plain text.

Rules of this file: every figure stands next to its spread; no colour, because tables are pasted into
issues; what the columns mean is said under the table, not only in the manual.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from perf.peers import BASELINE
from perf.results import IDLE_LIMIT, Report, Sample, ScenarioResult
from perf.scenarios import BY_NAME, Tool
from perf.stats import pair_ratios, spread

_HEADINGS = ("server", "CPU µs/{0}", "min–median–max", "{0}/s", "busy")
_MORE_HEADINGS = ("p50", "p99", "p99.9", "errors", "RSS")


def render(report: Report, baseline: str = BASELINE) -> str:
    """All tables of a run, with its circumstances above and what was skipped below."""
    parts = [_circumstances(report)]
    parts += [_scenario(result, report, baseline) for result in report.scenarios]
    parts.append(_legend(baseline))
    if report.interrupted:
        parts.append("Interrupted: the tables hold what was measured until then.")
    return "\n\n".join(parts)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Columns as wide as they need; the first ``words`` columns flush left, the figures flush right."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    drawn = ["  ".join(_cells(line, widths, words)).rstrip() for line in lines]
    drawn.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(drawn)


def _cells(line: Sequence[str], widths: Sequence[int], words: int) -> list[str]:
    cells = zip(line, widths, strict=True)
    return [text.ljust(width) if n < words else text.rjust(width) for n, (text, width) in enumerate(cells)]


def _circumstances(report: Report) -> str:
    host = report.host
    versions = ", ".join(
        f"{name} {facts['version']}" for name, facts in report.servers.items() if facts["version"]
    )
    settings = report.settings
    rate = settings.get("rate_per_s")
    load = "as fast as it answers" if rate is None else f"{rate:g} requests/s on a fixed schedule"
    return (
        f"{host['cpu']}, {host['cpus_allowed']} CPUs · Linux {host['kernel']} · Python {host['python']}"
        f" · commit {host['commit'][:12]}{'+dirty' if host['commit'].endswith('+dirty') else ''}\n"
        f"{versions}\n"
        f"{settings['rounds']} rounds of {settings['seconds']:g} s, {settings['connections']} connections,"
        f" {load}, server on CPU {_cores(settings, 'server')},"
        f" {_tools(host)} on CPU {_cores(settings, 'load')}"
    )


def _cores(settings: dict[str, Any], side: str) -> str:
    return "+".join(map(str, settings[f"{side}_cores"]))


def _tools(host: dict[str, Any]) -> str:
    """The load tools of the run, with their versions."""
    names = (*(tool.value for tool in Tool), "rate_load")
    return ", ".join(f"{name} ({host[name]})" for name in names if name in host)


def _scenario(result: ScenarioResult, report: Report, baseline: str) -> str:
    known = BY_NAME.get(result.scenario)
    title = f"{result.name}: {known.what}" if known else result.name
    rows = [
        [server, *_figures(samples), *_ratios(result, server, baseline)]
        for server, samples in result.samples.items()
    ]
    # Cheapest first, whatever order the servers were named in.
    rows.sort(key=lambda row: min(result.cpu_by_round(row[0]).values()))
    parts = [title]
    if result.reason is not None:
        parts.append(f"  skipped: {result.reason}")
    if rows:
        headings = [heading.format(known.unit if known else "req") for heading in _HEADINGS]
        parts.append(table((*headings, *_MORE_HEADINGS, f"× {baseline}", "min–max", "of minima"), rows))
    parts += [
        f"  {server} uses {share:.0%} of its core when idle: it was stopped between its turns"
        for server, share in result.idle.items()
        if share > IDLE_LIMIT
    ]
    if result.samples and result.served_by:
        shown = (f"{name}: {who}" for name, who in result.served_by.items() if name in result.samples)
        parts.append(f"  served by: {', '.join(shown)}")
    parts += _lateness(result)
    parts += [f"  skipped {server}: {why}" for server, why in result.skipped.items()]
    return "\n".join(parts)


def _lateness(result: ScenarioResult) -> list[str]:
    """At a fixed rate: how far the generator itself may have added to the latencies."""
    late = [s.late_us for rows in result.samples.values() for s in rows if s.late_us is not None]
    if not late:
        return []
    worst = _latency([max(late)])
    return [
        f"  the generator's own lateness, part of these latencies: p99 {_latency(late)}, at worst {worst}"
    ]


def _figures(samples: Sequence[Sample]) -> list[str]:
    cpu = spread([sample.cpu_us for sample in samples])
    return [
        _us(cpu.low),
        f"{_us(cpu.low)}–{_us(cpu.median)}–{_us(cpu.high)}",
        f"{statistics.median(s.per_second for s in samples):,.0f}",
        f"{statistics.median(s.busy for s in samples):.0%}",
        _latency([s.p50_us for s in samples]),
        _latency([s.p99_us for s in samples]),
        _latency([s.p999_us for s in samples]),
        _errors(samples),
        f"{max(s.rss_kib for s in samples) / 1024:.0f} MiB",
    ]


def _ratios(result: ScenarioResult, server: str, baseline: str) -> list[str]:
    """The baseline's CPU per request over this server's: how many times cheaper this server is."""
    base, own = result.cpu_by_round(baseline), result.cpu_by_round(server)
    pairs = pair_ratios(base, own)
    if not pairs:
        return ["–", "–", "–"]
    ratio = spread(pairs)
    minima = min(base.values()) / min(own.values())
    return [f"{ratio.median:.2f}", f"{ratio.low:.2f}–{ratio.high:.2f}", f"{minima:.2f}"]


def _errors(samples: Sequence[Sample]) -> str:
    """``0``, or the total of each kind: ``12 timeout``."""
    totals: dict[str, int] = {}
    for sample in samples:
        for kind, count in sample.errors.items():
            totals[kind] = totals.get(kind, 0) + count
    return ", ".join(f"{count} {kind}" for kind, count in totals.items()) or "0"


def _us(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _latency(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    us = statistics.median(known)
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms"


def _legend(baseline: str) -> str:
    return (
        "CPU µs/req (msg): least CPU time of the server's processes per request (message) over the rounds."
        " req/s, busy (share of the core used), p50, p99, p99.9: medians.\n"
        f"× {baseline}: {baseline}'s CPU per request or message over this server's, paired round by round"
        f" (median, min–max, and of the two minima); above 1 is cheaper than {baseline}."
    )
