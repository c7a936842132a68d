"""``shardserve config init [FILE]``: a commented shardserve.toml for this host.

May hold no text of the file, which is ``config/initial.py``'s: this asks the kernel and the terminal, writes
the file, and says what it found. A file that exists is left alone without --force.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from .._version import __version__
from ..config import initial
from ..config.load import FILE_NAME
from ..config.values import FilePath, ImportString

STDOUT = "-"
# What container runtimes leave in a container's root.
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


@click.command("init")
@click.argument("file", default=FILE_NAME)
@click.option("--app", help="The application to serve, as module:attribute.")
@click.option(
    "--behind-proxy/--no-behind-proxy",
    default=None,
    help="Whether a proxy such as nginx is in front; asked on a terminal.",
)
@click.option("--ssl-certfile", metavar="PATH", help="Serve HTTPS with this certificate chain (PEM).")
@click.option("--ssl-keyfile", metavar="PATH", help="The private key of the certificate (PEM).")
@click.option("--force", is_flag=True, help="Write over a file that exists.")
def init(
    file: str,
    app: str | None,
    behind_proxy: bool | None,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    force: bool,
) -> None:
    """Write a commented shardserve.toml that fits this host.

    FILE is ./shardserve.toml unless named; - is standard output.
    """
    if ssl_keyfile and not ssl_certfile:
        raise click.UsageError("--ssl-keyfile needs --ssl-certfile")
    _check(app, ssl_certfile, ssl_keyfile)
    path = None if file == STDOUT else Path(file)
    if path is not None and not force and os.path.lexists(path):
        raise click.ClickException(f"{path} exists; --force writes over it")
    if behind_proxy is None and sys.stdin.isatty() and sys.stdout.isatty():
        behind_proxy = click.confirm("Is a proxy such as nginx in front of this server?", default=True)
    host = this_host(os.environ)
    wishes = initial.Wishes(__version__, app, behind_proxy, ssl_certfile, ssl_keyfile)
    text = initial.text(host, wishes)
    if path is None:
        click.echo(text, nl=False)
    else:
        _write(path, text, force=force)
    _summary(path, host, wishes)


def this_host(environ: Mapping[str, str]) -> initial.Host:
    """What can be found out of the machine and of the limits that this process runs under."""
    # Here, not above: ``config show`` has no use for them.
    from ..master import affinity, banner

    usable = affinity.usable()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return initial.Host(
        cores=len(usable.order),
        cores_present=max(os.cpu_count() or 0, len(usable.order)),
        quota=usable.quota,
        workers=usable.workers,
        somaxconn=_somaxconn(),
        # As the master raises it at start.
        descriptors=banner.MOST_DESCRIPTORS
        if hard == resource.RLIM_INFINITY
        else min(hard, banner.MOST_DESCRIPTORS),
        container="KUBERNETES_SERVICE_HOST" in environ or any(mark.exists() for mark in CONTAINER_MARKS),
    )


def _somaxconn() -> int | None:
    from ..net.listeners import SOMAXCONN

    try:
        return int(SOMAXCONN.read_text())
    except (OSError, ValueError):
        return None


def _check(app: str | None, *paths: str | None) -> None:
    """The file must have no mistakes, so what goes into it may have none."""
    try:
        if app is not None:
            ImportString().check(app)
        for path in paths:
            if path is not None:
                FilePath().check(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.ClickException(f"{path} exists; --force writes over it") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def _summary(path: Path | None, host: initial.Host, wishes: initial.Wishes) -> None:
    """What was found, on stdout; on stderr if the file went to stdout."""
    from ..master import banner
    from ..net.listeners import backlog_warning

    proxy = {None: "not said; see proxy-headers in the file", True: "yes", False: "no"}[wishes.behind_proxy]
    rows = [
        ("workers", f"{host.workers}: {initial.describe_cores(host)}"),
        ("proxy", proxy),
        ("https", "yes" if wishes.certfile else "no"),
        ("backlog", str(initial.backlog_of(host))),
        ("open files", str(host.descriptors)),
    ]
    warnings = [backlog_warning(2048)]
    if host.descriptors is not None and host.descriptors < banner.LOW_DESCRIPTORS:
        warnings.append(
            f"only {host.descriptors} open files are allowed per process; raise the hard limit (LimitNOFILE=)"
        )
    aside = path is None
    for name, value in rows:
        click.echo(f"{name:<12}{value}", err=aside)
    for warning in filter(None, warnings):
        _say("warning: " + warning, "yellow", aside=aside)
    if path is not None:
        _say(f"wrote {path}", "green", aside=aside)
        named = "" if path.name == FILE_NAME and path.parent == Path() else f" --config {path}"
        click.echo(f"next: shardserve config check{named}; shardserve{named} {wishes.app or 'main:app'}")


def _say(text: str, colour: str, *, aside: bool) -> None:
    # no-color.org: "when present and not an empty string". Where there is no terminal click drops colours.
    plain = bool(os.environ.get("NO_COLOR"))
    click.echo(text if plain else click.style(text, fg=colour), err=aside)
