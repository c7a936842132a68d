"""A real master in a process of its own, for tests: start it, ask its workers, signal it, leave nothing.

Nothing here sleeps for a fixed time: ``until`` polls with a deadline that is generous, since the
machine that runs the tests may be busy.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

HELPERS = Path(__file__).parent
PATIENCE_S = 20.0

T = TypeVar("T")


def until(probe: Callable[[], T], what: str = "", timeout_s: float = PATIENCE_S) -> T:
    """The first true answer of ``probe``."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what or probe}"
        time.sleep(0.01)


class MasterProcess:
    """``with MasterProcess(tmp_path, workers=2) as master:`` and all of its processes end at the end."""

    def __init__(self, folder: Path, *, app: str = "fake:ok", **settings: Any) -> None:
        where = {} if "bind" in settings else {"port": 0}
        self.settings: dict[str, Any] = {
            "app": app, "log_level": "debug", "control_socket": "off", **where, **settings,
        }  # fmt: skip
        self._file = folder / "settings.json"
        self._log = folder / "master.log"
        self.configure()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HELPERS / "master_driver.py"), str(self._file)],
                stderr=log,
                stdin=subprocess.DEVNULL,
                pass_fds=[settings["fd"]] if settings.get("fd") else [],
            )
        self.pid = self.process.pid
        self._seen: set[int] = set()

    def __enter__(self) -> MasterProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.pids()
        self.process.kill()
        self.process.wait()
        for pid in self._seen:  # they follow the master's end; a stalled one has to be helped
            try:
                process = psutil.Process(pid)
                if "fake_worker.py" in " ".join(process.cmdline()):
                    try:
                        process.wait(2)
                    except psutil.TimeoutExpired:
                        process.kill()
            except psutil.NoSuchProcess:
                continue

    def configure(self, **settings: Any) -> None:
        """Write the settings that the next HUP reads."""
        self.settings |= settings
        self._file.write_text(json.dumps(self.settings))

    def log(self) -> str:
        return self._log.read_text()

    def saw(self, pattern: str, times: int = 1) -> None:
        """Wait until the log has this."""

        def probe() -> bool:
            assert self.process.poll() is None or re.search(pattern, self.log()), self.log()
            return len(re.findall(pattern, self.log())) >= times

        try:
            until(probe, pattern)
        except AssertionError:
            print(self.log())
            raise

    def ready(self) -> MasterProcess:
        self.saw(r"ready: \d+ worker")
        return self

    @property
    def port(self) -> int:
        self.saw(r"http://\S+:\d+")
        found = re.search(r"http://\S+:(\d+)", self.log())
        assert found
        return int(found[1])

    def pids(self) -> set[int]:
        """The live children of the master."""
        try:
            found = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return set()
        alive = {p.pid for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE}
        self._seen |= alive
        return alive

    def ask(self, path: str = "/", port: int | None = None) -> dict[str, Any]:
        """One request on a connection of its own: which worker answered, and what it knows of itself."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            self._seen.add(found["pid"])
            return found
        finally:
            connection.close()

    def ask_each(self, count: int) -> dict[int, dict[str, Any]]:
        """The answers of ``count`` different workers, by slot. The kernel deals out the connections."""
        found: dict[int, dict[str, Any]] = {}

        def probe() -> bool:
            answer = self.ask()
            found[answer["slot"]] = answer
            return len(found) >= count

        until(probe, f"{count} workers answer")
        return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)
