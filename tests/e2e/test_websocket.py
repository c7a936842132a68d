"""WebSocket over a real server of two workers, through the clients of the ``websockets`` package."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from tests.helpers.server import Serve, ServerProcess
from tests.helpers.ws_clients import Ending, Peer, ask, ending, peer_of, soon, too_much

MIB = 1 << 20
MAX_SIZE = 16 * MIB
LENGTHS = [0, 1, 125, 126, 1023, 1024, 65_535, 65_536, MIB]
"""Around each form of a length (RFC 6455 §5.2), and around what is compressed."""
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


# Messages


@COMPRESSIONS
@pytest.mark.parametrize("length", LENGTHS)
async def test_echo(peer: Peer, length: int, compression: str | None) -> None:
    text, data = text_of(length), os.urandom(length)
    assert len(text.encode()) == length
    async with peer.open(compression=compression) as client:
        assert await ask(client, text) == text
        assert await ask(client, data) == data


@COMPRESSIONS
async def test_many_messages_keep_their_order(peer: Peer, compression: str | None) -> None:
    """Text and binary, small and large in turn, all on their way at once."""
    messages: list[str | bytes] = []
    for number in range(300):
        size = number * 37 % 5000
        messages.append(f"{number} {text_of(size)}" if number % 3 else b"%d " % number + os.urandom(size))
    async with peer.open(compression=compression) as client:

        async def send_all() -> None:
            for message in messages:
                await client.send(message)

        sending = asyncio.create_task(send_all())
        assert [await soon(client.recv()) for _ in messages] == messages
        await sending


@COMPRESSIONS
async def test_fragments_are_one_message(peer: Peer, compression: str | None) -> None:
    async with peer.open(compression=compression) as client:

        async def texts() -> AsyncIterator[str]:
            for number in range(100):
                yield f"{number} ü→😀 "

        await client.send(texts())
        assert await soon(client.recv()) == "".join([part async for part in texts()])
        parts = [os.urandom(1000 * number) for number in range(20)]
        await client.send(parts)
        assert await soon(client.recv()) == b"".join(parts)
        await client.send(["only one"])
        assert await soon(client.recv()) == "only one"


async def test_a_character_may_be_cut_by_fragments(peer: Peer) -> None:
    text = "ü→😀"
    async with peer.open() as client:
        await client.send([bytes([byte]) for byte in text.encode()], text=True)
        assert await soon(client.recv()) == text


async def test_pings_between_fragments_are_answered(peer: Peer) -> None:
    async with peer.open() as client:

        async def parts() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"part %d " % number
                await soon(await client.ping(b"in the middle %d" % number))

        await client.send(parts())
        assert await soon(client.recv()) == b"part 0 part 1 part 2 part 3 part 4 "


async def test_pings_are_answered_with_their_data(peer: Peer) -> None:
    async with peer.open() as client:
        for data in (b"", b"x", os.urandom(125)):
            await soon(await client.ping(data))
        await client.pong(b"nobody asked")
        assert await ask(client, "still there") == "still there"


@COMPRESSIONS
async def test_a_message_of_the_greatest_size(peer: Peer, compression: str | None) -> None:
    async with peer.open("/sizes", compression=compression) as client:
        assert await ask(client, "x" * MAX_SIZE) == f"text {MAX_SIZE}"
        assert await ask(client, bytes(MAX_SIZE)) == f"bytes {MAX_SIZE}"


@COMPRESSIONS
async def test_a_message_that_is_too_large(peer: Peer, compression: str | None) -> None:
    found = await too_much(peer, "/sizes?large", bytes(MAX_SIZE + 1), compression=compression)
    assert found.code == 1009


async def test_fragments_that_are_too_large_together(peer: Peer) -> None:
    parts = [bytes(MIB)] * 16
    async with peer.open("/sizes", compression=None) as client:
        await client.send(parts)
        assert await soon(client.recv()) == f"bytes {MAX_SIZE}"
    assert (await too_much(peer, "/sizes", [*parts, b"x"], compression=None)).code == 1009


async def test_a_slow_reader_gets_everything_in_order(peer: Peer) -> None:
    """32 MiB that the app sends without a pause."""
    count, size = 2000, 16 << 10
    async with peer.open(f"/push?{count},{size}", compression=None, max_queue=4) as client:
        numbers = []
        async for message in client:
            assert len(message) == size
            numbers.append(int.from_bytes(message[:4], "big"))
            if len(numbers) % 100 == 0:
                await asyncio.sleep(0.01)
    assert numbers == list(range(count))
    assert (client.close_code, client.close_reason) == (1000, "all sent")


async def test_an_app_that_gives_up_waiting_loses_no_message(peer: Peer) -> None:
    numbers = [str(number) for number in range(300)]
    async with peer.open("/impatient") as client:
        for number in numbers:
            await client.send(number)
            if int(number) % 7 == 0:
                await asyncio.sleep(0.002)
        assert [await soon(client.recv()) for _ in numbers] == numbers


async def test_tasks_that_send_at_once_wait_their_turn(peer: Peer) -> None:
    """20 MB of ten tasks, for a client that is slow: whole messages, each task's in its order."""
    async with peer.open("/crowd?10,20,100000", compression=None, max_queue=2) as client:
        found: list[list[int]] = [[] for _ in range(10)]
        async for message in client:
            assert len(message) == 100_000
            task, number, _ = str(message).split(" ")
            found[int(task)].append(int(number))
            await asyncio.sleep(0.001)
    assert found == [list(range(20))] * 10
    assert client.close_code == 1000


