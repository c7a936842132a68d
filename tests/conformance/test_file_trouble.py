"""Files that cannot be sent, that change while they are, and clients and servers that end in the middle."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path

import pytest

from shardserve.errors import BodyLengthError, MessageError
from tests.helpers.asgi import body, ok, start
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
from tests.helpers.http1 import get, until
from tests.helpers.mistakes import START, gets_500, mistaken
from tests.helpers.refusals import cut_off

__all__ = ["file", "kind"]  # fixtures

# What an app must not send

NO_FILE = {
    "a path that is missing": ({"type": PATHSEND}, ["path"]),
    "a path that is None": ({"type": PATHSEND, "path": None}, ["path", "NoneType"]),
    "a path that is a number": ({"type": PATHSEND, "path": 5}, ["path", "int"]),
    "a file that is missing": ({"type": ZEROCOPYSEND}, ["file"]),
    "a file that is None": ({"type": ZEROCOPYSEND, "file": None}, ["file", "NoneType"]),
    "a file without a descriptor": ({"type": ZEROCOPYSEND, "file": object()}, ["file", "object"]),
}


@pytest.mark.parametrize("name", NO_FILE)
def test_what_is_no_file(serve, name, turn):
    message, words = NO_FILE[name]
    error = gets_500(serve(mistaken(START, message, turn=turn)))
    assert type(error) is MessageError
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("key", ["offset", "count"])
@pytest.mark.parametrize("value", [-1, "5", 5.0, b"5", 1 << 80, -(1 << 80)])
def test_what_is_no_number_of_bytes(serve, file, key, value):
    with file(10).open("rb") as opened:
        message = {"type": ZEROCOPYSEND, "file": opened, key: value}
        error = gets_500(serve(mistaken(START, message)))
    assert type(error) is MessageError
    assert key in str(error)


def test_what_is_no_regular_file(serve, tmp_path, kind):
    """A FIFO is not waited for, a device is not read, a socket is none."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        if kind == "pathsend":
            error = gets_500(serve(mistaken(START, {"type": PATHSEND, "path": str(path)})))
        else:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            error = gets_500(serve(mistaken(START, {"type": ZEROCOPYSEND, "file": fd})))
            os.close(fd)
        assert isinstance(error, MessageError)
        assert "regular file" in str(error)
    one, other = socket.socketpair()
    error = gets_500(serve(mistaken(START, {"type": ZEROCOPYSEND, "file": one})))
    assert isinstance(error, MessageError)
    one.close()
    other.close()


def test_a_file_that_has_no_descriptor(serve):
    error = gets_500(serve(mistaken(START, {"type": ZEROCOPYSEND, "file": io.BytesIO(b"x")})))
    assert isinstance(error, io.UnsupportedOperation)


def test_a_file_that_is_closed(serve, file):
    opened = file(10).open("rb")
    opened.close()
    error = gets_500(serve(mistaken(START, {"type": ZEROCOPYSEND, "file": opened})))
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("name", "kind_of_error"),
    [
        ("none", FileNotFoundError),
        (".", IsADirectoryError),
        ("file/x", NotADirectoryError),
        ("a\0b", ValueError),
    ],
)
def test_a_path_that_cannot_be_opened(serve, tmp_path, name, kind_of_error):
    """Nothing is on the wire yet, so the client gets a whole 500."""
    (tmp_path / "file").touch()
    path = f"{tmp_path}/{name}"
    error = gets_500(serve(mistaken(START, {"type": PATHSEND, "path": path})))
    assert isinstance(error, kind_of_error)
    if isinstance(error, OSError):
        assert error.filename == path


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_path_without_permission(serve, file):
    path = file(10)
    path.chmod(0)
    error = gets_500(serve(mistaken(START, {"type": PATHSEND, "path": str(path)})))
    assert isinstance(error, PermissionError)


