"""What a run measured, and its JSON form.

Rules of this file: samples are stored raw, one per server and round, and everything printed is
computed from them, so that a result file can be read again with better statistics. SCHEMA changes
when a field changes its meaning.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
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
    rss_kib: int

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per request."""
        return self.cpu_ns / 1000 / self.requests

    @property
    def per_second(self) -> float:
        return self.requests * 1e6 / self.duration_us

    @property
    def busy(self) -> float:
        return self.cpu_ns / self.wall_ns


@dataclass
class ScenarioResult:
    """One scenario: the samples of each server, and why the others have none (or no more)."""

    name: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    """The share of a core each server used while nobody asked it anything."""

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
    """Read a file that ``save`` wrote. Raises ResultError."""
    try:
        fields = json.loads(path.read_text())
        if fields["schema"] != SCHEMA:
            raise ResultError(f"{path}: schema {fields['schema']}, this perf reads {SCHEMA}")
        scenarios = [_scenario(one) for one in fields.pop("scenarios")]
        return Report(**fields, scenarios=scenarios)
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: not a result of `perf bench --json` ({error!r})") from None


def _scenario(fields: dict[str, Any]) -> ScenarioResult:
    samples = {name: [Sample(**one) for one in rows] for name, rows in fields["samples"].items()}
    return ScenarioResult(fields["name"], samples, fields["skipped"], fields["idle"])
