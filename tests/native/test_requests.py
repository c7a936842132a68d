"""What one client or one app must not be able to do to the others: limits, and parts that scopes share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.native.drive import Driver, get, reply, statuses, turns
from tests.native.isolated import survives


async def endless_trailer(body: int) -> Any:
    """A trailer section has a limit too, whatever body came before it, or one client fills the memory."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(body >> 16):
        connection.data_received(b"10000\r\n" + b"b" * 65536 + b"\r\n")
        await turns(2)
    connection.data_received(b"0\r\nX: ")
    for _ in range(40):
        connection.data_received(b"a" * 65536)
        await turns(2)
    return "write_eof" in transport.calls or transport.is_closing()


@pytest.mark.parametrize("body", [0, 1 << 20])
def test_an_endless_trailer_is_cut(body: int) -> None:
    assert survives(endless_trailer, body) is True


async def requests_behind_a_body() -> int:
    """Objects that 256 KiB of tiny requests behind a body become, while the app is not done."""
    import gc

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await receive()
            await turns(1000)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
    before = len(gc.get_objects())
    connection.data_received(b"a" + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9000)
    return len(gc.get_objects()) - before


def test_requests_are_parsed_one_slice_ahead() -> None:
    assert survives(requests_behind_a_body) < 16384 // 27 * 8


@pytest.mark.parametrize("line", [b"DESCRIBE / RTSP/1.0", b"SOURCE / ICE/1.0"])
async def test_other_protocols_are_refused(line: bytes) -> None:
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(line + b"\r\nHost: x\r\n\r\n")
    assert statuses(transport.read()) in ([400], [505])
    assert paths == []
    connection.connection_lost(None)


async def shared_scope_parts() -> Any:
    """What one app puts into its scope, no other request finds."""
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for part in (scope, scope["extensions"], scope["asgi"], scope["state"]):
            seen.append("mark" in part)
            part["mark"] = scope["path"]
        await reply(send)

    driver = Driver(app, state={})
    for _ in range(2):
        connection, _ = driver.connect()
        connection.data_received(get() + get())
    return seen


def test_scopes_share_nothing_mutable() -> None:
    assert survives(shared_scope_parts) == [False] * 16
