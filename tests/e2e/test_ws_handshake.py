"""What a WebSocket handshake is answered, what clients and curl see of it, and what is logged."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate

from tests.helpers.curl import Answer, curl, needs_curl
from tests.helpers.master_process import PATIENCE_S
from tests.helpers.server import ServerProcess
from tests.helpers.ws_clients import Peer, ask, ending, eventually, peer_of, rest, soon

COMPRESSIONS = pytest.mark.parametrize("compression", ["deflate", None], ids=["deflate", "plain"])


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ws-notes")


@pytest.fixture(scope="module")
def server(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("ws")
    flags = ("--workers", "2")
    with ServerProcess(folder, "ws_app:app", *flags, env={"NOTES": str(notes)}, quiet=False) as server:
        yield server


@pytest.fixture(scope="module")
def peer(server: ServerProcess, notes: Path) -> Peer:
    return peer_of(server, notes)


def text_of(length: int) -> str:
    """So many bytes of UTF-8; the longer ones with characters of every width."""
    return "x" * length if length < 10 else "aü→😀" * (length // 10) + "." * (length % 10)


# The handshake


async def test_the_handshake_has_what_the_app_and_the_server_add(peer: Peer) -> None:
    async with peer.open("/chat?two", subprotocols=["one", "two"]) as client:
        assert client.response is not None
        fields = client.response.headers
        assert json.loads(str(await soon(client.recv()))) == ["one", "two"]
    assert client.subprotocol == "two"
    assert (client.response.status_code, fields["x-room"]) == (101, "blue")
    assert (fields["server"], fields["upgrade"].lower()) == ("shardserve", "websocket")
    assert "date" in fields
    assert fields.get_all("sec-websocket-protocol") == ["two"]


async def test_no_subprotocol(peer: Peer) -> None:
    async with peer.open("/chat", subprotocols=["one"]) as client:
        assert json.loads(str(await soon(client.recv()))) == ["one"]
        assert client.subprotocol is None
    async with peer.open("/chat") as client:
        assert json.loads(str(await soon(client.recv()))) == []


async def test_the_scope(peer: Peer) -> None:
    headers = {"X-Twice": "ü".encode().decode("latin-1")}
    async with peer.open("/tell?a=1&b=%20", subprotocols=["p"], additional_headers=headers) as client:
        found = json.loads(str(await soon(client.recv())))
        own = list(client.local_address)
    fields = found.pop("headers")
    assert found == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/tell",
        "raw_path": "/tell",
        "query_string": "a=1&b=%20",
        "root_path": "",
        "client": own,
        "server": ["127.0.0.1", peer.port],
        "subprotocols": ["p"],
        "state": {"greeting": "from the lifespan"},
        "extensions": {"websocket.http.response": {}},
    }
    assert ["x-twice", headers["X-Twice"]] in fields
    assert ["host", f"127.0.0.1:{peer.port}"] in fields


def deflate_of(client: ClientConnection) -> PerMessageDeflate | None:
    found = client.protocol.extensions
    assert len(found) <= 1
    return found[0] if found else None  # type: ignore[return-value]


class Counting(ClientConnection):
    """Counts what comes from the server."""

    received_bytes = 0

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        super().data_received(data)


@COMPRESSIONS
async def test_what_is_compressed_is_smaller_on_the_wire(peer: Peer, compression: str | None) -> None:
    text = "the same again and again " * 4000
    async with peer.open(compression=compression, create_connection=Counting) as client:
        for _ in range(3):
            assert await ask(client, text) == text
        assert (deflate_of(client) is not None) == (compression is not None)
        if compression:
            assert client.received_bytes < len(text) / 10
        else:
            assert client.received_bytes > 3 * len(text)


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"server_no_context_takeover": True, "client_no_context_takeover": True},
        {"server_max_window_bits": 9},
        {"client_max_window_bits": 9},
        {"client_max_window_bits": True},
        {"server_max_window_bits": 15, "client_max_window_bits": 15},
    ],
    ids=str,
)
async def test_every_wish_for_deflate(peer: Peer, wish: dict[str, Any]) -> None:
    async with peer.open(compression=None, extensions=[ClientPerMessageDeflateFactory(**wish)]) as client:
        for text in ("short", "ü→😀" * 500, "long and " * 20_000):
            assert await ask(client, text) == text
        agreed = deflate_of(client)
    # No context is kept, on either side: an idle connection holds no state of zlib.
    if agreed is not None:
        assert agreed.remote_no_context_takeover
        assert agreed.local_no_context_takeover
    else:  # an offer may be declined (RFC 7692 §5), but only one that asks for less than we do with
        assert "server_max_window_bits" in wish


# curl, which knows nothing of WebSocket


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


NEEDED = {"sec-websocket-version": "13", "upgrade": "websocket"}


def shake(peer: Peer, *paths: str, method: str = "GET", **changes: str | None) -> Answer:
    """A handshake by hand; the fields of ``changes`` replace its own, None leaves one out."""
    fields = HANDSHAKE | {name.replace("_", "-"): value for name, value in changes.items()}
    given = [part for name, value in fields.items() if value for part in ("--header", f"{name}: {value}")]
    urls = [f"http://127.0.0.1:{peer.port}{path}" for path in paths or ("/echo",)]
    return curl("--request", method, *given, *urls)


@needs_curl
@pytest.mark.parametrize(
    ("method", "changes", "status", "fields"),
    [
        ("GET", {"Sec_WebSocket_Version": "12"}, 426, NEEDED),
        ("GET", {"Sec_WebSocket_Version": None}, 400, {"sec-websocket-version": "13"}),
        ("GET", {"Sec_WebSocket_Key": None}, 400, {}),
        ("GET", {"Sec_WebSocket_Key": "c2hvcnQ="}, 400, {}),
        ("POST", {}, 405, {"allow": "GET"}),
        ("DELETE", {}, 405, {"allow": "GET"}),
    ],
    ids=["version 12", "no version", "no key", "a short key", "POST", "DELETE"],
)  # fmt: skip
def test_a_handshake_that_is_refused(
    peer: Peer, method: str, changes: dict[str, str | None], status: int, fields: dict[str, str]
) -> None:
    answer = shake(peer, "/echo", "/echo", method=method, **changes)
    assert answer.status == status
    assert {name: answer.headers.get(name) for name in fields} == fields
    assert answer.headers["server"] == "shardserve"
    assert answer.body  # words
    assert answer.connects == [1, 0]  # HTTP goes on


@needs_curl
@pytest.mark.parametrize(("path", "status"), [("/reject", 403), ("/deny?401", 401), ("/fail-before", 500)])
def test_what_curl_sees_of_a_denial(peer: Peer, path: str, status: int) -> None:
    answer = shake(peer, path, path)
    assert answer.status == status
    assert int(answer.headers["content-length"]) == len(answer.body) / 2  # of both
    assert answer.connects == [1, 0]


@needs_curl
@pytest.mark.parametrize(
    "changes", [{"Connection": "keep-alive"}, {"Upgrade": None}, {"Upgrade": "h2c"}], ids=str
)
def test_what_is_no_handshake_is_an_ordinary_request(peer: Peer, changes: dict[str, str | None]) -> None:
    answer = shake(peer, "/", **changes)
    assert (answer.status, json.loads(answer.body)["type"]) == (200, "http")


@needs_curl
def test_http_1_0_has_no_upgrade(peer: Peer) -> None:
    fields = [part for name, value in HANDSHAKE.items() for part in ("--header", f"{name}: {value}")]
    answer = curl("--http1.0", *fields, f"http://127.0.0.1:{peer.port}/")
    assert (answer.status, json.loads(answer.body)["type"]) == (200, "http")


# What is logged


async def port_of(peer: Peer, path: str) -> int:
    """A connection, opened and closed; its client's port."""
    async with peer.open(path) as client:
        port: int = client.local_address[1]
        await client.send("x")
        await asyncio.wait([asyncio.ensure_future(client.recv())], timeout=20)
    return port


