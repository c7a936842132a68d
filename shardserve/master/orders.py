"""What each signal and each command of ``shardserve ctl`` does to the supervisor.

Rules of this file: a signal leaves a note; a command leaves one, too, or asks for a report. Nothing
is carried out at once: the loop comes to it in its own order. The commands are declared in
``commands.py``; how they come and how they are answered is ``control_socket.py``'s.
"""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from .. import commands, control
from ..observe import log_config
from . import report
from .control_socket import Request

if TYPE_CHECKING:
    from .supervisor import Supervisor

log = logging.getLogger("shardserve.master")


def note(supervisor: Supervisor, number: signal.Signals) -> None:
    """What a signal asks for."""
    match number:
        case signal.SIGTERM | signal.SIGINT:
            supervisor.ask_stop()
        case signal.SIGQUIT:
            supervisor.ask_stop(force=True)
        case signal.SIGHUP:
            supervisor.roller.ask()
        case signal.SIGUSR1:
            supervisor.reopen_asked = True
        case signal.SIGUSR2:
            supervisor.ask_upgrade()
        case signal.SIGTTIN:
            supervisor.wanted = min(commands.MOST_WORKERS, supervisor.wanted + 1)
        case signal.SIGTTOU:
            supervisor.wanted = max(1, supervisor.wanted - 1)
        case signal.SIGCHLD:
            pass  # it woke us up; reaping looks at every process anyway
        case _:
            log.debug("ignored %s", number.name)


def obey(supervisor: Supervisor, request: Request, now: float) -> None:
    """Note what a request asks for, and answer it, now or when it is done."""
    command = request.command
    match command:
        case commands.Status():
            request.reply(report.server_status(supervisor, now).to_json())
        case commands.Workers():
            workers = [one.to_json() for one in report.worker_statuses(supervisor, now)]
            request.reply({"workers_list": workers})
        case commands.Reload(wait):
            _reload(supervisor, request, wait=wait)
        case commands.Reopen():
            log.info("told to open the log files again by ctl (%s)", request.who)
            supervisor.reopen_asked = True
            request.reply({"message": "opening the log files again"})
        case commands.Stop(force):
            log.info("told to stop by ctl (%s)", request.who)
            supervisor.ask_stop(force=force)
            request.reply({"message": "stopping"})
        case commands.Scale(workers):
            log.info("told to have %d workers by ctl (%s)", workers, request.who)
            before, supervisor.wanted = supervisor.wanted, workers
            request.reply({"message": f"{workers} workers from now on; there were {before}"})


def reopen(supervisor: Supervisor, now: float) -> None:
    """The log files were renamed: have everybody open them again. The loop calls it, in its order."""
    supervisor.reopen_asked = False
    log_config.reopen()
    supervisor.tell_all(control.Reopen(), now)
    log.info("opened the log files again")


def _reload(supervisor: Supervisor, request: Request, *, wait: bool) -> None:
    if supervisor.phase.name not in ("STARTING", "SERVING"):
        request.fail("the server is stopping")
        return
    log.info("told to reload by ctl (%s)", request.who)
    if not wait:
        supervisor.roller.ask()
        request.reply({"message": "reloading"})
        return

    def heard(kind: str, text: str) -> None:
        if kind == "progress":
            request.progress(text)
        elif kind == "failed":
            request.fail(text)
        else:
            request.reply({"message": text})

    supervisor.roller.ask(heard)
