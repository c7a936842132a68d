"""``shardserve completion bash|zsh|fish``: the script with which a shell completes our command line.

May hold no shell: scripts and the answers to them are click's. A shell that has evaluated the script runs
``shardserve`` with ``_SHARDSERVE_COMPLETE`` set for each TAB.
"""

from __future__ import annotations

import click

PROGRAM = "shardserve"
# What click looks for: the program's name in capitals.
VARIABLE = f"_{PROGRAM.upper()}_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that teaches a shell our options.

    \b
    bash   eval "$(shardserve completion bash)"   in ~/.bashrc
    zsh    eval "$(shardserve completion zsh)"    in ~/.zshrc
    fish   shardserve completion fish > ~/.config/fish/completions/shardserve.fish
    """
    from click.shell_completion import get_completion_class

    made_by = get_completion_class(shell)
    assert made_by is not None  # the argument is a choice of those that click has
    click.echo(made_by(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
