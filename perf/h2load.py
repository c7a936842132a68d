"""h2load, the load generator of the HTTP/2 scenarios: one run of it, and what it says.

Rules of this file: h2load counts and times, we only read its prose. A run is bounded by requests, not by
time: where time ends a run, the server has worked on the 512 requests that were in flight, and nobody counts
them, which to a slow server are a quarter of all. How many requests a round has comes from the rate of the
server's last run; the first, the warm-up, is bounded by time. One request that fails, one status that is not
2xx, one byte of body too few or too many ends the round with an error.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.load import LATE_S, NO_LATENCY, Job, Load, LoadError, cpus, find, no_result, pinned
from perf.scenarios import Scenario

_SLOWER = 4.0
"""How many times longer than planned a round may take, LATE_S aside: its plan is a guess."""
_CIPHER = "TLS_AES_128_GCM_SHA256"
"""Of TLS 1.3, for everybody: left to themselves, some servers choose the one with the longer key."""

_NUMBER = r"(\d+(?:\.\d+)?)"
_FINISHED = re.compile(rf"^finished in {_NUMBER}(us|ms|s|m), {_NUMBER} req/s", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: (?P<total>\d+) total, (?P<started>\d+) started, (?P<done>\d+) done,"
    r" (?P<succeeded>\d+) succeeded, (?P<failed>\d+) failed, (?P<errored>\d+) errored,"
    r" (?P<timeout>\d+) timeout$",
    re.MULTILINE,
)
_STATUS = re.compile(r"^status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", re.MULTILINE)
_TRAFFIC = re.compile(r"^traffic: \S+ \((\d+)\) total, .*, \S+ \((\d+)\) data$", re.MULTILINE)
_PROTOCOL = re.compile(r"^Application protocol: (\S+)$", re.MULTILINE)
_US = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000}


@dataclass(frozen=True)
class Bound:
    """When a run ends: after so many requests, or, where that is not known, after so many seconds."""

    seconds: float
    requests: int | None = None

    def options(self) -> Sequence[str]:
        if self.requests is None:
            return ["-D", f"{max(1, round(self.seconds * 1000))}ms"]
        return ["-n", str(self.requests)]

    @property
    def limit_s(self) -> float:
        return self.seconds * _SLOWER + LATE_S


class H2Load:
    """Runs of h2load; the bodies it sends go into ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._program = find("h2load")
        self._folder = folder
        self._per_second: dict[int, float] = {}
        """What the last run of each server did, by port."""

    @classmethod
    def version(cls) -> str:
        done = subprocess.run([find("h2load"), "--version"], capture_output=True, text=True)
        number = re.search(r"\d+(\.\d+)+", done.stdout)
        return number.group() if number else "?"

    def run(self, job: Job) -> Load:
        """Load 127.0.0.1:port for about ``job.seconds``, ``pipeline`` streams open on each connection.

        It cannot say when its connections are open, so opening them is measured too.
        """
        scenario, bound = job.scenario, self._bound(job)
        command = [self._program, *options(scenario, job.port), *bound.options()]
        command += ["-c", str(job.connections), "-t", str(min(len(cpus(job.core)), job.connections))]
        if scenario.body:
            path = self._folder / f"{scenario.name}.body"
            path.write_bytes(scenario.body)
            command += ["-d", str(path)]
        with job.measured, pinned(command, job.core) as process:
            try:
                output, _ = process.communicate(timeout=bound.limit_s)
            except subprocess.TimeoutExpired:
                raise LoadError(f"h2load was not done {bound.limit_s:.0f} s after its start") from None
        load = parse(output, scenario, whole=bound.requests is not None)
        self._per_second[job.port] = load.requests * 1e6 / load.duration_us
        return load

    def _bound(self, job: Job) -> Bound:
        rate = self._per_second.get(job.port)
        if rate is None:
            return Bound(job.seconds)
        # Fewer than are in flight at once would not be the scenario.
        return Bound(job.seconds, max(round(rate * job.seconds), job.connections * job.scenario.pipeline))


def options(scenario: Scenario, port: int) -> Sequence[str]:
    """What the program is to send in this scenario, and where; not how long."""
    scheme = "https" if scenario.tls else "http"
    said = [f"{scheme}://127.0.0.1:{port}{scenario.path}", "-m", str(scenario.pipeline), "--npn-list=h2"]
    said += [f"--tls13-ciphers={_CIPHER}"] if scenario.tls else []
    for name, value in scenario.headers:
        said += ["-H", f"{name}: {value}"]
    return said


def parse(output: str, scenario: Scenario, *, whole: bool) -> Load:
    """The figures of one run from h2load's output; ``whole``: it was to send so many, and no more.

    There are no percentiles: of latencies it prints the least, the mean and the most; writing all of them
    into a file takes it half as much CPU time again. Raises LoadError unless every request was answered
    rightly; in a run that was ended by time, every one but those in flight then.
    """
    found = [pattern.search(output) for pattern in (_FINISHED, _REQUESTS, _STATUS, _TRAFFIC)]
    finished, requests, statuses, traffic = found
    if finished is None or requests is None or statuses is None or traffic is None:
        raise no_result(output, "h2load")
    count = {name: int(value) for name, value in requests.groupdict().items()}
    _check(count, [int(number) for number in statuses.groups()], whole=whole)
    protocol = _PROTOCOL.search(output)
    if protocol is None or protocol[1] != ("h2" if scenario.tls else "h2c"):
        raise LoadError(f"not HTTP/2 but {protocol[1] if protocol else 'unknown'}")
    came, due = int(traffic[2]), count["succeeded"] * len(scenario.expect_body)
    if came < due or (whole and came > due):  # time cuts off requests whose bytes have come
        raise LoadError(f"{came} bytes of bodies, not {due}")
    # Its seconds are rounded to hundredths, its rate to hundredths of a request: that is the finer figure.
    per_second = float(finished[3])
    duration_us = count["succeeded"] * 1e6 / per_second if whole else float(finished[1]) * _US[finished[2]]
    return Load(
        requests=count["succeeded"],
        duration_us=round(duration_us),
        response_bytes=int(traffic[1]),
        latency=NO_LATENCY,
        errors={},
    )


def _check(count: dict[str, int], wrong_statuses: Sequence[int], *, whole: bool) -> None:
    """Raises LoadError unless all went well; without ``whole``, time may have cut off what was in flight."""
    wrong = {name: count[name] for name in ("failed", "errored", "timeout") if count[name]}
    wrong |= {f"{kind}xx": number for kind, number in zip((3, 4, 5), wrong_statuses, strict=True) if number}
    if whole and count["succeeded"] != count["total"]:
        wrong["without an answer"] = count["total"] - count["succeeded"]
    if wrong:
        said = ", ".join(f"{number} {kind}" for kind, number in wrong.items())
        raise LoadError(f"of {count['started']} requests: {said}")
    if count["succeeded"] == 0:
        raise LoadError("h2load counted no answer")
