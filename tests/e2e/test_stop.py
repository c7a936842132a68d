"""Stopping: what is in flight is finished, what is new is refused, and a second signal means now."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve

IN_FLIGHT = 20
ONE = ("--workers", "1")
LONG = ("--timeout-graceful-shutdown", "60")


def ask(port: int, path: str) -> tuple[int, bytes, str | None]:
    """One request on a connection of its own: status, body, Connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("connection")
    finally:
        connection.close()


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(PATIENCE_S)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def arrived(notes: Path, count: int) -> Callable[[], bool]:
    return lambda: len(list(notes.glob("here-*"))) == count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered(serve: Serve, notes: Path, number: signal.Signals) -> None:
    server = serve("probe:app", "--workers", "2", *LONG)
    port = server.port
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        asked = [pool.submit(ask, port, "/wait") for _ in range(IN_FLIGHT)]
        until(arrived(notes, IN_FLIGHT), "all requests to arrive")
        server.send(number)
        until(lambda: refuses(port), "the port to be closed")
        assert not any(one.done() for one in asked)
        (notes / "go").touch()
        answers = [one.result() for one in asked]
    assert answers == [(200, b"went on", "close")] * IN_FLIGHT
    assert server.ended() == 0
    assert len(list(notes.glob("down-*"))) == 2  # the lifespan's end, in both
    assert server.access().count('"GET /wait HTTP/1.1" 200 OK') == IN_FLIGHT


def test_twenty_requests_of_half_a_second(serve: Serve) -> None:
    """The same with sync endpoints in threads, and nobody who helps them along."""
    server = serve("fastapi_app:app", "--workers", "2", *LONG)
    port = server.port
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        asked: list[Future[tuple[int, bytes, str | None]]] = [
            pool.submit(ask, port, "/blocking?delay=0.5") for _ in range(IN_FLIGHT)
        ]
        until(lambda: server.connections() == IN_FLIGHT, "all connections to be accepted")
        server.send(signal.SIGTERM)
        answers = [one.result() for one in asked]
    assert [status for status, _, _ in answers] == [200] * IN_FLIGHT
    assert server.ended() == 0


def test_a_stream_in_flight_is_finished(serve: Serve, notes: Path) -> None:
    server = serve("probe:app", *ONE, *LONG)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    assert answer.read1(100) == b"first half, "
    server.send(signal.SIGTERM)
    until(lambda: refuses(server.port), "the port to be closed")
    (notes / "go").touch()
    assert answer.read() == b"second half"
    connection.close()
    assert server.ended() == 0


def test_idle_connections_do_not_hold_up_the_end(serve: Serve) -> None:
    server = serve("probe:app", *ONE, *LONG)
    silent = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    kept.request("GET", "/")
    kept.getresponse().read()
    until(lambda: server.connections() == 2, "both to be accepted")
    server.stop()  # far from the 60 s that a request would get
    assert silent.recv(1) == b""
    silent.close()
    kept.close()


def test_a_second_signal_cuts_what_is_in_flight(serve: Serve, notes: Path) -> None:
    server = serve("probe:app", "--workers", "2", *LONG, quiet=False)
    failures: list[type[Exception]] = []

    def doomed() -> None:
        try:
            ask(server.port, "/wait")
        except (http.client.HTTPException, OSError) as error:
            failures.append(type(error))

    client = threading.Thread(target=doomed)
    client.start()
    until(arrived(notes, 1), "the request to arrive")
    server.send(signal.SIGTERM)
    server.saw("stopping: requests in flight get 60 s")
    assert server.process.poll() is None
    server.send(signal.SIGTERM)
    assert server.ended() == 0
    client.join(PATIENCE_S)
    assert len(failures) == 1
    assert "told to stop at once" in server.log()
    assert "Cut 1 requests" in server.log()


def test_quit_is_both_signals_at_once(serve: Serve, notes: Path) -> None:
    server = serve("probe:app", *ONE, *LONG, quiet=False)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        until(arrived(notes, 1), "the request to arrive")
        server.stop(signal.SIGQUIT)


def test_a_request_that_never_ends_is_cut_at_the_deadline(serve: Serve, notes: Path) -> None:
    server = serve("probe:app", *ONE, "--timeout-graceful-shutdown", "0.3", quiet=False)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        until(arrived(notes, 1), "the request to arrive")
        server.stop()
    assert "Cut 1 requests that were not finished after 0.3 seconds." in server.log()
    # The lifespan still gets its turn.
    assert len(list(notes.glob("down-*"))) == 1


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)])
def test_a_request_that_the_server_cut_is_not_logged_as_the_apps_error(
    serve: Serve, notes: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    limit = "0.3" if len(numbers) == 1 else "60"
    server = serve("probe:app", *ONE, "--timeout-graceful-shutdown", limit)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        until(arrived(notes, 1), "the request to arrive")
        for times, number in enumerate(numbers):
            server.send(number)
            server.saw("stopping|told to stop", times + 1)
        assert server.ended() == 0
    # "Cut 1 requests" says it. The CancelledError is ours, and the client is the one who did not go.
    assert "Exception in ASGI application" not in server.log()
    assert "client gone" not in server.log()


def test_events_without_an_end_are_cut_at_the_deadline(serve: Serve, notes: Path) -> None:
    server = serve("starlette_app:app", *ONE, "--timeout-graceful-shutdown", "0.3", quiet=False)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("GET", "/events?name=stop")
    answer = connection.getresponse()
    assert answer.read1(100).startswith(b"data: 0")
    server.stop()
    connection.close()
    assert (notes / "ended-stop").exists()


def test_stopping_while_the_app_still_starts(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio, pathlib\n"
        "async def app(scope, receive, send):\n"
        "    pathlib.Path('starting').touch()\n"
        "    await asyncio.Event().wait()\n"
    )
    folder = tmp_path / "cwd"
    server = serve("slow:app", "--workers", "2", app_dir=tmp_path, folder=folder, wait=False)
    until((folder / "starting").exists, "the lifespan to start")
    server.stop()
