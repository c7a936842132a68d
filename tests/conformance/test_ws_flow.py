"""Back-pressure both ways, and fairness: who does not read makes the other side wait, and nobody else.

Rules of this file: nothing is lost, whoever has to wait, and everything comes in order. Who gets a turn is
counted in turns of the loop, not in time.
"""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from tests.helpers.http1 import settled, until
from tests.helpers.ws import BINARY, TEXT, WsClient, accept, binary, close, echo, frame, ping, text
from tests.helpers.ws_peer import (
    KIBIBYTE,
    MEBIBYTE,
    EachHeard,
    Peak,
    Sender,
    Slow,
    blocked_by,
    connect,
    fragments,
    large,
    limited,
    narrow,
    pieces_of,
)

# What both kernels hold between two narrow sockets, and one read of ours.
NARROW = 1 * MEBIBYTE


def numbered(size: int = 6):
    """Messages without end, each with its number in front."""
    for number in itertools.count():
        yield b"%06d" % number + b"." * (size - 6)


def numbers(messages: list[bytes]) -> list[int]:
    return [int(message[:6]) for message in messages]


# An app that does not take its messages


@pytest.mark.parametrize("queue", [1, 2, 32, 1000])
@pytest.mark.parametrize("size", [6, 1000, 60_000, 200_000])
def test_an_app_that_lags_makes_the_client_wait(serve, size, queue):
    """And gets everything, in order, when it goes on."""
    app = Slow()
    server = serve(app, **limited(ws_max_queue=queue))
    ws = narrow(server)
    sent = 0

    def more():
        nonlocal sent
        for message in numbered(size):
            sent += 1
            yield large(BINARY, message)

    rest = blocked_by(ws, gathered(more(), 4096), most=NARROW + 2 * size)
    app.take(server, 1)
    until(lambda: len(app.messages) == 1)
    app.take(server)
    with Sender(ws, rest + close()):
        ws.read_close()
    assert app.ended() == (1000, "")
    assert numbers(app.messages) == list(range(sent))
    assert {len(message) for message in app.messages} == {size}


def gathered(pieces, least: int):
    """In pieces of at least so many bytes."""
    kept: list[bytes] = []
    for piece in pieces:
        kept.append(piece)
        if sum(map(len, kept)) >= least:
            yield b"".join(kept)
            kept.clear()


def test_each_message_in_turn_with_a_queue_of_one(serve):
    app = Slow()
    server = serve(app, **limited(ws_max_queue=1))
    ws = connect(server)
    ws.send(*[text(str(number)) for number in range(500)], close(4000))
    for count in (1, 1, 1, 2, 95, 400):
        before = len(app.messages)
        app.take(server, count)
        until(lambda before=before, count=count: len(app.messages) == before + count)
    assert app.messages == [str(number) for number in range(500)]
    assert app.end is None
    app.take(server)
    assert app.ended() == (4000, "")
    assert ws.read_close()[0] == 4000


def test_pings_in_front_of_what_waits_are_answered(serve):
    """The app takes nothing, but the socket is read as far as the queue goes."""
    app = Slow()
    server = serve(app, **limited(ws_max_queue=100))
    ws = connect(server)
    for number in range(99):
        ws.send(text(str(number)))
        ws.assert_no_frame()  # by a ping
    app.take(server)
    ws.finish()
    assert app.ended() == (1000, "")
    assert app.messages == [str(number) for number in range(99)]


def test_fragments_of_a_large_message_do_not_wait_for_the_app(serve):
    """A message counts when it is whole; until then only its size bounds it."""
    app = Slow()
    server = serve(app, **limited(ws_max_queue=1))
    ws = connect(server)
    data = random.Random(4).randbytes(3 * MEBIBYTE)
    with Sender(ws, b"".join(fragments(BINARY, pieces_of(data, 50_000)))):
        app.take(server)
        until(lambda: app.messages)
    assert app.messages == [data]
    ws.finish()


