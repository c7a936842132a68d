"""The WebSocket connection scope (ASGI WebSocket spec 2.4) as an app sees it."""

from __future__ import annotations

import pytest

from tests.helpers.asgi import OFFERED
from tests.helpers.http1 import get, post
from tests.helpers.ws import KEY, Heard, WsClient, accept, handshake


@pytest.fixture
def app():
    return Heard()


def scope_of(serve, app, target: bytes = b"/", *fields: bytes, **settings):
    server = serve(app, **settings)
    with server.connect() as client:
        ws = WsClient(client)
        ws.open(target, *fields)
        ws.finish()
    app.end()
    return app.scopes[-1]


def test_all_keys(serve, app):
    server = serve(app)
    with server.connect() as client:
        ws = WsClient(client)
        ws.open(b"/a/b?c=d", b"X-One: 1", b"Sec-WebSocket-Protocol: chat")
        address = client.sock.getsockname()
        ws.finish()
    assert app.scopes == [
        {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/a/b",
            "raw_path": b"/a/b",
            "query_string": b"c=d",
            "root_path": "",
            "headers": [
                (b"host", b"test"),
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"sec-websocket-key", KEY),
                (b"sec-websocket-version", b"13"),
                (b"x-one", b"1"),
                (b"sec-websocket-protocol", b"chat"),
            ],
            "client": address,
            "server": server.address,
            "subprotocols": ["chat"],
            "extensions": {"websocket.http.response": {}},
        }
    ]
    scope = app.scopes[0]
    for key, kind in [("client", tuple), ("server", tuple), ("headers", list), ("subprotocols", list)]:
        assert type(scope[key]) is kind


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (b"/", "/", b"/", b""),
        (b"/a%20b?c=%20", "/a b", b"/a%20b", b"c=%20"),
        (b"/%C3%A9", "/é", b"/%C3%A9", b""),
        (b"/%ff", "/\ufffd", b"/%ff", b""),
        (b"//x//y?a?b", "//x//y", b"//x//y", b"a?b"),
        (b"http://example.com/a?b", "/a", b"/a", b"b"),
        (b"http://example.com", "/", b"/", b""),
    ],
)
def test_target(serve, app, target, path, raw_path, query):
    scope = scope_of(serve, app, target)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


def test_root_path_begins_path_and_raw_path(serve, app):
    scope = scope_of(serve, app, b"/a%20b?c", root_path="/röt")
    assert (scope["root_path"], scope["path"]) == ("/röt", "/röt/a b")
    assert scope["raw_path"] == "/röt".encode() + b"/a%20b"


@pytest.mark.parametrize(("scheme", "expected"), [("http", "ws"), ("https", "wss")])
def test_scheme(serve, app, scheme, expected):
    assert scope_of(serve, app, scheme=scheme)["scheme"] == expected


def test_headers_in_lower_case_in_order_with_duplicates(serve, app):
    scope = scope_of(
        serve, app, b"/", b"X-A: 1", b"Cookie: a=1", b"x-a:\t2 ", b"Cookie: b=2", b"X-High: \xe9"
    )
    assert scope["headers"][5:] == [
        (b"x-a", b"1"),
        (b"cookie", b"a=1"),
        (b"x-a", b"2"),
        (b"cookie", b"b=2"),
        (b"x-high", b"\xe9"),
    ]


def test_without_a_host_of_the_clients_own(serve, app):
    """Only what came: nothing is added."""
    scope = scope_of(serve, app)
    assert [name for name, _ in scope["headers"]].count(b"host") == 1
    assert "method" not in scope


class TestState:
    def test_it_is_a_shallow_copy_for_each(self, serve):
        shared: list[int] = []
        state = {"shared": shared, "number": 1}
        seen = []

        async def app(scope, receive, send):
            seen.append(dict(scope["state"]))
            scope["state"]["number"] = 99
            scope["state"]["shared"].append(len(seen))
            await accept(receive, send)

        server = serve(app, state=state)
        for _ in range(3):
            with server.connect() as client:
                ws = WsClient(client)
                ws.open()
                assert ws.read_close()[0] == 1000
        assert all(one == {"shared": shared, "number": 1} for one in seen)
        assert shared == [1, 2, 3]
        assert state == {"shared": shared, "number": 1}

    def test_it_is_absent_without_lifespan_state(self, serve, app):
        assert "state" not in scope_of(serve, app, state=None)

    def test_an_empty_one_is_there(self, serve, app):
        assert scope_of(serve, app, state={})["state"] == {}


def test_what_an_app_does_to_its_scope_stays_its_own(serve):
    """Nothing in it is shared: not with the next WebSocket, not with the next request."""
    seen = []

    async def app(scope, receive, send):
        seen.append({key: repr(value) for key, value in scope.items() if key != "client"})
        scope["extensions"]["x.mine"] = {}
        scope["extensions"].get("websocket.http.response", {})["mine"] = 1
        scope["path"] = "/changed"
        scope["mine"] = app
        scope["headers"].append((b"x-mine", b"1"))
        if scope["type"] == "websocket":
            scope["subprotocols"].append("mine")
            await receive()
            await send({"type": "websocket.close"})
        else:
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

    server = serve(app)
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(handshake("/same")).status == 403
            assert client.ask(get("/same")).status == 204
    assert seen[0] == seen[2] == seen[4]
    assert seen[1] == seen[3] == seen[5]


def test_an_http_request_has_no_denial_extension(serve):
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await receive()
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    with serve(app).connect() as client:
        client.send(get("/1"), handshake("/2"), post(b"x", target=b"/3"))
        assert [one.status for one in client.responses(3)] == [204, 403, 204]
    assert [scope["type"] for scope in scopes] == ["http", "websocket", "http"]
    assert [scope["extensions"] for scope in scopes] == [OFFERED, {"websocket.http.response": {}}, OFFERED]
    assert ["subprotocols" in scope for scope in scopes] == [False, True, False]
    assert ["method" in scope for scope in scopes] == [True, False, True]


def test_ipv6(serve, app):
    server = serve(app, where="::1")
    with server.connect() as client:
        ws = WsClient(client)
        ws.open()
        address = client.sock.getsockname()
        ws.finish()
    assert app.scopes[0]["client"] == address[:2]
    assert app.scopes[0]["server"] == ("::1", server.address[1])


def test_unix_socket(serve, app, tmp_path):
    path = tmp_path / "s"
    assert scope_of(serve, app, where="unix", path=path)["client"] is None
    assert app.scopes[0]["server"] == (str(path), None)


@pytest.mark.parametrize("policy", ["safe", "drop"])
def test_names_with_an_underscore_are_treated_as_in_http(serve, app, policy):
    """An imitation of a field of the handshake does not reach the app, and changes nothing."""
    fields = [b"Sec_WebSocket_Protocol: evil", b"Sec_WebSocket_Key: evil", b"Sec_WebSocket_Version: 8"]
    scope = scope_of(serve, app, b"/", *fields, underscore_headers=policy)
    assert scope["subprotocols"] == []
    assert not [name for name, _ in scope["headers"] if b"_" in name and b"websocket_key" in name]
