"""What clients on real sockets share whatever they speak: a crowd of good ones, and who the worker still has.

Rules of this file: one event loop plays all of them, so the good ones are as patient as it is; a good client
never tries anything twice, and whatever it has to complain of is kept in words. Whether the server has ended
a connection that its client does not read is looked up in the worker's own list of sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import ClassVar, Self

import psutil

HOST = "127.0.0.1"
# The bad ones end by deadlines of a few seconds; this is for a machine that is busy with something else.
PATIENCE_S = 90.0
LOOKS_S = 0.2


class Crowd:
    """Clients that do nothing wrong, as long as ``async with`` lasts.

    A subclass says how many there are of each kind, and has a method for each: ``_slow_reads`` plays one of
    the "slow reads" until ``_pause`` says that it is over, and counts what it had in ``done``.
    """

    KINDS: ClassVar[dict[str, int]]

    def __init__(self, port: int) -> None:
        self._port = port
        self.complaints: list[str] = []
        self.done: Counter[str] = Counter()
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for kind, count in self.KINDS.items():
            self._tasks += [asyncio.create_task(self._play(kind)) for _ in range(count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE_S)

    async def _play(self, kind: str) -> None:
        try:
            await getattr(self, "_" + kind.replace(" ", "_"))()
        except Exception as error:
            self.complaints.append(f"{kind}: {error!r}")

    async def served_all(self, each: int = 2) -> None:
        """Wait until every kind has had so many answers more for each of its clients."""
        seen = self.done.copy()
        async with asyncio.timeout(PATIENCE_S):
            while not self.complaints:
                if all(self.done[kind] - seen[kind] >= each * count for kind, count in self.KINDS.items()):
                    return
                await asyncio.sleep(0.05)

    async def _pause(self) -> bool:
        """Whether to go on."""
        if not self._over.is_set():
            await asyncio.sleep(0.1)
        return not self._over.is_set()


class Held:
    """The connections that a worker holds."""

    def __init__(self, worker: psutil.Process) -> None:
        self._worker = worker
        self._ports: set[int] = set()
        self._looked_at = float("-inf")

    def ports(self) -> set[int]:
        """Their clients' ports, as they were a moment ago."""
        now = time.monotonic()
        if now >= self._looked_at + LOOKS_S:
            found = self._worker.net_connections(kind="tcp4")
            self._ports = {one.raddr.port for one in found if one.raddr}
            self._looked_at = now
        return self._ports
