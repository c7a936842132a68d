"""Clients that are slow on purpose, and a real worker: each ends by its deadline, and nobody else notices.

Rules of this file: deadlines are seconds, given by flags; nothing asserts that anything is fast, only that it
ends; what the log tells of is counted to the last one, so that a report too many is found as well.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.http1 import Client, Response
from tests.helpers.master_process import until
from tests.helpers.server import Serve, ServerProcess
from tests.helpers.slow import (
    PROBES,
    SMALL_BUFFER,
    Bad,
    Good,
    get,
    post,
    statuses,
)

ROOT = Path(__file__).parents[2]
APP = "tests.helpers.slow:app"
ONE = ("--workers", "1", "--no-access-log")
DEADLINES = (
    "--timeout-first-byte", "2", "--timeout-request-head", "2", "--timeout-keep-alive", "3",
    "--timeout-request-body-grace", "3", "--min-request-body-rate", "500", "--timeout-write-stall", "2",
    "--loop-lag-warn", "0",  # the machine may be busy
)  # fmt: skip
EACH = 4
MEBIBYTE = 1 << 20

# What a probe hears, and whether it is reported. Those that do not read hear what they do not take.
SILENCE: list[int] = []
HEARS: dict[str, tuple[list[int], bool]] = {
    "silent": (SILENCE, False),
    "empty lines": (SILENCE, False),
    "half empty lines": (SILENCE, False),
    "head, then silent": ([408], True),
    "head that drips": ([408], True),
    "line that drips": ([408], True),
    "body stalled": ([408], True),
    "body that drips": ([408], True),
    "idle": ([200], False),
    "idle, with empty lines": ([200], False),
    "half-closed head": (SILENCE, False),
    "half-closed body": (SILENCE, False),
    "refused, and goes on": ([400], True),
    "reads nothing": ([200], True),
    "reads by the byte": ([200], True),
    "closes, reads nothing": ([200], True),
}
LINE = re.compile(
    r"^WARNING:  \[worker 0, pid \d+\] (?:"
    r"Rejected a request from 127\.0\.0\.1:\d+: (?:400 Bad Request|408 Request Timeout): [ -~]+"
    r"|Closed the connection of 127\.0\.0\.1:\d+ without an answer: [ -~]+"
    r"|(?:Rejected|Closed) [ -~]+)$"
)


def reports(log: str) -> int:
    """How many the log tells of, and that it has nothing else to say, and that in clear text."""
    count = 0
    for line in log.splitlines():
        if not line.startswith("WARNING:"):
            continue
        assert LINE.match(line), line
        one = re.search(r"from 127|of 127", line)
        held_back = re.findall(r"(\d+) more ", line)
        count += (1 if one else 0) + sum(map(int, held_back))
    return count


def serve_slow(serve: Serve, *flags: str, **how: object) -> ServerProcess:
    return serve(APP, *ONE, *flags, app_dir=ROOT, **how)


def test_every_bad_client_ends_and_no_good_one_notices(serve: Serve) -> None:
    server = serve_slow(serve, *DEADLINES)
    (worker,) = server.workers()

    async def play() -> tuple[Good, dict[str, list[bytes]]]:
        bad = Bad(server.port, worker)
        async with Good(server.port) as good:
            await good.served_all()
            async with asyncio.TaskGroup() as group:
                probes = {
                    name: [group.create_task(probe(bad)) for _ in range(EACH)]
                    for name, probe in PROBES.items()
                }
            await good.served_all()
        return good, {name: [task.result() for task in tasks] for name, tasks in probes.items()}

    good, said = asyncio.run(play())
    print(f"{len(said) * EACH} bad clients ended; answers of the good: {dict(good.done)}")
    assert good.complaints == []
    for name, (wanted, _) in HEARS.items():
        assert [statuses(one) for one in said[name]] == [wanted] * EACH, name
    for one in said["pipelines, reads nothing"]:
        assert set(statuses(one)) == {200}
    assert server.pids() == {worker.pid}
    server.stop()
    expected = EACH * (1 + sum(reported for _, reported in HEARS.values()))
    assert reports(server.log()) == expected, server.log()


def test_the_silent_and_the_idle_are_not_reported(serve: Serve) -> None:
    """They did nothing wrong: closed without a word to them or to the log."""
    server = serve_slow(serve, *DEADLINES)
    (worker,) = server.workers()

    async def play() -> list[bytes]:
        bad = Bad(server.port, worker)
        names = ("silent", "empty lines", "idle", "idle, with empty lines")
        return await asyncio.gather(*[PROBES[name](bad) for name in names for _ in range(10)])

    said = asyncio.run(play())
    assert Counter(len(statuses(one)) for one in said) == {0: 20, 1: 20}
    server.stop()
    assert "WARNING" not in server.log()


# A loop that was blocked


class Innocent:
    """A client that has done a part of something when the loop is blocked, and does the rest meanwhile."""

    def __init__(self, port: int, before: bytes, meanwhile: bytes, **how: int) -> None:
        sock = socket.socket()
        if "receive_buffer" in how:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, how["receive_buffer"])
        sock.connect(("127.0.0.1", port))
        self.client = Client(sock)
        sock.settimeout(60)
        self.client.send(before)
        self.meanwhile = meanwhile

    def goes_on(self) -> None:
        self.client.send(self.meanwhile)


def test_a_blocked_loop_makes_nobody_late(serve: Serve, notes: Path) -> None:
    """It comes back after every deadline is over, and reads what waits before it judges."""
    seconds = "3"
    server = serve_slow(
        serve, "--timeout-first-byte", seconds, "--timeout-request-head", seconds, "--timeout-keep-alive",
        seconds, "--timeout-request-body-grace", seconds, "--timeout-write-stall", seconds,
        "--loop-lag-warn", "0",
    )  # fmt: skip
    port = server.port
    innocents = [
        Innocent(port, before, meanwhile)
        for before, meanwhile in (
            (b"", get()),
            (get()[:20], get()[20:]),
            (post(2000) + bytes(900), bytes(1100)),
            (b"\r\n", get()),
        )
        for _ in range(5)
    ]
    kept = [Innocent(port, get(), get()) for _ in range(5)]
    for one in kept:
        assert one.client.response().status == 200
    reader = Innocent(port, get("/large"), b"", receive_buffer=SMALL_BUFFER)
    blocker = Innocent(port, get("/block?5"), b"")
    until((notes / "blocked").exists, "the loop to be blocked")
    late = [Innocent(port, get()[:20], get()[20:]) for _ in range(5)]  # they wait to be accepted
    for one in [*innocents, *kept, *late]:
        one.goes_on()
    drained = threading.Thread(target=reader.client.rest)
    drained.start()
    assert [one.client.response().status for one in [*innocents, *kept, *late]] == [200] * 30
    assert blocker.client.response().body == b"done"
    drained.join()
    for one in [*innocents, *kept, *late, blocker, reader]:
        one.client.close()
    server.stop()
    assert "WARNING" not in server.log()


# Memory


@pytest.mark.parametrize(("path", "count"), [("/", 4), ("/raises", 1), ("/large", 4)])
def test_a_client_that_pipelines_and_never_reads_fills_no_memory(serve: Serve, path: str, count: int) -> None:
    """Not even if the app fails in its first step. What it has asked is answered when it reads."""
    server = serve_slow(serve, "--timeout-write-stall", "0", "--loop-lag-warn", "0", quiet=False)
    (worker,) = server.workers()
    request = get(path, "X-Pad: " + "x" * 1000)  # so that not too many of them wait in the kernel
    for _ in range(20):  # whatever is made once is made
        assert asked(server.port, request).status in (200, 500)
    before = worker.memory_info().rss
    clients = [Pipelining(server.port, request) for _ in range(count)]
    for one in clients:
        one.stuck()
    grown = worker.memory_info().rss - before
    print(f"{path}: {sum(one.sent for one in clients)} requests sent, {grown / MEBIBYTE:.1f} MiB more")
    # A response for each that is on its way, and what 64 KiB of requests and of answers may cost.
    most = count * 32 if path == "/large" else 0
    assert grown < (most + 48) * MEBIBYTE
    if path != "/large":
        clients[0].reads_all(500 if path == "/raises" else 200)
    for one in clients:
        one.end()
    assert asked(server.port, get()).body == b"hello"
    assert server.pids() == {worker.pid}


def asked(port: int, request: bytes) -> Response:
    client = Innocent(port, request, b"").client
    with client:
        return client.response()


class Pipelining:
    """It sends one request after the other from a thread of its own, and reads when it is told to."""

    def __init__(self, port: int, request: bytes) -> None:
        self.client = Innocent(port, b"", b"", receive_buffer=SMALL_BUFFER).client
        self.client.sock.settimeout(None)
        self.sent = 0
        self._request = request
        self._thread = threading.Thread(target=self._send)
        self._enough = False
        self._thread.start()

    def _send(self) -> None:
        try:
            while not self._enough:
                self.client.send(self._request * 100)
                self.sent += 100
        except OSError:
            pass

    def stuck(self) -> None:
        """Wait until it can send no more: nothing moves for a while."""
        last, still = -1, 0
        while still < 20:
            still = still + 1 if self.sent == last else 0
            last = self.sent
            threading.Event().wait(0.05)

    def reads_all(self, status: int) -> None:
        """Every request that it sent has its answer."""
        self._enough = True
        mark = b"HTTP/1.1 %d " % status
        answered, rest = 0, b""
        while self._thread.is_alive() or answered < self.sent:
            if not select.select([self.client.sock], [], [], 0.1)[0]:
                continue
            data = rest + self.client.receive(MEBIBYTE)
            assert len(data) > len(rest), "the server ended the connection"
            answered += data.count(mark)
            rest = data[1 - len(mark) :]
        assert answered == self.sent

    def end(self) -> None:
        self._enough = True
        with self.client:
            self.client.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
