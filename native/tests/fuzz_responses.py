"""A strict reader of what a connection sent, and what must hold of it.

``check(output, events, ended)``: ``events`` is what the server did, in order: a Call (fuzz_apps.py) for each
request that an app got, a Reject for each that it refused. Each is answered at most once, in this order, with
what the app said and nothing else; nothing follows a response that says close.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from fuzz_apps import Call

TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
HEAD = re.compile(
    rb"HTTP/1\.1 ([2-9][0-9]{2}) [\t\x20-\x7e\x80-\xff]*\r\n(?:%s+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n" % TCHAR
)
FRAMING = re.compile(
    rb"(?i)\r\n(content-length|transfer-encoding|connection|content-type|n):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)"
)
CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,16})\r\n")
TRAILER = re.compile(rb"(?!n:)[a-z]: [0-9]\r\n")  # those of fuzz_apps.py
HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n"
VERSION = b"HTTP/1.1 "
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Reject(NamedTuple):
    status: int
    reason: str


class Broken(AssertionError):
    """A property does not hold."""


class Response(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    body: bytes
    complete: bool
    end: int

    @property
    def closes(self) -> bool:
        return self.fields.get(b"connection") == b"close"


def must(condition: object, *what: object) -> None:
    if not condition:
        raise Broken(*what)


@lru_cache(4096)  # the same few, again and again
def read_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The status and the fields that frame, once each. A client may take any other as it likes."""
    line = HEAD.fullmatch(head)
    must(line, "no response head", head)
    found = FRAMING.findall(head)
    fields = {name.lower(): value for name, value in found}
    must(len(fields) == len(found), "twice", found)
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    must(length is None or coding is None, "length and coding", head)
    must(length is None or (length.isdigit() and len(length) < 20), "length", head)
    must(coding in (None, b"chunked"), "coding", head)
    return int(line[1]), fields


def skip_trailers(output: bytes, at: int) -> int:
    """Where the empty line behind them is; the end, if they are not whole."""
    while (field := TRAILER.match(output, at)) is not None:
        at = field.end()
    return at if output[at : at + 2] in (b"\r\n", b"\r", b"") else len(output)


def read_chunks(output: bytes, at: int) -> tuple[bytes, bool, int]:
    """The body, whether it is complete, and where it ends."""
    body = []
    while True:
        size = CHUNK_SIZE.match(output, at)
        if size is None:
            must(b"\r\n" not in output[at : at + 20], "chunk size", output[at : at + 40])
            return b"".join(body), False, len(output)
        at = size.end()
        length = int(size[1], 16)
        if length == 0:
            at = skip_trailers(output, at)
            end = output[at : at + 2]
            must(b"\r\n".startswith(end), "end of chunks", output[at : at + 40])
            return b"".join(body), end == b"\r\n", at + len(end)
        body.append(output[at : at + length])
        at += length
        end = output[at : at + 2]
        must(b"\r\n".startswith(end), "end of a chunk", output[at : at + 40])
        if len(end) < 2:
            return b"".join(body), False, len(output)
        at += 2


def read_response(output: bytes, at: int, bodiless: bool) -> Response | None:
    """The response at ``at``; None if its head is not whole. ``bodiless``: the request was HEAD."""
    begin = output.find(b"\r\n\r\n", at) + 4
    if begin < 4:
        must(output[at : at + 9] == VERSION[: len(output) - at], "no response", output[at:])
        return None
    status, fields = read_head(output[at:begin])
    if bodiless or status in (204, 304):
        must(
            bodiless or b"transfer-encoding" not in fields, "a coding where no body may be", output[at:begin]
        )
        return Response(status, fields, b"", True, begin)
    if b"transfer-encoding" in fields:
        return Response(status, fields, *read_chunks(output, begin))
    if b"content-length" in fields:
        end = begin + int(fields[b"content-length"])
        return Response(status, fields, output[begin:end], end <= len(output), min(end, len(output)))
    must(fields.get(b"connection") == b"close", "a body that only the end of the connection ends", fields)
    return Response(status, fields, output[begin:], False, len(output))


def check_answer(call: Call, response: Response) -> None:
    """``response`` is the app's own: it is what the app said."""
    must(response.status == call.status, "status", response.status, call.status)
    if call.method == "HEAD" or response.status in (204, 304):
        return
    sent = bytes(call.sent)
    must(sent.startswith(response.body), "body", response.body, sent)
    if b"transfer-encoding" in response.fields and response.complete:
        ended = call.finished or response.fields.get(b"content-type") == b"text/event-stream"
        must(ended, "a part looks like the whole", call)
    if call.finished and response.complete:
        must(response.body == sent, "length of the body", response.body, sent)
    if response.complete and b"content-length" in response.fields:
        must(len(sent) <= len(response.body), "more than promised", call)


def match(events: list[Call | Reject], at: int, response: Response) -> int:
    """How many events this response answers."""
    must(at < len(events), "more responses than requests", response)
    event, status = events[at], response.status
    number = response.fields.get(b"n")
    if number is not None:
        must(isinstance(event, Call) and number == b"%d" % event.index, "out of order", number, event)
        check_answer(event, response)
        return 1
    if isinstance(event, Reject):
        must(event.status == status, "another status than was reported", status, event)
        return 1
    if status == 500:
        must(event.failed, "500 although the app did not fail", event)
        return 1
    if status == 403 and event.denied:
        must(not response.body and response.complete, "a body nobody said", response)
        return 1
    following = events[at + 1] if at + 1 < len(events) else None
    must(isinstance(following, Reject) and following.status == status, "nobody said this", status, event)
    return 2


def skip_interim(output: bytes, at: int, event: Call | Reject | None) -> int:
    """Behind a 103 that the app sent, and a 100, which only a request that asked for one gets, once."""
    if output.startswith(HINT, at):
        must(isinstance(event, Call) and event.behaviour == "sends_trailers", "103 for nobody", event)
        at += len(HINT)
    if not output.startswith(CONTINUE, at):
        return at
    must(isinstance(event, Call) and event.expects_continue, "100 for nobody", event)
    at += len(CONTINUE)
    must(not output.startswith(CONTINUE, at), "100 twice", event)
    return at


def check(output: bytes, events: list[Call | Reject]) -> list[Response]:
    """Raises Broken unless ``output`` is what ``events`` allow. The responses whose heads are whole."""
    told = [event for event in events if not isinstance(event, Reject) or event.status]
    responses: list[Response] = []
    at = done = 0
    while at < len(output):
        must(not (responses and responses[-1].closes), "bytes behind a response that closes", output[at:])
        event = told[done] if done < len(told) else None
        at = skip_interim(output, at, event)
        if at == len(output):
            break
        if isinstance(event, Call) and event.accepted:
            event.check_wire(output[at:])
            break
        response = read_response(output, at, isinstance(event, Call) and event.method == "HEAD")
        if response is None:
            break
        if isinstance(event, Reject) and output.startswith(VERSION, response.end - len(response.body)):
            # Refused to HEAD: the app did not get it, so its method is only known from this.
            response = response._replace(body=b"", end=response.end - len(response.body), complete=True)
        done += match(told, done, response)
        responses.append(response)
        at = response.end
        must(response.complete or at == len(output), "something behind a part", output[at:])
    return responses
