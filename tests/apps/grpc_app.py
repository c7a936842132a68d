"""A gRPC service on plain ASGI, its wire spoken by hand: messages behind five bytes, the status in trailers.

What is said is bytes: no protocol buffers. (gRPC over HTTP/2, "Requests" and "Responses".)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

NOTES = Path(os.environ.get("NOTES", "."))
OK, NOT_FOUND, UNIMPLEMENTED = b"0", b"5", b"12"
CONTENT_TYPE = (b"content-type", b"application/grpc")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
        return
    fields = dict(scope["headers"])
    assert (scope["method"], fields[b"te"]) == ("POST", b"trailers")
    assert fields[b"content-type"].startswith(b"application/grpc")
    call = CALLS.get(scope["path"])
    if call is None:
        await at_once(send, UNIMPLEMENTED, b"no such method")
    else:
        await call(scope, receive, send)


async def messages(receive: Any) -> AsyncIterator[bytes]:
    """What the client says, message by message, however it is cut."""
    data, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError("the client has cancelled")
        data, more = data + event["body"], event["more_body"]
        while len(data) >= 5 and len(data) >= 5 + (size := int.from_bytes(data[1:5], "big")):
            assert data[0] == 0, "nobody agreed on a compression"
            yield data[5 : 5 + size]
            data = data[5 + size :]
    assert data == b"", "half a message"


async def begin(send: Any) -> None:
    fields = [CONTENT_TYPE, (b"x-initial", b"metadata")]
    await send({"type": "http.response.start", "status": 200, "headers": fields, "trailers": True})


async def say(send: Any, message: bytes) -> None:
    data = b"\0" + len(message).to_bytes(4, "big") + message
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def end(send: Any, status: bytes = OK, text: bytes = b"") -> None:
    await send({"type": "http.response.body"})
    fields = [(b"grpc-status", status), (b"grpc-message", text), (b"x-final", b"metadata")]
    await send({"type": "http.response.trailers", "headers": fields})


async def at_once(send: Any, status: bytes, text: bytes) -> None:
    """The status in the head of a response that has nothing else."""
    fields = [CONTENT_TYPE, (b"grpc-status", status), (b"grpc-message", text)]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body"})


async def unary(scope: Any, receive: Any, send: Any) -> None:
    [message] = [one async for one in messages(receive)]
    await begin(send)
    await say(send, message[::-1])
    await end(send)


async def count(scope: Any, receive: Any, send: Any) -> None:
    """As many messages as the client has said, each longer than the one before."""
    [wanted] = [int(one) async for one in messages(receive)]
    await begin(send)
    for number in range(wanted):
        await say(send, b"x" * number)
    await end(send)


async def add(scope: Any, receive: Any, send: Any) -> None:
    """One answer to a stream of numbers."""
    total = sum([int(one) async for one in messages(receive)])
    await begin(send)
    await say(send, b"%d" % total)
    await end(send)


async def chat(scope: Any, receive: Any, send: Any) -> None:
    """Each message is answered before the next one comes."""
    await begin(send)
    async for message in messages(receive):
        await say(send, b"re: " + message)
    await end(send)


async def miss(scope: Any, receive: Any, send: Any) -> None:
    """A failure behind a message."""
    [_] = [one async for one in messages(receive)]
    await begin(send)
    await say(send, b"as far as it went")
    await end(send, NOT_FOUND, b"not there")


async def forever(scope: Any, receive: Any, send: Any) -> None:
    """Messages until the client cancels; then a note."""
    [_] = [one async for one in messages(receive)]
    gone = asyncio.ensure_future(receive())
    await begin(send)
    while not gone.done():
        await say(send, b"tick")
        await asyncio.wait({gone}, timeout=0.01)
    assert gone.result() == {"type": "http.disconnect"}
    (NOTES / "cancelled").touch()


CALLS = {
    "/test.Echo/Unary": unary, "/test.Echo/Count": count, "/test.Echo/Add": add, "/test.Echo/Chat": chat,
    "/test.Echo/Miss": miss, "/test.Echo/Forever": forever,
}  # fmt: skip
