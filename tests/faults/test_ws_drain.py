"""Open WebSockets when their worker has to go: told at a reload or stop, cut by a second signal or a death.

Rules of this file: a message has a name of its own (client, connection, number), so that what a client was
told can be held against what the app did. An error that is not one of the expected ends fails the test.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.helpers.queues import settled
from tests.helpers.server import Serve, ServerProcess
from tests.helpers.ws_clients import Ending, Mute, Peer, ending, eventually, peer_of, soon

CLIENTS = 50
QUICK = ("--timeout-drain-streams", "0.2", "--no-access-log")
NEVER = ("--timeout-drain-streams", "60", "--timeout-graceful-shutdown", "60", "--no-access-log")
RESTART = 1012


class Talker:
    """Sends without a pause, with ``depth`` messages unanswered at most.

    ``stays``: connects again when its connection ends.
    """

    def __init__(self, peer: Peer, number: int, depth: int, stays: bool) -> None:
        self._peer = peer
        self._number = number
        self._depth = depth
        self._stays = stays
        self.over = False
        self.told: list[str] = []
        self.pids: set[int] = set()
        self.endings: list[Ending] = []

    async def run(self) -> None:
        connection = 0
        while not self.over:
            async with self._peer.open("/") as client:
                try:
                    await self._talk(client, f"{self._number}.{connection}")
                except ConnectionClosed:
                    await soon(client.wait_closed())
                    self.endings.append(Ending(client.close_code or 0, client.close_reason or ""))
            connection += 1
            self.over = self.over or not self._stays

    async def _talk(self, client: ClientConnection, name: str) -> None:
        sent = told = 0
        while not self.over or told < sent:
            while sent - told < self._depth and not self.over:
                await client.send(f"{name}.{sent}")
                sent += 1
            if told < sent:
                pid, _, text = str(await soon(client.recv())).partition(" ")
                assert text == f"{name}.{told}"
                self.told.append(text)
                self.pids.add(int(pid))
                told += 1


class Talk:
    """Many at once."""

    def __init__(self, peer: Peer, depth: int, stay: bool) -> None:
        self.talkers = [Talker(peer, number, depth, stay) for number in range(CLIENTS)]
        self._tasks = [asyncio.create_task(talker.run()) for talker in self.talkers]

    async def goes_on(self, more: int = 20, *, pid: int | None = None) -> None:
        """Until each has been told of so many more messages (and by this process)."""
        seen = [len(talker.told) + more for talker in self.talkers]

        def enough() -> bool:
            self.check()
            pairs = zip(self.talkers, seen, strict=True)
            return all(len(one.told) >= count and (pid is None or pid in one.pids) for one, count in pairs)

        await eventually(enough, f"{more} more messages of each")

    def check(self) -> None:
        """An error of any of them is one of the test."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        for talker in self.talkers:
            talker.over = True
        await soon(asyncio.gather(*self._tasks))

    async def join(self) -> None:
        """Until all have ended by themselves."""
        await soon(asyncio.gather(*self._tasks))

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def talking(peer: Peer, depth: int, *, stay: bool = True) -> AsyncIterator[Talk]:
    talk = Talk(peer, depth, stay)
    try:
        yield talk
    finally:
        await talk.cancel()


def assert_told_is_done(notes: Path, told: list[str]) -> None:
    """What was answered was processed, once and in order; nothing in between was skipped."""
    ledger = (notes / "ledger").read_text().split()
    assert len(set(ledger)) == len(ledger), "processed twice"
    assert set(told) <= set(ledger), "answered, but never processed"
    by_connection: defaultdict[str, list[int]] = defaultdict(list)
    for text in ledger:
        name, _, number = text.rpartition(".")
        by_connection[name].append(int(number))
    for name, numbers in by_connection.items():
        assert numbers == list(range(len(numbers))), name


async def hup(server: ServerProcess) -> int:
    """Reload one worker, and wait until the old one is gone; the new one's pid."""
    [old], since = server.pids(), len(server.log())
    server.send(signal.SIGHUP)
    await asyncio.to_thread(server.saw, r"^INFO:     reloaded$", 1, since)
    await eventually(lambda: server.pids() and old not in server.pids(), "the old worker to go")
    [new] = server.pids()
    return new


@pytest.mark.parametrize("depth", [1, 8])
async def test_a_reload_tells_every_client_and_loses_no_message(
    serve: Serve, notes: Path, depth: int
) -> None:
    server, reloads = serve("ws_ledger:app", "--workers", "1", *QUICK), 3
    async with talking(peer_of(server, notes), depth) as talk:
        await talk.goes_on()
        for _ in range(reloads):
            new = await hup(server)
            await talk.goes_on(pid=new)
        await talk.end()
    told = [text for talker in talk.talkers for text in talker.told]
    print(f"depth {depth}: {reloads} reloads, {CLIENTS} clients, {len(told)} messages answered")
    for talker in talk.talkers:
        assert [one.code for one in talker.endings] == [RESTART] * reloads
        assert len(talker.pids) == reloads + 1
    server.stop()
    assert_told_is_done(notes, told)
    ends = (notes / "ends").read_text().split()
    assert sorted(ends) == sorted([str(RESTART)] * CLIENTS * reloads + ["1000"] * CLIENTS)
    assert "cut" not in server.log().replace("0 cut", "")


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2)]
)
async def test_a_stop_tells_every_client(
    serve: Serve, notes: Path, number: signal.Signals, workers: int
) -> None:
    server = serve("ws_ledger:app", "--workers", str(workers), *QUICK)
    async with talking(peer_of(server, notes), 4, stay=False) as talk:
        await talk.goes_on()
        server.send(number)
        await talk.join()
    assert {tuple(end.code for end in one.endings) for one in talk.talkers} == {(RESTART,)}
    assert await asyncio.to_thread(server.ended) == 0
    assert_told_is_done(notes, [text for talker in talk.talkers for text in talker.told])
    assert (notes / "ends").read_text().split() == [str(RESTART)] * CLIENTS


