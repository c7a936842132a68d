"""wrk, the load generator of the HTTP scenarios: its script, one run of it, and what it says.

Rules of this file: wrk counts and times, we only read; the figures come from a Lua ``done`` function
that prints one JSON line, because wrk's prose rounds (``1.23ms``) and changes units. wrk counts every
pipelined response as a request, and so do we.
"""

from __future__ import annotations

import math
import signal
import subprocess
import time
from pathlib import Path

from perf.load import (
    LATE_S,
    NO_LATENCY,
    RESULT_MARK,
    Job,
    Load,
    LoadError,
    cpus,
    find,
    find_result,
    latency,
    pinned,
)
from perf.scenarios import Scenario

_DEFAULT_TIMEOUT_S = 2
"""A response later than this counts as a timeout; wrk's own default."""

_DONE = f"""
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{RESULT_MARK}{{"requests":%d,"duration_us":%d,"bytes":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,"p999_us":%.1f,"max_us":%.1f}}\\n',
    summary.requests, summary.duration, summary.bytes,
    e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9),
    latency.max))
end
"""


def script(scenario: Scenario) -> str:
    """The Lua script that makes wrk send this scenario and report as JSON."""
    lines = [f"wrk.method = {_lua(scenario.method)}", f"wrk.path = {_lua(scenario.path)}"]
    lines += [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in scenario.headers]
    if scenario.body:
        lines.append(f"wrk.body = {_body(scenario.body)}")
    if scenario.pipeline > 1:
        # Defining request() makes wrk call Lua for every batch; without it one buffer is sent again
        # and again, which is why the unpipelined scenarios do not define it.
        lines += [
            "local batch",
            "init = function(args)",
            "  local one = wrk.format()",
            f"  batch = string.rep(one, {scenario.pipeline})",
            "end",
            "request = function() return batch end",
        ]
    return "\n".join(lines) + "\n" + _DONE


class Wrk:
    """Runs of wrk; the scripts go into ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._program = find("wrk")
        self._folder = folder

    @classmethod
    def version(cls) -> str:
        # "wrk -v" prints its version, then its usage, and ends with 1.
        done = subprocess.run([find("wrk"), "-v"], capture_output=True, text=True)
        words = (done.stdout + done.stderr).split()
        return words[1] if len(words) > 1 else "?"

    def run(self, job: Job) -> Load:
        """Load 127.0.0.1:port for ``job.seconds``, from one wrk thread on each core.

        wrk takes whole seconds only; a fraction is made by asking for more and interrupting it, which it
        answers by reporting what it has (its clock for that ticks every 100 ms). It cannot say when its
        connections are open, so opening them is measured too.
        """
        port, scenario, seconds = job.port, job.scenario, job.seconds
        path = self._folder / f"{scenario.name}.lua"
        path.write_text(script(scenario))
        whole = math.ceil(seconds)
        scheme = "https" if scenario.tls else "http"
        threads = min(len(cpus(job.core)), job.connections)
        command = [self._program, f"-t{threads}", f"-c{job.connections}", f"-d{whole}s"]
        command += [f"--timeout={_DEFAULT_TIMEOUT_S}s", "-s", str(path), f"{scheme}://127.0.0.1:{port}/"]
        with job.measured, pinned(command, job.core) as process:
            if seconds < whole:
                time.sleep(seconds)
                process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=seconds + LATE_S)
            except subprocess.TimeoutExpired:
                raise LoadError(f"wrk did not stop {LATE_S:.0f} s after its time") from None
        return parse(output, pipelined=scenario.pipeline > 1)


def parse(output: str, *, pipelined: bool = False) -> Load:
    """The figures of one run from wrk's output.

    wrk fills in latencies for requests that "should have been sent", from the mean interval between
    requests. With pipelining that interval is a fraction of a batch's latency, and the percentiles come
    out as anything down to 0; they are left out then.
    """
    fields = find_result(output, "wrk")
    kinds = ("connect", "read", "write", "status", "timeout")
    return Load(
        requests=fields["requests"],
        duration_us=fields["duration_us"],
        response_bytes=fields["bytes"],
        errors={kind: fields[kind] for kind in kinds if fields[kind]},
        latency=NO_LATENCY if pipelined else latency(fields),
    )


def _body(body: bytes) -> str:
    """A Lua expression for the body: one byte over and over is written as that, not in full."""
    if len(body) > 1 and body == body[:1] * len(body):
        return f"string.rep({_lua(body[:1].decode('latin-1'))}, {len(body)})"
    return _lua(body.decode("latin-1"))


def _lua(text: str) -> str:
    """A Lua string literal; everything but plain printable ASCII as a decimal escape."""
    plain = {chr(code) for code in range(0x20, 0x7F)} - {'"', "\\"}
    # Three digits, always: "\1" before a literal "0" would read as "\10".
    return '"' + "".join(char if char in plain else f"\\{ord(char):03d}" for char in text) + '"'
