"""What Starlette's documentation promises, held to twice: by its own test client, and by our server.

Rules of this file: a test is a conversation (``tests/helpers/twofold.py``) and, where it matters, what the
answer is that both give. The app: tests/apps/starlette_suite.py.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.apps.starlette_suite import create
from tests.helpers.master_process import PATIENCE_S
from tests.helpers.server import Ended, ServerProcess, client_of
from tests.helpers.twofold import same

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would like another HTTP client
    from starlette.testclient import TestClient, WebSocketDenialResponse
    from starlette.websockets import WebSocketDisconnect

needs_forms = pytest.mark.skipif(
    importlib.util.find_spec("python_multipart") is None, reason="python-multipart is not installed"
)

FILE = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("suite-files")
    (found / "templates").mkdir()
    (found / "templates" / "page.html").write_text(
        "<p>hello {{ name }}</p><a href='{{ url_for(\"item\", id=7) }}'>"
    )
    (found / "static" / "sub").mkdir(parents=True)
    (found / "static" / "index.html").write_text("<p>the index</p>")
    (found / "static" / "sub" / "index.html").write_text("<p>another index</p>")
    (found / "static" / "404.html").write_text("<p>no such file</p>")
    (found / "static" / "a b.css").write_text("p { color: red }")
    (found / "data.bin").write_bytes(FILE)
    return found


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--factory", "--workers", "1")
    where = tmp_path_factory.mktemp("suite")
    env = {"NOTES": str(folder)}
    with ServerProcess(where, "starlette_suite:create", *flags, env=env, quiet=False) as server:
        yield server


@pytest.fixture(scope="module")
def testing(folder: Path, server: ServerProcess) -> Iterator[TestClient]:
    """Starlette's client of the same app, which takes itself for our server."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NOTES", str(folder))
        app = create()
    with TestClient(
        app, base_url=server.url, raise_server_exceptions=False, follow_redirects=False
    ) as client:
        yield client


@pytest.fixture
def both(testing: TestClient, server: ServerProcess) -> Iterator[Callable[[Any], list[httpx.Response]]]:
    testing.cookies.clear()
    with client_of(server) as client:
        yield lambda talk: same(talk, testing, client)


Both = Callable[[Any], list[httpx.Response]]


def get(*paths: str, method: str = "GET", **how: Any) -> Any:
    return lambda client: [client.request(method, path, **how) for path in paths]


# Requests


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_what_a_request_has(both: Both, method: str) -> None:
    headers = [("x-one", "1"), ("x-twice", "1"), ("x-twice", "2"), ("cookie", "a=1; b=2"), ("cookie", "c=3")]
    answers = both(get("/whole", "/whole?a=1&b=%20&a=2&c", method=method, headers=headers))
    assert answers[1].json()["query"] == [["a", "1"], ["b", " "], ["a", "2"], ["c", ""]]
    assert answers[1].json()["cookies"] == {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize(
    "path",
    [
        "/items/42", "/items/x", "/items/", "/float/1.5/a/b%20c/d", "/hex/ff", "/hex/zz",
        "/uuid/00000000-0000-0000-0000-000000000001", "/nowhere", "/slash", "/slash/", "/wh%6Fle", "/whole/",
        "/float/1/%C3%BC%2F",
    ],
)  # fmt: skip
def test_routing(both: Both, path: str) -> None:
    both(get(path))
    both(get(path, method="HEAD"))


def test_methods_that_a_route_has_not(both: Both) -> None:
    (answer,) = both(get("/items/1", method="DELETE"))
    assert answer.status_code == 405
    assert answer.headers["allow"]
    both(get("/json", "/endpoint"))
    both(get("/endpoint", method="POST"))
    both(get("/endpoint", method="PUT"))


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "ü"]}, [], "text", 0, None])
def test_json(both: Both, value: Any) -> None:
    both(lambda client: [client.post("/json", json=value)])


