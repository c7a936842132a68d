"""http.response.debug (ASGI extensions): offered only where somebody listens, and never on the wire."""

from __future__ import annotations

import sys

import pytest

from shardserve.errors import MessageError
from tests.helpers.asgi import ok, reply
from tests.helpers.http1 import get
from tests.helpers.mistakes import gets_500

DEBUG = "http.response.debug"
INFO = {"template": "index.html", "context": {"a": object()}}


def debugging(*infos: object):
    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        for info in infos:
            await send({"type": DEBUG, "info": info})
        await reply(send, b"hello")

    return app


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_it_is_offered_where_somebody_listens(serve, version):
    offered = []

    async def app(scope, receive, send):
        offered.append(DEBUG in scope["extensions"])
        await ok(scope, receive, send)

    serve(app).ask(get(version=version))
    serve(app, on_debug=None).ask(get(version=version))
    serve(app, on_debug=lambda info: None).ask(get(version=version))
    assert offered == [False, False, True]


def test_who_listens_gets_the_very_dict(serve):
    heard = []
    server = serve(debugging(INFO), on_debug=heard.append)
    response = server.ask(get())
    assert (response.status, response.body, response.informational) == (200, b"hello", [])
    assert len(heard) == 1
    assert heard[0] is INFO


def test_nothing_of_it_is_on_the_wire(serve):
    without = serve(debugging()).raw(get())
    with_it = serve(debugging({"secret": "s3cret"}), on_debug=lambda info: None).raw(get())
    assert len(with_it) == len(without)
    assert b"s3cret" not in with_it


def test_nobody_listens(serve):
    """An app that does not ask what is offered is no worse off."""
    assert serve(debugging(INFO)).ask(get()).body == b"hello"


def test_a_listener_that_fails_is_no_matter_of_the_app(serve, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))

    def fail(info):
        raise ValueError(info)

    with serve(debugging(INFO), on_debug=fail).connect() as client:
        assert client.ask(get()).body == b"hello"
        client.assert_open()
    assert [type(error) for error in told] == [ValueError]


def test_behind_the_start(serve):
    """ "This message must be sent once, before the Response Start message." """
    heard = []

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200})
        await send({"type": DEBUG, "info": INFO})

    error = gets_500(serve(app, on_debug=heard.append))
    assert isinstance(error, MessageError)
    assert "before http.response.start" in str(error)
    assert heard == []


def test_an_app_that_fails_behind_it(serve):
    async def app(scope, receive, send):
        await send({"type": DEBUG, "info": INFO})
        raise ValueError("later")

    server = serve(app, on_debug=lambda info: None)
    assert server.ask(get()).status == 500
    assert server.take_error().outcome == "500 sent"
