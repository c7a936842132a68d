"""Runs one function where a crash fails one test and not the run.

``survives(function, *args)`` forks, runs it (a coroutine function under asyncio, or under uvloop with
``uvloop=True``), collects garbage, and gives back what it returned, through JSON. A crash, a CHECK, a
sanitizer's report, a hang, a SystemError and an uncaught exception are all failures. ``survives_exit`` does
the same in a new interpreter, which also ends the regular way.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = float(os.environ.get("SHARDSERVE_TEST_PATIENCE_S", "20"))
ALARMS = ("Fatal Python error", "AddressSanitizer", "runtime error:", "CHECK failed", "SystemError")
RESULT = "RESULT "


def survives(
    function: Callable[..., Any], *args: Any, uvloop: bool = False, patience_s: float = PATIENCE_S
) -> Any:
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            _be_the_child(log.fileno(), function, args, uvloop, patience_s)
        code = _wait(child, patience_s)
        log.seek(0)
        report = log.read().decode(errors="replace")
    return _judge(code, report)


def survives_exit(function: Callable[..., Any], *args: Any) -> Any:
    module = ".".join(Path(function.__code__.co_filename).resolve().relative_to(ROOT).with_suffix("").parts)
    order = json.dumps([module, function.__qualname__, list(args)])
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.native.isolated", order],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE_S,
    )
    return _judge(child.returncode, child.stdout + child.stderr)


class AtExit:
    """Makes these calls when it is freed, whatever comes of each."""

    def __init__(self, *calls: Callable[[], Any]) -> None:
        self.calls = calls

    def __del__(self) -> None:
        for call in self.calls:
            try:
                call()
            except Exception:
                pass


def _judge(code: int, report: str) -> Any:
    assert code == 0, f"exit code {code}:\n{report[-6000:]}"
    for alarm in ALARMS:
        assert alarm not in report, report[-6000:]
    results = [line for line in report.splitlines() if line.startswith(RESULT)]
    assert results, report[-6000:]
    return json.loads(results[-1].removeprefix(RESULT))


def _wait(child: int, patience_s: float) -> int:
    pidfd = os.pidfd_open(child)
    try:
        if not select.select([pidfd], [], [], patience_s)[0]:
            os.kill(child, 9)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_the_child(
    log: int, function: Callable[..., Any], args: tuple[Any, ...], uvloop: bool, patience_s: float
) -> None:
    code = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (as long as the child)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        faulthandler.enable(2)
        faulthandler.dump_traceback_later(patience_s * 0.8, exit=True, file=2)
        gc.freeze()
        print(RESULT + json.dumps(_run(function, args, uvloop)), flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(function: Callable[..., Any], args: Any, uvloop: bool = False) -> Any:
    if uvloop:
        import uvloop as uvloop_module

        result = uvloop_module.run(function(*args))
    elif asyncio.iscoroutinefunction(function):
        result = asyncio.run(function(*args))
    else:
        result = function(*args)
    gc.collect()
    gc.collect()
    return result


def main() -> None:
    module, name, args = json.loads(sys.argv[1])
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    print(RESULT + json.dumps(_run(function, args)), flush=True)


if __name__ == "__main__":
    main()
