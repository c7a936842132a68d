"""Starting one process, and the words for how one ended.

Rules of this file: a worker is exec'd: it inherits its listening sockets, its end of the control
pipe, its page of figures, stdout and stderr, and nothing else; its stdin is /dev/null, except at a
developer's terminal (``devreload.py``). (With --preload it is forked by a template instead, which is
started here too: ``template.py``.) Which slot, when, and what follows is the supervisor's.

- A worker leads a session of its own. So a Ctrl-C, a Ctrl-\\ or a Ctrl-Z at the terminal reaches the
  master alone, which then stops the workers in order; and a worker may write to the terminal
  without being stopped for it (SIGTTOU). Nobody is orphaned: a worker exits at the end of file of
  its control pipe, which is the master's death.
- It is pinned before START is sent, hence before it can import anything of the app: whatever sizes
  itself by the affinity mask at import (thread pools, OpenMP, glibc arenas) sees one core.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .. import control
from ..stats import Page
from . import affinity
from .channel import Channel
from .notify import environment_for_workers

WORKER_COMMAND = (sys.executable, "-m", "shardserve.worker")


class Handle(Protocol):
    """What the master does to a process: the part of ``subprocess.Popen`` that it uses."""

    @property
    def pid(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def send_signal(self, sig: int) -> None: ...


@dataclass(slots=True, eq=False)
class Worker:
    """A live process, the pipe to it, and its figures."""

    handle: Handle
    channel: Channel
    page: Page


def start_worker(
    start: control.Start,
    now: float,
    *,
    sockets: Sequence[socket.socket],
    command: Sequence[str] = WORKER_COMMAND,
    terminal: bool = False,
) -> Worker:
    """Start a process and send it START. ``sockets`` are the listeners that START names.

    Raises OSError when the system has no process, memory or descriptor left, ControlError when START
    is too large for the pipe.
    """
    return start_process(
        lambda page_fd: dataclasses.replace(start, page_fd=page_fd),
        now,
        name=f"worker {start.slot}",
        sockets=sockets,
        command=command,
        core=start.core,
        terminal=terminal,
    )


def start_process(
    first_word: Callable[[int], control.Start | control.Preload],
    now: float,
    *,
    name: str,
    sockets: Sequence[socket.socket] = (),
    command: Sequence[str] = WORKER_COMMAND,
    core: int | None = None,
    terminal: bool = False,
) -> Worker:
    """Start a process and send it its first message, which is made with the number of its page."""
    page = Page.create(f"shardserve {name}")
    try:
        message = first_word(page.fd)
        control.encode(message)  # what cannot be sent should fail before there is a process
    except BaseException:
        page.close()
        raise
    worker = _exec(page, name=name, sockets=sockets, command=command, core=core, terminal=terminal)
    worker.channel.send(message, now)
    return worker


def start_silently(
    *,
    name: str,
    sockets: Sequence[socket.socket],
    command: Sequence[str] = WORKER_COMMAND,
    core: int | None = None,
    terminal: bool = False,
) -> Worker:
    """Start a process that waits for its first message. Raises OSError."""
    page = Page.create(f"shardserve {name}")
    return _exec(page, name=name, sockets=sockets, command=command, core=core, terminal=terminal)


def _exec(
    page: Page,
    *,
    name: str,
    sockets: Sequence[socket.socket],
    command: Sequence[str],
    core: int | None,
    terminal: bool,
) -> Worker:
    """Takes the page over. ``terminal``: it gets our stdin, for a debugger's prompt."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except BaseException:
        page.close()
        raise
    try:
        with theirs:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=None if terminal else subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), page.fd, *(sock.fileno() for sock in sockets)),
                env=environment_for_workers(os.environ),
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        page.close()
        raise
    if core is not None:
        affinity.pin(process.pid, core)
    return Worker(process, Channel(ours, f"{name} (pid {process.pid})"), page)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_exit(returncode: int) -> str:
    """``killed by SIGKILL``, ``exit code 3``: a Popen.returncode in words."""
    if returncode >= 0:
        return f"exit code {returncode}"
    if -returncode == signal.SIGKILL:
        return "killed by SIGKILL, perhaps for want of memory"
    return f"killed by {signal_name(-returncode)}"


def cause_of(returncode: int) -> str:
    """The same as a name to count by: ``SIGSEGV``, ``exit 3``."""
    return f"exit {returncode}" if returncode >= 0 else signal_name(-returncode)
