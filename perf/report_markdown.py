"""The Markdown page: what is committed with a run, to be read where the repository is read.

Rules of this file: its charts are files beside it, named relative to it. What comes from a result file is
escaped, so that no name of a server can become a heading, a link or markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from perf import charts_lines, report_words
from perf import report_data as data
from perf.charts import Chart
from perf.report_data import Run
from perf.report_words import Strong, Table, Text

_MARKUP = re.compile(r"([\\`*_\[\]#|<>~&])")
_BREAKS = re.compile(r"[\r\n]+")
_BEGINNING = re.compile(r"^(\s*)(?:([-+=])(?=[-+=\s]|$)|(\d+)([.)])(?=\s|$))")
"""What begins a list or underlines a heading, at the beginning of a line."""


def page(runs: Sequence[Run], charts: Sequence[Sequence[Chart]], folder: str, *, baseline: str) -> str:
    """The document. ``charts`` are those of each run, written as files into ``folder`` beside the page."""
    reports = [run.report for run in runs]
    lines = [f"# {data.OURS}: what a request costs", ""]
    lines += [f"{escape(report_words.headline(reports, baseline))}", ""]
    for section in report_words.sections(reports, baseline):
        lines += [f"## {escape(section.title)}", ""]
        lines += [f"- {_text(item)}" for item in section.items] or [escape(section.nothing)]
        lines.append("")
    lines += [escape(report_words.rule_of_verdicts()), ""]
    for run, made in zip(runs, charts, strict=True):
        lines += _run(run, made, folder, len(runs), baseline)
    lines += ["## How to read it", ""]
    for text in dict.fromkeys(report_words.method(part) for run in runs for part in run.parts):
        lines += [escape(text), ""]
    lines += [escape(report_words.READING), ""]
    for run in runs:
        lines += _circumstances(run, len(runs))
    return "\n".join(lines).rstrip("\n") + "\n"


def _run(run: Run, made: Sequence[Chart], folder: str, of: int, baseline: str) -> Iterable[str]:
    name = f": {run.label}" if of > 1 else ""
    yield from (f"## Results{escape(name)}", "")
    for warning in dict.fromkeys(text for part in run.parts for text in report_words.warnings(part)):
        yield from (f"**{escape(warning)}**", "")
    for chart in made:
        if not chart.about:
            yield from (_image(chart, folder), "")
    by_about = {chart.about: chart for chart in made}
    for result in data.measured(run.report):
        yield from (f"### {escape(result.name)}", "", _image(by_about[result.name], folder), "")
        yield from _folded("Figures", report_words.figures(result, baseline))
        for note in report_words.notes(result):
            yield from (f"{escape(note)}.", "")
    scalings = data.scalings(run.report)
    if scalings:
        yield from (f"## Over workers{escape(name)}", "")
    for scenario, by_workers in scalings.items():
        yield from (f"### {escape(scenario)}, over workers", "", _image(by_about[f"{scenario}×"], folder), "")
        yield from _folded("Figures", report_words.growth(by_workers))
    rates = data.fixed_rates(run.report)
    if rates:
        yield from (f"## At fixed rates{escape(name)}", "", escape(charts_lines.ABOUT_RATES), "")
    for scenario, by_rate in rates.items():
        single = next(iter(by_rate.values())).name
        chart = by_about[f"{scenario}@" if len(by_rate) > 1 else single]
        yield from (f"### {escape(scenario)}, at fixed rates", "", _image(chart, folder), "")
        yield from _folded("Figures", report_words.rates(by_rate))


def _image(chart: Chart, folder: str) -> str:
    return f"![{escape(chart.svg.title)}]({folder}/{chart.name}.svg)"


def _folded(title: str, table: Table) -> Iterable[str]:
    """A table that opens when it is asked for: the chart above it has the same figures."""
    yield from (f"<details><summary>{title}</summary>", "", *_table(table), "", "</details>", "")


def _table(table: Table) -> Iterable[str]:
    yield "| " + " | ".join(map(escape, table.heads)) + " |"
    yield "|" + "|".join("---" if at < table.words else "--:" for at in range(len(table.heads))) + "|"
    for row in table.rows:
        strong = bool(row) and row[0] in table.strong
        cells = [f"**{escape(text)}**" if strong and at == 0 else escape(text) for at, text in enumerate(row)]
        yield "| " + " | ".join(cells) + " |"


def _circumstances(run: Run, of: int) -> Iterable[str]:
    name = f": {run.label}" if of > 1 else ""
    yield from (f"## Circumstances{escape(name)}", "")
    links = ", ".join(f"[{escape(path.name)}](<{_link(path.name)}>)" for path in run.paths)
    yield from (f"Raw samples: {links}.", "")
    left_out = report_words.skipped(run.report)
    yield from ("**Skipped, and why**", "")
    if left_out.rows:
        yield from (*_table(left_out), "")
    else:
        yield from ("Nothing.", "")
    yield from _folded("Servers", report_words.versions(run.report))
    for path, part in zip(run.paths, run.parts, strict=True):
        yield from _folded(f"Machine and settings of {escape(path.name)}", report_words.host(part))


def _link(name: str) -> str:
    return re.sub(r"[<>\r\n]", "", name)


def _text(text: Text) -> str:
    return "".join(
        f"**{escape(piece.text)}**" if isinstance(piece, Strong) else escape(piece) for piece in text
    )


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a paragraph as in a cell of a table; addresses are no links."""
    text = _MARKUP.sub(r"\\\1", _BREAKS.sub(" ", text))
    text = text.replace("://", ":&#47;/").replace("www.", "www&#46;")
    return _BEGINNING.sub(lambda found: _quoted(*found.groups(default="")), text)


def _quoted(space: str, sign: str, digits: str, stop: str) -> str:
    return f"{space}\\{sign}" if sign else f"{space}{digits}\\{stop}"
