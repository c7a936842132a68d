"""The demo app through curl: every endpoint, every way in which people try a server out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from shardserve import demo
from tests.helpers.chromium import Chromium, needs_chromium
from tests.helpers.curl import command, curl, needs_curl, needs_curl_with_http2
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import ServerProcess

pytestmark = needs_curl

LARGE = os.urandom(3_000_001)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("demo")
    with ServerProcess(folder, "shardserve.demo:app", "--workers", "2", app_dir=None) as server:
        yield server


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    return path


def test_the_tests_below_know_every_endpoint() -> None:
    assert set(demo.ROUTES) == {"/", "/whoami", "/json", "/echo", "/stream", "/events", "/ws", "/health"}


def test_the_page(server: ServerProcess) -> None:
    answer = curl(server.url)
    assert (answer.status, answer.version) == (200, "1.1")
    assert answer.body == demo.PAGE
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["server"] == "shardserve"


def test_whoami(server: ServerProcess) -> None:
    found = json.loads(curl(f"{server.url}/whoami").body)
    assert found["pid"] in server.pids()
    assert found["cores"] == [found["core"]]
    assert found["requests"] >= 1


def test_whoami_new_closes_the_connection(server: ServerProcess) -> None:
    answer = curl(f"{server.url}/whoami?new", f"{server.url}/whoami?new")
    assert answer.headers["connection"] == "close"
    assert answer.connects == [1, 1]


@pytest.mark.parametrize(
    ("path", "found"), [("/json", {"message": "Hello, World!"}), ("/health", {"status": "ok"})]
)
def test_json(server: ServerProcess, path: str, found: dict[str, str]) -> None:
    assert json.loads(curl(server.url + path).body) == found


def test_one_connection_for_several_urls(server: ServerProcess) -> None:
    answer = curl(f"{server.url}/json", f"{server.url}/whoami", f"{server.url}/health")
    assert answer.connects == [1, 0, 0]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_echo(server: ServerProcess, method: str) -> None:
    answer = curl("--request", method, "--data", "some=data", f"{server.url}/echo")
    assert (answer.status, answer.body) == (200, b"some=data")
    assert answer.headers["content-type"] == "application/octet-stream"


def test_echo_of_a_large_body(server: ServerProcess, large: Path) -> None:
    answer = curl("--data-binary", f"@{large}", "--header", "Expect:", f"{server.url}/echo")
    assert answer.body == LARGE
    assert answer.headers["content-length"] == str(len(LARGE))


def test_echo_of_a_chunked_body(server: ServerProcess) -> None:
    answer = curl("--upload-file", "-", "--header", "Expect:", f"{server.url}/echo", stdin=LARGE)
    assert "> Transfer-Encoding: chunked" in answer.verbose
    assert answer.body == LARGE
    assert answer.headers["transfer-encoding"] == "chunked"


def test_expect_100_continue(server: ServerProcess, large: Path) -> None:
    answer = curl("--data-binary", f"@{large}", "--header", "Expect: 100-continue", f"{server.url}/echo")
    assert "< HTTP/1.1 100 Continue" in answer.verbose
    assert answer.status == 200
    assert answer.body == LARGE


def test_stream(server: ServerProcess) -> None:
    lines = curl("--no-buffer", f"{server.url}/stream").text.splitlines()
    assert [line.partition(" from ")[0] for line in lines] == [f"part {n} of 10" for n in range(1, 11)]
    assert len({line.partition(" from ")[2] for line in lines}) == 1


def test_events_go_on_until_curl_goes(server: ServerProcess) -> None:
    since = len(server.log())
    before = server.connections()
    arguments = command("--no-buffer", f"{server.url}/events")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        lines = [client.stdout.readline() for _ in range(4)]
        client.terminate()
    assert [line[:6] for line in lines] == ["data: ", "\n", "data: ", "\n"]
    assert json.loads(lines[2][6:])["pid"] in server.pids()
    until(lambda: server.connections() <= before, "the connection to go")
    assert server.log(since) == ""


def test_ws_says_what_it_needs(server: ServerProcess) -> None:
    answer = curl(f"{server.url}/ws")
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")


def open_websocket(server: ServerProcess, path: str = "/ws") -> Any:
    url = server.url.replace("http", "ws", 1) + path
    return connect(url, proxy=None, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S, max_size=None)


def test_a_websocket(server: ServerProcess) -> None:
    with open_websocket(server) as client:
        hello = json.loads(client.recv(PATIENCE_S))
        assert hello["pid"] in server.pids()
        assert hello["websockets"] == 1
        client.send("some text")
        answer = {"echo": "some text", "message": 1, "pid": hello["pid"]}
        assert json.loads(client.recv(PATIENCE_S)) == answer
        client.send(LARGE)
        assert client.recv(PATIENCE_S) == LARGE
    server.saw_access(r'"WebSocket /ws" \[accepted\]$')


def test_a_websocket_elsewhere_is_not_found(server: ServerProcess) -> None:
    with pytest.raises(InvalidStatus) as refused, open_websocket(server, "/json"):
        pass
    answer = refused.value.response
    assert answer.status_code == 404
    assert json.loads(answer.body or b"") == {"error": "not found", "path": "/json"}
    server.saw_access(r'"WebSocket /json" 404$')


def test_a_reload_moves_a_websocket_to_the_next_worker(tmp_path: Path) -> None:
    flags = ("--workers", "1", "--timeout-drain-streams", "0")
    with ServerProcess(tmp_path / "server", "shardserve.demo:app", *flags, app_dir=None) as server:
        with open_websocket(server) as client:
            before = json.loads(client.recv(PATIENCE_S))["pid"]
            server.send(signal.SIGHUP)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        with open_websocket(server) as client:
            assert json.loads(client.recv(PATIENCE_S))["pid"] != before


@needs_chromium
def test_the_page_talks_to_each_worker_in_turn(tmp_path: Path) -> None:
    """Also: what comes back from the server is text there, and never HTML."""
    flags = ("--workers", "1", "--timeout-drain-streams", "0")
    with (
        Chromium() as browser,
        ServerProcess(tmp_path / "server", "shardserve.demo:app", *flags, app_dir=None) as server,
    ):
        page = browser.open(f"{server.url}/")

        def noted(text: str) -> None:
            until(lambda: text in page.value("document.querySelector('#talk').textContent"), text)

        (pid,) = server.pids()
        noted(f"connected to pid {pid}")
        until(lambda: f"pid {pid}" in page.value("document.querySelector('#state').textContent"), "an answer")
        page.run(
            "document.querySelector('#words').value = args[0]; document.querySelector('#say').click();", "<b>"
        )
        noted(f"pid {pid} says: <b>")
        assert page.value("document.querySelector('#talk b')") is None
        server.send(signal.SIGHUP)
        noted("closed with 1012 (restart), connecting again")
        until(lambda: server.pids() and pid not in server.pids(), "the old worker to go")
        (pid,) = server.pids()
        noted(f"connected to pid {pid}")


def test_not_found_and_not_allowed(server: ServerProcess) -> None:
    answer = curl(f"{server.url}/nowhere?x=<b>")
    assert (answer.status, json.loads(answer.body)["path"]) == (404, "/nowhere")
    answer = curl("--request", "DELETE", f"{server.url}/json")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/whoami", "/json", "/stream", "/events", "/health"])
def test_head(server: ServerProcess, path: str) -> None:
    answer = curl("--head", server.url + path)
    assert answer.status == 200
    # curl --head prints the head as its output; there is nothing behind it.
    assert answer.body.endswith(b"\r\n\r\n")
    assert answer.body.count(b"\r\n\r\n") == 1


def test_http_1_0(server: ServerProcess, large: Path) -> None:
    answer = curl("--http1.0", f"{server.url}/json")
    assert json.loads(answer.body) == {"message": "Hello, World!"}
    stream = curl("--http1.0", f"{server.url}/stream")
    assert len(stream.text.splitlines()) == 10
    assert "transfer-encoding" not in stream.headers
    echo = curl("--http1.0", "--data-binary", f"@{large}", "--header", "Expect:", f"{server.url}/echo")
    assert echo.body == LARGE
    assert all(one.headers.get("connection") == "close" for one in (answer, stream, echo))


@needs_curl_with_http2
def test_http_2_prior_knowledge_is_refused_politely(server: ServerProcess) -> None:
    arguments = command("--http2-prior-knowledge", "--write-out", "%{http_code}", f"{server.url}/json")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert json.loads(curl("--http2", f"{server.url}/json").body) == {"message": "Hello, World!"}


def test_below_a_root_path(tmp_path: Path) -> None:
    flags = ("--workers", "1", "--root-path", "/demo")
    with ServerProcess(tmp_path / "server", "shardserve.demo:app", *flags, app_dir=None) as server:
        assert json.loads(curl(f"{server.url}/health").body) == {"status": "ok"}
