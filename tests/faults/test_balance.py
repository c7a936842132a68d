"""``--balance``: which worker a connection goes to, with real sockets in a real kernel."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardserve.master import affinity
from tests.helpers.load import Load
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, ServerProcess

CONNECTIONS = 40
TWO = ("--workers", "2", "--no-access-log")
CORES = affinity.usable().order
RPS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")

needs_two_cores = pytest.mark.skipif(
    len(CORES) < 2 or (RPS.exists() and int(RPS.read_text().replace(",", ""), 16) != 0),
    reason="needs two cores, and a loopback that leaves packets on the core of their sender",
)


def ask(server: ServerProcess, source_port: int = 0) -> int:
    """Which worker answers on a new connection from this port; it is reset, so that it can be used again."""
    with socket.socket() as sock:
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.bind(("127.0.0.1", source_port))
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        with answer:
            body = answer.read()
    return int(body.partition(b'"pid": ')[2].partition(b",")[0])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def from_one_port(server: ServerProcess) -> Counter[int]:
    """To the kernel's hash these are all the same connection."""
    source_port = free_port()
    found = Counter(ask(server, source_port) for _ in range(CONNECTIONS))
    print(f"{CONNECTIONS} connections from one port: {sorted(found.values())}")
    return found


def from_any_port(server: ServerProcess) -> Counter[int]:
    found = Counter(ask(server) for _ in range(CONNECTIONS))
    print(f"{CONNECTIONS} connections from any port: {sorted(found.values())}")
    return found


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread runs there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def by_core(server: ServerProcess) -> dict[int, int]:
    """The workers' pids."""
    return {one["core"]: one["pid"] for one in server.ctl("workers")["workers_list"] if one["pid"]}


def steered(server: ServerProcess) -> None:
    for core, pid in by_core(server).items():
        with on_core(core):
            found = from_any_port(server)
        assert found == {pid: CONNECTIONS}, f"core {core}"


def test_hash_goes_by_the_addresses(serve: Serve) -> None:
    server = serve("faulty:app", *TWO)
    assert len(from_one_port(server)) == 1
    assert set(from_any_port(server)) == server.pids()


def test_random_goes_by_chance(serve: Serve) -> None:
    server = serve("faulty:app", *TWO, "--balance", "random")
    assert set(from_one_port(server)) == server.pids()
    assert set(from_any_port(server)) == server.pids()


@needs_two_cores
def test_cpu_goes_to_the_worker_on_the_clients_core(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", str(len(CORES)), "--balance", "cpu")
    assert sorted(by_core(server)) == sorted(CORES)
    steered(server)


@needs_two_cores
def test_cpu_still_does_when_a_worker_was_replaced_and_another_master_came(serve: Serve) -> None:
    flags = ("--workers", str(len(CORES)), "--balance", "cpu", "--timeout-drain-idle", "2")
    server = serve("faulty:app", *flags, quiet=False)
    victim = by_core(server)[CORES[-1]]
    os.kill(victim, signal.SIGKILL)
    until(lambda: ready(server) and victim not in by_core(server).values(), "its successor")
    steered(server)
    server.upgraded()
    assert ready(server)
    steered(server)


def ready(server: ServerProcess) -> bool:
    return {one["state"] for one in server.ctl("workers")["workers_list"]} == {"ready"}


def test_a_new_master_balances_as_its_own_settings_say(serve: Serve, tmp_path: Path) -> None:
    """From random to hash, to random again, under load."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    file = folder / "shardserve.toml"
    settings = 'app = "faulty:app"\nport = 0\nworkers = 2\naccess-log = false\ntimeout-drain-idle = 2\n'
    file.write_text(f'{settings}balance = "random"\n')
    server = serve(None, folder=folder, choose_port=False)
    assert len(from_one_port(server)) == 2
    with Load.mixed(server.port) as load:
        for balance, workers in (("hash", 1), ("random", 2)):
            load.goes_on()
            file.write_text(f'{settings}balance = "{balance}"\n')
            server.upgraded()
            assert len(from_one_port(server)) == workers
    assert load.failed == []


def test_random_reaches_workers_that_were_added(serve: Serve) -> None:
    server = serve("faulty:app", *TWO, "--balance", "random")
    server.ctl("scale", "4")
    until(lambda: len(server.pids()) == 4 and ready(server), "four workers")
    found: set[int] = set()
    until(lambda: found.update(from_one_port(server)) or found == server.pids(), "all to be reached")
