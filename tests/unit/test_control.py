"""The control messages: each survives the wire, and what is not one is refused by name."""

from __future__ import annotations

import json

import pytest

from shardserve import control
from shardserve.errors import ControlError

MESSAGES: list[control.Message] = [
    control.Start(
        1, 2, 3, {"app": "m:app", "headers": [["a", "é"]]}, [control.Listener(7, "http://[::1]:8000")]
    ),
    control.Start(0, 0, None, {}, page_fd=9),
    control.Preload(4, {"app": "m:app"}, 9),
    control.Preload(0, {}),
    control.Fork(control.Start(1, 2, None, {"app": "m:app"}, [control.Listener(-1, "unix:/run/a")])),
    control.Fork(control.Start(0, 0, 1, {})),
    control.Hello(77),
    control.Ready(12, 300),
    control.Failed("import", "No module named 'x'\nsecond line"),
    control.Adopt(1, ["http://127.0.0.1:8000", "http://[::1]:8000"]),
    control.Release(1),
    control.Drain(5.0, 30.0),
    control.Drain(5.0, 30.0, 7.5),
    control.Leaving("TERM"),
    control.Drained(10, 1),
    control.Reopen(),
    control.Stop(),
]


def test_every_message_is_tried_here() -> None:
    assert {type(message) for message in MESSAGES} == set(control._TYPES.values())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.type)
def test_a_message_survives_the_wire(message: control.Message) -> None:
    data = control.encode(message)
    assert control.decode(data) == message
    assert json.loads(data)["type"] == message.type


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "unknown control message"),
        (b'{"type":"NOPE"}', "unknown control message"),
        (b'{"type":["START"]}', "unknown control message"),
        (b'{"type":"READY"}', "READY: .*startup_ms"),
        (b'{"type":"STOP","more":1}', "STOP: .*more"),
        (b'{"type":"START","slot":0,"generation":0,"core":null,"config":{},"listeners":[{}]}', "START"),
        (b'{"type":"PRELOAD","generation":1}', "PRELOAD: .*config"),
        (b'{"type":"FORK"}', "FORK: .*start"),
        (b'{"type":"FORK","start":{"slot":1}}', "FORK: .*generation"),
        (b'{"type":"FORK","start":7}', "FORK"),
        (
            b'{"type":"FORK","start":{"slot":0,"generation":0,"core":null,"config":{},"listeners":[5]}}',
            "FORK",
        ),
        (b'{"type":"HELLO"}', "HELLO: .*pid"),
        (b'{"type":"LEAVING"}', "LEAVING: .*reason"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ControlError, match=why):
        control.decode(data)


def test_a_message_too_large_for_the_pipe_is_refused() -> None:
    with pytest.raises(ControlError, match=r"FAILED is .* over the limit"):
        control.encode(control.Failed("import", "x" * control.MAX_DATAGRAM_BYTES))