@needs_forms
@pytest.mark.parametrize("prefix", ["", "/gzip", "/stamp"])
def test_forms_and_files(both: Both, prefix: str) -> None:
    def talk(client: httpx.Client) -> list[httpx.Response]:
        files = [
            ("file", ("ünï.bin", FILE, "application/x-own")),
            ("file", ("empty.txt", b"", "text/plain")),
        ]
        return [
            client.post(f"{prefix}/form", data={"a": "1 &ü", "b": ["2", "3"], "empty": ""}),
            client.post(f"{prefix}/form", data={"a": "1"}, files=files),
            client.post(f"{prefix}/form", content=b"a=1", headers={"content-type": "multipart/form-data"}),
        ]

    answers = both(talk)
    assert answers[0].json() == [["a", "1 &ü"], ["b", "2"], ["b", "3"], ["empty", ""]]
    assert answers[1].json()[1][1:4] == ["ünï.bin", "application/x-own", len(FILE)]


def test_a_streamed_body(both: Both) -> None:
    def talk(client: httpx.Client) -> list[httpx.Response]:
        return [
            client.post("/streamed", content=FILE),
            client.post("/streamed", content=iter([b"a" * 70_000, b"b", b"c" * 3])),
            client.post("/streamed"),
        ]

    assert [answer.text for answer in both(talk)] == ["256000", "70004", "0"]


def test_a_client_that_is_there_is_not_disconnected(server: ServerProcess) -> None:
    """Not by the test client: it calls a client that has sent its request gone."""
    with client_of(server) as client:
        assert client.post("/disconnected", content=b"body").json() == [False, False]
        assert client.post("/disconnected").json() == [False, False]


# Responses


@pytest.mark.parametrize("prefix", ["", "/gzip", "/stamp"])
def test_streams_and_events(both: Both, prefix: str) -> None:
    for encoding in ("identity", "gzip"):
        both(get(f"{prefix}/stream", f"{prefix}/events", headers={"accept-encoding": encoding}))
    both(get("/stream/sync"))


def test_events_are_framed_as_they_were_sent(server: ServerProcess) -> None:
    with client_of(server) as client, client.stream("GET", "/events") as answer:
        parts = list(answer.iter_raw())
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"".join(parts).count(b"\n\n") == 5


RANGES: list[dict[str, str]] = [
    {},
    *({"range": f"bytes={one}"} for one in ("0-0", "100-199", "-10", "255990-", "999999-", "5-1")),
    {"range": "lines=1-2"},
    {"range": "bytes=0-9", "if-range": '"another"'},
]


@pytest.mark.parametrize("headers", RANGES, ids=str)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("prefix", ["", "/stamp"])
def test_files(both: Both, headers: dict[str, str], method: str, prefix: str) -> None:
    both(get(f"{prefix}/file/data.bin", method=method, headers=headers))


