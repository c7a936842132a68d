"""Each setting arrives at the native side as the number that was meant, and from there at the client."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from shardserve import _native
from shardserve.config.model import BY_ATTRIBUTE, SETTINGS, Config
from shardserve.config.values import Choice
from shardserve.worker.limits import RequestLimits, request_limits
from tests.unit.worker.fake_factory import WAIT_S
from tests.unit.worker.test_bootstrap import Worker, answer, until

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
]


def test_the_defaults() -> None:
    assert request_limits(Config()) == DEFAULTS


@pytest.mark.parametrize(("setting", "value", "argument", "arrives"), EACH)
def test_a_setting_changes_its_own_argument_only(
    setting: str, value: Any, argument: str, arrives: Any
) -> None:
    assert request_limits(Config(**{setting: value})) == DEFAULTS | {argument: arrives}


def test_every_argument_and_every_limit_is_tested_here() -> None:
    assert {argument for _, _, argument, _ in EACH} == set(DEFAULTS) == set(get_type_hints(RequestLimits))
    of_requests = {one.attribute for one in SETTINGS if one.group == "Limits"}
    assert of_requests <= {setting for setting, _, _, _ in EACH}


@pytest.mark.parametrize("argument", ["first_byte_ms", "head_ms", "body_window_ms", "write_stall_ms"])
@pytest.mark.parametrize(("seconds", "arrives"), [(0, 0), (0.0001, 1), (0.0015, 2)])
def test_a_deadline_never_becomes_none_by_rounding(argument: str, seconds: float, arrives: int) -> None:
    setting = {argument: name for name, _, argument, _ in EACH}[argument]
    assert request_limits(Config(**{setting: seconds}))[argument] == arrives  # type: ignore[literal-required]


def test_no_limit_is_0() -> None:
    limits = request_limits(Config(limit_request_body_bytes=0, min_request_body_rate_bytes_per_s=0))
    assert limits == DEFAULTS | {"limit_request_body": 0, "body_min_rate": 0}


def test_an_idle_connection_can_be_closed_at_once() -> None:
    assert request_limits(Config(timeout_keep_alive_s=0))["keep_alive_ms"] == 0


@pytest.mark.parametrize("extreme", ["low", "high"])
def test_the_native_side_takes_whatever_a_setting_may_be(extreme: str) -> None:
    most: dict[str, Any] = {}
    for setting, _, _, _ in EACH:
        kind = BY_ATTRIBUTE[setting].kind
        if not isinstance(kind, Choice):
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
