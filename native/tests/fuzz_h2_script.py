"""What the bytes of an input for HTTP/2 mean: the header of fuzz_script.py, one byte more, and the client's
operations (fuzz_h2_client.py).

The last byte of the header is how the client begins (PREAMBLES). Of what is below the connection (BELOW) two
bits mean something else here: whether the client is polite, so that it answers SETTINGS and PING and opens
its windows again, and whether there is TLS.
"""

from __future__ import annotations

from typing import Any

from fuzz_h2_frames import (
    ENABLE_CONNECT,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_LIST,
    MAX_STREAMS,
    NO_PRIORITIES,
)
from fuzz_script import BELOW, DEADLINES, LARGE_MESSAGES, SMALL, USUAL, WEBSOCKET
from fuzz_script import CONTROL_BYTES as FRONT_BYTES

PREAMBLE = FRONT_BYTES
CONTROL_BYTES = FRONT_BYTES + 1
LIST_BYTES, WINDOW_BYTES, CONNECTION_WINDOW_BYTES, STREAMS = 65_536, 262_144, 1 << 20, 128

BOTH = {"http2": True, "http2_cleartext": True}
PINGS = {"http2_ping_interval_ms": 1000, "http2_ping_timeout_ms": 500}
# The smallest: half of one body of the client's opens them again.
WINDOWS = {"http2_initial_stream_window_size": 65_535, "http2_initial_connection_window_size": 65_535}
NARROW = {**WINDOWS, "http2_max_concurrent_streams": 3, "http2_max_header_list_size": 400}
SLOW = {**DEADLINES, "body_window_ms": 2000, **PINGS}
PROFILES: list[dict[str, Any]] = [
    BOTH,
    {**BOTH, **USUAL, "http2_ping_interval_ms": 30_000, "http2_ping_timeout_ms": 20_000},
    {**BOTH, **SLOW, **WINDOWS},
    {**BOTH, **SMALL, **NARROW},
    {**BOTH, **SMALL, **SLOW, "underscore_headers": "reject", "http2_max_frame_size": 20_000},
    {**BOTH, "limit_concurrency": 2, "underscore_headers": "allow", "root_path": "/root"},
    {
        **BOTH,
        **NARROW,
        "limit_connections": 1,
        "underscore_headers": "drop",
        "server_header": False,
        "date_header": False,
        "headers": [(b"X-Fixed", b"1"), (b"X-Fixed", b"2")],
        "http2_header_table_size": 100,
    },
    {"http2_cleartext": True, "limit_request_body": 100, "http2_max_concurrent_streams": 20, **SLOW},
    # WebSockets
    {**BOTH, "websocket": {"max_size_bytes": 0, "max_fragments": 0, "deflate": True}},
    {**BOTH, **WEBSOCKET, "websocket": {"max_size_bytes": 200, "max_fragments": 3, "deflate": True}, **SLOW},
    {
        **BOTH,
        "ws_max_queue": 1,
        "websocket": {"max_size_bytes": 0, "max_fragments": 2, "deflate": False},
        **SMALL,
        **NARROW,
    },
    {**BOTH, **LARGE_MESSAGES, "limit_concurrency": 2, "root_path": "/root", **SLOW},
]


def is_polite(control: bytes) -> bool:
    return bool(control[BELOW] & 16)


def has_tls(control: bytes, profile: dict[str, Any]) -> bool:
    return bool(control[BELOW] & 64) and "http2" in profile


def announced(profile: dict[str, Any]) -> dict[int, int]:
    """What the server's SETTINGS have to say."""
    made = {
        MAX_STREAMS: profile.get("http2_max_concurrent_streams", STREAMS),
        INITIAL_WINDOW: profile.get("http2_initial_stream_window_size", WINDOW_BYTES),
        MAX_FRAME: profile.get("http2_max_frame_size", 16_384),
        MAX_LIST: profile.get("http2_max_header_list_size", LIST_BYTES),
        NO_PRIORITIES: 1,
    }
    if (table_bytes := profile.get("http2_header_table_size", 4096)) != 4096:
        made[HEADER_TABLE_SIZE] = table_bytes
    if "websocket" in profile:
        made[ENABLE_CONNECT] = 1
    return made
