"""``wsgi.file_wrapper``: what is sent past the app, and what has to be read."""

from __future__ import annotations

import gzip
import io
import os
import tempfile

import pytest
from django.core.files import File

from shardserve.asgi.wsgi_files import FileWrapper, part_of
from shardserve.errors import BodyLengthError
from tests.helpers.wsgi import Client, call

DATA = bytes(range(256)) * 100
EXTENSION = {"extensions": {"http.response.zerocopysend": {}}}


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "data.bin"
    found.write_bytes(DATA)
    return found


def serving(filelike, headers=(), status="200 OK", block_size=8192):
    def app(environ, start_response):
        start_response(status, list(headers))
        return environ["wsgi.file_wrapper"](filelike, block_size)

    return app


def zipped(data):
    return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data)))


class FileClient(Client):
    """Takes files as the server does, in send(): the descriptor must be open then."""

    async def send(self, message):
        if message["type"] == "http.response.zerocopysend":
            found = os.pread(message["file"].fileno(), message["count"], message["offset"])
            message = {"type": "http.response.body", "body": found, "more_body": message["more_body"]}
            self.files = [*getattr(self, "files", []), len(found)]
        await super().send(message)


# Which files


def test_files_of_the_standard_library(path):
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw, path.open("r+b") as both:
        for file in (buffered, raw, both):
            assert part_of(file) == (file, 0, len(DATA))


def test_from_where_it_stands_to_its_end(path):
    with path.open("rb") as file:
        file.read(100)
        assert part_of(file) == (file, 100, len(DATA) - 100)
        file.seek(10**6)
        assert part_of(file) == (file, 10**6, 0)


def test_what_was_written_and_not_flushed_is_there():
    with tempfile.TemporaryFile() as file:
        file.write(b"abc")
        assert part_of(file)[1:] == (3, 0)
        assert os.fstat(file.fileno()).st_size == 3


def test_those_that_lend_a_file_s_methods(path):
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"abc")
        file.seek(0)
        assert part_of(file) == (file.file, 0, 3)
        assert part_of(File(file)) == (file.file, 0, 3)


class Shouting(io.BufferedReader):
    def read(self, size=-1):
        return super().read(size).upper()


def test_all_others_are_read(path, tmp_path):
    compressed = tmp_path / "data.gz"
    compressed.write_bytes(gzip.compress(DATA))
    with gzip.open(compressed) as file:
        assert file.fileno() >= 0  # it has one, but of something else
        assert part_of(file) is None
    with Shouting(path.open("rb", buffering=0)) as shouting, path.open() as text:
        assert part_of(shouting) is None
        assert part_of(text) is None
    assert part_of(io.BytesIO(DATA)) is None
    assert part_of(File(io.BytesIO(DATA))) is None
    assert part_of(None) is None


def test_pipes_and_closed_files_are_read(path):
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb"):
        assert part_of(pipe) is None
    file = path.open("rb")
    file.close()
    assert part_of(file) is None


# Responses


async def test_a_file_is_sent_past_the_app_with_its_length(path):
    file = path.open("rb")
    client = await call(serving(file), FileClient(), **EXTENSION)
    assert client.files == [len(DATA)]
    assert (client.headers, client.bodies) == ({b"content-length": b"25600"}, [(DATA, False)])
    assert file.closed


@pytest.mark.parametrize(("length", "sent"), [("100", 100), ("25600", 25_600), ("25601", 25_600)])
async def test_no_more_than_content_length(path, length, sent):
    with path.open("rb") as file:
        client = await call(serving(file, [("Content-Length", length)]), FileClient(), **EXTENSION)
    assert client.files == [sent]  # the server knows that one byte is missing in the last case
    assert client.headers == {b"content-length": length.encode()}


async def test_it_is_read_where_the_server_has_no_such_extension(path):
    file = path.open("rb")
    client = await call(serving(file))
    assert client.bodies[0] == (DATA[:8192], True)
    assert client.body == DATA
    assert file.closed


@pytest.mark.parametrize("make", [io.BytesIO, zipped])
async def test_what_is_no_plain_file_is_read(make):
    client = await call(serving(make(DATA), block_size=1000), **EXTENSION)
    assert client.body == DATA
    assert client.bodies[0] == (DATA[:1000], True)


async def test_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        client = await call(serving(file), **EXTENSION)
    assert client.bodies == [(b"", False)]


async def test_the_file_stays_open_until_it_is_sent_and_no_longer(path):
    file = path.open("rb")

    class Slow(FileClient):
        async def send(self, message):
            assert not file.closed
            await super().send(message)
            assert not file.closed

    client = await call(serving(file), Slow(), **EXTENSION)
    assert file.closed
    assert client.body == DATA


async def test_head_has_the_length_and_no_file(path):
    file = path.open("rb")
    client = await call(serving(file), FileClient(), method="HEAD", **EXTENSION)
    assert client.headers == {b"content-length": b"25600"}
    assert client.bodies == [(b"", False)]
    assert file.closed


async def test_not_modified_has_no_file(path):
    file = path.open("rb")
    client = await call(serving(file, status="304 Not Modified"), FileClient(), **EXTENSION)
    assert (client.status, client.headers, client.bodies) == (304, {}, [(b"", False)])
    assert file.closed


async def test_a_server_that_refuses_is_heard_and_the_file_closed(path):
    file = path.open("rb")

    class Refusing(Client):
        async def send(self, message):
            if message["type"] == "http.response.zerocopysend":
                raise BodyLengthError("short")

    with pytest.raises(BodyLengthError):
        await call(serving(file), Refusing(), **EXTENSION)
    assert file.closed


async def test_without_start_response_it_is_an_error(path):
    with path.open("rb") as file, pytest.raises(RuntimeError, match=r"did not call start_response\(\)"):
        await call(lambda environ, start_response: FileWrapper(file), **EXTENSION)


def test_a_wrapper_of_something_without_close():
    class Bare:
        def read(self, size):
            return b""

    wrapper = FileWrapper(Bare())
    assert list(wrapper) == []
    wrapper.close()
