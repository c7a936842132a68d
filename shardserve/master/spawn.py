"""Starting one worker process, and the words for how one ended.

Rules of this file: a worker is exec'd, never forked off to run on: it inherits its listening sockets,
its end of the control pipe, stdout and stderr, and nothing else. Which slot, when, and what follows
is the supervisor's.

- A worker leads a session of its own. So a Ctrl-C, a Ctrl-\\ or a Ctrl-Z at the terminal reaches the
  master alone, which then stops the workers in order; and a worker may write to the terminal
  without being stopped for it (SIGTTOU). Nobody is orphaned: a worker exits at the end of file of
  its control pipe, which is the master's death.
- It is pinned before START is sent, hence before it can import anything of the app: whatever sizes
  itself by the affinity mask at import (thread pools, OpenMP, glibc arenas) sees one core.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .. import control
from . import affinity
from .channel import Channel

WORKER_COMMAND = (sys.executable, "-m", "shardserve.worker")


@dataclass(slots=True, eq=False)
class Worker:
    """A live process and the pipe to it."""

    process: subprocess.Popen[bytes]
    channel: Channel


def start_worker(
    start: control.Start,
    now: float,
    *,
    sockets: Sequence[socket.socket],
    command: Sequence[str] = WORKER_COMMAND,
) -> Worker:
    """Start a process and send it START. ``sockets`` are the listeners that START names.

    Raises OSError when the system has no process, memory or descriptor left, ControlError when START
    is too large for the pipe.
    """
    control.encode(start)  # what cannot be sent should fail before there is a process
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *(sock.fileno() for sock in sockets)),
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    if start.core is not None:
        affinity.pin(process.pid, start.core)
    channel = Channel(ours, f"worker {start.slot} (pid {process.pid})")
    channel.send(start, now)
    return Worker(process, channel)


def describe_exit(returncode: int) -> str:
    """``killed by SIGKILL``, ``exit code 3``: a Popen.returncode in words."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if -returncode == signal.SIGKILL:
        return f"killed by {name}, perhaps for want of memory"
    return f"killed by {name}"
