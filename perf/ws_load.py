"""ws_load.c, the load generator of the WebSocket scenarios: one run of it, and what it says.

Rules of this file: the program counts and times, we only read. It says ``ready`` when its connections are
open and warm, then waits for us, and after its result it keeps them open until we close its input: so what
is measured holds every message that is counted, and neither a handshake nor a message that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perf import cc
from perf.load import WARM_UP_S, Job, Load, LoadError, compiled, converse, find_result, latency
from perf.scenarios import Scenario

_STALL_S = 4.0
"""How long an echo may take; less than LATE_S, so that it is the program that says what is missing."""


class WsLoad:
    """Runs of ws_load, compiled into ``folder``. Raises LoadError if it cannot be."""

    def __init__(self, folder: Path) -> None:
        self._program = compiled("ws_load", folder)

    @classmethod
    def version(cls) -> str:
        """The compiler's, which is what may differ between two machines of one commit."""
        try:
            return cc.version()
        except cc.CompileError as error:
            raise LoadError(str(error)) from None

    def run(self, job: Job) -> Load:
        """Keep ``pipeline`` messages in flight on each connection for ``job.seconds``."""
        command = [str(self._program), *options(job.scenario), "--hold"]
        command += ["--connections", str(job.connections), "--seconds", f"{job.seconds:g}"]
        command += ["--warmup", f"{WARM_UP_S:g}", "--timeout", f"{_STALL_S:g}", str(job.port)]
        return parse(converse(command, job))


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
        latency=latency(fields),
        errors={},
    )
