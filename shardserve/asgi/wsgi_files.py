"""``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling").

Rules of this file: a file is sent past the app only if reading it would give the bytes on disk and nothing
else, which its exact type says: a gzip.GzipFile has a ``fileno()`` too. Everything else is read, block by
block.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

# Objects that lend a file's methods (tempfile's, Django's): so many, one in the other.
MOST_WRAPPINGS = 3


class Part(NamedTuple):
    """A part of a regular file: from ``offset`` to its end, ``length`` bytes."""

    file: Any
    offset: int
    length: int


class FileWrapper:
    """What the app returns for a file: an iterable of its blocks, and a hint that it is one."""

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        while block := self.filelike.read(self.block_size):
            yield block

    def close(self) -> None:
        """PEP 3333: it must be there, and call the file's own."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


def part_of(filelike: Any) -> Part | None:
    """From where ``filelike`` stands to the end of its file; None if it has to be read."""
    file = _plain(filelike)
    if file is None:
        return None
    try:
        file.flush()
        offset = file.tell()
        status = os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Part(file, offset, max(0, status.st_size - offset))


def _plain(filelike: Any) -> Any:
    """The file of the standard library that ``filelike`` is, or lends its methods to."""
    for _ in range(MOST_WRAPPINGS):
        kind = type(filelike)
        if kind is io.FileIO:
            return filelike
        if kind in (io.BufferedReader, io.BufferedRandom):
            return filelike if type(filelike.raw) is io.FileIO else None
        if kind.__module__ not in ("tempfile", "django.core.files.base", "django.core.files.uploadedfile"):
            return None
        filelike = getattr(filelike, "file", None)
    return None
