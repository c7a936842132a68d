"""One leak program of how connections arrive (addresses, TLS, proxies), as tests/leaks/program.py.

    python -m tests.leaks.arrival_program SCENARIO REQUESTS

There is no client: each connection is one of tests/native/drive.py, so that TLS costs no handshake.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import uvloop

from shardserve._native import ProtocolFactory
from shardserve.asgi.forwarded import ProxyHeaders
from shardserve.asgi.trust import Trust
from tests.helpers.ws import handshake
from tests.leaks.program import measure
from tests.native.drive import FakeTransport, turns

LARGE = tempfile.NamedTemporaryFile()  # noqa: SIM115 (as long as the program)
LARGE.truncate(4 << 20)  # more than a socket takes
START = {"type": "http.response.start", "status": 200, "headers": []}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    scope["extensions"].get("tls", {})["mine"] = [scope]
    if scope["path"] == "/cut":
        await send({**START, "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": [(b"a", b"b")], "more_trailers": True})
        await receive()
        await receive()
        await send({"type": "http.response.trailers"})
    elif scope["path"] == "/file":
        await send(START)
        await send({"type": "http.response.pathsend", "path": LARGE.name})
    else:
        await send(START)
        await send({"type": "http.response.body", "body": b"x"})


def request(path: str, *fields: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path.encode(), b"Host: leak", *fields, b"", b""])


NAMED = (b"X-Forwarded-For: 1.2.3.4, 5.6.7.8", b"X-Forwarded-Proto: https")


class Failing:
    """A policy with a mistake in it."""

    def trusts(self, client: Any) -> bool:
        return True

    def apply(self, scope: Any) -> None:
        scope["client"] = [scope]
        raise KeyError(scope)

    def untrusted(self, client: Any, name: bytes) -> None: ...


class Replacing(Failing):
    def apply(self, scope: Any) -> None:
        scope["client"] = [object()]
        scope["headers"] = list(scope["headers"])
        del scope["server"]


def policy(trusted: str) -> ProxyHeaders:
    return ProxyHeaders(Trust(trusted))


# What a connection is sent; whether it has TLS; the policy.
SCENARIOS: dict[str, tuple[list[bytes], bool, Callable[[], Any]]] = {
    "announced": ([request("/")], False, lambda: None),
    "TLS": ([request("/"), request("/")], True, lambda: None),
    "TLS and a proxy": ([request("/", *NAMED), request("/")], True, lambda: policy("*")),
    "a proxy": ([request("/", *NAMED)] * 3, False, lambda: policy("*")),
    "not trusted": ([request("/", *NAMED)] * 3, False, lambda: policy("10.0.0.1")),
    "a policy that replaces": ([request("/", *NAMED)] * 3, False, Replacing),
    "a policy that fails": ([request("/", *NAMED)], False, Failing),
    "a policy that fails a WebSocket": ([handshake("/", *NAMED)], True, Failing),
    "a proxied WebSocket": ([handshake("/", *NAMED)], True, lambda: policy("*")),
    "gone inside the trailers": ([request("/cut", b"TE: trailers")], False, lambda: None),
    "gone inside a file": ([request("/file")], False, lambda: None),
    "gone inside a file, TLS": ([request("/file")], True, lambda: None),
}


class Stuck(FakeTransport):
    """Holds nothing of what it is given, and has room for nothing more."""

    def writelines(self, parts: Any) -> None:
        if self.connection is not None:
            self.connection.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


async def connections(factory: ProtocolFactory, requests: list[bytes], secure: bool, count: int) -> None:
    for number in range(count):
        transport = Stuck(extra={"ssl_object": object()} if secure else {})
        connection = transport.connection = factory()
        connection.set_addresses((f"10.0.{number % 256}.1", number), None, None)
        connection.connection_made(transport)
        for data in requests:
            connection.data_received(data)
            connection.resume_writing()
        if number % 3 == 0:
            await turns(1)
        connection.connection_lost(None)
        transport.connection = None
        transport.shut()
        if number % 100 == 0:
            await turns(3)
    await turns()


async def main(name: str, count: int) -> dict[str, int]:
    sys.unraisablehook = lambda unraisable: None  # a policy that fails says so each time
    requests, secure, proxy = SCENARIOS[name]
    factory = ProtocolFactory(
        app,
        loop=asyncio.get_running_loop(),
        context=contextvars.copy_context(),
        state=None,
        on_app_error=lambda *args: None,
        on_reject=lambda *args: None,
        access=lambda *args: None,
        tls_info=lambda ssl_object: {"server_cert": "a" * 100, "client_cert_chain": []},
        proxy=proxy(),
    )
    await connections(factory, requests, secure, count // 4)
    gc.collect()
    before = measure()
    await connections(factory, requests, secure, count)
    after = measure()
    left = {key: after[key] - before[key] for key in before}
    return left | {"open": factory.connections, "in_flight": factory.in_flight, "served": factory.served}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(sys.argv[1], int(sys.argv[2])))))
