"""Real workers that send files: slow clients, clients that go, files that change, the server's own end."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.certificates import Authority, Files
from tests.helpers.http1 import Client, get
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import APPS, Serve, ServerProcess, client_of

# More than the kernel takes for a client that reads nothing: the send buffer may grow to this.
LARGE = os.urandom(int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2]) + (2 << 20))
SMALL_BUFFER = 8192


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "large.bin").write_bytes(LARGE)
    return folder


def download(port: int, path: str = "/s/large.bin") -> Client:
    """A client that has the head of its answer, and leaves the rest where it is."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.settimeout(PATIENCE_S)
    sock.connect(("127.0.0.1", port))
    client = Client(sock)
    client.send(get(path))
    client.buffered = client.read_until(b"\r\n\r\n")
    return client


def finish(client: Client) -> bytes:
    """The whole body, of a client that has its head."""
    response = client.response()
    assert response.status == 200
    return response.body


def open_downloads(server: ServerProcess) -> int:
    """Descriptors of the file, in all workers."""
    count = 0
    for worker in server.workers():
        try:
            count += sum("large.bin" in one.path for one in worker.open_files())
        except psutil.Error:
            continue
    return count


@pytest.fixture
def flags(site: Path) -> tuple[str, ...]:
    return ("hello:app", "--workers", "1", "--static", f"/s={site}")


def test_slow_clients_hold_one_descriptor_each_and_nobody_up(serve: Serve, flags: tuple[str, ...]) -> None:
    server = serve(*flags)
    slow = [download(server.port) for _ in range(20)]
    until(lambda: open_downloads(server) == 20, "one descriptor for each")
    (worker,) = server.workers()
    assert worker.memory_info().rss < 120 << 20  # not 20 times the file
    with client_of(server) as client:
        for _ in range(20):
            assert client.get("/").text == "hello"
        assert client.get("/s/large.bin").content == LARGE
    for one in slow:
        assert finish(one) == LARGE
        one.close()
    until(lambda: open_downloads(server) == 0, "the files to be closed")


def test_clients_that_go_leave_nothing(serve: Serve, flags: tuple[str, ...]) -> None:
    server = serve(*flags)
    for round_ in range(3):
        clients = [download(server.port) for _ in range(20)]
        until(lambda: open_downloads(server) == 20, "one descriptor for each")
        for i, client in enumerate(clients):
            client.reset() if (i + round_) % 2 else client.close()
        until(lambda: open_downloads(server) == 0, "the files to be closed")
        until(lambda: server.connections() == 0, "the connections to go")
    with client_of(server) as client:
        assert client.get("/s/large.bin").content == LARGE


def test_a_client_that_takes_nothing_is_cut(serve: Serve, flags: tuple[str, ...]) -> None:
    server = serve(*flags, "--timeout-write-stall", "1")
    with download(server.port):
        until(lambda: open_downloads(server) == 0, "the client to be cut")
        until(lambda: server.connections() == 0, "the connection to go")


def test_a_file_that_becomes_shorter_is_cut_off(serve: Serve, flags: tuple[str, ...], site: Path) -> None:
    """Its client must see that; the next one gets the file as it is now."""
    server = serve(*flags)
    with download(server.port) as client:
        os.truncate(site / "large.bin", 1000)
        rest = b""
        try:
            rest = client.rest()
        except ConnectionResetError:
            pass
        assert len(rest) < len(LARGE)
    until(lambda: open_downloads(server) == 0)
    with client_of(server) as client:
        assert client.get("/s/large.bin").content == LARGE[:1000]


def test_a_file_that_is_exchanged_is_sent_as_it_was(serve: Serve, flags: tuple[str, ...], site: Path) -> None:
    server = serve(*flags)
    with download(server.port) as client:
        (site / "new").write_bytes(b"new")
        (site / "new").rename(site / "large.bin")
        assert finish(client) == LARGE
    with client_of(server) as client:
        assert client.get("/s/large.bin").content == b"new"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_waits_for_downloads(serve: Serve, site: Path, workers: str) -> None:
    server = serve("hello:app", "--workers", workers, "--static", f"/s={site}")
    clients = [download(server.port) for _ in range(4)]
    server.send(signal.SIGTERM)
    server.saw("stopping: ")
    for client in clients:
        assert finish(client) == LARGE
        client.close()
    assert server.ended() == 0
    assert re.search(r"drained: \d+ served, 0 cut", server.log())


def test_a_reload_waits_for_downloads(serve: Serve, flags: tuple[str, ...]) -> None:
    server = serve(*flags)
    before = server.pids()
    with download(server.port) as client:
        server.send(signal.SIGHUP)
        until(lambda: len(server.pids()) == 2, "the new worker")
        with client_of(server) as other:
            assert other.get("/").text == "hello"
        assert finish(client) == LARGE
    until(lambda: len(server.pids()) == 1 and not server.pids() & before, "the old worker to go")


def test_a_download_that_does_not_end_is_cut_at_the_deadline(serve: Serve, flags: tuple[str, ...]) -> None:
    server = serve(*flags, "--timeout-graceful-shutdown", "1", quiet=False)
    with download(server.port) as client:
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        try:
            assert len(client.rest()) < len(LARGE)
        except ConnectionResetError:
            pass


def test_slow_and_rude_clients_over_tls(
    serve: Serve, flags: tuple[str, ...], files: Files, authority: Authority
) -> None:
    """What the kernel does not send is not all read ahead, and is let go of just the same."""
    server = serve(*flags, *files.flags)
    port = int(server.urls[0].rpartition(":")[2])
    context = authority.client_context()

    def shaken() -> Client:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", port))
        client = Client(context.wrap_socket(sock, server_hostname="localhost"))
        client.send(get("/s/large.bin"))
        client.buffered = client.read_until(b"\r\n\r\n")
        return client

    slow = [shaken() for _ in range(10)]
    until(lambda: open_downloads(server) == 10, "one descriptor for each")
    (worker,) = server.workers()
    assert worker.memory_info().rss < 150 << 20  # not 10 times the file
    for client in slow[::2]:
        client.close()
    until(lambda: open_downloads(server) == 5, "the files of those who went to be closed")
    server.send(signal.SIGTERM)
    server.saw("stopping: ")
    for client in slow[1::2]:
        assert finish(client) == LARGE
        client.close()
    assert server.ended() == 0


# The hard limit, too: the master raises the soft one.
LIMIT = 128
PROGRAM = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))
sys.argv[0] = "shardserve"
runpy.run_module("shardserve", run_name="__main__")
"""


@pytest.fixture
def cramped(tmp_path: Path, site: Path) -> Iterator[ServerProcess]:
    flags = ["hello:app", "--workers", "1", "--port", "0", "--static", f"/s={site}", "--app-dir", str(APPS)]
    with ServerProcess(tmp_path / "cramped", None, program=["-c", PROGRAM, *flags]) as server:
        yield server


def test_more_downloads_than_descriptors(cramped: ServerProcess) -> None:
    """A download takes two: who finds none left waits or is told to come again, and nobody gets an error."""
    clients = []
    for _ in range(LIMIT):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", cramped.port))
        clients.append(Client(sock))
        clients[-1].send(get("/s/large.bin", b"Connection: close"))
    seen = []
    for client in clients:
        response = client.response()
        seen.append(response.status)
        assert (response.status, response.body) in ((200, LARGE), (503, b"Service Unavailable"))
        if response.status == 503:
            assert response.one(b"retry-after") == b"1"
        client.close()
    assert seen.count(200) > LIMIT // 4
    with client_of(cramped) as client:
        assert client.get("/s/large.bin").content == LARGE
