"""More requests than --limit-concurrency: the surplus is refused at once, and nothing else suffers."""

from __future__ import annotations

import http.client
import socket
import threading
from collections import Counter
from pathlib import Path

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, ServerProcess

LIMIT = 5
CALLERS = 20
IDLE = 50
SERVER = ("--workers", "1", "--limit-concurrency", str(LIMIT))


class Callers:
    """Each asks once, at the same time, on a connection of its own that was there before."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.advice: list[str | None] = []  # Retry-After of the refused
        self._begin = threading.Barrier(count)
        self._threads = [threading.Thread(target=self._ask, args=(port, path)) for _ in range(count)]
        for one in self._threads:
            one.start()

    def _ask(self, port: int, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.connect()
        self._begin.wait(PATIENCE_S)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        if answer.status == 503:
            self.advice.append(answer.getheader("retry-after"))
        self.statuses[answer.status] += 1
        connection.close()

    def join(self) -> None:
        for one in self._threads:
            one.join(PATIENCE_S)


def figures(server: ServerProcess) -> dict[str, int]:
    (worker,) = server.ctl("status")["workers_list"]
    found: dict[str, int] = worker
    return found


def test_five_of_twenty_are_admitted_and_fifteen_told_to_come_again(serve: Serve, notes: Path) -> None:
    server = serve("faulty:app", *SERVER)
    port = server.port
    callers = Callers(port, f"/hold?{notes / 'go'}", CALLERS)
    until(lambda: callers.statuses[503] == CALLERS - LIMIT, "the refusals, before any answer")
    assert callers.statuses[200] == 0
    until(lambda: figures(server)["in_flight"] == LIMIT, "the admitted in the figures")
    (notes / "go").touch()
    callers.join()
    print(f"{CALLERS} at once, limit {LIMIT}: {dict(callers.statuses)}")
    assert callers.statuses == {200: LIMIT, 503: CALLERS - LIMIT}
    assert callers.advice == ["1"] * (CALLERS - LIMIT)
    until(lambda: figures(server)["note"] == f"{CALLERS - LIMIT} refused", "the refused in the figures")
    until(lambda: figures(server)["served"] == LIMIT, "the served in the figures")
    with Load.mixed(port, kept=2, new=1, uploads=1) as load:  # four at a time are within the limit
        load.goes_on(200)
    print(f"afterwards: {load.requests} requests, {len(load.failed)} failed")
    assert load.failed == []
    until(lambda: figures(server)["in_flight"] == 0, "nothing in flight")
    refusals = server.saw_access('" 503 Service Unavailable', CALLERS - LIMIT)
    assert len(refusals) == CALLERS - LIMIT


def test_idle_connections_do_not_count(serve: Serve) -> None:
    server = serve("faulty:app", *SERVER)
    port = server.port
    silent = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(IDLE // 2)]
    kept = [http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S) for _ in range(IDLE // 2)]
    for connection in kept:
        connection.request("GET", "/")
        assert connection.getresponse().read()
    until(lambda: figures(server)["connections"] == IDLE, "all to be there")
    callers = Callers(port, "/wait?0.2", LIMIT)
    callers.join()
    assert callers.statuses == {200: LIMIT}
    for connection in kept:
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
    for one in silent:
        one.close()
    assert fresh(port)["pid"] in server.pids()
    assert figures(server)["note"] == ""
