"""What comes in one read with its end: a body over its limit, streams behind the last GOAWAY.

Rules of this file: the fuzzer found each of these; nothing between the two parts gives the loop a turn.
"""

from __future__ import annotations

from typing import Any

from tests.helpers.nghttp2 import needs_nghttp2
from tests.native.drive import turns
from tests.native.h2_drive import Scene, data, ping, request, upload

pytestmark = needs_nghttp2

DRAINING = b"draining"
"""What our PING behind the first GOAWAY carries (native/http2_end.c)."""


async def keep_messages(scene: Scene, scope: Any, receive: Any, send: Any) -> None:
    message: dict[str, Any] = {"type": "http.request", "more_body": True}
    while message["type"] != "http.disconnect" and message.get("more_body", False):
        message = await receive()
        scene.kept.append(message)


async def test_the_end_of_a_body_over_its_limit_is_no_end() -> None:
    """413; and the app, which waits for more, must not take the part that it has for the whole."""
    scene = Scene({"/keep": keep_messages}, limit_request_body=10)
    scene.open(upload(1, "/keep"), data(1, b"12345"))
    await turns()
    scene.feed(data(1, b"67890x"), data(1, b"y", end=True))
    await turns()
    assert scene.hear().answers[1].brief() == "413 ended"
    assert scene.kept[-1] == {"type": "http.disconnect"}
    assert all(message["more_body"] for message in scene.kept[:-1])
    await scene.end()


async def test_a_stream_behind_the_pong_that_brings_the_last_goaway_is_given_back() -> None:
    """Our GOAWAY says that it may be begun anew (RFC 9113 §6.8): so its app must not run."""
    ran: list[str] = []

    async def count(scene: Scene, scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["path"])

    scene = Scene({"/late": count})
    scene.open(request(1, "/wait"))
    await turns()
    scene.driver.factory.drain(lambda: None, grace_ms=60_000)
    await turns()
    scene.feed(ping(DRAINING, ack=True), request(3, "/late"))
    await turns()
    assert [last for last, _, _ in scene.hear().goaways][-1] == 1
    assert ran == []
    await scene.end()
