"""Each setting arrives at the native side as the number that was meant, and from there at the client."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from shardserve import _native
from shardserve.config.model import BY_ATTRIBUTE, SETTINGS, Config
from shardserve.worker import limits
from shardserve.worker.limits import WS_COMPRESS_MIN_BYTES, RequestLimits, request_limits
from tests.unit.worker.fake_factory import WAIT_S
from tests.unit.worker.test_bootstrap import Worker, answer, until


@dataclass(frozen=True)
class EngineSaid:
    """In the place of an Engine: what it was made with."""

    max_size_bytes: int = 2**24
    max_fragments: int = 100_000
    deflate: bool = True


DEFAULTS: dict[str, Any] = {
    "first_byte_ms": 30_000,
    "head_ms": 10_000,
    "body_window_ms": 10_000,
    "body_min_rate": 240,
    "write_stall_ms": 60_000,
    "keep_alive_ms": 75_000,
    "limit_request_line": 8192,
    "limit_request_head": 65536,
    "limit_request_field_size": 65536,
    "limit_request_fields": 100,
    "limit_request_body": 2**30,
    "limit_pipelined": 65536,
    "limit_keep_alive_requests": 0,
    "limit_connections": 0,
    "limit_concurrency": 0,
    "underscore_headers": "safe",
    "websocket": EngineSaid(),
    "ws_max_size": 2**24,
    "ws_max_queue": 32,
    "ws_ping_interval_ms": 20_000,
    "ws_ping_timeout_ms": 20_000,
    "ws_idle_ms": 0,
    "ws_close_ms": 10_000,
    "ws_compress_min": WS_COMPRESS_MIN_BYTES,
    "http2": False,
    "http2_cleartext": False,
    "http2_max_concurrent_streams": 128,
    "http2_initial_stream_window_size": 262_144,
    "http2_initial_connection_window_size": 1_048_576,
    "http2_max_frame_size": 16_384,
    "http2_max_header_list_size": 65_536,
    "http2_header_table_size": 4096,
    "http2_ping_interval_ms": 30_000,
    "http2_ping_timeout_ms": 20_000,
}
# Setting, value, argument, what arrives.
EACH: list[tuple[str, Any, str, Any]] = [
    ("timeout_first_byte_s", 1.5, "first_byte_ms", 1500),
    ("timeout_request_head_s", 0.25, "head_ms", 250),
    ("timeout_request_body_grace_s", 604800, "body_window_ms", 604_800_000),
    ("min_request_body_rate_bytes_per_s", 1000, "body_min_rate", 1000),
    ("timeout_write_stall_s", 2, "write_stall_ms", 2000),
    ("timeout_keep_alive_s", 0.1, "keep_alive_ms", 100),
    ("limit_request_line_bytes", 300, "limit_request_line", 300),
    ("limit_request_head_bytes", 301, "limit_request_head", 301),
    ("limit_request_field_size_bytes", 302, "limit_request_field_size", 302),
    ("limit_request_fields", 7, "limit_request_fields", 7),
    ("limit_request_body_bytes", 2**50, "limit_request_body", 2**50),
    ("limit_pipelined_bytes", 1024, "limit_pipelined", 1024),
    ("limit_keep_alive_requests", 8, "limit_keep_alive_requests", 8),
    ("limit_connections", 9, "limit_connections", 9),
    ("limit_concurrency", 10, "limit_concurrency", 10),
    ("underscore_headers", "reject", "underscore_headers", "reject"),
    ("ws", "none", "websocket", None),
    ("ws_max_queue", 1, "ws_max_queue", 1),
    ("ws_max_fragments", 9, "websocket", EngineSaid(max_fragments=9)),
    ("ws_ping_interval_s", 3, "ws_ping_interval_ms", 3000),
    ("ws_ping_timeout_s", 4.5, "ws_ping_timeout_ms", 4500),
    ("ws_per_message_deflate", False, "websocket", EngineSaid(deflate=False)),
    ("timeout_ws_idle_s", 600, "ws_idle_ms", 600_000),
    ("timeout_ws_close_s", 0.5, "ws_close_ms", 500),
    ("http2", True, "http2", True),
    ("http2_cleartext", True, "http2_cleartext", True),
    ("http2_max_concurrent_streams", 5, "http2_max_concurrent_streams", 5),
    ("http2_initial_stream_window_size_bytes", 65_535, "http2_initial_stream_window_size", 65_535),
    ("http2_initial_connection_window_size_bytes", 65_536, "http2_initial_connection_window_size", 65_536),
    ("http2_max_frame_size_bytes", 16_385, "http2_max_frame_size", 16_385),
    ("http2_max_header_list_size_bytes", 303, "http2_max_header_list_size", 303),
    ("http2_header_table_size_bytes", 304, "http2_header_table_size", 304),
    ("http2_ping_interval_s", 5, "http2_ping_interval_ms", 5000),
    ("http2_ping_timeout_s", 5.5, "http2_ping_timeout_ms", 5500),
]


@pytest.fixture
def engines_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are not equal to each other; what they were made with is."""
    monkeypatch.setattr(limits, "Engine", EngineSaid)


