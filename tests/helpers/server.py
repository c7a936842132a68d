"""The real server, started as a user starts it: ``python -m shardserve APP FLAGS…`` in a process of its own.

Rules of this file: nothing sleeps for a fixed time, ``until`` polls with a generous deadline; ports are the
kernel's (``--port 0``) and addresses are loopback; every process carries a mark in its environment, so that
``family`` finds whatever the server left behind, orphans too, and only that is ever killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from tests.helpers.master_process import PATIENCE_S, until

APPS = Path(__file__).parents[1] / "apps"
MARK = "E2E_MARK"
ADDRESS_FLAGS = {"--port", "--uds", "--fd", "--bind"}
TROUBLE = re.compile(r"Traceback \(most recent call last\)|^(?:ERROR|CRITICAL):", re.MULTILINE)

# Every server that a running test may want to see the log of.
alive: list[ServerProcess] = []


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would configure the server."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SHARDSERVE_", "UVICORN_"))
        and name not in ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "PORT", "NO_COLOR", "PYTHONUNBUFFERED")
    }
    return {**kept, "TERM": "xterm", **extra}


def command(
    app: str | None, flags: Sequence[str], *, app_dir: Path | None = APPS, choose_port: bool = True
) -> list[str]:
    """The command line: ``--port 0`` unless a flag says where to listen."""
    found = [sys.executable, "-m", "shardserve", *([app] if app else []), *flags]
    if choose_port and not ADDRESS_FLAGS & set(flags):
        found += ["--port", "0"]
    if app_dir is not None:
        found += ["--app-dir", str(app_dir)]
    return found


def marked(mark: str) -> list[psutil.Process]:
    """The live processes that have this mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs, or at least is not a zombie. It may go while one asks."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class ServerProcess:
    """``with ServerProcess(tmp_path, "hello:app", "--workers", "2") as server:``.

    At the end of the block it is told to stop (TERM), must exit with 0 and leave no process. ``quiet``: and
    have logged no traceback and no error. After a failure it is killed instead.
    """

    def __init__(
        self,
        folder: Path,
        app: str | None,
        *flags: str,
        app_dir: Path | None = APPS,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        choose_port: bool = True,
        program: Sequence[str] | None = None,
        terminal: bool = False,
        quiet: bool = True,
        wait: bool = True,
    ) -> None:
        """``folder``: the working directory, and where the two logs go. ``terminal``: stderr is one.
        ``wait``: return when the server is ready. ``program``: what Python runs instead of the command.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._mark = uuid.uuid4().hex
        # Short: the path of a Unix socket is at most 107 bytes.
        self.runtime = Path(tempfile.mkdtemp(prefix="ss-"))
        self.test = ""  # the one test that it is for, if there is one
        self._quiet = quiet
        self._heir: psutil.Process | None = None  # the master now, after an upgrade
        self._heir_since = 0  # how long the log was when it became that
        self._stderr, self._stdout = folder / "stderr.log", folder / "stdout.log"
        self._pump: threading.Thread | None = None
        self.command = (
            command(app, flags, app_dir=app_dir, choose_port=choose_port)
            if program is None
            else [sys.executable, *program]
        )
        with self._stderr.open("wb") as errors, self._stdout.open("wb") as out:
            where: Any = self._terminal() if terminal else errors
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env=clean_environment(
                    **{MARK: self._mark, "RUNTIME_DIRECTORY": str(self.runtime), **(env or {})}
                ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=where,
                pass_fds=pass_fds,
            )
            if terminal:
                os.close(where)
        self.pid = self.process.pid
        alive.append(self)
        if wait:
            try:
                self.saw(r"ready: \d+ worker")
            except BaseException:
                self.kill()
                raise

    def _terminal(self) -> int:
        ours, theirs = os.openpty()

        def pump() -> None:
            with self._stderr.open("ab") as log:
                while True:
                    try:
                        data = os.read(ours, 65536)
                    except OSError:  # EIO: nobody has the other end any more
                        break
                    log.write(data)
                    log.flush()
            os.close(ours)

        self._pump = threading.Thread(target=pump, name="terminal")
        self._pump.start()
        return theirs

    # What it says

    def log(self, since: int = 0) -> str:
        """stderr: what the server logs. ``since``: an earlier ``len(server.log())``."""
        return self._stderr.read_text(errors="replace")[since:]

    def access(self, since: int = 0) -> str:
        """stdout: the access log, and what the app prints."""
        return self._stdout.read_text(errors="replace")[since:]

    def saw(self, pattern: str, times: int = 1, since: int = 0) -> str:
        """Wait until the log has this, ``times`` times; the log."""

        def enough() -> bool:
            return len(re.findall(pattern, self.log(since), re.MULTILINE)) >= times

        def probe() -> bool:
            over = not self.running
            assert enough() or not over, f"ended with {self.process.returncode}, never said {pattern!r}"
            return enough()

        until(probe, f"{times} × {pattern!r} in the log")
        return self.log(since)

    def saw_access(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the access log has this; the lines."""

        def probe() -> bool:
            return len(re.findall(pattern, self.access(), re.MULTILINE)) >= times

        until(probe, f"{times} × {pattern!r} in the access log")
        return [line for line in self.access().splitlines() if re.search(pattern, line)]

    @property
    def urls(self) -> list[str]:
        found = re.search(r"shardserve \S+ on (.+) \(press Ctrl-C", self.saw(r"press Ctrl-C"))
        assert found, self.log()
        return found[1].split(", ")

    @property
    def url(self) -> str:
        return next(url for url in self.urls if url.startswith("http://"))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    # Its processes

    def workers(self) -> list[psutil.Process]:
        """The live workers, the oldest first."""
        try:
            found = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [one for one in found if is_alive(one)]

    def pids(self) -> set[int]:
        return {one.pid for one in self.workers()}

    def connections(self) -> int:
        """Established connections of all workers."""
        count = 0
        for worker in self.workers():
            try:
                found = worker.net_connections(kind="tcp")
            except psutil.NoSuchProcess:
                continue
            count += sum(one.status == psutil.CONN_ESTABLISHED for one in found)
        return count

    def family(self) -> list[psutil.Process]:
        """Every process of this server that is alive, whoever its parent is by now."""
        return marked(self._mark)

    @property
    def running(self) -> bool:
        """Whether the master is alive."""
        if self._heir is None:
            return self.process.poll() is None
        return self._heir.is_running() and self._heir.status() != psutil.STATUS_ZOMBIE

    def send(self, number: signal.Signals) -> None:
        (self._heir or self.process).send_signal(number)

    # Another master takes over (USR2)

    def upgrade(self) -> int:
        """Tell it to start a new master; its pid. Which of the two goes on is open still."""
        since = len(self.log())
        self.send(signal.SIGUSR2)
        log = self.saw(r"the new master starts as pid \d+", since=since)
        found = re.search(r"the new master starts as pid (\d+)", log)
        assert found
        return int(found[1])

    def upgraded_to(self, heir: int, *, code: int = 0) -> None:
        """Wait until the old master has ended, with this exit code. From now on the new one is the server."""
        assert self._wait() == code, f"exit code {self.process.returncode}"
        self._heir, self.pid, self._heir_since = psutil.Process(heir), heir, len(self.log())

    def upgraded(self) -> int:
        """All of it: tell it, and wait until the old master has ended. The new one's pid."""
        heir = self.upgrade()
        self.upgraded_to(heir)
        return heir

    # Its end

    def ended(self) -> int:
        """Wait for the end, which must leave no process; the exit code."""
        code = self._wait()
        if self._pump is not None:
            self._pump.join(PATIENCE_S)
        assert self.family() == [], "processes are left"
        return code

    def _wait(self) -> int:
        """Wait for the master's end; its exit code."""
        until(lambda: not self.running, "the server to end")
        if self._heir is None:
            return self.process.wait()
        # It is no child of ours, so nobody tells us its exit code; but this is what it says at 0.
        return 0 if "INFO:     stopped\n" in self.log(self._heir_since) else 1

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to stop: it must exit with 0."""
        self.send(number)
        assert self.ended() == 0, f"exit code {self.process.returncode}"

    def kill(self) -> None:
        """End what is left of it."""
        for process in self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(PATIENCE_S)
        if self._pump is not None:
            self._pump.join(PATIENCE_S)
        shutil.rmtree(self.runtime, ignore_errors=True)

    def ctl(self, *arguments: str) -> Any:
        """``shardserve ctl … --json`` of this server: what it prints. It must succeed."""
        done = self.run_ctl(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "shardserve", "ctl", *arguments],
            env=clean_environment(RUNTIME_DIRECTORY=str(self.runtime)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_S,
            check=False,
        )

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self.running:
                    self.stop()
                if self._quiet:
                    assert not TROUBLE.search(self.log()), self.log()
        finally:
            self.kill()

    def report(self) -> str:
        """The ends of both logs, for a failed test."""
        return f"$ {' '.join(self.command)}\n{self.log()[-8000:]}---- stdout ----\n{self.access()[-2000:]}"


Serve = Callable[..., ServerProcess]
"""The fixture ``serve`` (tests/conftest.py)."""


def client_of(server: ServerProcess, **how: Any) -> httpx.Client:
    """A keep-alive client that ignores this machine's proxies."""
    return httpx.Client(**{"base_url": server.url, "trust_env": False, "timeout": PATIENCE_S, **how})


class Ended:
    """A server that was expected to end by itself: its exit code and what it said."""

    def __init__(
        self,
        folder: Path,
        app: str | None,
        *flags: str,
        app_dir: Path | None = APPS,
        choose_port: bool = True,
        env: dict[str, str] | None = None,
    ) -> None:
        mark = uuid.uuid4().hex
        done = subprocess.run(
            command(app, flags, app_dir=app_dir, choose_port=choose_port),
            cwd=folder,
            env=clean_environment(**{MARK: mark, "SHARDSERVE_CONTROL_SOCKET": "off", **(env or {})}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.code = done.returncode
        self.text = done.stderr
        self.out = done.stdout
        self.left = marked(mark)
        for process in self.left:
            process.kill()

    @property
    def tracebacks(self) -> int:
        return self.text.count("Traceback (most recent call last)")
