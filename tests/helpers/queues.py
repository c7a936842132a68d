"""Clients that wait in a listening socket's queue, and what the server counts: the fault tests' tools.

Rules of this file: a client sends its whole request at once and asks for the connection's end, so what
it reads until then is its answer. How many wait is the kernel's own count, not a guess from timing.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from shardserve.commands import Workers, encode_command, socket_name
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import ServerProcess

# The state LISTEN in /proc/net/tcp, where the receive queue of such a socket is its accept queue.
LISTEN = "0A"


def queued(port: int) -> int:
    """How many connections wait to be accepted on this port, in all of its sockets."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            found += int(fields[4].rpartition(":")[2], 16)
    return found


def ask(port: int, path: str = "/") -> socket.socket:
    """A connection of its own with one request on it, unanswered so far."""
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


def read_all(client: socket.socket) -> bytes:
    found = b""
    with client:
        while chunk := client.recv(65536):
            found += chunk
    return found


def succeeded(clients: list[socket.socket]) -> int:
    """How many of these get their answer."""
    return sum(read_all(client).startswith(b"HTTP/1.1 200 ") for client in clients)


def fill_queue(port: int, at_least: int) -> list[socket.socket]:
    """Connections, of which so many wait in the queue of a worker that does not accept.

    The kernel deals them out, so those of the other workers are among them, answered or not.
    """
    clients: list[socket.socket] = []

    def enough() -> bool:
        clients.append(ask(port))
        return queued(port) >= at_least

    until(enough, f"{at_least} connections in the queue")
    return clients


class Asking:
    """One request in a thread of its own: the block is what happens meanwhile."""

    def __init__(self, port: int, path: str) -> None:
        self._client = ask(port, path)
        self._thread = threading.Thread(target=self._read)
        self.answer = b""

    def _read(self) -> None:
        try:
            self.answer = read_all(self._client)
        except OSError:
            pass  # its worker died, and with it the answer

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)


def restarts(server: ServerProcess) -> Counter[str]:
    """The causes that ctl counts, over all slots."""
    of_slots: dict[int, dict[str, int]] = {}
    for worker in workers(server):
        of_slots[worker["slot"]] = worker["restarts"]
    total: Counter[str] = Counter()
    for counts in of_slots.values():
        total.update(counts)
    return total


def workers(server: ServerProcess) -> list[dict[str, Any]]:
    """What ``ctl workers`` shows, without a process of its own for each time that a test polls."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(server.runtime / socket_name(server.pid)))
        client.sendall(encode_command(Workers()))
        found: list[dict[str, Any]] = json.loads(client.makefile("rb").readline())["workers_list"]
    return found


def settled(server: ServerProcess, count: int) -> None:
    """Wait until there are so many workers, all of them ready."""
    until(lambda: [one["state"] for one in workers(server)] == ["ready"] * count, f"{count} ready workers")
