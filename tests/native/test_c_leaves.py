"""Runs the C tests of the leaves that need no Python (native/tests)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("clang") is None, reason="no C compiler")
def test_the_leaves_under_the_sanitizers(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "ASAN_OPTIONS")
    }
    run = subprocess.run(
        ["make", "-C", str(ROOT / "native" / "tests"), "test", f"BUILD={tmp_path}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "leaves: ok" in run.stdout
