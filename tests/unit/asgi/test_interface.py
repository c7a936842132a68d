"""Which interface an app speaks: what auto finds, and what it does not dare to."""

from __future__ import annotations

import functools
import logging

import pytest
from a2wsgi import WSGIMiddleware
from asgiref.compatibility import guarantee_single_callable
from django.core.handlers.wsgi import WSGIHandler
from flask import Flask
from starlette.applications import Starlette

from shardserve.asgi import interface
from shardserve.asgi.asgi2 import Asgi2
from shardserve.asgi.importer import Kind, classify
from shardserve.asgi.interface import adapt, http_only
from shardserve.asgi.wsgi import Wsgi
from tests.helpers.wsgi import Client, scope_of


async def asgi3(scope, receive, send): ...


def wsgi(environ, start_response): ...


def env_and_start(env, start_resp): ...


class WsgiClass:
    """PEP 3333's second example: calling the class makes the iterable."""

    def __init__(self, environ, start_response): ...

    def __iter__(self): ...


class Middleware:
    def __init__(self, app=None): ...

    def __call__(self, environ, start_response): ...


class Asgi2Class:
    def __init__(self, scope): ...


def marked(scope, receive=None, send=None): ...


marked._asgi_double_callable = True


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (asgi3, Kind.ASGI3),
        (Starlette(), Kind.ASGI3),
        (WSGIMiddleware(wsgi), Kind.ASGI3),
        (guarantee_single_callable(Asgi2Class), Kind.ASGI3),
        (Flask("x"), Kind.WSGI),
        (Flask("x").wsgi_app, Kind.WSGI),
        (wsgi, Kind.WSGI),
        (env_and_start, Kind.WSGI),
        (WsgiClass, Kind.WSGI),
        (Middleware(), Kind.WSGI),
        (functools.partial(lambda config, environ, start_response: None, 1), Kind.WSGI),
        (Asgi2Class, Kind.ASGI2),
        (lambda scope: None, Kind.ASGI2),
        (marked, Kind.ASGI2),
        (lambda first, second: None, Kind.UNKNOWN),
        (max, Kind.ASGI3),  # nobody can tell
    ],
    ids=repr,
)
def test_what_auto_finds(app, kind):
    assert classify(app) is kind


def test_django_s_wsgi_handler():
    """Without making one, for which there have to be settings."""
    assert classify(WSGIHandler.__new__(WSGIHandler)) is Kind.WSGI


def test_adapt_by_what_is_found(caplog):
    interface.log.propagate = True
    with caplog.at_level(logging.INFO, logger=interface.log.name):
        assert adapt(asgi3) is asgi3
        assert caplog.messages == []
        assert isinstance(adapt(Asgi2Class), Asgi2)
        found = adapt(wsgi, threads=7)
    assert isinstance(found, Wsgi)
    assert found.threads.most == 7
    assert caplog.messages == [
        "The app speaks ASGI 2.",
        "The app speaks WSGI: 7 threads run it in each worker (--wsgi-threads).",
    ]


def test_adapt_by_what_is_said(caplog):
    """Whatever it looks like."""
    with caplog.at_level(logging.INFO, logger=interface.log.name):
        assert adapt(wsgi, "asgi3") is wsgi
        assert isinstance(adapt(asgi3, "asgi2"), Asgi2)
        assert isinstance(adapt(max, "wsgi"), Wsgi)
    assert caplog.messages == []


def test_only_wsgi_is_http_only():
    assert http_only(adapt(wsgi))
    assert not http_only(adapt(Asgi2Class))
    assert not http_only(adapt(asgi3))


@pytest.mark.parametrize(("underscores", "seen"), [(True, True), (False, False)])
async def test_underscores_are_passed_on(underscores, seen):
    found = []

    def app(environ, start_response):
        found.append("HTTP_X_A" in environ)
        start_response("200 OK", [])
        return []

    client = Client()
    scope = scope_of(headers=[(b"x_a", b"1")])
    await adapt(app, "wsgi", underscores=underscores)(scope, client.receive, client.send)
    assert found == [seen]
