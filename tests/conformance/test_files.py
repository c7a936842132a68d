"""Files as response bodies on the wire: http.response.pathsend and .zerocopysend (ASGI extensions).

What goes wrong is test_file_trouble.py's, evil objects are tests/native/test_files.py's, and what --static
answers is tests/unit/asgi/test_static.py's.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.helpers.asgi import body, reply, start
from tests.helpers.files import (
    BLOB,
    MEBIBYTE,
    PATHSEND,
    ZEROCOPYSEND,
    descriptors,
    file,
    kind,
    pieces,
    send_file,
    serving,
)
from tests.helpers.http1 import get, post, until

__all__ = ["file", "kind"]  # fixtures

# Around each limit that the native side has or may have, and more than any socket takes at once.
SIZES = [0, 1, 2047, 32767, 32768, 32769, 65535, 65536, 65537, MEBIBYTE, MEBIBYTE + 1, 5 * MEBIBYTE]


@pytest.fixture(params=["length", "no length"])
def length(request):
    """The headers of an app that says how long its file is, or does not."""
    known = request.param == "length"
    return lambda path: [(b"content-length", b"%d" % path.stat().st_size)] if known else []


# The whole of a file


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_each_size(serve, file, kind, length, size):
    path = file(size)
    server = serve(serving(kind, path, length(path)))
    with server.connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert response.status == 200
            assert response.one(b"content-length") == b"%d" % size
            assert response.one(b"transfer-encoding") is None
            assert response.body == BLOB[:size]
        client.assert_open()
    until(lambda: len(server.accesses) == 3)
    until(lambda: descriptors(path) == 0)


def test_an_app_that_suspends(serve, file, kind, turn):
    with serve(serving(kind, file(), turn=turn)).connect() as client:
        assert client.ask(get()).body == BLOB
        client.assert_open()


@pytest.mark.parametrize("as_path", [str, os.fsencode, Path], ids=["str", "bytes", "PathLike"])
def test_a_path_in_each_form(serve, tmp_path, as_path):
    path = tmp_path / "ä ö"
    path.write_bytes(b"there")

    async def app(scope, receive, send):
        await start(send)
        await send({"type": PATHSEND, "path": as_path(path)})

    assert serve(app).ask(get()).body == b"there"


def test_a_name_that_is_not_utf_8(serve, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(path)).write_bytes(b"there")

    async def app(scope, receive, send):
        await start(send)
        await send({"type": PATHSEND, "path": os.fsdecode(path)})

    assert serve(app).ask(get()).body == b"there"


def test_over_a_unix_socket(serve, file, kind, tmp_path):
    with serve(serving(kind, file()), where="unix", path=tmp_path / "socket").connect() as client:
        for _ in range(2):
            assert client.ask(get()).body == BLOB
        client.assert_open()


def test_a_slow_reader_gets_every_byte(serve, file, kind):
    with serve(serving(kind, file())).connect(receive_buffer=8192) as client:
        client.send(get())
        received = client.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[2]
        parts = [received]
        missing = len(BLOB) - len(received)
        while missing:
            parts.append(client.receive(20_000))
            assert parts[-1]
            missing -= len(parts[-1])
        assert b"".join(parts) == BLOB
        client.assert_open()


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """5 GiB, of which the last byte is written."""
    path = tmp_path / "sparse"
    with path.open("wb") as opened:
        opened.seek((5 << 30) - 1)
        opened.write(b"!")
    return path


def test_a_file_of_more_than_32_bits(serve, sparse, kind):
    with serve(serving(kind, sparse)).connect() as client:
        client.send(get())
        assert b"content-length: %d\r\n" % (5 << 30) in client.read_until(b"\r\n\r\n")
        client.reset()


def test_a_part_beyond_32_bits(serve, sparse):
    response = serve(pieces(sparse, {"offset": (5 << 30) - 100_000})).ask(get())
    assert response.body == bytes(99_999) + b"!"


def test_what_is_pipelined_behind_a_file(serve, file, kind):
    """In its place, whole, and not before the file."""
    path = file(3 * MEBIBYTE)
    with serve(serving(kind, path)).connect(receive_buffer=8192) as client:
        client.send(get("/1"), get("/ok"), get("/2"), post(b"x" * 1000, target=b"/ok"), get("/3"))
        bodies = [response.body for response in client.responses(5)]
    assert bodies == [BLOB[: 3 * MEBIBYTE], b"ok", BLOB[: 3 * MEBIBYTE], b"ok", BLOB[: 3 * MEBIBYTE]]


def test_a_client_that_wants_to_close(serve, file, kind, length):
    path = file()
    with serve(serving(kind, path, length(path))).connect() as client:
        response = client.ask(get("/", b"Connection: close"))
        assert response.body == BLOB
        assert response.one(b"connection") == b"close"
        client.assert_closed()


def test_a_client_that_half_closes_gets_its_file(serve, file, kind):
    raw = serve(serving(kind, file())).raw(get())
    assert raw.partition(b"\r\n\r\n")[2] == BLOB


def test_http_10(serve, file, kind, length):
    path = file()
    server = serve(serving(kind, path, length(path)))
    with server.connect() as client:
        response = client.ask(get(version=b"1.0"))
        assert (response.body, response.one(b"content-length")) == (BLOB, b"%d" % len(BLOB))
        client.assert_closed()
    with server.connect() as client:
        for _ in range(2):
            response = client.ask(get("/", b"Connection: keep-alive", version=b"1.0"))
            assert (response.body, response.one(b"connection")) == (BLOB, b"keep-alive")


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_head(serve, file, kind, length, size):
    path = file(size)
    with serve(serving(kind, path, length(path))).connect() as client:
        for _ in range(2):
            response = client.ask(get(method=b"HEAD"), "HEAD")
            assert (response.status, response.body) == (200, b"")
            assert response.one(b"content-length") == dict(length(path)).get(b"content-length")
        assert client.ask(get()).body == BLOB[:size]
    until(lambda: descriptors(path) == 0)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_where_there_is_no_body(serve, file, kind, status):
    path = file(100_000)
    with serve(serving(kind, path, status=status)).connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert (response.status, response.body) == (status, b"")
            assert response.one(b"transfer-encoding") is None
        client.assert_open()
    until(lambda: descriptors(path) == 0)


def test_many_at_once(serve, file, kind):
    path = file(MEBIBYTE)
    server = serve(serving(kind, path))
    clients = [server.connect(receive_buffer=8192) for _ in range(40)]
    for client in clients:
        client.send(get())
    for client in clients:
        assert client.response().body == BLOB[:MEBIBYTE]
    until(lambda: descriptors(path) == 0)


def test_others_are_served_while_one_is_stuck(serve, file, kind):
    server = serve(serving(kind, file()))
    with server.connect(receive_buffer=8192) as stuck:
        stuck.send(get())
        until(lambda: server.factory.in_flight)
        with server.connect() as client:
            for _ in range(20):
                assert client.ask(get("/ok")).body == b"ok"
        assert stuck.response().body == BLOB


def test_a_request_body_that_nobody_read(serve, file, kind):
    with serve(serving(kind, file())).connect() as client:
        assert client.ask(post(b"x" * 100_000)).body == BLOB
        client.assert_open()


def test_an_upload_that_is_still_coming(serve, file, kind):
    path = file(MEBIBYTE)
    with serve(serving(kind, path)).connect() as client:
        client.send(get("/", b"Content-Length: 20", method=b"POST"), b"x" * 10)
        assert client.response().body == BLOB[:MEBIBYTE]
        client.send(b"x" * 10)
        client.assert_open()


# Parts of files, between other pieces


MIXTURES = {
    "body first": [b"abc", {"offset": 0, "count": 100_000}],
    "body last": [{"offset": 5, "count": 100_000}, b"abc"],
    "between": [b"a", {"offset": 100, "count": 50_000}, b"b", {"offset": 7, "count": 1}, b"c"],
    "files only": [{"offset": 0, "count": 70_000}, {"offset": 70_000, "count": 70_000}],
    "short files": [{"offset": 0, "count": 10}, {"offset": 10, "count": 10}, b"x"],
    "nothing last": [{"offset": 0, "count": 70_000}, b""],
    "empty parts": [b"", {"offset": 0, "count": 0}, b"", {"offset": 0, "count": 70_000}, {"count": 0}],
}


def expected(messages) -> bytes:
    parts = []
    for message in messages:
        if isinstance(message, bytes):
            parts.append(message)
        else:
            first = message.get("offset", 0)
            parts.append(BLOB[first : first + message["count"]])
    return b"".join(parts)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("known", [True, False], ids=["length", "chunked"])
def test_files_and_bodies_mixed(serve, file, pause, name, known):
    messages = MIXTURES[name]
    data = expected(messages)
    headers = [(b"content-length", b"%d" % len(data))] if known else []
    with serve(pieces(file(), *messages, headers=headers, pause=pause)).connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert response.body == data
            assert response.one(b"transfer-encoding") == (None if known else b"chunked")
        assert client.ask(get(method=b"HEAD"), "HEAD").body == b""
        assert client.ask(get()).body == data


@pytest.mark.parametrize("name", MIXTURES)
def test_mixed_for_http_10(serve, file, name):
    """Without a length the end of the connection is the end of the body."""
    messages = MIXTURES[name]
    with serve(pieces(file(), *messages)).connect() as client:
        response = client.ask(get("/", b"Connection: keep-alive", version=b"1.0"))
        assert response.body == expected(messages)
        assert response.one(b"connection") == b"close"
        client.assert_closed()


def test_a_part_is_one_chunk(serve, file):
    """RFC 9112 §7.1."""
    raw = serve(pieces(file(), b"ab", {"offset": 0, "count": 100_000}, b"c")).raw(get())
    assert (
        raw.partition(b"\r\n\r\n")[2] == b"2\r\nab\r\n186a0\r\n" + BLOB[:100_000] + b"\r\n1\r\nc\r\n0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("message", "position", "first", "count"),
    [
        ({}, 0, 0, 100_000),
        ({}, 60_000, 60_000, 40_000),
        ({"count": 10}, 60_000, 60_000, 10),
        ({"offset": 0}, 60_000, 0, 100_000),
        ({"offset": 99_999}, 0, 99_999, 1),
        ({"offset": 100_000}, 0, 0, 0),
        ({"offset": 200_000}, 0, 0, 0),
        ({"offset": 90_000, "count": 1_000_000}, 0, 90_000, 10_000),
        ({"offset": 0, "count": 0}, 0, 0, 0),
        ({"offset": None, "count": None}, 5, 5, 99_995),
        ({}, 100_000, 0, 0),
    ],
)
def test_which_part(serve, file, message, position, first, count):
    async def app(scope, receive, send):
        await start(send)
        with file(100_000).open("rb", buffering=0) as opened:
            opened.seek(position)
            await send({"type": ZEROCOPYSEND, "file": opened, **message})

    response = serve(app).ask(get())
    assert response.body == BLOB[first : first + count]
    assert response.one(b"content-length") == b"%d" % count


def test_one_part_after_the_other_from_where_the_file_stands(serve, file):
    """Without an offset the position moves on, as it would by reading."""

    async def app(scope, receive, send):
        await start(send)
        with file(200_000).open("rb", buffering=0) as opened:
            for more in (True, True, False):
                await send({"type": ZEROCOPYSEND, "file": opened, "count": 60_000, "more_body": more})

    assert serve(app).ask(get()).body == BLOB[:180_000]


def test_a_descriptor_number_is_a_file(serve, file):
    """What os.sendfile takes."""

    async def app(scope, receive, send):
        await start(send)
        fd = os.open(file(100_000), os.O_RDONLY)
        await send({"type": ZEROCOPYSEND, "file": fd})
        os.close(fd)

    assert serve(app).ask(get()).body == BLOB[:100_000]


def test_a_file_that_is_closed_at_once(serve, file):
    """send() has a descriptor of its own; its number may mean something else by the time it is sent."""

    async def app(scope, receive, send):
        await start(send)
        opened = file().open("rb")
        sending = send({"type": ZEROCOPYSEND, "file": opened})
        opened.close()
        other = Path(os.devnull).open("rb")  # noqa: SIM115 (it is to have the number)
        await sending
        other.close()

    with serve(app).connect(receive_buffer=8192) as client:
        assert client.ask(get()).body == BLOB
    until(lambda: descriptors(file()) == 0)


def test_what_is_not_awaited_is_sent_nevertheless(serve, file, kind):
    async def app(scope, receive, send):
        await start(send)
        send({"type": PATHSEND, "path": str(file())})

    with serve(app).connect(receive_buffer=8192) as client:
        assert client.ask(get()).body == BLOB
        assert client.ask(get()).body == BLOB


def test_send_waits_until_the_file_is_taken(serve, file, kind):
    path = file()
    taken = []

    async def app(scope, receive, send):
        await start(send)
        await send_file(send, kind, path)
        taken.append(True)

    server = serve(app)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        client.read_until(b"\r\n\r\n")
        until(lambda: descriptors(path))
        assert not taken
        while not taken:
            client.receive()
    until(lambda: descriptors(path) == 0)


def test_a_wait_that_is_cancelled_leaves_the_file_whole(serve, file):
    timeouts = []

    async def app(scope, receive, send):
        await start(send)
        with file().open("rb") as opened:
            message = {"type": ZEROCOPYSEND, "file": opened, "more_body": True}
            sending = asyncio.ensure_future(_awaited(send(message)))
            while not sending.done():
                try:
                    async with asyncio.timeout(0.002):
                        await asyncio.shield(sending)
                except TimeoutError:
                    timeouts.append(1)
        await body(send, b"end")

    with serve(app).connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: timeouts)
        assert client.response().body == BLOB + b"end"


async def _awaited(awaitable) -> None:
    await awaitable


# What is offered


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_the_scope_offers_files(serve, version):
    """In a dict of each request's own."""
    seen = []

    async def app(scope, receive, send):
        seen.append(set(scope["extensions"]))
        scope["extensions"].clear()
        await reply(send)

    server = serve(app)
    for _ in range(2):
        server.ask(get(version=version))
    assert len(seen) == 2
    for names in seen:
        assert names >= {PATHSEND, ZEROCOPYSEND}
