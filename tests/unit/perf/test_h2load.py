"""HTTP/2 in the laboratory: that h2load's prose is read rightly, and no wrong answer is ever a number."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("h2")

import h2.config
import h2.connection
import h2.events

from perf import cc, certificate, h2load, tables
from perf.bench import Bench
from perf.h2load import H2Load
from perf.load import NO_LATENCY, Job, LoadError
from perf.peers import BY_NAME as SERVERS
from perf.probe import ProbeError, ask
from perf.process import free_port
from perf.rounds import Settings, obstacle
from perf.scenarios import BY_NAME

PLAIN, POST, TLS = BY_NAME["h2-plain"], BY_NAME["h2-post-1k"], BY_NAME["h2-tls"]
CORE = min(psutil.Process().cpu_affinity())
SHORT = Settings(server_cores=(CORE,), load_cores=(CORE,), rounds=2, seconds=0.2, connections=4)

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
needs_nghttpd = pytest.mark.skipif(shutil.which("nghttpd") is None, reason="nghttpd is not installed")

# As h2load 1.52 prints it; the progress lines are left out.
WHOLE = """starting benchmark...
spawning thread #0: 32 total client(s). 100000 total requests
Application protocol: h2c

finished in 344.87ms, 289961.81 req/s, 11.62MB/s
requests: 100000 total, 100000 started, 100000 done, 100000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 100000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 4.01MB (4203360) total, 1.05MB (1102592) headers (space savings 93.70%), 1.24MB (1300000) data
                     min         max         mean         sd        +/- sd
time for request:      147us      6.14ms      1.45ms       538us    74.33%
"""
TIMED = """Main benchmark duration is started for thread #0.
TLS Protocol: TLSv1.3
Application protocol: h2

