"""Messages that an app must not send: what it is told, and that nothing of them reaches the wire."""

from __future__ import annotations

import pytest

from shardserve.errors import ApplicationError, BodyLengthError, HeaderError, MessageError
from tests.helpers.asgi import body, start
from tests.helpers.http1 import get
from tests.helpers.mistakes import BODY, START, gets_500, mistaken


class Text(str):
    pass


BEFORE_THE_WIRE = {
    "start twice": ([START, START], MessageError, ["http.response.start", "twice"]),
    "body before start": ([BODY], MessageError, ["http.response.body", "before http.response.start"]),
    "unknown type": ([{"type": "http.response.strat"}], MessageError, ["'http.response.strat'"]),
    "websocket message": ([{"type": "websocket.accept"}], MessageError, ["'websocket.accept'"]),
    "push promise": ([START, {"type": "http.response.push"}], MessageError, ["'http.response.push'"]),
    "not a dict": ([[("type", "http.response.start")]], MessageError, ["dict", "list"]),
    "None": ([None], MessageError, ["dict", "NoneType"]),
    "no type": ([{"status": 200}], MessageError, ["type"]),
    "type in bytes": ([{"type": b"http.response.start", "status": 200}], MessageError, ["type"]),
    "no status": ([{"type": "http.response.start"}], MessageError, ["status"]),
    "status in text": ([{**START, "status": "200"}], MessageError, ["status"]),
    "status in float": ([{**START, "status": 200.0}], MessageError, ["status"]),
    "status None": ([{**START, "status": None}], MessageError, ["status"]),
    "status 99": ([{**START, "status": 99}], HeaderError, ["status", "99"]),
    "status 0": ([{**START, "status": 0}], HeaderError, ["status", "0"]),
    "status 100": ([{**START, "status": 100}], HeaderError, ["status", "100"]),
    "status 101": ([{**START, "status": 101}], HeaderError, ["status", "101"]),
    "status 1000": ([{**START, "status": 1000}], HeaderError, ["status", "1000"]),
    "status -200": ([{**START, "status": -200}], HeaderError, ["status", "-200"]),
    "status True": ([{**START, "status": True}], HeaderError, ["status"]),
    "huge status": ([{**START, "status": 1 << 80}], HeaderError, ["status", str(1 << 80)]),
    "headers None": ([{**START, "headers": None}], MessageError, ["headers"]),
    "headers a number": ([{**START, "headers": 5}], MessageError, ["headers"]),
    "headers a dict": ([{**START, "headers": {b"a": b"b"}}], MessageError, ["pair", "bytes"]),
    "a triple": ([{**START, "headers": [(b"a", b"b", b"c")]}], MessageError, ["pair"]),
    "a single": ([{**START, "headers": [(b"a",)]}], MessageError, ["pair"]),
    "not a pair": ([{**START, "headers": [b"ab"]}], MessageError, ["pair", "bytes"]),
    "None for a pair": ([{**START, "headers": [None]}], MessageError, ["pair", "NoneType"]),
    "name in text": ([{**START, "headers": [("a", b"b")]}], MessageError, ["byte", "str"]),
    "value in text": ([{**START, "headers": [(b"a", "b")]}], MessageError, ["byte", "str"]),
    "value a number": ([{**START, "headers": [(b"content-length", 5)]}], MessageError, ["byte", "int"]),
    "body in text": ([START, {**BODY, "body": "x"}], MessageError, ["body", "str"]),
    "body a Text": ([START, {**BODY, "body": Text("x")}], MessageError, ["body", "Text"]),
    "body a number": ([START, {**BODY, "body": 5}], MessageError, ["body", "int"]),
    "body None": ([START, {**BODY, "body": None}], MessageError, ["body", "NoneType"]),
    "body a list": ([START, {**BODY, "body": [1, 2]}], MessageError, ["body", "list"]),
    "length in text": (
        [{**START, "headers": [(b"content-length", b"five")]}],
        HeaderError,
        ["content-length", "five"],
    ),
    "empty length": ([{**START, "headers": [(b"content-length", b"")]}], HeaderError, ["content-length"]),
    "negative length": (
        [{**START, "headers": [(b"Content-Length", b"-1")]}],
        HeaderError,
        ["content-length", "-1"],
    ),
    "two lengths": (
        [{**START, "headers": [(b"content-length", b"1"), (b"Content-Length", b"2")]}],
        HeaderError,
        ["content-length", "1", "2"],
    ),
    "too long": (
        [{**START, "headers": [(b"content-length", b"3")]}, {**BODY, "body": b"four"}],
        BodyLengthError,
        ["longer", "4", "3"],
    ),
    "too short": (
        [{**START, "headers": [(b"content-length", b"5")]}, {**BODY, "body": b"four"}],
        BodyLengthError,
        ["shorter", "4", "5"],
    ),
    "nothing of five": (
        [{**START, "headers": [(b"content-length", b"5")]}, {**BODY, "body": b""}],
        BodyLengthError,
        ["5"],
    ),
}


@pytest.mark.parametrize("name", BEFORE_THE_WIRE)
def test_a_mistake_before_anything_is_on_the_wire(serve, name, turn):
    messages, kind, words = BEFORE_THE_WIRE[name]
    error = gets_500(serve(mistaken(*messages, turn=turn)))
    assert type(error) is kind
    assert isinstance(error, ApplicationError)
    assert isinstance(error, RuntimeError)
    for word in words:
        assert word in str(error)


BAD_BYTES = [b"\r", b"\n", b"\0", b"\x7f", b"\x01", b"\x1b", b"\r\nx: y", b"\n\nbody"]


