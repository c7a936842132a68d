"""The master's side of ``shardserve ctl``: a Unix socket that takes commands.

Rules of this file: nothing blocks, and no client can hold up or fill up the master. What a command
does is the supervisor's: ``turn`` hands over Requests, and each is answered whenever the supervisor
is ready to, or never if its client is gone. The form of requests and replies is ``commands.py``.

Everything is behind one descriptor: an epoll of its own, whose number stays the same, so that the
supervisor registers ``fileno()`` once and no connection's coming and going is of interest to it.

The path is a promise to nobody but us, so (see ``_clear``): what is not a socket, or a socket on
which somebody answers, is never replaced; ours appears by a rename, listening and with mode 0600
already; and it is removed only while it still is the one that we made.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from .. import commands
from ..config.addresses import check_unix_path
from ..errors import ControlError, ListenError

MOST_CLIENTS = 32
# A client has this long to say its command, and must take some of what it is told in each such time.
PATIENCE_S = 10.0
# A slow reader may fall this far behind: two replies of the largest kind.
UNSENT_MAX_BYTES = 8 * 1024 * 1024
# Without a free descriptor nothing can be accepted, and the queue would wake us up again at once.
ACCEPT_PAUSE_S = 1.0
_READ_BYTES = 64 * 1024
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger("shardserve.master")


class Request:
    """One command of one client, to be answered once with ``reply`` or ``fail``.

    Answering a client that has gone, or a second time, does nothing.
    """

    def __init__(self, client: _Client, command: commands.Command) -> None:
        self._client = client
        self.command = command
        self.who = client.who  # "pid 7 of uid 0", for the log

    @property
    def open(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self._client.open and not self._client.answered

    def progress(self, text: str) -> None:
        """A line for the person who waits."""
        if self.open:
            self._client.send(commands.encode_progress(text))

    def reply(self, document: Mapping[str, Any] | None = None) -> None:
        """It is done. ``message`` in the document is what ctl prints of it."""
        if self.open:
            try:
                data = commands.encode_reply(document or {})
            except ControlError as error:
                self.fail(str(error))
            else:
                self._client.answer(data, stays=isinstance(self.command, commands.Stop))

    def fail(self, text: str) -> None:
        """It was not done, and why."""
        if self.open:
            self._client.answer(commands.encode_failure(text))


class ControlSocket:
    """Listens on ``path``. Raises ListenError if that cannot be had."""

    def __init__(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        """``replace``: also a socket on which somebody answers; the old master's, at an upgrade."""
        # Absolute, because the working directory may be another one when it is removed.
        self.path = os.path.abspath(path)
        try:
            check_unix_path(self.path)  # the kernel would not notice: it is asked for a shorter name
        except ValueError as error:
            raise _refusal(self.path, str(error)) from None
        self._clients: dict[int, _Client] = {}
        self._now = 0.0
        self._accept_again_at: float | None = None
        self._epoll = select.epoll()
        try:
            self._listener, self._made = _listen(self.path, replace=replace)
        except BaseException:
            self._epoll.close()
            raise
        self._epoll.register(self._listener, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when ``turn`` has something to do. The same number all the time."""
        return self._epoll.fileno()

    def turn(self, now: float) -> list[Request]:
        """Accept, read, write, and drop whoever takes too long. The commands that came."""
        self._now = now
        if self._accept_again_at is not None and self._accept_again_at <= now:
            self._accept_again_at = None
            self._epoll.modify(self._listener, select.EPOLLIN)
        found = []
        for fd, events in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif (client := self._clients.get(fd)) is not None:
                command = client.turn(events)
                if command is not None:
                    found.append(Request(client, command))
        for client in list(self._clients.values()):
            if client.deadline is not None and client.deadline <= now:
                log.debug("control socket: %s takes too long: dropped", client.who)
                client.close()
        return found

    def next_deadline(self) -> float | None:
        """When ``turn`` has something to do although nothing happened."""
        times = [client.deadline for client in self._clients.values()]
        return min((at for at in (*times, self._accept_again_at) if at is not None), default=None)

    def close(self) -> None:
        """Hang up on everybody. The path goes too, unless somebody else has taken it since."""
        if self._epoll.closed:
            return
        if _identity(self.path) == self._made:
            with suppress(OSError):
                os.unlink(self.path)
        # Last, because it is how a client knows that everything is over.
        for client in list(self._clients.values()):
            client.close()
        self._listener.close()
        self._epoll.close()

    def _accept(self) -> None:
        for _ in range(MOST_CLIENTS):  # level-triggered: the others wait for the next turn
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._accept_again_at = self._now + ACCEPT_PAUSE_S
                    self._epoll.modify(self._listener, 0)
                    log.warning("control socket: cannot accept: %s; trying again in a second", error.strerror)
                return
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        pid, uid = commands.peer(sock)
        who = f"pid {pid} of uid {uid}"
        refusal = ""
        if uid not in (0, os.geteuid()):
            log.warning("control socket: refused %s: only uid %d and root may use it", who, os.geteuid())
            refusal = "this server is another user's"
        elif len(self._clients) >= MOST_CLIENTS:
            refusal = f"the server is busy with {MOST_CLIENTS} other commands; try again"
        if refusal:
            with sock, suppress(OSError):
                sock.send(commands.encode_failure(refusal))
            return
        self._clients[sock.fileno()] = _Client(self, sock, who)


class _Client:
    """One connection. It stays until its answer is sent, or it is too slow, or it goes."""

    def __init__(self, owner: ControlSocket, sock: socket.socket, who: str) -> None:
        self.who = who
        self.open = True
        self.answered = False
        self.deadline: float | None = owner._now + PATIENCE_S
        self._owner = owner
        self._sock = sock
        self._received = bytearray()
        self._unsent = bytearray()
        self._asked = False
        self._stays = False
        self._hears = True  # it has not closed its sending side
        owner._epoll.register(sock, select.EPOLLIN)

    def turn(self, events: int) -> commands.Command | None:
        """What the poll says is to be done. The command, when its line is complete."""
        command = None
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and self._hears:
            command = self._read()
        if self.open and events & (select.EPOLLHUP | select.EPOLLERR):
            self.close()  # gone altogether; one that only sends no more still gets its answer
        if self.open and self._unsent:
            self._flush()
        return command if self.open else None

    def send(self, data: bytes) -> None:
        """Send now, or as soon as there is room."""
        if not self.open:
            return
        if len(self._unsent) + len(data) > UNSENT_MAX_BYTES:
            log.debug("control socket: %s does not read: dropped", self.who)
            self.close()
            return
        self._unsent += data
        self._flush()

    def answer(self, data: bytes, *, stays: bool = False) -> None:
        """The last that it is told. ``stays``: then keep the connection until the server ends."""
        self.answered = True
        self._stays = stays
        self.send(data)

    def close(self) -> None:
        if self.open:
            self.open = False
            self.deadline = None
            del self._owner._clients[self._sock.fileno()]
            self._owner._epoll.unregister(self._sock)
            self._sock.close()
            self._unsent.clear()

    def _read(self) -> commands.Command | None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            self.close()
            return None
        if not data:
            self._hears = False
            if not self._asked:
                self.close()  # it never said anything
            self._watch()
            return None
        if self._asked:
            return None  # one command for a connection; the rest is nobody's
        self._received += data
        line, newline, _ = self._received.partition(b"\n")
        if len(line) > commands.MAX_REQUEST_BYTES:
            self._refuse(f"the request is over the limit of {commands.MAX_REQUEST_BYTES} bytes")
        elif newline:
            return self._ask(bytes(line))
        return None

    def _ask(self, line: bytes) -> commands.Command | None:
        try:
            command = commands.decode_command(line)
        except ControlError as error:
            self._refuse(str(error))
            return None
        self._asked = True
        self._received.clear()
        self.deadline = None
        return command

    def _refuse(self, text: str) -> None:
        self._asked = True
        self._received.clear()
        self.answer(commands.encode_failure(text))

    def _flush(self) -> None:
        before = len(self._unsent)
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()  # it is gone
            return
        if not self._unsent:
            self.deadline = None
        elif len(self._unsent) < before or self.deadline is None:
            self.deadline = self._owner._now + PATIENCE_S
        if self.answered and not self._unsent and not self._stays:
            self.close()
        self._watch()

    def _watch(self) -> None:
        """EPOLLHUP and EPOLLERR are always watched for."""
        if self.open:
            events = (select.EPOLLIN if self._hears else 0) | (select.EPOLLOUT if self._unsent else 0)
            self._owner._epoll.modify(self._sock, events)


# The path


def _listen(path: str, *, replace: bool) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at the path, and the identity of its file."""
    _clear(path, replace=replace)
    # Short, because it must fit into an address as well.
    hidden = os.path.join(os.path.dirname(path), f".{os.urandom(2).hex()}")
    with ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.setblocking(False)
            umask = os.umask(0o177)  # from its first moment on
            try:
                sock.bind(hidden)
            finally:
                os.umask(umask)
            undo.callback(Path(hidden).unlink, missing_ok=True)
            os.chmod(hidden, 0o600)
            sock.listen(MOST_CLIENTS)
            made = _identity(hidden)
            os.rename(hidden, path)
        except OSError as error:
            raise _refusal(path, error.strerror or str(error)) from error
        undo.pop_all()
    assert made is not None
    return sock, made


def _clear(path: str, *, replace: bool) -> None:
    """See that the path may be taken: nothing is there, or a socket that nobody serves any more."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from error
    if not stat.S_ISSOCK(mode):
        raise _refusal(path, "something that is not a socket is there, and is left alone")
    if replace:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        by = "somebody"
        try:
            probe.connect(path)
            by = f"pid {commands.peer(probe)[0]}"
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # its queue is full, so it is alive
        except OSError as error:
            reason = error.strerror or str(error)
            raise _refusal(path, f"another's socket is there, and is left alone ({reason})") from error
    raise _refusal(path, f"{by} answers there; is this server running already?")


def _refusal(path: str, why: str) -> ListenError:
    return ListenError(f"cannot make the control socket {path}: {why}; or set control-socket to off")


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of what is there now."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
