"""The commands that read result files: charts, compare, report.

Rules of this file: flags, messages and exit codes, as in cli.py; they measure nothing. What is asked for
goes to standard output, everything else to standard error. Exit codes: 0 done, 1 a regression, 2 a wrong
flag or file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from perf import charts as drawing
from perf import compare as comparing
from perf import report as pages
from perf import report_data as data
from perf import results
from perf.compare import Change
from perf.peers import BASELINE
from perf.report_data import Run
from perf.results import Report

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option(
    "--out", type=_FOLDER, help="Where to put them.  [default: a folder beside, of the first's name]"
)
@click.option("--baseline", default=BASELINE, show_default=True, help="The server that ratios are against.")
def charts(files: tuple[Path, ...], out: Path | None, baseline: str) -> None:
    """Draw the charts of files of 'bench --json' as SVG: overviews, one for each scenario, curves."""
    made = drawing.of_runs(_runs(files), baseline=baseline)
    if not any(made):
        raise click.UsageError("nothing was measured in these files, so there is nothing to draw")
    folder = out if out is not None else files[0].with_suffix("")
    try:
        for path in drawing.write([chart for of_run in made for chart in of_run], folder):
            click.echo(path)
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from None


@click.command()
@click.argument("files", nargs=-1, type=_FILE, metavar="BEFORE AFTER | FILE... --pair A,B")
@click.option("--before", type=_FILE, multiple=True, help="A file of the older side; may be repeated.")
@click.option("--after", type=_FILE, multiple=True, help="A file of the newer side; may be repeated.")
@click.option("--pair", help="Two servers of the same files, in the same rounds: shardserve@main,shardserve.")
@click.option("--relative-to", help=f"Compare costs relative to this server, such as {BASELINE}.")
@click.option("--servers", help="Comma-separated: judge these alone.")
@click.option(
    "--limit",
    type=click.FloatRange(0),
    default=round((comparing.REGRESSION_LIMIT - 1) * 100),
    show_default=True,
    help="Percent by which CPU per request may rise.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def compare(
    files: tuple[Path, ...],
    before: tuple[Path, ...],
    after: tuple[Path, ...],
    pair: str | None,
    relative_to: str | None,
    servers: str | None,
    limit: float,
    as_json: bool,
) -> None:
    """Compare two sides of 'bench --json'; exit 1 if anything got more than the limit dearer."""
    factor = 1 + limit / 100
    if pair is not None:
        if before or after or relative_to or not files:
            raise click.UsageError("--pair takes files alone: compare FILE... --pair A,B")
        found, shown = _of_pair(list(files), pair, factor)
        notes: list[str] = []
    else:
        found, shown, notes = _of_sides(*_sides(files, before, after), relative_to, factor)
    wanted = set(servers.split(",")) if servers else None
    found, shown = (
        [one for one in some if wanted is None or one.server in wanted] for some in (found, shown)
    )
    if not found:
        raise click.UsageError("the two sides have no server and scenario in common")
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(_json(found, shown, notes, limit))
    else:
        click.echo(comparing.render(found) + "\n\n" + comparing.render_shown(shown, factor))
    if any(change.verdict == "REGRESSION" for change in found):
        raise SystemExit(1)


def _sides(
    files: Sequence[Path], before: Sequence[Path], after: Sequence[Path]
) -> tuple[list[Path], list[Path]]:
    """The files of each side, from whichever way they were named."""
    if files and (before or after):
        raise click.UsageError("name the files either bare or with --before and --after")
    if len(files) == 2:
        return [files[0]], [files[1]]
    if files or not before or not after:
        raise click.UsageError("two files, or --before and --after with as many as there are, or --pair")
    return list(before), list(after)


def _of_sides(
    before: list[Path], after: list[Path], relative_to: str | None, factor: float
) -> tuple[list[Change], list[Change], list[str]]:
    old, new = _load(before), _load(after)
    notes = comparing.differences(old, new)
    if notes and relative_to is None:
        notes.append(f"`--relative-to {BASELINE}` takes much of the machine out of the comparison")
    found = list(comparing.changes(old, new, relative_to, limit=factor))
    shown = [
        change
        for metric in comparing.SHOWN
        for change in comparing.changes(old, new, relative_to, metric=metric, limit=factor)
    ]
    return found, shown, notes


def _of_pair(files: list[Path], pair: str, factor: float) -> tuple[list[Change], list[Change]]:
    names = [name.strip() for name in pair.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise click.BadParameter("two different servers, the older first: A,B", param_hint="--pair")
    report = _load(files)
    known = {name for result in report.scenarios for name in result.samples}
    for name in names:
        if name not in known:
            have = ", ".join(sorted(known))
            raise click.BadParameter(f"{name} was not measured; there are: {have}", param_hint="--pair")
    found = list(comparing.pair_changes(report, *names, limit=factor))
    shown = [
        change
        for metric in comparing.SHOWN
        for change in comparing.pair_changes(report, *names, metric=metric, limit=factor)
    ]
    return found, shown


def _json(found: Sequence[Change], shown: Sequence[Change], notes: Sequence[str], limit: float) -> str:
    document = {
        "limit_percent": limit,
        "regressions": sum(change.verdict == "REGRESSION" for change in found),
        "notes": list(notes),
        "changes": [change.to_json() for change in (*found, *shown)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--out", type=_FILE, help="The page.  [default: report.html, or README.md with --markdown]")
@click.option("--markdown", is_flag=True, help="A Markdown page, and beside it its charts as SVG files.")
@click.option("--data/--no-data", "embed", default=False, show_default=True, help="Put the raw samples in.")
@click.option("--baseline", default=BASELINE, show_default=True, help="The server that ratios are against.")
def report(files: tuple[Path, ...], out: Path | None, markdown: bool, embed: bool, baseline: str) -> None:
    """Make one page of one or more files of 'bench --json': findings, charts, tables, circumstances."""
    if markdown and embed:
        raise click.UsageError("--data is for the HTML page; a Markdown page names its files")
    runs = _runs(files)
    if not any(data.has_anything(run.report) for run in runs):
        raise click.UsageError("nothing was measured in these files")
    out = out or Path("README.md" if markdown else "report.html")
    try:
        if markdown:
            written = pages.write_markdown(runs, out, baseline=baseline)
        else:
            written = pages.write_html(runs, out, baseline=baseline, embed=embed)
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from None
    for path in written:
        click.echo(path)


def _load(files: Sequence[Path]) -> Report:
    """The files as one report; one that cannot be read is a usage error that names it."""
    try:
        return data.merge([results.load(file) for file in files])
    except results.ResultError as error:
        raise click.UsageError(str(error)) from None


def _runs(files: Sequence[Path]) -> list[Run]:
    """The files, those of one tree and machine as one run."""
    return data.runs([(file, _load([file])) for file in files])


COMMANDS = (charts, compare, report)
"""What cli.py adds to its own."""
