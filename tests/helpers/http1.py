"""A raw HTTP/1.1 client and an in-process server, for tests that are conversations in bytes.

Rules of this file: h11 (a parser that is not ours) reads every response; nothing sleeps, ``until`` and
``settled`` poll; a server that goes down asserts that nothing is left of it: no connection, no request, no
task, and no error that the test did not take with ``take_errors`` or ``take_rejects``.

Not named http.py: the scripts in this folder run with it as ``sys.path[0]``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import h11
import uvloop

from shardserve._native import ProtocolFactory
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits

PATIENCE_S = float(os.environ.get("SHARDSERVE_TEST_PATIENCE_S", "10"))
READ_BYTES = 65536

App = Callable[[Any, Any, Any], Any]


def until(probe: Callable[[], Any], what: str = "", timeout_s: float = PATIENCE_S) -> Any:
    """The first true answer of ``probe``."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what or probe}"
        time.sleep(0.002)


def settled(value: Callable[[], Any], looks: int = 40) -> Any:
    """``value()`` once it has not changed for a while."""
    last, same = value(), 0
    while same < looks:
        time.sleep(0.005)
        now = value()
        last, same = (last, same + 1) if now == last else (now, 0)
    return last


def get(target: str | bytes = b"/", *fields: bytes, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    """The bytes of a request without a body; ``fields`` are whole field lines."""
    target = target.encode() if isinstance(target, str) else target
    lines = [method + b" " + target + b" HTTP/" + version, b"Host: test", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(body: bytes, *fields: bytes, target: bytes = b"/", version: bytes = b"1.1") -> bytes:
    """A request with a body and its Content-Length."""
    length = b"Content-Length: %d" % len(body)
    return get(target, length, *fields, method=b"POST", version=version) + body


def chunked(*chunks: bytes, target: bytes = b"/", trailers: bytes = b"") -> bytes:
    """A request with a chunked body."""
    head = get(target, b"Transfer-Encoding: chunked", method=b"POST")
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + b"0\r\n" + trailers + b"\r\n"


@dataclass
class Response:
    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    informational: list[int] = field(default_factory=list)
    closes: bool = False
    """h11's view: the connection is not for another request."""

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: bytes) -> bytes | None:
        """The value of a field that must be there at most once."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def names(self) -> list[bytes]:
        return [name for name, _ in self.headers]


class ResponseReader:
    """Takes one response after the other out of bytes; ``more`` brings the next ones, b"" at the end."""

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more = more
        self.buffered = b""

    def response(self, method: str = "GET") -> Response:
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "test")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(self.buffered) if self.buffered else None
        self.buffered = b""
        informational: list[int] = []
        response: Response | None = None
        body: list[bytes] = []
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(self._more())
            elif isinstance(event, h11.InformationalResponse):
                informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                response = Response(event.status_code, bytes(event.reason), headers, b"", informational)
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                assert not list(event.headers), "a trailer nobody sent"
                response.body = b"".join(body)
                response.closes = parser.our_state is h11.MUST_CLOSE
                self.buffered = bytes(parser.trailing_data[0])
                return response
            else:
                raise EOFError(f"the connection ended before a response: {event}")


class SocketClient:
    """Closes its socket with a FIN, also at the end of ``with``, or with a reset."""

    sock: socket.socket

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client(ResponseReader, SocketClient):
    """One connection, blocking, with a deadline on everything."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(self.receive)
        self.sock = sock
        sock.settimeout(PATIENCE_S)

    def send(self, *data: bytes) -> None:
        self.sock.sendall(b"".join(data))

    def send_each(self, pieces: list[bytes]) -> None:
        """Each piece a segment of its own; the server usually reads them one by one."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            self.sock.sendall(piece)
            time.sleep(0.0003)  # no test depends on it: it makes separate reads likely

    def receive(self, size: int = READ_BYTES) -> bytes:
        return self.sock.recv(size)

    def ask(self, request: bytes, method: str = "GET") -> Response:
        self.send(request)
        return self.response(method)

    def responses(self, count: int) -> list[Response]:
        return [self.response() for _ in range(count)]

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        parts = [self.buffered]
        self.buffered = b""
        while data := self.receive():
            parts.append(data)
        return b"".join(parts)

    def read_until(self, mark: bytes) -> bytes:
        """Raw bytes, at least up to ``mark``."""
        while mark not in self.buffered:
            data = self.receive()
            assert data, f"the connection ended before {mark!r}: {self.buffered!r}"
            self.buffered += data
        data, self.buffered = self.buffered, b""
        return data

    def assert_closed(self) -> None:
        """The server closed, cleanly, and sent nothing more."""
        assert self.rest() == b""

    def assert_open(self) -> None:
        """Nothing more came, and the connection still answers."""
        assert self.buffered == b""
        assert self.ask(get("/ok")).status == 200


class AppError(NamedTuple):
    error: BaseException
    method: str
    target: str
    client: tuple[str, int] | None
    outcome: str
    request_id: str | None


class Reject(NamedTuple):
    status: int
    reason: str
    client: tuple[str, int] | None


class Access(NamedTuple):
    client: tuple[str, int] | None
    method: str
    target: bytes
    http_version: str
    status: int


class Reported:
    """What a server had to say of its apps and clients."""

    def __init__(self) -> None:
        self.errors: list[AppError] = []
        self.rejects: list[Reject] = []
        self.accesses: list[Access] = []
        self.loop_errors: list[dict[str, Any]] = []

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """ProtocolFactory's arguments."""
        return {
            "on_app_error": lambda *args: self.errors.append(AppError(*args)),
            "on_reject": lambda *args: self.rejects.append(Reject(*args)),
            "access": lambda *args: self.accesses.append(Access(*args)),
        }

    def heed(self, loop: asyncio.AbstractEventLoop) -> None:
        """What the loop's handler is told counts, too."""
        loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))

    def take_errors(self, count: int = 1) -> list[AppError]:
        """The app's errors so far, exactly ``count``."""
        taken, self.errors = self.errors, []
        assert len(taken) == count, taken
        return taken

    def take_error(self) -> AppError:
        return self.take_errors(1)[0]

    def take_rejects(self, count: int = 1) -> list[Reject]:
        taken, self.rejects = self.rejects, []
        assert len(taken) == count, taken
        return taken

    def assert_all_taken(self) -> None:
        assert not self.errors, self.errors
        assert not self.rejects, self.rejects
        assert not self.loop_errors, self.loop_errors


