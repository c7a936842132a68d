"""Evil trailers, hints and debug messages, and what calls back while one of them is sent.

Each function runs in a process of its own and gives back what the client and the app saw.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.helpers.ws import handshake
from tests.native.drive import Driver, get, reply, statuses, turns
from tests.native.isolated import survives

START = {"type": "http.response.start", "status": 200, "headers": []}
WITH_TRAILERS = {**START, "trailers": True}
LAST_BODY = {"type": "http.response.body", "body": b"b"}
TRAILERS = "http.response.trailers"
HINT = "http.response.early_hint"
SUM = {"type": TRAILERS, "headers": [(b"x-sum", b"1")]}
ENDED = b"1\r\nb\r\n0\r\nx-sum: 1\r\n\r\n"


def asking(path: str = "/") -> bytes:
    """A request whose client takes trailers."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n".encode()


async def serve(evil: Any, *, suspend: bool = False, **options: Any) -> dict[str, Any]:
    """Runs ``evil(send, connection, transport)`` as the app between two plain requests."""
    seen: list[str] = []
    holder: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/evil":
            await reply(send, b"y")
            return
        if suspend:
            await asyncio.sleep(0)
        try:
            await evil(send, *holder)
        except Exception as error:
            seen.append(type(error).__name__)

    driver = Driver(app, **options)
    connection, transport = driver.connect()
    holder[:] = [connection, transport]
    connection.data_received(get("/1") + asking("/evil") + get("/2"))
    await turns()
    output = transport.read() + transport.written
    return {
        "text": output.decode("latin-1"),
        "statuses": statuses(output),
        "ended": output.count(ENDED),
        "seen": seen,
        "outcomes": driver.outcomes(),
        "in_flight": driver.factory.in_flight,
    }


# Trailers


class Speaking(bytes):
    """Bytes that are no header value, and that do something when somebody wants to say so."""

    act: Any = staticmethod(lambda: None)

    def __repr__(self) -> str:
        self.act()
        return "speaking"


async def bad_trailer_that(what: str, suspend: bool, more: bool) -> Any:
    async def evil(send: Any, connection: Any, transport: Any) -> None:
        def act() -> None:
            if what == "sends the trailers":
                send(SUM)
            elif what == "sends some of the trailers":
                send({**SUM, "more_trailers": True})
            elif what == "loses the connection":
                connection.connection_lost(None)
            elif what == "empties the list":
                fields.clear()

        value = Speaking(b"a\nb")
        value.act = act
        fields = [(b"x-one", b"1" * 3000), (b"x-two", value)]
        await send(WITH_TRAILERS)
        await send(LAST_BODY)
        try:
            await send({"type": TRAILERS, "headers": fields, "more_trailers": more})
        finally:
            if what in {"sends some of the trailers", "does nothing", "empties the list"}:
                await send({"type": TRAILERS, "headers": [] if what.startswith("sends") else SUM["headers"]})

    return await serve(evil, suspend=suspend)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize(
    "what",
    [
        "does nothing",
        "empties the list",
        "sends the trailers",
        "sends some of the trailers",
        "loses the connection",
    ],
)
def test_a_bad_trailer_that(what: str, suspend: bool, more: bool) -> None:
    """What it did before it was refused stands, once, and nothing of the refused message does."""
    result = survives(bad_trailer_that, what, suspend, more)
    assert result["seen"] == ["HeaderError"]
    assert "x-one" not in result["text"]
    assert result["in_flight"] == 0
    if what != "loses the connection":
        assert result["statuses"] == [200, 200, 200]
        assert result["ended"] == 1


async def bad_trailer_of_an_orphan() -> Any:
    """Nobody but the request holds the connection, and its end comes while a trailer is refused."""
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(WITH_TRAILERS)
        await send(LAST_BODY)
        kept.append(send)
        await receive()
        await receive()

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(asking())
    await turns()
    value = Speaking(b"\0")
    weak = [connection]
    transport.connection = None
    del connection

    def act() -> None:
        weak.pop().connection_lost(None)
        transport.extra.clear()

    value.act = act
    try:
        kept[0]({"type": TRAILERS, "headers": [(b"x", value)]})
    except Exception as error:
        return type(error).__name__


def test_a_bad_trailer_that_ends_the_last_reference() -> None:
    assert survives(bad_trailer_of_an_orphan) == "HeaderError"


async def access_that_sends() -> Any:
    """The access log is told of a response while its last message is still being sent."""
    sends: list[Any] = []
    errors: list[str] = []

    async def evil(send: Any, connection: Any, transport: Any) -> None:
        await send(WITH_TRAILERS)
        await send(LAST_BODY)
        sends.append(send)
        await send(SUM)

    def access(*args: Any) -> None:
        while sends:
            try:
                sends.pop()(SUM)
            except Exception as error:
                errors.append(type(error).__name__)

    return {**await serve(evil, access=access), "errors": errors}