@pytest.mark.parametrize("target", ["/echo", "/echo?a=1&b=%C3%A9"])
async def test_an_accepted_websocket_in_the_access_log(
    server: ServerProcess, peer: Peer, target: str
) -> None:
    port = await port_of(peer, target)
    [found] = await asyncio.to_thread(server.saw_access, rf"127\.0\.0\.1:{port} ")
    assert found == f'INFO:     127.0.0.1:{port} - "WebSocket {target}" [accepted]'


@needs_curl
@pytest.mark.parametrize(
    ("path", "status"), [("/reject?log", 403), ("/deny?418", 418), ("/fail-before?log", 500)]
)
def test_a_denied_websocket_in_the_access_log(
    server: ServerProcess, peer: Peer, path: str, status: int
) -> None:
    assert shake(peer, path).status == status
    [found] = server.saw_access(rf'"WebSocket {re.escape(path)}"')
    assert re.fullmatch(rf'INFO:     127\.0\.0\.1:\d+ - "WebSocket {re.escape(path)}" {status}', found)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/fail-before", "LookupError: the failure before accept"),
        ("/fail-after", "LookupError: the failure after accept"),
    ],
)
async def test_an_app_that_fails_is_in_the_log_once(
    server: ServerProcess, peer: Peer, path: str, words: str
) -> None:
    since = len(server.log())
    with suppress(InvalidStatus):
        await port_of(peer, f"{path}?logged")
    log = await asyncio.to_thread(server.saw, words, 1, since)
    assert re.search(rf"^ERROR: .*Exception in ASGI application.*WebSocket {path}", log, re.MULTILINE), log
    assert log.count("Traceback (most recent call last)") == 1
    assert "shardserve/" not in log.partition("Traceback")[2]  # the app's own frames only
    if path == "/fail-after":
        assert "1011" in log


async def test_an_app_that_answers_nothing_is_in_the_log(server: ServerProcess, peer: Peer) -> None:
    since = len(server.log())
    with suppress(InvalidStatus):
        await peer.open("/return-before")
    await asyncio.to_thread(server.saw, r"^ERROR: .*WebSocket /return-before", 1, since)


async def test_one_that_we_failed_is_a_line_with_its_code(server: ServerProcess, peer: Peer) -> None:
    """Such lines are at most one a second, over all kinds, so it may take more than one try."""
    pattern = re.compile(r"^WARNING: .* Closed the WebSocket of 127\.0\.0\.1:\d+ with 1007: ", re.MULTILINE)
    deadline = time.monotonic() + PATIENCE_S
    while not pattern.search(server.log()):
        assert time.monotonic() < deadline, server.log()
        async with peer.open() as client:
            await client.send([b"\xff"], text=True)  # not UTF-8
            assert (await ending(client)).code == 1007
        await asyncio.sleep(0.3)


async def test_ordinary_ends_are_not_logged(server: ServerProcess, peer: Peer) -> None:
    since = len(server.log())
    async with peer.open("/echo?quiet-1") as client:
        await ask(client, "x")
    async with peer.open("/echo?quiet-2") as client:
        client.transport.abort()
    async with peer.open("/close?4000,bye") as client:
        await client.send("x")
        await rest(client)
    await eventually(lambda: all((peer.notes / name).exists() for name in ("quiet-1", "quiet-2")), "notes")
    assert server.log(since) == ""
