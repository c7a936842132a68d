"""Finding a running server's control socket, and talking to it.

Rules of this file: the client's side of ``commands.py``, and what to tell a person when it does not
work: each error says what was tried and what to do. No output, and nothing of the master's is
imported. Every failure is a CtlError, which ends the command with 1.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click

from .. import commands
from ..config.load import Loader
from ..errors import ControlError
from ..observe.logs import printable

# A master answers from its own loop within milliseconds; on a machine in trouble, seconds.
ANSWER_S = 10.0
# When several are asked what they are, none may hold up the list for long.
GLANCE_S = 2.0
_VARIABLE = "SHARDSERVE_CONTROL_SOCKET"


class CtlError(click.ClickException):
    """It was not done. The text says why, and what to do."""

    exit_code = 1


class Ended(CtlError):
    """The server hung up instead of answering."""


class Connection:
    """A connection to a server, good for one command."""

    def __init__(self, path: str | Path, origin: str = "", *, timeout_s: float = ANSWER_S) -> None:
        """``origin`` is where the path was written, for the error. Raises CtlError."""
        self.path = str(path)
        self._received = bytearray()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(self.path)
            self.pid, _ = commands.peer(self._sock)  # 0: it is in a pid namespace that we cannot see
        except OSError as error:
            self._sock.close()
            where = f"{self.path} ({origin})" if origin else self.path
            raise CtlError(_why_not(where, self.path, error)) from error

    def ask(
        self,
        command: commands.Command,
        *,
        timeout_s: float | None = ANSWER_S,
        progress: Callable[[str], None] = lambda text: None,
    ) -> dict[str, object]:
        """The reply, whether it says ok or not. ``timeout_s`` is for each read. Raises CtlError."""
        self._sock.settimeout(timeout_s)
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have said why before it hung up
            self._sock.sendall(commands.encode_command(command))
        try:
            while "progress" in (reply := commands.decode_reply(self._line())):
                progress(str(reply["progress"]))
            return reply
        except ControlError as error:
            raise CtlError(f"what answers at {self.path} is no shardserve: {error}") from error

    def wait_for_end(self) -> None:
        """Wait until the server is gone, and this connection with it."""
        self._sock.settimeout(None)
        with suppress(ConnectionResetError):
            while self._sock.recv(4096):
                pass

    def close(self) -> None:
        self._sock.close()

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                text = f"the server (pid {self.pid}) at {self.path} took the command but does not answer"
                raise CtlError(f"{text}; is it suspended (SIGSTOP), or the machine overloaded?") from None
            except ConnectionResetError:
                data = b""
            if not data:
                raise Ended(f"the server at {self.path} ended without an answer; its log says why")
            self._received += data
            if len(self._received) > commands.MAX_REPLY_BYTES + 65536:
                raise ControlError("its answer has no end")
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        return bytes(line)


def connect(path: str | None, pid: int | None) -> Connection:
    """The server that is meant: ``--socket``, ``--pid``, the configured path, or the only one there
    is. Raises CtlError.
    """
    if path is not None:
        return Connection(path)
    configured, origin, remark = _configured()
    if configured is not None and pid is None:
        return Connection(configured, origin)
    found, silent = _search(configured)
    wanted = [one for one in found if pid is None or pid in (one.pid, _pid_in_name(one.path))]
    if len(wanted) == 1:
        for one in found:
            if one is not wanted[0]:
                one.close()
        return wanted[0]
    try:
        if wanted:
            raise CtlError(_several(wanted))
        raise CtlError(_none(pid, [one.pid for one in found], silent, remark))
    finally:
        for one in found:
            one.close()


def everyone() -> list[Connection]:
    """A connection to every server that can be talked to."""
    return _search(_configured()[0])[0]


def _configured() -> tuple[str | None, str, str]:
    """The path that environment or file name, where they do, and a remark if there is none to use."""
    reading = Loader().read()
    if reading.config is None:
        remark = "The configuration has mistakes (shardserve config check), so it was not looked at."
        return _path(os.environ.get(_VARIABLE, "")), f"env {_VARIABLE}", remark
    setting, origin = reading.config.control_socket, reading.sources["control_socket"]
    remark = f"control-socket is off ({origin}): such a server takes no commands." if setting == "off" else ""
    return _path(setting), f"control-socket of {origin}", remark


def _path(setting: str) -> str | None:
    return setting if setting not in ("", "auto", "off") else None


def _search(configured: str | None) -> tuple[list[Connection], list[str]]:
    """A connection to every server there is, and what there is that cannot be talked to."""
    found, silent = [], []
    for path in dict.fromkeys([*([Path(configured)] if configured else []), *_sockets()]):
        try:
            found.append(Connection(path, timeout_s=GLANCE_S))
        except CtlError as error:
            # A stale one is left by a server that was killed, and means nothing.
            if not isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                silent.append(error.message)
    return found, silent


def _sockets() -> Iterator[Path]:
    for directory in commands.search_directories(os.environ, os.geteuid()):
        with suppress(OSError):
            yield from sorted(directory.glob(commands.socket_name("*")))


def _pid_in_name(path: str) -> int | None:
    """The master's pid in its own pid namespace, out of the name of an ``auto`` socket."""
    prefix, suffix = commands.socket_name("*").split("*")
    digits = Path(path).name.removeprefix(prefix).removesuffix(suffix)
    return int(digits) if digits.isdecimal() else None


# What to tell a person


def _why_not(where: str, path: str, error: OSError) -> str:
    with suppress(OSError, ValueError):
        found = os.stat(path)
        if not stat.S_ISSOCK(found.st_mode):
            return f"{where} is not a socket"
        if isinstance(error, PermissionError):
            return f"may not use {where}: the server is uid {found.st_uid}'s; be that user, or root"
    if isinstance(error, FileNotFoundError):
        return f"there is no control socket {where}: the server does not run, or has another --control-socket"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody answers at {where}: the server that made it is gone; the next start replaces it"
    if isinstance(error, TimeoutError | BlockingIOError):
        return f"the server at {where} does not answer; is it suspended (SIGSTOP), or the machine overloaded?"
    return f"cannot connect to {where}: {error.strerror or error}"


def _none(pid: int | None, pids: list[int], silent: list[str], remark: str) -> str:
    looked = ", ".join(map(str, commands.search_directories(os.environ, os.geteuid())))
    lines = ["no running server was found" if pid is None else f"no server with pid {pid} was found"]
    if pids:
        lines.append(f"There is pid {', '.join(map(str, sorted(pids)))}.")
    lines.append(f"Looked for {commands.socket_name('*')} in {looked}.")
    lines += [f"Passed over: {text}." for text in silent]
    lines += [remark] if remark else []
    lines.append("If it does run: name its socket with --socket PATH, and be its user, or root.")
    return "\n".join(lines)


def _several(found: list[Connection]) -> str:
    rows = []
    for one in found:
        try:
            status = commands.ServerStatus.from_json(one.ask(commands.Status(), timeout_s=GLANCE_S))
            rows.append((f"--pid {status.pid}", printable(status.app), printable(", ".join(status.urls))))
        except (CtlError, ControlError):
            rows.append((f"--pid {_pid_in_name(one.path) or one.pid}", "does not answer", one.path))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}".rstrip() for row in sorted(rows)]
    return "\n".join([f"{len(found)} servers run here; say which one is meant:", *lines])
