"""Curves: how a server grows with its workers, and its latency at rates that the load does not bend.

Rules of this file: a curve goes through the medians, and every sample is a dot beside it, so that the
spread can be seen; servers are moved sideways by some pixels, so that they do not hide each other. What
is ideal is a dashed line. A rate that the server did not keep up with has a hollow mark.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from perf import charts_axes as axes
from perf import report_data as data
from perf.charts_axes import Format, Scale
from perf.results import ScenarioResult
from perf.svg import Svg, fit, text_width

WIDTH = 920.0
_EDGE = 16.0
_SMALL = 11.0
_LABELS = 46.0
"""The room for the labels of a panel's upright axis."""
_PLOT_HEIGHT = 230.0
_GAP = 18.0
_LINE = 18.0
_SIDEWAYS = 2.5
_INSET = 16.0
"""The room for that at both ends of the level axis."""
KEPT_UP = 0.97
"""A server that answered less than this part of the rate asked for did not keep up."""

ABOUT_RATES = (
    "The load sends at a rate of its own and measures from the moment a request was due, whether or not the"
    " server was ready for it: a server that stalls cannot make the load wait and so hide it. A rate beyond"
    " what a server can do has no latency worth comparing: the queue grows for as long as the round lasts."
)
Points = dict[float, list[float]]
"""By place on the level axis, the samples."""


@dataclass(frozen=True)
class _Panel:
    title: str
    curves: Mapping[str, Points]
    scale: Scale
    tick: Format
    ideal: tuple[tuple[float, float], ...] = ()


def scaling_chart(
    name: str, by_workers: Mapping[int, ScenarioResult], *, key: str, source: str, warning: str = ""
) -> Svg:
    """Requests per second over workers as speed-up, efficiency, and what the growth costs in CPU time.

    The speed-up is against the server's own median with the fewest workers measured.
    """
    legend = "curve: medians · dot: a round · dashed: ideal · level axis: workers"
    panels = _growth_panels(by_workers)
    return _chart(
        panels,
        level=axes.from_zero(float(max(by_workers))),
        places=[float(workers) for workers in by_workers],
        place=lambda value: f"{value:.0f}",
        heading=f"{name}, over workers",
        note=f"WARNING: {warning}" if warning else legend,
        description=_describe_growth(panels[0].curves),
        key=key,
        source=source,
    )


def _growth_panels(by_workers: Mapping[int, ScenarioResult]) -> list[_Panel]:
    """The speed-up first."""
    speed, efficiency, cost = _growth(by_workers)
    fewest, most = float(min(by_workers)), float(max(by_workers))
    return [
        _Panel(
            "speed-up",
            speed,
            axes.from_zero(_highest(speed, most)),
            axes.plain,
            ((fewest, fewest), (most, most)),
        ),
        _Panel(
            "efficiency",
            efficiency,
            axes.from_zero(_highest(efficiency, 1.0)),
            lambda value: f"{value:.0%}",
            ((fewest, 1.0), (most, 1.0)),
        ),
        _Panel(
            data.title(data.CPU, by_workers[min(by_workers)]),
            cost,
            axes.from_zero(_highest(cost, 0.0)),
            axes.plain,
        ),
    ]


def _highest(curves: Mapping[str, Points], least: float) -> float:
    """Of all samples, or ``least`` if that is higher."""
    return max(
        [least, *(value for curve in curves.values() for values in curve.values() for value in values)]
    )


def _growth(
    by_workers: Mapping[int, ScenarioResult],
) -> tuple[dict[str, Points], dict[str, Points], dict[str, Points]]:
    """By server: speed-up, efficiency (speed-up by workers) and CPU per request, by number of workers."""
    speed: dict[str, Points] = {}
    efficiency: dict[str, Points] = {}
    cost: dict[str, Points] = {}
    base: dict[str, tuple[int, float]] = {}
    for workers in sorted(by_workers):
        result = by_workers[workers]
        for server in data.servers(result):
            rates = list(data.values(result, server, data.RATE).values())
            first, rate = base.setdefault(server, (workers, statistics.median(rates)))
            found = [first * one / rate for one in rates]
            speed.setdefault(server, {})[workers] = found
            efficiency.setdefault(server, {})[workers] = [one / workers for one in found]
            cost.setdefault(server, {})[workers] = list(data.values(result, server, data.CPU).values())
    return speed, efficiency, cost