def test_an_access_log_that_sends_the_trailers_again() -> None:
    result = survives(access_that_sends)
    assert result["errors"] == ["MessageError"]
    assert result["ended"] == 1
    assert result["statuses"] == [200, 200, 200]


async def headers_that(what: str, kind: str) -> Any:
    """The iterable of the message runs code before any of it is looked at."""

    async def evil(send: Any, connection: Any, transport: Any) -> None:
        class Items:
            def __iter__(self) -> Any:
                if what == "sends":
                    if kind == HINT:
                        send({"type": HINT, "links": [b"</nested>"]})
                    else:
                        send(SUM)
                elif what == "starts":
                    send(START)
                elif what == "loses the connection":
                    connection.connection_lost(None)
                elif what == "clears the message":
                    message.clear()
                elif what == "raises":
                    raise KeyError("items")
                return iter([(b"x-sum", b"1")] if kind == TRAILERS else [b"</a>"])

        key = "headers" if kind == TRAILERS else "links"
        message = {"type": kind, key: Items()}
        if kind == TRAILERS:
            await send(WITH_TRAILERS)
            await send(LAST_BODY)
            await send(message)
        else:
            await send(message)
            await reply(send, b"z")

    return await serve(evil)


ITEMS = {
    (TRAILERS, "sends"): ([200, 200, 200], ["MessageError"]),
    (TRAILERS, "loses the connection"): (None, ["ClientDisconnected"]),
    (TRAILERS, "clears the message"): ([200, 200, 200], []),
    (TRAILERS, "raises"): (None, ["KeyError"]),
    (HINT, "sends"): ([200, 103, 103, 200, 200], []),
    (HINT, "starts"): ([200, 500, 200], ["MessageError"]),
    (HINT, "loses the connection"): (None, ["ClientDisconnected"]),
    (HINT, "clears the message"): ([200, 103, 200, 200], []),
    (HINT, "raises"): ([200, 500, 200], ["KeyError"]),
}


@pytest.mark.parametrize(("kind", "what"), ITEMS)
def test_items_that(kind: str, what: str) -> None:
    expected, seen = ITEMS[kind, what]
    result = survives(headers_that, what, kind)
    assert expected is None or result["statuses"] == expected
    assert result["seen"] == seen
    assert result["in_flight"] == 0


NO_TRAILERS = [
    5,
    None,
    (b"a",),
    (b"a", b"b", b"c"),
    ["a", "b"],
    (b"", b"x"),
    (b"a:", b"x"),
    (b"a", b"\r\nb: c"),
]
FRAMING = [b"Content-Length", b"transfer-encoding", b"TRAILER", b"connection", b"content-type", b"set-cookie"]


async def odd_trailers(number: int) -> Any:
    items = [*NO_TRAILERS, *((name, b"1") for name in FRAMING)]

    async def evil(send: Any, connection: Any, transport: Any) -> None:
        await send(WITH_TRAILERS)
        await send(LAST_BODY)
        try:
            await send({"type": TRAILERS, "headers": [(b"x-one", b"1"), items[number]]})
        finally:
            await send(SUM)

    return await serve(evil)


@pytest.mark.parametrize("number", range(len(NO_TRAILERS) + len(FRAMING)))
def test_trailers_that_are_none_leave_nothing_behind(number: int) -> None:
    result = survives(odd_trailers, number)
    assert result["seen"] in (["MessageError"], ["HeaderError"])
    assert result["ended"] == 1
    assert "x-one" not in result["text"]
    assert result["statuses"] == [200, 200, 200]


# The end of an event stream is not put behind what is not one


async def ended_stream(what: str) -> Any:
    """An event stream that is told to end leaves its response where it is, with its trailers announced."""
    fields = [(b"content-type", b"text/event-stream")]
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({**WITH_TRAILERS, "headers": fields})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        told.append((await receive())["type"])
        await send(LAST_BODY)
        if what == "some trailers":
            await send({**SUM, "more_trailers": True})

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(asking())
    await turns()
    driver.factory.end_streams()
    await turns()
    body = transport.read().partition(b"\r\n\r\n")[2]
    return {
        "told": told,
        "body": body.decode(),
        "closed": transport.is_closing(),
        "errors": driver.outcomes(),
    }


def test_an_event_stream_left_inside_its_trailers_is_cut() -> None:
    result = survives(ended_stream, "some trailers")
    assert result["told"] == ["http.disconnect"]
    assert result["body"] == "4\r\ndata\r\n1\r\nb\r\n0\r\nx-sum: 1\r\n"
    assert result["closed"]


