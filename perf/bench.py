"""The bench: which servers run which scenarios, for how long, and the report of it.

Rules of this file: it plans, estimates and gathers; rounds.py measures. It returns a report whatever
happens: after a Ctrl-C with the samples there are, and without the scenarios whose tool is missing, each
with the reason. A run measures every scenario under each of its settings: one for a bench, one for each
number of workers for a run over several.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf import cc, host
from perf.interrupts import Interrupts
from perf.load import LATE_S, LoadError
from perf.peer_env import Interpreters, missing
from perf.peers import Server
from perf.process import START_DEADLINE_S, STOP_DEADLINE_S
from perf.progress import Progress
from perf.results import Report, ScenarioResult
from perf.rounds import TOOLS, ScenarioRun, Settings, Tools, can, obstacle
from perf.scenarios import Scenario, Tool

_START_GUESS_S = 1.0
_ROUND_OVERHEAD_S = 0.15
_IDLE_GUESS_S = 0.0005
"""Of opening one idle connection and closing it."""


@dataclass(frozen=True)
class Estimate:
    """How long a run takes, in seconds: likely, and if everything is as late as allowed."""

    likely_s: float
    at_most_s: float


class Bench:
    """One run. ``run`` returns a Report, also after a Ctrl-C. Raises LoadError if nothing can run at all."""

    def __init__(
        self,
        servers: Sequence[Server],
        scenarios: Sequence[Scenario],
        settings: Settings | Sequence[Settings],
        *,
        interpreters: Interpreters | None = None,
        progress: Progress | None = None,
        scaling: dict[str, Any] | None = None,
    ) -> None:
        """``scaling`` says that the settings differ in the number of workers, and how they were chosen: it is
        stored with them.
        """
        self._servers = servers
        self._settings = [settings] if isinstance(settings, Settings) else list(settings)
        self._scaling = scaling
        self._points = [(scenario, one) for scenario in scenarios for one in self._settings]
        self._obstacles = {one.name: obstacle(one, self._settings[0]) for one in scenarios}
        reasons = [why for why in self._obstacles.values() if why is not None]
        if len(reasons) == len(scenarios):
            raise LoadError("nothing can be run: " + "; ".join(dict.fromkeys(reasons)))
        self._interpreters = interpreters or Interpreters.find()
        self._progress = progress or Progress(self.steps())
        self._noted: set[str] = set()

    def estimate(self) -> Estimate:
        likely_s = at_most_s = 0.0
        for scenario, settings in self._possible():
            loads = 1 + settings.rounds
            loaded_s = settings.warm_up_s + settings.rounds * settings.seconds
            idle_s = settings.rounds * settings.idle_connections * _IDLE_GUESS_S if scenario.idle else 0.0
            late_s = START_DEADLINE_S + STOP_DEADLINE_S + loads * LATE_S + 2 * idle_s
            runs = self._able(scenario, settings)
            likely_s += runs * (_START_GUESS_S + loaded_s + idle_s + loads * _ROUND_OVERHEAD_S)
            at_most_s += runs * (loaded_s + late_s)
        return Estimate(likely_s, at_most_s)

    def steps(self) -> int:
        """One for each start and each round."""
        return sum(self._able(one, settings) * (1 + settings.rounds) for one, settings in self._possible())

    def run(self) -> Report:
        """Measure everything. A KeyboardInterrupt ends it early with what there is."""
        report = Report(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=host.facts() | self._tools_used(),
            settings=asdict(self._settings[0]) | (self._scaling or {}),
            servers={server.name: self._identify(server) for server in self._servers},
        )
        with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="shardserve-perf-") as folder:
            try:
                for scenario, settings in self._points:
                    tools = Tools(
                        settings=settings,
                        interpreters=self._interpreters,
                        progress=self._progress,
                        interrupts=interrupts,
                        folder=Path(folder),
                        noted=self._noted,
                    )
                    result = self._result(scenario, settings)
                    report.scenarios.append(result)
                    if result.reason is None:
                        self._measure(tools, scenario, result)
            except KeyboardInterrupt:
                report.interrupted = True
        self._progress.close()
        return report

    def _measure(self, tools: Tools, scenario: Scenario, result: ScenarioResult) -> None:
        try:
            run = ScenarioRun(tools, scenario, result)
        except LoadError as error:  # there is a compiler, and it does not compile
            result.reason = str(error).splitlines()[0]
            self._progress.note(f"skipped {result.name}: {error}")
            return
        run.run(self._servers)

    def _result(self, scenario: Scenario, settings: Settings) -> ScenarioResult:
        """An empty one; of a scenario that cannot be run, with the reason, which is said."""
        name, rate_per_s = scenario.name, settings.rate_per_s
        name += f"@{rate_per_s:g}" if rate_per_s is not None else ""
        name += f"×{settings.workers}" if self._scaling is not None else ""
        result = ScenarioResult(name, rate_per_s=rate_per_s, workers=settings.workers)
        result.reason = self._obstacles[scenario.name]
        if result.reason is not None:
            self._progress.note(f"skipped {name}: {result.reason}")
        elif settings.workers > 1:
            alone = [server.name for server in self._servers if not server.scales]
            result.skipped |= dict.fromkeys(alone, "it has one process only")
        return result

    def _tools_used(self) -> dict[str, str]:
        """By name, with their versions, as facts of the run."""
        if self._settings[0].rate_per_s is not None:
            return {"rate_load": cc.version()}
        tools: list[Tool] = [scenario.tool for scenario, _ in self._possible()]
        return {tool.value: TOOLS[tool].version() for tool in dict.fromkeys(tools)}

    def _possible(self) -> Iterator[tuple[Scenario, Settings]]:
        """What is going to be run."""
        return (point for point in self._points if self._obstacles[point[0].name] is None)

    def _able(self, scenario: Scenario, settings: Settings) -> int:
        """How many servers are expected to run the scenario."""
        willing = [server for server in self._servers if can(server, scenario, settings)]
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
