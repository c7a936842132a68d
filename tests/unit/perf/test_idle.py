"""Idle connections: open after one right answer, counted when the server closes them."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator

import pytest

from perf import idle
from perf.load import LoadError
from perf.scenarios import BY_NAME

SCENARIO = BY_NAME["many-idle"]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + SCENARIO.expect_body


@contextlib.asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[tuple[int, list[StreamWriter]]]:
    """Answers the first request of each connection in two pieces; yields the port and the connections."""
    writers: list[StreamWriter] = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writers.append(writer)
        writer.write(answer[:20])
        await asyncio.sleep(0)
        writer.write(answer[20:])
        if not answer:
            writer.close()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], writers
    finally:
        server.close()


async def test_they_are_open_until_the_server_closes_them() -> None:
    async with serving(ANSWER) as (port, writers):
        opening = idle.idle_connections(port, SCENARIO, 5)
        held = await asyncio.to_thread(opening.__enter__)
        assert len(writers) == 5
        assert held.closed() == 0
        for writer in writers[:2]:
            writer.close()
        async with asyncio.timeout(10):
            while held.closed() < 2:
                await asyncio.sleep(0.01)
        assert held.closed() == 2
        opening.__exit__(None, None, None)
        async with asyncio.timeout(10):
            await asyncio.gather(*(writer.wait_closed() for writer in writers))


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"])
async def test_a_server_that_does_not_answer_rightly_is_told(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(idle, "_ANSWER_S", 0.3)
    async with serving(answer) as (port, _):
        opening = idle.idle_connections(port, SCENARIO, 3)
        with pytest.raises(LoadError, match="idle connection 1 of 3"):
            await asyncio.to_thread(opening.__enter__)


@pytest.mark.parametrize(
    ("limits", "wanted", "count", "raised"),
    [
        ((1024, 4096), 2000, 2000, (4096, 4096)),
        ((1024, 1024), 2000, 512, None),
        ((256, 256), 2000, 0, None),
        ((1024, resource.RLIM_INFINITY), 9000, 9000, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ],
)
def test_as_many_as_the_limit_on_open_files_allows(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    wanted: int,
    count: int,
    raised: tuple[int, int] | None,
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda what, value: set_to.append(value))
    assert idle.most(wanted) == count
    assert set_to == ([raised] if raised else [])
