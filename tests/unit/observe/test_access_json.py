"""Access lines as JSON: whatever a client sends, one object a line, of ASCII without a control character."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardserve.observe.access_json import JsonAccessLog
from shardserve.observe.formatters import become, timestamp

CLIENT = ("127.0.0.1", 50000)
NOON = 1_795_435_118.1239


def lines_of(*responses: tuple, now: float = NOON) -> list[bytes]:
    log = JsonAccessLog(schedule=lambda flush: None, now=lambda: now)
    for one in responses:
        log(*one)
    return "".join(log._lines).encode().splitlines(keepends=True)


def harmless(line: bytes) -> bool:
    return line.endswith(b"\n") and all(0x20 <= code < 0x7F for code in line[:-1])


def test_a_line():
    become(3)
    [line] = lines_of((CLIENT, "GET", b"/path?x=1", "1.1", 200))
    assert json.loads(line) == {
        "ts": "2026-11-23T11:58:38.123Z",
        "type": "access",
        "level": "info",
        "logger": "shardserve.access",
        "pid": os.getpid(),
        "worker": 3,
        "client": "127.0.0.1:50000",
        "method": "GET",
        "target": "/path?x=1",
        "http_version": "1.1",
        "status": 200,
    }
    assert list(json.loads(line))[:2] == ["ts", "type"]


def test_a_client_without_an_address():
    [line] = lines_of((None, "WebSocket", b"/ws", "1.1", 101))
    found = json.loads(line)
    assert found["client"] is None
    assert (found["method"], found["status"], found["worker"]) == ("WebSocket", 101, None)


def test_a_target_is_the_text_of_the_text_log():
    target = b'/\xc3\xbc"\\\n\x1b[31m\x7f\x00%0a'
    [line] = lines_of((CLIENT, "GET", target, "1.1", 200))
    assert harmless(line)
    assert json.loads(line)["target"] == "/\\xc3\\xbc\\x22\\x5c\\x0a\\x1b[31m\\x7f\\x00%0a"


@given(target=st.binary(), host=st.text(), port=st.integers(0, 65535))
def test_any_bytes_and_any_address(target, host, port):
    responses = [((host, port), "GET", target, "1.0", 500)] * 2
    lines = lines_of(*responses)
    assert len(lines) == 2
    for line in lines:
        assert harmless(line)
        found = json.loads(line)
        assert found["client"].endswith(f":{port}")
        assert found["status"] == 500
        found["target"].encode("ascii")
        found["client"].encode()  # has no lone surrogate


def test_time_goes_on_and_a_millisecond_is_a_millisecond():
    moments = [NOON, NOON, NOON + 0.0009, NOON + 0.001, NOON + 1, NOON + 61]
    waiting = iter(moments)
    log = JsonAccessLog(schedule=lambda flush: None, now=lambda: next(waiting))
    for _ in moments:
        log(CLIENT, "GET", b"/", "1.1", 200)
    found = [json.loads(line)["ts"] for line in log._lines]
    assert found == [timestamp(one) for one in moments]
    assert len(set(found)) == 4


def test_hosts_are_not_kept_for_ever():
    log = JsonAccessLog(schedule=lambda flush: None)
    for number in range(10_000):
        log((f"10.0.{number >> 8}.{number & 255}", 1), "GET", b"/", "1.1", 200)
        log._lines.clear()
    assert len(log._hosts) <= 4096


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (951_782_400.9999, "2000-02-29T00:00:00.999Z"),
        (1_795_435_118.0, "2026-11-23T11:58:38.000Z"),
    ],
)
def test_timestamps_are_rfc_3339_in_utc(created, shown):
    assert timestamp(created) == shown
