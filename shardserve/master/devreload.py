"""``--reload``: the master that a developer has. A save replaces every worker; code that fails is waited for.

Rules of this file: what differs from production, all of it, in three parts: other values of some settings
(``settled``), the watcher's process (``Watcher``; what it does is ``watch.py``), and the decisions that the
loop takes otherwise (``DevSupervisor``). Everything else is the same server, so what works here works there.

- A change replaces all workers at the same time. The old ones serve until the new ones are ready, and are
  then gone within ``GRACE_S``: streams and WebSockets are told at once, idle connections closed.
- A change during a reload overtakes it: the workers on their way are ended, others start. The last save wins.
- Code that does not start is shown once, and nothing is tried again before a file changes: also at the first
  start, where the listeners are open, and connections wait in the kernel's queue until there is an app.
- Next to each worker waits a spare process that has imported all but the app (``spares.py``).
- Workers are not killed for a loop that does not turn: somebody may be looking at it in a debugger.
- At a terminal the only worker gets its stdin, so that ``breakpoint()`` works. It still leads a session of
  its own: the terminal is not its controlling one, so the kernel lets it read, and a Ctrl-C goes to the
  master alone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from select import POLLIN

from ..config.load import FILE_ENV, FILE_NAME
from ..config.model import Config
from ..net import listeners as net
from ..observe.logs import printable
from .notify import environment_for_workers
from .nursery import Nursery
from .outside import Outside
from .reload import ReloadConfig
from .signals import Signals
from .slots import Event, Process, Slot, State
from .spawn import describe_exit
from .supervisor import Phase, Supervisor

# What a request in flight has left, at a reload and at Ctrl-C: more than most take, less than one waits for.
GRACE_S = 1.5
# After that, its app's lifespan shutdown, before it is killed. A worker that sits at a breakpoint is, always.
KILL_AFTER_S = 2.0
# A spare is started this long after its worker got ready, when the page that is being looked at is answered.
SPARE_AFTER_S = 0.5
# A watcher that ended is started again after this.
WATCHER_RETRY_S = 1.0
# From its end of file to its end.
AT_ITS_END_S = 0.2
# -P: a module of the user's, half written, must not stand in for one of the library's.
WATCHER_COMMAND = (sys.executable, "-P", "-m", "shardserve.master.watch")
LARGEST_TOLD = 64 * 1024

log = logging.getLogger("shardserve.master")


# The settings


def settled(config: Config, *, terminal: bool = False) -> Config:
    """The same for a developer, if it has ``reload``. ``terminal``: the worker has it."""
    if not config.reload:
        return config
    changed: dict[str, object] = {
        "affinity": False,  # the app's import may have the other cores
        "reload_parallel": 1024,
        "timeout_graceful_shutdown_s": min(config.timeout_graceful_shutdown_s, GRACE_S),
        "timeout_drain_idle_s": 0.0,  # or a browser that kept its connection is answered by the old code
        "timeout_drain_streams_s": 0.0,
        "timeout_worker_healthcheck_s": 0.0,
        "timeout_worker_startup_s": 0.0,
    }
    if terminal:
        changed["loop_lag_warn_s"] = 0.0  # its stack would be written over the debugger's prompt
    return dataclasses.replace(config, **changed)  # type: ignore[arg-type]


def settled_anew(reload_config: ReloadConfig, *, terminal: bool) -> ReloadConfig:
    return lambda: settled(reload_config(), terminal=terminal)


def order_for(config: Config, settings_file: Path | None = None) -> dict[str, object]:
    """What to watch, as ``watch.Order`` has it."""
    here = os.getcwd()
    roots = list(config.reload_dirs) or [here, *([config.app_dir] if config.app_dir else [])]
    roots += [one for one in config.reload_includes if os.path.isdir(one)]
    files = [settings_file or os.environ.get(FILE_ENV) or FILE_NAME]
    if config.env_file:
        files.append(config.env_file)
    return {
        "directory": here,
        "roots": list(dict.fromkeys(os.path.abspath(one) for one in roots)),
        "files": [os.path.abspath(one) for one in files],
        "includes": list(config.reload_includes),
        "excludes": list(config.reload_excludes),
        "delay_s": config.reload_delay_s,
    }


# The terminal


def has_terminal(workers: int) -> bool:
    """Whether a debugger's prompt has somebody to talk to, and knows which worker it belongs to."""
    if workers != 1:
        return False
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def kept_terminal(*, there: bool) -> Iterator[None]:
    """Put the terminal's settings back at the end: a prompt that is killed leaves it without echo."""
    if not there:
        yield
        return
    settings = termios.tcgetattr(0)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, settings)


# The watcher


