"""ASGI 2 apps: called twice, told version 2.0."""

from __future__ import annotations

import pytest

from shardserve.asgi.asgi2 import Asgi2
from tests.helpers.wsgi import Client, parts_of, scope_of


class App:
    scopes: list[dict] = []  # noqa: RUF012

    def __init__(self, scope):
        self.scope = scope
        App.scopes.append(scope)

    async def __call__(self, receive, send):
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"], "more_body": False})


async def test_scope_receive_and_send_are_passed_on():
    App.scopes.clear()
    client, scope = Client(parts_of(b"hello")), scope_of("/x")
    shared = scope["asgi"]
    await Asgi2(App)(scope, client.receive, client.send)
    assert client.body == b"hello"
    assert App.scopes == [{**scope_of("/x"), "asgi": {"version": "2.0", "spec_version": "2.4"}}]
    assert shared["version"] == "3.0"  # it may be another scope's, too


async def test_lifespan_is_passed_on_and_so_is_what_it_raises():
    def app(scope):
        raise LookupError(scope["type"])

    client = Client()
    with pytest.raises(LookupError, match="lifespan"):
        await Asgi2(app)({"type": "lifespan", "asgi": {"version": "3.0"}}, client.receive, client.send)
