"""The master: one loop that starts workers, hears them, buries them and replaces them.

Rules of this file: it waits in one place (``_wait``) and acts in one place (``turn``), always in the
same order:

    hear → reap → stop → reopen → succeed → roll → scale → timers → lend → answer → tell

Signals, messages and ``ctl`` only leave notes for it. What a slot does next is the table in
``slots.py``; this file carries out its effects. Processes are the crew's (``crew.py``), making them
the nursery's, the world outside (systemd, the pid file, ctl, another master) is ``outside.py``'s.
The master never imports asyncio, uvloop or the app, never blocks on a worker, and knows nothing of
HTTP.

    TERM, INT      stop: workers finish what is in flight, at most timeout-graceful-shutdown. Exit 0
    the second     STOP to all, KILL a second later. Exit 0 as well: it did what it was told
    QUIT           both at once
    HUP            rolling reload: old workers drain once the new ones are ready
    USR1           every process opens its log files again (logrotate)
    USR2           upgrade: a new master takes over the listeners, this one drains and goes
    TTIN, TTOU     one worker more, one less (never below one)
"""

from __future__ import annotations

import logging
import select
import time
from enum import IntEnum

from .. import control
from ..config.model import Config
from ..errors import AppImportError, LifespanError, ShardserveError
from ..net import listeners as net
from ..observe import logs
from . import lending, orders, slots
from .crew import Crew, Member
from .health import LOOK_S, Limits
from .history import History
from .nursery import Nursery
from .outside import Outside
from .recycle import Allowance
from .reload import ReloadConfig, Roller, Rolling
from .signals import Signals
from .slots import Action, Event, Process, Slot, State
from .spawn import cause_of, describe_exit

log = logging.getLogger("shardserve.master")


class Phase(IntEnum):
    STARTING = 0  # not every slot has been ready yet: a failure ends the server
    SERVING = 1
    STOPPING = 2
    FORCED = 3  # the second signal came


