"""``--http2`` and ``--http2-cleartext`` of a real server, with curl and the h2 package as the clients:
with whom it is spoken, bodies of every size both ways, and streams that do not mind each other.

The rest of the server over HTTP/2 (logs, figures, files, WSGI, proxies): test_http2_server.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.h2_app import STYLE, pattern
from tests.helpers.certificates import Authority, Files
from tests.helpers.curl import curl, needs_curl_with_http2
from tests.helpers.h2_load import connected
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import Serve, ServerProcess

pytestmark = needs_nghttp2

APP = "h2_app:app"
ONE = ("--workers", "1", "--http2-cleartext")
KNOWN = "--http2-prior-knowledge"
BIG = 3_000_001
MEDIUM = 300_001
# At the edges of a frame, and of a first window.
SIZES = [0, 1, 16_384, 16_385, 65_535, 65_536, BIG]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notes of both servers."""
    folder = tmp_path_factory.mktemp("h2-notes")
    (folder / "big.bin").write_bytes(pattern(BIG))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("h2c"), APP, *ONE, env={"NOTES": str(shared)}) as server:
        yield server


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, shared: Path, files: Files) -> Iterator[ServerProcess]:
    """Not cleartext; but that is not the question over TLS."""
    flags = ("--workers", "1", "--http2", *files.flags)
    with ServerProcess(tmp_path_factory.mktemp("h2"), APP, *flags, env={"NOTES": str(shared)}) as server:
        yield server


@pytest.fixture(params=["plain", "secure"])
def base(request: pytest.FixtureRequest, authority: Authority) -> list[str]:
    """curl's flags for HTTP/2, and the server's URL as the last of them."""
    server: ServerProcess = request.getfixturevalue(request.param)
    how = [KNOWN] if request.param == "plain" else ["--http2", "--cacert", str(authority.path)]
    return [*how, server.urls[0]]


@pytest.fixture
def secure_base(secure: ServerProcess, authority: Authority) -> list[str]:
    """The same over TLS, for more than one URL: curl 7.88 cannot use a connection again that began with prior
    knowledge, whoever the server is.
    """
    return ["--http2", "--cacert", str(authority.path), secure.urls[0]]


# What is spoken


@needs_curl_with_http2
def test_the_scope(base: list[str]) -> None:
    *how, url = base
    answer = curl(*how, "-H", "X-One: 1", "-H", "Cookie: a=1", "-A", "agent", f"{url}/a%20b/%C3%A9?x=%20&y")
    told = json.loads(answer.text)
    assert (answer.status, answer.version, told["http_version"]) == (200, "2", "2")
    assert (told["method"], told["path"], told["query"]) == ("GET", "/a b/é", "x=%20&y")
    assert (told["raw_path"], told["scheme"]) == ("/a%20b/%C3%A9", url.partition(":")[0])
    assert told["headers"] == [
        ["host", url.partition("//")[2]], ["user-agent", "agent"], ["accept", "*/*"], ["x-one", "1"],
        ["cookie", "a=1"],
    ]  # fmt: skip
    assert told["client"][0] == told["server"][0] == "127.0.0.1"
    assert ("tls" in told["extensions"]) is url.startswith("https")
    assert {"http.response.trailers", "http.response.early_hint"} <= set(told["extensions"])
    assert {"date", "server"} < set(answer.headers)
    assert not {"connection", "keep-alive", "transfer-encoding"} & set(answer.headers)


@needs_curl_with_http2
def test_http1_on_the_same_port(base: list[str]) -> None:
    *how, url = base
    answer = curl(*how[1:], "--http1.1", f"{url}/")
    assert (answer.status, answer.version) == (200, "1.1")
    assert json.loads(answer.text)["http_version"] == "1.1"


@needs_curl_with_http2
def test_an_upgrade_to_h2c_is_not_taken(plain: ServerProcess) -> None:
    """RFC 9113 §3.1: it is deprecated. The request is answered as if it had not asked."""
    answer = curl("--http2", f"{plain.url}/", "--data", "x" * 1000)
    assert "> Upgrade: h2c" in answer.verbose
    assert (answer.status, answer.version) == (200, "1.1")
    assert json.loads(answer.text)["size"] == 1000


