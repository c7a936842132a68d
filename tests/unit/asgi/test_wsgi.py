"""A WSGI app behind the adapter: responses, PEP 3333's callables, errors, threads, clients that go."""

from __future__ import annotations

import asyncio
import threading
from wsgiref.validate import validator

import pytest

from shardserve.errors import HeaderError
from tests.helpers.master_process import PATIENCE_S
from tests.helpers.wsgi import PLAIN, Blocks, Client, answering, call, parts_of, until_true

# Responses


async def test_a_list_of_one_block_is_one_message_so_that_its_length_is_known():
    client = await call(answering([b"hello"]))
    assert client.got == [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]},
        {"type": "http.response.body", "body": b"hello", "more_body": False},
    ]


async def test_small_blocks_that_are_all_there_are_one_message():
    assert (await call(answering([b"a", b"", b"b"]))).bodies == [(b"ab", False)]
    assert (await call(answering((b"a", b"b")))).bodies == [(b"ab", False)]
    assert (await call(answering([]))).bodies == [(b"", False)]


async def test_large_blocks_are_not_copied_together():
    blocks = [b"a" * 40_000, b"b" * 40_000]
    assert (await call(answering(blocks))).bodies == [(blocks[0], True), (blocks[1], True), (b"", False)]


async def test_a_generator_is_sent_as_it_is_made():
    made = threading.Semaphore(0)

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        for number in range(3):
            yield b"%d" % number
            assert made.acquire(timeout=PATIENCE_S)

    client = Client()
    running = asyncio.ensure_future(call(app, client))
    for number in range(3):
        await until_true(lambda n=number: len(client.bodies) == n + 1, f"block {number}")
        assert client.bodies[-1] == (b"%d" % number, True)
        made.release()
    await running
    assert client.bodies[-1] == (b"", False)


async def test_the_block_that_completes_content_length_is_the_last_message():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "6")])
        yield b"abc"
        yield b"def"
        raise AssertionError("PEP 3333: the server ceases iterating")

    assert (await call(app)).bodies == [(b"abc", True), (b"def", False)]


async def test_an_empty_block_does_not_send_the_head():
    def app(environ, start_response):
        yield b""
        start_response("204 No Content", [])
        yield b""

    client = await call(app)
    assert client.status == 204
    assert client.bodies == [(b"", False)]


async def test_header_names_are_lower_case_and_values_are_latin_1():
    client = await call(answering([b""], [("X-One", "ü"), ("x-two", "2")]))
    assert client.got[0]["headers"] == [(b"x-one", b"\xfc"), (b"x-two", b"2")]


async def test_write_sends_at_once_and_before_what_is_returned():
    read = threading.Event()

    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"first ")
        write(b"")
        assert read.wait(PATIENCE_S)
        return [b"second"]

    client = Client()
    running = asyncio.ensure_future(call(app, client))
    await until_true(lambda: client.bodies == [(b"first ", True)], "what was written")
    read.set()
    await running
    assert client.bodies == [(b"first ", True), (b"second", False)]


@pytest.mark.parametrize(
    "app",
    [
        lambda environ, start: [start("200 OK", PLAIN) and b"ok"],
        lambda environ, start: iter([start("200 OK", PLAIN) and b"o", b"k"]),
        lambda environ, start: [
            start("200 OK", [*PLAIN, ("Content-Length", "2")]) and environ["wsgi.input"].read(2)
        ],
    ],
    ids=["list", "iterator", "input"],
)
async def test_what_the_standard_library_s_validator_says(app):
    client = Client(parts_of(b"ok"))
    got = await call(validator(app), client, method="POST", headers=[(b"content-length", b"2")])
    assert got.body == b"ok"


# start_response()


async def test_exc_info_replaces_a_head_that_has_not_been_sent():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        try:
            raise LookupError("inside")
        except LookupError as error:
            start_response("500 Oh", [("X-Error", "1")], (LookupError, error, error.__traceback__))
        return [b"sorry"]

    client = await call(app)
    assert (client.status, client.headers) == (500, {b"x-error": b"1"})


async def test_exc_info_is_raised_again_once_the_head_is_sent():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            raise LookupError("inside")
        except LookupError as error:
            start_response("500 Oh", [], (LookupError, error, error.__traceback__))

    client = Client()
    with pytest.raises(LookupError, match="inside"):
        await call(app, client)
    assert client.bodies == [(b"begun", True)]