class Supervisor:
    """The state of the master and its loop. ``run`` it once. With --reload: ``devreload.py``."""

    kill_after_s = slots.KILL_AFTER_S

    def __init__(
        self,
        config: Config,
        listeners: net.Listeners,
        nursery: Nursery,
        signals: Signals,
        outside: Outside,
        *,
        reload_config: ReloadConfig | None = None,
    ) -> None:
        self.config = config  # what a respawned worker gets: a worker has been ready with it
        self.generation = 0
        self.crew = Crew()
        self.slots: dict[int, Slot] = {}
        self.phase = Phase.STARTING
        self.started_at = time.monotonic()
        self.began_at = round(time.time(), 3)  # Unix time
        self.wanted = 0
        self.urls = listeners.urls  # still known when they are closed
        self.roller = Roller(reload_config)
        self.history = History()
        self._listeners = listeners
        self._nursery = nursery
        self._signals = signals
        self._outside = outside
        self._exit_code = 0
        self._held_back = 0  # slots that start once the first ones serve
        # Notes that signals and ctl leave:
        self._stops_asked = 0
        self._upgrade_asked = False
        self.reopen_asked = False

    def run(self, workers: int, *, first: int | None = None) -> int:
        """Start ``workers`` slots and serve. Returns the exit code, with every worker gone.

        ``first``: start only so many before every one of them is ready (``net/listeners.py``, settle).
        """
        self.started_at = now = time.monotonic()
        self.wanted = workers if first is None else first
        self._held_back = workers - self.wanted
        for number in self._listeners.slots_made:
            if number >= workers:  # of a master before us, with connections in them
                self.slots[number] = Slot(number, State.DEAD)
        try:
            self._begin(now)
            self.turn(now)
            while not self._finished():
                self._wait(now)
                now = time.monotonic()
                self.turn(now)
            log.info("stopped")
            return self._exit_code
        finally:
            # If this is an error of ours: end of file tells the workers to finish and go.
            self.crew.close()
            self._nursery.close(now)
            self._outside.close()

    def _begin(self, now: float) -> None:
        try:
            self._nursery.prepare(self.config, self.generation, now)
        except (OSError, ShardserveError) as error:
            self._give_up("start", str(error), now)
        if self._nursery.prepared(self.generation):
            self._add_slots(now)

    def turn(self, now: float) -> None:
        """Everything that is to be done now, in the order of this file's docstring."""
        self._hear(now)
        self._reap(now)
        self._stop(now)
        if self.reopen_asked:
            orders.reopen(self, now)
        self._succeed(now)
        self._roll(now)
        self._scale(now)
        self._timers(now)
        if self.phase is Phase.SERVING:
            lending.lend(self.slots, self._listeners, self.crew, now)
        for request in self._outside.requests(now):
            orders.obey(self, request, now)
        self._outside.tell_figures(self, now)

    def _finished(self) -> bool:
        over = self.phase >= Phase.STOPPING and all(s.state is State.DEAD for s in self.slots.values())
        return over and self._nursery.empty

    # What others ask of it

    @property
    def upgrading(self) -> bool:
        return self._outside.upgrading

    def core_of(self, slot: int) -> int | None:
        return self._nursery.core_of(slot, self.config)

    def ask_stop(self, *, force: bool = False) -> None:
        self._stops_asked += 2 if force else 1

    def ask_upgrade(self) -> None:
        self._upgrade_asked = True

    def tell_all(self, message: control.Message, now: float) -> None:
        """Every worker and template, whatever it is doing."""
        self.crew.send_all(message, now)
        self._nursery.send_all(message, now)

    # Waiting

    def _wait(self, now: float) -> None:
        """Sleep until something happens: a signal, a message, room in a pipe, a deadline, the next look."""
        poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        for fd, events in self._watched():
            poll.register(fd, events)
        soonest = min((at for at in self._deadlines(now) if at is not None), default=None)
        # Rounded up: a deadline that is not quite there would have us turn for nothing.
        poll.poll(None if soonest is None else max(0, int((soonest - now) * 1000) + 1))
        for number in self._signals.take():
            orders.note(self, number)

    def _watched(self) -> list[tuple[int, int]]:
        return [*self.crew.watched(), *self._nursery.watched(), *self._outside.watched()]

    def _deadlines(self, now: float) -> list[float | None]:
        return [
            slots.next_deadline(self.slots.values()),
            self.crew.stuck_deadline(),
            self._nursery.next_deadline(),
            self._outside.next_deadline(),
            now + LOOK_S if len(self.crew) else None,
        ]

    # Hearing

    def _hear(self, now: float) -> None:
        for process, message in self.crew.hear(now):
            self._obey(process, message, now)
        for news in self._nursery.turn(now):
            self._template_news(news.generation, news.stage, news.failure, now)

    def _obey(self, process: Process, message: control.Message, now: float) -> None:
        slot = self.slots[process.slot]
        match message:
            case control.Hello():
                self.crew.born(process, message.pid)
            case control.Ready() if process is slot.starting:
                self._ready(slot, process, message.startup_ms, now)
            case control.Failed() if process is slot.starting:
                slots.dismiss(slot)
                process.kill_by(now + slots.KILL_AFTER_S)
                self._start_lost(slot, message.stage, message.text, now)
            case control.Leaving() if process is slot.current:
                self._leaves(slot, process, message.reason, now)
            case control.Drained():
                log.info("%s drained: %d served, %d cut", process, message.served, message.cut)
            case _:
                log.debug("%s: %s is of no interest now", process, message.type)

    def _ready(self, slot: Slot, process: Process, startup_ms: int, now: float) -> None:
        before = slot.current
        self._step(slot, Event.READY, now)
        level = logging.DEBUG if self.phase is Phase.STARTING else logging.INFO
        log.log(level, "%s is ready, %d ms after START", process, startup_ms)
        config = self.config
        rolling = self.roller.rolls(slot)
        if rolling is not None and process.generation == rolling.generation:
            config = rolling.config
            if before is not None:
                slot.restarts[rolling.cause] += 1
            self.roller.replaced(slot, process)
            self._adopt_config(rolling, now)
        self.crew[process].serves(Allowance.draw(config, now))
        wanted = [s for s in self.slots.values() if s.wanted]
        if self.phase is Phase.STARTING and all(s.state is State.READY for s in wanted):
            self._serving(len(wanted), now)

    def _serving(self, workers: int, now: float) -> None:
        self.phase = Phase.SERVING
        self._nursery.adopt(self.config, self.generation, now)
        count = f"{workers} worker{'s' if workers != 1 else ''}"
        log.info("ready: %s in %d ms", count, round((now - self.started_at) * 1000))
        self._outside.serving()
        if self._outside.took_over:
            self._listeners.settle()
        self.wanted += self._held_back

    def _leaves(self, slot: Slot, process: Process, reason: str, now: float) -> None:
        log.info("%s drains (%s); another one takes its place", process, reason)
        slots.forgive(slot, process, now)
        slot.restarts[reason] += 1
        process.kill_by(now + self.config.timeout_graceful_shutdown_s + self.kill_after_s)
        self._step(slot, Event.LEAVES, now)
        self._tell_delay(slot, now)

    def _template_news(self, generation: int, stage: str, failure: str, now: float) -> None:
        if self.phase is Phase.STARTING and generation == self.generation:
            if failure:
                self._give_up(stage, failure, now)
            else:
                self._add_slots(now)
        elif failure and self.roller.rolling is not None and self.roller.rolling.generation == generation:
            log.error("not reloaded, the template did not start (%s): %s", stage, failure)
            self.roller.rolling.fail(failure)

    # Reaping

    def _reap(self, now: float) -> None:
        for member, returncode in self.crew.reap(now, lambda one, message: self._obey(one, message, now)):
            self._bury(member, returncode, now)
        children = {member.process.pid for member in self.crew} | self._outside.children
        self._nursery.reap_strangers(children)

    def _bury(self, member: Member, returncode: int, now: float) -> None:
        process = member.process
        slot = self.slots[process.slot]
        how = f"killed by the master: {process.killed}" if process.killed else describe_exit(returncode)
        event = slots.bury(slot, process, now)
        if event is Event.START_LOST:
            text = f"{how}, {now - process.started_at:.1f} s after its start, before it was ready"
            self._start_lost(slot, "start", f"{process} ended: {text}", now)
        elif event is Event.SERVER_LOST:
            assert process.ready_at is not None
            slot.restarts[process.cause or cause_of(returncode)] += 1
            self._step(slot, event, now)
            level = logging.ERROR if returncode else logging.INFO
            rss_mib = member.vitals.rss_bytes / 2**20
            log.log(level, "%s ended (%s) after %.1f s of service, with %.0f MiB resident at the last look",
                    process, how, now - process.ready_at, rss_mib)  # fmt: skip
            self._tell_delay(slot, now)
        else:
            crashed = returncode and process.ready_at is not None and not process.killed
            log.log(logging.WARNING if crashed else logging.DEBUG, "%s is gone: %s", process, how)

    def _start_lost(self, slot: Slot, stage: str, text: str, now: float) -> None:
        """A worker did not get to READY. What that means depends on what else serves."""
        self._step(slot, Event.START_LOST, now)
        if self.phase is Phase.STARTING:
            self._give_up(stage, text, now)
        elif self.phase is Phase.SERVING:
            log.error("worker %d did not start (%s): %s", slot.number, stage, text)
            slot.restarts["start"] += 1
            if self.roller.rolls(slot) is not None:
                self.roller.abandon(slot, text, now)
            self._tell_delay(slot, now)

    def _give_up(self, stage: str, text: str, now: float) -> None:
        """The first start failed. The others will fail alike, so this one text is all there is to say."""
        kind = LifespanError if stage == "lifespan" else AppImportError
        log.critical("the app did not start (%s): %s", stage, text)
        self._outside.failed(text)
        self._exit_code = kind.exit_code
        self._begin_stop(now)

    def _tell_delay(self, slot: Slot, now: float) -> None:
        if slot.retry_at is not None and slot.retry_at > now:
            log.warning("worker %d starts again in %.1f s", slot.number, slot.retry_at - now)

    # Stopping

    def _stop(self, now: float) -> None:
        if self._stops_asked >= 1 and self.phase < Phase.STOPPING:
            log.info("stopping: requests in flight get %g s", self.config.timeout_graceful_shutdown_s)
            self._begin_stop(now)
        if self._stops_asked >= 2 and self.phase < Phase.FORCED:
            self.phase = Phase.FORCED
            log.warning("told to stop at once: cutting what is in flight")
            for member in self.crew:
                self.crew.stop(member.process, now)

    def _begin_stop(self, now: float) -> None:
        self.phase = Phase.STOPPING
        self.roller.cancel("the server stops")
        self._outside.stopping(now)
        self._nursery.close(now)
        # Whoever connects from now on should be refused, and go elsewhere, as soon as the workers
        # have closed theirs. Before they are told: a worker answers what waits in its queue and closes
        # it, and with our copy still open others would queue up behind that, to be reset by our close.
        self._listeners.close(unlink=self._outside.is_the_master)
        for slot in self.slots.values():
            for process in slot.leaving:  # told with a grace that nothing is left to justify
                self._send_drain(process, now)
            if slot.wanted:
                self._step(slot, Event.RETIRE, now)

    # Being succeeded (USR2)

    def _succeed(self, now: float) -> None:
        """Start a new master when told to; once it serves, drain and go."""
        if self._upgrade_asked:
            self._upgrade_asked = False
            if self.phase is not Phase.SERVING or self.roller.rolling is not None:
                log.warning("no upgrade now: the server is starting, reloading or stopping; try again")
            else:
                self._outside.begin_upgrade(self._listeners, now)
        if self._outside.taken_over(now) and self.phase < Phase.STOPPING:
            log.info("the new master serves; finishing what is in flight here")
            self._begin_stop(now)

    # Rolling: reloads and recycling

    def _may_roll(self) -> bool:
        return self.phase is Phase.SERVING

    def _roll(self, now: float) -> None:
        """Go on with the replacement until workers have to be waited for."""
        if not self._may_roll() or self._outside.upgrading:
            return
        rolling = self.roller.rolling
        if rolling is None or (self.roller.asked and not rolling.active):
            rolling = self._next_rolling(now)
        if rolling is None or not self._nursery.prepared(rolling.generation):
            return
        for number in () if self.roller.asked else rolling.take():
            if rolling.failure:
                rolling.active.discard(number)
            else:
                self._step(self.slots[number], Event.RELOAD, now)
        if not rolling.active and not rolling.queue:
            self._rolled(rolling, now)

    def _next_rolling(self, now: float) -> Rolling | None:
        if not self.roller.asked:
            return self._next_recycling(now)
        self._outside.reloading()
        numbers = [slot.number for slot in self.slots.values() if slot.wanted]
        rolling = self.roller.begin_reload(self.config, numbers, now)
        if not rolling.failure:
            try:
                self._nursery.prepare(rolling.config, rolling.generation, now)
            except (OSError, ShardserveError) as error:
                self._template_news(rolling.generation, "start", str(error), now)
        return rolling

    def _next_recycling(self, now: float) -> Rolling | None:
        for slot in self.slots.values():
            if slot.state is not State.READY or now < slot.recycle_after:
                continue
            assert slot.current is not None
            if (found := self.crew[slot.current].used_up(now)) is not None:
                cause, text = found
                log.info("%s is replaced: %s", slot.current, text)
                return self.roller.begin_recycling(slot, self.config, self.generation, cause)
        return None

    def _adopt_config(self, rolling: Rolling, now: float) -> None:
        """A worker is ready with it, so it can be what a respawned worker gets."""
        if rolling.generation != self.generation:
            self.config, self.generation = rolling.config, rolling.generation
            self._nursery.adopt(self.config, self.generation, now)
            logs.reconfigure(self.config)

    def _rolled(self, rolling: Rolling, now: float) -> None:
        self._nursery.keep_only(self.generation, now)
        if rolling.is_reload:
            self._outside.reloaded(rolling.failure)
        self.roller.end(now)

    # Scaling

    def _scale(self, now: float) -> None:
        if self.phase is not Phase.SERVING or self.roller.rolling is not None or self._outside.upgrading:
            return
        serving = sorted(slot.number for slot in self.slots.values() if slot.wanted)
        if len(serving) < self.wanted:
            log.info("from %d to %d workers", len(serving), self.wanted)
            self._add_slots(now)
        for number in serving[self.wanted :]:
            log.info("one worker less: worker %d goes", number)
            self._step(self.slots[number], Event.RETIRE, now)

    def _add_slots(self, now: float) -> None:
        """Start slots, the lowest unused numbers first, until as many are wanted as should be."""
        missing = self.wanted - sum(slot.wanted for slot in self.slots.values())
        number = 0
        while missing > 0 and self.phase < Phase.STOPPING:
            slot = self.slots.setdefault(number, Slot(number))
            if slot.state in (State.EMPTY, State.DRAINING, State.DEAD):
                self._step(slot, Event.START, now)
                missing -= 1
            number += 1

    # Time

    def _timers(self, now: float) -> None:
        config = self.config
        limits = Limits(
            config.loop_lag_warn_s, config.timeout_worker_healthcheck_s, config.timeout_worker_startup_s
        )
        self.crew.examine(limits, now)
        self.crew.kill_overdue(now)
        for slot in self.slots.values():
            event = slots.due(slot, now)
            if event is not None:
                self._step(slot, event, now)

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
            elif effect.action is Action.STOP:
                # It has no requests yet, and cannot hear us while it imports: no use waiting long.
                self.crew.stop(effect.process, now)

    def _spawn(self, slot: Slot, now: float) -> None:
        config, generation = self.config, self.generation
        rolling = self.roller.rolls(slot)
        if rolling is not None:
            config, generation = rolling.config, rolling.generation
        try:
            process, worker = self._nursery.start(slot.number, config, generation, now)
        except (OSError, ShardserveError) as error:
            self._start_lost(slot, "start", str(error), now)
            return
        slot.starting = process
        self.crew.add(process, worker)

    def _send_drain(self, process: Process, now: float) -> None:
        """Tell it to finish. Where nobody comes after it (the server stops), idle clients can go too."""
        config = self.config
        last = self.phase >= Phase.STOPPING and not self._outside.handed_over
        grace_s = 0.0 if last else config.timeout_drain_idle_s
        deadline_s = config.timeout_graceful_shutdown_s
        process.kill_by(now + deadline_s + self.kill_after_s)
        message = control.Drain(grace_s, deadline_s, config.timeout_drain_streams_s)
        self.crew.send(process, message, now, last=True)
