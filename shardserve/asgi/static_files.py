"""From the path of a request to an open file inside a folder, and to what the file is.

Rules of this file: a file is opened by its path and then the kernel is asked what was opened
(``/proc/self/fd``). If that is not below the folder, it is as if it were not there. What is judged is thus
what is sent, however fast somebody exchanges folders and links in between; links inside the folder work,
also absolute ones; and the folder may itself be a link that a deployment changes. (``openat2`` with
RESOLVE_BENEATH would save one call, but needs a folder held open, which a deployment leaves behind, and
containers that do not know it need a second way.) Nothing is cached: each request sees the disk as it is.

An open never waits: O_NONBLOCK, so a FIFO cannot hold the event loop up; what is no regular file is closed
again and is as if it were not there.
"""

from __future__ import annotations

import errno
import logging
import mimetypes
import os
import re
import stat
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..errors import ConfigError
from ..observe.logs import printable

log = logging.getLogger("shardserve.worker")

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# In a path that begins with "/": what nobody means well, an empty segment, and one that begins with a dot.
_REFUSED = re.compile(rb"[\x00-\x1f\x7f\\]|//|/\.")
_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
# RFC 8615: the one folder that begins with a dot and is public.
_WELL_KNOWN = b"/.well-known/"

# Not there, as far as a client is told.
_MISSING = {
    errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EINVAL,
}  # fmt: skip
# There is one again when somebody else is done.
NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}


class Refused(Exception):
    """There is nothing to send; ``status`` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class File:
    """A regular file, or a folder, that is open. Whoever has it closes it; a second time does nothing."""

    __slots__ = ("_fd", "stat")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.stat = os.fstat(fd)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)


def relative(raw: bytes) -> bytes | None:
    """The path below the folder that a percent-encoded path, which begins with ``/``, means; None: none.

    It begins with ``/``, too. There is no way up in it, no file whose name begins with a dot (but for what is
    below ``/.well-known/``), no empty segment but the last, no control character and no backslash. An encoded
    slash is refused, because what stands before us may take it for part of a name.
    """
    if b"%" in raw:
        if _ENCODED_SLASH.search(raw):
            return None
        raw = unquote_to_bytes(raw)
    known = raw.startswith(_WELL_KNOWN)
    return None if _REFUSED.search(raw, 1 if known else 0) else raw


class Folder:
    """What is below one folder. Raises ConfigError if there is none."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path).rstrip("/").encode(errors="surrogateescape")
        self._real = b""
        self._said = False
        if not os.path.isdir(path):
            raise ConfigError(f'--static: "{path}" is not a directory')
        if not os.path.isdir("/proc/self/fd"):
            raise ConfigError("--static needs /proc, which is not mounted here")
        self._resolve()

    def has(self, path: bytes) -> bool:
        """Whether there may be something to open: cheap, where mostly there is not."""
        return os.access(self._path + path, os.F_OK)

    def open(self, path: bytes) -> File:
        """What ``relative`` gave. Raises Refused with 403, 404 or 503, and OSError if the disk fails."""
        try:
            fd = os.open(self._path + path, FLAGS)
        except OSError as error:
            raise Refused(_status(error)) from None
        try:
            found = File(fd)
            mode = found.stat.st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not self._holds(fd, path):
                raise Refused(404)
        except BaseException:
            os.close(fd)
            raise
        return found

    def _holds(self, fd: int, path: bytes) -> bool:
        """Whether what is open is below the folder, as it is now."""
        real = os.readlink(b"/proc/self/fd/%d" % fd)
        if real.startswith(self._real):
            return True
        self._resolve()
        if real.startswith(self._real):
            return True
        if not self._said:
            self._said = True
            names = [printable(os.fsdecode(one)) for one in (self._path, path, real)]
            log.warning(
                '--static: "%s%s" is a link out of its directory, to "%s": such files are answered with 404.',
                *names,
            )
        return False

    def _resolve(self) -> None:
        self._real = os.path.realpath(self._path or b"/").rstrip(b"/") + b"/"


def _status(error: OSError) -> int:
    """What a client is told of a file that cannot be opened. Raises ``error`` where the disk fails."""
    if error.errno in _MISSING:
        return 404
    if error.errno in (errno.EACCES, errno.EPERM):
        return 403
    if error.errno in NO_DESCRIPTOR or error.errno in (errno.ENOMEM, errno.EAGAIN):
        return 503
    raise error


# What a file is


class Kind(NamedTuple):
    """The Content-Type, and whether a compressed variant may lie beside such a file."""

    content_type: bytes
    compressible: bool


# What the tables of Python and of the system lack, or disagree about.
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".ico": "image/vnd.microsoft.icon",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
    ".md": "text/markdown",
    ".xml": "application/xml",
    ".gz": "application/gzip",
}
# Others than text, and what ends with +json or +xml, for which it pays to keep compressed variants.
_COMPRESSIBLE = {
    "application/json", "application/xml", "application/wasm", "font/ttf", "font/otf", "image/bmp",
    "image/vnd.microsoft.icon", "application/vnd.ms-fontobject", "application/rtf",
}  # fmt: skip


def kind_of(path: bytes) -> Kind:
    """By the end of its name."""
    return _kind(os.path.splitext(path)[1].lower())


@lru_cache(maxsize=256)
def _kind(extension: bytes) -> Kind:
    text = os.fsdecode(extension)
    guessed, packed = mimetypes.guess_type(f"x{text}")
    name = _TYPES.get(text) or (guessed if packed is None else None) or "application/octet-stream"
    is_text = name.startswith("text/")
    compressible = is_text or name in _COMPRESSIBLE or name.endswith(("+json", "+xml"))
    return Kind((name + "; charset=utf-8" if is_text else name).encode(), compressible)
