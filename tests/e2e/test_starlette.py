"""A Starlette app on two workers: routes, bodies, middleware, state, errors."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.curl import curl, needs_curl
from tests.helpers.master_process import until
from tests.helpers.server import Serve, ServerProcess, client_of

FILE = os.urandom(1_000_003)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starlette-notes")
    (folder / "data.bin").write_bytes(FILE)
    return folder


@pytest.fixture(scope="module")
def server(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("starlette")
    env = {"NOTES": str(shared)}
    with ServerProcess(folder, "starlette_app:app", "--workers", "2", env=env, quiet=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


def test_path_parameters_and_query(client: httpx.Client) -> None:
    answer = client.get("/items/42", params=[("a", "1"), ("a", "é&="), ("empty", "")])
    assert answer.json() == {
        "id": 42,
        "query": [["a", "1"], ["a", "é&="], ["empty", ""]],
        "path": "/items/42",
    }
    assert answer.headers["server"] == "shardserve"
    assert "date" in answer.headers
    assert client.get("/items/none").status_code == 404
    assert client.delete("/items/42").status_code == 405


def test_json(client: httpx.Client) -> None:
    answer = client.post("/json", json={"name": "ünï", "list": [1, 2.5, None]})
    assert answer.status_code == 201
    assert answer.json() == {"got": {"name": "ünï", "list": [1, 2.5, None]}}


def test_a_form(client: httpx.Client) -> None:
    answer = client.post("/form", data={"name": "a b&c", "empty": ""})
    assert answer.json() == [["name", "a b&c"], ["empty", ""]]


@pytest.mark.parametrize("prefix", ["", "/stamped"])
def test_a_multipart_upload_arrives_whole(client: httpx.Client, prefix: str) -> None:
    request = client.build_request(
        "POST", f"{prefix}/upload", files={"file": ("x.bin", FILE)}, data={"a": "b"}
    )
    content = request.read()
    answer = client.send(request).json()
    assert answer["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer["size"] == len(content)
    assert answer["parts"] > 1  # streamed, not gathered
    assert answer["type"].startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_chunked_upload_arrives_whole(client: httpx.Client, method: str) -> None:
    chunks = [bytes([number]) * (number * 1000) for number in range(60)]
    answer = client.request(method, "/upload", content=iter(chunks)).json()
    assert answer["sha256"] == hashlib.sha256(b"".join(chunks)).hexdigest()


@pytest.mark.parametrize("prefix", ["", "/sub", "/stamped"])
def test_streaming_responses(client: httpx.Client, prefix: str) -> None:
    answer = client.get(f"{prefix}/stream/async")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "".join(f"line {number}\n" for number in range(100))
    answer = client.get(f"{prefix}/stream/sync")
    assert answer.content == b"".join(b"%d " % number * 1000 for number in range(100))


def test_a_file(client: httpx.Client) -> None:
    answer = client.get("/file/data.bin")
    assert answer.content == FILE
    assert answer.headers["content-length"] == str(len(FILE))
    assert 'filename="download.bin"' in answer.headers["content-disposition"]
    not_modified = client.get("/file/data.bin", headers={"if-none-match": answer.headers["etag"]})
    assert not_modified.status_code in (200, 304)


def test_a_range_of_a_file(client: httpx.Client) -> None:
    answer = client.get("/file/data.bin", headers={"range": "bytes=1000-1999"})
    assert answer.status_code == 206
    assert answer.content == FILE[1000:2000]


def test_head_has_the_head_of_get_and_no_body(client: httpx.Client) -> None:
    for path in ("/items/1", "/file/data.bin"):
        head, get = client.head(path), client.get(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == get.headers["content-length"]


def test_redirects_and_their_location(client: httpx.Client, server: ServerProcess) -> None:
    answer = client.get("/redirect")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{server.url}/items/7")
    assert client.get("/redirect", follow_redirects=True).json()["id"] == 7


def test_cookies_come_and_go(server: ServerProcess) -> None:
    with client_of(server) as client:
        answer = client.get("/cookies")
        assert len(answer.headers.get_list("set-cookie")) == 2
        assert client.get("/cookies").json() == {"one": "1", "two": "2 and more"}


def test_a_middleware_that_changes_the_response(client: httpx.Client) -> None:
    assert client.get("/stamped/where").headers["x-stamp"] == "GET"
    assert "x-stamp" not in client.get("/where").headers


def test_a_mounted_app_knows_its_place(client: httpx.Client, server: ServerProcess) -> None:
    assert client.get("/sub/where").json() == {
        "path": "/sub/where",
        "root_path": "/sub",
        "url": f"{server.url}/sub/where",
    }


def test_the_lifespan_state_is_shared_and_a_request_changes_only_its_copy(client: httpx.Client) -> None:
    first, second = client.get("/state").json(), client.get("/state").json()  # keep-alive: one worker
    assert first["greeting"] == "from the lifespan"
    assert second["seen"] == first["seen"] + 1
    assert client.get("/state-keys").json() == ["greeting", "seen", "shardserve_shutdown"]


def test_a_background_task_runs_after_the_answer(server: ServerProcess, shared: Path) -> None:
    with client_of(server) as client:
        assert client.get("/background").text == "answered"
        assert not (shared / "background-done").exists()
        (shared / "go").touch()
        until(lambda: (shared / "background-done").exists(), "the task to end")
        assert client.get("/blocking").text == "from a thread"  # the connection is still good


def test_an_http_exception_is_an_answer(client: httpx.Client) -> None:
    answer = client.get("/teapot")
    assert (answer.status_code, answer.text) == (418, "short and stout")


@pytest.mark.parametrize("prefix", ["", "/sub", "/stamped"])
def test_a_failure_is_500_and_its_traceback_is_logged_once(server: ServerProcess, prefix: str) -> None:
    since = len(server.log())
    with client_of(server) as client:
        answer = client.get(f"{prefix}/fail")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        log = server.saw(r"^LookupError: the failure of the app$", since=since)
        assert client.get("/items/1").status_code == 200
    assert log.count("Exception in ASGI application: GET " + prefix + "/fail from 127.0.0.1:") == 1
    assert len(re.findall(r"^LookupError: the failure of the app$", server.log(since), re.MULTILINE)) == 1
    assert "starlette_app.py" in log
    if prefix != "/stamped":  # there Starlette's task group is part of the story
        assert server.log(since).count("Traceback (most recent call last)") == 1


def test_a_failure_in_the_middle_of_a_body_cuts_the_connection(server: ServerProcess) -> None:
    since = len(server.log())
    with client_of(server) as client:
        with client.stream("GET", "/fail-late") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        server.saw(r"^LookupError: the failure in the middle$", since=since)
        assert client.get("/items/1").status_code == 200
    assert server.log(since).count("LookupError: the failure in the middle\n") == 1


@pytest.mark.parametrize("prefix", ["", "/sub", "/stamped"])
def test_events_end_when_the_client_goes(server: ServerProcess, shared: Path, prefix: str) -> None:
    since = len(server.log())
    name = f"events{prefix.replace('/', '-')}"
    before = server.connections()
    with (
        client_of(server) as client,
        client.stream("GET", f"{prefix}/events", params={"name": name}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        found = [next(lines) for _ in range(5)]
        assert found == ["data: 0", "", "data: 1", "", "data: 2"]
        assert not (shared / f"ended-{name}").exists()
    until(lambda: (shared / f"ended-{name}").exists(), "the generator to end")
    until(lambda: server.connections() <= before, "the connection to go")
    assert "Traceback" not in server.log(since)
    assert "ERROR" not in server.log(since)


def test_root_path(serve: Serve) -> None:
    server = serve("starlette_app:app", "--workers", "1", "--root-path", "/api")
    with client_of(server) as client:
        # As Uvicorn does it: the proxy took the prefix off, ASGI's path has it again.
        found = client.get("/where").json()
        assert (found["path"], found["root_path"]) == ("/api/where", "/api")
        assert found["item"] == f"{server.url}/api/items/7"
        found = client.get("/sub/where").json()
        assert (found["path"], found["root_path"]) == ("/api/sub/where", "/api/sub")
        assert client.get("/redirect").headers["location"] == f"{server.url}/api/items/7"


def test_the_lifespan_ends_when_the_server_stops(serve: Serve, notes: Path) -> None:
    server = serve("starlette_app:app", "--workers", "2")
    pids = server.pids()
    assert len(pids) == 2
    server.stop()
    assert {one.name for one in notes.glob("down-*")} == {f"down-{pid}" for pid in pids}


@needs_curl
def test_curl_waits_for_100_continue_and_gets_it(server: ServerProcess, shared: Path) -> None:
    path = str(shared / "data.bin")
    answer = curl("--data-binary", f"@{path}", "--header", "Expect: 100-continue", f"{server.url}/upload")
    assert "< HTTP/1.1 100 Continue" in answer.verbose
    assert hashlib.sha256(FILE).hexdigest() in answer.text
