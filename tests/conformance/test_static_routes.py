"""Which requests go to the app of a static route: by the bytes of their path, and to nobody else."""

from __future__ import annotations

import pytest

from tests.helpers.asgi import reply
from tests.helpers.http1 import get, post
from tests.helpers.ws import handshake


def named(name: str):
    async def app(scope, receive, send):
        await reply(send, name.encode())

    return app


ROUTES = [
    (b"/a", named("short")),
    (b"/a/b/c", named("longest")),
    (b"/a/b", named("long")),
    (b"/with%20space", named("space")),
]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/a", "short"), ("/a/", "short"), ("/a/x", "short"), ("/a?b", "short"), ("/a/?/a/b", "short"),
        ("/a/b", "long"), ("/a/b/", "long"), ("/a/b/c", "longest"), ("/a/b/c/d/e", "longest"),
        ("/a/bc", "short"), ("/a/b/cd", "long"), ("/ab", "app"), ("/", "app"), ("/x/a", "app"), ("/A", "app"),
        ("/?/a", "app"), ("/%61", "app"), ("//a", "app"), ("/a%2fb", "app"), ("/a//", "short"),
        ("/with%20space/x", "space"), ("/with+space", "app"), ("/a/../x", "short"), ("/a/.", "short"),
        ("http://host/a/b?q", "long"), ("http://host", "app"), ("http://a/", "app"),
        ("http://host/a", "short"),
    ],
)  # fmt: skip
def test_the_longest_prefix_wins(serve, target, name):
    assert serve(named("app"), static=ROUTES).ask(get(target)).body == name.encode()


def test_whichever_comes_first(serve):
    server = serve(named("app"), static=ROUTES[::-1])
    assert server.ask(get("/a/b/c")).body == b"longest"
    assert server.ask(get("/a/b")).body == b"long"


def test_a_route_for_everything(serve):
    server = serve(named("app"), static=[(b"", named("all")), (b"/a", named("a"))])
    for target, name in (("/", b"all"), ("/x", b"all"), ("/?q", b"all"), ("/a", b"a"), ("/ab", b"all")):
        assert server.ask(get(target)).body == name


def test_any_method_on_one_connection(serve):
    """The app and its routes in turn, with bodies, kept alive and pipelined."""
    with serve(named("app"), static=ROUTES).connect() as client:
        client.send(get("/a"), post(b"x" * 1000, target=b"/x"), post(b"x" * 1000, target=b"/a/b"), get("/"))
        assert [one.body for one in client.responses(4)] == [b"short", b"app", b"long", b"app"]
        assert client.ask(get("/a", method=b"HEAD"), "HEAD").one(b"content-length") == b"5"
        client.assert_open()


def test_the_scope_is_the_whole_one(serve):
    seen = []

    async def files(scope, receive, send):
        seen.append(scope)
        await reply(send)

    server = serve(named("app"), static=[(b"/s", files)], root_path="/root")
    server.ask(get("/s/a%20b?q=1", b"X-A: 1"))
    (scope,) = seen
    assert (scope["type"], scope["method"], scope["root_path"]) == ("http", "GET", "/root")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (
        "/root/s/a b",
        b"/root/s/a%20b",
        b"q=1",
    )
    assert (b"x-a", b"1") in scope["headers"]


def test_a_route_that_fails(serve):
    async def files(scope, receive, send):
        raise ValueError("files")

    server = serve(named("app"), static=[(b"/s", files)])
    with server.connect() as client:
        assert client.ask(get("/s/x")).status == 500
        client.assert_open()
    report = server.take_error()
    assert (str(report.error), report.target) == ("files", "/s/x")


@pytest.mark.parametrize("routes", [None, []])
def test_no_routes(serve, routes):
    assert serve(named("app"), static=routes).ask(get("/a")).body == b"app"


@pytest.mark.parametrize("routes", [5, [5], [(b"/a",)], [("/a", named("x"))], [[b"/a", named("x")]]])
def test_what_are_no_routes(serve, routes):
    with pytest.raises(TypeError):
        serve(named("app"), static=routes)


def test_websockets_are_the_apps(serve):
    """A handshake for a static path asks for no file."""
    types = []

    async def app(scope, receive, send):
        types.append(scope["type"])
        await send({"type": "websocket.close"})

    server = serve(app, static=ROUTES)
    assert server.ask(handshake("/a/b")).status == 403
    assert types == ["websocket"]
