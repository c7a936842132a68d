"""A headless Chromium, driven over its own DevTools protocol: no driver program, no Selenium.

Rules of this file: the profile is temporary and the port is the browser's choice; at the end the browser is
told to close, and what is left of its processes is killed by pid. ``Page.run`` is the body of an async
function that runs in the page, with its origin and its content security policy.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.sync.client import connect

from tests.helpers.master_process import PATIENCE_S, until

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

FLAGS = [
    "--headless=new",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
]
START_S = 3 * PATIENCE_S


class Chromium:
    """``with Chromium() as browser: page = browser.open(url)``."""

    def __init__(self) -> None:
        assert PROGRAM is not None
        self._profile = Path(tempfile.mkdtemp(prefix="chromium-"))
        self._log = (self._profile / "log").open("wb")
        self._numbers = itertools.count(1)
        self.events: list[
            dict[str, Any]
        ] = []  # of every page, as they came; few, unless a page asked for more
        self._process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "HOME": str(self._profile)},
        )
        self._family: list[psutil.Process] = []
        self._open = ExitStack()
        try:
            how = {"proxy": None, "max_size": None, "open_timeout": START_S, "ping_interval": None}
            self._tools = self._open.enter_context(connect(self._address(), **how))
        except BaseException:
            self.kill()
            raise

    def _address(self) -> str:
        """The browser writes the port, and the path, into its profile."""
        path = self._profile / "DevToolsActivePort"

        def probe() -> list[str]:
            assert self._process.poll() is None, (self._profile / "log").read_text(errors="replace")
            return path.read_text().split() if path.exists() else []

        port, name = until(probe, "the browser to start", START_S)
        return f"ws://127.0.0.1:{port}{name}"

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; its result. Events that come before it are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._tools.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._tools.recv(timeout=START_S))
            if "method" in answer:
                self.events.append(answer)
            elif answer.get("id") == number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def open(self, url: str) -> Page:
        """A new page, loaded."""
        target = self.ask("Target.createTarget", url=url)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        until(lambda: page.value("[location.href, document.readyState]") == [url, "complete"], "the page")
        return page

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._family = psutil.Process(self._process.pid).children(recursive=True)
        try:
            self.ask("Browser.close")
            self._open.close()
            self._process.wait(PATIENCE_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End what is left of it."""
        self._open.close()
        try:
            self._family += psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            pass
        self._process.kill()
        self._process.wait(PATIENCE_S)
        for one in self._family:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(self._family, PATIENCE_S)
        self._log.close()
        shutil.rmtree(self._profile, ignore_errors=True)


class Page:
    """One page of a browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, of this page; its result."""
        return self._browser.ask(method, self._session, **params)

    def close(self) -> None:
        """Close it, and forget what it told."""
        self.ask("Page.close")
        self._browser.events[:] = [
            one for one in self._browser.events if one.get("sessionId") != self._session
        ]

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of what the page told so far, by the names of the events."""
        self.ask("Runtime.evaluate", expression="0")  # what is before its answer has come
        known = [one for one in self._browser.events if one.get("sessionId") == self._session]
        return [one["params"] for one in known if one["method"] in methods]

    def value(self, expression: str, *, wait: bool = False) -> Any:
        """What this is in the page, as JSON has it. ``wait``: for the promise that it is."""
        how = {"expression": expression, "returnByValue": True, "awaitPromise": wait}
        answer = self._browser.ask("Runtime.evaluate", self._session, **how)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def run(self, body: str, *arguments: Any) -> Any:
        """``body`` is that of an async function of ``args``; what it returns."""
        return self.value(f"(async args => {{ {body} }})({json.dumps(arguments)})", wait=True)
