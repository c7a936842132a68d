"""From a configuration to a running supervisor, and back with an exit code.

Rules of this file: what is found out once, before any worker starts: an old master to take over
from, the cores, the sockets, the warnings. What happens afterwards is ``supervisor.py``'s.

Exit codes: 0 stopped on request, 1 an address cannot be had, 2 the configuration is wrong, 3 the app
did not start (``errors.py``).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from ..config import http2, uvicorn
from ..config.model import Config
from ..errors import StartupError
from ..net import listeners as net
from ..observe import log_config, logs
from . import affinity, banner, devreload, precheck
from .notify import Notifier
from .nursery import Nursery
from .outside import Outside
from .reload import ReloadConfig
from .signals import Signals
from .spawn import WORKER_COMMAND
from .supervisor import Supervisor
from .upgrade import Takeover

log = logging.getLogger("shardserve.master")


def serve(
    config: Config,
    reload_config: ReloadConfig | None = None,
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
    settings_file: Path | None = None,
) -> int:
    """Run the server until it is told to stop; returns the exit code. Call it from the main thread.

    ``reload_config`` is asked for a fresh Config at HUP; without it a reload renews only the code.
    ``worker_command`` starts a worker; the control pipe's descriptor is appended to it. ``settings_file``
    was read for ``config``; with --reload its changes count, too.
    """
    logs.configure(config)
    takeover = None
    try:
        takeover = Takeover.from_environ(os.environ)
        with Signals() as signals:
            return _serve(config, reload_config, signals, worker_command, takeover, settings_file)
    except StartupError as error:
        log.critical("%s", error)
        if takeover is not None:
            takeover.failed(str(error))
        return error.exit_code


def _serve(
    config: Config,
    reload_config: ReloadConfig | None,
    signals: Signals,
    worker_command: Sequence[str],
    takeover: Takeover | None,
    settings_file: Path | None,
) -> int:
    precheck.check(config)
    note, low_limit = banner.raise_descriptor_limit()
    usable = affinity.usable()
    workers = config.workers or (1 if config.reload else usable.workers)
    terminal = config.reload and devreload.has_terminal(workers)
    config = devreload.settled(config, terminal=terminal)
    inherited = [net.Inherited.from_plain(one) for one in takeover.listeners] if takeover is not None else []
    binds = net.wanted(config, inherited=inherited)
    cores = usable.spread(workers, seed=f"{socket.gethostname()} {', '.join(map(str, binds))}")
    # Sockets of our own would take connections before we serve, and lose them if we never do.
    handed_over = [one.slot for one in inherited if one.slot is not None]
    first = min(workers, max(handed_over) + 1) if handed_over else workers
    listeners = net.Listeners(
        binds,
        slots=first,
        backlog=config.backlog,
        inherited=inherited,
        balance=config.balance,
        core_of=cores.of_slot if config.affinity else None,
    )
    try:
        urls = banner.spoken(listeners.urls, tls=bool(config.ssl_certfile))
        for line in banner.lines(urls, workers, cores if config.affinity else None):
            log.info("%s", line)
        for warning in _warnings(config, workers, cores, low_limit):
            if warning:
                log.warning("%s", warning)
        if note:
            log.debug("%s", note)
        nursery = Nursery(listeners, cores, command=worker_command, terminal=terminal)
        outside = Outside(config, notifier=Notifier.from_environ(os.environ), takeover=takeover)
        parts = config, listeners, nursery, signals, outside
        if not config.reload:
            return Supervisor(*parts, reload_config=reload_config).run(workers, first=first)
        with devreload.kept_terminal(there=terminal):
            watching = devreload.for_developer(*parts, reload_config, settings_file, terminal=terminal)
            return watching.run(workers, first=first)
    finally:
        listeners.close()


def _warnings(
    config: Config, workers: int, cores: affinity.Cores, low_limit: str | None
) -> tuple[str | None, ...]:
    """What somebody should hear at the start, in this order. None is nothing."""
    return (
        net.backlog_warning(config.backlog),
        banner.crowding_warning(workers, cores) if config.affinity else None,
        low_limit,
        net.activation_warning(config),
        log_config.rotation_warning(workers + 1),
        log_config.access_warning(config),
        http2.warning(config, tls=bool(config.ssl_certfile)),
        *uvicorn.compatibility_warnings(config),
    )
