"""Worker processes that are started ahead of need: all of theirs is imported, and nothing of the app.

Rules of this file: a spare waits for START like any worker, so it is one as soon as it gets it. It has no
slot's state and no heartbeat, and it is killed rather than told: it has done nothing yet. It holds
copies of its slot's listeners, so it must go before those are closed.

Only ``--reload`` keeps any: it saves the 0.2 s from exec to START, which is most of what a save waits for.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
import subprocess
from collections.abc import Callable, Collection, Sequence

from .. import control
from ..errors import ControlError
from .spawn import Worker

log = logging.getLogger("shardserve.master")


class Spares:
    """At most one for each slot. ``make``: starts a process for a slot, with these sockets, on this core."""

    def __init__(self, make: Callable[[int, Sequence[socket.socket], int | None], Worker]) -> None:
        self._make = make
        self._kept: dict[int, Worker] = {}

    def keep(self, slot: int, sockets: Sequence[socket.socket], core: int | None) -> None:
        """See that there is one. One that died is not replaced before somebody has asked for it."""
        if slot in self._kept:
            return
        try:
            self._kept[slot] = self._make(slot, sockets, core)
        except OSError as error:
            log.debug("no spare worker for slot %d: %s", slot, error)

    def take(self, start: control.Start, now: float) -> Worker | None:
        """The one of this slot, with START sent. Raises ControlError when that is too large."""
        worker = self._kept.pop(start.slot, None)
        if worker is None:
            return None
        word = dataclasses.replace(start, page_fd=worker.page.fd)
        try:
            control.encode(word)
        except ControlError:
            self._end(worker)
            raise
        if worker.handle.poll() is not None:
            self._end(worker)
            return None
        worker.channel.send(word, now)
        return worker

    def keep_only(self, slots: Collection[int]) -> None:
        """Those of other slots go."""
        for slot in [one for one in self._kept if one not in slots]:
            self._end(self._kept.pop(slot))

    def close(self) -> None:
        self.keep_only(())

    @staticmethod
    def _end(worker: Worker) -> None:
        worker.channel.close()
        worker.page.close()
        worker.handle.kill()
        if isinstance(worker.handle, subprocess.Popen):
            worker.handle.wait()  # for as long as a KILL takes
