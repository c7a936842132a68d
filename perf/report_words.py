"""The text of a page: findings as sentences, tables as rows, circumstances. Without any markup.

Rules of this file: what both pages say is made here once, so that they cannot disagree; report_html.py and
report_markdown.py only dress it. A text is a list of pieces, of which some are strong: so names that come
from a file are escaped by whoever dresses them, and cannot be taken for markup.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from perf import charts_axes as axes
from perf import report_data as data
from perf import scale
from perf.report_findings import (
    LEVEL_WITHIN,
    WORSE_BY,
    Duel,
    Finding,
    Loss,
    Verdict,
    findings,
    judged,
    losses,
    verdict_of,
)
from perf.results import IDLE_LIMIT, Report, ScenarioResult


@dataclass(frozen=True)
class Strong:
    """A piece that stands out."""

    text: str


Piece = str | Strong
Text = Sequence[Piece]
ITEMS_OF_LOSSES = 6
"""So many of one figure are named; how many more there are is said."""


@dataclass(frozen=True)
class Section:
    """Some findings of one kind. ``tone`` is win, level, framework or lose."""

    title: str
    tone: str
    items: list[Text]
    nothing: str = "Nowhere in these runs."


@dataclass(frozen=True)
class Table:
    """Heads and rows; the first ``words`` columns are words, the rest figures."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    strong: frozenset[str] = field(default_factory=frozenset)
    """The rows, by their first cell, that stand out."""


def sections(reports: Sequence[Report], baseline: str) -> list[Section]:
    """The summary of all runs. Wins, frameworks and losses are always there, also with nothing in them."""
    found = [one for report in reports for one in findings(report, baseline)]
    by_verdict: dict[Verdict, list[Text]] = {verdict: [] for verdict in Verdict}
    for one in sorted(found, key=_sort_key):
        by_verdict[one.verdict].append(_sentence(one, baseline))
    lost = by_verdict[Verdict.LOSE] + _other_losses(reports)
    unclear = by_verdict[Verdict.FEW] + by_verdict[Verdict.ALONE]
    made = [
        Section(f"Where {data.OURS} wins", "win", by_verdict[Verdict.WIN]),
        Section("Where the framework is the cost", "framework", by_verdict[Verdict.FRAMEWORK]),
        Section(f"Where {data.OURS} loses", "lose", lost),
    ]
    if by_verdict[Verdict.LEVEL]:
        made.insert(
            1, Section("Level with the cheapest, or not told apart", "level", by_verdict[Verdict.LEVEL])
        )
    if unclear:
        made.append(Section("No verdict", "level", unclear))
    return made


def headline(reports: Sequence[Report], baseline: str) -> str:
    """One sentence that counts the verdicts."""
    found = [one for report in reports for one in findings(report, baseline)]
    counts = {verdict: sum(one.verdict is verdict for one in found) for verdict in Verdict}
    if not found:
        return f"{data.OURS} was not measured in these runs."
    scenarios = _number(len(found), "scenario")
    parts = [
        f"cheaper than every rival in {counts[Verdict.WIN]}",
        f"level with the cheapest in {counts[Verdict.LEVEL]}",
        f"dearer than a rival in {counts[Verdict.LOSE]}",
    ]
    text = f"In CPU time per request, {data.OURS} is {', '.join(parts)} of {scenarios}"
    if counts[Verdict.FRAMEWORK]:
        text += f"; in {counts[Verdict.FRAMEWORK]} the framework is most of the cost"
    none = counts[Verdict.FEW] + counts[Verdict.ALONE]
    return text + (f"; {none} without a verdict." if none else ".")


def rule_of_verdicts() -> str:
    """How to read a line of the summary, and what has to be so for a scenario to be called won."""
    return (
        f"A line names {data.OURS}'s CPU time (the median of the rounds), then the cheapest rival's as a"
        " multiple of it with its 95 % bootstrap interval, then the baseline's. A rival is a server that an"
        f" app could be moved to. A win or a loss is a multiple more than {LEVEL_WITHIN:.0%} from 1 whose"
        f" interval excludes 1; latency and memory count as lost beyond {WORSE_BY - 1:.0%}, as surely."
    )


def _sort_key(one: Finding) -> tuple[float, str]:
    """Wins from the largest, losses from the worst: away from 1."""
    ratio = one.toughest.ratio if one.toughest else 1.0
    return (-ratio if ratio > 1 else ratio, one.result.name)


def _sentence(one: Finding, baseline: str) -> Text:
    unit = data.unit(one.result)
    pieces: list[Piece] = [Strong(one.result.name), f": {data.CPU.show(one.ours_us)} µs/{unit}"]
    if one.verdict is Verdict.FRAMEWORK and one.framework_share is not None and one.without is not None:
        pieces.append(f", {one.framework_share:.0%} of it beyond {one.without.name}")
    if one.toughest is None:
        return [*pieces, "; nobody else was measured."]
    word = ""
    if one.verdict is Verdict.FRAMEWORK:
        word = f", {verdict_of(one.toughest).value}"
    elif one.verdict is Verdict.FEW:
        word = f", {_number(one.toughest.rounds, 'round')}"
    pieces.append(f"; {_versus(one.toughest, word)}")
    if one.baseline is not None and one.baseline.server != one.toughest.server:
        pieces.append(f", {baseline} {axes.times(one.baseline.ratio)}")
    return [*pieces, "."]


