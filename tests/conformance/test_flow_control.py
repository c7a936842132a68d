"""Back-pressure both ways: who does not read makes the other side wait, and memory stays bounded."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from tests.helpers.asgi import body, read_body, reply, start
from tests.helpers.http1 import Client, get, post, settled, until

MEBIBYTE = 1 << 20
PIECE = bytes(range(256)) * 256  # 64 KiB
# What the kernel's send buffer may grow to, and 1 MiB for the client's receive buffer and ours.
BOUND = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2]) + MEBIBYTE


class Stream:
    """Sends ``total`` bytes in pieces and knows how many send() took."""

    def __init__(self, total: int, piece: bytes = PIECE) -> None:
        self.total = total
        self.piece = piece
        self.sent = 0
        self.done = False

    async def __call__(self, scope, receive, send) -> None:
        await start(send, 200, [(b"content-length", b"%d" % self.total)])
        while self.sent < self.total:
            self.sent += len(self.piece)
            await body(send, self.piece, more=self.sent < self.total)
        self.done = True


def drain_body(client: Client, total: int) -> None:
    """Reads the rest of a response with a body of ``total`` bytes, and checks each of them."""
    data = client.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[2]
    got = 0
    while True:
        for at in range(0, len(data), 4096):
            piece = data[at : at + 4096]
            shift = (got + at) % 256
            assert piece == PIECE[shift : shift + len(piece)]
        got += len(data)
        if got >= total:
            break
        data = client.receive(1 << 20)
        assert data
    assert got == total


@pytest.mark.parametrize("piece", [PIECE, PIECE[:1024], PIECE * 32], ids=["64 KiB", "1 KiB", "2 MiB"])
def test_a_client_that_stops_reading_stops_the_app(serve, piece):
    app = Stream((200 if len(piece) > 1024 else 20) * MEBIBYTE, piece)
    server = serve(app)
    with server.connect(receive_buffer=65536) as client:
        client.send(get())
        until(lambda: app.sent)
        assert settled(lambda: app.sent) < BOUND + len(piece)
        # It goes on as far as the client reads, and no further.
        got = 0
        while got < 5 * MEBIBYTE:
            got += len(client.receive(MEBIBYTE))
        assert app.sent > 5 * MEBIBYTE - 1
        assert settled(lambda: app.sent) - got < BOUND + len(piece)
        client.reset()
    until(lambda: server.factory.in_flight == 0)
    assert isinstance(server.take_error().error, OSError)
    assert not app.done


def test_a_stream_of_200_mb_arrives(serve):
    app = Stream(200 * MEBIBYTE)
    with serve(app).connect() as client:
        client.send(get())
        drain_body(client, 200 * MEBIBYTE)
        until(lambda: app.done)


def test_a_slow_reader_gets_every_byte(serve):
    app = Stream(6 * MEBIBYTE, PIECE[: 256 * 100])
    app.total = 256 * 100 * 240
    with serve(app).connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: app.sent)
        settled(lambda: app.sent, looks=4)
        drain_body(client, app.total)


def test_other_connections_are_served_while_one_is_stuck(serve):
    stream = Stream(50 * MEBIBYTE)

    async def app(scope, receive, send):
        if scope["path"] == "/stream":
            await stream(scope, receive, send)
        else:
            await reply(send)

    server = serve(app)
    with server.connect(receive_buffer=65536) as stuck:
        stuck.send(get("/stream"))
        until(lambda: stream.sent)
        with server.connect() as client:
            for _ in range(20):
                assert client.ask(get()).status == 200
    server.take_error()


def test_one_huge_body(serve):
    """It cannot wait in pieces; it must arrive, and the app need not wait for it."""
    data = PIECE * (50 * 16)

    async def app(scope, receive, send):
        await reply(send, data)

    with serve(app).connect(receive_buffer=65536) as client:
        client.send(get(), get("/next"))
        for _ in range(2):
            drain_body_exact(client, data)


def drain_body_exact(client: Client, data: bytes) -> None:
    received = bytearray(client.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[2])
    while len(received) < len(data):
        received += client.receive(MEBIBYTE)
    client.buffered = bytes(received[len(data) :])
    assert received[: len(data)] == data


def test_pipelined_responses_wait_for_the_client(serve):
    """A client that asks and never reads must not make the server work without bound."""
    served = []

    async def app(scope, receive, send):
        served.append(1)
        await start(send, 200, [(b"content-length", b"%d" % len(PIECE))])
        await body(send, PIECE)

    server = serve(app)
    with server.connect(receive_buffer=8192) as client:
        client.send(*[get() for _ in range(400)])
        until(lambda: served)
        assert settled(lambda: len(served)) * len(PIECE) < 16 * MEBIBYTE
        for _ in range(400):
            drain_body_exact(client, PIECE)
    assert len(served) == 400


class Upload:
    """Sends a body of ``total`` bytes from a thread and knows how much the kernel took."""

    def __init__(self, client: Client, total: int) -> None:
        self.sent = 0
        self.total = total
        self._client = client
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self._client.send(get("/", b"Content-Length: %d" % self.total, method=b"POST"))
        try:
            while self.sent < self.total:
                self._client.sock.sendall(PIECE)
                self.sent += len(PIECE)
        except OSError:
            pass


def test_an_app_that_does_not_read_stops_the_upload(serve):
    go = asyncio.Event()

    async def app(scope, receive, send):
        await go.wait()
        await reply(send, b"%d" % len(await read_body(receive)))

    server = serve(app)
    with server.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        upload = Upload(client, 50 * MEBIBYTE)
        until(lambda: upload.sent)
        assert settled(lambda: upload.sent) < 12 * MEBIBYTE  # loopback's receive buffer may grow to 6 MiB
        server.call(go.set)
        upload.thread.join(10)
        assert client.response().body == b"%d" % (50 * MEBIBYTE)
        assert client.ask(get("/ok")).body == b"0"


def test_an_app_that_reads_one_piece_at_a_time(serve):
    """Every receive() lets in a bounded piece, never the whole upload."""
    sizes = []
    gate = asyncio.Semaphore(0)

    async def app(scope, receive, send):
        more = True
        while more:
            await gate.acquire()
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
        await reply(send, b"%d" % sum(sizes))

    server = serve(app)
    with server.connect() as client:
        upload = Upload(client, 20 * MEBIBYTE)
        for i in range(5):
            server.call(gate.release)
            until(lambda i=i: len(sizes) == i + 1)
        assert max(sizes) <= 2 * MEBIBYTE
        until(lambda: server.call(gate.release) or not server.factory.in_flight)
        upload.thread.join(10)
        assert client.response().body == b"%d" % (20 * MEBIBYTE)
    assert max(sizes) <= 2 * MEBIBYTE


def test_an_upload_and_a_download_at_once(serve):
    """An echo that streams: neither direction may block the other for good."""

    async def app(scope, receive, send):
        await start(send, 200, [(b"content-length", b"%d" % (20 * MEBIBYTE))])
        total = 0
        while total < 20 * MEBIBYTE:
            message = await receive()
            total += len(message["body"])
            await body(send, message["body"], more=total < 20 * MEBIBYTE)

    with serve(app).connect() as client:
        upload = Upload(client, 20 * MEBIBYTE)
        drain_body(client, 20 * MEBIBYTE)
        upload.thread.join(10)


@pytest.mark.parametrize("how", ["task", "gather"])
def test_several_tasks_wait_in_send(serve, how):
    """All of them go on when the client reads."""

    async def app(scope, receive, send):
        await start(send)
        if how == "gather":
            for _ in range(20):
                await asyncio.gather(*[body(send, PIECE, more=True) for _ in range(10)])
        else:
            tasks = [asyncio.create_task(body(send, PIECE, more=True)) for _ in range(200)]
            await asyncio.wait(tasks)
        await body(send)

    with serve(app).connect(receive_buffer=8192) as client:
        client.send(get())
        assert client.response().body == PIECE * 200


def test_a_cancelled_send_leaves_the_stream_whole(serve):
    """A send() that waits has taken its bytes: cancelling the wait does not tear the message."""
    timeouts = []

    async def app(scope, receive, send):
        await start(send)
        for _ in range(200):
            try:
                async with asyncio.timeout(0.005):
                    await body(send, PIECE, more=True)
            except TimeoutError:
                timeouts.append(1)
        await body(send)

    with serve(app).connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: timeouts)
        assert client.response().body == PIECE * 200


def test_post_bodies_larger_than_every_buffer_pipelined(serve):
    async def app(scope, receive, send):
        await asyncio.sleep(0)
        await reply(send, b"%d" % len(await read_body(receive)))

    with serve(app).connect() as client:
        thread = threading.Thread(target=client.send, args=[post(PIECE * 40) + post(PIECE * 3) + get()])
        thread.start()
        assert [response.body for response in client.responses(3)] == [b"2621440", b"196608", b"0"]
        thread.join()
