"""Back-pressure of WebSockets over HTTP/2, both ways: a stream waits, and the others beside it do not.

Rules of this file: nothing is lost, whoever has to wait, and everything comes in order. "Nothing opens the
window" is shown by PINGs of HTTP/2 that are answered, not by a sleep.
"""

from __future__ import annotations

import random

import pytest

from shardserve.errors import ClientDisconnected
from tests.helpers.h2_ws import CANCEL, DEFLATE, PRIOR_KNOWLEDGE, H2Opened, H2Stream, H2WebSocket, h2_to
from tests.helpers.http1 import PATIENCE_S, settled, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import BINARY, PONG, accept, binary, close, disconnect, echo, gone, ping, text
from tests.helpers.ws_peer import KIBIBYTE, MEBIBYTE, Slow, large, limited

pytestmark = needs_nghttp2
SERVED_WITH = PRIOR_KNOWLEDGE

WINDOW = 65_535
SMALL = {"http2_initial_stream_window_size": WINDOW, "http2_initial_connection_window_size": MEBIBYTE}


def small(**settings):
    """With these settings, and those windows."""
    return {**limited(**settings), **SMALL}


class SlowOrEcho(Slow):
    """``/slow`` takes messages as the test lets it; every other path is an echo."""

    async def __call__(self, scope, receive, send):
        here = scope["path"] == "/slow"
        await (super().__call__(scope, receive, send) if here else echo(scope, receive, send))


def blocked(stream: H2Stream, data: bytes) -> int:
    """How much of ``data`` the window lets go until it stays shut, although the server has read all of it."""
    rest = data
    while len(rest := stream.send_some(rest)) and not shut(stream):
        pass
    assert rest, f"all {len(data)} bytes were taken"
    return len(data) - len(rest)


def shut(stream: H2Stream) -> bool:
    """Nothing opens it: two PINGs are answered, and what is due in turns of the loop is done."""
    for _ in range(3):
        stream.h2.settle()
        stream.h2.server.call(lambda: None)
    return stream.h2.room(stream) == 0


# An app that does not take its messages


