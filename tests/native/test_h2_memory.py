"""Memory that ends in the middle of HTTP/2: each allocation fails once, and nobody waits for ever.

Rules of this file: those of test_h2_calls.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import text
from tests.native.drive import turns
from tests.native.h2_drive import (
    Scene,
    Tls,
    data,
    frame,
    open_wide,
    opening,
    ping,
    request,
    tunnel,
    upload,
    window,
)
from tests.native.h2_requests import MORE_APPS, REQUESTS
from tests.native.isolated import survives

pytestmark = needs_nghttp2


allocating = pytest.mark.skipif(
    "SHARDSERVE_SANITIZED" in os.environ, reason="allocations are counted otherwise"
)


def failing_allocations() -> None:
    """Skips where none can be made to fail: from 3.12 on CPython itself crashes.

    Its PyFunction_New() gives back what it has not taken; over HTTP/1.1 it is the same.
    """
    pytest.importorskip("_testcapi")
    if sys.version_info >= (3, 12):
        pytest.skip("CPython crashes where it makes a function without memory")


class Agreeing:
    """An engine that needs no library, which would run out of memory in its own ways."""

    def open(self, method: Any, headers: Any) -> Any:
        return 200, [(b"x-agreed", b"yes")], [], None

    def ping(self) -> bytes:
        return b"\x89\0"

    def close(self, code: int, reason: str) -> bytes:
        return b"\x88\x02" + code.to_bytes(2, "big")


def without_cleanup(function: Any, *args: Any) -> Any:
    """A loop that is left as it is: when asyncio has no memory to wake a task, nobody can end it, either."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(function(*args))


async def out_of_memory(kind: str, first: int, step: int) -> Any:
    """One allocation fails; nobody may wait for ever because of it."""
    import _testcapi

    found, fine_in_a_row = {"whole": 0, "failed": 0}, 0
    whole = b"".join(REQUESTS[kind])
    if kind == "control":
        whole = open_wide() + whole
    for at in range(first, 420, step):
        print("allocation", at, flush=True)
        scene = Scene(MORE_APPS, websocket=Agreeing())
        scene.make()
        if kind != "control":
            scene.feed(open_wide())
        scene.said.allow(open_wide() + whole)
        _testcapi.set_nomemory(at, at + 1)
        try:
            scene.connection.data_received(whole)
        except MemoryError:
            scene.seen.append("MemoryError")
        finally:
            _testcapi.remove_mem_hooks()
        await turns()
        ended = scene.transport.is_closing()
        if not ended and not scene.seen:
            scene.feed(request(201, "/ok"), window(0, 300_000))
            await turns()
        said = scene.hear()
        if not ended and not said.goaways and not scene.seen:
            assert said.answers[201].ended, (at, scene.brief())
            waited_for = {"later": [1, 3], "many": [1, 3], "reset": [], "control": []}.get(kind, [1])
            for stream in waited_for:
                assert scene.brief()[str(stream)].split()[-1] != "open", (at, scene.brief())
        else:
            assert ended or said.goaways or scene.seen == ["MemoryError"], at
        fine = not ended and all(answer.ended for answer in said.answers.values())
        found["whole" if fine else "failed"] += 1
        assert (await scene.end())[0] == 0, at
        fine_in_a_row = fine_in_a_row + 1 if fine else 0
        if fine_in_a_row == 20:
            break  # there are no more of them
    return found


@allocating
@pytest.mark.parametrize("kind", REQUESTS)
def test_an_allocation_that_fails(kind: str) -> None:
    failing_allocations()
    found = {"whole": 0, "failed": 0}
    for first in range(3):
        for name, count in survives(without_cleanup, out_of_memory, kind, first, 3).items():
            found[name] += count
    assert found["whole"] > 0, "more allocations than are tried"


async def out_of_memory_later(what: str) -> Any:
    """The same where an app is in the middle of its response, or windows open, or there is room again."""
    import _testcapi

    for at in range(160):
        print("allocation", at, flush=True)
        scene = Scene(MORE_APPS)
        scene.make()
        scene.feed(
            opening(), request(1, "/big"), upload(3), data(3, b"abc"), request(5, "/wait"), tunnel(7, "/ws")
        )
        await turns()
        if what in ("resume", "lost paused"):
            scene.connection.pause_writing()
            scene.feed(request(9), window(0, 40_000), window(1, 40_000), data(3, b"x"), data(7, text("x")))
        elif what == "window":
            scene.said.allow(window(0, 300_000) + window(1, 300_000))
        elif what == "drain":
            scene.driver.factory.drain(lambda: None)
        _testcapi.set_nomemory(at, at + 1)
        try:
            if what == "resume":
                scene.connection.resume_writing()
            elif what == "window":
                scene.connection.data_received(window(0, 300_000) + window(1, 300_000))
            elif what in ("lost", "lost paused"):
                scene.transport.calls.append("lost")
                scene.connection.connection_lost(None)
            elif what == "tick":
                scene.driver.factory.tick()
            elif what == "end":
                scene.driver.factory.end_streams()
            elif what == "abort":
                scene.driver.factory.abort()
            elif what == "eof":
                scene.connection.eof_received()
            elif what == "garbage":
                scene.connection.data_received(frame(0, 0, 0, b"x"))
            elif what == "drain":
                scene.connection.data_received(b"".join(ping(one, ack=True) for one in scene.said.pings))
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
        await turns()
        assert (await scene.end())[0] == 0, (what, at)
        scene.hear()
    return "alive"


@allocating
@pytest.mark.parametrize(
    "what", ["resume", "window", "lost", "lost paused", "tick", "end", "abort", "eof", "garbage", "drain"]
)
def test_an_allocation_that_fails_later(what: str) -> None:
    failing_allocations()
    assert survives(without_cleanup, out_of_memory_later, what) == "alive"


async def out_of_memory_at_the_start() -> Any:
    """The same while a connection is made, with TLS, and while its first SETTINGS are written."""
    import _testcapi

    found = []
    for at in range(140):
        print("allocation", at, flush=True)
        scene = Scene(transport=Tls())
        _testcapi.set_nomemory(at, at + 1)
        try:
            scene.connection.connection_made(scene.transport)
        except MemoryError:
            scene.seen.append("MemoryError")
        finally:
            _testcapi.remove_mem_hooks()
        try:
            scene.feed(open_wide(), request(1))
        except Exception as error:
            scene.seen.append(type(error).__name__)
        await turns()
        served = scene.brief().get("1") == "200 ended" if scene.transport.written else False
        found.append(served)
        assert served or scene.seen or scene.transport.is_closing(), at
        assert (await scene.end())[0] == 0, at
    return found[-1]


@allocating
def test_an_allocation_that_fails_at_the_start() -> None:
    failing_allocations()
    assert survives(without_cleanup, out_of_memory_at_the_start) is True
