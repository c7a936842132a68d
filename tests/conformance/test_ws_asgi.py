"""What an app may say on a WebSocket, when, and what it hears (ASGI WebSocket spec 2.4).

Rules of this file: the order of messages is a table, state × message; a message that is refused leaves no
trace, neither on the wire nor in the order, which each test shows by going on.
"""

from __future__ import annotations

import pytest

from shardserve.errors import ApplicationError, MessageError
from tests.helpers.http1 import PATIENCE_S, get, until
from tests.helpers.ws import (
    Heard,
    Opened,
    WsClient,
    binary,
    close,
    data_of,
    echo,
    frame,
    handshake,
    ping,
    pong,
    text,
)

ACCEPT = {"type": "websocket.accept"}
SEND_TEXT = {"type": "websocket.send", "text": "wrong"}
SEND_BYTES = {"type": "websocket.send", "bytes": b"wrong"}
CLOSE = {"type": "websocket.close"}
START = {"type": "websocket.http.response.start", "status": 404, "headers": []}
BODY = {"type": "websocket.http.response.body", "body": b"no"}
MORE = {**BODY, "more_body": True}


# The order of messages

MESSAGES = {
    "accept": ACCEPT,
    "send text": SEND_TEXT,
    "send bytes": SEND_BYTES,
    "close": CLOSE,
    "denial start": START,
    "denial body": BODY,
    "denial more body": MORE,
    "http start": {"type": "http.response.start", "status": 200, "headers": []},
    "http body": {"type": "http.response.body", "body": b"x"},
    "connect": {"type": "websocket.connect"},
    "receive": {"type": "websocket.receive", "text": "x"},
    "disconnect": {"type": "websocket.disconnect", "code": 1000},
    "unknown": {"type": "websocket.accpet"},
    "empty type": {"type": ""},
    "no type": {"text": "x"},
    "type in bytes": {"type": b"websocket.accept"},
    "not a dict": [("type", "websocket.accept")],
    "None": None,
}

# State → (what the app has sent to come there, what it may send then).
STATES = {
    "before the accept": ([], ["accept", "close", "denial start"]),
    "accepted": ([ACCEPT], ["send text", "send bytes", "close"]),
    "closed": ([ACCEPT, CLOSE], []),
    "closed instead of accepted": ([CLOSE], []),
    "denial begun": ([START], ["denial body", "denial more body"]),
    "denial in the middle": ([START, MORE], ["denial body", "denial more body"]),
    "denied": ([START, BODY], []),
}
ORDER = [
    (state, message)
    for state, (_, allowed) in STATES.items()
    for message in MESSAGES
    if message not in allowed
]


def after(state: str, opened: Opened) -> None:
    """The state is still what it was: it works as it should, to its end, and nothing wrong came over."""
    app, ws, client = opened.app, opened.ws, opened.client
    if state == "before the accept":
        app.send(ACCEPT)
        ws.opened()
        ws.assert_no_frame()
    elif state == "accepted":
        ws.opened()
        app.text("right")
        assert ws.read_text() == "right"
        ws.assert_no_frame()
    elif state == "closed":
        ws.opened()
        assert ws.read_close() == (1000, "")
        ws.send(close(1000))
        ws.assert_closed()
    elif state == "closed instead of accepted":
        assert client.response().status == 403
        assert client.ask(get("/ok")).body == b"ok"
    else:
        body = {"denial begun": b"", "denial in the middle": b"no", "denied": b"no"}[state]
        if state != "denied":
            app.send({**BODY, "body": b"!"})
            body += b"!"
        response = client.response()
        assert (response.status, response.body) == (404, body)
        assert client.ask(get("/ok")).body == b"ok"


@pytest.mark.parametrize(("state", "message"), ORDER, ids=["-".join(one) for one in ORDER])
def test_a_message_that_has_no_place(serve, led, state, message):
    opened = Opened(serve(led), led)
    opened.app.connect()
    for before in STATES[state][0]:
        opened.app.send(before)
    with pytest.raises(MessageError) as raised:
        opened.app.send(MESSAGES[message])
    assert isinstance(raised.value, RuntimeError)
    assert str(raised.value)
    after(state, opened)


@pytest.mark.parametrize("state", STATES)
def test_all_of_them_at_once(serve, led, state):
    """Any number of mistakes is as harmless as one."""
    before, allowed = STATES[state]
    opened = Opened(serve(led), led)
    opened.app.connect()
    for message in before:
        opened.app.send(message)

    async def mistakes(receive, send):
        for name, message in MESSAGES.items():
            if name not in allowed:
                with pytest.raises(MessageError):
                    await send(message)

    opened.app.do(mistakes)
    after(state, opened)


def test_an_accept_before_the_connect_is_taken(serve, led):
    """There is nothing in the connect that an app could wait for."""
    opened = Opened(serve(led), led)
    opened.app.send(ACCEPT)
    opened.ws.opened()
    assert opened.app.receive() == {"type": "websocket.connect"}
    opened.ws.send(text("x"))
    assert data_of(opened.app.receive()) == "x"


