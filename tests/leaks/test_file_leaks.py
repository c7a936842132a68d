"""Nothing is left of many files sent, broken off and refused: no memory, no file descriptor, no object."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.leaks.file_program import SCENARIOS
from tests.leaks.test_leaks import OBJECTS, REQUESTS, ROOT, RSS_BYTES


@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="the sanitizers keep freed memory")
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_nothing_is_left(scenario: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.leaks.file_program", scenario, str(REQUESTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + REQUESTS / 400,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    left = json.loads(run.stdout)
    assert left["rss"] < RSS_BYTES, left
    assert left["fds"] == 0, left
    assert left["objects"] < OBJECTS, left
    assert left["served"] > 0, left
