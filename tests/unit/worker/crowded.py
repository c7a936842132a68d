"""A worker's accepting in a process of its own, with few descriptors.

``python -m tests.unit.worker.crowded LIMIT FD…`` serves the inherited listening sockets. A client that sends
``hello`` is answered at once and closed, one that sends ``hold`` when a ``release`` comes. Commands come as
lines on standard input, each answered with one JSON line of figures. The log goes to standard error.

``check`` is called by command only, so that a test decides when the second is over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
import sys
from typing import Any

import uvloop

from shardserve.worker import admission
from shardserve.worker.admission import Admission
from shardserve.worker.listening import Listening


class Program:
    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self.held: list[Answering] = []
        self.open = self.accepted = 0
        self.errors = 0
        self.eaten: list[int] = []
        self.ended = asyncio.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self.note)
        self.admission = Admission()
        self.listening = Listening(lambda: Answering(self), backlog=1024)
        self.admission.guard(self.listening)
        for slot, sock in enumerate(self.sockets):
            await self.listening.accept_on(sock, slot=slot)
        asyncio.get_running_loop().add_reader(0, self.read)
        await self.ended.wait()
        self.admission.close()
        self.listening.close_all()

    def note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors += 1
        loop.default_exception_handler(context)

    def read(self) -> None:
        lines = os.read(0, 4096).decode()
        if not lines:
            self.ended.set()
        for line in lines.splitlines():
            name, *arguments = line.split()
            getattr(self, name)(*arguments)
            print(json.dumps(self.figures()), flush=True)

    def figures(self) -> dict[str, Any]:
        return {
            "mode": self.listening.mode.value,
            "pauses": self.admission.pauses,
            "paused": self.admission.paused,
            "open": self.open,
            "accepted": self.accepted,
            "errors": self.errors,
            "eaten": len(self.eaten),
        }

    # Commands

    def status(self) -> None:
        pass

    def check(self) -> None:
        self.admission.check()

    def release(self) -> None:
        held, self.held = self.held, []
        for one in held:
            one.answer()

    def eat(self, keep: str = "0") -> None:
        """What an app can do: take every descriptor there is but for ``keep``."""
        try:
            while True:
                self.eaten.append(os.dup(0))
        except OSError:
            for _ in range(int(keep)):
                os.close(self.eaten.pop())

    def give(self) -> None:
        for fd in self.eaten:
            os.close(fd)
        self.eaten.clear()


class Answering(asyncio.Protocol):
    def __init__(self, program: Program) -> None:
        self.program = program

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.program.open += 1
        self.program.accepted += 1
        # As the native side does it.
        if transport.get_extra_info("socket").fileno() >= self.program.admission.max_fd:
            self.program.admission.on_crowded()

    def data_received(self, data: bytes) -> None:
        if data == b"hold":
            self.program.held.append(self)
        else:
            self.answer()

    def answer(self) -> None:
        self.transport.write(b"answer")
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.program.open -= 1


async def main() -> None:
    limit, *descriptors = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    admission.LOG_EVERY_S = 0.0  # every pause is told
    await Program([socket.socket(fileno=fd) for fd in descriptors]).run()


if __name__ == "__main__":
    uvloop.run(main())
