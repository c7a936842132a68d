"""Calls into HTTP/2 at the places where its own state is in pieces: found by reading native/http2*.c.

Rules of this file: those of test_h2_calls.py. Each test says which piece it is about.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import text
from tests.native.collecting import Collecting
from tests.native.drive import GONE, turns
from tests.native.h2_acts import is_native
from tests.native.h2_drive import (
    BODY,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MORE,
    START,
    Scene,
    block,
    data,
    frame,
    head,
    ping,
    pseudo,
    request,
    reset,
    tunnel,
    upload,
    window,
)
from tests.native.isolated import survives
from tests.native.ws_drive import Solid

pytestmark = needs_nghttp2


# A frame of DATA that nghttp2 has begun and not finished, and the stream's output is dropped


class Stopping(Solid):
    """Says stop at once, from within write()."""

    def write(self, data: Any) -> None:
        super().write(data)
        self.connection.pause_writing()  # type: ignore[union-attr]

    def writelines(self, parts: Any) -> None:
        super().writelines(parts)
        self.connection.pause_writing()  # type: ignore[union-attr]


ENDS = ["error", "return", "too large", "reset", "stall", "abort", "lost", "drain", "garbage", "nothing"]


async def dropped_in_a_frame(end: str, streams: int, size: int) -> Any:
    gate = asyncio.Event()

    async def large(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        if end in ("error", "return"):
            await gate.wait()
            if end == "error":
                raise ValueError
            return
        await send({"type": "http.response.body"})

    scene = Scene(
        {"/large": large},
        transport=Stopping(),
        limit_request_body=1000,
        write_stall_ms=1 if end == "stall" else 0,
    )
    scene.open()
    scene.connection.resume_writing()
    numbers = range(1, 2 * streams, 2)
    scene.feed(*(upload(number, "/large") for number in numbers))
    await turns()
    if end == "too large":
        scene.feed(*(data(number, b"y" * 2000) for number in numbers))
    elif end == "reset":
        scene.feed(*(reset(number) for number in numbers))
    elif end == "abort":
        scene.driver.factory.abort()
    elif end == "lost":
        scene.lose()
    elif end == "drain":
        scene.driver.factory.drain(lambda: None)
    elif end == "garbage":
        scene.feed(data(0, b"x"))
    elif end == "stall":
        await asyncio.sleep(0.01)
        scene.driver.factory.tick()
        await asyncio.sleep(0.01)
        scene.driver.factory.tick()
    gate.set()
    await turns()
    if "lost" not in scene.transport.calls:
        for _ in range(300):
            scene.connection.resume_writing()
            await turns(2)
        if end in ("error", "return", "reset", "nothing", "too large"):
            scene.feed(request(301, "/ok"))
            for _ in range(20):
                scene.connection.resume_writing()
                await turns(2)
    bodies = [len(answer.body) for answer in scene.hear().answers.values()]
    return [scene.brief(), max(bodies, default=0), await scene.end()]


@pytest.mark.parametrize(("streams", "size"), [(1, 3_000_000), (20, 200_000), (20, 66_000), (100, 17_000)])
@pytest.mark.parametrize("end", ENDS)
def test_output_that_is_dropped_within_a_frame(end: str, streams: int, size: int) -> None:
    answers, longest, left = survives(dropped_in_a_frame, end, streams, size)
    assert left == GONE
    assert longest <= size
    if end in ("error", "return", "reset", "nothing", "too large"):
        assert answers.pop("301") == "200 ended"
    ends = set(answers.values())
    if end in ("error", "return"):
        assert ends <= {"200 reset 2", "500 ended"}, ends
    elif end == "nothing":
        assert ends == {"200 ended"}


# account_broken_off() calls the access log while a stream is being freed


async def access_at_the_end(what: str, how: str) -> Any:
    sends: list[Any] = []
    told: list[int] = []

    async def begun(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        sends.append(send)
        await send(START)
        await send(MORE)
        while (await receive())["type"] != "http.disconnect":
            pass

    def access(*_: Any) -> None:
        told.append(1)
        for send in list(sends):
            if what == "sends":
                scene.note(lambda send=send: send(MORE))
                scene.note(lambda send=send: send(BODY))
            elif what == "sends a file":
                scene.note(lambda send=send: send({"type": "http.response.pathsend", "path": __file__}))
        if what == "loses":
            scene.lose()
        elif what == "drops":
            scene.drop()
        elif what == "feeds":
            scene.feed(ping(), request(201, "/ok")) if len(told) == 1 else None
        elif what == "resumes":
            scene.connection.resume_writing()
        elif what == "aborts":
            scene.driver.factory.abort()
        elif what == "collects":
            gc.collect()

    scene = Scene({"/begun": begun}, access=access, limit_request_body=1000, write_stall_ms=1)
    scene.open(*(upload(number, "/begun") for number in range(1, 20, 2)))
    await turns()
    if how == "reset":
        scene.feed(*(reset(number) for number in range(1, 20, 2)))
    elif how == "too large":
        scene.feed(*(data(number, b"x" * 2000) for number in range(1, 20, 2)))
    elif how == "lost":
        scene.lose()
    elif how == "abort":
        scene.driver.factory.abort()
    elif how == "garbage":
        scene.feed(data(0, b"x"))
    await turns()
    if scene.connection is not None and "lost" not in scene.transport.calls and how in ("reset", "too large"):
        scene.feed(*(request(number, "/later") for number in range(301, 351, 2)))
        await turns()
    return [scene.brief(), len(told), sorted(set(scene.seen)), scene.unraisable, await scene.end()]


@pytest.mark.parametrize("how", ["reset", "too large", "lost", "abort", "garbage"])
@pytest.mark.parametrize(
    "what", ["sends", "sends a file", "loses", "drops", "feeds", "resumes", "aborts", "collects"]
)
def test_an_access_log_that_acts_while_streams_end(what: str, how: str) -> None:
    answers, told, _, unraisable, left = survives(access_at_the_end, what, how)
    assert left == GONE
    assert told >= 1
    assert unraisable == []
    if what in ("sends", "sends a file", "feeds", "resumes", "collects") and how in ("reset", "too large"):
        assert {answers.get(str(number)) for number in range(301, 351, 2)} == {"200 ended"}, answers


# A head that is half read, in the collector's hands


async def fields_in_other_hands(what: str) -> Any:
    """What the collector runs changes the list of fields to which the next one is added."""
    count = 0

    def relist() -> None:
        nonlocal count
        for one in gc.get_objects():
            if type(one) is list and 0 < len(one) < 60 and type(one[0]) is tuple and one[0][:1] == (b"host",):
                count += 1
                if what == "clears":
                    one.clear()
                elif what == "replaces":
                    one[:] = [5] * len(one)
                elif what == "unpairs":
                    one[:] = [(b"cookie",)] * len(one)
                elif what == "texts":
                    one[:] = [(None, "x", 5)] * len(one)

    # One for each letter: between two cookies there are sometimes one, sometimes two others.
    fields = [
        (b"cookie", b"a=%d" % number) if letter == "c" else (b"x-%d" % number, b"v")
        for number, letter in enumerate("ccxcxxcxxxcxcxxcxcxxcxxcxcxcxxxcxxcxcxx")
    ]
    scene = Scene()
    scene.open()
    stream, fired = 1, 0
    for after in range(60):
        whole = head(stream, [*pseudo(), *fields])
        with Collecting(relist, after) as collecting:
            scene.connection.data_received(whole)
        fired += collecting.fired
        await turns(2)
        stream += 2
        if "abort" in scene.transport.calls or scene.hear().goaways:
            assert await scene.end() == GONE
            scene = Scene()
            scene.open()
            stream = 1
    scene.feed(request(stream))
    await turns()
    return [fired > 5, count > 0, scene.brief().get(str(stream)), await scene.end()]


@pytest.mark.parametrize("what", ["clears", "replaces", "unpairs", "texts"])
def test_fields_that_change_while_they_are_gathered(what: str) -> None:
    assert survives(fields_in_other_hands, what) == [True, True, "200 ended", GONE]


async def half_made(what: str) -> Any:
    """What the collector runs finds the send() of a request whose fields are still coming, and answers it."""
    scene = Scene({"/begun": begun_for_ever})
    scene.open(request(1, "/begun"))
    stream, found = 3, 0
    for after in range(80):

        def act() -> None:
            nonlocal found
            for one in gc.get_objects():
                name = type(one).__name__
                if not is_native(one):
                    continue
                try:
                    if name == "Send":
                        found += 1
                        one(START)
                        if what != "begins":
                            one(BODY)
                    elif name == "Receive" and what == "receives":
                        one().send(None)
                except (Exception, StopIteration):
                    pass

        fields = [(b"x-%d" % number, b"v") for number in range(12)]
        whole = (
            request(stream, "/later", "GET", *fields)
            + upload(stream + 2)
            + data(stream + 2, b"abc", end=True)
            + tunnel(stream + 4)
        )
        with Collecting(act, after):
            scene.connection.data_received(whole)
        await turns(3)
        stream += 6
        if "abort" in scene.transport.calls or scene.hear().goaways:
            assert await scene.end() == GONE
            scene = Scene({"/begun": begun_for_ever})
            scene.open(request(1, "/begun"))
            stream = 3
    scene.feed(request(stream))
    await turns()
    return [found > 0, scene.brief().get(str(stream)), await scene.end()]


async def begun_for_ever(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("what", ["begins", "answers", "receives"])
def test_a_request_that_is_answered_before_it_is_whole(what: str) -> None:
    assert survives(half_made, what) == [True, "200 ended", GONE]


# What came while apps ran, and the loop goes round inside of one


async def nested_turn(what: str) -> Any:
    """The loop calls what it was given while an app is running, as one that is nested does."""
    loop: Any = asyncio.get_running_loop()
    call_soon, ours = loop.call_soon, []

    def keep(callback: Any, *args: Any, **how: Any) -> Any:
        if nesting and getattr(callback, "__self__", None) is scene.connection:
            ours.append(callback)
            return None
        return call_soon(callback, *args, **how)

    async def evil(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        nonlocal nesting
        nesting = True
        scene.feed(request(101, "/ok"))
        for callback in list(ours) * (2 if what == "twice" else 1):
            callback()
        nesting = False
        await send(START)
        await send(BODY)

    nesting = False
    loop.call_soon = keep
    scene = Scene({"/nesting": evil})
    scene.open(request(1, "/nesting"), request(3, "/ok"))
    await turns()
    return [len(ours), scene.brief(), await scene.end()]


@pytest.mark.parametrize("what", ["once", "twice"])
def test_a_loop_that_goes_round_inside_an_app(what: str) -> None:
    called, answers, left = survives(nested_turn, what)
    assert called > 0
    assert answers == {"1": "200 ended", "3": "200 ended", "101": "200 ended"}
    assert left == GONE


# What is noted for several streams, and somebody else does it first


async def noted_by_others(what: str) -> Any:
    """Files end on many streams at once; who hears of the first one has the others looked after."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"f" * 100_000)

    async def sending(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.pathsend", "path": file.name})
        scene.seen.append("sent")

    def access(*_: Any) -> None:
        if what == "resumes":
            scene.connection.resume_writing()
        elif what == "feeds":
            scene.feed(ping())
        elif what == "ticks":
            scene.driver.factory.tick()
        elif what == "opens":
            scene.feed(window(0, 5000))
        elif what == "pauses":
            scene.connection.pause_writing()
            scene.connection.resume_writing()

    scene = Scene({"/sending": sending}, access=access)
    scene.open(*(request(number, "/sending") for number in range(1, 30, 2)))
    await turns(30)
    running = scene.driver.factory.in_flight
    answers = sorted(set(scene.brief().values()))
    Path(file.name).unlink()
    return [answers, len(scene.seen), running, await scene.end()]


@pytest.mark.parametrize("what", ["nothing", "resumes", "feeds", "ticks", "opens", "pauses"])
def test_nobody_is_forgotten_when_files_end(what: str) -> None:
    assert survives(noted_by_others, what) == [["200 ended"], 15, 0, GONE]


async def tunnels_by_others() -> Any:
    """Frames for many WebSockets in one read; the app of each has the others' bytes delivered first."""

    async def echo(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            scene.connection.resume_writing()
            scene.connection.data_received(ping())
            await send({"type": "websocket.send", "text": message["text"]})
            scene.connection.resume_writing()
            scene.seen.append(message["text"])

    scene = Scene({"/ws": echo})
    numbers = range(1, 40, 2)
    scene.open(*(tunnel(number, "/ws") for number in numbers))
    await turns()
    for turn in range(5):
        scene.feed(*(data(number, text(f"{turn} of {number}")) for number in numbers))
        await turns()
    wanted = sorted(f"{turn} of {number}" for number in numbers for turn in range(5))
    return [sorted(scene.seen) == wanted, await scene.end()]


def test_nobody_is_forgotten_when_frames_come() -> None:
    assert survives(tunnels_by_others) == [True, GONE]


# Fields that nghttp2 gives up on, so that nobody says when they end


def kept(name: bytes, value: bytes) -> bytes:
    """A field that goes into the table (RFC 7541 §6.2.1), where it is entry 62."""
    return b"\x40" + block([(name, value)])[1:]


def many(stream: int, before: bytes) -> bytes:
    """A small frame that is many megabytes of fields."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, before + kept(b"x", b"y" * 3900) + b"\xbe" * 3000)


FIELDS: dict[str, bytes] = {
    "no name of a field": head(1, [(b"Upper", b"x")]),
    "a request's": head(1, [(b":path", b"/")]),
    "not the end": head(1, [(b"x", b"y")], end=False),
    "a bomb of trailers": many(1, b""),
    "a bomb of a head": many(5, block(pseudo())),
}
"""Behind a request on stream 1 whose body is coming."""


async def given_up(kind: str) -> Any:
    scene = Scene(head_ms=1)
    scene.open(upload(1), data(1, b"x"), request(3, "/wait"))
    await turns()
    scene.feed(FIELDS[kind])
    for _ in range(4):
        await asyncio.sleep(0.01)
        scene.driver.factory.tick()
    scene.feed(request(201, "/ok"))
    await turns()
    answers = scene.brief()
    goaways = [code for _, code, _ in scene.said.goaways]
    reports = [status for status, _, _ in scene.driver.rejects]
    return [answers.get("3"), answers.get("201"), goaways, reports, await scene.end()]


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_that_are_given_up_are_not_waited_for(kind: str) -> None:
    # A bomb is ENHANCE_YOUR_CALM, until there are too many.
    reports = [] if kind.startswith("a bomb") else [-1]
    assert survives(given_up, kind) == ["200 open", "200 ended", [], reports, GONE]