def listen(where: str, path: Path | None) -> socket.socket:
    if where == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
    else:
        sock = socket.socket(socket.AF_INET6 if where == "::1" else socket.AF_INET)
        sock.bind((where, 0))
    return sock


class Server(Reported):
    """The native request path around ``app``, on a loop in a thread of its own."""

    def __init__(
        self,
        app: App,
        *,
        where: str = "127.0.0.1",
        path: Path | None = None,
        context: Any = "new",
        **settings: Any,
    ) -> None:
        super().__init__()
        self.clients: list[Client] = []
        self.stopped = False
        self._sock = listen(where, path)
        self.address = self._sock.getsockname()
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server")
        self._thread.start()
        self._settings = settings
        self._context = contextvars.Context() if context == "new" else context
        try:
            self._listener = self.run(self._start(app))
        except BaseException:  # an argument that the factory refuses
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self._sock.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.heed(self.loop)
        self.loop.run_forever()

    async def _start(self, app: App) -> asyncio.AbstractServer:
        self.factory = ProtocolFactory(
            app,
            loop=self.loop,
            context=self._context,
            **{"state": None, **self.callbacks(), **request_limits(Config("none:none")), **self._settings},
        )
        return await self.loop.create_server(self.factory, sock=self._sock)

    def run(self, coroutine: Any) -> Any:
        """Runs a coroutine on the server's loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function on the server's loop; its result."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def work() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(work)
        return future.result(PATIENCE_S)

    def tasks(self) -> int:
        """Tasks alive on the loop."""
        return len(self.call(asyncio.all_tasks, self.loop))

    def connect(self, receive_buffer: int | None = None) -> Client:
        sock = socket.socket(self._sock.family)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE_S)
        sock.connect(self.address)
        client = Client(sock)
        self.clients.append(client)
        return client

    def ask(self, request: bytes, method: str = "GET") -> Response:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.ask(request, method)

    def raw(self, request: bytes) -> bytes:
        """Everything the server sends for ``request`` up to the end of the connection."""
        with self.connect() as client:
            client.send(request)
            client.half_close()
            return client.rest()

    def take_errors(self, count: int = 1) -> list[AppError]:
        """Once they are there."""
        until(lambda: len(self.errors) >= count, f"{count} app errors, have {self.errors}")
        return super().take_errors(count)

    def take_rejects(self, count: int = 1) -> list[Reject]:
        until(lambda: len(self.rejects) >= count, f"{count} rejects, have {self.rejects}")
        return super().take_rejects(count)

    def stop(self) -> None:
        """Everything must go by itself once the clients have gone."""
        if self.stopped:
            return
        self.stopped = True
        for client in self.clients:
            client.close()
        leaks: list[str] = []
        try:
            self.call(self._listener.close)
            try:
                until(lambda: self.factory.connections == 0, "connections to go", 5)
                until(lambda: self.factory.in_flight == 0, "requests to end", 5)
            except AssertionError as error:
                counts = f"connections {self.factory.connections}, in flight {self.factory.in_flight}"
                leaks.append(f"{error}: {counts}")
                self.call(self.factory.abort)
                until(lambda: self.factory.connections == 0)
            self.call(self.factory.close)
            try:
                until(lambda: self.tasks() == 0, "tasks to end", 2)
            except AssertionError as error:
                leaks.append(f"{error}: {self.call(asyncio.all_tasks, self.loop)}")
            self.run(self.loop.shutdown_default_executor())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(PATIENCE_S)
            self.loop.close()
        assert not leaks, leaks
        self.assert_all_taken()


class Drained:
    """A drain that has begun, and what its on_empty was called with; ``wait``: nothing is left."""

    def __init__(self, server: Server, grace_ms: int = 0) -> None:
        self.server = server
        self.calls: list[tuple[int, int]] = []
        self.began = time.monotonic()
        server.call(lambda: server.factory.drain(self, grace_ms=grace_ms))

    def __call__(self) -> None:
        self.calls.append((self.server.factory.connections, self.server.factory.in_flight))

    def wait(self) -> None:
        until(lambda: self.calls, "on_empty")
        self.server.call(lambda: None)
        assert self.calls == [(0, 0)]