@pytest.mark.usefixtures("engines_said")
def test_the_defaults() -> None:
    assert request_limits(Config()) == DEFAULTS


@pytest.mark.usefixtures("engines_said")
@pytest.mark.parametrize(("setting", "value", "argument", "arrives"), EACH)
def test_a_setting_changes_its_own_argument_only(
    setting: str, value: Any, argument: str, arrives: Any
) -> None:
    assert request_limits(Config(**{setting: value})) == DEFAULTS | {argument: arrives}


def test_every_argument_and_every_limit_is_tested_here() -> None:
    tested = {argument for _, _, argument, _ in EACH} | {"ws_max_size", "ws_compress_min"}
    assert tested == set(DEFAULTS) == set(get_type_hints(RequestLimits))
    of_requests = {one.attribute for one in SETTINGS if one.group in ("Limits", "Http2", "WebSocket")}
    assert of_requests <= {setting for setting, _, _, _ in EACH} | {"ws_max_size_bytes"}


@pytest.mark.usefixtures("engines_said")
def test_the_largest_message_is_known_to_both_sides() -> None:
    """The native side looks at frames as they come, the engine at messages in parts or compressed."""
    arrives = {"ws_max_size": 2**20, "websocket": EngineSaid(max_size_bytes=2**20)}
    assert request_limits(Config(ws_max_size_bytes=2**20)) == DEFAULTS | arrives


def test_each_factory_has_an_engine_of_its_own() -> None:
    config = Config()
    assert isinstance(request_limits(config)["websocket"], limits.Engine)
    assert request_limits(config)["websocket"] is not request_limits(config)["websocket"]