class Watcher:
    """The process that watches, from its start to its reaping. Nothing waits but for its end."""

    def __init__(self, order: dict[str, object], *, command: Sequence[str] = WATCHER_COMMAND) -> None:
        self._order = order
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self.retry_at: float | None = None

    def start(self, now: float) -> None:
        """Start it. Where that fails, it is tried again later."""
        self.retry_at = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*self._command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment_for_workers(os.environ),
                    start_new_session=True,
                )
            ours.send(json.dumps(self._order).encode())
        except OSError as error:
            ours.close()
            log.error("--reload: cannot start the watcher: %s", error)
            self.retry_at = now + WATCHER_RETRY_S
            return
        ours.setblocking(False)
        self._sock = ours

    def watched(self) -> list[tuple[int, int]]:
        return [(self._sock.fileno(), POLLIN)] if self._sock is not None else []

    def turn(self, now: float) -> list[str]:
        """The changes it tells of, as names; what else it says is logged."""
        if self.retry_at is not None and self.retry_at <= now:
            self.start(now)
        changed = []
        while self._sock is not None:
            try:
                data = self._sock.recv(LARGEST_TOLD)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._lost(now)
                break
            told = json.loads(data)
            text = printable(told["text"])
            if told["kind"] == "changed":
                changed.append(text)
            elif told["kind"] == "watching":
                log.info("--reload: watching %s", text)
            else:
                log.warning("--reload: %s", text)
        return changed

    def _lost(self, now: float) -> None:
        """It closed its end: it is ending, or of no use."""
        returncode = self._end(AT_ITS_END_S)
        self.retry_at = now + WATCHER_RETRY_S
        how = describe_exit(returncode)
        log.error("--reload: the watcher ended (%s); changes are not seen until it is there again", how)

    def _end(self, wait_s: float = 0.0) -> int:
        """End it, unless it ends by itself; it has nothing to lose. The returncode."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._process is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(wait_s)
        self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        self.retry_at = None
        self._end()


# The decisions


class DevSupervisor(Supervisor):
    """The loop of ``supervisor.py``; overridden is what a developer wants otherwise."""

    kill_after_s = KILL_AFTER_S

    def __init__(
        self,
        config: Config,
        listeners: net.Listeners,
        nursery: Nursery,
        signals: Signals,
        outside: Outside,
        *,
        watcher: Watcher,
        reload_config: ReloadConfig | None = None,
    ) -> None:
        super().__init__(config, listeners, nursery, signals, outside, reload_config=reload_config)
        self._watcher = watcher
        self._shown = False  # why it does not start; the other workers have the same to say

    def run(self, workers: int, *, first: int | None = None) -> int:
        try:
            return super().run(workers, first=first)
        finally:
            self._watcher.close()

    def _begin(self, now: float) -> None:
        self._watcher.start(now)
        super()._begin(now)

    # Changes

    def _watched(self) -> list[tuple[int, int]]:
        return [*super()._watched(), *self._watcher.watched()]

    def _deadlines(self, now: float) -> list[float | None]:
        return [*super()._deadlines(now), self._watcher.retry_at]

    def _hear(self, now: float) -> None:
        super()._hear(now)
        for text in self._watcher.turn(now):
            if self.phase < Phase.STOPPING:
                log.info("%s changed, %s", text, "reloading" if self._serves() else "starting again")
                self.roller.ask()

    def _serves(self) -> bool:
        return any(slot.current is not None for slot in self.slots.values())

    def _may_roll(self) -> bool:
        """Also when no worker has ever been ready: the new code may be the cure."""
        return self.phase < Phase.STOPPING

    def _roll(self, now: float) -> None:
        if self.roller.asked and self._may_roll():
            self._shown = False
            if self.roller.rolling is not None:
                self.roller.rolling.active.clear()  # overtaken: their slots are told to RELOAD once more
            if self.phase is Phase.STARTING:
                self.started_at = now
        super()._roll(now)

    # What does not start

    def _ready(self, slot: Slot, process: Process, startup_ms: int, now: float) -> None:
        self._shown = False
        super()._ready(slot, process, startup_ms, now)

    def _start_lost(self, slot: Slot, stage: str, text: str, now: float) -> None:
        self._step(slot, Event.START_LOST, now)
        slot.retry_at = None  # the same code would fail in the same way
        if self.phase >= Phase.STOPPING:
            return
        slot.restarts["start"] += 1
        rolling = self.roller.rolls(slot)
        if rolling is not None:
            rolling.active.discard(slot.number)
            rolling.fail(text)
        self._nursery.keep_spare(slot.number, self.config)
        if self._shown:
            log.debug("worker %d did not start either (%s): %s", slot.number, stage, text)
            return
        self._shown = True
        log.error("the app did not start (%s): %s", stage, text)
        meanwhile = "the old code serves on" if self._serves() else "connections wait until there is an app"
        log.warning("waiting for changes; %s", meanwhile)

    # Spares

    def _timers(self, now: float) -> None:
        super()._timers(now)
        if self.phase >= Phase.STOPPING:
            return
        for slot in self.slots.values():
            ready_at = slot.current.ready_at if slot.current is not None else None
            if slot.state is State.READY and ready_at is not None and now - ready_at >= SPARE_AFTER_S:
                self._nursery.keep_spare(slot.number, self.config)
        self._nursery.spares.keep_only({slot.number for slot in self.slots.values() if slot.wanted})


def for_developer(
    config: Config,
    listeners: net.Listeners,
    nursery: Nursery,
    signals: Signals,
    outside: Outside,
    reload_config: ReloadConfig | None,
    settings_file: Path | None,
    *,
    terminal: bool,
) -> DevSupervisor:
    """The supervisor of a config that is ``settled``."""
    fresh = None if reload_config is None else settled_anew(reload_config, terminal=terminal)
    watcher = Watcher(order_for(config, settings_file))
    return DevSupervisor(config, listeners, nursery, signals, outside, watcher=watcher, reload_config=fresh)
