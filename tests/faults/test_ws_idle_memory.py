"""What 5,000 WebSockets that say nothing cost a real worker, beside the HTTP connections that they were."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.faults.test_idle_memory import NO_LINGER, idle_clients
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import ServerProcess

CLIENTS = 5_000
WARM_UP = 50
KIB = 1024
MESSAGE_BYTES = 4096  # more than what is sent without compression
MOST_KIB = 16
"""Above an idle connection that has had one answer. Measured: 8.5 KiB (Python 3.11), whether compression was
agreed or not: the scope, the app's coroutine and ours. The bound leaves room for other builds."""
MOST_KIB_AGAIN = 1
"""The second time everything is there: pools, the allocator's pages."""


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


class Client:
    """One WebSocket, by the library without its I/O: the test has no room for 5,000 tasks."""

    def __init__(self, port: int, deflate: bool) -> None:
        extensions = [ClientPerMessageDeflateFactory()] if deflate else None
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/echo"), extensions=extensions)
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def _flush(self) -> None:
        self.sock.sendall(b"".join(self._protocol.data_to_send()))

    def _frame(self) -> Frame:
        """The next one; the handshake's end is on the way."""
        while True:
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    return event
            self._protocol.receive_data(self.sock.recv(65536))

    def talk(self, data: bytes, deflate: bool) -> None:
        """A message each way, and a ping that is answered."""
        while self._protocol.state is not State.OPEN:
            self._protocol.receive_data(self.sock.recv(65536))
            self._protocol.events_received()
        assert bool(self._protocol.extensions) == deflate
        self._protocol.send_binary(data)
        self._flush()
        assert self._frame().data == data
        self._protocol.send_ping(b"there?")
        self._flush()
        frame = self._frame()
        assert (frame.opcode, frame.data) == (Opcode.PONG, b"there?")


def idle_websockets(port: int, count: int, deflate: bool) -> list[socket.socket]:
    """So many that have had a message and a ping; what their clients keep is only the socket."""
    data = os.urandom(MESSAGE_BYTES // 2) + bytes(MESSAGE_BYTES // 2)
    found = []
    for _ in range(count):
        client = Client(port, deflate)
        client.talk(data, deflate)
        found.append(client.sock)
    return found


def leave(clients: list[socket.socket], worker: psutil.Process, descriptors: int) -> None:
    """All of them are cut; the worker has about as many descriptors as before they came."""
    for one in clients:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        one.close()
    until(lambda: worker.num_fds() < descriptors + WARM_UP // 2, "the worker closes them, too")


def measure(folder: Path, come: Callable[[int, int], list[socket.socket]], app: str) -> tuple[float, float]:
    """KiB for each of them the first time, and what is added the second time."""
    flags = ("--workers", "1", "--no-access-log", "--ws-ping-interval", "0")
    with ServerProcess(folder, app, *flags) as server:
        [worker] = server.workers()
        port, descriptors = server.port, worker.num_fds()
        leave(come(port, WARM_UP), worker, descriptors)
        resident = [worker.memory_info().rss]
        for _ in range(2):
            clients = come(port, CLIENTS)
            resident.append(worker.memory_info().rss)
            assert worker.num_fds() >= CLIENTS
            leave(clients, worker, descriptors)
        assert server.pids() == {worker.pid}
    before, first, second = resident
    return (first - before) / CLIENTS / KIB, (second - first) / CLIENTS / KIB


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped")
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
def test_five_thousand_idle_websockets(
    tmp_path: Path, record_property: Callable[[str, object], None], deflate: bool
) -> None:
    connection_kib, _ = measure(tmp_path / "http", idle_clients, "hello:app")
    each_kib, more_kib = measure(
        tmp_path / "ws", lambda port, count: idle_websockets(port, count, deflate), "ws_app:app"
    )
    above_kib = each_kib - connection_kib
    record_property("kib_per_idle_websocket", round(above_kib, 2))
    print(
        f"{each_kib:.2f} KiB for each of {CLIENTS} idle WebSockets, {above_kib:.2f} KiB above an HTTP "
        f"connection's {connection_kib:.2f}; again: {more_kib:+.2f} KiB"
    )
    assert above_kib <= MOST_KIB
    assert more_kib <= MOST_KIB_AGAIN