@pytest.mark.parametrize(
    "argument",
    [
        "first_byte_ms", "head_ms", "body_window_ms", "write_stall_ms", "ws_ping_interval_ms",
        "ws_ping_timeout_ms", "ws_idle_ms", "ws_close_ms", "http2_ping_interval_ms", "http2_ping_timeout_ms",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("seconds", "arrives"), [(0, 0), (0.0001, 1), (0.0015, 2)])
def test_a_deadline_never_becomes_none_by_rounding(argument: str, seconds: float, arrives: int) -> None:
    setting = {argument: name for name, _, argument, _ in EACH}[argument]
    assert request_limits(Config(**{setting: seconds}))[argument] == arrives  # type: ignore[literal-required]


@pytest.mark.usefixtures("engines_said")
def test_no_limit_is_0() -> None:
    none: dict[str, Any] = {
        "limit_request_body_bytes": 0, "min_request_body_rate_bytes_per_s": 0, "ws_max_size_bytes": 0,
    }  # fmt: skip
    arrives = {
        "limit_request_body": 0, "body_min_rate": 0, "ws_max_size": 0,
        "websocket": EngineSaid(max_size_bytes=0),
    }  # fmt: skip
    assert request_limits(Config(**none)) == DEFAULTS | arrives


def test_an_empty_table_is_not_the_default_one() -> None:
    """0 is the native side's default; into 1 byte fits no entry, each of which is 32 and more."""
    assert request_limits(Config(http2_header_table_size_bytes=0))["http2_header_table_size"] == 1


def test_an_idle_connection_can_be_closed_at_once() -> None:
    assert request_limits(Config(timeout_keep_alive_s=0))["keep_alive_ms"] == 0


@pytest.mark.parametrize("extreme", ["low", "high"])
def test_the_native_side_takes_whatever_a_setting_may_be(extreme: str) -> None:
    most: dict[str, Any] = {}
    for setting in [*(setting for setting, _, _, _ in EACH), "ws_max_size_bytes"]:
        kind = BY_ATTRIBUTE[setting].kind
        if hasattr(kind, extreme):
            bound = getattr(kind, extreme)
            most[setting] = 2**62 if bound is None else bound
    loop = asyncio.new_event_loop()
    try:
        factory = _native.ProtocolFactory(
            print,
            loop=loop,
            context=None,
            state=None,
            on_app_error=print,
            on_reject=print,
            **request_limits(Config(**most)),
        )
        factory.tick()
        factory.close()
    finally:
        loop.close()


# In a worker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    one = Worker(tmp_path)
    yield one
    one.end()


def send(worker: Worker, data: bytes) -> socket.socket:
    caller = socket.create_connection(worker.listeners[0].getsockname(), timeout=WAIT_S)
    caller.sendall(data)
    return caller


def test_a_limit_reaches_the_wire_and_the_log(worker: Worker) -> None:
    worker.ready(limit_request_line_bytes=256)
    line = b"GET /" + b"a" * (256 - len("GET / HTTP/1.1")) + b" HTTP/1.1\r\n"
    rest = b"Host: test\r\nConnection: close\r\n\r\n"
    assert answer(send(worker, line + rest)).startswith(b"HTTP/1.1 200 ")
    assert answer(send(worker, line.replace(b"/a", b"/aa") + rest)).startswith(b"HTTP/1.1 414 ")
    assert worker.drain() == 0
    told = [text for text in worker.err.read_text().splitlines() if "Rejected" in text]
    assert len(told) == 1
    assert re.search(
        r"WARNING: .* Rejected a request from 127\.0\.0\.1:\d+: 414 .*limit-request-line$", told[0]
    )


def test_a_deadline_reaches_the_wire_and_the_log(worker: Worker) -> None:
    worker.ready(timeout_request_head_s=0.1)
    assert answer(send(worker, b"GET / HTTP/1.1\r\n")).startswith(b"HTTP/1.1 408 ")
    until(lambda: "Rejected a request from 127.0.0.1:" in worker.err.read_text())
    assert ": 408 " in worker.err.read_text()
    assert worker.drain() == 0


HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def first_line(caller: socket.socket) -> bytes:
    with caller, caller.makefile("rb") as file:
        return file.readline()


def test_a_websocket_reaches_the_app_and_the_access_log(worker: Worker) -> None:
    worker.ready("shardserve.demo:app")
    assert first_line(send(worker, HANDSHAKE)) == b"HTTP/1.1 101 Switching Protocols\r\n"
    assert worker.drain() == 0
    (line,) = [text for text in worker.out.read_text().splitlines() if "INFO" in text]
    assert re.fullmatch(r'INFO:     127\.0\.0\.1:\d+ - "WebSocket /ws" \[accepted\]', line)


def test_without_websockets_a_handshake_is_an_ordinary_get(worker: Worker) -> None:
    worker.ready(ws="none")
    assert first_line(send(worker, HANDSHAKE)) == b"HTTP/1.1 200 OK\r\n"
    assert worker.drain() == 0
    (line,) = [text for text in worker.out.read_text().splitlines() if "INFO" in text]
    assert line.endswith(' - "GET /ws HTTP/1.1" 200 OK')


@pytest.mark.skipif(_native.nghttp2_version is None, reason="HTTP/2 was not built")
def test_the_settings_of_http2_reach_the_client(worker: Worker) -> None:
    """RFC 9113 §6.5.2; the connection's window is opened by a WINDOW_UPDATE behind them (§6.9.2)."""
    worker.ready(
        "shardserve.demo:app",
        http2_cleartext=True,
        http2_max_concurrent_streams=7,
        http2_initial_stream_window_size_bytes=70_000,
        http2_initial_connection_window_size_bytes=80_000,
        http2_max_frame_size_bytes=20_000,
        http2_max_header_list_size_bytes=30_000,
        http2_header_table_size_bytes=1000,
    )
    with send(worker, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0") as caller:
        file = caller.makefile("rb")
        found, opened_by = {}, None
        while opened_by is None:
            head = file.read(9)
            payload = file.read(int.from_bytes(head[:3], "big"))
            if head[3:5] == b"\4\0":  # SETTINGS, no ACK
                found = dict(struct.iter_unpack("!HI", payload))
            elif head[3] == 8:  # WINDOW_UPDATE
                opened_by = int.from_bytes(payload, "big")
    expected = {1: 1000, 3: 7, 4: 70_000, 5: 20_000, 6: 30_000, 8: 1, 9: 1}
    assert (found, 65_535 + opened_by) == (expected, 80_000)
    assert answer(send(worker, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).startswith(
        b"HTTP/1.1 200 "
    )
    assert worker.drain() == 0


def test_a_refused_handshake_reaches_the_server_log(worker: Worker) -> None:
    worker.ready()
    old = HANDSHAKE.replace(b"Version: 13", b"Version: 8")
    assert first_line(send(worker, old)) == b"HTTP/1.1 426 Upgrade Required\r\n"
    assert worker.drain() == 0
    told = [text for text in worker.err.read_text().splitlines() if "Rejected" in text]
    assert len(told) == 1
    assert re.search(r"WARNING: .* Rejected a request from 127\.0\.0\.1:\d+: 426 Upgrade Required: ", told[0])


def test_a_websocket_limit_reaches_the_wire_and_the_log(worker: Worker) -> None:
    worker.ready("shardserve.demo:app", ws_max_size_bytes=10)
    with send(worker, HANDSHAKE) as caller, caller.makefile("rb") as file:
        while file.readline() != b"\r\n":
            pass
        caller.sendall(b"\x82\x8b\0\0\0\0" + b"x" * 11)  # a frame of 11 bytes (RFC 6455 §5.2)
        hello = file.read(2)  # the demo's first message, shorter than 126 bytes or not
        file.read(int.from_bytes(file.read(2), "big") if hello[1] == 126 else hello[1])
        head = file.read(4)
        assert (head[:1], head[2:]) == (b"\x88", (1009).to_bytes(2, "big"))
    assert worker.drain() == 0
    told = [text for text in worker.err.read_text().splitlines() if "Closed the WebSocket" in text]
    assert len(told) == 1
    assert re.search(r"WARNING: .* Closed the WebSocket of 127\.0\.0\.1:\d+ with 1009: ", told[0])