@pytest.mark.parametrize("bad", BAD_BYTES)
@pytest.mark.parametrize("place", ["name", "value", "end of value", "start of value"])
def test_nothing_is_injected_through_a_header(serve, bad, place):
    field = {
        "name": (b"x-a" + bad + b"b", b"value"),
        "value": (b"x-a", b"va" + bad + b"lue"),
        "end of value": (b"x-a", b"value" + bad),
        "start of value": (b"x-a", bad + b"value"),
    }[place]
    error = gets_500(serve(mistaken({**START, "headers": [(b"x-good", b"1"), field]})))
    assert type(error) is HeaderError
    assert "x-a" in str(error)


@pytest.mark.parametrize(
    "name", [b"", b"x a", b" x", b"x ", b"x:", b":", b"x\t", b"x\xe9", b"x(", b'"x"', b"x/y", b"x@"]
)
def test_a_header_name_is_a_token(serve, name):
    error = gets_500(serve(mistaken({**START, "headers": [(name, b"1")]})))
    assert type(error) is HeaderError
    assert repr(name) in str(error)


@pytest.mark.parametrize("value", [b"", b"\t", b" a ", b"\x80\xff", "ü€".encode(), b"a\tb"])
def test_allowed_values(serve, value):
    server = serve(mistaken({**START, "headers": [(b"x-a", value)]}, BODY))
    assert server.ask(get()).one(b"x-a") == value.strip(b" \t")


def test_equal_content_lengths_become_one(serve):
    fields = [(b"content-length", b"1"), (b"Content-Length", b"1")]
    with serve(mistaken({**START, "headers": fields}, BODY)).connect() as client:
        assert client.ask(get()).one(b"content-length") == b"1"
        client.assert_open()


def test_an_app_that_catches_its_mistake_may_go_on(serve):
    """A refused message leaves no trace, in the order of messages or on the wire."""

    async def app(scope, receive, send):
        wrong = [BODY, {**START, "headers": [(b"x", b"\n")]}, {**START, "status": 5}, {"type": "x"}, 5]
        for message in wrong:
            with pytest.raises(ApplicationError):
                await send(message)
        await start(send, 200, [(b"content-length", b"2")])
        for message in (START, {**BODY, "body": b"three"}, {**BODY, "body": b"1"}, {**BODY, "body": "x"}):
            with pytest.raises(ApplicationError):
                await send(message)
        await body(send, b"o", more=True)
        for message in (START, {**BODY, "body": b"kk"}, {**BODY, "body": b""}):
            with pytest.raises(ApplicationError):
                await send(message)
        await body(send, b"k")

    server = serve(app)
    with server.connect() as client:
        for _ in range(2):
            response = client.ask(get())
            assert (response.status, response.body) == (200, b"ok")
            assert response.one(b"x") is None


@pytest.mark.parametrize("extra", [START, BODY, {**BODY, "body": b""}, {**BODY, "more_body": True}])
def test_a_message_after_the_end(serve, turn, extra):
    server = serve(mistaken(START, BODY, extra, turn=turn))
    with server.connect() as client:
        for _ in range(2):
            assert client.ask(get()).body == b"x"
        client.assert_open()
    for report in server.take_errors(2):
        assert type(report.error) is MessageError
        assert "after the response was completed" in str(report.error)
        assert report.outcome == "response already sent"


@pytest.mark.parametrize("last", [b"", b"ab"], ids=["short", "long"])
def test_a_wrong_length_after_the_body_began(serve, last):
    """The client must see a torn message, or the right one: never bytes past the end."""
    fields = [(b"content-length", b"5")]
    app = mistaken(
        {**START, "headers": fields}, {**BODY, "body": b"four", "more_body": True}, {**BODY, "body": last}
    )
    server = serve(app)
    with server.connect() as client:
        client.send(get())
        data = client.rest()
    head, _, payload = data.partition(b"\r\n\r\n")
    assert b"content-length: 5" in head
    assert payload == b"four"
    report = server.take_error()
    assert type(report.error) is BodyLengthError
    assert report.outcome == "connection closed early"


def test_head_is_excused_from_its_length(serve):
    """RFC 9110 §9.3.2: the fields are those of the GET, the body is not."""
    app = mistaken({**START, "headers": [(b"content-length", b"5")]}, {**BODY, "body": b""})
    with serve(app).connect() as client:
        assert client.ask(get(method=b"HEAD"), "HEAD").one(b"content-length") == b"5"
        client.assert_open()


def test_headers_that_change_while_they_are_read(serve):
    """An evil iterable: it sends the response itself while its fields are asked for."""

    async def app(scope, receive, send):
        def fields():
            yield (b"x-a", b"1")
            send({"type": "http.response.start", "status": 204, "headers": []})
            yield (b"x-b", b"2")

        with pytest.raises(MessageError):
            await start(send, 200, fields())
        await body(send)

    assert serve(app).ask(get()).status == 204


def test_a_failing_headers_iterable(serve):
    def fields():
        yield (b"x-a", b"1")
        raise LookupError("mine")

    assert isinstance(gets_500(serve(mistaken({**START, "headers": fields()}))), LookupError)


def test_a_body_whose_truth_sends(serve):
    """more_body may be any object; asking it may call back."""

    async def app(scope, receive, send):
        class Evil:
            def __bool__(self):
                send({"type": "http.response.body", "body": b"inner"})
                return True

        await start(send)
        with pytest.raises(MessageError):
            await send({"type": "http.response.body", "body": b"outer", "more_body": Evil()})

    assert serve(app).ask(get()).body == b"inner"
