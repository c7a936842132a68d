"""``shardserve ctl``: ask a running server, or tell it what to do.

Rules of this file: options in, one command out, its reply as text or JSON. Which server and how to
reach it is ``ctl_client.py``; how a status looks is ``ctl_tables.py``. stdout is the answer, stderr
is for whoever waits. Exit codes: 0 done; 1 refused, failed, or no server; 2 a wrong command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from .. import commands
from ..errors import ControlError
from ..observe.logs import wants_colours
from .ctl_client import Connection, CtlError, Ended, connect
from .ctl_tables import printable_lines, status_text, workers_text

Command = TypeVar("Command", bound=Callable[..., object])


@click.group("ctl")
def ctl() -> None:
    """Ask or command a running server.

    \b
    shardserve ctl status
    shardserve ctl reload

    The server is the one whose control socket is configured here, or else the
    only one that runs; --pid and --socket name another.
    """


def which_server(command: Command) -> Command:
    """Decorate a command with the options that all of them have: ``socket``, ``pid``, ``as_json``."""
    options = (
        click.option("--socket", metavar="PATH", help="The control socket of the server."),
        click.option("--pid", type=click.IntRange(1), metavar="PID", help="The pid of the server's master."),
        click.option("--json", "as_json", is_flag=True, help="Print the reply as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@ctl.command("status")
@which_server
def status(socket: str | None, pid: int | None, as_json: bool) -> None:
    """Show the server and each of its workers."""
    reply = _ask(connected(socket, pid), commands.Status(), as_json)
    if not as_json:
        with _sense():
            found = commands.ServerStatus.from_json(reply)
        _print(lambda colours: status_text(found, colours=colours))


@ctl.command("workers")
@which_server
def workers(socket: str | None, pid: int | None, as_json: bool) -> None:
    """Show the workers only."""
    reply = _ask(connected(socket, pid), commands.Workers(), as_json)
    if not as_json:
        with _sense():
            found = commands.workers_from_json(reply)
        _print(lambda colours: workers_text(found, colours=colours))


@ctl.command("reload")
@click.option(
    "--wait/--no-wait", default=True, help="Wait until it is over, and say how it went.  [default: wait]"
)
@which_server
def reload(socket: str | None, pid: int | None, as_json: bool, wait: bool) -> None:
    """Replace every worker by a fresh one, without losing a request."""
    connection = connected(socket, pid)
    try:
        # Without a limit: an app may take minutes to start, and the server has limits of its own.
        reply = _ask(connection, commands.Reload(wait), as_json, timeout_s=None)
    except KeyboardInterrupt:
        raise CtlError("not waiting any more; the reload goes on (shardserve ctl status)") from None
    if not as_json:
        click.echo(_message(reply, "reloaded" if wait else "reload asked for"))


@ctl.command("reopen")
@which_server
def reopen(socket: str | None, pid: int | None, as_json: bool) -> None:
    """Open the log files again, after they were renamed (logrotate)."""
    reply = _ask(connected(socket, pid), commands.Reopen(), as_json)
    if not as_json:
        click.echo(_message(reply, "opening the log files again"))


@ctl.command("stop")
@click.option("--force", is_flag=True, help="Cut the requests in flight.")
@click.option("--wait/--no-wait", default=True, help="Wait until the server is gone.  [default: wait]")
@which_server
def stop(socket: str | None, pid: int | None, as_json: bool, force: bool, wait: bool) -> None:
    """Stop the server; requests in flight are finished first."""
    connection = connected(socket, pid)
    try:
        reply = _ask(connection, commands.Stop(force), as_json)
    except Ended:
        reply = {"ok": True}  # it was that quick
        if as_json:
            click.echo(json.dumps(reply, indent=2))
    if not as_json:
        click.echo(_message(reply, "stopping"))
    if wait:
        try:
            connection.wait_for_end()
        except KeyboardInterrupt:
            raise CtlError("not waiting any more; the server goes on stopping") from None
        if not as_json:
            click.echo("stopped")


@ctl.command("scale")
@click.argument("count", metavar="N", type=click.IntRange(1, commands.MOST_WORKERS))
@which_server
def scale(socket: str | None, pid: int | None, as_json: bool, count: int) -> None:
    """Have N workers from now on."""
    reply = _ask(connected(socket, pid), commands.Scale(count), as_json)
    if not as_json:
        click.echo(_message(reply, f"{count} worker{'' if count == 1 else 's'} wanted"))


def connected(socket: str | None, pid: int | None) -> Connection:
    """A connection to the server that these options name. Raises UsageError, CtlError."""
    if socket is not None and pid is not None:
        raise click.UsageError("give --socket or --pid, not both")
    return connect(socket, pid)


def _ask(connection: Connection, command: commands.Command, as_json: bool, **how: Any) -> dict[str, Any]:
    """The reply to a command that was carried out. Raises CtlError with the server's reason if not."""
    reply = connection.ask(command, progress=_note, **how)
    if as_json:
        click.echo(json.dumps(reply, indent=2))
    if reply["ok"] is not True:
        raise CtlError(printable_lines(str(reply["error"])))
    return reply


def _message(reply: dict[str, Any], otherwise: str) -> str:
    return printable_lines(str(reply.get("message") or otherwise))


def _print(text: Callable[[bool], str]) -> None:
    colours = wants_colours(sys.stdout, None)
    click.echo(text(colours), color=colours)


@contextmanager
def _sense() -> Iterator[None]:
    """A reply that makes no sense is an error for a person, not a traceback."""
    try:
        yield
    except ControlError as error:
        raise CtlError(f"the reply makes no sense: {error}; is the server another version?") from error


def _note(text: str) -> None:
    """Something for the person who waits, not for the program that reads the output."""
    click.echo(printable_lines(text), err=True)
