"""Where workers come from: each exec'd anew, or, with --preload, forked by a template.

Rules of this file: it makes processes and knows nothing of slots' states. There is at most one
template for the running generation and one for a generation that is being reloaded to; a template
that is lost is replaced, and until then workers are exec'd, which always works.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import control
from ..config.model import Config, to_json
from ..errors import ShardserveError
from ..net import listeners as net
from . import slots
from .affinity import Cores
from .slots import Process
from .spares import Spares
from .spawn import WORKER_COMMAND, Worker, describe_exit, start_silently, start_worker
from .template import Template, become_subreaper, reap_strangers

log = logging.getLogger("shardserve.master")


@dataclass(slots=True)
class News:
    """A template is ready (``failure`` is empty) or will never be."""

    generation: int
    stage: str = ""
    failure: str = ""


class Nursery:
    """Starts workers; with --preload, keeps the templates that they are forked from."""

    def __init__(
        self,
        listeners: net.Listeners,
        cores: Cores,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        terminal: bool = False,
    ) -> None:
        """``terminal``: workers get our stdin."""
        self._listeners = listeners
        self._cores = cores
        self._command = command
        self._terminal = terminal
        self.spares = Spares(self._start_spare)
        self._templates: dict[int, Template] = {}  # by generation
        self._leaving: list[Template] = []
        self._generation = 0
        self._config: Config | None = None  # of that generation, when it has templates
        self._losses = 0
        self._retry_at: float | None = None

    # Workers

    def start(self, slot: int, config: Config, generation: int, now: float) -> tuple[Process, Worker]:
        """A process that starts for a slot. Raises OSError or ShardserveError."""
        core = self.core_of(slot, config)
        entries = self._listeners.of_slot(slot) + self._listeners.shared
        inherited = [control.Listener(entry.sock.fileno(), entry.url) for entry in entries]
        start = control.Start(slot, generation, core, to_json(config), inherited)
        sockets = [entry.sock for entry in entries]
        template = self._templates.get(generation)
        if template is not None and template.ready and template.channel.open:
            worker = template.fork(start, now, sockets=sockets)
        elif (spare := self.spares.take(start, now)) is not None:
            worker = spare
        else:
            worker = start_worker(start, now, sockets=sockets, command=self._command, terminal=self._terminal)
        log.debug("worker %d starts on core %s", slot, core)
        return Process(worker.handle.pid, slot, generation, started_at=now), worker

    def keep_spare(self, slot: int, config: Config) -> None:
        """See that one waits for this slot's next start."""
        entries = self._listeners.of_slot(slot) + self._listeners.shared
        self.spares.keep(slot, [entry.sock for entry in entries], self.core_of(slot, config))

    def _start_spare(self, slot: int, sockets: Sequence[socket.socket], core: int | None) -> Worker:
        return start_silently(
            name=f"worker {slot}", sockets=sockets, command=self._command, core=core, terminal=self._terminal
        )

    def core_of(self, slot: int, config: Config) -> int | None:
        return self._cores.of_slot(slot) if config.affinity else None

    # Templates

    def prepare(self, config: Config, generation: int, now: float) -> None:
        """Start the template of a generation, where there are templates. Raises OSError, ShardserveError."""
        if config.preload:
            become_subreaper()
            self._templates[generation] = Template.start(
                to_json(config),
                generation,
                now,
                command=self._command,
                core=self.core_of(0, config),
                startup_s=config.timeout_worker_startup_s,
            )

    def prepared(self, generation: int) -> bool:
        """Whether workers of this generation can start."""
        template = self._templates.get(generation)
        return template is None or template.ready

    def adopt(self, config: Config, generation: int, now: float) -> None:
        """This is the running generation from now on; the templates of others go."""
        self._generation, self._config = generation, config if config.preload else None
        self._losses, self._retry_at = 0, None
        self.keep_only(generation, now)

    def keep_only(self, generation: int | None, now: float) -> None:
        """The templates of other generations go."""
        for other in [one for one in self._templates if one != generation]:
            template = self._templates.pop(other)
            template.stop(now)
            self._leaving.append(template)

    def send_all(self, message: control.Message, now: float) -> None:
        """Tell every template."""
        for template in [*self._templates.values(), *self._leaving]:
            template.channel.send(message, now)

    def close(self, now: float) -> None:
        """Every template goes, and every spare."""
        self.spares.close()
        self._config = None
        self.keep_only(None, now)

    @property
    def empty(self) -> bool:
        return not self._templates and not self._leaving

    def watched(self) -> list[tuple[int, int]]:
        return [pair for one in [*self._templates.values(), *self._leaving] for pair in one.watched()]

    def turn(self, now: float) -> list[News]:
        """What has become of the templates."""
        if self._config is None and self.empty:
            return []
        news = []
        for generation, template in list(self._templates.items()):
            was_ready = template.ready
            template.turn(now)
            if template.ready and not was_ready:
                news.append(News(generation))
            elif template.gone:
                del self._templates[generation]
                news += self._lost(generation, template, was_ready, now)
        for template in self._leaving:
            template.turn(now)
        self._leaving = [one for one in self._leaving if not one.gone]
        self._replace(now)
        return news

    def reap_strangers(self, known: Iterable[int | None]) -> None:
        """Reap orphans that apps left. ``known``: the pids of our other children; None: not known yet."""
        if not self.empty or self._config is not None:
            reap_strangers({*known, *(one.pid for one in [*self._templates.values(), *self._leaving])})

    def _lost(self, generation: int, template: Template, was_ready: bool, now: float) -> list[News]:
        assert template.returncode is not None
        how = describe_exit(template.returncode)
        if not was_ready:
            text = template.failed or f"the template process ended: {how}"
            if generation == self._generation and self._config is not None:
                log.error("the template did not start again: %s", text)
                self._retry(now)
                return []
            return [News(generation, template.stage, text)]
        log.error("the template process (pid %d) ended: %s; workers are exec'd until there is a new one",
                  template.pid, how)  # fmt: skip
        self._retry(now)
        return []

    def _retry(self, now: float) -> None:
        self._retry_at = now + slots.backoff_s(self._losses)
        self._losses += 1

    def _replace(self, now: float) -> None:
        if self._retry_at is None or self._retry_at > now or self._config is None:
            return
        self._retry_at = None
        try:
            self.prepare(self._config, self._generation, now)
        except (OSError, ShardserveError) as error:
            log.error("cannot start a template process: %s", error)
            self._retry(now)

    def next_deadline(self) -> float | None:
        times = [one.kill_at for one in [*self._templates.values(), *self._leaving]]
        return min((at for at in [self._retry_at, *times] if at is not None), default=None)
