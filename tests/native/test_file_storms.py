"""Files of all sizes while anything is called in any order, and the order of answers behind them.

STORMS is how many seeds are tried (12); each function runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import Any

import pytest

from tests.native.drive import Driver, FakeTransport, get, reply, statuses, turns
from tests.native.isolated import survives
from tests.native.test_files import BODY, PATHSEND, START, ZEROCOPYSEND, Full, make_file, open_files

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def stormed(seed: int, plain: bool) -> int:
    """Files of all sizes while anything is called in any order; the transport takes part in it."""
    dice = random.Random(seed)
    paths = [make_file(size) for size in (0, 1000, 40_000, 3 << 20)]
    calls: list[Any] = []
    depth = [0]

    def storm() -> None:
        if calls and depth[0] < 4 and dice.random() < 0.4:
            depth[0] += 1
            with contextlib.suppress(RuntimeError, OSError, ValueError):
                dice.choice(calls)()
            depth[0] -= 1

    class Stormy(Full):
        def __getattribute__(self, name: str) -> Any:
            if name in {
                "writelines",
                "write",
                "get_write_buffer_size",
                "set_write_buffer_limits",
                "abort",
                "close",
            }:
                storm()
            return super().__getattribute__(name)

        def get_write_buffer_size(self) -> int:
            return dice.choice([0, 0, 1])

        def writelines(self, parts: Any) -> None:
            if dice.random() < 0.5:
                FakeTransport.writelines(self, parts)
            else:
                super().writelines(parts)

    class File:
        def __init__(self, file: Any) -> None:
            self.file = file

        def fileno(self) -> int:
            storm()
            return self.file.fileno()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(lambda: send({**BODY, "more_body": dice.random() < 0.8}))
        calls.append(lambda: send({"type": PATHSEND, "path": dice.choice(paths)}))
        calls.append(lambda: send({"type": "http.response.trailers", "headers": [(b"a", b"b")]}))
        if dice.random() < 0.3:
            await asyncio.sleep(0)
        if dice.random() < 0.3:
            await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send({**START, "trailers": dice.random() < 0.3})
        while True:
            with open(dice.choice(paths), "rb") as file:
                more = dice.random() < 0.7
                sent = send({"type": ZEROCOPYSEND, "file": File(file), "more_body": more})
            if dice.random() < 0.8:
                await sent
            if not more:
                return

    driver = Driver(app, on_reject=lambda *args: storm(), access=lambda *args: storm(), write_stall_ms=1)
    for _ in range(6):
        transport = Stormy()
        if not plain:
            transport.extra["socket"] = None
        connection, _ = driver.connect(transport)
        calls[:] = [
            connection.resume_writing,
            connection.resume_writing,
            connection.pause_writing,
            lambda given=connection: given.data_received(get()),
            lambda given=connection: given.data_received(CHUNKED),
            lambda given=connection: given.data_received(b"1\r\na\r\n"),
            transport.read,
            driver.factory.tick,
            driver.factory.end_streams,
        ]
        if dice.random() < 0.4:
            calls += [
                lambda given=connection: given.connection_lost(None),
                lambda given=connection: given.eof_received(),
                driver.factory.abort,
            ]
        connection.data_received(get() * 3)
        for _ in range(30):
            storm()
            transport.read()
            await turns(1)
        calls.clear()
        connection.resume_writing()
        await turns(3)
        connection.connection_lost(None)
        await turns(3)
        transport.shut()
    left = sum(map(open_files, paths)) + driver.factory.connections
    for path in paths:
        os.unlink(path)
    return left


@pytest.mark.parametrize("plain", [True, False], ids=["sendfile", "copied"])
@pytest.mark.parametrize("seed", range(int(os.environ.get("STORMS", "12"))))
def test_a_storm_of_calls_leaves_nothing(seed: int, plain: bool) -> None:
    assert survives(stormed, seed, plain) == 0


async def answered_behind_a_file() -> list[Any]:
    """Pipelined requests are answered in their order, whatever the transport does with the file."""
    path = make_file(300_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/file":
            await send(START)
            await send({"type": PATHSEND, "path": path})
        else:
            await reply(send, b"(%b)" % scope["path"].encode())

    driver = Driver(app)
    transport = Full()
    transport.extra["socket"] = None
    connection, _ = driver.connect(transport)
    connection.data_received(b"".join(map(get, ("/1", "/file", "/2", "/file", "/3"))))
    before = transport.written
    for _ in range(20):
        connection.resume_writing()
        await turns(3)
    os.unlink(path)
    text = transport.written
    return [
        b"(/2)" in before,
        text.count(b"f" * 300_000),
        statuses(text),
        text.index(b"(/2)") < text.index(b"(/3)"),
    ]


def test_what_is_pipelined_waits_for_the_file() -> None:
    assert survives(answered_behind_a_file) == [False, 2, [200] * 5, True]
