"""WebSocket over HTTP/2 (RFC 8441) on a real server, over TLS and without: frameworks, reloads, a browser."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.helpers.certificates import Authority, Files
from tests.helpers.chromium import Chromium, Page, needs_chromium
from tests.helpers.h2_ws import DEFLATE, H2, NO_ERROR, H2WebSocket
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import Serve, ServerProcess
from tests.helpers.ws import BINARY, TEXT, binary, close, inflated, text
from tests.helpers.ws_peer import large

pytestmark = needs_nghttp2

MIB = 1 << 20
PROTOCOLS = b"sec-websocket-protocol"


class Peer:
    """Where clients connect to, over TLS or without."""

    def __init__(self, server: ServerProcess, authority: Authority | None) -> None:
        self.server = server
        self.port = int(server.urls[0].rpartition(":")[2])
        self._authority = authority

    def connect(self, **how: Any) -> H2:
        if self._authority is None:
            return H2.to_port(self.port, **how)
        return H2.over_tls(self.port, self._authority.client_context(), **how)

    def scope_of_http1(self, path: str, **how: Any) -> dict[str, Any]:
        """What ``/tell`` says to the ``websockets`` package over HTTP/1.1."""
        tls = self._authority is not None
        if self._authority is not None:
            how["ssl"] = self._authority.client_context()
        url = f"{'wss' if tls else 'ws'}://localhost:{self.port}{path}"
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        with connect(url, sock=sock, proxy=None, open_timeout=PATIENCE_S, **how) as client:
            found: dict[str, Any] = json.loads(client.recv(PATIENCE_S))
            return found


Start = Callable[..., Peer]


def flags_of(how: str, files: Files) -> list[str]:
    return ["--http2", *files.flags] if how == "tls" else ["--http2-cleartext"]


@pytest.fixture(scope="module", params=["tls", "cleartext"])
def peer(
    request: pytest.FixtureRequest,
    files: Files,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Peer]:
    """The server with every WebSocket of ws_app.py, two workers."""
    how: str = request.param
    flags = ("--workers", "2", *flags_of(how, files))
    with ServerProcess(tmp_path_factory.mktemp("h2ws"), "ws_app:app", *flags, quiet=False) as server:
        yield Peer(server, authority if how == "tls" else None)


@pytest.fixture
def start(serve: Serve, files: Files, authority: Authority) -> Start:
    """``start(app, "tls", *flags)``."""

    def start(app: str, how: str, *flags: str, **options: Any) -> Peer:
        server = serve(app, *flags_of(how, files), *flags, **options)
        return Peer(server, authority if how == "tls" else None)

    return start


# Each way it is spoken


def test_the_scope_is_that_of_http1(peer: Peer) -> None:
    """The rest, with every kind of field: tests/conformance/test_h2_websocket.py."""
    first = peer.scope_of_http1("/tell?a=%20", compression=None, user_agent_header=None)
    with peer.connect(authority=b"localhost:%d" % peer.port) as h2:
        assert h2.takes_websockets
        ws = h2.open(b"/tell?a=%20")
        second = json.loads(ws.read_text())
        ws.finish()
    gone = ("connection", "upgrade", "sec-websocket-key")
    for scope in (first, second):
        scope["headers"] = sorted(field for field in scope["headers"] if field[0] not in gone)
        del scope["client"]
    assert (first.pop("http_version"), second.pop("http_version")) == ("1.1", "2")
    assert first == second
    assert ("tls" in second["extensions"]) == (second["scheme"] == "wss") == (h2.scheme == b"https")


@pytest.mark.parametrize("fields", [[], [DEFLATE]], ids=["plain", "deflate"])
def test_echo(peer: Peer, fields: list[tuple[bytes, bytes]]) -> None:
    with peer.connect() as h2:
        ws = h2.open(b"/echo", *fields)
        for length in (0, 1, 125, 126, 1023, 1024, 65_535, 65_536, MIB):
            data, said = os.urandom(length), "ü→😀" * (length // 9)
            ws.send(large(BINARY, data), large(TEXT, said.encode()))
            assert heard(ws) == data
            assert heard(ws) == said.encode()
        ws.finish()


def heard(ws: H2WebSocket) -> bytes:
    found = ws.read_frame()
    assert found.fin
    return inflated(found.payload, 12) if found.rsv else found.payload


def test_many_on_one_connection(peer: Peer) -> None:
    """They are all one worker's; another connection may be another's."""
    with peer.connect() as h2:
        sockets = [h2.open(b"/who") for _ in range(50)]
        requests = [h2.request(b"/") for _ in range(20)]
        for ws in sockets:
            ws.send(text("who?"))
        pids = {ws.read_text() for ws in sockets}
        pids |= {str(json.loads(request.response().body)["pid"]) for request in requests}
        assert len(pids) == 1
        assert {int(pid) for pid in pids} <= peer.server.pids()
        for ws in sockets:
            ws.finish()


def test_a_subprotocol_and_a_header(peer: Peer) -> None:
    with peer.connect() as h2:
        ws = H2WebSocket(h2.connect(b"/chat?two", (PROTOCOLS, b"one, two")))
        answer = ws.accepted()
        assert (answer.one(PROTOCOLS), answer.one(b"x-room")) == (b"two", b"blue")
        assert json.loads(ws.read_text()) == ["one", "two"]
        ws.finish()


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        (b"/deny?401", 401, b"not you"),
        (b"/reject", 403, b""),
        (b"/fail-before", 500, b"Internal Server Error"),
        (b"/return-before", 500, b"Internal Server Error"),
    ],
)
def test_denials(peer: Peer, path: bytes, status: int, body: bytes) -> None:
    with peer.connect() as h2:
        response = h2.connect(path).response()
        assert (response.status, response.body) == (status, body)
        assert h2.ask(b"/").status == 200


def test_the_app_closes(peer: Peer) -> None:
    with peer.connect() as h2:
        for path, code, reason in [
            (b"/close?4000,%C3%BC%E2%86%92", 4000, "ü→"),
            (b"/return-after", 1000, ""),
            (b"/fail-after", 1011, None),
        ]:
            ws = h2.open(path)
            ws.send(text("now"))
            found, said = ws.read_close()
            assert found == code
            assert reason is None or said == reason
            ws.send(close(code))
            ws.assert_closed()
        assert h2.ask(b"/").status == 200


def test_a_stream_of_messages(peer: Peer) -> None:
    """10 MB through the windows, while another WebSocket has its turns."""
    with peer.connect() as h2:
        ws, other = h2.open(b"/push?500,20000"), h2.open(b"/echo")
        for number in range(500):
            if number % 50 == 0:
                other.send(binary(b"%d" % number))
            data = ws.read_binary()
            assert (int.from_bytes(data[:4], "big"), len(data)) == (number, 20_000)
        assert [other.read_binary() for _ in range(10)] == [b"%d" % (50 * at) for at in range(10)]
        assert ws.read_close() == (1000, "all sent")
        ws.send(close())
        ws.assert_closed()
        other.finish()


@pytest.mark.parametrize("go", ["cancel", "end", "close"])
def test_a_client_that_goes_is_heard_of(start: Start, notes: Path, go: str) -> None:
    peer = start("ws_app:app", "tls", "--workers", "1", env={"NOTES": str(notes)})
    with peer.connect() as h2:
        ws = h2.open(b"/nothing?gone")
        if go == "close":
            h2.close()
        else:
            getattr(ws.stream, go)()
        until((notes / "gone").exists, "the note")
    assert json.loads((notes / "gone").read_text())["code"] == 1006


def test_not_where_it_is_off(start: Start) -> None:
    """ws none."""
    peer = start("ws_app:app", "cleartext", "--workers", "1", "--ws", "none")
    with peer.connect() as h2:
        assert not h2.takes_websockets
        assert h2.ask(b"/").status == 200


# Frameworks


def test_fastapi(start: Start, notes: Path) -> None:
    peer = start("ws_fastapi:app", "tls", "--workers", "1", env={"NOTES": str(notes)})
    with peer.connect() as h2:
        ws = h2.open(b"/orders/7?limit=5")
        for count in (1, 5):
            ws.send(text(json.dumps({"item": "tea", "count": count})))
            assert json.loads(ws.read_text()) == {"table": 7, "item": "tea", "count": count}
        ws.send(text(json.dumps({"item": "tea", "count": 6})))
        assert ws.read_close() == (4004, "too many")
        ws.send(close(4004))
        ws.assert_closed()
        assert h2.connect(b"/orders/seven").response().status == 403
        assert h2.connect(b"/who").response().status == 403
        for fields in [(b"cookie", b"a=b"), (b"cookie", b"session=ann")], [(b"x-user", b"ann")]:
            ws = h2.open(b"/who", *fields)
            assert json.loads(ws.read_text()) == {"name": "ann"}
            assert ws.read_close() == (1000, "")
            ws.send(close())
            ws.assert_closed()
        assert h2.ask(b"/who").body == b'{"over":"http"}'


def test_starlette(start: Start, notes: Path) -> None:
    peer = start("ws_starlette:app", "cleartext", "--workers", "1", env={"NOTES": str(notes)})
    with peer.connect() as h2:
        ws = h2.open(b"/echo?name=left")
        ws.send(text("hello"))
        assert ws.read_text() == "hello"
        ws.finish(4007)
        until((notes / "left").exists, "the note")
        assert json.loads((notes / "left").read_text()) == {"code": 4007, "reason": ""}


# The server goes


@pytest.mark.parametrize("how", ["tls", "cleartext"])
def test_a_reload_with_open_ones(start: Start, how: str) -> None:
    """Each is told 1012 and closed properly; who comes back gets the new worker."""
    peer = start("ws_app:app", how, "--workers", "2", "--timeout-drain-streams", "0.2")
    server = peer.server
    before = server.pids()
    with ExitStack() as stack:
        connections = [stack.enter_context(peer.connect()) for _ in range(4)]
        sockets = [h2.open(b"/echo") for h2 in connections for _ in range(5)]
        server.send(signal.SIGHUP)
        for ws in sockets:
            ws.send(text("still"))
            assert ws.read_text() == "still"
        for ws in sockets:
            assert ws.read_close()[0] == 1012
            ws.send(close(1012))
        for h2 in connections:
            h2.to_the_end()
            assert {one.code for one in h2.goaways} == {NO_ERROR}
        assert all(ws.stream.ended for ws in sockets)
    server.saw(r"^INFO:     reloaded$")
    with peer.connect() as h2:
        ws = h2.open(b"/who")
        ws.send(text("who?"))
        assert int(ws.read_text()) in server.pids() - before
        ws.finish()


def test_a_stop_with_open_ones(start: Start) -> None:
    peer = start("ws_app:app", "tls", "--workers", "1", "--timeout-drain-streams", "0.2")
    with peer.connect() as h2:
        sockets = [h2.open(b"/echo") for _ in range(5)]
        peer.server.send(signal.SIGTERM)
        for ws in sockets:
            assert ws.read_close()[0] == 1012
            ws.send(close(1012))
        h2.to_the_end()
    assert peer.server.ended() == 0


# What it says


def test_the_access_log(start: Start) -> None:
    """Uvicorn's words for it; in every other format what the client got."""
    peer = start("ws_app:app", "cleartext", "--workers", "1")
    with peer.connect() as h2:
        h2.open(b"/echo?x").finish()
        assert h2.connect(b"/deny?401").response().status == 401
        assert h2.connect(b"/deny?200").response().status == 200
    server = peer.server
    server.saw_access(r'^INFO:     127\.0\.0\.1:\d+ - "WebSocket /echo\?x" \[accepted\]$')
    server.saw_access(r'^INFO:     127\.0\.0\.1:\d+ - "WebSocket /deny\?401" 401$')
    server.saw_access(r'^INFO:     127\.0\.0\.1:\d+ - "WebSocket /deny\?200" 200$')