def test_several_ranges_of_a_file(server: ServerProcess) -> None:
    """The boundary is made up anew for each answer."""
    with client_of(server) as client:
        answer = client.get("/file/data.bin", headers={"range": "bytes=0-9,100-109"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert FILE[:10] in answer.content
    assert FILE[100:110] in answer.content
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_file_that_is_not_there(both: Both) -> None:
    (answer,) = both(get("/file/nothing.bin"))
    assert (answer.status_code, answer.text) == (500, "sorry")


def test_cookies(both: Both) -> None:
    def talk(client: httpx.Client) -> list[httpx.Response]:
        client.cookies.set("three", "3")
        return [client.get("/cookies"), client.get("/cookies")]

    answers = both(talk)
    assert len(answers[0].headers.get_list("set-cookie")) == 3


def test_redirects_headers_and_statuses(both: Both) -> None:
    answers = both(get("/redirect", "/raw", "/blocking", "/state"))
    assert answers[0].status_code == 303
    assert answers[1].headers.get_list("x-raw") == ["a, b", "c"]
    both(get(*[f"/nothing/{status}" for status in (200, 201, 204, 205, 299, 304, 400, 404, 451, 503, 599)]))
    both(lambda client: [client.get("/redirect", follow_redirects=True)])


def test_background_tasks_run_in_order_after_the_answer(both: Both) -> None:
    _, answer = both(get("/background", "/after-background"))
    assert answer.json() == ["first", "second"]


def test_templates(both: Both, server: ServerProcess) -> None:
    answers = both(get("/page/you", "/page/%3Cb%3E"))
    assert answers[0].text == f"<p>hello you</p><a href='{server.url}/items/7'>"
    assert "&lt;b&gt;" in answers[1].text


@pytest.mark.parametrize(
    "path",
    [
        "/static/", "/static", "/static/sub/", "/static/sub", "/static/a%20b.css", "/static/nothing",
        "/static/../data.bin", "/static/%2e%2e/data.bin", "/static/..%2Fdata.bin", "/static/sub/index.html/x",
    ],
)  # fmt: skip
def test_static_files(both: Both, path: str) -> None:
    both(get(path))
    both(get(path, method="HEAD"))
    both(get(path, method="POST"))


def test_static_files_that_the_client_has(both: Both) -> None:
    def talk(client: httpx.Client) -> list[httpx.Response]:
        first = client.get("/static/a%20b.css")
        tagged = {"if-none-match": first.headers["etag"]}
        dated = {"if-modified-since": first.headers["last-modified"]}
        return [client.get("/static/a%20b.css", headers=headers) for headers in (tagged, dated)]

    assert [answer.status_code for answer in both(talk)] == [304, 304]


def test_mounts_and_hosts(both: Both, server: ServerProcess) -> None:
    answers = both(get("/mount/whole", "/mount/ann/deep/whole", "/mount/", "/mount", "/mount/nothing"))
    assert answers[0].json()["url"] == f"{server.url}/mount/whole"
    assert answers[1].json()["params"] == {"user": "ann"}
    answers = both(get("/host", headers={"host": "api.example.org"}))
    assert answers[0].text == "short"
    assert both(get("/host"))[0].status_code == 404


# Errors


def test_errors_and_their_handlers(both: Both) -> None:
    answers = both(get("/teapot", "/raises", "/fails", "/nowhere", "/stamp/raises", "/gzip/raises"))
    assert [answer.status_code for answer in answers] == [418, 409, 500, 404, 409, 409]
    assert answers[0].headers["x-pot"] == "1"
    assert answers[2].text == "sorry"


def test_a_failure_that_has_a_handler_is_logged_once_all_the_same(server: ServerProcess) -> None:
    """Starlette raises it again when it has answered, so that servers log it."""
    since = len(server.log())
    with client_of(server) as client:
        assert client.get("/fails").text == "sorry"
        server.saw("^LookupError: the failure of the app$", since=since)
        assert client.get("/blocking").status_code == 200
    assert server.log(since).count("Exception in ASGI application: GET /fails") == 1
    assert server.log(since).count("LookupError: the failure of the app\n") == 1


# Middleware


def test_gzip(both: Both) -> None:
    zipped = {"accept-encoding": "gzip"}
    answers = both(get("/gzip/text", "/gzip/short", "/gzip/whole", headers=zipped))
    assert answers[0].headers["content-encoding"] == "gzip"
    assert "content-encoding" not in answers[1].headers
    both(get("/gzip/text", headers={"accept-encoding": "identity"}))
    both(get("/gzip/text", method="HEAD", headers=zipped))


def test_base_http_middleware(both: Both) -> None:
    answers = both(get("/stamp/text", "/stamp/nowhere", "/stamp/whole"))
    assert answers[0].headers["x-stamp"] == "GET 0"
    (answer,) = both(get("/stamp/text", headers={"x-stop": "1"}))
    assert (answer.status_code, answer.text) == (403, "stopped")


def test_sessions(testing: TestClient, server: ServerProcess) -> None:
    """What is in them; the cookie is signed with the time."""
    with client_of(server) as client:
        for one in (testing, client):
            one.cookies.clear()
            found = [
                one.get(path).json() for path in ("/session/", "/session/", "/session/?clear", "/session/")
            ]
            assert found == [{"visits": 1}, {"visits": 2}, {}, {"visits": 1}]


def test_cors_and_trusted_hosts(both: Both) -> None:
    asked = {"origin": "https://example.org", "access-control-request-method": "PUT"}
    answers = both(get("/cors/whole", method="OPTIONS", headers=asked))
    assert answers[0].headers["access-control-allow-origin"] == "https://example.org"
    both(get("/cors/whole", method="OPTIONS", headers={**asked, "origin": "https://evil.example"}))
    both(get("/cors/text", headers={"origin": "https://example.org"}))
    for host in ("example.org", "a.example.com", "evil.example"):
        both(get("/trusted/text", headers={"host": host}))


# WebSockets


class Wire:
    """One WebSocket, by either client."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._testing = hasattr(session, "send_text")

    def say(self, data: str | bytes) -> None:
        if not self._testing:
            self._session.send(data)
        elif isinstance(data, bytes):
            self._session.send_bytes(data)
        else:
            self._session.send_text(data)

    def hear(self) -> str | bytes | tuple[int, str]:
        """A message; or how it ended."""
        if not self._testing:
            try:
                found: str | bytes = self._session.recv(PATIENCE_S)
            except ConnectionClosed as error:
                end = error.rcvd
                return (end.code, end.reason) if end else (1006, "")
            return found
        message = self._session.receive()
        if message["type"] == "websocket.close":
            return message.get("code", 1000), message.get("reason") or ""
        text: str | bytes = message["text"] if message.get("text") is not None else message["bytes"]
        return text


def both_wires(testing: TestClient, server: ServerProcess, path: str, talk: Any, **how: Any) -> Any:
    """Hold it with both; what it found, which must be the same."""
    with testing.websocket_connect(path, **how) as session:
        expected = [*talk(Wire(session)), session.accepted_subprotocol]
    url = server.url.replace("http://", "ws://") + path
    with connect(url, proxy=None, open_timeout=PATIENCE_S, **how) as client:
        found = [*talk(Wire(client)), client.subprotocol]
    assert found == expected
    return found


def test_websocket_echo_and_subprotocols(testing: TestClient, server: ServerProcess) -> None:
    def talk(wire: Wire) -> list[Any]:
        heard = []
        for text in ("hello", "", "ü" * 100_000):
            wire.say(text)
            heard.append(wire.hear())
        return heard

    found = both_wires(testing, server, "/ws/echo?name=me", talk, subprotocols=["other", "chat"])
    assert (found[0], found[-1]) == ("me: hello", "chat")
    assert both_wires(testing, server, "/ws/echo", talk)[-1] is None


def test_websocket_endpoints_and_their_close(testing: TestClient, server: ServerProcess) -> None:
    def talk(wire: Wire) -> list[Any]:
        wire.say('{"a": 1}')
        heard = [wire.hear()]
        wire.say('"close"')
        return [*heard, wire.hear(), wire.hear()]

    found = both_wires(testing, server, "/ws/count/7", talk)
    assert found[2] == (4001, "as you wish")


def test_websocket_bytes(testing: TestClient, server: ServerProcess) -> None:
    def talk(wire: Wire) -> list[Any]:
        wire.say(b"\x00\x01\x02")
        return [wire.hear()]

    assert both_wires(testing, server, "/ws/binary", talk)[0] == b"\x02\x01\x00"


def test_websockets_that_are_refused(testing: TestClient, server: ServerProcess) -> None:
    with pytest.raises(WebSocketDisconnect) as closed, testing.websocket_connect("/ws/closes"):
        pass
    assert closed.value.code == 1008
    with pytest.raises(WebSocketDenialResponse) as denied, testing.websocket_connect("/ws/denies"):
        pass
    expected = (denied.value.status_code, denied.value.content, denied.value.headers["x-no"])
    url = server.url.replace("http://", "ws://")
    answers = []
    for path in ("/ws/closes", "/ws/denies"):
        with pytest.raises(InvalidStatus) as refused, connect(f"{url}{path}", proxy=None):
            pass
        answers.append(refused.value.response)
    assert answers[0].status_code == 403
    assert (answers[1].status_code, answers[1].body, answers[1].headers["x-no"]) == expected


def test_what_the_app_raises_while_it_is_made_is_shown(tmp_path: Path) -> None:
    flags = ("--factory", "--workers", "1")
    ended = Ended(tmp_path, "starlette_suite:create", *flags, env={"NOTES": "/nowhere"})
    assert ended.code == 3
    assert "Directory '/nowhere/static' does not exist" in ended.text
