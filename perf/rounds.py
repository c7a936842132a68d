"""One scenario measured: its servers started, warmed up, loaded in interleaved rounds, stopped.

Rules of this file: within a scenario every server is started once and runs to the end, idle when it
is not its turn, and the rounds go round-robin with a moving start, so that drift of the machine falls
on all alike. A server that fails is dropped with one line and keeps the samples it has; it never
stops the others. How a server is started is process.py's, how load is made is the business
of the tool that the scenario names, or of rate_load where the run has a fixed rate.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from perf import cc, certificate, h2_probe, rate_load, revisions, static_file
from perf.h2load import H2Load
from perf.idle import Idle, idle_connections
from perf.interrupts import Interrupts
from perf.load import Generator, Job, Load, LoadError
from perf.peer_env import Interpreters, missing
from perf.peers import C_PROGRAMS, Server
from perf.process import Process, StartError, fill, free_port, stop_all
from perf.programs import lacking
from perf.progress import Progress
from perf.rate_load import RateLoad
from perf.results import IDLE_LIMIT, Sample, ScenarioResult
from perf.scenarios import Scenario, Tool
from perf.wrk import Wrk
from perf.ws_load import WsLoad

_IDLE_LOOK_S = 0.1
_IDLE_LOOKS = 5
HERE = Path(__file__).resolve().parent
TOOLS: dict[Tool, type[Wrk] | type[WsLoad] | type[H2Load]] = {
    Tool.WRK: Wrk,
    Tool.WS_LOAD: WsLoad,
    Tool.H2LOAD: H2Load,
}
"""Who runs each load tool."""
_NEEDED = {Tool.WRK: "wrk", Tool.WS_LOAD: "cc", Tool.H2LOAD: "h2load"}
"""The program that each needs."""
_QUIET_S = 1.0
"""How long a server may take to clear up after its idle connections, before the next one's turn."""
WARM_UP_S = 0.5
"""Enough for CPython to specialise what it runs and for the socket buffers to grow."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure."""

    server_cores: tuple[int, ...]
    load_cores: tuple[int, ...]
    rounds: int = 7
    seconds: float = 1.0
    connections: int = 64
    idle_connections: int = 2000
    """In the scenario that has any."""
    rate_per_s: float | None = None
    """Requests a second at a fixed rate; None: a closed loop, as fast as the server answers."""
    workers: int = 1

    @property
    def warm_up_s(self) -> float:
        return min(WARM_UP_S, self.seconds)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every scenario of a run works with."""

    settings: Settings
    interpreters: Interpreters
    progress: Progress
    interrupts: Interrupts
    folder: Path
    """For scripts, logs and compiled programs; it goes when the run ends."""
    noted: set[str] = field(default_factory=set)
    """The skip lines already shown: once is enough, however many scenarios there are."""


class Stopwatch:
    """What a server spends inside a ``with`` block, for one load."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.cpu_ns = 0
        self.wall_ns = 0
        self.rss_kib = 0

    def __enter__(self) -> Self:
        self._before, self._began = self._process.meter(), time.monotonic_ns()
        return self

    def __exit__(self, *exc_info: object) -> None:
        after, ended = self._process.meter(), time.monotonic_ns()
        self.cpu_ns = after.cpu_since(self._before)
        self.wall_ns = ended - self._began
        self.rss_kib = after.rss_kib


