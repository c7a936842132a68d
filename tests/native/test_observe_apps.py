"""Apps and proxies that put anything into what the access log reads: headers, responses, clients."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.native.drive import get, ok, statuses
from tests.native.isolated import survives
from tests.native.observe_drive import OPS, Eyes, Log, Op, request, separated

TARGET: list[Op] = [("target", None)]


# Evil apps


class Shifty(bytes):
    """Bytes whose Python side lies."""

    def __len__(self) -> int:
        return 1 << 40

    def __eq__(self, other: object) -> bool:
        raise KeyError("compared")

    def __hash__(self) -> int:
        raise KeyError("hashed")

    def lower(self) -> bytes:  # type: ignore[override]
        raise KeyError("lowered")

    def __getitem__(self, key: Any) -> Any:
        raise KeyError("indexed")


class Text(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise KeyError("compared")

    def __hash__(self) -> int:
        return 1


ODD_ITEMS: list[Any] = [
    5, None, b"bytes", "text", (), (b"one",), (b"a", b"b", b"c"), ("user-agent", "text"),
    (b"user-agent", None),
    (None, b"x"), [b"user-agent", b"list"], (bytearray(b"user-agent"), bytearray(b"x")),
    (Shifty(b"user-agent"), b"x"),
    (b"user-agent", Shifty(b"shifty")), (b"user-agent", memoryview(b"x")), (Text("user-agent"), b"x"),
    object(),
    (b"user-agent", b"line\r\nbreak\x00\x1b"), (b"traceparent", b"x"),
    (b"x-request-id", b"a b"), {}, (5, 6),
]  # fmt: skip
HOW = [
    "clears",
    "appends",
    "replaces all",
    "deletes the key",
    "replaces the list",
    "inserts in front",
    "doubles",
]


def mutate(scope: Any, how: str, item: Any) -> None:
    headers = scope["headers"]
    if how == "clears":
        headers.clear()
        headers.append(item)
    elif how == "appends":
        headers.append(item)
    elif how == "replaces all":
        headers[:] = [item] * len(headers)
    elif how == "deletes the key":
        del scope["headers"]
        headers.clear()
    elif how == "replaces the list":
        scope["headers"] = item
    elif how == "inserts in front":
        headers.insert(0, item)
    elif how == "doubles":
        headers.extend([item] * 1000)


async def mutating(how: str) -> Any:
    """The app changes its scope at once, later, and behind its response."""
    item: Any = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await asyncio.sleep(0)
        if scope["path"] != "/after":
            mutate(scope, how, item)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        scope.clear()
        await send({"type": "http.response.body", "body": b"ok", "more_body": True})
        if scope.get("path") == "/after":
            mutate(scope, how, item)
        await send({"type": "http.response.body"})

    log = Log(separated(OPS))
    eyes = Eyes(app, log=log, figures=True, request_id_field=b"X-Request-ID", make_traceparent=True)
    answered = 0
    for item in ODD_ITEMS:  # noqa: B007 (the app's)
        fields = [(b"User-Agent", b"agent"), (b"Authorization", b"Basic YTpi"), (b"Traceparent", b"x")]
        for path in (b"/", b"/late", b"/after"):
            answered += len(statuses(await eyes.talk(request(b"GET", path, *fields))))
    rows = eyes.rows()
    return {"answered": answered, "rows": len(rows), "width": {len(row) for row in rows} == {len(OPS)}}


@pytest.mark.parametrize("how", HOW)
def test_an_app_that_changes_its_headers(how: str) -> None:
    count = len(ODD_ITEMS) * 3
    assert survives(mutating, how) == {"answered": count, "rows": count, "width": True}


def odd_headers() -> dict[str, Callable[[], Any]]:
    pair = (b"content-type", b"text/odd")

    def endless() -> Any:
        yield pair
        raise KeyError("iterated")

    return {
        "list": lambda: [pair],
        "lists": lambda: [list(pair)],
        "tuple": lambda: (pair,),
        "generator": lambda: iter([pair]),
        "failing generator": endless,
        "subclass of list": lambda: type("L", (list,), {"__iter__": lambda self: iter(())})([pair]),
        "bytearray": lambda: [(bytearray(pair[0]), bytearray(pair[1]))],
        "str": lambda: [("content-type", "text/odd")],
        "shifty": lambda: [(Shifty(pair[0]), Shifty(pair[1]))],
        "dict": lambda: {pair[0]: pair[1]},
        "None": lambda: None,
        "int": lambda: 5,
        "twice": lambda: [pair, (b"Content-TYPE", b"text/other")],
        "any case": lambda: [(b"CONTENT-type", b"text/odd")],
        "huge": lambda: [(b"content-type", b"x" * 100_000)],
        "empty": lambda: [(b"content-type", b"")],
    }


async def odd_response(name: str) -> Any:
    """The log reads the response's fields at its end, from a list that the app still has."""
    kept: Any = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal kept
        kept = odd_headers()[name]()
        message = {"type": "http.response.start", "status": 200, "headers": kept}
        await send(message)
        message.clear()
        if isinstance(kept, list):
            if isinstance(kept[0], list):
                kept[0][:] = [None, None]
            kept[:] = [5, (b"content-type", None)]
        await send({"type": "http.response.body", "body": b"ok", "more_body": True})
        gc.collect()
        await asyncio.sleep(0)
        await send({"type": "http.response.body"})

    eyes = Eyes(app, [("status", None), ("response_field", b"content-type")], figures=True)
    output = await eyes.talk(get())
    return [statuses(output), eyes.rows()]


