"""What a run of the fuzzing client means: its index.json as cases, a table by section, and a verdict. Pure.

A case has two verdicts: of the behaviour (what came back) and of the close (who closed, how, which code).
Good is OK, and INFORMATIONAL, which the suite says where no answer is wrong. Everything else, and a case that
did not run, fails the run, unless reasons.py says why it is so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOOD = ("OK", "INFORMATIONAL")
NOT_RUN = "NOT RUN"
BEHAVIOURS = ("OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "FAILED", NOT_RUN)
CLOSES = (
    "OK", "INFORMATIONAL", "FAILED BY CLIENT", "WRONG CODE", "UNCLEAN", "UNIMPLEMENTED", "FAILED", NOT_RUN,
)  # fmt: skip

SECTIONS = {
    1: "frames", 2: "pings and pongs", 3: "reserved bits", 4: "opcodes", 5: "fragments", 6: "UTF-8",
    7: "closing", 9: "sizes and many messages", 10: "automatic fragments",
    12: "compression: payloads", 13: "compression: parameters",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One case as it went. ``close_code``: what the server's close frame said, None without one."""

    id: str
    behaviour: str
    close: str
    close_code: int | None = None
    report: str = ""

    @property
    def section(self) -> int:
        return int(self.id.partition(".")[0])

    @property
    def is_good(self) -> bool:
        return self.behaviour in GOOD and self.close in GOOD

    @property
    def verdict(self) -> str:
        return self.behaviour if self.close in GOOD else f"{self.behaviour}, close: {self.close}"


@dataclass(frozen=True)
class Reason:
    """Why a case may be other than good: a case, or several (``13.3.*``), with just these verdicts.

    ``sometimes``: it depends on the run, and may be good as well.
    """

    case: str
    behaviour: str
    close: str
    text: str
    sometimes: bool = False

    def covers(self, case: Case) -> bool:
        section = self.case.removesuffix("*")
        same = case.id == self.case if section == self.case else case.id.startswith(section)
        return same and (case.behaviour, case.close) == (self.behaviour, self.close)


def order(case_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in case_id.split("."))


def parse(index: dict[str, Any], agent: str, expected: Iterable[str]) -> list[Case]:
    """The cases of one server, in order. One that should have run and is not there is NOT RUN.

    An agent that is missing is a run in which nothing was reached.
    """
    names = ("behavior", "behaviorClose", "remoteCloseCode", "reportfile")
    found = {
        case_id: Case(case_id, *(row[name] for name in names))
        for case_id, row in index.get(agent, {}).items()
    }
    for case_id in expected:
        found.setdefault(case_id, Case(case_id, NOT_RUN, NOT_RUN))
    return sorted(found.values(), key=lambda case: order(case.id))


def load(folder: Path, agent: str, expected: Iterable[str]) -> list[Case]:
    """The same from the folder of reports."""
    return parse(json.loads((folder / "index.json").read_text()), agent, expected)


def reason_for(case: Case, reasons: Sequence[Reason]) -> Reason | None:
    return next((reason for reason in reasons if reason.covers(case)), None)


def unexplained(cases: Iterable[Case], reasons: Sequence[Reason]) -> list[Case]:
    """The cases that fail the run."""
    return [case for case in cases if not case.is_good and reason_for(case, reasons) is None]


def exit_code(cases: Sequence[Case], reasons: Sequence[Reason]) -> int:
    """0: all are good or have a reason. 1: not so, or nothing was run."""
    return 1 if not cases or unexplained(cases, reasons) else 0


# As text


def rows(cases: Iterable[Case]) -> list[list[str]]:
    """A table: a heading, a row for each section, the sum. Verdicts that nobody got have no column."""
    by_section: dict[int, list[Case]] = {}
    for case in cases:
        by_section.setdefault(case.section, []).append(case)
    everything = [case for some in by_section.values() for case in some]
    behaviours = [one for one in BEHAVIOURS if one == "OK" or one in {case.behaviour for case in everything}]
    closes = [one for one in CLOSES if one == "OK" or one in {case.close for case in everything}]

    def row(name: str, some: list[Case]) -> list[str]:
        behaviour, close = Counter(case.behaviour for case in some), Counter(case.close for case in some)
        counts = [*(behaviour[one] for one in behaviours), *(close[one] for one in closes)]
        return [name, str(len(some)), *(str(count) if count else "" for count in counts)]

    heading = ["section", "cases", *behaviours, *(f"close {one}" for one in closes)]
    sections = [row(f"{n} {SECTIONS.get(n, '')}".strip(), by_section[n]) for n in sorted(by_section)]
    return [heading, *sections, row("all", everything)]


def table(cases: Iterable[Case]) -> str:
    """For a terminal."""
    lines = rows(cases)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(cases: Iterable[Case]) -> str:
    heading, *rest = rows(cases)
    ruler = ["---", *("---:" for _ in heading[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ruler, *rest))


def runs_of(case_ids: Iterable[str]) -> str:
    """``13.3.1, 13.3.2, 13.3.3`` as "13.3.1–3"."""
    spans: list[list[tuple[int, ...]]] = []
    for one in sorted(map(order, case_ids)):
        if spans and spans[-1][-1] == (*one[:-1], one[-1] - 1):
            spans[-1].append(one)
        else:
            spans.append([one])
    name = ".".join
    return ", ".join(
        name(map(str, span[0])) + (f"–{span[-1][-1]}" if len(span) > 1 else "") for span in spans
    )


def explained(cases: Iterable[Case], reasons: Sequence[Reason]) -> list[tuple[str, str, str]]:
    """Cases, verdict and reason, for those that have one; a line for each reason."""
    together: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        reason = None if case.is_good else reason_for(case, reasons)
        if reason is not None:
            together.setdefault((case.verdict, reason.text), []).append(case.id)
    return [(runs_of(ids), verdict, text) for (verdict, text), ids in together.items()]


def unused(cases: Iterable[Case], reasons: Sequence[Reason]) -> list[Reason]:
    """Reasons that no case of this run needs: they can go, if all cases were run."""
    found = [case for case in cases if not case.is_good]
    return [
        reason
        for reason in reasons
        if not reason.sometimes and not any(reason.covers(case) for case in found)
    ]


def describe(case: Case, report: dict[str, Any]) -> str:
    """One that failed: what was sent back and what would have been right, from the suite's own report."""
    lines = [f"{case.id}: {case.verdict} (close code {case.close_code})"]
    texts = {
        "is": report.get("description"), "expected": report.get("expectation"),
        "received": report.get("received"), "result": report.get("result"),
        "close": report.get("resultClose"), "reason": report.get("remoteCloseReason"),
        "unclean": report.get("wasNotCleanReason"),
    }  # fmt: skip
    for name, text in texts.items():
        if text:
            lines.append(f"    {name}: {' '.join(str(text).split())[:300]}")
    return "\n".join(lines)