finished in 502.38ms, 238994.00 req/s, 7.17MB/s
requests: 119497 total, 120009 started, 119497 done, 119497 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 119500 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 3.58MB (3756607) total, 1.03MB (1078545) headers (space savings 94.10%), 1.49MB (1553500) data
"""


def test_a_run_of_so_many_requests_is_read() -> None:
    load = h2load.parse(WHOLE, PLAIN, whole=True)
    assert (load.requests, load.response_bytes, load.errors) == (100_000, 4203360, {})
    assert load.duration_us == 344873, "from the rate, which is told more finely than the time"
    assert load.latency == NO_LATENCY


def test_a_run_ended_by_time_leaves_what_was_in_flight_out() -> None:
    load = h2load.parse(TIMED, TLS, whole=False)
    assert (load.requests, load.duration_us) == (119_497, 502380)


@pytest.mark.parametrize(("told", "us"), [("950us", 950), ("1.25s", 1_250_000), ("2m", 120_000_000)])
def test_its_units_of_time(told: str, us: int) -> None:
    assert h2load.parse(TIMED.replace("502.38ms", told), TLS, whole=False).duration_us == us


@pytest.mark.parametrize(
    ("text", "other", "complaint"),
    [
        ("0 failed", "7 failed", "of 100000 requests: 7 failed"),
        ("0 errored", "7 errored", "of 100000 requests: 7 errored"),
        ("0 timeout", "7 timeout", "of 100000 requests: 7 timeout"),
        ("0 4xx, 0 5xx", "3 4xx, 4 5xx", "of 100000 requests: 3 4xx, 4 5xx"),
        ("0 3xx", "1 3xx", "of 100000 requests: 1 3xx"),
        ("100000 succeeded", "99990 succeeded", "10 without an answer"),
        ("(1300000) data", "(1299999) data", "1299999 bytes of bodies, not 1300000"),
        ("(1300000) data", "(1300001) data", "1300001 bytes of bodies, not 1300000"),
        ("protocol: h2c", "protocol: http/1.1", "not HTTP/2 but http/1.1"),
        ("Application protocol: h2c\n", "", "not HTTP/2 but unknown"),
        ("requests: ", "reqs: ", "h2load gave no result; its last words: time for request"),
        ("status codes: ", "codes: ", "h2load gave no result"),
        ("traffic: ", "bytes: ", "h2load gave no result"),
        ("finished", "ended", "h2load gave no result"),
    ],
)
def test_whatever_went_wrong_makes_the_run_worth_nothing(text: str, other: str, complaint: str) -> None:
    assert text in WHOLE
    with pytest.raises(LoadError, match=complaint.replace("(", r"\(")):
        h2load.parse(WHOLE.replace(text, other), PLAIN, whole=True)


@pytest.mark.parametrize(
    ("text", "other", "complaint"),
    [
        ("(1553500) data", "(1553460) data", "1553460 bytes of bodies, not 1553461"),
        ("0 failed", "1 failed", "1 failed"),
        ("119497 succeeded", "0 succeeded", "counted no answer"),
        ("protocol: h2", "protocol: http/1.1", "not HTTP/2"),
    ],
)
def test_a_run_ended_by_time_is_checked_too(text: str, other: str, complaint: str) -> None:
    assert text in TIMED
    with pytest.raises(LoadError, match=complaint):
        h2load.parse(TIMED.replace(text, other), TLS, whole=False)


@pytest.mark.parametrize("output", ["", "the host name is unknown\n"])
def test_without_a_result_its_last_words_are_quoted(output: str) -> None:
    with pytest.raises(LoadError, match=f"its last words: {output.strip() or 'nothing'}"):
        h2load.parse(output, PLAIN, whole=True)


def test_a_scenario_says_what_is_sent_and_that_it_must_be_http2() -> None:
    assert h2load.options(PLAIN, 1) == ["http://127.0.0.1:1/", "-m", "16", "--npn-list=h2"]
    tls = h2load.options(replace(TLS, headers=(("Accept", "*/*"),)), 1)
    assert tls[0] == "https://127.0.0.1:1/"
    assert tls[-2:] == ["-H", "Accept: */*"]
    assert "--tls13-ciphers=TLS_AES_128_GCM_SHA256" in tls


def test_a_missing_program_or_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert obstacle(PLAIN, SHORT) is None or shutil.which("h2load") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert "package h2 is not installed" in (obstacle(PLAIN, SHORT) or "")
    assert obstacle(BY_NAME["plain"], SHORT) is None, "only HTTP/2 needs it"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LoadError, match="install the Debian package nghttp2-client"):
        H2Load.version()


# A server of our own, with the h2 package, that answers as a test says.

Answer = Callable[["Peer", int], None]


class Peer(asyncio.Protocol):
    """One connection: every request is handed to ``answer`` when it is complete."""

    def __init__(self, answer: Answer) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)
        self.received: dict[int, bytes] = {}
        self.fields: list[Any] = []
        self._answer = answer

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connection.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.fields = event.headers
                self.received[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self.received[event.stream_id] += event.data
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(self, event.stream_id)
        self.flush()

    def respond(self, stream: int, body: bytes, status: str = "200") -> None:
        self.connection.send_headers(stream, [(":status", status)])
        self.connection.send_data(stream, body, end_stream=True)

    def flush(self) -> None:
        self.transport.write(self.connection.data_to_send())


def right(peer: Peer, stream: int) -> None:
    peer.respond(stream, PLAIN.expect_body)


@contextlib.asynccontextmanager
async def serving(answer: Answer, tls: Any = None) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(answer), "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_probe_takes_a_right_answer_to_each_of_many() -> None:
    seen: list[tuple[Any, bytes]] = []

    def lengths(peer: Peer, stream: int) -> None:
        seen.append((peer.fields, peer.received[stream]))
        peer.respond(stream, str(len(peer.received[stream])).encode())

    async with serving(lengths) as port:
        await asyncio.to_thread(ask, port, POST, count=16, timeout_s=5)
    assert [body for _, body in seen] == [POST.body] * 16
    assert dict(seen[0][0]) == {
        ":method": "POST",
        ":scheme": "http",
        ":authority": f"127.0.0.1:{port}",
        ":path": "/",
    }


def _goaway(peer: Peer, stream: int) -> None:
    peer.connection.close_connection(error_code=2)


def _short_of_its_length(peer: Peer, stream: int) -> None:
    peer.connection.send_headers(stream, [(":status", "200"), ("content-length", "14")])
    peer.connection.send_data(stream, PLAIN.expect_body, end_stream=True)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda peer, stream: peer.respond(stream, b"Hello"), "body b'Hello', not b'Hello, world!'"),
        (lambda peer, stream: peer.respond(stream, b"", "503"), "status 503, not 200"),
        (lambda peer, stream: peer.connection.reset_stream(stream, 7), "stream 1 reset with error code 7"),
        (_goaway, "GOAWAY with error code 2"),
        (_short_of_its_length, "not HTTP/2: InvalidBodyLengthError"),
        (lambda peer, stream: peer.transport.close(), "0 of 3 requests answered"),
    ],
    ids=["body", "status", "reset", "goaway", "length", "end"],
)
async def test_the_probe_says_what_is_wrong(answer: Answer, complaint: str) -> None:
    async with serving(answer) as port:
        with pytest.raises(ProbeError, match=complaint):
            await asyncio.to_thread(ask, port, PLAIN, count=3, timeout_s=5)


async def test_the_probe_knows_http1_when_it_comes() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(ProbeError, match="the answer is in HTTP/1"):
            await asyncio.to_thread(ask, server.sockets[0].getsockname()[1], PLAIN, count=1, timeout_s=5)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("offered", [["h2"], ["http/1.1"]])
async def test_over_tls_the_server_has_to_choose_h2(tmp_path: Path, offered: list[str]) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate.make(tmp_path))
    context.set_alpn_protocols(offered)
    async with serving(right, context) as port:
        asking = asyncio.to_thread(ask, port, TLS, count=16, timeout_s=5)
        if offered == ["h2"]:
            await asking
        else:
            with pytest.raises(ProbeError, match="ALPN chose no h2"):
                await asking


class Counted:
    """A ``measured`` that counts how often it is entered and left."""

    def __init__(self) -> None:
        self.entered = self.left = 0

    def __enter__(self) -> None:
        self.entered += 1

    def __exit__(self, *exc_info: object) -> None:
        self.left += 1


def drive(tool: H2Load, port: int, measured: Any, scenario: Any = PLAIN) -> Any:
    narrow = replace(scenario, pipeline=4)
    return tool.run(Job(port=port, scenario=narrow, seconds=0.2, connections=3, core=CORE, measured=measured))


@needs_h2load
async def test_after_the_first_run_every_request_sent_is_counted(tmp_path: Path) -> None:
    served = 0

    def count(peer: Peer, stream: int) -> None:
        nonlocal served
        served += 1
        peer.respond(stream, str(len(peer.received[stream])).encode())

    tool, measured = H2Load(tmp_path), Counted()
    async with serving(count) as port:
        first = await asyncio.to_thread(drive, tool, port, measured, POST)
        assert 0 < first.requests <= served
        served = 0
        second = await asyncio.to_thread(drive, tool, port, measured, POST)
    assert second.requests == served >= 12
    assert second.response_bytes > 0
    assert (measured.entered, measured.left) == (2, 2)


@needs_h2load
async def test_one_wrong_answer_of_many_ends_the_run(tmp_path: Path) -> None:
    bad: Answer = right
    served = 0

    def answer(peer: Peer, stream: int) -> None:
        nonlocal served
        served += 1
        (bad if served == 9 else right)(peer, stream)

    tool = H2Load(tmp_path)
    async with serving(answer) as port:
        await asyncio.to_thread(drive, tool, port, contextlib.nullcontext())
        wrongs: list[tuple[Answer, str]] = [
            (lambda peer, stream: peer.respond(stream, b"Hello"), "bytes of bodies, not"),
            (lambda peer, stream: peer.respond(stream, PLAIN.expect_body, "404"), ": 1 4xx|1 failed"),
            (lambda peer, stream: peer.connection.reset_stream(stream), "1 failed"),
            (lambda peer, stream: peer.transport.abort(), "failed|errored"),
        ]
        for wrong, complaint in wrongs:
            bad, served = wrong, 0
            with pytest.raises(LoadError, match=complaint):
                await asyncio.to_thread(drive, tool, port, contextlib.nullcontext())
        bad, served = right, 0
        assert (await asyncio.to_thread(drive, tool, port, contextlib.nullcontext())).requests == served


@needs_h2load
async def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2load, "LATE_S", 0.3)
    tool, silent = H2Load(tmp_path), False
    monkeypatch.setattr(h2load, "_SLOWER", 1.0)

    def answer(peer: Peer, stream: int) -> None:
        if not silent:
            right(peer, stream)

    async with serving(answer) as port:
        await asyncio.to_thread(drive, tool, port, contextlib.nullcontext())
        silent = True
        with pytest.raises(LoadError, match="h2load was not done"):
            await asyncio.to_thread(drive, tool, port, contextlib.nullcontext())
    assert not [one for one in psutil.Process().children() if one.name() == "h2load"]


@needs_h2load
async def test_nobody_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        LoadError, match=r"of \d+ requests: \d+ (failed|errored)|h2load (gave no result|counted no answer)"
    ):
        await asyncio.to_thread(drive, H2Load(tmp_path), free_port(), contextlib.nullcontext())


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[int]:
    """The port of a running h2_floor."""
    try:
        program = cc.build("h2_floor", tmp_path)
    except cc.CompileError as error:
        pytest.skip(str(error))
    port = free_port()
    process = psutil.Popen([str(program), str(port)])
    try:
        for _ in range(500):
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            process.wait(0.02) if process.poll() is not None else asyncio.run(asyncio.sleep(0.02))
        yield port
    finally:
        process.terminate()
        process.wait()


def test_the_floor_answers_however_its_input_is_cut(floor: int) -> None:
    ask(floor, PLAIN, count=100, timeout_s=10)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    connection.send_headers(
        1, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")], True
    )
    body = b""
    with socket.create_connection(("127.0.0.1", floor), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in connection.data_to_send():
            client.sendall(bytes([byte]))
        ended = False
        while not ended:
            for event in connection.receive_data(client.recv(65536)):
                body += event.data if isinstance(event, h2.events.DataReceived) else b""
                ended |= isinstance(event, h2.events.StreamEnded)
    assert body == PLAIN.expect_body
    with socket.create_connection(("127.0.0.1", floor), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP/1.1" not in client.recv(65536), "it speaks nothing else"


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cc, "LIBRARIES", {"h2_floor": ("-lno-such-library", "libno-such-dev")})
    with pytest.raises(
        cc.CompileError, match=r"h2_floor\.c does not compile; it needs the Debian package libno-such"
    ):
        cc.build("h2_floor", tmp_path)


# Right on its first connections, which are the probe's and the warm-up's, and then a byte short.
LIAR = """
import asyncio, sys
sys.path.insert(0, {tests!r})
import test_h2load as t
served = 0
def answer(peer, stream):
    global served
    served += 1
    peer.respond(stream, t.PLAIN.expect_body[: 12 if served > 100 else 13])
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: t.Peer(answer), "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