def _describe_growth(speed: Mapping[str, Points]) -> str:
    texts = []
    for server, curve in speed.items():
        most = max(curve)
        gain = statistics.median(curve[most])
        texts.append(f"{server} with {most:.0f} workers {gain:.2f} times, {gain / most:.0%} of the ideal")
    return f"Speed-up by server: {'; '.join(texts)}."


def rate_chart(name: str, by_rate: Mapping[float, ScenarioResult], *, key: str, source: str) -> Svg:
    """Latencies over the rate of the load, on one logarithmic scale."""
    curves = {metric: _latencies(by_rate, metric) for metric in data.LATENCIES}
    everything = [
        value
        for one in curves.values()
        for curve in one.values()
        for values in curve.values()
        for value in values
    ]
    scale = axes.factors(everything)
    panels = [
        _Panel(metric.title, curves[metric], scale, axes.time) for metric in data.LATENCIES if curves[metric]
    ]
    rates = list(by_rate)
    wide = min(rates) > 0 and max(rates) > 10 * min(rates)
    note = (
        "curve: medians · dot: a round · hollow: did not keep up · level axis: requests per second asked for"
    )
    late = _lateness(by_rate)
    return _chart(
        panels,
        level=axes.factors(rates) if wide else axes.from_zero(max(rates)),
        places=rates,
        place=axes.count,
        heading=f"{name}, latency at fixed rates",
        note=note + (f" · load generator late by up to {axes.time(late)}" if late is not None else ""),
        description=_describe_rates(curves, by_rate),
        key=key,
        source=source,
        hollow=_behind(by_rate),
    )


def _latencies(by_rate: Mapping[float, ScenarioResult], metric: data.Metric) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for rate, result in by_rate.items():
        for server in data.servers(result):
            known = [value for value in data.values(result, server, metric).values() if value > 0]
            if known:
                found.setdefault(server, {})[rate] = known
    return found


def _behind(by_rate: Mapping[float, ScenarioResult]) -> set[tuple[str, float]]:
    """The servers that did not keep up, and at which rate."""
    found = set()
    for rate, result in by_rate.items():
        for server in data.servers(result):
            if statistics.median(data.values(result, server, data.RATE).values()) < KEPT_UP * rate:
                found.add((server, rate))
    return found


def _lateness(by_rate: Mapping[float, ScenarioResult]) -> float | None:
    """The worst of the rounds, in microseconds."""
    known = [
        sample.late_us
        for result in by_rate.values()
        for samples in result.samples.values()
        for sample in samples
        if sample.late_us is not None
    ]
    return max(known, default=None)


def _describe_rates(
    curves: Mapping[data.Metric, Mapping[str, Points]], by_rate: Mapping[float, ScenarioResult]
) -> str:
    texts = []
    for server in _order(curves.values()):
        for rate in by_rate:
            figures = [
                f"{metric.key} {axes.time(statistics.median(curves[metric][server][rate]))}"
                for metric in curves
                if rate in curves[metric].get(server, {})
            ]
            if figures:
                texts.append(f"{server} at {rate:g}/s {', '.join(figures)}")
    return f"Latency, medians of the rounds: {'; '.join(texts)}."


def _order(curves: Iterable[Mapping[str, Points]]) -> list[str]:
    """Every server once; ours last, so that it is drawn above the others."""
    names: dict[str, None] = {}
    for one in curves:
        names.update(dict.fromkeys(one))
    return sorted(names, key=lambda name: (data.is_ours(name), data.colour(name), name))


def _chart(
    panels: Sequence[_Panel],
    *,
    level: Scale,
    places: Sequence[float],
    place: Format,
    heading: str,
    note: str,
    description: str,
    key: str,
    source: str,
    hollow: Collection[tuple[str, float]] = (),
) -> Svg:
    names = _order([panel.curves for panel in panels])
    lines = _legend_lines(names)
    top = 58 + len(lines) * _LINE + 26
    svg = Svg(WIDTH, top + _PLOT_HEIGHT + 34, title=heading, description=description, key=key)
    room = WIDTH - 2 * _EDGE
    svg.text(_EDGE, 26, fit(heading, 16, room - text_width(source, _SMALL) - 12), look="ink b", size=16)
    svg.text(WIDTH - _EDGE, 26, source, look="dim", size=_SMALL, anchor="end")
    svg.text(_EDGE, 46, fit(note, _SMALL, room), look="dim", size=_SMALL, hint=note)
    _legend(svg, lines, 66)
    width = (room - _GAP * (len(panels) - 1)) / len(panels)
    for at, panel in enumerate(panels):
        box = _Box(_EDGE + at * (width + _GAP) + _LABELS, top, width - _LABELS - 8, _PLOT_HEIGHT, level)
        _frame(svg, panel, box, places, place)
        for index, name in enumerate(names):
            _curve(svg, panel, box, name, (index - (len(names) - 1) / 2) * _SIDEWAYS, hollow)
    return svg


