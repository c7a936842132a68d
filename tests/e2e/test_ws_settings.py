"""Each WebSocket setting has its effect, as a flag and in shardserve.toml."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from tests.helpers.master_process import until
from tests.helpers.server import TROUBLE, Serve, ServerProcess
from tests.helpers.ws_clients import (
    Ending,
    Mute,
    Peer,
    ask,
    ending,
    eventually,
    peer_of,
    soon,
    too_much,
    unread_bytes,
)

Setting = dict[str, str | int | float | bool]
SOURCES = pytest.mark.parametrize("source", ["flags", "file"])
ONE_MIB = 1 << 20


def start(serve: Serve, folder: Path, source: str, settings: Setting) -> ServerProcess:
    """One worker with these settings, said in one of the two ways."""
    if source == "file":
        folder.mkdir()
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
        (folder / "shardserve.toml").write_text("".join(lines))
        return serve("ws_app:app", "--workers", "1", folder=folder, quiet=False)
    flags: list[str] = []
    for name, value in settings.items():
        flags += [f"--no-{name}"] if value is False else [f"--{name}", str(value)]
    return serve("ws_app:app", "--workers", "1", *flags, folder=folder, quiet=False)


async def none_is_http(peer: Peer) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await peer.open("/")
    assert caught.value.response.status_code == 200
    assert json.loads(caught.value.response.body or b"")["type"] == "http"


async def a_size(peer: Peer) -> None:
    async with peer.open() as client:
        assert await ask(client, "x" * 1000) == "x" * 1000
        assert await ask(client, ["x" * 400, "y" * 500]) == "x" * 400 + "y" * 500
    for message in ("x" * 1001, b"x" * 1001, ["x" * 500, "y" * 501]):
        assert (await too_much(peer, "/echo", message)).code == 1009


async def any_size(peer: Peer) -> None:
    size = 17 * ONE_MIB  # more than the default
    async with peer.open("/sizes", compression=None) as client:
        assert await ask(client, bytes(size)) == f"bytes {size}"


async def fragments(peer: Peer) -> None:
    async with peer.open() as client:
        assert await ask(client, ["x"] * 9) == "x" * 9  # and the library ends it with an empty one
    assert (await too_much(peer, "/echo", ["x"] * 10)).code == 1008


async def no_deflate(peer: Peer) -> None:
    async with peer.open() as client:
        assert client.protocol.extensions == []
        assert client.response is not None
        assert "sec-websocket-extensions" not in client.response.headers
        assert await ask(client, "x" * 5000) == "x" * 5000


class CountsPings(ClientConnection):
    """A client that answers pings, and counts them."""

    pings = 0

    def process_event(self, event: object) -> None:
        self.pings += isinstance(event, Frame) and event.opcode is Opcode.PING
        super().process_event(event)  # type: ignore[arg-type]


async def pings(peer: Peer) -> None:
    async with peer.open(create_connection=CountsPings) as client:
        await eventually(lambda: client.pings >= 3, "three pings")
        assert await ask(client, "still there") == "still there"


async def no_pong(peer: Peer) -> None:
    def wait() -> None:
        with Mute(peer, "/echo?mute") as mute:
            mute.send("hello")
            assert mute.ended() == Ending(1011, "keepalive ping timeout")
            opcodes = [frame.opcode for frame in mute.frames]
        assert opcodes[-1] is Opcode.CLOSE
        assert Opcode.PING in opcodes
        assert peer.noted("mute")["code"] == 1011

    async with peer.open() as client:  # one that answers
        await asyncio.to_thread(wait)
        assert await ask(client, "still there") == "still there"


async def idle(peer: Peer) -> None:
    async with peer.open("/nothing?idle") as client:
        assert (await ending(client)).code == 1001
    assert peer.noted("idle")["code"] == 1001


EFFECTS: dict[str, tuple[Setting, Callable[[Peer], Awaitable[None]]]] = {
    "ws": ({"ws": "none"}, none_is_http),
    "ws-max-size": ({"ws-max-size": 1000}, a_size),
    "ws-max-size 0": ({"ws-max-size": 0}, any_size),
    "ws-max-fragments": ({"ws-max-fragments": 10}, fragments),
    "ws-per-message-deflate": ({"ws-per-message-deflate": False}, no_deflate),
    "ws-ping-interval": ({"ws-ping-interval": 0.5}, pings),
    "ws-ping-timeout": ({"ws-ping-interval": 0.5, "ws-ping-timeout": 1.0}, no_pong),
    "timeout-ws-idle": ({"timeout-ws-idle": 1.0}, idle),
}


@SOURCES
@pytest.mark.parametrize("name", EFFECTS)
async def test_a_setting_has_its_effect(
    serve: Serve, tmp_path: Path, notes: Path, name: str, source: str
) -> None:
    settings, check = EFFECTS[name]
    server = start(serve, tmp_path / "cwd", source, settings)
    await check(peer_of(server, notes))
    assert not TROUBLE.search(server.log()), server.log()


@SOURCES
async def test_ws_max_queue(serve: Serve, tmp_path: Path, notes: Path, source: str) -> None:
    """One server stops reading where another one, with the default, reads on."""
    few = peer_of(start(serve, tmp_path / "few", source, {"ws-max-queue": 2}), notes)
    default = peer_of(serve("ws_app:app", "--workers", "1", folder=tmp_path / "default"), notes)
    async with few.open("/lag") as lagging, default.open("/lag") as reading:
        for peer, client in ((few, lagging), (default, reading)):
            async with peer.open() as other:
                for number in range(8):
                    await client.send(f"message {number}")
                    # Whoever is answered behind it shows that the worker has seen it, if it looks at all.
                    for _ in range(2):
                        assert await ask(other, "x") == "x"
        assert unread_bytes(lagging.local_address[1]) > 0
        assert unread_bytes(reading.local_address[1]) == 0
        (notes / "go").touch()
        for client in (lagging, reading):
            assert await ask(client, "end") == "8"


async def test_back_pressure_is_real(serve: Serve, notes: Path) -> None:
    """A client that sends 128 MiB to an app that does not read: it has to wait, and nothing is lost."""
    count, size, seen = 2000, 64 << 10, 0
    server = serve("ws_app:app", "--workers", "1")
    peer = peer_of(server, notes)
    [worker] = server.workers()
    before = worker.memory_info().rss
    async with peer.open("/lag", compression=None) as client:

        async def send_all() -> None:
            nonlocal seen
            for _ in range(count):
                await client.send(bytes(size))
                seen += 1

        sending = asyncio.create_task(send_all())
        stuck_at = -1
        while stuck_at != seen:  # until a second passes in which it gets nowhere
            stuck_at = seen
            await asyncio.sleep(1)
        assert seen < count / 4
        assert worker.memory_info().rss - before < 16 * ONE_MIB
        (notes / "go").touch()
        await soon(sending)
        assert await ask(client, "end") == str(count)


@SOURCES
def test_timeout_ws_close(serve: Serve, tmp_path: Path, notes: Path, source: str) -> None:
    """Two clients that never answer the close frame: one is cut while the other one is waited for."""
    short = peer_of(start(serve, tmp_path / "short", source, {"timeout-ws-close": 1.0}), notes)
    long = peer_of(start(serve, tmp_path / "long", source, {"timeout-ws-close": 60.0}), notes)
    with Mute(long, "/close?4000,bye") as waited_for, Mute(short, "/close?4000,bye") as cut:
        waited_for.send("now")
        cut.send("now")
        assert cut.ended() == Ending(4000, "bye")
        until(lambda: waited_for.open() and waited_for.frames, "the close frame")
        assert waited_for.open()
        assert [frame.opcode for frame in waited_for.frames] == [Opcode.CLOSE]


async def test_an_open_websocket_counts_for_limit_concurrency(serve: Serve, notes: Path) -> None:
    peer = peer_of(serve("ws_app:app", "--workers", "1", "--limit-concurrency", "2"), notes)
    first, second = await peer.open(), await peer.open()
    with pytest.raises(InvalidStatus) as caught:
        await peer.open()
    assert caught.value.response.status_code == 503
    await first.close()
    async with peer.open() as third:
        assert await ask(third, "let in") == "let in"
    await second.close()
