"""Most of Autobahn's suite against a real server, in under a minute, where the suite is installed.

All sections but the long ones (large messages and compression), of which it has a few cases.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.autobahn import results, suite
from tests.autobahn.__main__ import LONG, run, smoke_cases
from tests.autobahn.reasons import REASONS


@pytest.mark.skipif(suite.installed() is None, reason="needs `make autobahn ARGS=--prepare` (and Python 2.7)")
def test_no_case_fails_without_a_reason(tmp_path: Path) -> None:
    python = suite.installed()
    assert python is not None
    cases = run(python, "shardserve", smoke_cases(), tmp_path)
    failed = results.unexplained(cases, REASONS)
    assert failed == [], results.table(cases)
    # The sections of which all cases are run have 247 of them.
    assert sum(str(case.section) not in LONG for case in cases) == 247
    assert {case.section for case in cases} == set(results.SECTIONS)
