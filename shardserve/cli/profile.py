"""``shardserve profile APP``: a flame graph of the app under load, and a table of where its CPU goes.

Rules of this file: options in, a result out. What is done is ``profiling/``'s. The table is stdout;
progress and remarks are stderr. Exit codes: 0 done, 1 no profile, 2 a wrong command line, 130
interrupted.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..profiling.session import Options

INTERRUPTED = 130
_MOST_HZ = 5000


@click.command("profile", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[APP] [OPTION OF shardserve run]...")
@click.option(
    "--config", "config_file", metavar="FILE", help="Read the server's settings from this TOML file."
)
@click.option(
    "--pid",
    type=click.IntRange(1),
    help="Profile this running server, or this worker; without a load of ours.",
)
@click.option(
    "--path", "paths", multiple=True, metavar="TARGET", help="What to ask for; repeatable.  [default: /]"
)
@click.option(
    "--method", metavar="NAME", help="The method of the requests.  [default: GET, or POST with --body]"
)
@click.option("--body", metavar="TEXT", help="The body of each request; @FILE reads it from a file.")
@click.option(
    "--request-header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header of each request; repeatable.",
)
@click.option(
    "--connections", type=click.IntRange(1, 10000), default=32, show_default=True, help="Of the load."
)
@click.option("--load/--no-load", default=True, help="Make the load.  [default: load]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("profile.svg"),
    show_default=True,
    metavar="FILE",
    help="The graph; the stacks go beside it, as .folded.",
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(0.5, 3600),
    default=10.0,
    show_default=True,
    help="Seconds to record.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.FloatRange(0, 3600),
    default=2.0,
    show_default=True,
    help="Seconds of load before that.",
)
@click.option(
    "--rate",
    "rate_hz",
    type=click.IntRange(1, _MOST_HZ),
    default=199,
    show_default=True,
    help="Samples a second.",
)
@click.option(
    "--profiler",
    type=click.Choice(("auto", "perf", "py-spy")),
    default="auto",
    show_default=True,
    help="Which one to use.",
)
@click.option("--off-cpu", is_flag=True, help="Show where threads wait, instead of where they run.")
@click.pass_context
def profile(ctx: click.Context, /, **given: Any) -> None:
    """Show where the CPU of APP goes: a flame graph, and a table by layer.

    \b
    shardserve profile main:app --path /items --path /users
    shardserve profile main:app --workers 2 --no-access-log
    shardserve profile --pid 4711

    It starts APP with one worker on a port of its own, loads it, records its
    stacks with perf or py-spy, and writes profile.svg, which any browser
    shows. Other options are the server's.
    """
    ctx.exit(report(options_of(ctx, given)))


def options_of(ctx: click.Context, given: dict[str, Any]) -> Options:
    """What was typed as Options. Raises UsageError."""
    from ..profiling.session import Options

    arguments = tuple(given["arguments"])
    if given["pid"] is not None and arguments:
        raise click.UsageError("--pid profiles a server that runs: no APP and no options for one", ctx)
    if given["output"].suffix == ".folded":
        raise click.BadParameter("it is the graph: name it .svg", ctx, param_hint="--output")
    plan = plan_of(ctx, given) if given["load"] and given["pid"] is None else None
    names = ("config_file", "pid", "output", "duration_s", "warm_up_s", "rate_hz", "profiler", "off_cpu")
    return Options(arguments=arguments, plan=plan, **{name: given[name] for name in names})


def plan_of(ctx: click.Context, given: dict[str, Any]) -> Any:
    """The load that was asked for. Raises UsageError."""
    from ..profiling.load import Plan

    headers = []
    for text in given["headers"]:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{text!r} is not NAME:VALUE", ctx, param_hint="--request-header")
        headers.append((name.strip(), value.strip()))
    body = _body(ctx, given["body"])
    method = given["method"] or ("POST" if given["body"] is not None else "GET")
    for what, text in [("--method", method), *(("--path", path) for path in given["paths"])]:
        if not text.isascii() or not text.isprintable() or " " in text:
            raise click.BadParameter(f"{text!r} cannot be sent as it is; encode it", ctx, param_hint=what)
    paths = tuple(given["paths"]) or ("/",)
    return Plan(
        paths=paths, method=method, headers=tuple(headers), body=body, connections=given["connections"]
    )


def _body(ctx: click.Context, text: str | None) -> bytes:
    if text is None or not text.startswith("@"):
        return (text or "").encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: {error.strerror}", ctx, param_hint="--body") from None


def report(options: Options) -> int:
    """Do it and print the table; the exit code."""
    from ..profiling import session
    from ..profiling.programs import ProfileError
    from ..profiling.progress import Progress

    progress = Progress()
    try:
        with _terminated_as_interrupted():
            done = session.run(options, progress)
    except ProfileError as error:
        progress.note(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        progress.note("interrupted; nothing was written")
        return INTERRUPTED
    click.echo(done.text(waiting=options.off_cpu))
    for note in done.notes:
        progress.note(f"note: {note}")
    progress.note(f"flame graph: {options.output}\nstacks: {options.folded}")
    return 0


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends it as a Ctrl-C does: in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
