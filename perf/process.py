"""One server process: started pinned, asked whether it answers rightly, metered, stopped.

Rules of this file: every process is ended by its own pid, never by name; readiness is an answered
request, never a sleep; a server that cannot be had is a StartError whose text is one line for the
user. CPU time comes from the POSIX per-process CPU clock (clock_getcpuclockid(3)): nanoseconds,
threads that have ended included, where /proc/PID/stat counts in ticks of 10 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]

from perf.load import cpus
from perf.peer_env import ROOT
from perf.probe import ProbeError, ask
from perf.results import IDLE_LIMIT
from perf.scenarios import Scenario

START_DEADLINE_S = 10.0
STOP_DEADLINE_S = 5.0
_POLL_S = 0.02
_LOG_LINES = 8
_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """The server cannot be measured. str() is one line; ``log`` is the end of what it printed."""

    def __init__(self, why: str, log: str = "") -> None:
        super().__init__(why)
        self.log = log


@dataclass(frozen=True)
class Meter:
    """What the process tree had used at one moment."""

    cpu_ns: Mapping[int, int]
    """By pid, so that a process that ends between two readings is left out rather than subtracted."""
    rss_kib: int

    def cpu_since(self, earlier: Meter) -> int:
        """Nanoseconds on a CPU since ``earlier``, over the processes still there."""
        return sum(ns - earlier.cpu_ns.get(pid, 0) for pid, ns in self.cpu_ns.items())


class Process:
    """A started server. ``stop_all`` is how it ends."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        port: int,
        core: int | Collection[int],
        log_path: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port
        self._log_path = log_path
        with log_path.open("wb") as log:
            self._popen = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C reaches us alone, and we stop it in order
                # Before exec, so that a server which counts its CPUs or pins its workers sees these.
                preexec_fn=lambda: os.sched_setaffinity(0, cpus(core)),
            )
        self._tree = [psutil.Process(self._popen.pid)]

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ended(self) -> str | None:
        """How the server ended, in words; None while it runs."""
        code = self._popen.poll()
        if code is None:
            return None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def wait_ready(self, scenario: Scenario, deadline_s: float = START_DEADLINE_S) -> None:
        """Return once one request is answered; then check a whole batch of the scenario's requests."""
        give_up = time.monotonic() + deadline_s
        while True:
            how = self.ended()
            if how is not None:
                raise StartError(f"ended while starting ({how}): {self._complaint()}", self.log_tail())
            left = give_up - time.monotonic()
            if left <= 0:
                raise StartError(f"no answer within {deadline_s:.0f} s of its start", self.log_tail())
            try:
                ask(self.port, scenario, count=1, timeout_s=left)
                break
            except OSError:
                time.sleep(_POLL_S)
            except ProbeError as error:
                raise StartError(f"answers wrongly: {error}", self.log_tail()) from None
        self._check_batch(scenario)

    def check_alive(self, when: str) -> None:
        how = self.ended()
        if how is not None:
            raise StartError(f"died {when} ({how})", self.log_tail())

    def _check_batch(self, scenario: Scenario) -> None:
        if scenario.pipeline == 1:
            return
        try:
            ask(self.port, scenario, count=scenario.pipeline, timeout_s=2.0)
        except (ProbeError, OSError) as error:
            raise StartError(f"cannot do {scenario.pipeline} at once: {error}", self.log_tail()) from None

    def meter(self) -> Meter:
        """CPU and memory of the server and all its descendants, now."""
        self._tree = _tree(self._popen.pid) or self._tree
        cpu_ns = {}
        rss = 0
        for process in self._tree:
            with contextlib.suppress(psutil.Error, OSError):
                cpu_ns[process.pid] = cpu_clock_ns(process.pid)
                rss += process.memory_info().rss
        return Meter(cpu_ns, rss // 1024)

    def wait_quiet(self, limit_s: float) -> None:
        """Return once it uses less than IDLE_LIMIT of a core, or after the limit: it clears up."""
        give_up = time.monotonic() + limit_s
        while time.monotonic() < give_up:
            before, began = self.meter(), time.monotonic_ns()
            time.sleep(_POLL_S)
            if self.meter().cpu_since(before) < IDLE_LIMIT * (time.monotonic_ns() - began):
                return

    def freeze(self) -> None:
        """Take it off the CPU, all its processes, until ``thaw``."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._tree:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def log_tail(self) -> str:
        lines = self._log_path.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def _complaint(self) -> str:
        """The line that most likely says why: the last exception, else the last line at all."""
        lines = self.log_tail().splitlines() or ["it printed nothing"]
        return next((line for line in reversed(lines) if "Error: " in line), lines[-1]).strip()

    def terminate(self) -> None:
        """Ask it to stop. The tree is noted first: afterwards children may have lost their parent."""
        self._tree = _tree(self._popen.pid) or self._tree
        if self._popen.poll() is None:
            self._popen.terminate()
            self.thaw()  # a stopped process receives TERM only when it goes on

    def finish(self, give_up: float) -> None:
        """Wait until ``give_up`` (monotonic), then kill what is left of the tree, pid by pid."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(max(0.0, give_up - time.monotonic()))
        for process in self._tree:
            # psutil compares creation times: a pid that was reused is not killed.
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._popen.wait()


def stop_all(processes: Iterable[Process]) -> None:
    """Ask all to stop, then share one deadline; what is left is killed."""
    asked = list(processes)
    for process in asked:
        process.terminate()
    give_up = time.monotonic() + STOP_DEADLINE_S
    for process in asked:
        process.finish(give_up)


def cpu_clock_ns(pid: int) -> int:
    """Nanoseconds the process (all its threads, ended ones too) has spent on a CPU."""
    clock = ctypes.c_int()
    error = _libc.clock_getcpuclockid(pid, ctypes.byref(clock))
    if error != 0:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime_ns(clock.value)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fill(argv: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    """A command line from a template of peers.py."""
    return [part.format_map(fields) for part in argv]


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