@pytest.mark.parametrize("size", [10, 1000, 60_000, 300_000])
def test_an_app_that_lags_makes_its_stream_wait(serve, size):
    """And no other. It gets everything, in order, when it goes on."""
    app = SlowOrEcho()
    server = serve(app, **small(ws_max_queue=4))
    h2 = h2_to(server)
    ws, other = h2.open(b"/slow"), h2.open(b"/echo")
    said = [number.to_bytes(4, "big") + bytes(size - 4) for number in range(2 * MEBIBYTE // size)]
    data = b"".join(large(BINARY, one) for one in said) + close(4000)
    sent = blocked(ws.stream, data)
    assert sent <= 2 * WINDOW + 64 * KIBIBYTE + 2 * size
    for number in range(20):
        other.send(binary(b"%d" % number * 30_000))
        assert other.read_binary() == b"%d" % number * 30_000
    assert h2.ask().status == 200
    app.take(server)
    ws.stream.send(data[sent:])
    assert ws.read_close()[0] == 4000
    assert app.ended() == (4000, "")
    assert app.messages == said


def test_each_message_that_is_taken_opens_the_window(serve):
    """By its size, not only when all are taken."""
    app = SlowOrEcho()
    server = serve(app, **small(ws_max_queue=1))
    h2 = h2_to(server)
    ws = h2.open(b"/slow")
    whole = binary(b"x" * 30_000)
    rest = whole * 20 + close(4000)
    for count in range(1, 20):
        app.take(server, 1)

        def turn(count=count) -> bool:
            nonlocal rest
            rest = ws.stream.send_some(rest)
            h2.settle()
            return len(app.messages) == count

        until(turn, f"message {count}")
        assert 20 * len(whole) - len(rest) <= count * len(whole) + 2 * WINDOW + 64 * KIBIBYTE
    app.take(server)
    ws.stream.send(rest)
    assert ws.read_close()[0] == 4000
    assert app.ended() == (4000, "")
    assert len(app.messages) == 20


def test_a_message_larger_than_every_window(serve):
    """Its fragments do not wait for the app: a message counts when it is whole."""
    data = random.Random(4).randbytes(3 * MEBIBYTE)
    ws = h2_to(serve(echo, **SMALL)).open()
    ws.send(large(BINARY, data))
    assert ws.read_binary() == data
    ws.finish()


def test_many_that_wait_at_once(serve):
    """What is kept for all of them together is bounded by the connection's window, not only by their own."""
    app = SlowOrEcho()
    server = serve(app, **small(ws_max_queue=1))
    h2 = h2_to(server)
    sockets = [h2.open(b"/slow") for _ in range(40)]
    data = binary(b"x" * 16_000) * 100
    sent = 0
    for ws in sockets:
        rest = data
        for _ in range(4):
            rest = ws.stream.send_some(rest)
            h2.settle()
        sent += len(data) - len(rest)
    assert sent <= 3 * MEBIBYTE
    for ws in sockets:
        ws.stream.cancel()
    app.take(server)
    until(lambda: server.factory.in_flight == 0)
    assert h2.ask().status == 200


def test_what_waited_is_delivered_before_the_end(serve):
    """RST_STREAM is no shorter way."""
    app = SlowOrEcho()
    server = serve(app, **limited(ws_max_queue=64))
    ws = h2_to(server).open(b"/slow")
    ws.send(*[text(str(number)) for number in range(50)])
    ws.assert_no_frame()  # all has been read
    ws.stream.cancel()
    app.take(server)
    assert app.ended() == (1006, "")
    assert app.messages == [str(number) for number in range(50)]


@pytest.mark.parametrize("how", ["cancel", "close", "reset"])
def test_a_client_that_leaves_while_it_has_to_wait(serve, how):
    app = SlowOrEcho()
    server = serve(app, **small(ws_max_queue=1))
    h2 = h2_to(server)
    ws = h2.open(b"/slow")
    blocked(ws.stream, binary(b"x" * 1000) * 2000)
    if how == "cancel":
        ws.stream.cancel()
        assert h2.ask().status == 200
    else:
        getattr(h2, how)()
        gone(server)
    app.take(server)
    assert app.ended()[0] == 1006
    until(lambda: server.factory.in_flight == 0)


def test_an_app_that_leaves_while_the_client_has_to_wait(serve, led):
    """Its WebSocket is closed with 1000, and the window opens for the client's answer."""
    server = serve(led, **small(ws_max_queue=1))
    found = H2Opened(h2_to(server), led).accepted()
    data = binary(b"x" * 1000) * 2000
    sent = blocked(found.stream, data)
    found.app.leave()
    assert found.ws.read_close()[0] == 1000
    found.stream.send(data[sent:], close(1000))
    found.stream.assert_closed()
    assert found.h2.ask().status == 200


def test_cancelled_streams_give_the_connections_window_back(serve):
    """What an app never took would otherwise be lost to all others, for good."""
    app = SlowOrEcho()
    server = serve(app, **small(ws_max_queue=1))
    h2 = h2_to(server)
    for _ in range(40):
        ws = h2.open(b"/slow")
        ws.stream.send_some(binary(b"x" * 1000) * 60)
        h2.settle()
        ws.stream.cancel()
    app.take(server)
    ws = h2.open(b"/echo")
    ws.send(binary(b"y" * 3 * MEBIBYTE))
    assert ws.read_binary() == b"y" * 3 * MEBIBYTE
    ws.finish()


# A client that does not take its messages


class Pushing:
    """Sends without end at ``/push``; every other path is an echo."""

    def __init__(self, size: int) -> None:
        self.data = random.Random(size).randbytes(size)  # deflate gains nothing on it
        self.begun = 0
        self.stop = False
        self.end: BaseException | None = None

    async def __call__(self, scope, receive, send):
        if scope["path"] != "/push":
            await echo(scope, receive, send)
            return
        await accept(receive, send)
        try:
            while not self.stop:
                self.begun += 1
                await send({"type": "websocket.send", "bytes": self.data})
            await send({"type": "websocket.close"})
        except OSError as error:
            self.end = error


@pytest.mark.parametrize("size", [100, 10_000, MEBIBYTE])
@pytest.mark.parametrize("fields", [[], [DEFLATE]], ids=["plain", "compressed"])
def test_a_window_that_stays_shut_makes_send_wait(serve, size, fields):
    """Others on the connection are served; what comes when it opens is all of it, in order."""
    app = Pushing(size)
    server = serve(app)
    h2 = h2_to(server)
    other = h2.open(b"/echo")
    stream = h2.connect(b"/push", *fields)
    stream.hold()
    until(lambda: app.begun)
    begun = settled(lambda: app.begun)
    assert begun * size < 4 * WINDOW + 2 * size
    for number in range(20):
        other.send(binary(b"%d" % number * 30_000))
        assert other.read_binary() == b"%d" % number * 30_000
    assert app.begun == begun
    assert sum(stream.chunks) <= WINDOW
    ws = H2WebSocket(stream)
    ws.accepted()
    app.stop = True
    stream.release(1 << 30)
    taken = 0
    while (found := ws.read_frame()).opcode == BINARY:
        assert found.rsv or found.payload == app.data
        taken += 1
    assert taken == app.begun
    ws.send(close())
    stream.assert_closed()


def test_a_window_of_a_few_bytes(serve):
    """Each frame goes out in as many pieces as there is room for."""
    server = serve(echo)
    h2 = h2_to(server, window=7)
    ws = h2.open()
    ws.send(binary(b"x" * 1000), ping(b"?"), text("y"))
    assert ws.read_binary() == b"x" * 1000
    assert ws.read_pong() == b"?"
    assert ws.read_text() == "y"
    assert max(ws.stream.chunks) <= 7
    ws.finish()


def test_a_window_of_nothing(serve):
    """The answer needs none of it, every frame does."""
    h2 = h2_to(serve(echo), window=0)
    ws = h2.open()
    ws.send(text("first"))
    h2.settle()
    assert ws.stream.chunks == []
    ws.stream.release(3)
    ws.stream.release(100)
    assert ws.read_text() == "first"
    ws.send(close())
    assert ws.read_close()[0] == 1000
    ws.stream.assert_closed()


@pytest.mark.parametrize("how", ["cancel", "close", "reset"])
def test_a_client_that_leaves_while_send_waits(serve, how):
    app = Pushing(10_000)
    server = serve(app)
    h2 = h2_to(server)
    stream = h2.connect(b"/push")
    stream.hold()
    until(lambda: app.begun)
    settled(lambda: app.begun)
    if how == "cancel":
        stream.cancel(CANCEL)
        assert h2.ask().status == 200
    else:
        getattr(h2, how)()
    until(lambda: app.end, "send() to hear of it")
    assert isinstance(app.end, ClientDisconnected)
    until(lambda: server.factory.in_flight == 0)


def test_pongs_that_nobody_takes_are_bounded(serve):
    """A client with a shut window that keeps asking: it has to wait, too."""
    server = serve(echo, **SMALL)
    h2 = h2_to(server, window=0)
    ws = h2.open()
    sent = blocked(ws.stream, ping(b"x" * 125) * 100_000)
    assert sent < 2 * MEBIBYTE
    ws.stream.cancel()
    assert h2.request(b"/ok").answered().status == 200
    server.rejects.clear()


def test_the_close_waits_for_the_window_like_everything(serve, led):
    server = serve(led)
    h2 = h2_to(server, window=0)
    found = H2Opened(h2, led).accepted()
    found.app.close(4000, "bye")
    h2.settle()
    assert found.stream.chunks == []
    found.stream.release(100)
    assert found.ws.read_close() == (4000, "bye")
    found.ws.send(close(4000))
    found.stream.assert_closed()


def test_a_close_that_nobody_takes_ends_with_its_deadline(serve, led):
    """timeout-ws-close, for a stream whose window stays shut."""
    server = serve(led, ws_close_ms=20)
    h2 = h2_to(server, window=0)
    found = H2Opened(h2, led).accepted()
    found.app.close(4000)
    found.app.leave()
    until(lambda: server.call(server.factory.tick) or server.factory.in_flight == 0)

    def turn() -> bool:
        server.call(server.factory.tick)
        h2.settle()
        return found.stream.reset is not None

    until(turn, "RST_STREAM")
    assert h2.request(b"/ok").answered().status == 200
    server.rejects.clear()


def test_a_stream_that_makes_no_progress_is_reset(serve):
    """timeout-write-stall: the stream alone, with one report (RFC 9113 §10.5)."""
    app = Pushing(10_000)
    server = serve(app, write_stall_ms=50)
    h2 = h2_to(server)
    other = h2.open(b"/echo")
    stream = h2.connect(b"/push")
    stream.hold()
    until(lambda: app.begun)
    until(lambda: server.call(server.factory.tick) or app.end)
    assert isinstance(app.end, ClientDisconnected)
    assert stream.was_reset() == CANCEL
    (reject,) = server.take_rejects()
    assert reject.status == -1
    assert "timeout-write-stall" in reject.reason
    other.send(text("here?"))
    assert other.read_text() == "here?"


def test_both_wait_for_each_other(serve):
    """An echo whose client sends much before it takes anything: stuck until it does, and then all arrives."""
    server = serve(echo, **SMALL)
    h2 = h2_to(server)
    ws = h2.open()
    ws.stream.hold()
    data = b"".join(binary(number.to_bytes(4, "big") * 500) for number in range(2000))
    sent = blocked(ws.stream, data)
    assert sent < MEBIBYTE
    ws.stream.release(1 << 30)
    ws.stream.send(data[sent:])
    assert [ws.read_binary() for _ in range(2000)] == [n.to_bytes(4, "big") * 500 for n in range(2000)]
    ws.finish()


def test_a_large_message_takes_turns_with_the_others(serve, led):
    """It goes out in frames, between which those of other streams find room."""
    h2 = h2_to(serve(led), window=1 << 24)
    big, small = (H2Opened(h2, led, number=number).accepted() for number in range(2))
    sending = big.app.begin(saying(b"x" * 10 * MEBIBYTE))
    small.app.binary(b"tiny")
    small.ws.send(ping(b"?"))
    assert {small.ws.read_frame().payload for _ in range(2)} == {b"tiny", b"?"}
    assert sum(big.stream.chunks) < 10 * MEBIBYTE
    assert big.ws.read_binary() == b"x" * 10 * MEBIBYTE
    assert sending.result(PATIENCE_S) is None


def saying(data: bytes):
    async def step(receive, send):
        await send({"type": "websocket.send", "bytes": data})

    return step


def test_pongs_are_heard_while_messages_wait(serve):
    """Pings are answered although the app takes nothing, as far as its queue goes."""
    app = SlowOrEcho()
    server = serve(app, **limited(ws_max_queue=100))
    ws = h2_to(server).open(b"/slow")
    for number in range(99):
        ws.send(text(str(number)), ping(b"%d" % number))
        assert ws.read_frame() == (True, 0, PONG, b"%d" % number)
    app.take(server)
    ws.finish()
    assert app.ended() == (1000, "")
    assert app.messages == [str(number) for number in range(99)]


def test_the_end_of_the_connection_in_a_flood(serve):
    """All of them at once, in the middle of everything; nothing is left."""
    app = Pushing(10_000)
    server = serve(app)
    h2 = h2_to(server, window=1 << 20)
    sockets = [h2.open(b"/echo") for _ in range(20)]
    pushed = h2.connect(b"/push")
    for ws in sockets:
        ws.stream.send_some(text("x") * 100)
    pushed.answered()
    h2.reset()
    until(lambda: app.end)
    gone(server)
    until(lambda: server.factory.in_flight == 0)


def test_disconnect_comes_once_and_stays(serve, led):
    found = H2Opened(h2_to(serve(led, **SMALL)), led).accepted()
    found.stream.cancel()
    assert [found.app.receive() for _ in range(3)] == [disconnect(1006)] * 3
