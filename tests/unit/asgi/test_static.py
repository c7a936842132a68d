"""The app of --static: what it answers, as ASGI messages. What a path means is test_static_files.py's."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shardserve.asgi.static import READ_BYTES, Static, routes
from shardserve.asgi.static_files import Folder
from shardserve.asgi.static_rules import http_date
from shardserve.errors import ConfigError

OLD = 784111777
TEXT = b"0123456789" * 10
LONG = bytes(range(256)) * 1024  # 256 KiB


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    files = {
        "a.txt": TEXT, "empty.txt": b"", "long.bin": LONG, "sub/index.html": b"<p>sub", "bare/b.txt": b"b",
        "app.js": b"plain", "app.js.br": b"brotli", "app.js.gz": b"gzipped", "gz.css": b"plain",
        "gz.css.gz": b"gzipped", "a.png": b"png", "a.png.gz": b"never", "index.html": b"<p>root",
    }  # fmt: skip
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        os.utime(root / name, (OLD, OLD))
    return root


@pytest.fixture(autouse=True)
def _no_descriptor_stays() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


class Answer:
    """What the app sent. The bytes of a file are read when it is sent, as the native side does it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.files = 0
        self.done = False

    def send(self, message: Any) -> Any:
        """Like the native one it does its work when it is called, and is awaited for the client's sake."""
        assert not self.done
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
            assert len(self.headers) == len(message["headers"]), "a field twice"
            return asyncio.sleep(0)
        if message["type"] == "http.response.zerocopysend":
            self.body += os.pread(message["file"].fileno(), message["count"], message["offset"])
            self.files += 1
        else:
            assert message["type"] == "http.response.body"
            self.body += message.get("body", b"")
        self.done = not message.get("more_body", False)
        return asyncio.sleep(0)


def scope_of(raw: bytes, *headers: tuple[bytes, bytes], method: str = "GET", root_path: str = "") -> Any:
    """What the app reads of a scope."""
    raw_path, _, query = raw.partition(b"?")
    names = {"type": "http", "method": method, "root_path": root_path}
    return {**names, "raw_path": raw_path, "query_string": query, "headers": list(headers)}


async def ask(app: Any, path: str = "/static/a.txt", method: str = "GET", **fields: str) -> Answer:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    scope = scope_of(path.encode(), *headers, method=method)
    answer = Answer()
    await app(scope, None, answer.send)
    assert answer.done
    if method == "GET" and answer.status != 304:
        assert answer.headers[b"content-length"] == b"%d" % len(answer.body)
    assert answer.headers[b"x-content-type-options"] == b"nosniff" or answer.status == 307
    return answer


@pytest.fixture
def app(root: Path) -> Static:
    return Static(b"/static", Folder(str(root)), 0)


# A file


async def test_a_file(app: Static) -> None:
    answer = await ask(app)
    assert (answer.status, answer.body) == (200, TEXT)
    assert answer.headers == {
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": b"100",
        b"etag": b'"%x-64"' % (OLD * 10**9),
        b"last-modified": http_date(OLD),
        b"accept-ranges": b"bytes",
        b"vary": b"accept-encoding",
        b"x-content-type-options": b"nosniff",
    }


async def test_an_empty_file(app: Static) -> None:
    answer = await ask(app, "/static/empty.txt")
    assert (answer.status, answer.body, answer.headers[b"content-length"]) == (200, b"", b"0")


async def test_a_long_file_is_sent_by_the_kernel(app: Static) -> None:
    answer = await ask(app, "/static/long.bin")
    assert (answer.status, answer.body, answer.files) == (200, LONG, 1)
    assert b"vary" not in answer.headers


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_around_the_length_that_is_read(app: Static, root: Path, more: int) -> None:
    (root / "b.bin").write_bytes(LONG[: READ_BYTES + more])
    answer = await ask(app, "/static/b.bin")
    assert answer.body == LONG[: READ_BYTES + more]
    assert answer.files == (more > 0)


