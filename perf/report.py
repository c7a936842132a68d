"""Pages of result files: one HTML file that needs nothing else, or a Markdown page beside its charts.

Rules of this file: it reads runs and writes files; what a page says is report_words.py's. The same files
make the same page, byte for byte, and nothing of where they lay gets into it but their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perf import charts as drawing
from perf import report_html, report_markdown
from perf.report_data import Run


def write_html(runs: Sequence[Run], out: Path, *, baseline: str, embed: bool) -> list[Path]:
    """Write the page; with ``embed`` the raw samples are in it. Raises OSError."""
    out.write_text(report_html.page(runs, baseline=baseline, embed=embed), encoding="utf-8")
    return [out]


def write_markdown(runs: Sequence[Run], out: Path, *, baseline: str) -> list[Path]:
    """Write the page, and its charts into a folder beside it: ``charts``, or the page's own name if that is
    not README. Raises OSError."""
    folder = out.parent / ("charts" if out.stem == "README" else out.stem)
    made = drawing.of_runs(runs, baseline=baseline)
    written = [path for charts in made for path in drawing.write(charts, folder)]
    text = report_markdown.page(runs, made, folder.name, baseline=baseline)
    out.write_text(text, encoding="utf-8")
    return [out, *written]
