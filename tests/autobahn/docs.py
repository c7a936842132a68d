"""docs/autobahn.md, from a run of the whole suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from tests.autobahn import results, servers, suite
from tests.autobahn.results import Case, Reason

PAGE = suite.ROOT / "docs" / "autobahn.md"


def render(found: Mapping[str, Sequence[Case]], reasons: Sequence[Reason], day: date) -> str:
    """The page. ``found``: the cases by server, shardserve first."""
    version = suite.versions()
    parts = [
        "# Autobahn's test suite",
        "<!-- Written by `python -m tests.autobahn --write-docs`; do not edit. -->",
        "[Autobahn's test suite](https://github.com/crossbario/autobahn-testsuite)"
        f" {version['autobahntestsuite']} (with autobahn {version['autobahn']}): its fuzzing client, all"
        " cases, against an echo app (`tests/autobahn/app.py`). `make autobahn` repeats it, and"
        " `make autobahn ARGS=7` runs one section. It needs a Python 2.7 with pip, because the suite does.",
        f"{day}, one worker, default settings. The largest messages have 16 MiB, two (9.3.1, 9.4.1) have"
        " 65,537 fragments; both are within the defaults of `--ws-max-size` and `--ws-max-fragments`.",
        "A case has two verdicts: of what came back, and of how the connection was closed. INFORMATIONAL is"
        " the suite's word for a case in which no answer is wrong. NON-STRICT is within RFC 6455, but not"
        " what the suite would like best.",
    ]
    for server, cases in found.items():
        parts += [f"## {servers.title(server)}", results.markdown(cases)]
        lines = results.explained(cases, reasons) if server == "shardserve" else plain(cases)
        lines += plain(results.unexplained(cases, reasons)) if server == "shardserve" else []
        if lines:
            parts.append("\n".join(f"- {ids}: {verdict}. {text}".rstrip() for ids, verdict, text in lines))
    return "\n\n".join(parts) + "\n"


def plain(cases: Sequence[Case]) -> list[tuple[str, str, str]]:
    """Cases that are not good, by verdict: of a peer we know no reasons."""
    by_verdict: dict[str, list[str]] = {}
    for case in cases:
        if not case.is_good:
            by_verdict.setdefault(case.verdict, []).append(case.id)
    return [(results.runs_of(ids), verdict, "") for verdict, ids in by_verdict.items()]


def write(found: Mapping[str, Sequence[Case]], reasons: Sequence[Reason], day: date) -> None:
    PAGE.write_text(render(found, reasons, day))
