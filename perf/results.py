"""What a run measured, and its JSON form.

Rules of this file: samples are stored raw, one per server and round, and everything printed is
computed from them, so that a result file can be read again with better statistics. SCHEMA changes
when a field changes its meaning or a reader of an older one would miss something; files of every
older schema are still read, and a figure that they have not is None.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 2
"""2: p90_us, p999_us and late_us of a sample; reason, rate_per_s, workers and served_by of a scenario;
server_cores and load_cores instead of server_core and load_core among the settings."""
IDLE_LIMIT = 0.05
"""The share of a core that a server may use while nobody asks it anything. More than a heartbeat, and
it would slow the server whose turn it is: such a server is stopped (SIGSTOP) between its turns. The
others are not, because a master would take its stopped worker for a hung one."""


class ResultError(Exception):
    """A result file cannot be used. The text names the file."""


@dataclass(frozen=True)
class Sample:
    """One server, one round."""

    round: int
    cpu_ns: int
    wall_ns: int
    """Around the load generator, so the share of a core in use is cpu_ns / wall_ns."""
    requests: int
    """Or messages: what the scenario counts."""
    duration_us: int
    response_bytes: int
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    errors: dict[str, int]
    """By kind; only those that happened."""
    rss_kib: int
    p90_us: float | None = None
    p999_us: float | None = None
    late_us: float | None = None
    """At a fixed rate: what 99 of 100 requests were sent within, after they were due and could be sent.
    That is the generator's own lateness, and it is part of the latencies."""

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per request."""
        return self.cpu_ns / 1000 / self.requests

    @property
    def per_second(self) -> float:
        return self.requests * 1e6 / self.duration_us

    @property
    def busy(self) -> float:
        """CPU seconds per second: 1.0 is one whole core, and N workers can reach N."""
        return self.cpu_ns / self.wall_ns


@dataclass
class ScenarioResult:
    """One scenario: the samples of each server, and why the others have none (or no more)."""

    name: str
    """The scenario's; at a fixed rate ``plain@2000``, in a run over numbers of workers ``plain×4``: unique
    in a report."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    """The share of a core each server used while nobody asked it anything."""
    reason: str | None = None
    """Why nobody ran it: a tool that is missing."""
    rate_per_s: float | None = None
    """The fixed rate of its load; None: as fast as the server answers."""
    workers: int = 1
    served_by: dict[str, str] = field(default_factory=dict)
    """What answered, where servers differ in that: of a file, the server itself or the application."""

    @property
    def scenario(self) -> str:
        """The name of the row of scenarios.py."""
        return self.name.partition("@")[0].partition("×")[0]

    def cpu_by_round(self, server: str) -> dict[int, float]:
        return {sample.round: sample.cpu_us for sample in self.samples.get(server, [])}


@dataclass
class Report:
    """One run of the bench."""

    started: str
    host: dict[str, Any]
    settings: dict[str, Any]
    servers: dict[str, dict[str, Any]]
    """By name: the version, the packages' versions and the command."""
    scenarios: list[ScenarioResult] = field(default_factory=list)
    interrupted: bool = False
    schema: int = SCHEMA

    def scenario(self, name: str) -> ScenarioResult | None:
        return next((result for result in self.scenarios if result.name == name), None)


def save(report: Report, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")


def load(path: Path) -> Report:
    """Read a file that ``save`` wrote, of this schema or an older one. Raises ResultError."""
    try:
        fields = json.loads(path.read_text())
        if not 1 <= fields["schema"] <= SCHEMA:
            raise ResultError(f"{path}: schema {fields['schema']}, this perf reads up to {SCHEMA}")
        scenarios = [_scenario(one) for one in fields.pop("scenarios")]
        return _of_today(Report(**fields, scenarios=scenarios))
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: not a result of `perf bench --json` ({error!r})") from None


def _scenario(fields: dict[str, Any]) -> ScenarioResult:
    samples = {name: [Sample(**one) for one in rows] for name, rows in fields.pop("samples").items()}
    return ScenarioResult(samples=samples, **fields)


def _of_today(report: Report) -> Report:
    """A report of schema 1 with the settings' names of now: it had one core on each side."""
    for side in ("server", "load"):
        core = report.settings.pop(f"{side}_core", None)
        if core is not None:
            report.settings[f"{side}_cores"] = [core]
    report.schema = SCHEMA
    return report
