"""The servers under test, each with one worker and its own defaults.

Rules of this file: an ephemeral port on loopback; nothing of this process's settings reaches the server; it
is told to stop at the end, and ended if it does not.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.autobahn.suite import ROOT
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import ServerProcess, clean_environment

APP = "tests.autobahn.app:app"
# Default limits: its largest message has 16 MiB, and one (9.3.1, 9.4.1) has 65,537 fragments.
FLAGS = ("--workers", "1", "--no-access-log")


@contextmanager
def shardserve(folder: Path) -> Iterator[str]:
    """The server, quiet: an error or a traceback in its log fails the run, too."""
    with ServerProcess(folder, APP, *FLAGS, app_dir=ROOT) as server:
        yield server.url.replace("http://", "ws://")


def _address(log: Path) -> str:
    found = re.search(r"running on http://(127\.0\.0\.1:\d+)", log.read_text())
    return found[1] if found else ""


@contextmanager
def uvicorn(folder: Path) -> Iterator[str]:
    """The peer, for comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "stderr.log"
    command = [sys.executable, "-m", "uvicorn", APP, "--port", "0", "--no-access-log", "--app-dir", str(ROOT)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield "ws://" + until(lambda: _address(log), "Uvicorn to listen")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


SERVERS: dict[str, Callable[[Path], object]] = {"shardserve": shardserve, "uvicorn": uvicorn}


def title(server: str) -> str:
    """Its name, its version, and that of what speaks WebSocket for it."""
    return f"{server} {version(server)}, websockets {version('websockets')}"
