"""The table of scenarios, and that its apps answer what the table says."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from perf.scenarios import BY_NAME, SCENARIOS, Scenario, request_bytes


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


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
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
