"""WSGI on a real server: Flask, Django and bare apps; and ASGI 2. The adapter alone: tests/unit/asgi."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.helpers.curl import curl, needs_curl
from tests.helpers.master_process import until
from tests.helpers.server import Ended, Serve, ServerProcess, client_of

FILE = os.urandom(300_001)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wsgi-notes")
    (folder / "data.bin").write_bytes(FILE)
    return folder


def started(tmp_path_factory: pytest.TempPathFactory, shared: Path, app: str) -> ServerProcess:
    folder = tmp_path_factory.mktemp("wsgi")
    return ServerProcess(folder, app, "--workers", "1", env={"NOTES": str(shared)}, quiet=False)


@pytest.fixture(scope="module")
def flask(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with started(tmp_path_factory, shared, "wsgi_flask:app") as server:
        yield server


@pytest.fixture(scope="module")
def django(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with started(tmp_path_factory, shared, "wsgi_django:app") as server:
        yield server


@pytest.fixture(scope="module")
def plain(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with started(tmp_path_factory, shared, "wsgi_plain:app") as server:
        yield server


@pytest.fixture(scope="module")
def client(flask: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(flask) as client:
        yield client


# Flask


def test_flask_is_found_out_and_the_log_says_so(flask: ServerProcess) -> None:
    assert "The app speaks WSGI: 10 threads run it in each worker (--wsgi-threads)." in flask.log()
    assert "lifespan" not in flask.log()


def test_routes_queries_json_and_hooks(client: httpx.Client) -> None:
    answer = client.get("/items/42", params=[("a", "1"), ("a", "é&="), ("empty", "")])
    assert answer.json() == {
        "id": 42,
        "query": [["a", "1"], ["a", "é&="], ["empty", ""]],
        "path": "/items/42",
    }
    assert answer.headers["x-stamp"] == "/items/42"
    answer = client.post("/json", json={"name": "ünï"})
    assert (answer.status_code, answer.json()) == (201, {"got": {"name": "ünï"}})
    assert client.get("/items/none").status_code == 404
    assert client.delete("/items/42").status_code == 405
    assert client.get("/teapot").status_code == 418


def test_a_response_that_flask_knows_whole_has_its_length(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.headers["content-length"] == "11"
    assert "transfer-encoding" not in answer.headers


def test_head_and_no_content(client: httpx.Client) -> None:
    head = client.head("/")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "11", b"")
    nothing = client.get("/nothing")
    assert (nothing.status_code, nothing.content) == (204, b"")
    assert "content-length" not in nothing.headers
    assert client.get("/").text == "hello world"  # on the same connection


def test_a_form_with_a_file(client: httpx.Client) -> None:
    answer = client.post("/form", data={"a": "ünï", "b": ""}, files={"file": ("x.bin", FILE)})
    sha256 = hashlib.sha256(FILE).hexdigest()
    assert answer.json() == {"fields": [["a", "ünï"], ["b", ""]], "name": "x.bin", "sha256": sha256}


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_chunked_upload_arrives_whole(client: httpx.Client, method: str) -> None:
    chunks = [bytes([number]) * (number * 1000) for number in range(60)]
    answer = client.request(method, "/upload", content=iter(chunks)).json()
    assert answer["sha256"] == hashlib.sha256(b"".join(chunks)).hexdigest()


def test_streaming_with_the_request_s_context(client: httpx.Client) -> None:
    answer = client.get("/stream", params={"name": "zeile"})
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "".join(f"zeile {number}\n" for number in range(100))


def test_send_file_and_its_ranges(client: httpx.Client) -> None:
    answer = client.get("/file/data.bin")
    assert answer.content == FILE
    assert answer.headers["content-length"] == str(len(FILE))
    part = client.get("/file/data.bin", headers={"range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, FILE[1000:2000])
    same = client.get("/file/data.bin", headers={"if-none-match": answer.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = client.head("/file/data.bin")
    assert (head.headers["content-length"], head.content) == (str(len(FILE)), b"")


def test_sessions(flask: ServerProcess) -> None:
    with client_of(flask) as client:
        assert [client.get("/visits").text for _ in range(3)] == ["1", "2", "3"]


def test_redirects(client: httpx.Client) -> None:
    answer = client.get("/redirect")
    assert (answer.status_code, answer.headers["location"]) == (302, "/items/7")


def test_the_environ(client: httpx.Client, flask: ServerProcess) -> None:
    headers = [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("proxy", "http://x"),
    ]
    found = client.get("/environ?a=%20", headers=headers).json()
    assert found["HTTP_COOKIE"] == "a=1; b=2"
    assert found["HTTP_X_TWICE"] == "1,2"
    assert "HTTP_PROXY" not in found
    assert (found["PATH_INFO"], found["QUERY_STRING"], found["REQUEST_URI"]) == (
        "/environ",
        "a=%20",
        "/environ?a=%20",
    )
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("127.0.0.1", str(flask.port))
    assert found["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(("flags", "seen"), [((), False), (("--underscore-headers", "allow"), True)])
def test_a_name_with_an_underscore(serve: Serve, flags: tuple[str, ...], seen: bool) -> None:
    server = serve("wsgi_flask:app", "--workers", "1", *flags)
    with client_of(server) as client:
        found = client.get("/environ", headers={"x_forwarded_user": "admin"}).json()
    assert ("HTTP_X_FORWARDED_USER" in found) is seen


def test_root_path(serve: Serve) -> None:
    server = serve("wsgi_flask:app", "--workers", "1", "--root-path", "/api")
    with client_of(server) as client:
        found = client.get("/where").json()
        assert (found["script_root"], found["path"]) == ("/api", "/where")
        assert found["url"] == f"{server.url}/api/where"
        assert client.get("/redirect").headers["location"] == "/api/items/7"


def test_a_failure_is_500_and_flask_logs_it(flask: ServerProcess) -> None:
    since = len(flask.log())
    with client_of(flask) as client:
        assert client.get("/fail").status_code == 500
        flask.saw("^LookupError: the failure of the app$", since=since)
        assert client.get("/").text == "hello world"
    assert "Exception in ASGI application" not in flask.log(since)


def test_a_failure_in_the_middle_cuts_the_connection_and_is_logged_once(flask: ServerProcess) -> None:
    since = len(flask.log())
    with client_of(flask) as client:
        with client.stream("GET", "/fail-late") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        log = flask.saw("^LookupError: the failure in the middle$", since=since)
        assert client.get("/").status_code == 200
    assert log.count("LookupError: the failure in the middle\n") == 1
    assert "wsgi_flask.py" in log
    assert "wsgi_response.py" not in log[since:]  # our frames say nothing to the app's author


def test_events_end_when_the_client_goes(serve: Serve, notes: Path) -> None:
    server = serve("wsgi_flask:app", "--workers", "1")
    with client_of(server) as client, client.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]
    until((notes / "ended").exists, "the generator to end")


def test_events_end_properly_at_a_shutdown(serve: Serve, notes: Path) -> None:
    server = serve("wsgi_flask:app", "--workers", "1", "--timeout-drain-streams", "0.1")
    with client_of(server) as client, client.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        next(lines)
        server.send(signal.SIGTERM)
        assert list(lines)  # up to its end, which is the end of the chunks and not of the connection
    assert server.ended() == 0
    assert (notes / "ended").exists()
    assert "Cut " not in server.log()


def test_an_upload_that_breaks_off_is_nobody_s_error(flask: ServerProcess) -> None:
    since = len(flask.log())
    with socket.create_connection(("127.0.0.1", flask.port)) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbegin")
        until(lambda: flask.connections() > 0, "the connection")
    with client_of(flask) as client:
        assert client.get("/").text == "hello world"
    assert "Traceback" not in flask.log(since)


def test_a_factory(serve: Serve) -> None:
    server = serve("wsgi_flask:create_app", "--workers", "1", "--factory")
    with client_of(server) as client:
        assert client.get("/").text == "hello world"


def test_preload(serve: Serve) -> None:
    """The template has no threads, so each worker gets its own."""
    server = serve("wsgi_flask:app", "--workers", "2", "--preload")
    with ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> str:
            with client_of(server) as client:
                return client.get("/").text

        assert set(pool.map(ask, range(24))) == {"hello world"}


# Threads


def test_requests_wait_in_order_for_so_many_threads_and_a_drain_waits_for_all(
    serve: Serve, notes: Path
) -> None:
    server = serve("wsgi_flask:app", "--workers", "1", "--wsgi-threads", "2", "--timeout-drain-idle", "0")
    with ThreadPoolExecutor(6) as pool:

        def ask(number: int) -> str:
            with client_of(server) as client:
                return client.get(f"/slow/{number}").text

        answers = [pool.submit(ask, number) for number in range(6)]
        until(lambda: len([*notes.glob("began-*")]) == 2, "two to begin")
        until(lambda: server.connections() == 6, "all six to have come")
        assert len([*notes.glob("began-*")]) == 2
        server.send(signal.SIGTERM)
        server.saw("stopping: requests in flight")
        (notes / "go").touch()
        assert [one.result() for one in answers] == ["done"] * 6
    assert server.ended() == 0


def test_a_thread_that_does_not_end_is_left_behind_at_the_deadline(serve: Serve, notes: Path) -> None:
    flags = ("--workers", "1", "--timeout-graceful-shutdown", "0.5")
    server = serve("wsgi_plain:app", *flags)
    with ThreadPoolExecutor(1) as pool, client_of(server) as client:
        waiting = pool.submit(client.get, "/stubborn")
        until((notes / "began").exists, "the app to run")
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        with pytest.raises(httpx.HTTPError):
            waiting.result()
    assert "Cut 1 request" in server.log()


# Django


def test_django(django: ServerProcess) -> None:
    with client_of(django) as client:
        assert client.get("/").text == "hello world"
        assert client.get("/hello/ünï/").text == "hello ünï"
        assert client.get("/slow", params={"a": "1"}).json() == {"async": True, "query": {"a": "1"}}
        assert client.get("/nowhere").status_code == 404
        assert client.post("/protected", data={"a": "b"}).status_code == 403
        assert client.get("/stream/sync").text == "".join(f"{number}\n" for number in range(20))
        since = len(django.log())
        assert client.get("/fail").status_code == 500
        assert "Exception in ASGI application" not in django.log(since)


def test_django_s_files_and_uploads(django: ServerProcess) -> None:
    with client_of(django) as client:
        answer = client.post("/upload", data={"a": "ünï"}, files={"file": ("x.bin", FILE)})
        sha256 = hashlib.sha256(FILE).hexdigest()
        assert answer.json() == {"fields": {"a": "ünï"}, "name": "x.bin", "sha256": sha256}
        answer = client.get("/file/data.bin")
        assert (answer.content, answer.headers["content-length"]) == (FILE, str(len(FILE)))


def test_django_s_meta(django: ServerProcess) -> None:
    with client_of(django) as client:
        answer = client.get("/meta?q=%20", headers=[("x-twice", "1"), ("x-twice", "2")]).json()
    assert int(answer.pop("REMOTE_PORT")) > 0
    assert answer == {
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_HOST": "None",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(django.port),
        "SCRIPT_NAME": "",
        "PATH_INFO": "/meta",
        "QUERY_STRING": "q=%20",
        "REQUEST_METHOD": "GET",
        "CONTENT_TYPE": "None",
        "HTTP_HOST": f"127.0.0.1:{django.port}",
        "HTTP_X_TWICE": "1,2",
        "absolute": f"{django.url}/meta?q=%20",
    }


@pytest.mark.parametrize("app", ["wsgi_flask:app", "wsgi_django:app"])
def test_files_of_both_go_past_the_app(serve: Serve, shared: Path, app: str) -> None:
    server = serve(app, "--workers", "1", "--log-level", "trace", env={"NOTES": str(shared)})
    with client_of(server) as client:
        assert client.get("/file/data.bin").content == FILE
    server.saw("Send .*http.response.zerocopysend")
    assert "http.response.body" not in server.log()


# Apps without a framework


def test_write(plain: ServerProcess) -> None:
    with client_of(plain) as client:
        assert client.get("/written").text == "written, then returned"


def test_lines_of_a_body_in_odd_parts(plain: ServerProcess) -> None:
    parts = [b"one\ntw", b"o\n\nthr", b"ee"]
    with client_of(plain) as client:
        assert client.post("/lines", content=iter(parts)).text == "4 4 1 5 "
        assert client.post("/lines", content=b"".join(parts)).text == "4 4 1 5 "
        assert client.get("/lines").text == ""


@needs_curl
def test_a_client_that_waits_for_100_hears_no_from_an_app_that_does_not_read(plain: ServerProcess) -> None:
    answer = curl("--data-binary", "@-", "-H", "Expect: 100-continue", f"{plain.url}/refuses", stdin=FILE)
    assert "100 Continue" not in answer.verbose
    assert "< HTTP/1.1 413" in answer.verbose
    answer = curl("--data-binary", "@-", "-H", "Expect: 100-continue", f"{plain.url}/lines", stdin=b"x" * 9)
    assert "< HTTP/1.1 100 Continue" in answer.verbose
    assert answer.text == "9 "


def test_an_upload_is_never_in_memory_whole(serve: Serve) -> None:
    server = serve("wsgi_plain:app", "--workers", "1")
    block, count = os.urandom(1 << 20), 200
    digest = hashlib.sha256()
    with client_of(server) as client:
        assert client.get("/written").status_code == 200
        before = peak_kib(server)

        def blocks() -> Iterator[bytes]:
            for _ in range(count):
                digest.update(block)
                yield block

        answer = client.post("/counted", content=blocks())
        assert answer.text == f"begun\n{count << 20} {digest.hexdigest()}"
    assert peak_kib(server) - before < 40 * 1024  # of 200 MiB


def test_a_response_waits_for_a_slow_client_and_ends_without_it(serve: Serve, notes: Path) -> None:
    server = serve("wsgi_plain:app", "--workers", "1")
    with client_of(server) as client:
        assert client.get("/written").status_code == 200
    before = peak_kib(server)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        with client_of(server) as client:  # a second thread, while the first one waits
            assert client.get("/written").status_code == 200
        assert not (notes / "ended").exists()
    until((notes / "ended").exists, "the iterable to be closed")
    assert peak_kib(server) - before < 40 * 1024
    server.stop()
    assert "Traceback" not in server.log()


def peak_kib(server: ServerProcess) -> int:
    (worker,) = server.workers()
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_the_standard_library_s_validator_has_nothing_to_say(serve: Serve) -> None:
    server = serve("wsgi_plain:checked", "--workers", "1", "--interface", "wsgi")  # it takes *args
    with client_of(server) as client:
        assert client.get("/written").text == "written, then returned"
        assert client.post("/lines", content=b"a\nb").text == "2 1 "


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    serve("wsgi_flask:app", "--workers", "1", "--uds", str(path))
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), trust_env=False) as client:
        found = client.get("http://example.org/environ").json()
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("example.org", "80")
    assert (found["HTTP_HOST"], found["REMOTE_ADDR"]) == ("example.org", "")


# The interface


def test_an_interface_that_is_named_needs_no_guess(serve: Serve, tmp_path: Path) -> None:
    server = serve("wsgi_plain:any_names", "--workers", "1", "--interface", "wsgi")
    with client_of(server) as client:
        assert client.get("/").text == "GET"
    assert "The app speaks" not in server.log()
    ended = Ended(tmp_path, "wsgi_plain:any_names", "--workers", "1")
    assert ended.code == 3
    assert "say so: --interface wsgi" in ended.text


def test_lifespan_on_means_nothing_to_wsgi(serve: Serve) -> None:
    server = serve("wsgi_flask:app", "--workers", "1", "--lifespan", "on")
    with client_of(server) as client:
        assert client.get("/").text == "hello world"


def test_a_websocket_handshake_is_an_ordinary_get(plain: ServerProcess) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    with client_of(plain) as client:
        answer = client.get("/written", headers=headers)
    assert (answer.status_code, answer.text) == (200, "written, then returned")


def test_asgi_2_with_its_lifespan(serve: Serve, notes: Path) -> None:
    server = serve("wsgi_plain:Asgi2", "--workers", "1")
    assert "The app speaks ASGI 2." in server.log()
    assert (notes / "up").exists()
    with client_of(server) as client:
        assert client.get("/x").text == "ASGI 2.0 /x"
    server.stop()
    assert (notes / "down").exists()
