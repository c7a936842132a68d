"""WSGI apps (PEP 3333) behind the ASGI server: a bounded number of threads, streams both ways.

Rules of this file: it has the loop's side only; nothing here blocks. A request is a coroutine that carries
out what its thread wants (``wsgi_bridge.py``), and is not over before its thread is, so that a drain waits
for the app. The first part of the body is awaited before a thread is taken, because most bodies have one
part, and a client that has announced a body and sends none shall hold no thread; but not for one that waits
for "100 Continue", as the app may refuse before it reads.

    scope ── wsgi_environ.py ─┐
    receive ── wsgi_input.py ─┴─ app, in one of wsgi_threads.py ─ wsgi_response.py ─ wsgi_bridge.py ── send
                                                                  wsgi_files.py
"""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import Any

from ..errors import ClientDisconnected
from ..types import Message, Receive, Scope, Send
from . import wsgi_input
from .wsgi_bridge import END, READ, Bridge
from .wsgi_environ import Environs
from .wsgi_response import Response, WSGIApp
from .wsgi_threads import Threads

GONE = "the client went away"
CUT = "the server has cut the request"


class Wsgi:
    """A WSGI app as an ASGI 3 app, for HTTP only. Needs no lifespan; starts its threads with its first
    requests."""

    def __init__(self, app: WSGIApp, *, threads: int, underscores: bool = False) -> None:
        """``threads``: how many requests run at once; more wait, in order. ``underscores``: whether header
        names with an underscore come to the app."""
        self._app = app
        self.threads = Threads(threads)
        self._environs = Environs(multithread=threads > 1, underscores=underscores)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"WSGI has no {scope['type']}")
        environ = self._environs.make(scope)
        bridge = Bridge(asyncio.get_running_loop())
        exchange = _Exchange(bridge, receive, send)
        if "HTTP_EXPECT" in environ:
            environ["wsgi.input"] = wsgi_input.in_parts(bridge.read)
        else:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = exchange.part_in(message)
            environ["wsgi.input"] = wsgi_input.in_parts(bridge.read, body) if more else wsgi_input.whole(body)
        files = "http.response.zerocopysend" in (scope.get("extensions") or ())
        response = Response(self._app, environ, bridge, may_send_files=files)
        self.threads.submit(partial(contextvars.copy_context().run, _run, bridge, response))
        try:
            await exchange.run()
        except asyncio.CancelledError:
            bridge.break_off(CUT)
            raise


def _run(bridge: Bridge, response: Response) -> None:
    """In a thread. A request that was cut while it waited for one does not begin."""
    if not bridge.broken:
        response.run()


class _Exchange:
    """The coroutine of one request."""

    __slots__ = ("_body_over", "_bridge", "_receive", "_refused", "_send", "_streaming", "_watcher")

    def __init__(self, bridge: Bridge, receive: Receive, send: Send) -> None:
        self._bridge = bridge
        self._receive = receive
        self._send = send
        self._body_over = False
        self._streaming = False  # the response has begun and goes on
        self._refused: Exception | None = None  # what send() said to a message
        self._watcher: asyncio.Task[None] | None = None

    def part_in(self, message: Message) -> tuple[bytes, bool]:
        """What an ``http.request`` brings: its part of the body, and whether there is more."""
        more: bool = message.get("more_body", False)
        self._body_over = not more
        return message.get("body", b""), more

    async def run(self) -> None:
        """Carry out the orders of the thread until it ends. Raises what the app raised."""
        bridge = self._bridge
        try:
            while True:
                order = bridge.next_at_once()
                if order is None:
                    self._watch()
                    order = await bridge.next()
                if order is END:
                    break
                if order is READ:
                    await self._read()
                else:
                    await self._pass_on(*order)
        finally:
            if self._watcher is not None:
                self._watcher.cancel()
        if self._watcher is not None:
            await asyncio.wait({self._watcher})
        error = self._refused or bridge.error
        if error is not None:
            try:
                raise error
            finally:
                # Or it would hold itself, by its traceback and this frame.
                error = self._refused = bridge.error = None

    async def _read(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._bridge.break_off(f"{GONE} before its whole body had come")
        else:
            self._bridge.give(*self.part_in(message))

    async def _pass_on(self, message: Any, size: int) -> None:
        """Send it, unless an earlier one could not be sent: then there is no point, but the thread has to
        end."""
        if self._refused is None and not self._bridge.broken:
            try:
                await self._send(message)
            except ClientDisconnected:
                self._bridge.break_off(GONE)
            except Exception as error:
                self._refused = error
                self._bridge.break_off(f"the response was refused: {error}")
            else:
                self._streaming = message.get("more_body", False)
        self._bridge.sent(size)

    def _watch(self) -> None:
        """See that the client goes while the app takes its time for the next block. A server that wants
        streams to end says that it went, too."""
        if self._streaming and self._body_over and self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._bridge.break_off(GONE)
