"""What is said of values that choose between parts of Uvicorn."""

from __future__ import annotations

from typing import Any

import pytest

from shardserve.config.model import Config
from shardserve.config.uvicorn import compatibility_warnings

PARSER = "requests are read by shardserve's own parser"
WEBSOCKETS = "WebSockets are served by shardserve itself"


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"loop": "asyncio"}, "loop asyncio is not for shardserve: every worker runs uvloop"),
        ({"loop": "none"}, "loop none is not for shardserve: every worker runs uvloop"),
        ({"loop": "a:Loop"}, "loop a:Loop is not for shardserve: every worker runs uvloop"),
        ({"http": "h11"}, f"http h11 is not for shardserve: {PARSER}"),
        ({"http": "zttp"}, f"http zttp is not for shardserve: {PARSER}"),
        (
            {"h11_max_incomplete_event_size": 0},
            f"h11-max-incomplete-event-size 0 is not for shardserve: {PARSER}; "
            "limit-request-line and limit-request-head say how large a head may be",
        ),
        ({"ws": "wsproto"}, f"ws wsproto is not for shardserve: {WEBSOCKETS}"),
        ({"ws": "websockets-sansio"}, f"ws websockets-sansio is not for shardserve: {WEBSOCKETS}"),
        (
            {"ssl_version": 5, "ssl_minimum_version": "TLSv1.3"},
            "ssl-version 5 is not for shardserve: TLS is spoken from ssl-minimum-version on (TLSv1.3)",
        ),
        ({"reload_dirs": ("a",)}, "--reload-dir: nothing is watched without --reload"),
        (
            {"reload_includes": ("a",), "reload_excludes": ("b",)},
            "--reload-include, --reload-exclude: nothing is watched without --reload",
        ),
    ],
)
def test_one_warning_says_what_happens_instead(settings: dict[str, Any], warning: str) -> None:
    assert compatibility_warnings(Config(**settings)) == [warning]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loop": "uvloop", "http": "httptools", "ws": "auto", "http2": True, "ssl_version": 17},
        {"ws": "none", "loop": "auto", "http": "auto"},
        {"reload": True, "reload_dirs": ("a",), "reload_includes": ("b",), "workers": 2},
    ],
)
def test_nothing_is_said_of_what_means_the_same(settings: dict[str, Any]) -> None:
    assert compatibility_warnings(Config(**settings)) == []


def test_each_value_has_a_warning_of_its_own() -> None:
    found = compatibility_warnings(Config(loop="asyncio", http="h11", ws="wsproto"))
    assert [line.split()[0] for line in found] == ["loop", "http", "ws"]
