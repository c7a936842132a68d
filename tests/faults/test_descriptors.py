"""More clients than a real worker has descriptors for: they wait, none is reset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.master_process import until
from tests.helpers.queues import ask, read_all
from tests.helpers.server import APPS, ServerProcess

LIMIT = 128
CLIENTS = 500


# The hard limit, too: the master raises the soft one.
PROGRAM = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))
sys.argv[0] = "shardserve"
runpy.run_module("shardserve", run_name="__main__")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    flags = ("hello:app", "--workers", "1", "--port", "0", "--app-dir", str(APPS))
    with ServerProcess(tmp_path, None, program=["-c", PROGRAM, *flags]) as one:
        yield one


def test_a_burst_beyond_the_limit_is_answered(server: ServerProcess, tmp_path: Path) -> None:
    go = tmp_path / "go"
    callers = [ask(server.port, f"/wait?{go}") for _ in range(CLIENTS)]
    server.saw(rf"WARNING: .*Not accepting new connections: \d+ of {LIMIT} descriptors are in use; ")
    # Of those who have a connection, nobody is hurt: the app can still open what it needs.
    go.touch()
    answers = [read_all(caller) for caller in callers]
    assert all(one.startswith(b"HTTP/1.1 200 ") and one.endswith(b"hello") for one in answers)
    assert len(server.saw_access("GET /wait", CLIENTS)) == CLIENTS
    log = server.saw(r"INFO: .*Accepting new connections again after \d+\.\d s\.")
    assert "trying again every 100 ms; raise the hard limit (LimitNOFILE=, ulimit -Hn)." in log
    (worker,) = server.workers()
    until(lambda: worker.num_fds() < LIMIT // 2, "the worker closes what it answered")


def test_a_stop_answers_those_who_wait_as_far_as_descriptors_go(
    server: ServerProcess, tmp_path: Path
) -> None:
    """What is kept for the app is given to them: nobody comes after this worker."""
    go = tmp_path / "go"
    callers = [ask(server.port, f"/wait?{go}") for _ in range(LIMIT - 24)]
    server.saw("Not accepting new connections: ")
    server.process.terminate()
    go.touch()
    answers = [read_all(caller) for caller in callers]
    assert all(one.endswith(b"hello") for one in answers)
