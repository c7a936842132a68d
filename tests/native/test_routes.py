"""Evil and odd static routes of a ProtocolFactory, and which of many is chosen.

What they are for is in tests/conformance/test_static_routes.py.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tests.native.drive import Driver, get, ok, reply, turns
from tests.native.isolated import survives


class Bytes(bytes):
    """A prefix that lies about itself."""

    def __len__(self) -> int:
        return 1 << 40

    def __lt__(self, other: Any) -> bool:
        raise KeyError("lt")


async def odd_routes(number: int) -> str:
    def lazily() -> Any:
        yield b"/a", ok
        gc.collect()
        yield b"/a/b", ok
        raise KeyError("routes")

    routes = [
        5, [5], [(b"/a",)], [("/a", ok)], [[b"/a", ok]], [(Bytes(b"/a"), ok)],
        [(b"/a", ok), (bytearray(b"/b"), ok)], [(b"/a", ok, ok)], lazily(),
    ][number]  # fmt: skip
    try:
        Driver(ok, static=routes)
    except Exception as error:
        return type(error).__name__
    return ""


@pytest.mark.parametrize(("number", "error"), list(enumerate(["TypeError"] * 8 + ["KeyError"])))
def test_routes_that_are_none(number: int, error: str) -> None:
    assert survives(odd_routes, number) == error


async def chosen_routes(prefixes: list[str], targets: list[str]) -> list[str]:
    def app(name: str) -> Any:
        async def named(scope: Any, receive: Any, send: Any) -> None:
            await reply(send, f"[{name}]".encode())

        return named

    driver = Driver(app("app"), static=[(prefix.encode(), app(prefix)) for prefix in prefixes])
    connection, transport = driver.connect()
    found = []
    for target in targets:
        connection.data_received(get(target, "OPTIONS" if target == "*" else "GET"))
        await turns(2)
        found.append(transport.read().rpartition(b"[")[2].removesuffix(b"]").decode())
    return found


ROUTES = ["/s", "/s/deep", "/static", "", "/s"]
TARGETS = {
    "/s": "/s",
    "/s/": "/s",
    "/s?/deep": "/s",
    "/s/deep": "/s/deep",
    "/s/deeper": "/s",
    "/s/deep/er": "/s/deep",
    "/static": "/static",
    "/stati": "",
    "/staticx": "",
    "/": "",
    "http://x/s/deep/a": "/s/deep",
    "http://x": "",
    "http://x?/s": "",
    "http://x/s": "/s",
    "*": "app",
}


def test_the_longest_prefix_is_chosen() -> None:
    for routes in (ROUTES, ROUTES[::-1], sorted(ROUTES)):
        assert survives(chosen_routes, routes, list(TARGETS)) == list(TARGETS.values())