@pytest.mark.parametrize("path", ["/static/a.txt", "/static/long.bin", "/static/empty.txt", "/static/sub/"])
async def test_head_says_what_get_says(app: Static, path: str) -> None:
    got, head = await ask(app, path), await ask(app, path, "HEAD")
    assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")


async def test_head_has_no_ranges(app: Static) -> None:
    """RFC 9110 §14.2: Range is for GET alone."""
    head = await ask(app, method="HEAD", range="bytes=0-9")
    assert (head.status, head.headers[b"content-length"]) == (200, b"100")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "PROPFIND"])
async def test_other_methods(app: Static, method: str) -> None:
    answer = await ask(app, method=method)
    assert (answer.status, answer.headers[b"allow"]) == (405, b"GET, HEAD")


async def test_what_is_not_there(app: Static) -> None:
    for path in (
        "/static/none",
        "/static/a.txt/",
        "/static/../secret",
        "/static/.env",
        "/static/sub%2findex.html",
    ):
        answer = await ask(app, path)
        assert (answer.status, answer.body) == (404, b"Not Found")
        assert b"etag" not in answer.headers


async def test_what_changes_while_it_is_read(app: Static, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody truncates it between our two looks: its client comes again, and nobody logs an error."""
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: b"short")
    answer = await ask(app)
    assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")


async def test_no_descriptor_is_left_for_it(app: Static, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        answer = await ask(app)
    assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")


async def test_no_second_descriptor_is_left_for_it(app: Static) -> None:
    """The native side has none for its own: the file is read and sent in pieces."""
    answer = Answer()
    pieces = []

    def send(message: Any) -> Any:
        if message["type"] == "http.response.zerocopysend":
            raise OSError(24, "Too many open files")
        pieces.append(len(message.get("body", b"")))
        return answer.send(message)

    scope = scope_of(b"/static/long.bin", (b"range", b"bytes=10-200000"))
    await app(scope, None, send)
    assert (answer.status, answer.body, answer.done) == (206, LONG[10:200001], True)
    assert max(pieces) == READ_BYTES


async def test_a_client_that_goes_leaves_nothing_open(app: Static) -> None:
    """See _no_descriptor_stays."""

    async def gone(message: Any) -> None:
        if message["type"] != "http.response.start":
            raise ConnectionResetError

    async def nothing(message: Any) -> None:
        raise ConnectionResetError

    scope = scope_of(b"/static/long.bin")
    for send in (gone, nothing):
        with pytest.raises(ConnectionResetError):
            await app(scope, None, send)


# Folders


async def test_the_index_of_a_folder(app: Static) -> None:
    assert (await ask(app, "/static/sub/")).body == b"<p>sub"
    assert (await ask(app, "/static/")).body == b"<p>root"
    assert (await ask(app, "/static/sub/")).headers[b"content-type"] == b"text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/static/sub", b"./sub/"),
        ("/static", b"./static/"),
        ("/static/sub?a=b&c", b"./sub/?a=b&c"),
        ("/static/s%75b", b"./s%75b/"),
    ],
)
async def test_a_folder_without_its_slash(app: Static, path: str, location: bytes) -> None:
    """To where it was asked for, whatever a proxy made of that."""
    answer = await ask(app, path)
    assert (answer.status, answer.headers[b"location"]) == (307, location)


async def test_no_redirect_leads_elsewhere(root: Path) -> None:
    (root / "a:b").mkdir()
    app = Static(b"", Folder(str(root)), 0)
    assert (await ask(app, "/a:b")).headers[b"location"] == b"./a:b/"
    for path in ("//sub", "//example.org/..", "/\\example.org", "/%2fexample.org"):
        assert (await ask(app, path)).status == 404


async def test_no_folder_is_listed(app: Static, root: Path) -> None:
    (root / "odd" / "index.html").mkdir(parents=True)
    for path in ("/static/bare/", "/static/odd/"):
        answer = await ask(app, path)
        assert (answer.status, answer.body) == (404, b"Not Found")


# Caching


async def test_conditions(app: Static) -> None:
    first = await ask(app)
    etag, modified = first.headers[b"etag"].decode(), first.headers[b"last-modified"].decode()
    for fields in ({"if_none_match": etag}, {"if_modified_since": modified}, {"if_none_match": "*"}):
        for method in ("GET", "HEAD"):
            answer = await ask(app, method=method, **fields)
            assert (answer.status, answer.body) == (304, b"")
            # §15.4.5: what a 200 would have had for a cache, and no length of nothing
            assert set(answer.headers) == {b"etag", b"last-modified", b"vary", b"x-content-type-options"}
    assert (await ask(app, if_none_match='"other"')).status == 200
    assert (await ask(app, if_match=etag)).status == 200
    assert (await ask(app, if_match='"other"')).status == 412
    assert (await ask(app, if_unmodified_since="Sat, 01 Jan 1983 00:00:00 GMT")).status == 412


async def test_a_condition_on_several_lines(app: Static) -> None:
    etag = (await ask(app)).headers[b"etag"]
    scope = scope_of(b"/static/a.txt", (b"if-none-match", b'"x"'), (b"if-none-match", etag))
    answer = Answer()
    await app(scope, None, answer.send)
    assert answer.status == 304


async def test_the_etag_is_of_the_change_and_the_size(app: Static, root: Path) -> None:
    seen = {(await ask(app)).headers[b"etag"]}
    os.utime(root / "a.txt", ns=(OLD * 10**9, OLD * 10**9 + 1))
    seen.add((await ask(app)).headers[b"etag"])
    (root / "a.txt").write_bytes(b"longer" * 100)
    os.utime(root / "a.txt", (OLD, OLD))
    seen.add((await ask(app)).headers[b"etag"])
    assert len(seen) == 3
    assert not any(etag.startswith(b"W/") for etag in seen)


async def test_a_young_file_has_a_weak_etag(app: Static, root: Path) -> None:
    """It may change again in the same tick of the clock, so nothing is resumed by it."""
    (root / "a.txt").write_bytes(b"young" * 10)
    ahead = time.time() + 1000
    os.utime(root / "a.txt", (ahead, ahead))
    answer = await ask(app)
    etag = answer.headers[b"etag"].decode()
    assert etag.startswith('W/"')
    assert (await ask(app, if_none_match=etag)).status == 304
    assert (await ask(app, range="bytes=0-1", if_range=etag)).status == 200
    # §8.8.2.1: nothing is changed after it was sent
    assert answer.headers[b"last-modified"] <= http_date(int(time.time()) + 1)
    assert answer.headers[b"last-modified"] != http_date(int(ahead))


async def test_how_long_it_may_be_kept(root: Path) -> None:
    app = Static(b"/static", Folder(str(root)), 3600)
    kept = b"public, max-age=3600"
    etag = (await ask(app)).headers[b"etag"].decode()
    assert (await ask(app)).headers[b"cache-control"] == kept
    assert (await ask(app, if_none_match=etag)).headers[b"cache-control"] == kept
    assert (await ask(app, range="bytes=0-1")).headers[b"cache-control"] == kept
    for answer in (
        await ask(app, "/static/none"),
        await ask(app, method="POST"),
        await ask(app, "/static/sub"),
        await ask(app, if_match='"x"'),
        await ask(app, range="bytes=1000-"),
    ):
        assert b"cache-control" not in answer.headers, answer.status


# Ranges


@pytest.mark.parametrize("name", ["a.txt", "long.bin"])
async def test_one_range(app: Static, root: Path, name: str) -> None:
    data = (root / name).read_bytes()
    size = len(data)
    for text, first, last in (
        ("5-9", 5, 9),
        (f"{size - 3}-", size - 3, size - 1),
        ("-50", size - 50, size - 1),
    ):
        answer = await ask(app, f"/static/{name}", range=f"bytes={text}")
        assert (answer.status, answer.body) == (206, data[first : last + 1])
        assert answer.headers[b"content-range"] == b"bytes %d-%d/%d" % (first, last, size)
        assert answer.headers[b"etag"]


async def test_a_long_range_is_sent_by_the_kernel(app: Static) -> None:
    answer = await ask(app, "/static/long.bin", range="bytes=1000-200000")
    assert (answer.body, answer.files) == (LONG[1000:200001], 1)


async def test_a_range_that_is_not_there(app: Static) -> None:
    answer = await ask(app, range="bytes=100-")
    assert (answer.status, answer.headers[b"content-range"]) == (416, b"bytes */100")
    assert b"content-encoding" not in answer.headers


@pytest.mark.parametrize("fields", [{"range": "bytes=x"}, {"range": "bytes=0-5,3-9"}, {"range": "lines=1-2"}])
async def test_what_is_not_taken_for_a_range(app: Static, fields: dict[str, str]) -> None:
    answer = await ask(app, **fields)
    assert (answer.status, answer.body) == (200, TEXT)


async def test_conditions_come_before_ranges(app: Static) -> None:
    """§13.2.2."""
    etag = (await ask(app)).headers[b"etag"].decode()
    assert (await ask(app, range="bytes=0-1", if_none_match=etag)).status == 304
    assert (await ask(app, range="bytes=500-", if_match='"x"')).status == 412
    assert (await ask(app, range="bytes=500-", if_range='"x"')).status == 200
    assert (await ask(app, range="bytes=0-1", if_range=etag)).status == 206


def parts_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The Content-Range and the bytes of each part, read strictly (RFC 2046 §5.1.1)."""
    found = re.fullmatch(rb"multipart/byteranges; boundary=([0-9a-f]{32})", answer.headers[b"content-type"])
    assert found
    _, *parts, end = answer.body.split(b"\r\n--" + found[1])
    assert end == b"--\r\n"
    result = []
    for part in parts:
        head, _, data = part.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.removeprefix(b"\r\n").split(b"\r\n"))
        assert set(fields) == {b"content-type", b"content-range"}
        result.append((fields[b"content-range"], data))
    return result


