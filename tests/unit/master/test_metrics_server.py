"""HTTP on the metrics address: requests in, answers out, and no client that can hold the master up.

Time is an argument. What a test sends over loopback has arrived before the next turn; ``turns`` waits for
that, and then for nothing.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import select
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardserve.errors import ListenError
from shardserve.master import metrics_server, scrapes
from shardserve.master.metrics_server import (
    HEAD_MAX_BYTES,
    LINGER_S,
    MOST_CLIENTS,
    PATIENCE_S,
    BadRequest,
    MetricsServer,
    Request,
    Scrape,
)

GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    server = MetricsServer("127.0.0.1:0")
    yield server
    server.close()


@pytest.fixture
def connect(server: MetricsServer) -> Iterator[Connect]:
    """Connections to the server, closed at the end."""
    made = []
    host, port = address_of(server)

    def one() -> socket.socket:
        sock = socket.create_connection((host, port), timeout=10)
        made.append(sock)
        return sock

    yield one
    for sock in made:
        sock.close()


def address_of(server: MetricsServer) -> tuple[str, int]:
    host, _, port = server.pages[0].removeprefix("http://").removesuffix("/metrics").rpartition(":")
    return host, int(port)


def turns(server: MetricsServer, now: float = 0.0) -> list[Scrape]:
    """As many turns as the poll would wake the master up for."""
    found = []
    select.select([server], [], [], 10)
    for _ in range(10_000):
        found += server.turn(now)
        if not wakes(server):
            return found
    raise AssertionError("it wakes up for ever")


def wakes(server: MetricsServer) -> bool:
    return bool(select.select([server], [], [], 0.02)[0])


def ask(server: MetricsServer, sock: socket.socket, data: bytes = GET, now: float = 0.0) -> Scrape:
    sock.sendall(data)
    [scrape] = turns(server, now)
    return scrape


def hear(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection, or its reset."""
    data = b""
    while True:
        try:
            more = sock.recv(1 << 20)
        except ConnectionResetError:
            return data
        if not more:
            return data
        data += more


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def fields_of(answer: bytes) -> dict[str, str]:
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    return dict(line.split(": ", 1) for line in head.split("\r\n")[1:])


# A request and its answer


