"""What native/ exports, compared with the module by tests/unit/test_native_stub.py.

The factory is the worker's door to the request path: one per worker, handed to
``loop.create_server``. Everything per request happens below it without a Python frame of ours.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any, final

from .types import ASGIApp, ProxyPolicy, WebSocketEngine

__all__ = [
    "AccessLog",
    "Connection",
    "ProtocolFactory",
    "debug_build",
    "figure_names",
    "methods",
    "nghttp2_version",
]

debug_build: bool
"""True when the invariant checks (CHECK) are compiled in."""

figure_names: tuple[str, ...]
"""The first of the figures that the factory counts, in their order: ``stats.NATIVE``."""

methods: tuple[str, ...]
"""The methods that have figures of their own, in their order: ``stats.METHODS``."""

nghttp2_version: str | None
"""The library that speaks HTTP/2, as it is loaded ("1.52.0"); None: built without it."""

Client = tuple[str, int] | None

@final
class AccessLog:
    """Makes the lines of the access log, gathers them, and hands them on.

    Every byte of a line that a client or an app chose is printable ASCII: others, the quote and the backslash
    become ``\\xNN``, and so does the space in what is one word.
    """

    def __init__(
        self,
        program: Iterable[tuple[str, bytes | None]],
        websocket_program: Iterable[tuple[str, bytes | None]],
        *,
        write: Callable[[bytes], object],
        schedule: Callable[[], object],
        exclude: Iterable[bytes] = (),
        sample: float = 1.0,
        json: bool = False,
        buffer_bytes: int = 65536,
    ) -> None:
        """``program``: what a line is made of, (operation, argument), in order;
        ``websocket_program``: the line of a WebSocket's handshake. ``config/access_format.py`` makes both.
        ``write(lines)``: whole lines, as ``flush`` was called or ``buffer_bytes`` were there.
        ``schedule()``: the first line came into an empty buffer, so somebody should call ``flush`` sometime.
        ``exclude``: globs; a request whose path one of them matches has no line. ``*`` is any bytes,
        ``?`` is one.
        ``sample``: the share of requests that have a line. Those answered with 500 or more always have.
        ``json``: text has quotes, and what is not there is null instead of a dash.
        No error of ``write`` and ``schedule`` is raised; it goes to ``sys.unraisablehook``. Lines that are
        there when the object goes are lost. Raises TypeError and ValueError for a program that is none.
        """

    def flush(self) -> None:
        """Hand what is gathered to ``write``."""

    @property
    def lines(self) -> int:
        """How many were made."""

@final
class Connection:
    """One connection, HTTP/1.1, HTTP/2 or WebSocket: the asyncio.Protocol and the httptools callbacks.

    Made by the factory only.
    """

    def set_addresses(
        self, client: tuple[str, int] | None, server: tuple[str, int] | None, scheme: str | None = None
    ) -> None:
        """What somebody in front of the connection said of it (a PROXY header), before ``connection_made``.
        None: the socket's own. Raises TypeError, and RuntimeError once the connection is made.
        """

@final
class ProtocolFactory:
    """Makes connections and holds what they share: the app, the spare tasks, deadlines, counters."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        loop: AbstractEventLoop,
        context: Context | None,
        state: dict[str, Any] | None,
        scheme: str = "http",
        root_path: str = "",
        headers: list[tuple[bytes, bytes]] = ...,
        server_header: bool = True,
        date_header: bool = True,
        on_app_error: Callable[[BaseException, str, str, Client, str, str | None], None],
        on_reject: Callable[[int, str, Client], None],
        access: AccessLog | Callable[[Client, str, bytes, str, int], None] | None = None,
        max_fd: int = 0,
        on_crowded: Callable[[], None] | None = None,
        underscore_headers: str = "safe",
        websocket: WebSocketEngine | None = None,
        tls_info: Callable[[Any], dict[str, Any]] | None = None,
        proxy: ProxyPolicy | None = None,
        static: list[tuple[bytes, ASGIApp]] | None = None,
        on_debug: Callable[[Any], None] | None = None,
        figures: memoryview | None = None,
        duration_bounds_us: tuple[int, ...] | None = None,
        size_bounds_bytes: tuple[int, ...] | None = None,
        request_id_field: bytes | None = None,
        make_traceparent: bool = False,
        limit_request_line: int = 0,
        limit_request_head: int = 0,
        limit_request_field_size: int = 0,
        limit_request_fields: int = 0,
        limit_request_body: int = 0,
        limit_pipelined: int = 0,
        limit_keep_alive_requests: int = 0,
        limit_connections: int = 0,
        limit_concurrency: int = 0,
        first_byte_ms: int = 0,
        keep_alive_ms: int = 75_000,
        head_ms: int = 0,
        body_window_ms: int = 0,
        body_min_rate: int = 0,
        write_stall_ms: int = 0,
        ws_max_size: int = 0,
        ws_max_queue: int = 0,
        ws_compress_min: int = 0,
        ws_ping_interval_ms: int = 0,
        ws_ping_timeout_ms: int = 0,
        ws_idle_ms: int = 0,
        ws_close_ms: int = 0,
        http2: bool = False,
        http2_cleartext: bool = False,
        http2_max_concurrent_streams: int = 0,
        http2_initial_stream_window_size: int = 0,
        http2_initial_connection_window_size: int = 0,
        http2_max_frame_size: int = 0,
        http2_max_header_list_size: int = 0,
        http2_header_table_size: int = 0,
        http2_ping_interval_ms: int = 0,
        http2_ping_timeout_ms: int = 0,
    ) -> None:
        """``context``: copied for every request; None gives every request an empty context.
        ``scheme``: of connections without TLS. A transport that has an ``ssl_object`` has TLS: https.
        ``state``: the lifespan state, shallow-copied into every scope; None leaves the key out.
        ``headers``: sent with every response, in wire case.
        ``on_app_error(error, method, target, client, outcome, request_id)``: the app failed; ``outcome`` is
        what the client got: "500 sent", "connection closed early", "response already sent",
        "client gone", or, for a request that ``abort()`` cancelled, "cut by the server". For an accepted
        WebSocket: "closed with 1011", "already closed" or "client gone"; ``method`` is then "WebSocket".
        ``on_reject(status, reason, client)``: a request that never reached the app, or was broken off by
        its client; ``reason`` is a line of ours or of the parser's. ``status`` 0: the connection was closed
        without an answer, because the response had begun or nobody reads it. Connections that end while
        nothing is asked of them (silent from the start, or idle) are not reported. -1: a stream was reset
        (HTTP/2), the connection goes on.
        ``access``: what hears of each finished response, and of those that broke off behind their head. A
        callable gets ``(client, method, target, http_version, status)``; ``target`` is as on the wire.
        ``figures``: ``Page.native`` (stats.py), written as things happen; its histograms have buckets up to
        ``duration_bounds_us`` (from the parsed request line to the last byte handed over, and to the head)
        and ``size_bounds_bytes`` (bodies). None: they are counted where nobody looks.
        ``request_id_field``: each request has an id: that of this field, if it is one and 1 to 128 bytes of
        ``[A-Za-z0-9._~+/=:@-]``, else one that is made and put into the request's fields. The response says
        it, if the app does not; the scope has it as ``extensions["shardserve.request_id"]["id"]``.
        ``make_traceparent``: a request without a valid ``traceparent`` (W3C Trace Context) gets one.
        ``max_fd``, ``on_crowded()``: called for each new connection whose socket has this descriptor
        number or a higher one; 0 (or less): never. The kernel hands out the lowest free number, so
        descriptors are nearly used up. The connection is served like any other.
        ``tls_info(ssl_object)``: called for each TLS connection; its dict is the scope's ``tls`` extension.
        ``proxy``: whose word on the client is taken, and how; it is asked once for each connection, and for
        each request that has a field to look at (``X-Forwarded-For``, ``-Proto``, ``-Host``, ``-Port``,
        ``-Prefix``, ``Forwarded``). None: such fields mean nothing.
        ``static``: (prefix, app). A request whose path is a prefix, byte for byte, or continues it with a
        slash goes to that app; the longest prefix wins. WebSockets go to ``app``.
        ``on_debug(info)``: what ``http.response.debug`` carried, which is offered only then.
        The dicts inside ``scope["extensions"]`` are shared by all requests; the one around them is not.
        An accepted WebSocket is reported at once, with the method "WebSocket" and status 101.
        No error of these callables is raised; it goes to ``sys.unraisablehook``.

        What a client may take. Each of these is in bytes, requests or connections; 0 (or less): any number.
        Each refusal is one response that says ``Connection: close`` and one call of ``on_reject``.
        ``limit_request_line``: without its CRLF; else 414.
        ``limit_request_head``: all fields, up to and with the empty line; else 431.
        ``limit_request_field_size``: one field, name, value and four more; else 431.
        ``limit_request_fields``: how many; else 431.
        ``limit_request_body``: else 413, without the app if Content-Length says so.
        ``limit_pipelined``: held behind the request that is being answered; beyond it nothing is read.
        ``limit_keep_alive_requests``: on one connection; the last response says ``Connection: close``.
        ``limit_connections``: open ones; another one gets 503 with ``Retry-After: 1`` at once.
        ``limit_concurrency``: requests in flight. One that begins beyond it gets 503 with
        ``Retry-After: 1`` in the app's place, on a connection that stays, and its body is read and
        dropped as for an app that answers without reading. Idle connections do not count, work that
        an app does after its response does. ``access`` and ``on_reject`` are called for it.

        How long it may take, in milliseconds, looked at by ``tick``; 0 (or less): for ever.
        ``first_byte_ms``: a new connection, to send anything; closed.
        ``keep_alive_ms``: one between two requests; closed. Here 0 is at once.
        ``head_ms``: from the first byte of a request to the end of its head; 408.
        ``body_window_ms``, ``body_min_rate``: while a body is awaited, so many bytes a second must come in
        each window; 408. Nothing is awaited while the app does not read, or before "100 Continue".
        ``write_stall_ms``: a client that takes nothing of its response; cut.
        A connection with unread bytes in its socket is given until the next tick, once.

        ``underscore_headers``: a field whose name has an underscore is, with "safe", dropped if the
        request also has the name with dashes, or if that is one that the server knows; with "allow"
        passed on, with "drop" dropped, with "reject" refused (400).

        ``websocket``: who decides about WebSockets (RFC 6455); None: a handshake is an ordinary GET. A
        refused handshake is reported to ``on_reject`` with its status, a WebSocket that the server
        failed with its close code (1000 and more).
        ``ws_max_size``: bytes of a message; else 1009, from the frame's header alone.
        ``ws_max_queue``: messages parsed ahead of the app; beyond them nothing is read.
        ``ws_compress_min``: the shortest message, in bytes, that is compressed if that was agreed; 0: none.
        ``ws_ping_interval_ms``, ``ws_ping_timeout_ms``: a ping after so long, and nothing at all from the
        client for so long behind it: 1011. ``ws_idle_ms``: no message either way (to a quarter more): 1001.
        ``ws_close_ms``: for the client's answer to our close frame. 0 is never.

        HTTP/2 (RFC 9113). The limits and times above apply to it, each refusal being the response of one
        stream; a connection that is ended for its client's conduct is one ``on_reject`` with status 0.
        ``http2``: spoken where the transport's ``ssl_object`` has selected "h2" (ALPN).
        ``http2_cleartext``: spoken without TLS by connections that begin with the client preface.
        Raises ValueError for either where ``nghttp2_version`` is None. 0 (or less) is the default below,
        and for the pings never.
        ``http2_max_concurrent_streams`` (128): also counts what apps still do for streams that were reset.
        ``http2_initial_stream_window_size`` (262,144), ``http2_initial_connection_window_size`` (1,048,576):
        bytes of request bodies that no app has received yet.
        ``http2_max_frame_size`` (16,384): of what a client sends.
        ``http2_max_header_list_size`` (65,536): RFC 9113 §10.5.1; else 431.
        ``http2_header_table_size`` (4096): what the HPACK decoder keeps.
        ``http2_ping_interval_ms``: a PING over a connection with streams that was silent so long.
        ``http2_ping_timeout_ms``: for its answer; the connection is cut.
        """

    def __call__(self) -> Connection:
        """A new Connection: this is asyncio's ``protocol_factory``."""

    def tick(self) -> None:
        """Enforce deadlines and refresh the Date header. Call once a second while the loop runs."""

    def drain(self, on_empty: Callable[[], None], *, grace_ms: int = 0) -> None:
        """Finish what is in flight: every response from now on says ``Connection: close``.

        Idle connections are closed ``grace_ms`` from now (0: at once, but half a second from now where
        a connection is new or was answered within the last half second), so that a client about to
        reuse one still gets its answer. ``on_empty`` is called once, from the loop, when no
        connection is left. Raises RuntimeError if already draining.
        """

    def end_streams(self) -> int:
        """Tell responses that may have no end that their client is gone, so that their apps end them.

        That is each request in flight whose response has begun and has no length (or is an event
        stream whose first event has not come) and whose body the app has read: its ``receive()``, the
        one that waits or the next one, gives ``http.disconnect``. Its ``send()`` works as before, and
        the client gets what it sends. An app that then returns without the last body message is no
        error; what it left is ended properly if it is ``text/event-stream``, else it is cut, so that
        the client can tell a part from the whole.

        Every open WebSocket is closed with 1012, and counts.

        Returns how many were told now, each once. From now on a request that comes to be one of
        these is told by itself, uncounted; there is no way back.
        """

    def abort(self) -> int:
        """Cut every connection and cancel its app task. Returns how many had a request in flight."""

    def count_states(self) -> None:
        """Write how many connections are idle, reading, active, WebSockets, closing. Call once a second."""

    def close(self) -> None:
        """Let go of the spare tasks and the free lists. No connection may be open."""

    @property
    def connections(self) -> int:
        """Open connections."""

    @property
    def in_flight(self) -> int:
        """Requests given to the app and not finished."""

    @property
    def served(self) -> int:
        """Requests finished since the start. Those that were refused do not count."""

    @property
    def refused(self) -> int:
        """Requests and connections answered 503: ``limit_concurrency``, ``limit_connections``."""