async def test_several_ranges(app: Static) -> None:
    answer = await ask(app, "/static/long.bin", range="bytes=100-199,0-9,-1")
    assert answer.status == 206
    assert b"content-range" not in answer.headers  # §15.3.7.2
    assert parts_of(answer) == [
        (b"bytes 100-199/262144", LONG[100:200]),
        (b"bytes 0-9/262144", LONG[:10]),
        (b"bytes 262143-262143/262144", LONG[-1:]),
    ]


async def test_a_single_range_that_is_there_is_no_multipart(app: Static) -> None:
    answer = await ask(app, range="bytes=0-4,500-600")
    assert (answer.status, answer.headers[b"content-range"]) == (206, b"bytes 0-4/100")


# Compressed variants


@pytest.mark.parametrize(
    ("path", "accepted", "body", "coding"),
    [
        ("app.js", "gzip, br", b"brotli", b"br"),
        ("app.js", "gzip", b"gzipped", b"gzip"),
        ("app.js", "br;q=0.1, gzip", b"gzipped", b"gzip"),
        ("app.js", "identity", b"plain", None),
        ("app.js", "gzip;q=0, br;q=0", b"plain", None),
        ("gz.css", "gzip, br", b"gzipped", b"gzip"),
        ("gz.css", "br", b"plain", None),
        ("a.txt", "gzip, br", TEXT, None),
    ],
)
async def test_the_variant_that_the_client_prefers(
    app: Static, path: str, accepted: str, body: bytes, coding: bytes | None
) -> None:
    answer = await ask(app, f"/static/{path}", accept_encoding=accepted)
    assert (answer.body, answer.headers.get(b"content-encoding")) == (body, coding)
    assert answer.headers[b"vary"] == b"accept-encoding"
    assert answer.headers[b"content-type"].startswith(b"text/")  # of the file, not of its variant


