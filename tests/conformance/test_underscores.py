"""Header names with an underscore: which are passed to the app, and which could pass for another name.

A proxy that sets X-Forwarded-For lets X_Forwarded_For through; whoever turns both into HTTP_X_FORWARDED_FOR
takes one for the other. Rules of this file: whatever the setting, such a field frames nothing.
"""

from __future__ import annotations

import pytest

from tests.helpers.asgi import Recorder, ok
from tests.helpers.http1 import chunked, get, post
from tests.helpers.refusals import rejected, send_all
from tests.native.drive import Driver


def seen(serve, *fields: bytes, **settings) -> list[tuple[bytes, bytes]]:
    """What the app gets of these, whole and byte by byte."""
    app = Recorder()
    server = serve(app, **settings)
    with server.connect() as client:
        client.send(get("/", *fields))
        client.response()
        client.send_each([bytes([byte]) for byte in get("/", *fields)])
        client.response()
        client.assert_open()
    first, second, _ = [[field for field in scope["headers"] if field[0] != b"host"] for scope in app.scopes]
    assert first == second
    return first


SAFE = [{}, {"underscore_headers": "safe"}]


@pytest.mark.parametrize("settings", SAFE, ids=["default", "safe"])
class TestSafe:
    @pytest.mark.parametrize(
        "name", [b"X_Custom", b"x_custom", b"_", b"__a__", b"a_", b"session_id", b"x_b-c"]
    )
    def test_a_name_that_imitates_none_is_passed(self, serve, settings, name):
        assert seen(serve, name + b": 1", **settings) == [(name.lower(), b"1")]

    @pytest.mark.parametrize(
        "name",
        [
            b"X_Forwarded_For", b"X-Forwarded_For", b"x_forwarded-for", b"X_FORWARDED_PROTO", b"X_Real_Ip",
            b"Content_Length", b"content_type", b"Transfer_Encoding", b"User_Agent", b"x_request_id",
            b"Proxy_Authorization", b"If_None_Match", b"Keep_Alive",
        ],
    )  # fmt: skip
    def test_a_name_that_imitates_a_known_one_is_dropped(self, serve, settings, name):
        assert seen(serve, b"A: 1", name + b": evil", b"B: 2", **settings) == [(b"a", b"1"), (b"b", b"2")]

    @pytest.mark.parametrize("name", [b"X_My-Name", b"x_my_name", b"X-MY_NAME"])
    @pytest.mark.parametrize("first", [True, False])
    def test_a_name_that_imitates_another_of_the_request_is_dropped(self, serve, settings, name, first):
        fields = [name + b": evil", b"X-My-Name: good"]
        fields = fields if first else fields[::-1]
        assert seen(serve, *fields, **settings) == [(b"x-my-name", b"good")]

    def test_several_that_imitate_several(self, serve, settings):
        fields = [b"a_b: 1", b"c_d: 2", b"A-B: 3", b"a_b: 4", b"e_f: 5", b"C-d: 6", b"a_b_: 7"]
        kept = [(b"a-b", b"3"), (b"e_f", b"5"), (b"c-d", b"6"), (b"a_b_", b"7")]
        assert seen(serve, *fields, **settings) == kept

    def test_a_hundred_of_each(self, serve, settings):
        fields = [b"x_%d: 1" % i for i in range(100)] + [b"x-%d: 2" % i for i in range(0, 100, 2)]
        kept = [(b"x_%d" % i, b"1") for i in range(1, 100, 2)]
        kept += [(b"x-%d" % i, b"2") for i in range(0, 100, 2)]
        assert seen(serve, *fields, limit_request_fields=0, **settings) == kept

    def test_two_that_imitate_each_other_are_passed(self, serve, settings):
        """Neither is the real one, and no name with dashes alone is there."""
        fields = [b"a_b-c: 1", b"a-b_c: 2"]
        assert seen(serve, *fields, **settings) == [(b"a_b-c", b"1"), (b"a-b_c", b"2")]

    def test_what_the_one_request_has_is_nothing_to_the_next(self, serve, settings):
        app = Recorder()
        server = serve(app, **settings)
        with server.connect() as client:
            client.send(get("/", b"X-My: 1") + get("/", b"X_My: 2") + get("/", b"X-My: 3"))
            client.responses(3)
        names = [scope["headers"][-1] for scope in app.scopes]
        assert names == [(b"x-my", b"1"), (b"x_my", b"2"), (b"x-my", b"3")]


