"""``python -m shardserve.profiling.load_child``: a load without wrk. Not for people.

Requests over kept connections, one in flight on each, until SIGTERM; then one line of JSON on stdout.
What to ask is one JSON object on the command line (``load.py`` makes it). Responses are parsed by
httptools, which the server needs anyway.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
from collections import Counter
from itertools import cycle
from typing import Any

import httptools
import uvloop

_AGAIN_S = 0.05


class Client(asyncio.Protocol):
    """One connection. It asks, waits for the answer, and asks again."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: Any = None
        self._parser: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._load.errors["not HTTP"] += 1
            self._transport.close()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # of an interim response: the real one follows
            return
        self._load.statuses[status] += 1
        if self._parser.should_keep_alive():
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._load.errors[type(error).__name__] += 1
        self._load.open_later(0.0 if error is None else _AGAIN_S)

    def _ask(self) -> None:
        if not self._transport.is_closing():
            self._parser = httptools.HttpResponseParser(self)
            self._transport.write(next(self._load.requests))


class Load:
    """All connections."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self._wish = wish
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests = cycle([one.encode("latin-1") for one in wish["requests"]])
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()

    def open_later(self, delay_s: float) -> None:
        task = asyncio.ensure_future(self._open(delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, over.set)
        for _ in range(self._wish["connections"]):
            self.open_later(0.0)
        await over.wait()
        print(json.dumps({"statuses": self.statuses, "errors": self.errors}), flush=True)

    async def _open(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        loop = asyncio.get_running_loop()
        context = None
        if self._wish["tls"]:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            await loop.create_connection(
                lambda: Client(self), self._wish["host"], self._wish["port"], ssl=context
            )
        except OSError as error:
            self.errors[type(error).__name__] += 1
            self.open_later(_AGAIN_S)


def main() -> None:
    load = Load(json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load.run())


if __name__ == "__main__":
    main()
