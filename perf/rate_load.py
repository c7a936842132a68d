"""rate_load.c, the load generator of a fixed rate: one run of it, and what it says.

Rules of this file: the program keeps the schedule, counts and times; we only read. As with ws_load, what is
measured is exactly what is counted: the connections are open before, and closed after.
"""

from __future__ import annotations

from pathlib import Path

from perf.load import WARM_UP_S, Job, Load, compiled, converse, find_result, latency
from perf.scenarios import Scenario, Tool, request_bytes

_GRACE_S = 3.0
"""How long answers may come after the last request was due: less than LATE_S, so that the program is done."""


class RateLoad:
    """Runs of rate_load, compiled into ``folder``. Raises LoadError if it cannot be."""

    def __init__(self, folder: Path, rate_per_s: float) -> None:
        self._program = compiled("rate_load", folder)
        self._folder, self._rate_per_s = folder, rate_per_s

    def run(self, job: Job) -> Load:
        """Send its requests at the rate for ``job.seconds``, spread over the connections in turn."""
        scenario = job.scenario
        path = self._folder / f"{scenario.name}.request"
        path.write_bytes(request_bytes(scenario, f"127.0.0.1:{job.port}"))
        command = [str(self._program), "--hold", "--request", str(path), "--rate", f"{self._rate_per_s:g}"]
        command += ["--body-bytes", str(len(scenario.expect_body)), "--seconds", f"{job.seconds:g}"]
        command += ["--connections", str(job.connections), "--warmup", f"{WARM_UP_S:g}"]
        command += ["--timeout", f"{_GRACE_S:g}", str(job.port)]
        return parse(converse(command, job))


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
