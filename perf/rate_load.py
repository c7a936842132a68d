"""rate_load.c, the load generator of a fixed rate: one run of it, and what it says.

Rules of this file: the program keeps the schedule, counts and times; we only read. As with ws_load, what is
measured is exactly what is counted: the connections are open before, and closed after.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from perf import cc
from perf.load import LATE_S, READY, RESULT_MARK, Load, LoadError, Talk, find_result, latency, pinned
from perf.scenarios import Scenario, Tool, request_bytes

WARM_UP_S = 0.1
"""Of the connections, in every run; the server has been warmed up before."""
_GRACE_S = 3.0
"""How long answers may come after the last request was due: less than LATE_S, so that the program is done."""


class RateLoad:
    """Runs of rate_load, compiled into ``folder``. Raises LoadError if it cannot be."""

    def __init__(self, folder: Path, rate_per_s: float) -> None:
        try:
            self._program = cc.build("rate_load", folder)
        except cc.CompileError as error:
            raise LoadError(f"{error}\n{error.log}".strip()) from None
        self._folder, self._rate_per_s = folder, rate_per_s

    def run(
        self,
        port: int,
        scenario: Scenario,
        *,
        seconds: float,
        connections: int,
        core: int | Collection[int],
        measured: AbstractContextManager[object],
    ) -> Load:
        """Send the scenario's requests at the rate for ``seconds``, spread over the connections in turn."""
        path = self._folder / f"{scenario.name}.request"
        path.write_bytes(request_bytes(scenario, f"127.0.0.1:{port}"))
        command = [str(self._program), "--hold", "--request", str(path), "--rate", f"{self._rate_per_s:g}"]
        command += ["--body-bytes", str(len(scenario.expect_body)), "--seconds", f"{seconds:g}"]
        command += ["--connections", str(connections), "--warmup", f"{WARM_UP_S:g}"]
        command += ["--timeout", f"{_GRACE_S:g}", str(port)]
        with pinned(command, core, stdin=subprocess.PIPE) as process:
            talk = Talk(process, "rate_load")
            talk.wait_for(READY, WARM_UP_S + 2 * LATE_S)
            with measured:
                talk.say("go")
                talk.wait_for(RESULT_MARK, seconds + LATE_S)
            talk.end()
        return parse(talk.heard)


def unfit(scenario: Scenario) -> str | None:
    """Why a scenario cannot be sent at a fixed rate; None if it can."""
    if scenario.tool is not Tool.WRK:
        return "a fixed rate is for HTTP/1.1 requests only"
    if scenario.tls:
        return "a fixed rate is without TLS"
    if scenario.pipeline > 1:
        return "a fixed rate has one request in flight on each connection"
    if ("Connection", "close") in scenario.headers:
        return "a fixed rate keeps its connections open"
    return None


def parse(output: str) -> Load:
    """The figures of one run. Requests are those answered; what was due and never was is a timeout."""
    fields = find_result(output, "rate_load")
    kinds = ("read", "status", "body", "timeout")
    return Load(
        requests=fields["requests"],
        duration_us=fields["duration_us"],
        response_bytes=fields["bytes"],
        latency=latency(fields),
        errors={kind: fields[kind] for kind in kinds if fields[kind]},
        late_us=fields["late_us"],
    )
