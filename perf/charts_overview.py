"""All scenarios of a run in one picture: a table in colour, and our distance to two others with its spread.

Rules of this file: colours say what the words of report_findings.py say, and the number always stands in
the cell, so nothing is told by colour alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from perf import charts_axes as axes
from perf import report_data as data
from perf.charts_axes import Scale
from perf.report_findings import Duel, Finding, Verdict, duel, verdict_of
from perf.results import ScenarioResult
from perf.svg import Svg, fit, text_width

_EDGE = 16.0
_CELL = 26.0
_SIZE = 11.5
_SMALL = 11.0
_MUCH = 1.5
"""A cost that differs by more than this factor has the stronger colour."""


def matrix(results: Sequence[ScenarioResult], *, key: str, source: str) -> Svg:
    """CPU per request of every server over ours, in every scenario; our own column has the microseconds."""
    names = _columns(results)
    left = _EDGE + max(text_width(one.name, _SIZE) for one in results) + 14
    width_of = {name: max(52.0, *(text_width(part, _SIZE) + 12 for part in _halves(name))) for name in names}
    places = {name: left + sum(width_of[other] for other in names[:at]) for at, name in enumerate(names)}
    width = max(640.0, left + sum(width_of.values()) + _EDGE)
    top = 104.0
    svg = Svg(
        width,
        top + len(results) * _CELL + 18,
        title=f"CPU time for each server over {data.OURS}'s, by scenario",
        description=_describe(results, names),
        key=key,
    )
    svg.text(_EDGE, 26, f"CPU per request, as a multiple of {data.OURS}'s", look="ink b", size=16)
    _key(svg, source, width)
    for name in names:
        middle = places[name] + width_of[name] / 2
        halves = _halves(name)
        for line, part in enumerate(halves):
            look = "ink b" if data.is_ours(name) else "ink"
            y = top - 8 - 14 * (len(halves) - 1 - line)
            svg.text(middle, y, part, look=look, size=_SIZE, anchor="middle")
    for row, result in enumerate(results):
        y = top + row * _CELL
        svg.text(_EDGE, y + 17, result.name, size=_SIZE, hint=data.what(result))
        for name in names:
            look, text, hint = _cell(result, name)
            if look:
                svg.rect(places[name] + 1, y + 1, width_of[name] - 2, _CELL - 2, look, round_by=3)
            bold = "ink b" if name == data.OURS else "ink"
            middle = places[name] + width_of[name] / 2
            svg.text(middle, y + 17, text, look=bold, size=_SIZE, anchor="middle", hint=hint)
    return svg


_KEY = (("win", f"{data.OURS} is cheaper"), ("level", "level"), ("lose", f"{data.OURS} is dearer"))


def _key(svg: Svg, source: str, width: float) -> None:
    x = _EDGE
    for look, text in _KEY:
        svg.rect(x, 38, 13, 13, look, round_by=3)
        svg.text(x + 18, 49, text, look="dim", size=_SMALL)
        x += 18 + text_width(text, _SMALL) + 16
    svg.text(width - _EDGE, 49, source, look="dim", size=_SMALL, anchor="end")


def _columns(results: Sequence[ScenarioResult]) -> list[str]:
    """Every server, ours first, then the cheapest by its place in the middle of the scenarios."""
    places: dict[str, list[float]] = {}
    for result in results:
        for name in data.servers(result):
            found = duel(result, name)
            places.setdefault(name, []).append(found.ratio if found else 1e9)
    others = sorted(places, key=lambda name: (statistics.median(places[name]), name))
    return [data.OURS, *(name for name in others if name != data.OURS)]


def _halves(name: str) -> list[str]:
    """A long name on two lines, broken where it has a joint."""
    for joint in "@-":
        before, found, after = name.partition(joint)
        if found and len(name) > 10:
            return [fit(before, _SIZE, 110), fit(joint + after, _SIZE, 110)]
    return [fit(name, _SIZE, 110)]


def _cell(result: ScenarioResult, server: str) -> tuple[str, str, str]:
    """Its colour, its text, and what the text stands for."""
    found = data.values(result, server, data.CPU)
    if not found:
        return "", "·", result.skipped.get(server, "")
    if server == data.OURS:
        return "", data.CPU.show(statistics.median(found.values())), f"{data.unit(result)}: µs, median"
    against = duel(result, server)
    if against is None:
        return "", "–", ""
    return _colour(against), axes.times(against.ratio), f"{against.low:.2f}–{against.high:.2f}"


def _colour(against: Duel) -> str:
    verdict = verdict_of(against)
    if verdict is Verdict.WIN:
        return "win" if against.ratio > _MUCH else "win2"
    if verdict is Verdict.LOSE:
        return "lose" if against.ratio * _MUCH < 1 else "lose2"
    return "level"


def _describe(results: Sequence[ScenarioResult], names: Sequence[str]) -> str:
    rows = []
    for result in results:
        cells = [f"{name} {_cell(result, name)[1]}" for name in names if name in result.samples]
        rows.append(f"{result.name}: {', '.join(cells)}")
    return f"Above 1× a server is dearer than {data.OURS}. {'; '.join(rows)}."


_ROW = 26.0
_PLOT = 250.0
_BESIDE = 56.0


def ratios(findings: Sequence[Finding], *, baseline: str, key: str, source: str) -> Svg:
    """For each scenario, every round of: the baseline's cost over ours, and the toughest rival's."""
    names = max(text_width(one.result.name, 12.5) for one in findings)
    rivals = max((text_width(one.toughest.server, _SMALL) for one in findings if one.toughest), default=0)
    first = _EDGE + names + 12
    second = first + _PLOT + _BESIDE + 24
    width = max(640.0, second + _PLOT + _BESIDE + rivals + 12 + _EDGE)
    top = 92.0
    bottom = top + len(findings) * _ROW
    svg = Svg(
        width,
        bottom + 30,
        title=f"CPU per request of {baseline} and of the cheapest rival, over {data.OURS}'s",
        description=_describe_ratios(findings, baseline),
        key=key,
    )
    svg.text(_EDGE, 26, f"How many times {data.OURS}'s CPU per request", look="ink b", size=16)
    legend = f"dot: a round · line: least to most · tick: median · right of 1×: dearer than {data.OURS}"
    svg.text(_EDGE, 46, legend, look="dim", size=_SMALL)
    svg.text(width - _EDGE, 26, source, look="dim", size=_SMALL, anchor="end")
    for row in range(0, len(findings), 2):
        svg.rect(_EDGE - 6, top + row * _ROW, width - 2 * _EDGE + 12, _ROW, "band", round_by=3)
    for row, one in enumerate(findings):
        svg.text(_EDGE, top + (row + 0.5) * _ROW + 4, one.result.name, size=12.5, hint=data.what(one.result))
    _ratio_panel(svg, findings, [one.baseline for one in findings], baseline, first, top, named=False)
    rival = "cheapest rival in the same rounds"
    _ratio_panel(svg, findings, [one.toughest for one in findings], rival, second, top, named=True)
    return svg


def _ratio_panel(
    svg: Svg,
    findings: Sequence[Finding],
    duels: Sequence[Duel | None],
    title: str,
    left: float,
    top: float,
    *,
    named: bool,
) -> None:
    drawn = [
        (row, one, data.ratios(finding.result, one.server, data.OURS))
        for row, (finding, one) in enumerate(zip(findings, duels, strict=True))
        if one is not None
    ]
    scale = axes.factors([1.0, *(value for *_, values in drawn for value in values)])
    bottom = top + len(findings) * _ROW
    svg.text(left, top - 10, fit(title, _SIZE, _PLOT + _BESIDE), look="ink b", size=_SIZE)
    _ratio_axis(svg, scale, left, top, bottom)
    for row, one, values in drawn:
        middle = top + (row + 0.5) * _ROW
        series = data.colour(one.server)
        places = [left + scale.at(value) * _PLOT for value in values]
        svg.line(min(places), middle, max(places), middle, f"range s{series}")
        step = 12 / max(len(places) - 1, 1)
        start = middle - (6 if len(places) > 1 else 0)
        svg.dots([(x, start + step * at) for at, x in enumerate(places)], f"s{series}")
        x = left + scale.at(one.ratio) * _PLOT
        svg.line(x, middle - 8, x, middle + 8, "mark")
        right = left + _PLOT + _BESIDE
        svg.text(right, middle + 4, axes.times(one.ratio), look="ink b", size=_SIZE, anchor="end")
        if named:
            svg.text(right + 12, middle + 4, one.server, look="dim", size=_SMALL)


def _ratio_axis(svg: Svg, scale: Scale, left: float, top: float, bottom: float) -> None:
    taken = left - 100
    for value in sorted({1.0, *scale.ticks(6)}):
        x = left + scale.at(value) * _PLOT
        svg.line(x, top, x, bottom, "axis" if value == 1 else "grid")
        text = f"{value:g}×"
        half = text_width(text, _SMALL) / 2
        if x - half > taken:
            svg.text(x, bottom + 16, text, look="dim", size=_SMALL, anchor="middle")
            taken = x + half + 4


def _describe_ratios(findings: Sequence[Finding], baseline: str) -> str:
    rows = []
    for one in findings:
        texts = [
            f"{duel.server} {axes.times(duel.ratio)} ({duel.low:.2f} to {duel.high:.2f})"
            for duel in (one.baseline, one.toughest)
            if duel is not None
        ]
        rows.append(f"{one.result.name}: {', '.join(texts) or 'nobody to compare with'}")
    return f"Above 1× it costs more than {data.OURS}; {baseline} and the cheapest rival. {'; '.join(rows)}."
