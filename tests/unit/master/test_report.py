"""What the server says of itself, put together from pages and vitals that a test has written."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shardserve import stats
from shardserve.config.model import Config
from shardserve.master import procfs, report
from shardserve.master.channel import Channel
from shardserve.master.crew import Crew
from shardserve.master.slots import Process, Slot, State
from shardserve.master.spawn import Worker
from shardserve.master.supervisor import Phase
from shardserve.stats import Page


class Handle:
    """A process that ends when the test says so."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None: ...

    def kill(self) -> None: ...


class Server:
    """As much of a supervisor as a report reads, with a worker in each of its slots."""

    def __init__(self, workers: int) -> None:
        self.crew = Crew()
        self.slots: dict[int, Slot] = {}
        self.members = []
        self._pipes = []
        for number in range(workers):
            process = Process(500 + number, number, 0, 0.0, 0.0)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._pipes.append(theirs)
            page = Page.create("report")
            self.crew.add(process, Worker(Handle(), Channel(ours, str(process)), page))  # type: ignore[arg-type]
            self.slots[number] = Slot(number, State.READY, current=process)
            self.members.append(self.crew[process])
        self.supervisor: Any = SimpleNamespace(
            crew=self.crew, slots=self.slots, config=Config(app="m:app"), phase=Phase.SERVING, started_at=0.0,
            urls=["http://127.0.0.1:80"], generation=0, wanted=workers, upgrading=False,
            roller=SimpleNamespace(reloads=0, failures=0, problem="", rolling=None),
            core_of=lambda number: number,
        )  # fmt: skip

    def look(self, now: float) -> None:
        for member in self.members:
            assert member.process.pid is not None
            member.vitals.sample(member.process.pid, member.worker.page, now)

    def page(self, number: int) -> Page:
        return self.members[number].worker.page

    def close(self) -> None:
        self.crew.close()
        for member in self.crew:
            member.worker.page.close()
        for pipe in self._pipes:
            pipe.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(procfs, "cpu_s", lambda pid: 0.0)
    server = Server(2)
    yield server
    server.close()


def test_the_figures_of_a_worker_are_its_pages(server: Server) -> None:
    page = server.page(1)
    server.look(0.0)
    written = {
        "connections": 9,
        "connections_idle": 4,
        "connections_websocket": 2,
        "in_flight": 3,
        "served": 50,
    }
    for figure, value in {**written, "responses_GET_5xx": 2, "responses_other_5xx": 1}.items():
        page[figure] = value
    page["responses_GET_4xx"] = 70
    for _ in range(10):
        page.observe(stats.DURATION, 2000)
    server.look(1.0)
    quiet, busy = report.worker_statuses(server.supervisor, 1.0)
    assert (busy.connections, busy.connections_idle, busy.websockets, busy.in_flight) == (9, 4, 2, 3)
    assert (busy.served, busy.errors_5xx, busy.rps, busy.cpu_percent) == (50, 3, 50.0, 0.0)
    assert busy.p50_ms == pytest.approx(2.0, rel=0.2)
    assert busy.p99_ms == pytest.approx(2.0, rel=0.2)
    assert (quiet.errors_5xx, quiet.rps, quiet.p50_ms, quiet.p99_ms) == (0, 0.0, None, None)


def test_the_servers_quantiles_are_of_all_requests_and_no_mean(server: Server) -> None:
    server.look(0.0)
    for _ in range(985):
        server.page(0).observe(stats.DURATION, 1000)
    for _ in range(15):
        server.page(1).observe(stats.DURATION, 2_000_000)
    server.page(0)["served"], server.page(1)["served"] = 985, 15
    server.look(1.0)
    status = report.server_status(server.supervisor, 1.0)
    assert status.rps == 1000.0
    assert status.p50_ms == pytest.approx(1.0, rel=0.2)
    assert status.p99_ms == pytest.approx(2000, rel=0.3)
    assert status.workers_list[0].p99_ms == pytest.approx(1.0, rel=0.2)


def test_what_one_that_is_gone_has_counted_stays(server: Server) -> None:
    for number in (0, 1):
        server.page(number)["responses_POST_5xx"], server.page(number)["served"] = 5, 20
    before = report.server_status(server.supervisor, 1.0)
    assert (before.errors_5xx, before.requests) == (10, 40)
    server.members[0].worker.handle.returncode = 0  # type: ignore[attr-defined]
    server.members[0].process.pid = None  # nobody to be looked for in /proc
    assert len(list(server.crew.reap(2.0, lambda process, message: None))) == 1
    server.slots[0].current = None
    after = report.server_status(server.supervisor, 2.0)
    assert (after.errors_5xx, after.requests) == (10, 40)
    assert [one.pid for one in after.workers_list] == [None, 501]


def test_a_slot_without_a_process_knows_nothing(server: Server) -> None:
    server.slots[0].current, server.slots[0].state, server.slots[0].retry_at = None, State.BACKOFF, 3.5
    empty = report.worker_statuses(server.supervisor, 1.0)[0]
    assert (empty.state, empty.note) == ("backoff", "starts again in 2.5 s")
    assert (empty.pid, empty.rps, empty.p99_ms, empty.cpu_percent, empty.websockets) == (None,) * 5
