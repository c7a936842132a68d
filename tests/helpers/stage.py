"""A server whose responses are known to the last byte, and an app that sends what a test tells it to.

Rules of this file: what came over the socket is kept as it is, not only parsed: the server names neither
itself nor the date. Behind each request there is another one in the same segment, whose answer (``mark``)
must begin exactly where the first one ends. h11 and httptools, parsers that are not ours, must find the
same two messages.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httptools

from tests.helpers.asgi import read_body, reply
from tests.helpers.http1 import Client, ResponseReader, Server, get

# RFC 9110 §5.6.2 and §5.5, written down anew.
TCHAR = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
FIELD_VALUE = {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}
PLACES = {"beginning": b"%bab", "middle": b"a%bb", "end": b"ab%b", "alone": b"%b"}

SPLIT = b"\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil"
SERVER_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\n\r\nInternal Server Error"
)


def start(*fields: Any, status: Any = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(fields)}


def bodies(*pieces: Any) -> list[dict[str, Any]]:
    return [
        {"type": "http.response.body", "body": piece, "more_body": i < len(pieces) - 1}
        for i, piece in enumerate(pieces)
    ]


def answer(status_line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status_line, *fields, b"", body])


class Stage:
    """The server, an app that sends what it is told to, and a connection to them."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex.encode()  # nobody can have put this into a response before
        self.marked = answer(b"200 OK", b"content-length: 32", body=self.mark)
        self.messages: list[Any] = []
        self.suspending = False
        self.refused: list[type[BaseException]] = []
        self.server = Server(self.app, server_header=False, date_header=False)
        self._client: Client | None = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/mark":
            await reply(send, self.mark)
            return
        await read_body(receive)
        for message in self.messages:
            if self.suspending:
                await asyncio.sleep(0)
            await send(message)

    def play(self, *messages: Any, request: bytes = get("/app")) -> bytes:
        """Everything that came for this request and for ``/mark`` behind it."""
        self.messages = list(messages)
        client = self._client or self.server.connect()
        client.send(request, get("/mark"))
        raw = b""
        while not raw.endswith(self.marked) and (data := client.receive()):
            raw += data
        self._client = client if raw.endswith(self.marked) else None
        self.server.call(lambda: None)  # what the server was in the middle of is over
        self.refused = [type(report.error) for report in self.server.errors]
        self.server.errors.clear()
        return raw

    def response(self, *messages: Any, request: bytes = get("/app"), method: str = "GET") -> bytes:
        """The response to this request, between which and the next one there is nothing."""
        raw = self.play(*messages, request=request)
        assert raw.endswith(self.marked), raw
        assert raw.count(self.mark) == 1
        found = raw.removesuffix(self.marked)
        self.assert_others_agree(raw, method)
        return found

    def last_response(self, *messages: Any, request: bytes = get("/app")) -> bytes:
        """The same for one after which the server closes."""
        raw = self.play(*messages, request=request)
        assert self.mark not in raw, raw
        return raw

    def assert_others_agree(self, raw: bytes, method: str = "GET") -> None:
        """Two messages, the second of which is the mark, in everybody's eyes."""
        h11s = framed_by_h11(raw, [method, "GET"])
        assert h11s[1] == (200, self.mark), raw
        if method == "GET":  # httptools cannot be told that there is no body
            assert framed_by_httptools(raw) == h11s

    def stop(self) -> None:
        if self._client is not None:
            self._client.half_close()
            assert self._client.rest() == b""  # nothing ever came that was not asked for
        self.server.stop()


Framed = list[tuple[int, bytes]]


def framed_by_h11(raw: bytes, methods: list[str]) -> Framed:
    reader = ResponseReader(lambda: b"")
    reader.buffered = raw
    found = [reader.response(method) for method in methods]
    assert reader.buffered == b"", raw
    return [(response.status, response.body) for response in found]


def framed_by_httptools(raw: bytes) -> Framed:
    class Messages:
        def __init__(self) -> None:
            self.found: Framed = []
            self.body = b""
            self.parser = httptools.HttpResponseParser(self)

        def on_message_begin(self) -> None:
            self.body = b""

        def on_body(self, data: bytes) -> None:
            self.body += data

        def on_message_complete(self) -> None:
            self.found.append((self.parser.get_status_code(), self.body))

    messages = Messages()
    messages.parser.feed_data(raw)
    return messages.found