def test_the_connect_comes_once(serve, led):
    opened = Opened(serve(led), led)
    opened.app.connect()
    waiting = opened.app.begin_receive()
    opened.client.close()
    assert waiting.result(PATIENCE_S)["type"] == "websocket.disconnect"
    opened.app.leave()


# What is wrong in a message

REFUSED = {
    "text in bytes": ({"type": "websocket.send", "text": b"x"}, MessageError),
    "text a number": ({"type": "websocket.send", "text": 5}, MessageError),
    "bytes in text": ({"type": "websocket.send", "bytes": "x"}, MessageError),
    "bytes a number": ({"type": "websocket.send", "bytes": 5}, MessageError),
    "bytes a list": ({"type": "websocket.send", "bytes": [1, 2]}, MessageError),
    "neither": ({"type": "websocket.send"}, MessageError),
    "both None": ({"type": "websocket.send", "text": None, "bytes": None}, MessageError),
    "both": ({"type": "websocket.send", "text": "x", "bytes": b"x"}, MessageError),
    "both, empty": ({"type": "websocket.send", "text": "", "bytes": b""}, MessageError),
    "half a surrogate pair": ({"type": "websocket.send", "text": "a\ud800b"}, MessageError),
    "code in text": ({**CLOSE, "code": "1000"}, MessageError),
    "code a float": ({**CLOSE, "code": 1000.0}, MessageError),
    "code 0": ({**CLOSE, "code": 0}, MessageError),
    "code True": ({**CLOSE, "code": True}, MessageError),
    "code -1": ({**CLOSE, "code": -1}, MessageError),
    "code 999": ({**CLOSE, "code": 999}, MessageError),
    "code 1004": ({**CLOSE, "code": 1004}, MessageError),
    "code 1005": ({**CLOSE, "code": 1005}, MessageError),
    "code 1006": ({**CLOSE, "code": 1006}, MessageError),
    "code 1015": ({**CLOSE, "code": 1015}, MessageError),
    "code 5000": ({**CLOSE, "code": 5000}, MessageError),
    "code 66536": ({**CLOSE, "code": 66536}, MessageError),
    "a huge code": ({**CLOSE, "code": 1 << 80}, MessageError),
    "reason in bytes": ({**CLOSE, "reason": b"x"}, MessageError),
    "reason a number": ({**CLOSE, "reason": 5}, MessageError),
    "a long reason": ({**CLOSE, "reason": "x" * 124}, MessageError),
    "a reason that is long in bytes": ({**CLOSE, "reason": "é" * 62}, MessageError),
    "a reason with half a pair": ({**CLOSE, "reason": "\udfff"}, MessageError),
}


