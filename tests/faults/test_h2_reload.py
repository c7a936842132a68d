"""Reloads, recycling and upgrades under the load of HTTP/2 clients: no stream fails, none is run twice."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.helpers.certificates import Authority, Files
from tests.helpers.curl import command, needs_curl_with_http2
from tests.helpers.h2_load import Multiplexed, account
from tests.helpers.load import KeptAlive, Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.queues import restarts, settled
from tests.helpers.server import Serve, ServerProcess

pytestmark = needs_nghttp2

FLAGS = ("--workers", "2", "--no-access-log", "--http2-cleartext", "--timeout-drain-idle", "2")
APP = "h2_app:app"


def port_of(server: ServerProcess) -> int:
    return int(server.urls[0].rpartition(":")[2])


def reload(server: ServerProcess) -> None:
    since = len(server.log())
    server.send(signal.SIGHUP)
    server.saw(r"^INFO:     reloaded$", since=since)


def clients_of(server: ServerProcess, **how: object) -> list[Multiplexed]:
    port = port_of(server)
    several = [
        Multiplexed(port, **how),
        Multiplexed(port, streams=32, **how),
        Multiplexed(port, streams=1, **how),
    ]
    return [*several, Multiplexed(port, streams=2, body=b"x" * 20_000, **how)]


def under_load(
    clients: list[Multiplexed], change: Callable[[Load], object], *others: Callable[[], dict[str, object]]
) -> Load:
    with Load(*clients, *others) as load:
        load.goes_on(100)
        change(load)
        load.goes_on(200)
    for one in clients:
        one.finish()
    connections, retried = sum(one.connections for one in clients), sum(one.retried for one in clients)
    print(f"{load.requests} requests, {connections} connections, {retried} asked again: {load.failed}")
    assert load.failed == []
    return load


def test_reloads_beside_http1(serve: Serve, notes: Path) -> None:
    """Clients of both protocols on one port."""
    ledger = notes / "ledger"
    server = serve(APP, *FLAGS, env={"LEDGER": str(ledger)})
    port, before, clients = server.port, server.pids(), clients_of(server)
    kept = KeptAlive(port)

    def change(load: Load) -> None:
        for _ in range(2):
            reload(server)
            load.goes_on(100)

    load = under_load(clients, change, kept, lambda: fresh(port))
    account(ledger, clients)
    assert all(one.connections > 2 for one in clients), "somebody was never told to go"
    assert len(set(load.answers) - before) >= 2
    settled(server, 2)


def test_reloads_over_tls(serve: Serve, notes: Path, files: Files, authority: Authority) -> None:
    ledger = notes / "ledger"
    server = serve(APP, *FLAGS, "--http2", *files.flags, env={"LEDGER": str(ledger)})
    clients = clients_of(server, context=authority.client_context())

    def change(load: Load) -> None:
        for _ in range(2):
            reload(server)
            load.goes_on(100)

    under_load(clients, change)
    account(ledger, clients)
    assert all(one.connections > 2 for one in clients)


def test_recycling(serve: Serve, notes: Path) -> None:
    ledger = notes / "ledger"
    limits = ("--limit-max-requests", "200", "--limit-max-requests-jitter", "100")
    server = serve(APP, *FLAGS, *limits, env={"LEDGER": str(ledger)})
    clients = clients_of(server)
    under_load(clients, lambda load: server.saw(r"worker \d \(pid \d+\) drained", times=3))
    account(ledger, clients)
    settled(server, 2)
    assert restarts(server)["max-requests"] >= 2


def test_an_upgrade(serve: Serve, notes: Path) -> None:
    ledger = notes / "ledger"
    server = serve(APP, *FLAGS, env={"LEDGER": str(ledger)})
    before, clients = server.pids(), clients_of(server)
    load = under_load(clients, lambda load: server.upgraded())
    account(ledger, clients)
    assert set(load.answers) - before


def test_more_workers_and_fewer(serve: Serve, notes: Path) -> None:
    ledger = notes / "ledger"
    server = serve(APP, *FLAGS, env={"LEDGER": str(ledger)})
    clients = clients_of(server)

    def change(load: Load) -> None:
        server.send(signal.SIGTTOU)
        until(lambda: len(server.pids()) == 1, "one worker to go")
        load.goes_on(100)
        server.send(signal.SIGTTIN)
        settled(server, 2)

    under_load(clients, change)
    account(ledger, clients)


# Clients that are not ours


@needs_curl_with_http2
def test_curl_in_parallel(serve: Serve, files: Files, authority: Authority) -> None:
    """1500 requests, 30 at a time, over two reloads. curl asks again what was not processed, and no more."""
    server = serve(APP, *FLAGS, "--http2", *files.flags)
    flags = ("--http2", "--cacert", str(authority.path), "--parallel", "--parallel-max", "30")
    url = f"{server.urls[0]}/?[1-1500]"
    process = subprocess.Popen(
        command(*flags, "--output", "/dev/null", "--write-out", "%{http_code} %{http_version}\n", url),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(2):
            reload(server)
        out, err = process.communicate(timeout=3 * PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert Counter(out.splitlines()) == {"200 2": 1500}


def test_httpx_one_request_after_the_other(serve: Serve) -> None:
    """httpcore fails every stream that is in flight when a GOAWAY comes, be it for streams beyond them: so
    GOAWAY comes to it between two requests.
    """
    server = serve(APP, *FLAGS)
    before = server.pids()
    with httpx.Client(http1=False, http2=True, trust_env=False, timeout=PATIENCE_S) as client:

        def ask() -> dict[str, object]:
            answer = client.get(server.url)
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
            found: dict[str, object] = answer.json()
            return found

        with Load(ask) as load:
            load.goes_on(30)
            for _ in range(2):
                reload(server)
                load.goes_on(30)
    assert load.failed == []
    assert set(load.answers) - before


def test_httpx_at_the_limit_of_requests(serve: Serve) -> None:
    server = serve(APP, *FLAGS, "--limit-keep-alive-requests", "5")
    with httpx.Client(http1=False, http2=True, trust_env=False, timeout=PATIENCE_S) as client:
        asked = [client.post(server.url, content=b"x" * 50_000).json() for _ in range(30)]
    assert [one["size"] for one in asked] == [50_000] * 30
    assert len({tuple(one["client"]) for one in asked}) == 6


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_h2load_gets_every_answer_that_was_made(serve: Serve, notes: Path) -> None:
    """It asks nothing again and opens no new connection after a GOAWAY: what it could not send has failed. So
    what counts is that it has got as many answers as the app has seen requests.
    """
    ledger = notes / "ledger"
    server = serve(APP, *FLAGS, env={"LEDGER": str(ledger)})
    load = ["h2load", "-n", "1000000", "-c", "4", "-m", "16", "-H", "x-number: 1", server.url]
    process = subprocess.Popen(load, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: ledger.exists() and ledger.stat().st_size > 1000, "requests")
        reload(server)
        out, _ = process.communicate(timeout=3 * PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    found = re.search(r"(\d+) succeeded, \d+ failed, (\d+) errored, (\d+) timeout", out)
    assert found, out
    assert len(ledger.read_text().split()) == int(found[1]) > 500
