"""Rolling replacement of workers: what one is, how a reload begins, who waits for it to end.

Rules of this file: the configuration is read here, before anything is touched; when that fails there
is no reload. Which worker starts when is the supervisor's. Recycling one worker is the same thing
with one slot and the running configuration. At most one is on its way.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..config.model import Config, adopt
from ..errors import ConfigError
from . import precheck
from .slots import Process, Slot

log = logging.getLogger("shardserve.master")

ReloadConfig = Callable[[], Config]
# Told of "progress" and then, once, of "done" or "failed", each with a text.
Heard = Callable[[str, str], None]

# A slot whose replacement did not start is not recycled again before this.
RECYCLE_RETRY_S = 30.0


@dataclass(slots=True)
class Rolling:
    """A replacement on its way. ``active`` are the slots whose new workers are starting."""

    config: Config
    generation: int
    queue: deque[int]
    parallel: int
    cause: str = "reload"
    began_at: float = 0.0
    active: set[int] = field(default_factory=set)
    done: int = 0
    failure: str = ""  # why it was abandoned

    @property
    def is_reload(self) -> bool:
        return self.cause == "reload"

    @staticmethod
    def queue_of(slots: Iterable[int]) -> deque[int]:
        return deque(sorted(slots))

    def take(self) -> list[int]:
        """The slots whose turn it is now."""
        taken = []
        while self.queue and len(self.active) < self.parallel:
            self.active.add(self.queue[0])
            taken.append(self.queue.popleft())
        return taken

    def fail(self, text: str) -> list[int]:
        """Nothing more is begun. The slots that stay as they are."""
        self.failure = self.failure or text
        left = list(self.queue)
        self.queue.clear()
        return left


class Roller:
    """What is being replaced, what was asked for, and what has been done."""

    def __init__(self, reload_config: ReloadConfig | None) -> None:
        """``reload_config`` is asked for a fresh Config at each reload; None: the running one stays."""
        self._reload_config = reload_config
        self._generations = 0
        self._waiting: list[Heard] = []  # for the next reload
        self._hearing: list[Heard] = []  # of the one on its way
        self.asked = False
        self.rolling: Rolling | None = None
        self.reloads = 0
        self.failures = 0
        self.took_s: float | None = None  # the last one, whatever came of it
        self.reloaded_at: float | None = None  # Unix time of the end of the last that succeeded
        self.problem = ""  # why what runs is not what is configured

    def ask(self, heard: Heard | None = None) -> None:
        """Reload as soon as nothing else is being replaced."""
        self.asked = True
        if heard is not None:
            self._waiting.append(heard)

    def rolls(self, slot: Slot) -> Rolling | None:
        """What is replacing the worker of this slot now."""
        rolling = self.rolling
        return rolling if rolling is not None and slot.number in rolling.active else None

    # Beginning

    def begin_reload(self, running: Config, slots: Iterable[int], now: float) -> Rolling:
        """One that has failed already if the new configuration cannot be had."""
        self.asked = False
        self._hearing += self._waiting  # of one that is overtaken by this one, too
        self._waiting = []
        self._generations += 1
        config, failure = self._fresh(running)
        queue = Rolling.queue_of([] if failure else slots)
        self.rolling = Rolling(
            config, self._generations, queue, config.reload_parallel, began_at=now, failure=failure
        )
        if not failure:
            at_once = min(config.reload_parallel, len(queue))
            how = "one at a time" if at_once == 1 else f"{at_once} at a time"
            log.info("reloading %d worker%s, %s", len(queue), "s" if len(queue) != 1 else "", how)
        return self.rolling

    def _fresh(self, running: Config) -> tuple[Config, str]:
        """The configuration to go on with, and why there is none."""
        self.problem = ""
        if self._reload_config is None:
            return running, ""
        try:
            config, waiting = adopt(running, self._reload_config())
            precheck.check(config)
        except ConfigError as error:
            log.error("not reloading, the old configuration stays: %s", error)
            return running, str(error)
        except Exception as error:
            # The server outlives whatever its configuration's reader runs into.
            log.exception("not reloading: reading the configuration failed")
            return running, f"reading the configuration failed: {error!r}"
        if waiting:
            # The names, always: a change that silently does nothing is found out in the next outage.
            self.problem = f"changed, but needs a restart: {', '.join(waiting)}"
            log.warning("%s", self.problem)
        return config, ""

    def begin_recycling(self, slot: Slot, config: Config, generation: int, cause: str) -> Rolling:
        self.rolling = Rolling(config, generation, deque([slot.number]), 1, cause)
        return self.rolling

    # On its way

    def replaced(self, slot: Slot, process: Process) -> None:
        """The slot's new worker is ready."""
        assert self.rolling is not None
        self.rolling.active.discard(slot.number)
        self.rolling.done += 1
        if self.rolling.is_reload:
            self._tell("progress", f"{process} is ready")

    def abandon(self, slot: Slot, text: str, now: float) -> None:
        """One did not start, so the others would fail alike: they are left as they are."""
        assert self.rolling is not None
        rolling = self.rolling
        rolling.active.discard(slot.number)
        left = [slot.number, *rolling.fail(text)]
        slot.recycle_after = now + RECYCLE_RETRY_S
        what, done = ("reload", "reloaded") if rolling.is_reload else ("replacement", "replaced")
        log.error("%s abandoned; not %s: worker %s", what, done, ", ".join(map(str, left)))

    # The end

    def end(self, now: float) -> None:
        """Nothing of it is left to do."""
        assert self.rolling is not None
        rolling, self.rolling = self.rolling, None
        if not rolling.is_reload:
            return
        self.took_s = now - rolling.began_at
        if rolling.failure:
            self.failures += 1
            self.problem = rolling.failure
            self._tell("failed", rolling.failure)
        else:
            self.reloads += 1
            self.reloaded_at = round(time.time(), 3)
            log.info("reloaded")
            self._tell("done", f"{rolling.done} replaced")
        self._hearing = []

    def cancel(self, text: str) -> None:
        """The server stops."""
        self.rolling = None
        self._hearing += self._waiting
        self._tell("failed", text)
        self._hearing, self._waiting = [], []

    def _tell(self, kind: str, text: str) -> None:
        for heard in self._hearing:
            heard(kind, text)
