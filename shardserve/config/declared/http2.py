"""HTTP/2: whether it is spoken, and how much of it one connection may have."""

from __future__ import annotations

from dataclasses import dataclass

from ..setting import setting
from ..values import Integer, Seconds, Size, Switch
from .limits import LARGEST_HEAD

# RFC 9113 §6.9.1: a window has at most this many octets.
LARGEST_WINDOW = 2**31 - 1
# RFC 9113 §6.9.2: what every window begins with.
FIRST_WINDOW = 65535


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Http2:
    """HTTP/2. The limits and timeouts of requests apply to it as to HTTP/1.1."""

    __slots__ = ()

    # fmt: off
    http2: bool = setting(
        False, Switch(), uvicorn=True,
        # Uvicorn's. Behind a proxy nobody asks for it, and who is his own edge should know that it changed.
        help="Offer HTTP/2 to clients that connect over TLS (ALPN: h2, then http/1.1).",
    )
    http2_cleartext: bool = setting(
        False, Switch(),
        # No browser speaks it; Envoy, HAProxy and gRPC do. Who did not ask for it is spared a second parser.
        help="Take HTTP/2 also without TLS, from clients that begin with its preface (prior knowledge); "
        "HTTP/1.1 is still served there.",
    )
    http2_max_concurrent_streams: int = setting(
        128, Integer(1, 2**31 - 1),
        # RFC 9113 §6.5.2 wants no fewer than 100, nginx has 128.
        help="How many requests of one connection may be open at once; a client that opens more is told to "
        "try them again, or disconnected if it knew.",
    )
    http2_initial_stream_window_size_bytes: int = setting(
        262_144, Size(FIRST_WINDOW, LARGEST_WINDOW), suffix="bytes",
        # 50 Mbit/s of one upload over 40 ms; what one request can have waiting that its app has not read.
        help="How much of a request body a client may send ahead of what the application has received.",
    )
    http2_initial_connection_window_size_bytes: int = setting(
        1_048_576, Size(FIRST_WINDOW, LARGEST_WINDOW), suffix="bytes",
        # Four uploads at full speed, and the most memory that bodies of one connection can take.
        help="The same for all request bodies of one connection together.",
    )
    http2_max_frame_size_bytes: int = setting(
        16_384, Size(16_384, 2**24 - 1), suffix="bytes",
        # The least there is (RFC 9113 §4.2), and what all clients are built for.
        help="The largest frame that a client may send.",
    )
    http2_max_header_list_size_bytes: int = setting(
        65_536, Size(256, LARGEST_HEAD), suffix="bytes",
        # As limit-request-head.
        help="Answer 431 to a request whose header fields together are longer than this, with 32 bytes added "
        "for each (RFC 9113 §10.5.1).",
    )
    http2_header_table_size_bytes: int = setting(
        4096, Size(0, 65_536), suffix="bytes",
        # The protocol's own (RFC 9113 §6.5.2); it is memory of every connection.
        help="How much the compression of header fields may remember of a connection (HPACK); 0 nothing.",
    )
    http2_ping_interval_s: float = setting(
        30.0, Seconds(), unit="s",
        # Half of the 60 s after which load balancers take a silent connection for dead.
        help="Send a PING over a connection with open requests that has been silent for this long; 0 never.",
    )
    http2_ping_timeout_s: float = setting(
        20.0, Seconds(), unit="s",
        # As ws-ping-timeout: a phone that changes networks is silent for some seconds.
        help="Cut a connection that has not answered a PING within this long; 0 never.",
    )
    # fmt: on
