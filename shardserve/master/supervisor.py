"""The master: one loop that starts workers, hears them, buries them and replaces them.

Rules of this file: it waits in one place (``_wait``) and acts in one place (``turn``), always in the
same order:

    hear → reap → stop → reload → scale → timers → lend

Signals and messages only leave notes for it. What a slot does next is the table in ``slots.py``;
this file carries out its effects. The master never imports asyncio, uvloop or the app, never blocks
on a worker, and knows nothing of HTTP.

    TERM, INT      stop: workers finish what is in flight, at most timeout-graceful-shutdown. Exit 0
    the second     STOP to all, KILL a second later. Exit 0 as well: it did what it was told
    QUIT           both at once
    HUP            rolling reload, one slot at a time, old worker drained once the new one is ready
    TTIN, TTOU     one worker more, one less (never below one)
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from enum import IntEnum

from .. import control
from ..config.model import Config, to_json
from ..errors import AppImportError, LifespanError, ShardserveError
from ..net import listeners as net
from ..observe import logs
from . import reload, slots
from .affinity import Cores
from .reload import Reload, ReloadConfig
from .signals import Signals
from .slots import Action, Event, Process, Slot, State
from .spawn import WORKER_COMMAND, Worker, describe_exit, start_worker

# A worker that has not read its control pipe for this long, so long that the pipe is full, is killed.
STUCK_KILL_S = 30.0

log = logging.getLogger("shardserve.master")


class Phase(IntEnum):
    STARTING = 0  # not every slot has been ready yet: a failure ends the server
    SERVING = 1
    STOPPING = 2
    FORCED = 3  # the second signal came


class Supervisor:
    """The state of the master and its loop. ``run`` it once."""

    def __init__(
        self,
        config: Config,
        listeners: net.Listeners,
        cores: Cores,
        signals: Signals,
        *,
        reload_config: ReloadConfig | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._config = config  # what a respawned worker gets: a worker has been ready with it
        self._generation = 0
        self._listeners = listeners
        self._cores = cores
        self._signals = signals
        self._reload_config = reload_config
        self._worker_command = worker_command
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals.fileno(), selectors.EVENT_READ)
        self._slots: dict[int, Slot] = {}
        self._processes: dict[int, tuple[Process, Worker]] = {}  # by pid, until reaped
        self._phase = Phase.STARTING
        self._exit_code = 0
        self._started_at = 0.0
        # Notes that signals leave:
        self._stops_asked = 0
        self._reload_asked = False
        self._wanted = 0
        self._reload: Reload | None = None
        self._generations = 0

    def run(self, workers: int) -> int:
        """Start ``workers`` slots and serve. Returns the exit code, with every worker gone."""
        self._started_at = now = time.monotonic()
        self._wanted = workers
        try:
            self._add_slots(now)
            self.turn(now)
            while not self._finished():
                self._wait(now)
                now = time.monotonic()
                self.turn(now)
            log.info("stopped")
            return self._exit_code
        finally:
            # If this is an error of ours: end of file tells the workers to finish and go.
            for _, worker in self._processes.values():
                worker.channel.close()
            self._selector.close()

    def turn(self, now: float) -> None:
        """Everything that is to be done now, in the order of this file's docstring."""
        self._hear(now)
        self._reap(now)
        self._stop(now)
        self._roll(now)
        self._scale(now)
        self._timers(now)
        self._lend(now)

    def _finished(self) -> bool:
        return self._phase >= Phase.STOPPING and all(s.state is State.DEAD for s in self._slots.values())

    # Waiting

    def _wait(self, now: float) -> None:
        """Sleep until something happens: a signal, a message, room in a pipe, a deadline."""
        for _, worker in self._processes.values():
            self._watch(worker)
        deadlines = [slots.next_deadline(self._slots.values())]
        deadlines += [
            worker.channel.stuck_since + STUCK_KILL_S
            for _, worker in self._processes.values()
            if worker.channel.stuck_since is not None
        ]
        soonest = min((at for at in deadlines if at is not None), default=None)
        self._selector.select(None if soonest is None else max(0.0, soonest - now))
        for number in self._signals.take():
            self._note(number)

    def _watch(self, worker: Worker) -> None:
        """Have the selector look at the pipe: for messages, and for room if something is unsent."""
        channel = worker.channel
        if not channel.open:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.wants_to_send else 0)
        key = self._selector.get_map().get(channel.fileno())
        if key is None:
            self._selector.register(channel.fileno(), events)
        elif key.events != events:
            self._selector.modify(channel.fileno(), events)

    def _note(self, number: signal.Signals) -> None:
        """What a signal asks for; the loop comes to it in its own order."""
        match number:
            case signal.SIGTERM | signal.SIGINT:
                self._stops_asked += 1
            case signal.SIGQUIT:
                self._stops_asked += 2
            case signal.SIGHUP:
                self._reload_asked = True
            case signal.SIGTTIN:
                self._wanted += 1
            case signal.SIGTTOU:
                self._wanted = max(1, self._wanted - 1)
            case signal.SIGCHLD:
                pass  # it woke us up; reaping looks at every process anyway
            case _:
                log.debug("ignored %s", number.name)

    # Hearing

    def _hear(self, now: float) -> None:
        for process, worker in list(self._processes.values()):
            if worker.channel.open:
                worker.channel.flush(now)
                self._receive(process, worker, now)

    def _receive(self, process: Process, worker: Worker, now: float) -> None:
        for message in worker.channel.receive():
            self._obey(process, message, now)
        if not worker.channel.open:
            self._hang_up(worker)
            # End of file: it is dying. One that closed its pipe and lives on is of no use.
            process.kill_by(now + slots.KILL_AFTER_S)

    def _hang_up(self, worker: Worker) -> None:
        fd = worker.channel.fileno()
        if fd != -1:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
            worker.channel.close()

    def _obey(self, process: Process, message: control.Message, now: float) -> None:
        slot = self._slots[process.slot]
        match message:
            case control.Ready() if process is slot.starting:
                self._ready(slot, process, message.startup_ms, now)
            case control.Failed() if process is slot.starting:
                slots.dismiss(slot)
                process.kill_by(now + slots.KILL_AFTER_S)
                self._start_lost(slot, message.stage, message.text, now)
            case control.Drained():
                log.info("%s drained: %d served, %d cut", _name(process), message.served, message.cut)
            case _:
                log.debug("%s: %s is of no interest now", _name(process), message.type)

    def _ready(self, slot: Slot, process: Process, startup_ms: int, now: float) -> None:
        self._step(slot, Event.READY, now)
        level = logging.DEBUG if self._phase is Phase.STARTING else logging.INFO
        log.log(level, "%s is ready, %d ms after START", _name(process), startup_ms)
        rolling = self._reload
        if rolling is not None and rolling.slot == slot.number and process.generation == rolling.generation:
            rolling.slot = None
            self._adopt_config(rolling)
        wanted = [s for s in self._slots.values() if s.wanted]
        if self._phase is Phase.STARTING and all(s.state is State.READY for s in wanted):
            self._phase = Phase.SERVING
            count = f"{len(wanted)} worker{'s' if len(wanted) != 1 else ''}"
            log.info("ready: %s in %d ms", count, round((now - self._started_at) * 1000))

    # Reaping

    def _reap(self, now: float) -> None:
        for process, worker in list(self._processes.values()):
            returncode = worker.process.poll()
            if returncode is None:
                continue
            if worker.channel.open:
                self._receive(process, worker, now)  # its last words came before its death
            # A process that the app forked may hold the other end: do not wait for end of file.
            self._hang_up(worker)
            del self._processes[process.pid]
            self._bury(process, returncode, now)

    def _bury(self, process: Process, returncode: int, now: float) -> None:
        slot = self._slots[process.slot]
        how = "killed by the master" if process.killed else describe_exit(returncode)
        event = slots.bury(slot, process, now)
        if event is Event.START_LOST:
            text = f"{how}, {now - process.started_at:.1f} s after its start, before it was ready"
            self._start_lost(slot, "start", f"{_name(process)} ended: {text}", now)
        elif event is Event.SERVER_LOST:
            self._step(slot, event, now)
            assert process.ready_at is not None
            level = logging.ERROR if returncode else logging.INFO
            served_s = now - process.ready_at
            log.log(level, "%s ended (%s) after %.1f s of service", _name(process), how, served_s)
            self._tell_delay(slot, now)
        else:
            crashed = returncode and process.ready_at is not None and not process.killed
            log.log(logging.WARNING if crashed else logging.DEBUG, "%s is gone: %s", _name(process), how)

    def _start_lost(self, slot: Slot, stage: str, text: str, now: float) -> None:
        """A worker did not get to READY. What that means depends on what else serves."""
        self._step(slot, Event.START_LOST, now)
        if self._phase is Phase.STARTING:
            self._give_up(stage, text, now)
        elif self._phase is Phase.SERVING:
            log.error("worker %d did not start (%s): %s", slot.number, stage, text)
            if self._reload is not None and self._reload.slot == slot.number:
                self._abandon_reload(slot)
            self._tell_delay(slot, now)

    def _give_up(self, stage: str, text: str, now: float) -> None:
        """The first start failed. The others will fail alike, so this one text is all there is to say."""
        kind = LifespanError if stage == "lifespan" else AppImportError
        log.critical("the app did not start (%s): %s", stage, text)
        self._exit_code = kind.exit_code
        self._begin_stop(now)

    def _tell_delay(self, slot: Slot, now: float) -> None:
        if slot.retry_at is not None and slot.retry_at > now:
            log.warning("worker %d starts again in %.1f s", slot.number, slot.retry_at - now)

    # Stopping

    def _stop(self, now: float) -> None:
        if self._stops_asked >= 1 and self._phase < Phase.STOPPING:
            log.info("stopping: requests in flight get %g s", self._config.timeout_graceful_shutdown_s)
            self._begin_stop(now)
        if self._stops_asked >= 2 and self._phase < Phase.FORCED:
            self._phase = Phase.FORCED
            log.warning("told to stop at once: cutting what is in flight")
            for process, worker in self._processes.values():
                self._send_stop(process, worker, now)

    def _begin_stop(self, now: float) -> None:
        self._phase = Phase.STOPPING
        self._reload = None
        for slot in self._slots.values():
            for process in slot.leaving:  # told with a grace that nothing is left to justify
                self._send_drain(process, now)
            if slot.wanted:
                self._step(slot, Event.RETIRE, now)
        # Whoever connects from now on should be refused, and go elsewhere, as soon as the workers
        # have closed theirs; with our copies open they would wait in a queue that nobody serves.
        self._listeners.close()

    # Reloading

    def _roll(self, now: float) -> None:
        """Go on with the reload until a worker has to be waited for."""
        if self._phase is not Phase.SERVING:
            return
        while self._reload_asked or self._reload is not None:
            if self._reload is not None and self._reload.slot is not None:
                return
            if self._reload_asked:
                self._reload_asked = False
                self._generations += 1
                numbers = [slot.number for slot in self._slots.values() if slot.wanted]
                self._reload = reload.begin(
                    self._config, self._reload_config, generation=self._generations, slots=numbers
                )
                continue
            assert self._reload is not None
            if not self._reload.queue:
                log.info("reloaded")
                self._reload = None
                return
            self._reload.slot = number = self._reload.queue.popleft()
            self._step(self._slots[number], Event.RELOAD, now)

    def _adopt_config(self, rolling: Reload) -> None:
        """A worker is ready with it, so it can be what a respawned worker gets."""
        if rolling.generation != self._generation:
            self._config, self._generation = rolling.config, rolling.generation
            logs.configure(self._config)

    def _abandon_reload(self, slot: Slot) -> None:
        """The others would fail alike; they are left as they are."""
        assert self._reload is not None
        left = [slot.number, *self._reload.queue]
        self._reload = None
        log.error("reload abandoned; not reloaded: worker %s", ", ".join(map(str, left)))

    # Scaling

    def _scale(self, now: float) -> None:
        if self._phase is not Phase.SERVING or self._reload is not None:
            return
        serving = sorted(slot.number for slot in self._slots.values() if slot.wanted)
        if len(serving) < self._wanted:
            log.info("from %d to %d workers", len(serving), self._wanted)
            self._add_slots(now)
        for number in serving[self._wanted :]:
            log.info("one worker less: worker %d goes", number)
            self._step(self._slots[number], Event.RETIRE, now)

    def _add_slots(self, now: float) -> None:
        """Start slots, the lowest unused numbers first, until as many are wanted as should be."""
        missing = self._wanted - sum(slot.wanted for slot in self._slots.values())
        number = 0
        while missing > 0 and self._phase < Phase.STOPPING:
            slot = self._slots.setdefault(number, Slot(number))
            if slot.state in (State.EMPTY, State.DRAINING, State.DEAD):
                self._step(slot, Event.START, now)
                missing -= 1
            number += 1

    # Time

    def _timers(self, now: float) -> None:
        for process, worker in list(self._processes.values()):
            stuck = worker.channel.stuck_since
            if (process.kill_at is not None and process.kill_at <= now) or (
                stuck is not None and stuck + STUCK_KILL_S <= now
            ):
                log.warning("%s is still there past its deadline: killing it", _name(process))
                process.kill_at, process.killed = None, True
                worker.channel.stuck_since = None
                worker.process.kill()
        for slot in self._slots.values():
            event = slots.due(slot, now)
            if event is not None:
                self._step(slot, event, now)

    # Listeners of slots where nobody serves

    def _lend(self, now: float) -> None:
        """See that every queue has someone who accepts from it.

        Also while a worker starts again: its imports may take long, and the kernel goes on dealing
        connections to its slot. Not during the first start, when all come up together.
        """
        if self._phase is not Phase.SERVING:
            return
        for slot, carrier in slots.returns(self._slots):
            self._send(carrier, control.Release(slot.number), now)
        for slot, carrier in slots.lendings(self._slots):
            entries = self._listeners.made_for(slot.number)
            if entries:  # a unix socket is everybody's anyway
                log.info("worker %d accepts for slot %d meanwhile", carrier.slot, slot.number)
                message = control.Adopt(slot.number, [entry.url for entry in entries])
                self._send(carrier, message, now, [entry.sock for entry in entries])

    # Effects

    def _step(self, slot: Slot, event: Event, now: float) -> None:
        """Move a slot along the table and carry out what comes back."""
        before = slot.state
        effects = slots.step(slot, event, now)
        log.debug("slot %d: %s on %s: %s", slot.number, before.name, event.name, slot.state.name)
        for effect in effects:
            if effect.action is Action.SPAWN:
                self._spawn(slot, now)
                continue
            assert effect.process is not None
            if effect.action is Action.DRAIN:
                self._send_drain(effect.process, now)
            else:
                # It has no requests yet, and cannot hear us while it imports: no use waiting long.
                _, worker = self._processes[effect.process.pid]
                self._send_stop(effect.process, worker, now)

    def _spawn(self, slot: Slot, now: float) -> None:
        config, generation = self._config, self._generation
        if self._reload is not None and self._reload.slot == slot.number:
            config, generation = self._reload.config, self._reload.generation
        core = self._cores.of_slot(slot.number) if config.affinity else None
        try:
            entries = self._listeners.of_slot(slot.number) + self._listeners.shared
            inherited = [control.Listener(entry.sock.fileno(), entry.url) for entry in entries]
            start = control.Start(slot.number, generation, core, to_json(config), inherited)
            sockets = [entry.sock for entry in entries]
            worker = start_worker(start, now, sockets=sockets, command=self._worker_command)
        except (OSError, ShardserveError) as error:
            self._start_lost(slot, "start", str(error), now)
            return
        slot.starting = Process(worker.process.pid, slot.number, generation, started_at=now)
        self._processes[worker.process.pid] = (slot.starting, worker)
        log.debug("%s starts on core %s", _name(slot.starting), core)

    def _send_drain(self, process: Process, now: float) -> None:
        """Tell it to finish. Nobody comes after it when the server stops, so idle clients can go too."""
        grace_s = 0.0 if self._phase >= Phase.STOPPING else self._config.timeout_drain_idle_s
        deadline_s = self._config.timeout_graceful_shutdown_s
        process.kill_by(now + deadline_s + slots.KILL_AFTER_S)
        self._send(process, control.Drain(grace_s, deadline_s), now, last=True)

    def _send_stop(self, process: Process, worker: Worker, now: float) -> None:
        process.kill_by(now + slots.STOP_KILL_S)
        worker.channel.send(control.Stop(), now, last=True)

    def _send(
        self,
        process: Process,
        message: control.Message,
        now: float,
        sockets: Sequence[socket.socket] = (),
        *,
        last: bool = False,
    ) -> None:
        """Send to a process that may be gone already."""
        if process.pid in self._processes:
            _, worker = self._processes[process.pid]
            worker.channel.send(message, now, sockets, last=last)


def _name(process: Process) -> str:
    return f"worker {process.slot} (pid {process.pid})"
