"""The table of scenarios, and that its apps answer what the table says."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from perf import cli
from perf.scenarios import BY_NAME, HTTP, SCENARIOS, WEBSOCKET, Scenario, request_bytes


def test_names_are_unique_and_fit_in_a_file_name() -> None:
    assert len(BY_NAME) == len(SCENARIOS)
    assert all(name.replace("-", "").isalnum() for name in BY_NAME)


def test_the_browser_sends_twelve_headers() -> None:
    assert len(BY_NAME["browser"].headers) == 12


def test_request_bytes_frame_the_body() -> None:
    request = request_bytes(BY_NAME["post-1k"], "h:1")
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST / HTTP/1.1\r\nHost: h:1\r\n")
    assert b"Content-Length: 1024" in head
    assert len(body) == 1024


def test_every_scenario_is_http_or_websocket() -> None:
    assert BY_NAME.keys() == HTTP | WEBSOCKET
    assert not HTTP & WEBSOCKET


def test_the_echo_is_measured_small_and_large_shallow_and_deep() -> None:
    rows = [BY_NAME[name] for name in WEBSOCKET]
    assert {(len(row.body), row.pipeline) for row in rows} == {(64, 1), (64, 16), (16384, 1), (16384, 16)}
    assert all(row.body == row.expect_body for row in rows)
    assert {row.unit for row in rows} == {"msg"}


def test_a_group_stands_for_its_rows() -> None:
    names = ",".join(scenario.name for scenario in SCENARIOS if scenario.group == "ws-echo")
    assert set(names.split(",")) == WEBSOCKET
    assert cli.without_groups("plain, ws-echo") == f"plain,{names}"
    assert cli.without_groups("plain,nonesuch") == "plain,nonesuch"
    assert cli.without_groups(",") == ","
    assert cli.without_groups(None) is None


@pytest.mark.parametrize("scenario", [BY_NAME[name] for name in sorted(HTTP)], ids=lambda row: row.name)
async def test_the_app_answers_what_the_table_expects(scenario: Scenario) -> None:
    for package in scenario.packages:
        pytest.importorskip(package)
    module, _, attribute = scenario.app.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    status, body = await _call(app, scenario)
    assert (status, body) == (200, scenario.expect_body)


async def _call(app: Any, scenario: Scenario) -> tuple[int, bytes]:
    """Drive an ASGI app with the scenario's request, the body in two pieces."""
    path, _, query = scenario.path.partition("?")
    half = len(scenario.body) // 2
    pieces = [(scenario.body[:half], True), (scenario.body[half:], False)]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        body, more = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": scenario.method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [],
        "server": ("127.0.0.1", 1),
        "client": None,
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def test_the_apps_say_yes_to_lifespan() -> None:
    from perf import apps

    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    said: list[str] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        said.append(message["type"])

    await apps.plain({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_the_echo_app_sends_back_bytes_and_text_until_the_client_is_gone() -> None:
    from perf import apps

    came = iter(
        [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "bytes": b"", "text": None},
            {"type": "websocket.receive", "bytes": None, "text": "a"},
            {"type": "websocket.receive", "text": "b"},
            {"type": "websocket.disconnect", "code": 1000},
        ]
    )
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return next(came)

    async def send(message: Any) -> None:
        said.append(message)

    await apps.ws_echo({"type": "websocket"}, receive, send)
    assert [message.get("bytes", message.get("text")) for message in said] == [None, b"", "a", "b"]
    assert said[0] == {"type": "websocket.accept"}
