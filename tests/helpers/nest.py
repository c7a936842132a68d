"""A real template process and the workers that it forks, with the test as their master.

``Nest`` does what ``master/nursery.py`` and ``master/crew.py`` do, one thing at a time. The test's own
process is a subreaper meanwhile, as the master is. Whatever becomes of the test, every process ends.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shardserve import control
from shardserve.config.model import Config, to_json
from shardserve.master.spawn import WORKER_COMMAND, Worker
from shardserve.master.template import Forked, Template, become_subreaper
from tests.helpers.master_process import PATIENCE_S, until

PR_SET_CHILD_SUBREAPER = 36

# It notes each import in a file.
APP = """
import os, pathlib, random, threading, urllib.parse
FOLDER = pathlib.Path(__file__).parent
with open(FOLDER / "imports", "a") as file:
    file.write(f"{os.getpid()}\\n")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    question = urllib.parse.unquote(scope["query_string"].decode())
    body = repr(eval(question or "os.getpid()")).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@contextmanager
def subreaper() -> Iterator[None]:
    become_subreaper()
    try:
        yield
    finally:
        become_ordinary()


def become_ordinary() -> None:
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


class Chick:
    """One forked worker and its listener."""

    def __init__(self, worker: Worker, listener: socket.socket, slot: int) -> None:
        self.worker = worker
        self.listener = listener
        self.slot = slot
        self.heard: list[control.Message] = []
        assert isinstance(worker.handle, Forked)
        self.handle = worker.handle

    @property
    def pid(self) -> int:
        assert self.handle.pid is not None
        return self.handle.pid

    def hear(self) -> list[control.Message]:
        """Everything it has said so far."""
        for message in self.worker.channel.receive():
            self.heard.append(message)
            if isinstance(message, control.Hello):
                self.handle.pid = message.pid
        if not self.worker.channel.open:
            self.worker.channel.close()
        return self.heard

    def said(self, kind: type[Any]) -> Any:
        """Wait for this message."""

        def probe() -> Any:
            self.hear()
            found = [one for one in self.heard if isinstance(one, kind)]
            assert found or self.worker.channel.open, self.heard
            return found[0] if found else None

        return until(probe, f"{kind.type} of worker {self.slot}")

    def get(self, question: str = "") -> str:
        """What the app answers: the value of an expression, as text. Without one, its pid."""
        host, port = self.listener.getsockname()
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        try:
            connection.request("GET", f"/?{quote(question)}")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def ended(self) -> int:
        """Its returncode, once it has ended."""

        def probe() -> list[int]:
            self.hear()
            code = self.handle.poll()
            return [] if code is None else [code]

        return until(probe, f"the end of worker {self.slot}")[0]


class Nest:
    """``with Nest(tmp_path) as nest:`` and a template of the app in ``source`` starts."""

    def __init__(
        self,
        folder: Path,
        source: str = "",
        *,
        name: str = "small:app",
        startup_s: float = 0.0,
        **settings: Any,
    ) -> None:
        (folder / "small.py").write_text(APP + source)
        self._folder = folder
        self._chicks: list[Chick] = []
        self._config = to_json(Config(name, app_dir=str(folder), **settings))
        with _standard_streams(folder / "out", folder / "err"):
            self.template = Template.start(
                self._config, 1, time.monotonic(), command=WORKER_COMMAND, startup_s=startup_s
            )

    def __enter__(self) -> Nest:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.template.gone:
            os.kill(self.template.pid, signal.SIGKILL)
            self.gone()
        for chick in self._chicks:
            chick.hear()
            chick.handle.kill()
            chick.ended()
            chick.listener.close()
            chick.worker.channel.close()
            chick.worker.page.close()

    def turn(self) -> None:
        self.template.turn(time.monotonic())

    def ready(self) -> Nest:
        def probe() -> bool:
            self.turn()
            assert not self.template.gone, (self.template.failed, self.err())
            return self.template.ready

        until(probe, "the template is ready")
        return self

    def gone(self) -> int | None:
        def probe() -> bool:
            self.turn()
            return self.template.gone

        until(probe, "the end of the template")
        return self.template.returncode

    def pipe(self) -> socket.socket:
        """The template's control pipe, to send it what a master does not."""
        return socket.socket(fileno=os.dup(self.template.channel.fileno()))

    def ask(self, slot: int = 0, core: int | None = None) -> Chick:
        """FORK, and no waiting for what becomes of it."""
        listener = socket.create_server(("127.0.0.1", 0))
        names = [control.Listener(listener.fileno(), "http://test")]
        start = control.Start(slot, 1, core, self._config, names)
        worker = self.template.fork(start, time.monotonic(), sockets=[listener])
        chick = Chick(worker, listener, slot)
        self._chicks.append(chick)
        return chick

    def fork(self, slot: int = 0, core: int | None = None) -> Chick:
        """A worker that is ready."""
        chick = self.ask(slot, core)
        chick.said(control.Ready)
        return chick

    def imports(self) -> list[int]:
        """The pids that have imported the app."""
        return [int(line) for line in (self._folder / "imports").read_text().split()]

    def out(self) -> str:
        return (self._folder / "out").read_text()

    def err(self) -> str:
        return (self._folder / "err").read_text()


@contextmanager
def _standard_streams(out: Path, err: Path) -> Iterator[None]:
    """What is started inside has these, whatever the test runner does with its own."""
    saved = [os.dup(1), os.dup(2)]
    try:
        for number, path in ((1, out), (2, err)):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        yield
    finally:
        for number, fd in enumerate(saved, 1):
            os.dup2(fd, number)
            os.close(fd)
