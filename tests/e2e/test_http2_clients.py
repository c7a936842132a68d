"""HTTP/2 clients that no one here wrote, and the frameworks that they ask: httpx, nghttp, h2load."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.apps.h2_app import STYLE, pattern
from tests.helpers.certificates import Authority, Files
from tests.helpers.h2_load import connected
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import ServerProcess

pytestmark = needs_nghttp2

FILE = os.urandom(300_001)
# Requests that are open at once over one connection.
MANY = 50

LOAD = 1024
ALL_WELL = {
    "requests": f"{LOAD} total, {LOAD} started, {LOAD} done, {LOAD} succeeded, "
    "0 failed, 0 errored, 0 timeout",
    "status codes": f"{LOAD} 2xx, 0 3xx, 0 4xx, 0 5xx",
}

Start = Callable[..., ServerProcess]
Test = Callable[[httpx.AsyncClient], Awaitable[None]]


def needs(program: str) -> Any:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def notes_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "data.bin").write_bytes(FILE)
    return folder


@pytest.fixture(scope="module")
def start(files: Files, notes_of_all: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """``start(app)``: a server over TLS of this app, the same one for all tests."""
    flags = ("--workers", "1", "--http2", *files.flags)
    servers: dict[str, ServerProcess] = {}

    def one(app: str) -> ServerProcess:
        if app not in servers:
            env, folder = {"NOTES": str(notes_of_all)}, tmp_path_factory.mktemp("server")
            servers[app] = ServerProcess(folder, app, *flags, env=env, quiet=False)
        return servers[app]

    try:
        yield one
        for server in servers.values():
            server.stop()
    finally:
        for server in servers.values():
            server.kill()


@pytest.fixture
def ask(start: Start, authority: Authority) -> Callable[[str, Test], None]:
    """``ask(app, test)``: run the test with httpx, which may make one connection."""

    def run(app: str, test: Test) -> None:
        async def inside() -> None:
            limits = httpx.Limits(max_connections=1)
            how: dict[str, Any] = {"trust_env": False, "timeout": PATIENCE_S, "limits": limits}
            context, url = authority.client_context(), start(app).urls[0]
            async with httpx.AsyncClient(http2=True, verify=context, base_url=url, **how) as client:
                await test(client)

        asyncio.run(asyncio.wait_for(inside(), 2 * PATIENCE_S))

    return run


Ask = Callable[[str, Test], None]


# httpx, and frameworks


@pytest.mark.parametrize(
    ("app", "path", "text"),
    [
        ("fastapi_app:app", "/items/{}", '{{"item_id":{},"q":null}}'),
        ("starlette_app:app", "/items/{}?a=1", '{{"id":{},"query":[["a","1"]],"path":"/items/{}"}}'),
        ("django_app:app", "/hello/{}/", "hello {}"),
    ],
)
def test_many_requests_at_once_over_one_connection(
    ask: Ask, start: Start, app: str, path: str, text: str
) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(client.get(path.format(number)) for number in range(MANY)))
        assert {(one.status_code, one.http_version) for one in answers} == {(200, "HTTP/2")}
        assert [one.text for one in answers] == [text.format(number, number) for number in range(MANY)]

    ask(app, test)
    lines = start(app).saw_access(r"HTTP/2\" 200", times=MANY)
    assert len({re.findall(r"127\.0\.0\.1:\d+", line)[0] for line in lines}) == 1


def test_fastapi(ask: Ask) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        item = {"name": "ünï", "price": 1.5, "tags": ["a"]}
        answer = await client.post("/items", json=item)
        assert (answer.status_code, answer.json(), answer.http_version) == (201, item, "HTTP/2")
        assert (await client.post("/items", json={})).status_code == 422
        assert (await client.get("/dependency/x")).json() == {"resource": "resource x"}
        whos = [f"caller {number}" for number in range(20)]
        sides = ("async", "sync")
        answers = await asyncio.gather(
            *(client.get(f"/who/{side}", headers={"X-Who": who}) for who in whos for side in sides)
        )
        told = [one.json() for one in answers]
        assert told == [{"before": who, "after": who, "header": who} for who in whos for _ in sides]
        async with client.stream("GET", "/stream?count=500") as stream:
            lines = [line async for line in stream.aiter_lines()]
        assert lines == [f'{{"n": {number}}}' for number in range(500)]
        assert (await client.get("/fail")).status_code == 500

    ask("fastapi_app:app", test)


def test_starlette(ask: Ask, notes_of_all: Path) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for at in range(0, len(FILE), 7777):
                yield FILE[at : at + 7777]

        digest = hashlib.sha256(FILE).hexdigest()
        for route in ("/upload", "/stamped/upload"):
            for content in (FILE, parts()):
                told = (await client.post(route, content=content)).json()
                assert (told["sha256"], told["size"]) == (digest, len(FILE))
        assert (await client.get("/file/data.bin")).content == FILE
        assert (await client.get("/stamped/file/data.bin")).headers["x-stamp"] == "GET"
        streams = [client.get(f"/stream/{kind}") for kind in ("async", "sync") * 5]
        for one in await asyncio.gather(*streams):
            assert one.content[:7] in (b"line 0\n", b"0 0 0 0")
            assert len(one.content) in (790, 290_000)
        cookies = await client.get("/cookies", headers=[("cookie", "a=1"), ("cookie", "b=2")])
        assert cookies.json() == {"a": "1", "b": "2"}
        assert len(cookies.headers.get_list("set-cookie")) == 2
        location = (await client.get("/redirect")).headers["location"]
        assert location == f"{str(client.base_url).rstrip('/')}/items/7"
        assert (await client.get("/teapot")).status_code == 418
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/fail-late")
        assert (await client.get("/blocking")).text == "from a thread"

    ask("starlette_app:app", test)


def test_a_stream_that_is_left_early(start: Start, authority: Authority, notes_of_all: Path) -> None:
    """The framework hears of it; the connection goes on. httpx would not say it: it reads on, and forgets."""
    port = int(start("starlette_app:app").urls[0].rpartition(":")[2])
    with connected(port, authority.client_context()) as client:
        stream = client.open("/events?name=left")
        client.until(lambda: b"data: 3\n" in stream.body, "some events")
        client.reset(stream)
        until((notes_of_all / "ended-left").exists, "the end of the events")
        assert [client.ask("/state-keys").status for _ in range(20)] == [200] * 20


def test_django(ask: Ask) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        files = {"file": ("a b.bin", FILE, "application/octet-stream")}
        told = (await client.post("/upload", files=files, data={"name": "ünï"})).json()
        assert told["sha256"] == hashlib.sha256(FILE).hexdigest()
        assert told["fields"] == {"name": "ünï"}
        meta = (await client.get("/meta?a=b", headers=[("x-twice", "1"), ("x-twice", "2")])).json()
        assert (meta["HTTP_X_TWICE"], meta["QUERY_STRING"]) == ("1,2", "a=b")
        assert meta["absolute"] == f"{str(client.base_url).rstrip('/')}/meta?a=b"
        assert (await client.get("/slow?x=1")).json() == {"async": True, "query": {"x": "1"}}
        for kind in ("async", "sync"):
            assert (await client.get(f"/stream/{kind}")).text == "".join(
                f"{number}\n" for number in range(20)
            )
        assert (await client.get("/fail")).status_code == 500

    ask("django_app:app", test)


# nghttp and h2load


def nghttp(*arguments: str) -> str:
    """What nghttp tells of the conversation. It takes any certificate."""
    done = subprocess.run(
        ["nghttp", "--no-verify-peer", "--verbose", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    text = re.sub(r"\x1b\[[0-9;]*m", "", (done.stdout + done.stderr).decode())
    assert done.returncode == 0, text
    return text


@needs("nghttp")
def test_nghttp_sees_our_settings(start: Start) -> None:
    text = nghttp("--null-out", f"{start('h2_app:app').urls[0]}/")
    ours = re.search(r"recv SETTINGS frame .*\n *\(niv=\d+\)\n((?: *\[.*\]\n)+)", text)
    assert ours, text
    found = dict(re.findall(r"\[(\w+)\(0x\w+\):(\d+)\]", ours[1]))
    assert found["SETTINGS_MAX_CONCURRENT_STREAMS"] == "128"
    assert found["SETTINGS_INITIAL_WINDOW_SIZE"] == "262144"
    assert found["SETTINGS_MAX_HEADER_LIST_SIZE"] == "65536"
    assert re.search(r"recv WINDOW_UPDATE frame <length=4, flags=0x00, stream_id=0>", text)


@needs("nghttp")
def test_nghttp_sees_hints_and_trailers(start: Start) -> None:
    text = nghttp("--null-out", f"{start('h2_app:app').urls[0]}/hints")
    sent = re.findall(r"recv \(stream_id=\d+\) (:status|link|x-sum): (.*)", text)
    assert sent == [(":status", "103"), ("link", STYLE.decode()), (":status", "200"), ("x-sum", "24")]
    assert text.index("recv DATA frame") < text.index("x-sum: 24") < text.rindex("END_STREAM")


@needs("nghttp")
def test_nghttp_asks_for_a_page_and_what_is_on_it(start: Start, tmp_path: Path) -> None:
    """Over one connection; and a body of its own, in padded frames."""
    url = start("h2_app:app").urls[0]
    (tmp_path / "body").write_bytes(pattern(100_000))
    text = nghttp("--null-out", "--get-assets", f"{url}/page")
    assert len(re.findall(r"recv \(stream_id=\d+\) :status: 200", text)) > 20
    text = nghttp("--data", str(tmp_path / "body"), "--padding", "100", "--stat", f"{url}/")
    assert '"size": 100000' in text
    assert hashlib.sha256(pattern(100_000)).hexdigest() in text


@needs("h2load")
def test_h2load_over_tls(start: Start) -> None:
    """32 connections, 16 streams each: every request succeeds."""
    url = start("h2_app:app").urls[0]
    for path in ("/", "/large?30000"):
        assert loaded(url + path) == ALL_WELL


@needs("h2load")
def test_h2load_without_tls(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "h2_app:app", "--workers", "2", "--http2-cleartext") as server:
        for path in ("/", "/large?30000"):
            assert loaded(server.url + path) == ALL_WELL
        until(lambda: server.ctl("status")["requests"] == 2 * LOAD, "all of them to be counted")


def loaded(url: str) -> dict[str, str]:
    done = subprocess.run(
        ["h2load", "-n", str(LOAD), "-c", "32", "-m", "16", url],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=True,
    )  # fmt: skip
    return dict(re.findall(r"^(requests|status codes): (.*?)\s*$", done.stdout, re.MULTILINE))
