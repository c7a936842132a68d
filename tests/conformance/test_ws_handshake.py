"""The opening handshake (RFC 6455 §4): which request is one, what answers it, and HTTP that goes on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading

import pytest

from tests.helpers.asgi import reply
from tests.helpers.http1 import Reject, get, post, until
from tests.helpers.ws import KEY, Heard, Led, WsClient, binary, close, echo, frame, handshake, ping, text

LINES = [
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Version: 13",
]


def without(name: bytes, *instead: bytes) -> list[bytes]:
    """The four lines of a handshake, with others in the place of one of them."""
    return [line for line in LINES if not line.lower().startswith(name)] + list(instead)


class Both:
    """Answers HTTP with the kind of the scope, its method and its path; echoes on a WebSocket."""

    def __init__(self) -> None:
        self.scopes = []

    async def __call__(self, scope, receive, send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await echo(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        await reply(send, b"http " + scope["path"].encode())


@pytest.fixture
def app():
    return Both()


def opens(server, request: bytes, key: bytes = KEY):
    """This handshake is accepted, and the WebSocket works; the 101."""
    with server.connect() as client:
        client.send(request)
        ws = WsClient(client)
        response = ws.opened(key)
        ws.send(text("hello"))
        assert ws.read_text() == "hello"
        ws.finish()
    return response


def is_plain_http(server, app, request: bytes, version: str = "1.1") -> None:
    """This request is an ordinary GET, and the connection goes on as HTTP."""
    with server.connect() as client:
        client.send(request)
        assert client.response().body == b"http /x"
        if version == "1.1":
            assert client.ask(get("/next")).body == b"http /next"
    assert app.scopes[0]["type"] == "http"
    assert app.scopes[0]["http_version"] == version


def refused(server, request: bytes, status: int, method: str = "GET"):
    """This handshake gets this status without the app, in one report, and HTTP goes on behind it."""
    with server.connect() as client:
        client.send(request)
        response = client.response(method)
        assert response.status == status
        if method != "HEAD":
            assert response.one(b"content-length") == b"%d" % len(response.body)
            assert response.body
        assert response.one(b"content-type").startswith(b"text/plain")
        assert response.one(b"sec-websocket-accept") is None
        assert response.one(b"date")
        assert not response.closes
        assert client.ask(get("/next")).body == b"http /next"
        address = client.sock.getsockname()
    (reject,) = server.take_rejects()
    assert (reject.status, reject.client) == (status, address)
    assert reject.reason
    return response


class TestWhatAnAcceptSays:
    def test_the_101(self, serve, app):
        response = opens(serve(app), handshake("/x"))
        assert sorted(response.names) == [
            b"connection",
            b"date",
            b"sec-websocket-accept",
            b"server",
            b"upgrade",
        ]
        assert response.one(b"server") == b"shardserve"

    def test_without_date_and_server(self, serve, app):
        response = opens(serve(app, server_header=False, date_header=False), handshake())
        assert sorted(response.names) == [b"connection", b"sec-websocket-accept", b"upgrade"]

    def test_the_servers_own_headers(self, serve, app):
        server = serve(app, headers=[(b"X-Every", b"1")])
        assert opens(server, handshake()).one(b"x-every") == b"1"

    def test_nothing_comes_behind_it(self, serve, app):
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.assert_no_frame()

    @pytest.mark.parametrize("number", range(5))
    def test_any_key(self, serve, app, number):
        key = base64.b64encode(hashlib.md5(b"%d" % number).digest())
        response = opens(serve(app), handshake(key=key), key)
        magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        expected = base64.b64encode(hashlib.sha1(key + magic).digest())
        assert response.one(b"sec-websocket-accept") == expected


GOOD = {
    "a list in Connection": without(b"connection", b"Connection: keep-alive, Upgrade"),
    "no spaces": [line.replace(b": ", b":") for line in LINES],
    "much space": [line.replace(b": ", b": \t  ") + b"  \t" for line in LINES],
    "lower case": [name.lower() + b":" + value for name, _, value in (one.partition(b":") for one in LINES)],
    "upper case": [name.upper() + b":" + value for name, _, value in (one.partition(b":") for one in LINES)],
    "upgrade in upper case": without(b"connection", b"CONNECTION: UPGRADE"),
    "upgrade in lower case": without(b"connection", b"connection: upgrade"),
    "WebSocket": without(b"upgrade", b"upgrade: WebSocket"),
    "WEBSOCKET": without(b"upgrade", b"UPGRADE: WEBSOCKET"),
    "several protocols": without(b"upgrade", b"Upgrade: h2c, websocket"),
    "several protocols, first": without(b"upgrade", b"Upgrade: websocket, h2c"),
    "several Upgrade fields": without(b"upgrade", b"Upgrade: h2c", b"Upgrade: websocket"),
    "several Connection fields": without(
        b"connection", b"Connection: keep-alive", b"Connection: x-a,upgrade ,x-b"
    ),
    "another order": LINES[::-1],
    "a length of nothing": [*LINES, b"Content-Length: 0"],
    "everything a browser sends": [
        *LINES,
        b"Pragma: no-cache",
        b"Cache-Control: no-cache",
        b"User-Agent: Mozilla/5.0",
        b"Origin: http://test",
        b"Accept-Encoding: gzip, deflate, br, zstd",
        b"Accept-Language: en",
        b"Cookie: a=1; b=2",
    ],
}


@pytest.mark.parametrize("lines", GOOD.values(), ids=GOOD)
def test_a_handshake(serve, app, lines):
    opens(serve(app), get("/x", *lines))
    assert [scope["type"] for scope in app.scopes] == ["websocket"]


PLAIN = {
    "no Connection": without(b"connection"),
    "a Connection that does not list it": without(b"connection", b"Connection: keep-alive"),
    "a Connection that lists something like it": without(b"connection", b"Connection: upgrades, up-grade"),
    "no Upgrade": without(b"upgrade"),
    "an Upgrade to something else": without(b"upgrade", b"Upgrade: h2c"),
    "an Upgrade to something like it": without(b"upgrade", b"Upgrade: websockets, web socket"),
    "an empty Upgrade": without(b"upgrade", b"Upgrade:"),
}


@pytest.mark.parametrize("lines", PLAIN.values(), ids=PLAIN)
def test_no_handshake(serve, app, lines):
    """RFC 9110 §7.8: who does not upgrade answers as if it had not been asked."""
    is_plain_http(serve(app), app, get("/x", *lines))


def test_http_10_has_no_upgrade(serve, app):
    """RFC 9110 §7.8: a server must ignore an Upgrade that it receives in HTTP/1.0."""
    is_plain_http(serve(app), app, get("/x", *LINES, version=b"1.0"), "1.0")


def test_without_an_engine_it_is_a_get(serve, app):
    """--ws none."""
    is_plain_http(serve(app, websocket=None), app, handshake("/x"))


KEYS = {
    "none": [],
    "empty": [b""],
    "no base64": [b"!!!!!!!!!!!!!!!!!!!!!!=="],
    "15 bytes": [base64.b64encode(bytes(15))],
    "17 bytes": [base64.b64encode(bytes(17))],
    "not padded": [KEY.rstrip(b"=")],
    "something inside": [KEY[:10] + b" " + KEY[10:]],
    "two": [KEY, KEY],
    "two different ones": [KEY, base64.b64encode(bytes(16))],
    "a list": [KEY + b", " + KEY],
    "not ASCII": [b"\xe9" + KEY[1:]],
}


class TestRefusals:
    @pytest.mark.parametrize(
        "method", [b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"PROPFIND"]
    )
    def test_another_method(self, serve, app, method):
        """RFC 9110 §15.5.6: a 405 says which methods there are."""
        request = get("/x", *LINES, b"Content-Length: 0", method=method)
        response = refused(serve(app), request, 405, method.decode())
        assert response.one(b"allow") == b"GET"

    @pytest.mark.parametrize("version", [b"8", b"7", b"0", b"14", b"12", b"113", b"131", b"abc", b"-13", b""])
    def test_another_version(self, serve, app, version):
        """RFC 6455 §4.4: the answer says which version there is; RFC 9110 §15.5.22: and names the upgrade."""
        response = refused(serve(app), handshake("/x", version=version), 426)
        assert response.one(b"sec-websocket-version") == b"13"
        assert response.one(b"upgrade").lower() == b"websocket"
        assert response.one(b"connection").lower() == b"upgrade"

    @pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
    def test_a_bad_key(self, serve, app, keys):
        """RFC 6455 §4.2.1: a base64 value that is 16 bytes when decoded, once."""
        lines = without(b"sec-websocket-key", *(b"Sec-WebSocket-Key: " + key for key in keys))
        refused(serve(app), get("/x", *lines), 400)

    def test_a_body(self, serve, app):
        """It is read and dropped: what stands in it is no request."""
        inside = get("/smuggled")
        request = get("/x", *LINES, b"Content-Length: %d" % len(inside)) + inside
        refused(serve(app), request, 400)
        assert [scope["path"] for scope in app.scopes] == ["/next"]

    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    @pytest.mark.parametrize("inside", [b"hello", get("/smuggled"), handshake("/smuggled")])
    def test_a_chunked_body(self, serve, app, method, inside):
        """Whether the connection goes on or not: nothing within the body is a request."""
        head = get("/x", *LINES, b"Transfer-Encoding: chunked", method=method)
        server = serve(app)
        with server.connect() as client:
            client.send(head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(inside), inside))
            response = client.response()
            assert response.status in (400, 405)
            if response.closes:
                client.assert_closed()
            else:
                assert client.ask(get("/next")).body == b"http /next"
        assert "/smuggled" not in [scope["path"] for scope in app.scopes]
        server.take_rejects()

    def test_no_host(self, serve, app):
        """It is an HTTP request in the first place (RFC 9112 §3.2)."""
        server = serve(app)
        with server.connect() as client:
            client.send(handshake("/x").replace(b"Host: test\r\n", b""))
            assert client.response().status == 400
            client.assert_closed()
        assert server.take_rejects()[0].status == 400
        assert app.scopes == []

    def test_many_on_one_connection(self, serve, app):
        """Then a good one, which is accepted."""
        server = serve(app)
        with server.connect() as client:
            ws = WsClient(client)
            client.send(handshake(version=b"8") * 20 + handshake(key=b"x") * 20)
            statuses = [response.status for response in client.responses(40)]
            assert statuses == [426] * 20 + [400] * 20
            ws.open()
            ws.send(text("a"))
            assert ws.read_text() == "a"
        assert [reject.status for reject in server.take_rejects(40)] == statuses
        assert [scope["type"] for scope in app.scopes] == ["websocket"]

    def test_it_is_in_the_access_log(self, serve, app):
        """It is a whole response on a connection that goes on, as the 503 of an overload is."""
        server = serve(app)
        refused(server, handshake("/x?y", version=b"8"), 426)
        until(lambda: len(server.accesses) == 2)
        assert [(one.method, one.target, one.http_version, one.status) for one in server.accesses] == [
            ("WebSocket", b"/x?y", "1.1", 426),
            ("GET", b"/next", "1.1", 200),
        ]


def test_the_reports_of_a_refusal(serve, app):
    server = serve(app)
    with server.connect() as client:
        client.send(handshake(version=b"8"))
        client.response()
        address = client.sock.getsockname()
    (reject,) = server.take_rejects()
    assert type(reject) is Reject
    assert (reject.status, reject.client) == (426, address)
    assert "\n" not in reject.reason


class TestWhatStandsAround:
    def test_requests_before_it(self, serve, app):
        with serve(app).connect() as client:
            client.send(get("/1"), post(b"body", target=b"/2"), handshake("/3"))
            assert [response.body for response in client.responses(2)] == [b"http /1", b"http /2"]
            ws = WsClient(client)
            ws.opened()
            ws.send(text("hello"))
            assert ws.read_text() == "hello"
            ws.finish()

    def test_the_101_waits_for_the_answers_before_it(self, serve):
        """RFC 9112 §9.3.2: responses come in the order of the requests."""
        go = asyncio.Event()

        async def app(scope, receive, send):
            if scope["type"] == "websocket":
                await echo(scope, receive, send)
                return
            await go.wait()
            await reply(send, b"first")

        server = serve(app)
        with server.connect() as client:
            client.send(get("/1"), handshake("/2"), text("behind"))
            until(lambda: server.factory.in_flight == 1)
            server.call(go.set)
            assert client.response().body == b"first"
            ws = WsClient(client)
            ws.opened()
            assert ws.read_text() == "behind"
            ws.finish()

    def test_frames_right_behind_it(self, serve, app):
        """A client has to wait for the 101 (RFC 6455 §4.1); one that does not loses nothing."""
        with serve(app).connect() as client:
            client.send(handshake(), text("one"), ping(b"two"), frame(2, b"th", fin=False), frame(0, b"ree"))
            ws = WsClient(client)
            ws.opened()
            frames = [ws.read_frame() for _ in range(3)]
            data = [(one.opcode, one.payload) for one in frames if one.opcode in (1, 2)]
            assert data == [(1, b"one"), (2, b"three")]
            assert [one.payload for one in frames if one.opcode == 10] == [b"two"]
            ws.finish()

    def test_all_of_it_at_once(self, serve):
        """A whole WebSocket in one segment, up to the end of the client's side."""
        app = Heard()
        server = serve(app)
        with server.connect() as client:
            client.send(handshake(), text("one"), binary(b"two"), close(4000, "bye"))
            client.half_close()
            ws = WsClient(client)
            ws.opened()
            assert ws.read_close()[0] == 4000
            ws.assert_closed()
        assert app.data() == ["one", b"two"]
        assert app.end() == {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}

    def test_frames_wait_for_the_accept(self, serve):
        """Also where the app asks for them before it accepts."""
        led = Led()
        with serve(led).connect() as client:
            client.send(handshake(), text("one"))
            app = led.connection()
            app.connect()
            client.send(binary(b"two"))

            async def accepts_late(receive, send):
                waiting = asyncio.create_task(receive())
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not waiting.done()
                await send({"type": "websocket.accept"})
                return [await waiting, await receive()]

            messages = app.do(accepts_late)
            assert [(one["text"], one["bytes"]) for one in messages] == [("one", None), (None, b"two")]
            ws = WsClient(client)
            ws.opened()
            ws.assert_no_frame()
            app.leave()

    def test_much_that_waits_for_the_accept(self, serve):
        """More than is read ahead: the client is held back, and nothing is lost."""
        led = Led()
        server = serve(led)
        with server.connect() as client:
            client.send(handshake())
            app = led.connection()
            app.connect()
            sent = [b"%07d" % i * 100 for i in range(500)]
            sender = threading.Thread(target=client.send, args=[binary(one) for one in sent])
            sender.start()

            async def hears(receive, send):
                await send({"type": "websocket.accept"})
                return [(await receive())["bytes"] for _ in sent]

            assert app.do(hears) == sent
            sender.join()
            app.leave()

    def test_every_cut_of_it(self, serve, app):
        request = handshake("/x") + text("x")
        server = serve(app)
        for cut in range(1, len(request)):
            with server.connect() as client:
                client.send_each([request[:cut], request[cut:]])
                ws = WsClient(client)
                ws.opened()
                assert ws.read_text() == "x"

    def test_byte_by_byte(self, serve, app):
        request = handshake("/x") + text("x" * 300) + binary(b"y")
        with serve(app).connect() as client:
            client.send_each([request[i : i + 1] for i in range(len(request))])
            ws = WsClient(client)
            ws.opened()
            assert ws.read_text() == "x" * 300
            assert ws.read_binary() == b"y"

    def test_requests_behind_a_refused_one(self, serve, app):
        """They are HTTP: nothing was upgraded."""
        server = serve(app)
        with server.connect() as client:
            client.send(handshake(version=b"8"), get("/1"), handshake("/2"), text("x"))
            assert client.response().status == 426
            assert client.response().body == b"http /1"
            ws = WsClient(client)
            ws.opened()
            assert ws.read_text() == "x"
        server.take_rejects()

    def test_frames_behind_a_refused_one(self, serve, app):
        """They are no HTTP, which is the client's mistake."""
        server = serve(app)
        with server.connect() as client:
            client.send(handshake(version=b"8"), text("hello"))
            assert [response.status for response in client.responses(2)] == [426, 400]
            client.assert_closed()
        assert [reject.status for reject in server.take_rejects(2)] == [426, 400]
        assert app.scopes == []

    def test_an_http_request_behind_an_accepted_one_is_a_bad_frame(self, serve, app):
        """RFC 6455 §5.1: it is not masked, and the app must not see it."""
        server = serve(app)
        with server.connect() as client:
            client.send(handshake("/x"), get("/smuggled"))
            ws = WsClient(client)
            ws.opened()
            assert ws.read_close()[0] == 1002
            ws.assert_closed()
        assert [scope["path"] for scope in app.scopes] == ["/x"]
        assert server.take_rejects()[0].status == 1002


def test_a_hundred_at_once(serve, app):
    server = serve(app)
    clients = [WsClient(server.connect()) for _ in range(100)]
    for ws in clients:
        ws.client.send(handshake())
    for number, ws in enumerate(clients):
        ws.opened()
        ws.send(text(str(number)))
    until(lambda: server.factory.in_flight == 100)
    for number, ws in enumerate(clients):
        assert ws.read_text() == str(number)
        ws.finish()
    until(lambda: server.factory.in_flight == 0)
    assert server.factory.served == 100


def test_ipv6_and_unix_sockets(serve, app, tmp_path):
    opens(serve(app, where="::1"), handshake())
    opens(serve(app, where="unix", path=tmp_path / "s"), handshake())
