"""The master's side of --preload: a template process, and the workers that it forks for us.

Rules of this file: it starts, hears and ends one template, and asks it for workers. When there has to
be one is ``nursery.py``'s; what a worker is for is the supervisor's. Nothing here waits. What a
template does is in ``worker/template.py``.

A forked worker's pid is known when it says HELLO. The kernel makes it a child of the master, which is
a subreaper, so it is reaped and killed like one that was exec'd. As a subreaper the master inherits
every process that an app leaves behind, too: ``reap_strangers`` is for those.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import os
import signal
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .. import control
from ..errors import StartupError
from ..stats import Page
from . import slots
from .channel import Channel
from .spawn import WORKER_COMMAND, Worker, start_process

# A template that has not answered a FORK for this long is killed.
FORK_KILL_S = 30.0
# The returncode of a worker that ended before it could say its pid.
LOST = 1
# In one go: whoever makes orphans faster than that does not hold up the master.
STRANGERS_MAX = 1000
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

log = logging.getLogger("shardserve.master")


class Forked:
    """What ``subprocess.Popen`` is for a worker that was exec'd.

    ``pid`` is for whoever hears HELLO to set. It is no other process's until ``poll`` has reaped it.
    """

    def __init__(self, channel: Channel) -> None:
        """``channel``: its end without a HELLO is all that is ever heard of a worker that was not born."""
        self._channel = channel
        self.pid: int | None = None
        self.returncode: int | None = None

    @property
    def awaited(self) -> bool:
        """Whether HELLO may still come."""
        return self.pid is None and self.returncode is None and self._channel.open

    def poll(self) -> int | None:
        """Reap it if it has ended. The returncode, as Popen has it; None while it lives."""
        if self.returncode is not None:
            return self.returncode
        if self.pid is None:
            if not self._channel.open:
                self.lost()
            return self.returncode
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self.lost()  # somebody else has reaped it
        else:
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def lost(self) -> None:
        """It has ended, and nobody will know how."""
        self.returncode = LOST

    def kill(self) -> None:
        if self.pid is None:
            self._channel.close()  # if it is born after all, it finds nobody there and ends
        self.send_signal(signal.SIGKILL)

    def send_signal(self, sig: int) -> None:
        """Nothing happens if its pid is not known or not its own any more."""
        if self.pid is not None and self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)


class Template:
    """One template process, from its start to its reaping. Call ``turn`` whenever anything happened."""

    def __init__(self, process: Worker, *, ready_by: float | None) -> None:
        assert process.handle.pid is not None
        self.pid: int = process.handle.pid
        self.channel = process.channel
        self.ready = False
        self.stage = "start"  # what it was at when it failed
        self.failed: str | None = None
        self.returncode: int | None = None
        self._process = process
        self._deadline = ready_by  # for what it does now: importing, ending
        self._stopping = False
        self._killed = False
        self._births: list[Birth] = []

    @classmethod
    def start(
        cls,
        config: dict[str, Any],
        generation: int,
        now: float,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        core: int | None = None,
        startup_s: float = 0.0,
    ) -> Template:
        """Start a process that imports the app of ``config``. ``startup_s``: how long it may; 0: for ever.

        ``core``: where it imports. What sizes itself by the affinity mask then, sees one core, as it
        does in a worker. Raises OSError, ControlError.
        """
        process = start_process(
            lambda page_fd: control.Preload(generation, config, page_fd),
            now,
            name="template",
            command=command,
            core=core,
        )
        return cls(process, ready_by=now + startup_s if startup_s else None)

    def __str__(self) -> str:
        return f"template (pid {self.pid})"

    # Asking

    def fork(self, start: control.Start, now: float, *, sockets: Sequence[socket.socket]) -> Worker:
        """Ask for a worker. ``sockets`` are the listeners that START names. Raises OSError, ControlError."""
        page = Page.create(f"shardserve worker {start.slot}")
        try:
            fork = control.Fork(dataclasses.replace(start, page_fd=page.fd))
            control.encode(fork)  # what cannot be sent should fail before anything waits for an answer
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except BaseException:
            page.close()
            raise
        channel = Channel(ours, f"worker {start.slot}")
        handle = Forked(channel)
        self._births.append(Birth(handle, theirs, asked_at=now))
        self.channel.send(fork, now, [theirs, page, *sockets])
        self._let_go()
        return Worker(handle, channel, page)

    def stop(self, now: float) -> None:
        """It is not needed any more. Its workers live on."""
        self._stopping = True
        self._due_by(now + slots.STOP_KILL_S)
        self.channel.send(control.Stop(), now, last=True)
        self._let_go()

    def _let_go(self) -> None:
        """Close our copies of what has been handed over: else the end of a worker would not show."""
        for birth in self._births:
            if not self.channel.wants_to_send or not birth.handle.awaited:
                birth.theirs.close()
        self._births = [birth for birth in self._births if birth.handle.awaited]

    # Hearing

    @property
    def gone(self) -> bool:
        """Whether it has been reaped."""
        return self.returncode is not None

    @property
    def kill_at(self) -> float | None:
        """When ``turn`` has to be called at the latest."""
        if self._killed or self.gone:
            return None
        times = [self._deadline, *(birth.asked_at + FORK_KILL_S for birth in self._births[:1])]
        return min((at for at in times if at is not None), default=None)

    def watched(self) -> list[tuple[int, int]]:
        """Its pipe and what to poll it for."""
        return self.channel.watched()

    def turn(self, now: float) -> None:
        """Hear what it says, reap it when it has ended, kill it when its time is over."""
        if self.gone:
            return
        ended = self._process.handle.poll()  # before hearing: its last words came before its death
        self._hear(now)
        self._let_go()
        if ended is not None:
            self._bury(ended)
        elif (at := self.kill_at) is not None and at <= now:
            self._kill(now)

    def _hear(self, now: float) -> None:
        if not self.channel.open:
            return
        self.channel.flush(now)
        for message in self.channel.receive():
            match message:
                case control.Ready():
                    self.ready = True
                    if not self._stopping:
                        self._deadline = None
                    log.debug("the %s has imported the app, %d ms", self, message.startup_ms)
                case control.Failed():
                    self.stage, self.failed = message.stage, message.text
                    self._due_by(now + slots.KILL_AFTER_S)
                case _:
                    log.debug("the %s: %s is of no interest", self, message.type)
        if not self.channel.open:
            self.channel.close()
            # It is dying. One that closed its pipe and lives on is of no use.
            self._due_by(now + slots.KILL_AFTER_S)

    def _due_by(self, at: float) -> None:
        self._deadline = at if self._deadline is None else min(self._deadline, at)

    def _kill(self, now: float) -> None:
        if self.ready or self._stopping or self.failed is not None:
            log.warning("the %s is still there past its deadline: killing it", self)
            self._process.handle.kill()
            self._killed = True
            return
        self.failed = "the app was not imported in time (timeout-worker-startup)"
        log.error("the %s is not ready in time: killing it", self)
        self._process.handle.send_signal(signal.SIGABRT)  # it dumps its stack
        self._deadline = now + slots.ABORT_KILL_S

    def _bury(self, returncode: int) -> None:
        self.returncode = returncode
        self.channel.close()
        self._let_go()
        dump = self._process.page.take_dump()
        if dump:
            log.error("the %s: its Python stack at the end:\n%s", self, dump)
        self._process.page.close()


@dataclass(frozen=True, slots=True)
class Birth:
    """A worker that was asked for, and its end of its pipe, which is ours until it is sent."""

    handle: Forked
    theirs: socket.socket
    asked_at: float


# Other people's children


def become_subreaper() -> None:
    """Have the kernel make orphans below us our children. Raises StartupError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        why = os.strerror(ctypes.get_errno())
        raise StartupError(f"--preload needs prctl(PR_SET_CHILD_SUBREAPER), which is refused: {why}")


def reap_strangers(known: Collection[int | None]) -> dict[int, int]:
    """Reap the ended orphans of apps; returncodes by pid. ``known``: all our children, who have reapers.

    Call it after reaping those. None among them is a worker whose HELLO is still to come: as long as
    there is one, no child is surely a stranger, and nothing is reaped. One of ours that ended
    meanwhile can hide strangers; its SIGCHLD brings the next turn, and that will see them.
    """
    reaped: dict[int, int] = {}
    while None not in known and len(reaped) < STRANGERS_MAX:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            break
        if found is None or found.si_pid in known:
            break
        _, status = os.waitpid(found.si_pid, 0)
        reaped[found.si_pid] = os.waitstatus_to_exitcode(status)
        log.debug("reaped pid %d, which an app left behind", found.si_pid)
    return reaped
