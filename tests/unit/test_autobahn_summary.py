"""What `make autobahn` makes of the suite's reports: cases, reasons, exit code, table, page."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.autobahn import docs, suite
from tests.autobahn.__main__ import smoke_cases
from tests.autobahn.reasons import REASONS
from tests.autobahn.results import (
    NOT_RUN,
    Case,
    Reason,
    describe,
    exit_code,
    explained,
    markdown,
    parse,
    runs_of,
    table,
    unexplained,
    unused,
)

PAGE = Path(__file__).parents[2] / "docs" / "autobahn.md"
FINE = Case("1.1.1", "OK", "OK", 1000)
WHY = Reason("3.2", "NON-STRICT", "OK", "because")


def row(behaviour: str = "OK", close: str = "OK", code: int | None = 1000) -> dict[str, Any]:
    return {
        "behavior": behaviour,
        "behaviorClose": close,
        "remoteCloseCode": code,
        "duration": 1,
        "reportfile": "x",
    }


# Reading the report


def test_cases_come_in_order_of_their_numbers() -> None:
    index = {"us": {"10.1.1": row(), "2.10": row("NON-STRICT"), "2.9": row(close="WRONG CODE", code=1002)}}
    assert parse(index, "us", ["2.9", "2.10", "10.1.1"]) == [
        Case("2.9", "OK", "WRONG CODE", 1002, "x"),
        Case("2.10", "NON-STRICT", "OK", 1000, "x"),
        Case("10.1.1", "OK", "OK", 1000, "x"),
    ]


def test_a_case_that_did_not_run_is_not_overlooked() -> None:
    """The client goes on to its report when the server is gone."""
    cases = parse({"us": {"1.1.1": row()}}, "us", ["1.1.1", "1.1.2"])
    assert cases[1] == Case("1.1.2", NOT_RUN, NOT_RUN)
    assert exit_code(cases, ()) == 1
    assert parse({}, "us", ["1.1.1"]) == [Case("1.1.1", NOT_RUN, NOT_RUN)]


# Verdicts


@pytest.mark.parametrize(
    ("behaviour", "close", "code"),
    [
        ("OK", "OK", 0),
        ("INFORMATIONAL", "INFORMATIONAL", 0),
        ("NON-STRICT", "OK", 1),
        ("UNIMPLEMENTED", "OK", 1),
        ("FAILED", "OK", 1),
        ("OK", "FAILED", 1),
        ("OK", "WRONG CODE", 1),
        ("OK", "UNCLEAN", 1),
        ("OK", "FAILED BY CLIENT", 1),
        ("SOMETHING NEW", "OK", 1),
    ],
)
def test_only_ok_and_informational_pass_without_a_reason(behaviour: str, close: str, code: int) -> None:
    assert exit_code([FINE, Case("3.2", behaviour, close)], ()) == code


def test_a_run_of_nothing_fails() -> None:
    assert exit_code([], ()) == 1


def test_a_reason_covers_its_case_and_its_verdicts_only() -> None:
    explained_case = Case("3.2", "NON-STRICT", "OK")
    assert exit_code([FINE, explained_case], [WHY]) == 0
    others = [
        Case("3.20", "NON-STRICT", "OK"),
        Case("3.2.1", "NON-STRICT", "OK"),
        Case("3.2", "FAILED", "OK"),
        Case("3.2", "NON-STRICT", "UNCLEAN"),
    ]
    assert unexplained([explained_case, *others], [WHY]) == others


def test_a_reason_may_be_for_a_section() -> None:
    reason = Reason("13.3.*", "UNIMPLEMENTED", "OK", "because")
    cases = [Case(name, "UNIMPLEMENTED", "OK") for name in ("13.3.1", "13.3.18", "13.30.1", "1.13.3")]
    assert unexplained(cases, [reason]) == cases[2:]


def test_a_reason_that_no_case_needs_is_found() -> None:
    assert unused([FINE, Case("3.2", "OK", "OK")], [WHY]) == [WHY]
    assert unused([Case("3.2", "NON-STRICT", "OK")], [WHY]) == []
    assert unused([Case("3.2", "OK", "OK")], [replace(WHY, sometimes=True)]) == []


# As text


def test_cases_in_a_row_are_named_together() -> None:
    assert runs_of(["13.3.3", "13.3.1", "13.3.2", "3.2", "4.1.3", "4.1.4", "4.2.5"]) == (
        "3.2, 4.1.3–4, 4.2.5, 13.3.1–3"
    )


def test_cases_with_the_same_reason_share_a_line() -> None:
    reasons = [WHY, Reason("4.1.3", "NON-STRICT", "OK", "because")]
    cases = [
        FINE,
        Case("3.2", "NON-STRICT", "OK"),
        Case("4.1.3", "NON-STRICT", "OK"),
        Case("5.1", "FAILED", "OK"),
    ]
    assert explained(cases, reasons) == [("3.2, 4.1.3", "NON-STRICT", "because")]


def test_the_table_has_a_line_for_each_section_and_a_column_for_each_verdict_there_is() -> None:
    cases = [FINE, Case("1.1.2", "FAILED", "WRONG CODE"), Case("12.1.1", "OK", "OK")]
    assert [line.split() for line in table(cases).splitlines()] == [
        ["section", "cases", "OK", "FAILED", "close", "OK", "close", "WRONG", "CODE"],
        ["1", "frames", "2", "1", "1", "1", "1"],
        ["12", "compression:", "payloads", "1", "1", "1"],
        ["all", "3", "2", "1", "2", "1"],
    ]
    heading, _, *lines = markdown(cases).splitlines()
    assert heading == "| section | cases | OK | FAILED | close OK | close WRONG CODE |"
    assert lines[-1] == "| all | 3 | 2 | 1 | 2 | 1 |"


def test_what_failed_is_described_from_its_report() -> None:
    text = describe(
        Case("3.2", "FAILED", "WRONG CODE", 1011),
        {"expectation": "an\n  echo", "received": [], "result": "differs"},
    )
    assert text.splitlines() == [
        "3.2: FAILED, close: WRONG CODE (close code 1011)",
        "    expected: an echo",
        "    result: differs",
    ]


# The page


def test_the_page_tells_of_every_case_that_is_not_good() -> None:
    cases = [FINE, Case("3.2", "NON-STRICT", "OK"), Case("5.1", "FAILED", "OK")]
    text = docs.render({"shardserve": cases, "uvicorn": cases}, [WHY], date(2026, 1, 2))
    ours, theirs = text.split("## ")[1:]
    assert "- 3.2: NON-STRICT. because\n- 5.1: FAILED.\n" in ours
    assert "- 3.2: NON-STRICT.\n- 5.1: FAILED.\n" in theirs
    assert "2026-01-02" in text


def test_the_page_in_the_repository_has_the_reasons_as_they_are() -> None:
    text = PAGE.read_text()
    ours = text.split("## ")[1]
    lines = [line for line in ours.splitlines() if line.startswith("- ")]
    known = {reason.text for reason in REASONS}
    assert [line for line in lines if not any(line.endswith(text) for text in known)] == []
    assert "FAILED" not in ours
    assert "| all | 517 |" in ours


# Running the suite


def test_a_number_is_a_section() -> None:
    spec = suite.spec("us", "ws://127.0.0.1:1", Path("there"), ["7", "12.1.1", "9.*"])
    assert spec["cases"] == ["7.*", "12.1.1", "9.*"]
    assert spec["servers"] == [{"agent": "us", "url": "ws://127.0.0.1:1"}]


def test_the_smoke_run_has_every_section() -> None:
    assert {one.partition(".")[0] for one in smoke_cases()} == {
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "9",
        "10",
        "12",
        "13",
    }


class Client:
    """A stand-in for the fuzzing client: a Python of ours that gets the same arguments."""

    def __init__(self, folder: Path, body: str) -> None:
        self.folder = folder / "reports"
        self.path = folder / "client"
        self.path.write_text(f"#!{sys.executable}\nimport json, sys, time\n{body}")
        self.path.chmod(0o755)

    def run(self, **how: Any) -> list[str]:
        return suite.run(str(self.path), "us", "ws://127.0.0.1:1", self.folder, **how)


def test_a_run_tells_of_each_case_and_returns_those_it_should_have_run(tmp_path: Path) -> None:
    client = Client(
        tmp_path,
        "print(\"Cases = ['1.1.1', '1.1.2']\")\n"
        "print('Running test case ID 1.1.1 for agent us from peer x')\n"
        "spec = json.load(open(sys.argv[sys.argv.index('--spec') + 1]))\n"
        "open(spec['outdir'] + '/index.json', 'w').write('{}')\n",
    )
    seen: list[tuple[str, int]] = []
    chosen = client.run(on_case=lambda case, total: seen.append((case, total)))
    assert chosen == ["1.1.1", "1.1.2"]
    assert seen == [("1.1.1", 2)]
    assert "Running" in (client.folder / "client.log").read_text()


def test_a_client_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(suite.SuiteError, match=r"ended with 3 and no report:\s+no such case"):
        Client(tmp_path, "print('no such case')\nsys.exit(3)\n").run()


def test_a_client_that_leaves_no_report_has_failed(tmp_path: Path) -> None:
    with pytest.raises(suite.SuiteError, match="ended with 0 and no report"):
        Client(tmp_path, "").run()


def test_a_client_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "SILENCE_S", 2)
    client = Client(tmp_path, "import os\nprint(os.getpid(), flush=True)\ntime.sleep(3600)\n")
    with pytest.raises(suite.SuiteError, match="silent for 2 s"):
        client.run()
    pid = int((client.folder / "client.log").read_text())
    assert not psutil.pid_exists(pid)


def test_without_a_python_27_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "STAMP", tmp_path / "none")
    monkeypatch.setenv("AUTOBAHN_PYTHON", sys.executable)  # not a 2.7
    with pytest.raises(suite.SuiteError, match=r"needs a Python 2\.7"):
        suite.install(lambda text: None)


def test_an_environment_with_other_pins_is_not_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = tmp_path / "installed"
    monkeypatch.setattr(suite, "STAMP", stamp)
    monkeypatch.setattr(suite, "_is_python_27", lambda command: command == "the 2.7")
    stamp.write_text(f'{{"python": "the 2.7", "pins": "{suite._pins()}"}}')
    assert suite.installed() == "the 2.7"
    stamp.write_text('{"python": "the 2.7", "pins": "others"}')
    assert suite.installed() is None
    stamp.write_text("half")
    assert suite.installed() is None
    assert suite.versions() == {"autobahntestsuite": "0.8.2", "autobahn": "0.10.9"}
