"""``shardserve run APP``, and ``shardserve APP``: read the settings, call the master.

May hold no serving: what happens after ``serve`` is the master's.
"""

from __future__ import annotations

import click

from .group import version_option
from .options import SettingsCommand, config_of, loader_of, settings_options

_NO_APP = """\
there is no APP to serve. Name its module and attribute:

  shardserve main:app

or write app = "main:app" into shardserve.toml."""


@click.command("run", cls=SettingsCommand)
@settings_options
@version_option
@click.pass_context
def run(ctx: click.Context, /, **_: object) -> None:
    """Serve APP, named as module:attribute. The default command."""
    loader = loader_of(ctx)
    config = config_of(ctx, loader.read())
    if not config.app:
        raise click.UsageError(_NO_APP, ctx)
    from ..master.serve import serve

    ctx.exit(serve(config, reload_config=loader.reload, settings_file=loader.path))
