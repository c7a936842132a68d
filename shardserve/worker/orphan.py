"""What becomes of a worker that hangs when its master dies: nobody is left to kill it, so it does so.

Rules of this file: one daemon thread, asleep in poll(2) until the control pipe's other end is gone.
A worker whose event loop turns sees that itself and drains (``server.py``); this is for the one whose
loop does not. Code that holds the GIL for good keeps this thread from running, too.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time


def end_after_the_master(control_fd: int, limit_s: float) -> None:
    """Kill this process ``limit_s`` after the other end of ``control_fd`` was closed."""
    fd = os.dup(control_fd)  # the worker closes its own at its end, and the number may be used again
    threading.Thread(target=_wait, args=(fd, limit_s), name="shardserve-orphan", daemon=True).start()


def _wait(fd: int, limit_s: float) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # POLLHUP and POLLERR are always told
    while not poll.poll():
        pass
    time.sleep(limit_s)
    os.kill(os.getpid(), signal.SIGKILL)
