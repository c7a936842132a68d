"""--static ROUTE=DIR of a real server, with curl and httpx: what its users see; the app is not asked."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.certificates import Authority, Files
from tests.helpers.curl import curl, needs_curl
from tests.helpers.http1 import Client, get
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Ended, Serve, ServerProcess, client_of

LARGE = os.urandom(9_000_001)
SECRET = b"top secret"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    public = folder / "public"
    files = {
        "index.html": b"<p>home", "app.js": b"let a = 1", "app.js.br": b"brotli",
        "app.js.gz": gzip.compress(b"let a = 2"),
        "large.bin": LARGE, "docs/index.html": b"<p>docs", "bare/x.txt": b"x", ".env": SECRET,
        ".well-known/security.txt": b"Contact: us", "a b.txt": b"space", "../secret": SECRET,
    }  # fmt: skip
    for name, data in files.items():
        path = public / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9, 1e9))
    (public / "out").symlink_to("../secret")
    return public


@pytest.fixture(scope="module")
def server(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ["--workers", "2", "--static", f"/assets={site}", "--static", f"/assets/docs2={site / 'docs'}"]
    folder = tmp_path_factory.mktemp("server")
    with ServerProcess(folder, "hello:app", *flags, "--static-max-age", "60") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


def test_the_route_is_served_and_the_rest_is_the_apps(client: httpx.Client) -> None:
    assert client.get("/assets/app.js", headers={"accept-encoding": "identity"}).text == "let a = 1"
    assert client.get("/").text == "hello"
    assert client.get("/assetsx").text == "hello"
    assert client.get("/x/assets/app.js").text == "hello"
    assert client.get("/assets/docs2/").text == "<p>docs"  # the longest route
    missing = client.get("/assets/none")
    assert (missing.status_code, missing.text) == (404, "Not Found")


def test_a_large_file(client: httpx.Client) -> None:
    for _ in range(3):
        answer = client.get("/assets/large.bin")
        assert answer.content == LARGE
        assert answer.headers["cache-control"] == "public, max-age=60"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_caching(client: httpx.Client) -> None:
    first = client.get("/assets/large.bin")
    for fields in (
        {"if-none-match": first.headers["etag"]},
        {"if-modified-since": first.headers["last-modified"]},
    ):
        again = client.get("/assets/large.bin", headers=fields)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert first.headers["last-modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"


def test_every_worker_says_the_same(server: ServerProcess) -> None:
    """Or caches would be of no use."""
    seen = set()
    for _ in range(20):
        with client_of(server) as client:
            answer = client.get("/assets/large.bin")
            seen.add((answer.headers["etag"], answer.headers["last-modified"]))
    assert len(seen) == 1


def test_a_folder(client: httpx.Client) -> None:
    answer = client.get("/assets/docs", follow_redirects=True)
    assert (answer.status_code, answer.text) == (200, "<p>docs")
    assert answer.url.path == "/assets/docs/"
    assert client.get("/assets", follow_redirects=True).text == "<p>home"
    assert client.get("/assets/bare/").status_code == 404


@pytest.mark.parametrize(
    "target",
    [
        b"/assets/../secret", b"/assets/%2e%2e/secret", b"/assets/..%2fsecret", b"/assets/docs/../../secret",
        b"/assets//etc/passwd", b"/assets/..\\secret", b"/assets/.env", b"/assets/%2eenv", b"/assets/out",
        b"/assets/../../../../../../etc/passwd", b"/assets/app.js%00.html", b"/assets/./../secret",
        b"/assets/.well-known/../../secret",
    ],
)  # fmt: skip
def test_nothing_leads_out(server: ServerProcess, target: bytes) -> None:
    """As raw bytes: clients tidy their paths."""
    with Client(socket.create_connection(("127.0.0.1", server.port))) as client:
        response = client.ask(get(target))
        assert (response.status, response.body) == (404, b"Not Found")
        assert client.ask(get(b"/assets/a%20b.txt")).body == b"space"


def test_a_link_that_leads_out_is_told_of_once(server: ServerProcess, client: httpx.Client) -> None:
    for _ in range(3):
        assert client.get("/assets/out").status_code == 404
    until(lambda: "is a link out of its directory" in server.log(), "the warning")
    assert server.log().count("is a link out of its directory") <= 2  # each of the workers


def test_what_is_well_known_is_public(client: httpx.Client) -> None:
    assert client.get("/assets/.well-known/security.txt").text == "Contact: us"


def test_other_methods(client: httpx.Client) -> None:
    answer = client.post("/assets/app.js", content=b"x" * 100_000)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    head = client.head("/assets/large.bin")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(LARGE)))


def test_a_client_that_takes_gzip_gets_it(client: httpx.Client) -> None:
    answer = client.get("/assets/app.js", headers={"accept-encoding": "gzip"})
    assert (answer.text, answer.headers["content-encoding"]) == ("let a = 2", "gzip")


@needs_curl
def test_curl_resumes_a_download(server: ServerProcess, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(LARGE[:4_000_000])
    answer = curl("--continue-at", "-", "--output", str(part), f"{server.url}/assets/large.bin")
    assert answer.status == 206
    assert part.read_bytes() == LARGE


@needs_curl
def test_curl_gets_several_ranges(server: ServerProcess) -> None:
    answer = curl("--range", "0-9,1000-1009", f"{server.url}/assets/large.bin")
    assert answer.status == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert LARGE[:10] in answer.body
    assert LARGE[1000:1010] in answer.body


@needs_curl
def test_curl_gets_a_variant(server: ServerProcess) -> None:
    answer = curl("--header", "Accept-Encoding: gzip;q=0.5, br", f"{server.url}/assets/app.js")
    assert (answer.body, answer.headers["content-encoding"]) == (b"brotli", "br")
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"


def test_files_are_in_the_access_log(server: ServerProcess, client: httpx.Client) -> None:
    client.get("/assets/large.bin?logged")
    server.saw_access(r'"GET /assets/large\.bin\?logged HTTP/1\.1" 200')


# Settings


def test_behind_a_root_path(serve: Serve, site: Path) -> None:
    """The route is what the client's path begins with, without the prefix that a proxy took away."""
    server = serve("hello:app", "--workers", "1", "--root-path", "/api", "--static", f"/assets={site}")
    with client_of(server) as client:
        assert client.get("/assets/docs/").text == "<p>docs"
        assert client.get("/assets/docs").headers["location"] == "./docs/"


