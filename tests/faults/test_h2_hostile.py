"""Hostile HTTP/2 clients and a real worker: each is sent away, and fifty good clients notice nothing.

Rules of this file: what the log tells is counted to the last line, so that a report too many is found, too.
Memory is the worker's own, as the kernel sees it; nothing asserts that anything is fast, only that it ends.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.h2_attacks import (
    CONTINUATIONS,
    CONTROL,
    FIRST_DYNAMIC,
    GET,
    HELLO,
    LARGEST_WINDOW,
    PREFACE,
    RESETS,
    SETTINGS_ACK,
    Answers,
    Code,
    Setting,
    field,
    headers,
    indexed,
    long_block,
    request,
    settings,
    window_update,
)
from tests.helpers.h2_clients import Bad, Good, told
from tests.helpers.h2_victim import RESETS as RESETS_ALLOWED
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import Serve, ServerProcess

pytestmark = needs_nghttp2

ROOT = Path(__file__).parents[2]
APP = "tests.helpers.slow:app"
SERVER = ("--workers", "1", "--no-access-log", "--http2-cleartext", "--loop-lag-warn", "0")
DEADLINES = (
    "--timeout-request-head", "2", "--timeout-request-body-grace", "2", "--min-request-body-rate", "500",
    "--timeout-write-stall", "2", "--http2-ping-interval", "2", "--http2-ping-timeout", "2",
)  # fmt: skip
EACH = 4
MEBIBYTE = 1 << 20


def bombs(count: int) -> bytes:
    """Requests of 12 kB that would have 48 MB of fields each."""
    again = indexed(FIRST_DYNAMIC) * 12_000
    return b"".join(
        long_block(stream, GET + field(b"x", b"v" * 4063, indexed=True) + again)
        for stream in range(1, 2 * count, 2)
    )


STALLED = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 0)) + SETTINGS_ACK
OPEN_WIDE = settings((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW)) + window_update(0, LARGEST_WINDOW - 65535)
LARGE = [request(stream, path=b"/large") for stream in range(1, 17, 2)]
UPLOAD = request(1, end=False, method=b"POST", path=b"/upload")

CALM = {Code.ENHANCE_YOUR_CALM}
# Those of one read are open until it is worked off: too many of them are a mistake of their own.
CALM_OR_TOO_MANY = {Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR}
CLOSED = {None, Code.NO_ERROR}


Probe = Callable[[Bad], Awaitable[Answers]]


def floods(table: dict[str, Callable[[], Iterator[bytes]]], name: str) -> Probe:
    return lambda bad: bad.floods(table[name]())


def drips(first: bytes, slowly: bytes = b"") -> Probe:
    return lambda bad: bad.speaks(first, [bytes([byte]) for byte in slowly])


def reads_nothing(pieces: Callable[[], Iterator[bytes]], *first: bytes) -> Probe:
    return lambda bad: bad.reads_nothing(itertools.chain(first, pieces()))


def leaves(first: bytes, is_enough: Callable[[Answers], bool]) -> Probe:
    return lambda bad: bad.then_leaves(first, is_enough)


# Each with how the server ends it (the code of its last GOAWAY, None: no GOAWAY), and how many reports it is,
# beside the one of each that is told to be calm or breaks the protocol, and of each 431.
PROBES: dict[str, tuple[Probe, set[int | None], int]] = {
    "rapid reset": (floods(RESETS, "rapid reset"), CALM, 0),
    "made you reset": (floods(RESETS, "window of a stream too large"), CALM_OR_TOO_MANY, 0),
    "wrong lengths": (floods(RESETS, "more body than its length"), CALM_OR_TOO_MANY, 0),
    "line breaks": (floods(RESETS, "a line break"), CALM_OR_TOO_MANY, 0),
    "continuations": (floods(CONTINUATIONS, "fields"), CALM, 0),
    "empty continuations": (floods(CONTINUATIONS, "empty"), CALM, 0),
    "pings": (floods(CONTROL, "ping"), CALM, 0),
    "settings": (floods(CONTROL, "settings, windows"), CALM, 0),
    "priorities": (floods(CONTROL, "priority update of no stream yet"), CALM_OR_TOO_MANY, 0),
    "empty data": (floods(CONTROL, "empty data"), CALM, 0),
    "window updates": (floods(CONTROL, "window update of the connection"), CALM, 0),
    "pings, reads nothing": (reads_nothing(CONTROL["ping"]), {None}, 1),
    "answers, reads nothing": (reads_nothing(lambda: iter(LARGE), OPEN_WIDE), {None}, 1),
    "preface without an end": (drips(PREFACE[:20]), CLOSED, 1),
    "head without an end": (drips(HELLO + SETTINGS_ACK + headers(1, GET, whole=False)), CLOSED, 1),
    "head that drips": (drips(HELLO + headers(1, GET)[:10], headers(1, GET)[10:]), CLOSED, 1),
    "answers no ping": (drips(HELLO + SETTINGS_ACK + request(1, path=b"/events")), {None}, 1),
    "body that never comes": (leaves(HELLO + UPLOAD, lambda said: said.statuses.get(1) == 408), {None}, 1),
    "windows kept shut": (leaves(STALLED + b"".join(LARGE), lambda said: len(said.resets) == 8), {None}, 8),
    "bombs": (leaves(HELLO + bombs(4), lambda said: len(said.statuses) + len(said.resets) == 4), {None}, 0),
}


RESETTING = 3
"""So many of them make us reset streams."""


def reports(log: str) -> int:
    """How many the log tells of, those that it held back among them; and that each line is clear text."""
    lines = [line for line in log.splitlines() if line.startswith("WARNING:")]
    expected = re.compile(r"WARNING:  \[worker 0, pid \d+\] (?:Rejected|Closed|Reset) [ -~]+")
    assert all(map(expected.fullmatch, lines))
    single = sum(bool(re.search(r"from 127|of 127", line)) for line in lines)
    return single + sum(int(count) for line in lines for count in re.findall(r"(\d+) more ", line))


def serve_hostile(serve: Serve, *flags: str) -> ServerProcess:
    return serve(APP, *SERVER, *flags, app_dir=ROOT)


def test_every_attack_ends_and_no_good_client_notices(serve: Serve) -> None:
    server = serve_hostile(serve, *DEADLINES)
    (worker,) = server.workers()

    async def play() -> tuple[Good, dict[str, list[Answers]], int]:
        bad = Bad(server.port, worker)
        async with Good(server.port) as good:
            await good.served_all()
            before = worker.memory_info().rss
            async with asyncio.TaskGroup() as group:
                probes = {
                    name: [group.create_task(probe(bad)) for _ in range(EACH)]
                    for name, (probe, _, _) in PROBES.items()
                }
            grown = worker.memory_info().rss - before
            await good.served_all()
        return good, {name: [task.result() for task in tasks] for name, tasks in probes.items()}, grown

    good, heard, grown = asyncio.run(play())
    print(f"{len(heard) * EACH} attacks; good answers: {dict(good.done)}; {grown / MEBIBYTE:.1f} MiB more")
    assert good.complaints == []
    for name, (_, expected, _) in PROBES.items():
        assert {one.code for one in heard[name]} <= expected, name
    assert grown < 32 * MEBIBYTE
    assert server.pids() == {worker.pid}
    server.stop()
    codes = Counter(one.code for each in heard.values() for one in each)
    assert codes[Code.ENHANCE_YOUR_CALM] >= EACH * 6
    too_large = sum(status == 431 for one in heard["bombs"] for status in one.statuses.values())
    sent_away = codes[Code.ENHANCE_YOUR_CALM] + codes[Code.PROTOCOL_ERROR]
    least = sent_away + too_large + EACH * sum(count for _, _, count in PROBES.values())
    # Streams that we reset before their peer is sent away are reports, too: none if it all came in one read.
    most = least + EACH * RESETTING * RESETS_ALLOWED
    assert least <= reports(server.log()) <= most, server.log()


@pytest.mark.parametrize("name", ["rapid reset", "continuations", "pings", "bombs", "settings"])
def test_an_attack_leaves_no_memory_behind(serve: Serve, name: str) -> None:
    """Connections that do it one after the other: what the first ones took is all that is taken."""
    probe = PROBES[name][0]
    server = serve_hostile(serve, "--timeout-write-stall", "0")
    (worker,) = server.workers()

    def attacks(times: int) -> None:
        async def play() -> None:
            bad = Bad(server.port, worker)
            for _ in range(times):
                await probe(bad)

        asyncio.run(play())

    attacks(5)  # whatever is made once is made
    before = worker.memory_info().rss
    attacks(20)
    grown = worker.memory_info().rss - before
    print(f"{name}: {grown / MEBIBYTE:.2f} MiB more")
    assert grown < 4 * MEBIBYTE
    assert told(server.port, request(1)).statuses == {1: 200}
    server.stop()
    assert reports(server.log()) in ([0, 25 * 4] if name == "bombs" else [25])