@pytest.mark.parametrize("how", ["close", "reset", "failure"])
def test_what_waits_is_delivered_before_the_end(serve, how):
    """The end is no shorter way."""
    app = Slow()
    server = serve(app, **limited(ws_max_queue=64))
    ws = connect(server)
    ws.send(*[text(str(number)) for number in range(50)])
    ws.assert_no_frame()  # all has been read
    if how == "close":
        ws.client.close()
        code = 1006
    elif how == "reset":
        ws.client.reset()
        code = 1006
    else:
        ws.send(frame(TEXT, b"\xff"))
        code = 1007
        assert ws.read_close()[0] == code
        assert server.take_rejects()[0].status == code
        ws.client.close()
    app.take(server)
    assert app.ended()[0] == code
    assert app.messages == [str(number) for number in range(50)]


def test_a_client_that_leaves_while_it_has_to_wait(serve):
    """What was read is delivered; the app hears of the end, and nothing is kept."""
    app = Slow()
    server = serve(app, **limited(ws_max_queue=1))
    ws = narrow(server)
    blocked_by(ws, gathered((binary(message) for message in numbered(1000)), 4096), most=NARROW)
    ws.client.reset()
    app.take(server)
    assert app.ended()[0] == 1006
    assert numbers(app.messages) == list(range(len(app.messages)))
    until(lambda: server.factory.connections == 0)


def test_an_app_that_leaves_while_the_client_has_to_wait(serve):
    """Its websocket is closed with 1000, though much was never taken."""

    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()

    gate = asyncio.Event()
    server = serve(app, **limited(ws_max_queue=1))
    ws = narrow(server)
    blocked_by(ws, gathered((binary(message) for message in numbered(1000)), 4096), most=NARROW)
    server.call(gate.set)
    assert ws.read_close()[0] == 1000
    ws.client.close()
    until(lambda: server.factory.connections == 0)


# A client that does not take its messages


@pytest.mark.parametrize("size", [100, 10_000, MEBIBYTE])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_client_that_does_not_read_makes_send_wait(serve, size, compressed):
    begun = 0
    data = random.Random(size).randbytes(size)  # deflate gains nothing on it
    stop = False

    async def app(scope, receive, send):
        nonlocal begun
        await accept(receive, send)
        while not stop:
            begun += 1
            await send({"type": "websocket.send", "bytes": data})
        await send({"type": "websocket.close"})

    server = serve(app)
    ws = narrow(server, *([b"Sec-WebSocket-Extensions: permessage-deflate"] if compressed else []))
    until(lambda: begun)
    assert settled(lambda: begun) * size < NARROW + 2 * size
    for _ in range(20):
        assert len(ws.read_frame().payload) >= size
    assert settled(lambda: begun) * size < NARROW + 22 * size
    stop = True
    taken = 20
    while ws.read_frame().opcode == BINARY:
        taken += 1
    assert taken == begun
    ws.send(close())
    ws.assert_closed()


def test_what_send_took_arrives_though_the_app_is_done(serve):
    async def app(scope, receive, send):
        await accept(receive, send)
        for message in itertools.islice(numbered(5000), 400):
            await send({"type": "websocket.send", "bytes": message})
        await send({"type": "websocket.close", "code": 4321})

    ws = narrow(serve(app))
    assert [int(ws.read_binary()[:6]) for _ in range(400)] == list(range(400))
    assert ws.read_close() == (4321, "")
    ws.send(close(4321))
    ws.assert_closed()


def test_one_huge_message(serve):
    data = random.Random(9).randbytes(15 * MEBIBYTE)

    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": data})
        await send({"type": "websocket.send", "text": "next"})

    ws = narrow(serve(app))
    assert ws.read_binary() == data
    assert ws.read_text() == "next"
    assert ws.read_close()[0] == 1000
    ws.client.close()


def test_sends_of_many_tasks_are_whole_and_in_the_order_of_each(serve):
    async def app(scope, receive, send):
        await accept(receive, send)

        async def work(tag: int) -> None:
            for number in range(100):
                await send({"type": "websocket.send", "bytes": b"%02d%06d" % (tag, number) * 200})

        await asyncio.gather(*[work(tag) for tag in range(20)])

    ws = narrow(serve(app))
    seen: dict[int, list[int]] = {}
    for _ in range(2000):
        data = ws.read_binary()
        assert data == data[:8] * 200
        seen.setdefault(int(data[:2]), []).append(int(data[2:8]))
    assert seen == {tag: list(range(100)) for tag in range(20)}
    assert ws.read_close()[0] == 1000
    ws.client.close()


