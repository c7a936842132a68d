"""Every worker process there is, from its start to its reaping: hearing, reaping, sending, killing.

Rules of this file: what to do with a process, not whether. It knows no slots' states and no
configuration; a message's meaning, a death's consequence and every decision are the supervisor's.
Nothing here waits.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .. import control
from ..stats import Stage
from . import procfs, slots
from .health import Limits, Watch, trimmed
from .recycle import Allowance
from .slots import Process
from .spawn import Worker
from .template import Forked
from .vitals import Vitals

# A worker that has not read its control pipe for this long, so long that the pipe is full, is killed.
STUCK_KILL_S = 30.0

log = logging.getLogger("shardserve.master")


@dataclass(slots=True, eq=False)
class Member:
    """One process and all that the master has of it."""

    process: Process
    worker: Worker
    watch: Watch
    vitals: Vitals = field(default_factory=Vitals)
    allowance: Allowance | None = None  # since READY
    began_at: float = field(default_factory=lambda: round(time.time(), 3))  # Unix time
    _cpu_s: float = 0.0

    def serves(self, allowance: Allowance) -> None:
        """It is READY. What was measured while it started says little, so the next look measures anew."""
        self.allowance = allowance
        self.vitals = Vitals()

    def used_up(self, now: float) -> tuple[str, str] | None:
        """Why it should be replaced: the cause and the words for it; None while it has something left."""
        if self.allowance is None:
            return None
        served = self.worker.page["served"]
        return self.allowance.used_up(served=served, rss_bytes=self.vitals.rss_bytes, now=now)

    def cpu_s(self) -> float:
        """Its time on a CPU so far; once it is reaped, what was known last."""
        if self.process.pid is not None:
            self._cpu_s = max(self._cpu_s, procfs.cpu_s(self.process.pid) or 0.0)
        return self._cpu_s


class Crew:
    """The live processes. Iterating gives the members; any of them may go meanwhile."""

    def __init__(self) -> None:
        self._members: dict[Process, Member] = {}
        # What those that are gone have counted: the figures of their pages, and CPU time by slot.
        self._counted_before: Counter[str] = Counter()
        self._cpu_before_s: defaultdict[int, float] = defaultdict(float)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, process: Process) -> bool:
        return process in self._members

    def __getitem__(self, process: Process) -> Member:
        return self._members[process]

    def add(self, process: Process, worker: Worker) -> None:
        watch = Watch(worker.page, process, ask=worker.handle.send_signal)
        self._members[process] = Member(process, worker, watch)

    def born(self, process: Process, pid: int) -> None:
        """A forked worker said HELLO: this is its pid."""
        worker = self._members[process].worker
        process.pid = pid
        if isinstance(worker.handle, Forked):
            worker.handle.pid = pid
            worker.channel.name = str(process)

    # Counting

    def counted_before(self, figure: str) -> int:
        """What those that are gone have counted of it."""
        return self._counted_before[figure]

    def counted(self) -> Counter[str]:
        """``stats.COUNTERS`` of all workers there are and were. No figure is ever less than before."""
        total = self._counted_before.copy()
        for member in self:
            total.update(member.worker.page.counters())
        return total

    def cpu_s(self, slot: int) -> float:
        """Time on a CPU of all processes that the slot has and had."""
        return self._cpu_before_s[slot] + sum(m.cpu_s() for m in self if m.process.slot == slot)

    def _take_over(self, member: Member) -> None:
        """Its page is about to end. What it has counted stays."""
        self._counted_before.update(member.worker.page.counters())
        self._cpu_before_s[member.process.slot] += member.cpu_s()

    # Waiting

    def watched(self) -> Iterator[tuple[int, int]]:
        """The pipes and what to poll them for: messages, and room where something is unsent."""
        for member in self:
            yield from member.worker.channel.watched()

    def stuck_deadline(self) -> float | None:
        """When the first worker that does not read its pipe has not done so for too long."""
        since = [m.worker.channel.stuck_since for m in self]
        return min((at + STUCK_KILL_S for at in since if at is not None), default=None)

    # Hearing and reaping

    def hear(self, now: float) -> Iterator[tuple[Process, control.Message]]:
        """Every message that has come."""
        for member in self:
            if member.worker.channel.open:
                member.worker.channel.flush(now)
                yield from self._receive(member, now)

    def _receive(self, member: Member, now: float) -> Iterator[tuple[Process, control.Message]]:
        for message in member.worker.channel.receive():
            yield member.process, message
        if not member.worker.channel.open:
            member.worker.channel.close()
            # End of file: it is dying. One that closed its pipe and lives on is of no use.
            member.process.kill_by(now + slots.KILL_AFTER_S)

    def reap(
        self, now: float, obey: Callable[[Process, control.Message], None]
    ) -> Iterator[tuple[Member, int]]:
        """Each process that has ended, with its returncode. ``obey`` hears its last words before."""
        for member in self:
            _look_at_the_dead(member)
            returncode = member.worker.handle.poll()
            if returncode is None:
                continue
            if member.worker.channel.open:
                for process, message in self._receive(member, now):
                    obey(process, message)
            # A process that the app forked may hold the other end: do not wait for end of file.
            member.worker.channel.close()
            del self._members[member.process]
            self._tell_dump(member)
            self._take_over(member)
            member.worker.page.close()
            yield member, returncode

    def _tell_dump(self, member: Member) -> None:
        """The stacks that it dumped in a crash, or when it was told to (ABRT)."""
        dump = member.worker.page.take_dump()
        if dump:
            log.error("%s: its Python stack at the end:\n%s", member.process, trimmed(dump))

    # Telling

    def send(
        self,
        process: Process,
        message: control.Message,
        now: float,
        sockets: Sequence[socket.socket] = (),
        *,
        last: bool = False,
    ) -> None:
        """Send to a process that may be gone already. ``last``: what is still unsent has no point."""
        member = self._members.get(process)
        if member is not None:
            member.worker.channel.send(message, now, sockets, last=last)

    def send_all(self, message: control.Message, now: float) -> None:
        """Whatever they are doing: one that starts hears it when it can."""
        for member in self:
            member.worker.channel.send(message, now)

    def stop(self, process: Process, now: float) -> None:
        """End it now: STOP, and KILL if it does not hear.

        One that imports cannot hear, and holds copies of the listeners: whoever connects would wait
        for nobody, and be reset at its end. So it gets no time.
        """
        member = self._members.get(process)
        if member is not None and member.worker.page["stage"] <= Stage.IMPORTING:
            process.killed = process.killed or "it was told to stop while it imported"
            member.worker.handle.kill()
            return
        process.kill_by(now + slots.STOP_KILL_S)
        self.send(process, control.Stop(), now, last=True)

    def abort(self, process: Process, why: str, now: float) -> None:
        """Have it dump its stack and die. ``why`` is what its end is counted by, too."""
        process.killed = process.killed or why
        process.cause = process.cause or why
        process.kill_by(now + slots.ABORT_KILL_S)
        self._members[process].worker.handle.send_signal(signal.SIGABRT)

    def kill_overdue(self, now: float) -> None:
        """KILL those whose time is over, and those that do not read their pipes."""
        for member in self:
            process, channel = member.process, member.worker.channel
            overdue = process.kill_at is not None and process.kill_at <= now
            if overdue or (channel.stuck_since is not None and channel.stuck_since + STUCK_KILL_S <= now):
                log.warning("%s is still there past its deadline: killing it", process)
                process.kill_at = None
                process.killed = process.killed or "it did not end in time"
                process.cause = process.cause or "unresponsive"  # not a KILL of the kernel's
                channel.stuck_since = None
                member.worker.handle.kill()

    # Health

    def examine(self, limits: Limits, now: float) -> None:
        """Look at each heart; say what is found, and kill what does not beat."""
        for member in self:
            if member.process.pid is not None:
                member.vitals.sample(member.process.pid, member.worker.page, now)
            finding = member.watch.look(now, limits)
            if finding is None:
                continue
            log.warning("%s", finding.text)
            if finding.kill and not member.process.killed:
                self.abort(member.process, finding.cause, now)

    def close(self) -> None:
        """End of file for all of them: they finish and go."""
        for member in self:
            member.worker.channel.close()


def _look_at_the_dead(member: Member) -> None:
    """Between its end and its reaping, /proc still has the CPU time of a process."""
    pid = member.process.pid
    with suppress(ChildProcessError):  # reaped by somebody else
        if pid is not None and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            member.cpu_s()
