"""Evil answers on the way in: transports, tls_info, proxies and static routes that call back, lie or raise.

Each function runs in a process of its own. What they are for is in tests/conformance/test_hooks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import weakref
from typing import Any

import pytest

from shardserve._native import ProtocolFactory
from tests.helpers.ws import handshake
from tests.native.drive import Driver, FakeTransport, get, ok, reply, statuses, turns
from tests.native.isolated import survives

FORWARDED = b"GET /a HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"


class Proxy:
    """Trusts everybody and changes nothing."""

    def trusts(self, client: Any) -> Any:
        return True

    def apply(self, scope: Any) -> None: ...

    def untrusted(self, client: Any, name: bytes) -> None: ...


# connection_made


async def get_extra_info_that(what: str, asked: str, options: list[str]) -> dict[str, Any]:
    driver = Driver(
        ok,
        **({"tls_info": lambda ssl_object: {"a": 1}} if "tls" in options else {}),
        **({"proxy": Proxy()} if "proxy" in options else {}),
    )

    class Evil(FakeTransport):
        acted = False

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            if name == asked and not self.acted:
                self.acted = True
                if what == "raises":
                    raise KeyError(name)
                act(what, self, driver, connection)
            return super().get_extra_info(name, default)

    transport = Evil(extra={"ssl_object": object()} if "tls" in options else {})
    connection = driver.factory()
    transport.connection = connection
    connection.set_addresses(("1.1.1.1", 1), None, "https")
    error = None
    try:
        connection.connection_made(transport)
    except Exception as raised:
        error = type(raised).__name__
    connection.data_received(get())
    await turns()
    output = transport.read() + transport.written
    connection.connection_lost(None)
    await turns()
    return {
        "error": error,
        "statuses": statuses(output),
        "left": driver.factory.connections + driver.factory.in_flight,
    }


def act(what: str, transport: Any, driver: Any, connection: Any) -> None:
    if what == "makes it":
        connection.connection_made(transport)
    elif what == "makes it with another":
        connection.connection_made(FakeTransport())
    elif what == "makes and loses it":
        connection.connection_made(transport)
        connection.connection_lost(None)
    elif what == "loses it":
        connection.connection_lost(None)
    elif what == "tells addresses":
        connection.set_addresses(("2.2.2.2", 2), ("3.3.3.3", 3), "http")
        gc.collect()
    elif what == "gives data":
        connection.data_received(get())
    elif what == "ends it":
        connection.eof_received()
    elif what == "aborts":
        driver.factory.abort()


MADE = {
    "makes it": ("RuntimeError", [200]),
    "makes it with another": ("RuntimeError", []),
    "makes and loses it": ("RuntimeError", []),
    "loses it": (None, [200]),
    "tells addresses": (None, [200]),
    "gives data": (None, [200]),
    "aborts": (None, [200]),
    "raises": ("KeyError", []),
}


@pytest.mark.parametrize("options", [[], ["proxy"], ["tls", "proxy"]], ids=str)
@pytest.mark.parametrize("asked", ["socket", "peername", "sockname", "ssl_object"])
@pytest.mark.parametrize("what", MADE)
def test_a_get_extra_info_that(what: str, asked: str, options: list[str]) -> None:
    expected, answers = MADE[what]
    if asked == "peername" and what in {"raises", "makes it", "makes it with another", "makes and loses it"}:
        expected, answers = None, [200]  # it was announced, so nobody asks
    elif asked == "peername" or (expected is None):
        expected, answers = None, [200]
    result = survives(get_extra_info_that, what, asked, options)
    assert result["error"] == expected
    assert result["statuses"] == answers
    assert result["left"] == 0


async def odd_transport(number: int) -> list[int]:
    class Int(int):
        def __index__(self) -> int:
            raise KeyError("index")

    class Socket:
        def fileno(self) -> Any:
            return [-1, 1 << 40, 1 << 80, "5", None, 2.0, Int(3)][number]

    driver = Driver(ok)
    transport = FakeTransport(extra={"socket": Socket(), "peername": "", "sockname": ("a",)})
    connection = driver.factory()
    try:
        connection.connection_made(transport)
    except (TypeError, OverflowError):
        return [driver.factory.connections]
    connection.data_received(get())
    return [driver.factory.connections, *statuses(transport.written)]


@pytest.mark.parametrize(("number", "expected"), list(enumerate([[1, 200], [1, 200], [0], [0], [0], [0]])))
def test_a_fileno_that_is_none(number: int, expected: list[int]) -> None:
    assert survives(odd_transport, number) == expected


async def odd_addresses() -> list[str]:
    connection = Driver(ok).factory()
    errors = []
    for arguments in [
        (),
        (1, 2),
        (("a", 1), ("b",)),
        ([1, 2], None),
        (None, None, 5),
        (None, None, None, None),
    ]:
        try:
            connection.set_addresses(*arguments)
            errors.append("")
        except TypeError as error:
            errors.append(type(error).__name__)
    connection.set_addresses(None, None)
    connection.set_addresses((object(), object()), (None, None), "x" * 1000)
    connection.connection_made(FakeTransport())
    try:
        connection.set_addresses(None, None)
    except RuntimeError as error:
        errors.append(type(error).__name__)
    return errors


def test_addresses_that_are_none() -> None:
    assert survives(odd_addresses) == ["TypeError"] * 6 + ["RuntimeError"]


# tls_info


async def tls_info_that(what: str) -> dict[str, Any]:
    scopes: list[Any] = []
    kept: dict[str, Any] = {"server_cert": None}

    class Dict(dict[str, Any]):
        def keys(self) -> Any:
            connection.connection_lost(None)
            return super().keys()

        def __iter__(self) -> Any:
            connection.connection_lost(None)
            return super().__iter__()

    acted: list[bool] = []

    def tls_info(ssl_object: Any) -> Any:
        if not acted:
            acted.append(True)
            act(what, transport, driver, connection)
        if what == "raises":
            raise KeyError("tls")
        return {"gives a list": [], "gives nothing": None, "gives another dict": Dict(a=1)}.get(what, kept)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope["extensions"]["tls"])
        scope["extensions"]["tls"]["mine"] = 1
        kept["later"] = 2
        await reply(send)

    driver = Driver(app, tls_info=tls_info)
    transport = FakeTransport(extra={"ssl_object": object()})
    connection = driver.factory()
    error = None
    try:
        connection.connection_made(transport)
    except Exception as raised:
        error = type(raised).__name__
    connection.data_received(get())
    connection.data_received(get())
    await turns()
    connection.connection_lost(None)
    return {"error": error, "scopes": scopes, "left": driver.factory.connections}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("raises", "KeyError"),
        ("gives a list", "TypeError"),
        ("gives nothing", "TypeError"),
        ("gives another dict", "TypeError"),
        ("makes it", "RuntimeError"),
        ("makes and loses it", "RuntimeError"),
        ("loses it", None),
        ("gives data", None),
    ],
)
def test_a_tls_info_that(what: str, expected: str | None) -> None:
    result = survives(tls_info_that, what)
    assert result["error"] == expected
    assert result["left"] == 0
    if expected is None:
        own = {"server_cert": None, "mine": 1}
        assert result["scopes"] == [
            own,
            own | {"later": 2},
        ]  # each request has a copy of what the worker told


# Proxies


async def proxy_that(method: str, what: str, upgrade: bool) -> dict[str, Any]:
    clients: list[Any] = []
    acted: list[bool] = []

    class Key(str):
        def __eq__(self, other: Any) -> bool:
            raise KeyError("key")

        def __hash__(self) -> int:
            return hash("client")

    def evil(*args: Any) -> Any:
        if not acted:
            acted.append(True)
            act(what, transport, driver, connection)
        scope = args[0] if isinstance(args[0], dict) else None
        if what == "raises":
            raise KeyError(method)
        if what == "gives no answer":
            return None
        if what == "gives an evil answer":
            return EvilTruth()
        if scope is None:
            return method != "untrusted"
        if what == "deletes the client":
            del scope["client"]
        elif what == "empties the scope":
            scope.clear()
        elif what == "puts an evil key":
            del scope["client"]
            scope[Key("x")] = 1
        elif what == "puts another client":
            scope["client"] = ["odd", {}]
            scope["headers"].clear()
        elif what == "asks again":
            connection.data_received(get())
        return None

    class EvilTruth:
        def __bool__(self) -> bool:
            raise KeyError("truth")

    proxy = Proxy()
    setattr(proxy, method, evil)
    if method == "untrusted":
        proxy.trusts = lambda client: False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send)

    driver = Driver(app, proxy=proxy, access=lambda client, *args: clients.append(client))
    transport = FakeTransport()
    connection = driver.factory()
    transport.connection = connection
    with contextlib.suppress(RuntimeError):  # it was made while it was made
        connection.connection_made(transport)
    connection.data_received(handshake("/", b"X-Forwarded-For: 1.2.3.4") if upgrade else FORWARDED)
    await turns()
    if not upgrade:
        connection.data_received(get())
        await turns()
    output = transport.read()
    connection.connection_lost(None)
    await turns()
    return {
        "statuses": statuses(output),
        "left": driver.factory.connections + driver.factory.in_flight,
        "clients": clients,
    }


US = ["127.0.0.1", 4711]
PROXIES: dict[tuple[str, str], list[int]] = {
    ("trusts", "raises"): [200, 200],
    ("trusts", "gives no answer"): [200, 200],
    ("trusts", "gives an evil answer"): [200, 200],
    ("trusts", "loses it"): [200, 200],  # there is no transport yet
    ("trusts", "makes it"): [200, 200],
    ("apply", "raises"): [500],
    ("apply", "gives an evil answer"): [200, 200],
    ("apply", "deletes the client"): [200, 200],
    ("apply", "empties the scope"): [200, 200],
    ("apply", "puts an evil key"): [500],
    ("apply", "puts another client"): [200, 200],
    ("apply", "asks again"): [200, 200, 200],
    ("apply", "loses it"): [],
    ("apply", "makes it"): [500],
    ("apply", "ends it"): [200],
    ("apply", "aborts"): [],
    ("apply", "gives data"): [200, 200, 200],
    ("untrusted", "raises"): [200, 200],
    ("untrusted", "gives an evil answer"): [200, 200],
    ("untrusted", "loses it"): [],
    ("untrusted", "aborts"): [],
    ("untrusted", "gives data"): [200, 200, 200],
}


@pytest.mark.parametrize("upgrade", [False, True], ids=["http", "websocket"])
@pytest.mark.parametrize(("method", "what"), PROXIES)
def test_a_proxy_that(method: str, what: str, upgrade: bool) -> None:
    result = survives(proxy_that, method, what, upgrade)
    assert result["left"] == 0
    if not upgrade:
        assert result["statuses"] == PROXIES[method, what]
        expected = US if what != "puts another client" else ["odd", {}]
        assert result["clients"][:1] in ([], [expected])
    elif PROXIES[method, what][:1] == [500]:
        assert result["statuses"] == [500]


async def engine_that_changes_the_fields() -> list[int]:
    """What a WebSocket engine leaves of the fields is looked at by nobody who trusts it."""

    class Evil:
        def open(self, method: str, headers: list[Any]) -> Any:
            headers[:] = [5, (), (1,), (b"x-forwarded-for",), ("forwarded", b""), None]
            return 101, [], [], None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    told: list[Any] = []
    proxy = Proxy()
    proxy.trusts = lambda client: False
    proxy.untrusted = lambda *args: told.append(args)
    driver = Driver(app, proxy=proxy, websocket=Evil())
    connection, transport = driver.connect()
    connection.data_received(handshake("/", b"Forwarded: for=1.2.3.4"))
    await turns()
    assert told == []
    return statuses(transport.read())


def test_an_engine_that_changes_the_fields() -> None:
    assert survives(engine_that_changes_the_fields) == [403]


async def references_to_clients() -> list[int]:
    """The client of a request is held as long as the request, whatever the policy did to the scope."""
    one, other = ("1.1.1.1", 1), ["2.2.2.2", 2]
    kinds: list[str] = []

    class Changing(Proxy):
        def apply(self, scope: Any) -> None:
            kind = kinds[0]
            if kind == "replaced":
                scope["client"] = other
            elif kind == "deleted":
                del scope["client"]

    driver = Driver(ok, proxy=Changing(), access=lambda *args: None)
    connection = driver.factory()
    connection.set_addresses(one, None)
    connection.connection_made(FakeTransport())
    before = [sys.getrefcount(one), sys.getrefcount(other)]
    for kind in ("replaced", "deleted", "kept"):
        kinds[:] = [kind]
        for _ in range(100):
            connection.data_received(FORWARDED)
    gc.collect()
    return [sys.getrefcount(one) - before[0], sys.getrefcount(other) - before[1]]


def test_references_to_clients() -> None:
    assert survives(references_to_clients) == [0, 0]


# Nothing of it is kept, also in a circle


class Circle:
    """Refers to what refers to it."""

    def __call__(self, *args: Any) -> Any:
        return {}

    def trusts(self, client: Any) -> bool:
        return True

    def apply(self, scope: Any) -> None: ...

    def open(self, *args: Any) -> None: ...


async def circles(argument: str) -> bool:
    circle = Circle()
    value = [(b"/a", circle)] if argument == "static" else circle
    loop = asyncio.get_running_loop()
    factory = ProtocolFactory(
        ok,
        loop=loop,
        context=None,
        state=None,
        on_app_error=print,
        on_reject=print,
        **{argument: value},
    )
    connection = factory()
    circle.factory = factory
    circle.connection = connection
    gone = weakref.ref(circle)
    factory.close()
    del circle, value, factory, connection
    await turns(3)
    gc.collect()
    return gone() is None


@pytest.mark.parametrize("argument", ["tls_info", "proxy", "static", "on_debug"])
def test_a_circle_through_the_factory_is_collected(argument: str) -> None:
    assert survives(circles, argument)


async def circle_of_addresses() -> bool:
    circle = Circle()
    connection = Driver(ok).factory()
    connection.set_addresses((circle, 1), None)
    circle.connection = connection
    gone = weakref.ref(circle)
    del circle, connection
    gc.collect()
    return gone() is None


def test_a_circle_through_announced_addresses_is_collected() -> None:
    assert survives(circle_of_addresses)
