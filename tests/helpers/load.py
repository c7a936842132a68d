"""Clients that ask without a pause, and count what went wrong: the load of the fault tests.

Rules of this file: a client never tries a request twice, as long as its connection can be used; what
fails is kept in words. A client that is told ``Connection: close`` opens another one: that is no error.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.helpers.master_process import PATIENCE_S, until

Ask = Callable[[], dict[str, Any]]


Address = int | Path
"""A port of 127.0.0.1, or a Unix socket."""


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


def connection_to(address: Address) -> http.client.HTTPConnection:
    if isinstance(address, Path):
        return _Unix(address)
    return http.client.HTTPConnection("127.0.0.1", address, timeout=PATIENCE_S)


class KeptAlive:
    """http.client: uses its connection until told otherwise, and never tries a request twice."""

    def __init__(self, address: Address, path: str = "/", body: bytes | None = None) -> None:
        self._connection = connection_to(address)
        self._path = path
        self._body = body
        self.last: dict[str, Any] = {}
        self.closes = False

    def __call__(self) -> dict[str, Any]:
        try:
            self._connection.request("GET" if self._body is None else "POST", self._path, self._body)
            answer = self._connection.getresponse()
            data = answer.read()
            assert answer.status == 200, f"{answer.status} {data!r}"
            self.closes = answer.getheader("connection") == "close"
            self.last = json.loads(data)
        except BaseException:
            self._connection.close()
            raise
        if "size" in self.last:
            assert self.last["size"] == len(self._body or b"")
        return self.last

    def close(self) -> None:
        self._connection.close()


def fresh(address: Address, path: str = "/") -> dict[str, Any]:
    """One request on a connection of its own."""
    client = KeptAlive(address, path)
    try:
        return client()
    finally:
        client.close()


class Load:
    """``clients`` are functions that ask once more, each in a thread of its own, until told to end."""

    def __init__(self, *clients: Ask, key: str = "pid", pause_s: float = 0.002) -> None:
        """``key``: by what of an answer the answers are counted."""
        self._over = threading.Event()
        self._pause_s = pause_s
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in clients]
        self._clients = clients
        self._key = key
        self._lock = threading.Lock()
        self.failed: list[str] = []
        self.answers: Counter[Any] = Counter()

    @classmethod
    def mixed(cls, address: Address, *, kept: int = 4, new: int = 2, uploads: int = 1, **how: Any) -> Load:
        """Kept connections, connections for one request each, and uploads of 20 kB."""
        clients: list[Ask] = [KeptAlive(address) for _ in range(kept)]
        clients += [lambda: fresh(address) for _ in range(new)]
        clients += [KeptAlive(address, "/upload", b"x" * 20_000) for _ in range(uploads)]
        return cls(*clients, **how)

    @property
    def requests(self) -> int:
        return sum(self.answers.values())

    def _run(self, ask: Ask) -> None:
        while not self._over.wait(self._pause_s):
            try:
                answer = ask()[self._key]
                with self._lock:
                    self.answers[answer] += 1
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")

    def goes_on(self, requests: int = 50) -> None:
        """Wait for so many more answers."""
        seen = self.requests
        until(lambda: self.requests >= seen + requests or self.failed, f"{requests} more answers")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for client in self._clients:
            if isinstance(client, KeptAlive):
                client.close()
