"""The ``shardserve`` command: a table of commands, with ``run`` as the default one.

Rules of this file: a command is one line of ``COMMANDS`` and is imported when it is asked for. A
first word that is neither a command nor an option of the group is the APP of ``run``, as with
Uvicorn; an app called like a command is reached by ``shardserve run config``. Exceptions become
exit codes here and nowhere else.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from .._version import __version__
from ..errors import StartupError
from .options import SettingsCommand, write_section

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Name → "module:attribute" of a click command.
COMMANDS = {
    "run": ".run:run",
    "config": ".config:config",
    "ctl": ".ctl:ctl",
    "top": ".top:top",
    "profile": ".profile:profile",
    "completion": ".completion:completion",
}
DEFAULT_COMMAND = "run"


class CommandTable(click.Group):
    """A click group whose commands are imported on demand, and whose default command is ``run``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module, __package__), attribute)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for param in self.get_params(ctx) for name in param.opts}
        # A shell asks what the first word may be with no word at all.
        if (not args and not ctx.resilient_parsing) or (args and args[0] not in COMMANDS.keys() | own):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, and what the default one takes."""
        default = self.get_command(ctx, DEFAULT_COMMAND)
        assert default is not None
        found = [*super().shell_complete(ctx, incomplete), *default.shell_complete(ctx, incomplete)]
        return list({one.value: one for one in found}.values())

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StartupError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] APP")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The default command's options are the group's: ``shardserve --help`` shows them all."""
        commands = [(name, self.get_command(ctx, name)) for name in COMMANDS]
        rows = [
            (name, command.get_short_help_str(limit=60)) for name, command in commands if command is not None
        ]
        write_section(formatter, "Commands", rows)
        default = self.get_command(ctx, DEFAULT_COMMAND)
        assert isinstance(default, SettingsCommand)
        default.format_options(ctx, formatter)


def version_text() -> str:
    """``shardserve 0.1.0 with CPython 3.11.2, uvloop 0.21.0, httptools 0.7.1, nghttp2 1.52.0, aiofastnet
    1.2.0, OpenSSL 3.0.17 on Linux``; nghttp2 and aiofastnet where they are there.
    """
    # Here, not above: they take a third of the time that ``--help`` takes.
    import ssl
    from importlib import metadata

    from .. import _native

    parts = [f"{platform.python_implementation()} {platform.python_version()}"]
    for name in ("uvloop", "httptools", "nghttp2", "aiofastnet"):
        with suppress(metadata.PackageNotFoundError):
            version = _native.nghttp2_version if name == "nghttp2" else metadata.version(name)
            if version is not None:
                parts.append(f"{name} {version}")
    # "OpenSSL 3.0.17 1 Jul 2025": the date is of no use to anybody.
    parts.append(" ".join(ssl.OPENSSL_VERSION.split()[:2]))
    return f"shardserve {__version__} with {', '.join(parts)} on {platform.system()}"


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(version_text())
        ctx.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)


@click.group("shardserve", cls=CommandTable)
@version_option
def main() -> None:
    """Serve an ASGI application, with one worker on each core.

    \b
    shardserve main:app --port 9000
    shardserve config show

    Every option can also be set as an environment variable (--log-level is
    SHARDSERVE_LOG_LEVEL) or in a TOML file (log-level = "debug").
    """
