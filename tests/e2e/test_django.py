"""A Django project on one worker: views of both kinds, forms, streams, META, and no lifespan."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.helpers.curl import curl, needs_curl
from tests.helpers.server import ServerProcess, client_of

FILE = os.urandom(300_001)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("django")
    with ServerProcess(folder, "django_app:app", "--workers", "1", quiet=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


def test_no_lifespan_is_nothing_to_complain_of(server: ServerProcess) -> None:
    log = server.log()
    assert "ASGI 'lifespan' protocol appears unsupported." in log
    assert "Traceback" not in log.partition("ready: ")[0]


def test_views(client: httpx.Client) -> None:
    assert client.get("/").text == "hello world"
    assert client.get("/hello/ünï/").text == "hello ünï"
    assert client.get("/slow", params={"a": "1"}).json() == {"async": True, "query": {"a": "1"}}


def test_head(client: httpx.Client) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "11", b"")


def test_404_and_the_redirect_to_a_slash(client: httpx.Client) -> None:
    assert client.get("/nowhere").status_code == 404
    answer = client.get("/hello/x")
    assert (answer.status_code, answer.headers["location"]) == (301, "/hello/x/")


def test_a_form_with_a_file(client: httpx.Client) -> None:
    answer = client.post("/upload", data={"a": "ünï"}, files={"file": ("x.bin", FILE)})
    sha256 = hashlib.sha256(FILE).hexdigest()
    assert answer.json() == {"fields": {"a": "ünï"}, "name": "x.bin", "sha256": sha256}


def test_csrf_protection_works(client: httpx.Client) -> None:
    assert client.post("/protected", data={"a": "b"}).status_code == 403
    assert client.get("/protected").text == "only with a token"


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_streaming_responses(client: httpx.Client, kind: str) -> None:
    answer = client.get(f"/stream/{kind}")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "".join(f"{number}\n" for number in range(20))


def test_meta_is_right(client: httpx.Client, server: ServerProcess) -> None:
    answer = client.get("/meta?q=%20", headers=[("x-twice", "1"), ("x-twice", "2")]).json()
    assert int(answer.pop("REMOTE_PORT")) > 0
    assert answer == {
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_HOST": "127.0.0.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "SCRIPT_NAME": "",
        "PATH_INFO": "/meta",
        "QUERY_STRING": "q=%20",
        "REQUEST_METHOD": "GET",
        "CONTENT_TYPE": "None",
        "HTTP_HOST": f"127.0.0.1:{server.port}",
        "HTTP_X_TWICE": "1,2",
        "absolute": f"{server.url}/meta?q=%20",
    }


@needs_curl
def test_curl_posts_a_form(server: ServerProcess) -> None:
    answer = curl("--form", "a=b", "--form", "file=@-;filename=y.bin", f"{server.url}/upload", stdin=FILE)
    assert hashlib.sha256(FILE).hexdigest() in answer.text


def test_djangos_own_error_page_and_log(server: ServerProcess) -> None:
    since = len(server.log())
    with client_of(server) as client:
        answer = client.get("/fail")
        assert answer.status_code == 500
        assert "Server Error (500)" in answer.text
        assert client.get("/").text == "hello world"
    # Django handles it, so it is not our error to log.
    assert "Exception in ASGI application" not in server.log(since)
    assert not re.search(r"Traceback", server.log(since))
