"""wrk, the load generator: its script, one run of it, and what it says.

Rules of this file: wrk counts and times, we only read; the figures come from a Lua ``done`` function
that prints one JSON line, because wrk's prose rounds (``1.23ms``) and changes units. wrk counts every
pipelined response as a request, and so do we.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.scenarios import Scenario

RESULT_MARK = "PERF-RESULT "
LATE_S = 5.0
"""How long past its time wrk may take to stop before it is killed."""
_DEFAULT_TIMEOUT_S = 2
"""A response later than this counts as a timeout; wrk's own default."""

_DONE = f"""
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{RESULT_MARK}{{"requests":%d,"duration_us":%d,"bytes":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50_us":%.1f,"p99_us":%.1f,"max_us":%.1f}}\\n',
    summary.requests, summary.duration, summary.bytes,
    e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


class WrkError(Exception):
    """wrk did not run, or did not say what it did. The text is for the user."""


@dataclass(frozen=True)
class Load:
    """What one run of wrk did."""

    requests: int
    duration_us: int
    response_bytes: int
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    """None when requests were pipelined: see ``parse``."""
    errors: dict[str, int]
    """connect, read, write, status (not 2xx or 3xx), timeout; only those that happened."""


def find() -> str:
    """The wrk executable."""
    path = shutil.which("wrk")
    if path is None:
        raise WrkError("wrk is not on PATH; install the package wrk with the system's package manager")
    return path


def script(scenario: Scenario) -> str:
    """The Lua script that makes wrk send this scenario and report as JSON."""
    lines = [f"wrk.method = {_lua(scenario.method)}", f"wrk.path = {_lua(scenario.path)}"]
    lines += [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in scenario.headers]
    if scenario.body:
        lines.append(f"wrk.body = {_lua(scenario.body.decode('latin-1'))}")
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


def run(
    port: int,
    scenario: Scenario,
    script_path: Path,
    *,
    seconds: float,
    connections: int,
    cores: Sequence[int],
    wrk: str,
) -> Load:
    """Load 127.0.0.1:port for ``seconds`` from one wrk thread pinned to ``cores``.

    wrk takes whole seconds only; a fraction is made by asking for more and interrupting it, which it
    answers by reporting what it has (its clock for that ticks every 100 ms).
    """
    whole = math.ceil(seconds)
    command = [wrk, "-t1", f"-c{connections}", f"-d{whole}s", f"--timeout={_DEFAULT_TIMEOUT_S}s"]
    command += ["-s", str(script_path), f"http://127.0.0.1:{port}/"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a Ctrl-C is ours to handle, in an order of our choosing
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        if seconds < whole:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=seconds + LATE_S)
    except subprocess.TimeoutExpired:
        raise WrkError(f"wrk did not stop {LATE_S:.0f} s after its time") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return parse(output, pipelined=scenario.pipeline > 1)


def parse(output: str, *, pipelined: bool = False) -> Load:
    """The figures of one run from wrk's output.

    wrk fills in latencies for requests that "should have been sent", from the mean interval between
    requests. With pipelining that interval is a fraction of a batch's latency, and the percentiles come
    out as anything down to 0; they are left out then.
    """
    for line in output.splitlines():
        if line.startswith(RESULT_MARK):
            fields = json.loads(line.removeprefix(RESULT_MARK))
            break
    else:
        said = output.strip().splitlines()[-1:] or ["nothing"]
        raise WrkError(f"wrk gave no result; its last words: {said[0]}")
    kinds = ("connect", "read", "write", "status", "timeout")
    return Load(
        requests=fields["requests"],
        duration_us=fields["duration_us"],
        response_bytes=fields["bytes"],
        p50_us=None if pipelined else fields["p50_us"],
        p99_us=None if pipelined else fields["p99_us"],
        max_us=None if pipelined else fields["max_us"],
        errors={kind: fields[kind] for kind in kinds if fields[kind]},
    )


def _lua(text: str) -> str:
    """A Lua string literal; everything but plain printable ASCII as a decimal escape."""
    plain = {chr(code) for code in range(0x20, 0x7F)} - {'"', "\\"}
    # Three digits, always: "\1" before a literal "0" would read as "\10".
    return '"' + "".join(char if char in plain else f"\\{ord(char):03d}" for char in text) + '"'