def _versus(one: Duel, word: str) -> str:
    return f"{one.server} {axes.times(one.ratio)} ({one.low:.2f}–{one.high:.2f}{word})"


def _other_losses(reports: Sequence[Report]) -> list[Text]:
    """Latency and memory, one item a figure."""
    items: list[Text] = []
    for metric, what in ((data.P99, "p99 latency"), (data.P999, "p99.9 latency"), (data.RSS, "Memory")):
        found = [loss for report in reports for loss in losses(report, metric)]
        if found:
            out_of = sum(judged(report, metric) for report in reports)
            shown = ", ".join(map(_loss, found[:ITEMS_OF_LOSSES]))
            more = f", and {len(found) - ITEMS_OF_LOSSES} more" if len(found) > ITEMS_OF_LOSSES else ""
            head = f": more than the best rival in {len(found)} of {out_of}: "
            items.append([Strong(what), f"{head}{shown}{more}."])
    return items


def _loss(loss: Loss) -> str:
    show = loss.metric.show
    return f"{loss.result.name} {show(loss.ours)} ({loss.duel.server} {show(loss.theirs)})"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# Tables


def figures(result: ScenarioResult, baseline: str) -> Table:
    """Every server of a scenario, with the spread of its CPU time. There are columns for errors and for the
    number of rounds only where somebody had errors, or fewer rounds than others."""
    heads = (
        "server",
        data.title(data.CPU, result),
        "least–most",
        f"× {baseline}",
        "least–most",
        data.title(data.RATE, result),
        "busy",
        "p50",
        "p99",
        "p99.9",
        "RSS",
        "errors",
        "rounds",
    )
    names = data.servers(result)
    most = max((len(data.values(result, name, data.CPU)) for name in names), default=0)
    rows = [_figures_of(result, name, baseline, most) for name in names]
    return _without_empty(Table(heads, rows, strong=frozenset(filter(data.is_ours, names))))


def _figures_of(result: ScenarioResult, server: str, baseline: str, rounds: int) -> list[str]:
    cpu = list(data.values(result, server, data.CPU).values())
    ratio = data.ratio(result, baseline, server)
    samples = [sample for sample in result.samples[server] if sample.wall_ns]
    busy = statistics.median(sample.busy for sample in samples) if samples else None
    return [
        server,
        data.CPU.show(statistics.median(cpu)),
        f"{data.CPU.show(min(cpu))}–{data.CPU.show(max(cpu))}",
        "–" if ratio is None else axes.times(ratio.median),
        "–" if ratio is None else f"{ratio.low:.2f}–{ratio.high:.2f}",
        _median(result, server, data.RATE),
        "–" if busy is None else f"{busy:.0%}",
        *(_median(result, server, metric) for metric in (*data.LATENCIES, data.RSS)),
        errors(result, server),
        str(len(cpu)) if len(cpu) != rounds else "",
    ]


def _median(result: ScenarioResult, server: str, metric: data.Metric) -> str:
    found = data.values(result, server, metric)
    return metric.show(statistics.median(found.values())) if found else "–"


def errors(result: ScenarioResult, server: str) -> str:
    """The total of each kind over the rounds, ``12 timeout``; nothing if there was none."""
    totals: dict[str, int] = {}
    for sample in result.samples.get(server, []):
        for kind, count in sample.errors.items():
            totals[kind] = totals.get(kind, 0) + count
    return ", ".join(f"{count} {kind}" for kind, count in totals.items() if count)


def _without_empty(table: Table) -> Table:
    """Columns in which nobody has a figure are left out: a tool that does not measure it, no error."""
    kept = [at for at in range(len(table.heads)) if any(row[at] not in ("–", "") for row in table.rows)]
    rows = [[row[at] for at in kept] for row in table.rows]
    return Table([table.heads[at] for at in kept], rows, table.words, table.strong)


def growth(by_workers: dict[int, ScenarioResult]) -> Table:
    """Requests per second and efficiency by number of workers."""
    counts = sorted(by_workers)
    names = dict.fromkeys(name for workers in counts for name in data.servers(by_workers[workers]))
    heads = ["server"]
    for workers in counts:
        heads += [f"{_number(workers, 'worker')}, req/s", "speed-up", "efficiency"]
    rows = [_growth_of(by_workers, counts, name) for name in names]
    return Table(heads, rows, strong=frozenset(filter(data.is_ours, names)))


