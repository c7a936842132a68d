"""What workers have counted outlives them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shardserve import stats
from shardserve.master.channel import Channel
from shardserve.master.crew import Crew
from shardserve.master.slots import Process
from shardserve.master.spawn import Worker
from shardserve.stats import Page
from tests.helpers.master_process import until

# Uses up some tenths of a second, says so, and waits for its end.
BUSY = (
    "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\nsys.stdin.read()\n"
    "while time.process_time() < 0.6: pass"
)


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    for member in crew:
        member.worker.handle.kill()
        member.worker.page.close()
    crew.close()


class Ended:
    """A worker process of a test that says when it has ended."""

    def __init__(self) -> None:
        self.pid = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.returncode = -signal.SIGKILL

    def send_signal(self, sig: int) -> None: ...


def add(crew: Crew, slot: int, handle: object = None, pid: int | None = None) -> tuple[Page, object]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    page = Page.create("test")
    handle = handle or Ended()
    worker = Worker(handle, Channel(ours, f"worker {slot}"), page)  # type: ignore[arg-type]
    crew.add(Process(pid, slot, 0, started_at=0.0), worker)
    return page, handle


def reaped(crew: Crew) -> int:
    return len(list(crew.reap(0.0, lambda process, message: None)))


def test_every_counter_of_those_that_are_gone_is_kept(crew: Crew) -> None:
    for number in range(3):
        page, handle = add(crew, number)
        for value, figure in enumerate(stats.ALL, 1):
            page[figure] = value
        if number < 2:
            handle.kill()  # type: ignore[attr-defined]
    expected = {figure: 3 * (stats.ALL.index(figure) + 1) for figure in stats.COUNTERS}
    assert dict(crew.counted()) == expected
    assert reaped(crew) == 2
    assert dict(crew.counted()) == expected
    assert crew.counted_before("served") == 2 * (stats.ALL.index("served") + 1)
    assert reaped(crew) == 0
    assert dict(crew.counted()) == expected


def test_the_first_and_the_last_worker_of_all_count_too(crew: Crew) -> None:
    assert set(crew.counted().values()) <= {0}
    page, handle = add(crew, 0)
    page["served"] = 5
    handle.kill()  # type: ignore[attr-defined]
    assert reaped(crew) == 1
    assert crew.counted()["served"] == 5


def test_cpu_time_is_kept_to_the_last_tick(crew: Crew) -> None:
    """Also what it used after the last look: a process that has ended is looked at before it is reaped."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        add(crew, 4, process, process.pid)
        while_it_lives = crew.cpu_s(4)
        assert while_it_lives >= 0.29  # the kernel's tick is 10 ms
        process.stdin.close()
        until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "its end")
        assert reaped(crew) == 1
    assert 0.58 <= crew.cpu_s(4) < 60
    assert crew.cpu_s(4) == crew.cpu_s(4)
    assert crew.cpu_s(5) == 0


def test_a_worker_without_a_pid_has_used_nothing_yet(crew: Crew) -> None:
    """Forked by a template, and not heard of."""
    add(crew, 0)
    assert crew.cpu_s(0) == 0
