"""Uvicorn as an oracle: the same app, flags and requests, and what both tell the app and the client.

Rules of this file: scopes are compared key by key, responses as status, reason, header fields and body.
``DIFFERENT_*`` are the differences that we want, with the reason; each is in docs/deviations.md, and each is
held against both sides: a row that is true no longer fails. WebSockets: test_ws_oracle.py.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.server import Ended, ServerProcess
from tests.helpers.uvicorn_beside import Said, Side, ours, unix, uvicorn, uvicorn_ended, uvicorn_stopped

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed"
)


class Both(NamedTuple):
    ours: Side
    theirs: Side


@pytest.fixture(scope="module")
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Both servers with the flags of the parameter."""
    flags: tuple[str, ...] = getattr(request, "param", ())
    folder = tmp_path_factory.mktemp("oracle")
    with (
        ours(folder / "ours", "oracle_app:app", *flags) as mine,
        uvicorn(folder, "oracle_app:app", *flags) as other,
    ):
        yield Both(mine, other)


def request(
    target: str = "/scope", *fields: str, method: str = "GET", version: str = "1.1", body: str = ""
) -> bytes:
    """One request that closes its connection."""
    lines = [f"{method} {target} HTTP/{version}", "Host: example.org", "Connection: close", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1") + body.encode("latin-1")


# Scopes

SCOPES = {
    "plain": request(),
    "query": request("/scope?a=1&b=%20%C3%BC&&c=d+e&a=2"),
    "empty query": request("/scope?"),
    "question marks": request("/scope?a?b"),
    "percent-encoded": request("/%C3%BC%20%2F%25/x%7e"),
    "percent-encoded, no UTF-8": request("/%FF%C3"),
    "a lone percent": request("/%zz/100%"),
    "plus": request("/a+b"),
    "slashes and dots": request("//a//./../b/"),
    "semicolons": request("/a;b=c;d"),
    "long": request("/" + "x" * 4000),
    "absolute form": request("http://example.org/a?b"),
    "lower-case method names stay": request(method="OPTIONS"),
    "fields twice": request("/", "X-Twice: 1", "Accept: a", "x-twice: 2"),
    "cookies twice": request("/", "Cookie: a=1; b=2", "Cookie: c=3"),
    "values": request("/", "X-Empty:", "X-Space: \t a \t b", "X-Latin: \xe4\xff", 'X-Quoted: "a, b"'),
    "names": request("/", "X-!#$%&'*+.^`|~: 1", "X-UPPER-Case: 2"),
    "HTTP/1.0": request(version="1.0"),
    "a body": request("/", "Content-Length: 5", "Content-Type: text/plain", method="POST", body="hello"),
    "chunks": request(
        "/", "Transfer-Encoding: chunked", method="PUT", body="5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    ),
    "a body of GET": request("/", "Content-Length: 5", body="hello"),
    "100-continue": request("/", "Content-Length: 5", "Expect: 100-continue", method="POST", body="hello"),
    "an upgrade that nobody knows": request("/", "Upgrade: h2c"),
    "methods": request("/", method="PATCH"),
    "authorization": request("/", "Authorization: Basic YTpi", "Range: bytes=0-1", "Referer: http://x/?y#z"),
}  # fmt: skip

# What the app is told otherwise: the key, what Uvicorn says, what we say, why.
MISSING = object()
DIFFERENT_IN_SCOPES: list[tuple[str, Any, Any, str]] = [
    (
        "asgi",
        {"version": "3.0", "spec_version": "2.3"},
        {"version": "3.0", "spec_version": "2.4"},
        "send() raises once the client is gone, as 2.4 has it (decision 2)",
    ),
    (
        "state",
        {"greeting": "hello"},
        {"greeting": "hello", "shardserve_shutdown": "Event"},
        "an app can see a shutdown coming",
    ),
]
EXTENSIONS = {
    "http.response.pathsend", "http.response.zerocopysend", "http.response.trailers",
    "http.response.early_hint",
}  # fmt: skip


def compare_scopes(mine: dict[str, Any], other: dict[str, Any]) -> None:
    # Uvicorn offers none over HTTP/1.1. In HTTP/1.0 there are no trailers and no interim responses.
    expected = {name for name in EXTENSIONS if mine["http_version"] == "1.1" or "send" in name}
    assert set(mine.pop("extensions")) == expected
    assert "extensions" not in other
    for key, theirs_is, ours_is, why in DIFFERENT_IN_SCOPES:
        assert (other.pop(key), mine.pop(key)) == (theirs_is, ours_is), why
    assert mine == other


@pytest.mark.parametrize("asked", SCOPES.values(), ids=SCOPES)
def test_the_app_is_told_the_same(both: Both, asked: bytes) -> None:
    compare_scopes(both.ours.scope(asked), both.theirs.scope(asked))


PROXIED = ["X-Forwarded-For: 203.0.113.7, 198.51.100.2", "X-Forwarded-Proto: https"]


@pytest.mark.parametrize(
    "both",
    [
        ("--root-path", "/api"),
        ("--root-path", "/api/v1"),
        (),
        ("--no-proxy-headers",),
        ("--forwarded-allow-ips", "*"),
        ("--forwarded-allow-ips", "192.0.2.1"),
        ("--forwarded-allow-ips", "127.0.0.0/8,198.51.100.2"),
        ("--forwarded-allow-ips", ""),
    ],
    indirect=True,
    ids=" ".join,
)
@pytest.mark.parametrize(
    "asked",
    [
        request("/a%20b?c"),
        request("/", *PROXIED),
        request("/", "X-Forwarded-Proto: https"),
        request("/", "X-Forwarded-For: 203.0.113.7"),
        request("/", "X-Forwarded-For: 2001:db8::1"),
        request("/", "X-Forwarded-Proto: gopher"),
    ],
    ids=["plain", "both", "proto", "for", "IPv6", "no scheme"],
)
def test_the_app_is_told_the_same_behind_proxies(both: Both, asked: bytes) -> None:
    compare_scopes(both.ours.scope(asked), both.theirs.scope(asked))


# The request, the key, what Uvicorn says, what we say, why.
DIFFERENT_SCOPES: dict[str, tuple[bytes, str, Any, Any, str]] = {
    "a target with another host": (
        request("http://example.com:81/a"),
        "headers",
        [
            "list",
            ["tuple", "bytes: host", "bytes: example.org"],
            ["tuple", "bytes: connection", "bytes: close"],
        ],
        [
            "list",
            ["tuple", "bytes: host", "bytes: example.com:81"],
            ["tuple", "bytes: connection", "bytes: close"],
        ],
        "the target is stronger than Host (RFC 9112 §3.2.2)",
    ),
    "whitespace behind a value": (
        b"GET / HTTP/1.1\r\nHost: a \t\r\n\r\n",
        "headers",
        ["list", ["tuple", "bytes: host", "bytes: a \t"]],
        ["list", ["tuple", "bytes: host", "bytes: a"]],
        "it is not part of the value (RFC 9110 §5.5)",
    ),
    "X-Forwarded-For that is no address": (
        request("/", "X-Forwarded-For: unknown"),
        "client",
        ["tuple", "unknown", 0],
        None,
        "an app that reads an address shall get one, or none",
    ),
    "X-Forwarded-Proto of a WebSocket": (
        request("/", "X-Forwarded-Proto: wss"),
        "scheme",
        "wss",
        "https",
        "the scheme of an HTTP scope is http or https",
    ),
}


@pytest.mark.parametrize("row", DIFFERENT_SCOPES.values(), ids=DIFFERENT_SCOPES)
def test_what_the_app_is_told_differently(both: Both, row: Any) -> None:
    asked, key, theirs_is, ours_is, why = row
    assert both.theirs.scope(asked)[key] == theirs_is, "Uvicorn has changed"
    assert both.ours.scope(asked)[key] == ours_is, why


def test_unix_sockets(tmp_path: Path) -> None:
    paths = [tmp_path / "a.sock", tmp_path / "b.sock"]
    with (
        ours(tmp_path / "ours", "oracle_app:app", "--uds", str(paths[0]), connect=unix(paths[0])) as mine,
        uvicorn(tmp_path, "oracle_app:app", "--uds", str(paths[1]), connect=unix(paths[1])) as other,
    ):
        told = mine.scope(request("/a?b", *PROXIED)), other.scope(request("/a?b", *PROXIED))
    assert [one.pop("server") for one in told] == [["tuple", str(path), None] for path in paths]
    compare_scopes(*told)


def test_descriptors(tmp_path: Path) -> None:
    with ExitStack() as stack:
        sides = []
        for start in (ours, uvicorn):
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = sock.getsockname()[1]
            sides.append(
                stack.enter_context(
                    start(
                        tmp_path / start.__name__ if start is ours else tmp_path,
                        "oracle_app:app",
                        "--fd",
                        str(sock.fileno()),
                        connect=lambda port=port: socket.create_connection(("127.0.0.1", port)),
                        pass_fds=[sock.fileno()],
                    )
                )
            )
        compare_scopes(*(side.scope(request("/a?b")) for side in sides))


@pytest.mark.parametrize(
    ("app", "flags"), [("oracle_app:Double", ()), ("oracle_app:Double", ("--interface", "asgi2"))]
)
def test_asgi_2(tmp_path: Path, app: str, flags: tuple[str, ...]) -> None:
    with ours(tmp_path / "ours", app, *flags) as mine, uvicorn(tmp_path, app, *flags) as other:
        told = mine.scope(request("/a?b")), other.scope(request("/a?b"))
    assert [one["asgi"].pop("version") for one in told] == ["2.0", "2.0"]
    for one in told:
        one["asgi"]["version"] = "3.0"  # what compare_scopes knows
    compare_scopes(*told)


# Responses

RESPONSES = {
    "length": request("/length"),
    "parts without a length": request("/parts"),
    "no length, no parts, no body": request("/status?200"),
    "204": request("/status?204"),
    "304": request("/status?304"),
    "HEAD": request("/length", method="HEAD"),
    "HEAD without a length": request("/parts", method="HEAD"),
    "set-cookie twice": request("/cookies"),
    "404": request("/status?404"),
    "418": request("/status?418"),
    "503": request("/status?503"),
    "a status without a phrase": request("/status?299"),
    "the app says close": request("/close").replace(b"Connection: close\r\n", b""),
    "a body that is not read": request("/unread", "Content-Length: 5", method="POST", body="hello"),
    "a failure": request("/fail"),
    "no answer": request("/nothing"),
    "a failure in the middle": request("/fail-late"),
    "two requests at once": request("/length").replace(b"Connection: close\r\n", b"") + request("/cookies"),
}  # fmt: skip

# The request, what Uvicorn says, what we say, why. Only what is named is compared.
DIFFERENT_RESPONSES: dict[str, tuple[bytes, dict[str, Any], dict[str, Any], str]] = {
    "no length": (
        request("/no-length"),
        {"transfer-encoding": "chunked"},
        {"content-length": "11"},
        "the first body message is the last, so the length is known: cheaper than one chunk",
    ),
    "HTTP/1.0 and no length": (
        request("/parts", version="1.0"),
        {"transfer-encoding": "chunked"},
        {"transfer-encoding": None},
        "HTTP/1.0 knows no chunks (RFC 9112 §6.1): ended by the end of the connection",
    ),
    "too long": (
        request("/long"),
        {"status": 200},
        {"status": 500},
        "nothing is on the wire yet, so there can be a clean 500",
    ),
    "too short": (
        request("/short"),
        {"status": 200},
        {"status": 500},
        "the same",
    ),
    "the app's own Date and Server": (
        request("/own"),
        {"date": "never, now", "server": "its name, mine"},
        {"date": "never", "server": "mine"},
        "one is enough",
    ),
    "no Host": (
        b"GET /length HTTP/1.1\r\nConnection: close\r\n\r\n",
        {"status": 200},
        {"status": 400},
        "RFC 9112 §3.2",
    ),
    "two Hosts": (
        request("/length", "Host: example.com"),
        {"status": 200},
        {"status": 400},
        "RFC 9112 §3.2",
    ),
    "a method that nobody knows": (
        request("/length", method="FOO"),
        {"status": 400},
        {"status": 200},
        "any token is a method (RFC 9110 §9.1)",
    ),
    "CONNECT": (
        request("example.org:80", method="CONNECT"),
        {"status": 400},
        {"status": 501},
        "the server is no proxy, and says so",
    ),
}


def facts(answer: Said, names: set[str]) -> dict[str, Any]:
    """What of a response is named: its status, or the values of a field (None: it is not there)."""
    found: dict[str, Any] = {}
    for name in names:
        values = [value for field, value in answer.headers if field == name]
        found[name] = answer.status if name == "status" else ", ".join(values) or None
    return found


@pytest.mark.parametrize("asked", RESPONSES.values(), ids=RESPONSES)
def test_the_client_is_told_the_same(both: Both, asked: bytes) -> None:
    assert both.ours.ask(asked) == both.theirs.ask(asked)


@pytest.mark.parametrize("row", DIFFERENT_RESPONSES.values(), ids=DIFFERENT_RESPONSES)
def test_what_the_client_is_told_differently(both: Both, row: Any) -> None:
    asked, theirs_is, ours_is, why = row
    assert facts(both.theirs.ask(asked), set(theirs_is)) == theirs_is, "Uvicorn has changed"
    assert facts(both.ours.ask(asked), set(ours_is)) == ours_is, why


def test_several_requests_on_a_connection(both: Both) -> None:
    asked = request("/length").replace(b"Connection: close\r\n", b"") * 3 + request("/status?404")
    counts = [side.raw(asked).count(b"HTTP/1.1 200 OK\r\n") for side in both]
    assert counts == [3, 3]


@pytest.mark.parametrize(("target", "expected"), [("/scope", b"100 Continue"), ("/unread", b"200 OK")])
def test_interim_responses(both: Both, target: str, expected: bytes) -> None:
    """100 comes when the app reads, and not at all when it does not."""
    asked = request(target, "Content-Length: 5", "Expect: 100-continue", method="POST")
    for side in both:
        with side.connect() as sock:
            sock.sendall(asked)
            assert sock.recv(65536).startswith(b"HTTP/1.1 " + expected + b"\r\n")


@pytest.mark.parametrize(
    "both",
    [
        ("--header", "X-One:1", "--header", "X-Two: two"),
        ("--header", "X-Twice:1", "--header", "X-Twice:2"),
        ("--header", "Server:mine"),
        ("--no-server-header",),
        ("--no-date-header",),
        ("--no-server-header", "--no-date-header"),
        ("--no-access-log",),
    ],
    indirect=True,
    ids=" ".join,
)
@pytest.mark.parametrize("target", ["/length", "/fail", "/status?204"])
def test_header_flags(both: Both, target: str) -> None:
    assert both.ours.ask(request(target)) == both.theirs.ask(request(target))


@pytest.mark.parametrize("both", [("--limit-concurrency", "1")], indirect=True, ids=["1"])
def test_limit_concurrency_differs(both: Both) -> None:
    """N admits N, of requests; Uvicorn's N admits N - 1, and counts connections."""
    assert both.theirs.ask(request("/length")).status == 503
    assert both.ours.ask(request("/length")).status == 200


@pytest.mark.parametrize("both", [("--limit-concurrency", "2")], indirect=True, ids=["2"])
def test_limit_concurrency_that_is_not_reached(both: Both) -> None:
    assert both.ours.ask(request("/length")) == both.theirs.ask(request("/length"))


# The command


@pytest.mark.parametrize(
    ("app", "flags"),
    [
        ("oracle_app:create", ("--factory",)),
        ("oracle_app:refuses", ()),
        ("oracle_app:refuses", ("--lifespan", "off")),
        ("oracle_app:refuses", ("--lifespan", "auto")),
        ("oracle_app:app", ("--lifespan", "on")),
        ("oracle_app:create", ()),
    ],
)
def test_apps_that_both_serve(tmp_path: Path, app: str, flags: tuple[str, ...]) -> None:
    with ours(tmp_path / "ours", app, *flags) as mine, uvicorn(tmp_path, app, *flags) as other:
        assert mine.ask(request("/length")) == other.ask(request("/length"))


@pytest.mark.parametrize(
    ("app", "flags", "code"),
    [
        ("oracle_app:startup_fails", (), 3),
        ("oracle_app:refuses", ("--lifespan", "on"), 3),
        ("oracle_app:app", ("--no-such-flag",), 2),
        ("oracle_app:app", ("--port", "none"), 2),
        ("oracle_app:app", ("--lifespan", "maybe"), 2),
        ("oracle_app:app", ("--interface", "cgi"), 2),
        ("nowhere:app", (), 3),
        ("oracle_app:nothing_of_the_kind", (), 3),
    ],
)
def test_exit_codes(tmp_path: Path, app: str, flags: tuple[str, ...], code: int) -> None:
    assert uvicorn_ended(tmp_path, app, *flags) == code
    assert Ended(tmp_path, app, *flags).code == code


def test_the_exit_code_of_an_app_that_names_no_attribute_differs(tmp_path: Path) -> None:
    """2: a mistake on the command line. Uvicorn has one code for whatever cannot be started."""
    assert uvicorn_ended(tmp_path, "oracle_app") == 3
    assert Ended(tmp_path, "oracle_app").code == 2


def test_the_exit_code_of_a_port_in_use_differs(tmp_path: Path) -> None:
    """1: nothing is wrong with the app."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ("--port", str(taken.getsockname()[1]))
        assert uvicorn_ended(tmp_path, "oracle_app:app", *flags) == 3
        assert Ended(tmp_path, "oracle_app:app", *flags).code == 1


@pytest.mark.parametrize(("number", "theirs_is"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_the_exit_code_of_a_stop(tmp_path: Path, number: signal.Signals, theirs_is: int) -> None:
    """0: it did what it was told. Uvicorn ends by SIGTERM itself."""
    assert uvicorn_stopped(tmp_path, "oracle_app:app", number) == theirs_is
    with ServerProcess(tmp_path / "ours", "oracle_app:app", "--workers", "1") as server:
        server.stop(number)
