"""The load at a fixed rate: that nothing the server does moves its schedule, and that it reads right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from perf import cc, idle, rate_load
from perf.load import RESULT_MARK, Job, Latency, Load, LoadError
from perf.process import free_port
from perf.rate_load import RateLoad
from perf.scenarios import BY_NAME, SCENARIOS

PLAIN = BY_NAME["plain"]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!"
CONNECTIONS = 4
Answer = Callable[[StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cc.build("rate_load", tmp_path_factory.mktemp("rate_load"))


class Server:
    """Answers each request by ``answer``, and counts."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests = 0
        self.connections = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                await self._answer(writer)
        writer.close()


async def right(writer: StreamWriter) -> None:
    writer.write(ANSWER)


async def drive(program: Path, port: int, *options: str) -> tuple[int, str, str]:
    """Run it; returns the exit code and what it said on each stream."""
    request = program.parent / "request"
    request.write_bytes(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    common = ["--request", str(request), "--body-bytes", "13", "--connections", str(CONNECTIONS)]
    process = await asyncio.create_subprocess_exec(
        program, *common, *options, str(port), stdout=PIPE, stderr=PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def figures(program: Path, server: Server, *options: str) -> Load:
    async with server.running():
        code, output, errors = await drive(program, server.port, *options)
    assert (code, errors) == (0, "")
    return rate_load.parse(output)


async def test_a_stall_is_in_the_latency_of_every_request_that_was_due_in_it(program: Path) -> None:
    """400 requests in 2 s; the server does nothing for 1 s of them. A client that waits for its answers would
    have 4 late ones, one for each connection; due in the stall are 200, and half of them wait for half of it.
    """

    async def stall_once(writer: StreamWriter) -> None:
        if server.requests == 100:
            time.sleep(1)  # this is the stall: nothing else runs here meanwhile
        writer.write(ANSWER)

    server = Server(stall_once)
    load = await figures(program, server, "--rate", "200", "--seconds", "2")
    assert load.requests == server.requests == 400, "the schedule did not wait for the server"
    assert load.errors == {}
    # Noise makes these greater, never less.
    assert (load.latency.p90_us or 0) > 500_000
    assert (load.latency.p99_us or 0) > 900_000
    assert (load.latency.max_us or 0) >= 1_000_000


async def test_what_is_never_answered_counts_with_the_time_it_waited(program: Path) -> None:
    async def ten(writer: StreamWriter) -> None:
        if server.requests <= 10:
            writer.write(ANSWER)

    server = Server(ten)
    load = await figures(program, server, "--rate", "100", "--seconds", "0.4", "--timeout", "0.5")
    assert load.requests == 10
    assert load.errors == {"timeout": 30}
    assert server.requests == 10 + CONNECTIONS, "one in flight on each; the others were due and never sent"
    # All that were due in 0.4 s have waited for 0.5 s at least: 30 of 40.
    assert (load.latency.p50_us or 0) > 490_000


@pytest.mark.parametrize("rate", ["0.5", "50", "3000"])
async def test_the_count_is_the_rates_and_the_lateness_is_told(program: Path, rate: str) -> None:
    server = Server(right)
    load = await figures(program, server, "--rate", rate, "--seconds", "0.2", "--warmup", "0.1")
    due = max(1, int(float(rate) * 0.2))
    assert load.requests == due
    assert load.response_bytes == due * len(ANSWER)
    assert server.requests == due + max(1, int(float(rate) * 0.1)), "the warm-up is not counted"
    assert load.late_us is not None
    assert 0 <= load.late_us <= (load.latency.max_us or 0)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5;x=y\r\nHello\r\n8\r\n, world!\r\n0\r\nt: v\r\n\r\n"
)
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\nHello, world!"


@pytest.mark.parametrize(
    "answer", [ANSWER, CHUNKED, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ANSWER, CLOSING]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_answers_are_read_however_they_are_framed_and_cut(
    program: Path, answer: bytes, size: int
) -> None:
    async def in_pieces(writer: StreamWriter) -> None:
        for start in range(0, len(answer), size):
            writer.write(answer[start : start + size])
            await asyncio.sleep(0)

    load = await figures(program, Server(in_pieces), "--rate", "200", "--seconds", "0.1")
    assert (load.requests, load.errors) == (20, {})
    assert load.response_bytes == 20 * len(answer)


async def test_an_answer_without_a_length_ends_with_its_connection(program: Path) -> None:
    async def until_close(writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nHello, world!")
        writer.close()

    server = Server(until_close)
    load = await figures(program, server, "--rate", "200", "--seconds", "0.1")
    assert (load.requests, load.errors) == (20, {})
    assert server.connections >= 20


@pytest.mark.parametrize(
    ("answer", "errors"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", {"status": 20}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nHello, world", {"body": 20}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", {"body": 20}),
    ],
)
async def test_wrong_answers_are_counted_by_kind(
    program: Path, answer: bytes, errors: dict[str, int]
) -> None:
    async def wrong(writer: StreamWriter) -> None:
        writer.write(answer)

    load = await figures(program, Server(wrong), "--rate", "200", "--seconds", "0.1")
    assert (load.requests, load.errors) == (20, errors)


async def test_a_connection_that_breaks_is_counted_and_opened_anew(program: Path) -> None:
    async def break_every_fifth(writer: StreamWriter) -> None:
        writer.write(ANSWER[:-1] if server.requests % 5 == 0 else ANSWER)
        if server.requests % 5 == 0:
            writer.close()

    server = Server(break_every_fifth)
    load = await figures(program, server, "--rate", "200", "--seconds", "0.1")
    assert (load.requests, load.errors) == (16, {"read": 4})
    assert server.requests == 20, "none is sent twice"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"SSH-2.0-x\r\n\r\n", "not HTTP: SSH-2.0-x"),
        (ANSWER + b"more", "bytes came that answer nothing"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000, "a response head of more than 16384 bytes"),
    ],
)
async def test_what_is_no_answer_ends_it_without_a_result(
    program: Path, answer: bytes, complaint: str
) -> None:
    async def odd(writer: StreamWriter) -> None:
        writer.write(answer)

    async with Server(odd).running() as server:
        code, output, errors = await drive(program, server.port, "--rate", "20", "--seconds", "0.5")
    assert (code, output) == (1, "")
    assert complaint in errors


