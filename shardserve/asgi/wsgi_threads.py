"""The threads that run a WSGI app: as many as allowed, made when there is work, kept as long as their app.

Rules of this file: work is begun in the order it came; what finds no free thread waits. Work never raises.
A server in somebody else's process may end long before that does, so a thread that waits for work does not
hold its ``Threads``, and ends with it.
The threads are daemons: a worker waits for its requests, not for its threads, and one whose request was cut
at a deadline must not keep the process.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class Threads:
    """``submit`` from one thread only, the event loop's."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.busy = 0  # submitted and not done, those that wait included
        self._lock = threading.Lock()
        self._work: SimpleQueue[Work | None] = SimpleQueue()  # None: no more will come
        weakref.finalize(self, self._work.put, None)

    def submit(self, work: Work) -> None:
        """Have ``work`` done as soon as a thread is free. Raises RuntimeError if not even one can be had."""
        with self._lock:
            self.busy += 1
            wanted = self.busy > self.count
        if wanted and self.count < self.most:
            self._add()
        self._work.put(work)

    def _add(self) -> None:
        name = f"shardserve-wsgi-{self.count + 1}"
        try:
            threading.Thread(
                target=_run, args=(self._work, weakref.ref(self)), name=name, daemon=True
            ).start()
        except RuntimeError:  # the system has no more: those that there are must do
            if self.count == 0:
                self.busy -= 1
                raise
        else:
            self.count += 1

    def _done(self) -> None:
        with self._lock:
            self.busy -= 1


def _run(queue: SimpleQueue[Work | None], owner: weakref.ref[Threads]) -> None:
    while (work := queue.get()) is not None:
        work()
        # What the request leaves behind is not kept until the next one comes.
        del work
        threads = owner()
        if threads is not None:
            threads._done()
        del threads
    queue.put(None)  # for the next one