def _growth_of(by_workers: dict[int, ScenarioResult], counts: list[int], server: str) -> list[str]:
    cells = [server]
    first: tuple[int, float] | None = None
    for workers in counts:
        found = data.values(by_workers[workers], server, data.RATE)
        if not found:
            cells += ["–", "–", "–"]
            continue
        rate = statistics.median(found.values())
        first = first or (workers, rate)
        gain = first[0] * rate / first[1]
        cells += [data.RATE.show(rate), f"{gain:.2f}", f"{gain / workers:.0%}"]
    return cells


def rates(by_rate: dict[float, ScenarioResult]) -> Table:
    """Latency at each rate; what was not kept up with says what was reached."""
    heads = ("server", "req/s asked", "reached", "p50", "p99", "p99.9", data.CPU.title.format(unit="req"))
    names = dict.fromkeys(name for result in by_rate.values() for name in data.servers(result))
    rows = [
        [
            name,
            f"{rate:g}",
            _median(result, name, data.RATE),
            *(_median(result, name, metric) for metric in data.LATENCIES),
            _median(result, name, data.CPU),
        ]
        for name in names
        for rate, result in by_rate.items()
        if name in data.servers(result)
    ]
    return _without_empty(Table(heads, rows, strong=frozenset(filter(data.is_ours, names))))


# Notes and circumstances


def notes(result: ScenarioResult) -> list[str]:
    """What has to be known beside the figures of a scenario."""
    said = [
        f"{server} uses {share:.0%} of its core when idle: it was stopped between its turns"
        for server, share in result.idle.items()
        if share > IDLE_LIMIT
    ]
    by_what: dict[str, list[str]] = {}
    for server, what in result.served_by.items():
        by_what.setdefault(what, []).append(server)
    said += [f"served by {what}: {', '.join(servers)}" for what, servers in by_what.items()]
    return said


def skipped(report: Report) -> Table:
    """Who did not take part in what, and why; one row for each reason."""
    where: dict[tuple[str, str], list[str]] = {}
    for result in report.scenarios:
        if result.reason is not None:
            where.setdefault(("everybody", result.reason), []).append(result.name)
        for server, why in result.skipped.items():
            where.setdefault((server, why), []).append(result.name)
    everywhere = {result.name for result in report.scenarios}
    rows = [
        [server, why, "all" if set(names) == everywhere and len(names) > 1 else ", ".join(names)]
        for (server, why), names in where.items()
    ]
    return Table(("server", "why", "scenarios"), rows, words=3)


def host(report: Report) -> Table:
    """The machine, the system and the settings, as they are in the file."""
    rows: list[Sequence[str]] = [["started", str(report.started)]]
    for key, value in _flat(report.host):
        rows.append([key.replace("_", " "), value])
    for key, value in _flat(report.settings):
        rows.append([f"setting: {key.replace('_', ' ')}", value])
    return Table(("what", "value"), rows, words=2)


def _flat(facts: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} ")
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{key}", text


def versions(report: Report) -> Table:
    """What each server was, and how it was started."""
    rows = []
    for name, facts in report.servers.items():
        packages = facts.get("packages") or {}
        command = facts.get("command") or []
        rows.append(
            [
                name,
                str(facts.get("version") or "–"),
                ", ".join(f"{package} {version}" for package, version in packages.items()) or "–",
                " ".join(map(str, command)),
            ]
        )
    strong = frozenset(filter(data.is_ours, report.servers))
    return Table(("server", "version", "packages", "command"), rows, words=4, strong=strong)


def warnings(report: Report) -> list[str]:
    """What makes a run's figures worth less than they look."""
    said = []
    if report.interrupted:
        said.append("This run was interrupted: it holds what was measured until then.")
    if report.settings.get("overlap"):
        said.append(f"Over workers, {scale.OVERLAP_WARNING}.")
    return said


def method(report: Report) -> str:
    """How it was measured, from the run's own settings."""
    settings: Callable[[str], Any] = lambda key: report.settings.get(key, "?")  # noqa: E731
    return (
        f"Each server runs alone on its own core (CPU {_cores(report, 'server')}), the load on another"
        f" (CPU {_cores(report, 'load')}); {settings('rounds')} rounds of {settings('seconds')} s with"
        f" {settings('connections')} connections, the servers taking turns within each round. CPU per"
        f" request is the CPU time of all the server's processes, from the kernel's clock, over the requests"
        f" that the load tool counted. A figure is the median of the rounds, and least–most their range;"
        f" ratios are taken within each round."
    )


def _cores(report: Report, side: str) -> str:
    cores = report.settings.get(f"{side}_cores", report.settings.get(f"{side}_core", "?"))
    return ", ".join(map(str, cores)) if isinstance(cores, list) else str(cores)


READING = (
    "The floors are epoll loops in C with a fixed answer, and nghttpd, picows and node run no ASGI app: they"
    " show what one costs, and are not counted as rivals. At full load a latency is mostly the queue: what a"
    " server adds by itself is seen at a fixed rate. RSS adds up all processes of a server, and counts shared"
    " pages more than once. Below about 90 % busy the load was the limit, and req/s is not a capacity."
)
