"""The end of a worker: nothing that was begun is lost, what has no end is told, and a deadline is one.

What the kernel leaves open: a client may send a request just as the server closes its idle connection,
or connect just as the last listener closes. Such a request gets no byte of an answer, and the app never
saw it, so its client may try again elsewhere (RFC 9110, 9.2.2). ``Ledger`` tells it from a lost one.
"""

from __future__ import annotations

import http.client
import itertools
import json
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.load import connection_to, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve

ONE = ("--workers", "1")
LONG = ("--timeout-graceful-shutdown", "60")  # longer than any test waits


class Ledger:
    """Clients that ask until they are refused, and a file in which the app notes what it got."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ledger"
        self.answered: set[int] = set()
        self.unanswered: dict[int, str] = {}  # not a byte of an answer
        self.cut: dict[int, str] = {}  # a part of one
        self.refused = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def begun(self) -> set[int]:
        return {int(line) for line in self.file.read_text().split()}

    def client(self, port: int, *, keeps: bool, body: bytes | None = None) -> None:
        """Ask until refused."""
        connection = connection_to(port)
        while True:
            number = next(self._numbers)
            if is_closed(connection):
                connection.close()
            stage = self._ask(connection, number, body)
            if stage == "refused":
                break
            if stage != "answered" or not keeps:
                connection.close()
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, number: int, body: bytes | None) -> str:
        method, path = ("GET", "/") if body is None else ("POST", "/upload")
        stage = "unanswered"
        try:
            connection.request(method, path, body, headers={"x-number": str(number)})
            answer = connection.getresponse()
            stage = "cut"
            assert answer.status == 200, answer.status
            assert "pid" in json.loads(answer.read())
        except ConnectionRefusedError:
            self.refused += 1
            return "refused"
        except (OSError, http.client.HTTPException, AssertionError) as error:
            kept = self.unanswered if stage == "unanswered" else self.cut
            kept[number] = repr(error)
            return stage
        with self._lock:
            self.answered.add(number)
        return "answered"

    @contextmanager
    def load(self, port: int) -> Iterator[None]:
        """Kept connections, one for each request, and uploads; at the end all have been refused."""
        threads = [
            threading.Thread(target=self.client, args=(port,), kwargs=how)
            for how in (
                *[{"keeps": True}] * 4,
                *[{"keeps": False}] * 2,
                *[{"keeps": True, "body": b"x" * 20_000}] * 2,
            )
        ]
        for one in threads:
            one.start()
        try:
            yield
        finally:
            for one in threads:
                one.join(PATIENCE_S)
            assert not any(one.is_alive() for one in threads)


def is_closed(connection: http.client.HTTPConnection) -> bool:
    """What every pool of connections looks for before it uses one again: has the server closed it?"""
    return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])


@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_every_request_that_the_app_got_is_answered(serve: Serve, tmp_path: Path, workers: str) -> None:
    ledger = Ledger(tmp_path)
    env = {"LEDGER": str(ledger.file)}
    server = serve("ledger:app", "--workers", workers, "--no-access-log", *LONG, env=env)
    port = server.port
    with ledger.load(port):
        until(lambda: len(ledger.answered) > 300, "requests")
        server.send(signal.SIGTERM)
    assert server.ended() == 0
    print(
        f"{workers} workers, TERM under load: {len(ledger.answered)} answered, {len(ledger.cut)} cut, "
        f"{len(ledger.begun - ledger.answered)} begun and lost, {len(ledger.unanswered)} met a closing socket"
    )
    assert ledger.cut == {}
    assert ledger.begun == ledger.answered
    assert ledger.refused == 8
    passing = ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
    assert all(text.startswith(passing) for text in ledger.unanswered.values()), ledger.unanswered


def test_connections_that_wait_to_be_accepted_are_answered(serve: Serve) -> None:
    """They are in the workers' queues when the stop comes."""
    server = serve("faulty:app", "--workers", "2", *LONG)
    port, workers = server.port, server.workers()
    for one in workers:
        one.suspend()
    clients = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.send(signal.SIGTERM)
    server.saw("stopping: requests in flight get 60 s")
    for one in workers:
        one.resume()
    answers = [everything(client) for client in clients]
    assert all(one.startswith(b"HTTP/1.1 200 ") and one.endswith(b"}") for one in answers)
    assert server.ended() == 0


def everything(client: socket.socket) -> bytes:
    """Until the server closes; a reset is an error."""
    data = b""
    with client:
        while part := client.recv(65536):
            data += part
    return data