async def test_over_a_unix_socket(serve: Serve, notes: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = serve("ws_app:app", "--workers", "1", "--uds", str(path), env={"NOTES": str(notes)}, wait=False)
    await asyncio.to_thread(server.saw, "ready: 1 worker")
    async with unix_connect(str(path), "ws://localhost/tell") as client:
        found = json.loads(str(await soon(client.recv())))
    assert (found["scheme"], found["server"], found["client"]) == ("ws", [str(path), None], None)


async def test_many_clients_on_two_workers(server: ServerProcess, peer: Peer) -> None:
    async def one(number: int) -> str:
        async with peer.open("/who") as client, peer.open() as echo:
            for turn in range(20):
                message = f"{number} {turn}" * (turn * 10 + 1)
                assert await ask(echo, message) == message
            return str(await ask(client, "who?"))

    found = await soon(asyncio.gather(*[one(number) for number in range(60)]))
    assert {int(pid) for pid in found} == server.pids()


# The end


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1000, "done"), (1001, "going"), (3000, ""), (4999, "ü" * 61)],
    ids=lambda value: str(value)[:8] or "none",
)
async def test_the_app_hears_the_clients_code_and_reason(peer: Peer, code: int, reason: str) -> None:
    name = f"closed-{code}-{len(reason)}"
    async with peer.open(f"/echo?{name}") as client:
        assert await ask(client, "hello") == "hello"
        await client.close(code, reason)
    assert (client.close_code, client.close_reason) == (code, reason)  # it is sent back
    assert peer.noted(name) == {"code": code, "reason": reason}


async def test_a_close_without_a_code_is_1005(peer: Peer) -> None:
    async with peer.open("/echo?no-code") as client:
        client.protocol.send_close()
        client.send_data()
        await soon(client.wait_closed())
    assert peer.noted("no-code")["code"] == 1005


async def test_a_connection_that_is_cut_is_1006(peer: Peer) -> None:
    async with peer.open("/echo?cut") as client:
        assert await ask(client, "hello") == "hello"
        client.transport.abort()
    assert peer.noted("cut")["code"] == 1006


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1000, "done"), (1001, "x" * 123), (1011, "oh"), (3999, ""), (4000, "ü→😀")],
    ids=lambda value: str(value)[:8] or "none",
)
async def test_the_client_hears_the_apps_code_and_reason(peer: Peer, code: int, reason: str) -> None:
    async with peer.open(f"/close?{code},{reason}") as client:
        await client.send("now")
        assert await ending(client) == Ending(code, reason)


@pytest.mark.parametrize(("path", "code"), [("/return-after", 1000), ("/fail-after", 1011)])
async def test_an_app_that_leaves_without_a_close(peer: Peer, path: str, code: int) -> None:
    async with peer.open(path) as client:
        await client.send("now")
        assert (await ending(client)).code == code


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/reject", 403, None),
        ("/deny?401", 401, b"not you"),
        ("/deny?200", 200, b"not you"),
        ("/deny?503", 503, b"not you"),
        ("/fail-before", 500, b"Internal Server Error"),
        ("/return-before", 500, b"Internal Server Error"),
    ],
)
async def test_a_handshake_that_fails(peer: Peer, path: str, status: int, body: bytes | None) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await peer.open(path)
    answer = caught.value.response
    assert answer.status_code == status
    assert answer.headers["server"] == "shardserve"
    if body is not None:
        assert answer.body == body


# The sync client, in threads


def test_the_sync_client(peer: Peer) -> None:
    def talk(number: int) -> Ending:
        with peer.open_sync() as client:
            for length in (0, 10, 126, 70_000):
                for message in (f"{number}" + text_of(length), os.urandom(length)):
                    client.send(message)
                    assert client.recv(timeout=20) == message
            client.send(["three ", "parts ", f"{number}"])
            assert client.recv(timeout=20) == f"three parts {number}"
            assert client.ping(b"there?").wait(20)
            client.close(4000 + number, "enough")
        return Ending(client.close_code, client.close_reason)

    with ThreadPoolExecutor(20) as pool:
        endings = list(pool.map(talk, range(20)))
    assert endings == [Ending(4000 + number, "enough") for number in range(20)]


def test_the_sync_client_reads_a_stream(peer: Peer) -> None:
    with peer.open_sync("/push?500,4096") as client:
        found = [int.from_bytes(message[:4], "big") for message in client]
    assert found == list(range(500))
    assert (client.close_code, client.close_reason) == (1000, "all sent")
