"""The rest of the server over HTTP/2: logs, figures, files, limits, WSGI, proxies, other ways to start it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import shardserve
from tests.apps.h2_app import pattern
from tests.e2e.test_metrics import ON_LOOPBACK, scrape
from tests.helpers.certificates import Authority
from tests.helpers.front import haproxy, needs_haproxy
from tests.helpers.h2_load import connected
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import APPS, Serve, ServerProcess

pytestmark = needs_nghttp2

APP = "h2_app:app"
ONE = ("--workers", "1", "--http2-cleartext")
BIG = 1_500_001
MEDIUM = 300_001


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One that nothing is asked of but to serve."""
    with ServerProcess(tmp_path_factory.mktemp("server"), APP, *ONE) as server:
        yield server


# What it tells of itself


def test_the_access_log_says_http2(server: ServerProcess) -> None:
    with connected(server.port) as client:
        client.ask("/?in-the-log")
    [line] = server.saw_access(r"\?in-the-log")
    assert re.fullmatch(r'INFO:     127\.0\.0\.1:\d+ - "GET /\?in-the-log HTTP/2" 200 OK', line)


def test_json_log_of_multiplexed_requests(serve: Serve) -> None:
    server = serve(APP, *ONE, "--access-log-format", "json", "--request-id-header", "x-request-id")
    with connected(server.port) as client:
        streams = [
            client.open(f"/large?{size}", headers=[("x-request-id", f"id-{size}")])
            for size in (10, 20_000, 200_000)
        ]
        assert [client.answer(one).headers["x-request-id"] for one in streams] == [
            "id-10", "id-20000", "id-200000",
        ]  # fmt: skip
    lines = [json.loads(one) for one in server.saw_access(r"/large", times=3)]
    assert {(one["request_id"], one["response_bytes"]) for one in lines} == {
        ("id-10", 10), ("id-20000", 20_000), ("id-200000", 200_000),
    }  # fmt: skip
    assert {(one["http_version"], one["method"], one["status"]) for one in lines} == {("2", "GET", 200)}


def test_the_metrics_count_requests_not_connections(serve: Serve) -> None:
    server = serve(APP, *ONE, *ON_LOOPBACK)
    with connected(server.port) as client:
        streams = [client.open("/large?1000") for _ in range(10)]
        streams += [client.open(body=b"x" * 500) for _ in range(5)]
        for one in streams:
            client.answer(one)
        client.ask("/status?404")
        figures = scrape(server)
    assert figures("requests_total", method="GET", status="2xx") == 10
    assert figures("requests_total", method="POST", status="2xx") == 5
    assert figures("requests_total", method="GET", status="4xx") == 1
    assert figures("connections_accepted_total") == 1
    assert figures("connection_reuses_total") == 15
    assert figures("request_body_bytes_sum") == 2500
    assert figures("request_duration_seconds_count") == 16
    assert figures("app_errors_total") == 0


def test_top_and_ctl_show_streams_as_requests(serve: Serve, notes: Path, tmp_path: Path) -> None:
    server = serve(APP, *ONE)
    with connected(server.port) as client:
        streams = [client.open(f"/hold?{number}") for number in range(5)]
        until(lambda: (server.ctl("workers")["workers_list"][0]["in_flight"]) == 5, "five requests in flight")
        top = [sys.executable, "-m", "shardserve", "top", "--once", "--pid", str(server.pid)]
        env = {**os.environ, "RUNTIME_DIRECTORY": str(server.runtime)}
        shown = subprocess.run(top, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert re.search(r"^\s*0 .*\b5\b", shown.stdout, re.MULTILINE), shown.stdout
        (notes / "go").touch()
        for one in streams:
            client.answer(one)
    until(lambda: server.ctl("status")["requests"] == 5, "them to be counted")


# What it serves


def test_static_files(serve: Serve, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "big.bin").write_bytes(pattern(BIG))
    server = serve(APP, *ONE, "--static", f"/files={site}")
    with connected(server.port) as client:
        streams = [client.open("/files/big.bin") for _ in range(3)]
        assert all(client.answer(one).body == pattern(BIG) for one in streams)
        part = client.ask("/files/big.bin", headers=[("range", "bytes=1000000-1099999")])
        assert (part.status, bytes(part.body)) == (206, pattern(BIG)[1_000_000:1_100_000])
        same = client.ask("/files/big.bin", headers=[("if-none-match", streams[0].headers["etag"])])
        assert (same.status, bytes(same.body)) == (304, b"")
        head = client.ask("/files/big.bin", method="HEAD")
        assert (head.status, head.headers["content-length"], bytes(head.body)) == (200, str(BIG), b"")
        assert client.ask("/files/none").status == 404
        assert client.ask("/").status == 200


def test_limits_of_requests_apply(serve: Serve) -> None:
    limits = ("--limit-request-body", "1000", "--limit-request-line", "300", "--limit-request-fields", "20")
    server = serve(APP, *ONE, *limits)
    with connected(server.port) as client:
        assert client.ask(body=b"x" * 1000).json()["size"] == 1000
        assert client.ask(headers=[("content-length", "1001")], body=b"x" * 1001).status == 413
        assert client.ask("/?" + "x" * 400).status == 414
        assert client.ask(headers=[(f"x-{number}", "1") for number in range(30)]).status == 431
        assert client.ask().status == 200
        assert client.goaways == []


def test_wsgi(serve: Serve) -> None:
    server = serve("wsgi_flask:app", *ONE, quiet=False)
    with connected(server.port) as client:
        told = client.ask("/items/42?a=1&a=2")
        assert json.loads(told.body)["query"] == [["a", "1"], ["a", "2"]]
        sent = client.ask("/json", body=b'{"n": 1}', headers=[("content-type", "application/json")])
        assert (sent.status, json.loads(sent.body)) == (201, {"got": {"n": 1}})
        streams = [client.open(f"/items/{number}") for number in range(30)]
        assert [json.loads(client.answer(one).body)["id"] for one in streams] == list(range(30))
    server.saw_access(r'"GET /items/29 HTTP/2" 200', times=1)


def test_on_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = serve(APP, *ONE, "--uds", str(path))
    with connected(path) as client:
        told = client.ask(body=b"x" * MEDIUM).json()
        assert (told["client"], told["size"], told["http_version"]) == (None, MEDIUM, "2")
    server.stop()


def test_root_path(serve: Serve) -> None:
    server = serve(APP, *ONE, "--root-path", "/api")
    with connected(server.port) as client:
        told = client.ask("/?x").json()
    assert (told["root_path"], told["path"], told["raw_path"]) == ("/api", "/api/", "/api/")


# Proxies


def test_forwarded_fields(server: ServerProcess) -> None:
    fields = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")]
    with connected(server.port) as client:
        told, other = client.ask(headers=fields).json(), client.ask().json()
    assert (told["client"], told["scheme"]) == (["203.0.113.9", 0], "https")
    assert (other["client"][0], other["scheme"]) == ("127.0.0.1", "http")


def test_the_proxy_protocol_before_the_preface(serve: Serve) -> None:
    server = serve(APP, *ONE, "--proxy-protocol", "auto")
    addresses = bytes([203, 0, 113, 9, 198, 51, 100, 1]) + struct.pack("!HH", 56324, 443)
    binary = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, 12) + addresses
    for header in (b"PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\n", binary):
        with connected(server.port, before=header) as client:
            for told in (client.ask().json(), client.ask().json()):
                assert (told["client"], told["http_version"]) == (["203.0.113.9", 56324], "2")


