"""Each limit as a user sets it: by its flag, with a real server; the answer, the end, the line in the log.

Rules of this file: the log tells of one refusal a second and counts the others, so a test that wants to read
a line asks until there is one about its own connection. tests/conformance/test_limits.py is about exactness.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.http1 import Client, Response, chunked, get, post
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.refusals import is_refusal
from tests.helpers.server import Serve, ServerProcess

ROOT = Path(__file__).parents[2]
APP = "tests.helpers.slow:app"
ONE = ("--workers", "1", "--no-access-log")
LIMITS = (
    "--limit-request-line", "300", "--limit-request-fields", "10", "--limit-request-field-size", "400",
    "--limit-request-head", "1000", "--limit-request-body", "500", "--underscore-headers", "reject",
    "--timeout-request-head", "1",
)  # fmt: skip
KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20


def line(length: int) -> bytes:
    return get(b"/?" + b"q" * (length - len(b"GET /? HTTP/1.1")))


def fields(count: int) -> bytes:
    return get("/", *[b"X-%d: 1" % number for number in range(count - 1)])


def field(length: int) -> bytes:
    return get("/", b"X-Long: " + b"x" * (length - len(b"X-Long") - 4))


def head(length: int) -> bytes:
    lines = [b"X-%d: %s" % (number, b"x" * 300) for number in range(3)]
    bare = len(get("/", *lines, b"X-4: ")) - len(b"GET / HTTP/1.1\r\n")
    return get("/", *lines, b"X-4: " + b"x" * (length - bare))


# What is at the limit, what is above it, and what becomes of that.
CASES = {
    "line": (line(300), line(301), 414),
    "fields": (fields(10), fields(11), 431),
    "field": (field(400), field(401), 431),
    "head": (head(1000), head(1001), 431),
    "body": (post(b"x" * 500, target=b"/upload"), post(b"x" * 501, target=b"/upload"), 413),
    "chunks": (chunked(b"x" * 500, target=b"/upload"), chunked(b"x" * 501, target=b"/upload"), 413),
    "underscore": (get("/", b"X-A: 1"), get("/", b"X_A: 1"), 400),
    "escapes": (get("/?%1b"), b"GET /\x1b[31m\n HTTP/1.1\r\n\r\n", 400),
    "late head": (get(), b"GET / HTTP/1.1\r\nHost: x", 408),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("limits")
    with ServerProcess(folder, APP, *ONE, *LIMITS, app_dir=ROOT) as server:
        yield server


def connect(server: ServerProcess) -> Client:
    client = Client(socket.create_connection(("127.0.0.1", server.port)))
    client.sock.settimeout(PATIENCE_S)
    return client


def refusal(server: ServerProcess, request: bytes, status: int) -> tuple[Response, int]:
    """The refusal of this request, and the port of its client."""
    with connect(server) as client:
        client.send(request)
        response = client.response()
        is_refusal(response, status)
        client.assert_closed()
        port: int = client.sock.getsockname()[1]
    return response, port


def logged(server: ServerProcess, port: int, response: Response) -> bool:
    """Whether there is a line about this client, with the status, and the reason that the client was told."""
    said = f"{response.status} {response.reason.decode()}: {response.body.decode()}"
    wanted = (
        rf"^WARNING:  \[worker 0, pid \d+\] Rejected a request from 127\.0\.0\.1:{port}: {re.escape(said)}"
    )
    return re.search(wanted + r"(?: \(\d+ more since the last such line\))?$", server.log(), re.M) is not None


@pytest.mark.parametrize("case", CASES)
def test_at_the_limit(server: ServerProcess, case: str) -> None:
    with connect(server) as client:
        response = client.ask(CASES[case][0])
        assert (response.status, response.closes) == (200, False)
        assert client.ask(get()).status == 200


@pytest.mark.parametrize("case", CASES)
def test_above_the_limit(server: ServerProcess, case: str) -> None:
    """The client hears why, and so does who reads the log: which client it was, and why."""
    _, request, status = CASES[case]

    def told() -> bool:
        response, port = refusal(server, request, status)
        return logged(server, port, response)

    until(told, "a line about one of these")
    assert not re.search(r"[^\n -~]", server.log())


def counted(log: str) -> tuple[int, int]:
    """The lines about refusals, and how many they tell of."""
    lines = [line for line in log.splitlines() if line.startswith("WARNING:")]
    singles = sum("Rejected a request from" in line for line in lines)
    return len(lines), singles + sum(int(found) for found in re.findall(r"(\d+) more ", "\n".join(lines)))


def test_a_flood_of_refusals_is_one_line_a_second(serve: Serve) -> None:
    """And none is forgotten: the rest is counted."""
    server = serve(APP, *ONE, *LIMITS, app_dir=ROOT)
    began = time.monotonic()
    sent = 0
    while sent < 500 or time.monotonic() < began + 2.5:
        refusal(server, line(301), 414)
        sent += 1
    took_s = time.monotonic() - began
    server.stop()
    lines, told = counted(server.log())
    print(f"{sent} refusals in {took_s:.1f} s: {lines} lines")
    assert told == sent
    assert 2 <= lines <= took_s + 3  # the first, one for each second begun, and the last word


def test_a_client_of_a_unix_socket_is_a_local_one(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve(APP, *ONE, *LIMITS, "--uds", str(path), app_dir=ROOT)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    with Client(sock) as client:
        client.send(line(301))
        is_refusal(client.response(), 414)
        client.assert_closed()
    server.saw(r"Rejected a request from a local client: 414 [-A-Za-z ]+: [ -~]+$")


# Those that are about connections


def test_the_last_request_of_a_connection_says_close(serve: Serve) -> None:
    server = serve(APP, *ONE, "--limit-keep-alive-requests", "3", app_dir=ROOT)
    for _ in range(2):
        with connect(server) as client:
            client.send(get() * 5)
            responses = client.responses(3)
            assert [response.closes for response in responses] == [False, False, True]
            client.assert_closed()
    server.stop()
    assert "drained: 6 served" in server.log()
    assert "WARNING" not in server.log()


def test_connections_beyond_the_limit(serve: Serve) -> None:
    """Turned away with a whole answer, as long as it is full; and there is room again when one has gone."""
    server = serve(APP, *ONE, "--limit-connections", "5", app_dir=ROOT)
    inside = [connect(server) for _ in range(5)]
    assert [client.ask(get()).status for client in inside] == [200] * 5
    ports = []
    for number in range(10):
        with connect(server) as client:
            if number % 2:
                client.send(get())  # as every ordinary client does; it must not cost the answer
            response = client.response()
            is_refusal(response, 503)
            assert response.one(b"retry-after")
            client.assert_closed()
            ports.append(client.sock.getsockname()[1])
    assert [client.ask(get()).status for client in inside] == [200] * 5
    assert logged(server, ports[0], response)
    inside.pop().close()

    def admitted() -> bool:
        with connect(server) as client:
            client.send(get())
            return client.response().status == 200

    until(admitted, "room for another one")
    for client in inside:
        client.close()


@pytest.mark.parametrize("limit", ["1024", "16MiB"])
def test_what_is_pipelined(serve: Serve, notes: Path, limit: str) -> None:
    """Above the limit a client has to wait with what it has to say, and nobody is refused."""
    server = serve("faulty:app", *ONE, "--limit-pipelined", limit, "--loop-lag-warn", "0")
    request = get("/", b"X-Pad: " + b"x" * (32 * KIBIBYTE))
    with connect(server) as client:
        client.send(get(f"/hold?{notes / 'go'}"))
        until(lambda: server.ctl("status")["workers_list"][0]["in_flight"] == 1, "the request to be running")
        number, rest = 0, request
        client.sock.settimeout(2)
        try:
            while number < 448:  # 14 MiB: more than the kernel holds
                rest = rest[client.sock.send(rest) :]
                if not rest:
                    number, rest = number + 1, request
        except TimeoutError:
            pass
        client.sock.settimeout(PATIENCE_S)
        assert (number < 448) == (limit == "1024")
        (notes / "go").touch()
        client.send(rest)
        assert [response.status for response in client.responses(number + 2)] == [200] * (number + 2)
    server.stop()
    assert "WARNING" not in server.log()
