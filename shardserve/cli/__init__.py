"""The command line. ``main`` is the console script; each command is a file.

    group.py    the ``shardserve`` group: its commands as a table, ``run`` as the default one
    options.py  click options, generated from config/model.py
    run.py      shardserve [run] APP
    config.py   shardserve config check | show | init, with its init.py
    completion.py  shardserve completion bash | zsh | fish
    ctl.py      shardserve ctl status | workers | reload | stop | scale, with its ctl_client.py and
                ctl_tables.py
    top.py      shardserve top, with its top_feed.py (asks), top_layout.py, top_table.py and top_text.py
                (what it looks like) and top_terminal.py
    profile.py  shardserve profile APP; what it does is profiling/'s

Rules of this room: a command turns flags into a Config and a Config into a call; behaviour lives
below. Importing it is cheap: uvloop, httptools, asyncio and the master are imported by the command
that needs them, and a test holds ``--help`` to that.
"""

from .group import main

__all__ = ["main"]
