"""An app that fails with what a client sent: in messages, notes, names; in tasks, threads and finalizers.

Rules of this file: the path is ``/KIND/…``, the text to fail with is the whole decoded path, or the header
``x-text``. Each kind but the last few ends as the app's error.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

own_log = logging.getLogger("noisy")
own_log.addHandler(logging.StreamHandler(sys.stderr))
own_log.propagate = False


class Mute(Exception):
    """Says its text in place of being a string."""

    def __str__(self) -> str:
        raise ValueError(*self.args)


class Doomed:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __del__(self) -> None:
        raise ValueError(self.text)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    fields = dict(scope["headers"])
    text = fields[b"x-text"].decode("latin-1") if b"x-text" in fields else scope["path"]
    kind = scope["path"].split("/")[1].replace("-", "_")
    await KINDS.get(kind, ok)(text, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def ok(text: str, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


# The app's error


async def value(text: str, receive: Any, send: Any) -> None:
    raise ValueError(text)


async def key(text: str, receive: Any, send: Any) -> None:
    raise KeyError(text)


async def note(text: str, receive: Any, send: Any) -> None:
    error = ValueError("with notes")
    error.add_note(text)
    error.add_note(text)
    raise error


async def group(text: str, receive: Any, send: Any) -> None:
    inner = ExceptionGroup(text, [ValueError(text), KeyError(text)])
    raise ExceptionGroup(text, [inner, OSError(text), Mute(text)]) from ValueError(text)


async def context(text: str, receive: Any, send: Any) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        raise LookupError(text)  # noqa: B904 (the context is the point)


async def mute(text: str, receive: Any, send: Any) -> None:
    raise Mute(text)


async def syntax(text: str, receive: Any, send: Any) -> None:
    compile(f"x = (1\n{text}", text.replace("\0", "0"), "exec")


async def syntax_error(text: str, receive: Any, send: Any) -> None:
    raise SyntaxError(text, (text, 1, 2, text))


async def named(text: str, receive: Any, send: Any) -> None:
    raise type(text.replace("\0", "0"), (Exception,), {"__module__": text})(text)


async def frame(text: str, receive: Any, send: Any) -> None:
    """A template's frame has the template's name."""
    exec(compile("raise ValueError('in a template')", text.replace("\0", "0"), "exec"), {})


async def bad_header(text: str, receive: Any, send: Any) -> None:
    fields = [(b"location", text.encode("utf-8", "surrogateescape"))]
    await send({"type": "http.response.start", "status": 302, "headers": fields})


async def bad_length(text: str, receive: Any, send: Any) -> None:
    fields = [(b"content-length", b"\xc2\x9b" + text.encode("utf-8", "surrogateescape"))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})


async def bad_type(text: str, receive: Any, send: Any) -> None:
    await send({"type": text})


async def late(text: str, receive: Any, send: Any) -> None:
    """Fails when it has begun to answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await asyncio.sleep(0)
    raise ValueError(text)


# Nobody's error


async def task(text: str, receive: Any, send: Any) -> None:
    async def fail() -> None:
        raise ValueError(text)

    failed = asyncio.create_task(fail(), name=text)
    await asyncio.wait({failed})
    del failed  # nobody has asked for its result: the event loop's exception handler is told
    await ok(text, receive, send)


async def callback(text: str, receive: Any, send: Any) -> None:
    def fail() -> None:
        raise ValueError(text)

    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0.001)
    await ok(text, receive, send)


async def finalizer(text: str, receive: Any, send: Any) -> None:
    Doomed(text)
    await ok(text, receive, send)


async def thread(text: str, receive: Any, send: Any) -> None:
    def fail() -> None:
        raise ValueError(text)

    one = threading.Thread(target=fail, name=text.replace("\0", "0"))
    one.start()
    one.join()
    await ok(text, receive, send)


# Not an error


async def gone(text: str, receive: Any, send: Any) -> None:
    """Begins to answer, waits for the client to go, and goes on answering."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.body", "body": b"the rest"})


async def own(text: str, receive: Any, send: Any) -> None:
    """A log of the app's own, on the same stderr."""
    own_log.error("own: %s", text)
    await ok(text, receive, send)


APP_ERRORS = {
    "value": value, "key": key, "note": note, "group": group, "context": context, "mute": mute,
    "syntax": syntax, "syntax_error": syntax_error, "named": named, "frame": frame, "bad_header": bad_header,
    "bad_length": bad_length, "bad_type": bad_type, "late": late,
}  # fmt: skip
UNCAUGHT = {"task": task, "callback": callback, "finalizer": finalizer, "thread": thread}
KINDS = {**APP_ERRORS, **UNCAUGHT, "gone": gone, "own": own}
