"""How much of everything, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from ..setting import setting
from ..values import Choice, Integer, Seconds, Size

# Of a line, a field, all fields: memory that a client can have before anybody knows what it wants.
LARGEST_HEAD = 2**24


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Limits:
    """How much a client may send, and how many may."""

    __slots__ = ()

    # fmt: off
    limit_concurrency: int | None = setting(
        None, Integer(1), unset="no limit", uvicorn=True,
        help="Answer 503 to requests beyond this many in flight, for each worker. Idle connections do not "
        "count.",
    )
    limit_connections: int | None = setting(
        None, Integer(1, 2**31 - 1), unset="no limit",
        # What can run out is descriptors, and a worker that is short of them stops accepting by itself.
        help="Answer 503 to connections beyond this many, for each worker, and close them.",
    )
    limit_keep_alive_requests: int | None = setting(
        None, Integer(1, 2**31 - 1), unset="no limit",
        # nginx closes after 1000 to free what a connection has piled up; ours piles up nothing.
        help="Close a connection when it has brought this many requests.",
    )
    limit_request_line_bytes: int = setting(
        8192, Size(256, LARGEST_HEAD), suffix="bytes",
        # nginx, Apache and Kestrel, so that what passes a proxy passes here. Gunicorn has 4094.
        help="Answer 414 to a request whose first line is longer than this.",
    )
    limit_request_fields: int = setting(
        100, Integer(1, 100_000),
        # Gunicorn, Apache and Kestrel.
        help="Answer 431 to a request with more header fields than this.",
    )
    limit_request_field_size_bytes: int = setting(
        65536, Size(256, LARGEST_HEAD), suffix="bytes",
        # A Kerberos ticket may have 48,000 bytes, which are 64,000 in Authorization. nginx, Apache and
        # Gunicorn have 8 KiB, which single sign-on outgrows.
        help="Answer 431 to a request with a header field, name and value, longer than this.",
    )
    limit_request_head_bytes: int = setting(
        65536, Size(256, LARGEST_HEAD), suffix="bytes",
        # Twice what nginx and Kestrel take, and room for one field of the size above.
        help="Answer 431 to a request whose header fields together are longer than this.",
    )
    limit_request_body_bytes: int = setting(
        2**30, Size(), suffix="bytes",
        # A fence, not a policy: Uvicorn and Gunicorn have none, and an app that takes large uploads
        # must go on working. Whoever takes uploads at all has to raise nginx's 1 MiB, Kestrel's 30 MB.
        help="Answer 413 to a request whose body is larger than this; 0 is any size.",
    )
    limit_pipelined_bytes: int = setting(
        65536, Size(1024, 2**24), suffix="bytes",
        # One full read ahead, asyncio's own mark for a buffer that is full. Nobody is refused by it.
        help="Stop reading a connection that has sent this much behind the request being answered.",
    )
    underscore_headers: str = setting(
        "safe", Choice(("safe", "allow", "drop", "reject")),
        # WSGI and CGI call X_Real_IP and X-Real-IP by one name, so one can pass for the other behind a
        # proxy that only guards the second. nginx and Gunicorn drop all, Uvicorn passes all.
        help="Header names with an underscore: safe drops those that imitate a name with dashes.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Timeouts:
    """How long anything may take."""

    __slots__ = ()

    # fmt: off
    timeout_first_byte_s: float = setting(
        30.0, Seconds(), unit="s",
        # Browsers and pools open connections ahead of need; half of the 60 s that nginx waits.
        help="Close a new connection that has sent nothing for this long; 0 never.",
    )
    timeout_ssl_handshake_s: float = setting(
        10.0, Seconds(), unit="s",
        # Like a head: time for a packet that is lost three times.
        help="Close a connection whose TLS handshake is not complete after this long; 0 never.",
    )
    timeout_request_head_s: float = setting(
        10.0, Seconds(), unit="s",
        # A head is a few packets: time for one that is lost three times (1 + 2 + 4 s). nginx 60, Kestrel 30.
        help="Answer 408 to a request whose head is not complete this long after its first byte; 0 never.",
    )
    min_request_body_rate_bytes_per_s: int = setting(
        240, Integer(0, 10**9), unit="bytes/s", suffix="bytes_per_s",
        # Kestrel's and IIS's: 1.9 kbit/s, below any modem.
        help="Answer 408 to a request whose body comes slower than this; 0 is any speed.",
    )
    timeout_request_body_grace_s: float = setting(
        10.0, Seconds(), unit="s",
        # Twice Kestrel's: a phone that changes networks is silent for some seconds.
        help="Measure the rate of a request body over windows of this length; 0 never.",
    )
    timeout_write_stall_s: float = setting(
        60.0, Seconds(), unit="s",
        # nginx's send_timeout.
        help="Cut a connection whose client has taken nothing of its response for this long; 0 never.",
    )
    timeout_keep_alive_s: float = setting(
        75.0, Seconds(), unit="s", uvicorn=True,
        # nginx's keepalive_timeout, and longer than the 60 s idle timeout of common load balancers,
        # which must be the side that closes; Uvicorn's 5 s loses that race.
        help="Close a connection that has been idle this long.",
    )
    timeout_graceful_shutdown_s: float = setting(
        30.0, Seconds(), unit="s", uvicorn=True,
        # Kubernetes' terminationGracePeriodSeconds.
        help="At shutdown and reload: how long requests in flight may take before they are cut.",
    )
    timeout_drain_idle_s: float = setting(
        5.0, Seconds(), unit="s",
        help="At reload: how long an idle connection may still bring one more request before it is closed.",
    )
    timeout_drain_streams_s: float = setting(
        5.0, Seconds(), unit="s",
        # Long enough for a page that is being streamed, short enough not to use up the deadline.
        help="At shutdown and reload: after this long, endless responses (SSE) are told that their client "
        "is gone, and WebSockets are closed with 1012.",
    )
    timeout_worker_startup_s: float = setting(
        600.0, Seconds(), unit="s",
        # Loading a large model is minutes; a start that never ends must not block reloads for good.
        help="Kill a worker that is not ready this long after its start; 0 waits for ever.",
    )
    timeout_worker_healthcheck_s: float = setting(
        30.0, Seconds(), unit="s", uvicorn=True,
        # Gunicorn's timeout. Uvicorn's 5 s is answered by a thread; our event loop answers itself, and
        # a call that blocks it for 6 s is bad but not worth the other requests of the worker.
        help="Kill a worker whose event loop has not turned for this long; its stack is logged. 0 never.",
    )
    loop_lag_warn_s: float = setting(
        1.0, Seconds(), unit="s",
        help="Log the Python stack of a worker whose event loop has not turned for this long; 0 never.",
    )
    # fmt: on
