"""Replacing the master by a new one, new interpreter and new code, that takes the same listeners over (USR2).

Rules of this file: both ends of the handshake. ``Upgrade`` is the old master's, ``Takeover`` the new
one's. Nothing blocks, and time is an argument. Which listeners there are, and what either master does
after the handshake, is not known here: a description is an opaque dict that gets the number of its
descriptor, ``fd``.

    old master                                  new master
    Upgrade.start: sockets, lock and handshake →  Takeover.from_environ
    serves on                                     starts workers on the inherited listeners
                       ← TAKEN                    they are ready; its pid is in the pid file
    drains its workers, ends                      notices the end of file: ``old_is_gone``
                       ← FAILED(text), or it dies, or limit_s passes
    serves on, as if nothing had been

Until TAKEN the old one is the master. A new one that it has told to go does not count any more, even
if it is ready in the same moment. If the old one dies first, the new one simply goes on.

The new master is a child of the old one and in its session and process group, so a Ctrl-C at the
terminal ends both while the upgrade is on its way.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import StartupError
from .notify import SYSTEMD_VARIABLES
from .pidfile import PidFile
from .spawn import describe_exit

log = logging.getLogger("shardserve.master")

VARIABLE = "SHARDSERVE_UPGRADE"
LEAVE_S = 60.0  # for a new master that has failed to see its own workers off
KILL_AFTER_S = 10.0  # from TERM to KILL
# What names a process by its pid does not hold for the next one. The sockets come in our own way, and
# a watchdog without a pid is everybody's who may answer it.
_NOT_FOR_THE_NEW = frozenset(SYSTEMD_VARIABLES) - {"NOTIFY_SOCKET", "WATCHDOG_USEC"}
_LONGEST_REASON = 8000  # characters
_MAX_DATAGRAM_BYTES = 64 * 1024


# The messages, all from new to old


@dataclass(frozen=True, slots=True)
class Taken:
    """The workers of the new master serve: the old one should drain and go."""

    type: ClassVar[str] = "TAKEN"


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no new master; the old one serves on. ``text``: why."""

    type: ClassVar[str] = "FAILED"
    text: str


Outcome = Taken | Failed


def encode(message: Outcome) -> bytes:
    """One message as one datagram (JSON, ASCII)."""
    body = {"type": message.type}
    if isinstance(message, Failed):
        body["text"] = message.text[:_LONGEST_REASON]
    return json.dumps(body).encode()


def decode(data: bytes) -> Outcome | None:
    """The message of a datagram; None if it is not one."""
    try:
        body = json.loads(data)
        if body["type"] == Taken.type:
            return Taken()
        if body["type"] == Failed.type:
            return Failed(str(body["text"]))
    except (ValueError, TypeError, KeyError):
        pass
    return None


class _Handshake:
    """One end of the socket between the two masters."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.open = True  # worth looking at: there may be news

    def fileno(self) -> int:
        """What to select on while ``open``."""
        return self._sock.fileno()

    def _receive(self) -> list[Outcome]:
        """What has come. ``open`` is false afterwards if the other end is gone."""
        found: list[Outcome] = []
        while self.open:
            try:
                data = self._sock.recv(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.open = False
            elif (message := decode(data)) is not None:
                found.append(message)
            else:
                log.error("upgrade: ignored what is no message: %r", data[:80])
        return found

    def close(self) -> None:
        self.open = False
        self._sock.close()


def own_command() -> list[str]:
    """How this process was started, interpreter and all. Relative paths hold in the same directory."""
    return [sys.executable, *sys.orig_argv[1:]]


class Upgrade(_Handshake):
    """The old master's side: a new master that is starting. Look at ``fileno()`` while ``open``."""

    def __init__(
        self, process: subprocess.Popen[bytes], sock: socket.socket, *, deadline: float | None, limit_s: float
    ) -> None:
        """``start`` makes one."""
        super().__init__(sock)
        self.pid = process.pid
        self.deadline = deadline  # when ``turn`` wants to be called at the latest
        self._process = process
        self._limit_s = limit_s
        self._taken = False
        self._reason = ""  # why it is not to be any more
        self._leaves = False  # it has failed, or is told to
        self._told_to_go = False
        self._outcome: Outcome | None = None

    @classmethod
    def start(
        cls,
        handover: Sequence[tuple[Mapping[str, Any], socket.socket]],
        pid_file: PidFile | None,
        *,
        command: Sequence[str] | None = None,
        environ: Mapping[str, str],
        now: float,
        limit_s: float = 0.0,
    ) -> Upgrade:
        """Start ``command`` (None: our own) with these listeners. ``limit_s``: to be ready in; 0: no limit.

        Raises StartupError when there can be no new process. All listeners travel in one variable,
        of which the kernel takes 128 KiB: about a thousand.
        """
        if os.getpid() == 1:
            raise StartupError(
                "cannot upgrade: this master is process 1, with whose end the kernel ends the whole"
                " container; replace the container instead"
            )
        command = own_command() if command is None else command
        lock = None if pid_file is None else pid_file.fd
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        facts = {
            "fd": theirs.fileno(),
            "pid": os.getpid(),
            "pid_file_fd": lock,
            "listeners": [{**description, "fd": sock.fileno()} for description, sock in handover],
        }
        passed = [theirs.fileno(), *(sock.fileno() for _, sock in handover)]
        passed += [lock] if lock is not None else []
        with ExitStack() as undo:
            undo.callback(ours.close)
            try:
                with theirs:
                    process = subprocess.Popen(command, env=_environment(environ, facts), pass_fds=passed)
            except OSError as error:
                raise StartupError(f"cannot start a new master ({' '.join(command)}): {error}") from error
            undo.pop_all()
        log.info("upgrade: the new master starts as pid %d", process.pid)
        return cls(process, ours, deadline=now + limit_s if limit_s else None, limit_s=limit_s)

    def turn(self, now: float) -> Outcome | None:
        """How it came out, as soon as that is certain; the same from then on.

        Failed comes when the process is gone: then another upgrade may be tried. ``close`` follows.
        """
        if self._outcome is None:
            returncode = self._process.poll()
            self._hear(now)  # after the poll: its last words came before its death
            self._outcome = self._judge(returncode, now)
            if self._outcome is not None:
                self.open, self.deadline = False, None
        return self._outcome

    def abandon(self, now: float) -> None:
        """The old master is told to stop, so the new one is not to go on in its place. ``turn`` goes on
        until it is gone, but nobody has to wait for that.
        """
        if self._outcome is None and not self._told_to_go:
            self._reason = self._reason or "the old master was told to stop"
            self._tell_to_go(now)

    def close(self) -> None:
        """Let go of it: for a new master that still runs, the old one is gone now."""
        super().close()
        if self._process.returncode is None:
            # It outlives us, as it should. Popen would complain of that when it is collected.
            self._process.returncode = 0

    def _hear(self, now: float) -> None:
        was_open = self.open
        for message in self._receive():
            if isinstance(message, Taken):
                self._taken = True
            else:
                self._reason = self._reason or message.text or "the new master did not say why"
        gives_up = self._reason or (was_open and not self.open and not self._taken)
        if gives_up and not self._leaves:
            self._leaves = True
            leave_by = now + LEAVE_S
            self.deadline = leave_by if self.deadline is None else min(self.deadline, leave_by)

    def _judge(self, returncode: int | None, now: float) -> Outcome | None:
        if returncode is not None:
            when = "as soon as it was ready" if self._taken else "before it was ready"
            return Failed(self._reason or f"the new master ended {when}: {describe_exit(returncode)}")
        if self._taken and not self._told_to_go:
            return Taken()
        if self.deadline is not None and self.deadline <= now:
            late = f"the new master was not ready within {self._limit_s:g} s"
            self._reason = self._reason or ("the new master hung up" if self._leaves else late)
            self._tell_to_go(now)
        return None

    def _tell_to_go(self, now: float) -> None:
        """TERM, so that it can see its own workers off; KILL the second time."""
        if self._told_to_go:
            log.warning("upgrade: the new master (pid %d) is still there: killing it", self.pid)
            self.deadline = None
            self._process.kill()
            return
        self._told_to_go = self._leaves = True
        self.deadline = now + KILL_AFTER_S
        self._process.send_signal(signal.SIGTERM)


