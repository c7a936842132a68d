"""WebSockets of Starlette, FastAPI and Django Channels, through the ``websockets`` package's client."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.helpers.server import TROUBLE, Serve, ServerProcess, client_of
from tests.helpers.ws_clients import Ending, Peer, ask, ending, eventually, peer_of, rest, soon


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frameworks-notes")


def serving(
    tmp_path_factory: pytest.TempPathFactory, notes: Path, app: str, workers: str = "1"
) -> Iterator[ServerProcess]:
    folder, env = tmp_path_factory.mktemp("server"), {"NOTES": str(notes)}
    with ServerProcess(folder, app, "--workers", workers, env=env, quiet=False) as server:
        yield server


@pytest.fixture(scope="module")
def starlette(tmp_path_factory: pytest.TempPathFactory, notes: Path) -> Iterator[ServerProcess]:
    yield from serving(tmp_path_factory, notes, "ws_starlette:app")


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory, notes: Path) -> Iterator[ServerProcess]:
    yield from serving(tmp_path_factory, notes, "ws_fastapi:app", "2")


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory, notes: Path) -> Iterator[ServerProcess]:
    pytest.importorskip("channels")
    yield from serving(tmp_path_factory, notes, "ws_channels:app")


def watched(server: ServerProcess, notes: Path, request: pytest.FixtureRequest) -> Iterator[Peer]:
    """Nothing is logged as an error, but in a test that says so in its name."""
    since = len(server.log())
    yield peer_of(server, notes)
    if not request.node.originalname.endswith("_logged"):
        assert not TROUBLE.search(server.log(since)), server.log(since)


async def denied(peer: Peer, path: str, **how: Any) -> Any:
    """The answer to a handshake that is not accepted."""
    with pytest.raises(InvalidStatus) as caught:
        await peer.open(path, **how)
    return caught.value.response


async def ask_json(client: Any, value: Any) -> Any:
    return json.loads(await ask(client, json.dumps(value)))


async def hear_json(client: Any) -> Any:
    return json.loads(await soon(client.recv()))


class TestStarlette:
    @pytest.fixture
    def peer(self, starlette: ServerProcess, notes: Path, request: pytest.FixtureRequest) -> Iterator[Peer]:
        yield from watched(starlette, notes, request)

    @pytest.mark.parametrize("prefix", ["", "/stamped"], ids=["plain", "behind BaseHTTPMiddleware"])
    @pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "leaving"), (4321, "ü→😀")])
    async def test_a_disconnect_has_code_and_reason(
        self, peer: Peer, prefix: str, code: int, reason: str
    ) -> None:
        name = f"echo-{code}-{len(prefix)}"
        async with peer.open(f"{prefix}/echo?name={name}") as client:
            assert await ask(client, "ünï") == "ünï"
            await client.close(code, reason)
        assert peer.noted(name) == {"code": code, "reason": reason}

    async def test_a_lost_connection_is_a_disconnect(self, peer: Peer) -> None:
        async with peer.open("/echo?name=lost") as client:
            assert await ask(client, "x") == "x"
            client.transport.abort()
        assert peer.noted("lost")["code"] == 1006

    async def test_iteration_ends_with_the_client(self, peer: Peer) -> None:
        async with peer.open("/iterate?name=iterated") as client:
            assert await ask(client, b"abc") == b"cba"
        assert peer.noted("iterated") == {"state": "DISCONNECTED"}

    @pytest.mark.parametrize("mode", ["text", "binary"])
    async def test_json(self, peer: Peer, mode: str) -> None:
        async with peer.open(f"/json?mode={mode}") as client:
            sent = json.dumps({"ü": [1, 2.5, None]})
            found = await ask(client, sent if mode == "text" else sent.encode())
            assert isinstance(found, str if mode == "text" else bytes)
            assert json.loads(found) == {"got": {"ü": [1, 2.5, None]}}

    async def test_what_a_route_knows(self, peer: Peer) -> None:
        headers = {"Cookie": "one=1; two=2"}
        how: dict[str, Any] = {"additional_headers": headers, "subprotocols": ["xml", "json"]}
        async with peer.open("/facts/42?a=1&a=2", **how) as client:
            assert await hear_json(client) == {
                "id": 42,
                "query": [["a", "1"], ["a", "2"]],
                "cookies": {"one": "1", "two": "2"},
                "url": f"ws://127.0.0.1:{peer.port}/facts/42?a=1&a=2",
                "greeting": "from the lifespan",
                "subprotocols": ["xml", "json"],
            }
            assert await ending(client) == Ending(4001, "that is all")
        assert client.subprotocol == "json"
        assert client.response is not None
        assert client.response.headers["x-from"] == "starlette"

    @pytest.mark.parametrize("prefix", ["", "/stamped"])
    async def test_a_denial_response(self, peer: Peer, prefix: str) -> None:
        answer = await denied(peer, f"{prefix}/deny")
        assert (answer.status_code, json.loads(answer.body)) == (401, {"error": "no token"})
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize("path", ["/reject", "/nowhere", "/plain"])
    async def test_what_is_not_accepted_is_403(self, peer: Peer, path: str) -> None:
        """A close before accept; and this is how Starlette's router says that there is no such route."""
        assert (await denied(peer, path)).status_code == 403

    async def test_an_endpoint_class(self, peer: Peer) -> None:
        async with peer.open("/upper?name=endpoint") as client:
            assert await soon(client.recv()) == "welcome"
            assert await ask(client, "hello") == "HELLO"
            await client.close(4444, "done")
        assert peer.noted("endpoint") == {"code": 4444}

    async def test_an_endpoint_that_gets_what_it_does_not_take_is_logged(self, peer: Peer) -> None:
        """Text is wanted, bytes come: Starlette closes with 1003, and raises."""
        async with peer.open("/upper?name=wrong") as client:
            assert await soon(client.recv()) == "welcome"
            await client.send(b"bytes")
            assert (await ending(client)).code == 1003

    async def test_a_failing_route_is_1011_and_logged(self, starlette: ServerProcess, peer: Peer) -> None:
        since = len(starlette.log())
        async with peer.open("/fail") as client:
            await client.send("now")
            assert (await ending(client)).code == 1011
        log = await asyncio.to_thread(starlette.saw, "LookupError: the failure of the app", 1, since)
        assert log.count("Traceback (most recent call last)") == 1

    async def test_sending_and_receiving_at_once(self, peer: Peer) -> None:
        async with peer.open("/ticker") as client:
            for number in range(5):
                assert await soon(client.recv()) == f"tick {number}"
            await client.send("enough")
            told = await rest(client)
        assert told[-1] == "cancelled True"
        assert told[:-1] == [f"tick {number + 5}" for number in range(len(told) - 1)]
        assert client.close_code == 1000

    async def test_a_broadcast_reaches_all_in_order(self, starlette: ServerProcess, peer: Peer) -> None:
        clients = await soon(asyncio.gather(*[peer.open("/broadcast") for _ in range(100)]))
        with client_of(starlette) as http:
            assert http.get("/members").json() == 100
            speakers, texts = clients[:5], [f"message {number}" for number in range(20)]
            for speaker, name in zip(speakers, "abcde", strict=True):
                for text in texts:
                    await speaker.send(f"{name} {text}")

            async def listen(client: Any) -> list[str]:
                return [str(await soon(client.recv())) for _ in range(100)]

            for heard in await asyncio.gather(*[listen(client) for client in clients]):
                for name in "abcde":
                    assert [one[2:] for one in heard if one[0] == name] == texts
            clients[0].transport.abort()  # one goes without a word
            await eventually(lambda: http.get("/members").json() == 99, "it to leave the room")
            await speakers[1].send("and then there were 99")
            assert {await soon(one.recv()) for one in clients[1:]} == {"and then there were 99"}
            await asyncio.gather(*[one.close() for one in clients[1:]])
            await eventually(lambda: http.get("/members").json() == 0, "all to leave the room")

    async def test_a_broadcast_to_those_who_do_not_read(self, starlette: ServerProcess, peer: Peer) -> None:
        """They go while the app waits to send to them: nobody else is any the worse for it."""
        text = "x" * 100_000
        async with peer.open("/broadcast", compression=None, max_queue=None) as speaker:
            slow = [await peer.open("/broadcast", compression=None, max_queue=1) for _ in range(5)]
            for _ in range(20):
                await speaker.send(text)
            assert await soon(speaker.recv()) == text
            for one in slow:
                one.transport.abort()
            for _ in range(19):
                assert await soon(speaker.recv()) == text
        with client_of(starlette) as http:
            await eventually(lambda: http.get("/members").json() == 0, "all to leave the room")

    def test_the_middleware_still_does_its_work(self, starlette: ServerProcess) -> None:
        with client_of(starlette) as http:
            answer = http.get("/stamped/plain")
            assert (answer.text, answer.headers["x-stamp"]) == ("plain", "GET")


