"""HUP: new code, the same sockets, and no client who notices. The real workers under a small load."""

from __future__ import annotations

import http.client
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.helpers.load import KeptAlive, Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, ServerProcess

BODY = b"x" * 20_000


def write_app(folder: Path, version: int) -> None:
    """An app that tells its version. Its size changes with it, so that no cached bytecode passes for it."""
    source = (
        f"VERSION = {version}\n{'#' * version}\n"
        "import json, os\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    size, more = 0, True\n"
        "    while more:\n"
        "        message = await receive()\n"
        "        size, more = size + len(message.get('body', b'')), message.get('more_body', False)\n"
        "    body = json.dumps({'version': VERSION, 'pid': os.getpid(), 'size': size}).encode()\n"
        "    headers = [(b'content-length', str(len(body)).encode())]\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})\n"
        "    await send({'type': 'http.response.body', 'body': body})\n"
    )
    path = folder / "versioned.py"
    path.with_suffix(".new").write_text(source)
    os.replace(path.with_suffix(".new"), path)


def reload(server: ServerProcess) -> None:
    since = len(server.log())
    server.send(signal.SIGHUP)
    server.saw(r"^INFO:     reloaded$", since=since)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_three_reloads_under_load_fail_no_request(serve: Serve, tmp_path: Path, workers: str) -> None:
    write_app(tmp_path, 1)
    server = serve("versioned:app", "--workers", workers, "--no-access-log", app_dir=tmp_path)
    port, before = server.port, server.pids()
    kept, uploads = KeptAlive(port), KeptAlive(port, body=BODY)
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as pooled:

        def ask_pooled() -> dict[str, int]:
            answer = pooled.get(server.url)
            assert answer.status_code == 200
            found: dict[str, int] = answer.json()
            return found

        with Load(kept, uploads, lambda: fresh(port), ask_pooled, key="version") as load:
            for version in (2, 3, 4):
                seen = load.answers[version - 1]
                until(lambda seen=seen, old=version - 1: load.answers[old] >= seen + 50, "some requests")
                write_app(tmp_path, version)
                reload(server)
            until(lambda: load.answers[4] >= 50, "requests to the last version")
            until(lambda: not before & server.pids() and len(server.pids()) == int(workers), "the old to go")
    kept.close()
    uploads.close()
    assert load.failed == []
    assert set(load.answers) == {1, 2, 3, 4}
    assert {fresh(port)["version"] for _ in range(10)} == {4}


def test_a_kept_connection_gets_one_more_answer_and_is_told(serve: Serve, tmp_path: Path) -> None:
    """The client that is idle at the reload, and asks again just after."""
    write_app(tmp_path, 1)
    server = serve("versioned:app", "--workers", "1", "--timeout-drain-idle", "30", app_dir=tmp_path)
    client = KeptAlive(server.port)
    old = client()["pid"]
    assert not client.closes
    write_app(tmp_path, 2)
    reload(server)
    assert fresh(server.port)["version"] == 2
    assert client() == {"version": 1, "pid": old, "size": 0}  # by the old worker, which waits for this
    assert client.closes
    until(lambda: old not in server.pids(), "the old worker to go, now that nobody is connected")
    assert client()["version"] == 2  # http.client connects anew after Connection: close
    client.close()


def test_an_idle_connection_is_closed_after_the_grace(serve: Serve, tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    server = serve("versioned:app", "--workers", "1", "--timeout-drain-idle", "0.2", app_dir=tmp_path)
    client = KeptAlive(server.port)
    old = client()["pid"]
    reload(server)
    until(lambda: old not in server.pids(), "the old worker to go")
    client.close()


def test_a_request_in_flight_is_finished_by_the_old_worker(serve: Serve, notes: Path) -> None:
    server = serve("probe:app", "--workers", "1")
    [old] = server.pids()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    assert answer.read1(100) == b"first half, "
    reload(server)
    assert len(server.pids()) == 2  # the old one still has a request
    (notes / "go").touch()
    assert answer.read() == b"second half"
    connection.close()
    until(lambda: old not in server.pids(), "the old worker to go")
    server.saw(rf"worker 0 \(pid {old}\) drained: 1 served, 0 cut")


def test_code_that_does_not_start_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    server = serve("versioned:app", "--workers", "2", app_dir=tmp_path, quiet=False)
    before, port = server.pids(), server.port
    with Load(KeptAlive(port), lambda: fresh(port), key="version") as load:
        (tmp_path / "versioned.py").write_text("def app(:\n")
        server.send(signal.SIGHUP)
        server.saw(r"reload abandoned; not reloaded: worker 0, 1")
        until(lambda: server.pids() == before, "the one that failed to be gone")
        write_app(tmp_path, 2)
        reload(server)
    assert load.failed == []
    assert server.log().count("SyntaxError") == 1
    assert {fresh(port)["version"] for _ in range(10)} == {2}


def test_the_pid_of_the_server_and_its_port_stay(serve: Serve, tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    server = serve("versioned:app", "--workers", "1", app_dir=tmp_path)
    port = server.port
    for version in (2, 3):
        write_app(tmp_path, version)
        reload(server)
        # The old worker accepts until it has read that it is to drain.
        until(lambda expected=version: fresh(port)["version"] == expected, "the new code")
    assert server.process.poll() is None