# Responses without an end


class Stream:
    """A response that is read while it comes."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        self._connection.request("GET", path)
        self._answer = self._connection.getresponse()
        self.began = self._answer.read1(100)

    def rest(self) -> bytes:
        """Until its proper end. Raises IncompleteRead if it is cut."""
        try:
            return self._answer.read()
        finally:
            self._connection.close()


STREAMS_SOON = ("--timeout-drain-streams", "0.3")
STREAMS_LATE = ("--timeout-drain-streams", "50")


def test_events_get_to_say_goodbye(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", *LONG, *STREAMS_SOON)
    streams = [Stream(server.port, "/stream") for _ in range(6)]
    assert all(one.began == b"data: 0\n\n" for one in streams)
    server.send(signal.SIGTERM)
    assert all(one.rest().endswith(b"data: bye\n\n") for one in streams)
    assert server.ended() == 0  # far from the 60 s
    assert "Told " in server.log()
    assert "Cut " not in server.log()


def test_events_say_goodbye_at_a_reload_too(serve: Serve) -> None:
    server = serve("faulty:app", *ONE, *LONG, *STREAMS_SOON)
    before = server.pids()
    stream = Stream(server.port, "/stream")
    server.send(signal.SIGHUP)
    assert stream.rest().endswith(b"data: bye\n\n")
    until(lambda: not before & server.pids(), "the old worker to go")


def test_who_does_not_listen_is_cut_at_the_deadline(serve: Serve) -> None:
    server = serve("faulty:app", *ONE, "--timeout-graceful-shutdown", "0.6", "--timeout-drain-streams", "0.2")
    stream = Stream(server.port, "/stubborn")
    server.send(signal.SIGTERM)
    with pytest.raises(http.client.IncompleteRead):
        stream.rest()
    assert server.ended() == 0
    assert "Cut 1 requests that were not finished after 0.6 seconds." in server.log()


def test_a_second_signal_forces(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", *LONG, *STREAMS_LATE)
    streams = [Stream(server.port, path) for path in ("/stubborn", "/stream", "/stubborn", "/stream")]
    server.send(signal.SIGTERM)
    server.saw("stopping: requests in flight get 60 s")
    assert server.running
    server.send(signal.SIGTERM)
    for one in streams:
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            one.rest()
    assert server.ended() == 0
    assert "told to stop at once" in server.log()


# Requests with an end are left alone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_slow_view_behind_a_middleware_is_not_told_that_its_client_is_gone(
    serve: Serve, notes: Path, number: signal.Signals
) -> None:
    server = serve("middleware:app", *ONE, *LONG, *STREAMS_SOON)
    slow = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    slow.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    until((notes / "here").exists, "the view to begin")
    stream = Stream(server.port, "/stream")
    server.send(number)
    assert stream.rest().endswith(b"data: bye\n\n")  # so the time of the streams is over
    (notes / "go").touch()
    answer = everything(slow)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"x-stamp: there" in answer
    assert answer.endswith(b"at last")


def test_slow_requests_outlive_the_streams(serve: Serve, notes: Path) -> None:
    server = serve("faulty:app", *ONE, *LONG, *STREAMS_SOON)
    port = server.port
    clients = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(8)]
    for client in clients:
        client.sendall(f"GET /hold?{notes / 'go'} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    stream = Stream(port, "/stream")
    until(lambda: server.ctl("workers")["workers_list"][0]["in_flight"] == 9, "all to be in flight")
    server.send(signal.SIGTERM)
    assert stream.rest().endswith(b"data: bye\n\n")
    (notes / "go").touch()
    answers = [everything(client) for client in clients]
    assert all(one.startswith(b"HTTP/1.1 200 ") and one.endswith(b"}") for one in answers)
    assert server.ended() == 0


# The app can see it come


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_app_sees_the_shutdown_begin(serve: Serve, number: signal.Signals) -> None:
    """``shardserve_shutdown`` in the lifespan state; long before any stream is told."""
    server = serve("faulty:app", "--workers", "2", *LONG, *STREAMS_LATE)
    streams = [Stream(server.port, "/foretold") for _ in range(6)]
    assert all(one.began == b"waiting\n" for one in streams)
    server.send(number)
    assert all(one.rest() == b"shutting down\n" for one in streams)
    if number == signal.SIGHUP:
        server.saw("^INFO:     reloaded$")
        assert fresh(server.port)["pid"] in server.pids()
    else:
        assert server.ended() == 0