def test_alpn(secure: ServerProcess, authority: Authority) -> None:
    """h2 first, whatever the client likes best; http/1.1 for who has only that, or says nothing."""
    port = int(secure.urls[0].rpartition(":")[2])
    for offered, chosen in [
        (["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (None, None),
    ]:  # fmt: skip
        context = authority.client_context()
        if offered is not None:
            context.set_alpn_protocols(offered)
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as connection,
        ):
            assert connection.selected_alpn_protocol() == chosen
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            said = connection.recv(65536)
            # To who agreed on h2 that is no preface: SETTINGS first, and GOAWAY in the end.
            assert said.startswith(b"HTTP/1.1 200 OK\r\n") is (chosen != "h2")
            assert (said[3:4] == b"\x04") is (chosen == "h2")


@needs_curl_with_http2
def test_without_the_switch_it_is_http1(serve: Serve, authority: Authority) -> None:
    server = serve(APP, "--workers", "1", *authority.issue("localhost", "127.0.0.1", file="off").flags)
    answer = curl("--http2", "--cacert", str(authority.path), f"{server.urls[0]}/")
    assert (answer.status, answer.version) == (200, "1.1")
    assert "server accepted http/1.1" in answer.verbose


def test_cleartext_only_where_it_was_asked_for(serve: Serve) -> None:
    """The preface is a bad HTTP/1 request there."""
    server = serve(APP, "--workers", "1")
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 ")


# Bodies


@needs_curl_with_http2
def test_uploads(base: list[str], tmp_path: Path) -> None:
    *how, url = base
    for size in SIZES:
        body = pattern(size)
        (tmp_path / "body").write_bytes(body)
        told = json.loads(curl(*how, "--data-binary", f"@{tmp_path / 'body'}", f"{url}/").text)
        assert (told["method"], told["size"]) == ("POST", size)
        assert told["sha256"] == hashlib.sha256(body).hexdigest()


@needs_curl_with_http2
def test_an_upload_without_a_length(base: list[str]) -> None:
    *how, url = base
    answer = curl(*how, "-T", "-", f"{url}/", stdin=pattern(MEDIUM))
    told = json.loads(answer.text)
    assert (told["method"], told["size"]) == ("PUT", MEDIUM)
    assert "content-length" not in dict(told["headers"])


@needs_curl_with_http2
def test_downloads(base: list[str]) -> None:
    *how, url = base
    for size in SIZES:
        answer = curl(*how, f"{url}/large?{size}")
        assert answer.body == pattern(size)
        assert answer.headers["content-length"] == str(size)


@needs_curl_with_http2
def test_both_ways_at_once(base: list[str]) -> None:
    """The response of an app that begins before the request is over."""
    *how, url = base
    assert curl(*how, "-T", "-", f"{url}/echo", stdin=pattern(MEDIUM)).body == pattern(MEDIUM)


@needs_curl_with_http2
def test_a_file_sent_by_its_path(base: list[str]) -> None:
    *how, url = base
    answer = curl(*how, f"{url}/file?big.bin")
    assert answer.body == pattern(BIG)
    assert "http.response.pathsend" in json.loads(curl(*how, f"{url}/").text)["extensions"]


@needs_curl_with_http2
def test_head(base: list[str]) -> None:
    *how, url = base
    answer = curl(*how, "--head", f"{url}/large?100000")
    assert (answer.status, answer.headers["content-length"]) == (200, "100000")
    assert answer.body.endswith(b"\r\n\r\n")  # curl prints the head, and there is nothing behind it


@needs_curl_with_http2
def test_statuses_over_one_connection(secure_base: list[str]) -> None:
    *how, url = secure_base
    statuses = (204, 205, 304, 404, 500, 599)
    answer = curl(*how, *(f"{url}/status?{status}" for status in statuses), f"{url}/")
    assert re.findall(r"^< HTTP/2 (\d+)", answer.verbose, re.MULTILINE) == [*map(str, statuses), "200"]
    assert answer.connects == [1, *(0 for _ in statuses)]


@needs_curl_with_http2
def test_early_hints_and_trailers(base: list[str]) -> None:
    *how, url = base
    answer = curl(*how, f"{url}/hints")
    assert answer.text == "between hint and trailer"
    assert "< HTTP/2 103" in answer.verbose
    assert f"< link: {STYLE.decode()}" in answer.verbose
    assert "< x-sum: 24" in answer.verbose


@needs_curl_with_http2
def test_expect_100_continue(base: list[str]) -> None:
    """100 comes when the app asks for the body; an app that does not want it answers without."""
    *how, url = base
    answer = curl(*how, "-H", "Expect: 100-continue", "--data-binary", "x" * 5000, f"{url}/")
    assert json.loads(answer.text)["size"] == 5000
    assert "< HTTP/2 100" in answer.verbose
    answer = curl(*how, "-H", "Expect: 100-continue", "--data-binary", "x" * 5000, f"{url}/early")
    assert (answer.status, answer.text) == (403, "not that")
    assert "< HTTP/2 100" not in answer.verbose


@needs_curl_with_http2
def test_an_answer_before_the_body_reaches_who_still_sends_it(base: list[str], tmp_path: Path) -> None:
    """curl forgets a response if RST_STREAM is in the same read, whatever RFC 9113 §8.1 says."""
    *how, url = base
    for size in (5000, BIG):
        (tmp_path / "body").write_bytes(pattern(size))
        answer = curl(*how, "--data-binary", f"@{tmp_path / 'body'}", f"{url}/early")
        assert (answer.status, answer.text) == (403, "not that")


@needs_curl_with_http2
def test_many_at_once_over_one_connection(secure_base: list[str]) -> None:
    *how, url = secure_base
    many = f"{url}/large?[20000-20099]"
    answer = curl(*how, "--parallel", "--parallel-max", "50", many)
    assert sum(answer.connects) == 1
    assert len(answer.body) == sum(range(20_000, 20_100))


def test_an_answer_before_the_body_leaves_the_connection(plain: ServerProcess) -> None:
    """The rest of the body is not wanted any more: RST_STREAM(NO_ERROR), RFC 9113 §8.1."""
    with connected(plain.port) as client:
        stream = client.open("/early", body=b"x" * 1000, end=False)
        client.until(lambda: stream.ended and stream.reset is not None, "the answer, and the reset")
        assert (stream.status, bytes(stream.body), stream.reset) == (403, b"not that", 0)
        assert client.ask().status == 200
        assert client.goaways == []


def test_a_failure_in_the_middle_resets_the_stream_alone(serve: Serve, notes: Path) -> None:
    server = serve(APP, *ONE, quiet=False)
    with connected(server.port) as client:
        stream = client.open("/breaks")
        client.until(lambda: stream.body, "the beginning")
        (notes / "go").touch()
        client.until(lambda: stream.over, "the end")
        assert (stream.status, bytes(stream.body), stream.ended) == (200, b"the beginning", False)
        assert stream.reset == 2  # INTERNAL_ERROR
        assert client.ask().status == 200
    server.saw("LookupError: the failure in the middle")


def test_streams_that_the_client_ends_are_told_to_the_app(plain: ServerProcess, shared: Path) -> None:
    """Of three, one: the others go on, and so does the connection."""
    with connected(plain.port) as client:
        never, halves, events = (client.open(f"/{path}?h2-{path}") for path in ("never", "halves", "events"))
        client.until(lambda: halves.body and events.body, "their beginnings")
        until((shared / "here-h2-never").exists, "the third one")
        client.reset(never)
        client.reset(halves)
        until(lambda: all((shared / f"gone-h2-{one}").exists() for one in ("never", "halves")), "disconnects")
        size = len(events.body)
        client.until(lambda: len(events.body) > size, "more events")
        assert client.ask().status == 200
        assert not (shared / "gone-h2-events").exists()
    until((shared / "gone-h2-events").exists, "its end, with the connection")


def test_a_stream_that_nobody_reads_holds_up_no_other(plain: ServerProcess) -> None:
    """Its window is full; the connection's is not."""
    with connected(plain.port) as client:
        client.widen(2**24)
        full = client.open(f"/large?{BIG}")
        # What comes of it is not acknowledged, so its window stays shut.
        client.h2.acknowledge_received_data = lambda size, stream: None  # type: ignore[method-assign]
        client.until(lambda: len(full.body) == 65_535, "a full window")
        for _ in range(5):
            assert client.ask("/").status == 200
        assert len(full.body) == 65_535
        client.widen(2**24, full)
        assert client.answer(full).body == pattern(BIG)
