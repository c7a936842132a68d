"""Litestar, held to twice as in test_starlette_suite.py: by its own test client, and by our server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.testing import TestClient
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.apps.litestar_app import create
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import ServerProcess, client_of
from tests.helpers.twofold import same

FILE = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("litestar-files")
    (found / "data.bin").write_bytes(FILE)
    return found


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--factory", "--workers", "1")
    where = tmp_path_factory.mktemp("litestar")
    env = {"NOTES": str(folder)}
    with ServerProcess(where, "litestar_app:create", *flags, env=env, quiet=False) as server:
        yield server


@pytest.fixture(scope="module")
def testing(folder: Path, server: ServerProcess) -> Iterator[TestClient[Any]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NOTES", str(folder))
        with TestClient(create(), base_url=server.url, raise_server_exceptions=False) as client:
            client.follow_redirects = False
            yield client


Both = Callable[[Any], list[httpx.Response]]


@pytest.fixture
def both(testing: TestClient[Any], server: ServerProcess) -> Iterator[Both]:
    with client_of(server) as client:
        yield lambda talk: same(talk, testing, client)


def get(*paths: str, method: str = "GET", **how: Any) -> Any:
    return lambda client: [client.request(method, path, **how) for path in paths]


def test_handlers_parameters_and_dependencies(both: Both) -> None:
    answers = both(
        get("/", "/items/7", "/items/7?a=%C3%BC&a=2", "/items/x", "/nowhere", "/blocking", "/where")
    )
    assert answers[0].text == "hello world"
    assert answers[2].json()["injected"] == 7
    both(get("/where", headers={"cookie": "a=1; b=2"}))
    both(get("/items/7", method="DELETE"))
    both(get("/items/7", method="PUT"))


def test_bodies(both: Both) -> None:
    def talk(client: httpx.Client) -> list[httpx.Response]:
        return [
            client.post("/items", json={"name": "ünï", "price": 2.5}),
            client.post("/items", json={"price": "none"}),
            client.post("/items", content=b"{"),
            client.post("/form", data={"a": "1"}, files={"file": ("x.bin", FILE)}),
        ]

    answers = both(talk)
    assert [answer.status_code for answer in answers] == [201, 400, 400, 201]
    assert answers[3].json() == {"a": "1", "file": len(FILE)}


def test_streams_files_and_events(both: Both) -> None:
    for encoding in ("identity", "gzip"):
        both(get("/stream", "/events", "/long", headers={"accept-encoding": encoding}))
    (answer,) = both(get("/file", headers={"accept-encoding": "identity"}))
    assert answer.content == FILE


def test_redirects_errors_and_cors(both: Both) -> None:
    answers = both(get("/redirect", "/teapot", "/fails"))
    assert [answer.status_code for answer in answers] == [302, 418, 500]
    headers = {"origin": "https://example.org", "access-control-request-method": "POST"}
    both(get("/items", method="OPTIONS", headers=headers))
    both(get("/", headers={"origin": "https://example.org"}))


def test_background_tasks_and_the_lifespan(server: ServerProcess) -> None:
    with client_of(server) as client:
        assert client.get("/background").text == "answered"
        until(lambda: client.get("/state").json() == ["from the lifespan", ["later"]], "the task to run")
    assert "Application startup complete." in server.log()


def test_websockets(testing: TestClient[Any], server: ServerProcess) -> None:
    url = server.url.replace("http://", "ws://")
    with testing.websocket_connect("/ws/echo") as session, connect(f"{url}/ws/echo", proxy=None) as client:
        for text in ("hello", "ü" * 10_000):
            session.send_text(text)
            client.send(text)
            assert client.recv(PATIENCE_S) == session.receive_text()
    with connect(f"{url}/ws/close", proxy=None) as client:
        assert client.recv(PATIENCE_S) == '{"a":1}'
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
