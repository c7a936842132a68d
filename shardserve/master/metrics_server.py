"""HTTP for whoever watches the server: ``--metrics``, on an address of the master's own.

Rules of this file: those of ``control_socket.py``. Nothing blocks, no client can hold up or fill up the
master, and everything is behind one descriptor, an epoll of its own. ``turn`` hands over Scrapes; what each
path answers is ``scrapes.py``'s.

This is no second web server. A connection carries one request, GET or HEAD, and is closed; the request's
head is read strictly, with regular expressions, because the master has no parser (httptools is the
workers'), and because what is not exactly a request (RFC 9112 §2, §3, §5) gets a 400. Whoever takes more
than PATIENCE_S for the head, or for taking a part of the answer, is dropped. When all places are taken, the
one who has been silent longest makes room, so that connections nobody uses do not keep a scrape out.
"""

from __future__ import annotations

import errno
import logging
import re
import select
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from ..config.addresses import TcpBind, UnixBind, parse_metrics
from ..errors import ListenError
from ..net import listeners as net

MOST_CLIENTS: Final = 32
BACKLOG: Final = 128
HEAD_MAX_BYTES: Final = 8192
# For the head, and then for each part of the answer.
PATIENCE_S: Final = 10.0
# After the answer: what was sent besides is read and dropped for so long, or closing would reset the
# connection, and take the answer away again from whoever has not read it yet (RFC 9112 §9.6).
LINGER_S: Final = 1.0
LINGER_MAX_BYTES: Final = 256 * 1024
# Without a free descriptor nothing can be accepted, and the queue would wake us up again at once.
ACCEPT_PAUSE_S: Final = 1.0
# Of a Unix socket: the server's user and group. A scraper that is neither needs an address.
UNIX_MODE: Final = 0o660
_READ_BYTES: Final = 64 * 1024
_NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# RFC 9112 §3, RFC 9110 §5.6.2. No white space but one space, no line end but CRLF, no obs-fold.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(
    rb"(?P<method>%b) (?P<target>[\x21-\x7e]+) HTTP/(?P<version>[0-9]\.[0-9])" % _TOKEN
)
_FIELD = re.compile(rb"(?P<name>%b):[ \t]*(?P<value>[\t\x20-\x7e\x80-\xff]*?)[ \t]*" % _TOKEN)
_BARE_LF = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
# origin-form, or the absolute-form that every server must accept (RFC 9112 §3.2.2)
_TARGET = re.compile(r"(?:(?=/)|http://[^/?#]+)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?", re.IGNORECASE)
_EMPTY_LINES = re.compile(rb"(?:\r\n)*")

log = logging.getLogger("shardserve.master")