def test_both_wait_for_each_other(serve):
    """An echo whose client sends much before it reads anything: both are stuck until it reads."""
    ws = narrow(serve(echo))
    sent = 0

    def more():
        nonlocal sent
        for message in numbered(2000):
            sent += 1
            yield binary(message)

    rest = blocked_by(ws, gathered(more(), 4096), most=4 * MEBIBYTE)
    with Sender(ws, rest):
        assert [int(ws.read_binary()[:6]) for _ in range(sent)] == list(range(sent))
    ws.finish()


# Fairness


def count_turns(server):
    """The number of the loop's turn, for as long as nobody stops it."""
    state = {"turn": 0, "on": True}

    def turn() -> None:
        state["turn"] += 1
        if state["on"]:
            server.loop.call_soon(turn)

    server.call(turn)
    return state


@pytest.mark.parametrize("what", ["messages", "pings", "fragments"])
def test_the_loop_turns_between_the_frames_of_a_flood(serve, what):
    """Thousands of tiny frames fit into one read, and others want their turn."""
    count = 60_000
    taken: dict[int, int] = {}
    turns: dict = {"turn": 0}

    async def app(scope, receive, send):
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            taken[turns["turn"]] = taken.get(turns["turn"], 0) + len(message["text"])

    server = serve(app)
    turns = count_turns(server)
    ws = connect(server)
    if what == "messages":
        flood = text("x") * count
    elif what == "pings":
        flood = (ping() * 10 + text("x")) * (count // 10)
    else:
        flood = (frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 8 + frame(0, b"x")) * (count // 10)
    expected = flood.count(text("x")) if what != "fragments" else count // 10
    with Sender(ws, flood + close()):
        while ws.read_frame().opcode != 8:
            pass
    turns["on"] = False
    until(lambda: server.factory.in_flight == 0)
    assert sum(taken.values()) == expected
    assert max(taken.values()) <= 2000


@pytest.mark.parametrize("what", ["messages", "pings", "fragments", "compressed"])
def test_a_flood_does_not_keep_others_from_being_served(serve, what):
    """While one client sends tiny frames as fast as it can, others get their answers."""
    each = EachHeard()

    async def app(scope, receive, send):
        await (echo if scope["path"] == "/echo" else each)(scope, receive, send)

    server = serve(app, **limited(ws_max_fragments=10_000_000))
    flooding = connect(server, b"Sec-WebSocket-Extensions: permessage-deflate")
    piece = {
        "messages": text("x"),
        "pings": ping(),
        "fragments": frame(0, b"", fin=False),
        "compressed": frame(TEXT, b"\x4a\x04\0", rsv=4),
    }[what]
    first = frame(TEXT, b"", fin=False) if what == "fragments" else b""
    with Sender(flooding, first + piece * 300_000):
        other = WsClient(server.connect())
        other.open("/echo")
        for number in range(50):
            other.send(text(str(number)))
            assert other.read_text() == str(number)
        other.finish()
        flooding.client.reset()
    until(lambda: server.factory.connections == 0)


def test_many_clients_flood_at_once(serve):
    """Each gets all of its own, whoever else is there."""
    server = serve(echo)
    clients = [connect(server) for _ in range(8)]
    senders = [Sender(ws, text(str(at)) * 3000) for at, ws in enumerate(clients)]
    for sender in senders:
        sender.__enter__()
    for at, ws in enumerate(clients):
        assert {ws.read_text() for _ in range(3000)} == {str(at)}
    for sender in senders:
        sender.__exit__(None, None, None)
    for ws in clients:
        ws.finish()


def test_memory_of_what_waits_is_bounded(serve):
    """64 KiB of messages or ws_max_queue of them, and what one read brought."""
    app = Slow()
    server = serve(app)
    clients = [narrow(server) for _ in range(10)]
    with Peak() as peak:
        for ws in clients:
            pieces = gathered((binary(message) for message in numbered(60 * KIBIBYTE)), 1)
            blocked_by(ws, pieces, most=NARROW, quiet_s=0.2)
    assert peak.bytes < 10 * 2 * MEBIBYTE
    for ws in clients:
        ws.client.reset()
    app.take(server)
    until(lambda: server.factory.connections == 0)
