"""What more workers bring: the same load over 1…N of them, as speed-up and efficiency.

Rules of this file: it plans which cores do what, and draws the table; bench.py runs it. The cores of the
servers and of the load are disjoint, and those of the load the same for every number of workers, so that the
only thing that changes is the number. Sharing cores must be asked for, and the result says so: there, the
load takes from the server what the workers bring.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from perf.results import Report, ScenarioResult
from perf.rounds import Settings
from perf.tables import table

OVERLAP_WARNING = "the load shares the servers' cores: speed-up and efficiency are worth little here"


class PlanError(Exception):
    """The cores do not suffice. The text is one line for the user."""


@dataclass(frozen=True)
class Plan:
    """Which numbers of workers, on which cores, and where the load runs."""

    workers: tuple[int, ...]
    cores: tuple[int, ...]
    """The servers', in order: N workers get the first N."""
    load_cores: tuple[int, ...]
    overlap: bool

    def settings(self, common: Settings) -> list[Settings]:
        """One for each number of workers."""
        return [
            replace(common, workers=n, server_cores=self.cores[:n], load_cores=self.load_cores)
            for n in self.workers
        ]


def plan(allowed: Sequence[int], workers: Sequence[int] | None, *, overlap: bool) -> Plan:
    """Cores for these numbers of workers, or for 1, 2, 4… up to half of the cores.

    The load gets every core that the most workers leave. With ``overlap`` the workers may be as many as there
    are cores, and the load gets all that are left, or all if none is. Raises PlanError.
    """
    cores = sorted(allowed)
    most_disjoint = len(cores) - 1
    chosen = tuple(sorted(set(workers))) if workers else _doubling(len(cores) if overlap else len(cores) // 2)
    most = chosen[-1] if chosen else 0
    if most > len(cores):
        raise PlanError(f"{most} workers want as many cores; there are {len(cores)}")
    if not overlap and (most > most_disjoint or most == 0):
        raise PlanError(
            f"{max(most, 1)} workers and the load want {max(most, 1) + 1} cores, and there are {len(cores)}:"
            f" use at most {most_disjoint} workers, or --overlap"
        )
    rest = tuple(cores[most:])
    return Plan(chosen, tuple(cores[:most]), rest or tuple(cores), overlap=not rest)


def render(report: Report) -> str:
    """One table for each scenario: every server, every number of workers."""
    by_scenario: dict[str, list[ScenarioResult]] = {}
    for result in report.scenarios:
        by_scenario.setdefault(result.scenario, []).append(result)
    parts = [_scenario(name, results) for name, results in by_scenario.items()]
    settings = report.settings
    overlap = bool(settings.get("overlap"))
    cores, load_cores = ("+".join(map(str, settings[side])) for side in ("server_cores", "load_cores"))
    parts.append(
        f"N workers on the first N of CPUs {cores}; the load, {settings['connections']} connections for each"
        f" worker, on CPUs {load_cores}; {settings['rounds']} rounds of {settings['seconds']:g} s.\n"
        "speed-up: requests/s over those of one worker; efficiency: speed-up per worker. Medians of rounds."
        + (f"\nWARNING: {OVERLAP_WARNING}" if overlap else "")
    )
    return "\n\n".join(parts)


def speed_ups(results: Sequence[ScenarioResult], server: str) -> dict[int, float]:
    """By number of workers, the server's requests a second over those with the fewest workers per worker."""
    per_second = {
        one.workers: statistics.median(sample.per_second for sample in one.samples[server])
        for one in results
        if one.samples.get(server)
    }
    if not per_second:
        return {}
    least = min(per_second)
    return {n: value / (per_second[least] / least) for n, value in sorted(per_second.items())}


def _doubling(most: int) -> tuple[int, ...]:
    """1, 2, 4… up to ``most``, and ``most`` itself."""
    steps = [1 << n for n in range(most.bit_length()) if 1 << n <= most]
    return tuple(dict.fromkeys([*steps, most])) if most > 0 else ()


def _scenario(name: str, results: Sequence[ScenarioResult]) -> str:
    rows = []
    servers = dict.fromkeys(server for one in results for server in one.samples)
    for server in servers:
        ups = speed_ups(results, server)
        for one in results:
            samples = one.samples.get(server)
            if samples:
                up = ups[one.workers]
                rows.append(
                    (
                        server,
                        str(one.workers),
                        f"{statistics.median(s.per_second for s in samples):,.0f}",
                        f"{min(s.cpu_us for s in samples):.2f}",
                        f"{statistics.median(s.busy for s in samples) / one.workers:.0%}",
                        f"{up:.2f}",
                        f"{up / one.workers:.0%}",
                    )
                )
    headings = ("server", "workers", "req/s", "CPU µs/req", "busy each", "speed-up", "efficiency")
    parts = [f"{name} over numbers of workers"]
    if rows:
        parts.append(table(headings, rows))
    seen: set[str] = set()
    for one in results:
        lines = [f"  skipped: {one.reason}"] if one.reason else []
        lines += [f"  skipped {server}: {why}" for server, why in one.skipped.items()]
        parts += [line for line in lines if line not in seen]
        seen |= set(lines)
    return "\n".join(parts)