class BadRequest(Exception):
    """What came is no request that we answer. ``status``: what we say instead."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Request:
    """The head of a request."""

    def __init__(self, head: bytes) -> None:
        """``head``: without the empty line at its end. Raises BadRequest."""
        if _BARE_LF.search(head):
            raise BadRequest(HTTPStatus.BAD_REQUEST, "lines end with CRLF")
        first, *lines = head.split(b"\r\n")
        line = _REQUEST_LINE.fullmatch(first)
        if line is None:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "that is no request line")
        if line["version"] not in (b"1.1", b"1.0"):
            raise BadRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this speaks HTTP/1.1")
        self.method = line["method"].decode()
        target = _TARGET.fullmatch(line["target"].decode())
        if target is None:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "that is no path")
        self.path = target["path"] or "/"
        self.query = target["query"] or ""
        self.fields = _fields(lines)
        if line["version"] == b"1.1" and "host" not in self.fields:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "there is no Host field")


def _fields(lines: Sequence[bytes]) -> Mapping[str, str]:
    """By name, in lower case; of one that comes twice, both values (RFC 9110 §5.3). Raises BadRequest."""
    found: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "that is no header field")
        name, value = field["name"].decode().lower(), field["value"].decode("latin-1")
        if name == "host" and name in found:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "there is more than one Host field")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


class Scrape:
    """One request, to be answered once. Answering a client that has gone does nothing."""

    def __init__(self, client: _Client, request: Request) -> None:
        self._client = client
        self.request = request

    def answer(self, status: int, body: bytes, fields: Mapping[str, str]) -> None:
        """``fields`` besides those of every answer; with them one says of what type the body is."""
        self._client.answer(status, body, fields, with_body=self.request.method != "HEAD")


class MetricsServer:
    """Listens on an address of ``--metrics``. Raises ListenError if that cannot be had."""

    def __init__(self, address: str) -> None:
        bind: TcpBind | UnixBind = parse_metrics(address)
        if isinstance(bind, UnixBind):
            bind = UnixBind(bind.path, UNIX_MODE)
        try:
            self._listeners = net.Listeners([bind], slots=1, backlog=BACKLOG)
        except ListenError as error:
            raise ListenError(f"metrics: {error}") from error
        self._clients: dict[int, _Client] = {}
        self._now = 0.0
        self._accept_again_at: float | None = None
        self._epoll = select.epoll()
        self._sockets = {
            one.sock.fileno(): one.sock for one in (*self._listeners.of_slot(0), *self._listeners.shared)
        }
        for sock in self._sockets.values():
            sock.setblocking(False)
            self._epoll.register(sock, select.EPOLLIN)

    @property
    def pages(self) -> list[str]:
        """Where the metrics are, for people."""
        return [url if url.startswith("unix:") else f"{url}/metrics" for url in self._listeners.urls]

    def fileno(self) -> int:
        """Readable when ``turn`` has something to do. The same number all the time."""
        return self._epoll.fileno()

    def turn(self, now: float) -> list[Scrape]:
        """Accept, read, write, and drop whoever takes too long. The requests that came."""
        self._now = now
        if self._accept_again_at is not None and self._accept_again_at <= now:
            self._accept_again_at = None
            self._listen(select.EPOLLIN)
        found = []
        ready = self._epoll.poll(0)
        for fd, events in ready:
            if (client := self._clients.get(fd)) is not None and (request := client.turn(events)):
                found.append(Scrape(client, request))
        for fd, _ in ready:  # last: a new connection may get the number of one that was closed above
            if fd in self._sockets:
                found += self._accept(self._sockets[fd])
        for client in list(self._clients.values()):
            if client.deadline <= now:
                log.debug("metrics: a client takes too long: dropped")
                client.close()
        return found

    def next_deadline(self) -> float | None:
        """When ``turn`` has something to do although nothing happened."""
        times = [client.deadline for client in self._clients.values()]
        return min((at for at in (*times, self._accept_again_at) if at is not None), default=None)

    def close(self) -> None:
        """Hang up on everybody, and let the address go."""
        if not self._epoll.closed:
            for client in list(self._clients.values()):
                client.close()
            self._listeners.close()
            self._epoll.close()

    def _listen(self, events: int) -> None:
        for fd in self._sockets:
            self._epoll.modify(fd, events)

    def _accept(self, listener: socket.socket) -> list[Scrape]:
        """Whoever waits; most have sent their request already."""
        found = []
        for _ in range(MOST_CLIENTS):  # level-triggered: the others wait for the next turn
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._accept_again_at = self._now + ACCEPT_PAUSE_S
                    self._listen(0)
                    log.warning("metrics: cannot accept: %s; trying again in a second", error.strerror)
                break
            if len(self._clients) >= MOST_CLIENTS:
                min(self._clients.values(), key=lambda one: one.deadline).close()
            try:
                client = _Client(self, sock)
            except OSError as error:  # fs.epoll.max_user_watches, or no memory
                sock.close()
                log.warning("metrics: cannot serve a client: %s", error.strerror)
                break
            if (request := client.turn(select.EPOLLIN)) is not None:
                found.append(Scrape(client, request))
        return found


class _Client:
    """One connection: it asks, is answered, and is read to its end for a moment."""

    def __init__(self, owner: MetricsServer, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.open = True
        self.deadline = owner._now + PATIENCE_S
        self._owner = owner
        self._sock = sock
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._asked = False  # nothing that comes from now on is of interest
        self._answered = False
        self._lingers = False
        self._dropped_bytes = 0
        owner._epoll.register(sock, select.EPOLLIN)
        owner._clients[sock.fileno()] = self

    def turn(self, events: int) -> Request | None:
        """What the poll says is to be done. The request, when its head is complete."""
        request = None
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self.close()
        if self.open and events & select.EPOLLIN:
            request = self._read()
        if self.open and events & select.EPOLLOUT and self._unsent:
            self._flush()
        return request if self.open else None

    def answer(self, status: int, body: bytes, fields: Mapping[str, str], *, with_body: bool) -> None:
        """The last that it is told. HEAD and GET differ in nothing but the body (RFC 9110 §9.3.2)."""
        if not self.open or self._answered:
            return
        self._answered = True
        self._unsent = memoryview(_head(status, fields, len(body)) + (body if with_body else b""))
        self._flush()

    def close(self) -> None:
        if self.open:
            self.open = False
            del self._owner._clients[self._sock.fileno()]
            self._owner._epoll.unregister(self._sock)
            self._sock.close()
            self._unsent = memoryview(b"")

    def _read(self) -> Request | None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._hear_the_end()
        elif self._asked:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_MAX_BYTES:
                self.close()
        else:
            self._received += data
            return self._request()
        return None

    def _hear_the_end(self) -> None:
        """It sends no more. Whoever has asked may still wait for the answer."""
        if self._asked and not self._lingers:
            self._watch(hears=False)
        else:
            self.close()

    def _request(self) -> Request | None:
        """The request, if all of its head is here; one that is none is answered at once."""
        # RFC 9112 §2.2: empty lines before a request are to be ignored.
        if empty := _EMPTY_LINES.match(self._received):
            del self._received[: empty.end()]
        head, end, _ = bytes(self._received[: HEAD_MAX_BYTES + 4]).partition(b"\r\n\r\n")
        try:
            if end:
                self._asked = True
                self._received.clear()
                return Request(head)
            if len(self._received) > HEAD_MAX_BYTES:
                raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is over 8 KiB")
            if _BARE_LF.search(head):  # a head that will never end
                raise BadRequest(HTTPStatus.BAD_REQUEST, "lines end with CRLF")
        except BadRequest as error:
            self._asked = True
            self._received.clear()
            fields = {"Content-Type": "text/plain; charset=utf-8"}
            self.answer(error.status, f"{error}\n".encode(), fields, with_body=True)
        return None

    def _flush(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
                self.deadline = self._owner._now + PATIENCE_S
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            self.close()  # it is gone
            return
        self._lingers = True
        self.deadline = self._owner._now + LINGER_S
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._watch()

    def _watch(self, *, hears: bool = True) -> None:
        """EPOLLHUP and EPOLLERR are always watched for."""
        events = (select.EPOLLIN if hears else 0) | (select.EPOLLOUT if self._unsent else 0)
        self._owner._epoll.modify(self._sock, events)


def _head(status: int, fields: Mapping[str, str], length: int) -> bytes:
    lines = {
        "Date": formatdate(usegmt=True),
        "Connection": "close",
        "Content-Length": str(length),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        **fields,
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{text}\r\n".encode("latin-1")