class TestFastapi:
    @pytest.fixture
    def peer(self, fastapi: ServerProcess, notes: Path, request: pytest.FixtureRequest) -> Iterator[Peer]:
        yield from watched(fastapi, notes, request)

    @pytest.mark.parametrize(
        ("query", "headers", "name"),
        [("?token=ann", {}, "ann"), ("", {"Cookie": "session=bob"}, "bob"), ("", {"X-User": "eve"}, "eve")],
    )
    async def test_dependencies(self, peer: Peer, query: str, headers: dict[str, str], name: str) -> None:
        async with peer.open(f"/who{query}", additional_headers=headers) as client:
            assert await hear_json(client) == {"name": name}
            assert await ending(client) == Ending(1000, "")

    async def test_a_dependency_that_refuses_is_403(self, peer: Peer) -> None:
        assert (await denied(peer, "/who")).status_code == 403

    async def test_parameters_that_are_wrong_are_403(self, peer: Peer) -> None:
        assert (await denied(peer, "/orders/seven")).status_code == 403
        assert (await denied(peer, "/orders/7?limit=11")).status_code == 403

    @pytest.mark.parametrize("cut", [False, True])
    async def test_a_dependency_with_yield_is_closed_after_the_route(self, peer: Peer, cut: bool) -> None:
        name = f"db{int(cut)}"
        async with peer.open(f"/resource/{name}") as client:
            assert await ask(client, "hello") == f"resource {name}: hello"
            assert (peer.notes / f"opened-{name}").exists()
            if cut:
                client.transport.abort()
        assert peer.noted(f"left-{name}") == {"closed": False}
        await eventually((peer.notes / f"closed-{name}").exists, "the resource to be closed")

    async def test_models_and_exceptions(self, peer: Peer) -> None:
        async with peer.open("/orders/7") as client:
            order = {"item": "tea", "count": 2}
            assert await ask_json(client, order) == {"table": 7, **order}
            await client.send(json.dumps({"item": "tea", "count": 4}))
            assert await ending(client) == Ending(4004, "too many")

    async def test_a_disconnect(self, peer: Peer) -> None:
        async with peer.open("/orders/8") as client:
            await client.close(4005, "no more")
        assert peer.noted("table-8") == {"code": 4005, "reason": "no more"}

    def test_http_and_websocket_share_a_path(self, fastapi: ServerProcess) -> None:
        with client_of(fastapi) as http:
            assert http.get("/who").json() == {"over": "http"}