def test_the_access_log_in_json(start: Start) -> None:
    peer = start("ws_app:app", "cleartext", "--workers", "1", "--access-log-format", "json")
    with peer.connect() as h2:
        h2.open(b"/echo?x").finish()
    (line,) = peer.server.saw_access(r'"WebSocket"')
    found = json.loads(line)
    assert (found["method"], found["target"], found["http_version"]) == ("WebSocket", "/echo?x", "2")
    assert found["status"] == 200


# A browser

OPEN = """
const ws = new WebSocket("wss://" + location.host + args[0], ...(args[1] || []));
const queue = [], waiting = [];
ws.binaryType = "arraybuffer";
ws.next = () => queue.length ? Promise.resolve(queue.shift()) : new Promise(take => waiting.push(take));
ws.onmessage = event => waiting.length ? waiting.shift()(event.data) : queue.push(event.data);
const ended = new Promise(take => ws.onclose = event => take([event.code, event.reason, event.wasClean]));
const opened = await new Promise(take => { ws.onopen = () => take(true); ws.onerror = () => take(false); });
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


def page_of(browser: Chromium, peer: Peer) -> Page:
    """A page over HTTP/2, so that the browser knows that the server takes WebSockets on its connection."""
    page = browser.open("about:blank")
    page.ask("Security.setIgnoreCertificateErrors", ignore=True)
    page.ask("Network.enable")
    url = f"https://127.0.0.1:{peer.port}/"
    page.ask("Page.navigate", url=url)
    until(lambda: page.value("[location.href, document.readyState]") == [url, "complete"], "the page")
    return page


def handshakes(page: Page) -> list[int]:
    """The statuses of the WebSockets that the page opened."""
    events = page.events("Network.webSocketHandshakeResponseReceived")
    return [event["response"]["status"] for event in events]


@needs_chromium
class TestChromium:
    def test_messages(self, browser: Chromium, start: Start) -> None:
        """It says so itself: an HTTP/2 connection, status 200 where HTTP/1.1 has 101; with deflate."""
        peer = start("ws_app:app", "tls", "--workers", "2")
        page = page_of(browser, peer)
        scope = json.loads(page.run(OPEN + "const said = await ws.next(); ws.close(); return said;", "/tell"))
        assert (scope["http_version"], scope["scheme"]) == ("2", "wss")
        assert "sec-websocket-key" not in dict(scope["headers"])
        found = page.run(
            OPEN
            + """
            const found = [ws.extensions.split(";")[0]];
            for (const length of [0, 1, 126, 1024, 65536, 1 << 20]) {
              const text = "ü→😀".repeat(length / 9), data = new Uint8Array(length).map((_, at) => at * 31);
              ws.send(text); ws.send(data);
              const first = await ws.next(), second = new Uint8Array(await ws.next());
              const same = second.length === length && second.every((byte, at) => byte === data[at]);
              found.push(first === text && same);
            }
            ws.close(4000, "thanks");
            return [...found, await ended];""",
            "/echo",
        )
        assert found == ["permessage-deflate", *[True] * 6, [4000, "thanks", True]]
        assert handshakes(page) == [200, 200]
        page.close()

    def test_many_with_a_subprotocol_a_denial_and_a_close(self, browser: Chromium, start: Start) -> None:
        peer = start("ws_app:app", "tls", "--workers", "1")
        page = page_of(browser, peer)
        chat = OPEN + "return [ws.protocol, await ws.next()];"
        assert page.run(chat, "/chat?two", [["one", "two"]]) == ["two", '["one", "two"]']
        assert page.run(OPEN + "return [opened, await ended];", "/deny?401") == [False, [1006, "", False]]
        closed = OPEN + 'ws.send("now"); return await ended;'
        assert page.run(closed, "/close?4000,bye") == [4000, "bye", True]
        many = """
        const all = Array.from({length: 50}, () => new WebSocket("wss://" + location.host + "/who"));
        const pids = await Promise.all(all.map(ws => new Promise(take => {
          ws.onopen = () => ws.send("who?"); ws.onmessage = event => take(event.data); })));
        return pids.length;"""
        assert page.run(many) == 50
        assert peer.server.connections() == 1, "all of it is one connection"
        page.close()

    def test_a_reload(self, browser: Chromium, start: Start) -> None:
        """The page is told 1012, cleanly, and comes back."""
        peer = start("ws_app:app", "tls", "--workers", "1", "--timeout-drain-streams", "0.2")
        page = page_of(browser, peer)
        page.run(OPEN + "window.old = ended.then(end => window.end = end);", "/who")
        (before,) = peer.server.pids()
        peer.server.send(signal.SIGHUP)
        until(lambda: page.value("window.end"), "the end")
        assert page.value("window.end") == [1012, page.value("window.end[1]"), True]
        peer.server.saw(r"^INFO:     reloaded$")
        after = page.run(OPEN + 'ws.send("who?"); return await ws.next();', "/who")
        assert {int(after)} == peer.server.pids() - {before}
        page.close()
