"""The HTTP connection scope (ASGI HTTP spec 2.4) as an app sees it."""

from __future__ import annotations

import pytest

from tests.helpers.asgi import OFFERED, Recorder, ok, reply
from tests.helpers.http1 import get, post


@pytest.fixture
def app():
    return Recorder()


def scope_of(serve, app, request: bytes, **settings):
    server = serve(app, **settings)
    assert server.ask(request).status == 200
    return app.scopes[-1]


def test_all_keys(serve, app):
    server = serve(app)
    with server.connect() as client:
        assert client.ask(get(b"/a/b?c=d", b"X-One: 1")).status == 200
        address = client.sock.getsockname()
    assert app.scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a/b",
            "raw_path": b"/a/b",
            "query_string": b"c=d",
            "root_path": "",
            "headers": [(b"host", b"test"), (b"x-one", b"1")],
            "client": address,
            "server": server.address,
            "extensions": dict(OFFERED),
        }
    ]
    scope = app.scopes[0]
    for key, kind in [("client", tuple), ("server", tuple), ("headers", list), ("raw_path", bytes)]:
        assert type(scope[key]) is kind
    assert len(scope["client"]) == len(scope["server"]) == 2


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (b"/", "/", b"/", b""),
        (b"/?", "/", b"/", b""),
        (b"/a%20b", "/a b", b"/a%20b", b""),
        (b"/a+b", "/a+b", b"/a+b", b""),
        (b"/%C3%A9?%C3%A9=%20", "/é", b"/%C3%A9", b"%C3%A9=%20"),
        (b"/%e2%82%ac", "/€", b"/%e2%82%ac", b""),
        (b"/%F0%9F%A6%80", "/\U0001f980", b"/%F0%9F%A6%80", b""),
        (b"/%ff%41", "/\ufffdA", b"/%ff%41", b""),
        (b"/a%2Fb%2fc", "/a/b/c", b"/a%2Fb%2fc", b""),
        (b"/%zz%4", "/%zz%4", b"/%zz%4", b""),
        (b"/%", "/%", b"/%", b""),
        (b"/%%41", "/%A", b"/%%41", b""),
        (b"/%2541", "/%41", b"/%2541", b""),
        (b"/%00x", "/\0x", b"/%00x", b""),
        (b"//x//y", "//x//y", b"//x//y", b""),
        (b"/../x/./y", "/../x/./y", b"/../x/./y", b""),
        (b"/a?b?c", "/a", b"/a", b"b?c"),
        (b"/a?b=http://c/", "/a", b"/a", b"b=http://c/"),
        (b"/a;p=1,2?x", "/a;p=1,2", b"/a;p=1,2", b"x"),
        (b"/:80", "/:80", b"/:80", b""),
        (b"/a@b", "/a@b", b"/a@b", b""),
        (b"/" + b"x" * 8000 + b"%41", "/" + "x" * 8000 + "A", b"/" + b"x" * 8000 + b"%41", b""),
    ],
)
def test_target(serve, app, target, path, raw_path, query):
    scope = scope_of(serve, app, get(target))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)
    assert type(scope["path"]) is str
    assert type(scope["query_string"]) is bytes


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://example.com/a%20b?c=d", "/a b", b"c=d"),
        (b"http://example.com:8000/a", "/a", b""),
        (b"http://example.com/", "/", b""),
        (b"http://example.com", "/", b""),
        (b"http://example.com?x=1", "/", b"x=1"),
        (b"HTTPS://example.com/a?b", "/a", b"b"),
        (b"http://[::1]:80/v6", "/v6", b""),
    ],
)
def test_absolute_form_loses_scheme_and_authority(serve, app, target, path, query):
    scope = scope_of(serve, app, get(target))
    assert (scope["path"], scope["query_string"]) == (path, query)
    assert scope["scheme"] == "http"  # that of the connection


def test_options_asterisk(serve, app):
    scope = scope_of(serve, app, get(b"*", method=b"OPTIONS"))
    assert scope["method"] == "OPTIONS"
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("*", b"*", b"")


@pytest.mark.parametrize(
    "method",
    [
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "HEAD",
        "PATCH",
        "OPTIONS",
        "TRACE",
        "PROPFIND",
        "MKCOL",
        "M-SEARCH",
        "PURGE",
    ],
)
def test_method(serve, app, method):
    server = serve(app)
    assert server.ask(get("/", b"Content-Length: 0", method=method.encode()), method).status == 200
    assert app.scopes[0]["method"] == method
    assert type(app.scopes[0]["method"]) is str


