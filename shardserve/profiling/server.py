"""The server that is profiled: one of our own, as a child, or one that runs already.

Rules of this file: our own has exactly the settings that were given, but for where it listens (the
kernel chooses a port of the loopback), how many workers it has (one, unless a flag says more), and
what would disturb: reloading, a pid file, preloading. It tells where it listens, and its workers'
pids, over a control socket in our folder. Its log goes there, too; its access lines go nowhere.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from .. import commands
from ..config.load import Loader
from ..config.model import BY_ATTRIBUTE
from ..errors import ControlError
from .programs import ProfileError, Program

_POLL_S = 0.05
_ANSWER_S = 10.0
# Settings that are ours to make here, wherever else they are made.
_OVERRIDDEN = (
    "bind",
    "host",
    "port",
    "uds",
    "fd",
    "workers",
    "control_socket",
    "pid",
    "reload",
    "preload",
    "metrics",
)
_WORKER = "shardserve.worker"


class OwnServer:
    """``python -m shardserve run ARGUMENTS``, with our settings behind those of the user."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, config_file: str | None, extra_env: Mapping[str, str]
    ) -> None:
        """Starts it. Raises ProfileError."""
        self._socket = folder / "ctl.sock"
        environ = {name: value for name, value in os.environ.items() if name not in _variables()}
        given = ["--config", config_file] if config_file is not None else []
        flags = overriding(arguments, _in_file(config_file), folder)
        argv = [sys.executable, "-m", "shardserve", "run", *arguments, *given, *flags]
        self._program = Program(argv, folder / "server.log", env={**environ, **extra_env})
        self.started_pids = {self._program.pid}
        self.workers: list[int] = []
        self.url = ""

    def wait_ready(self) -> None:
        """Return when all of its workers serve. Raises ProfileError if it ends, with its own words."""
        while True:
            self._note_family()  # one that fails has files to be removed, too
            if (code := self._program.returncode) is not None:
                how = f"exit code {code}" if code >= 0 else f"signal {-code}"
                raise ProfileError(f"the server did not start ({how}):\n{self._program.said()}")
            status = self._status()
            if status is not None and status.phase == "serving" and status.urls:
                self.workers = [one.pid for one in status.workers_list if one.pid is not None]
                self.url = status.urls[0]
                return
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise ProfileError if a worker is not there any more."""
        for pid in self.workers:
            if not psutil.pid_exists(pid):
                said = self._program.said()
                raise ProfileError(
                    f"worker {pid} ended meanwhile (recycled? crashed?). The server's log:\n{said}"
                )

    def stop(self) -> None:
        """TERM, and KILL to whatever of it is left."""
        self._note_family()
        self._program.stop()
        for pid in self.started_pids - {self._program.pid}:
            _kill_worker(pid)

    def _note_family(self) -> None:
        try:
            family = psutil.Process(self._program.pid).children(recursive=True)
            self.started_pids |= {one.pid for one in family}
        except psutil.Error:
            pass

    def _status(self) -> commands.ServerStatus | None:
        """What it says of itself; None while it does not answer."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(_ANSWER_S)
                sock.connect(str(self._socket))
                sock.sendall(commands.encode_command(commands.Status()))
                with sock.makefile("rb") as lines:
                    return commands.ServerStatus.from_json(commands.decode_reply(lines.readline()))
        except (OSError, ControlError):
            return None


def _kill_worker(pid: int) -> None:
    """A worker that has outlived its master. Its pid may be somebody else's by now."""
    try:
        process = psutil.Process(pid)
        if _WORKER in process.cmdline():
            process.kill()
    except psutil.Error:
        pass


def overriding(arguments: Sequence[str], in_file: set[str], folder: Path) -> list[str]:
    """The flags that come behind the user's. ``in_file``: the settings that a file makes.

    Raises ProfileError for one that no flag can undo, and for a flag that is ours.
    """
    words = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    if stubborn := sorted(in_file & {"uds", "fd"}):
        raise ProfileError(
            f"the configuration file sets {', '.join(stubborn)}: profile with another --config"
        )
    if taken := sorted(words & {"--bind", "--host", "--port", "--uds", "--fd", "--control-socket"}):
        raise ProfileError(f"{', '.join(taken)}: the profiled server listens where the profiler chooses")
    where = ["--bind", "127.0.0.1:0"] if "bind" in in_file else ["--host", "127.0.0.1", "--port", "0"]
    flags = [*where, "--control-socket", str(folder / "ctl.sock"), "--no-reload", "--no-preload"]
    flags += [] if "--workers" in words else ["--workers", "1"]
    flags += ["--pid", str(folder / "server.pid")] if "pid" in in_file else []
    flags += ["--metrics", f"unix:{folder / 'metrics.sock'}"] if "metrics" in in_file else []
    return flags


def _in_file(config_file: str | None) -> set[str]:
    """The overridden settings that the configuration file makes."""
    environ = {name: value for name, value in os.environ.items() if name not in _variables()}
    reading = Loader(file=config_file, environ=environ).read()
    return {name for name in _OVERRIDDEN if reading.sources.get(name, "default") != "default"}


def _variables() -> set[str]:
    """The environment's names for what is overridden: the server must not hear of them."""
    return {variable for name in _OVERRIDDEN if name in BY_ATTRIBUTE for variable in BY_ATTRIBUTE[name].env}


# One that runs


def workers_of(pid: int) -> list[int]:
    """The processes to be profiled: a master's workers, or the process itself. Raises ProfileError."""
    try:
        process = psutil.Process(pid)
        below = [one.pid for one in process.children(recursive=True) if _WORKER in one.cmdline()]
    except psutil.NoSuchProcess:
        raise ProfileError(f"there is no process {pid}") from None
    except psutil.AccessDenied:
        raise ProfileError(f"may not look at process {pid}: be its user, or root") from None
    return below or [pid]
