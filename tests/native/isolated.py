"""Runs one function in an interpreter of its own, so that a crash fails one test and not the run.

``survives(function, *args)`` imports the function's file anew in a child, runs it (a coroutine function
under asyncio, or under uvloop with ``uvloop=True``), collects garbage, and returns what it returned, through
JSON. A crash, a CHECK, a sanitizer's report, a hang and an uncaught exception are all failures.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = float(os.environ.get("SHARDSERVE_TEST_PATIENCE_S", "20"))
ALARMS = ("Fatal Python error", "AddressSanitizer", "runtime error:", "CHECK failed", "SystemError")
RESULT = "RESULT "


def survives(function: Callable[..., Any], *args: Any, uvloop: bool = False) -> Any:
    module = ".".join(Path(function.__code__.co_filename).resolve().relative_to(ROOT).with_suffix("").parts)
    order = json.dumps([module, function.__qualname__, list(args), uvloop])
    try:
        child = subprocess.run(
            [sys.executable, "-m", "tests.native.isolated", order],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired as hang:
        output = (hang.stderr or b"").decode(errors="replace")
        raise AssertionError(f"{function.__qualname__} hangs:\n{output}") from None
    report = child.stdout + child.stderr
    assert child.returncode == 0, f"exit code {child.returncode}:\n{report[-6000:]}"
    for alarm in ALARMS:
        assert alarm not in report, report[-6000:]
    results = [line for line in child.stdout.splitlines() if line.startswith(RESULT)]
    assert results, report[-6000:]
    return json.loads(results[-1].removeprefix(RESULT))


def main() -> None:
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE_S * 0.8, exit=True)
    module, name, args, use_uvloop = json.loads(sys.argv[1])
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    if use_uvloop:
        import uvloop

        result = uvloop.run(function(*args))
    elif asyncio.iscoroutinefunction(function):
        result = asyncio.run(function(*args))
    else:
        result = function(*args)
    gc.collect()
    gc.collect()
    print(RESULT + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
