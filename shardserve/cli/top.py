"""``shardserve top``: a running server and its workers, as they are now and go on to be.

Rules of this file: options in; keys and news to a view; frames out. What a frame looks like is
``top_layout.py``'s, the terminal ``top_terminal.py``'s, asking the server ``top_feed.py``'s. Exit codes: 0 it
was ended (q, Ctrl-C, TERM), or printed once; 1 no server; 2 a wrong command line, or nothing to draw on.
"""

from __future__ import annotations

import json
import os
import sys

import click

from ..observe.logs import wants_colours
from .ctl import connected, which_server
from .top_feed import Feed, Seen, ask
from .top_layout import Frame, View, frame, text
from .top_table import TREND, Key
from .top_terminal import NEWS, QUIT, RESIZED, Screen
from .top_text import Glyphs, glyphs_for, plain, styled

_HOW_ELSE = "print one table with --once, or one line of JSON with --json"


@click.command("top")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Ask the server again after so long.",
)
@click.option("--once", is_flag=True, help="Print one table, and exit.")
@which_server
def top(socket: str | None, pid: int | None, as_json: bool, interval_s: float, once: bool) -> None:
    """Watch a running server, core by core.

    \b
    shardserve top
    shardserve top --once

    Keys: q quits, p pauses, s sorts, h shows the others. The server is found
    as by shardserve ctl.
    """
    glyphs = glyphs_for(os.environ)
    if not once and not as_json:
        _check_terminal()
    connection = connected(socket, pid)
    path = connection.path
    reply, status = ask(connection)
    if as_json:
        click.echo(json.dumps(reply))
    elif once:
        click.echo(text(status, glyphs))
    else:
        watch = Watch(Seen(status), glyphs, colours=wants_colours(sys.stdout, None))
        with Screen(sys.stdout.fileno(), _keyboard()) as screen:
            feed = Feed(path, socket, pid, watch.seen, interval_s, screen.wake)
            feed.start()
            try:
                watch.run(screen, feed)
            finally:
                feed.stop()


def _check_terminal() -> None:
    if not sys.stdout.isatty():
        raise click.UsageError(f"stdout is no terminal: {_HOW_ELSE}")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError(f"a terminal of type dumb (TERM) cannot be drawn on: {_HOW_ELSE}")


def _keyboard() -> int | None:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # it is closed
        return None


class Watch:
    """What is shown, and what keys and news make of it."""

    def __init__(self, seen: Seen, glyphs: Glyphs, *, colours: bool) -> None:
        self.view = View(seen.status)
        self.seen = seen
        self._glyphs = glyphs
        self._colours = colours
        self._trends: dict[Key, list[float]] = {}
        self._frame = Frame([], [], 0, 0)
        self.news(seen)

    def run(self, screen: Screen, feed: Feed) -> None:
        """Until somebody wants to quit, or the terminal is gone."""
        self.view.keys = screen.keyboard is not None
        while True:
            try:
                screen.draw(self.lines(*screen.size()), self._glyphs.encoding)
            except OSError:  # the terminal is gone
                return
            for event in screen.wait():
                if event in (QUIT, "q", "Q"):
                    return
                if event == NEWS:
                    self.news(feed.seen)
                elif event != RESIZED:
                    self.pressed(event)

    def lines(self, width: int, height: int) -> list[str]:
        """The frame, as the terminal gets it."""
        self._frame = frame(self.view, width, height, self._glyphs)
        self.view.offset = self._frame.offset
        return [(styled if self._colours else plain)(line) for line in self._frame.lines]

    def news(self, seen: Seen) -> None:
        """Another status, or why there is none. Passes by while it is paused."""
        if self.view.paused:
            return
        if seen.status is not self.seen.status or not self._trends:
            rates = {(one.slot, one.pid): one.rps for one in seen.status.workers_list if one.rps is not None}
            self._trends = {key: [*self._trends.get(key, ()), rate][-TREND:] for key, rate in rates.items()}
        self.seen = seen
        self.view.status, self.view.problem, self.view.trends = seen.status, seen.problem, self._trends

    def pressed(self, key: str) -> None:
        """Change the view as this key says."""
        view = self.view
        if key in "pP ":
            view.paused = not view.paused
        elif key in "hH?":
            view.help = not view.help
        elif key in "rR":
            view.turned = not view.turned
        elif key in "sS":
            self._sort_beside(1 if key == "s" else -1)
        elif key in "123456789":
            self._sort_by(int(key) - 1)
        elif key in _STEPS:
            view.offset = max(0, view.offset + _STEPS[key])
        elif key in _PAGES:
            view.offset = max(0, view.offset + _PAGES[key] * max(1, self._frame.page))
        elif key in ("home", "g"):
            view.offset = 0
        elif key in ("end", "G"):
            view.offset = len(view.status.workers_list)  # the next frame puts it right

    def _sort_beside(self, step: int) -> None:
        shown = self._frame.columns
        if self.view.sort in shown:
            self._sort_by((shown.index(self.view.sort) + step) % len(shown))
        else:  # the terminal has become too narrow for it
            self._sort_by(0)

    def _sort_by(self, number: int) -> None:
        if number < len(self._frame.columns):
            self.view.sort, self.view.turned, self.view.offset = self._frame.columns[number], False, 0


_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1}
_PAGES = {"page up": -1, "page down": 1}
