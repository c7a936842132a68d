"""What lies between the thread that runs a WSGI app and the coroutine that stands for it in the event loop.

Rules of this file: the thread gives orders (messages to send, READ, END), the coroutine carries them out
one after the other. All that both sides touch is guarded by one lock, which nobody holds while he waits for
anything else. The thread waits in two places only: for the next part of the body, and while ``HIGH_BYTES``
of its response wait to be sent. A bridge that is broken (client gone, request cut) wakes the thread, and
all that it asks from then on raises ClientDisconnected.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

from ..errors import ClientDisconnected
from ..types import Message

# Of a response, between thread and loop: as much as the server gathers for one write, roughly.
HIGH_BYTES = 65536

READ = object()
END = object()


class Bridge:
    """One request's. Methods say which side calls them."""

    __slots__ = (
        "_asleep",
        "_changed",
        "_loop",
        "_orders",
        "_over",
        "_part",
        "_unsent_bytes",
        "_waiter",
        "broken",
        "error",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition(threading.Lock())
        self._orders: deque[Any] = deque()
        self._asleep = False  # the coroutine has to be woken to see an order
        self._waiter: asyncio.Future[None] | None = None
        self._unsent_bytes = 0
        self._part: tuple[bytes, bool] | None = None
        self._over = False  # the app is done
        self.broken = ""  # why
        self.error: BaseException | None = None  # what the app raised

    # The thread's side

    def send(self, *messages: tuple[Message, int], wait: bool = False) -> None:
        """Have these sent; the numbers are the bytes of each. ``wait``: until that is done."""
        with self._changed:
            while self._unsent_bytes >= HIGH_BYTES and not self.broken:
                self._changed.wait()
            self._give(*messages)
            while wait and self._unsent_bytes and not self.broken:
                self._changed.wait()
            self._check()

    def read(self) -> tuple[bytes, bool]:
        """The next part of the request body, and whether there is more."""
        with self._changed:
            self._part = None
            self._give(READ)
            while self._part is None:
                self._check()
                self._changed.wait()
            return self._part

    def end(self, error: BaseException | None) -> None:
        """The app is done with the request. Nothing may be asked afterwards; never raises."""
        with self._changed:
            self.error = error
            self._orders.append(END)
            self._over = True
            self._wake()

    def _give(self, *orders: Any) -> None:
        self._check()
        for order in orders:
            if order is not READ:
                self._unsent_bytes += order[1]
            self._orders.append(order)
        self._wake()

    def _wake(self) -> None:
        if not self._asleep:
            return
        self._asleep = False
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:  # the loop is closed: the worker is ending
            self.broken = self.broken or "the server has ended"

    def _check(self) -> None:
        if self.broken or self._over:
            raise ClientDisconnected(self.broken or "the request is over")

    # The coroutine's side

    def next_at_once(self) -> Any:
        """The next order: READ, END, or a message and its size; None if there is none yet. Then call
        ``next``."""
        with self._changed:
            if self._orders:
                return self._orders.popleft()
            self._asleep = True
            self._waiter = self._loop.create_future()
            return None

    async def next(self) -> Any:
        """The next order, when ``next_at_once`` had none."""
        while True:
            assert self._waiter is not None
            await self._waiter
            order = self.next_at_once()
            if order is not None:
                return order

    def _resolve(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def sent(self, size: int) -> None:
        """A message of this size is out of the way."""
        if size:
            with self._changed:
                self._unsent_bytes -= size
                self._changed.notify_all()

    def give(self, part: bytes, more: bool) -> None:
        """The answer to READ."""
        with self._changed:
            self._part = (part, more)
            self._changed.notify_all()

    def break_off(self, why: str) -> None:
        """Let the thread know that it works in vain."""
        with self._changed:
            self.broken = self.broken or why
            self._changed.notify_all()
