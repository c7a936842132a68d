"""``python -m perf profile``: the lab's door to ``shardserve profile``, with scenarios as apps.

Rules of this file: from a row of scenarios.py to the options of a profile, nothing else; what is done
with them, and what comes of it, is the product's own (shardserve/profiling/).
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from perf import certificate
from perf.load import LoadError
from perf.peer_env import ROOT
from perf.scenarios import BY_NAME, SCENARIOS, Scenario, Tool
from shardserve.cli.profile import report
from shardserve.profiling.load import Plan
from shardserve.profiling.session import PROFILERS, Options

NAMES = tuple(row.name for row in SCENARIOS if row.tool is Tool.WRK)


@click.command()
@click.option(
    "--scenario",
    type=click.Choice(NAMES),
    default="plain",
    show_default=True,
    metavar="NAME",
    help="A row of the HTTP scenarios.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="The graph.  [default: SCENARIO.svg]"
)
@click.option("--connections", type=click.IntRange(1), default=64, show_default=True)
@click.option("--duration", "duration_s", type=click.FloatRange(0.5), default=10.0, show_default=True)
@click.option("--warm-up", "warm_up_s", type=click.FloatRange(0), default=2.0, show_default=True)
@click.option("--rate", "rate_hz", type=click.IntRange(1, 5000), default=199, show_default=True)
@click.option("--profiler", type=click.Choice(PROFILERS), default="auto", show_default=True)
@click.option("--off-cpu", is_flag=True, help="Show where threads wait, instead of where they run.")
@click.option("--access-log/--no-access-log", default=False, help="Of the server.  [default: no-access-log]")
def profile(scenario: str, output: Path | None, access_log: bool, connections: int, **how: Any) -> None:
    """Draw a flame graph of this server in a scenario, and show where its CPU goes."""
    row = BY_NAME[scenario]
    with ExitStack() as stack:
        try:
            arguments = server_arguments(row, stack, access_log=access_log)
        except LoadError as error:
            raise click.ClickException(str(error)) from None
        options = Options(
            arguments=tuple(arguments),
            plan=plan_of(row, connections),
            output=output or Path(f"{scenario}.svg"),
            **how,
        )
        sys.exit(report(options))


def plan_of(row: Scenario, connections: int) -> Plan:
    """What the scenario asks. A batch is asked one by one: that is what the graph is about."""
    return Plan(
        paths=(row.path,),
        method=row.method,
        headers=row.headers,
        body=row.body,
        connections=connections,
    )


def server_arguments(row: Scenario, stack: ExitStack, *, access_log: bool) -> list[str]:
    """The command line of the server. Files that it needs are removed with ``stack``."""
    found = [row.app, "--app-dir", str(ROOT), "--access-log" if access_log else "--no-access-log"]
    if row.tls:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-profile-")))
        cert, key = certificate.make(folder)
        found += ["--ssl-certfile", str(cert), "--ssl-keyfile", str(key)]
    return found
