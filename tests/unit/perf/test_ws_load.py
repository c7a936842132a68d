"""The WebSocket load client: that it counts right echoes, and that nothing else is ever a number."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import astuple, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.server import ServerConnection, serve

from perf import cc, ws_load
from perf.load import RESULT_MARK, Job, Latency, Load, LoadError
from perf.probe import ProbeError, ask
from perf.process import free_port
from perf.scenarios import BY_NAME
from perf.ws_load import WsLoad

SMALL = BY_NAME["ws-echo-64"]
RESULT = (
    '{"messages":900,"duration_us":1002341,"bytes":59400,'
    '"p50_us":512.0,"p90_us":700.0,"p99_us":1840.0,"p999_us":8000.0,"max_us":9000.0}'
)
Handler = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cc.build("ws_load", tmp_path_factory.mktemp("ws_load"))


@contextlib.asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[int]:
    """The websockets package's server with its defaults, deflate among them; yields the port."""
    async with serve(handler, "127.0.0.1", 0, max_size=None, **options) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def echo(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message)


async def drive(program: Path, port: int, *options: str) -> tuple[int, str, str]:
    """Run it; returns the exit code and what it said on each stream."""
    process = await asyncio.create_subprocess_exec(
        program, "--connections", "3", *options, str(port), stdout=PIPE, stderr=PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def test_parse_reads_the_result_line() -> None:
    load = ws_load.parse(f"ready\n{RESULT_MARK}{RESULT}\n")
    assert (load.requests, load.duration_us, load.response_bytes) == (900, 1002341, 59400)
    assert (load.latency, load.errors) == (Latency(512.0, 700.0, 1840.0, 8000.0, 9000.0), {})


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("", "last words: nothing"),
        ("ready\nws_load: connection 3: wrong echo\n", "last words: ws_load: connection 3: wrong echo"),
        (RESULT_MARK + RESULT.replace(":900,", ":0,"), "counted no message"),
    ],
)
def test_parse_without_messages_is_an_error(output: str, complaint: str) -> None:
    with pytest.raises(LoadError, match=complaint):
        ws_load.parse(output)


def test_a_scenario_says_size_and_depth() -> None:
    assert ws_load.options(BY_NAME["ws-echo-16k-deep-16"]) == ["--size", "16384", "--depth", "16"]


@pytest.mark.parametrize("kind", ["", "--text"], ids=["binary", "text"])
@pytest.mark.parametrize(("size", "head"), [(8, 2), (125, 2), (126, 4), (16384, 4), (65535, 4), (65536, 10)])
@pytest.mark.parametrize("depth", [1, 5])
async def test_it_counts_every_echo(program: Path, size: int, head: int, depth: int, kind: str) -> None:
    seen: list[Any] = []

    async def remember(websocket: ServerConnection) -> None:
        async for message in websocket:
            seen.append(message)
            await websocket.send(message)

    options = ["--messages", "40", "--size", str(size), "--depth", str(depth), *filter(None, [kind])]
    async with serving(remember) as port:
        code, output, errors = await drive(program, port, *options)
    assert (code, errors) == (0, "")
    assert json.loads(output.removeprefix(RESULT_MARK))["bytes"] == 40 * (head + size)
    assert ws_load.parse(output).requests == len(seen) == 40
    assert {type(message) for message in seen} == {str if kind else bytes}
    assert {len(message) for message in seen} == {size}
    assert len(set(seen)) >= 40 / 3, "each message of a connection has its own content"


async def test_it_offers_no_extension_and_says_goodbye(program: Path) -> None:
    opened: list[ServerConnection] = []

    async def note(websocket: ServerConnection) -> None:
        opened.append(websocket)
        await echo(websocket)

    async with serving(note) as port:
        code, _, _ = await drive(program, port, "--messages", "10", "--depth", "2")
    assert code == 0
    requests = [one.request for one in opened if one.request is not None]
    assert len(requests) == 3
    assert not any("Sec-WebSocket-Extensions" in request.headers for request in requests)
    assert [one.close_code for one in opened] == [1000] * 3


