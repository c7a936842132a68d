"""TERM to a worker's own pid: it costs no request, and another one takes its place."""

from __future__ import annotations

import os
import re
import signal

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import until
from tests.helpers.queues import fill_queue, restarts, settled, succeeded
from tests.helpers.server import Serve


def test_terms_under_load_cost_no_request(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", "--no-access-log")
    terms = 5
    gone: set[int] = set()
    with Load.mixed(server.port, pause_s=0.02) as load:
        for number in range(terms):
            load.goes_on(30)
            gone.add(fresh(server.port, "/terminate")["pid"])  # its own request is answered, too
            until(lambda number=number: restarts(server)["SIGTERM"] == number + 1, "LEAVING")
            settled(server, 2)
        load.goes_on(30)
    print(f"{terms} workers told to go, {load.requests} requests, {len(load.failed)} errors")
    assert load.failed == []
    assert len(gone) == terms
    assert restarts(server) == {"SIGTERM": terms}
    for pid in gone:
        text = rf"worker (\d) \(pid {pid}\) drains \(SIGTERM\); another one takes its place"
        assert re.search(text, server.log())
        assert re.search(rf"worker \d \(pid {pid}\) drained: \d+ served, 0 cut", server.log())


def test_the_first_one_is_replaced_in_the_same_turn(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "1", "--log-level", "debug", "--no-access-log")
    pid = fresh(server.port, "/terminate")["pid"]
    log = re.sub(r".*\[worker .*\n", "", server.saw("is ready", 2))  # what the master says
    between = r"(?:.*(?:slot 0:|drained:|is gone:).*\n)*"
    assert re.search(rf"worker 0 \(pid {pid}\) drains .*\n{between}.*worker 0 starts on", log)
    assert "starts again in" not in log


def test_what_is_queued_is_answered_when_all_are_told_at_once(serve: Serve) -> None:
    """A service manager may signal every process of the server, and the worker may be the first to hear."""
    server = serve("faulty:app", "--workers", "1", "--no-access-log")
    [worker] = server.pids()
    for pid in (server.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    clients = fill_queue(server.port, 20)
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGCONT)
    until(lambda: server.workers() == [], "the worker to go")
    server.send(signal.SIGTERM)
    server.send(signal.SIGCONT)
    answered = succeeded(clients)
    print(f"{answered} of {len(clients)} queued connections answered")
    assert answered == len(clients)
    assert server.ended() == 0
