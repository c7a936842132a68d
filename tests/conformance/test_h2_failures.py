"""Apps that fail over HTTP/2: what their client gets, and that the connection lives.

What an app may do wrong is the table of test_app_mistakes.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes

from shardserve.errors import ApplicationError, BodyLengthError, MessageError
from tests.conformance.test_app_mistakes import BAD_BYTES, BEFORE_THE_WIRE
from tests.helpers.asgi import reply
from tests.helpers.h2_peer import Host
from tests.helpers.mistakes import BODY, START, mistaken
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.pauses import one_turn

pytestmark = needs_nghttp2


async def gets_500(app: Any) -> BaseException:
    """The client gets one whole 500, and the connection lives."""
    async with Host(app) as host:
        client = host.connect()
        stream = await client.ask("GET", "/wrong?x=1")
        assert (stream.status, stream.body, stream.ended) == (500, b"Internal Server Error", True)
        assert stream.one(b"content-length") == b"21"
        await client.ok()
        report = host.take_error()
        assert (report.method, report.target, report.outcome) == ("GET", "/wrong?x=1", "500 sent")
        assert [access.status for access in host.accesses] == [500, 200]
        return report.error


async def is_cut(app: Any, data: bytes) -> BaseException:
    """The client gets what was sent, and can tell that it is not all: RST_STREAM(INTERNAL_ERROR)."""
    async with Host(app) as host:
        client = host.connect()
        stream = await client.ask("GET", "/wrong")
        assert (stream.status, stream.body, stream.ended) == (200, data, False)
        assert stream.reset == ErrorCodes.INTERNAL_ERROR
        await client.ok()
        report = host.take_error()
        assert report.outcome == "connection closed early"
        return report.error


@pytest.mark.parametrize("name", BEFORE_THE_WIRE)
async def test_a_mistake_before_anything_is_on_the_wire(name):
    messages, kind_of_error, words = BEFORE_THE_WIRE[name]
    error = await gets_500(mistaken(*messages))
    assert type(error) is kind_of_error
    assert all(word in str(error) for word in words)


@pytest.mark.parametrize("bad", BAD_BYTES)
@pytest.mark.parametrize("place", ["name", "value"])
async def test_nothing_is_injected_through_a_header(bad, place):
    field = (b"x-a" + bad, b"1") if place == "name" else (b"x-a", b"1" + bad + b"2")
    error = await gets_500(mistaken({**START, "headers": [field]}))
    assert isinstance(error, ApplicationError)


@pytest.mark.parametrize("name", [b":status", b":path", b":authority", b":", b""])
async def test_a_pseudo_header_field_is_no_field(name):
    assert isinstance(await gets_500(mistaken({**START, "headers": [(name, b"200")]})), ApplicationError)


@pytest.mark.parametrize("messages", [[], [START]], ids=["before the start", "behind the start"])
@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), None], ids=repr)
async def test_an_app_that_fails(messages, error, turn):
    """Or that returns without having done its work."""
    found = await gets_500(failing(messages, error, turn))
    assert type(found) is (MessageError if error is None else type(error))


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), None], ids=repr)
async def test_an_app_that_fails_behind_a_part_of_the_body(error, pause):
    app = failing([START, {**BODY, "more_body": True}], error, pause)
    found = await is_cut(app, b"x")
    assert type(found) is (MessageError if error is None else type(error))


def failing(messages: list[Any], error: BaseException | None, pause: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/ok":
            await reply(send)
            return
        for message in messages:
            await send(message)
        await pause()
        if error is not None:
            raise error

    return app


async def test_a_body_shorter_than_its_length():
    begin = {**START, "headers": [(b"content-length", b"5")]}
    app = mistaken(begin, {**BODY, "body": b"four", "more_body": True}, {**BODY, "body": b""}, turn=one_turn)
    assert type(await is_cut(app, b"four")) is BodyLengthError


async def test_an_error_behind_the_whole_response_is_only_logged():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send)
        raise ValueError("late")

    async with Host(app) as host:
        stream = await host.connect().ask()
        assert (stream.status, stream.body, stream.ended, stream.reset) == (200, b"ok", True, None)
        assert host.take_error().outcome == "response already sent"


async def test_an_app_that_answers_twice():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send)
        with pytest.raises(MessageError):
            await send(START)

    async with Host(app) as host:
        assert (await host.connect().ask()).body == b"ok"
