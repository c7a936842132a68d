"""Nothing is left of many requests: no memory, no file descriptor, no object.

The normal run is short; ``make leaks`` sets SHARDSERVE_LEAK_REQUESTS to the long one (200,000).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks.program import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = int(os.environ.get("SHARDSERVE_LEAK_REQUESTS", "20000"))
RSS_BYTES = 3 << 20
OBJECTS = 300


def left_of(program: str, scenario: str, count: int = REQUESTS) -> dict[str, int]:
    """What a program of this folder said, which is nothing that matters."""
    run = subprocess.run(
        [sys.executable, "-m", f"tests.leaks.{program}", scenario, str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + REQUESTS / 400,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    left: dict[str, int] = json.loads(run.stdout)
    assert left["rss"] < RSS_BYTES, left
    assert left["fds"] == 0, left
    assert left["objects"] < OBJECTS, left
    return left


measured = pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="the sanitizers keep freed memory")


@measured
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_nothing_is_left(scenario: str) -> None:
    left = left_of("program", scenario)
    assert (left["served"] > 0) is SCENARIOS[scenario].serves, left
