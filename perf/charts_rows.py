"""One scenario as a picture: a row for each server, a panel for each figure, every sample a dot.

Rules of this file: nothing is averaged away. A row shows each round as a dot (rounds go from the top of
the row to its bottom), the least to the most as a line and the median as a tick; the numbers beside it
are the median and the two ends. The order of the servers is that of the tables, cheapest CPU first.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perf import charts_axes as axes
from perf import report_data as data
from perf.charts_axes import Format, Scale
from perf.results import ScenarioResult
from perf.svg import Svg, fit, text_width

WIDTH = 920.0
_EDGE = 16.0
_ROW = 24.0
_GAP = 22.0
_NAMES_MOST = 170.0
_SMALL = 11.0
_HEAD = 62.0
_PANEL_HEAD = 24.0
_AXIS = 26.0
_SPREAD = 6.0
"""Dots lie this far above and below the middle of their row."""


@dataclass(frozen=True)
class Scales:
    """Of the panels; every scenario of a run that counts the same thing has the same."""

    cpu: Scale
    rate: Scale
    latency: Scale
    rss: Scale


@dataclass(frozen=True)
class _Panel:
    """One figure, or some that share an axis, and where it stands."""

    title: str
    metrics: tuple[data.Metric, ...]
    scale: Scale
    tick: Format
    left: float
    right: float
    beside: float
    """The room for numbers, right of the plot."""
    wide: bool = False
    """Numbers are the median, both ends and the ratio; else the median."""

    @property
    def plot_right(self) -> float:
        return self.right - self.beside

    def x(self, value: float) -> float:
        return self.left + self.scale.at(value) * (self.plot_right - self.left)


def scenario_chart(result: ScenarioResult, scales: Scales, *, baseline: str, key: str, source: str) -> Svg:
    """The picture of one scenario. ``source`` says which run it is, in the corner."""
    names = data.servers(result)
    shown = _name_width(names)
    left = _EDGE + shown + 10
    cpu = _Panel(
        title=data.title(data.CPU, result),
        metrics=(data.CPU,),
        scale=scales.cpu,
        tick=axes.plain,
        left=left,
        right=WIDTH - _EDGE,
        beside=232,
        wide=True,
    )
    small = _small_panels(result, scales, left)
    tier = _PANEL_HEAD + len(names) * _ROW + _AXIS
    height = _HEAD + tier + ((_GAP + tier) if small else 0) + 8
    svg = Svg(
        WIDTH,
        height,
        title=f"{result.name}: {data.title(data.CPU, result)} and more, by server",
        description=_describe(result, names, baseline),
        key=key,
    )
    _header(svg, result, source)
    _tier(svg, result, [cpu], names, _HEAD, baseline)
    if small:
        _tier(svg, result, small, names, _HEAD + tier + _GAP, baseline)
    return svg


def _name_width(names: Sequence[str]) -> float:
    return min(_NAMES_MOST, max(text_width(name, 12.5) for name in names))


def _small_panels(result: ScenarioResult, scales: Scales, left: float) -> list[_Panel]:
    """Requests per second, latency, memory: those that were measured, in one row of panels."""
    latencies = tuple(metric for metric in data.LATENCIES if _has(result, metric))
    wanted: list[tuple[str, tuple[data.Metric, ...], Scale, Format, float, float]] = []
    if _has(result, data.RATE):
        wanted.append((data.title(data.RATE, result), (data.RATE,), scales.rate, axes.count, 1.0, 52))
    if latencies:
        marks = " ".join(f"{shape} {metric.key}" for shape, metric in zip("|◆▶", latencies, strict=False))
        wanted.append((f"latency: {marks}", latencies, scales.latency, axes.time, 1.25, 62))
    if _has(result, data.RSS):
        wanted.append(("RSS, MiB", (data.RSS,), scales.rss, axes.plain, 0.7, 58))
    room = WIDTH - _EDGE - left - _GAP * (len(wanted) - 1)
    shares = sum(share for *_, share, _ in wanted)
    panels = []
    for name, metrics, scale, tick, share, beside in wanted:
        width = room * share / shares
        panels.append(_Panel(name, metrics, scale, tick, left, left + width, beside))
        left += width + _GAP
    return panels


def _has(result: ScenarioResult, metric: data.Metric) -> bool:
    return any(data.values(result, server, metric) for server in data.servers(result))


def _header(svg: Svg, result: ScenarioResult, source: str) -> None:
    what = data.what(result)
    room = WIDTH - 2 * _EDGE
    svg.text(_EDGE, 26, fit(result.name, 16, room / 2), look="ink b", size=16, hint=result.name)
    taken = text_width(fit(result.name, 16, room / 2), 16) + 14
    svg.text(_EDGE + taken, 26, fit(what, 12.5, room - taken), look="dim", size=12.5)
    legend = "dot: a round · line: least to most · tick: median · axes as in every chart of the run,"
    legend += " logarithmic but for RSS"
    source_width = text_width(source, _SMALL)
    svg.text(_EDGE, 46, fit(legend, _SMALL, room - source_width - 16), look="dim", size=_SMALL, hint=legend)
    svg.text(WIDTH - _EDGE, 46, source, look="dim", size=_SMALL, anchor="end")


def _tier(
    svg: Svg,
    result: ScenarioResult,
    panels: Sequence[_Panel],
    names: Sequence[str],
    top: float,
    baseline: str,
) -> None:
    """Panels side by side, with the names of the servers at the left."""
    first = top + _PANEL_HEAD
    bottom = first + len(names) * _ROW
    for index in range(0, len(names), 2):
        svg.rect(_EDGE - 6, first + index * _ROW, WIDTH - 2 * _EDGE + 12, _ROW, "band", round_by=3)
    for panel in panels:
        _axis(svg, panel, first, bottom, baseline)
    for index, name in enumerate(names):
        middle = first + (index + 0.5) * _ROW
        look = "ink b" if data.is_ours(name) else "ink"
        shown = fit(name, 12.5, _NAMES_MOST)
        svg.text(_EDGE, middle + 4, shown, look=look, size=12.5, hint=name if shown != name else "")
        for panel in panels:
            _row(svg, panel, result, name, middle, baseline)


def _axis(svg: Svg, panel: _Panel, first: float, bottom: float, baseline: str) -> None:
    svg.text(panel.left, first - 9, panel.title, look="ink b", size=_SMALL + 0.5)
    if panel.wide:
        heads = ("median", "least–most", fit(f"× {baseline}", _SMALL, 62))
        for x, text in zip(_columns(panel), heads, strict=True):
            svg.text(x, first - 9, text, look="dim", size=_SMALL, anchor="end")
    elif len(panel.metrics) > 1:
        beside = panel.metrics[min(1, len(panel.metrics) - 1)]
        svg.text(panel.right, first - 9, beside.key, look="dim", size=_SMALL, anchor="end")
    taken = panel.left - 100
    for value in panel.scale.ticks(12 if panel.wide else 4):
        x = panel.x(value)
        svg.line(x, first, x, bottom, "axis" if value == 0 else "grid")
        text = panel.tick(value)
        half = text_width(text, _SMALL) / 2
        if x - half > taken:
            svg.text(x, bottom + 16, text, look="dim", size=_SMALL, anchor="middle")
            taken = x + half + 4


def _columns(panel: _Panel) -> tuple[float, float, float]:
    """Where the three columns of numbers end."""
    return panel.plot_right + 62, panel.plot_right + 168, panel.right


def _row(svg: Svg, panel: _Panel, result: ScenarioResult, server: str, middle: float, baseline: str) -> None:
    series = data.colour(server)
    shown = ""
    for index, metric in enumerate(panel.metrics):
        found = data.values(result, server, metric)
        if not found:
            continue
        median = statistics.median(found.values())
        low, high = panel.x(min(found.values())), panel.x(max(found.values()))
        svg.line(low, middle, high, middle, f"range s{series}")
        svg.dots(_dots(panel, found, middle), f"s{series}")
        _median(svg, panel.x(median), middle, index, len(panel.metrics))
        if index < 2:  # of latencies the number beside them is p99
            shown = metric.show(median)
    if panel.wide:
        _numbers(svg, panel, result, server, middle, baseline)
    else:
        svg.text(panel.right, middle + 4, shown or "–", look="dim", size=_SMALL, anchor="end")


def _dots(panel: _Panel, found: Mapping[int, float], middle: float) -> list[tuple[float, float]]:
    """The rounds from top to bottom, so that dots of one value do not hide each other."""
    rounds = sorted(found)
    step = 2 * _SPREAD / max(len(rounds) - 1, 1)
    top = middle - (_SPREAD if len(rounds) > 1 else 0)
    return [(panel.x(found[number]), top + step * place) for place, number in enumerate(rounds)]


def _median(svg: Svg, x: float, middle: float, index: int, of: int) -> None:
    """A tick; where several figures share the row, a shape for each: tick, diamond, triangle."""
    if of == 1 or index == 0:
        svg.line(x, middle - 8, x, middle + 8, "mark")
    elif index == 1:
        svg.shape([(x, middle - 6), (x + 5, middle), (x, middle + 6), (x - 5, middle)], "ink")
    else:
        svg.shape([(x - 5, middle - 5), (x + 5, middle), (x - 5, middle + 5)], "ink")


def _numbers(
    svg: Svg, panel: _Panel, result: ScenarioResult, server: str, middle: float, baseline: str
) -> None:
    found = data.values(result, server, data.CPU)
    look = "ink b" if data.is_ours(server) else "ink"
    ratio = data.ratio(result, baseline, server)
    text = "–" if ratio is None else "1×" if server == baseline else axes.times(ratio.median)
    texts = (
        data.CPU.show(statistics.median(found.values())),
        f"{data.CPU.show(min(found.values()))}–{data.CPU.show(max(found.values()))}",
        text,
    )
    for x, text, one in zip(_columns(panel), texts, (look, "dim", look), strict=True):
        svg.text(x, middle + 4, text, look=one, size=_SMALL + 0.5, anchor="end")


def _describe(result: ScenarioResult, names: Sequence[str], baseline: str) -> str:
    """What the picture shows, in words: for those who are read it."""
    parts = []
    for name in names:
        found = data.values(result, name, data.CPU)
        parts.append(
            f"{name} {data.CPU.show(statistics.median(found.values()))}"
            f" ({data.CPU.show(min(found.values()))} to {data.CPU.show(max(found.values()))})"
        )
    return (
        f"{data.title(data.CPU, result)}, median and least to most of the rounds: {'; '.join(parts)}."
        f" The ratio is {baseline}'s cost over the server's, round by round."
    )
