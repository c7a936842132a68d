"""Uvicorn as an oracle: the same app and client see the same of both servers, but for what is listed.

Rules of this file: an observation is a plain value, without ports, times and names of the server.
``DIFFERENT`` has what we do otherwise on purpose, and why; there only our own side is held to it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.helpers.server import ServerProcess
from tests.helpers.ws_clients import Ending, Peer, ask, ending, peer_of, rest, soon, too_much, uvicorn

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed"
)

Observe = Callable[[Peer], Awaitable[Any]]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder, notes = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("our-notes")
    env = {"NOTES": str(notes)}
    with ServerProcess(folder, "ws_app:app", "--workers", "1", env=env, quiet=False) as server:
        yield peer_of(server, notes)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder, notes = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("their-notes")
    with uvicorn(folder, "ws_app:app", notes) as peer:
        yield peer


async def answer_of(peer: Peer, path: str, **how: Any) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as caught:
        await peer.open(path, **how)
    response = caught.value.response
    return response.status_code, bytes(response.body or b"")


async def messages(peer: Peer) -> Any:
    found = []
    for compression in ("deflate", None):
        async with peer.open(compression=compression) as client:
            for length in (0, 1, 125, 126, 65_535, 65_536):
                found.append(await ask(client, "ü" * length))
                found.append(await ask(client, bytes(length)))
            found.append(await ask(client, ["in ", "three ", "parts"]))
            found.append(await ask(client, [b"in ", b"two"]))
    return found


async def pipelined(peer: Peer) -> Any:
    async with peer.open("/sizes") as client:
        for number in range(200):
            await client.send("x" * number)
        return [await soon(client.recv()) for _ in range(200)]


async def a_ping(peer: Peer) -> Any:
    async with peer.open() as client:
        await soon(await client.ping(b"with data"))
        return await ask(client, "and then")


async def the_scope(peer: Peer) -> Any:
    how: dict[str, Any] = {"subprotocols": ["a", "b"], "additional_headers": {"X-One": "1"}}
    async with peer.open("/tell?a=%20&b", **how) as client:
        found = json.loads(str(await soon(client.recv())))
        found["client"] = found["client"] == list(client.local_address)
    found["server"] = found["server"] == ["127.0.0.1", peer.port]
    of_each = {"host", "sec-websocket-key"}
    found["headers"] = sorted(one for one in found["headers"] if one[0] not in of_each)
    return found


async def a_subprotocol(peer: Peer) -> Any:
    async with peer.open("/chat?b", subprotocols=["a", "b"]) as client:
        assert client.response is not None
        return client.subprotocol, client.response.headers["x-room"], await soon(client.recv())


async def a_stream(peer: Peer) -> Any:
    async with peer.open("/push?50,5000") as client:
        return await rest(client), client.close_code, client.close_reason


async def closed_by_the_app(peer: Peer) -> Any:
    found = []
    for wish in ("1000,", "1001,going", "1011,oh", "4999,ü→😀"):
        async with peer.open(f"/close?{wish}") as client:
            await client.send("now")
            found.append(await ending(client))
    return found


async def closed_by_the_client(peer: Peer) -> Any:
    found = []
    for code, reason in ((1000, ""), (1000, "done"), (1001, "ü"), (3000, ""), (4999, "x" * 123)):
        name = f"oracle-{code}-{len(reason)}"
        async with peer.open(f"/echo?{name}") as client:
            await client.close(code, reason)
        found.append((client.close_code, client.close_reason, peer.noted(name)))
    return found


async def closed_without_a_code(peer: Peer) -> Any:
    async with peer.open("/echo?oracle-1005") as client:
        client.protocol.send_close()
        client.send_data()
        await soon(client.wait_closed())
    return peer.noted("oracle-1005")["code"]


async def cut_by_the_client(peer: Peer) -> Any:
    async with peer.open("/echo?oracle-cut") as client:
        await ask(client, "hello")
        client.transport.abort()
    return peer.noted("oracle-cut")["code"]


async def rejected(peer: Peer) -> Any:
    return (await answer_of(peer, "/reject"))[0]


async def denied(peer: Peer) -> Any:
    return [await answer_of(peer, f"/deny?{status}") for status in (401, 404, 503)]


async def failed_before(peer: Peer) -> Any:
    return await answer_of(peer, "/fail-before")


async def left_before(peer: Peer) -> Any:
    return await answer_of(peer, "/return-before")


async def ending_of(peer: Peer, path: str) -> Ending:
    async with peer.open(path) as client:
        await client.send("now")
        return await ending(client)


async def failed_after(peer: Peer) -> Any:
    return (await ending_of(peer, "/fail-after")).code


async def left_after(peer: Peer) -> Any:
    return (await ending_of(peer, "/return-after")).code


async def not_utf_8(peer: Peer) -> Any:
    async with peer.open(compression=None) as client:
        await client.send([b"\xff"], text=True)
        return (await ending(client)).code


async def too_large(peer: Peer) -> Any:
    return (await too_much(peer, "/sizes", bytes((16 << 20) + 1), compression=None)).code


async def deflate(peer: Peer) -> Any:
    async with peer.open() as client:
        assert client.response is not None
        return sorted(client.response.headers["sec-websocket-extensions"].split("; "))


OBSERVED: list[Observe] = [
    messages,
    pipelined,
    a_ping,
    the_scope,
    a_subprotocol,
    a_stream,
    closed_by_the_app,
    closed_by_the_client,
    closed_without_a_code,
    rejected,
    denied,
    failed_before,
    left_before,
    not_utf_8,
    too_large,
]

DIFFERENT: list[tuple[Observe, Any, str]] = [
    (cut_by_the_client, 1006, "1005 says that a close frame came (RFC 6455 §7.1.5), and Uvicorn says 1005"),
    (failed_after, 1011, "Uvicorn drops the connection, which a client cannot tell from a lost one"),
    (left_after, 1000, "the same"),
    (
        deflate,
        ["client_max_window_bits=12", "client_no_context_takeover", "permessage-deflate",
         "server_max_window_bits=12", "server_no_context_takeover"],
        "Uvicorn keeps two contexts of zlib for each connection, which is most of its memory",
    ),
]  # fmt: skip


@pytest.mark.parametrize("observe", OBSERVED, ids=lambda one: one.__name__)
async def test_both_servers_look_the_same(ours: Peer, theirs: Peer, observe: Observe) -> None:
    assert await observe(ours) == await observe(theirs)


@pytest.mark.parametrize(
    ("observe", "expected", "why"), DIFFERENT, ids=lambda one: getattr(one, "__name__", "")
)
async def test_what_differs_on_purpose(ours: Peer, observe: Observe, expected: Any, why: str) -> None:
    assert await observe(ours) == expected, why