async def test_a_second_call_without_exc_info_is_an_error():
    def app(environ, start_response):
        start_response("200 OK", [])
        start_response("201 Created", [])
        return []

    with pytest.raises(RuntimeError, match=r"called start_response\(\) again"):
        await call(app)


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (200, [], "the status is a str such as '200 OK', not int"),
        ("OK", [], "begins with three digits"),
        ("2000 OK", [], "begins with three digits"),
        ("٢٠٠ OK", [], "begins with three digits"),
        ("200 OK", [("X-One", 1)], "names and values of headers are str"),
        ("200 OK", [(b"X-One", "1")], "names and values of headers are str"),
        ("200 OK", [("X-One", "→")], "latin-1"),
    ],
)
async def test_a_head_that_is_none_is_an_error_where_it_is_made(status, headers, error):
    with pytest.raises((TypeError, ValueError), match=error):
        await call(answering([b""], headers, status))


@pytest.mark.parametrize("blocks", [[b"x"], [b"x", b"y"], iter([b"x"]), iter([]), []])
async def test_an_app_that_never_calls_it(blocks):
    client = Client()
    with pytest.raises(RuntimeError, match=r"did not call start_response\(\)"):
        await call(lambda environ, start_response: blocks, client)
    assert client.got == []


@pytest.mark.parametrize("blocks", ["text", ["text"], [b"a", "b"], iter(["text"]), [1], b"bytes"])
async def test_what_is_not_bytes_is_named(blocks):
    with pytest.raises(TypeError, match=r"is made of bytes; this one has (str|int)"):
        await call(answering(blocks))


async def test_writing_what_is_not_bytes():
    def app(environ, start_response):
        start_response("200 OK", [])("text")
        return []

    with pytest.raises(TypeError, match="made of bytes"):
        await call(app)


# close() and errors


async def test_close_is_called_once_after_the_last_block():
    blocks = Blocks([b"a", b"b"])
    client = await call(answering(blocks))
    assert client.body == b"ab"
    assert blocks.closed == 1


async def test_close_is_called_when_the_iteration_fails():
    def failing():
        yield b"a"
        raise LookupError("inside")

    blocks = Blocks(failing())
    client = Client()
    with pytest.raises(LookupError):
        await call(answering(blocks), client)
    assert blocks.closed == 1
    assert client.bodies == [(b"a", True)]


async def test_a_failing_close_is_raised_when_the_response_is_out():
    blocks = Blocks([b"a"], fail=LookupError("in close"))
    client = Client()
    with pytest.raises(LookupError, match="in close"):
        await call(answering(blocks), client)
    assert client.bodies == [(b"a", True), (b"", False)]
    assert blocks.closed == 1


async def test_the_client_has_its_response_before_close_is_through():
    through = threading.Event()

    class Slow(Blocks):
        def close(self):
            assert through.wait(PATIENCE_S)
            super().close()

    blocks, client = Slow([b"a"]), Client()
    running = asyncio.ensure_future(call(answering(blocks), client))
    await until_true(lambda: client.bodies[-1:] == [(b"", False)], "the whole response")
    assert not running.done()  # a drain waits for the app's last work
    through.set()
    await running
    assert blocks.closed == 1


async def test_an_error_before_the_first_block_sends_nothing():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        raise LookupError("inside")

    client = Client()
    with pytest.raises(LookupError, match="inside") as caught:
        await call(app, client)
    assert client.got == []
    assert caught.traceback[-1].name == "app"


@pytest.mark.parametrize("left", [SystemExit(3), KeyboardInterrupt()])
async def test_an_app_that_wants_to_exit_does_not_end_the_loop(left):
    def app(environ, start_response):
        raise left

    with pytest.raises(RuntimeError, match="the WSGI app raised") as caught:
        await call(app)
    assert caught.value.__cause__ is left


async def test_a_message_that_the_server_refuses_is_the_app_s_error_and_ends_its_thread():
    blocks = Blocks(iter(lambda: b"x" * 1000, None))  # without an end
    client = Client(refuse=HeaderError("a bad header"))
    with pytest.raises(HeaderError, match="a bad header"):
        await call(answering(blocks), client)
    assert blocks.closed == 1
