"""What the settings say of requests and connections, as the native side is told it.

Rules of this file: nothing is decided here, and no value is written here but one that is no setting: what
a setting may be and what it is by default is ``config/model.py``. ``RequestLimits`` are keyword arguments of
``_native.ProtocolFactory``: whole numbers, of milliseconds and bytes, where 0 is no limit; and the
engine that its WebSockets share. A limit reaches the native side through this file only, in a worker
as in a test.
"""

from __future__ import annotations

from typing import TypedDict

from ..config.model import Config
from ..ws.engine import Engine

# A message below this fits one packet anyhow, and compressing it takes more time than sending it.
WS_COMPRESS_MIN_BYTES = 1024


class Http2(TypedDict):
    """Those of HTTP/2."""

    http2: bool
    http2_cleartext: bool
    http2_max_concurrent_streams: int
    http2_initial_stream_window_size: int
    http2_initial_connection_window_size: int
    http2_max_frame_size: int
    http2_max_header_list_size: int
    http2_header_table_size: int
    http2_ping_interval_ms: int
    http2_ping_timeout_ms: int


class RequestLimits(Http2):
    """The arguments as ``_native.pyi`` has them."""

    first_byte_ms: int
    head_ms: int
    body_window_ms: int
    body_min_rate: int
    write_stall_ms: int
    keep_alive_ms: int
    limit_request_line: int
    limit_request_head: int
    limit_request_field_size: int
    limit_request_fields: int
    limit_request_body: int
    limit_pipelined: int
    limit_keep_alive_requests: int
    limit_connections: int
    limit_concurrency: int
    underscore_headers: str
    websocket: Engine | None
    ws_max_size: int
    ws_max_queue: int
    ws_ping_interval_ms: int
    ws_ping_timeout_ms: int
    ws_idle_ms: int
    ws_close_ms: int
    ws_compress_min: int


def request_limits(config: Config) -> RequestLimits:
    """The limits and deadlines of ``config``, for ``ProtocolFactory(**request_limits(config))``."""
    return {
        "first_byte_ms": _deadline_ms(config.timeout_first_byte_s),
        "head_ms": _deadline_ms(config.timeout_request_head_s),
        "body_window_ms": _deadline_ms(config.timeout_request_body_grace_s),
        "body_min_rate": config.min_request_body_rate_bytes_per_s,
        "write_stall_ms": _deadline_ms(config.timeout_write_stall_s),
        # Not like the others: 0 closes an idle connection at once.
        "keep_alive_ms": round(config.timeout_keep_alive_s * 1000),
        "limit_request_line": config.limit_request_line_bytes,
        "limit_request_head": config.limit_request_head_bytes,
        "limit_request_field_size": config.limit_request_field_size_bytes,
        "limit_request_fields": config.limit_request_fields,
        "limit_request_body": config.limit_request_body_bytes,
        "limit_pipelined": config.limit_pipelined_bytes,
        "limit_keep_alive_requests": config.limit_keep_alive_requests or 0,
        "limit_connections": config.limit_connections or 0,
        "limit_concurrency": config.limit_concurrency or 0,
        "underscore_headers": config.underscore_headers,
        "websocket": _engine(config),
        "ws_max_size": config.ws_max_size_bytes,
        "ws_max_queue": config.ws_max_queue,
        "ws_ping_interval_ms": _deadline_ms(config.ws_ping_interval_s),
        "ws_ping_timeout_ms": _deadline_ms(config.ws_ping_timeout_s),
        "ws_idle_ms": _deadline_ms(config.timeout_ws_idle_s),
        "ws_close_ms": _deadline_ms(config.timeout_ws_close_s),
        "ws_compress_min": WS_COMPRESS_MIN_BYTES,
        **_http2(config),
    }


def _http2(config: Config) -> Http2:
    return {
        "http2": config.http2,
        "http2_cleartext": config.http2_cleartext,
        "http2_max_concurrent_streams": config.http2_max_concurrent_streams,
        "http2_initial_stream_window_size": config.http2_initial_stream_window_size_bytes,
        "http2_initial_connection_window_size": config.http2_initial_connection_window_size_bytes,
        "http2_max_frame_size": config.http2_max_frame_size_bytes,
        "http2_max_header_list_size": config.http2_max_header_list_size_bytes,
        # 0 is the native side's default; no entry fits into 1 byte (RFC 7541 §4.1).
        "http2_header_table_size": config.http2_header_table_size_bytes or 1,
        "http2_ping_interval_ms": _deadline_ms(config.http2_ping_interval_s),
        "http2_ping_timeout_ms": _deadline_ms(config.http2_ping_timeout_s),
    }


def _engine(config: Config) -> Engine | None:
    """One for each factory; none: a handshake is an ordinary GET."""
    if config.ws == "none":
        return None
    return Engine(
        max_size_bytes=config.ws_max_size_bytes,
        max_fragments=config.ws_max_fragments,
        deflate=config.ws_per_message_deflate,
    )


def _deadline_ms(seconds: float) -> int:
    """A deadline that is set is at least 1 ms: rounded to 0 it would be none."""
    return max(1, round(seconds * 1000)) if seconds > 0 else 0
