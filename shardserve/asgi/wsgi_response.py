"""The thread's side of a WSGI request: runs the app, and says its response in ASGI messages (PEP 3333).

Rules of this file: everything here runs in a thread of the pool and touches nothing of the loop's but
through the bridge. The head goes out with the first block that is not empty, or at the end; a block is
never held back for the next one. The app's ``close()`` is called once, whatever happened. What the app
raises is kept for the coroutine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from ..errors import ClientDisconnected
from ..types import Message
from .wsgi_bridge import HIGH_BYTES, Bridge
from .wsgi_environ import Environ
from .wsgi_files import FileWrapper, Part, part_of

WSGIApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]

# A list of blocks that is no longer than this is sent as one.
JOIN_BYTES = 65536
NO_BODY = (204, 205, 304)


class Response:
    """One request and its response. ``run`` it once."""

    __slots__ = ("_app", "_bridge", "_environ", "_head", "_length", "_may_send_files", "_sent", "_sent_bytes")

    def __init__(self, app: WSGIApp, environ: Environ, bridge: Bridge, *, may_send_files: bool) -> None:
        """``may_send_files``: the server takes ``http.response.zerocopysend``."""
        self._app = app
        self._environ = environ
        self._bridge = bridge
        self._may_send_files = may_send_files
        self._head: Message | None = None
        self._length: int | None = None  # what Content-Length says
        self._sent = False  # the head has been given to the coroutine
        self._sent_bytes = 0

    def run(self) -> None:
        """Never raises."""
        error: BaseException | None = None
        try:
            self._answer()
        except ClientDisconnected:
            pass  # ours: the bridge is broken, and nobody is left who would want to know
        except (SystemExit, KeyboardInterrupt) as left:
            # As it is, it would end the event loop.
            error = RuntimeError(f"the WSGI app raised {left!r}")
            error.__cause__ = left
        except BaseException as failure:
            error = failure
        self._bridge.end(error)

    def _answer(self) -> None:
        blocks = self._app(self._environ, self.start_response)
        try:
            self._transmit(blocks)
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    # What the app calls

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable". Raises TypeError or ValueError for a head that is
        none."""
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the traceback's frames, this one, would hold it
        elif self._head is not None:
            raise RuntimeError("the WSGI app called start_response() again, without exc_info")
        fields, self._length = _fields(headers)
        self._head = {"type": "http.response.start", "status": _status(status), "headers": fields}
        return self.write

    def write(self, block: bytes) -> None:
        """PEP 3333, "The write() Callable"."""
        if not isinstance(block, bytes):
            raise _not_bytes(block)
        if block:
            self._send(block, more=True)

    # What it returns

    def _transmit(self, blocks: Iterable[bytes]) -> None:
        if isinstance(blocks, FileWrapper) and self._send_file(blocks):
            return
        if type(blocks) in (list, tuple):
            blocks = _joined(blocks)  # type: ignore[arg-type]
            if len(blocks) == 1:
                if not isinstance(blocks[0], bytes):
                    raise _not_bytes(blocks[0])
                self._send(blocks[0], more=False)
                return
        for block in blocks:
            if not isinstance(block, bytes):
                raise _not_bytes(block)
            if block and self._is_last(block):
                self._send(block, more=False)
                return
            if block:
                self._send(block, more=True)
        self._send(b"", more=False)

    def _is_last(self, block: bytes) -> bool:
        """Whether Content-Length says that nothing follows ("should cease iterating", PEP 3333)."""
        if self._head is None or self._length is None:
            return False
        return self._sent_bytes + len(block) == self._length

    def _send(self, block: bytes, *, more: bool) -> None:
        self._sent_bytes += len(block)
        body = ({"type": "http.response.body", "body": block, "more_body": more}, len(block))
        if self._sent:
            self._bridge.send(body)
        else:
            self._bridge.send((self._start(), 0), body)

    def _start(self) -> Message:
        if self._head is None:
            raise RuntimeError(
                "the WSGI app did not call start_response() before the first block of its response"
            )
        self._sent = True
        return self._head

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """False: it has to be read."""
        part = part_of(wrapper.filelike)
        if part is None or self._head is None or self._sent:
            return False
        if self._environ["REQUEST_METHOD"] == "HEAD" or self._head["status"] in NO_BODY:
            if self._length is None and self._head["status"] not in NO_BODY:
                self._head["headers"].append((b"content-length", b"%d" % part.length))
            self._send(b"", more=False)
            return True
        if not self._may_send_files or not part.length:
            return False
        self._send_part(part)
        return True

    def _send_part(self, part: Part) -> None:
        count = part.length if self._length is None else min(part.length, self._length)
        if self._length is None:
            # It is known, and so the client can tell a part from the whole.
            assert self._head is not None
            self._head["headers"].append((b"content-length", b"%d" % count))
        message = {
            "type": "http.response.zerocopysend",
            "file": part.file,
            "offset": part.offset,
            "count": count,
            "more_body": False,
        }
        # It must be open until it is sent, so this waits.
        self._bridge.send((self._start(), 0), (message, HIGH_BYTES), wait=True)


def _status(status: str) -> int:
    if not isinstance(status, str):
        raise TypeError(
            f"start_response(): the status is a str such as '200 OK', not {type(status).__name__}"
        )
    number = status[:3]
    if not (number.isascii() and number.isdigit() and status[3:4] in ("", " ")):
        raise ValueError(
            f"start_response(): the status begins with three digits, as '200 OK' does, not {status!r}"
        )
    return int(number)


def _fields(headers: list[tuple[str, str]]) -> tuple[list[tuple[bytes, bytes]], int | None]:
    """The fields as ASGI has them, and what Content-Length says, if it is there and a number."""
    fields = []
    length = None
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"start_response(): names and values of headers are str, not {name!r}: {value!r}")
        field = name.lower().encode("latin-1")
        fields.append((field, value.encode("latin-1")))
        if field == b"content-length" and value.isascii() and value.isdigit():
            length = int(value)
    return fields, length


def _joined(blocks: list[bytes] | tuple[bytes, ...]) -> list[bytes] | tuple[bytes, ...]:
    """Small blocks as one: they are all there, so none is held back for another."""
    if len(blocks) == 1:
        return blocks
    size = 0
    for block in blocks:
        if not isinstance(block, bytes):
            raise _not_bytes(block)
        size += len(block)
    return [b"".join(blocks)] if size <= JOIN_BYTES else blocks


def _not_bytes(block: object) -> TypeError:
    return TypeError(f"a WSGI app's response is made of bytes; this one has {type(block).__name__}")