async def test_what_is_compressed_already_has_no_variants(app: Static) -> None:
    answer = await ask(app, "/static/a.png", accept_encoding="gzip")
    assert answer.body == b"png"
    assert b"vary" not in answer.headers


async def test_each_variant_has_its_own_etag(app: Static, root: Path) -> None:
    """Though all were changed at the same time and are of one size."""
    for name in ("app.js", "app.js.br", "app.js.gz"):
        (root / name).write_bytes(b"12345678")
        os.utime(root / name, (OLD, OLD))
    answers = [await ask(app, "/static/app.js", accept_encoding=one) for one in ("br", "gzip", "identity")]
    etags = {answer.headers[b"etag"] for answer in answers}
    assert len(etags) == 3
    again = await ask(
        app, "/static/app.js", accept_encoding="br", if_none_match=answers[0].headers[b"etag"].decode()
    )
    assert (again.status, again.headers[b"vary"]) == (304, b"accept-encoding")


async def test_a_range_is_of_the_variant(app: Static) -> None:
    answer = await ask(app, "/static/app.js", accept_encoding="br", range="bytes=0-2")
    assert (answer.status, answer.body, answer.headers[b"content-encoding"]) == (206, b"bro", b"br")
    assert answer.headers[b"content-range"] == b"bytes 0-2/6"


