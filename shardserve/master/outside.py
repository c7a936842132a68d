"""The world outside the server's own processes: systemd, the pid file, ctl, metrics, another master.

Rules of this file: it gathers what these have in common, *when* they hear of what, and holds no
protocol: ``notify.py``, ``pidfile.py``, ``control_socket.py``, ``metrics_server.py`` and ``upgrade.py``
do. The supervisor says what happens to it; nothing here decides about a worker.

A master that takes over from another one (``takeover``) shows itself only once it serves: until
then the pid file, the control socket, the metrics address and systemd's main pid are the old one's.
"""

from __future__ import annotations

import logging
import os
import time
from select import POLLIN
from typing import TYPE_CHECKING

from ..commands import socket_path
from ..config.model import Config
from ..errors import ListenError, StartupError
from ..net import listeners as net
from .control_socket import ControlSocket, Request
from .notify import Notifier
from .pidfile import PidFile
from .upgrade import Taken, Takeover, Upgrade

if TYPE_CHECKING:
    from .metrics_server import MetricsServer
    from .supervisor import Supervisor

# The old master lets the metrics address go when it hears that we serve: in an instant, if it is not busy.
METRICS_RETRY_S = (0.05, 0.2, 1.0)

log = logging.getLogger("shardserve.master")


class Outside:
    """What is told to whom, and what they ask for."""

    def __init__(
        self,
        config: Config,
        *,
        notifier: Notifier,
        takeover: Takeover | None = None,
    ) -> None:
        """Raises StartupError: the pid file is locked, the control socket is somebody else's, the metrics
        address cannot be had.
        """
        self._config = config
        self._notifier = notifier
        self._takeover = takeover
        self.took_over = False  # from another master
        self._shown = takeover is None
        self._upgrade: Upgrade | None = None
        self.handed_over = False
        self._control: ControlSocket | None = None
        self._metrics: MetricsServer | None = None
        self._metrics_tries = 0
        self._metrics_again_at: float | None = None
        self._pid_file = self._claim_pid_file()
        try:
            if takeover is None:
                if self._pid_file is not None:
                    self._pid_file.write()
                self._open_control(replace=False)
                self._open_metrics()
        except BaseException:
            self.close()
            raise

    def _claim_pid_file(self) -> PidFile | None:
        path = self._config.pid
        if path is None:
            return None
        if self._takeover is not None and self._takeover.pid_file_fd is not None:
            return PidFile.inherit(path, self._takeover.pid_file_fd)
        return PidFile.claim(path)

    def _open_control(self, *, replace: bool) -> None:
        setting = self._config.control_socket
        try:
            path = socket_path(setting, os.environ, os.getuid(), os.getpid())
            if path is not None:
                self._control = ControlSocket(path, replace=replace)
        except (ListenError, OSError) as error:
            if setting != "auto":
                raise
            log.warning("no control socket, so shardserve ctl will not find this server: %s", error)

    def _open_metrics(self) -> None:
        """Raises ListenError."""
        if self._config.metrics is not None:
            from .metrics_server import MetricsServer

            self._metrics = MetricsServer(self._config.metrics)
            for page in self._metrics.pages:
                people = page.removesuffix("metrics")
                log.info("metrics: %s", page if people == page else f"{page} (for people: {people})")

    def _try_metrics(self, now: float) -> None:
        """After a takeover: until it can be had, because nobody would start us again for it."""
        self._metrics_again_at = None
        try:
            self._open_metrics()
        except ListenError as error:
            tries, self._metrics_tries = self._metrics_tries, self._metrics_tries + 1
            if tries == len(METRICS_RETRY_S):
                log.error("no metrics yet: %s; trying again every second", error)
            self._metrics_again_at = now + METRICS_RETRY_S[min(tries, len(METRICS_RETRY_S) - 1)]

    @property
    def is_the_master(self) -> bool:
        """Whether the files are ours to remove: not before we took over, nor after we handed over."""
        return self._shown and not self.handed_over

    # Waiting

    def watched(self) -> list[tuple[int, int]]:
        found = []
        if self._control is not None:
            found.append((self._control.fileno(), POLLIN))
        if self._metrics is not None:
            found.append((self._metrics.fileno(), POLLIN))
        found += [
            (one.fileno(), POLLIN) for one in (self._upgrade, self._takeover) if one is not None and one.open
        ]
        return found

    def next_deadline(self) -> float | None:
        times = [self._notifier.next_ping, self._metrics_again_at]
        if self._control is not None:
            times.append(self._control.next_deadline())
        if self._metrics is not None:
            times.append(self._metrics.next_deadline())
        if self._upgrade is not None:
            times.append(self._upgrade.deadline)
        return min((at for at in times if at is not None), default=None)

    # What the supervisor says

    def serving(self) -> None:
        """Every worker is ready."""
        if not self._shown:
            self._show()
            self.took_over = True
        self._notifier.ready()
        if self._takeover is not None:  # it may have died meanwhile
            self._takeover.ready()
            log.info("took over from the master with pid %d", self._takeover.old_pid)

    def _show(self) -> None:
        """What is the old master's so far is ours from now on."""
        self._shown = True
        try:
            self._open_control(replace=True)
        except (ListenError, OSError) as error:
            log.error("no control socket: %s", error)
        if self._pid_file is not None:
            self._pid_file.write()
        self._metrics_again_at = time.monotonic() + METRICS_RETRY_S[0]  # the old one has to hear of us first
        self._notifier.main_pid(os.getpid())

    def failed(self, text: str) -> None:
        """The first start failed."""
        if self._takeover is not None:
            self._takeover.failed(text)

    def reloading(self) -> None:
        self._notifier.reloading(time.monotonic())

    def reloaded(self, failure: str) -> None:
        self._notifier.ready()
        self._notifier.status(f"reload failed: {failure}" if failure else "reloaded")

    def stopping(self, now: float) -> None:
        if self._upgrade is not None and not self.handed_over:
            self._upgrade.abandon(now)
        if self.is_the_master:
            self._notifier.stopping()

    # An upgrade: this is the old master

    @property
    def upgrading(self) -> bool:
        return self._upgrade is not None and not self.handed_over

    @property
    def children(self) -> set[int | None]:
        """The pids of processes that are ours to reap."""
        return set() if self._upgrade is None else {self._upgrade.pid}

    def begin_upgrade(self, listeners: net.Listeners, now: float) -> None:
        if self._upgrade is not None:
            log.warning("an upgrade is on its way already")
            return
        log.info("starting a new master, which takes over the listeners once it serves")
        try:
            self._upgrade = Upgrade.start(
                [(entry.to_plain(), sock) for entry, sock in listeners.handover()],
                self._pid_file,
                environ=os.environ,
                now=now,
                limit_s=self._config.timeout_worker_startup_s,
            )
        except StartupError as error:
            log.error("%s; this master goes on", error)

    def taken_over(self, now: float) -> bool:
        """Whether a new master serves in our place as of now."""
        if self._upgrade is None or self.handed_over:
            return False
        outcome = self._upgrade.turn(now)
        if outcome is None:
            return False
        if isinstance(outcome, Taken):
            self.handed_over = True  # the handshake stays open: its end says that we are gone
            self._notifier.main_pid(self._upgrade.pid)
            self._notifier.close()
            self._close_control()
            self._close_metrics()
            return True
        self._upgrade.close()
        self._upgrade = None
        log.error("the upgrade failed: %s", outcome.text)
        if self._pid_file is not None:
            self._pid_file.write()  # the new one may have put its own in
        return False

    # In every turn of the loop

    def requests(self, now: float) -> list[Request]:
        """What ctl asks for; and systemd's watchdog hears that the loop turns."""
        self._notifier.ping_if_due(now)
        if self._takeover is not None:
            self._takeover.turn()
            if self._takeover.old_is_gone:
                self._takeover.close()
                self._takeover = None
        return self._control.turn(now) if self._control is not None else []

    def tell_figures(self, supervisor: Supervisor, now: float) -> None:
        """Whoever asks at the metrics address hears of the supervisor."""
        if self._metrics_again_at is not None and self._metrics_again_at <= now:
            self._try_metrics(now)
        if self._metrics is not None:
            from . import scrapes  # its prometheus_client costs 6 MiB, which others should not pay

            scrapes.tell(supervisor, self._metrics.turn(now), now)

    # The end

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _close_metrics(self) -> None:
        self._metrics_again_at = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def close(self) -> None:
        """Everything of ours goes; what was handed over stays."""
        self._notifier.close()
        self._close_metrics()
        for one in (self._upgrade, self._takeover):
            if one is not None:
                one.close()
        if self._pid_file is not None:
            self._pid_file.close(unlink=True)  # if it is still ours
            self._pid_file = None
        self._close_control()  # last: its end is what `ctl stop` waits for