async def test_pings_are_let_pass(program: Path) -> None:
    async def ping(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.ping()
            await websocket.send(message)
            await websocket.ping(os.urandom(125))

    async with serving(ping) as port:
        code, output, errors = await drive(program, port, "--messages", "30", "--depth", "3")
    assert (code, errors) == (0, "")
    assert ws_load.parse(output).requests == 30


async def test_time_ends_it_and_latencies_are_in_order(program: Path) -> None:
    async with serving(echo) as port:
        code, output, _ = await drive(program, port, "--seconds", "0.1", "--warmup", "0.02", "--depth", "4")
    assert code == 0
    load = ws_load.parse(output)
    assert load.duration_us >= 100_000
    # Percentiles are lower edges of buckets, so none is above the greatest.
    figures = [value or 0.0 for value in astuple(load.latency)]
    assert figures == sorted(figures)
    assert figures[0] > 0


async def _last_byte(websocket: ServerConnection) -> None:
    async for message in websocket:
        assert isinstance(message, bytes)
        await websocket.send(message[:-1] + b"\x00")


async def _stale(websocket: ServerConnection) -> None:
    first = await websocket.recv()
    while True:
        await websocket.send(first)
        await websocket.recv()


async def _short(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message[:-1])


async def _as_text(websocket: ServerConnection) -> None:
    async for message in websocket:
        assert isinstance(message, bytes)
        await websocket.send(message.decode())


async def _twice(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message)
        await websocket.send(message)


async def _in_pieces(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send([message[:10], message[10:]])


async def _unasked(websocket: ServerConnection) -> None:
    await websocket.send(b"hello")
    await websocket.wait_closed()


async def _closing(websocket: ServerConnection) -> None:
    await websocket.recv()
    await websocket.close(1013)


async def _cutting(websocket: ServerConnection) -> None:
    await websocket.recv()
    websocket.transport.close()


async def _silent(websocket: ServerConnection) -> None:
    await websocket.wait_closed()


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (_last_byte, "wrong echo: byte 65 of frame 0 is 0x00, not 0x57"),
        (_stale, "wrong echo: byte 9 of frame 1 is 0x30, not 0x31"),
        (_short, "wrong echo: byte 1 of frame 0 is 0x3f, not 0x40"),
        (_as_text, "wrong echo: byte 0 of frame 0 is 0x81, not 0x82"),
        (_twice, "wrong echo: byte 9 of frame 1 is 0x30, not 0x31"),
        (_in_pieces, "wrong echo: byte 0 of frame 0 is 0x02, not 0x82"),
        (_unasked, ""),
        (_closing, "closed by the server with code 1013"),
        (_cutting, "the server ended the connection"),
        (_silent, "messages without an echo for 0.3 s"),
    ],
    ids=lambda value: getattr(value, "__name__", "")[1:],
)
async def test_what_is_wrong_ends_it_without_a_result(
    program: Path, handler: Handler, complaint: str
) -> None:
    async with serving(handler) as port:
        code, output, errors = await drive(program, port, "--messages", "500", "--timeout", "0.3")
    assert (code, output) == (1, "")
    assert errors.startswith("ws_load: ")
    assert complaint in errors


