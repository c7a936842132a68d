"""send() and receive() beyond their stream, what becomes of a message, and WebSockets in evil hands.

Rules of this file: those of test_h2_calls.py.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from typing import Any

import pytest

from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.ws import text
from tests.native.drive import GONE, turns
from tests.native.h2_acts import ACTS, EVIL, GENTLE, WAITING, Acting, Wild, silent
from tests.native.h2_drive import BODY, MORE, START, Scene, data, opening, request, reset, tunnel, window
from tests.native.isolated import survives

pytestmark = needs_nghttp2


# Channels beyond their stream


async def kept_channels(end: str, suspend: bool) -> Any:
    """send and receive of streams that are over are used by anybody, also while others run in their place."""
    kept: list[Any] = []

    async def evil(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        kept.append((send, receive))
        if suspend:
            await asyncio.sleep(0)
        if end == "answered":
            await send(START)
            await send(BODY)
        elif end == "error":
            raise ValueError
        elif end == "headed":
            await send(START)
            await send(MORE)
            await receive()
            await receive()
        else:
            await receive()
            await receive()

    scene = Wild("nothing", {"/evil": evil})
    scene.open()
    for number in range(1, 41, 4):
        scene.feed(request(number, "/evil"))
        await turns(4)
        if end in ("reset", "headed"):
            scene.feed(reset(number))
        elif end == "lost":
            scene.lose()
        await turns(4)
        for send, receive in kept:
            for message in (START, BODY, MORE, {"type": "http.response.trailers"}):
                scene.note(lambda send=send, message=message: send(message))
            try:
                receive().send(None)
            except StopIteration as stop:
                scene.seen.append(stop.value["type"])
            except Exception as error:
                scene.seen.append(type(error).__name__)
        if end != "lost":
            scene.feed(request(number + 2, "/ok"))
    await turns()
    answers = scene.brief()
    left = await scene.end()
    bodies = {bytes(answer.body) for number, answer in scene.said.answers.items() if number % 4 == 3}
    return [sorted(set(scene.seen)), sorted(set(answers.values())), [body.decode() for body in bodies], left]


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("end", ["answered", "error", "reset", "headed", "lost"])
def test_channels_reach_nobody_beyond_their_stream(end: str, suspend: bool) -> None:
    seen, answers, others, left = survives(kept_channels, end, suspend)
    assert left == GONE
    assert set(seen) <= {
        "MessageError",
        "ClientDisconnected",
        "RuntimeError",
        "http.request",
        "http.disconnect",
    }
    if end != "lost":
        assert others == ["body"]
        assert "200 ended" in answers


# What becomes of a message after send()


async def freed_fields() -> Any:
    """The app's fields and body change, and their memory goes, before anything is encoded."""

    async def evil(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        def value(number: int) -> bytes:
            return b"%d" % number * 50

        fields = [[b"x-%d" % number, value(number)] for number in range(40)]
        body = bytearray(b"before " * 10)
        trailers = [[b"x-t", value(7)]]
        await send({"type": "http.response.start", "status": 200, "headers": fields, "trailers": True})
        for pair in fields:
            pair[:] = [b"evil", b"evil"]
        fields.clear()
        scene.kept.append([b"x" * 51 for _ in range(200)])
        await send({"type": "http.response.body", "body": memoryview(body), "more_body": True})
        body[:6] = b"behind"
        await send({"type": "http.response.body", "body": body})
        body[:6] = b"broken"
        await send({"type": "http.response.trailers", "headers": trailers})
        trailers[0][1] = b"evil"
        trailers.clear()
        gc.collect()

    scene = Scene({"/evil": evil})
    scene.open(request(1, "/evil"))
    answer = scene.hear().answers[1]
    fields = dict(answer.fields)
    right = all(fields.get(b"x-%d" % number) == b"%d" % number * 50 for number in range(40))
    return [
        right,
        answer.body.decode()[:6],
        answer.body.count(b"behind"),
        len(answer.trailers or []),
        await scene.end(),
    ]


def test_what_was_sent_is_sent() -> None:
    assert survives(freed_fields) == [True, "before", 1, 1, GONE]


async def mutating(what: str) -> Any:
    """Header lists that change, and fields that are no bytes, while they are looked at."""

    async def evil(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        headers: list[Any] = []

        class Name(bytes):
            def __repr__(self) -> str:
                headers.clear()
                gc.collect()
                if what == "sends":
                    send(START)
                    send(BODY)
                elif what == "loses":
                    scene.lose()
                elif what == "resets":
                    scene.feed(reset(1))
                return "evil"

            def lower(self) -> bytes:
                raise AssertionError("called")

            __len__ = __iter__ = lower  # type: ignore[assignment]

        bad = Name(b"x y") if what != "fine" else Name(b"x-y")
        headers += [(b"x-a", b"1"), [bad, b"evil"], (b"x-b", Name(b"2"))] * 20
        scene.note(lambda: send({**START, "headers": headers}))
        scene.note(lambda: send(BODY))

    scene = Scene({"/evil": evil})
    scene.open(request(1, "/evil"), request(3))
    await turns()
    return await scene.result()


@pytest.mark.parametrize("what", ["fine", "clears", "sends", "loses", "resets"])
def test_headers_that_change_while_they_are_read(what: str) -> None:
    result = survives(mutating, what)
    assert result["left"] == GONE
    assert result["unraisable"] == []
    answers = result["answers"]
    if what == "fine":
        assert answers == {"1": "200 ended", "3": "200 ended"}
    elif what == "clears":
        assert answers == {"1": "500 ended", "3": "200 ended"}
        assert result["seen"] == ["HeaderError", "MessageError"]
    elif what == "sends":
        assert answers == {"1": "200 ended", "3": "200 ended"}
    elif what == "resets":
        assert answers["3"] == "200 ended"


# Files


async def file_that_changes(what: str, zero_copy: bool) -> Any:
    """A file that is cut, or grows, or goes, between two of its pieces."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"f" * 300_000)

    async def evil(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": []})
        if zero_copy:
            with open(file.name, "rb") as opened:
                await send({"type": "http.response.zerocopysend", "file": opened})
        else:
            await send({"type": "http.response.pathsend", "path": file.name})

    scene = Scene({"/evil": evil})
    scene.make()
    scene.feed(opening(), request(1, "/evil"), request(3))
    await turns()
    began = len(scene.hear().answers[1].body)
    if what == "shrinks":
        os.truncate(file.name, 100_000)
    elif what == "empties":
        os.truncate(file.name, 0)
    elif what == "grows":
        os.truncate(file.name, 600_000)
    elif what == "goes":
        os.unlink(file.name)
    for _ in range(20):
        scene.feed(window(0, 60_000), window(1, 60_000))
        await turns(4)
    scene.feed(request(5))
    await turns()
    answers = scene.brief()
    length = len(scene.said.answers[1].body)
    if what != "goes":
        os.unlink(file.name)
    opened = [fd for fd in os.listdir("/proc/self/fd") if _leads_to(fd, file.name)]
    return [answers, began, length, opened, await scene.end()]


def _leads_to(fd: str, name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(name)
    except OSError:
        return False


@pytest.mark.parametrize("zero_copy", [False, True], ids=["pathsend", "zerocopysend"])
@pytest.mark.parametrize("what", ["shrinks", "empties", "grows", "goes"])
def test_a_file_that_changes_while_it_is_sent(what: str, zero_copy: bool) -> None:
    answers, began, length, opened, left = survives(file_that_changes, what, zero_copy)
    assert began < 66_000, "more than the window was sent"
    assert (answers["3"], answers["5"]) == ("200 ended", "200 ended")
    assert (opened, left) == ([], GONE)
    if what in ("grows", "goes"):
        assert (answers["1"], length) == ("200 ended", 300_000)
    else:  # a part is not passed off as the whole
        assert answers["1"] == "200 reset 2"
        assert length < 300_000


# WebSockets in a stream


async def open_tunnel(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    scene.seen.append(f"{message['type']} {message['code']}")


def tunnels() -> list[Any]:
    return [
        one
        for one in gc.get_objects()
        if type(one).__name__ == "Tunnel" and "_native" in type(one).__module__
    ]


async def tunnel_in_other_hands(when: str) -> Any:
    """The transport of a WebSocket over HTTP/2 is called by somebody else, with whatever."""
    scene = Scene({"/ws": open_tunnel})
    scene.open(tunnel(1, "/ws"), data(1, text("a")), request(3))
    await turns()
    [one] = tunnels()
    if when == "reset":
        scene.feed(reset(1))
    elif when == "lost":
        scene.lose()
    elif when == "ended":
        scene.feed(data(1, b"\x88\x80abcd", end=True))
    elif when == "dropped":
        scene.drop()
        await turns()
        gc.collect()
    await turns()
    names = [name for name in dir(one) if not name.startswith("__")]
    for name in sorted(names, key=lambda name: name in ("close", "abort", "write_eof")):
        for args in (
            (),
            (None,),
            (b"x",),
            ("x",),
            ([b"a", b"b"],),
            ([5],),
            (bytearray(b"y"),),
            (b"a", b"b"),
            (1 << 70,),
        ):
            call = getattr(one, name)
            if not callable(call):
                continue
            scene.note(lambda call=call, args=args: call(*args))
    await turns()
    answers = scene.brief()
    left = await scene.end()
    names = [name for name in names if callable(getattr(one, name))]
    return [answers.get("3"), left, names, sorted(set(scene.seen))]


@pytest.mark.parametrize("when", ["open", "reset", "lost", "ended", "dropped"])
def test_a_tunnel_in_other_hands(when: str) -> None:
    third, left, names, seen = survives(tunnel_in_other_hands, when)
    assert third == "200 ended"
    assert left == GONE
    assert {"write", "close", "abort"} <= set(names)
    assert "SystemError" not in seen


async def tunnel_acts(point: str) -> Any:
    """Each act from within an open WebSocket of a stream, of which the connection then may be gone."""

    async def evil(scene: Any, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if point == "before":
            scene.fire()
        await send({"type": "websocket.accept", "headers": Acting(scene.fire) if point == "headers" else []})
        if point == "behind":
            scene.fire()
        await send({"type": "websocket.send", "text": "x" * 5000})
        await receive()
        if point == "later":
            scene.fire()
        await send({"type": "websocket.close", "code": 4000})
        if point == "closed":
            scene.fire()

    found = {}
    for act in ACTS:
        print("act:", act, flush=True)
        scene = Wild(act, {"/ws": evil, "/silent": silent})
        scene.open(request(WAITING - 14, "/ok"))
        scene.armed = True
        try:
            scene.feed(tunnel(3, "/ws"), tunnel(EVIL, "/ws"), request(WAITING, "/silent"))
            await turns()
            scene.feed(data(3, text("go")), data(EVIL, text("go")))
            await turns()
            scene.feed(data(EVIL, b"\x88\x82abcd\xee\xc2"))
        except ZeroDivisionError:
            scene.seen.append("raised to the loop")
        await turns()
        result = await scene.result()
        assert result["left"] == GONE, (act, result)
        assert scene.fired, (act, result)
        found[act] = [result["answers"], result["goaways"]]
    return found


@pytest.mark.parametrize("point", ["before", "headers", "behind", "later", "closed"])
def test_a_websocket_that_acts(point: str) -> None:
    for act, (answers, goaways) in survives(tunnel_acts, point).items():
        if act in GENTLE:
            assert answers["1"] == "200 ended", act
            assert answers["3"].startswith("200"), (act, answers)
            assert goaways == [], act