def test_a_request_and_its_answer(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    scrape = ask(server, sock, b"GET /metrics?a=b HTTP/1.1\r\nHost: a\r\nAccept:  text/plain \r\n\r\n")
    assert (scrape.request.method, scrape.request.path, scrape.request.query) == ("GET", "/metrics", "a=b")
    assert scrape.request.fields == {"host": "a", "accept": "text/plain"}
    scrape.answer(200, b"body", {"Content-Type": "text/plain"})
    answer = hear(sock)
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\nbody")
    fields = fields_of(answer)
    assert fields["Connection"] == "close"
    assert fields["Content-Length"] == "4"
    assert fields["Content-Type"] == "text/plain"
    assert fields["Cache-Control"] == "no-store"
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Date"].endswith(" GMT")


def test_head_has_the_same_fields_and_no_body(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    ask(server, sock, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(200, b"body", {})
    answer = hear(sock)
    assert answer.endswith(b"\r\n\r\n")
    assert fields_of(answer)["Content-Length"] == "4"


def test_a_head_may_come_in_pieces(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    for byte in GET[:-1]:
        sock.sendall(bytes([byte]))
        assert turns(server) == []
    assert ask(server, sock, GET[-1:]).request.path == "/metrics"


def test_an_answer_may_come_later_and_be_large(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    scrape = ask(server, sock)
    body = os.urandom(8 << 20)  # more than fits into the kernel's buffers
    scrape.answer(200, body, {})
    received = bytearray()
    while not received.endswith(body[-100:]):
        server.turn(1.0)
        received += sock.recv(1 << 20)
    assert received.partition(b"\r\n\r\n")[2] == body
    server.turn(1.0)
    assert hear(sock) == b""


def test_whoever_has_shut_down_its_sending_side_is_answered(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    sock.sendall(GET)
    sock.shutdown(socket.SHUT_WR)
    [scrape] = turns(server)
    scrape.answer(200, b"x", {})
    assert status_of(hear(sock)) == 200


def test_a_client_that_has_gone_is_no_problem(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    scrape = ask(server, sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close resets
    sock.close()
    scrape.answer(200, b"x" * (1 << 20), {})
    server.turn(0.0)
    scrape.answer(200, b"again", {})
    assert server.next_deadline() is None


# What is no request


@pytest.mark.parametrize(
    "head",
    [
        b"GET  /metrics HTTP/1.1\r\nHost: a",
        b"GET /metrics HTTP/1.1 \r\nHost: a",
        b" GET /metrics HTTP/1.1\r\nHost: a",
        b"GET /metrics\r\nHost: a",
        b"GET /met\x00rics HTTP/1.1\r\nHost: a",
        b"GET /m\xc3\xa9trics HTTP/1.1\r\nHost: a",
        b"GET metrics HTTP/1.1\r\nHost: a",
        b"GET * HTTP/1.1\r\nHost: a",
        b"GET ?x HTTP/1.1\r\nHost: a",
        b"GET /#x HTTP/1.1\r\nHost: a",
        b"G\x01T / HTTP/1.1\r\nHost: a",
        b"GET / http/1.1\r\nHost: a",
        b"GET / HTTP/1.10\r\nHost: a",
        b"GET / HTTP/1.1",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon",
        b"GET / HTTP/1.1\nHost: a\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0",
    ],
)
def test_what_is_no_request_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest) as found:
        Request(head)
    assert found.value.status in (400, 505)


def test_another_version_is_said_so() -> None:
    with pytest.raises(BadRequest) as found:
        Request(b"GET / HTTP/2.0\r\nHost: a")
    assert found.value.status == 505


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/metrics?name[]=a&b", "/metrics", "name[]=a&b"),
        (b"/?", "/", ""),
        (b"//metrics", "//metrics", ""),
        (b"/%6detrics", "/%6detrics", ""),
        (b"http://127.0.0.1:9100/metrics", "/metrics", ""),
        (b"HTTP://host", "/", ""),
        (b"http://host?x", "/", "x"),
    ],
)
def test_a_target_is_a_path_and_a_query(target: bytes, path: str, query: str) -> None:
    request = Request(b"GET %b HTTP/1.1\r\nHost: a" % target)
    assert (request.path, request.query) == (path, query)


def test_a_field_that_comes_twice_is_one_list() -> None:
    assert Request(b"GET / HTTP/1.0\r\nAccept: a\r\nACCEPT: b").fields == {"accept": "a, b"}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"GET", b" ", b"/", b"?", b"#", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host", b":", b"a", b"\x00"]
        )
        | st.binary(max_size=3),
        max_size=20,
    )
)
def test_any_bytes_are_a_request_or_are_refused(parts: list[bytes]) -> None:
    data = b"".join(parts)
    try:
        request = Request(data)
    except BadRequest:
        return
    assert request.path.startswith("/")
    assert "host" in request.fields or b"HTTP/1.0" in data


def test_a_bad_request_is_answered_and_closed(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    sock.sendall(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    assert turns(server) == []
    answer = hear(sock)
    assert status_of(answer) == 400
    assert fields_of(answer)["Connection"] == "close"


def test_lines_that_end_with_a_bare_lf_are_refused_at_once(server: MetricsServer, connect: Connect) -> None:
    """The empty line that would end the head never comes: the client would wait until we lose patience."""
    sock = connect()
    sock.sendall(b"GET / HTTP/1.1\nHost: a\n\n")
    assert turns(server) == []
    assert status_of(hear(sock)) == 400


def test_empty_lines_before_a_request_are_ignored(server: MetricsServer, connect: Connect) -> None:
    assert ask(server, connect(), b"\r\n\r\n" + GET).request.path == "/metrics"


# Who takes too much


def test_a_huge_head_is_refused(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_MAX_BYTES)
    assert turns(server) == []
    assert status_of(hear(sock)) == 431


def test_a_head_at_the_limit_is_taken(server: MetricsServer, connect: Connect) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    ask(server, connect(), head + b"a" * (HEAD_MAX_BYTES - len(head)) + b"\r\n\r\n")


def test_a_huge_head_in_one_piece_is_refused_too(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * HEAD_MAX_BYTES + b"\r\n\r\n")
    assert turns(server) == []
    assert status_of(hear(sock)) == 431


def test_who_says_nothing_is_dropped(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    assert turns(server, now=5.0) == []
    assert server.next_deadline() == 5.0 + PATIENCE_S
    server.turn(5.0 + PATIENCE_S)
    assert hear(sock) == b""
    assert server.next_deadline() is None


def test_who_sends_its_head_too_slowly_is_dropped(server: MetricsServer, connect: Connect) -> None:
    """However it spreads the bytes: the time is for the whole head."""
    sock = connect()
    for second in range(int(PATIENCE_S)):
        sock.sendall(GET[second : second + 1])
        assert turns(server, now=float(second)) == []
    server.turn(PATIENCE_S)
    assert hear(sock) == b""


def test_who_does_not_read_its_answer_is_dropped(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    ask(server, sock).answer(200, b"x" * (32 << 20), {})
    server.turn(0.0)
    assert server.next_deadline() == PATIENCE_S
    server.turn(PATIENCE_S)
    assert server.next_deadline() is None


def test_who_does_not_hang_up_is_dropped(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    ask(server, sock).answer(200, b"x", {})
    assert server.next_deadline() == LINGER_S
    server.turn(LINGER_S)
    assert status_of(hear(sock)) == 200
    assert server.next_deadline() is None


def test_what_comes_behind_the_request_is_dropped(server: MetricsServer, connect: Connect) -> None:
    """Pipelined requests and bodies; and it must not cost the client its answer."""
    sock = connect()
    scrape = ask(server, sock, GET + GET + b"x" * 10_000)
    scrape.answer(200, b"once", {})
    sock.sendall(GET * 100)
    assert turns(server) == []
    answer = hear(sock)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"once")


def test_who_never_stops_sending_is_cut(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    ask(server, sock).answer(200, b"x", {})
    sock.setblocking(False)
    for _ in range(10_000):
        with suppress(BlockingIOError, ConnectionError):
            sock.send(b"x" * 65536)
        server.turn(0.0)
        if server.next_deadline() is None:
            break
    assert server.next_deadline() is None  # long before its time was over


# Many of them


def test_connections_that_say_nothing_do_not_keep_a_scrape_out(
    server: MetricsServer, connect: Connect
) -> None:
    first = connect()
    turns(server, now=0.0)
    others = [connect() for _ in range(MOST_CLIENTS - 1)]
    turns(server, now=1.0)
    scrape = ask(server, connect(), now=2.0)
    assert scrape.request.path == "/metrics"
    assert hear(first) == b""  # the one that had been silent longest
    others[0].sendall(GET)  # the others are still there
    assert len(turns(server, now=2.0)) == 1


def test_a_flood_is_answered(server: MetricsServer, connect: Connect) -> None:
    socks = [connect() for _ in range(3 * MOST_CLIENTS)]
    answered = 0
    for sock in socks:
        sock.sendall(GET)
    for _ in range(10):
        for scrape in server.turn(0.0):
            scrape.answer(200, b"x", {})
            answered += 1
    assert answered == len(socks)
    assert len(server._clients) <= MOST_CLIENTS


def test_without_descriptors_it_waits_a_second(
    server: MetricsServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    sock = connect()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd"))) + 1
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
        while True:
            try:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        assert server.turn(0.0) == []
        assert not wakes(server)
        assert server.next_deadline() == 1.0
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "cannot accept" in caplog.text
    sock.sendall(GET)
    assert server.turn(0.9) == []
    assert len([*server.turn(1.0), *server.turn(1.0)]) == 1


# The address


def test_an_address_that_is_taken_is_a_listen_error(server: MetricsServer) -> None:
    host, port = address_of(server)
    with pytest.raises(ListenError, match=rf"metrics: cannot listen on {host}:{port}: .* in use"):
        MetricsServer(f"{host}:{port}")


def test_its_end_frees_the_address(server: MetricsServer, connect: Connect) -> None:
    sock = connect()
    ask(server, sock)
    host, port = address_of(server)
    server.close()
    server.close()
    assert hear(sock) == b""
    again = MetricsServer(f"{host}:{port}")
    again.close()


def test_a_port_alone_is_on_loopback() -> None:
    server = MetricsServer("0")
    assert server.pages[0].startswith("http://127.0.0.1:")
    server.close()


def test_a_unix_socket_is_for_its_user_and_group(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    server = MetricsServer(f"unix:{path}")
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert server.pages == [f"unix:{path}"]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            ask(server, sock).answer(200, b"x", {})
            assert status_of(hear(sock)) == 200
        with pytest.raises(ListenError, match="in use"):
            MetricsServer(f"unix:{path}")
    finally:
        server.close()
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("text")
    with pytest.raises(ListenError, match="not a socket"):
        MetricsServer(f"unix:{path}")
    assert path.read_text() == "text"


# What the paths answer


class Nothing:
    """A supervisor that nobody may look into."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"there is no {name}")


def answered(
    server: MetricsServer, sock: socket.socket, data: bytes, supervisor: Any = None
) -> tuple[int, dict[str, str], bytes]:
    scrape = ask(server, sock, data)
    scrapes._answer(supervisor or Nothing(), scrape, 0.0)
    answer = hear(sock)
    return status_of(answer), fields_of(answer), answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/%6detrics", "/../metrics", "/index.html"])
def test_other_paths_are_not_there(server: MetricsServer, connect: Connect, path: str) -> None:
    status, _, body = answered(server, connect(), b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
    assert status == 404
    assert b"/metrics" in body  # and says what is


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"])
def test_other_methods_are_not_allowed(server: MetricsServer, connect: Connect, method: str) -> None:
    head = b"%b /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % method.encode()
    status, fields, _ = answered(server, connect(), head)
    assert (status, fields["Allow"]) == (405, "GET, HEAD")


def test_an_error_of_ours_is_a_500_and_a_line_in_the_log(
    server: MetricsServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    status, _, body = answered(server, connect(), GET)
    assert status == 500
    assert b"log" in body
    assert "there is no crew" in caplog.text


def test_the_page_may_run_its_own_script_and_nothing_else(server: MetricsServer, connect: Connect) -> None:
    status, fields, body = answered(server, connect(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, fields["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert fields["Content-Security-Policy"] == scrapes.policy(body.decode())
    assert "default-src 'none'; script-src 'sha256-" in fields["Content-Security-Policy"]
    assert "unsafe" not in fields["Content-Security-Policy"]
    assert "Content-Encoding" not in fields


def test_the_policy_names_inline_blocks_by_their_hash() -> None:
    page = "<!-- a <style> and a <script> --><style>a {}</style><script>\nalert(1);\n</script>"
    # printf 'a {}' | openssl dgst -sha256 -binary | base64; the same of the script
    style = "sha256-mkSHzL7faOU7/U/v8Umg+058R69+vN2A2xmE3Fz1q98="
    script = "sha256-L+t9q3v5LeakHkwTJJlqwHiLsxVtqG4eOt8NDvhN6eg="
    found = scrapes.policy(page).split("; ")
    assert found[:3] == ["default-src 'none'", f"script-src '{script}'", f"style-src '{style}'"]
    assert "frame-ancestors 'none'" in found


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
def test_a_large_body_is_compressed_for_who_takes_that(
    server: MetricsServer, connect: Connect, accepted: str, compressed: bool
) -> None:
    head = f"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accepted}\r\n\r\n".encode()
    _, fields, body = answered(server, connect(), head)
    assert (fields.get("Content-Encoding") == "gzip") is compressed
    assert len(body) == int(fields["Content-Length"])
    text = gzip.decompress(body) if compressed else body
    assert text.startswith(b"<!doctype html>")


class History:
    def to_json(self, since: int | None) -> dict[str, Any]:
        return {"since": since}


@pytest.mark.parametrize(
    ("query", "since"),
    [
        (b"", None), (b"?since=17", 17), (b"?since=", None), (b"?since=-1", None), (b"?since=\xd9\xa1", None),
        (b"?since=1e9", None), (b"?since=" + b"9" * 5000, None), (b"?other=1&since=3", 3),
    ],
)  # fmt: skip
def test_the_status_begins_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch,
    server: MetricsServer,
    connect: Connect,
    query: bytes,
    since: int | None,
) -> None:
    class Status:
        def to_json(self) -> dict[str, Any]:
            return {"version": "1"}

    class Supervisor:
        history = History()

    monkeypatch.setattr(scrapes.report, "server_status", lambda supervisor, now: Status())
    head = b"GET /status.json%b HTTP/1.1\r\nHost: a\r\n\r\n" % query
    if b"\xd9" in query:
        assert status_of(bad(server, connect(), head)) == 400
        return
    status, fields, body = answered(server, connect(), head, Supervisor())
    assert (status, fields["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"version": "1", "history": {"since": since}}


def bad(server: MetricsServer, sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    assert turns(server) == []
    return hear(sock)


def test_nothing_of_it_is_imported_without_metrics() -> None:
    """prometheus_client is 6 MiB, which a server without --metrics does not pay for."""
    import subprocess
    import sys

    code = "import sys, shardserve.master.serve; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert metrics_server.__doc__  # it is there, only not asked for
