"""``python -m shardserve.worker`` in the hands of people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.worker.fake_factory import WAIT_S

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("arguments", [[], ["x"], ["1", "2"]])
def test_people_who_start_it_by_hand_are_told(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "shardserve.worker", *arguments], cwd=ROOT, capture_output=True, timeout=WAIT_S
    )
    assert done.returncode == 1
    assert b"usage:" in done.stderr
