"""The command line of the laboratory: bench, scale, peers; report_cli.py has charts, compare and report.

Rules of this file: flags, messages and exit codes; what they do is in the modules. Tables go to
standard output, everything else to standard error. Exit codes: 0 done, 1 a regression or nothing
measured, 2 a wrong flag or file (click's own), 130 interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from perf import host, idle, micro, peer_env, profile, rate_load, report_cli, results, tables
from perf import revisions as revising
from perf import scale as scaling
from perf.bench import Bench
from perf.load import LoadError
from perf.peers import SERVERS, Server
from perf.progress import duration
from perf.rounds import Settings
from perf.scenarios import SCENARIOS, Scenario

Row = TypeVar("Row", Server, Scenario)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what a request costs, here and on the peers (docs/perf-lab.md)."""


Command = TypeVar("Command", bound=Callable[..., None])


def _common(seconds: float, scenarios: str, servers: str) -> Callable[[Command], Command]:
    """The flags that every measuring command has."""
    options = [
        click.option("--servers", help=f"Comma-separated names, or 'all'.  [default: {servers}]"),
        click.option(
            "--revision",
            "revisions",
            multiple=True,
            metavar="REV",
            help="Build this revision of shardserve too, and measure it as shardserve@REV. Repeatable.",
        ),
        click.option(
            "--scenarios",
            "--scenario",
            "scenarios",
            help=f"Comma-separated names, or a group's: ws-echo.  [default: {scenarios}]",
        ),
        click.option("--rounds", type=click.IntRange(1), default=7, show_default=True),
        click.option(
            "--seconds", type=click.FloatRange(0.1), default=seconds, show_default=True, help="Per round."
        ),
        click.option(
            "--connections", type=click.IntRange(1), default=64, show_default=True, help="For each worker."
        ),
        click.option(
            "--json", "json_path", type=_FILE, help="Write every raw sample and the host's facts here."
        ),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@main.command()
@_common(seconds=1.0, scenarios="all", servers="the main peers")
@click.option(
    "--rate", type=click.FloatRange(0.1), help="Requests a second on a fixed schedule, without TLS."
)
@click.option(
    "--idle-connections",
    type=click.IntRange(0),
    default=2000,
    show_default=True,
    help="Open in the scenario many-idle; less if the limit on open files says so.",
)
@click.option("--server-core", type=int, help="CPU of the server.  [default: the first allowed]")
@click.option("--load-core", type=int, help="CPU of the load.  [default: the second allowed]")
def bench(
    servers: str | None,
    revisions: tuple[str, ...],
    scenarios: str | None,
    rate: float | None,
    idle_connections: int,
    server_core: int | None,
    load_core: int | None,
    **common: Any,
) -> None:
    """Run servers in turn, one worker on one core, the load on another, and compare CPU per request."""
    chosen_scenarios = _pick(without_groups(scenarios), SCENARIOS, "--scenarios")
    if rate is not None and scenarios is None:
        chosen_scenarios = [one for one in chosen_scenarios if rate_load.unfit(one) is None]
    server_core, load_core = _cores(server_core, load_core)
    settings = Settings(
        server_cores=(server_core,),
        load_cores=(load_core,),
        rounds=common["rounds"],
        seconds=common["seconds"],
        connections=common["connections"],
        idle_connections=_idle(idle_connections, chosen_scenarios),
        rate_per_s=rate,
    )
    _check_target(common["json_path"])
    chosen_servers = _servers(servers, revisions)
    run = _prepared(lambda: Bench(chosen_servers, chosen_scenarios, settings))
    _announce(run, settings)
    report = run.run()
    click.echo(tables.render(report))
    _finish(report, common["json_path"])


@main.command()
@_common(seconds=1.0, scenarios="plain", servers="the main peers that can have workers")
@click.option("--workers", help="Comma-separated numbers.  [default: 1, 2, 4… up to half of the cores]")
@click.option("--overlap", is_flag=True, help="Let the load share the servers' cores, if it has none left.")
def scale(
    servers: str | None,
    revisions: tuple[str, ...],
    scenarios: str | None,
    workers: str | None,
    overlap: bool,
    **common: Any,
) -> None:
    """Run servers with 1…N workers, each on a core of its own, and show speed-up and efficiency."""
    chosen_scenarios = _pick(without_groups(scenarios or "plain"), SCENARIOS, "--scenarios")
    plan = _plan(workers, overlap)
    settings = Settings(
        server_cores=(),
        load_cores=(),
        rounds=common["rounds"],
        seconds=common["seconds"],
        connections=common["connections"],
        idle_connections=_idle(Settings.idle_connections, chosen_scenarios),
    )
    _check_target(common["json_path"])
    chosen = _servers(servers, revisions)
    if servers is None:
        chosen = [server for server in chosen if server.scales]
    facts = {"workers_tried": plan.workers, "server_cores": plan.cores, "overlap": plan.overlap}
    run = _prepared(lambda: Bench(chosen, chosen_scenarios, plan.settings(settings), scaling=facts))
    _announce(run, settings)
    report = run.run()
    click.echo(scaling.render(report))
    _finish(report, common["json_path"])


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


def _servers(names: str | None, revisions: tuple[str, ...]) -> list[Server]:
    """The rows named, and one for each revision, after ours."""
    if names is None:
        chosen = [server for server in SERVERS if server.by_default]
    else:
        chosen = list(SERVERS) if names == "all" else _pick(names, SERVERS, "--servers")
    try:
        commits = {revision: revising.find_commit(revision) for revision in revisions}
    except revising.RevisionError as error:
        raise click.BadParameter(str(error), param_hint="--revision") from None
    others = [revising.row(revision, commit, _say) for revision, commit in commits.items()]
    ours = next((n + 1 for n, server in enumerate(chosen) if server.name == "shardserve"), len(chosen))
    return [*chosen[:ours], *others, *chosen[ours:]]


def _plan(workers: str | None, overlap: bool) -> scaling.Plan:
    """Which numbers of workers on which cores; says what is shared or left out."""
    try:
        numbers = [int(one) for one in workers.split(",")] if workers is not None else None
        if numbers is not None and min(numbers) < 1:
            raise ValueError(workers)
    except ValueError:
        raise click.BadParameter(f"not numbers of workers: {workers}", param_hint="--workers") from None
    allowed = sorted(os.sched_getaffinity(0))
    try:
        plan = scaling.plan(allowed, numbers, overlap=overlap)
    except scaling.PlanError as error:
        raise click.BadParameter(str(error), param_hint="--workers") from None
    if plan.overlap:
        _say(f"warning: {scaling.OVERLAP_WARNING}")
    elif len(allowed) < 4 and numbers is None:
        _say(
            f"{len(allowed)} cores are allowed, and the load needs its own: only 1 worker can be measured"
            " apart from it; for more, --workers 1,2 --overlap"
        )
    return plan


def _idle(wanted: int, scenarios: Sequence[Scenario]) -> int:
    """How many idle connections there will be; said where a scenario has any."""
    if not any(scenario.idle for scenario in scenarios):
        return wanted
    count = idle.most(wanted)
    short = "" if count == wanted else f", not {wanted}: the limit on open files"
    _say(f"many-idle: {count} idle connections{short}")
    return count


def _check_target(path: Path | None) -> None:
    """Before the run rather than after it."""
    if path is not None and not path.resolve().parent.is_dir():
        raise click.BadParameter(f"no such folder: {path.parent}", param_hint="--json")


def _prepared(make: Callable[[], Bench]) -> Bench:
    try:
        return make()
    except LoadError as error:
        raise click.ClickException(str(error)) from None


def _finish(report: results.Report, path: Path | None) -> None:
    """Store the samples, and end with the right exit code."""
    if path is not None:
        results.save(report, path)
        _say(f"raw samples: {path}")
    if report.interrupted:
        raise SystemExit(130)
    if not any(result.samples for result in report.scenarios):
        raise SystemExit(1)


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


for _command in report_cli.COMMANDS:
    main.add_command(_command)
main.add_command(micro.micro)
main.add_command(profile.profile)