async def test_an_index_has_variants_too(app: Static, root: Path) -> None:
    (root / "sub" / "index.html.br").write_bytes(b"small")
    assert (await ask(app, "/static/sub/", accept_encoding="br")).body == b"small"


async def test_a_variant_that_is_no_file_is_none(app: Static, root: Path) -> None:
    (root / "a.txt.br").mkdir()
    (root / "a.txt.gz").symlink_to("/etc/passwd")
    assert (await ask(app, accept_encoding="br, gzip")).body == TEXT


# Routes


def settings(*static: tuple[str, str]) -> Any:
    return SimpleNamespace(static=static, static_max_age_s=60)


async def test_routes(root: Path) -> None:
    found = routes(settings(("/static", str(root)), ("/other/", str(root / "sub")), ("/", str(root))))
    assert [prefix for prefix, _ in found] == [b"/static", b"/other", b""]
    paths = ["/static/a.txt", "/other/index.html", "/a.txt"]
    answers = [await ask(app, path) for (_, app), path in zip(found, paths, strict=True)]
    assert [answer.body for answer in answers] == [TEXT, b"<p>sub", TEXT]
    assert answers[0].headers[b"cache-control"] == b"public, max-age=60"


@pytest.mark.parametrize(
    ("route", "prefix"),
    [("/a b", b"/a%20b"), ("/ä", b"/%C3%A4"), ("/~me/a:b@c,d;e=f", b"/~me/a:b@c,d;e=f"), ("/", b"")],
)
def test_a_route_is_compared_as_clients_send_it(root: Path, route: str, prefix: bytes) -> None:
    assert routes(settings((route, str(root))))[0][0] == prefix


def test_no_routes() -> None:
    assert routes(settings()) == []


def test_a_route_to_nowhere(root: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        routes(settings(("/static", str(root / "none"))))


@pytest.mark.parametrize(
    ("root_path", "raw"), [("/api", b"/api/static/a.txt"), ("/ä", "/ä/static/a.txt".encode())]
)
async def test_behind_a_root_path(app: Static, root_path: str, raw: bytes) -> None:
    """raw_path begins with it, the file's path does not."""
    scope = scope_of(raw, root_path=root_path)
    answer = Answer()
    await app(scope, None, answer.send)
    assert (answer.status, answer.body) == (200, TEXT)