@pytest.mark.parametrize("name", odd_headers())
def test_response_headers_that_are(name: str) -> None:
    [status], [[logged, value]] = survives(odd_response, name)
    assert str(status) == logged
    if status == 200:
        wanted = {"None": "-", "huge": "x" * 100_000, "empty": ""}.get(name, "text/odd")
        if name == "subclass of list":
            assert value in ("-", "text/odd")
        else:
            assert value == wanted or (name in ("twice", "empty") and value in ("text/other", "-"))
    else:
        assert value in ("-", "text/plain; charset=utf-8"), "the app's fields, which were not sent"


async def nested_responses() -> Any:
    """A request finishes while the line of another is being made: freeing its objects runs code."""
    box: dict[str, Any] = {}
    depth = 0

    class Last(bytes):
        def __del__(self) -> None:
            nonlocal depth
            if depth < 3 and "eyes" in box:
                depth += 1
                connection, transport = box["eyes"].connect()
                connection.data_received(get("/nested"))
                box["log"].native.flush()
                connection.connection_lost(None)
                transport.shut()
                depth -= 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"].append((b"user-agent", Last(b"agent")))
        fields = [(b"content-type", Last(b"text/last"))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        fields.clear()
        await send({"type": "http.response.body"})

    log = Log(separated([*TARGET, ("request_field", b"user-agent"), ("response_field", b"content-type")]))
    eyes = Eyes(app, log=log, figures=True)
    box.update(eyes=eyes, log=log)
    for _ in range(10):
        await eyes.talk(get("/mine"))
    box.clear()
    rows = eyes.rows()
    return [
        sum(row[0] == "/mine" for row in rows),
        sum(row[0] == "/nested" for row in rows),
        sorted({row[2] for row in rows}),
    ]


def test_objects_that_serve_when_they_die() -> None:
    mine, nested, types = survives(nested_responses)
    assert mine == 10
    assert nested > 0
    assert types == ["text/last"]


async def client_that(what: str) -> Any:
    """scope["client"] is what a policy says, and the log may use it."""

    class Policy:
        def trusts(self, client: Any) -> bool:
            return True

        def apply(self, scope: Any) -> None:
            scope["client"] = {
                "surrogates": ("\ud800\udc00\udfff", 1),
                "controls": ("a\nb\r\x1b[31m\x00", 1),
                "not ASCII": ("ü→😀", 1),
                "spaces": ('1.2.3.4 - "GET / HTTP/1.1" 200', 1),
                "long": ("x" * 100_000, 1),
                "a huge port": ("h", 1 << 70),
                "a negative port": ("h", -5),
                "a port of str": ("h", "80"),
                "a host of bytes": (b"h", 1),
                "one": ("h",),
                "three": ("h", 1, 2),
                "a list": ["h", 1],
                "None": None,
                "text": "h:1",
                "none of it": (None, None),
                "true": ("h", True),
                "evil": (Text("h"), 1),
            }[what]

        def untrusted(self, client: Any, name: bytes) -> None: ...

    eyes = Eyes(ok, [("client", None), ("host", None), ("port", None)], proxy=Policy(), figures=True)
    output = await eyes.talk(request(b"GET", b"/", (b"X-Forwarded-For", b"1.2.3.4")))
    return [statuses(output), eyes.rows()]


CLIENTS = [
    "surrogates", "controls", "not ASCII", "spaces", "long", "a huge port", "a negative port",
    "a port of str",
    "a host of bytes", "one", "three", "a list", "None", "text", "none of it", "true", "evil",
]  # fmt: skip


@pytest.mark.parametrize("what", CLIENTS)
def test_a_client_that_is(what: str) -> None:
    answered, rows = survives(client_that, what)
    assert answered == [200]
    [[client, host, port]] = rows
    assert all(0x20 < ord(char) < 0x7F and char != '"' for char in client + host + port), rows
    if what == "long":
        assert host == "x" * 100_000 or len(host) < 1000
    if what == "None":
        assert (client, host, port) == ("", "-", "-")