def test_the_proxy_protocol_before_a_handshake(serve: Serve, authority: Authority) -> None:
    files = authority.issue("localhost", file="proxied")
    server = serve(APP, "--workers", "1", "--http2", "--proxy-protocol", "v1", *files.flags)
    port = int(server.urls[0].rpartition(":")[2])
    line = b"PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\n"
    with connected(port, authority.client_context(), before=line) as client:
        told = client.ask().json()
    assert (told["client"], told["scheme"], told["http_version"]) == (["203.0.113.9", 56324], "https", "2")


@needs_haproxy
def test_behind_haproxy(serve: Serve, tmp_path: Path) -> None:
    """It speaks HTTP/2 to the server, whatever its clients speak to it; and its PROXY header before."""
    server = serve(APP, "--workers", "2", "--http2-cleartext", "--proxy-protocol", "v2")
    backend = f"server app 127.0.0.1:{server.port} proto h2 send-proxy-v2"
    front = haproxy(tmp_path / "haproxy", backend, mode="http")
    limits = httpx.Limits(max_connections=8)
    with front as port, httpx.Client(trust_env=False, timeout=PATIENCE_S, limits=limits) as client:
        url = f"http://127.0.0.1:{port}"
        for size in (0, 1, 70_000, MEDIUM):
            told = client.post(f"{url}/?q", content=b"x" * size).json()
            assert (told["http_version"], told["size"], told["query"]) == ("2", size, "q")
            assert told["server"] == ["127.0.0.1", port]
            assert client.get(f"{url}/large?{size}").content == pattern(size)
        assert client.get(f"{url}/status?404").status_code == 404
        assert client.head(f"{url}/large?{MEDIUM}").headers["content-length"] == str(MEDIUM)
        assert client.get(f"{url}/hints").text == "between hint and trailer"


# Other ways to start it


def test_embedded(authority: Authority) -> None:
    """``shardserve.Server`` in a program of its own."""
    files = authority.issue("localhost", "127.0.0.1", file="embedded")

    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": str(scope["http_version"]).encode()})  # type: ignore[operator]

    async def test() -> None:
        tls = {"ssl_certfile": str(files.cert), "ssl_keyfile": str(files.key)}
        config = shardserve.Config(app, port=0, log_config=None, lifespan="off", http2=True, **tls)
        server = shardserve.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        url = f"https://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
        context = authority.client_context()
        async with httpx.AsyncClient(http2=True, verify=context, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get(url) for _ in range(20)))
        assert {(one.http_version, one.text) for one in answers} == {("HTTP/2", "2")}
        assert server.server_state.total_requests == 20
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE_S)

    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE_S))


def test_in_gunicorn(tmp_path: Path) -> None:
    """``-k shardserve.ShardWorker``, told by gunicorn's own settings."""
    pytest.importorskip("gunicorn", "25")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    port = listener.getsockname()[1]
    command = [
        sys.executable, "-m", "gunicorn", "h2_app:app", "-k", "shardserve.ShardWorker", "--no-control-socket",
        "--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge", "--chdir", str(APPS),
        "--bind", f"fd://{listener.fileno()}",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        with connected(port) as client:
            assert client.ask().json()["http_version"] == "2"
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as http1:
            assert http1.get(f"http://127.0.0.1:{port}/").json()["http_version"] == "1.1"
    except BaseException as error:
        error.add_note((tmp_path / "log").read_text()[-3000:])
        raise
    finally:
        listener.close()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
