"""What every load generator has in common: what it reports, how it fails, how it is started.

Rules of this file: a generator is a child process pinned to the load core, ended by its own pid whatever
happens; it either reports figures or raises LoadError, never a silent zero. Which generator drives a
scenario is the scenario's word (scenarios.py); the generators are wrk.py and ws_load.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from perf.scenarios import Scenario

RESULT_MARK = "PERF-RESULT "
"""What the one line begins with that holds the figures, as JSON."""
LATE_S = 5.0
"""How long past its time a generator may take before it is killed."""


class LoadError(Exception):
    """The generator did not run, or did not say what it did. The text is for the user."""


@dataclass(frozen=True)
class Load:
    """What one run did."""

    requests: int
    """Or messages: what the scenario counts."""
    duration_us: int
    response_bytes: int
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    """None where the generator's figure would mean nothing."""
    errors: dict[str, int]
    """By kind; only those that happened."""


class Generator(Protocol):
    """One load tool, ready to run any scenario that names it; what it needs for that is in ``folder``."""

    def __init__(self, folder: Path) -> None: ...

    @classmethod
    def version(cls) -> str:
        """For the result file. Raises LoadError if the tool cannot be had."""
        ...

    def run(
        self,
        port: int,
        scenario: Scenario,
        *,
        seconds: float,
        connections: int,
        core: int,
        measured: AbstractContextManager[object],
    ) -> Load:
        """Load 127.0.0.1:port, and be inside ``measured`` for as long as what is counted goes on."""
        ...


@contextlib.contextmanager
def pinned(command: Sequence[str], core: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A child on one CPU, killed at the end of the block if it still runs; Popen takes the options."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a Ctrl-C is ours to handle, in an order of our choosing
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
        **options,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def find_result(output: str, who: str) -> dict[str, Any]:
    """The figures in a generator's output; its last words are the error if there are none."""
    for line in output.splitlines():
        if line.startswith(RESULT_MARK):
            fields: dict[str, Any] = json.loads(line.removeprefix(RESULT_MARK))
            return fields
    raise no_result(output, who)


def no_result(output: str, who: str) -> LoadError:
    """The error that quotes a generator's last words."""
    said = output.strip().splitlines()[-1:] or ["nothing"]
    return LoadError(f"{who} gave no result; its last words: {said[0]}")
