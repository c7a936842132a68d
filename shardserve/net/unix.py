"""Unix sockets: making one at a path, and whose file it is when it is to be removed.

Rules of this file: a file is removed only if it is a socket that nobody serves, or the very one we
made: same device, same inode. Unix sockets cannot be sharded; all slots share one.

A server that has bound its path and does not listen yet looks like a dead one. So looking for a dead
one, binding and listening are done under a lock on the folder (flock(2)): of several servers that start
in the same instant, the others find a live socket.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from ..config.addresses import UnixBind
from ..errors import ListenError
from .refusals import named, refusal, unix_owner

# A server holds the lock for less than a millisecond.
_LOCK_TRIES = 100
_LOCK_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a socket of ours. The path is absolute: the working directory may change."""

    path: str
    device: int
    inode: int

    @classmethod
    def at(cls, path: str) -> SocketFile:
        made = os.stat(path, follow_symlinks=False)
        return cls(os.path.abspath(path), made.st_dev, made.st_ino)

    def is_ours(self) -> bool:
        """Whether the path still leads to it: someone may have removed or replaced it."""
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (self.device, self.inode)

    def unlink(self) -> None:
        with suppress(OSError):
            if self.is_ours():
                os.unlink(self.path)

    def set_mode(self, mode: int) -> None:
        """Raises OSError."""
        if self.is_ours():
            os.chmod(self.path, mode)


def listen_unix(bind: UnixBind, backlog: int) -> tuple[socket.socket, SocketFile]:
    """A listening socket at the path, with exactly the mode asked for. Raises ListenError."""
    with _folder_locked(bind.path):
        return _listen(bind, backlog)


@contextmanager
def _folder_locked(path: str) -> Iterator[None]:
    """Hold the lock, unless it cannot be had: anybody may hold it for reasons of their own."""
    with ExitStack() as stack:
        with suppress(OSError):  # not there: bind will say so; not readable: then not locked either
            folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, folder)
            for _ in range(_LOCK_TRIES):
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_LOCK_PAUSE_S)
        yield


def _listen(bind: UnixBind, backlog: int) -> tuple[socket.socket, SocketFile]:
    _clear_stale(bind)
    with named(str(bind)), ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # The file appears with bind: the umask keeps strangers out until chmod has set the exact mode.
        umask = os.umask(0o777 & ~bind.mode)
        try:
            sock.bind(bind.path)
        finally:
            os.umask(umask)
        undo.callback(os.unlink, bind.path)
        os.chmod(bind.path, bind.mode)
        sock.listen(backlog)
        file = SocketFile.at(bind.path)
        undo.pop_all()
        return sock, file


def _clear_stale(bind: UnixBind) -> None:
    """Remove a socket file that nobody serves. Raises ListenError when somebody does, or it is no socket."""
    try:
        mode = os.stat(bind.path, follow_symlinks=False).st_mode
    except OSError:
        return  # not there, or bind will say why
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on {bind}: the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(bind.path)
        except ConnectionRefusedError:
            with named(str(bind)):
                os.unlink(bind.path)
            return
        except BlockingIOError:
            pass  # its queue is full, so it is alive
        except OSError as error:
            raise refusal(str(bind), error) from error
    busy = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    raise refusal(str(bind), busy, owner=partial(unix_owner, bind.path))
