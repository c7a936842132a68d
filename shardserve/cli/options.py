"""click options generated from config/model.py, and help in sections.

Rules of this file: nothing about one setting is written here. Options hand their text over as it
was typed: the loader checks it together with the file and the environment, so that all mistakes
are reported at once. ``fail`` decides how they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click
from click.core import ParameterSource

from ..config.kinds import LogConfig
from ..config.load import FILE_ENV, FILE_NAME, Loader, Reading, flag_origin
from ..config.model import SETTINGS, Config, Setting, describe
from ..config.values import BOOLEAN_WORDS, Choice, FilePath, Kind, Many, Switch
from ..errors import ConfigError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., object])

# The help's first column, so that all sections line up; longer flags get a line of their own.
_COLUMN = 28

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help=f"Read settings from this TOML file.  [default: ${FILE_ENV}, ./{FILE_NAME}]",
)


class SettingsCommand(click.Command):
    """A command that takes settings; its --help has one section for each group of them.

    A switch may be followed by a word: ``--ws-per-message-deflate false``, as Uvicorn has it.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, switches_without_words(args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        group_of = {one.attribute: one.group for one in SETTINGS}
        sections: dict[str, list[tuple[str, str]]] = {one.group: [] for one in SETTINGS}
        for one in SETTINGS:
            if one.argument:
                sections[one.group].append((one.metavar, one.help))
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(group_of.get(param.name or "", "Other"), []).append(record)
        for title, records in sections.items():
            write_section(formatter, title, records)


def switches_without_words(args: list[str]) -> list[str]:
    """``--switch false`` and ``--switch=false`` become ``--no-switch``, with true ``--switch``.

    No other argument can be meant: these words are no import string.
    """
    rest = args.index("--") if "--" in args else len(args)
    found: list[str] = []
    for number, word in enumerate(args[:rest]):
        switch, equals, value = word.partition("=")
        if not equals:
            switch, value = (found[-1] if found else ""), word
        opposite = _OPPOSITES.get(switch)
        # The second half: "--switch true true" has one word too many.
        if (
            opposite is None
            or value.lower() not in BOOLEAN_WORDS
            or (not equals and args[number - 1] != switch)
        ):
            found.append(word)
            continue
        said = switch if BOOLEAN_WORDS[value.lower()] else opposite
        if equals:
            found.append(said)
        else:
            found[-1] = said
    return found + args[rest:]


# Each flag of each switch, and the one that says the contrary.
_OPPOSITES = {
    flag: other
    for one in SETTINGS
    if one.negative_flag is not None
    for flag, other in ((one.flag, one.negative_flag), (one.negative_flag, one.flag))
}


def write_section(formatter: click.HelpFormatter, title: str, records: list[tuple[str, str]]) -> None:
    """One titled list, its second column where every other section has it."""
    if records:
        with formatter.section(title):
            # write_dl sizes the column by the widest entry below the limit: make one that wide.
            formatter.write_dl([(term.ljust(_COLUMN), text) for term, text in records], col_max=_COLUMN)


def settings_options(command: Command) -> Command:
    """Decorate a command with APP, every setting, and --config."""
    # click lists what is decorated last first.
    command = config_option(command)
    for one in reversed(SETTINGS):
        command = _argument(one)(command) if one.argument else _option(one)(command)
    return command


def loader_of(ctx: click.Context) -> Loader:
    """A Loader of what this command line gave."""
    given = {
        one.attribute: ctx.params[one.attribute]
        for one in SETTINGS
        if one.attribute in ctx.params
        and ctx.get_parameter_source(one.attribute) is ParameterSource.COMMANDLINE
    }
    return Loader(given, file=ctx.params["config_file"])


def config_of(ctx: click.Context, reading: Reading) -> Config:
    """The config that was read. Raises UsageError if a flag is wrong, else ConfigError."""
    if reading.config is not None:
        return reading.config
    flags = {flag_origin(one) for one in SETTINGS}
    text = describe(reading.mistakes)
    if any(mistake.origin in flags for mistake in reading.mistakes):
        raise click.UsageError(text, ctx)
    raise ConfigError(text)


def _option(one: Setting) -> Callable[[Command], Command]:
    declaration = f"{one.flag}/{one.negative_flag}" if one.negative_flag else one.flag
    text = f"{one.help}  [default: {_default(one)}]" if _default(one) else one.help
    if isinstance(one.kind, Switch):
        return click.option(declaration, one.attribute, default=None, help=text)
    return click.option(
        declaration,
        one.attribute,
        shell_complete=_completion(one.kind),
        multiple=isinstance(one.kind, Many),
        metavar=one.metavar,
        default=None,
        help=text,
    )


def _argument(one: Setting) -> Callable[[Command], Command]:
    return click.argument(one.attribute, required=False, default=None, metavar=f"[{one.metavar}]")


def _completion(kind: Kind) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What a shell offers for a value: the choices; its own files; nothing."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # Here, not above: only a shell that asks for completions needs it.
        from click.shell_completion import CompletionItem

        if isinstance(kind, Choice):
            return [CompletionItem(word) for word in kind.choices if word.startswith(incomplete)]
        if isinstance(kind.item if isinstance(kind, Many) else kind, FilePath | LogConfig):
            return [CompletionItem(incomplete, type="file")]
        return []

    return complete


def _default(one: Setting) -> str:
    """What the help says of the default: nothing where the default is nothing."""
    if one.default is False or one.default in ("", ()) or one.to_text(one.default) == "none":
        return ""
    unit = "" if one.default is None else one.unit
    return f"{one.to_text(one.default)} {unit}".rstrip()