def test_an_event_stream_is_ended_without_its_trailers() -> None:
    result = survives(ended_stream, "no trailers")
    assert result["told"] == ["http.disconnect"]
    assert result["body"] == "4\r\ndata\r\n1\r\nb\r\n0\r\n\r\n"
    assert not result["closed"]
    assert result["errors"] == []


# Before the response


async def bad_hint_then_response() -> Any:
    async def evil(send: Any, connection: Any, transport: Any) -> None:
        for links in ([b"</ok>", 5], [b"</ok>", b"a\r\nb: c"], ["</ok>"], 5, [b"</ok>", b"\0"]):
            try:
                await send({"type": HINT, "links": links})
            except Exception as error:
                errors.append(type(error).__name__)
        await reply(send, b"z")

    errors: list[str] = []
    return {**await serve(evil), "errors": errors}


def test_a_bad_hint_leaves_nothing_behind() -> None:
    result = survives(bad_hint_then_response)
    assert result["errors"] == ["MessageError", "HeaderError", "MessageError", "MessageError", "HeaderError"]
    assert result["statuses"] == [200, 200, 200]
    assert "ok>" not in result["text"]


async def debug_that(what: str) -> Any:
    holder: list[Any] = []

    def on_debug(info: Any) -> None:
        send, connection, message = holder
        if what == "sends":
            send(START)
            send(LAST_BODY)
        elif what == "loses the connection":
            connection.connection_lost(None)
        elif what == "clears the message":
            message.clear()
            info.clear()
        elif what == "debugs once":
            holder[0] = lambda *args: None
            send({"type": "http.response.debug", "info": {}})
        elif what == "raises":
            raise KeyError("debug")

    async def evil(send: Any, connection: Any, transport: Any) -> None:
        message = {"type": "http.response.debug", "info": {"a": [1]}}
        holder[:] = [send, connection, message]
        await send(message)
        await reply(send, b"z")

    return await serve(evil, on_debug=on_debug)


DEBUG = {
    "sends": ([200, 200, 200], ["MessageError"]),
    "loses the connection": (None, ["ClientDisconnected"]),
    "clears the message": ([200, 200, 200], []),
    "debugs once": ([200, 200, 200], []),
    "raises": ([200, 200, 200], []),
}


@pytest.mark.parametrize("what", DEBUG)
def test_an_on_debug_that(what: str) -> None:
    expected, seen = DEBUG[what]
    result = survives(debug_that, what)
    assert expected is None or result["statuses"] == expected
    assert result["seen"] == seen


async def unknown_type() -> Any:
    async def evil(send: Any, connection: Any, transport: Any) -> None:
        class Type(str):
            def __repr__(self) -> str:
                message.clear()
                return "evil"

        message = {"type": Type("http.response.evil" * 2)}
        await send(message)

    return await serve(evil)


def test_a_type_that_frees_itself() -> None:
    result = survives(unknown_type)
    assert result["seen"] == ["MessageError"]
    assert result["statuses"] == [200, 500, 200]


# A key of the message that runs code


async def evil_key(kind: str, key: str, what: str) -> Any:
    async def evil(send: Any, connection: Any, transport: Any) -> None:
        class Key(str):
            def __eq__(self, other: Any) -> bool:
                if what == "raises":
                    raise KeyError("key")
                if what == "loses the connection":
                    connection.connection_lost(None)
                message.pop(key, None)
                return False

            def __hash__(self) -> int:
                return hash(key)

        message: dict[Any, Any] = {}
        message["type"] = kind
        dict.__setitem__(message, Key("x" + key), 1)
        if kind == TRAILERS:
            await send(WITH_TRAILERS)
            await send(LAST_BODY)
        elif kind.endswith("send"):
            await send(START)
        await send(message)
        await reply(send, b"z")

    return await serve(evil)


KEYS = [
    (TRAILERS, "headers"),
    (TRAILERS, "more_trailers"),
    (HINT, "links"),
    ("http.response.debug", "info"),
    ("http.response.pathsend", "path"),
    ("http.response.zerocopysend", "file"),
    ("http.response.zerocopysend", "more_body"),
]


@pytest.mark.parametrize("what", ["raises", "loses the connection", "empties the message"])
@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_key_that(kind: str, key: str, what: str) -> None:
    result = survives(evil_key, kind, key, what)
    assert result["in_flight"] == 0
    if what == "raises":
        assert result["seen"] == ["KeyError"]


# A handshake has no trailers


async def denied_handshake() -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": [], "trailers": True})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(handshake())
    await turns()
    return {"text": transport.read().decode("latin-1"), "outcomes": driver.outcomes()}


def test_a_denied_handshake_has_no_trailers() -> None:
    result = survives(denied_handshake)
    assert result["outcomes"] == []
    assert "content-length: 2" in result["text"]
    assert result["text"].endswith("\r\n\r\nno")