async def test_nobody_there_is_told(program: Path) -> None:
    code, output, errors = await drive(program, free_port())
    assert (code, output) == (1, "")
    assert "connection 0: connect: Connection refused" in errors


@pytest.mark.parametrize(
    "options", [["--rate", "0"], ["--seconds", "x"], ["--request", "/none"], ["--nonesuch"], ["1", "2"]]
)
async def test_a_wrong_option_ends_it(program: Path, options: list[str]) -> None:
    code, output, errors = await drive(program, free_port(), *options)
    assert code in (1, 2)
    assert output == ""
    assert errors


class Counted:
    """A ``measured`` that reads the server's own count at both ends."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.measured = 0

    def __enter__(self) -> None:
        self.measured = -self._server.requests

    def __exit__(self, *exc_info: object) -> None:
        self.measured += self._server.requests


def run(folder: Path, port: int, measured: Any) -> Load:
    core = min(psutil.Process().cpu_affinity())
    job = Job(port=port, scenario=PLAIN, seconds=0.2, connections=3, core=core, measured=measured)
    return RateLoad(folder, 300).run(job)


async def test_what_is_measured_is_exactly_what_is_counted(program: Path) -> None:
    async with Server(right).running() as server:
        counted = Counted(server)
        load = await asyncio.to_thread(run, program.parent, server.port, counted)
    assert load.requests == counted.measured == 60
    assert server.requests > 60, "the warm-up is not counted"


async def test_it_can_be_heard_beside_more_files_than_select_takes(program: Path) -> None:
    if idle.most(2000) < 1100:
        pytest.skip("the limit on open files is too low")
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        async with Server(right).running() as server:
            load = await asyncio.to_thread(run, program.parent, server.port, contextlib.nullcontext())
    finally:
        for number in held:
            os.close(number)
    assert load.requests == 60


async def test_a_run_that_goes_wrong_raises_and_leaves_nothing_behind(program: Path) -> None:
    async def odd(writer: StreamWriter) -> None:
        writer.write(b"?\r\n\r\n")

    async with Server(odd).running() as server:
        with pytest.raises(LoadError, match="no result; its last words: rate_load: connection"):
            await asyncio.to_thread(run, program.parent, server.port, contextlib.nullcontext())
    assert not psutil.Process().children()


def test_parse_keeps_only_the_errors_that_happened() -> None:
    text = (
        f'ready\n{RESULT_MARK}{{"requests":9,"due":10,"duration_us":5,"bytes":7,"read":0,"status":1,"body":0,'
        '"timeout":1,"late_us":3.5,"p50_us":1.0,"p90_us":2.0,"p99_us":3.0,"p999_us":4.0,"max_us":5.0}\n'
    )
    load = rate_load.parse(text)
    assert (load.requests, load.errors, load.late_us) == (9, {"status": 1, "timeout": 1}, 3.5)
    assert load.latency == Latency(1.0, 2.0, 3.0, 4.0, 5.0)


def test_what_has_no_rate_says_why() -> None:
    unfit = {row.name for row in SCENARIOS if rate_load.unfit(row) is not None}
    others = {row.name for row in SCENARIOS if row.group in ("ws-echo", "h2")}
    assert unfit == {"pipelined-16", "connection-per-request", "tls", "tls-body-100k"} | others


def test_a_compiler_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LoadError, match="cc is not on PATH; install the Debian package gcc"):
        RateLoad(tmp_path, 1.0)
