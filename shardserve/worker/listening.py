"""Which listening sockets this worker accepts on: its own, and those adopted for other slots. And how.

Rules of this file: the sockets belong to the master, which has its own descriptors of them. Closing
ours stops this worker's accepting and nothing else: a connection in the queue waits for whoever
accepts next. So nothing here may shut a socket down, unlink a path or change the backlog. *When* to
accept in which way is ``admission.py``'s.

There are three ways (``Mode``). FAST is uvloop's own accept: no Python frame per connection. But at
EMFILE and ENFILE it closes the connections that wait (libuv keeps a spare descriptor, gives it up,
accepts with it and closes what it got, until the queue is empty): their clients are reset. CAREFUL is
our own: about a third more CPU per connection, but one that cannot be accepted stays in the queue.
PAUSED accepts nothing.

Connections that have something before HTTP (``opening.py``) are accepted by us in any case: in FAST several
at a time, and in neither way while too many are being opened. So are those of a loop that is not uvloop's.

We hold each socket under a descriptor of our own, and uvloop gets a copy: its way can then be left
for another when there is no descriptor to be had.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .opening import Opening

ProtocolMaker = Callable[[], asyncio.BaseProtocol]

# From Python 3.13 on the default is to unlink the path at close, which the master and the other
# workers still serve. uvloop takes the argument on every version, the standard library's stub only there.
_KEEP_PATH: dict[str, Any] = {"cleanup_socket": False}

# What accept(2) says of one connection, or of none: the next call may well succeed. A connection that
# broke while it waited hands its own error on. What is not here (EMFILE, ENFILE, ENOBUFS, ENOMEM, and
# what we have not thought of) would come again at once, and the loop would spin.
_PASSING = {
    errno.EAGAIN,
    errno.EINTR,
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENONET,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
}
# Of ours in mode FAST, in one turn of the loop: those that are open get theirs, too.
_ACCEPTS_AT_ONCE = 16
# At a stop, how long to wait for descriptors that other connections give back, and how often to look.
_LAST_CALL_S = 1.0
_LAST_CALL_RETRY_S = 0.02

log = logging.getLogger("shardserve.worker")


class Mode(Enum):
    FAST = "fast"
    CAREFUL = "careful"
    PAUSED = "paused"


@dataclass(slots=True, eq=False)
class _Listener:
    """One listening socket. ``server``: uvloop accepts, on a copy; ``reading``: we do."""

    sock: socket.socket
    server: asyncio.AbstractServer | None = None
    reading: bool = False


class Listening:
    """The listening sockets by the slot that they are for, and the one way in which all are accepted on."""

    def __init__(self, make_protocol: ProtocolMaker, *, backlog: int, opening: Opening | None = None) -> None:
        """``opening`` gets what is accepted, if connections have something before HTTP."""
        self._make_protocol = make_protocol
        self._backlog = backlog
        self._opening = opening
        if opening is not None:
            opening.watch(self._follow_all)
        self._listeners: dict[int, list[_Listener]] = {}
        self._mode = Mode.FAST
        # The loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_accepted: Callable[[int], None] = lambda fd: None
        self._on_failure: Callable[[OSError], None] = lambda error: None

    def watch(self, *, on_accepted: Callable[[int], None], on_failure: Callable[[OSError], None]) -> None:
        """Have told what our own accepts meet. An error should lead to a pause: it comes again at once."""
        self._on_accepted, self._on_failure = on_accepted, on_failure

    @property
    def slots(self) -> list[int]:
        return list(self._listeners)

    @property
    def mode(self) -> Mode:
        return self._mode

    async def accept_on(self, sock: socket.socket, *, slot: int) -> None:
        """Accept on ``sock``, which is closed with ``close``. Raises OSError.

        While paused it is only held; ``resume`` begins with it.
        """
        listener = _Listener(sock)
        try:
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, "not a listening socket")
            sock.setblocking(False)
            if self._mode is Mode.FAST and not self._accepts_itself:
                listener.server = await self._serve(sock)
        except BaseException:
            sock.close()
            raise
        self._listeners.setdefault(slot, []).append(listener)
        self._follow(listener)

    def close(self, slot: int) -> bool:
        """Stop accepting for ``slot``. Whether there was anything to stop."""
        listeners = self._listeners.pop(slot, [])
        for listener in listeners:
            self._stop(listener)
            listener.sock.close()
        return bool(listeners)

    def close_all(self) -> None:
        for slot in self.slots:
            self.close(slot)

    # The three ways

    def pause(self) -> None:
        """Accept nothing from now on: connections wait in the kernel's queues, up to the backlog."""
        self._switch(Mode.PAUSED)

    def resume(self, *, careful: bool = False) -> None:
        """Accept, from a pause or in the other way. Not careful: from the loop's next turn on."""
        self._switch(Mode.CAREFUL if careful else Mode.FAST)

    @property
    def _accepts_itself(self) -> bool:
        """Also in mode FAST. A server of asyncio's own loop (integrations/) loses connections that it has
        accepted in the turn in which it is closed.
        """
        return self._opening is not None or isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)

    def _switch(self, mode: Mode) -> None:
        if mode is self._mode:
            return
        self._mode = mode
        self._follow_all()
        if mode is Mode.FAST and not self._accepts_itself:
            self._spawn(self._open_servers())

    def _follow_all(self) -> None:
        for listener in self._all():
            self._follow(listener)

    def _follow(self, listener: _Listener) -> None:
        """Bring a listener to the mode, as far as it can be done at once."""
        if self._mode is not Mode.FAST and listener.server is not None:
            listener.server.close()
            listener.server = None
        ours = self._mode is Mode.CAREFUL or (self._mode is Mode.FAST and self._accepts_itself)
        room = self._opening is None or self._opening.has_room
        if ours and room and not listener.reading:
            asyncio.get_running_loop().add_reader(listener.sock.fileno(), self._accept_some, listener)
            listener.reading = True
        elif self._mode is Mode.PAUSED or listener.server is not None or not room:
            self._stop_reading(listener)

    async def _open_servers(self) -> None:
        for listener in list(self._all()):
            if self._mode is not Mode.FAST or listener.server is not None or listener.sock.fileno() < 0:
                continue
            try:
                server = await self._serve(listener.sock)
            except OSError as error:
                # No descriptor for the copy: the careful way needs none.
                log.debug("Staying careful: %s", error)
                self._switch(Mode.CAREFUL)
                return
            if listener.sock.fileno() < 0:
                server.close()
                continue
            listener.server = server
            self._follow(listener)

    async def _serve(self, sock: socket.socket) -> asyncio.AbstractServer:
        """uvloop's server on a copy of ``sock``."""
        loop = asyncio.get_running_loop()
        copy = sock.dup()
        # listen() again with another number would change the master's backlog: pass the same one.
        try:
            if sock.family == socket.AF_UNIX:
                return await loop.create_unix_server(
                    self._make_protocol, sock=copy, backlog=self._backlog, **_KEEP_PATH
                )
            return await loop.create_server(self._make_protocol, sock=copy, backlog=self._backlog)
        except BaseException:
            copy.close()
            raise

    def _accept_some(self, listener: _Listener) -> None:
        """One connection per turn of the loop, as uvloop does it, or, with an opening, a few."""
        for _ in range(_ACCEPTS_AT_ONCE if self._accepts_itself and self._mode is Mode.FAST else 1):
            if not listener.reading or not self._accept_one(listener):
                return
            if self._opening is not None and not self._opening.has_room:
                self._follow_all()

    def _accept_one(self, listener: _Listener) -> bool:
        """Whether there was one."""
        try:
            connection, address = listener.sock.accept()
        except OSError as error:
            if error.errno not in _PASSING:
                self._on_failure(error)
            return False
        fd = connection.fileno()
        self._begin(connection, address)
        self._on_accepted(fd)
        return True

    def _begin(self, connection: socket.socket, address: Any) -> None:
        if self._opening is not None:
            self._opening.begin(connection, address)
        else:
            self._spawn(self._connect(connection))

    async def _connect(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)

    def _stop(self, listener: _Listener) -> None:
        self._stop_reading(listener)
        if listener.server is not None:
            listener.server.close()
            listener.server = None

    def _stop_reading(self, listener: _Listener) -> None:
        if listener.reading:
            asyncio.get_running_loop().remove_reader(listener.sock.fileno())
            listener.reading = False

    def _all(self) -> Iterator[_Listener]:
        for listeners in self._listeners.values():
            yield from listeners

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The end

    async def connected(self) -> None:
        """Until all that has been accepted here is a connection of the factory's."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def accept_queued(self) -> int:
        """Accept what waits in the queues now: at a stop nobody comes after us who would.

        Returns how many connections that were. The kernel goes on queueing until the last
        descriptor is closed, so ``close_all`` should follow at once.

        A pause does not hold it back, and it takes what is kept for the app. Once there are no
        descriptors at all it waits for those that other connections give back, one second in all:
        who waits longer than that is reset, which is logged.
        """
        until = asyncio.get_running_loop().time() + _LAST_CALL_S
        accepted = 0
        for listener in list(self._all()):
            for _ in range(self._backlog):
                taken = await _take(listener.sock, until)
                if taken is None:
                    break
                connection, address = taken
                if self._opening is not None:
                    self._opening.begin(connection, address)
                else:
                    await self._connect(connection)
                accepted += 1
        return accepted


async def _take(sock: socket.socket, until: float) -> tuple[socket.socket, Any] | None:
    """The next connection of the queue and its address; None if there is none, or none can be had until then
    (loop time).
    """
    while True:
        try:
            return sock.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if asyncio.get_running_loop().time() >= until:
                log.warning("Connections that wait to be accepted are reset by this stop: %s", error)
                return None
            again_s = 0.0 if error.errno in _PASSING else _LAST_CALL_RETRY_S
        await asyncio.sleep(again_s)
