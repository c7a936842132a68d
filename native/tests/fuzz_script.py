"""What the bytes of an input mean: a header of CONTROL_BYTES, and then what the client sends.

The header says which settings (PROFILES), how it ends, what is below the connection, what the apps do, and,
over and over, the steps: how much is read next, and what happens between two reads. A missing byte is 0, and
every value means something, so no input is in vain.
"""

from __future__ import annotations

from typing import Any

from fuzz_frames import expanded

PROFILE, ENDING, BELOW, APPS, STEPS = 0, 1, 2, slice(3, 9), slice(9, 17)
CONTROL_BYTES = 17
MANY = b"x" * 4000
EXPANDED_BYTES = 300
MOST_STEPS = 40
MOST_NEIGHBOURS = 2
FACTORY_INPUTS = 5000
"""A factory is used for so many inputs, then closed."""

PASSING_MS = (1, 5, 100, 400, 600, 1000, 2500, 5000, 11_000, 31_000, 61_000, 80_000)
SILENCE_MS = (400, 700, 1000, 2000, 3000, 5000, 30_000, 80_000, 80_000)
# Of a read. 0: all that is left.
LENGTHS = (0, *range(1, 9), 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 256, 320, 400)
WHOLE = b"\0"

# Of the size that a server in use has.
USUAL = {
    "first_byte_ms": 30_000,
    "head_ms": 10_000,
    "body_window_ms": 10_000,
    "body_min_rate": 240,
    "write_stall_ms": 60_000,
    "limit_request_line": 8192,
    "limit_request_field_size": 65_536,
    "limit_request_fields": 100,
    "limit_request_body": 1 << 30,
}
DEADLINES = {
    "first_byte_ms": 1000,
    "head_ms": 2000,
    "body_window_ms": 1000,
    "body_min_rate": 10,
    "write_stall_ms": 3000,
    "keep_alive_ms": 500,
}
SMALL = {
    "limit_request_line": 64,
    "limit_request_head": 256,
    "limit_request_field_size": 80,
    "limit_request_fields": 6,
    "limit_request_body": 32,
    "limit_pipelined": 128,
    "limit_keep_alive_requests": 3,
}
WEBSOCKET = {
    "ws_max_size": 200,
    "ws_max_queue": 2,
    "ws_compress_min": 100,
    "ws_ping_interval_ms": 1000,
    "ws_ping_timeout_ms": 500,
    "ws_idle_ms": 20_000,
    "ws_close_ms": 1000,
}
# "websocket": the arguments of the engine.
LARGE_MESSAGES = {
    **WEBSOCKET,
    "ws_max_size": 5000,
    "ws_max_queue": 32,
    "ws_idle_ms": 0,
    "websocket": {"max_size_bytes": 5000, "max_fragments": 64, "deflate": True},
}
PROFILES: list[dict[str, Any]] = [
    {},
    {**USUAL, "limit_request_head": 65_536, "limit_pipelined": 65_536},
    DEADLINES,
    SMALL,
    {**SMALL, **DEADLINES, "underscore_headers": "reject"},
    {"limit_concurrency": 1, "underscore_headers": "allow", "root_path": "/root"},
    {"limit_connections": 1, "underscore_headers": "drop", "server_header": False, "date_header": False},
    {"limit_pipelined": 40, "limit_request_body": 100, "headers": [(b"x-fixed", b"1")], **DEADLINES},
    # WebSockets
    {"websocket": {"max_size_bytes": 0, "max_fragments": 0, "deflate": True}},
    {**WEBSOCKET, "websocket": {"max_size_bytes": 200, "max_fragments": 3, "deflate": True}, **DEADLINES},
    {"ws_max_queue": 1, "websocket": {"max_size_bytes": 0, "max_fragments": 2, "deflate": False}, **SMALL},
    {**LARGE_MESSAGES, "limit_pipelined": 512, "limit_concurrency": 2, "root_path": "/root", **DEADLINES},
]


def owns_stage(control: bytes) -> bool:
    """Whether the factory does not survive this input."""
    return bool(control[BELOW] & 2) and not is_comparison(control)


def is_comparison(control: bytes) -> bool:
    """Whether the input is played twice, cut and whole."""
    return control[BELOW] & 12 == 4


def ends_early(control: bytes) -> bool:
    """Whether, in a comparison, the client ends its input before all of it has been answered."""
    return bool(control[BELOW] & 32)


def is_checked(control: bytes) -> bool:
    """Whether the requests are compared with those of a connection to which nothing happens."""
    return control[BELOW] & 192 == 64 and not is_comparison(control)


def has_sockets(control: bytes) -> bool:
    return "websocket" in PROFILES[control[PROFILE] % len(PROFILES)]


def client_bytes(control: bytes, raw: bytes) -> bytes:
    """With one bit of the header a byte 0xfe stands for MANY, so that a short input can be a large body; with
    WebSockets there are the short forms of fuzz_frames.py."""
    if control[BELOW] & 16:
        raw = raw[:EXPANDED_BYTES].replace(b"\xfe", MANY)
    return expanded(raw) if has_sockets(control) else raw
