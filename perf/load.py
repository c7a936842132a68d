"""What every load generator has in common: what it reports, how it fails, how it is started and spoken to.

Rules of this file: a generator is a child process pinned to the load's cores, ended by its own pid whatever
happens; it either reports figures or raises LoadError, never a silent zero. Which generator drives a
scenario is the scenario's word (scenarios.py) and the run's (a fixed rate has its own); the generators are
wrk.py, h2load.py, ws_load.py and rate_load.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from perf import cc
from perf.programs import lacking
from perf.scenarios import Scenario

RESULT_MARK = "PERF-RESULT "
"""What the one line begins with that holds the figures, as JSON."""
READY = "ready"
"""What a generator of ours says when its connections are open and warm."""
LATE_S = 5.0
"""How long past its time a generator may take before it is killed."""
WARM_UP_S = 0.1
"""Of the connections of a generator of ours, in every run; the server has been warmed up before."""


class LoadError(Exception):
    """The generator did not run, or did not say what it did. The text is for the user."""


@dataclass(frozen=True)
class Latency:
    """How long answers took, in microseconds; all None where the generator's figures would mean nothing."""

    p50_us: float | None = None
    p90_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    max_us: float | None = None


NO_LATENCY = Latency()


@dataclass(frozen=True)
class Load:
    """What one run did."""

    requests: int
    """Or messages: what the scenario counts."""
    duration_us: int
    response_bytes: int
    latency: Latency
    errors: dict[str, int]
    """By kind; only those that happened."""
    late_us: float | None = None
    """At a fixed rate: the generator's own lateness, of 99 of 100 requests."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run, as it is asked of a generator: the load of one server, 127.0.0.1:port, by one scenario."""

    port: int
    scenario: Scenario
    seconds: float
    connections: int
    core: int | Collection[int]
    """Or cores: the load's own."""
    measured: AbstractContextManager[object]
    """Entered for as long as what is counted goes on."""


class Generator(Protocol):
    """One load tool, ready to run any scenario that names it."""

    def run(self, job: Job) -> Load: ...


def cpus(core: int | Collection[int]) -> set[int]:
    """One CPU or several, as what sched_setaffinity takes."""
    return {core} if isinstance(core, int) else set(core)


@contextlib.contextmanager
def pinned(
    command: Sequence[str], core: int | Collection[int], **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A child on these CPUs, killed at the end of the block if it still runs; Popen takes the options."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a Ctrl-C is ours to handle, in an order of our choosing
        preexec_fn=lambda: os.sched_setaffinity(0, cpus(core)),
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


def latency(fields: dict[str, Any]) -> Latency:
    """The percentiles among a generator's figures."""
    return Latency(**{name: fields[name] for name in Latency.__dataclass_fields__})


def find(program: str) -> str:
    """The path of a generator that is the system's."""
    path = shutil.which(program)
    if path is None:
        raise LoadError(lacking(program) or f"{program} is gone")
    return path


def compiled(name: str, folder: Path) -> Path:
    """A generator of ours, in ``folder``."""
    try:
        return cc.build(name, folder)
    except cc.CompileError as error:
        raise LoadError(f"{error}\n{error.log}".strip()) from None


def converse(command: Sequence[str], job: Job) -> str:
    """Run a generator of ours with --hold: what it said, its result last."""
    who = Path(command[0]).name
    with pinned(command, job.core, stdin=subprocess.PIPE) as process:
        talk = Talk(process, who)
        # Opening and warming up: each may stall for as long as an answer may take.
        talk.wait_for(READY, WARM_UP_S + 2 * LATE_S)
        with job.measured:
            talk.say("go")
            talk.wait_for(RESULT_MARK, job.seconds + LATE_S)
        talk.end()
    return talk.heard


class Talk:
    """The talk with a generator of ours, a line at a time, with a limit on the waiting.

    It says ``ready`` when its connections are open and warm, begins at a line of ours, prints its result, and
    keeps its connections open until we close its input.
    """

    def __init__(self, process: subprocess.Popen[str], who: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output, self._who = process.stdin, process.stdout, who
        self._ear = (
            select.poll()
        )  # not select(), which ends at descriptor 1023: there may be idle connections
        self._ear.register(self._output, select.POLLIN)
        self.heard = ""

    def say(self, word: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended: its last words say why
            self._input.write(word + "\n")
            self._input.flush()

    def wait_for(self, beginning: str, limit_s: float) -> None:
        """Return at a line that begins so; a program that ends before it has told why."""
        give_up = time.monotonic() + limit_s
        while True:
            left = give_up - time.monotonic()
            if left <= 0 or not self._ear.poll(left * 1000):
                raise LoadError(f"{self._who} did not say {beginning.strip()!r} within {limit_s:g} s")
            line = self._output.readline()
            self.heard += line
            if line.startswith(beginning):
                return
            if not line:
                raise no_result(self.heard, self._who)

    def end(self) -> None:
        """Let it say goodbye to the server; one that does not end is killed by the caller."""
        self._input.close()
        self._output.read()