def test_method_of_each_pipelined_request(serve, app):
    """The fast way to the request line must not mix up requests, whatever stands between them."""
    server = serve(app)
    requests = [
        get("/1"),
        post(b"GET /no HTTP/1.1\r\n\r\n", target=b"/2"),
        b"\r\n" + get("/3", method=b"DELETE"),
        get("/4", version=b"1.0", method=b"PUT").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        get("/5", b"Upgrade: h2c", b"Connection: Upgrade", method=b"PATCH"),
        get("/6", b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nPUT /\r\n0\r\n\r\n",
        get("/7", method=b"OPTIONS"),
        get("/8"),
    ]
    with server.connect() as client:
        client.send(*requests)
        assert [response.status for response in client.responses(8)] == [200] * 8
    seen = [(scope["method"], scope["path"], scope["http_version"]) for scope in app.scopes]
    assert seen == [
        ("GET", "/1", "1.1"),
        ("POST", "/2", "1.1"),
        ("DELETE", "/3", "1.1"),
        ("PUT", "/4", "1.0"),
        ("PATCH", "/5", "1.1"),
        ("POST", "/6", "1.1"),
        ("OPTIONS", "/7", "1.1"),
        ("GET", "/8", "1.1"),
    ]


def test_http_10(serve, app):
    assert scope_of(serve, app, get("/", version=b"1.0"))["http_version"] == "1.0"


def test_root_path_begins_path_and_raw_path(serve, app):
    scope = scope_of(serve, app, get(b"/a%20b?c"), root_path="/röt")
    assert scope["root_path"] == "/röt"
    assert scope["path"] == "/röt/a b"
    assert scope["raw_path"] == "/röt".encode() + b"/a%20b"
    assert scope["query_string"] == b"c"


def test_scheme(serve, app):
    assert scope_of(serve, app, get(), scheme="https")["scheme"] == "https"


def test_headers_in_lower_case_in_order_with_duplicates(serve, app):
    fields = [b"X-A: 1", b"accept: */*", b"X-Very-Unusual-Name_0!#$%&'*+-.^`|~: Value", b"x-a:2"]
    fields += [b"Cookie: a=1", b"Cookie: b=2", b"X-Empty:", b"X-Space: \t a  b", b"X-High: \xe9\xff"]
    request = get("/", *fields).replace(b"Host", b"HOST")
    assert scope_of(serve, app, request)["headers"] == [
        (b"host", b"test"),
        (b"x-a", b"1"),
        (b"accept", b"*/*"),
        (b"x-very-unusual-name_0!#$%&'*+-.^`|~", b"Value"),
        (b"x-a", b"2"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"x-empty", b""),
        (b"x-space", b"a  b"),
        (b"x-high", b"\xe9\xff"),
    ]


def test_whitespace_around_a_value_is_not_part_of_it(serve, app):
    """RFC 9112 §5.1: a parser excludes optional whitespace before and after the field line value."""
    request = get("/", b"X-After: a b \t ", b"X-Only: \t ", b"Content-Length: 0 ")
    headers = scope_of(serve, app, request)["headers"]
    assert headers[1:] == [(b"x-after", b"a b"), (b"x-only", b""), (b"content-length", b"0")]


def test_headers_are_bytes_pairs(serve, app):
    for name, value in scope_of(serve, app, get("/", b"X-A: 1"))["headers"]:
        assert type(name) is bytes
        assert type(value) is bytes


def test_a_hundred_headers(serve, app):
    fields = [b"X-%d: %s" % (i, b"v" * i) for i in range(99)]
    headers = scope_of(serve, app, get("/", *fields))["headers"]
    assert headers == [(b"host", b"test")] + [(b"x-%d" % i, b"v" * i) for i in range(99)]


def test_state_is_a_shallow_copy_for_each_request(serve):
    shared: list[int] = []
    state = {"shared": shared, "number": 1}
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope["state"]))
        scope["state"]["number"] = 99
        scope["state"]["new"] = True
        scope["state"]["shared"].append(len(seen))
        await reply(send)

    server = serve(app, state=state)
    with server.connect() as client:
        for _ in range(2):
            client.ask(get())
    server.ask(get())
    assert all(one == {"shared": shared, "number": 1} for one in seen)
    assert shared == [1, 2, 3]
    assert state == {"shared": shared, "number": 1}


def test_state_is_absent_without_lifespan_state(serve, app):
    assert "state" not in scope_of(serve, app, get(), state=None)


def test_an_empty_state_is_there(serve, app):
    assert scope_of(serve, app, get(), state={})["state"] == {}


def test_what_an_app_does_to_its_scope_stays_its_own(serve):
    """A framework writes into the scope, and sometimes into what the scope holds."""
    seen = []

    async def app(scope, receive, send):
        seen.append({key: scope[key] for key in ("path", "root_path", "server", "client")})
        seen[-1] |= {"keys": len(scope), "headers": list(scope["headers"])}
        scope["root_path"] = "/changed"
        scope["path"] = "/changed"
        scope["app"] = app
        scope["headers"].append((b"x-mine", b"1"))
        await reply(send)

    with serve(app).connect() as client:
        for _ in range(3):
            client.ask(get("/same"))
    assert seen[0] == seen[1] == seen[2]


def test_extensions_are_not_shared_between_requests(serve):
    """Middleware adds extensions: the next request must not see them."""
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope["extensions"]))
        scope["extensions"]["x.mine"] = {}
        await reply(send)

    server = serve(app)
    server.ask(get())
    with server.connect() as client:
        client.ask(get())
        client.ask(get())
    assert seen == [OFFERED] * 3


def test_ipv6(serve, app):
    server = serve(app, where="::1")
    with server.connect() as client:
        client.ask(get())
        address = client.sock.getsockname()
    assert app.scopes[0]["client"] == address[:2]
    assert app.scopes[0]["server"] == ("::1", server.address[1])


def test_unix_socket(serve, app, tmp_path):
    path = tmp_path / "s"
    server = serve(app, where="unix", path=path)
    assert server.ask(get()).status == 200
    assert app.scopes[0]["client"] is None
    assert app.scopes[0]["server"] == (str(path), None)
    assert server.accesses[0].client is None


def test_the_access_callable_gets_the_raw_target(serve):
    server = serve(ok)
    with server.connect() as client:
        address = client.sock.getsockname()
        client.ask(get(b"/a%20b?c=%20", version=b"1.0"))
    assert server.accesses == [(address, "GET", b"/a%20b?c=%20", "1.0", 200)]
