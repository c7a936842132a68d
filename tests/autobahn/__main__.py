"""Autobahn's fuzzing client against a server: a table by section, and why a case is not OK.

    python -m tests.autobahn [CASE …] [--smoke] [--server NAME …] [--reuse] [--write-docs] [--prepare]

CASE is ``7.1.5``, ``12.*`` or ``7`` for a section; none is the whole suite. The exit code is 1 if a case of
shardserve is other than OK and reasons.py does not say why, and 2 if the suite could not be run. Uvicorn is
there for comparison and never fails. The reports are in .build/autobahn/all, or part, as pages, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.progress import Progress
from tests.autobahn import docs, results, servers, suite
from tests.autobahn.reasons import REASONS
from tests.autobahn.results import Case

REPORTS = suite.ROOT / ".build" / "autobahn"
WHOLE, PART = REPORTS / "all", REPORTS / "part"
CHOSEN = "chosen.json"
"""Among the reports of a run that came to its end: the cases that should be in them."""
OURS = "shardserve"
LONG = ("9", "12", "13")
# All but the long sections, and of those what takes well under a second each: under a minute together.
SMOKE = ("9.1.1", "9.2.1", "9.3.9", "9.4.9", "9.5.6", "9.7.1", "9.8.1", "12.1.1", "12.2.1", "12.4.1",
         "13.1.1", "13.2.1", "13.3.1", "13.4.1", "13.5.1", "13.6.1", "13.7.1")  # fmt: skip


def smoke_cases() -> list[str]:
    return [*(str(n) for n in results.SECTIONS if str(n) not in LONG), *SMOKE]


def run(python: str, server: str, cases: Sequence[str], folder: Path) -> list[Case]:
    """Start the server, run the cases against it, stop it."""
    reports = folder / server
    progress: Progress | None = None

    def on_case(case: str, total: int) -> None:
        nonlocal progress
        progress = progress or Progress(total)
        progress.step(f"{server}: {case}")

    start: Any = servers.SERVERS[server]
    with start(folder / f"{server}-log") as url:
        try:
            expected = suite.run(python, server, url, reports, cases=cases, on_case=on_case)
        finally:
            if progress is not None:
                progress.close()
    (reports / CHOSEN).write_text(json.dumps(expected))
    return results.load(reports, server, expected)


def last_run(server: str) -> list[Case]:
    """What the last whole run against it found."""
    try:
        expected = json.loads((WHOLE / server / CHOSEN).read_text())
    except FileNotFoundError:
        raise suite.SuiteError(f"the whole suite has not been run against {server}") from None
    return results.load(WHOLE / server, server, expected)


def report(server: str, cases: Sequence[Case], folder: Path) -> None:
    """The table, the reasons, and what has none."""
    print(f"\n{servers.title(server)}\n{results.table(cases)}")
    reasons = REASONS if server == OURS else ()
    for ids, verdict, text in results.explained(cases, reasons):
        print(f"{ids}: {verdict}: {text}")
    for case in results.unexplained(cases, reasons):
        path = folder / server / case.report
        details = json.loads(path.read_text()) if case.report else {}
        print(results.describe(case, details))
    if folder == WHOLE and reasons and (idle := results.unused(cases, reasons)):
        print(f"no case of this run needs the reasons for {', '.join(one.case for one in idle)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description="Autobahn's fuzzing client")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="7.1.5, 12.*, or 7 for a section; none: all")
    parser.add_argument("--smoke", action="store_true", help="all but the long sections, and a few of those")
    parser.add_argument("--server", action="append", choices=list(servers.SERVERS), help="or shardserve")
    parser.add_argument("--write-docs", action="store_true", help="write docs/autobahn.md, after a whole run")
    parser.add_argument("--reuse", action="store_true", help="run nothing: tell of the last whole run again")
    parser.add_argument("--prepare", action="store_true", help="install the suite and do nothing else")
    chosen = parser.parse_args()
    if (chosen.write_docs or chosen.reuse) and (chosen.cases or chosen.smoke):
        parser.error("--write-docs and --reuse are for runs of the whole suite")
    if chosen.smoke and chosen.cases:
        parser.error("--smoke is a selection already")
    return chosen


def main() -> int:
    chosen = arguments()
    names = chosen.server or [OURS]
    cases = smoke_cases() if chosen.smoke else chosen.cases or ["*"]
    folder = WHOLE if cases == ["*"] else PART
    try:
        if chosen.reuse:
            found = {name: last_run(name) for name in names}
        else:
            python = suite.install(lambda text: print(text, file=sys.stderr))
            if chosen.prepare:
                return 0
            found = {name: run(python, name, cases, folder) for name in names}
    except suite.SuiteError as error:
        print(f"autobahn: {error}", file=sys.stderr)
        return 2
    for name, some in found.items():
        report(name, some, folder)
    print(f"\nreports: {os.path.relpath(folder)}")
    if chosen.write_docs:
        ended = (WHOLE / names[0] / CHOSEN).stat().st_mtime
        docs.write(found, REASONS, datetime.fromtimestamp(ended, UTC).date())
    return results.exit_code(found[OURS], REASONS) if OURS in found else 0


if __name__ == "__main__":
    sys.exit(main())
