"""``serve(app, **settings)``: servers that a test starts, and that leave nothing behind when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.http1 import Server


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(app: Any, **settings: Any) -> Server:
        server = Server(app, **settings)
        servers.append(server)
        return server

    yield start
    failures = []
    for server in servers:
        try:
            server.stop()
        except AssertionError as error:
            failures.append(error)
    if failures:
        raise failures[0]
