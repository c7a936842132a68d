"""``shardserve config check``, ``show`` and ``init`` (``init.py``).

May hold no knowledge of a setting: the loader judges, ``config/render.py`` writes.
"""

from __future__ import annotations

import click

from ..config import render
from .init import init
from .options import SettingsCommand, config_of, config_option, loader_of, settings_options


@click.group("config", short_help="Check the settings, show them, or write a first file.")
def config() -> None:
    """Check the settings, show where each one comes from, or write a first file."""


config.add_command(init)


@config.command("check")
@config_option
@click.pass_context
def check(ctx: click.Context, /, **_: object) -> None:
    """Check the file and the environment, and report every mistake."""
    reading = loader_of(ctx).read()
    settings = config_of(ctx, reading)
    from ..master import precheck

    precheck.check(settings)
    click.echo(f"{reading.path or 'no configuration file; the environment'}: no mistakes")


@config.command("show", cls=SettingsCommand)
@settings_options
@click.pass_context
def show(ctx: click.Context, /, **_: object) -> None:
    """Print every setting, its value and where it came from."""
    reading = loader_of(ctx).read()
    click.echo(render.show(config_of(ctx, reading), reading.sources))
