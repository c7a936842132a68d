"""Evil callers of send(): messages whose parts run code while they are read."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest

from shardserve.errors import ClientDisconnected, HeaderError, MessageError
from tests.native.drive import Driver, get, reply, statuses, turns
from tests.native.isolated import survives

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"nested"}


async def serve(evil: Any, paths: list[str], *, suspend: bool = False) -> dict[str, Any]:
    """Runs ``evil(send)`` as the app of "/evil"; other paths answer. Returns what the client and we saw."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/evil":
            await reply(send, b"y" * 100)
            return
        if suspend:
            await asyncio.sleep(0)
        try:
            await evil(send)
        except Exception as error:
            seen.append(type(error).__name__)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(b"".join(get(path) for path in paths))
    await turns()
    output = transport.read()
    return {
        "statuses": statuses(output),
        "seen": seen,
        "outcomes": driver.outcomes(),
        "in_flight": driver.factory.in_flight,
        "nested": output.count(b"nested"),
    }


PATHS = ["/1", "/evil", "/2"]


async def headers_iterator(suspend: bool) -> Any:
    async def evil(send: Any) -> None:
        class Headers:
            def __iter__(self) -> Any:
                send(START)
                send(BODY)
                yield (b"a", b"b")

        await send({"type": "http.response.start", "status": 201, "headers": Headers()})

    return await serve(evil, PATHS, suspend=suspend)


@pytest.mark.parametrize("suspend", [False, True])
def test_a_headers_iterator_that_sends_wins(suspend: bool) -> None:
    result = survives(headers_iterator, suspend)
    assert result["statuses"] == [200, 200, 200]
    assert result["nested"] == 1
    assert result["seen"] == ["MessageError"]


async def more_body_bool(suspend: bool) -> Any:
    async def evil(send: Any) -> None:
        class More:
            def __bool__(self) -> bool:
                send(BODY)
                return False

        await send(START)
        await send({"type": "http.response.body", "body": b"outer", "more_body": More()})

    return await serve(evil, PATHS, suspend=suspend)


@pytest.mark.parametrize("suspend", [False, True])
def test_a_more_body_that_sends_wins(suspend: bool) -> None:
    result = survives(more_body_bool, suspend)
    assert result["statuses"] == [200, 200, 200]
    assert result["nested"] == 1
    assert result["seen"] == ["MessageError"]


async def buffer_object() -> Any:
    async def evil(send: Any) -> None:
        class Buffer:
            def __buffer__(self, flags: int) -> memoryview:
                send(BODY)
                return memoryview(b"outer")

        await send(START)
        await send({"type": "http.response.body", "body": Buffer()})

    return await serve(evil, PATHS)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is Python 3.12's")
def test_a_buffer_that_sends_wins() -> None:
    result = survives(buffer_object)
    assert result["statuses"] == [200, 200, 200]
    assert result["nested"] == 1


async def evil_repr(what: str, corked_first: bool, suspend: bool) -> Any:
    async def evil(send: Any) -> None:
        class Bytes(bytes):
            def __repr__(self) -> str:
                send(START)
                send(BODY | {"body": b"nested" + b"x" * 5000})
                return "evil"

        class Int(int):
            def __repr__(self) -> str:
                send(START)
                send(BODY)
                return "evil"

        if what == "value":
            await send(START | {"headers": [(b"a", b"b"), (b"a", Bytes(b"bad\n"))]})
        elif what == "name":
            await send(START | {"headers": [(Bytes(b"a b"), b"")]})
        else:
            await send(START | {"status": Int(99)})

    paths = PATHS if corked_first else ["/evil"]
    return await serve(evil, paths, suspend=suspend)


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("corked_first", [False, True])
@pytest.mark.parametrize("what", ["value", "name", "status"])
def test_a_repr_that_sends_wins(what: str, corked_first: bool, suspend: bool) -> None:
    result = survives(evil_repr, what, corked_first, suspend)
    assert result["statuses"] == [200] * (3 if corked_first else 1)
    assert result["nested"] == 1
    assert result["in_flight"] == 0


@pytest.mark.parametrize("header", [(b"a b", b""), (b"", b""), (b"a", b"b\r\nc: d"), (b"a", b"\0")])
async def test_a_bad_header_is_a_header_error_that_names_it(header: tuple[bytes, bytes]) -> None:
    errors: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(HeaderError) as caught:
            await send(START | {"headers": [header]})
        errors.append(caught.value)
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(get())
    assert statuses(transport.read()) == [200]
    assert repr(header[0]) in str(errors[0])
    connection.connection_lost(None)


async def weird_keys() -> Any:
    log: list[str] = []

    async def evil(send: Any) -> None:
        class Key(str):
            message: dict[Any, Any]

            def __eq__(self, other: object) -> bool:
                log.append(str(other))
                message.clear()
                message.update(type="http.response.start", status=200, headers=[(b"x", b"y")])
                if len(log) == 1:
                    send(START)
                    send(BODY)
                return False

            def __hash__(self) -> int:
                return hash("status")

        message: dict[Any, Any] = {Key("k"): 1}
        message["type"] = "".join(["http.response", ".start"])
        message["headers"] = [(b"a", b"b")]
        await send(message)

    return await serve(evil, PATHS)


def test_a_message_whose_keys_run_code() -> None:
    result = survives(weird_keys)
    assert result["statuses"] == [200, 200, 200]
    assert result["nested"] == 1


