"""From a configuration to a running supervisor, and back with an exit code.

Rules of this file: what is found out once, before any worker starts: the cores, the sockets, the
warnings. What happens afterwards is ``supervisor.py``'s.

Exit codes: 0 stopped on request, 1 an address cannot be had, 2 the configuration is wrong, 3 the app
did not start (``errors.py``).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from ..config.model import Config
from ..errors import StartupError
from ..net import listeners as net
from ..observe import logs
from . import affinity, banner
from .reload import ReloadConfig
from .signals import Signals
from .spawn import WORKER_COMMAND
from .supervisor import Supervisor

log = logging.getLogger("shardserve.master")


def serve(
    config: Config,
    reload_config: ReloadConfig | None = None,
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
) -> int:
    """Run the server until it is told to stop; returns the exit code. Call it from the main thread.

    ``reload_config`` is asked for a fresh Config at HUP; without it a reload renews only the code.
    ``worker_command`` starts a worker; the control pipe's descriptor is appended to it.
    """
    logs.configure(config)
    try:
        with Signals() as signals:
            return _serve(config, reload_config, signals, worker_command)
    except StartupError as error:
        log.critical("%s", error)
        return error.exit_code


def _serve(
    config: Config, reload_config: ReloadConfig | None, signals: Signals, worker_command: Sequence[str]
) -> int:
    note, low_limit = banner.raise_descriptor_limit()
    usable = affinity.usable()
    workers = config.workers or usable.workers
    binds = net.wanted(config)
    cores = usable.spread(workers, seed=f"{socket.gethostname()} {', '.join(map(str, binds))}")
    listeners = net.Listeners(binds, slots=workers, backlog=config.backlog)
    try:
        for line in banner.lines(listeners.urls, workers, cores if config.affinity else None):
            log.info("%s", line)
        crowded = banner.crowding_warning(workers, cores) if config.affinity else None
        for warning in (net.backlog_warning(config.backlog), crowded, low_limit):
            if warning:
                log.warning("%s", warning)
        if note:
            log.debug("%s", note)
        supervisor = Supervisor(
            config, listeners, cores, signals, reload_config=reload_config, worker_command=worker_command
        )
        return supervisor.run(workers)
    finally:
        listeners.close()