@dataclass(frozen=True)
class _Box:
    """Where a panel is drawn."""

    left: float
    top: float
    width: float
    height: float
    level: Scale

    def x(self, value: float) -> float:
        return self.left + _INSET + self.level.at(value) * (self.width - 2 * _INSET)

    def y(self, scale: Scale, value: float) -> float:
        return self.top + (1 - scale.at(value)) * self.height


def _legend_lines(names: Sequence[str]) -> list[list[tuple[float, str]]]:
    """The names with their places, as many on a line as go there. Ours first."""
    lines: list[list[tuple[float, str]]] = [[]]
    x = _EDGE
    for name in sorted(names, key=lambda name: (data.colour(name), data.is_variant(name), name)):
        width = 30 + text_width(fit(name, _SMALL, 200), _SMALL) + 14
        if x + width > WIDTH - _EDGE and lines[-1]:
            lines.append([])
            x = _EDGE
        lines[-1].append((x, name))
        x += width
    return lines


def _legend(svg: Svg, lines: Sequence[Sequence[tuple[float, str]]], top: float) -> None:
    for number, line in enumerate(lines):
        y = top + number * _LINE
        for x, name in line:
            series = data.colour(name)
            svg.line(x, y, x + 22, y, f"line s{series}{_dash(name)}")
            _mark(svg, x + 11, y, name, hollow=False)
            look = "ink b" if data.is_ours(name) else "ink"
            svg.text(x + 28, y + 4, fit(name, _SMALL, 200), look=look, size=_SMALL)


def _frame(svg: Svg, panel: _Panel, box: _Box, places: Sequence[float], place: Format) -> None:
    svg.text(box.left, box.top - 10, panel.title, look="ink b", size=_SMALL + 0.5)
    for value in panel.scale.ticks(6):
        y = box.y(panel.scale, value)
        svg.line(box.left, y, box.left + box.width, y, "grid")
        svg.text(box.left - 6, y + 4, panel.tick(value), look="dim", size=_SMALL, anchor="end")
    bottom = box.top + box.height
    svg.line(box.left, bottom, box.left + box.width, bottom, "axis")
    taken = box.left - 100
    for value in sorted(places):
        x, text = box.x(value), place(value)
        half = text_width(text, _SMALL) / 2
        if x - half > taken:
            svg.line(x, bottom, x, bottom + 4, "axis")
            svg.text(x, bottom + 18, text, look="dim", size=_SMALL, anchor="middle")
            taken = x + half + 4
    if panel.ideal:
        svg.polyline([(box.x(x), box.y(panel.scale, y)) for x, y in panel.ideal], "thin axis dash")


def _curve(
    svg: Svg, panel: _Panel, box: _Box, server: str, aside: float, hollow: Collection[tuple[str, float]]
) -> None:
    curve = panel.curves.get(server)
    if not curve:
        return
    series = data.colour(server)
    middles = [
        (x, box.x(x) + aside, box.y(panel.scale, statistics.median(values))) for x, values in curve.items()
    ]
    svg.dots(
        [(box.x(x) + aside, box.y(panel.scale, value)) for x, values in curve.items() for value in values],
        f"s{series}",
    )
    if len(middles) > 1:
        svg.polyline([(x, y) for _, x, y in middles], f"line s{series}{_dash(server)}")
    for at, x, y in middles:
        _mark(svg, x, y, server, hollow=(server, at) in hollow)


def _dash(server: str) -> str:
    """Revisions and variants have their server's colour and mark; their curve is dashed."""
    return " dash" if data.is_variant(server) else ""


def _mark(svg: Svg, x: float, y: float, server: str, *, hollow: bool) -> None:
    """A shape for each series, so that colour is not all that tells them apart."""
    series = data.colour(server)
    corners = (0, 4, 3, 6, 5)[series % 5]
    if corners == 0:
        svg.circle(x, y, 4, f"hollow s{series}" if hollow else f"f{series}")
        return
    turn = -math.pi / 2
    points = [
        (
            x + 5 * math.cos(turn + 2 * math.pi * n / corners),
            y + 5 * math.sin(turn + 2 * math.pi * n / corners),
        )
        for n in range(corners)
    ]
    svg.shape(points, f"hollow s{series}" if hollow else f"f{series}")