@needs_h2load
@needs_nghttpd
def test_floors_are_measured_and_a_wrong_answer_ends_a_servers_part() -> None:
    liar = replace(
        SERVERS["h2-floor"],
        name="liar",
        argv=(sys.executable, "-c", LIAR.replace("{tests!r}", repr(str(Path(__file__).parent))), "{port}"),
    )
    servers = [SERVERS["h2-floor"], SERVERS["nghttpd"], SERVERS["floor"], liar]
    report = Bench(servers, [PLAIN, TLS, BY_NAME["h2-10k"]], SHORT).run()
    assert report.host.keys() >= {"h2load"}
    plain, tls, large = report.scenarios
    assert plain.samples.keys() == {"h2-floor", "nghttpd"}
    assert {len(rows) for rows in plain.samples.values()} == {2}
    assert "bytes of bodies, not" in plain.skipped["liar"]
    for result in (tls, large):
        assert result.samples.keys() == {"nghttpd"}, "the floor has neither TLS nor another answer"
    assert all(0.1 < rows[0].cpu_us < 1000 for rows in plain.samples.values())
    assert large.samples["nghttpd"][0].response_bytes > 10240 * large.samples["nghttpd"][0].requests
    assert "h2load (" in tables.render(report)
    assert not psutil.Process().children(recursive=True)
