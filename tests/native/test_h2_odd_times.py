"""The methods of an HTTP/2 connection at odd times; transports, TLS and settings that are odd themselves.

Rules of this file: those of test_h2_calls.py.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from tests.helpers.nghttp2 import needs_nghttp2
from tests.native.drive import GONE, FakeTransport, turns
from tests.native.h2_acts import ACTS, FIRST, METHODS, OPEN_UPLOAD, Wild, evil_file
from tests.native.h2_drive import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    Scene,
    SslObject,
    Tls,
    block,
    data,
    frame,
    open_wide,
    opening,
    ping,
    pseudo,
    request,
    upload,
)
from tests.native.isolated import survives
from tests.native.ws_drive import Solid

pytestmark = needs_nghttp2


# Protocol methods at odd times


async def odd_times() -> Any:
    scene = Scene()
    for call in (
        lambda: scene.connection.data_received(open_wide() + request(1)),
        lambda: scene.connection.pause_writing(),
        lambda: scene.connection.resume_writing(),
        lambda: scene.connection.eof_received(),
        lambda: scene.connection.connection_lost(None),
        lambda: scene.connection.connection_lost(ValueError()),
    ):
        call()
    scene = Scene()
    scene.make()
    for bad in (None, "x", bytearray(b"x"), memoryview(b"x"), 5):
        with pytest.raises(TypeError):
            scene.connection.data_received(bad)
    scene.feed(open_wide())
    for bad in (None, "x", bytearray(b"x"), memoryview(b"x"), 5):
        with pytest.raises(TypeError):
            scene.connection.data_received(bad)
    with pytest.raises(TypeError):
        scene.connection.data_received()
    with pytest.raises(RuntimeError):
        scene.connection.connection_made(FakeTransport())
    scene.connection.resume_writing()
    scene.connection.pause_writing()
    scene.connection.pause_writing()
    before = scene.transport.written
    scene.feed(request(1), request(3, "/big"))
    await turns()
    assert scene.transport.written == before, "written while the transport said stop"
    scene.connection.resume_writing()
    scene.connection.resume_writing()
    await turns()
    answers = scene.brief()
    scene.lose()
    scene.connection.connection_lost(None)
    scene.connection.data_received(request(5))
    scene.connection.eof_received()
    scene.connection.pause_writing()
    scene.connection.resume_writing()
    await turns()
    with pytest.raises(RuntimeError):
        scene.connection.connection_made(FakeTransport())
    left = await scene.end()
    scene.driver.factory.close()
    return [answers, left, scene.unraisable]


def test_protocol_methods_at_odd_times() -> None:
    assert survives(odd_times) == [{"1": "200 ended", "3": "200 ended"}, GONE, []]


class Mine(bytes):
    """A read that is more than bytes."""


async def subclassed() -> Any:
    """No loop hands these over, and what they override would be left out of account."""
    scene = Scene()
    scene.make()
    for begun in (False, True):
        with pytest.raises(TypeError):
            scene.connection.data_received(Mine(open_wide()))
        if not begun:
            scene.feed(open_wide())
    scene.feed(request(1))
    await turns()
    return [scene.brief(), await scene.end()]


def test_a_read_that_is_a_subclass_of_bytes() -> None:
    assert survives(subclassed) == [{"1": "200 ended"}, GONE]


async def cut_anywhere(tls: bool) -> Any:
    """One conversation, cut in two at every byte, and by the byte."""
    whole = opening() + upload(1) + data(1, b"abc") + request(3, "/later") + data(1, b"d", end=True) + ping()
    found = []
    for at in range(len(whole) + 1):
        scene = Scene(transport=Tls() if tls else None)
        scene.make()
        scene.said.allow(whole)
        for part in (whole[:at], whole[at:]) if at else [bytes([byte]) for byte in whole]:
            scene.connection.data_received(part)
        await turns()
        found.append([scene.brief(), scene.said.pongs == [b"pingping"], await scene.end()])
    assert found == [found[0]] * len(found)
    return found[0]


@pytest.mark.parametrize("tls", [True, False], ids=["ALPN", "prior knowledge"])
def test_reads_that_are_cut_anywhere(tls: bool) -> None:
    assert survives(cut_anywhere, tls) == [{"1": "200 ended", "3": "200 ended"}, True, GONE]


async def cut_preface(then: str) -> Any:
    """What begins like the preface and goes on otherwise; or does not go on."""
    found = []
    for at in range(len(PREFACE)):
        scene = Scene()
        scene.make()
        scene.connection.data_received(PREFACE[:at])
        if then == "lost":
            scene.lose()
        elif then == "eof":
            scene.connection.eof_received()
        elif then == "http/1":
            scene.connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        elif then == "abort":
            scene.driver.factory.abort()
        elif then == "drain":
            scene.driver.factory.drain(lambda: None)
        elif then == "dropped":
            scene.connection = scene.transport.connection = None
            gc.collect()
        await turns()
        output = scene.transport.read()
        found.append(output[:15].decode("latin-1"))
        if scene.connection is not None:
            assert await scene.end() == GONE
    return sorted(set(found))


@pytest.mark.parametrize("then", ["lost", "eof", "http/1", "abort", "drain", "dropped"])
def test_half_a_preface(then: str) -> None:
    found = survives(cut_preface, then)
    assert all(one == "" or one.startswith("HTTP/1.1 ") for one in found), found
    if then == "http/1":
        assert "HTTP/1.1 200 OK" in found
        assert any(one.startswith("HTTP/1.1 4") or one == "" for one in found)


# TLS that answers what it likes


class Lying(SslObject):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.scene: Any = None

    def selected_alpn_protocol(self) -> Any:
        class Text(str):
            def __eq__(self, other: object) -> bool:
                raise AssertionError("compared")

            def __hash__(self) -> int:
                raise AssertionError("hashed")

        if self.what in ACTS:
            self.scene.fire()
        answers = {
            "None": None,
            "bytes": b"h2",
            "number": 5,
            "object": object(),
            "http/1.1": "http/1.1",
            "subclass": Text("h2"),
            "lone surrogate": "\udc80",
        }
        return answers.get(self.what, "h2")


async def alpn(what: str) -> Any:
    ssl_object = Lying(what)
    transport = Tls(ssl_object)
    if what == "absent":
        transport.extra["ssl_object"] = object()
    ssl_object.scene = scene = Wild(what, transport=transport, http2_cleartext=False)
    scene.armed = True
    try:
        scene.make()
    except Exception as error:
        scene.seen.append(type(error).__name__)
    else:
        scene.feed(open_wide(), request(1))
        await turns()
    spoken = "HTTP/1" if transport.written.startswith(b"HTTP/1.1") else "HTTP/2" if transport.written else ""
    return [spoken, scene.seen, await scene.end()]


@pytest.mark.parametrize(
    "what", ["None", "bytes", "number", "object", "http/1.1", "lone surrogate", "absent", "subclass", "h2"]
)
def test_an_answer_of_alpn(what: str) -> None:
    spoken, _, left = survives(alpn, what)
    assert left == GONE
    assert spoken == "HTTP/2" if what in ("h2", "subclass") else spoken in ("HTTP/1", "")


@pytest.mark.parametrize(
    "what", ["lose", "abort", "drain", "collect", "raise", "close the factory", "eof", "pause"]
)
def test_alpn_that_acts(what: str) -> None:
    spoken, seen, left = survives(alpn, what)
    assert left == GONE
    if what == "collect":
        assert (spoken, seen) == ("HTTP/2", [])


# Transports that raise, or answer wrongly


class Raising(Tls):
    def __init__(self, name: str, error: type[BaseException]) -> None:
        super().__init__()

        def method(*args: Any, **kwargs: Any) -> Any:
            raise error("evil transport")

        setattr(self, name, method)


async def raising(name: str) -> Any:
    found = []
    for error in (OSError, KeyboardInterrupt, MemoryError):
        for ending in ("lose", "eof", "abort", "garbage", "drain", "goaway"):
            scene = Wild(ending, {"/evil": evil_file}, transport=Raising(name, error))
            scene.last_stream = 17
            try:
                scene.open(*FIRST)
                await turns()
                scene.connection.pause_writing()
                scene.feed(data(OPEN_UPLOAD, b"x", end=True), request(19, "/big"))
                await turns()
                scene.connection.resume_writing()
                ACTS[ending](scene)
                scene.driver.factory.tick()
                await turns()
            except error:
                scene.seen.append("raised to the loop")
            found.append(await scene.end() == GONE)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_transport_that_raises(name: str) -> None:
    assert set(survives(raising, name)) == {True}


async def odd_answers(name: str) -> Any:
    found = []
    for answer in (None, 5, "x", object(), -1, 1 << 70, b""):
        transport = Solid()
        setattr(transport, name, lambda *args, answer=answer, **kwargs: answer)
        scene = Scene({"/evil": evil_file}, transport=transport)
        try:
            scene.open(*FIRST)
            await turns()
            scene.driver.factory.tick()
        except Exception as error:
            scene.seen.append(type(error).__name__)
        found.append(await scene.end() == GONE)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_transport_that_answers_wrongly(name: str) -> None:
    assert set(survives(odd_answers, name)) == {True}


# Settings of the factory


def test_what_is_no_setting() -> None:
    async def body() -> list[str]:
        seen = []
        for options in (
            {"http2_max_concurrent_streams": "x"},
            {"http2_max_concurrent_streams": 1 << 70},
            {"http2_initial_stream_window_size": None},
            {"http2_max_frame_size": 1.5},
            {"http2_header_table_size": object()},
            {"http2_ping_interval_ms": "1"},
        ):
            try:
                Scene(**options)  # type: ignore[arg-type]
                seen.append("made")
            except (TypeError, OverflowError, ValueError) as error:
                seen.append(type(error).__name__)
        return seen

    seen = survives(_run, body)
    assert "made" not in seen


def _run(body: Any) -> Any:
    return asyncio.run(body())


async def extreme(value: int) -> Any:
    """Numbers that are none of a protocol's: nothing crashes; there is an error, or a server that serves."""
    found = []
    for name in (
        "http2_max_concurrent_streams",
        "http2_initial_stream_window_size",
        "http2_initial_connection_window_size",
        "http2_max_frame_size",
        "http2_max_header_list_size",
        "http2_header_table_size",
        "http2_ping_interval_ms",
        "http2_ping_timeout_ms",
    ):
        options: dict[str, Any] = {name: value}
        try:
            scene = Scene(**options)
        except (OverflowError, ValueError) as error:
            found.append(type(error).__name__)
            continue
        # RFC 7541 §4.2: whoever is allowed a smaller table says that it uses one.
        scene.open(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20" + block(pseudo())))
        await turns()
        scene.driver.factory.tick()
        said = scene.hear()
        assert all(0 <= number < 1 << 32 for values in said.settings for number in values.values())
        found.append(" ".join(sorted(scene.brief().values())))
        assert await scene.end() == GONE
    return found


@pytest.mark.parametrize("value", [-(1 << 62), -1, 0, 1, 2, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1])
def test_a_number_that_is_extreme(value: int) -> None:
    found = survives(extreme, value)
    if value == 0:
        assert set(found) == {"200 ended"}
    assert set(found) <= {"200 ended", "431 ended", "ValueError", "OverflowError"}
