"""A control socket that is served in a thread, as a master serves it: for tests of ``shardserve ctl``."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable
from pathlib import Path

from shardserve.master.control_socket import ControlSocket, Request

Answer = Callable[[Request], None]


class ControlServer:
    """``with ControlServer(path, answer) as server:``; ``answer`` is called in the thread.

    An ``answer`` may call ``end``: the server closes its socket, as a master at its end.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self.requests: list[Request] = []
        self._answer = answer
        self._control = ControlSocket(path)
        self._wake, self._woken = os.pipe()
        self._ending = False
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> ControlServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(20)
        assert not self._thread.is_alive()
        os.close(self._wake)
        os.close(self._woken)

    def end(self) -> None:
        self._ending = True
        os.write(self._woken, b".")

    def _serve(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake, selectors.EVENT_READ)
                selector.register(self._control, selectors.EVENT_READ)
                while not self._ending:
                    at = self._control.next_deadline()
                    selector.select(None if at is None else max(0.0, at - time.monotonic()))
                    for request in self._control.turn(time.monotonic()):
                        self.requests.append(request)
                        self._answer(request)
        finally:
            self._control.close()
