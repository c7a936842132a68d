"""What happens to an accepted connection before HTTP: a PROXY header, a TLS handshake, or both in this order.

Rules of this file: one coroutine per connection, with one deadline for all of it, counted from the accept. A
silent client costs a socket and that coroutine: OpenSSL is not asked for anything before the first byte has
come. That byte is only looked at (MSG_PEEK), so that the transport reads the connection from its beginning;
so is the whole ClientHello where host names have certificates of their own.

A connection that fails here has cost nobody anything but us: it is closed, and told in one rate-limited line
(``RejectReporter``) unless it never said a word. Connections in here hold descriptors and memory, so there
may only be so many (``has_room``); beyond that they wait in the kernel's queue. Transport: aiofastnet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..asgi.trust import Trust
from ..errors import ProxyProtocolError
from ..net import client_hello, proxy_protocol, tls

Client = tuple[str, int] | None

# A TLS connection in its handshake costs some 60 KiB, so this many 120 MiB; a silent one 5 KiB.
MAX_OPENING = 2048
# With its header and tag (RFC 8446 §5.2).
_RECORD_BYTES = 16 * 1024 + 256
# What the transport buffers in each direction. Its own default, sixteen records, is memory that most
# connections never use.
BUFFER_BYTES = 4 * _RECORD_BYTES
# How much is decrypted at once: all that can be there, which is the buffer and the record that OpenSSL has a
# part of. What were left when reading is paused would be forgotten at resume_reading(), until more comes.
# And less than 128 KiB, beyond which each piece of memory is mapped from the kernel.
READ_BYTES = BUFFER_BYTES + _RECORD_BYTES
# From close() to the end: for the last of the buffer, and the client's close_notify (RFC 8446 §6.1). What is
# more than the buffer goes before: the native side closes once the transport holds nothing else.
SHUTDOWN_S = 5.0

_NEVER_S = 10.0 * 365 * 24 * 3600
# A partial ClientHello on a socket that cannot be asked to wait for more of it.
_LOOK_AGAIN_S = 0.01
_PLAIN_HTTP = "plain HTTP was spoken to a TLS port"

log = logging.getLogger("shardserve.worker")


class OpeningSettings(tls.TlsSettings, Protocol):
    """The settings this file reads; ``config.model.Config`` has them."""

    @property
    def proxy_protocol(self) -> Any: ...
    @property
    def forwarded_allow_ips(self) -> Any: ...
    @property
    def timeout_ssl_handshake_s(self) -> float: ...


def opening_for(
    settings: OpeningSettings,
    make_protocol: Callable[[], Any],
    on_reject: Callable[[int, str, Client], None],
    certificates: tls.Certificates | None = None,
) -> Opening | None:
    """What these settings want done before HTTP; None if nothing. Call it in the running loop.
    ``certificates``: in the place of those that the settings name. Raises ConfigError.
    """
    if certificates is None and tls.is_on(settings):
        certificates = tls.Certificates(settings)
    if certificates is None and settings.proxy_protocol == "off":
        return None
    return Opening(
        make_protocol,
        certificates=certificates,
        proxied_by=settings.proxy_protocol,
        trusted=Trust(settings.forwarded_allow_ips),
        timeout_s=settings.timeout_ssl_handshake_s,
        on_reject=on_reject,
    )


class _Refused(Exception):
    """The connection is closed; the text says why."""


class _Aborted(Exception):
    """Its transport is at an end, and closes the socket; the text says why."""


class _Gone(Exception):
    """The client went, or never said anything. Nobody needs to hear of it."""


class Opening:
    """Opens connections: from an accepted socket to a protocol of ``make_protocol`` with its transport."""

    def __init__(
        self,
        make_protocol: Callable[[], Any],
        *,
        certificates: tls.Certificates | None,
        proxied_by: str = "off",
        trusted: Trust | None = None,
        timeout_s: float,
        on_reject: Callable[[int, str, Client], None],
        most: int = MAX_OPENING,
    ) -> None:
        """Make it in the running loop. ``certificates``: for TLS; None: none. ``proxied_by``: the version
        of the PROXY protocol, as ``proxy-protocol`` has it; ``trusted``: of whom, None is the default.
        ``timeout_s``: for all of it; 0 is never.
        ``on_reject(0, reason, client)``: a connection that came to nothing.
        """
        self._make_protocol = make_protocol
        self._certificates = certificates
        self._proxied_by = proxied_by
        self._trusts = (trusted or Trust()).trusts
        self._timeout_s = timeout_s
        self._on_reject = on_reject
        self._most = most
        self._on_room: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_full = False
        self._connect_tls = _transport_maker() if certificates is not None else None
        self._quiet = _Quiet() if certificates is not None else None

    # How many

    def watch(self, on_room: Callable[[], None]) -> None:
        """Have told when there is room again."""
        self._on_room = on_room

    @property
    def count(self) -> int:
        """Connections that are being opened."""
        return len(self._tasks)

    @property
    def has_room(self) -> bool:
        """Whether another connection should be accepted."""
        if len(self._tasks) < self._most:
            return True
        if not self._was_full:
            self._was_full = True
            log.warning(
                "%d connections are in their handshakes: accepting no more until some end.", self.count
            )
        return False

    async def settled(self) -> None:
        """Until none is being opened: each is a protocol's by then, or closed."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def abort(self) -> None:
        """Close all that are being opened."""
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """The loop is somebody else's again."""
        if self._quiet is not None:
            self._quiet.end()

    def look(self, now: float) -> None:
        """Call it once a second, with the loop's time: certificates whose files have changed are loaded."""
        if self._certificates is not None:
            self._certificates.look(now)

    # One connection

    def begin(self, sock: socket.socket, address: Any) -> None:
        """Open this accepted connection. ``address``: as accept(2) gave it."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s if self._timeout_s > 0 else None
        task = loop.create_task(self._open(sock, address, deadline))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("A connection could not be opened.", exc_info=task.exception())
        # Not at once: a flood would have us start and stop accepting at every single end.
        if self._was_full and len(self._tasks) <= self._most * 3 // 4:
            self._was_full = False
            self._on_room()

    async def _open(self, sock: socket.socket, address: Any, deadline: float | None) -> None:
        step = _Step()
        try:
            async with asyncio.timeout_at(deadline):
                await self._step_by_step(sock, step)
        except _Gone:
            _close(sock)
        except TimeoutError:
            _close(sock)
            if step.name:
                self._reject(address, f"{step.name} was not over within timeout-ssl-handshake")
        except _Aborted as aborted:
            self._reject(address, str(aborted))
        except _Refused as refused:
            _close(sock)
            self._reject(address, str(refused))
        except BaseException:
            sock.close()
            raise

    async def _step_by_step(self, sock: socket.socket, step: _Step) -> None:
        proxied = None
        if self._proxied_by != "off":
            proxied = await _receive_proxied(sock, self._proxied_by, self._trusts)
        context = None
        if self._certificates is not None:
            context = await _choose(sock, self._certificates, step)
        protocol = self._make_protocol()
        if proxied is not None:
            protocol.set_addresses(proxied.client, proxied.server, proxied.scheme)
        await self._hand_over(sock, protocol, context)

    async def _hand_over(self, sock: socket.socket, protocol: Any, context: tls.ServerContext | None) -> None:
        loop = asyncio.get_running_loop()
        if context is None or self._connect_tls is None:
            await loop.connect_accepted_socket(lambda: protocol, sock)
            return
        try:
            transport, _ = await self._connect_tls(
                loop,
                lambda: protocol,
                sock,
                ssl=context,
                ssl_handshake_timeout=_NEVER_S,  # the deadline is _open's
                ssl_shutdown_timeout=SHUTDOWN_S,
                ssl_incoming_bio_size=BUFFER_BYTES,
                ssl_outgoing_bio_size=BUFFER_BYTES,
            )
        except TimeoutError:
            raise
        except OSError as error:  # SSLError is one
            raise _Refused(f"TLS handshake: {tls.failure(error)}") from None
        cipher = tls.unfit_for_http2(transport.get_extra_info("ssl_object"))
        if cipher is not None:
            transport.abort()
            raise _Aborted(f"TLS handshake: HTTP/2 with {cipher} is not allowed (RFC 9113 Appendix A)")

    def _reject(self, address: Any, reason: str) -> None:
        client = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
        self._on_reject(0, reason, client)


class _Step:
    """How far a connection has come; a client that has said nothing is in no step."""

    def __init__(self) -> None:
        self.name = ""


async def _receive_proxied(
    sock: socket.socket, versions: str, trusts: Callable[[Client], bool]
) -> proxy_protocol.Proxied | None:
    try:
        return await proxy_protocol.receive_from_trusted(sock, versions=versions, trusts=trusts)
    except ProxyProtocolError as error:
        raise _Refused(f"PROXY protocol: {error}") from None
    except OSError:
        raise _Gone from None


def _close(sock: socket.socket) -> None:
    """Close it without a reset, as far as can be: the kernel sends one when something is left unread."""
    with contextlib.suppress(OSError):
        sock.recv(client_hello.MAX_BYTES)
    sock.close()


# The first bytes


async def _choose(sock: socket.socket, certificates: tls.Certificates, step: _Step) -> tls.ServerContext:
    """The context for a connection, whose first bytes are waited for, and left where they are."""
    most = client_hello.MAX_BYTES if certificates.by_name else 1
    data = await _peek(sock, most)
    step.name = "the TLS handshake"
    if not client_hello.is_tls(data):
        raise _Refused(_PLAIN_HTTP if data[:1].isalpha() else "what came was not TLS")
    if not certificates.by_name:
        return certificates.context_for(None)
    try:
        while True:
            try:
                return certificates.context_for(client_hello.server_name(data))
            except client_hello.Incomplete:
                data = await _peek_further(sock, most, len(data))
    finally:
        _wait_for(sock, 1)


async def _peek(sock: socket.socket, most: int) -> bytes:
    """What has come, once there is anything. It stays there."""
    while True:
        try:
            data = sock.recv(most, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(sock)
        except OSError:
            raise _Gone from None
        else:
            if not data:
                raise _Gone
            return data


async def _peek_further(sock: socket.socket, most: int, have: int) -> bytes:
    """What has come, once it is more than ``have`` bytes."""
    while True:
        if _wait_for(sock, have + 1):
            await _readable(sock)
        else:
            await asyncio.sleep(_LOOK_AGAIN_S)
        data = await _peek(sock, most)
        if len(data) > have:
            return data
        if _at_end(sock):
            raise _Gone


def _wait_for(sock: socket.socket, count: int) -> bool:
    """Have the socket called readable only once it has so many bytes, or its end. Whether that can be."""
    if sock.family == socket.AF_UNIX:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    except OSError:
        return False
    return True


def _at_end(sock: socket.socket) -> bool:
    """Whether nothing will come behind what is there."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    fd = sock.fileno()
    loop.add_reader(fd, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


# The transport


def _transport_maker() -> Callable[..., Awaitable[Any]]:
    """aiofastnet's maker of transports, set up to say nothing where we do."""
    # Imported where TLS is wanted: it costs every worker memory and time to start.
    import aiofastnet
    from aiofastnet import constants

    constants.DATA_RECEIVED_MAX_SIZE = READ_BYTES
    # It logs what clients do (a write behind a close, a shutdown of one side); so do we, where it matters.
    logger = logging.getLogger("aiofastnet")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    connect: Callable[..., Awaitable[Any]] = aiofastnet.connect_accepted_socket
    return connect


class _Quiet:
    """The running loop's exception handler, without what whoever waits for a handshake hears anyway: that a
    client has closed in it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._before = self._loop.get_exception_handler()
        self._loop.set_exception_handler(self._handle)

    def end(self) -> None:
        if self._loop.get_exception_handler() == self._handle:
            self._loop.set_exception_handler(self._before)

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") == "SSL handshake failed" and _is_ours(context.get("transport")):
            return
        if self._before is not None:
            self._before(loop, context)
        else:
            loop.default_exception_handler(context)


def _is_ours(transport: object) -> bool:
    return type(transport).__module__.partition(".")[0] == "aiofastnet"