async def mutating_headers() -> Any:
    async def evil(send: Any) -> None:
        headers: list[Any] = [[b"a", b"b"]] * 50

        class Status(int):
            def __repr__(self) -> str:
                headers.clear()
                gc.collect()
                return "1"

        def fields() -> Any:
            for _ in range(3):
                headers.clear()
                yield (b"a", b"b")

        await send(START | {"headers": fields()})
        await send(BODY)

    return await serve(evil, PATHS)


def test_headers_that_are_mutated_while_iterated() -> None:
    assert survives(mutating_headers)["statuses"] == [200, 200, 200]


async def str_subclass_type() -> Any:
    async def evil(send: Any) -> None:
        message: dict[Any, Any] = {}

        class Type(str):
            def __repr__(self) -> str:
                message.clear()
                gc.collect()
                send(START)
                send(BODY)
                return "evil"

        message["type"] = Type("nonsense")
        await send(message)

    return await serve(evil, PATHS)


def test_a_type_whose_repr_drops_it() -> None:
    result = survives(str_subclass_type)
    assert result["statuses"] == [200, 200, 200]
    assert result["seen"] == ["MessageError"]


@pytest.mark.parametrize(
    "message", [None, [], "x", {}, {"type": None}, {"type": b"http.response.start"}, {"type": ""}]
)
async def test_a_message_that_is_none_is_refused(message: Any) -> None:
    seen: list[type] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(message)
        except MessageError as error:
            seen.append(type(error))
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(get())
    assert seen == [MessageError]
    assert statuses(transport.read()) == [200]
    connection.connection_lost(None)


async def kept_send(suspend: bool, then: str) -> Any:
    """An app keeps its send and calls it while the next request of the connection runs."""
    kept: list[Any] = []
    seen: list[str] = []

    def use_old() -> None:
        for message in (START, BODY, BODY | {"more_body": True}):
            try:
                kept[0](message)
                seen.append("accepted")
            except Exception as error:
                seen.append(type(error).__name__)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if suspend:
            await asyncio.sleep(0)
        if not kept:
            kept.append(send)
            await reply(send)
            return
        if then == "before":
            use_old()
        await send(START)
        if then == "between":
            use_old()
        await send({"type": "http.response.body", "body": b"mine"})

    driver = Driver(app)
    connection, transport = driver.connect()
    for _ in range(3):
        connection.data_received(get())
        await turns()
    if then == "lost":
        connection.connection_lost(None)
        use_old()
    output = transport.read()
    return {"statuses": statuses(output), "seen": sorted(set(seen)), "nested": output.count(b"nested")}


@pytest.mark.parametrize("then", ["before", "between", "lost"])
@pytest.mark.parametrize("suspend", [False, True])
def test_an_old_send_never_writes_into_another_response(suspend: bool, then: str) -> None:
    result = survives(kept_send, suspend, then)
    assert result == {"statuses": [200, 200, 200], "seen": ["MessageError"], "nested": 0}


async def sends_of_another() -> Any:
    """The app of one connection finishes the response of another one, from within its own send."""
    other: list[Any] = []
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            other.append(send)
            await gate.wait()
            return

        def fields() -> Any:
            other[0](START)
            other[0](BODY)
            yield (b"a", b"b")

        await reply(send, b"own", fields())

    driver = Driver(app)
    waiting, waiting_transport = driver.connect()
    waiting.data_received(get("/wait"))
    connection, transport = driver.connect()
    connection.data_received(get("/go"))
    gate.set()
    await turns()
    return [statuses(waiting_transport.read()), statuses(transport.read()), driver.factory.in_flight]


def test_one_app_may_finish_the_response_of_another() -> None:
    assert survives(sends_of_another) == [[200], [200], 0]


async def del_that_sends(where: str) -> Any:
    seen: list[str] = []

    class Bomb:
        def __init__(self, send: Any) -> None:
            self.send = send

        def __del__(self) -> None:
            try:
                self.send(START)
                self.send(BODY)
                seen.append("accepted")
            except Exception as error:
                seen.append(type(error).__name__)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bomb = Bomb(send)
        if where == "headers":
            scope["headers"].append(bomb)
            await reply(send)
        elif where == "error":
            raise ValueError(bomb)
        elif where == "cycle":
            bomb.me = bomb  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            await reply(send)
        elif where == "loser":
            await asyncio.sleep(0)
            raise ValueError(bomb)

    driver = Driver(app, on_app_error=lambda *args: None)
    connection, transport = driver.connect()
    for _ in range(3):
        connection.data_received(get())
        await turns()
    gc.collect()
    return {"answers": len(statuses(transport.read())), "accepted": seen.count("accepted")}


@pytest.mark.parametrize("where", ["headers", "error", "cycle", "loser"])
def test_a_del_that_sends(where: str) -> None:
    assert survives(del_that_sends, where) == {"answers": 3, "accepted": 0}


async def client_gone() -> Any:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        try:
            await send(START)
        except OSError as error:
            seen.append(type(error).__name__)
            seen.append(str(isinstance(error, ClientDisconnected)))

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get())
    connection.connection_lost(None)
    await turns()
    return [seen, driver.factory.in_flight, driver.errors]


def test_send_after_the_client_went_is_an_oserror() -> None:
    assert survives(client_gone) == [["ClientDisconnected", "True"], 0, []]


async def test_the_arguments_of_send_and_receive_are_counted() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for call in (
            send,
            lambda: send({}, {}),
            lambda: send(message={}),
            lambda: receive(1),
            lambda: receive(x=1),
        ):
            with pytest.raises(TypeError):
                call()
            seen.append("refused")
        await reply(send)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get())
    assert len(seen) == 5
    connection.connection_lost(None)
