"""File responses of Starlette, FastAPI and Litestar; the first two send them by http.response.pathsend."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.helpers.curl import curl, needs_curl
from tests.helpers.http1 import Client, get
from tests.helpers.master_process import until
from tests.helpers.queues import ask
from tests.helpers.server import ServerProcess, client_of

LARGE = os.urandom(9_000_001)
FILES = {"large.bin": LARGE, "small.txt": "ünï".encode(), "empty.txt": b""}
BY_PATH = ["starlette", "middleware", "fastapi"]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module", params=[*BY_PATH, "litestar"])
def framework(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(framework: str, notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    env = {"NOTES": str(notes)}
    folder = tmp_path_factory.mktemp(framework)
    with ServerProcess(folder, f"files_app:{framework}", "--workers", "1", env=env) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


def only(framework: str, *names: str) -> None:
    if framework not in names:
        pytest.skip(f"not of {framework}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_arrives(client: httpx.Client, framework: str, name: str) -> None:
    for _ in range(3):
        answer = client.get(f"/files/{name}")
        assert answer.status_code == 200
        assert answer.content == FILES[name]
        assert answer.headers["content-length"] == str(len(FILES[name]))
        assert answer.headers["etag"]
    head = client.head(f"/files/{name}")
    if framework in ("starlette", "middleware"):
        assert head.headers["content-length"] == str(len(FILES[name]))
    assert head.content == b""


def test_it_is_sent_by_its_path(client: httpx.Client, framework: str, notes: Path) -> None:
    """As Starlette does where that is offered, also behind its middlewares; Litestar reads its file."""
    (notes / "sent").unlink(missing_ok=True)
    client.get("/files/large.bin")
    until(lambda: (notes / "sent").exists() and (notes / "sent").read_text(), "the note")
    sent = (notes / "sent").read_text()
    assert sent == ("pathsend start\n" if framework in BY_PATH else "body start\n")


def test_ranges(client: httpx.Client, framework: str) -> None:
    """Which the framework sends as ordinary bodies."""
    only(framework, *BY_PATH)
    answer = client.get("/files/large.bin", headers={"range": "bytes=1000000-2999999"})
    assert (answer.status_code, answer.content) == (206, LARGE[1_000_000:3_000_000])
    assert client.get("/files/large.bin").content == LARGE


def test_an_attachment(client: httpx.Client, framework: str) -> None:
    only(framework, "starlette", "middleware")
    answer = client.get("/attachment/large.bin")
    assert (answer.status_code, answer.content) == (201, LARGE)
    assert "filename*=utf-8''f%C3%A5il.bin" in answer.headers["content-disposition"]


def test_mounted_static_files(client: httpx.Client, framework: str) -> None:
    only(framework, "starlette", "middleware")
    answer = client.get("/mounted/large.bin")
    assert (answer.status_code, answer.content) == (200, LARGE)
    again = client.get("/mounted/large.bin", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/mounted/none").status_code == 404


def test_a_middleware_adds_its_field(client: httpx.Client, framework: str) -> None:
    only(framework, "middleware")
    assert client.get("/files/large.bin").headers["x-stamp"] == "middleware"


def test_a_file_that_is_deleted_behind_it(server: ServerProcess, framework: str, notes: Path) -> None:
    """A background task may delete what was sent, also when the client is slow."""
    only(framework, "starlette", "middleware")
    with Client(ask(server.port, "/once")) as slow:
        head, _, data = slow.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        slow.buffered = b""
        while len(data) < len(LARGE):
            data += slow.receive()
        assert data == LARGE
    until(lambda: not (notes / "once").exists(), "the task")


def test_no_descriptor_is_left(server: ServerProcess, client: httpx.Client, notes: Path) -> None:
    client.get("/files/large.bin")
    for _ in range(10):
        with Client(ask(server.port, "/files/large.bin")) as rude:
            rude.read_until(b"\r\n\r\n")
    (worker,) = server.workers()

    def opened() -> list[str]:
        return [one.path for one in psutil.Process(worker.pid).open_files() if "large.bin" in one.path]

    until(lambda: opened() == [], "the files to be closed")
    assert client.get("/files/large.bin").content == LARGE


def test_pipelined(server: ServerProcess) -> None:
    with Client(socket.create_connection(("127.0.0.1", server.port))) as client:
        client.send(get("/files/large.bin"), get("/files/small.txt"), get("/files/large.bin"))
        bodies = [response.body for response in client.responses(3)]
    assert bodies == [LARGE, FILES["small.txt"], LARGE]


@needs_curl
def test_curl(server: ServerProcess) -> None:
    answer = curl(f"{server.url}/files/large.bin")
    assert (answer.status, answer.body) == (200, LARGE)
