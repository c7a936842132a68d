"""What may be done to an HTTP/2 connection in the middle of anything, and a conversation in which it is done.

Rules of this file: an act is gentle if every stream is still answered after it, or else rough. ``talk`` has
streams of every kind; ``Wild.fire`` is called at the point that a test is about, and acts once.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

from tests.native.drive import GONE, turns
from tests.native.h2_drive import (
    BIG_BYTES,
    BODY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW,
    MAX_FRAME,
    START,
    App,
    Scene,
    data,
    frame,
    goaway,
    head,
    ping,
    pseudo,
    request,
    reset,
    settings,
    upload,
    window,
)
from tests.native.ws_drive import Solid

EVIL = 5
WAITING = 15
OPEN_UPLOAD = 7


# Acts


class Wild(Scene):
    """A scene in which something is done once, at one point of it."""

    def __init__(self, act: str, apps: dict[str, App] | None = None, **options: Any) -> None:
        self.act = act
        self.fired = False
        self.armed = False
        self.last_stream = 0
        self.more: list[bytes] = []
        """Frames for talk(), in the first read behind the others."""
        super().__init__(apps, **options)

    def fire(self) -> None:
        if not self.armed or self.fired:
            return
        self.fired = True
        ACTS[self.act](self)

    def feed(self, *frames: bytes) -> None:
        for one in frames:
            if one[3:4] == b"\x01":
                self.last_stream = max(self.last_stream, int.from_bytes(one[5:9], "big"))
        super().feed(*frames)

    def next_stream(self) -> int:
        return self.last_stream + 2 if self.last_stream else 1


def send_to_the_waiting(scene: Wild) -> None:
    for send in scene.kept:
        send(START)
        send(BODY)


def is_native(one: Any) -> bool:
    module = type(one).__module__  # of some types this is anything but a name
    return isinstance(module, str) and module.endswith("_native")


def call_everything(scene: Wild | None) -> None:
    """What the collector can find of ours, half-made or half-dead, is called as its users call it."""
    for one in gc.get_objects():
        if not is_native(one):
            continue
        repr(one)
        gc.get_referents(one)
        kind = type(one).__name__
        calls: list[Callable[[], Any]] = []
        if kind == "Connection":
            calls = [
                lambda one=one: one.data_received(b""),
                lambda one=one: one.pause_writing(),
                lambda one=one: one.resume_writing(),
            ]
        elif kind == "Send":
            calls = [lambda one=one: one(START), lambda one=one: one(BODY)]
        elif kind == "Receive":
            calls = [lambda one=one: one()]
        elif kind == "Tunnel":
            calls = [lambda one=one: one.write(b""), lambda one=one: one.get_extra_info("peername")]
        for call in calls:
            try:
                call()
            except Exception as error:
                if scene is not None:
                    scene.seen.append(type(error).__name__)


def more_streams(scene: Wild) -> None:
    stream = scene.next_stream()
    scene.feed(request(stream), upload(stream + 2), data(stream + 2, b"x" * 100, end=True))


def in_two_reads(scene: Wild) -> None:
    whole = request(scene.next_stream(), "/later")
    scene.connection.data_received(whole[:11])
    scene.connection.data_received(whole[11:])
    scene.last_stream += 2


GENTLE: dict[str, Callable[[Any], Any]] = {
    "more streams": more_streams,
    "in two reads": in_two_reads,
    "nothing": lambda scene: scene.feed(b""),
    "ping": lambda scene: scene.feed(ping(), ping(b"x" * 8, ack=True)),
    "settings": lambda scene: scene.feed(
        settings({HEADER_TABLE_SIZE: 0}),
        settings({HEADER_TABLE_SIZE: 4096, INITIAL_WINDOW: 1 << 25, MAX_FRAME: 20_000}),
    ),
    "window": lambda scene: scene.feed(window(0, 1000), window(EVIL, 1000), window(3, 1)),
    "pause and resume": lambda scene: (scene.connection.pause_writing(), scene.connection.resume_writing()),
    "tick": lambda scene: scene.driver.factory.tick(),
    "count": lambda scene: scene.driver.factory.count_states(),
    "collect": lambda scene: gc.collect(),
    "another": send_to_the_waiting,
    "another's reset": lambda scene: scene.feed(reset(WAITING)),
    "made again": lambda scene: scene.note(lambda: scene.connection.connection_made(Solid())),
}
"""After these every stream is still answered, but the waiting one and the evil one."""

ROUGH: dict[str, Callable[[Any], Any]] = {
    "lose": lambda scene: scene.lose(),
    "lose with an error": lambda scene: scene.lose(ConnectionResetError()),
    "drop": lambda scene: scene.drop(),
    "eof": lambda scene: scene.connection.eof_received(),
    "eof and lose": lambda scene: (scene.connection.eof_received(), scene.lose()),
    "reset": lambda scene: scene.feed(reset(EVIL)),
    "reset all": lambda scene: scene.feed(
        *(reset(stream) for stream in range(1, 2 + scene.last_stream, 2) if stream <= scene.last_stream)
    ),
    "goaway": lambda scene: scene.feed(goaway(0)),
    "goaway with an error": lambda scene: scene.feed(goaway(0, 2, b"why")),
    "garbage": lambda scene: scene.feed(frame(0, 0, 0, b"x")),
    "no window": lambda scene: scene.feed(window(0, 0)),
    "bad header block": lambda scene: scene.feed(frame(1, 5, scene.next_stream(), b"\xff\xff\xff")),
    "lies": lambda scene: scene.feed(head(scene.next_stream(), [*pseudo(), (b"Upper", b"x")])),
    "abort": lambda scene: scene.driver.factory.abort(),
    "drain": lambda scene: scene.driver.factory.drain(lambda: None),
    "drain and ack": lambda scene: (
        scene.driver.factory.drain(lambda: None),
        [scene.feed(ping(payload, ack=True)) for payload in scene.hear().pings],
    ),
    "end streams": lambda scene: scene.driver.factory.end_streams(),
    "close the factory": lambda scene: scene.driver.factory.close(),
    "pause": lambda scene: scene.connection.pause_writing(),
    "raise": lambda scene: 1 / 0,
    "call everything": call_everything,
}
ACTS = GENTLE | ROUGH


FIRST = [
    request(1, "/ok"),
    request(3, "/big"),
    request(EVIL, "/evil"),
    upload(OPEN_UPLOAD),
    data(OPEN_UPLOAD, b"abc"),
    request(9, "/later"),
    request(11, "/fail"),
    request(13, "/", "GET", (b"host", b"another")),
    request(WAITING, "/silent"),
    request(17, "/fail-late"),
]


async def silent(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    """Waits, while others may answer for it."""
    scene.kept.append(send)
    while (await receive())["type"] != "http.disconnect":
        pass


async def talk(scene: Wild) -> dict[str, Any]:
    """Streams of every kind in one read, and a second read; the act comes when its point is reached."""
    scene.apps["/silent"] = silent
    try:
        scene.open()
    except (ZeroDivisionError, RuntimeError):
        return {"fired": scene.fired, "left": await scene.end()}
    scene.armed = True
    try:
        scene.feed(*FIRST, *scene.more)
        await turns()
        scene.feed(
            data(OPEN_UPLOAD, b"def", end=True), request(scene.next_stream(), "/ok"), ping(b"lastping")
        )
        await turns()
    except ZeroDivisionError:
        scene.seen.append("raised to the loop")
    if scene.connection is not None and "lost" not in scene.transport.calls:
        scene.connection.resume_writing()
    await turns()
    answers, running = scene.brief(), scene.driver.factory.in_flight
    result = await scene.result()
    return result | {"answers": answers, "running": running, "fired": scene.fired, "bodies": bodies(scene)}


def bodies(scene: Scene) -> dict[str, Any]:
    return {
        str(stream): len(answer.body) if len(answer.body) > 100 else answer.body.decode()
        for stream, answer in scene.said.answers.items()
    }


def check(act: str, result: dict[str, Any], *, evil: tuple[str, ...] = ("200 ended",)) -> None:
    """What must hold whatever the act was, and what if it was gentle."""
    assert result["left"] == GONE, (act, result)
    if act not in GENTLE or "answers" not in result:
        return
    answers = result["answers"]
    expected = {"1": "200 ended", "3": "200 ended", "7": "200 ended", "9": "200 ended"}
    expected |= {"11": "500 ended", "13": "400 ended"}
    assert {stream: answers.get(stream) for stream in expected} == expected, (act, result)
    assert answers.get(str(EVIL)) in evil, (act, result)
    assert answers.get("17") in ("200 reset 2", "reset 2"), (act, result)
    assert result["bodies"]["3"] == BIG_BYTES, (act, result)
    assert result["bodies"]["7"] == "6", (act, result)
    assert result["goaways"] == [], (act, result)
    assert not result["aborted"], (act, result)
    assert result["running"] <= 1, (act, "an app waits for nothing", result)


async def every_act(make: Any, *names: str) -> dict[str, Any]:
    """``make(act)`` is a scene; what came of each act."""
    found = {}
    for act in names or ACTS:
        print("act:", act, flush=True)  # in the report, if it is the last thing that happens
        found[act] = await talk(make(act))
    return found


class Acting:
    """Does it when it is asked anything."""

    def __init__(self, fire: Callable[[], Any], path: str = "") -> None:
        self.fire, self.path = fire, path

    def __iter__(self) -> Any:
        self.fire()
        yield (b"x-a", b"b")
        self.fire()

    def __bool__(self) -> bool:
        self.fire()
        return False

    def __fspath__(self) -> str:
        self.fire()
        return self.path

    def fileno(self) -> int:
        self.fire()
        return os.open(self.path, os.O_RDONLY)


METHODS = [
    "write",
    "writelines",
    "close",
    "abort",
    "is_closing",
    "write_eof",
    "can_write_eof",
    "pause_reading",
    "resume_reading",
    "get_write_buffer_size",
    "set_write_buffer_limits",
    "get_extra_info",
]
"""Of a transport, all that a protocol may call."""


async def evil_file(scene: Any, scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.pathsend", "path": __file__})
