"""The master is killed: its workers finish what they have and what waits for them. No orphan stays."""

from __future__ import annotations

import os
import signal

from tests.helpers.load import Load
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.queues import Asking, fill_queue, restarts, succeeded, workers
from tests.helpers.server import Serve, ServerProcess

# From a drain's deadline to the end of a worker that hangs (worker/bootstrap.py, ORPHAN_S).
ORPHAN_S = 10.0


def kill_master(server: ServerProcess) -> None:
    os.kill(server.pid, signal.SIGKILL)
    assert server.process.wait(PATIENCE_S) == -signal.SIGKILL


def all_gone(server: ServerProcess, timeout_s: float = PATIENCE_S) -> None:
    until(lambda: server.family() == [], "every process of the server to end", timeout_s)


def in_flight(server: ServerProcess) -> int:
    return sum(one["in_flight"] for one in workers(server))


def test_requests_in_flight_are_finished_and_no_process_stays(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", "--no-access-log")
    port = server.port
    waiting = [Asking(port, "/wait?2") for _ in range(6)]
    with Load.mixed(port, pause_s=0.02) as load:
        for one in waiting:
            one.__enter__()
        until(lambda: in_flight(server) >= len(waiting), "all of them in flight")
        load.goes_on()
        kill_master(server)
        for one in waiting:
            one.__exit__(None, None, None)
        # Whoever comes later is refused, at once: nobody is left hanging in a queue that nobody serves.
        until(lambda: load.failed, "a client that is refused")
        all_gone(server)
    answered = sum(one.answer.startswith(b"HTTP/1.1 200 ") for one in waiting)
    print(f"{answered} of {len(waiting)} requests in flight finished, {load.requests} others before")
    assert answered == len(waiting)
    wrong = [one for one in load.failed if not one.startswith(("ConnectionRefused", "ConnectionReset"))]
    assert wrong == []
    assert server.log().count("The master is gone: finishing what is in flight, then exiting.") == 2


def test_what_is_queued_at_the_masters_death_is_answered(serve: Serve) -> None:
    """The queue dies with the last worker, so a worker empties it before it goes."""
    server = serve("faulty:app", "--workers", "1", "--no-access-log")
    [worker] = server.pids()
    os.kill(worker, signal.SIGSTOP)
    clients = fill_queue(server.port, 20)
    kill_master(server)
    os.kill(worker, signal.SIGCONT)
    answered = succeeded(clients)
    print(f"{answered} of {len(clients)} queued connections answered")
    assert answered == len(clients)
    all_gone(server)


def test_a_worker_that_hangs_ends_itself(serve: Serve) -> None:
    server = serve(
        "faulty:app", "--workers", "2", "--loop-lag-warn", "0.3", "--timeout-graceful-shutdown", "0.5",
        "--no-access-log",
    )  # fmt: skip
    with Asking(server.port, "/block?1000") as blocked:
        server.saw("has not turned")
        assert restarts(server) == {}
        family = server.family()
        kill_master(server)
        all_gone(server, 0.5 + ORPHAN_S + PATIENCE_S)
    assert len(family) == 3
    assert blocked.answer == b""