def _environment(environ: Mapping[str, str], facts: Mapping[str, Any]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_THE_NEW}
    return {**kept, VARIABLE: json.dumps(facts, separators=(",", ":"))}


class Takeover(_Handshake):
    """The new master's side. Look at ``fileno()`` while ``open``, and call ``turn``."""

    def __init__(
        self, sock: socket.socket, *, old_pid: int, pid_file_fd: int | None, listeners: list[dict[str, Any]]
    ) -> None:
        """``from_environ`` makes one."""
        super().__init__(sock)
        self.old_pid = old_pid
        self.pid_file_fd = pid_file_fd
        self.listeners = listeners
        self.old_is_gone = False
        self._said = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Takeover | None:
        """What an old master has left for us, if we are a new one. Takes the variable away, so that no
        worker sees it; its descriptors do not go on to workers either. Raises StartupError.
        """
        text = environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            facts = json.loads(text)
            pid_file_fd, listeners = facts["pid_file_fd"], facts["listeners"]
            if not isinstance(listeners, list):
                raise ValueError("the listeners are not a list")
            lock = [] if pid_file_fd is None else [pid_file_fd]
            descriptors = [facts["fd"], *lock, *(entry["fd"] for entry in listeners)]
            if not all(type(number) is int and number >= 0 for number in (*descriptors, facts["pid"])):
                raise ValueError("a number is not one")
            for fd in descriptors:
                os.set_inheritable(fd, False)
            sock = _seqpacket(facts["fd"])
        except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            raise StartupError(
                f"${VARIABLE} is not what an old master writes ({error!r}); unset it unless you upgrade"
            ) from error
        return cls(sock, old_pid=facts["pid"], pid_file_fd=pid_file_fd, listeners=listeners)

    def ready(self) -> None:
        """Our workers serve: the old master may go. First put our pid into the pid file."""
        self._say(Taken())

    def failed(self, text: str) -> None:
        """We give up, and why. To be followed by the end of this process."""
        self._say(Failed(text))
        self.open = False

    def turn(self) -> None:
        """See whether the old master is still there."""
        self._receive()
        if not self.open and not self.old_is_gone:
            self.old_is_gone = True
            how = "has gone" if self._said else "died before this one was ready; going on without it"
            log.log(
                logging.INFO if self._said else logging.WARNING,
                "the old master (pid %d) %s",
                self.old_pid,
                how,
            )

    def _say(self, message: Outcome) -> None:
        """The first word counts, and there is always room for it."""
        if self._said:
            return
        self._said = True
        try:
            self._sock.send(encode(message))
        except OSError as error:
            log.debug("the old master (pid %d) was not told %s: %s", self.old_pid, message.type, error)


def _seqpacket(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        sock.detach()  # somebody else's
        raise ValueError(f"descriptor {fd} is not the handshake")
    return sock