def test_everything_is_files(serve: Serve, site: Path) -> None:
    server = serve("hello:app", "--workers", "1", "--static", f"/={site}")
    with client_of(server) as client:
        assert client.get("/").text == "<p>home"
        assert client.get("/docs/").text == "<p>docs"
        assert client.get("/hello").status_code == 404


def test_a_deployment_changes_the_folder(serve: Serve, tmp_path: Path) -> None:
    """A link that is pointed elsewhere is followed at once, without a reload."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.txt").write_text(name)
    (tmp_path / "current").symlink_to("one")
    server = serve("hello:app", "--workers", "1", "--static", f"/s={tmp_path / 'current'}")
    with client_of(server) as client:
        assert client.get("/s/release.txt").text == "one"
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "current")
        assert client.get("/s/release.txt").text == "two"


def test_over_tls(serve: Serve, site: Path, files: Files, authority: Authority) -> None:
    """The kernel cannot send it then: it is read, encrypted, and as whole as ever."""
    server = serve("hello:app", "--workers", "1", "--static", f"/s={site}", *files.flags)
    (url,) = server.urls
    context = authority.client_context()
    with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=PATIENCE_S) as client:
        for _ in range(3):
            assert client.get("/s/large.bin").content == LARGE
        part = client.get("/s/large.bin", headers={"range": "bytes=1000000-7999999"})
        assert (part.status_code, part.content) == (206, LARGE[1_000_000:8_000_000])
        assert client.head("/s/large.bin").headers["content-length"] == str(len(LARGE))
        assert client.get("/").text == "hello"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    ended = Ended(tmp_path, "hello:app", "--static", f"/s={tmp_path / 'none'}")
    assert ended.code == 2
    assert f'"{tmp_path / "none"}" is not a directory' in ended.text
    assert ended.tracebacks == 0


def test_preloaded(serve: Serve, site: Path) -> None:
    server = serve("hello:app", "--workers", "2", "--preload", "--static", f"/assets={site}")
    for _ in range(6):
        with client_of(server) as client:
            assert client.get("/assets/large.bin").content == LARGE
