"""The pid file of --pid: it says who the master is, and its lock sees to it that there is only one.

Rules of this file: the lock is what counts, the text is for people and scripts. A file that nobody has
locked is stale whatever is in it: no pid is ever looked up, since pids are used again. When to claim,
write and close is the master's.

The lock is flock(2)'s, which belongs to the open file, not to the process. So the new master of an
upgrade, which inherits the descriptor, has it already, and keeps it when the old one closes its copy.
It puts its pid in when it takes over; each of the two removes the file only with its own pid in it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat

from ..errors import StartupError

log = logging.getLogger("shardserve.master")

# In a folder that others may write to, a link of theirs must not lead us to a file of ours.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_TRIES = 16  # each failed one is a server that stopped in that very moment
_LONGEST_PID_BYTES = 32


class PidFile:
    """A locked pid file. ``fd`` is what a new master inherits."""

    def __init__(self, path: str, fd: int) -> None:
        """Takes over a descriptor with the lock. ``claim`` and ``inherit`` make one."""
        self._path = os.path.abspath(path)  # it must still be right after a change of directory
        self.fd = fd

    @classmethod
    def claim(cls, path: str) -> PidFile:
        """Make or take over the file, lock it, and put our pid in.

        Raises StartupError when another server holds it, or it cannot be had.
        """
        for _ in range(_TRIES):
            fd = _open_and_lock(path)
            try:
                if _is_at(fd, path):
                    _put_pid(fd)
                    return cls(path, fd)
            except OSError as error:
                os.close(fd)
                raise _refusal(path, error) from error
            os.close(fd)  # its last holder removed it between our open and our lock
        raise StartupError(f"cannot have the pid file {path} (--pid): it keeps being removed")

    @classmethod
    def inherit(cls, path: str, fd: int) -> PidFile:
        """Take over the descriptor of an old master; writes nothing.

        If --pid is another file by now, or the old one is gone, then this is a claim.
        """
        try:
            os.set_inheritable(fd, False)
            if _is_at(fd, path):
                return cls(path, fd)
            os.close(fd)
        except OSError as error:
            raise _refusal(path, error) from error
        return cls.claim(path)

    def write(self) -> None:
        """Put our pid in, if need be in a new file. A failure is logged: the server goes on."""
        try:
            if _is_at(self.fd, self._path):
                _put_pid(self.fd)
            else:
                fresh = PidFile.claim(self._path)
                os.close(self.fd)
                self.fd = fresh.fd
        except StartupError as error:
            log.warning("the pid file is gone: %s", error)
        except OSError as error:
            log.warning("the pid file %s does not have our pid: %s", self._path, error)

    def close(self, unlink: bool) -> None:
        """Give the lock up, unless an heir has it too. ``unlink``: and remove the file, if it is still
        the one we locked and our pid is in it.
        """
        if self.fd == -1:
            return
        try:
            if unlink and _is_at(self.fd, self._path) and _pid_in(self.fd) == os.getpid():
                os.unlink(self._path)  # before the lock is gone: whoever comes now is refused or tries again
        except OSError as error:
            log.warning("the pid file %s stays behind: %s", self._path, error)
        os.close(self.fd)
        self.fd = -1


def _open_and_lock(path: str) -> int:
    try:
        fd = os.open(path, _FLAGS, 0o644)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StartupError(f"cannot have the pid file {path} (--pid): it is not a regular file")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _pid_in(fd)
        os.close(fd)
        holder = f"pid {pid}" if pid is not None else "another running server"
        raise StartupError(
            f"cannot have the pid file {path} (--pid): it is held by {holder}; stop that, or choose another"
        ) from None
    except OSError as error:
        os.close(fd)
        raise _refusal(path, error) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_at(fd: int, path: str) -> bool:
    """Whether the path leads to this open file."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _put_pid(fd: int) -> None:
    # Whoever reads in between must not see a mixture; an empty file, they have to expect at a start.
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _pid_in(fd: int) -> int | None:
    try:
        return int(os.pread(fd, _LONGEST_PID_BYTES, 0))
    except (OSError, ValueError):
        return None


def _refusal(path: str, error: OSError) -> StartupError:
    reason = error.strerror or str(error)
    advice = "choose a path that this user may write"
    if error.errno == errno.ELOOP:
        reason, advice = "it is a symbolic link, which is not followed", "name the file itself"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        advice = "create the directory first"
    return StartupError(f"cannot have the pid file {path} (--pid): {reason}; {advice}")
