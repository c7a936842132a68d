"""The demo app, driven directly: what each route answers, to every kind of client."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from shardserve import demo


class Client:
    """One request to an ASGI app. ``parts`` is the request body as it arrives."""

    def __init__(self, parts: list[bytes] | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": True} for part in parts or []
        ]
        self._messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def ask(self, method: str, path: str, **scope: Any) -> None:
        scope = {"type": "http", "method": method, "path": path, "headers": [], "state": {}, **scope}
        await demo.app(scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def ended(self) -> bool:
        return not self.sent[-1].get("more_body", False)


async def asked(method: str, path: str, **scope: Any) -> Client:
    client = Client()
    await client.ask(method, path, **scope)
    return client


async def test_page_is_self_contained():
    client = await asked("GET", "/")
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/html; charset=utf-8"
    page = client.body.decode()
    assert len(client.body) == int(client.headers[b"content-length"])
    for outside in ("http://", "https://", "stylesheet", "src=", "@import", "innerHTML"):
        assert outside not in page
    for path in ("/json", "/echo", "/stream", "/events", "/ws", "/whoami", "/health"):
        assert path in page


async def test_page_finds_its_endpoints_below_a_root_path():
    page = (await asked("GET", "/")).body.decode()
    assert 'fetch("/' not in page
    assert 'EventSource("/' not in page
    assert 'new URL("/' not in page
    client = await asked("GET", "/mounted/json", root_path="/mounted")
    assert client.status == 200
    assert (await asked("GET", "/mounted", root_path="/mounted/")).status == 200
    assert (await asked("GET", "/mountedjson", root_path="/mounted")).status == 404


async def test_whoami_says_who_and_counts_this_workers_requests():
    state = {"tally": demo.Tally()}
    first = json.loads((await asked("GET", "/whoami", state=state)).body)
    second = json.loads((await asked("GET", "/whoami", state=dict(state))).body)
    assert first["pid"] == os.getpid()
    assert first["cores"] == sorted(os.sched_getaffinity(0))
    assert (first["requests"], second["requests"]) == (1, 2)
    assert second["uptime_s"] >= first["uptime_s"] >= 0


async def test_whoami_names_the_core_only_when_pinned(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert demo.whoami(demo.Tally())["core"] == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1})
    assert demo.whoami(demo.Tally())["core"] is None


async def test_whoami_closes_the_connection_on_request():
    assert (await asked("GET", "/whoami", query_string=b"new")).headers[b"connection"] == b"close"
    assert b"connection" not in (await asked("GET", "/whoami", query_string=b"")).headers


async def test_routes_work_without_a_lifespan_state():
    client = Client()
    scope = {"type": "http", "method": "GET", "path": "/whoami", "headers": []}
    await demo.app(scope, client.receive, client.send)
    assert client.status == 200


@pytest.mark.parametrize("path", ["/", "/whoami", "/json", "/stream", "/events", "/ws", "/health"])
async def test_head_has_the_head_of_get_and_no_body(path):
    head = await asked("HEAD", path)
    assert head.body == b""
    assert head.ended
    assert head.status == (426 if path == "/ws" else 200)


async def test_unknown_path_is_a_404_that_cannot_be_html():
    client = await asked("GET", "/<script>alert(1)</script>")
    assert client.status == 404
    assert client.headers[b"content-type"] == b"application/json"
    assert client.headers[b"x-content-type-options"] == b"nosniff"
    assert json.loads(client.body)["path"] == "/<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/json", b"GET, HEAD"), ("GET", "/echo", b"POST, PUT"), ("HEAD", "/echo", b"POST, PUT")],
)
async def test_wrong_method_is_a_405_that_says_which_are_right(method, path, allow):
    client = await asked(method, path)
    assert client.status == 405
    assert client.headers[b"allow"] == allow


async def test_echo_sends_each_part_before_the_next_arrives():
    client = Client([b"one", b"two", b"three"])
    order: list[str] = []
    receive, send = client.receive, client.send

    async def noted_receive() -> Any:
        message = await receive()
        order.append("in")
        return message

    async def noted_send(message: Any) -> None:
        order.append("out")
        await send(message)

    scope = {"type": "http", "method": "POST", "path": "/echo", "headers": [(b"content-length", b"11")]}
    await demo.app(scope, noted_receive, noted_send)
    assert order == ["in", "out", "out", "in", "out", "in", "out", "in", "out"]
    assert client.body == b"onetwothree"
    assert client.headers[b"content-length"] == b"11"
    assert client.headers[b"content-type"] == b"application/octet-stream"
    assert client.ended


async def test_echo_of_a_client_that_goes_away_ends_quietly():
    client = Client([b"one"])
    client._messages.pop()
    client.gone.set()
    await client.ask("POST", "/echo")
    assert client.body == b"one"
    assert not client.ended


async def test_stream_sends_its_parts_one_by_one(monkeypatch):
    monkeypatch.setattr(demo, "STREAM_PAUSE_S", 0)
    client = await asked("GET", "/stream")
    assert len(client.sent) == demo.STREAM_PARTS + 2
    assert client.body.count(b"\n") == demo.STREAM_PARTS
    assert client.ended


async def test_events_tick_until_the_client_goes(monkeypatch):
    monkeypatch.setattr(demo, "EVENT_PAUSE_S", 0.001)
    client = Client()
    request = asyncio.create_task(client.ask("GET", "/events"))
    async with asyncio.timeout(10):
        while len(client.sent) < 4:
            await asyncio.sleep(0)
        client.gone.set()
        await request
    assert client.headers[b"content-type"] == b"text/event-stream"
    event = client.sent[1]["body"]
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["pid"] == os.getpid()


async def test_events_end_when_send_finds_the_client_gone():
    client = Client()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("gone")

    scope = {"type": "http", "method": "GET", "path": "/events", "headers": []}
    async with asyncio.timeout(10):
        await demo.app(scope, client.receive, send)


async def test_ws_tells_a_get_that_it_is_for_websockets():
    client = await asked("GET", "/ws")
    assert client.status == 426
    assert client.headers[b"upgrade"] == b"websocket"
    assert client.headers[b"connection"] == b"upgrade"
    assert b"WebSocket" in client.body


class Socket:
    """One WebSocket to the demo, which gets ``messages`` and then the disconnect."""

    def __init__(self, *messages: str | bytes) -> None:
        self.sent: list[dict[str, Any]] = []
        self.tally = demo.Tally()
        self.open_then: list[int] = []
        self._coming: list[dict[str, Any]] = [{"type": "websocket.connect"}]
        for one in messages:
            text, data = (one, None) if isinstance(one, str) else (None, one)
            self._coming.append({"type": "websocket.receive", "text": text, "bytes": data})

    async def talk(self, path: str = "/ws", **scope: Any) -> None:
        scope = {"type": "websocket", "path": path, "headers": [], "state": {"tally": self.tally}, **scope}
        await demo.app(scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        self.open_then.append(self.tally.websockets)
        return self._coming.pop(0) if self._coming else {"type": "websocket.disconnect", "code": 1001}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def test_a_websocket_hears_who_is_there_and_itself():
    socket = Socket("one", b"two", "")
    await socket.talk()
    accepted, hello, one, two, empty = socket.sent
    assert accepted == {"type": "websocket.accept"}
    assert json.loads(hello["text"])["pid"] == os.getpid()
    assert json.loads(hello["text"])["websockets"] == 1
    assert json.loads(one["text"]) == {"echo": "one", "message": 1, "pid": os.getpid()}
    assert two == {"type": "websocket.send", "bytes": b"two"}
    assert json.loads(empty["text"]) == {"echo": "", "message": 3, "pid": os.getpid()}


async def test_open_websockets_are_counted():
    socket = Socket("one")
    await socket.talk()
    assert socket.open_then == [0, 1, 1]
    assert socket.tally.websockets == 0


async def test_a_websocket_whose_client_went_ends_quietly():
    socket = Socket("one")

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise OSError("gone")

    socket.send = send  # type: ignore[method-assign]
    await socket.talk()
    assert socket.tally.websockets == 0


async def test_a_websocket_works_without_a_lifespan_state():
    socket = Socket("one")
    scope = {"type": "websocket", "path": "/ws", "headers": []}
    await demo.app(scope, socket.receive, socket.send)
    assert len(socket.sent) == 3


async def test_a_websocket_below_a_root_path():
    socket = Socket()
    await socket.talk("/mounted/ws", root_path="/mounted")
    assert socket.sent[0] == {"type": "websocket.accept"}


async def test_a_websocket_elsewhere_is_denied():
    socket = Socket()
    await socket.talk("/json", extensions={"websocket.http.response": {}})
    start, body = socket.sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert json.loads(body["body"]) == {"error": "not found", "path": "/json"}


async def test_a_websocket_elsewhere_is_closed_where_no_denial_can_be_sent():
    socket = Socket()
    await socket.talk("/json")
    assert socket.sent == [{"type": "websocket.close"}]


async def test_lifespan_makes_the_state():
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []
    state: dict[str, Any] = {}

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await demo.app({"type": "lifespan", "state": state}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert state["tally"].requests == 0


async def test_unknown_scope_type_is_an_error():
    with pytest.raises(ValueError, match="scope type"):
        await demo.app({"type": "mqtt"}, Client().receive, Client().send)
