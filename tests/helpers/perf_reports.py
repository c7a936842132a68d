"""Made-up results of the laboratory: small reports for the tests of charts, pages and comparisons.

Rules of this file: what is not given is the same in every sample, so that a test says only what it is about.
"""

from __future__ import annotations

from typing import Any

from perf.results import Report, Sample, ScenarioResult

REQUESTS = 10_000


def sample(number: int, cpu_us: float, **changes: Any) -> Sample:
    """Round ``number``, in which a request cost ``cpu_us`` microseconds of CPU time."""
    fields: dict[str, Any] = {
        "round": number,
        "cpu_ns": round(cpu_us * 1000 * REQUESTS),
        "wall_ns": 1_000_000_000,
        "requests": REQUESTS,
        "duration_us": 1_000_000,
        "response_bytes": 1,
        "p50_us": 500.0,
        "p99_us": 2500.0,
        "p999_us": 4000.0,
        "max_us": 9000.0,
        "errors": {},
        "rss_kib": 20 * 1024,
    }
    return Sample(**(fields | changes))


def scenario(name: str, servers: dict[str, list[float]], **fields: Any) -> ScenarioResult:
    """``servers``: by name, the CPU microseconds of each round."""
    samples = {
        server: [sample(number, cost) for number, cost in enumerate(costs)]
        for server, costs in servers.items()
    }
    return ScenarioResult(name, samples, **fields)


def report(*scenarios: ScenarioResult, **settings: Any) -> Report:
    """A run of these scenarios, on one and the same machine."""
    names = dict.fromkeys(name for one in scenarios for name in one.samples)
    return Report(
        started="2026-11-23T10:00:00+00:00",
        host={
            "cpu": "A processor",
            "cpus_allowed": 2,
            "kernel": "6.18",
            "python": "3.11.7",
            "wrk": "4.1",
            "commit": "0123456789abcdef",
            "sysctl": {"net.core.somaxconn": "4096"},
        },
        settings={"rounds": 3, "seconds": 1.0, "connections": 64, "server_cores": [0], "load_cores": [1]}
        | settings,
        servers={
            name: {"version": "1.0", "packages": {"uvloop": "0.22"}, "command": [name]} for name in names
        },
        scenarios=list(scenarios),
    )