async def test_a_silent_client_is_told_too(serve: Serve, notes: Path) -> None:
    server = serve("ws_app:app", "--workers", "1", *QUICK)
    async with peer_of(server, notes).open("/nothing?silent") as client:
        server.send(signal.SIGTERM)
        assert (await ending(client)).code == RESTART
    assert peer_of(server, notes).noted("silent")["code"] == RESTART
    assert await asyncio.to_thread(server.ended) == 0


def test_who_does_not_answer_holds_up_no_stop(serve: Serve, notes: Path) -> None:
    """Its close frame is never answered: the connection is cut when the time for that is over."""
    flags = (*QUICK, "--timeout-ws-close", "1", "--timeout-graceful-shutdown", "600")
    server = serve("ws_app:app", "--workers", "1", *flags)
    with Mute(peer_of(server, notes), "/echo?mute") as mute:
        server.send(signal.SIGTERM)
        assert mute.ended().code == RESTART
        assert server.ended() == 0


async def test_an_upgrade_tells_every_client(serve: Serve, notes: Path) -> None:
    """USR2: the clients of the old master's workers go over to the new one's."""
    server = serve("ws_ledger:app", "--workers", "1", *QUICK)
    async with talking(peer_of(server, notes), 2) as talk:
        await talk.goes_on()
        await asyncio.to_thread(server.upgraded)
        [new] = server.pids()
        await talk.goes_on(pid=new)
        await talk.end()
    assert {tuple(end.code for end in one.endings) for one in talk.talkers} == {(RESTART,)}
    server.stop()
    assert_told_is_done(notes, [text for talker in talk.talkers for text in talker.told])


async def test_a_worker_that_has_served_enough_tells_its_clients(serve: Serve, notes: Path) -> None:
    """--limit-max-requests counts handshakes; whoever stays longer than that moves to the next worker."""
    server = serve("ws_ledger:app", "--workers", "1", *QUICK, "--limit-max-requests", str(2 * CLIENTS))
    [old] = server.pids()
    async with talking(peer_of(server, notes), 2) as talk:
        await talk.goes_on()
        for _ in range(2 * CLIENTS):
            async with peer_of(server, notes).open("/"):
                pass
        await eventually(lambda: old not in server.pids(), "the old worker to go")
        [new] = await eventually(server.pids, "a worker")
        await talk.goes_on(pid=new)
        await talk.end()
    for one in talk.talkers:
        assert {end.code for end in one.endings} == {RESTART}
    server.stop()
    assert_told_is_done(notes, [text for talker in talk.talkers for text in talker.told])


async def test_one_worker_less_tells_its_clients_only(serve: Serve, notes: Path) -> None:
    server = serve("ws_ledger:app", "--workers", "2", *QUICK)
    async with talking(peer_of(server, notes), 2) as talk:
        await talk.goes_on()
        server.send(signal.SIGTTOU)
        [left] = await eventually(lambda: server.pids() if len(server.pids()) == 1 else set(), "one to go")
        await talk.goes_on(pid=left)
        await talk.end()
    told = [one for one in talk.talkers if len(one.pids) == 2]
    assert 0 < len(told) < CLIENTS
    for one in talk.talkers:
        assert [end.code for end in one.endings] == ([RESTART] if one in told else [])
    server.stop()
    assert_told_is_done(notes, [text for talker in talk.talkers for text in talker.told])


async def test_a_second_signal_cuts(serve: Serve, notes: Path) -> None:
    server = serve("ws_ledger:app", "--workers", "2", *NEVER, quiet=False)
    async with talking(peer_of(server, notes), 2, stay=False) as talk:
        await talk.goes_on()
        server.send(signal.SIGTERM)
        await asyncio.to_thread(server.saw, "stopping: requests in flight get 60 s")
        await talk.goes_on()  # nobody has been told so far
        server.send(signal.SIGTERM)
        await talk.join()
        codes = {tuple(end.code for end in one.endings) for one in talk.talkers}
    assert codes == {(1006,)}
    assert await asyncio.to_thread(server.ended) == 0
    assert_told_is_done(notes, [text for talker in talk.talkers for text in talker.told])
    assert sum(map(int, re.findall(r"Cut (\d+) requests", server.log()))) == CLIENTS


async def test_a_killed_worker_costs_its_own_clients_only(serve: Serve, notes: Path) -> None:
    server = serve("ws_ledger:app", "--workers", "2", *QUICK, quiet=False)
    async with talking(peer_of(server, notes), 2) as talk:
        await talk.goes_on()
        victim = next(iter(talk.talkers[0].pids))
        theirs = [one for one in talk.talkers if one.pids == {victim}]
        assert 0 < len(theirs) < CLIENTS
        os.kill(victim, signal.SIGKILL)
        await talk.goes_on()
        await asyncio.to_thread(settled, server, 2)
        await talk.goes_on()
        await talk.end()
    for one in talk.talkers:
        assert [end.code for end in one.endings] == ([1006] if one in theirs else [])
    assert_told_is_done(notes, [text for talker in talk.talkers for text in talker.told])