class TestChannels:
    @pytest.fixture
    def peer(self, channels: ServerProcess, notes: Path, request: pytest.FixtureRequest) -> Iterator[Peer]:
        yield from watched(channels, notes, request)

    async def test_an_echo(self, peer: Peer) -> None:
        async with peer.open("/echo/") as client:
            assert await ask(client, "ünï") == "ünï"
            assert await ask(client, b"\x00\xff") == b"\x00\xff"
            await client.send("close")
            assert await ending(client) == Ending(4002, "as you like")

    async def test_a_consumer_in_a_thread(self, peer: Peer) -> None:
        async with peer.open("/threaded/") as client:
            for number in range(5):
                assert await ask(client, f"{number}") == f"from a thread: {number}"

    async def test_a_group(self, peer: Peer) -> None:
        clients = await soon(asyncio.gather(*[peer.open("/room/blue/") for _ in range(20)]))
        async with peer.open("/room/red/", subprotocols=["chat"]) as other:
            assert other.subprotocol == "chat"
            assert await hear_json(other) == {"joined": "red"}
            for client in clients:
                assert await hear_json(client) == {"joined": "blue"}
            await clients[0].send(json.dumps("hello"))
            assert [await hear_json(client) for client in clients] == [{"said": "hello"}] * 20
            await clients[0].close(4006)
            assert [await hear_json(client) for client in clients[1:]] == [{"left": 4006}] * 19
            clients[1].transport.abort()
            assert [await hear_json(client) for client in clients[2:]] == [{"left": 1006}] * 18
            assert await ask_json(other, "still here") == {"said": "still here"}
        await asyncio.gather(*[client.close() for client in clients[2:]])

    async def test_denials(self, peer: Peer) -> None:
        assert (await denied(peer, "/denied/")).status_code == 403
        assert (await denied(peer, "/own/", origin="http://evil.example")).status_code == 403
        async with peer.open("/own/", origin="http://good.example") as client:
            assert await ask(client, "let in") == "let in"

    async def test_no_route_is_500_and_logged(self, channels: ServerProcess, peer: Peer) -> None:
        """Channels raises where Starlette closes."""
        since = len(channels.log())
        assert (await denied(peer, "/nowhere/")).status_code == 500
        await asyncio.to_thread(channels.saw, "ValueError: No route found for path", 1, since)

    def test_views_beside_it(self, channels: ServerProcess) -> None:
        with client_of(channels) as http:
            assert http.get("/").text == "hello from a view"


@pytest.mark.parametrize(("app", "path"), [("ws_starlette", "/echo?name=told"), ("ws_fastapi", "/orders/1")])
async def test_a_stop_is_a_disconnect_for_a_framework(serve: Serve, notes: Path, app: str, path: str) -> None:
    env = {"NOTES": str(notes)}
    server = serve(f"{app}:app", "--workers", "1", "--timeout-drain-streams", "0.2", env=env)
    peer = peer_of(server, notes)
    async with peer.open(path) as client:
        server.send(signal.SIGTERM)
        assert (await ending(client)).code == 1012
    assert peer.noted("told" if app == "ws_starlette" else "table-1")["code"] == 1012
    assert await asyncio.to_thread(server.ended) == 0
