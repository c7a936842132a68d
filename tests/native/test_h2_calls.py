"""Evil surroundings of an HTTP/2 connection: a transport, an app and a collector that call back anywhere.

Rules of this file: each attack runs in a process of its own (``survives``), there one act after the other.
What the server says is read by ``Said``, which knows the protocol; what is checked besides is that streams
which nobody ended are answered whole, and that nothing is left.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.helpers.h2_judge import LARGEST_WINDOW
from tests.helpers.nghttp2 import needs_nghttp2
from tests.native.collecting import Collecting
from tests.native.drive import GONE, turns
from tests.native.h2_acts import GENTLE, METHODS, Acting, Wild, check, every_act, evil_file, silent, talk
from tests.native.h2_drive import (
    BODY,
    MORE,
    START,
    App,
    Plain,
    data,
    request,
    reset,
    tunnel,
    upload,
    window,
)
from tests.native.isolated import survives
from tests.native.ws_drive import Solid

pytestmark = needs_nghttp2


# In the app

PAIR = [(b"x-a", b"b")]


async def at_first(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    scene.fire()
    await send(START)
    await send(BODY)


async def behind_the_head(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    scene.fire()
    await send(BODY)


async def between_bodies(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(MORE)
    scene.fire()
    await send(BODY)


async def at_last(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)
    scene.fire()


async def at_last_suspended(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)
    await asyncio.sleep(0)
    scene.fire()
    await asyncio.sleep(0)


async def suspended(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    scene.fire()
    await send(START)
    await asyncio.sleep(0)
    await send(BODY)


async def in_headers(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": Acting(scene.fire)})
    await send(BODY)


async def in_more_body(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({**BODY, "more_body": Acting(scene.fire)})


async def in_trailers(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "trailers": True})
    await send(BODY)
    await send({"type": "http.response.trailers", "headers": Acting(scene.fire)})


async def in_links(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    class Links:
        def __iter__(self) -> Any:
            scene.fire()
            yield b"</a.css>; rel=preload"

    await send({"type": "http.response.early_hint", "links": Links()})
    await send(START)
    await send(BODY)


async def in_path(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.pathsend", "path": Acting(scene.fire, __file__)})


async def behind_a_file(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    waiting = send({"type": "http.response.pathsend", "path": __file__})
    scene.fire()
    await waiting


async def in_a_finalizer(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    class Last:
        def __del__(self) -> None:
            scene.fire()

    await send({**START, "last": Last(), "headers": [(b"x", b"y")]})
    await send(BODY)


async def after_receive(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await receive()
    scene.fire()
    waiting = receive()
    await send(START)
    await send(BODY)
    await waiting


APP_POINTS: dict[str, App] = {
    point.__name__: point
    for point in (
        at_first,
        behind_the_head,
        between_bodies,
        at_last,
        at_last_suspended,
        suspended,
        in_headers,
        in_more_body,
        in_trailers,
        in_links,
        in_path,
        behind_a_file,
        in_a_finalizer,
        after_receive,
    )
}


async def app_acts(point: str, plain: bool) -> Any:
    def make(act: str) -> Wild:
        return Wild(act, {"/evil": APP_POINTS[point]}, transport=Plain() if plain else None)

    return await every_act(make)


@pytest.mark.parametrize("plain", [True, False], ids=["socket", "transport"])
@pytest.mark.parametrize("point", APP_POINTS)
def test_an_app_that_acts(point: str, plain: bool) -> None:
    for act, result in survives(app_acts, point, plain).items():
        assert result["fired"], act
        check(act, result)


# In the transport


class ActingTransport(Solid):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.scene: Any = None
        self.congested = 0
        original = getattr(self, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            if self.scene is not None:
                self.scene.fire()
            return original(*args, **kwargs)

        setattr(self, name, method)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.calls.append("set_write_buffer_limits")


NUMBERED = ("more streams", "in two reads", "window", "another's reset")
"""Acts that name streams."""


async def transport_acts(name: str, at_once: bool) -> Any:
    def make(act: str) -> Wild:
        transport = ActingTransport(name)
        scene = Wild(act, {"/evil": evil_file}, transport=transport)
        transport.scene = scene
        scene.armed = at_once
        return scene

    return await every_act(make)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("name", METHODS)
def test_a_transport_that_acts(name: str, at_once: bool) -> None:
    results = survives(transport_acts, name, at_once)
    for act, result in results.items():
        if at_once and (name == "get_extra_info" or act in NUMBERED):
            # No frame may come before the preface, no stream before one of a lower number: not from within.
            assert result["left"] == GONE
        else:
            check(act, result)
    # One of the two is what it writes with, wherever there is anything to write.
    if name == "get_extra_info" and at_once:
        assert all(result["fired"] for result in results.values())


async def writing_is_noticed() -> Any:
    fired = []
    for name in ("write", "writelines"):
        transport = ActingTransport(name)
        transport.scene = scene = Wild("nothing", transport=transport)
        await talk(scene)
        fired.append(scene.fired)
    return fired


def test_the_transport_is_written_to() -> None:
    """So that the test before this one is one."""
    assert any(survives(writing_is_noticed))


async def callback_acts(name: str, point: str) -> Any:
    def make(act: str) -> Wild:
        holder: list[Wild] = []
        scene = Wild(act, {"/evil": APP_POINTS[point]}, **{name: lambda *args: holder[0].fire()})
        holder.append(scene)
        return scene

    return await every_act(make)


@pytest.mark.parametrize("point", ["at_last", "in_path"])
@pytest.mark.parametrize("name", ["access", "on_reject", "on_app_error"])
def test_a_callback_of_the_worker_that_acts(name: str, point: str) -> None:
    for act, result in survives(callback_acts, name, point).items():
        assert result["fired"], act
        check(act, result)


FAULTS = {
    "a request": (-1, request(19, "/", "GET", (b"X-Upper", b"1"))),
    "a window": (-1, upload(19) + window(19, LARGEST_WINDOW)),
    "the connection": (0, data(0, b"x")),
}
"""What a peer does wrong, for nghttp2 to punish, and how it is reported."""


async def report_acts(fault: str) -> Any:
    status, frames = FAULTS[fault]

    def make(act: str) -> Wild:
        def on_reject(said: int, reason: str, client: Any) -> None:
            if said == status and "_ERROR: " in reason:
                scene.fire()

        scene = Wild(act, on_reject=on_reject)
        scene.more = [frames]
        return scene

    return await every_act(make)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_report_of_what_nghttp2_found_that_acts(fault: str) -> None:
    """It comes when the frame that punishes is on its way, from between writing and settling."""
    for act, result in survives(report_acts, fault).items():
        assert result["fired"], act
        if fault == "the connection":
            assert result["left"] == GONE, act
        else:
            check(act, result)


# In a collection, wherever that is


COLLECTED = [
    data(1, b"yz", end=True),
    *(one for number in range(5, 21, 4) for one in (request(number), upload(number + 2, "/up"))),
    *(data(number, b"x" * 1000, end=number < 19) for number in range(7, 22, 4)),
    request(23, "/silent"),
    request(25, "/evil"),
    tunnel(27),
    reset(23),
]
"""What comes while the collector runs: nothing else is made of Python meanwhile."""


async def collector_acts(act: str) -> Any:
    """The collector runs while frames are parsed, requests made and answers written."""
    found = []
    whole = b"".join(COLLECTED)
    for after in range(0, 400, 2):
        scene = Wild(act, {"/evil": in_links})
        scene.apps["/silent"] = silent
        scene.open(upload(1), data(1, b"x"), request(3, "/later"))
        await turns()
        scene.armed, scene.last_stream = True, 27
        with Collecting(scene.fire, after) as collecting:
            try:
                scene.connection.data_received(whole)
            except ZeroDivisionError:
                scene.seen.append("raised to the loop")
            fired = collecting.fired
        await turns()
        answers = scene.brief()
        result = await scene.result()
        assert result["left"] == GONE, (after, result)
        if act in GENTLE and act != "another":
            ends = {answers.get(str(number), "nothing") for number in (1, 3, *range(5, 19))} - {"nothing"}
            assert ends == {"200 ended"}, (after, answers, result)
            assert result["goaways"] == []
        found.append(fired)
        if not any(found[-3:]):
            break
    return [sum(found), len(found)]


@pytest.mark.parametrize(
    "act",
    [
        "more streams",
        "in two reads",
        "lose",
        "drop",
        "eof",
        "reset all",
        "goaway",
        "garbage",
        "bad header block",
        "abort",
        "drain",
        "drain and ack",
        "close the factory",
        "another",
        "pause and resume",
        "tick",
        "end streams",
        "call everything",
        "raise",
    ],
)
def test_the_collector_runs_code_anywhere(act: str) -> None:
    fired, tried = survives(collector_acts, act)
    assert fired > 10
    assert tried < 200
