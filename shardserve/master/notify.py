"""Telling systemd how the server is: ready, reloading, stopping, alive.

Rules of this file: the protocol of sd_notify(3), and nothing of what the states mean. A datagram of
``NAME=value`` lines goes to the socket that $NOTIFY_SOCKET names. Nothing here blocks or raises: a
service manager that does not listen is a line at debug level. Without the variable every method does
nothing. Time is an argument.

- A state is sent once for each change.
- What finds no room in the manager's queue waits here, in order, and is tried again by the next call
  or by ``ping_if_due``: a READY that is lost is a service that is killed for not having started.
- Once another process is named the main one (``main_pid``), this one is silent. The old master of an
  upgrade stops, and its STOPPING would be taken for the unit's.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Mapping

log = logging.getLogger("shardserve.master")

# They are about one process, the master, and would mislead a library in a worker: one that answers
# the watchdog hides a master that hangs, one that looks for sockets takes any descriptor for one.
SYSTEMD_VARIABLES = (
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
)  # fmt: skip
RETRY_S = 0.1  # until what found no room is tried again
_LONGEST_STATUS = 1000  # characters; it is one line of `systemctl status`
_MOST_UNSENT = 100  # after so many newer ones nobody misses the oldest

_STOPPING, _WATCHDOG = "STOPPING=1", "WATCHDOG=1"


def environment_for_workers(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what is only for the main process of a systemd service."""
    return {name: value for name, value in environ.items() if name not in SYSTEMD_VARIABLES}


class Notifier:
    """The way to the service manager, if there is one."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """``address`` as in $NOTIFY_SOCKET; None: nobody is to be told. ``watchdog_s``: from ping to ping."""
        self._sock, self._address = _open(address) if address is not None else (None, "")
        self.watchdog_s = watchdog_s if self._sock is not None else None
        self._ping_at = 0.0
        self._retry_at = 0.0
        self._unsent: deque[str] = deque(maxlen=_MOST_UNSENT)
        self._state = ""
        self._status = ""
        self._main_pid: int | None = None
        self._silent = self._sock is None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Notifier:
        return cls(environ.get("NOTIFY_SOCKET") or None, _watchdog_s(environ))

    def close(self) -> None:
        """Say nothing more, whatever still waits."""
        self._silent, self.watchdog_s = True, None
        self._unsent.clear()
        if self._sock is not None:
            self._sock.close()

    # The states

    def ready(self) -> None:
        """Every worker serves: after the start, and after a reload however it went."""
        self._change("READY=1")

    def reloading(self, now_s: float) -> None:
        """A reload has begun. ``now_s``: time.monotonic(), read after its HUP came (Type=notify-reload
        takes an older one for the answer to an older HUP).
        """
        self._change(f"RELOADING=1\nMONOTONIC_USEC={int(now_s * 1_000_000)}")

    def stopping(self) -> None:
        self._change(_STOPPING)

    def status(self, text: str) -> None:
        """One line for people: what ``systemctl status`` shows."""
        text = " ".join(text.split())[:_LONGEST_STATUS]
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def main_pid(self, pid: int) -> None:
        """Name the main process of the service. If that is another one, this one says no more."""
        if pid != self._main_pid:
            self._main_pid = pid
            self._send(f"MAINPID={pid}")
            if pid != os.getpid():
                self._silent, self.watchdog_s = True, None

    def _change(self, state: str) -> None:
        if self._state not in (state, _STOPPING):
            self._state = state
            self._send(state)

    # The watchdog, and what found no room

    @property
    def next_ping(self) -> float | None:
        """When ``ping_if_due`` has something to do; None: not before the next change."""
        due = [self._ping_at] if self.watchdog_s is not None else []
        if self._unsent:
            due.append(self._retry_at)
        return min(due, default=None)

    def ping_if_due(self, now: float) -> None:
        """To be called in every turn of the master's loop: that it turns is what the ping says."""
        if self.watchdog_s is not None and now >= self._ping_at:
            self._ping_at = now + self.watchdog_s
            if _WATCHDOG not in self._unsent:
                self._unsent.append(_WATCHDOG)
        elif not self._unsent or now < self._retry_at:
            return
        self._flush()
        if self._unsent:
            self._retry_at = now + RETRY_S

    # Sending

    def _send(self, text: str) -> None:
        if not self._silent:
            self._unsent.append(text)
            self._flush()

    def _flush(self) -> None:
        """Send what there is room for."""
        assert self._sock is not None
        while self._unsent:
            text = self._unsent[0]
            try:
                self._sock.sendto(text.encode(errors="replace"), self._address)
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:
                log.debug("systemd is not told %r: %s", text, error)
            self._unsent.popleft()


def _open(address: str) -> tuple[socket.socket | None, str]:
    """A socket to send from, made once: later there may be no descriptor left. And where to send to."""
    if not address.startswith(("/", "@")):
        log.debug(
            "systemd is told nothing: $NOTIFY_SOCKET is %r, neither a path nor an abstract name", address
        )
        return None, ""
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        log.debug("systemd is told nothing: no socket to send from: %s", error)
        return None, ""
    return sock, f"\0{address[1:]}" if address.startswith("@") else address


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Half of what the manager waits for a ping, as sd_watchdog_enabled(3) recommends; None: it does not."""
    try:
        pid = environ.get("WATCHDOG_PID")
        if pid is not None and int(pid) != os.getpid():
            return None
        limit_us = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        log.debug("no watchdog: $WATCHDOG_USEC or $WATCHDOG_PID is not a number")
        return None
    return limit_us / 2_000_000 if limit_us > 0 else None
