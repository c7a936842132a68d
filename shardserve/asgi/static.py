"""``--static ROUTE=DIR``: files, served without the app. One ASGI app for each route.

Rules of this file: it decides what to answer and says so in ASGI messages; what a path means is
``static_files``, what RFC 9110 says of it ``static_rules``. A request costs open, fstat, readlink, read and
close, and an access for each compressed variant that its client would take; no thread, no cache, nothing held
between requests. Files are opened in the event loop: DIR belongs on a local disk.

What is not as obvious as the rest:
- A route is all that its requests get: what is not there is 404, the app is not asked.
- The ETag is of the time of change in nanoseconds and of the size. While a file is younger than
  ``YOUNG_S`` it is weak, because two changes may fall into one tick of the kernel's clock: nobody puts the
  parts of two versions together.
- Short files are read, and leave with the head in one write. Longer ones are sent by the kernel
  (``http.response.zerocopysend``), out of the descriptor that was looked at.
- A file of a kind that is worth compressing says ``Vary: Accept-Encoding`` whether or not a variant lies
  beside it: tomorrow one may.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple, Protocol
from urllib.parse import quote

from ..types import ASGIApp, Receive, Scope, Send
from .static_files import NO_DESCRIPTOR, File, Folder, Kind, Refused, kind_of, relative
from .static_rules import (
    CONDITIONS,
    Coding,
    Fields,
    Range,
    Validators,
    codings_for,
    http_date,
    ranges_of,
    status_of,
)

Headers = list[tuple[bytes, bytes]]

# Up to here a file is read, which takes fewer system calls than sendfile and no descriptor of its own.
READ_BYTES = 32 * 1024
YOUNG_S = 1.0
INDEX = b"index.html"

_WANTED = frozenset((*CONDITIONS, b"range", b"if-range", b"accept-encoding"))
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_VARY = (b"vary", b"accept-encoding")
_RANGES = (b"accept-ranges", b"bytes")
_PCHAR = "/:@!$&'()*+,;=~"  # what RFC 3986 §3.3 lets a path have as it is
_START = "http.response.start"
_BODY = "http.response.body"
_FILE = "http.response.zerocopysend"


class StaticSettings(Protocol):
    """The settings this file reads; ``config.model.Config`` has them."""

    @property
    def static(self) -> Iterable[tuple[str, str]]: ...
    @property
    def static_max_age_s(self) -> int: ...


def routes(config: StaticSettings) -> list[tuple[bytes, ASGIApp]]:
    """The ``static`` argument of the native factory: an app for each route, under its prefix.

    Raises ConfigError for a DIR that is not there.
    """
    prefixes = [(_as_sent(route.rstrip("/")), folder) for route, folder in config.static]
    return [(prefix, Static(prefix, Folder(folder), config.static_max_age_s)) for prefix, folder in prefixes]


def _as_sent(route: str) -> bytes:
    """A route is given as it is decoded; what comes is compared byte for byte."""
    return quote(route, safe=_PCHAR).encode()


class Chosen(NamedTuple):
    """What will be sent: the file or a compressed variant of it, which is open."""

    file: File
    kind: Kind
    coding: Coding | None

    def validators(self) -> Validators:
        found = self.file.stat
        etag = b'"%x-%x%b"' % (
            found.st_mtime_ns,
            found.st_size,
            b"-" + self.coding.name if self.coding else b"",
        )
        now = time.time()
        if now - found.st_mtime < YOUNG_S:
            etag = b"W/" + etag
        # §8.8.2.1: never later than the response.
        return Validators(etag, min(int(found.st_mtime), int(now)))


class Static:
    """The app of one route."""

    def __init__(self, prefix: bytes, folder: Folder, max_age_s: int) -> None:
        self._prefix = prefix
        self._folder = folder
        self._always: Headers = [_NOSNIFF]
        if max_age_s > 0:
            self._always.append((b"cache-control", b"public, max-age=%d" % max_age_s))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await _say(send, 405, (b"allow", b"GET, HEAD"))
            return
        fields: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _WANTED:
                fields[name] = fields[name] + b", " + value if name in fields else value
        try:
            chosen = self._choose(scope, fields)
        except Refused as refused:
            later = ((b"retry-after", b"1"),) if refused.status == 503 else ()
            await _say(send, refused.status, *later)
            return
        if chosen is None:
            await _say(send, 307, (b"location", _with_slash(scope)))
            return
        try:
            await self._send(send, chosen, fields, scope["method"] == "HEAD")
        finally:
            chosen.file.close()

    # Which file

    def _choose(self, scope: Scope, fields: Fields) -> Chosen | None:
        """None: a folder, whose name lacks its slash. Raises Refused."""
        raw, root = scope["raw_path"], scope["root_path"]
        if root:
            raw = raw.removeprefix(root.encode())
        if not raw.startswith(self._prefix):
            raise Refused(404)
        if raw == self._prefix:
            return None
        path = relative(raw[len(self._prefix) :])
        if path is None:
            raise Refused(404)
        if path.endswith(b"/"):
            path += INDEX
        kind = kind_of(path)
        if kind.compressible and b"accept-encoding" in fields:
            for coding in codings_for(fields[b"accept-encoding"]):
                variant = self._variant(path + coding.suffix)
                if variant is not None:
                    return Chosen(variant, kind, coding)
        file = self._folder.open(path)
        if file.is_folder:
            file.close()
            if path.endswith(b"/" + INDEX):
                raise Refused(404)
            return None
        return Chosen(file, kind, None)

    def _variant(self, path: bytes) -> File | None:
        try:
            file = self._folder.open(path) if self._folder.has(path) else None
        except Refused:
            return None
        if file is not None and file.is_folder:
            file.close()
            return None
        return file

    # What of it

    async def _send(self, send: Send, chosen: Chosen, fields: Fields, head_only: bool) -> None:
        validators = chosen.validators()
        size = chosen.file.stat.st_size
        headers = [
            (b"etag", validators.etag),
            (b"last-modified", http_date(validators.modified_s)),
            *self._always,
        ]
        if chosen.kind.compressible:
            headers.append(_VARY)
        status = status_of(fields, validators) if fields else 200
        if status == 412:
            await _say(send, 412)
            return
        if status == 304:
            await _start(send, 304, headers)
            await send({"type": _BODY})
            return
        headers.append(_RANGES)
        if chosen.coding is not None:
            headers.append((b"content-encoding", chosen.coding.name))
        ranges = None if head_only else ranges_of(fields, validators, size)
        if ranges is None:
            headers += [(b"content-type", chosen.kind.content_type), (b"content-length", b"%d" % size)]
            await _whole(send, chosen.file, headers, head_only)
        elif not ranges:
            await _say(send, 416, (b"content-range", b"bytes */%d" % size))
        elif len(ranges) == 1:
            await _part(send, chosen, headers, ranges[0])
        else:
            await _parts(send, chosen, headers, ranges)


# On the wire


async def _say(send: Send, status: int, *more: tuple[bytes, bytes]) -> None:
    """A response without a file."""
    text = HTTPStatus(status).phrase.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(text)),
        _NOSNIFF,
        *more,
    ]
    await _start(send, status, headers)
    await send({"type": _BODY, "body": text})


async def _start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": _START, "status": status, "headers": headers})


async def _whole(send: Send, file: File, headers: Headers, head_only: bool) -> None:
    if head_only:
        await _start(send, 200, headers)
        await send({"type": _BODY})
    else:
        await _bytes(send, 200, headers, file, Range(0, file.stat.st_size))


async def _part(send: Send, chosen: Chosen, headers: Headers, part: Range) -> None:
    headers += [
        (b"content-type", chosen.kind.content_type),
        (b"content-range", _content_range(part, chosen.file.stat.st_size)),
        (b"content-length", b"%d" % part.length),
    ]
    await _bytes(send, 206, headers, chosen.file, part)


async def _bytes(send: Send, status: int, headers: Headers, file: File, part: Range) -> None:
    if part.length > READ_BYTES:
        await _start(send, status, headers)
        await _long(send, file, part)
        return
    data = os.pread(file.fileno(), part.length, part.first)
    if len(data) < part.length:  # somebody is writing it
        await _say(send, 503, (b"retry-after", b"1"))
        return
    await _start(send, status, headers)
    await send({"type": _BODY, "body": data})


async def _long(send: Send, file: File, part: Range) -> None:
    """The end of a response. Closes the file."""
    try:
        sending = send({"type": _FILE, "file": file, "offset": part.first, "count": part.length})
    except OSError as error:
        if error.errno not in NO_DESCRIPTOR:
            raise
        await _copied(send, file, part)
        return
    file.close()  # send() has a descriptor of its own: a slow client holds one, not two
    await sending


async def _copied(send: Send, file: File, part: Range) -> None:
    """With our one descriptor, where there is no other. A file that became shorter ends in an error."""
    first, end = part.first, part.first + part.length
    while first < end:
        data = os.pread(file.fileno(), min(READ_BYTES, end - first), first)
        first += len(data)
        await send({"type": _BODY, "body": data, "more_body": first < end and bool(data)})
        if not data:
            return


async def _parts(send: Send, chosen: Chosen, headers: Headers, ranges: list[Range]) -> None:
    """multipart/byteranges (§14.6), in the order asked for."""
    boundary = secrets.token_hex(16).encode()
    size = chosen.file.stat.st_size
    heads = [
        b"\r\n--%b\r\ncontent-type: %b\r\ncontent-range: %b\r\n\r\n"
        % (boundary, chosen.kind.content_type, _content_range(part, size))
        for part in ranges
    ]
    end = b"\r\n--%b--\r\n" % boundary
    length = sum(map(len, heads)) + sum(part.length for part in ranges) + len(end)
    headers += [
        (b"content-type", b"multipart/byteranges; boundary=" + boundary),
        (b"content-length", b"%d" % length),
    ]
    await _start(send, 206, headers)
    for head, part in zip(heads, ranges, strict=True):
        await send({"type": _BODY, "body": head, "more_body": True})
        message = {"type": _FILE, "file": chosen.file, "offset": part.first, "count": part.length}
        await send({**message, "more_body": True})
    await send({"type": _BODY, "body": end})


def _content_range(part: Range, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (part.first, part.first + part.length - 1, size)


def _with_slash(scope: Scope) -> bytes:
    """The same folder with its slash, relative to what was asked for, so that no proxy need rewrite it.

    With ``./`` in front, or a name with a colon would be a scheme (RFC 3986 §4.2).
    """
    name: bytes = scope["raw_path"].rpartition(b"/")[2]
    query: bytes = scope["query_string"]
    return b"./" + name + b"/" + (b"?" + query if query else b"")