def test_allowed_all_are_passed(serve):
    fields = [b"X_Forwarded_For: 1", b"X-Forwarded-For: 2", b"Content_Type: 3", b"a_b: 4", b"_: 5"]
    passed = [(b"x_forwarded_for", b"1"), (b"x-forwarded-for", b"2"), (b"content_type", b"3")]
    passed += [(b"a_b", b"4"), (b"_", b"5")]
    assert seen(serve, *fields, underscore_headers="allow") == passed


def test_dropped_none_is_passed(serve):
    fields = [b"X_Forwarded_For: 1", b"X-Forwarded-For: 2", b"a_b: 4", b"A: 5_6", b"_: 7"]
    passed = [(b"x-forwarded-for", b"2"), (b"a", b"5_6")]
    assert seen(serve, *fields, underscore_headers="drop") == passed


@pytest.mark.parametrize("name", [b"X_Forwarded_For", b"a_b", b"_", b"x-_"])
@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
def test_rejected(serve, name, cut):
    app = Recorder()
    server = serve(app, underscore_headers="reject")
    with server.connect() as client:
        data = get("/before") + get("/", b"A: 1", name + b": 1") + get("/smuggled")
        send_all(client, [data] if cut == "whole" else [bytes([byte]) for byte in data])
        rejected(server, client, 400, before=1)
    assert [scope["path"] for scope in app.scopes] == ["/before"]


def test_rejecting_leaves_values_alone(serve):
    assert seen(serve, b"A: b_c", underscore_headers="reject") == [(b"a", b"b_c")]


@pytest.mark.parametrize("how", ["safe", "allow", "drop"])
def test_nothing_is_framed_by_them(serve, how):
    """RFC 9112 §6: only the real names frame."""
    app = Recorder()
    server = serve(app, underscore_headers=how)
    fakes = [b"Content_Length: 500", b"Transfer_Encoding: chunked", b"Connection_: close", b"_Host: evil"]
    fakes += [b"Expect_: x", b"Content-Length_: 3", b"Transfer_Encoding: gzip"]
    with server.connect() as client:
        client.send(get("/", *fakes) + post(b"hello", *fakes) + post(b"") + get("/next"))
        assert [response.status for response in client.responses(4)] == [200] * 4
        fields = b"\r\n".join([*fakes, b"Transfer-Encoding"])
        assert client.ask(chunked(b"chunks").replace(b"Transfer-Encoding", fields)).status == 200
        client.assert_open()
    assert app.bodies == [b"", b"hello", b"", b"", b"chunks", b""]


def test_the_name_with_an_underscore_is_no_host(serve):
    """RFC 9112 §3.2: the request has none."""
    server = serve(Recorder(), underscore_headers="allow")
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost_: x\r\n\r\n")
        rejected(server, client, 400)


@pytest.mark.parametrize("how", ["safe", "drop"])
def test_dropped_fields_count_for_the_limits(serve, how):
    """They cost what the others cost."""
    for limits, fields in [
        ({"limit_request_fields": 5}, [b"x_forwarded_for: 1"] * 5),
        ({"limit_request_field_size": 100}, [b"x_forwarded_for: " + b"x" * 100]),
        ({"limit_request_head": 200}, [b"x_forwarded_for: " + b"x" * 40] * 5),
    ]:
        server = serve(Recorder(), underscore_headers=how, **limits)
        with server.connect() as client:
            client.send(get("/", *fields))
            rejected(server, client, 431)


def test_trailers_with_underscores_are_dropped_like_all(serve):
    app = Recorder()
    server = serve(app, underscore_headers="allow")
    with server.connect() as client:
        client.send(chunked(b"x", trailers=b"x_a: 1\r\nx-b: 2\r\n") + get("/next"))
        assert [response.status for response in client.responses(2)] == [200] * 2
    assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("wrong", ["", "SAFE", "safe ", "keep", 1, None, b"safe"])
async def test_another_word_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        Driver(ok, underscore_headers=wrong)
