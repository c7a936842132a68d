"""Connections that are open and do nothing, for the scenario with many of them.

Rules of this file: an idle connection is one between two requests, as a browser keeps it: each has had one
answer, which is checked. They are opened before a server's turn and closed after it, so that a server whose
keep-alive time is short does not clear them up in another's turn; what clearing them up costs is nobody's
figure. How many the server had closed by the end of its turn is told.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections.abc import Iterator

from perf.load import LoadError
from perf.scenarios import Scenario, request_bytes

_SPARE_FDS = 512
"""For everything else that we, and the servers, have open."""
_ANSWER_S = 5.0
_READ_SIZE = 65536


def most(wanted: int) -> int:
    """As many as the limit on open files allows, raised to what it may be raised to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return wanted if hard == resource.RLIM_INFINITY else max(0, min(wanted, hard - _SPARE_FDS))


@contextlib.contextmanager
def idle_connections(port: int, scenario: Scenario, count: int) -> Iterator[Idle]:
    """``count`` connections to 127.0.0.1:port, each after one answer. Raises LoadError."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for number in range(count):
            try:
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port), _ANSWER_S))
                _one_answer(client, port, scenario)
            except OSError as error:
                raise LoadError(f"idle connection {number + 1} of {count}: {error}") from None
            sockets.append(client)
        yield Idle(sockets)


class Idle:
    """The connections while they are open."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets

    def closed(self) -> int:
        """How many the server has closed: an idle connection has nothing to read but its end."""
        look = select.poll()
        for client in self._sockets:
            look.register(client, select.POLLIN)
        return len(look.poll(0))


def _one_answer(client: socket.socket, port: int, scenario: Scenario) -> None:
    """One request; its answer ends in the body that is expected, and the connection stays open."""
    client.sendall(request_bytes(scenario, f"127.0.0.1:{port}"))
    answer = b""
    give_up = time.monotonic() + _ANSWER_S
    while not answer.endswith(scenario.expect_body):
        data = client.recv(_READ_SIZE)
        if not data or time.monotonic() > give_up:
            raise OSError(f"answered {answer[:40]!r}")
        answer += data