def test_an_app_that_finds_no_file_may_go_on(serve, tmp_path, file):
    """As often as it likes: each refused message leaves no trace."""

    async def app(scope, receive, send):
        await start(send, 404)
        with pytest.raises(FileNotFoundError):
            await send({"type": PATHSEND, "path": str(tmp_path / "none")})
        with pytest.raises(IsADirectoryError):
            await send({"type": PATHSEND, "path": str(tmp_path)})
        with pytest.raises(MessageError):
            await send({"type": ZEROCOPYSEND, "file": None})
        await body(send, b"not here")

    with serve(app).connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert (response.status, response.body) == (404, b"not here")


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("promised", [-1, 1])
def test_a_file_that_is_not_as_long_as_promised(serve, file, kind, size, promised):
    """Known before anything is on the wire."""
    path = file(size)
    headers = [(b"content-length", b"%d" % (size + promised))]
    error = gets_500(serve(serving(kind, path, headers)))
    assert isinstance(error, BodyLengthError)
    assert str(size) in str(error)
    until(lambda: descriptors(path) == 0)


def test_parts_that_are_longer_than_promised(serve, file):
    """The first one is on the wire: the client must see that its body is not whole."""
    messages = [{"offset": 0, "count": 100_000}, {"offset": 0, "count": 100_000}]
    headers = [(b"content-length", b"150000")]
    server = serve(pieces(file(), *messages, headers=headers))
    raw = server.raw(get())
    assert raw.partition(b"\r\n\r\n")[2] == BLOB[:100_000]
    error = server.take_error()
    assert isinstance(error.error, BodyLengthError)
    assert error.outcome == "connection closed early"


@pytest.mark.parametrize("first", [PATHSEND, ZEROCOPYSEND])
def test_before_the_start(serve, file, first):
    with file(10).open("rb") as opened:
        message = {"type": first, "path": str(file(10)), "file": opened}
        error = gets_500(serve(mistaken(message)))
    assert type(error) is MessageError
    assert "before http.response.start" in str(error)


@pytest.mark.parametrize("size", [10, 100_000])
def test_after_the_end(serve, file, kind, size):
    path = file(size)
    errors = []

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await start(send)
        await send_file(send, kind, path)
        with path.open("rb") as opened:
            for message in (
                {"type": PATHSEND, "path": str(path)},
                {"type": ZEROCOPYSEND, "file": opened},
                {"type": "http.response.body"},
                START,
            ):
                try:
                    await send(message)
                except MessageError as error:
                    errors.append(str(error))

    with serve(app).connect() as client:
        assert client.ask(get()).body == BLOB[:size]
        client.assert_open()
    assert len(errors) == 4
    until(lambda: descriptors(path) == 0)


def test_a_second_message_while_a_file_is_being_sent(serve, file):
    """What would stand in the middle of the file is refused, and leaves no trace."""
    errors = []

    async def app(scope, receive, send):
        await start(send)
        with file().open("rb") as opened:
            sending = send({"type": ZEROCOPYSEND, "file": opened, "more_body": True})
            for message in (
                {"type": "http.response.body", "body": b"middle", "more_body": True},
                {"type": ZEROCOPYSEND, "file": opened},
                {"type": PATHSEND, "path": str(file())},
            ):
                try:
                    send(message)
                except MessageError as error:
                    errors.append(str(error))
            await sending
        await body(send, b"end")

    with serve(app).connect(receive_buffer=8192) as client:
        assert client.ask(get()).body == BLOB + b"end"
    assert len(errors) == 3


# The file changes


def test_a_file_that_is_replaced_meanwhile(serve, file, kind):
    """What was opened is what is sent."""
    path = file()
    server = serve(serving(kind, path))
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: descriptors(path))
        path.unlink()
        path.write_bytes(b"new")
        assert client.response().body == BLOB
        assert client.ask(get()).body == b"new"


def test_a_file_that_grows_meanwhile(serve, file, kind):
    path = file()
    with serve(serving(kind, path)).connect(receive_buffer=8192) as client:
        client.send(get())
        # The server's own: its length is known by then.
        until(lambda: descriptors(path) == (2 if kind == "zerocopysend" else 1))
        with path.open("ab") as opened:
            opened.write(b"more")
        assert client.response().body == BLOB


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_that_becomes_shorter_meanwhile(serve, file, chunked):
    """The client must see that its body is not whole: the length is not reached, the chunk not ended."""
    path = file()
    messages = [b"begun", {"offset": 0}] if chunked else [{"offset": 0}]
    server = serve(pieces(path, *messages))
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        client.read_until(b"\r\n\r\n")
        os.truncate(path, MEBIBYTE)
        received = 0
        try:
            while data := client.receive():
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < len(BLOB)
    (reject,) = server.take_rejects()
    assert reject.status == 0
    assert "shorter" in reject.reason
    until(lambda: descriptors(path) == 0)


