"""The HTML page: everything about some runs in one file that needs no other.

Rules of this file: no script, no font, no image and no style from elsewhere, and the page forbids them
itself; so it works from a disk, in a mail and behind any policy. What comes from a result file is escaped
where it is put in. Light and dark follow the reader's system; on paper it is light.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from html import escape as _escape

from perf import charts as drawing
from perf import charts_lines, report_words, svg
from perf import report_data as data
from perf.charts import Chart
from perf.report_data import Run
from perf.report_words import Strong, Table, Text
from perf.results import Report

TITLE = f"{data.OURS}: what a request costs"
_FULL = 900
"""A picture at least this wide is drawn as wide as the page."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c2128;--dim:#57606a;--rule:#dde2e7;--band:#f4f6f8;
--accent:#c2410c;--win:#1a7f4b;--level:#6b7680;--framework:#8a5a00;--lose:#b3261e}
@media screen and (prefers-color-scheme:dark){:root{--page:#0f1216;--ink:#e6eaef;--dim:#9aa4b0;--rule:#2b333d;
--band:#181d24;--accent:#fb8a4c;--win:#5cc98d;--level:#98a3ae;--framework:#dcb43c;--lose:#ff8a7a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 FONT}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:22px;margin:52px 0 12px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:17px;margin:36px 0 8px}
p{margin:0 0 12px;max-width:78ch}
.dim,figcaption,.facts{color:var(--dim)}.facts{font-size:14px;margin:0 0 2px}
.lead{font-size:19px;line-height:1.45;max-width:66ch;margin:18px 0 22px}
a{color:var(--accent)}
nav{font-size:14px;line-height:1.9;margin:0 0 8px}nav a{margin-right:14px;white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:16px;margin:0 0 12px}
.card{border:1px solid var(--rule);border-top:4px solid var(--tone);border-radius:8px;padding:14px 18px 8px;
break-inside:avoid}
.card h3{margin:0 0 8px;font-size:16px;color:var(--tone)}
.card ul{margin:0;padding:0;list-style:none;font-size:14.5px}
.card li{padding:6px 0;border-top:1px solid var(--rule);line-height:1.4}.card li:first-child{border-top:0}
.win{--tone:var(--win)}.level{--tone:var(--level)}.framework{--tone:var(--framework)}.lose{--tone:var(--lose)}
figure{margin:12px 0 16px;break-inside:avoid}
figure.full svg{width:100%}
figure svg{display:block;max-width:100%;height:auto;border:1px solid var(--rule);border-radius:8px}
.wide{overflow-x:auto;margin:0 0 10px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:4px 8px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{font-weight:600;color:var(--dim);border-bottom:2px solid var(--rule)}
.word{text-align:left}.long{white-space:normal;overflow-wrap:anywhere;min-width:12ch}
tr.strong td{font-weight:600}tr.strong td:first-child{color:var(--accent)}
tbody tr:nth-child(odd){background:var(--band)}
.warning{border-left:4px solid var(--lose);padding:2px 12px}
.note{font-size:14px;color:var(--dim);margin:0 0 14px;max-width:100ch}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
footer{margin-top:56px;padding-bottom:48px;font-size:14px;color:var(--dim)}
@media print{body{font-size:11px}main,header,footer{max-width:none;padding:0}nav{display:none}
h2{margin-top:24px}h3{break-after:avoid}table{font-size:9px}th,td{padding:2px 5px}.wide{overflow:visible}
.cards{grid-template-columns:1fr 1fr}}
"""


def page(runs: Sequence[Run], *, baseline: str, embed: bool) -> str:
    """The whole document. ``embed`` puts the raw samples in, as JSON."""
    reports = [run.report for run in runs]
    sections = report_words.sections(reports, baseline)
    body = [_header(runs, baseline), "<main>", _nav(runs)]
    body.append(f'<h2 id="summary">Summary</h2><p class="note">{escape(report_words.rule_of_verdicts())}</p>')
    body.append(f'<div class="cards">{"".join(map(_card, sections))}</div>')
    for at, run in enumerate(runs):
        body += _run(run, at, len(runs), baseline)
    body += _reading(runs)
    for at, run in enumerate(runs):
        body += _circumstances(run, at, len(runs))
    body.append("</main>")
    body.append(_footer(runs, embed))
    return "\n".join([_head(), *body, "</body>", "</html>"]) + "\n"


def _head() -> str:
    looks = _STYLE.replace("FONT", svg.FONT) + svg.style("figure ")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(TITLE)}</title>\n<style>{looks}</style>\n</head>\n<body>"
    )


def _header(runs: Sequence[Run], baseline: str) -> str:
    facts = dict.fromkeys(_facts(part) for run in runs for part in run.parts[:1])
    lines = "".join(f'<p class="facts">{escape(fact)}</p>' for fact in facts)
    lead = report_words.headline([run.report for run in runs], baseline)
    return f'<header><h1>{escape(TITLE)}</h1>{lines}<p class="lead">{escape(lead)}</p></header>'


def _facts(report: Report) -> str:
    """The machine in one line."""
    host = report.host
    parts = [
        str(report.started)[:16].replace("T", " "),
        f"{host.get('cpu', '?')}, {host.get('cpus_allowed', '?')} CPUs",
        f"Linux {host.get('kernel', '?')}",
        f"Python {host.get('python', '?')}",
        drawing.source_of(report).partition(" · ")[2],
    ]
    return " · ".join(part for part in parts if part)


def _nav(runs: Sequence[Run]) -> str:
    links = ['<a href="#summary">Summary</a>']
    for at, run in enumerate(runs):
        links += [
            f'<a href="#{_anchor(at, one.name)}">{escape(one.name)}</a>' for one in data.measured(run.report)
        ]
        if data.scalings(run.report):
            links.append(f'<a href="#workers-{at}">workers</a>')
        if data.fixed_rates(run.report):
            links.append(f'<a href="#rates-{at}">fixed rates</a>')
    links += ['<a href="#reading">How to read it</a>', '<a href="#circumstances-0">Circumstances</a>']
    return f'<nav aria-label="Contents">{" ".join(links)}</nav>'


def _anchor(at: int, name: str) -> str:
    return f"run-{at}-{drawing.file_stem(name)}"


def _card(section: report_words.Section) -> str:
    items = "".join(f"<li>{_text(item)}</li>" for item in section.items)
    items = items or f'<li class="dim">{escape(section.nothing)}</li>'
    return f'<section class="card {section.tone}"><h3>{escape(section.title)}</h3><ul>{items}</ul></section>'


def _run(run: Run, at: int, of: int, baseline: str) -> Iterable[str]:
    """Overviews, scenarios and curves of one run."""
    made = drawing.charts(run.report, prefix=f"run-{at}-", baseline=baseline)
    name = f": {run.label}" if of > 1 else ""
    yield f"<h2>Results{escape(name)}</h2>"
    for warning in dict.fromkeys(text for part in run.parts for text in report_words.warnings(part)):
        yield f'<p class="warning">{escape(warning)}</p>'
    yield from (_figure(chart) for chart in made if not chart.about)
    by_about = {chart.about: chart for chart in made}
    for result in data.measured(run.report):
        yield f'<h3 id="{_anchor(at, result.name)}">{escape(result.name)}</h3>'
        yield _figure(by_about[result.name])
        yield _table(report_words.figures(result, baseline))
        yield from (f'<p class="note">{escape(note)}</p>' for note in report_words.notes(result))
    scalings = data.scalings(run.report)
    if scalings:
        yield f'<h2 id="workers-{at}">Over workers{escape(name)}</h2>'
    for scenario, by_workers in scalings.items():
        yield f"<h3>{escape(scenario)}</h3>"
        yield _figure(by_about[f"{scenario}×"])
        yield _table(report_words.growth(by_workers))
    rates = data.fixed_rates(run.report)
    if rates:
        yield f'<h2 id="rates-{at}">At fixed rates{escape(name)}</h2>'
        yield f"<p>{escape(charts_lines.ABOUT_RATES)}</p>"
    for scenario, by_rate in rates.items():
        yield f"<h3>{escape(scenario)}</h3>"
        single = next(iter(by_rate.values())).name
        yield _figure(by_about[f"{scenario}@" if len(by_rate) > 1 else single])
        yield _table(report_words.rates(by_rate))


def _figure(chart: Chart) -> str:
    look = ' class="full"' if chart.svg.width >= _FULL else ""
    return f"<figure{look}>{chart.svg.render(alone=False)}</figure>"


def _table(table: Table) -> str:
    heads = "".join(_cell("th", text, at < table.words) for at, text in enumerate(table.heads))
    rows = []
    for row in table.rows:
        strong = ' class="strong"' if row and row[0] in table.strong else ""
        cells = "".join(_cell("td", text, at < table.words) for at, text in enumerate(row))
        rows.append(f"<tr{strong}>{cells}</tr>")
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{body}</table></div>'


def _cell(tag: str, text: str, word: bool) -> str:
    look = ' class="word long"' if word and len(text) > 24 else ' class="word"' if word else ""
    return f"<{tag}{look}>{escape(text)}</{tag}>"


def _reading(runs: Sequence[Run]) -> Iterable[str]:
    yield '<h2 id="reading">How to read it</h2>'
    yield from (
        f"<p>{escape(text)}</p>"
        for text in dict.fromkeys(report_words.method(part) for run in runs for part in run.parts)
    )
    yield f"<p>{escape(report_words.READING)}</p>"


def _circumstances(run: Run, at: int, of: int) -> Iterable[str]:
    name = f": {run.label}" if of > 1 else ""
    yield f'<h2 id="circumstances-{at}">Circumstances{escape(name)}</h2>'
    yield "<h3>Servers</h3>" + _table(report_words.versions(run.report))
    left_out = report_words.skipped(run.report)
    yield "<h3>Skipped, and why</h3>"
    yield _table(left_out) if left_out.rows else "<p>Nothing.</p>"
    for path, part in zip(run.paths, run.parts, strict=True):
        yield f"<h3>Machine and settings: {escape(path.name)}</h3>" + _table(report_words.host(part))


def _footer(runs: Sequence[Run], embed: bool) -> str:
    names = ", ".join(f"<code>{escape(path.name)}</code>" for run in runs for path in run.paths)
    where = "They are in this page too, as JSON: see its source." if embed else ""
    parts = [part for run in runs for part in run.parts] if embed else []
    blocks = [_embedded(part, at) for at, part in enumerate(parts)]
    return "\n".join([f"<footer><p>Raw samples: {names}. {where}</p></footer>", *blocks])


def _embedded(report: Report, at: int) -> str:
    """The report as JSON that cannot end its element: no ``<`` is left in it."""
    text = json.dumps(dataclasses.asdict(report), ensure_ascii=True, separators=(",", ":"))
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="data-{at}">{text}</script>'


def _text(text: Text) -> str:
    return "".join(
        f"<strong>{escape(piece.text)}</strong>" if isinstance(piece, Strong) else escape(piece)
        for piece in text
    )


def escape(text: str) -> str:
    """For element content and attributes in double quotes."""
    return _escape(text, quote=True)
