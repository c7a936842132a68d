"""The bench: which servers run which scenarios, for how long, and the report of it.

Rules of this file: it plans, estimates and gathers; rounds.py measures. It returns a report whatever
happens: after a Ctrl-C with the samples there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf import host
from perf.interrupts import Interrupts
from perf.load import LATE_S
from perf.peer_env import Interpreters, missing
from perf.peers import Server
from perf.process import START_DEADLINE_S, STOP_DEADLINE_S
from perf.progress import Progress
from perf.results import Report, ScenarioResult
from perf.rounds import TOOLS, ScenarioRun, Settings, Tools, can
from perf.scenarios import Scenario

_START_GUESS_S = 1.0
_ROUND_OVERHEAD_S = 0.15


@dataclass(frozen=True)
class Estimate:
    """How long a run takes, in seconds: likely, and if everything is as late as allowed."""

    likely_s: float
    at_most_s: float


class Bench:
    """One run. ``run`` returns a Report, also after a Ctrl-C. Raises LoadError if a tool is missing."""

    def __init__(
        self,
        servers: Sequence[Server],
        scenarios: Sequence[Scenario],
        settings: Settings,
        *,
        interpreters: Interpreters | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._servers = servers
        self._scenarios = scenarios
        self._settings = settings
        self._tools = {one.tool: TOOLS[one.tool].version() for one in scenarios}
        self._interpreters = interpreters or Interpreters.find()
        self._progress = progress or Progress(self.steps())

    def estimate(self) -> Estimate:
        runs = sum(self._able(scenario) for scenario in self._scenarios)
        loads = 1 + self._settings.rounds
        loaded_s = self._settings.warm_up_s + self._settings.rounds * self._settings.seconds
        late_s = START_DEADLINE_S + STOP_DEADLINE_S + loads * LATE_S
        return Estimate(
            likely_s=runs * (_START_GUESS_S + loaded_s + loads * _ROUND_OVERHEAD_S),
            at_most_s=runs * (loaded_s + late_s),
        )

    def steps(self) -> int:
        """One for each start and each round."""
        return sum(self._able(scenario) for scenario in self._scenarios) * (1 + self._settings.rounds)

    def run(self) -> Report:
        """Measure everything. A KeyboardInterrupt ends it early with what there is."""
        report = Report(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=host.facts() | self._tools_used(),
            settings=asdict(self._settings),
            servers={server.name: self._identify(server) for server in self._servers},
        )
        with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="shardserve-perf-") as folder:
            tools = Tools(
                settings=self._settings,
                interpreters=self._interpreters,
                progress=self._progress,
                interrupts=interrupts,
                folder=Path(folder),
            )
            try:
                for scenario in self._scenarios:
                    result = ScenarioResult(scenario.name)
                    report.scenarios.append(result)
                    ScenarioRun(tools, scenario, result).run(self._servers)
            except KeyboardInterrupt:
                report.interrupted = True
        self._progress.close()
        return report

    def _tools_used(self) -> dict[str, str]:
        """By name, as facts of the run."""
        return {tool.value: version for tool, version in self._tools.items()}

    def _able(self, scenario: Scenario) -> int:
        """How many servers are expected to run the scenario."""
        willing = [server for server in self._servers if can(server, scenario)]
        return sum(missing(server, self._interpreters, scenario.packages) is None for server in willing)

    def _identify(self, server: Server) -> dict[str, Any]:
        """What to store about a server. The command stays a template: paths are nobody's business."""
        identity: dict[str, Any] = {"version": None, "packages": {}, "command": list(server.argv)}
        if missing(server, self._interpreters) is None:
            have = self._interpreters.versions(server)
            names = ("python", *server.packages, *server.wanted, "uvloop", "httptools")
            keys = sorted({name.replace("_", "-") for name in names} & have.keys())
            identity["version"] = self._interpreters.version(server)
            identity["packages"] = {key: have[key] for key in keys}
        return identity
