"""The command line of the laboratory: bench, compare, peers.

Rules of this file: flags, messages and exit codes; what they do is in the modules. Tables go to
standard output, everything else to standard error. Exit codes: 0 done, 1 a regression or nothing
measured, 2 a wrong flag or file (click's own), 130 interrupted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import click

from perf import compare as comparing
from perf import host, peer_env, results, tables
from perf.bench import Bench
from perf.load import LoadError
from perf.peers import BASELINE, SERVERS, Server
from perf.progress import duration
from perf.rounds import Settings
from perf.scenarios import SCENARIOS, Scenario

Row = TypeVar("Row", Server, Scenario)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what a request costs, here and on the peers (docs/perf-lab.md)."""


@main.command()
@click.option("--servers", help="Comma-separated names, or 'all'.  [default: the main peers]")
@click.option(
    "--scenarios",
    "--scenario",
    "scenarios",
    help="Comma-separated names, or a group's: ws-echo.  [default: all]",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Per round.")
@click.option("--connections", type=click.IntRange(1), default=64, show_default=True)
@click.option("--json", "json_path", type=_FILE, help="Write every raw sample and the host's facts here.")
@click.option("--server-core", type=int, help="CPU of the server.  [default: the first allowed]")
@click.option("--load-core", type=int, help="CPU of the load.  [default: the second allowed]")
def bench(
    servers: str | None,
    scenarios: str | None,
    rounds: int,
    seconds: float,
    connections: int,
    json_path: Path | None,
    server_core: int | None,
    load_core: int | None,
) -> None:
    """Run servers in turn, one worker on one core, the load on another, and compare CPU per request."""
    chosen_servers = _servers(servers)
    chosen_scenarios = _pick(without_groups(scenarios), SCENARIOS, "--scenarios")
    server_core, load_core = _cores(server_core, load_core)
    settings = Settings(
        server_core=server_core,
        load_core=load_core,
        rounds=rounds,
        seconds=seconds,
        connections=connections,
    )
    if json_path is not None and not json_path.resolve().parent.is_dir():
        raise click.BadParameter(f"no such folder: {json_path.parent}", param_hint="--json")
    try:
        run = Bench(chosen_servers, chosen_scenarios, settings)
    except LoadError as error:
        raise click.ClickException(str(error)) from None
    _announce(run, settings)
    report = run.run()
    click.echo(tables.render(report))
    if json_path is not None:
        results.save(report, json_path)
        _say(f"raw samples: {json_path}")
    if report.interrupted:
        raise SystemExit(130)
    if not any(result.samples for result in report.scenarios):
        raise SystemExit(1)


@main.command()
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--relative-to", help=f"Compare costs relative to this server, such as {BASELINE}.")
def compare(before: Path, after: Path, relative_to: str | None) -> None:
    """Compare two files of 'bench --json'; exit 1 if anything got over 10 % dearer."""
    try:
        old, new = results.load(before), results.load(after)
    except results.ResultError as error:
        raise click.UsageError(str(error)) from None
    differing = comparing.differences(old, new)
    for line in differing:
        _say(f"note: {line}")
    if differing and relative_to is None:
        _say(f"note: `--relative-to {BASELINE}` takes much of the machine out of the comparison")
    found = list(comparing.changes(old, new, relative_to))
    if not found:
        raise click.UsageError("the two files have no server and scenario in common")
    click.echo(comparing.render(found))
    if any(change.verdict == "REGRESSION" for change in found):
        raise SystemExit(1)


@main.group()
def peers() -> None:
    """The servers we are compared with."""


@peers.command("install")
def peers_install() -> None:
    """Put the peers into .venv-peers, each by itself; one that fails does not stop the others."""
    failed = peer_env.install(_say)
    if failed:
        raise click.ClickException(f"not installed: {', '.join(failed)}")


@peers.command("list")
def peers_list() -> None:
    """Show every server, its version, and what is missing."""
    interpreters = peer_env.Interpreters.find()
    rows = []
    for server in SERVERS:
        why = peer_env.missing(server, interpreters)
        version = interpreters.version(server) if why is None else "–"
        rows.append((server.name, version, server.what, why or ""))
    click.echo(tables.table(("server", "version", "what it is", "missing"), rows, words=4))


def _servers(names: str | None) -> list[Server]:
    if names is None:
        return [server for server in SERVERS if server.by_default]
    return list(SERVERS) if names == "all" else _pick(names, SERVERS, "--servers")


def _pick(names: str | None, rows: tuple[Row, ...], flag: str) -> list[Row]:
    """The rows named, in the order named."""
    if names is None:
        return list(rows)
    by_name = {row.name: row for row in rows}
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in by_name]
    if unknown or not wanted:
        known = ", ".join(by_name)
        raise click.BadParameter(
            f"unknown: {', '.join(unknown) or 'nothing named'}; known: {known}", param_hint=flag
        )
    return [by_name[name] for name in wanted]


def without_groups(names: str | None) -> str | None:
    """The names of scenarios, each group's replaced by those of its rows."""
    if names is None:
        return None
    rows: list[str] = []
    for name in map(str.strip, names.split(",")):
        members = [scenario.name for scenario in SCENARIOS if scenario.group == name and name]
        rows += members or [name]
    return ",".join(rows)


def _cores(server: int | None, load: int | None) -> tuple[int, int]:
    """The two CPUs; by default the first two this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    server = allowed[0] if server is None else server
    load = next((cpu for cpu in allowed if cpu != server), server) if load is None else load
    for flag, cpu in (("--server-core", server), ("--load-core", load)):
        if cpu not in allowed:
            raise click.BadParameter(f"CPU {cpu} is not among the allowed {allowed}", param_hint=flag)
    if server == load:
        _say(f"warning: server and load share CPU {server}: latency and requests/s mean nothing here")
    elif host.share_a_core(server, load):
        _say(f"warning: CPUs {server} and {load} are threads of one core and slow each other down")
    return server, load


def _announce(run: Bench, settings: Settings) -> None:
    estimate = run.estimate()
    _say(
        f"about {duration(estimate.likely_s)}, at most {duration(estimate.at_most_s)}:"
        f" {settings.rounds} rounds of {settings.seconds:g} s; Ctrl-C stops and shows what there is"
    )


def _say(text: str) -> None:
    click.echo(text, err=True)
