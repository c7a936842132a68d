"""``serve(app, **settings)``: servers that a test starts, and that leave nothing behind when it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.http1 import Server
from tests.helpers.pauses import PAUSES
from tests.helpers.ws import Heard, Led
from tests.helpers.ws_time import Ticking

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """A module's SERVED_WITH, if it has that, are settings of each of its servers."""
    common = getattr(request.module, "SERVED_WITH", {})
    servers: list[Server] = []

    def start(app: Any, **settings: Any) -> Server:
        server = Server(app, **{**settings, **common})
        servers.append(server)
        return server

    yield start
    failures = []
    for server in servers:
        try:
            server.stop()
        except AssertionError as error:
            failures.append(error)
    if failures and not request.node.stash.get(FAILED, False):  # one failure is enough
        raise failures[0]


@pytest.fixture(params=["at once", "suspending"])
def turn(request):
    """Awaited by the app before its mistake."""

    async def wait() -> None:
        if request.param == "suspending":
            await asyncio.sleep(0.001)

    return wait


@pytest.fixture(params=PAUSES, ids=[pause.__name__ for pause in PAUSES])
def pause(request):
    """Awaited by the app where it may suspend."""
    return request.param


@pytest.fixture
def unraisable():
    """What went to sys.unraisablehook."""
    heard: list[BaseException] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda one: heard.append(one.exc_value)
    yield heard
    sys.unraisablehook = hook


# WebSocket


@pytest.fixture
def led():
    """An app of which the test takes each step."""
    app = Led()
    yield app
    app.leave_all()


@pytest.fixture(params=["close", "reset"])
def lose(request):
    """How the client goes without a word: a FIN (with both directions closed) or a reset."""
    return lambda client: getattr(client, request.param)()


@pytest.fixture
def heard():
    """An app that notes what it hears."""
    return Heard()


@pytest.fixture
def serve_ticking(serve):
    with Ticking(serve) as start:
        yield start