@pytest.mark.parametrize(("message", "kind"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_after_the_accept(serve, led, message, kind):
    opened = Opened(serve(led), led).accepted()
    with pytest.raises(kind):
        opened.app.send(message)
    opened.ws.assert_no_frame()
    opened.app.text("right")
    assert opened.ws.read_text() == "right"
    opened.app.close(3000, "bye")
    assert opened.ws.read_close() == (3000, "bye")


def test_an_app_that_fails_by_a_mistake(serve):
    """Not caught, it is an error like any other."""

    async def app(scope, receive, send):
        await send(SEND_TEXT)

    server = serve(app)
    with server.connect() as client:
        client.send(handshake("/x?y"))
        assert client.response().status == 500
        address = client.sock.getsockname()
    report = server.take_error()
    assert type(report.error) is MessageError
    assert isinstance(report.error, ApplicationError)
    assert (report.method, report.target, report.client) == ("WebSocket", "/x?y", address)
    assert report.outcome == "500 sent"


# What the app hears


class TestReceive:
    def test_texts_and_bytes(self, serve):
        app = Heard()
        sent = ["", "a", "é€\U0001f980", "x" * 125, "y" * 126, "z" * 65535, "w" * 65536, "\0"]
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            for one in sent:
                ws.send(text(one), binary(one.encode()))
            ws.finish()
        expected = [both for one in sent for both in (one, one.encode())]
        assert app.data() == expected

    def test_exactly_one_of_the_keys_is_not_none(self, serve):
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(text(""), binary(b""))
            ws.finish()
        app.end()
        assert app.messages[:2] == [
            {"type": "websocket.receive", "text": "", "bytes": None},
            {"type": "websocket.receive", "text": None, "bytes": b""},
        ]

    def test_messages_are_the_apps_own(self, serve):
        """An app may do with one what it likes: the next one does not see it."""
        seen = []

        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)
            for _ in range(3):
                message = await receive()
                seen.append(dict(message))
                message["text"] = "changed"
                message["mine"] = 1

        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(text("a"), binary(b"b"), text("c"))
            assert ws.read_close()[0] == 1000
        assert [(one["text"], one["bytes"], len(one)) for one in seen] == [
            ("a", None, 3),
            (None, b"b", 3),
            ("c", None, 3),
        ]

    def test_control_frames_are_not_messages(self, serve):
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(ping(b"1"), text("a"), pong(b"2"), ping(), binary(b"b"), pong())
            assert [ws.read_pong(), ws.read_pong()] == [b"1", b""]
            ws.finish()
        assert app.data() == ["a", b"b"]

    def test_fragments_are_one_message(self, serve):
        app = Heard()
        with serve(app).connect() as client:
            ws = WsClient(client)
            ws.open()
            ws.send(frame(1, b"a", fin=False), frame(0, b"b", fin=False), ping(b"!"), frame(0, b"c"))
            ws.send(frame(2, b"", fin=False), frame(0, b"d"))
            assert ws.read_pong() == b"!"
            ws.finish()
        assert app.data() == ["abc", b"d"]

    def test_the_end_is_heard_again_and_again(self, serve, led):
        opened = Opened(serve(led), led).accepted()
        opened.ws.send(text("last words"), close(4321, "réason"))
        assert opened.ws.read_close() == (4321, "réason")
        opened.ws.assert_closed()
        assert data_of(opened.app.receive()) == "last words"
        for _ in range(3):
            assert opened.app.receive() == {
                "type": "websocket.disconnect",
                "code": 4321,
                "reason": "réason",
            }


# What the app says


class TestSend:
    SIZES = (0, 1, 125, 126, 127, 65535, 65536, 300_000)

    @pytest.mark.parametrize("size", SIZES)
    def test_every_size(self, serve, led, size):
        """The client asserts that each length is the shortest (RFC 6455 §5.2), and that nothing is masked."""
        opened = Opened(serve(led), led).accepted()
        opened.app.begin(say(text="x" * size, more={"bytes": b"y" * size}))
        assert opened.ws.read_text() == "x" * size
        assert opened.ws.read_binary() == b"y" * size
        opened.ws.assert_no_frame()

    @pytest.mark.parametrize("said", ["é" * 63, "€" * 42, "\U0001f980" * 32, "\0\x7f", "\ufeff", "\uffff"])
    def test_text_is_utf_8(self, serve, led, said):
        """Its length on the wire is that of its bytes."""
        opened = Opened(serve(led), led).accepted()
        opened.app.text(said)
        assert opened.ws.read_text() == said

    @pytest.mark.parametrize("other", ["text", "bytes"])
    def test_the_other_key_may_be_none(self, serve, led, other):
        opened = Opened(serve(led), led).accepted()
        opened.app.send({"type": "websocket.send", "text": "a", "bytes": b"a", other: None})
        assert opened.ws.read_frame().payload == b"a"

    @pytest.mark.parametrize("kind", [bytearray, memoryview, type("Bytes", (bytes,), {})])
    def test_bytes_of_any_kind(self, serve, led, kind):
        opened = Opened(serve(led), led).accepted()
        opened.app.send({"type": "websocket.send", "bytes": kind(b"abc")})
        assert opened.ws.read_binary() == b"abc"

    def test_a_bytearray_may_be_changed_afterwards(self, serve, led):
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            buffer = bytearray(b"a" * 50_000)
            waits = send({"type": "websocket.send", "bytes": buffer})
            buffer[:] = b"b" * 50_000
            await waits

        opened.app.do(step)
        assert opened.ws.read_binary() == b"a" * 50_000

    def test_a_text_of_a_subclass(self, serve, led):
        opened = Opened(serve(led), led).accepted()
        opened.app.send({"type": "websocket.send", "text": type("Text", (str,), {})("abc")})
        assert opened.ws.read_text() == "abc"

    def test_many(self, serve, led):
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            for i in range(1000):
                await send({"type": "websocket.send", "text": str(i)})

        opened.app.do(step)
        assert [opened.ws.read_text() for _ in range(1000)] == [str(i) for i in range(1000)]

    def test_it_works_when_it_is_called(self, serve, led):
        """As with HTTP, the awaitable is only for waiting (docs/deviations.md)."""
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            send({"type": "websocket.send", "text": "a"})
            send({"type": "websocket.send", "text": "b"})

        opened.app.do(step)
        assert [opened.ws.read_text(), opened.ws.read_text()] == ["a", "b"]


def say(text: str, more: dict):
    async def step(receive, send):
        await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.send", **more})

    return step


def test_the_access_log(serve):
    """101 at the accept, with the raw target; nothing more at the end."""
    server = serve(echo)
    with server.connect() as client:
        ws = WsClient(client)
        ws.open("/%61?b=%20")
        until(lambda: server.accesses)
        address = client.sock.getsockname()
        ws.finish()
    until(lambda: server.factory.in_flight == 0)
    assert server.accesses == [(address, "WebSocket", b"/%61?b=%20", "1.1", 101)]
