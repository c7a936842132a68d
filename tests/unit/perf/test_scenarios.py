"""The table of scenarios, and that its apps answer what the table says."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perf import cli, static_file
from perf.scenarios import BY_NAME, HTTP, HTTP2, SCENARIOS, WEBSOCKET, Scenario, request_bytes


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


def test_the_scenarios_of_the_comparison_are_all_there() -> None:
    wanted = {"plain", "browser", "json", "post-1k", "post-1m", "body-100k", "stream", "pipelined-16"}
    wanted |= {"suspend", "connection-per-request", "many-idle", "tls", "static", "starlette", "fastapi"}
    assert wanted | {"django", "ws-echo-64"} <= BY_NAME.keys()
    assert len(BY_NAME["post-1m"].body) == 1024 * 1024


def test_the_file_is_the_body_of_body_100k_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_file, "FOLDER", tmp_path / "new")
    path = static_file.make() / static_file.NAME
    assert path.read_bytes() == BY_NAME["body-100k"].expect_body
    before = path.stat().st_mtime_ns, path.stat().st_ino
    static_file.make()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    path.write_bytes(b"half")
    static_file.make()
    assert path.read_bytes() == BY_NAME["static"].expect_body, "one that was cut off is made again"


def test_every_scenario_is_http_or_websocket_or_http2() -> None:
    assert BY_NAME.keys() == HTTP | WEBSOCKET | HTTP2
    assert len(BY_NAME) == len(HTTP) + len(WEBSOCKET) + len(HTTP2)


def test_http2_is_measured_on_32_connections_of_16_streams_with_and_without_tls() -> None:
    rows = [BY_NAME[name] for name in HTTP2]
    assert {(row.connections, row.pipeline) for row in rows} == {(32, 16), (None, 1)}
    plain, tls = BY_NAME["h2-plain"], BY_NAME["h2-tls"]
    assert (plain.tls, tls.tls) == (False, True)
    assert (
        (plain.app, plain.expect_body) == (tls.app, tls.expect_body) == ("perf.apps:plain", b"Hello, world!")
    )
    assert {len(row.expect_body) for row in rows} == {13, 4, 10240}
    assert {row.unit for row in rows} == {"req"}


def test_a_folder_with_the_answer_as_a_file(tmp_path: Path) -> None:
    assert static_file.answer(b"first", tmp_path) == static_file.answer(b"answer", tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "answer").iterdir()} == {
        "index.html": b"answer"
    }


def test_the_echo_is_measured_small_and_large_shallow_and_deep() -> None:
    rows = [BY_NAME[name] for name in WEBSOCKET]
    assert {(len(row.body), row.pipeline) for row in rows} == {(64, 1), (64, 16), (16384, 1), (16384, 16)}
    assert all(row.body == row.expect_body for row in rows)
    assert {row.unit for row in rows} == {"msg"}


def test_a_group_stands_for_its_rows() -> None:
    names = ",".join(scenario.name for scenario in SCENARIOS if scenario.group == "ws-echo")
    assert set(names.split(",")) == WEBSOCKET
    assert set((cli.without_groups("h2") or "").split(",")) == HTTP2
    assert cli.without_groups("plain, ws-echo") == f"plain,{names}"
    assert cli.without_groups("plain,nonesuch") == "plain,nonesuch"
    assert cli.without_groups(",") == ","
    assert cli.without_groups(None) is None


@pytest.mark.parametrize(
    "scenario", [BY_NAME[name] for name in sorted(HTTP | HTTP2)], ids=lambda row: row.name
)
async def test_the_app_answers_what_the_table_expects(scenario: Scenario) -> None:
    for package in scenario.packages:
        pytest.importorskip(package)
    module, _, attribute = scenario.app.partition(":")
    with _django_settings() if "django" in scenario.packages else contextlib.nullcontext():
        app = getattr(importlib.import_module(module), attribute)
        status, body = await _call(app, scenario)
    assert (status, body) == (200, scenario.expect_body)


@contextlib.contextmanager
def _django_settings() -> Iterator[None]:
    """Django's settings as in a new process: they are one for each, and other tests have theirs."""
    conf = importlib.import_module("django.conf")
    wrapped, conf.settings._wrapped = conf.settings._wrapped, conf.empty
    try:
        yield
    finally:
        conf.settings._wrapped = wrapped


async def _call(app: Any, scenario: Scenario) -> tuple[int, bytes]:
    """Drive an ASGI app with the scenario's request, the body in two pieces."""
    path, _, query = scenario.path.partition("?")
    half = len(scenario.body) // 2
    pieces = [(scenario.body[:half], True), (scenario.body[half:], False)]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not pieces:  # Django waits for the client to go
            await asyncio.Event().wait()
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

    await apps.answer_lifespan(receive, send)
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
