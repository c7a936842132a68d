"""ws_load.c, the load generator of the WebSocket scenarios: one run of it, and what it says.

Rules of this file: the program counts and times, we only read. It says ``ready`` when its connections are
open and warm, then waits for us, and after its result it keeps them open until we close its input: so what
is measured holds every message that is counted, and neither a handshake nor a message that is not.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from perf import cc
from perf.load import LATE_S, RESULT_MARK, Load, LoadError, find_result, no_result, pinned
from perf.scenarios import Scenario

WARM_UP_S = 0.1
"""Of the connections, in every run; the server has been warmed up before."""
READY = "ready"
_STALL_S = 4.0
"""How long an echo may take; less than LATE_S, so that it is the program that says what is missing."""


class WsLoad:
    """Runs of ws_load, compiled into ``folder``."""

    def __init__(self, folder: Path) -> None:
        try:
            self._program = cc.build("ws_load", folder)
        except cc.CompileError as error:
            raise LoadError(f"{error}\n{error.log}".strip()) from None

    @classmethod
    def version(cls) -> str:
        """The compiler's, which is what may differ between two machines of one commit."""
        try:
            return cc.version()
        except cc.CompileError as error:
            raise LoadError(str(error)) from None

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
        """Keep ``scenario.pipeline`` messages in flight on each connection for ``seconds``."""
        command = [str(self._program), *options(scenario), "--hold"]
        command += ["--connections", str(connections), "--seconds", f"{seconds:g}"]
        command += ["--warmup", f"{WARM_UP_S:g}", "--timeout", f"{_STALL_S:g}", str(port)]
        with pinned(command, core, stdin=subprocess.PIPE) as process:
            words = _Words(process)
            # Opening and warming up: each may stall for as long as an echo may take.
            words.wait_for(READY, WARM_UP_S + 2 * LATE_S)
            with measured:
                words.say("go")
                words.wait_for(RESULT_MARK, seconds + LATE_S)
            words.end()
        return parse(words.heard)


def options(scenario: Scenario) -> Sequence[str]:
    """What the program is to send in this scenario."""
    return ["--size", str(len(scenario.body)), "--depth", str(scenario.pipeline)]


def parse(output: str) -> Load:
    """The figures of one run. The program has no errors to report: it gives no result then."""
    fields = find_result(output, "ws_load")
    if fields["messages"] == 0:
        raise LoadError("ws_load counted no message")
    return Load(
        requests=fields["messages"],
        duration_us=fields["duration_us"],
        response_bytes=fields["bytes"],
        p50_us=fields["p50_us"],
        p99_us=fields["p99_us"],
        max_us=fields["max_us"],
        errors={},
    )


class _Words:
    """The talk with the program, a line at a time, with a limit on the waiting."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
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
            if left <= 0 or not select.select([self._output], [], [], left)[0]:
                raise LoadError(f"ws_load did not say {beginning.strip()!r} within {limit_s:g} s")
            line = self._output.readline()
            self.heard += line
            if line.startswith(beginning):
                return
            if not line:
                raise no_result(self.heard, "ws_load")

    def end(self) -> None:
        """Let it say goodbye to the server; one that does not end is killed by the caller."""
        self._input.close()
        self._output.read()
