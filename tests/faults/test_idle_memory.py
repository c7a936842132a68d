"""What 10,000 clients that keep a connection and say nothing cost a real worker."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import ServerProcess

CLIENTS = 10_000
WARM_UP = 50
KIB = 1024
# Close at once: 20,000 ports in TIME_WAIT would be missing elsewhere for a minute.
NO_LINGER = struct.pack("ii", 1, 0)
# Measured: 3.4 KiB, uvloop's transport included (Python 3.11). The bound leaves room for other builds.
MOST_KIB = 24
# The second time everything is there: pools, the allocator's pages.
MOST_KIB_AGAIN = 1
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """The soft limit of this process, and so of the server that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CLIENTS + 2000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the hard limit of descriptors is {hard}, and this needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def idle_clients(port: int, count: int) -> list[socket.socket]:
    """So many connections that have had one answer."""
    found = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        one.sendall(REQUEST)
        found.append(one)
    for one in found:
        answer = b""
        while not answer.endswith(b"\r\n\r\nhello"):
            part = one.recv(4096)
            assert part, answer
            answer += part
    return found


def leave(clients: list[socket.socket], worker: psutil.Process, descriptors: int) -> None:
    """All of them close; the worker has about as many descriptors as before they came."""
    for one in clients:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        one.close()
    until(lambda: worker.num_fds() < descriptors + WARM_UP // 2, "the worker closes them, too")


@pytest.mark.usefixtures("many_descriptors")
def test_ten_thousand_idle_connections(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with ServerProcess(tmp_path, "hello:app", "--workers", "1", "--no-access-log") as server:
        (worker,) = server.workers()
        port, descriptors = server.port, worker.num_fds()
        leave(idle_clients(port, WARM_UP), worker, descriptors)
        resident = [worker.memory_info().rss]
        for _ in range(2):
            clients = idle_clients(port, CLIENTS)
            resident.append(worker.memory_info().rss)
            assert worker.num_fds() >= CLIENTS
            leave(clients, worker, descriptors)
        before, first, second = resident
        each_kib = (first - before) / CLIENTS / KIB
        more_kib = (second - first) / CLIENTS / KIB
        record_property("kib_per_idle_connection", round(each_kib, 2))
        print(f"{each_kib:.2f} KiB for each of {CLIENTS} idle connections; again: {more_kib:+.2f} KiB")
        assert each_kib <= MOST_KIB
        assert more_kib <= MOST_KIB_AGAIN
        assert server.pids() == {worker.pid}
