"""Calls from within the garbage collector, wherever it may run."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any


class Fuse:
    """Garbage whose end calls ``act()``, in the ``after``-th collection from now."""

    def __init__(self, act: Callable[[], Any], after: int = 0) -> None:
        self.act = act
        self.after = after
        self.itself = self

    def __del__(self) -> None:
        if self.after > 0:
            Fuse(self.act, self.after - 1)
        else:
            self.act()


class Collecting:
    """While it lasts, the collector runs as often as it can; in the ``after``-th run it calls ``act()``."""

    def __init__(self, act: Callable[[], Any], after: int) -> None:
        self.act, self.after = act, after
        self.fired = False

    def __enter__(self) -> Collecting:
        self.before = gc.get_threshold()
        gc.set_threshold(0)
        gc.collect()  # which empties the interpreter's free lists, too: objects are made anew
        Fuse(self._fire, self.after)
        gc.set_threshold(1, 1, 1)
        return self

    def _fire(self) -> None:
        self.fired = True
        self.act()

    def __exit__(self, *exc: object) -> None:
        gc.set_threshold(0)
        self.act = lambda: None
        gc.collect()
        gc.set_threshold(*self.before)
