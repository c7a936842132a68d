"""Who is served first where all wait for the same window: priorities (RFC 9218)."""

from __future__ import annotations

from typing import Any

from tests.helpers.asgi import reply
from tests.helpers.files import BLOB
from tests.helpers.h2_judge import INITIAL_WINDOW_SIZE, PRIORITY_UPDATE
from tests.helpers.h2_peer import Host
from tests.helpers.h2_wire import frame, number
from tests.helpers.nghttp2 import needs_nghttp2

pytestmark = needs_nghttp2

FIRST = 65535


async def order(*priorities: bytes | None, updates: dict[int, bytes] | None = None) -> list[int]:
    """The streams in the order in which their DATA comes once the connection's window opens: one entry for
    each run of frames. All wait for it, with 50,000 bytes each; ``updates``: PRIORITY_UPDATE by position.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, BLOB[: FIRST if scope["path"] == "/fill" else 50_000])

    async with Host(app) as host:
        client = host.connect(hand=True, settings={INITIAL_WINDOW_SIZE: 1_000_000})
        await client.ask("GET", "/fill")
        fields = [[(b"priority", value)] if value is not None else [] for value in priorities]
        streams = [client.request("GET", f"/{at}", *given) for at, given in enumerate(fields)]
        await client.until(lambda: all(stream.status for stream in streams))
        for at, value in (updates or {}).items():
            client.raw(frame(PRIORITY_UPDATE, 0, 0, number(streams[at].id) + value))
        await client.pong()
        assert not any(stream.data for stream in streams)
        since = len(client.judge.frames)
        client.open(50_000 * len(streams))
        for stream in streams:
            assert (await client.done(stream)).body == BLOB[:50_000]
        ids = [stream.id for stream in streams]
        found: list[int] = []
        for one in client.judge.frames[since:]:
            if one.stream_id in ids and (not found or found[-1] != ids.index(one.stream_id)):
                found.append(ids.index(one.stream_id))
        return found


async def test_the_urgent_come_first():
    """§4.1: 0 is the most urgent, and 3 what nobody says."""
    assert await order(b"u=7", b"u=5", None, b"u=1", b"u=0") == [4, 3, 2, 1, 0]


async def test_of_the_same_urgency_one_after_the_other():
    """§4.2, §10: in the order of their ids, each whole, unless it says that a part of it is of use."""
    assert await order(b"u=2", b"u=2", b"u=2") == [0, 1, 2]


async def test_the_incremental_share():
    found = await order(b"u=2, i", b"u=2, i")
    assert len(found) > 4
    assert {found[0], found[1]} == {0, 1}


async def test_a_priority_update():
    """§7.1: it replaces what the field said."""
    assert await order(b"u=1", b"u=2", b"u=3", updates={2: b"u=0"}) == [2, 0, 1]
    assert await order(None, None, None, updates={0: b"u=7", 1: b"u=6"}) == [2, 1, 0]


async def test_a_priority_that_is_none_is_the_default():
    """§4: what cannot be read says nothing."""
    assert await order(b"u=99", b"u=1", b"u=", b"u=5") == [1, 0, 2, 3]


async def test_a_priority_update_that_comes_before_its_stream():
    """§7.1: it may name a stream that is still to come."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, BLOB[: FIRST if scope["path"] == "/fill" else 40_000])

    async with Host(app) as host:
        client = host.connect(hand=True, settings={INITIAL_WINDOW_SIZE: 1_000_000})
        await client.ask("GET", "/fill")
        client.raw(frame(PRIORITY_UPDATE, 0, 0, number(5) + b"u=0"))
        streams = [client.request("GET", "/3"), client.request("GET", "/5")]
        assert [stream.id for stream in streams] == [3, 5]
        await client.until(lambda: all(stream.status for stream in streams))
        client.open(40_000)
        await client.until(lambda: streams[1].ended)
        assert streams[0].body == b""
        client.open(40_000)
        await client.done(streams[0])
