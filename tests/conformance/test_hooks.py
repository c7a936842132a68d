"""What the native side asks of Python on a request's way in: proxies, static routes, debug information."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.asgi import OFFERED, Recorder, reply
from tests.helpers.http1 import get
from tests.helpers.ws import handshake

FORWARDED = [b"X-Forwarded-For: 1.2.3.4", b"x-forwarded-proto: https", b"FORWARDED: for=1.2.3.4",
             b"X-Forwarded-Host: a", b"X-FORWARDED-PORT: 1", b"X-Forwarded-Prefix: /a"]  # fmt: skip


class Policy:
    """A proxy policy that keeps what it was asked."""

    def __init__(self, trusted: bool = True) -> None:
        self.trusted = trusted
        self.asked: list[Any] = []
        self.applied: list[Any] = []
        self.told: list[Any] = []

    def trusts(self, client: Any) -> bool:
        self.asked.append(client)
        return self.trusted

    def apply(self, scope: Any) -> None:
        self.applied.append(scope["path"])
        scope["client"] = ("1.2.3.4", 0)
        scope["scheme"] = "wss" if scope["type"] == "websocket" else "https"

    def untrusted(self, client: Any, name: bytes) -> None:
        self.told.append((client, name))


class TestProxies:
    def test_a_connection_is_judged_once(self, serve):
        policy = Policy()
        with serve(Recorder(), proxy=policy).connect() as client:
            address = client.sock.getsockname()
            for _ in range(3):
                client.ask(get("/", FORWARDED[0]))
        assert policy.asked == [address]
        assert len(policy.applied) == 3

    @pytest.mark.parametrize("line", FORWARDED)
    def test_a_trusted_peer_s_word_is_taken(self, serve, line):
        policy, app = Policy(), Recorder()
        server = serve(app, proxy=policy)
        server.ask(get("/a", line))
        assert policy.applied == ["/a"]
        assert app.scopes[0]["client"] == ("1.2.3.4", 0)
        assert app.scopes[0]["scheme"] == "https"
        assert [one.client for one in server.accesses] == [("1.2.3.4", 0)]

    def test_nothing_is_asked_for_a_request_without_such_fields(self, serve):
        policy, app = Policy(), Recorder()
        with serve(app, proxy=policy).connect() as client:
            client.ask(get("/", b"X-Forwarded-For: 1"))
            client.ask(get("/2", b"X-Forwarded: 1", b"X-Real-IP: 1", b"Via: 1"))
            address = client.sock.getsockname()
        assert policy.applied == ["/"]
        assert app.scopes[1]["client"] == address

    def test_somebody_else_is_told_of_once(self, serve):
        policy, app = Policy(trusted=False), Recorder()
        with serve(app, proxy=policy).connect() as client:
            address = client.sock.getsockname()
            client.ask(get())
            client.ask(get("/", b"Via: x", b"X-Forwarded-Proto: https", FORWARDED[0]))
            client.ask(get("/", FORWARDED[2]))
        assert policy.told == [(address, b"x-forwarded-proto")]
        assert policy.applied == []
        assert {scope["scheme"] for scope in app.scopes} == {"http"}

    def test_without_a_policy_they_are_fields_like_any_other(self, serve):
        app = Recorder()
        serve(app).ask(get("/", *FORWARDED))
        assert len(app.scopes[0]["headers"]) == 1 + len(FORWARDED)
        assert app.scopes[0]["scheme"] == "http"

    def test_websockets_too(self, serve):
        policy, scopes = Policy(), []

        async def app(scope, receive, send):
            scopes.append(scope)
            await receive()
            await send({"type": "websocket.close"})

        serve(app, proxy=policy).ask(handshake("/ws", FORWARDED[0]))
        assert (scopes[0]["client"], scopes[0]["scheme"]) == (("1.2.3.4", 0), "wss")

    def test_a_policy_that_fails_fails_the_request(self, serve, unraisable):
        class Broken(Policy):
            def apply(self, scope):
                raise ValueError("broken")

        app = Recorder()
        server = serve(app, proxy=Broken())
        assert server.ask(get("/", FORWARDED[0])).status == 500
        assert not app.scopes
        assert server.ask(get()).status == 200
        server.take_rejects()
        assert [str(one) for one in unraisable] == ["broken"]

    def test_a_policy_that_cannot_say_trusts_nobody(self, serve, unraisable):
        class Broken(Policy):
            def trusts(self, client):
                raise ValueError("broken")

        policy = Broken()
        assert serve(Recorder(), proxy=policy).ask(get("/", FORWARDED[0])).status == 200
        assert (policy.applied, len(policy.told)) == ([], 1)
        assert [str(one) for one in unraisable] == ["broken"]


def named(name: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, name.encode())

    return app


ROUTES = [(b"/static", named("static")), (b"/static/deep", named("deep")), (b"/%41", named("percent"))]


class TestStatic:
    @pytest.mark.parametrize(
        ("target", "answer"),
        [
            (b"/static", b"static"),
            (b"/static/", b"static"),
            (b"/static/a.css?v=1", b"static"),
            (b"/static?v=/deep", b"static"),
            (b"/static/deeper", b"static"),
            (b"/static/deep", b"deep"),
            (b"/static/deep/a", b"deep"),
            (b"http://host/static/deep/a?x", b"deep"),
            (b"/statics", b"app"),
            (b"/", b"app"),
            (b"/?/static/", b"app"),
            (b"/a/static/", b"app"),
            (b"/%73tatic/", b"app"),
            (b"/%41/x", b"percent"),
            (b"/A/x", b"app"),
        ],
    )
    def test_who_answers(self, serve, target, answer):
        assert serve(named("app"), static=ROUTES).ask(get(target)).body == answer

    def test_everything(self, serve):
        server = serve(named("app"), static=[(b"", named("all"))])
        assert server.ask(get(b"/x/y")).body == b"all"
        assert server.ask(get(b"*", method=b"OPTIONS")).body == b"app"

    def test_requests_of_one_connection_go_their_own_ways(self, serve):
        with serve(named("app"), static=ROUTES).connect() as client:
            client.send(get("/"), get("/static/"), get("/"), get("/static/deep"))
            assert [one.body for one in client.responses(4)] == [b"app", b"static", b"app", b"deep"]

    def test_a_websocket_goes_to_the_app(self, serve):
        types = []

        async def app(scope, receive, send):
            types.append(scope["type"])
            await receive()
            await send({"type": "websocket.close"})

        serve(app, static=[(b"", named("all"))]).ask(handshake("/static/"))
        assert types == ["websocket"]

    @pytest.mark.parametrize("routes", [[("/a", named("x"))], [b"/a"], [(b"/a",)], 5])
    def test_what_is_no_route(self, serve, routes):
        with pytest.raises(TypeError):
            serve(named("app"), static=routes)


class TestDebug:
    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.offered = scope["extensions"]
        await send({"type": "http.response.debug", "info": {"template": "a.html"}})
        await reply(send)

    def test_it_is_offered_to_who_listens(self, serve):
        told: list[Any] = []
        assert serve(self.app, on_debug=told.append).ask(get()).status == 200
        assert told == [{"template": "a.html"}]
        assert self.offered == {**OFFERED, "http.response.debug": {}}

    def test_it_is_not_an_error_where_nobody_does(self, serve):
        assert serve(self.app).ask(get()).status == 200
        assert self.offered == OFFERED