# The client goes, or is too slow


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_in_the_middle(serve, file, kind, how):
    """The app has said all that it has to say: nobody complains."""
    path = file()
    server = serve(serving(kind, path))
    for _ in range(5):
        client = server.connect(receive_buffer=8192)
        client.send(get())
        client.read_until(b"\r\n\r\n")
        getattr(client, how)()
    until(lambda: server.factory.in_flight == 0)
    until(lambda: server.factory.connections == 0)
    until(lambda: descriptors(path) == 0)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_before_the_last_part(serve, file, how):
    path = file()
    server = serve(pieces(path, {"offset": 0}, b"end"))
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        client.read_until(b"\r\n\r\n")
        getattr(client, how)()
    report = server.take_error()
    assert isinstance(report.error, OSError)
    assert report.outcome == "client gone"
    until(lambda: descriptors(path) == 0)


def test_an_app_hears_that_its_client_is_gone(serve, file):
    """And may go on with what it has to do; send() raises from then on."""
    path = file()
    seen = []

    async def app(scope, receive, send):
        await receive()
        await start(send)
        with path.open("rb") as opened:
            try:
                await send({"type": ZEROCOPYSEND, "file": opened, "more_body": True})
                await body(send, b"x")
            except OSError as error:
                seen.append(type(error).__name__)
        seen.append((await receive())["type"])

    server = serve(app)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        client.read_until(b"\r\n\r\n")
        client.reset()
    until(lambda: len(seen) == 2)
    assert seen == ["ClientDisconnected", "http.disconnect"]


def test_a_client_that_takes_nothing_is_cut(serve_ticking, file, kind):
    path = file()
    server = serve_ticking(serving(kind, path), write_stall_ms=150)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: descriptors(path))
        until(lambda: server.factory.connections == 0, "the connection to be cut")
    cut_off(server)
    until(lambda: descriptors(path) == 0)


def test_a_client_that_takes_a_little_is_not_cut(serve, file, kind):
    """The test ticks, each time after the client has done its part, so that it is never late."""
    server = serve(serving(kind, file()), write_stall_ms=150)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert client.receive(16384)
            time.sleep(0.005)
            server.call(server.factory.tick)
            assert server.rejects == []
        assert server.factory.connections == 1
        client.reset()


# The server ends


def test_a_drain_waits_for_the_file(serve, file, kind):
    path = file()
    server = serve(serving(kind, path))
    empty = []
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        until(lambda: descriptors(path))
        server.call(lambda: server.factory.drain(lambda: empty.append(1)))
        response = client.response()
        assert response.body == BLOB
        client.assert_closed()
    until(lambda: empty)


def test_an_abort_lets_go_of_the_file(serve, file, kind):
    path = file()
    server = serve(serving(kind, path))
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        client.read_until(b"\r\n\r\n")
        assert server.call(server.factory.abort) == 1
        until(lambda: server.factory.connections == 0)
    assert server.take_error().outcome == "cut by the server"
    until(lambda: descriptors(path) == 0)


def test_an_app_that_fails_behind_a_file(serve, file):
    """The parts before are on the wire: the client must see that it is not the whole."""
    path = file(100_000)

    async def app(scope, receive, send):
        await start(send)
        with path.open("rb") as opened:
            await send({"type": ZEROCOPYSEND, "file": opened, "more_body": True})
        raise ValueError("later")

    server = serve(app)
    raw = server.raw(get())
    assert not raw.endswith(b"0\r\n\r\n")
    assert server.take_error().outcome == "connection closed early"


def test_an_app_that_fails_while_a_file_is_being_sent(serve, file):
    path = file()

    async def app(scope, receive, send):
        await start(send)
        with path.open("rb") as opened:
            send({"type": ZEROCOPYSEND, "file": opened, "more_body": True})
        raise ValueError("at once")

    server = serve(app)
    with server.connect(receive_buffer=8192) as client:
        client.send(get())
        try:
            raw = client.rest()
        except ConnectionResetError:
            raw = b""
        assert not raw.endswith(b"0\r\n\r\n")
    assert isinstance(server.take_error().error, ValueError)
    until(lambda: descriptors(path) == 0)
