"""ASGI messages at trace: numbered by scope, without bodies and headers, nothing changed on the way."""

from __future__ import annotations

import logging

import pytest

from shardserve.asgi.trace import outline, traced
from shardserve.observe.formatters import TRACE

SCOPE = {"type": "http", "path": "/x", "client": ("10.0.0.1", 5), "headers": [(b"cookie", b"secret")]}


@pytest.fixture
def lines():
    yield from collected("shardserve.asgi")


@pytest.fixture
def uvicorns_lines():
    yield from collected("uvicorn.asgi")


def collected(name):
    """What this logger is given, whatever handlers it has: a filter keeps it, and lets nothing through."""
    found, logger = [], logging.getLogger(name)
    level = logger.level

    def keep(record):
        found.append(record.getMessage())
        return False

    logger.setLevel(TRACE)
    logger.addFilter(keep)
    yield found
    logger.removeFilter(keep)
    logger.setLevel(level)


async def talk(app, scope, *messages):
    waiting, sent = list(messages), []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    await traced(app)(scope, receive, send)
    return sent


async def echo(scope, receive, send):
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"set-cookie", b"secret")]})
    await send({"type": "http.response.body", "body": message["body"] * 2})


async def test_a_request(lines):
    sent = await talk(echo, SCOPE, {"type": "http.request", "body": b"secret"})
    assert sent[1] == {"type": "http.response.body", "body": b"secretsecret"}
    assert sent[0]["headers"] == [(b"set-cookie", b"secret")]
    assert lines == [
        "10.0.0.1:5 - ASGI [1] Started scope={'type': 'http', 'path': '/x', 'client': ('10.0.0.1', 5), "
        "'headers': '<...>'}",
        "10.0.0.1:5 - ASGI [1] Receive {'type': 'http.request', 'body': '<6 bytes>'}",
        "10.0.0.1:5 - ASGI [1] Send {'type': 'http.response.start', 'status': 200, 'headers': '<...>'}",
        "10.0.0.1:5 - ASGI [1] Send {'type': 'http.response.body', 'body': '<12 bytes>'}",
        "10.0.0.1:5 - ASGI [1] Completed",
    ]


async def test_an_error_goes_on_and_scopes_are_numbered(lines):
    async def fails(scope, receive, send):
        raise LookupError

    app = traced(fails)
    for _ in range(2):
        with pytest.raises(LookupError):
            await app({"type": "lifespan"}, None, None)
    assert lines == [
        "ASGI [1] Started scope={'type': 'lifespan'}",
        "ASGI [1] Raised exception",
        "ASGI [2] Started scope={'type': 'lifespan'}",
        "ASGI [2] Raised exception",
    ]


async def test_a_message_that_is_none_reaches_the_server_as_it_is(lines):
    async def wrong(scope, receive, send):
        await send("no message")
        await send({"type": "http.response.body", "body": 7})

    assert await talk(wrong, {}) == ["no message", {"type": "http.response.body", "body": 7}]
    assert any("'<int>'" in line for line in lines)


async def test_lines_are_uvicorns(lines, uvicorns_lines):
    module = pytest.importorskip("uvicorn.middleware.message_logger")

    async def nothing():
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def drop(message):
        return None

    await traced(echo)(SCOPE, nothing, drop)
    await module.MessageLoggerMiddleware(echo)(SCOPE, nothing, drop)
    assert lines == uvicorns_lines


def test_websocket_messages():
    assert outline({"type": "websocket.send", "text": "abc"}) == {
        "type": "websocket.send",
        "text": "<3 chars>",
    }
    assert outline({"bytes": None, "text": "x"}) == {"bytes": None, "text": "<1 chars>"}
    assert outline({"state": {"database": object()}}) == {"state": "<...>"}
