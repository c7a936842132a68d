"""The template of --preload: it has imported the app, and forks the workers, which share its memory.

Rules of this file: forking, and what a fork has to put right. Settings, logs and the import come
before it, the event loop and the server after it, both in ``bootstrap.py`` and both the same as for
a worker that was exec'd. No event loop may exist yet: a uvloop loop does not survive a fork.

A worker is forked twice. The process in between ends at once, and the kernel gives the orphan to the
nearest subreaper above it, which is the master; so the master reaps it like any other child.

    template ──fork──▶ between ──fork──▶ worker: a session and a core of its own, HELLO, then as after START
             ◀──errno── exit

Whatever the app opened at its import is open once, for all workers together, and a thread that it
started there exists in none of them. What must not be shared belongs into the lifespan startup.
"""

from __future__ import annotations

import dataclasses
import errno
import gc
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from .. import control
from ..errors import ControlError
from ..observe import log_config, logs
from .channel import Channel, close_all

# For the kernel to give an orphan to its new parent, which is a matter of microseconds.
ADOPTION_S = 5.0
ADOPTION_POLL_S = 0.0005

log = logging.getLogger("shardserve.worker")


@dataclass(frozen=True, slots=True)
class Birth:
    """What a forked worker begins with: its own pipe, and START with the numbers that hold here."""

    channel: Channel
    start: control.Start


def freeze() -> None:
    """Have the garbage collector leave alone what is there now.

    It writes to every object that it looks at, and memory that is written to is not shared any more.
    """
    gc.collect()
    gc.freeze()


def warn_of_threads() -> None:
    """One line that names the threads which the workers will not have."""
    names = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    if names:
        log.warning(
            "Importing the app started threads that no worker will have, because a fork copies none "
            "(--preload): %s. Start them in the lifespan startup.",
            ", ".join(names),
        )


def serve(channel: Channel, *, master: int) -> Birth | None:
    """Fork a worker for each FORK. ``master``: the pid that workers get as their parent.

    Returns a Birth in each worker. None: this process is to end, because STOP or the end of the
    master came, or because it is a worker that the master did not get.
    """
    while True:
        try:
            received = channel.receive()
        except ControlError as error:
            log.error("The template ignored a control message: %s", error)
            continue
        if received is None or isinstance(received.message, control.Stop):
            return None
        if isinstance(received.message, control.Fork):
            start = received.message.start
            between = _fork(start.slot) if _is_complete(start, received.descriptors) else None
            if between is not None:
                return _begin(channel, start, received.descriptors, between, master)
        elif isinstance(received.message, control.Reopen):
            log_config.reopen()
        else:
            log.error("Ignored %s from the master: not a message for a template.", received.message.type)
        # If a worker was to have them and there is none, the master sees the end of its pipe.
        close_all(received.descriptors)


def _is_complete(start: control.Start, descriptors: tuple[int, ...]) -> bool:
    """Whether there is a pipe, the page if START has one, and every listener."""
    expected = 1 + (start.page_fd is not None) + len(start.listeners)
    if len(descriptors) != expected:
        # A master that stops closes its listeners, and what it is still sending goes without them.
        log.warning(
            "Did not fork worker %d: its FORK came with %d descriptors, not with %d.",
            start.slot, len(descriptors), expected,
        )  # fmt: skip
    return len(descriptors) == expected


def _fork(slot: int) -> int | None:
    """Fork twice. In the worker: the pid of the process in between. None in the template."""
    _flush_streams()
    try:
        between = os.fork()
        if between:
            failure = os.waitstatus_to_exitcode(os.waitpid(between, 0)[1])
            if failure:
                why = os.strerror(failure) if failure > 0 else f"killed by signal {-failure}"
                log.error("Cannot fork worker %d: %s", slot, why)
            return None
    except OSError as error:
        log.error("Cannot fork worker %d: %s", slot, error.strerror)
        return None
    return _fork_again()


def _fork_again() -> int:
    """The life of the process in between. Returns its pid, in the worker only."""
    between = os.getpid()
    try:
        worker = os.fork()
    except OSError as error:
        os._exit(error.errno or errno.EAGAIN)
    if worker:
        os._exit(0)
    return between


def _flush_streams() -> None:
    """What the app has printed and is still in a buffer would be printed by every worker, too."""
    logs.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()


# In the worker


def _begin(
    template: Channel, start: control.Start, descriptors: tuple[int, ...], between: int, master: int
) -> Birth | None:
    template.close()
    os.setsid()
    own = Channel.from_fd(descriptors[0])
    if not _is_adopted(between, master) or not own.send(control.Hello(pid=os.getpid())):
        return None  # there is no master any more, or it has given this worker up
    _pin(start)
    return Birth(own, _renumbered(start, descriptors[1:]))


def _is_adopted(between: int, master: int) -> bool:
    """Wait until the master is the parent, so that it can reap the pid that HELLO names."""
    deadline = time.monotonic() + ADOPTION_S
    while os.getppid() == between and time.monotonic() < deadline:
        time.sleep(ADOPTION_POLL_S)
    parent = os.getppid()
    if parent != master:
        log.warning("A forked worker ends: its parent is pid %d, not the master (pid %d).", parent, master)
    return parent == master


def _renumbered(start: control.Start, descriptors: tuple[int, ...]) -> control.Start:
    """``start`` with these numbers: of its page, if it has one, then of its listeners."""
    pages = 0 if start.page_fd is None else 1
    listeners = [
        control.Listener(fd, entry.url)
        for fd, entry in zip(descriptors[pages:], start.listeners, strict=True)
    ]
    return dataclasses.replace(start, page_fd=descriptors[0] if pages else None, listeners=listeners)


def _pin(start: control.Start) -> None:
    if start.core is None:
        return
    try:
        os.sched_setaffinity(0, {start.core})
    except (OSError, ValueError) as error:
        log.warning(
            "worker %d (pid %d) runs unpinned: core %d is refused: %s",
            start.slot, os.getpid(), start.core, error,
        )  # fmt: skip
