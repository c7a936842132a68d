"""A FastAPI app on two workers: validation, threads, dependencies, documentation, context variables."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.master_process import until
from tests.helpers.server import ServerProcess, client_of

CONCURRENT = 40


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fastapi-notes")


@pytest.fixture(scope="module")
def server(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("fastapi")
    env = {"NOTES": str(shared)}
    with ServerProcess(folder, "fastapi_app:app", "--workers", "2", env=env, quiet=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


def test_path_and_query_parameters(client: httpx.Client) -> None:
    assert client.get("/items/3", params={"q": "é"}).json() == {"item_id": 3, "q": "é"}
    assert client.get("/items/3").json() == {"item_id": 3, "q": None}


@pytest.mark.parametrize("path", ["/items/three", "/items/3?q=too-long"])
def test_a_wrong_parameter_is_422(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] in ("path", "query")


def test_a_body_is_a_model(client: httpx.Client) -> None:
    answer = client.post("/items", json={"name": "ünï", "price": 1.5})
    assert (answer.status_code, answer.json()) == (201, {"name": "ünï", "price": 1.5, "tags": []})


def test_a_wrong_body_is_422(client: httpx.Client) -> None:
    answer = client.post("/items", json={"name": "x", "price": -1})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "price"]
    answer = client.post("/items", content=b"{not json", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert client.get("/items/3").status_code == 200  # on the same connection


def test_sync_endpoints_run_in_threads(client: httpx.Client) -> None:
    assert client.get("/blocking").json() == {"main": False}


async def test_sync_endpoints_do_not_block_each_other(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
        answers = await asyncio.gather(*(client.get("/blocking?delay=0.05") for _ in range(CONCURRENT)))
    assert [answer.status_code for answer in answers] == [200] * CONCURRENT


def test_a_dependency_is_opened_and_closed(client: httpx.Client, shared: Path) -> None:
    assert client.get("/dependency/a").json() == {"resource": "resource a"}
    assert (shared / "opened-a").exists()
    until(lambda: (shared / "closed-a").exists(), "the dependency to close")


def test_a_dependency_is_closed_after_a_failure(client: httpx.Client, shared: Path) -> None:
    answer = client.get("/dependency/b?fail=1")
    assert (answer.status_code, answer.json()) == (409, {"detail": "in conflict"})
    until(lambda: (shared / "closed-b").exists(), "the dependency to close")


def test_a_stream_comes_line_by_line(client: httpx.Client) -> None:
    with client.stream("GET", "/stream?count=500") as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert list(answer.iter_lines()) == [f'{{"n": {number}}}' for number in range(500)]


def test_the_documentation_loads(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "swagger-ui" in page.text
    schema = client.get("/openapi.json").json()
    assert {"/items", "/items/{item_id}", "/stream"} <= set(schema["paths"])


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_context_variables_of_concurrent_requests_do_not_mix(server: ServerProcess, kind: str) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:

        async def ask(name: str) -> dict[str, str]:
            answer = await client.get(f"/who/{kind}", headers={"x-who": name})
            found: dict[str, str] = answer.json()
            return found

        for turn in range(2):  # the second time, connections and spare tasks are used again
            names = [f"{turn}-{number}" for number in range(CONCURRENT)]
            answers = await asyncio.gather(*map(ask, names))
            assert answers == [{"before": name, "after": name, "header": name} for name in names]


def test_a_failure_is_500_and_logged_once(server: ServerProcess) -> None:
    since = len(server.log())
    with client_of(server) as client:
        assert client.get("/fail").status_code == 500
        server.saw(r"^LookupError: the failure of the app$", since=since)
        assert client.get("/items/1").status_code == 200
    assert server.log(since).count("Exception in ASGI application: GET /fail") == 1