class ScenarioRun:
    """One scenario: start the servers, warm them up, go round, stop them."""

    def __init__(self, tools: Tools, scenario: Scenario, result: ScenarioResult) -> None:
        self._tools = tools
        self._scenario = scenario
        self._result = result
        self._generator = generator(scenario, tools.settings, tools.folder)
        self._running: dict[str, Process] = {}
        self._restless: set[str] = set()
        """Servers that spin when idle, frozen unless it is their turn."""

    def run(self, servers: Sequence[Server]) -> None:
        try:
            for server in servers:
                if can(server, self._scenario, self._tools.settings):
                    self._start(server)
            for number in range(self._tools.settings.rounds):
                order = list(self._running)
                turn = number % len(order) if order else 0
                for name in order[turn:] + order[:turn]:
                    self._round(name, number)
        finally:
            with self._tools.interrupts.deferred():
                stop_all(self._running.values())

    def _start(self, server: Server) -> None:
        why = missing(server, self._tools.interpreters, self._scenario.packages)
        if why is not None:
            self._skip(server.name, why)
            return
        self._tools.progress.step(f"{self._result.name}: starting {server.name}")
        try:
            argv, port = self._command(server)
            env = revisions.environment(server.source) if server.source is not None else None
            with self._tools.interrupts.deferred():
                process = self._running[server.name] = Process(
                    argv,
                    port=port,
                    core=self._tools.settings.server_cores,
                    log_path=self._tools.folder / f"{self._result.name}-{port}.log",
                    env=env,
                )
            process.wait_ready(self._scenario)
            self._load(process, self._tools.settings.warm_up_s, Stopwatch(process))
            process.check_alive("under its first load")
            self._watch_idle(server.name, process)
        except (StartError, cc.CompileError) as error:
            self._drop(server.name, str(error), error.log)
        except (LoadError, OSError) as error:
            self._drop(server.name, f"could not be warmed up: {error}")

    def _watch_idle(self, name: str, process: Process) -> None:
        """Tell a server that spins from one that still clears up after the warm-up."""
        share = 1.0
        for _ in range(_IDLE_LOOKS):
            before, began = process.meter(), time.monotonic_ns()
            time.sleep(_IDLE_LOOK_S)
            used = process.meter().cpu_since(before)
            share = min(share, used / (time.monotonic_ns() - began))
            if share <= IDLE_LIMIT:
                break
        self._result.idle[name] = share
        if share > IDLE_LIMIT:
            self._restless.add(name)
            process.freeze()

    def _command(self, server: Server) -> tuple[list[str], int]:
        port = free_port()
        fields = {"app": self._scenario.app, "port": str(port), "perf": str(HERE)}
        fields |= {"workers": str(self._tools.settings.workers), "folder": str(self._tools.folder)}
        template = server.argv
        if self._scenario.own_static:
            template += server.static or ()
            fields["static"] = str(static_file.make())
            self._result.served_by[server.name] = "the server" if server.static else "Starlette's StaticFiles"
        template += server.protocol(self._scenario) or ()
        if self._scenario.tls:
            fields["cert"], fields["key"] = map(str, certificate.make(self._tools.folder))
        if "{answer}" in server.argv:
            fields["answer"] = str(static_file.answer(self._scenario.expect_body, self._tools.folder))
        for name in C_PROGRAMS:
            if f"{{{name}}}" in server.argv:
                fields[name] = str(cc.build(name, self._tools.folder))
        if server.program is not None:
            fields[server.program] = shutil.which(server.program) or server.program
        python = self._tools.interpreters.python(server)
        if python is not None:
            fields["python"] = str(python)
        return fill(template, fields), port

    def _round(self, name: str, number: int) -> None:
        process = self._running.get(name)
        if process is None:
            return
        rounds = self._tools.settings.rounds
        self._tools.progress.step(f"{self._result.name}: round {number + 1}/{rounds} {name}")
        try:
            sample = self._measure(name, process, number)
        except LoadError as error:
            how = process.ended()
            why = f"{error}" if how is None else f"the server died ({how})"
            self._drop(name, f"round {number + 1}: {why}", process.log_tail())
            return
        how = process.ended()
        if how is not None:
            self._drop(name, f"round {number + 1}: the server died ({how})", process.log_tail())
        elif sample.requests == 0:
            self._drop(name, f"round {number + 1}: answered nothing", process.log_tail())
        else:
            self._result.samples.setdefault(name, []).append(sample)

    def _measure(self, name: str, process: Process, number: int) -> Sample:
        if name in self._restless:
            process.thaw()
        watch = Stopwatch(process)
        with self._idle(process) as idle:
            load = self._load(process, self._tools.settings.seconds, watch)
            closed = idle.closed() if idle is not None else 0
        if name in self._restless:
            process.freeze()
        elif idle is not None:
            process.wait_quiet(_QUIET_S)
        return Sample(
            round=number,
            cpu_ns=watch.cpu_ns,
            wall_ns=watch.wall_ns,
            requests=load.requests,
            duration_us=load.duration_us,
            response_bytes=load.response_bytes,
            **asdict(load.latency),
            errors=load.errors | ({"idle closed": closed} if closed else {}),
            rss_kib=watch.rss_kib,
            late_us=load.late_us,
        )

    def _idle(self, process: Process) -> contextlib.AbstractContextManager[Idle | None]:
        """The idle connections of the scenario, if it has any."""
        if not self._scenario.idle:
            return contextlib.nullcontext()
        return idle_connections(process.port, self._scenario, self._tools.settings.idle_connections)

    def _load(self, process: Process, seconds: float, measured: Stopwatch) -> Load:
        settings = self._tools.settings
        job = Job(
            port=process.port,
            scenario=self._scenario,
            seconds=seconds,
            connections=(self._scenario.connections or settings.connections) * settings.workers,
            core=settings.load_cores,
            measured=measured,
        )
        return self._generator.run(job)

    def _drop(self, name: str, why: str, log: str = "") -> None:
        """Stop a server that failed, and say why; the samples it already has are kept."""
        with self._tools.interrupts.deferred():
            stop_all([self._running.pop(name)] if name in self._running else [])
        self._skip(name, why)
        for line in log.splitlines():
            self._tools.progress.note(f"    | {line}")

    def _skip(self, name: str, why: str) -> None:
        """Record it; say it once, not once per scenario."""
        self._result.skipped[name] = why = self._without_paths(why)
        line = f"skipped {name}: {why}"
        if line not in self._tools.noted:
            self._tools.noted.add(line)
            self._tools.progress.note(line)

    def _without_paths(self, text: str) -> str:
        """Result files are published: where this tree and this run lie is nobody's business."""
        for folder, name in ((self._tools.folder, "RUN"), (HERE.parent, "."), (Path.home(), "~")):
            text = text.replace(str(folder), name)
        return text


def generator(scenario: Scenario, settings: Settings, folder: Path) -> Generator:
    """What makes the load of a scenario in this run. Raises LoadError if it cannot be had."""
    if settings.rate_per_s is not None:
        return RateLoad(folder, settings.rate_per_s)
    return TOOLS[scenario.tool](folder)


def obstacle(scenario: Scenario, settings: Settings) -> str | None:
    """Why nobody can run the scenario here, as one line; None if it can be run."""
    if settings.rate_per_s is not None:
        needed, why = "cc", rate_load.unfit(scenario)
        if why is not None:
            return why
    else:
        needed = _NEEDED[scenario.tool]
    probe = h2_probe.lacking() if scenario.tool is Tool.H2LOAD else None
    return lacking(needed) or probe or (lacking("openssl") if scenario.tls else None)


def can(server: Server, scenario: Scenario, settings: Settings) -> bool:
    """Whether the server takes part in the scenario at all: one with a fixed answer often does not."""
    if server.protocol(scenario) is None:
        return False
    if settings.workers > 1 and not server.scales:
        return False
    return server.scenarios is None or scenario.name in server.scenarios