async def test_a_refused_handshake_is_quoted(program: Path) -> None:
    def refuse(connection: ServerConnection, request: object) -> Any:
        return connection.respond(HTTPStatus.NOT_FOUND, "no\n")

    async with serving(echo, process_request=refuse) as port:
        code, output, errors = await drive(program, port, "--messages", "1")
    assert (code, output) == (1, "")
    assert "connection 0: handshake refused: HTTP/1.1 404 Not Found" in errors


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "wrong or no Sec-WebSocket-Accept",
        ),
        (b"HTTP/1.1 101 S\r\nSec-WebSocket-Accept: AAAA\r\n\r\n", "wrong or no Sec-WebSocket-Accept"),
        (
            b"HTTP/1.1 101 S\r\nsec-websocket-accept:s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            "an extension that was not offered",
        ),
        (b"HTTP/1.1 101 S\r\n", "the response has no end"),
        (b"", "the response has no end"),
    ],
)
async def test_a_wrong_handshake_is_told(program: Path, response: bytes, complaint: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        code, output, errors = await drive(program, server.sockets[0].getsockname()[1], "--messages", "1")
    assert (code, output) == (1, "")
    assert complaint in errors


async def test_nobody_there_is_told(program: Path) -> None:
    code, output, errors = await drive(program, free_port(), "--messages", "1")
    assert (code, output) == (1, "")
    assert "connection 0: connect: Connection refused" in errors


@pytest.mark.parametrize(
    "options", [["--size", "7"], ["--depth", "0"], ["--seconds", "x"], ["--nonesuch"], ["1", "2"]]
)
async def test_a_wrong_option_ends_it(program: Path, options: list[str]) -> None:
    code, output, errors = await drive(program, free_port(), *options)
    assert code in (1, 2)
    assert output == ""
    assert errors


class Counted:
    """A ``measured`` that reads the server's own count at both ends."""

    def __init__(self) -> None:
        self.messages = 0
        self.measured = 0

    def __enter__(self) -> None:
        self.measured = -self.messages

    def __exit__(self, *exc_info: object) -> None:
        self.measured += self.messages

    async def echo(self, websocket: ServerConnection) -> None:
        async for message in websocket:
            self.messages += 1
            await websocket.send(message)


def run(folder: Path, port: int, measured: Any, depth: int = 4) -> Load:
    scenario = replace(SMALL, pipeline=depth)
    core = min(psutil.Process().cpu_affinity())
    job = Job(port=port, scenario=scenario, seconds=0.1, connections=3, core=core, measured=measured)
    return WsLoad(folder).run(job)


async def test_what_is_measured_is_exactly_what_is_counted(program: Path) -> None:
    counted = Counted()
    async with serving(counted.echo) as port:
        load = await asyncio.to_thread(run, program.parent, port, counted)
    assert load.requests == counted.measured > 0
    assert counted.messages > counted.measured, "the warm-up is not counted"


@pytest.mark.parametrize("handler", [_closing, _last_byte, _cutting])
async def test_a_run_that_goes_wrong_raises_and_leaves_nothing_behind(
    program: Path, handler: Handler
) -> None:
    async with serving(handler) as port:
        with pytest.raises(LoadError, match="no result; its last words: ws_load: connection"):
            await asyncio.to_thread(run, program.parent, port, contextlib.nullcontext())
    assert not psutil.Process().children()


async def test_a_run_that_goes_wrong_while_measured_raises_too(program: Path) -> None:
    counted = Counted()

    async def turn_bad(websocket: ServerConnection) -> None:
        async for message in websocket:
            assert isinstance(message, bytes)
            await websocket.send(message if counted.measured == 0 else message[::-1])

    counted.messages = 1  # so that entering the block is seen
    async with serving(turn_bad) as port:
        with pytest.raises(LoadError, match="wrong echo"):
            await asyncio.to_thread(run, program.parent, port, counted)
    assert not psutil.Process().children()


def test_a_compiler_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LoadError, match="cc is not on PATH"):
        WsLoad(tmp_path)
    with pytest.raises(LoadError, match="cc is not on PATH"):
        WsLoad.version()


@pytest.mark.parametrize("size", [8, 13, 125, 126, 65536, 200_000])
async def test_the_floor_echoes(program: Path, tmp_path: Path, size: int) -> None:
    port = free_port()
    floor = await asyncio.create_subprocess_exec(cc.build("ws_floor", tmp_path), str(port))
    try:
        await asyncio.to_thread(_until_it_answers, port)
        options = ["--messages", "60", "--size", str(size), "--depth", "6", "--text"]
        code, output, errors = await drive(program, port, *options)
    finally:
        floor.terminate()
        await floor.wait()
    assert (code, errors) == (0, "")
    assert ws_load.parse(output).requests == 60


def _until_it_answers(port: int) -> None:
    for attempt in range(500):
        with contextlib.suppress(ConnectionRefusedError):
            return ask(port, replace(SMALL, pipeline=3), count=3, timeout_s=10)
        asyncio.run(asyncio.sleep(0.02 if attempt < 499 else 0))
    raise AssertionError("ws_floor does not listen")


async def _probe(handler: Handler, **options: Any) -> None:
    async with serving(handler, **options) as port:
        await asyncio.to_thread(ask, port, SMALL, count=3, timeout_s=5)


@pytest.mark.parametrize("handler", [echo, _in_pieces])
async def test_the_probe_takes_a_right_echo_however_it_is_framed(handler: Handler) -> None:
    await _probe(handler)


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (_short, "echo b'0123456789abcdef0123"),
        (_as_text, "a text message echoes a binary one"),
        (_closing, "0 of 3 messages echoed: .*1013"),
        (_cutting, "0 of 3 messages echoed"),
    ],
)
async def test_the_probe_says_what_is_wrong(handler: Handler, complaint: str) -> None:
    with pytest.raises(ProbeError, match=complaint):
        await _probe(handler)


async def test_the_probe_tells_a_refused_handshake() -> None:
    def refuse(connection: ServerConnection, request: object) -> Any:
        return connection.respond(HTTPStatus.FORBIDDEN, "no\n")

    with pytest.raises(ProbeError, match=r"handshake: .*403"):
        await _probe(echo, process_request=refuse)
