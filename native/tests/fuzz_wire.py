"""The loop and the transport below a fuzzed connection. Nothing here waits, and nothing fails on purpose.

A Wire is a transport with its client: what the connection writes through it, or sends past it to the socket
of fuzz_world.c, is one stream of bytes, ``output``. It checks what a transport may rely on: order, and
silence after close(). A ``listener`` hears both sides in the order in which they were said.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from fuzz_apps import Call
from fuzz_responses import Broken, Reject, must

HIGH_WATER_BYTES = 2048
MOST_TURNS = 2000


class Loop:
    """As much of an event loop as tasks, futures and the extension ask for."""

    def __init__(self, world: Any) -> None:
        self.world = world  # fuzz_world
        self.ready: deque[tuple[Callable[..., Any], tuple[Any, ...], Any]] = deque()
        self.timers: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
        self.complaints: list[Any] = []

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> bool:
        self.ready.append((callback, args, context))
        return True

    def call_later(
        self, delay_s: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> bool:
        self.timers.append((self.world.now_ms() + int(delay_s * 1000), callback, args))
        return True

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(context)

    def turn(self) -> None:
        if self.timers:
            now_ms = self.world.now_ms()
            due = [timer for timer in self.timers if timer[0] <= now_ms]
            self.timers = [timer for timer in self.timers if timer[0] > now_ms]
            self.ready.extend((callback, args, None) for _, callback, args in due)
        for _ in range(len(self.ready)):
            callback, args, context = self.ready.popleft()
            if context is None:
                callback(*args)
            else:
                context.run(callback, *args)

    def rest(self) -> None:
        """Until nothing is ready."""
        for _ in range(MOST_TURNS):
            if not self.ready:
                return
            self.turn()
        must(False, "the loop never rests")


class Listener(Protocol):
    """Hears what is said. Broken is raised where the connection cannot swallow it."""

    def client(self, data: bytes) -> None: ...

    def server(self, data: bytes) -> None: ...


class Wire:
    """One connection from outside."""

    def __init__(self, loop: Loop, port: int, *, on_socket: bool, trace: Callable[..., None]) -> None:
        self.loop, self.world, self.port, self.trace = loop, loop.world, port, trace
        self.on_socket = on_socket
        self.ssl_object: Any = None
        self.listener: Listener | None = None
        self.broken: Broken | None = None
        self.depth = 0  # of data_received()
        self.connection: Any = None
        self.events: list[Call | Reject] = []
        self.output = bytearray()
        self.fed = bytearray()  # what the client sent
        self.checked: tuple[bytes, int] = b"", 0
        self.buffer = bytearray()
        self.client_reads = True
        self.write_paused = self.read_paused = False
        self.high_water_bytes = HIGH_WATER_BYTES
        self.closing = self.half_closed = self.ended = self.lost = False
        self.cut = False  # by abort(), or by the network

    # What the extension calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return ("192.0.2.1", self.port)
        if name == "sockname":
            return ("192.0.2.2", 80)
        if name == "ssl_object" and self.ssl_object is not None:
            return self.ssl_object
        return self if name == "socket" and self.on_socket else default

    def fileno(self) -> int:
        return int(self.world.SOCKET_FD)

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def set_write_buffer_limits(self, high: int = HIGH_WATER_BYTES) -> None:
        self.trace("set_write_buffer_limits", high)
        self.high_water_bytes = high

    def writelines(self, parts: Any) -> None:
        data = b"".join(parts)
        self.trace("writelines", data)
        must(not self.closing and not self.half_closed, "output behind the end", data)
        self._take()
        self._tell(data)
        if self.client_reads:
            self.output += data
            return
        self.buffer += data
        self._guard()
        if len(self.buffer) > self.high_water_bytes and not self.write_paused:
            self.write_paused = True
            self.connection.pause_writing()

    def write(self, data: Any) -> None:
        self.writelines([data])

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.trace("write_eof")
        must(not self.closing, "write_eof() behind the end")
        self.half_closed = True
        self._guard()

    def pause_reading(self) -> None:
        self.trace("pause_reading")
        must(not self.read_paused, "pause_reading() twice")
        self.read_paused = True

    def resume_reading(self) -> None:
        self.trace("resume_reading")
        must(self.read_paused, "resume_reading() of one that reads")
        self.read_paused = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.trace("close")
        self.closing = True
        self._guard()
        if not self.buffer:
            self.loop.call_soon(self.lose)

    def abort(self) -> None:
        self.trace("abort")
        self._take()
        self.closing = self.cut = True
        self._guard()
        self.buffer.clear()
        self.loop.call_soon(self.lose)

    # What the network does

    def _take(self) -> None:
        if self.on_socket:
            data = self.world.take()
            self._tell(data)
            self.output += data

    def _tell(self, data: bytes) -> None:
        """The listener: what the server says."""
        if data and self.listener is not None and self.broken is None:
            try:
                self.listener.server(data)
            except Broken as broken:
                self.broken = broken

    def _guard(self) -> None:
        """Nothing may be sent past what the transport holds, or behind the end."""
        if self.on_socket:
            self.world.socket(behind=bool(self.buffer) or self.closing or self.half_closed)

    def feed(self, data: bytes) -> None:
        self.trace("data_received", data)
        self._take()
        self.fed += data
        if self.listener is not None:
            self.listener.client(data)
        self.depth += 1
        self.connection.data_received(data)
        self.depth -= 1
        self._take()

    @property
    def hears(self) -> bool:
        """Whether what the client sends is read now."""
        return not (self.read_paused or self.closing or self.ended or self.lost)

    def end_input(self) -> None:
        """The client has sent its last byte."""
        if not self.hears:
            return
        self.ended = True
        keep = self.connection.eof_received()
        self.trace("eof_received", keep)
        if not keep and not self.closing:
            self.close()

    def stall(self, room: int) -> None:
        """The client reads nothing; the socket takes ``room`` bytes more."""
        self.trace("the client reads no more", room)
        self.client_reads = False
        if self.on_socket:
            self.world.socket(room=room)

    def read_on(self) -> None:
        """The client reads everything there is."""
        self.client_reads = True
        self._take()
        self.output += self.buffer
        self.buffer.clear()
        if self.on_socket:
            self.world.socket(room=-1)
        if self.lost:
            return
        self._guard()
        if self.closing:
            self.lose()
        elif self.write_paused:
            self.write_paused = False
            self.connection.resume_writing()

    def read_so_far(self) -> bytes:
        """What the client has."""
        self._take()
        return bytes(self.output)

    def lose(self, error: Exception | None = None) -> None:
        if self.lost:
            return
        self._take()
        self.trace("connection_lost", error)
        self.cut = self.cut or not self.closing
        self.lost = self.closing = True
        self._guard()
        self.connection.connection_lost(error)
